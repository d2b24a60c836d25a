//! `coldframe sandbox`: sandboxes as the REST API shows them to the key that `coldframe env` prints.

use std::path::Path;
use std::process::ExitCode;

use bytes::Bytes;
use hyper::{Response, StatusCode};
use jiff::{SignedDuration, Timestamp, Unit};
use model::SandboxId;
use serde_json::{Value, json};

use crate::Outcome;
use crate::cli::Sandbox;
use crate::http::Connection;
use crate::rest::Rest;
use crate::state::StateDir;

/// The header with the token of the next page.
const NEXT: &str = "x-next-token";
/// The header that says why a sandbox does not go on with its memory.
const REBOOTED: &str = "x-coldframe-rebooted";

pub(crate) fn run(command: &Sandbox) -> Outcome {
    let dir = &command.state().dir;
    match command {
        Sandbox::List { json, .. } => asking(dir, async |api| list(api, *json).await),
        Sandbox::Pause { id, disk_only, .. } => asking(dir, async |api| pause(api, id, *disk_only).await),
        Sandbox::Resume { id, reboot, timeout, .. } => {
            asking(dir, async |api| resume(api, id, *reboot, *timeout).await)
        }
        Sandbox::Snapshot { id, name, disk_only, .. } => {
            asking(dir, async |api| snapshot(api, id, name.as_deref(), *disk_only).await)
        }
        Sandbox::Kill { id, .. } => asking(dir, async |api| kill(api, id).await),
        Sandbox::Debug(options) => crate::debug::run(options),
    }
}

/// Asks the server's API.
fn asking(dir: &Path, ask: impl AsyncFnOnce(&mut Connection) -> Result<(), String>) -> Outcome {
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(|e| e.to_string())?;
    let rest = Rest::find(&StateDir::open(dir)?)?;
    runtime.block_on(async { ask(&mut rest.connect().await?).await })?;
    Ok(ExitCode::SUCCESS)
}

async fn list(api: &mut Connection, json: bool) -> Result<(), String> {
    let found = every(api).await?;
    if json {
        println!("{}", serde_json::to_string_pretty(&found).map_err(|error| error.to_string())?);
        return Ok(());
    }
    println!("{:<22} {:<8} {:<20} {:>5} {:>8} {:>9}", "ID", "STATE", "TEMPLATE", "CPUS", "MIB", "ENDS");
    let now = Timestamp::now();
    found.iter().for_each(|sandbox| println!("{}", line(sandbox, now)));
    Ok(())
}

/// The sandboxes of every page.
async fn every(api: &mut Connection) -> Result<Vec<Value>, String> {
    let (mut found, mut page) = (Vec::new(), String::new());
    loop {
        let answer = ask(api, "GET", &format!("/v2/sandboxes{page}"), &Value::Null).await?;
        found.append(&mut read(&answer)?);
        let Some(token) = header(&answer, NEXT) else { return Ok(found) };
        page = format!("?nextToken={token}");
    }
}

/// A sandbox for people: of one that is paused there is no end to tell.
fn line(sandbox: &Value, now: Timestamp) -> String {
    let text = |field: &str| sandbox[field].as_str();
    let state = text("state").unwrap_or("-");
    let end = text("endAt").filter(|_| state == "running").and_then(|at| at.parse::<Timestamp>().ok());
    let left = end.map(|end| end.duration_since(now).max(SignedDuration::ZERO));
    let left = left.and_then(|left| left.round(Unit::Second).ok());
    format!(
        "{:<22} {state:<8} {:<20} {:>5} {:>8} {:>9}",
        text("sandboxID").unwrap_or("-"),
        text("alias").or_else(|| text("templateID")).unwrap_or("-"),
        sandbox["cpuCount"],
        sandbox["memoryMB"],
        left.map_or_else(|| "-".to_owned(), |left| format!("{left:#}")),
    )
}

async fn pause(api: &mut Connection, id: &SandboxId, disk_only: bool) -> Result<(), String> {
    ask(api, "POST", &format!("/sandboxes/{id}/pause"), &json!({ "memory": !disk_only })).await?;
    println!("paused {id}");
    Ok(())
}

async fn resume(api: &mut Connection, id: &SandboxId, reboot: bool, timeout: u64) -> Result<(), String> {
    let wanted = json!({ "timeout": timeout, "memory": !reboot });
    let answer = ask(api, "POST", &format!("/sandboxes/{id}/resume"), &wanted).await?;
    match header(&answer, REBOOTED) {
        Some(why) => println!("booted {id} from its disk: {why}"),
        None => println!("resumed {id}"),
    }
    Ok(())
}

