//! Which encoding of an answer a client wants (RFC 9110, section 12.5.3). We have gzip and none.

/// The encoding of an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Encoding {
    /// As it is.
    Identity,
    /// Compressed.
    Gzip,
}

/// The client takes nothing that we have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct NotAcceptable;

/// Most codings of a header that are looked at.
const MAX_CODINGS: usize = 32;

/// Chooses by the values of `Accept-Encoding`: the coding that the client likes best, of equals the one it names first.
/// What it says nothing about is not compressed. With `plain`, only the plain form will do, as for a part of a file.
///
/// # Errors
///
/// When the client refuses everything that is possible.
pub(super) fn negotiate<'a>(
    accept: impl IntoIterator<Item = &'a str>,
    plain: bool,
) -> Result<Encoding, NotAcceptable> {
    let mut codings: Vec<(String, u16)> = Vec::new();
    for (name, quality) in
        accept.into_iter().flat_map(|value| value.split(',')).filter_map(coding).take(MAX_CODINGS)
    {
        // Of what a client says twice, the first counts.
        if codings.iter().all(|(known, _)| *known != name) {
            codings.push((name, quality));
        }
    }
    let quality = |wanted: &str| codings.iter().find(|(name, _)| name == wanted).map(|(_, quality)| *quality);
    let rest = quality("*");
    // Not mentioned is fine for the plain form, unless everything not mentioned is refused.
    let identity = quality("identity").or(rest.filter(|quality| *quality == 0)) != Some(0);
    let gzip = quality("gzip").or(quality("x-gzip")).or(rest).is_some_and(|quality| quality > 0);
    if plain {
        return if identity { Ok(Encoding::Identity) } else { Err(NotAcceptable) };
    }
    codings.retain(|(_, quality)| *quality > 0);
    // A stable sort: of equals, the first stays first.
    codings.sort_by_key(|(_, quality)| std::cmp::Reverse(*quality));
    for (name, _) in &codings {
        match name.as_str() {
            "gzip" | "x-gzip" => return Ok(Encoding::Gzip),
            "identity" => return Ok(Encoding::Identity),
            "*" if identity => return Ok(Encoding::Identity),
            "*" if gzip => return Ok(Encoding::Gzip),
            _ => {}
        }
    }
    if identity { Ok(Encoding::Identity) } else { Err(NotAcceptable) }
}

/// `name` or `name;q=0.5`: the name in lower case and the quality in thousandths. None when it makes no sense.
fn coding(text: &str) -> Option<(String, u16)> {
    let mut parts = text.split(';').map(str::trim);
    let name = parts.next().filter(|name| !name.is_empty())?.to_ascii_lowercase();
    let mut quality = 1000;
    for parameter in parts {
        let (key, value) = parameter.split_once('=')?;
        if key.trim().eq_ignore_ascii_case("q") {
            quality = thousandths(value.trim())?;
        }
    }
    Some((name, quality))
}

/// A quality: 0 to 1 with at most three decimals.
fn thousandths(text: &str) -> Option<u16> {
    let (whole, decimals) = text.split_once('.').unwrap_or((text, ""));
    let whole: u16 = whole.parse().ok().filter(|whole| *whole <= 1)?;
    if decimals.len() > 3 || !decimals.bytes().all(|digit| digit.is_ascii_digit()) {
        return None;
    }
    let decimals: u16 = format!("{decimals:0<3}").parse().ok()?;
    Some(whole * 1000 + decimals).filter(|quality| *quality <= 1000)
}

#[cfg(test)]
mod tests {
    use super::Encoding::{Gzip, Identity};
    use super::*;

    #[test]
    fn what_clients_want() {
        for (accept, expected) in [
            ("", Ok(Identity)),
            ("gzip", Ok(Gzip)),
            ("GZIP", Ok(Gzip)),
            ("x-gzip", Ok(Gzip)),
            ("gzip, deflate", Ok(Gzip)),
            ("gzip, deflate, br, zstd", Ok(Gzip)),
            ("deflate, gzip;q=1.0, *;q=0.5", Ok(Gzip)),
            ("deflate, br", Ok(Identity)),
            ("identity", Ok(Identity)),
            ("identity, gzip", Ok(Identity)),
            // Of what is said twice, the first counts.
            ("gzip;q=0.5, identity;q=0, identity", Ok(Gzip)),
            ("gzip;q=0, gzip", Ok(Identity)),
            ("gzip, identity", Ok(Gzip)),
            ("gzip;q=0.5, identity", Ok(Identity)),
            ("gzip;q=0.5, identity;q=0.4", Ok(Gzip)),
            ("gzip; q=0.001", Ok(Gzip)),
            ("gzip;q=0", Ok(Identity)),
            ("gzip;q=0.000", Ok(Identity)),
            ("*", Ok(Identity)),
            ("*;q=0.1", Ok(Identity)),
            ("identity;q=0, *", Ok(Gzip)),
            ("*, identity;q=0", Ok(Gzip)),
            ("gzip;q=0, *", Ok(Identity)),
            ("*;q=0, gzip", Ok(Gzip)),
            ("*;q=0, identity", Ok(Identity)),
            ("*;q=0, identity;q=0.1, gzip;q=0.2", Ok(Gzip)),
            ("identity;q=0, gzip", Ok(Gzip)),
            ("identity;q=0", Err(NotAcceptable)),
            ("*;q=0", Err(NotAcceptable)),
            ("br, identity;q=0", Err(NotAcceptable)),
            ("br, *;q=0", Err(NotAcceptable)),
            ("gzip;q=0, identity;q=0", Err(NotAcceptable)),
            ("gzip;q=0, identity;q=0, *", Err(NotAcceptable)),
            // What makes no sense was not said.
            ("gzip;q=2", Ok(Identity)),
            ("gzip;q=x", Ok(Identity)),
            ("gzip;q=-1", Ok(Identity)),
            ("gzip;q=0.5555", Ok(Identity)),
            ("gzip;q", Ok(Identity)),
            (",,;q=1,", Ok(Identity)),
        ] {
            assert_eq!(negotiate([accept], false), expected, "{accept:?}");
        }
        assert_eq!(negotiate([], false), Ok(Identity));
        assert_eq!(negotiate(["br", "gzip"], false), Ok(Gzip));
    }

    #[test]
    fn parts_are_plain() {
        for (accept, expected) in [
            ("gzip", Ok(Identity)),
            ("*;q=0.5", Ok(Identity)),
            ("gzip, identity;q=0", Err(NotAcceptable)),
            ("gzip, *;q=0", Err(NotAcceptable)),
            ("identity;q=0, identity", Err(NotAcceptable)),
        ] {
            assert_eq!(negotiate([accept], true), expected, "{accept:?}");
        }
    }
}
