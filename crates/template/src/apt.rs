//! Fetching a package with the machine's own apt: its sources, proxy and keys.

use std::path::{Path, PathBuf};

use crate::error::{At as _, TemplateError};
use crate::progress::Progress;
use crate::tool::{self, command};

/// A package as apt would install it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Package {
    pub(crate) name: String,
    pub(crate) version: String,
}

/// The first package that `meta`, which has no files of its own, stands for.
pub(crate) fn resolve(meta: &str, progress: &dyn Progress) -> Result<Package, TemplateError> {
    let look = || {
        let name = field(&show(meta)?, "Depends").and_then(first_name)?.to_owned();
        let version = field(&show(&name)?, "Version")?.to_owned();
        Some(Package { name, version })
    };
    if let Some(package) = look() {
        return Ok(package);
    }
    update(progress)?;
    look().ok_or_else(|| TemplateError::Network {
        what: format!("finding the package {meta}"),
        output: "its lists do not name it; is `main` of Debian among the package sources?".to_owned(),
    })
}

/// Downloads a package into `dir` and returns the file.
pub(crate) fn download(
    package: &Package,
    dir: &Path,
    progress: &dyn Progress,
) -> Result<PathBuf, TemplateError> {
    let fetch = || {
        let wanted = format!("{}={}", package.name, package.version);
        // As root: apt's own user may not write to a private directory.
        let options = ["-q", "-o", "APT::Sandbox::User=root", "download"];
        tool::output(command("apt-get").args(options).arg(wanted).current_dir(dir))
    };
    if fetch().is_err() {
        // Usually the lists are old and the mirror has a newer version only.
        update(progress)?;
        fetch().map_err(|failure| failure.into_network_error(format!("downloading {}", package.name)))?;
    }
    let files = std::fs::read_dir(dir).at("list", dir)?;
    let deb =
        files.flatten().map(|entry| entry.path()).find(|path| path.extension().is_some_and(|e| e == "deb"));
    deb.ok_or_else(|| TemplateError::Network {
        what: format!("downloading {}", package.name),
        output: "apt-get said yes and left no file".to_owned(),
    })
}

fn update(progress: &dyn Progress) -> Result<(), TemplateError> {
    progress.step("fetching the package lists");
    tool::output(command("apt-get").args(["-q", "-o", "APT::Update::Error-Mode=any", "update"]))
        .map(drop)
        .map_err(|failure| failure.into_network_error("fetching the package lists"))
}

fn show(package: &str) -> Option<String> {
    tool::output(command("apt-cache").args(["show", "--no-all-versions", package])).ok()
}

/// A field of the first paragraph.
fn field<'a>(text: &'a str, name: &str) -> Option<&'a str> {
    let paragraph = text.lines().take_while(|line| !line.is_empty());
    let mut fields = paragraph.filter_map(|line| line.split_once(':'));
    fields.find_map(|(key, value)| (key == name).then(|| value.trim()))
}

/// `name (= 1.2), other | third` names `name`.
fn first_name(depends: &str) -> Option<&str> {
    let name = depends.split([',', '|', ' ', '(']).next()?;
    let plain = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b"+-.".contains(&b);
    (!name.is_empty() && !name.starts_with('-') && name.bytes().all(plain)).then_some(name)
}

/// Settings of the machine's apt without which its sources may not work, as `Name "value";`.
pub(crate) fn connection_settings() -> Vec<String> {
    let Ok(dump) = tool::output(command("apt-config").args(["dump", "--no-empty", "Acquire"])) else {
        return Vec::new();
    };
    dump.lines().filter(|line| is_connection_setting(line)).map(str::to_owned).collect()
}

fn is_connection_setting(line: &str) -> bool {
    let name = line.split(' ').next().unwrap_or_default().to_ascii_lowercase();
    name.starts_with("acquire::")
        && (["proxy", "proxy-auto-detect", "check-date", "check-valid-until", "retries", "timeout"]
            .iter()
            .any(|wanted| name.ends_with(&format!("::{wanted}")))
            || name.contains("::proxy::"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_package_is_found_in_what_apt_shows() {
        let text = "Package: meta\nVersion: 6.1\nDepends: linux-image-6.1 (= 6.1.1), x\nDescription: a\n more: text\n\n\
                    Package: meta\nVersion: 6.0\n";
        assert_eq!(field(text, "Version"), Some("6.1"));
        assert_eq!(field(text, "Depends").and_then(first_name), Some("linux-image-6.1"));
        assert_eq!(field(text, "Missing"), None);
    }

    #[test]
    fn an_option_is_no_package() {
        assert_eq!(first_name("-o x"), None);
        assert_eq!(first_name(""), None);
    }

    #[test]
    fn only_settings_of_the_connection_are_taken_along() {
        for yes in [
            "Acquire::http::Proxy \"x\";",
            "Acquire::Check-Date \"0\";",
            "Acquire::http::Proxy::host \"DIRECT\";",
        ] {
            assert!(is_connection_setting(yes), "{yes}");
        }
        for no in ["Acquire::cdrom::mount \"/media\";", "Dir::State \"x\";", "Acquire::IndexTargets \"\";"] {
            assert!(!is_connection_setting(no), "{no}");
        }
    }
}
