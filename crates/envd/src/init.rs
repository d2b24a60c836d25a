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
//! A `lifecycleID` other than the one held says that the machine was booted or resumed since: its clock stands, and all
//! copies of it have one name and draw the same random numbers. That is put right before anything else; a machine whose
//! random numbers cannot be made its own is not initialised. What a snapshot has stopped goes on, and who was connected
//! before it is taken for gone.
//!
//! Processes that `/freeze` has stopped go on with the first request that is accepted, even one that was overtaken and
//! changes nothing else. One that is refused leaves them as they are.
//!
//! Requests are handled one after the other, on a task of their own: the host gives up on an attempt quickly and asks
//! again, and the first attempt must have its effect nevertheless.

mod body;
mod clock;
mod machine;

use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::Router;
use axum::body::Bytes;
use axum::extract::{FromRequest as _, Request, State};
use axum::response::{IntoResponse, Response};
use axum::routing::post;
use http::{HeaderValue, StatusCode};
use model::{LogLevel, Secret};

use self::body::InitBody;
use self::clock::{HostTime, Rule};
use crate::error::HttpError;
use crate::server::Peer;
use crate::state::{Envd, Settings};

pub(crate) use self::machine::Machine;

const VERSION_HEADER: &str = "x-envd-version";
/// For so long after a boot or a resume, further requests make the clock more exact.
const SETTLING_TIME: Duration = Duration::from_secs(10);

/// The route.
pub(crate) fn router(state: Arc<Envd>) -> Router {
    Router::new().route("/init", post(init)).with_state(state)
}

async fn init(State(envd): State<Arc<Envd>>, request: Request) -> Response {
    let received = Instant::now();
    let peer = request.extensions().get::<Peer>().map(|peer| peer.0);
    let from_host = peer.is_some_and(|peer| envd.options().is_host(peer));
    let body = match Bytes::from_request(request, &()).await {
        Ok(body) => body,
        Err(rejection) => return rejection.into_response(),
    };
    let task = tokio::spawn(async move { apply(&envd, &body, from_host, received).await });
    let mut response = match task.await {
        Ok(Ok(())) => StatusCode::NO_CONTENT.into_response(),
        Ok(Err(error)) => error.into_response(),
        Err(_) => failed("the daemon failed to initialise").into_response(),
    };
    response.headers_mut().insert(VERSION_HEADER, HeaderValue::from_static(model::ENVD_VERSION));
    response
}

fn failed(message: impl Into<String>) -> HttpError {
    HttpError::new(StatusCode::INTERNAL_SERVER_ERROR, message)
}

/// Does what the request says.
async fn apply(envd: &Envd, body: &[u8], from_host: bool, received: Instant) -> Result<(), HttpError> {
    let mut body = InitBody::parse(body).map_err(HttpError::bad_request)?;
    let mut since = envd.machine().lock().await;
    let (first, changed) = {
        let settings = envd.settings();
        let changed = body.lifecycle_id.is_some() && body.lifecycle_id != settings.lifecycle_id;
        let reborn = from_host && changed;
        if !reborn && !is_authorised(settings.access_token.as_deref(), body.access_token.as_deref()) {
            return Err(HttpError::unauthorized("access token validation failed"));
        }
        thaw(envd);
        if let (Some(last), Some(this)) = (settings.last_init, body.timestamp)
            && this < last
            // The clock of the host before says nothing about the one of this host.
            && !changed
        {
            // An attempt that was overtaken by a later one. Its sender no longer waits for it.
            return Ok(());
        }
        (settings.lifecycle_id.is_none(), changed)
    };
    let warn = |result: Result<(), String>| {
        if let Err(error) = result {
            envd.log().say(LogLevel::Warn, error);
        }
    };
    if changed {
        *since = Some(received);
        // Before the identifier is noted, so that another attempt tries it again.
        envd.machine().diverge(&body.seed).map_err(failed)?;
    }
    if let Some(sent) = body.timestamp {
        let settles = since.is_some_and(|since| since.elapsed() < SETTLING_TIME);
        let rule = match (changed, settles) {
            (true, _) => Rule::Exact,
            (false, true) => Rule::Settling,
            (false, false) => Rule::Loose,
        };
        warn(envd.machine().follow(HostTime::new(sent, received), rule));
    }
    let name = body.hostname.take();
    envd.settings_mut().update(body);
    if changed && let Some(name) = name {
        warn(envd.machine().take_name(name).await);
    }
    envd.shipping().reopen();
    if changed && !first {
        envd.resumes().send_modify(|resumes| *resumes += 1);
    }
    envd.log().say(LogLevel::Debug, "initialised by the host".to_owned());
    Ok(())
}

/// What was stopped for a snapshot goes on, however old the request is: its sender knows that the machine runs.
fn thaw(envd: &Envd) {
    let workload = envd.workload();
    if workload.is_frozen()
        && let Err(error) = workload.thaw()
    {
        envd.log().say(LogLevel::Error, error.to_string());
    }
}

fn is_authorised(held: Option<&Secret>, given: Option<&str>) -> bool {
    held.is_none_or(|held| given.is_some_and(|given| held.matches(given)))
}

impl Settings {
    fn update(&mut self, body: InitBody) {
        self.access_token = body.access_token.map(|token| Arc::new(Secret::new(token)));
        if let Some(variables) = body.env_vars {
            self.user_env = variables;
        }
        for (name, value) in [("E2B_SANDBOX_ID", body.sandbox_id), ("E2B_TEMPLATE_ID", body.template_id)] {
            if let Some(value) = value.filter(|value| !value.is_empty()) {
                self.internal_env.insert(name.to_owned(), value);
            }
        }
        if let Some(user) = body.default_user.filter(|user| !user.is_empty()) {
            self.default_user = user;
        }
        if let Some(workdir) = body.default_workdir.filter(|workdir| !workdir.is_empty()) {
            self.default_workdir = Some(workdir);
        }
        if body.lifecycle_id.is_some() {
            self.lifecycle_id = body.lifecycle_id;
        }
        self.last_init = body.timestamp.or(self.last_init);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_who_holds_the_token_may_change_anything() {
        let held = Secret::new("held");
        for (held, given, expected) in [
            (None, None, true),
            (None, Some("any"), true),
            (Some(&held), Some("held"), true),
            (Some(&held), Some("other"), false),
            (Some(&held), None, false),
        ] {
            assert_eq!(is_authorised(held, given), expected, "{held:?} {given:?}");
        }
    }
}
