//! One sandbox's control group: limits, kill, and a removal that never leaves anything behind.
#![forbid(unsafe_code)]
