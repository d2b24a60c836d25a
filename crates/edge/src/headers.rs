//! What changes in a header block on its way through.

use std::net::IpAddr;

use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use http::{Version, request, response};
use model::{GuestPort, NetworkPolicy};

use crate::TRAFFIC_TOKEN_HEADER;
use crate::route::without_user;

/// Headers about one connection, not about the message. `Transfer-Encoding` is among them: each side is framed anew.
const HOP_BY_HOP: [HeaderName; 7] = [
    header::CONNECTION,
    HeaderName::from_static("keep-alive"),
    HeaderName::from_static("proxy-connection"),
    header::TE,
    header::TRANSFER_ENCODING,
    header::UPGRADE,
    HeaderName::from_static("http2-settings"),
];

const FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
const FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");
const PORT_PLACEHOLDER: &str = "${PORT}";

/// The protocol that a request wants to switch to, or that an answer switches to. HTTP/2 by upgrade is none: inside
/// such a tunnel nobody would look at the requests.
pub(crate) fn upgrade(headers: &HeaderMap) -> Option<HeaderValue> {
    let asked = tokens(headers, &header::CONNECTION).any(|token| token.eq_ignore_ascii_case("upgrade"));
    let protocol = headers.get(header::UPGRADE).filter(|_| asked)?;
    let h2c =
        protocol.to_str().ok()?.split(',').any(|name| name.trim().to_ascii_lowercase().starts_with("h2"));
    (!h2c).then(|| protocol.clone())
}

/// Turns a client's request into the one for the guest. `upgrade` is the protocol to switch to, if that is forwarded.
pub(crate) fn to_guest(
    head: &mut request::Parts,
    port: GuestPort,
    policy: &NetworkPolicy,
    client: IpAddr,
    upgrade: Option<HeaderValue>,
) {
    let trailers = tokens(&head.headers, &header::TE).any(|token| token.eq_ignore_ascii_case("trailers"));
    let host = head.uri.authority().and_then(|authority| HeaderValue::from_str(without_user(authority)).ok());
    let host = host.or_else(|| head.headers.remove(header::HOST));
    let host = host.unwrap_or_else(|| HeaderValue::from_static("localhost"));

    strip(&mut head.headers);
    let headers = &mut head.headers;
    headers.remove(header::EXPECT);
    headers.remove(TRAFFIC_TOKEN_HEADER);
    if trailers {
        headers.insert(header::CONNECTION, HeaderValue::from_static("te"));
        headers.insert(header::TE, HeaderValue::from_static("trailers"));
    }
    if let Some(protocol) = upgrade {
        headers.insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
        headers.insert(header::UPGRADE, protocol);
    }
    if head.version == Version::HTTP_2 {
        join_cookies(headers);
    }

    append_forwarded_for(headers, client);
    headers.entry(FORWARDED_PROTO).or_insert(HeaderValue::from_static("http"));
    let masked = policy.mask_request_host.as_deref().filter(|_| port != GuestPort::ENVD);
    let masked = masked
        .and_then(|mask| HeaderValue::from_str(&mask.replace(PORT_PLACEHOLDER, &port.to_string())).ok());
    headers.entry(FORWARDED_HOST).or_insert_with(|| host.clone());
    headers.insert(header::HOST, masked.unwrap_or(host));

    let mut uri = http::uri::Parts::default();
    uri.path_and_query = head.uri.path_and_query().cloned();
    if uri.path_and_query.as_ref().is_none_or(|path| path.as_str().is_empty()) {
        uri.path_and_query = Some(http::uri::PathAndQuery::from_static("/"));
    }
    head.uri = http::Uri::from_parts(uri).unwrap_or_default();
    head.version = Version::HTTP_11;
}

/// Turns a guest's answer into the one for the client.
pub(crate) fn to_client(head: &mut response::Parts, upgrade: Option<HeaderValue>) {
    if head.headers.contains_key(header::TRANSFER_ENCODING) {
        head.headers.remove(header::CONTENT_LENGTH);
    }
    strip(&mut head.headers);
    if let Some(protocol) = upgrade {
        head.headers.insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
        head.headers.insert(header::UPGRADE, protocol);
    }
    head.version = Version::HTTP_11;
}

/// Removes what is about the connection it came by, also what `Connection` says is.
fn strip(headers: &mut HeaderMap) {
    let mut named: Vec<HeaderName> = Vec::new();
    for token in tokens(headers, &header::CONNECTION) {
        if !["close", "keep-alive", "upgrade", "te"].iter().any(|known| token.eq_ignore_ascii_case(known)) {
            named.extend(token.parse::<HeaderName>());
        }
    }
    for name in HOP_BY_HOP.iter().chain(&named) {
        headers.remove(name);
    }
}

fn tokens<'a>(headers: &'a HeaderMap, name: &HeaderName) -> impl Iterator<Item = &'a str> {
    let lists = headers.get_all(name).iter().filter_map(|value| value.to_str().ok());
    lists.flat_map(|list| list.split(',')).map(str::trim)
}

