//! Copy-on-write root disk, its NBD server, and ext4 images.
#![forbid(unsafe_code)]
