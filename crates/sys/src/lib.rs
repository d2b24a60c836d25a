//! The few system calls that need unsafe code, each behind a safe function.

pub mod background;
pub mod child;
pub mod collapse;
pub mod entropy;
pub mod freeze;
pub mod heap;
pub mod heap_limits;
pub mod inherited;
pub mod netns;
#[cfg(feature = "tokio")]
pub mod readable;
pub mod signal_mask;
pub mod spawn;
pub mod tap;
pub mod text;
pub mod tsc;
pub mod writeback;
