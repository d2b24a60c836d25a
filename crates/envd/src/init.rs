//! `POST /init`: the host tells the daemon who it works for. It comes once after every boot and every resume.
//!
//! | token held | token in the request | |
//! |---|---|---|
//! | none | none or any | accepted: whoever comes first |
//! | some | the same | accepted |
//! | some | none or another, from the host, with a `lifecycleID` other than the one held | accepted |
//! | some | none or another, otherwise | 401 |
//!
//! The third row is a sandbox that was made from a snapshot of another one, whose token nobody knows any more: it gets
//! its own. The host is known by its address, which no process in the machine can have without being root, and it does
//! not let others reach this route.
//!
//! With a metadata service (`-mmds`; ours have none), that one decides instead of the third row. It knows the hash of a
//! token, that of no token, or nothing:
//!
//! | token in the request | what the service knows | |
//! |---|---|---|
//! | the one held | | accepted, without asking |
//! | none or another | its hash | accepted |
//! | none or another | another hash | 401 |
//! | none or another | nothing, or it does not answer | accepted if none is held, else 401 |
//!
//! A `lifecycleID` other than the one held says that the machine was booted or resumed since: its clock stands, and all
//! copies of it have one name and draw the same random numbers. That is put right before anything else; a machine whose
//! random numbers cannot be made its own is not initialised. What a snapshot has stopped goes on, and who was connected
//! before it is taken for gone.
//!
//! Processes that `/freeze` has stopped go on with the first request that is accepted, even one that was overtaken and
//! changes nothing else. One that is refused leaves them as they are.
//!
//! Files of the root disk (names, certificates) are written by threads of their own, and volumes are mounted by such: a
//! disk or a server that hangs makes them late and nothing else. Only certificates are waited for, for a few seconds,
//! because programs reach nothing without them.
//!
//! Requests are handled one after the other, on a task of their own: the host gives up on an attempt quickly and asks
//! again, and the first attempt must have its effect nevertheless. One that cannot have its turn in time hears 503.
//! Refusals are plain text.

mod apply;
mod authority;
mod body;
mod clock;
mod follow;
pub(crate) mod fuzzing;
mod hyperloop;
mod machine;
mod metadata;
mod mount;
mod nfs;
mod pem;
mod run_files;
mod trust;
mod volumes;

use std::sync::Arc;
use std::time::Instant;

use axum::Router;
use axum::body::Bytes;
use axum::extract::{FromRequest as _, Request, State};
use axum::response::{IntoResponse, Response};
use axum::routing::post;
use http::{HeaderValue, StatusCode, header};

use crate::server::Peer;
use crate::state::Envd;

pub(crate) use self::follow::Follower;
pub(crate) use self::machine::Machine;
pub(crate) use self::mount::Volumes;

const VERSION_HEADER: &str = "x-envd-version";

/// Why a request is refused, for people.
type Refusal = (StatusCode, String);

/// The route.
pub(crate) fn router(state: Arc<Envd>) -> Router {
    Router::new().route("/init", post(init)).with_state(state)
}

async fn init(State(envd): State<Arc<Envd>>, request: Request) -> Response {
    let received = Instant::now();
    let from_host = request.extensions().get::<Peer>().is_some_and(|peer| envd.options().is_host(peer.0));
    let mut response = match Bytes::from_request(request, &()).await {
        Ok(body) => {
            let task = tokio::spawn(async move { apply::apply(&envd, &body, from_host, received).await });
            match task.await {
                Ok(Ok(())) => StatusCode::NO_CONTENT.into_response(),
                Ok(Err(refusal)) => refusal.into_response(),
                Err(_) => failed("the daemon failed to initialise".to_owned()).into_response(),
            }
        }
        Err(rejection) => rejection.into_response(),
    };
    let headers = response.headers_mut();
    headers.insert(VERSION_HEADER, HeaderValue::from_static(model::ENVD_VERSION));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

fn failed(message: String) -> Refusal {
    (StatusCode::INTERNAL_SERVER_ERROR, message)
}
