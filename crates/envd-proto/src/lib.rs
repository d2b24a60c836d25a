//! Protocol of the guest daemon, generated from the descriptions in proto/.
#![forbid(unsafe_code)]
