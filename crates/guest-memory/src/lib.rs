//! A guest's memory: where it is, who fills it, which of it a snapshot has to store.
//!
//! The memory is a memfd ([`GuestMemory`]) that a monitor maps. A resumed guest starts with nothing in it: its monitor
//! hands over a userfaultfd for its mapping ([`handshake`]), and a [`PageServer`] answers each first touch of a page
//! from the image that is resumed, and brings others before they are asked for. When the guest is stopped, [`dirty`]
//! finds the pages that may differ from that image, and [`export`] gives those that really do to whoever stores them.
//!
//! Pages are numbered by their place in the image: byte of the memfd / 4096. A monitor's addresses come from its
//! [`Region`]s.
//!
//! # What nobody may do
//! - Write to the memory other than through the mapping that was handed over, once the guest has run. Writes through
//!   another mapping or `pwrite` to a page that the guest has already read are not seen as changes by the kernel.
//! - Drop a [`PageServer`] while its guest runs. Without one the kernel, or the monitor's own hold on the userfaultfd,
//!   decides whether the guest reads zeros or waits for ever.

mod bitmap;
pub mod dirty;
pub mod export;
#[doc(hidden)]
pub mod floor;
pub mod handshake;
pub mod kept;
mod listener;
mod memory;
mod message;
mod pagemap;
mod ranges;
mod reader;
mod region;
mod room;
mod server;
mod uffd;

pub use listener::Listener;
pub use memory::GuestMemory;
pub use reader::{MemfdReader, MemoryReader, ProcessReader};
pub use region::{Region, RegionError};
pub use room::Room;
pub use server::{Options, PageServer, PageServerError, Stats};

/// Sizes and offsets in memory, which a 64-bit system can address.
#[expect(
    clippy::cast_possible_truncation,
    reason = "the assertion holds on every system that has userfaultfd for us"
)]
fn to_usize(bytes: u64) -> usize {
    const { assert!(size_of::<usize>() == size_of::<u64>()) };
    bytes as usize
}
