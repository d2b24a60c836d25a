//! The trait every virtual machine monitor implements, its QEMU driver, and the accelerator probe.
#![forbid(unsafe_code)]
