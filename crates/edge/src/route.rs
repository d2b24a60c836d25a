//! Which sandbox and port a request is for.

use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use http::uri::{Authority, Uri};
use model::{GuestPort, SandboxId};

use crate::refusal::Refusal;

const ID_HEADER: HeaderName = HeaderName::from_static("e2b-sandbox-id");
const PORT_HEADER: HeaderName = HeaderName::from_static("e2b-sandbox-port");
const ID_HEADER_TEXT: &str = "E2b-Sandbox-Id";
const PORT_HEADER_TEXT: &str = "E2b-Sandbox-Port";

/// Where a request goes.
#[derive(Debug)]
pub(crate) enum Route {
    /// To the REST surface.
    Api,
    /// To a port of a sandbox, which may or may not exist.
    Sandbox(SandboxId, GuestPort),
    /// Nowhere.
    Refused(Refusal),
}

/// Decides by the routing headers, whatever the host; without them by the host's first label.
pub(crate) fn route(headers: &HeaderMap, uri: &Uri, domain: Option<&str>) -> Route {
    match (headers.contains_key(&ID_HEADER), headers.contains_key(&PORT_HEADER)) {
        (true, true) => {
            by_headers(headers).map_or_else(Route::Refused, |(id, port)| Route::Sandbox(id, port))
        }
        (true, false) => Route::Refused(Refusal::MissingHeader(PORT_HEADER_TEXT)),
        (false, true) => Route::Refused(Refusal::MissingHeader(ID_HEADER_TEXT)),
        (false, false) => match host(headers, uri) {
            Err(refusal) => Route::Refused(refusal),
            Ok(host) => host
                .and_then(|host| by_host(host, domain))
                .map_or(Route::Api, |(id, port)| Route::Sandbox(id, port)),
        },
    }
}

fn by_headers(headers: &HeaderMap) -> Result<(SandboxId, GuestPort), Refusal> {
    let id = single(headers, &ID_HEADER)
        .and_then(|value| value.to_str().ok()?.parse().ok())
        .ok_or(Refusal::BadHeader(ID_HEADER_TEXT))?;
    let port = single(headers, &PORT_HEADER)
        .and_then(|value| parse_port(value.to_str().ok()?))
        .ok_or(Refusal::BadHeader(PORT_HEADER_TEXT))?;
    Ok((id, port))
}

/// The value of a header that is there exactly once: a second one might be what somebody else decides by.
fn single<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Option<&'a HeaderValue> {
    let mut values = headers.get_all(name).iter();
    values.next().filter(|_| values.next().is_none())
}

/// Digits only: `str::parse` would also take a sign.
fn parse_port(text: &str) -> Option<GuestPort> {
    text.bytes().all(|b| b.is_ascii_digit()).then(|| text.parse().ok().and_then(GuestPort::new)).flatten()
}

/// The host that a request names: the authority of its target (absolute form, HTTP/2), else its `Host` header.
pub(crate) fn host<'a>(headers: &'a HeaderMap, uri: &'a Uri) -> Result<Option<&'a str>, Refusal> {
    if let Some(authority) = uri.authority() {
        return Ok(Some(without_user(authority)));
    }
    if !headers.contains_key(header::HOST) {
        return Ok(None);
    }
    let value = single(headers, &header::HOST).ok_or(Refusal::BadHost)?;
    value.to_str().map(Some).map_err(|_| Refusal::BadHost)
}

/// Host and port of an authority. The user that it may name is for nobody to see.
pub(crate) fn without_user(authority: &Authority) -> &str {
    let text = authority.as_str();
    text.rsplit_once('@').map_or(text, |(_, host)| host)
}

