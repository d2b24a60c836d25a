//! The REST surface that E2B clients speak.
#![forbid(unsafe_code)]
