//! Names made from content.

use std::fmt::Write as _;

use sha2::{Digest as _, Sha256};

/// Characters of a key: 128 bits in hexadecimal, so that two inputs never share one.
const KEY_CHARS: usize = 32;

/// Collects what something is made from.
#[derive(Clone)]
pub(crate) struct Key(Sha256);

impl Key {
    /// `kind` keeps keys of different things apart; `recipe` changes whenever the same inputs would give another result.
    pub(crate) fn new(kind: &str, recipe: u32) -> Self {
        Self(Sha256::new()).with(kind.as_bytes()).with(&recipe.to_le_bytes())
    }

    /// Adds one input. Its length goes in too: "ab", "c" is not "a", "bc".
    pub(crate) fn with(mut self, input: &[u8]) -> Self {
        self.0.update((input.len() as u64).to_le_bytes());
        self.0.update(input);
        self
    }

    /// The key as text.
    pub(crate) fn finish(self) -> String {
        let mut text = String::with_capacity(2 * KEY_CHARS);
        for byte in self.0.finalize() {
            // Writing to a String does not fail.
            let _ = write!(text, "{byte:02x}");
        }
        text.truncate(KEY_CHARS);
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_input_and_its_bounds_count() {
        let key = |inputs: &[&str]| {
            inputs.iter().fold(Key::new("test", 1), |key, i| key.with(i.as_bytes())).finish()
        };
        assert_eq!(key(&["ab", "c"]), key(&["ab", "c"]));
        assert_ne!(key(&["ab", "c"]), key(&["a", "bc"]));
        assert_ne!(Key::new("test", 1).finish(), Key::new("test", 2).finish());
        assert!(key(&[]).parse::<model::BuildId>().is_ok());
    }
}
