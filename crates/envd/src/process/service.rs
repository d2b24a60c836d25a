//! The methods of the service.

use std::sync::Arc;

use connectrpc::{
    ConnectError, Encodable, InboundStream, RequestContext, Response, ServiceRequest, ServiceResult,
    ServiceStream,
};
use envd_proto::process::__buffa::oneof::stream_input_request::Event as InputEvent;
use envd_proto::process::process_input::Input as Piece;
use envd_proto::process::{
    CloseStdinRequest, CloseStdinResponse, ConnectRequest, ConnectResponse, ListRequest, ListResponse,
    Process, ProcessInput, SendInputRequest, SendInputResponse, SendSignalRequest, SendSignalResponse,
    Signal, StartRequest, StartResponse, StreamInputRequest, StreamInputResponse, UpdateRequest,
    UpdateResponse,
};
use futures_util::StreamExt as _;

use super::event::Event;
use super::hub::Hub;
use super::registry::{Found, Registry};
use super::running;
use super::selector::Selector;
use super::stream::EventStream;
use super::{launch, supervise};
use crate::state::Envd;
use crate::user::request_user;

/// The service.
pub(super) struct Service {
    envd: Arc<Envd>,
    registry: Arc<Registry>,
}

impl Service {
    pub(super) fn new(envd: Arc<Envd>) -> Self {
        Self { envd, registry: Arc::default() }
    }

    fn live(&self, selector: &Selector) -> Result<Arc<running::Process>, ConnectError> {
        self.registry.find_live(selector).ok_or_else(|| selector.not_found())
    }
}

