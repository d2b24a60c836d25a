//! A socket that a monitor connects to, for those that cannot inherit one.

use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Instant;

use rustix::fs::{Gid, Mode, Uid, chown, fchmod, unlink};
use rustix::net::{
    AddressFamily, SocketAddrUnix, SocketFlags, SocketType, accept_with, bind, listen, socket_with,
};

use crate::handshake::{HandshakeError, wait};

/// A unix socket for one monitor. Its path goes away with it.
#[derive(Debug)]
pub struct Listener {
    socket: OwnedFd,
    path: PathBuf,
}

impl Listener {
    /// A socket at `path`, in a directory that should be private, which only the user `uid` and root can connect to.
    ///
    /// # Errors
    /// When something is there already, the path is longer than a socket's can be (107 bytes), or the system refuses.
    pub fn bind(path: &Path, uid: u32, gid: u32) -> io::Result<Self> {
        let address = SocketAddrUnix::new(path)?;
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let socket = socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
        // The file gets the mode that the socket has when it is bound: there is no moment with another one.
        fchmod(&socket, Mode::RUSR | Mode::WUSR)?;
        bind(&socket, &address)?;
        let listener = Self { socket, path: path.to_owned() };
        chown(path, Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid)))?;
        listen(&listener.socket, 1)?;
        Ok(listener)
    }

    /// Waits until `deadline` for the monitor to connect. Blocks its thread.
    ///
    /// # Errors
    /// When it does not, or the system refuses.
    pub fn accept(&self, deadline: Instant) -> Result<UnixStream, HandshakeError> {
        loop {
            wait(&self.socket, deadline)?;
            match accept_with(&self.socket, SocketFlags::CLOEXEC) {
                Ok(stream) => return Ok(stream.into()),
                // It has gone again.
                Err(rustix::io::Errno::AGAIN | rustix::io::Errno::CONNABORTED | rustix::io::Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        // Somebody may have removed the directory already.
        let _ = unlink(&self.path);
    }
}
