//! How the place where a page of a list ended is written into a header, and read from the next query.

use base64::Engine;
use base64::alphabet::URL_SAFE;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};

use http::HeaderName;

use crate::error::ApiError;

/// Where the cursor of the next page is; absent from the last one.
pub(crate) const NEXT_TOKEN: HeaderName = HeaderName::from_static("x-next-token");
/// Between the parts of a cursor.
pub(crate) const SEPARATOR: &str = "__";
const BASE64: GeneralPurpose = GeneralPurpose::new(
    &URL_SAFE,
    GeneralPurposeConfig::new()
        .with_encode_padding(false)
        .with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

pub(crate) fn encode(parts: &str) -> String {
    BASE64.encode(parts)
}

/// `None` when it was not made by [`encode`].
pub(crate) fn decode(text: &str) -> Option<String> {
    String::from_utf8(BASE64.decode(text).ok()?).ok()
}

/// What a client is told whose cursor nobody here made.
pub(crate) fn unknown() -> ApiError {
    ApiError::bad_request("nextToken is not one that this server gave: repeat the list from its start")
}