/// Reads `<port>-<id>[-client].<domain>[:port]`.
fn by_host(host: &str, domain: Option<&str>) -> Option<(SandboxId, GuestPort)> {
    let (label, rest) = host.split_once('.')?;
    let rest = rest.rsplit_once(':').map_or(rest, |(name, _)| name);
    let rest = rest.strip_suffix('.').unwrap_or(rest);
    if domain.is_some_and(|domain| !rest.eq_ignore_ascii_case(domain)) {
        return None;
    }
    let mut parts = label.splitn(3, '-');
    let port = parse_port(parts.next()?)?;
    let id = parts.next()?;
    let id =
        if id.bytes().any(|b| b.is_ascii_uppercase()) { id.to_ascii_lowercase().parse() } else { id.parse() };
    Some((id.ok()?, port))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn to(pairs: &[(&'static str, &str)], uri: &str, domain: Option<&str>) -> String {
        let mut headers = HeaderMap::new();
        for (name, value) in pairs {
            headers.append(*name, value.parse().unwrap());
        }
        match route(&headers, &uri.parse().unwrap(), domain) {
            Route::Api => "api".to_owned(),
            Route::Sandbox(id, port) => format!("{id}:{port}"),
            Route::Refused(refusal) => {
                String::from_utf8(refusal.into_response().into_body().to_vec()).unwrap()
            }
        }
    }

    #[test]
    fn headers_count_on_any_host_and_before_it() {
        let both = [("e2b-sandbox-id", "iabc"), ("e2b-sandbox-port", "49983")];
        for host in ["127.0.0.1:3000", "api.example.com", "80-iother.example.com", "localhost"] {
            let pairs = [both[0], both[1], ("host", host)];
            assert_eq!(to(&pairs, "/", Some("example.com")), "iabc:49983", "{host}");
        }
    }

    #[test]
    fn one_header_without_the_other_names_the_missing_one() {
        assert!(to(&[("e2b-sandbox-id", "iabc")], "/", None).contains("Missing header: E2b-Sandbox-Port"));
        assert!(to(&[("e2b-sandbox-port", "80")], "/", None).contains("Missing header: E2b-Sandbox-Id"));
    }

    #[test]
    fn headers_that_do_not_parse_are_refused() {
        for (id, port) in [
            ("IABC", "80"),
            ("a-b", "80"),
            ("../x", "80"),
            ("", "80"),
            ("iabc", "0"),
            ("iabc", "65536"),
            ("iabc", "+80"),
            ("iabc", ""),
            ("iabc", "x"),
        ] {
            let answer = to(&[("e2b-sandbox-id", id), ("e2b-sandbox-port", port)], "/", None);
            assert!(answer.contains("Invalid header"), "{id} {port}: {answer}");
        }
        let twice = [("e2b-sandbox-id", "ia"), ("e2b-sandbox-id", "ib"), ("e2b-sandbox-port", "80")];
        assert!(to(&twice, "/", None).contains("Invalid header"));
    }

    #[test]
    fn hosts_name_a_port_and_a_sandbox() {
        for host in [
            "80-iabc.sbx.test",
            "80-iabc.sbx.test:8443",
            "80-iabc-6532622b.sbx.test",
            "80-IABC.SBX.test",
            "80-iabc.sbx.test.",
        ] {
            assert_eq!(to(&[("host", host)], "/", Some("sbx.test")), "iabc:80", "{host}");
            assert_eq!(to(&[("host", host)], "/", None), "iabc:80", "{host}");
            assert_eq!(to(&[], &format!("http://{host}/x"), None), "iabc:80", "{host}");
            assert_eq!(to(&[], &format!("http://user:pass@{host}/x"), None), "iabc:80", "{host}");
        }
    }

    #[test]
    fn other_hosts_are_the_api() {
        for host in [
            "127.0.0.1",
            "api.sbx.test",
            "80-iabc.other.test",
            "80-iabc",
            "0-iabc.sbx.test",
            "99999-iabc.sbx.test",
            "80-.sbx.test",
            "-iabc.sbx.test",
            "[::1]:80",
            "x80-iabc.sbx.test",
            "80-iabc.x.sbx.test",
        ] {
            assert_eq!(to(&[("host", host)], "/", Some("sbx.test")), "api", "{host}");
        }
        assert_eq!(to(&[], "/", None), "api");
    }

    #[test]
    fn two_hosts_are_refused() {
        assert!(to(&[("host", "a.b"), ("host", "80-iabc.b")], "/", None).contains("Invalid header: Host"));
    }
}
