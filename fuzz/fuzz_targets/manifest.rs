//! Manifests of builds: decoded, and encoded again.
//!
//! The first byte of the input says whether the rest is a whole manifest, or the text that its checksum is about.
#![no_main]

use build::{Manifest, checksum};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| {
    let [sealed, text @ ..] = input else { return };
    let decoded = if sealed & 1 == 1 { Manifest::decode(&seal(text)) } else { Manifest::decode(text) };
    match decoded {
        Ok(manifest) => {
            let bytes = manifest.encode().expect("it was no larger than allowed");
            assert_eq!(Manifest::decode(&bytes).as_ref(), Ok(&manifest));
        }
        Err(error) => assert!(!error.to_string().is_empty()),
    }
});

/// What it would be if its writer had written it. Space around the text is not part of it.
fn seal(text: &[u8]) -> Vec<u8> {
    let text = text.trim_ascii();
    let begin = format!("{{\"format\":1,\"crc32c\":\"{:08x}\",\"manifest\":", checksum(text));
    [begin.as_bytes(), text, b"}\n"].concat()
}
