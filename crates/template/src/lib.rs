//! The base template: kernel, initramfs and root file system, made once and kept.
//!
//! ```text
//! <state>/kernels/<release>-<key>/vmlinux, modules/, kernel.json      from Debian's package
//! <state>/kernels/<release>-<key>/initramfs-<hash>.cpio               modules and the two guest programs
//! <state>/cache/rootfs-<key>.ext4                                     Debian by mmdebstrap, as an ext4 image
//! <state>/builds/<build id>/rootfs.ext4, manifest.json                what a sandbox starts from
//! <state>/builds/base.json                                            which build is current, and made of what
//! ```
//!
//! Everything is named by a hash of what it was made from, appears complete or not at all, and is never changed
//! afterwards. So a change of the guest programs costs a new initramfs, not a new Debian, and a sandbox that runs from
//! an older build keeps it.
#![forbid(unsafe_code)]

mod adopt;
mod apt;
mod base;
mod cpio;
mod debian_sources;
mod dirs;
mod error;
mod initramfs;
mod kernel;
mod key;
mod manifest;
mod module;
mod module_set;
mod precondition;
mod progress;
mod publish;
mod rootfs;
mod symbols;
mod tool;
mod vmlinux;

pub use adopt::adopt_kernel;
pub use base::ensure_boot_files;
pub use base::{BaseOptions, ensure_base, existing_base};
pub use dirs::Dirs;
pub use error::TemplateError;
pub use initramfs::GuestBinaries;
pub use manifest::{Build, load};
pub use progress::{LogProgress, Progress};
pub use symbols::{existing_symbols, fetch_symbols, keep_symbols};
