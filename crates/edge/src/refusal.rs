//! The answers the edge gives itself. Clients decide by status and by these bodies.

use bytes::Bytes;
use http::{HeaderValue, Response, StatusCode, header};
use model::{GuestPort, SandboxId};
use serde::Serialize;

use crate::TRAFFIC_TOKEN_HEADER;

/// When trying again is worth it, in seconds.
const RETRY_AFTER: HeaderValue = HeaderValue::from_static("1");

/// Why a request was not forwarded.
#[derive(Debug)]
pub(crate) enum Refusal {
    /// One of the two routing headers without the other; holds the missing one's name.
    MissingHeader(&'static str),
    /// A routing header that does not parse, or is there twice.
    BadHeader(&'static str),
    /// More than one `Host`.
    BadHost,
    /// The request's body broke off or was not framed as HTTP wants.
    BadBody(SandboxId),
    /// No sandbox that traffic can reach has the id.
    NotFound(SandboxId),
    /// The sandbox is paused, and there is no room for it now.
    NoRoom(SandboxId),
    /// The sandbox is paused and can only be booted from its disk, which nobody who sends a request would hear of.
    NeedsReboot(SandboxId),
    /// The sandbox is paused and could not be resumed.
    NotResumed(SandboxId),
    /// The sandbox is paused and was not resumed in time.
    WakeTimedOut(SandboxId),
    /// Nothing listens on the port.
    PortClosed(SandboxId, GuestPort),
    /// The guest did not take the connection in time.
    TimedOut(SandboxId, GuestPort),
    /// The guest took the connection and closed it without an answer, or answered with something that is not HTTP.
    BrokenAnswer(SandboxId, GuestPort),
    /// The host could not make the connection.
    Unreachable(SandboxId, GuestPort),
    /// The port is not public and the request carries no token.
    TokenMissing(SandboxId),
    /// The port is not public and the request carries another token.
    TokenInvalid(SandboxId),
    /// A route of the guest daemon that is the host's alone.
    InternalRoute,
    /// A method that cannot be forwarded.
    Method,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Text<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    sandbox_id: Option<&'a SandboxId>,
    message: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    port: Option<GuestPort>,
    code: u16,
}

impl Refusal {
    fn status(&self) -> StatusCode {
        match self {
            Self::MissingHeader(_) | Self::BadHeader(_) | Self::BadHost | Self::BadBody(_) => {
                StatusCode::BAD_REQUEST
            }
            Self::TokenMissing(_) | Self::TokenInvalid(_) => StatusCode::FORBIDDEN,
            Self::InternalRoute => StatusCode::NOT_FOUND,
            Self::Method => StatusCode::METHOD_NOT_ALLOWED,
            Self::NoRoom(_) => StatusCode::SERVICE_UNAVAILABLE,
            Self::TimedOut(..) | Self::WakeTimedOut(_) => StatusCode::GATEWAY_TIMEOUT,
            Self::NotFound(_)
            | Self::NeedsReboot(_)
            | Self::NotResumed(_)
            | Self::PortClosed(..)
            | Self::BrokenAnswer(..)
            | Self::Unreachable(..) => StatusCode::BAD_GATEWAY,
        }
    }

    fn text(&self) -> Text<'_> {
        let (message, sandbox_id, port) = match self {
            Self::MissingHeader(name) => (format!("Missing header: {name}"), None, None),
            Self::BadHeader(name) => (format!("Invalid header: {name}"), None, None),
            Self::BadHost => ("Invalid header: Host".to_owned(), None, None),
            Self::BadBody(id) => ("The request body could not be read".to_owned(), Some(id), None),
            Self::NotFound(id) => ("The sandbox was not found".to_owned(), Some(id), None),
            Self::NoRoom(id) => {
                ("The sandbox is paused and there is no room to resume it now".to_owned(), Some(id), None)
            }
            Self::NeedsReboot(id) => {
                let message = "The sandbox is paused without a memory that it could go on with, and a request does not \
                               reboot it: connect to it";
                (message.to_owned(), Some(id), None)
            }
            Self::NotResumed(id) => {
                ("The sandbox is paused and could not be resumed".to_owned(), Some(id), None)
            }
            Self::WakeTimedOut(id) => {
                ("The sandbox is paused and was not resumed in time".to_owned(), Some(id), None)
            }
            Self::PortClosed(id, port) => {
                ("The sandbox is running but port is not open".to_owned(), Some(id), Some(*port))
            }
            Self::TimedOut(id, port) => {
                ("The sandbox is running but did not answer in time".to_owned(), Some(id), Some(*port))
            }
            Self::BrokenAnswer(id, port) => {
                let message =
                    "The sandbox is running but the connection to the port ended without a valid answer";
                (message.to_owned(), Some(id), Some(*port))
            }
            Self::Unreachable(id, port) => {
                ("The sandbox could not be reached".to_owned(), Some(id), Some(*port))
            }
            Self::TokenMissing(id) => (
                format!("This port is private: send its token in the header {TRAFFIC_TOKEN_HEADER}"),
                Some(id),
                None,
            ),
            Self::TokenInvalid(id) => {
                (format!("The token in the header {TRAFFIC_TOKEN_HEADER} is not valid"), Some(id), None)
            }
            Self::InternalRoute => ("The route was not found".to_owned(), None, None),
            Self::Method => ("The method cannot be forwarded to a sandbox".to_owned(), None, None),
        };
        Text { sandbox_id, message, port, code: self.status().as_u16() }
    }

    /// The refusal as an answer. Readable by scripts of any origin, as what the guest daemon itself answers is.
    pub(crate) fn into_response(self) -> Response<Bytes> {
        let body = serde_json::to_vec(&self.text()).unwrap_or_default();
        let mut response = Response::new(Bytes::from(body));
        *response.status_mut() = self.status();
        let retry = matches!(self, Self::NoRoom(_));
        let headers = response.headers_mut();
        if retry {
            headers.insert(header::RETRY_AFTER, RETRY_AFTER);
        }
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
        headers.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, HeaderValue::from_static("*"));
        response
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn body(refusal: Refusal) -> (u16, String) {
        let response = refusal.into_response();
        (response.status().as_u16(), String::from_utf8(response.into_body().to_vec()).unwrap())
    }

    #[test]
    fn the_bodies_are_those_that_clients_compare() {
        let id: SandboxId = "iabc".parse().unwrap();
        let port = GuestPort::new(8080).unwrap();
        assert_eq!(
            body(Refusal::NotFound(id.clone())),
            (502, r#"{"sandboxId":"iabc","message":"The sandbox was not found","code":502}"#.to_owned())
        );
        assert_eq!(
            body(Refusal::PortClosed(id, port)),
            (
                502,
                r#"{"sandboxId":"iabc","message":"The sandbox is running but port is not open","port":8080,"code":502}"#
                    .to_owned()
            )
        );
        assert_eq!(
            body(Refusal::MissingHeader("E2b-Sandbox-Port")),
            (400, r#"{"message":"Missing header: E2b-Sandbox-Port","code":400}"#.to_owned())
        );
    }
}
