//! The running server, as a client sees it, and what it leaves in its state directory.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use artifacts::{LocalStore, Store};
use control::Launch;
use model::{BuildId, ENVD_PORT, SandboxId};
use serde_json::{Value, json};

use crate::http::{Connection, as_user};
use crate::rest::Rest;
use crate::state::StateDir;

/// Longer than any measurement of one sandbox.
const LIFE_SECONDS: u64 = 900;
/// For what the last measurement has left to do, such as making the next network slot.
const SETTLE: Duration = Duration::from_millis(500);

/// The server of a state directory.
pub(super) struct Server {
    pub(super) state: StateDir,
    rest: Rest,
}

/// A sandbox that the bench has made.
pub(super) struct Sandbox {
    pub(super) id: SandboxId,
    pub(super) token: String,
}

impl Server {
    pub(super) fn find(dir: &Path) -> Result<Self, String> {
        let state = StateDir::open(dir)?;
        let rest = Rest::find(&state)?;
        Ok(Self { state, rest })
    }

    /// A connection for requests to the API.
    pub(super) async fn api(&self) -> Result<Connection, String> {
        self.rest.connect().await
    }

    /// Creates a sandbox of the base template and waits for the answer.
    pub(super) async fn create(&self) -> Result<Sandbox, String> {
        let wanted = json!({"templateID": "base", "timeout": LIFE_SECONDS, "secure": true});
        let made = self.api().await?.json("POST", "/sandboxes", &wanted).await?;
        read(&made)
    }

    /// Makes a sandbox, does something with it so often, and kills it.
    pub(super) async fn rounds(
        &self,
        count: usize,
        mut round: impl AsyncFnMut(&Sandbox) -> Result<(), String>,
    ) -> Result<(), String> {
        let sandbox = self.create().await?;
        let mut outcome = Ok(());
        for _ in 0..count {
            outcome = round(&sandbox).await;
            if outcome.is_err() {
                break;
            }
        }
        self.kill(&sandbox).await?;
        outcome
    }

    /// Pauses a sandbox; the time until that was acknowledged.
    pub(super) async fn pause(&self, sandbox: &Sandbox) -> Result<Duration, String> {
        let begun = Instant::now();
        let path = format!("/sandboxes/{}/pause", sandbox.id);
        self.api().await?.json("POST", &path, &json!({})).await?;
        Ok(begun.elapsed())
    }

    /// Has a paused sandbox run; the time until that was answered.
    pub(super) async fn connect(&self, sandbox: &Sandbox) -> Result<Duration, String> {
        let begun = Instant::now();
        let path = format!("/sandboxes/{}/connect", sandbox.id);
        self.api().await?.json("POST", &path, &json!({ "timeout": LIFE_SECONDS })).await?;
        Ok(begun.elapsed())
    }

    /// Kills a sandbox, running or paused; the time until that was answered.
    pub(super) async fn kill(&self, sandbox: &Sandbox) -> Result<Duration, String> {
        let begun = Instant::now();
        self.api().await?.json("DELETE", &format!("/sandboxes/{}", sandbox.id), &Value::Null).await?;
        Ok(begun.elapsed())
    }

    /// Makes a snapshot; its name, and the time until that was answered.
    pub(super) async fn snapshot(&self, sandbox: &Sandbox) -> Result<(String, Duration), String> {
        let begun = Instant::now();
        let path = format!("/sandboxes/{}/snapshots", sandbox.id);
        let made = self.api().await?.json("POST", &path, &json!({})).await?;
        let id = made["snapshotID"].as_str().ok_or("the answer has no snapshotID")?;
        Ok((id.to_owned(), begun.elapsed()))
    }

    /// Deletes a snapshot.
    pub(super) async fn delete_template(&self, id: &str) -> Result<(), String> {
        self.api().await?.json("DELETE", &format!("/templates/{id}"), &Value::Null).await.map(drop)
    }

    /// Makes forks of a sandbox; fails unless all of them run.
    pub(super) async fn fork(&self, sandbox: &Sandbox, count: usize) -> Result<Vec<Sandbox>, String> {
        let path = format!("/sandboxes/{}/fork", sandbox.id);
        let wanted = json!({ "count": count, "timeout": LIFE_SECONDS });
        let made = self.api().await?.json("POST", &path, &wanted).await?;
        let made = made.as_array().ok_or("the answer is no list")?;
        made.iter().map(|fork| read(&fork["sandbox"]).map_err(|error| format!("{error}: {fork}"))).collect()
    }

    /// Runs a command to its end, on a connection of its own.
    pub(super) async fn command(
        &self,
        sandbox: &Sandbox,
        command: &str,
        arguments: &[&str],
    ) -> Result<(), String> {
        let headers = vec![
            ("e2b-sandbox-id", sandbox.id.as_str().to_owned()),
            ("e2b-sandbox-port", ENVD_PORT.to_string()),
            ("x-access-token", sandbox.token.clone()),
            as_user("user"),
        ];
        Connection::open(self.rest.address, headers).await?.command(command, arguments).await
    }

    /// What the supervisor of a running sandbox was told.
    pub(super) fn launch(&self, sandbox: &Sandbox) -> Result<Launch, String> {
        Launch::read(&self.dir(sandbox)).map_err(|error| error.to_string())
    }

    /// The directory of a running sandbox.
    pub(super) fn dir(&self, sandbox: &Sandbox) -> PathBuf {
        self.state.sandboxes().join(sandbox.id.as_str())
    }

    /// The newest build that was made of a sandbox.
    pub(super) fn build_of(&self, sandbox: &Sandbox) -> Result<BuildId, String> {
        let newest = || {
            let store = LocalStore::open(&self.state.store())?;
            let builds = store.list()?;
            // Builds of others may go away meanwhile.
            let manifests = builds.iter().filter_map(|build| artifacts::load_manifest(&store, build).ok());
            let ours = manifests.filter(|manifest| manifest.owner.as_ref() == Some(&sandbox.id));
            Ok(ours.max_by_key(|manifest| manifest.created_at).map(|manifest| manifest.id))
        };
        let newest = newest().map_err(|error: artifacts::ArtifactError| error.to_string())?;
        newest.ok_or_else(|| format!("the store has no build of sandbox {}", sandbox.id))
    }
}

/// What an answer says of a sandbox.
fn read(made: &Value) -> Result<Sandbox, String> {
    let text = |field: &str| made[field].as_str().ok_or_else(|| format!("the answer has no {field}"));
    let id = text("sandboxID")?.parse().map_err(|error| format!("{error}"))?;
    Ok(Sandbox { id, token: text("envdAccessToken")?.to_owned() })
}

/// Waits until nothing of the last measurement disturbs the next.
pub(super) async fn settle() {
    tokio::time::sleep(SETTLE).await;
}
