//! Kernel, initramfs and root file system of the base template.
#![forbid(unsafe_code)]
