//! Teams, API keys and templates, durably.
#![forbid(unsafe_code)]
