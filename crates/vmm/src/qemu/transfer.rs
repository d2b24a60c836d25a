//! Device state out of a QEMU and into one: its migration, with the memory left out because it is shared.

use std::os::fd::AsFd;
use std::os::unix::net::UnixStream as StdUnixStream;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::time::timeout;

use crate::qmp::{Qmp, QmpError, Transfer, printable};
use crate::step::StepError;

/// How long saving may take. Normally 5 ms: the disk was flushed when the machine was paused.
const SAVE: Duration = Duration::from_secs(20);

/// How long loading may take. Normally 4 ms; but some pages of the memory are read, and may have to come from far away.
const LOAD: Duration = Duration::from_secs(30);

/// How long a QEMU that failed to save may take to be done with it.
const SETTLE: Duration = Duration::from_secs(5);

/// The longest state that is believed, in bytes. It is a thousand times what our machines have.
const MAX_STATE: u64 = 64 << 20;

/// What QEMU calls its end of the socket. It forgets the name when it begins to use the socket.
const STREAM: &str = "state";

/// Makes QEMU leave shared memory out of its transfers, and say when one ends.
pub(super) async fn prepare(qmp: &mut Qmp) -> Result<(), QmpError> {
    let on = |name: &str| json!({ "capability": name, "state": true });
    let capabilities = [on("x-ignore-shared"), on("events")];
    qmp.execute("migrate-set-capabilities", &json!({ "capabilities": capabilities })).await?;
    Ok(())
}

/// The state of a machine that stands still. Whatever happens, QEMU is no longer at it afterwards, if it obeys at all.
pub(super) async fn save(qmp: &mut Qmp) -> Result<Vec<u8>, StepError> {
    let saved = timeout(SAVE, try_save(qmp)).await.unwrap_or(Err(StepError::Timeout { limit: SAVE }));
    if saved.is_err() {
        // Our end of the socket is closed, so it fails soon in any case; but it must not go on when the next begins.
        let _ = timeout(SETTLE, cancel(qmp)).await;
    }
    saved
}

async fn try_save(qmp: &mut Qmp) -> Result<Vec<u8>, StepError> {
    let stream = pass_socket(qmp).await?;
    let out = async {
        begin(qmp, "migrate").await?;
        match qmp.transfer_ended().await? {
            Transfer::Completed => Ok(()),
            _ => Err(StepError::Failed(reason(qmp).await)),
        }
    };
    // QEMU closes the stream when it is done for good, a little after it has said so. A machine that is resumed in
    // between would make it abort: so the stream's end is waited for, too.
    let ((), state) = tokio::try_join!(out, read_all(stream, MAX_STATE))?;
    Ok(state)
}

/// Makes a machine that waits for a state take over `state`. A QEMU that cannot use it ends.
pub(super) async fn load(qmp: &mut Qmp, state: &[u8]) -> Result<(), StepError> {
    let load = async {
        let mut stream = pass_socket(qmp).await?;
        let into = async {
            begin(qmp, "migrate-incoming").await?;
            match qmp.transfer_ended().await? {
                Transfer::Completed => Ok(()),
                _ => Err(StepError::Failed(reason(qmp).await)),
            }
        };
        let feed = async {
            // QEMU judges what it was given, also when it closes the stream before the end.
            let _ = stream.write_all(state).await;
            drop(stream);
            std::future::pending().await
        };
        tokio::select! {
            loaded = into => loaded,
            never = feed => never,
        }
    };
    timeout(LOAD, load).await.unwrap_or(Err(StepError::Timeout { limit: LOAD }))
}

/// Our end of a stream to QEMU.
async fn pass_socket(qmp: &mut Qmp) -> Result<UnixStream, StepError> {
    let (ours, theirs) = StdUnixStream::pair()?;
    ours.set_nonblocking(true)?;
    let ours = UnixStream::from_std(ours)?;
    // Our copy of QEMU's end is closed here: the stream must end when QEMU closes its own.
    qmp.pass(STREAM, theirs.as_fd()).await?;
    Ok(ours)
}

async fn begin(qmp: &mut Qmp, command: &str) -> Result<(), QmpError> {
    qmp.expect_transfer();
    qmp.execute(command, &json!({ "uri": format!("fd:{STREAM}") })).await?;
    Ok(())
}

/// Why the transfer that has just ended failed, if QEMU is still there to say so.
async fn reason(qmp: &mut Qmp) -> String {
    let status = qmp.execute("query-migrate", &Value::Null).await.unwrap_or_default();
    status["error-desc"].as_str().map_or_else(|| "it gives no reason".into(), printable)
}

/// Ends a transfer that may or may not be going on.
async fn cancel(qmp: &mut Qmp) -> Result<(), QmpError> {
    qmp.execute("migrate_cancel", &Value::Null).await?;
    let status = qmp.execute("query-migrate", &Value::Null).await?;
    if !matches!(status["status"].as_str(), None | Some("none" | "completed" | "failed" | "cancelled")) {
        qmp.transfer_ended().await?;
    }
    Ok(())
}

async fn read_all(stream: UnixStream, limit: u64) -> Result<Vec<u8>, StepError> {
    let mut state = Vec::with_capacity(128 << 10);
    stream.take(limit + 1).read_to_end(&mut state).await?;
    if state.len() as u64 > limit {
        return Err(StepError::TooLong { limit });
    }
    Ok(state)
}
