//! Namespaces, links, taps and the packet filter around every sandbox.
#![forbid(unsafe_code)]
