//! The data plane: from a client's request to a port inside a sandbox.
#![forbid(unsafe_code)]
