//! What kind of contents a file has: by the end of its name, else by its first bytes.

use std::path::Path;

/// Most first bytes that are looked at.
const SNIFFED: usize = 512;

const BY_EXTENSION: [(&str, &str); 45] = [
    ("avif", "image/avif"),
    ("bmp", "image/bmp"),
    ("bz2", "application/x-bzip2"),
    ("css", "text/css; charset=utf-8"),
    ("csv", "text/csv; charset=utf-8"),
    ("gif", "image/gif"),
    ("gz", "application/gzip"),
    ("htm", "text/html; charset=utf-8"),
    ("html", "text/html; charset=utf-8"),
    ("ico", "image/x-icon"),
    ("ipynb", "application/x-ipynb+json"),
    ("jpeg", "image/jpeg"),
    ("jpg", "image/jpeg"),
    ("js", "text/javascript; charset=utf-8"),
    ("json", "application/json"),
    ("jsonl", "application/jsonl"),
    ("log", "text/plain; charset=utf-8"),
    ("md", "text/markdown; charset=utf-8"),
    ("mjs", "text/javascript; charset=utf-8"),
    ("mp3", "audio/mpeg"),
    ("mp4", "video/mp4"),
    ("ogg", "audio/ogg"),
    ("otf", "font/otf"),
    ("parquet", "application/vnd.apache.parquet"),
    ("pdf", "application/pdf"),
    ("png", "image/png"),
    ("py", "text/x-python; charset=utf-8"),
    ("rs", "text/rust; charset=utf-8"),
    ("sh", "application/x-sh"),
    ("svg", "image/svg+xml"),
    ("tar", "application/x-tar"),
    ("tgz", "application/gzip"),
    ("toml", "application/toml"),
    ("ts", "text/plain; charset=utf-8"),
    ("ttf", "font/ttf"),
    ("txt", "text/plain; charset=utf-8"),
    ("wasm", "application/wasm"),
    ("wav", "audio/wav"),
    ("webm", "video/webm"),
    ("webp", "image/webp"),
    ("woff", "font/woff"),
    ("woff2", "font/woff2"),
    ("xml", "text/xml; charset=utf-8"),
    ("yaml", "application/yaml"),
    ("yml", "application/yaml"),
];

const BY_FIRST_BYTES: [(&[u8], &str); 11] = [
    (b"\x89PNG\r\n\x1a\n", "image/png"),
    (b"\xff\xd8\xff", "image/jpeg"),
    (b"GIF87a", "image/gif"),
    (b"GIF89a", "image/gif"),
    (b"%PDF-", "application/pdf"),
    (b"\x1f\x8b\x08", "application/gzip"),
    (b"PK\x03\x04", "application/zip"),
    (b"\0asm", "application/wasm"),
    (b"<!DOCTYPE html", "text/html; charset=utf-8"),
    (b"<html", "text/html; charset=utf-8"),
    (b"<?xml", "text/xml; charset=utf-8"),
];

/// The type of a file with this name that begins with these bytes.
pub(super) fn content_type(path: &Path, first: &[u8]) -> &'static str {
    if let Some(extension) = path.extension().and_then(|extension| extension.to_str()) {
        let extension = extension.to_ascii_lowercase();
        if let Ok(index) = BY_EXTENSION.binary_search_by_key(&extension.as_str(), |(known, _)| known) {
            return BY_EXTENSION[index].1;
        }
    }
    let first = &first[..first.len().min(SNIFFED)];
    if let Some((_, kind)) = BY_FIRST_BYTES.iter().find(|(magic, _)| first.starts_with(magic)) {
        return kind;
    }
    if first.iter().any(|byte| is_binary(*byte)) {
        "application/octet-stream"
    } else {
        "text/plain; charset=utf-8"
    }
}

/// Control characters that no text has (whatwg mimesniff, "binary data byte").
fn is_binary(byte: u8) -> bool {
    matches!(byte, 0..=8 | 0x0b | 0x0e..=0x1a | 0x1c..=0x1f)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_is_sorted() {
        assert!(BY_EXTENSION.is_sorted_by_key(|(extension, _)| *extension));
    }

    #[test]
    fn names_come_first_then_bytes() {
        for (name, first, expected) in [
            ("a.JSON", &b"\0"[..], "application/json"),
            ("a.tar.gz", b"", "application/gzip"),
            ("a", b"", "text/plain; charset=utf-8"),
            ("a", "grüße".as_bytes(), "text/plain; charset=utf-8"),
            ("a.unknown", b"\x89PNG\r\n\x1a\nrest", "image/png"),
            (".bashrc", b"alias", "text/plain; charset=utf-8"),
            ("a", b"a\0b", "application/octet-stream"),
        ] {
            assert_eq!(content_type(Path::new(name), first), expected, "{name}");
        }
    }
}
