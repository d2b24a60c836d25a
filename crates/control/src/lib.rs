//! What one sandbox's supervisor and its node say to each other over a unix socket.
#![forbid(unsafe_code)]
