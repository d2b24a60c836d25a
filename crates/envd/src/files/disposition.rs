//! File names in headers.

use std::fmt::Write as _;

/// `Content-Disposition` of an answer: show it, and call it `name`. A name that is not plain ASCII is written as RFC 5987
/// says.
pub(super) fn inline(name: &str) -> String {
    let is_token = |byte: u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte);
    if !name.is_empty() && name.bytes().all(is_token) {
        return format!("inline; filename={name}");
    }
    let mut value = String::from("inline; filename");
    if name.bytes().all(|byte| byte == b' ' || byte.is_ascii_graphic()) {
        value.push_str("=\"");
        for character in name.chars() {
            if matches!(character, '"' | '\\') {
                value.push('\\');
            }
            value.push(character);
        }
        value.push('"');
    } else {
        value.push_str("*=utf-8''");
        for byte in name.bytes() {
            if byte.is_ascii_alphanumeric() || b"!#$&+-.^_`|~".contains(&byte) {
                value.push(char::from(byte));
            } else {
                // Writing to a string cannot fail.
                let _ = write!(value, "%{byte:02X}");
            }
        }
    }
    value
}

/// The parameters `name` and `filename` of the `Content-Disposition` of a part of a form. A file name keeps its slashes;
/// `filename*` is the better one when there are both.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct FormPart {
    /// Name of the field.
    pub(super) name: Option<String>,
    /// Name of the file.
    pub(super) filename: Option<String>,
}

/// Reads such a header; bytes that are not UTF-8 are replaced.
pub(super) fn form_part(value: &[u8]) -> FormPart {
    let text = String::from_utf8_lossy(value);
    let mut part = FormPart::default();
    let mut extended = None;
    let mut rest = text.split_once(';').map_or("", |(_, rest)| rest);
    while let Some((key, after)) = rest.split_once('=') {
        let (value, after) = parameter_value(after.trim_start());
        match key.trim().to_ascii_lowercase().as_str() {
            "name" => part.name = part.name.or(Some(value)),
            "filename" => part.filename = part.filename.or(Some(value)),
            "filename*" => extended = extended.or_else(|| decode_extended(&value)),
            _ => {}
        }
        rest = after.split_once(';').map_or("", |(_, rest)| rest);
    }
    part.filename = extended.or(part.filename);
    part
}

/// A token or a quoted string, and what comes after it. Browsers write backslashes in file names as they are, so that a
/// backslash escapes only what would end the string and itself.
fn parameter_value(text: &str) -> (String, &str) {
    let Some(quoted) = text.strip_prefix('"') else {
        let end = text.find(';').unwrap_or(text.len());
        return (text[..end].trim_end().to_owned(), &text[end..]);
    };
    let mut value = String::new();
    let mut characters = quoted.char_indices().peekable();
    while let Some((index, character)) = characters.next() {
        match character {
            '"' => return (value, &quoted[index + 1..]),
            '\\' if matches!(characters.peek(), Some((_, '"' | '\\'))) => {
                value.extend(characters.next().map(|(_, escaped)| escaped));
            }
            _ => value.push(character),
        }
    }
    (value, "")
}

/// `utf-8'language'percent%20encoded`
fn decode_extended(text: &str) -> Option<String> {
    let mut parts = text.splitn(3, '\'');
    if !parts.next()?.eq_ignore_ascii_case("utf-8") {
        return None;
    }
    let _language = parts.next()?;
    let encoded = parts.next()?.as_bytes();
    let mut bytes = Vec::with_capacity(encoded.len());
    let mut index = 0;
    while index < encoded.len() {
        if encoded[index] == b'%' {
            let digits = std::str::from_utf8(encoded.get(index + 1..index + 3)?).ok()?;
            bytes.push(u8::from_str_radix(digits, 16).ok()?);
            index += 3;
        } else {
            bytes.push(encoded[index]);
            index += 1;
        }
    }
    String::from_utf8(bytes).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_in_answers() {
        for (name, expected) in [
            ("test.txt", "inline; filename=test.txt"),
            (".bashrc", "inline; filename=.bashrc"),
            ("my file.txt", r#"inline; filename="my file.txt""#),
            (r#"a"b.txt"#, r#"inline; filename="a\"b.txt""#),
            (r"a\b.txt", r#"inline; filename="a\\b.txt""#),
            ("a;b=c,d.txt", r#"inline; filename="a;b=c,d.txt""#),
            ("日本.txt", "inline; filename*=utf-8''%E6%97%A5%E6%9C%AC.txt"),
            ("é'*%.txt", "inline; filename*=utf-8''%C3%A9%27%2A%25.txt"),
            ("a\r\nSet-Cookie: b", "inline; filename*=utf-8''a%0D%0ASet-Cookie%3A%20b"),
        ] {
            assert_eq!(inline(name), expected);
            let part = form_part(expected.as_bytes());
            assert_eq!(part.filename.as_deref(), Some(name), "{expected}");
        }
    }

    #[test]
    fn names_in_forms() {
        for (value, name, filename) in [
            (r#"form-data; name="file"; filename="/a/b c.txt""#, Some("file"), Some("/a/b c.txt")),
            ("form-data; name=file; filename=x ; other=1", Some("file"), Some("x")),
            (r#"form-data; filename="a;b\".txt"; name="file""#, Some("file"), Some("a;b\".txt")),
            (r#"form-data; name="file"; filename="C:\dir\x""#, Some("file"), Some(r"C:\dir\x")),
            (r#"form-data; NAME="file"; filename="日本""#, Some("file"), Some("日本")),
            (r#"form-data; name="f"; filename="x"; filename*=UTF-8''%e6%97%a5"#, Some("f"), Some("日")),
            (r#"form-data; name="f"; filename="x"; filename*=UTF-8''%e6%9"#, Some("f"), Some("x")),
            (r#"form-data; name="f"; filename="x"; filename*=latin1''y"#, Some("f"), Some("x")),
            (r#"form-data; name="open"#, Some("open"), None),
            ("form-data", None, None),
            ("", None, None),
            ("form-data; =; ==;;; name", None, None),
        ] {
            let part = form_part(value.as_bytes());
            assert_eq!((part.name.as_deref(), part.filename.as_deref()), (name, filename), "{value}");
        }
        assert_eq!(form_part(b"form-data; name=\"\xff\"").name.as_deref(), Some("\u{fffd}"));
    }
}
