//! The few system calls that need unsafe code, each behind a safe function.

pub mod child;
pub mod netns;
pub mod tap;