impl Process for Service {
    async fn list<'a>(
        &'a self,
        _context: RequestContext,
        _request: ServiceRequest<'_, ListRequest>,
    ) -> ServiceResult<impl Encodable<ListResponse> + Send + use<'a>> {
        let processes = self.registry.live().iter().map(|process| process.info()).collect();
        Response::ok(ListResponse { processes })
    }

    async fn start(
        &self,
        context: RequestContext,
        request: ServiceRequest<'_, StartRequest>,
    ) -> ServiceResult<ServiceStream<impl Encodable<StartResponse> + Send + use<>>> {
        let request = request.to_owned_message();
        let user = request_user(&self.envd, context.extensions()).await?;
        let envd = Arc::clone(&self.envd);
        let registry = Arc::clone(&self.registry);
        let deadline = context.deadline();
        // A client that goes away now has started the process nevertheless.
        let started = tokio::spawn(async move {
            let hub = Arc::<Hub>::default();
            // Before the process exists, so that not a byte is lost.
            let subscription = hub.subscribe();
            let launched = launch::launch(&envd, user, request, hub).await?;
            let pid = launched.process.pid();
            registry.insert(Arc::clone(&launched.process));
            let log = Arc::clone(envd.log());
            tokio::spawn(async move {
                supervise::supervise(launched.process, launched.outputs, deadline, registry, &log).await;
            });
            Ok::<_, ConnectError>((pid, subscription))
        });
        let (pid, subscription) = joined(started).await?;
        let stream = EventStream::new(pid, subscription, context.headers(), deadline);
        Response::ok(Box::pin(stream) as ServiceStream<Event>)
    }

    async fn connect(
        &self,
        context: RequestContext,
        request: ServiceRequest<'_, ConnectRequest>,
    ) -> ServiceResult<ServiceStream<impl Encodable<ConnectResponse> + Send + use<>>> {
        let selector = Selector::new(request.to_owned_message().process)?;
        let (pid, subscription) = match self.registry.find(&selector) {
            Some(Found::Live(process)) => (process.pid(), process.hub().subscribe()),
            Some(Found::Ended { pid, exit }) => {
                let hub = Hub::default();
                hub.finish(exit);
                (pid, hub.subscribe())
            }
            None => return Err(selector.not_found()),
        };
        // The deadline is that of following, and not that of the process.
        let stream = EventStream::new(pid, subscription, context.headers(), None);
        Response::ok(Box::pin(stream) as ServiceStream<Event>)
    }

    async fn update<'a>(
        &'a self,
        _context: RequestContext,
        request: ServiceRequest<'_, UpdateRequest>,
    ) -> ServiceResult<impl Encodable<UpdateResponse> + Send + use<'a>> {
        let request = request.to_owned_message();
        let process = self.live(&Selector::new(request.process)?)?;
        if let Some(pty) = request.pty.as_option() {
            process.resize(pty)?;
        }
        Response::ok(UpdateResponse {})
    }

    async fn stream_input<'a>(
        &'a self,
        _context: RequestContext,
        mut requests: InboundStream<StreamInputRequest>,
    ) -> ServiceResult<impl Encodable<StreamInputResponse> + Send + use<'a>> {
        let mut process: Option<Arc<running::Process>> = None;
        while let Some(request) = requests.next().await {
            let request = request?.to_owned_message();
            match request.event {
                Some(InputEvent::Start(start)) => {
                    process = Some(self.live(&Selector::new(start.process)?)?);
                }
                Some(InputEvent::Data(data)) => {
                    let process = process.as_ref().ok_or_else(|| {
                        ConnectError::invalid_argument("the first message has to select a process")
                    })?;
                    write(process, data.input.into_option()).await?;
                }
                Some(InputEvent::Keepalive(_)) => {}
                None => return Err(ConnectError::unimplemented("invalid event type")),
            }
        }
        Response::ok(StreamInputResponse {})
    }

    async fn send_input<'a>(
        &'a self,
        _context: RequestContext,
        request: ServiceRequest<'_, SendInputRequest>,
    ) -> ServiceResult<impl Encodable<SendInputResponse> + Send + use<'a>> {
        let request = request.to_owned_message();
        let process = self.live(&Selector::new(request.process)?)?;
        write(&process, request.input.into_option()).await?;
        Response::ok(SendInputResponse {})
    }

    async fn send_signal<'a>(
        &'a self,
        _context: RequestContext,
        request: ServiceRequest<'_, SendSignalRequest>,
    ) -> ServiceResult<impl Encodable<SendSignalResponse> + Send + use<'a>> {
        let request = request.to_owned_message();
        let process = self.live(&Selector::new(request.process)?)?;
        process.signal(match request.signal.as_known() {
            Some(Signal::SIGNAL_SIGTERM) => rustix::process::Signal::TERM,
            Some(Signal::SIGNAL_SIGKILL) => rustix::process::Signal::KILL,
            Some(Signal::SIGNAL_UNSPECIFIED) | None => {
                return Err(ConnectError::unimplemented(
                    "invalid signal: only SIGTERM and SIGKILL can be sent",
                ));
            }
        })?;
        Response::ok(SendSignalResponse {})
    }

    async fn close_stdin<'a>(
        &'a self,
        _context: RequestContext,
        request: ServiceRequest<'_, CloseStdinRequest>,
    ) -> ServiceResult<impl Encodable<CloseStdinResponse> + Send + use<'a>> {
        let input = self.live(&Selector::new(request.to_owned_message().process)?)?.input();
        joined(tokio::spawn(async move { input.close().await })).await?;
        Response::ok(CloseStdinResponse {})
    }
}

/// Writes one piece of input, all of it even when the client goes away meanwhile.
async fn write(process: &running::Process, input: Option<ProcessInput>) -> Result<(), ConnectError> {
    let piece: Piece = input
        .and_then(|input| input.input)
        .ok_or_else(|| ConnectError::unimplemented("invalid input type: neither stdin nor pty"))?;
    let input = process.input();
    joined(tokio::spawn(async move { input.write(piece).await })).await
}

/// The result of a task of ours. One that panicked has said so on standard error.
async fn joined<T>(task: tokio::task::JoinHandle<Result<T, ConnectError>>) -> Result<T, ConnectError> {
    task.await.unwrap_or_else(|_| Err(ConnectError::internal("the daemon failed to handle the request")))
}
