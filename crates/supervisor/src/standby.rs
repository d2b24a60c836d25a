//! Standing by: the VMM runs and waits, and so does its supervisor, until a node says which sandbox they become.
//!
//! | request | answer |
//! |---|---|
//! | `GET /v1/standby` | 204 when the VMM is up |
//! | `POST /v1/assign` | [`Assignment`] in; 204 when nobody listens here any more and the sandbox's own routes take over |

use std::path::PathBuf;
use std::time::Duration;

use control::{Assignment, Launch, Standby};
use http::{Method, Request, Response, StatusCode};
use hyper::body::Incoming;
use tokio::net::UnixListener;
use tokio::sync::{mpsc, oneshot};
use vmm::Driver;

use crate::http1::{Body, read_body, serve, text};
use crate::machine::{self, Standing};

/// The node asks, and nobody else.
const MAX_CONNECTIONS: usize = 4;
/// A launch file is not longer: see crate `control`.
const MAX_BODY_BYTES: usize = 8 << 20;
const BODY_TIMEOUT: Duration = Duration::from_secs(5);

/// An assignment, and who is told that it was taken.
type Taken = (Assignment, oneshot::Sender<()>);

/// A machine that has become a sandbox's.
pub(crate) struct Assigned {
    pub(crate) launch: Launch,
    pub(crate) dir: PathBuf,
    pub(crate) standing: Standing,
}

/// Starts the VMM and waits until it is assigned.
pub(crate) async fn wait(
    driver: &dyn Driver,
    standby: Standby,
    preload: &[u8],
    control: &UnixListener,
) -> Result<Assigned, String> {
    let standing = machine::stand_by(driver, &standby, preload).await?;
    let (sender, mut assignments) = mpsc::channel::<Taken>(1);
    let accept = async || Ok(control.accept().await?.0);
    let serving =
        serve(MAX_CONNECTIONS, accept, move |request| answer(request, standby.clone(), sender.clone()));
    let (Assignment { launch, dir }, taken) = tokio::select! {
        () = serving => return Err("its control socket is gone".into()),
        assignment = assignments.recv() => assignment.ok_or("its control socket is gone")?,
        exit = standing.vm.wait() => return Err(exit.to_string()),
    };
    // Whoever connects from now on finds the sandbox.
    let _ = taken.send(());
    Ok(Assigned { launch, dir, standing })
}

async fn answer(
    request: Request<Incoming>,
    standby: Standby,
    assigned: mpsc::Sender<Taken>,
) -> Response<Body> {
    let (head, body) = request.into_parts();
    let body = match read_body(body, MAX_BODY_BYTES, BODY_TIMEOUT).await {
        Ok(body) => body,
        Err(refusal) => return refusal,
    };
    match (head.method, head.uri.path()) {
        (Method::GET, "/v1/standby") => text(StatusCode::NO_CONTENT, ""),
        (Method::POST, "/v1/assign") => match serde_json::from_slice::<Assignment>(&body) {
            Ok(assignment) if assignment.launch.machine() == standby => {
                let (sender, taken) = oneshot::channel();
                let sent = assigned.send((assignment, sender)).await;
                match (sent, taken.await) {
                    (Ok(()), Ok(())) => text(StatusCode::NO_CONTENT, ""),
                    _ => text(StatusCode::CONFLICT, "it was assigned before"),
                }
            }
            Ok(_) => text(StatusCode::CONFLICT, "it is another machine"),
            Err(error) => text(StatusCode::BAD_REQUEST, format!("reading the assignment: {error}")),
        },
        (_, path) => text(StatusCode::NOT_FOUND, format!("no such route while it stands by: {path}")),
    }
}
