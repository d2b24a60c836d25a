//! Having a child process hand over its memory, as a VMM does.

use std::fs::File;
use std::io::{self, Write};
use std::os::fd::OwnedFd;

use rustix::fs::{MemfdFlags, Mode, OFlags, memfd_create, open};

/// The preloaded library as an open file without a name.
pub(super) fn library() -> Result<OwnedFd, String> {
    let library = crate::guest::preload();
    if library.is_empty() {
        return Err("this binary was built without the library that hands over memory; build it with \
                    `cargo xtask build`"
            .into());
    }
    let write = || {
        let mut file = File::from(memfd_create("uffd-preload", MemfdFlags::CLOEXEC)?);
        file.write_all(library)?;
        Ok::<_, io::Error>(file.into())
    };
    write().map_err(|error| format!("making the preloaded library: {error}"))
}

/// The device that gives userfaultfds to whoever inherits it, where there is one.
pub(super) fn device() -> Option<OwnedFd> {
    open("/dev/userfaultfd", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty()).ok()
}
