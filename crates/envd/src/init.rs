//! `POST /init`: the host tells the daemon who it works for. It comes once after every boot and every resume.
//!
//! | token held | token in the request | |
//! |---|---|---|
//! | none | none or any | accepted: whoever comes first |
//! | some | the same | accepted |
//! | some | none or another | 401 |
//!
//! Requests are handled one after the other, on a task of their own: the host gives up on an attempt quickly and asks
//! again, and the first attempt must have its effect nevertheless.

mod body;
mod clock;

use std::sync::Arc;

use axum::Router;
use axum::body::Bytes;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use axum::routing::post;
use http::{HeaderValue, StatusCode};
use model::{LogLevel, Secret};

use self::body::InitBody;
use crate::error::HttpError;
use crate::state::{Envd, Settings};

const VERSION_HEADER: &str = "x-envd-version";

/// The route.
pub(crate) fn router(state: Arc<Envd>) -> Router {
    Router::new().route("/init", post(init)).with_state(state)
}

async fn init(State(envd): State<Arc<Envd>>, body: Bytes) -> Response {
    let task = tokio::spawn(async move { apply(&envd, &body) });
    let mut response = match task.await {
        Ok(Ok(())) => StatusCode::NO_CONTENT.into_response(),
        Ok(Err(error)) => error.into_response(),
        Err(_) => HttpError::new(StatusCode::INTERNAL_SERVER_ERROR, "the daemon failed to initialise")
            .into_response(),
    };
    response.headers_mut().insert(VERSION_HEADER, HeaderValue::from_static(model::ENVD_VERSION));
    response
}

/// Does what the request says. Without a wait in it, so on one thread no other request comes in between.
fn apply(envd: &Envd, body: &[u8]) -> Result<(), HttpError> {
    let body = InitBody::parse(body).map_err(HttpError::bad_request)?;
    let mut settings = envd.settings_mut();
    if !is_authorised(settings.access_token.as_deref(), body.access_token.as_deref()) {
        return Err(HttpError::unauthorized("access token validation failed"));
    }
    if let (Some(last), Some(this)) = (settings.last_init, body.timestamp)
        && this < last
    {
        // An attempt that was overtaken by a later one. Its sender no longer waits for it.
        return Ok(());
    }
    let timestamp = body.timestamp;
    settings.update(body);
    drop(settings);
    envd.log().say(LogLevel::Debug, "initialised by the host".to_owned());
    if let Some(host) = timestamp
        && let Err(error) = clock::follow(host)
    {
        envd.log().say(LogLevel::Warn, format!("cannot set the clock: {error}"));
    }
    Ok(())
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