/// HTTP/2 may split cookies over several headers, HTTP/1.1 may not (RFC 9113, 8.2.3).
fn join_cookies(headers: &mut HeaderMap) {
    if headers.get_all(header::COOKIE).iter().nth(1).is_some() {
        let all: Vec<&[u8]> = headers.get_all(header::COOKIE).iter().map(HeaderValue::as_bytes).collect();
        if let Ok(joined) = HeaderValue::from_bytes(&all.join(&b"; "[..])) {
            headers.insert(header::COOKIE, joined);
        }
    }
}

/// Adds the client to what proxies before us wrote. None of it is to be trusted by the guest.
fn append_forwarded_for(headers: &mut HeaderMap, client: IpAddr) {
    let client = client.to_canonical().to_string();
    let mut list: Vec<&[u8]> = headers.get_all(FORWARDED_FOR).iter().map(HeaderValue::as_bytes).collect();
    list.push(client.as_bytes());
    if let Ok(value) = HeaderValue::from_bytes(&list.join(&b", "[..])) {
        headers.insert(FORWARDED_FOR, value);
    }
}

#[cfg(test)]
mod tests {
    use http::{Request, Response};

    use super::*;

    fn forwarded(request: request::Builder, policy: &NetworkPolicy) -> request::Parts {
        let (mut head, ()) = request.body(()).unwrap().into_parts();
        let upgrade = upgrade(&head.headers);
        to_guest(&mut head, GuestPort::new(8080).unwrap(), policy, [10, 0, 0, 7].into(), upgrade);
        head
    }

    #[test]
    fn connection_headers_stay_behind() {
        let head = forwarded(
            Request::get("/a%2Fb?c=%20+d")
                .header("host", "h:1")
                .header("connection", "close, x-private")
                .header("x-private", "1")
                .header("keep-alive", "5")
                .header("transfer-encoding", "chunked")
                .header("expect", "100-continue")
                .header("e2b-traffic-access-token", "t")
                .header("upgrade", "websocket")
                .header("x-kept", "1"),
            &NetworkPolicy::default(),
        );
        let mut names: Vec<&str> = head.headers.keys().map(HeaderName::as_str).collect();
        names.sort_unstable();
        assert_eq!(names, ["host", "x-forwarded-for", "x-forwarded-host", "x-forwarded-proto", "x-kept"]);
        assert_eq!(head.headers["host"], "h:1");
        assert_eq!(head.uri, "/a%2Fb?c=%20+d");
    }

    #[test]
    fn websockets_pass_and_http2_by_upgrade_does_not() {
        let websocket = Request::get("/").header("connection", "Upgrade").header("upgrade", "websocket");
        assert_eq!(forwarded(websocket, &NetworkPolicy::default()).headers["upgrade"], "websocket");
        let h2c = Request::get("/")
            .header("connection", "Upgrade, HTTP2-Settings")
            .header("upgrade", "h2c")
            .header("http2-settings", "AAMAAABk");
        let head = forwarded(h2c, &NetworkPolicy::default());
        assert!(!head.headers.contains_key("upgrade") && !head.headers.contains_key("http2-settings"));
    }

    #[test]
    fn the_guest_sees_who_asked_for_what() {
        let policy =
            NetworkPolicy { mask_request_host: Some("app.local:${PORT}".to_owned()), ..Default::default() };
        let head = forwarded(
            Request::get("http://8080-iabc.sbx.test/x")
                .header("x-forwarded-for", "1.2.3.4")
                .header("x-forwarded-proto", "https"),
            &policy,
        );
        assert_eq!(head.headers["host"], "app.local:8080");
        assert_eq!(head.headers["x-forwarded-host"], "8080-iabc.sbx.test");
        assert_eq!(head.headers["x-forwarded-for"], "1.2.3.4, 10.0.0.7");
        assert_eq!(head.headers["x-forwarded-proto"], "https");
        assert_eq!(head.uri, "/x");
    }

    #[test]
    fn cookies_of_http2_become_one() {
        let request = Request::get("http://h/")
            .version(Version::HTTP_2)
            .header("cookie", "a=1")
            .header("cookie", "b=2");
        assert_eq!(forwarded(request, &NetworkPolicy::default()).headers["cookie"], "a=1; b=2");
    }

    #[test]
    fn trailers_are_asked_for_on() {
        let head = forwarded(Request::get("/").header("te", "gzip, trailers"), &NetworkPolicy::default());
        assert_eq!(head.headers["te"], "trailers");
    }

    #[test]
    fn an_answer_with_two_lengths_keeps_none() {
        let response =
            Response::builder().header("transfer-encoding", "chunked").header("content-length", "5");
        let (mut head, ()) = response.body(()).unwrap().into_parts();
        to_client(&mut head, None);
        assert!(head.headers.is_empty());
    }
}
