//! `GET /sandboxes`, `GET /v2/sandboxes`.

use std::collections::BTreeSet;

use axum::Json;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use catalog::{LookupError, TemplateName};
use http::{HeaderMap, HeaderName, HeaderValue};
use jiff::Timestamp;
use jiff::civil::DateTime;
use jiff::tz::TimeZone;
use model::{SandboxRecord, SandboxState, TeamId, TemplateId};

use super::cursor::{Cursor, Order};
use super::metadata_filter::MetadataFilter;
use crate::ApiState;
use crate::auth::Caller;
use crate::cursor_text::NEXT_TOKEN;
use crate::error::{ApiError, shown};
use crate::params::Params;
use crate::wire::ListedSandbox;

/// Sandboxes on one page, at most and by default.
const PAGE: usize = 100;
const TOTAL_RUNNING: HeaderName = HeaderName::from_static("x-total-running");

/// Every running sandbox, newest first, in one answer.
pub(crate) async fn list_v1(
    Caller(team): Caller,
    State(state): State<ApiState>,
    params: Params,
) -> Result<Response, ApiError> {
    let metadata = read_metadata(&params)?;
    let mut records = state.fleet().list(&team.id);
    records.retain(|record| record.state == SandboxState::Running && metadata.matches(&record.spec.metadata));
    sort(&mut records, Order::Desc);
    Ok(page(&records))
}

/// Sandboxes that fit a filter, running ones and paused ones, page by page.
pub(crate) async fn list_v2(
    Caller(team): Caller,
    State(state): State<ApiState>,
    params: Params,
) -> Result<Response, ApiError> {
    let order = match params.get("order") {
        None | Some("desc") => Order::Desc,
        Some("asc") => Order::Asc,
        Some(other) => {
            return Err(ApiError::bad_request(format!("order must be asc or desc, not '{}'", shown(other))));
        }
    };
    let limit = params.number("limit", 1..=PAGE)?.unwrap_or(PAGE);
    let cursor = params.get("nextToken").map(|text| Cursor::decode(text, order)).transpose()?;
    let metadata = read_metadata(&params)?;
    let started_after = params.get("startedAfter").map(read_time).transpose()?;
    let template = match params.get("template") {
        Some(text) => Some(TemplateFilter::read(&state, &team.id, text).await?),
        None => None,
    };
    let states = read_states(&params)?;

    let mut records = state.fleet().list(&team.id);
    records.retain(|record| {
        states.contains(&record.state)
            && metadata.matches(&record.spec.metadata)
            && started_after.is_none_or(|time| record.spec.started_at >= time)
            && template.as_ref().is_none_or(|template| template.matches(record))
    });
    let running = records.iter().filter(|record| record.state == SandboxState::Running).count();
    sort(&mut records, order);
    if let Some(cursor) = cursor {
        records.retain(|record| cursor.precedes(record));
    }
    let more = records.len() > limit;
    records.truncate(limit);

    let mut headers = HeaderMap::new();
    if states.contains(&SandboxState::Running) {
        headers.insert(TOTAL_RUNNING, HeaderValue::from(running));
    }
    if let Some(last) = records.last().filter(|_| more) {
        let token = Cursor::after(last, order).encode();
        let token = HeaderValue::try_from(token).map_err(|error| ApiError::internal(&error))?;
        headers.insert(NEXT_TOKEN, token);
    }
    Ok((headers, page(&records)).into_response())
}

fn page(records: &[SandboxRecord]) -> Response {
    let listed: Vec<_> = records.iter().map(ListedSandbox::new).collect();
    Json(listed).into_response()
}

fn sort(records: &mut [SandboxRecord], order: Order) {
    records.sort_unstable_by(|a, b| {
        order.compare((a.spec.started_at, &a.spec.id), (b.spec.started_at, &b.spec.id))
    });
}

fn read_metadata(params: &Params) -> Result<MetadataFilter, ApiError> {
    Ok(params.get("metadata").map(MetadataFilter::read).transpose()?.unwrap_or_default())
}

/// The states that are asked for; none named means all.
fn read_states(params: &Params) -> Result<BTreeSet<SandboxState>, ApiError> {
    const ALL: [SandboxState; 2] = [SandboxState::Running, SandboxState::Paused];
    let read = |text: &str| {
        let state = ALL.into_iter().find(|state| state.as_str() == text);
        state.ok_or_else(|| {
            ApiError::bad_request(format!("state must be running or paused, not '{}'", shown(text)))
        })
    };
    let asked = params.list("state").map(read).collect::<Result<BTreeSet<_>, _>>()?;
    Ok(if asked.is_empty() { ALL.into() } else { asked })
}

/// RFC 3339; without an offset it is taken for UTC. A `+` that a hasty client did not encode arrives as a space.
fn read_time(text: &str) -> Result<Timestamp, ApiError> {
    let repaired = text.replace(' ', "+");
    let zoned = repaired.parse::<Timestamp>().ok();
    let time =
        zoned.or_else(|| Some(text.parse::<DateTime>().ok()?.to_zoned(TimeZone::UTC).ok()?.timestamp()));
    time.ok_or_else(|| {
        let text = shown(text);
        ApiError::bad_request(format!("startedAfter must be a time like 2026-01-31T12:00:00Z, not '{text}'"))
    })
}

/// A template by any of its names.
struct TemplateFilter {
    id: Option<TemplateId>,
    name: String,
}

impl TemplateFilter {
    async fn read(state: &ApiState, team: &TeamId, text: &str) -> Result<Self, ApiError> {
        let name = TemplateName::parse(text)?.name;
        let id = match state.catalog().template_by_name(team, text).await {
            Ok(template) => Some(template.id),
            Err(error @ LookupError::Storage(_)) => return Err(error.into()),
            // It may be gone while its sandboxes still run.
            Err(_) => None,
        };
        Ok(Self { id, name })
    }

    fn matches(&self, record: &SandboxRecord) -> bool {
        let spec = &record.spec;
        self.id.as_ref() == Some(&spec.template)
            || spec.template.as_str() == self.name
            || spec.alias.as_deref() == Some(&self.name)
    }
}
