//! The command line. Options have one dash, as in E2B's daemon, whose callers pass them so; two dashes work too.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::str::FromStr;

use thiserror::Error;

/// How to call it, for people.
pub(crate) const USAGE: &str = "usage: envd [-port N] [-host ADDR:PORT] [-guest] [-isnotfc] [-no-cgroups]
            [-cgroup-root DIR] [-system-root DIR] [-mmds ADDR:PORT] [-verbose]
       envd -version | -commit";

const CGROUP_ROOT: &str = "/sys/fs/cgroup";

/// What to do.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Command {
    /// Serve.
    Serve(Options),
    /// Print the version of the protocol.
    Version,
    /// Print the commit that this was built from.
    Commit,
}

/// How to serve.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Options {
    /// TCP port to listen on, on all addresses; 0 lets the kernel choose.
    pub(crate) port: u16,
    /// Where the host wants to hear that we are ready, and our log lines. Nowhere when absent.
    pub(crate) host: Option<SocketAddr>,
    /// Whether this machine is a sandbox of its own, whose clock, name and random numbers are ours to set.
    pub(crate) guest: bool,
    /// Whether processes are sorted into cgroups.
    pub(crate) cgroups: bool,
    /// Where the hierarchy of cgroups is.
    pub(crate) cgroup_root: PathBuf,
    /// Below where the files of the system are ours to change: hosts, certificates. Everywhere in a guest, nowhere
    /// else without this.
    pub(crate) system_root: Option<PathBuf>,
    /// Where a metadata service says whose sandbox this is. Nowhere when absent: all of it comes with `/init`.
    pub(crate) mmds: Option<SocketAddr>,
    /// Say more on standard error.
    pub(crate) verbose: bool,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            port: model::ENVD_PORT,
            host: None,
            guest: false,
            cgroups: true,
            cgroup_root: CGROUP_ROOT.into(),
            system_root: None,
            mmds: None,
            verbose: false,
        }
    }
}

impl Options {
    /// Whether this is the host's address, which no process in the machine can have without being root.
    pub(crate) fn is_host(&self, peer: IpAddr) -> bool {
        self.host.is_some_and(|host| host.ip() == peer)
    }
}

/// A command line that makes no sense.
#[derive(Debug, Error, PartialEq, Eq)]
pub(crate) enum ArgsError {
    #[error("unknown option {0:?}")]
    Unknown(String),
    #[error("option -{0} needs a value")]
    NoValue(&'static str),
    #[error("option -{option}: {value:?} is not {expected}")]
    BadValue { option: &'static str, value: String, expected: &'static str },
}

/// Reads the arguments, without the program's name.
pub(crate) fn parse(args: impl IntoIterator<Item = String>) -> Result<Command, ArgsError> {
    let mut options = Options::default();
    let mut is_elsewhere = false;
    let mut args = args.into_iter();
    while let Some(argument) = args.next() {
        let unknown = || ArgsError::Unknown(argument.clone());
        let name = argument.strip_prefix("--").or_else(|| argument.strip_prefix('-')).ok_or_else(unknown)?;
        let (name, inline) = match name.split_once('=') {
            Some((name, value)) => (name, Some(value.to_owned())),
            None => (name, None),
        };
        let mut value = |option| inline.clone().or_else(|| args.next()).ok_or(ArgsError::NoValue(option));
        match name {
            "version" => return Ok(Command::Version),
            "commit" => return Ok(Command::Commit),
            "port" => {
                let text = value("port")?;
                options.port = parsed("port", text, "a port number")?;
            }
            "host" => options.host = Some(parsed("host", value("host")?, "an address with a port")?),
            "mmds" => options.mmds = Some(parsed("mmds", value("mmds")?, "an address with a port")?),
            "guest" => options.guest = true,
            // Not in a virtual machine of Firecracker, so there is no metadata service.
            "isnotfc" => is_elsewhere = true,
            "system-root" => options.system_root = Some(value("system-root")?.into()),
            "cgroup-root" => options.cgroup_root = value("cgroup-root")?.into(),
            "no-cgroups" => options.cgroups = false,
            "verbose" => options.verbose = true,
            _ => return Err(unknown()),
        }
    }
    if is_elsewhere {
        options.mmds = None;
    }
    Ok(Command::Serve(options))
}

fn parsed<T: FromStr>(option: &'static str, value: String, expected: &'static str) -> Result<T, ArgsError> {
    value.parse().map_err(|_| ArgsError::BadValue { option, value, expected })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(args: &[&str]) -> Result<Command, ArgsError> {
        parse(args.iter().map(ToString::to_string))
    }

    #[test]
    fn one_dash_and_two_dashes_are_the_same() {
        assert_eq!(of(&["-version"]), Ok(Command::Version));
        assert_eq!(of(&["--version"]), Ok(Command::Version));
        let expected = Options {
            port: 7,
            host: Some(SocketAddr::from(([169, 254, 0, 22], 80))),
            guest: true,
            cgroups: false,
            cgroup_root: "/x".into(),
            system_root: Some("/y".into()),
            mmds: None,
            verbose: true,
        };
        for args in [
            [
                "-port",
                "7",
                "-host",
                "169.254.0.22:80",
                "-guest",
                "-no-cgroups",
                "-cgroup-root",
                "/x",
                "-system-root=/y",
                "-mmds",
                "169.254.169.254:80",
                "-verbose",
                "-isnotfc",
            ]
            .as_slice(),
            [
                "--port=7",
                "--host=169.254.0.22:80",
                "--guest",
                "--no-cgroups",
                "--cgroup-root=/x",
                "--system-root=/y",
                "--verbose",
            ]
            .as_slice(),
        ] {
            assert_eq!(of(args), Ok(Command::Serve(expected.clone())));
        }
    }

    #[test]
    fn nonsense_is_refused() {
        assert_eq!(of(&["serve"]), Err(ArgsError::Unknown("serve".into())));
        assert_eq!(of(&["-x"]), Err(ArgsError::Unknown("-x".into())));
        assert_eq!(of(&["-port"]), Err(ArgsError::NoValue("port")));
        assert!(matches!(of(&["-port", "70000"]), Err(ArgsError::BadValue { option: "port", .. })));
        assert!(matches!(of(&["-mmds", "80"]), Err(ArgsError::BadValue { option: "mmds", .. })));
        assert!(matches!(of(&["-host", "example.com:80"]), Err(ArgsError::BadValue { option: "host", .. })));
    }
}
