//! The edge itself: what requests, connections and tunnels have in common.

use std::sync::Arc;

use http::{Request, Response, request};
use model::SandboxId;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use upload::Upload;

use crate::answer::EdgeBody;
use crate::client::Client;
use crate::config::EdgeConfig;
use crate::forward::forward;
use crate::guest::Guests;
use crate::route::{Route, route};
use crate::sandboxes::Sandboxes;
use crate::signed_url::SignedUrl;
use crate::tunnel;

/// The way from clients into sandboxes. Clones are the same edge.
#[derive(Clone)]
pub struct Edge(Arc<Shared>);

struct Shared {
    sandboxes: Arc<dyn Sandboxes>,
    config: EdgeConfig,
    guests: Guests,
    /// One search for the owner of a signed URL at a time: strangers can ask for it, so it gets one core at most.
    search: Semaphore,
    tunnels: TaskTracker,
    /// Ends the tunnels.
    stop: CancellationToken,
}

impl Edge {
    /// An edge into `sandboxes`.
    #[must_use]
    pub fn new(sandboxes: Arc<dyn Sandboxes>, config: EdgeConfig) -> Self {
        Self(Arc::new(Shared {
            sandboxes,
            config,
            guests: Guests::default(),
            search: Semaphore::new(1),
            tunnels: TaskTracker::new(),
            stop: CancellationToken::new(),
        }))
    }

    /// Whether a request names a sandbox, by headers or host, existing or not. Signed file URLs name none.
    #[must_use]
    pub fn claims(&self, head: &request::Parts) -> bool {
        !matches!(route(&head.headers, &head.uri, self.domain()), Route::Api)
    }

    /// Closes every connection into a sandbox, also those in the middle of a request or tunnel. To be called when a
    /// sandbox ended or is paused, after [`Sandboxes::lookup`] stopped knowing it or says that it is asleep; sockets left
    /// open would keep its network namespace alive. What is forgotten to be reported here is noticed by
    /// [`Sandboxes::lookup`] within [`Timeouts::pooled_idle`](crate::Timeouts::pooled_idle).
    pub fn forget(&self, id: &SandboxId) {
        self.0.guests.end(id);
    }

    pub(crate) fn config(&self) -> &EdgeConfig {
        &self.0.config
    }

    fn domain(&self) -> Option<&str> {
        self.0.config.domain.as_deref()
    }

    pub(crate) fn sandboxes(&self) -> &dyn Sandboxes {
        &*self.0.sandboxes
    }

    pub(crate) fn guests(&self) -> &Guests {
        &self.0.guests
    }

    pub(crate) fn spawn_tunnel(&self, sides: tunnel::Sides) {
        let edge = self.clone();
        let stop = self.0.stop.child_token();
        self.0.tunnels.spawn(async move { tunnel::run(sides, stop, &edge.config().timeouts).await });
    }

    /// Waits until all tunnels have ended by themselves; no new one may come.
    pub(crate) async fn drained(&self) {
        self.0.tunnels.close();
        self.0.tunnels.wait().await;
    }

    /// Ends whatever still runs.
    pub(crate) fn end(&self) {
        self.0.stop.cancel();
        self.0.guests.end_all();
    }

    /// Answers a request for a sandbox; gives back one for the API.
    pub(crate) async fn handle(
        &self,
        request: Request<Upload>,
        client: &Arc<Client>,
    ) -> Result<Response<EdgeBody>, Request<Upload>> {
        let (id, port) = match route(request.headers(), request.uri(), self.domain()) {
            Route::Sandbox(id, port) => (id, port),
            Route::Refused(refusal) => {
                tracing::debug!(?refusal, "a request was refused");
                return Ok(refusal.into_response().map(EdgeBody::Text));
            }
            Route::Api => match SignedUrl::parse(request.method(), request.uri()) {
                None => return Err(request),
                Some(signed) => match self.owner(signed).await {
                    None => return Err(request),
                    Some(id) => (id, model::GuestPort::ENVD),
                },
            },
        };
        Ok(forward(self, id, port, request, client).await)
    }

    /// The sandbox whose token made a signature.
    async fn owner(&self, mut signed: SignedUrl) -> Option<SandboxId> {
        let _one_at_a_time = self.0.search.acquire().await.ok()?;
        self.0.sandboxes.find_by_envd_token(&mut |token| signed.made_with(token))
    }
}
