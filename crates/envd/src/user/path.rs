//! Paths as clients write them.

use std::path::{Path, PathBuf};

use connectrpc::ConnectError;
use thiserror::Error;

use super::User;

/// A path that cannot be understood.
#[derive(Debug, Error, PartialEq, Eq)]
pub(crate) enum PathError {
    #[error("cannot expand user-specific home dir in path '{0}'")]
    OtherHome(String),
    #[error("path contains a NUL byte")]
    Nul,
}

impl From<PathError> for ConnectError {
    fn from(error: PathError) -> Self {
        Self::invalid_argument(error.to_string())
    }
}

/// Where a path leads: an empty one to the default directory (the user's home when there is none), `~` and `~/x` to the
/// user's home, an absolute one where it says, as it is written; every other one starts in the user's home.
///
/// # Errors
/// [`PathError`] for `~somebody` and for a NUL byte, which no path can have.
pub(crate) fn resolve_path(
    path: &str,
    user: &User,
    default_workdir: Option<&str>,
) -> Result<PathBuf, PathError> {
    if path.contains('\0') {
        return Err(PathError::Nul);
    }
    if path.is_empty() {
        return match default_workdir {
            Some(workdir) if !workdir.is_empty() => resolve_path(workdir, user, None),
            _ => Ok(user.home.clone()),
        };
    }
    if let Some(rest) = path.strip_prefix('~') {
        return match rest.strip_prefix('/') {
            Some(below) => Ok(user.home.join(below.trim_start_matches('/'))),
            None if rest.is_empty() => Ok(user.home.clone()),
            None => Err(PathError::OtherHome(path.to_owned())),
        };
    }
    // Joining an absolute path gives that path, byte for byte.
    Ok(user.home.join(Path::new(path)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn resolve(path: &str, workdir: Option<&str>) -> Result<String, PathError> {
        let user = User { name: "u".into(), uid: 1, gid: 1, home: "/home/u".into(), groups: vec![1] };
        resolve_path(path, &user, workdir).map(|path| path.into_os_string().into_string().unwrap())
    }

    #[test]
    fn every_kind_of_path() {
        for (path, workdir, expected) in [
            ("", None, "/home/u"),
            ("", Some(""), "/home/u"),
            ("", Some("/work"), "/work"),
            ("", Some("~/work"), "/home/u/work"),
            ("~", Some("/work"), "/home/u"),
            ("~/", None, "/home/u/"),
            ("~//x", None, "/home/u/x"),
            ("~/x", Some("/work"), "/home/u/x"),
            ("x/y", Some("/work"), "/home/u/x/y"),
            ("../x", None, "/home/u/../x"),
            ("/a//b/../c/", None, "/a//b/../c/"),
        ] {
            assert_eq!(resolve(path, workdir).as_deref(), Ok(expected), "{path:?} {workdir:?}");
        }
    }

    #[test]
    fn nonsense_is_refused() {
        assert_eq!(resolve("~other/x", None), Err(PathError::OtherHome("~other/x".into())));
        assert_eq!(resolve("a\0b", None), Err(PathError::Nul));
    }
}
