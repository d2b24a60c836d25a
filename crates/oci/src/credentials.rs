//! Who we are to a registry: what other clients on this host were told.

use std::collections::HashMap;
use std::path::PathBuf;

use serde::Deserialize;

/// The file is small.
const MAX_BYTES: u64 = 1 << 20;

#[derive(Deserialize)]
struct File {
    #[serde(default)]
    auths: HashMap<String, Entry>,
}

#[derive(Deserialize)]
struct Entry {
    #[serde(default)]
    auth: String,
}

/// The value of a header with the name and the password that `docker login` or `podman login` left in `$DOCKER_CONFIG` or
/// `~/.docker`, if they did. Programs that keep credentials are not asked.
pub(crate) fn of(registry: &str) -> Option<String> {
    let dir = std::env::var_os("DOCKER_CONFIG").map(PathBuf::from);
    let dir = dir.or_else(|| Some(PathBuf::from(std::env::var_os("HOME")?).join(".docker")));
    let path = dir?.join("config.json");
    if std::fs::metadata(&path).ok()?.len() > MAX_BYTES {
        return None;
    }
    find(&std::fs::read_to_string(path).ok()?, registry)
}

fn find(text: &str, registry: &str) -> Option<String> {
    let file: File = serde_json::from_str(text).ok()?;
    let entry = file.auths.get(registry).or_else(|| file.auths.get(&format!("https://{registry}")))?;
    let auth = entry.auth.trim();
    let is_base64 = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'+' | b'/' | b'=');
    (!auth.is_empty() && auth.bytes().all(is_base64)).then(|| format!("Basic {auth}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn they_are_those_of_the_registry() {
        let text = r#"{"auths": {"here:5000": {"auth": "bWU6bXk="}, "https://there": {"auth": "eW91OnlvdXJz"}, "kept": {},
            "odd": {"auth": "a\r\nb"}}, "credsStore": "x"}"#;
        assert_eq!(find(text, "here:5000").as_deref(), Some("Basic bWU6bXk="));
        assert_eq!(find(text, "there").as_deref(), Some("Basic eW91OnlvdXJz"));
        for (text, registry) in
            [(text, "kept"), (text, "odd"), (text, "nowhere"), ("{}", "here:5000"), ("[", "here:5000")]
        {
            assert_eq!(find(text, registry), None);
        }
    }
}
