//! Kernel settings of the calling thread's network namespace.

use std::fs;
use std::io;

use crate::NetworkError;

const ROOT: &str = "/proc/sys/net";

/// Sets `/proc/sys/net/<key>`. A setting that has the value already is not written: writing some of them resets others.
pub(crate) fn set(key: &str, value: &str) -> Result<(), NetworkError> {
    write(key, value).map_err(NetworkError::io(format!("set {ROOT}/{key} to {value}")))
}

/// The same for a part of the kernel that may be absent, which is as good as switched off.
pub(crate) fn set_if_present(key: &str, value: &str) -> Result<(), NetworkError> {
    match write(key, value) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        result => result.map_err(NetworkError::io(format!("set {ROOT}/{key} to {value}"))),
    }
}

fn write(key: &str, value: &str) -> io::Result<()> {
    let path = format!("{ROOT}/{key}");
    if fs::read_to_string(&path)?.trim() == value { Ok(()) } else { fs::write(path, value) }
}
