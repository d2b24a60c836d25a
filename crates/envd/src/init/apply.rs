//! Doing what a request to `/init` says.

use std::sync::Arc;
use std::time::{Duration, Instant};

use http::StatusCode;
use model::{LogLevel, Secret};

use super::body::InitBody;
use super::clock::{HostTime, Rule};
use super::{Refusal, authority, failed, hyperloop};
use crate::state::{Envd, Settings};

/// For so long after a boot or a resume, further requests make the clock more exact.
const SETTLING_TIME: Duration = Duration::from_secs(10);
/// How long a request waits for the ones before it. Its sender does not wait any longer either.
const LOCK_PATIENCE: Duration = Duration::from_secs(5);

/// Does what the request says.
pub(super) async fn apply(
    envd: &Arc<Envd>,
    body: &[u8],
    from_host: bool,
    received: Instant,
) -> Result<(), Refusal> {
    let mut body = InitBody::parse(body).map_err(|error| (StatusCode::BAD_REQUEST, error))?;
    let Ok(mut since) = tokio::time::timeout(LOCK_PATIENCE, envd.machine().lock()).await else {
        let text = "another request is still being handled: try again".to_owned();
        return Err((StatusCode::SERVICE_UNAVAILABLE, text));
    };
    let (first, changed) = {
        let settings = envd.settings();
        let changed = body.lifecycle_id.is_some() && body.lifecycle_id != settings.lifecycle_id;
        (settings.lifecycle_id.is_none(), changed)
    };
    if !is_authorised(envd, body.access_token.as_deref(), from_host && changed).await {
        let text = authority::refusal(body.access_token.as_deref());
        return Err((StatusCode::UNAUTHORIZED, text.to_owned()));
    }
    thaw(envd);
    // The clock of the host before says nothing about the one of this host.
    if !changed
        && body.timestamp.is_some_and(|this| envd.settings().last_init.is_some_and(|last| this < last))
    {
        // An attempt that was overtaken by a later one. Its sender no longer waits for it.
        return Ok(());
    }
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
        warn(envd, envd.machine().follow(HostTime::new(sent, received), rule));
    }
    let name = body.hostname.take().filter(|_| changed);
    let certificates = body.ca_bundle.take();
    in_the_background(envd, &mut body);
    envd.settings_mut().update(body);
    if let Some(name) = name {
        warn(envd, envd.machine().take_name(name).await);
    }
    envd.shipping().reopen();
    if changed && !first {
        envd.resumes().send_modify(|resumes| *resumes += 1);
    }
    if let Some(metadata) = envd.metadata() {
        metadata.follow(envd);
    }
    envd.log().say(LogLevel::Debug, "initialised by the host".to_owned());
    // Last, because it may fail, which takes back nothing of the above. Another attempt tries it again.
    match certificates {
        Some(certificates) => envd.machine().trust(certificates).await.map_err(|error| {
            let text = format!("cannot make programs trust the certificates of caBundle: {error}");
            let late = error.kind() == std::io::ErrorKind::TimedOut;
            (if late { StatusCode::SERVICE_UNAVAILABLE } else { StatusCode::INTERNAL_SERVER_ERROR }, text)
        }),
        None => Ok(()),
    }
}

async fn is_authorised(envd: &Envd, given: Option<&str>, reborn: bool) -> bool {
    let held = envd.access_token();
    match envd.metadata() {
        None => reborn || authority::holds(held.as_deref(), given),
        // One who holds it need not wait for the service.
        Some(_) if held.is_some() && authority::holds(held.as_deref(), given) => true,
        Some(metadata) => {
            let facts = metadata.facts(envd).await;
            authority::holds_or_is_known(held.as_deref(), given, facts.as_ref())
        }
    }
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

/// Begins what nobody waits for.
fn in_the_background(envd: &Arc<Envd>, body: &mut InitBody) {
    if let Some(ip) = body.hyperloop {
        let envd = Arc::clone(envd);
        tokio::spawn(async move { warn(&envd, envd.machine().find_hyperloop(ip).await) });
    }
    let lifecycle = body.lifecycle_id.clone().or_else(|| envd.settings().lifecycle_id.clone());
    envd.volumes().mount(envd, &std::mem::take(&mut body.volume_mounts), lifecycle.as_deref());
    let news = |new: &Option<String>, name: &str| {
        new.as_ref().is_some_and(|new| !new.is_empty() && envd.settings().internal_env.get(name) != Some(new))
    };
    if news(&body.sandbox_id, "E2B_SANDBOX_ID") || news(&body.template_id, "E2B_TEMPLATE_ID") {
        let envd = Arc::clone(envd);
        // Begins when the variables are set: tasks take turns.
        tokio::spawn(async move { describe(&envd).await });
    }
}

/// Tells programs where they are.
pub(super) async fn describe(envd: &Envd) {
    let variables = envd.settings().internal_env.clone();
    warn(envd, envd.machine().write_run_files(variables).await);
}

fn warn(envd: &Envd, result: Result<(), String>) {
    if let Err(error) = result {
        envd.log().say(LogLevel::Warn, error);
    }
}

impl Settings {
    fn update(&mut self, body: InitBody) {
        self.access_token = body.access_token.map(|token| Arc::new(Secret::new(token)));
        if let Some(variables) = body.env_vars {
            self.user_env = variables;
        }
        let events = body.hyperloop.map(hyperloop::address);
        self.describe([
            ("E2B_SANDBOX_ID", body.sandbox_id),
            ("E2B_TEMPLATE_ID", body.template_id),
            ("E2B_EVENTS_ADDRESS", events),
        ]);
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

    /// Sets variables that describe the sandbox; those without a value stay.
    pub(super) fn describe<const N: usize>(&mut self, variables: [(&str, Option<String>); N]) {
        for (name, value) in variables {
            if let Some(value) = value.filter(|value| !value.is_empty()) {
                self.internal_env.insert(name.to_owned(), value);
            }
        }
    }
}
