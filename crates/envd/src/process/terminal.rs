//! Pseudo terminals.

use std::io;
use std::os::fd::OwnedFd;

use envd_proto::process::PTY;
use rustix::fs::{Gid, Mode, OFlags, Uid, fchmod, fchown};
use rustix::io::{FdFlags, fcntl_setfd};
use rustix::pty::{OpenptFlags, openpt, unlockpt};
use rustix::termios::{Winsize, tcsetwinsize};

use crate::user::User;

const DEFAULT_COLUMNS: u16 = 80;
const DEFAULT_ROWS: u16 = 24;

/// A new pseudo terminal.
#[derive(Debug)]
pub(super) struct Terminal {
    /// Our side. Does not block.
    pub(super) ours: OwnedFd,
    /// The side of the process.
    pub(super) theirs: OwnedFd,
}

/// Makes a terminal that belongs to the user, so that programs can open it again by its name.
pub(super) fn open(request: &PTY, user: &User) -> io::Result<Terminal> {
    let ours = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC)?;
    unlockpt(&ours)?;
    let theirs = rustix::pty::ioctl_tiocgptpeer(
        &ours,
        OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC,
    )?;
    fcntl_setfd(&theirs, FdFlags::CLOEXEC)?;
    // What login(1) does. Where it may not be done, the terminal still works through its descriptor.
    let _ = fchown(&theirs, Some(Uid::from_raw(user.uid)), Some(Gid::from_raw(user.gid)));
    let _ = fchmod(&theirs, Mode::from_raw_mode(0o620));
    tcsetwinsize(&ours, size(request))?;
    rustix::fs::fcntl_setfl(&ours, OFlags::RDWR | OFlags::NONBLOCK)?;
    Ok(Terminal { ours, theirs })
}

/// The size that is asked for. Where a number is missing or cannot be, the usual one or the largest.
pub(super) fn size(request: &PTY) -> Winsize {
    let number = |wanted: u32, default| match wanted {
        0 => default,
        wanted => u16::try_from(wanted).unwrap_or(u16::MAX),
    };
    Winsize {
        ws_row: number(request.size.rows, DEFAULT_ROWS),
        ws_col: number(request.size.cols, DEFAULT_COLUMNS),
        ws_xpixel: 0,
        ws_ypixel: 0,
    }
}
