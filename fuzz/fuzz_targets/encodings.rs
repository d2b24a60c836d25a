//! `Accept-Encoding` of downloads and `Content-Encoding` of uploads.
//!
//! The first byte of the input says which: the rest is lines of the one header, or one line of the other and a body.
#![no_main]

use envd::fuzzing::{accepted_encoding, unpacked};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| match input {
    [kind, lines @ ..] if kind & 1 == 0 => {
        let Ok(lines) = std::str::from_utf8(lines) else { return };
        let lines: Vec<&str> = lines.lines().collect();
        let (any, plain) = (accepted_encoding(&lines, false), accepted_encoding(&lines, true));
        assert_ne!(plain, Some(true), "the plain form is not compressed");
        // Who takes the plain form alone takes it among others.
        assert!(plain.is_none() || any.is_some());
        assert!(any != Some(false) || plain == Some(false));
        let upper: Vec<String> = lines.iter().map(|line| line.to_ascii_uppercase()).collect();
        let upper: Vec<&str> = upper.iter().map(String::as_str).collect();
        assert_eq!(accepted_encoding(&upper, false), any, "letter case means nothing");
    }
    [_, cut, input @ ..] => {
        let end = input.iter().position(|byte| *byte == b'\n').unwrap_or(input.len());
        let body = input.get(end + 1..).unwrap_or_default();
        let whole = unpacked(&input[..end], vec![body.to_vec()]);
        let pieces = body.chunks(usize::from(*cut).max(1)).map(<[u8]>::to_vec).collect();
        let cut = unpacked(&input[..end], pieces);
        assert_eq!(whole.is_ok(), cut.is_ok());
        if let (Ok(whole), Ok(cut)) = (whole, cut) {
            // Only some MiB are looked at, and where that ends depends on the pieces.
            let length = whole.len().min(cut.len());
            assert!(whole[..length] == cut[..length]);
        }
    }
    _ => {}
});
