//! Copy-on-write root disk, its NBD server, and ext4 images.
//!
//! A sandbox's disk is an [`Overlay`]: an image, which all sandboxes read and none writes, and a private sparse file with
//! what this one changed. The image is that of a build, or a file ([`RawImage`]). [`Overlay::export`] gives what a build
//! stores of the disk. [`nbd::serve`] hands it to a VMM over a connected socket, so neither a kernel
//! module nor a path is needed. [`ext4::make_image`] makes the template's image.
#![forbid(unsafe_code)]

mod bitmap;
mod device;
mod export;
pub mod ext4;
mod late;
pub mod nbd;
mod overlay;
mod raw;

pub use bitmap::DirtyBlocks;
pub use device::BlockDevice;
pub use export::ExportError;
pub use late::Late;
pub use overlay::{BLOCK_SIZE, Frozen, Overlay, OverlayError};
pub use raw::RawImage;
