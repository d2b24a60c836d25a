//! Makes cargo notice a new migration, which the macro that embeds them cannot do by itself.

fn main() {
    println!("cargo::rerun-if-changed=migrations");
}
