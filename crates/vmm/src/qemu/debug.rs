//! QEMU's stub for debuggers, on a socket of ours.

use std::os::fd::{AsFd, OwnedFd};

use serde_json::{Value, json};

use crate::qmp::{Qmp, QmpError, printable};
use crate::step::StepError;

/// What QEMU calls the socket, and the device that it is made into.
const NAME: &str = "debugger";

/// Has QEMU listen. The socket is passed: QEMU may open no path.
pub(super) async fn start(qmp: &mut Qmp, listener: OwnedFd) -> Result<(), StepError> {
    qmp.pass(NAME, listener.as_fd()).await?;
    let socket = json!({ "addr": { "type": "fd", "data": { "str": NAME } }, "server": true, "wait": false });
    qmp.execute("chardev-add", &json!({ "id": NAME, "backend": { "type": "socket", "data": socket } }))
        .await?;
    let said = monitor(qmp, &format!("gdbserver chardev:{NAME}")).await?;
    if said.starts_with("Waiting for gdb connection") {
        return Ok(());
    }
    let _ = qmp.execute("chardev-remove", &json!({ "id": NAME })).await;
    Err(StepError::Failed(said))
}

/// Has QEMU forget the socket and whoever is connected.
pub(super) async fn stop(qmp: &mut Qmp) -> Result<(), StepError> {
    // It takes the device along.
    monitor(qmp, "gdbserver none").await?;
    Ok(())
}

/// There is no command for programs. What one for people says is all there is.
async fn monitor(qmp: &mut Qmp, line: &str) -> Result<String, QmpError> {
    let said = qmp.execute("human-monitor-command", &json!({ "command-line": line })).await?;
    Ok(match said {
        Value::String(said) => printable(said.trim()),
        other => printable(&other.to_string()),
    })
}
