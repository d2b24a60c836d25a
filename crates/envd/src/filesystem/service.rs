//! The methods of the service.
//!
//! A method that changes something does all of it in one piece of blocking work, which is done to the end whatever
//! happens to the client.

use std::path::PathBuf;
use std::sync::Arc;

use connectrpc::{
    ConnectError, Encodable, RequestContext, Response, ServiceRequest, ServiceResult, ServiceStream,
};
use envd_proto::filesystem::{
    CreateWatcherRequest, CreateWatcherResponse, EntryInfo, Filesystem, FilesystemEvent,
    GetWatcherEventsRequest, GetWatcherEventsResponse, ListDirRequest, ListDirResponse, MakeDirRequest,
    MakeDirResponse, MoveRequest, MoveResponse, RemoveRequest, RemoveResponse, RemoveWatcherRequest,
    RemoveWatcherResponse, StatRequest, StatResponse, WatchDirRequest, WatchDirResponse,
};

use super::blocking::blocking;
use super::entry::Entry;
use super::names::Names;
use super::owner::Owner;
use super::watch::{WatchOptions, Watcher, Watchers, stream};
use super::{change, legacy, list};
use crate::state::Envd;
use crate::user::{User, request_user, resolve_path};

/// Implements the service.
#[derive(Debug)]
pub(super) struct Service {
    envd: Arc<Envd>,
    watchers: Watchers,
}

/// Whom a request acts for, and where its paths lead.
struct Caller {
    user: Arc<User>,
    workdir: Option<String>,
}

impl Caller {
    fn path(&self, path: &str) -> Result<PathBuf, ConnectError> {
        resolve_path(path, &self.user, self.workdir.as_deref())
            .map_err(|error| ConnectError::invalid_argument(error.to_string()))
    }

    fn owner(&self) -> Owner {
        Owner::from(&*self.user)
    }
}

impl Service {
    pub(super) fn new(envd: Arc<Envd>) -> Self {
        Self { envd, watchers: Watchers::default() }
    }

    async fn caller(&self, ctx: &RequestContext) -> Result<Caller, ConnectError> {
        let user = request_user(&self.envd, ctx.extensions()).await?;
        Ok(Caller { user, workdir: self.envd.default_workdir() })
    }
}

/// An entry as the client knows them.
fn info(ctx: &RequestContext, entry: Entry) -> EntryInfo {
    let info = EntryInfo::from(entry);
    if legacy::is_legacy(ctx.headers()) { legacy::reduce(info) } else { info }
}

impl Filesystem for Service {
    async fn stat<'a>(
        &'a self,
        ctx: RequestContext,
        request: ServiceRequest<'_, StatRequest>,
    ) -> ServiceResult<impl Encodable<StatResponse> + Send + use<'a>> {
        let path = self.caller(&ctx).await?.path(request.path)?;
        let entry = blocking(move || change::stat(&path)).await?;
        Response::ok(StatResponse { entry: info(&ctx, entry).into() })
    }

    async fn make_dir<'a>(
        &'a self,
        ctx: RequestContext,
        request: ServiceRequest<'_, MakeDirRequest>,
    ) -> ServiceResult<impl Encodable<MakeDirResponse> + Send + use<'a>> {
        let caller = self.caller(&ctx).await?;
        let (path, owner) = (caller.path(request.path)?, caller.owner());
        let entry = blocking(move || change::make_dir(&path, owner)).await?;
        Response::ok(MakeDirResponse { entry: info(&ctx, entry).into() })
    }

    async fn r#move<'a>(
        &'a self,
        ctx: RequestContext,
        request: ServiceRequest<'_, MoveRequest>,
    ) -> ServiceResult<impl Encodable<MoveResponse> + Send + use<'a>> {
        let caller = self.caller(&ctx).await?;
        let (source, destination) = (caller.path(request.source)?, caller.path(request.destination)?);
        let owner = caller.owner();
        let entry = blocking(move || change::rename(&source, &destination, owner)).await?;
        Response::ok(MoveResponse { entry: info(&ctx, entry).into() })
    }

    async fn list_dir<'a>(
        &'a self,
        ctx: RequestContext,
        request: ServiceRequest<'_, ListDirRequest>,
    ) -> ServiceResult<impl Encodable<ListDirResponse> + Send + use<'a>> {
        let (path, depth) = (self.caller(&ctx).await?.path(request.path)?, request.depth);
        let is_legacy = legacy::is_legacy(ctx.headers());
        let entries = blocking(move || -> Result<Vec<EntryInfo>, super::error::FsError> {
            let entries = list::list(&path, depth, &Names::load())?.into_iter().map(EntryInfo::from);
            Ok(if is_legacy { entries.map(legacy::reduce).collect() } else { entries.collect() })
        })
        .await?;
        Response::ok(ListDirResponse { entries })
    }

    async fn remove<'a>(
        &'a self,
        ctx: RequestContext,
        request: ServiceRequest<'_, RemoveRequest>,
    ) -> ServiceResult<impl Encodable<RemoveResponse> + Send + use<'a>> {
        let path = self.caller(&ctx).await?.path(request.path)?;
        blocking(move || change::remove(&path)).await?;
        Response::ok(RemoveResponse::default())
    }

    async fn watch_dir(
        &self,
        ctx: RequestContext,
        request: ServiceRequest<'_, WatchDirRequest>,
    ) -> ServiceResult<ServiceStream<impl Encodable<WatchDirResponse> + Send + use<>>> {
        let path = self.caller(&ctx).await?.path(request.path)?;
        let options = WatchOptions {
            recursive: request.recursive,
            include_entry: request.include_entry,
            allow_network_mounts: request.allow_network_mounts,
        };
        let watcher = Watcher::new(path, options).await?;
        Response::stream_ok(stream(watcher, ctx.headers()))
    }

    async fn create_watcher<'a>(
        &'a self,
        ctx: RequestContext,
        request: ServiceRequest<'_, CreateWatcherRequest>,
    ) -> ServiceResult<impl Encodable<CreateWatcherResponse> + Send + use<'a>> {
        let path = self.caller(&ctx).await?.path(request.path)?;
        let options = WatchOptions {
            recursive: request.recursive,
            include_entry: request.include_entry,
            allow_network_mounts: request.allow_network_mounts,
        };
        let watcher_id = self.watchers.add(Watcher::new(path, options).await?)?;
        Response::ok(CreateWatcherResponse { watcher_id })
    }

    async fn get_watcher_events<'a>(
        &'a self,
        _ctx: RequestContext,
        request: ServiceRequest<'_, GetWatcherEventsRequest>,
    ) -> ServiceResult<impl Encodable<GetWatcherEventsResponse> + Send + use<'a>> {
        let events = self.watchers.take(request.watcher_id).await?;
        let events = events.into_iter().map(FilesystemEvent::from).collect();
        Response::ok(GetWatcherEventsResponse { events })
    }

    async fn remove_watcher<'a>(
        &'a self,
        _ctx: RequestContext,
        request: ServiceRequest<'_, RemoveWatcherRequest>,
    ) -> ServiceResult<impl Encodable<RemoveWatcherResponse> + Send + use<'a>> {
        self.watchers.remove(request.watcher_id)?;
        Response::ok(RemoveWatcherResponse::default())
    }
}
