//! Uploads as forms: the content type, and a body in pieces.
//!
//! The first line of the input is the content type, whose first byte says how the body is cut. However it is cut, the
//! same files come out.
#![no_main]

use envd::fuzzing::form_files;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| {
    let [cut, input @ ..] = input else { return };
    let end = input.iter().position(|byte| *byte == b'\n').unwrap_or(input.len());
    let Ok(boundary) = std::str::from_utf8(&input[..end]) else { return };
    let body = input.get(end + 1..).unwrap_or_default();
    let content_type = format!("multipart/form-data; boundary={boundary}");
    let whole = form_files(&content_type, vec![body.to_vec()]);
    let pieces = body.chunks(usize::from(*cut).max(1)).map(<[u8]>::to_vec).collect();
    let cut = form_files(&content_type, pieces);
    match (whole, cut) {
        (Ok(whole), Ok(cut)) => assert!(whole == cut, "{whole:?} {cut:?}"),
        (Err(whole), Err(cut)) => assert!(!whole.is_empty() && !cut.is_empty()),
        (whole, cut) => panic!("{whole:?} {cut:?}"),
    }
});
