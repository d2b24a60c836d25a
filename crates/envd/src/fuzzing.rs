//! What fuzz targets reach (`fuzz/`): the parsers of what clients and the host send, without anything that a request
//! could do.

use std::net::{IpAddr, Ipv4Addr};

use axum::Router;
use axum::body::Body;
use bytes::Bytes;
use futures_util::stream;
use http::{Request, StatusCode};
use http_body_util::BodyExt as _;
use tokio::runtime::Runtime;
use tower::ServiceExt as _;

use crate::args::Options;
use crate::server::{Peer, routes};
use crate::state::Envd;

pub use crate::files::fuzzing::{NamedFile, accepted_encoding, form_files, unpacked};
pub use crate::init::fuzzing::init_body;

/// A user that nobody is. Requests for it are read, and refused before they do anything.
const NOBODY: &str = "no such user";

/// What a request is to: paths whose requests have a body that is parsed. None of them can name another user.
pub const PATHS: [&str; 17] = [
    "/process.Process/List",
    "/process.Process/Start",
    "/process.Process/Connect",
    "/process.Process/Update",
    "/process.Process/StreamInput",
    "/process.Process/SendInput",
    "/process.Process/SendSignal",
    "/process.Process/CloseStdin",
    "/filesystem.Filesystem/Stat",
    "/filesystem.Filesystem/MakeDir",
    "/filesystem.Filesystem/Move",
    "/filesystem.Filesystem/ListDir",
    "/filesystem.Filesystem/Remove",
    "/filesystem.Filesystem/WatchDir",
    "/filesystem.Filesystem/CreateWatcher",
    "/filesystem.Filesystem/GetWatcherEvents",
    "/filesystem.Filesystem/RemoveWatcher",
];

/// What its body is.
pub const CONTENT_TYPES: [&str; 6] = [
    "application/json",
    "application/proto",
    "application/connect+json",
    "application/connect+proto",
    "application/json; charset=utf-8",
    "text/plain",
];

/// A daemon that answers requests and does nothing.
#[derive(Debug)]
pub struct Daemon {
    runtime: Runtime,
    routes: Router,
}

impl Daemon {
    /// Starts it.
    ///
    /// # Errors
    /// When there is no runtime to be had.
    pub fn new() -> std::io::Result<Self> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let routes = {
            let _entered = runtime.enter();
            let envd = Envd::new(Options { cgroups: false, ..Options::default() });
            NOBODY.clone_into(&mut envd.settings_mut().default_user);
            routes::all(&envd)
        };
        Ok(Self { runtime, routes })
    }

    /// Sends a request, its body in pieces, and returns the whole answer. None for a request that cannot be sent.
    #[must_use]
    pub fn ask(
        &self,
        path: &str,
        headers: &[(&str, &[u8])],
        pieces: Vec<Vec<u8>>,
    ) -> Option<(StatusCode, Bytes)> {
        let mut request =
            Request::builder().method("POST").uri(path).extension(Peer(IpAddr::V4(Ipv4Addr::LOCALHOST)));
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let pieces = pieces.into_iter().map(|piece| Ok::<_, std::io::Error>(Bytes::from(piece)));
        let request = request.body(Body::from_stream(stream::iter(pieces))).ok()?;
        self.runtime.block_on(async {
            let response = match self.routes.clone().oneshot(request).await {
                Ok(response) => response,
                Err(infallible) => match infallible {},
            };
            let status = response.status();
            Some((status, response.into_body().collect().await.ok()?.to_bytes()))
        })
    }
}
