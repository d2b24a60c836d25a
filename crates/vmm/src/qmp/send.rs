//! Sending a request, and a descriptor with it.

use std::io::{self, IoSlice};
use std::mem::MaybeUninit;
use std::os::fd::BorrowedFd;

use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};
use tokio::io::Interest;
use tokio::net::UnixStream;

/// Sends all of `line`. `fd` goes with its first byte, so QEMU has it when it has read the command.
pub(super) async fn send(stream: &UnixStream, line: &[u8], fd: Option<BorrowedFd<'_>>) -> io::Result<()> {
    let mut sent = 0;
    while sent < line.len() {
        let passed = if sent == 0 { fd } else { None };
        sent += stream
            .async_io(Interest::WRITABLE, || {
                let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
                let mut control = SendAncillaryBuffer::new(&mut space);
                let fds = passed.as_slice();
                if !fds.is_empty() {
                    control.push(SendAncillaryMessage::ScmRights(fds));
                }
                Ok(sendmsg(stream, &[IoSlice::new(&line[sent..])], &mut control, SendFlags::NOSIGNAL)?)
            })
            .await?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::io::IoSliceMut;
    use std::os::fd::{AsFd, OwnedFd};
    use std::os::unix::net::UnixStream as StdUnixStream;

    use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg};

    use super::*;

    fn receive(stream: &StdUnixStream, buffer: &mut [u8]) -> (usize, Vec<OwnedFd>) {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(8))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let received =
            recvmsg(stream, &mut [IoSliceMut::new(buffer)], &mut control, RecvFlags::CMSG_CLOEXEC).unwrap();
        let fds = control.drain().filter_map(|message| match message {
            RecvAncillaryMessage::ScmRights(fds) => Some(fds),
            _ => None,
        });
        (received.bytes, fds.flatten().collect())
    }

    #[tokio::test]
    async fn a_full_socket_delays_the_message_and_the_descriptor_comes_once() {
        let (ours, theirs) = StdUnixStream::pair().unwrap();
        ours.set_nonblocking(true).unwrap();
        let ours = UnixStream::from_std(ours).unwrap();
        let mut noise = 0;
        while let Ok(length) = ours.try_write(&[b'.'; 4096]) {
            noise += length;
        }
        // Longer than the socket holds, so that it goes in pieces.
        let line = vec![b'x'; 1 << 20];
        let length = line.len();
        let sending = tokio::spawn(async move {
            let memory = rustix::fs::memfd_create("passed", rustix::fs::MemfdFlags::CLOEXEC).unwrap();
            rustix::io::pwrite(&memory, b"seed", 0).unwrap();
            send(&ours, &line, Some(memory.as_fd())).await.unwrap();
        });
        tokio::task::yield_now().await;
        assert!(!sending.is_finished());
        let fds = tokio::task::spawn_blocking(move || {
            let (mut left, mut fds, mut buffer) = (noise + length, Vec::new(), [0; 8192]);
            while left > 0 {
                let (bytes, more) = receive(&theirs, &mut buffer);
                assert_ne!(bytes, 0);
                left -= bytes;
                fds.extend(more);
            }
            fds
        })
        .await
        .unwrap();
        sending.await.unwrap();
        assert_eq!(fds.len(), 1);
        let mut read = [0; 4];
        rustix::io::pread(&fds[0], &mut read, 0).unwrap();
        assert_eq!(&read, b"seed");
    }
}
