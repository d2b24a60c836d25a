//! Clients from before entries had more than a name, a type and a path. They fail on fields that they do not know, and
//! are told by a header that they are old.

use axum::extract::Request;
use axum::middleware::Next;
use axum::response::Response;
use envd_proto::filesystem::EntryInfo;
use http::{HeaderMap, HeaderName, HeaderValue, header};

/// What they call themselves. Newer ones say more than this.
const USER_AGENT: &[u8] = b"connect-python";
const MARK: HeaderName = HeaderName::from_static("x-e2b-legacy-sdk");

/// Whether this is a request of such a client.
pub(super) fn is_legacy(request: &HeaderMap) -> bool {
    request.get(header::USER_AGENT).is_some_and(|agent| agent.as_bytes() == USER_AGENT)
}

/// Marks answers to such clients.
pub(super) async fn mark(request: Request, next: Next) -> Response {
    let is_legacy = is_legacy(request.headers());
    let mut response = next.run(request).await;
    if is_legacy {
        response.headers_mut().insert(MARK, HeaderValue::from_static("true"));
    }
    response
}

/// An entry as such clients know it.
pub(super) fn reduce(entry: EntryInfo) -> EntryInfo {
    EntryInfo { name: entry.name, r#type: entry.r#type, path: entry.path, ..EntryInfo::default() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_exact_name() {
        for (agent, expected) in [
            ("connect-python", true),
            ("connect-python/0.4", false),
            ("Connect-Python", false),
            ("connect-python (x)", false),
            ("", false),
        ] {
            let headers = HeaderMap::from_iter([(header::USER_AGENT, HeaderValue::from_static(agent))]);
            assert_eq!(is_legacy(&headers), expected, "{agent}");
        }
        assert!(!is_legacy(&HeaderMap::new()));
    }
}
