//! On which port of this machine a guest's ports are reached.

use std::num::NonZeroU16;

/// Where whoever says nothing finds it.
const DEFAULT: u16 = 5007;

/// A port to listen on, and whether another one would not do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Wanted {
    pub(super) port: u16,
    pub(super) asked_for: bool,
}

/// What the option says, or the variable, or nobody. A variable that is no port is as good as none: it may be meant for
/// another program.
pub(super) fn wanted(option: Option<NonZeroU16>, variable: Option<&str>) -> Wanted {
    let variable = || {
        let text = variable.map(str::trim).filter(|text| !text.is_empty())?;
        let port = text.parse::<NonZeroU16>().ok();
        if port.is_none() {
            eprintln!("coldframe: PROXY_PORT is {text:?}, which is no port: {DEFAULT} is taken");
        }
        port
    };
    match option.or_else(variable) {
        Some(port) => Wanted { port: port.get(), asked_for: true },
        None => Wanted { port: DEFAULT, asked_for: false },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_option_wins_over_the_variable_and_nonsense_counts_as_nothing() {
        let asked = |port| Wanted { port, asked_for: true };
        let default = Wanted { port: 5007, asked_for: false };
        assert_eq!(wanted(NonZeroU16::new(7), Some("8")), asked(7));
        assert_eq!(wanted(None, Some(" 8 ")), asked(8));
        assert_eq!(wanted(None, None), default);
        for nonsense in ["", "  ", "0", "-1", "65536", "http", "80 81"] {
            assert_eq!(wanted(None, Some(nonsense)), default, "{nonsense:?}");
        }
    }
}