/// Prints what the snapshot is called, and nothing else: a script takes it from there.
async fn snapshot(
    api: &mut Connection,
    id: &SandboxId,
    name: Option<&str>,
    disk_only: bool,
) -> Result<(), String> {
    let wanted = json!({ "name": name, "memory": !disk_only });
    let answer = ask(api, "POST", &format!("/sandboxes/{id}/snapshots"), &wanted).await?;
    let made: Value = read(&answer)?;
    println!("{}", made["snapshotID"].as_str().ok_or("the server's answer names no snapshot")?);
    Ok(())
}

async fn kill(api: &mut Connection, id: &SandboxId) -> Result<(), String> {
    ask(api, "DELETE", &format!("/sandboxes/{id}"), &Value::Null).await?;
    println!("killed {id}");
    Ok(())
}

/// Asks the API; an error is what it says, and what to do.
async fn ask(
    api: &mut Connection,
    method: &str,
    path: &str,
    body: &Value,
) -> Result<Response<Bytes>, String> {
    let answer = api.ask(method, path, body).await?;
    if answer.status().is_success() { Ok(answer) } else { Err(refusal(answer.status(), answer.body())) }
}

fn refusal(status: StatusCode, body: &[u8]) -> String {
    let said = serde_json::from_slice::<Value>(body).ok();
    let said = said.as_ref().and_then(|body| body["message"].as_str()).map(str::to_owned);
    let said =
        said.unwrap_or_else(|| format!("the server answered {status}: {}", String::from_utf8_lossy(body)));
    match status {
        StatusCode::NOT_FOUND => format!("{said}; `coldframe sandbox list` shows those there are"),
        StatusCode::UNAUTHORIZED => {
            format!("{said}; a server that starts makes another default key")
        }
        _ => said,
    }
}

fn header<'a>(answer: &'a Response<Bytes>, name: &str) -> Option<&'a str> {
    answer.headers().get(name)?.to_str().ok()
}

fn read<T: serde::de::DeserializeOwned>(answer: &Response<Bytes>) -> Result<T, String> {
    serde_json::from_slice(answer.body()).map_err(|error| format!("reading the server's answer: {error}"))
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use axum::http::Uri;
    use axum::routing::get;

    use super::*;

    /// Three pages: the first, `1` and `2`.
    async fn page(uri: Uri) -> ([(&'static str, &'static str); 1], axum::Json<Value>) {
        let (number, next) = match uri.query() {
            None => (0, "1"),
            Some("nextToken=1") => (1, "2"),
            _ => (2, ""),
        };
        let next = if next.is_empty() { ("x-other", "") } else { (NEXT, next) };
        ([next], axum::Json(json!([{ "sandboxID": format!("i{number}") }])))
    }

    #[tokio::test]
    async fn a_list_has_every_page() {
        let listener = tokio::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let router = axum::Router::new().route("/v2/sandboxes", get(page));
        tokio::spawn(axum::serve(listener, router).into_future());
        let mut api = Connection::open(address, Vec::new()).await.unwrap();
        let found = every(&mut api).await.unwrap();
        let ids: Vec<_> = found.iter().map(|one| one["sandboxID"].as_str().unwrap()).collect();
        assert_eq!(ids, ["i0", "i1", "i2"]);
    }

    #[test]
    fn a_line_says_what_matters() {
        let now = "2026-01-02T03:04:05Z".parse().unwrap();
        let running = json!({
            "sandboxID": "i1", "state": "running", "alias": "base", "templateID": "t", "cpuCount": 1,
            "memoryMB": 512, "endAt": "2026-01-02T03:09:05.400000Z",
        });
        assert_eq!(
            line(&running, now).split_whitespace().collect::<Vec<_>>(),
            ["i1", "running", "base", "1", "512", "5m"]
        );
        let paused = json!({
            "sandboxID": "i1", "state": "paused", "templateID": "t", "cpuCount": 1, "memoryMB": 512,
            "endAt": "2026-01-01T00:00:00Z",
        });
        assert_eq!(
            line(&paused, now).split_whitespace().collect::<Vec<_>>(),
            ["i1", "paused", "t", "1", "512", "-"]
        );
    }

    #[test]
    fn a_refusal_is_what_the_server_says() {
        let body = br#"{"code": 409, "message": "sandbox i1 is paused already"}"#;
        assert_eq!(refusal(StatusCode::CONFLICT, body), "sandbox i1 is paused already");
        let body = br#"{"code": 404, "message": "no such sandbox"}"#;
        assert!(refusal(StatusCode::NOT_FOUND, body).contains("`coldframe sandbox list`"));
        assert!(refusal(StatusCode::BAD_GATEWAY, b"<html>").contains("502 Bad Gateway: <html>"));
    }
}
