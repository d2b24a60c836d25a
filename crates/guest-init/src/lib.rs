//! What PID 1 and the guest daemon both need to know how to do.
#![forbid(unsafe_code)]

pub mod machine_name;
