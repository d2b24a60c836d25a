//! What one sandbox's supervisor and its node say to each other.
//!
//! The node writes a [`Launch`] to the sandbox's private directory and starts the supervisor with two inherited
//! descriptors: the listening control socket ([`CONTROL_FD`]) and the sandbox's network namespace ([`NETNS_FD`]), in
//! its control group (`supervisor` below [`Launch::cgroup`]).
//! From then on the supervisor is the only source of truth about its sandbox; the node, or its successor after a
//! restart, asks through `control.sock` with [`Client`]: HTTP/1.1 and JSON over a unix socket, so that an operator can
//! look with `curl --unix-socket`.
//!
//! A machine that stands by has no launch file yet, answers only what `supervisor::standby` lists, and becomes a sandbox's
//! by an [`Assignment`].
//!
//! | request | answer |
//! |---|---|
//! | `GET /v1/status` | [`Status`] |
//! | `GET /v1/events` | one [`Event`] per line, the current status first; ends when the supervisor does |
//! | `PUT /v1/end` | [`EndTime`] in; the [`Status`] that then holds |
//! | `POST /v1/pause` | [`Keep`] in; 204 when the pause is durable; 409 when the state does not allow it; 500 when it failed and the sandbox runs on |
//! | `POST /v1/snapshot` | [`Checkpoint`] in; 204 when the build is durable; 409 and 500 as for a pause; the sandbox runs on |
//! | `GET /v1/debugger` | one line when a debugger may connect to [`DEBUGGER_FILE`]; 409 when the state does not allow it. Of a machine that is held for a debugger it comes as soon as there is one. The answer lasts as long as the machine does, and when whoever asked closes it, debuggers are cut off and the machine runs on |
//! | `POST /v1/kill` | 202; [`Event::Ended`] follows |
//! | `GET /v1/metrics` | every kept [`model::MetricSample`] |
//! | `POST /v1/logs` | [`LogFilter`] in; [`model::LogEntry`] list out |
#![forbid(unsafe_code)]

mod client;
mod launch;
mod paused;
mod protocol;
mod standby;

pub use client::{Client, ClientError, Debugging, Events};
pub use launch::{
    Accel, BuildFiles, CONTROL_FD, CgroupLimits, DEBUGGER_FILE, Deadlines, Goal, LAUNCH_FILE, Launch,
    LaunchError, NETNS_FD, Prefetch, Reboot, SOCKET_FILE, Start,
};
pub use paused::{PAUSED_FILE, read_paused, remove_paused, write_paused};
pub use protocol::{Checkpoint, EndTime, Event, Keep, LogFilter, Phase, Status};
pub use standby::{Assignment, STANDBY_FILE, Standby};
