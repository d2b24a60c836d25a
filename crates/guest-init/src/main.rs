//! PID 1 of every sandbox.
//!
//! One process, two lives:
//!
//! 1. In the initramfs: load the virtio modules, find the root disk, mount it, make it `/`.
//! 2. In the sandbox's own root: mount the kernel's file systems, set up the network, start envd, and from then on
//!    reap zombies, start envd again when it dies, and end the machine when asked.
//!
//! It needs nothing from the root file system (no shell, no `ip`, no udev), so any image works, and it never waits
//! for time to pass: each step ends when the kernel says so. A step that fails is one line on the console and the
//! end of the machine, never a sandbox that half works.
#![forbid(unsafe_code)]

mod cmdline;
mod console;
mod dns;
mod envd;
mod error;
mod hosts;
mod initramfs;
mod limits;
mod modules;
mod mounts;
mod netlink;
mod network;
mod root;
mod shutdown;
mod supervise;

use std::convert::Infallible;
use std::io;
use std::thread;

use crate::cmdline::Cmdline;
use crate::console::{Timeline, say};
use crate::error::{Attempt as _, Failure};
use crate::modules::Modules;

fn main() {
    let failure = match run() {
        Ok(never) => match never {},
        Err(failure) => failure,
    };
    say(format_args!("fatal: {failure}"));
    shutdown::end_machine();
}

fn run() -> Result<Infallible, Failure> {
    initramfs::mount_first()?;
    let cmdline = Cmdline::read()?;
    if cmdline.probe {
        // The host wants to know whether its accelerator can run a stock kernel up to here, nothing more.
        console::print_line("coldframe-probe-ok");
        shutdown::end_machine();
    }

    let mut timeline = Timeline::start();
    let [bus, disk, net, late] = initramfs::MODULES.map(Modules::open);
    let (disk, net, late) = (disk?, net?, late?);
    let envd = envd::Program::open(initramfs::ENVD)?;
    bus?.load()?;
    timeline.mark("bus");

    limits::before_network();
    let network = cmdline.network.clone();
    let network = thread::spawn(move || {
        // The root changes meanwhile: nothing here may open a path.
        net.load()?;
        network::bring_up(network.as_ref())
    });
    disk.load()?;
    timeline.mark("disk");
    root::enter(initramfs::ROOT_DISK)?;
    timeline.mark("root");
    mounts::mount_kernel_file_systems()?;
    limits::apply(&cmdline.hostname)?;
    hosts::name_this_machine(&cmdline.hostname);
    dns::configure(&cmdline.dns);
    timeline.mark("names");
    network
        .join()
        .map_err(|_| io::Error::other("its thread panicked"))
        .attempt(|| "set up the network".to_owned())??;
    limits::after_network();
    timeline.mark("network");

    let envd = supervise::Envd::start(envd, &cmdline)?;
    timeline.mark("envd");
    say(format_args!("{timeline}"));
    late.load()?;
    supervise::forever(envd)
}
