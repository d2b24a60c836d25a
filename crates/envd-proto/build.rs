//! Turns the descriptions in proto/ into Rust, with no compiler from outside: protox reads them, connectrpc writes code.

use std::error::Error;
use std::path::PathBuf;

use protox::prost::Message as _;

const FILES: [&str; 2] = ["process/process.proto", "filesystem/filesystem.proto"];

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo:rerun-if-changed=build.rs");
    println!("cargo:rerun-if-changed=proto");
    let out = PathBuf::from(std::env::var_os("OUT_DIR").ok_or("OUT_DIR is not set")?);
    let descriptors = out.join("envd.pb");
    // `compile` keeps comments and imports in the set: the first become documentation, the second are needed.
    let set = protox::compile(FILES, ["proto"])?;
    std::fs::write(&descriptors, set.encode_to_vec())?;

    let mut messages = connectrpc_build::CodeGenConfig::default();
    messages.generate_json = true;
    // A daemon that answers and forgets has no use for fields that it does not know; without them messages are smaller.
    messages.preserve_unknown_fields = false;
    messages.emit_register_fn = false;
    connectrpc_build::Config::new()
        .buffa_config(messages)
        .descriptor_set(&descriptors)
        .files(&FILES)
        .gate_client_feature(true)
        .include_file("envd.rs")
        .emit_rerun_directives(false)
        .compile()?;
    Ok(())
}
