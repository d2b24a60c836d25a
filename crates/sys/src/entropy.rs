//! The kernel's random number generator, whose state is part of every snapshot: two machines resumed from one would draw
//! the same numbers until something else gets into it.

use std::io;
use std::os::fd::OwnedFd;

use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use rustix::ioctl::{NoArg, Opcode, Setter, ioctl, opcode};

/// Most bytes in one seed.
pub const MAX_SEED_BYTES: usize = 1024;

/// `RNDADDENTROPY` and `RNDRESEEDCRNG` of `linux/random.h`.
const ADD_ENTROPY: Opcode = opcode::write::<[i32; 2]>(b'R', 3);
const RESEED: Opcode = opcode::none(b'R', 7);

/// Access to the generator.
#[derive(Debug)]
pub struct KernelRandom(OwnedFd);

/// `struct rand_pool_info`, whose last field is as long as the second one says.
#[repr(C)]
struct PoolInfo {
    entropy_bits: i32,
    buffer_bytes: i32,
    buffer: [u8; MAX_SEED_BYTES],
}

impl KernelRandom {
    /// Opens it.
    ///
    /// # Errors
    /// What the kernel says about `/dev/random`.
    pub fn open() -> io::Result<Self> {
        let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC | OFlags::NOCTTY;
        Ok(Self(rustix::fs::open("/dev/random", flags, Mode::empty())?))
    }

    /// Mixes a seed in and draws from the result from now on, on all processors. Every bit of the seed must be one that
    /// nobody can guess: the kernel counts it as such. An empty seed leaves it to what the kernel has gathered itself.
    ///
    /// # Errors
    /// `InvalidInput` for a seed above [`MAX_SEED_BYTES`]; what the kernel says, `EPERM` without `CAP_SYS_ADMIN`.
    pub fn mix(&self, seed: &[u8]) -> io::Result<()> {
        let mut info = PoolInfo { entropy_bits: 0, buffer_bytes: 0, buffer: [0; MAX_SEED_BYTES] };
        let (Some(room), Ok(length)) = (info.buffer.get_mut(..seed.len()), i32::try_from(seed.len())) else {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "the seed is too long"));
        };
        room.copy_from_slice(seed);
        info.entropy_bits = length * 8;
        info.buffer_bytes = length;
        if length > 0 {
            // SAFETY: the opcode is that of RNDADDENTROPY, which reads a `rand_pool_info` and, behind it, as many bytes
            // as it says. The number is at most the length of `buffer`, which lies directly behind the two integers.
            unsafe { ioctl(&self.0, Setter::<ADD_ENTROPY, PoolInfo>::new(info)) }?;
        }
        // SAFETY: RNDRESEEDCRNG takes no argument.
        match unsafe { ioctl(&self.0, NoArg::<RESEED>::new()) } {
            // A generator that has never been seeded has given nothing away: it will be, with this in it.
            Ok(()) | Err(Errno::NODATA) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Adds to this machine's generator what came out of it, which changes nothing that anybody could tell.
    fn mix(length: usize) -> io::Result<()> {
        let mut seed = vec![0; length];
        rustix::rand::getrandom(&mut seed[..], rustix::rand::GetRandomFlags::empty()).unwrap();
        KernelRandom::open()?.mix(&seed)
    }

    #[test]
    fn the_kernel_takes_every_length_up_to_the_limit() {
        for length in [0, 1, 32, MAX_SEED_BYTES] {
            match mix(length) {
                Ok(()) => {}
                Err(error) => assert_eq!(error.kind(), io::ErrorKind::PermissionDenied, "{length}: {error}"),
            }
        }
    }

    #[test]
    fn a_seed_that_is_too_long_is_refused() {
        assert_eq!(mix(MAX_SEED_BYTES + 1).unwrap_err().kind(), io::ErrorKind::InvalidInput);
    }

    #[test]
    fn the_numbers_are_those_of_the_header() {
        assert_eq!((ADD_ENTROPY, RESEED), (0x4008_5203, 0x5207));
    }
}
