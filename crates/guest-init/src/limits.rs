//! What the kernel allows here, and what this process and its children get.

use std::fs;
use std::io::ErrorKind;

use guest_init::machine_name;
use rustix::process::{Resource, Rlimit, setpriority_process, setrlimit};

use crate::console::say;
use crate::error::{Attempt as _, Failure};

/// Settings of the kernel, each with the reason why its default does not fit.
const SETTINGS: [(&str, &str); 3] = [
    // The whole machine belongs to one user, who may serve on port 80.
    ("net/ipv4/ip_unprivileged_port_start", "0"),
    // Development servers and `watch` calls of the SDK: the defaults, derived from little memory, run out.
    ("fs/inotify/max_user_watches", "524288"),
    ("fs/inotify/max_user_instances", "1024"),
];

/// Whether interfaces that appear get IPv6.
const NO_IPV6: &str = "net/ipv6/conf/default/disable_ipv6";

/// Open files: enough for servers, and low enough that programs which close every possible descriptor stay quick.
const OPEN_FILES: Rlimit = Rlimit { current: Some(65_536), maximum: Some(1_048_576) };

/// Highest priority, and last in line when memory runs out: without envd nobody can reach the sandbox. envd gives
/// the processes that it starts the normal values back.
const NICE: i32 = -20;
const OOM_SCORE_ADJ: &str = "-1000";

/// The network card gets no IPv6: there is no route for it, and a link-local address would only bring solicitations and
/// slow look-ups. Loopback has its own already.
pub(crate) fn before_network() {
    set(NO_IPV6, "1");
}

/// Interfaces that somebody makes later are their maker's business.
pub(crate) fn after_network() {
    set(NO_IPV6, "0");
}

pub(crate) fn apply(hostname: &str) -> Result<(), Failure> {
    machine_name::set_in_kernel(hostname).attempt(|| format!("set the host name {hostname}"))?;
    for (name, value) in SETTINGS {
        set(name, value);
    }
    setrlimit(Resource::Nofile, OPEN_FILES).attempt(|| "set the limit of open files".to_owned())?;
    setpriority_process(None, NICE).attempt(|| "raise the priority".to_owned())?;
    fs::write("/proc/self/oom_score_adj", OOM_SCORE_ADJ).attempt(|| "set oom_score_adj".to_owned())
}

fn set(name: &str, value: &str) {
    // A kernel without the setting has no such limit.
    if let Err(why) = fs::write(format!("/proc/sys/{name}"), value)
        && why.kind() != ErrorKind::NotFound
    {
        say(format_args!("cannot set {name} to {value}: {why}"));
    }
}
