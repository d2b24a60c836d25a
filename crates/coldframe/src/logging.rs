//! Where log lines go.

use tracing::Level;
use tracing_subscriber::filter::Targets;
use tracing_subscriber::fmt;
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;

/// `COLDFRAME_LOG` says what is logged, as `LEVEL` or `TARGET=LEVEL,…`. Filters by what is in a line would need a library of
/// regular expressions, which is a megabyte of a small program.
fn filter() -> Targets {
    let said = std::env::var("COLDFRAME_LOG").ok().and_then(|text| text.parse().ok());
    said.unwrap_or_else(|| Targets::new().with_default(Level::INFO))
}

/// The server's: to standard error, in colour on a terminal.
pub(crate) fn server() {
    use std::io::IsTerminal;
    let lines = fmt::layer().with_ansi(std::io::stderr().is_terminal()).with_writer(std::io::stderr);
    tracing_subscriber::registry().with(lines).with(filter()).init();
}

/// A supervisor's: to standard error, which its node points to a file in the sandbox's directory.
pub(crate) fn supervisor() {
    let lines = fmt::layer().with_ansi(false).with_writer(std::io::stderr);
    tracing_subscriber::registry().with(lines).with(filter()).init();
}
