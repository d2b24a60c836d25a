//! Who may initialise the daemon. The table is in [`super`].

use model::Secret;

use super::metadata::{Facts, Verdict};

/// What an attempt at `/init` hears that is refused.
pub(super) const MISMATCH: &str = "access token validation failed";
pub(super) const NO_RESET: &str = "access token reset not authorized";

/// Whether the token held, if there is one, is the one given.
pub(super) fn holds(held: Option<&Secret>, given: Option<&str>) -> bool {
    held.is_none_or(|held| given.is_some_and(|given| held.matches(given)))
}

/// The same where a metadata service knows better: it decides, unless the token is the one held or it says nothing.
pub(super) fn holds_or_is_known(held: Option<&Secret>, given: Option<&str>, facts: Option<&Facts>) -> bool {
    match facts.map_or(Verdict::Silent, |facts| facts.judge(given)) {
        Verdict::Matches => true,
        Verdict::Differs => held.is_some() && holds(held, given),
        Verdict::Silent => holds(held, given),
    }
}

/// Why a request is refused.
pub(super) fn refusal(given: Option<&str>) -> &'static str {
    if given.is_some() { MISMATCH } else { NO_RESET }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_who_holds_the_token_may_change_anything() {
        let held = Secret::new("held");
        for (held, given, expected) in [
            (None, None, true),
            (None, Some("any"), true),
            (Some(&held), Some("held"), true),
            (Some(&held), Some("other"), false),
            (Some(&held), None, false),
        ] {
            assert_eq!(holds(held, given), expected, "{held:?} {given:?}");
            // Without a service, and with one that knows of no token, nothing is different.
            assert_eq!(holds_or_is_known(held, given, None), expected, "{held:?} {given:?}");
            assert_eq!(
                holds_or_is_known(held, given, Some(&Facts::default())),
                expected,
                "{held:?} {given:?}"
            );
        }
    }

    #[test]
    fn the_service_decides_where_it_knows_a_token() {
        use sha2::{Digest as _, Sha512};
        let held = Secret::new("held");
        let hash = |token: &str| -> String {
            Sha512::digest(token).iter().map(|byte| format!("{byte:02x}")).collect()
        };
        let facts = |token: &str| -> Facts {
            serde_json::from_value(serde_json::json!({"accessTokenHash": hash(token)})).unwrap()
        };
        for (held, given, known, expected) in [
            // First of all, nobody else may come first.
            (None, Some("known"), "known", true),
            (None, Some("other"), "known", false),
            (None, None, "known", false),
            // A resume under another token, also when the old one is held.
            (Some(&held), Some("known"), "known", true),
            (Some(&held), Some("held"), "known", true),
            (Some(&held), Some("other"), "known", false),
            (Some(&held), None, "known", false),
            // The token goes away.
            (Some(&held), None, "", true),
            (None, None, "", true),
            (Some(&held), Some("other"), "", false),
        ] {
            let allowed = holds_or_is_known(held, given, Some(&facts(known)));
            assert_eq!(allowed, expected, "{held:?} {given:?} {known:?}");
        }
    }
}
