//! A container image as a directory.

use std::fs::{File, create_dir, remove_file};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use template::Progress as _;

use crate::Outcome;
use crate::progress::Terminal;

/// Where login shells find what an image says of variables.
const PROFILE: &str = "etc/profile.d/image.sh";

/// Gets an image and lays its layers over each other in a directory of `place`, which holds at most `limit` bytes; that directory.
pub(super) async fn directory(name: &str, place: &Path, limit: u64) -> Result<PathBuf, String> {
    let progress = Terminal::new();
    progress.step("pulling the image");
    let image = oci::pull(name, place, limit, &mut |detail| progress.detail(detail)).await;
    let image = image.map_err(|error| error.to_string())?;
    progress.step("unpacking the image");
    let (root, profile) = (place.join("image"), place.join("layer-profile"));
    create_dir(&root).map_err(|error| format!("making {}: {error}", root.display()))?;
    let variables: String = image.config.env.iter().filter_map(|variable| export(variable)).collect();
    oci::layer_of(&profile, PROFILE, variables.as_bytes())
        .map_err(|error| format!("writing {}: {error}", profile.display()))?;
    for layer in image.layers.iter().chain([&profile]) {
        // What is in it is anybody's: a process that can reach nothing else unpacks it.
        let mut unpacking = tokio::process::Command::new("/proc/self/exe");
        unpacking.args(["build", "unpack"]).arg(layer).arg(&root).arg(limit.to_string()).kill_on_drop(true);
        let status = unpacking.status().await.map_err(|error| format!("unpacking a layer: {error}"))?;
        if !status.success() {
            return Err(format!("{} cannot be unpacked", image.name));
        }
        // There is no use for it any more, and it may be large.
        let _ = remove_file(layer);
    }
    progress.finish();
    eprintln!("image     {} ({})", image.name, image.digest);
    Ok(root)
}

/// The life of a process that unpacks a layer.
pub(super) fn unpack(layer: &Path, dir: &Path, limit: u64) -> Outcome {
    let file = File::open(layer).map_err(|error| format!("{}: {error}", layer.display()))?;
    oci::unpack(file, dir, limit).map_err(|error| error.to_string())?;
    Ok(ExitCode::SUCCESS)
}

/// A line for a shell; `None` for what is no variable.
fn export(variable: &str) -> Option<String> {
    let (name, value) = variable.split_once('=')?;
    let is_name = !name.is_empty()
        && !name.starts_with(|c: char| c.is_ascii_digit())
        && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_');
    // In single quotes everything means itself, apart from those.
    is_name.then(|| format!("export {name}='{}'\n", value.replace('\'', r"'\''")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_variable_is_a_variable_whatever_is_in_it() {
        assert_eq!(export("A_1=b c").as_deref(), Some("export A_1='b c'\n"));
        assert_eq!(export("A='; $(x)").as_deref(), Some("export A=''\\''; $(x)'\n"));
        for none in ["", "A", "=x", "1=x", "A B=x", "A;B=x", "A-B=x"] {
            assert_eq!(export(none), None, "{none:?}");
        }
    }
}
