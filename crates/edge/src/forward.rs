//! One request: checked, sent to the guest, answered.

use std::error::Error as _;
use std::sync::Arc;

use bytes::Bytes;
use http::header::{self, HeaderValue};
use http::{Method, Request, Response, StatusCode, Version, request};
use http_body::Body as _;
use hyper::body::Incoming;
use hyper::upgrade::OnUpgrade;
use model::{GuestPort, SandboxId};
use upload::Upload;

use crate::TRAFFIC_TOKEN_HEADER;
use crate::answer::{EdgeBody, GuestBody};
use crate::client::Client;
use crate::edge::Edge;
use crate::link::Wire;
use crate::refusal::Refusal;
use crate::sandboxes::Target;
use crate::{headers, internal_routes, tunnel, wake};

/// Forwards a request to a sandbox, or says why not.
pub(crate) async fn forward(
    edge: &Edge,
    id: SandboxId,
    port: GuestPort,
    request: Request<Upload>,
    client: &Arc<Client>,
) -> Response<EdgeBody> {
    match exchange(edge, &id, port, request, client).await {
        Ok(response) => response,
        Err(refusal) => {
            tracing::debug!(sandbox = %id, %port, ?refusal, "a request was not forwarded");
            refusal.into_response().map(EdgeBody::Text)
        }
    }
}

async fn exchange(
    edge: &Edge,
    id: &SandboxId,
    port: GuestPort,
    request: Request<Upload>,
    client: &Arc<Client>,
) -> Result<Response<EdgeBody>, Refusal> {
    let (mut head, body) = request.into_parts();
    let target = edge.sandboxes().lookup(id).ok_or_else(|| Refusal::NotFound(id.clone()))?;
    admit(id, port, &head, &target)?;
    if target.asleep {
        wake::wake(edge, id).await?;
    }

    let switching = Some(port).filter(|&port| port != GuestPort::ENVD && head.version == Version::HTTP_11);
    let switching = switching.and_then(|_| headers::upgrade(&head.headers));
    let client_side = head.extensions.remove::<OnUpgrade>().filter(|_| switching.is_some());
    headers::to_guest(&mut head, port, &target.policy, client.ip(), switching);
    head.extensions.clear();
    if body.is_end_stream() {
        head.headers.remove(header::TRANSFER_ENCODING);
    } else if body.size_hint().exact().is_none() {
        // Said outright, because a body of unknown length would not be sent with GET otherwise.
        head.headers.insert(header::TRANSFER_ENCODING, HeaderValue::from_static("chunked"));
        head.headers.remove(header::CONTENT_LENGTH);
    }

    let (response, wire) = send(edge, id, port, Request::from_parts(head, body)).await?;
    answer(edge, id, port, response, wire, client_side.map(|side| (side, Arc::clone(client))))
}

/// Whether this request may reach this port.
fn admit(id: &SandboxId, port: GuestPort, head: &request::Parts, target: &Target) -> Result<(), Refusal> {
    if head.method == Method::CONNECT {
        return Err(Refusal::Method);
    }
    if port == GuestPort::ENVD {
        // The daemon checks its own token.
        return if internal_routes::is_internal(head.uri.path()) {
            Err(Refusal::InternalRoute)
        } else {
            Ok(())
        };
    }
    if target.policy.allow_public_traffic {
        return Ok(());
    }
    let given = head.headers.get(TRAFFIC_TOKEN_HEADER).ok_or_else(|| Refusal::TokenMissing(id.clone()))?;
    let valid = match (&target.traffic_token, given.to_str()) {
        (Some(token), Ok(given)) => token.matches(given),
        _ => false,
    };
    if valid { Ok(()) } else { Err(Refusal::TokenInvalid(id.clone())) }
}

/// Sends the request on an idle connection if there is one. The guest may close such a connection at any time: what
/// it cannot have seen, or may see twice, is sent again on a fresh one.
async fn send(
    edge: &Edge,
    id: &SandboxId,
    port: GuestPort,
    mut request: Request<Upload>,
) -> Result<(Response<Incoming>, Arc<Wire>), Refusal> {
    if let Some(link) = edge.guests().of(id).take_idle(port) {
        let copy = repeatable(&request);
        match (link.send(request).await, copy) {
            (Ok(answered), _) => return Ok(answered),
            (Err(mut error), copy) => match (error.take_message(), copy) {
                (Some(unsent), _) => request = unsent,
                (None, Some(copy)) if was_closed(error.error()) => request = copy,
                (None, _) => return Err(broken(error.error(), id, port)),
            },
        }
    }
    let link = wake::connect(edge, id, port).await?;
    link.send(request).await.map_err(|error| broken(error.error(), id, port))
}

/// A copy of a request that changes nothing (RFC 9110, 9.2.1) and has no body.
fn repeatable(request: &Request<Upload>) -> Option<Request<Upload>> {
    if !request.method().is_safe() || !request.body().is_end_stream() {
        return None;
    }
    let mut copy = Request::new(Upload::empty());
    *copy.method_mut() = request.method().clone();
    *copy.uri_mut() = request.uri().clone();
    *copy.headers_mut() = request.headers().clone();
    Some(copy)
}

/// Whether the guest closed the connection instead of answering.
fn was_closed(error: &hyper::Error) -> bool {
    error.is_incomplete_message() || error.source().is_some_and(|source| source.is::<std::io::Error>())
}

fn broken(error: &hyper::Error, id: &SandboxId, port: GuestPort) -> Refusal {
    tracing::debug!(sandbox = %id, %port, %error, "a guest did not answer");
    // On such a connection only the body that the client sends fails with an error of its own.
    if error.is_user() && error.source().is_some_and(|source| source.is::<hyper::Error>()) {
        Refusal::BadBody(id.clone())
    } else {
        Refusal::BrokenAnswer(id.clone(), port)
    }
}

/// Hands the guest's answer on; one that switches protocols becomes a tunnel.
fn answer(
    edge: &Edge,
    id: &SandboxId,
    port: GuestPort,
    mut response: Response<Incoming>,
    wire: Arc<Wire>,
    client_side: Option<(OnUpgrade, Arc<Client>)>,
) -> Result<Response<EdgeBody>, Refusal> {
    if response.status() != StatusCode::SWITCHING_PROTOCOLS {
        let (mut head, body) = response.into_parts();
        headers::to_client(&mut head, None);
        return Ok(Response::from_parts(head, EdgeBody::Guest(GuestBody::new(body, wire))));
    }
    let protocol = response.headers().get(header::UPGRADE).cloned();
    let (Some((client_side, client)), Some(protocol)) = (client_side, protocol) else {
        return Err(Refusal::BrokenAnswer(id.clone(), port));
    };
    let guest_side = hyper::upgrade::on(&mut response);
    edge.spawn_tunnel(tunnel::Sides { client_side, guest_side, client, wire });
    let (mut head, _) = response.into_parts();
    head.headers.remove(header::CONTENT_LENGTH);
    headers::to_client(&mut head, Some(protocol));
    Ok(Response::from_parts(head, EdgeBody::Text(Bytes::new())))
}
