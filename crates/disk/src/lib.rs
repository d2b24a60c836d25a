//! Copy-on-write root disk, its NBD server, and ext4 images.
//!
//! A sandbox's disk is an [`Overlay`]: the template's image, which all sandboxes read and none writes, and a private
//! sparse file with what this one changed. [`nbd::serve`] hands it to a VMM over a connected socket, so neither a kernel
//! module nor a path is needed. [`ext4::make_image`] makes the template's image.
#![forbid(unsafe_code)]

mod base;
mod bitmap;
mod device;
pub mod ext4;
pub mod nbd;
mod overlay;

pub use bitmap::DirtyBlocks;
pub use device::BlockDevice;
pub use overlay::{BLOCK_SIZE, Overlay, OverlayError};
