//! Where log lines go.

use tracing_subscriber::EnvFilter;

fn filter() -> EnvFilter {
    EnvFilter::try_from_env("COLDFRAME_LOG").unwrap_or_else(|_| EnvFilter::new("info"))
}

/// The server's: to standard error, in colour on a terminal.
pub(crate) fn server() {
    use std::io::IsTerminal;
    tracing_subscriber::fmt()
        .with_env_filter(filter())
        .with_ansi(std::io::stderr().is_terminal())
        .with_writer(std::io::stderr)
        .init();
}

/// A supervisor's: to standard error, which its node points to a file in the sandbox's directory.
pub(crate) fn supervisor() {
    tracing_subscriber::fmt().with_env_filter(filter()).with_ansi(false).with_writer(std::io::stderr).init();
}
