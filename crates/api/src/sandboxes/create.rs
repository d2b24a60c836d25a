//! `POST /sandboxes`, `POST /v2/sandboxes`.

use std::time::Duration;

use axum::extract::{Request, State};
use axum::response::Response;
use catalog::{Team, TemplateName};
use http::HeaderMap;
use model::CreateSandbox;

use super::connect::started;
use super::request::{NewSandbox, Rules};
use super::start::{new_token, start, start_permit};
use crate::ApiState;
use crate::auth::Caller;
use crate::body::{CREATE_BODY, read_json};
use crate::error::ApiError;

const IDEMPOTENCY_HEADER: &str = "idempotency-key";
const IDEMPOTENCY_KEY_CHARS: usize = 255;

/// What the first clients send: a token only when they say `secure`.
pub(crate) async fn create_v1(
    Caller(team): Caller,
    State(state): State<ApiState>,
    request: Request,
) -> Result<Response, ApiError> {
    let default_timeout = state.config().default_timeout_v1;
    create(&state, &team, request, default_timeout, false, None).await
}

/// Always with a token; a repeated `Idempotency-Key` gives the sandbox that the first request made.
pub(crate) async fn create_v2(
    Caller(team): Caller,
    State(state): State<ApiState>,
    request: Request,
) -> Result<Response, ApiError> {
    let default_timeout = state.config().default_timeout_v2;
    let key = idempotency_key(request.headers())?;
    create(&state, &team, request, default_timeout, true, key).await
}

async fn create(
    state: &ApiState,
    team: &Team,
    request: Request,
    default_timeout: Duration,
    always_secure: bool,
    idempotency_key: Option<String>,
) -> Result<Response, ApiError> {
    let permit = start_permit(state)?;
    let body: NewSandbox = read_json(request, CREATE_BODY, state.config().body_deadline).await?;
    let rules = Rules { default_timeout, max_timeout: state.max_life(team), always_secure };
    let checked = body.check(&rules)?;
    let template = state.catalog().template_by_name(&team.id, &checked.template).await?;
    let asked = TemplateName::parse(&checked.template)?.name;
    let wanted = CreateSandbox {
        team: team.id.clone(),
        alias: template.aliases.contains(&asked).then_some(asked),
        template: template.id,
        build: template.build,
        shape: template.shape,
        metadata: checked.metadata,
        env: checked.env,
        envd_token: checked.secure.then(new_token),
        traffic_token: (!checked.network.allow_public_traffic).then(new_token),
        network: checked.network,
        on_timeout: checked.on_timeout,
        auto_pause_memory: checked.auto_pause_memory,
        auto_resume: checked.auto_resume,
        auto_resume_reboots: checked.auto_resume_reboots,
        timeout: checked.timeout,
        idempotency_key,
    };
    let record = start(state, team, wanted, permit).await?;
    Ok(started(&record, state.config().domain.as_deref()))
}

fn idempotency_key(headers: &HeaderMap) -> Result<Option<String>, ApiError> {
    let Some(value) = headers.get(IDEMPOTENCY_HEADER) else { return Ok(None) };
    let text = value.to_str().unwrap_or_default();
    let ok = (1..=IDEMPOTENCY_KEY_CHARS).contains(&text.len())
        && text.bytes().all(|b| matches!(b, b'a'..=b'z' | b'0'..=b'9' | b'-'));
    if ok {
        return Ok(Some(text.to_owned()));
    }
    Err(ApiError::bad_request(format!(
        "Idempotency-Key must have 1 to {IDEMPOTENCY_KEY_CHARS} characters of a-z, 0-9 and '-'"
    )))
}
