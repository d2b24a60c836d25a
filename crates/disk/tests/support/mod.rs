//! Disks that the tests make and read.
#![allow(dead_code, reason = "each file of tests uses a part of it")]

use std::sync::Arc;

use build::Pages;
use disk::{BlockDevice, Overlay};

/// A disk of `size` bytes over `base`.
pub(crate) fn overlay(base: Arc<dyn Pages>, size: u64) -> Overlay {
    Overlay::from_file(base, tempfile::tempfile().unwrap(), size).unwrap()
}

/// All of a disk, read into a buffer that is not zero.
pub(crate) fn contents(disk: &Overlay) -> Vec<u8> {
    let mut bytes = vec![0xee; usize::try_from(disk.size()).unwrap()];
    disk.read_at(&mut bytes, 0).unwrap();
    bytes
}
