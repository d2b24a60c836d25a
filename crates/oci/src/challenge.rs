//! What a registry wants to know before it gives anything.

/// How to answer it.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Challenge {
    /// With a name and a password.
    Basic,
    /// With a token from there.
    Bearer {
        /// Where it is had.
        realm: String,
        /// What else it is asked with.
        parameters: Vec<(String, String)>,
    },
}

/// Reads the header of an answer; `None` for what is not understood.
pub(crate) fn parse(header: &str) -> Option<Challenge> {
    let (scheme, rest) = header.trim().split_once(' ').unwrap_or((header.trim(), ""));
    if scheme.eq_ignore_ascii_case("basic") {
        return Some(Challenge::Basic);
    }
    if !scheme.eq_ignore_ascii_case("bearer") {
        return None;
    }
    let (mut realm, mut parameters, mut rest) = (None, Vec::new(), rest);
    while let Some((name, after)) = rest.split_once('=') {
        let name = name.trim_matches([' ', ',']).to_ascii_lowercase();
        let value;
        (value, rest) = match after.strip_prefix('"') {
            Some(quoted) => quoted.split_once('"')?,
            None => after.split_once(',').unwrap_or((after, "")),
        };
        match name.as_str() {
            "realm" => realm = Some(value.to_owned()),
            "service" | "scope" => parameters.push((name, value.to_owned())),
            _ => {}
        }
    }
    Some(Challenge::Bearer { realm: realm?, parameters })
}

/// A value as a part of a query.
pub(crate) fn encoded(value: &str) -> String {
    let as_it_is = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.' | b'_' | b'~');
    value.bytes().map(|b| if as_it_is(b) { char::from(b).to_string() } else { format!("%{b:02X}") }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_usual_ones_are_understood() {
        let bearer =
            r#"Bearer realm="https://a.b/token",service="a.b",scope="repository:x/y:pull,push",error="x""#;
        let parameters =
            vec![("service".into(), "a.b".into()), ("scope".into(), "repository:x/y:pull,push".into())];
        assert_eq!(parse(bearer), Some(Challenge::Bearer { realm: "https://a.b/token".into(), parameters }));
        let plain =
            Challenge::Bearer { realm: "https://a".into(), parameters: vec![("service".into(), "s".into())] };
        assert_eq!(parse("bearer service=s, realm=https://a"), Some(plain));
        assert_eq!(parse(r#"Basic realm="x""#), Some(Challenge::Basic));
        for none in ["", "Bearer", "Negotiate", r#"Bearer realm="x"#, "Bearer service=s"] {
            assert_eq!(parse(none), None, "{none}");
        }
        assert_eq!(encoded("repository:x/y:pull,push é"), "repository%3Ax%2Fy%3Apull%2Cpush%20%C3%A9");
    }
}
