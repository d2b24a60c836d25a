//! QEMU's command line.

use std::os::fd::RawFd;

use model::{MiB, VcpuCount};
use sys::tsc::TscSample;

use super::kernel_parameters;
use crate::accel::Accel;

/// The numbers of what QEMU inherits, and what it does with it.
#[derive(Debug)]
pub(super) struct Parts<'a> {
    pub(super) accel: Accel,
    pub(super) vcpus: VcpuCount,
    pub(super) memory_size: u64,
    pub(super) memory: RawFd,
    /// None for a machine that waits for a state. It needs none of what one boots with: that is in its memory.
    pub(super) boot: Option<Boot<'a>>,
    pub(super) control: RawFd,
    pub(super) console: RawFd,
    pub(super) disk: Option<RawFd>,
    pub(super) tap: Option<(RawFd, [u8; 6])>,
}

#[derive(Debug)]
pub(super) struct Boot<'a> {
    pub(super) kernel: RawFd,
    pub(super) initrd: RawFd,
    pub(super) append: &'a str,
}

/// How the machine is put together, for a device state to tell. Count the number up with every change below that a guest
/// could see: the order or number of devices, their options, the kind of machine.
pub(super) const LAYOUT: &str = "microvm/1";

/// A bare machine of the shape that sandboxes have, for measuring what ours adds: without memory of our own, devices,
/// console, kernel and confinement. Measures the processor's clock under TCG, which takes 20 ms.
#[must_use]
pub fn bare_command_line(accel: Accel, vcpus: VcpuCount, memory: MiB) -> Vec<String> {
    let mut arguments = machine(accel, vcpus, memory.bytes(), "");
    let append = match (accel, TscSample::now().khz_since()) {
        (Accel::Tcg, Some(khz)) => kernel_parameters::tcg(khz, ""),
        _ => kernel_parameters::kvm(""),
    };
    arguments.extend(["-append".into(), append]);
    arguments
}

/// The whole command line of a sandbox's QEMU.
pub(super) fn confined(parts: &Parts<'_>) -> Vec<String> {
    let size = parts.memory_size;
    let mut arguments = machine(parts.accel, parts.vcpus, size, ",memory-backend=ram");
    let mut add = |option: &str, value: String| arguments.extend([option.to_owned(), value]);

    // Shared, so that we see what the guest writes; not in core dumps, which would hold the guest's secrets.
    let memory = parts.memory;
    add(
        "-object",
        format!("memory-backend-file,id=ram,size={size},mem-path=/proc/self/fd/{memory},share=on,dump=off"),
    );
    match &parts.boot {
        Some(boot) => {
            add("-kernel", format!("/proc/self/fd/{}", boot.kernel));
            add("-initrd", format!("/proc/self/fd/{}", boot.initrd));
            add("-append", boot.append.to_owned());
        }
        None => {
            add("-incoming", "defer".into());
            // Once it has its state, the guest would be made to tell the network where it is now. Ours has not moved, and
            // its first work should be its own.
            add("-global", "migration.announce-rounds=0".into());
        }
    }

    add("-chardev", format!("socket,id=control,fd={}", parts.control));
    add("-mon", "chardev=control,mode=control".into());
    add("-chardev", format!("socket,id=console,fd={}", parts.console));
    add("-serial", "chardev:console".into());

    // Devices get their addresses, and the guest its names, in this order.
    if let Some(disk) = parts.disk {
        add(
            "-blockdev",
            format!(
                "driver=nbd,node-name=root,server.type=fd,server.str={disk},discard=unmap,detect-zeroes=unmap"
            ),
        );
        // The guest hears of every error. The default would stop the machine when the host's disk is full.
        add("-device", "virtio-blk-device,drive=root,werror=report,rerror=report".into());
    }
    if let Some((tap, mac)) = parts.tap {
        let mac = mac.map(|byte| format!("{byte:02x}")).join(":");
        add("-netdev", format!("tap,id=net,fd={tap}"));
        add("-device", format!("virtio-net-device,netdev=net,mac={mac}"));
    }
    add("-device", "virtio-rng-device".into());

    // What a guest that takes over QEMU finds missing: old and privileged system calls, new processes, other priorities.
    add("-sandbox", "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny".into());
    if parts.boot.is_none() {
        // With its state it does not run yet.
        arguments.push("-S".into());
    }
    arguments
}

fn machine(accel: Accel, vcpus: VcpuCount, memory: u64, backend: &str) -> Vec<String> {
    let (accelerator, cpu) = match accel {
        Accel::Kvm => ("kvm", "host"),
        // The cache of translations is bounded, for it is memory beside the guest's: 38 MiB are used after boot, and what
        // does not fit is translated again. QEMU's own bound is 1 GiB.
        //
        // The most capable processor: leaving features out makes it no faster, and programs look for them.
        Accel::Tcg => ("tcg,thread=multi,tb-size=256", "max"),
    };
    [
        // The clock chip is not a luxury: without it the kernel waits for one, a second at each boot. ACPI stays, though
        // a boot without it translates a tenth less: it is how the kernel finds its devices when virtio is a module, and
        // how a guest switches itself off.
        "-M",
        &format!("microvm,rtc=on{backend}"),
        "-accel",
        accelerator,
        "-cpu",
        cpu,
        "-smp",
        &vcpus.to_string(),
        // In bytes, for sizes that are not whole mebibytes.
        "-m",
        &format!("{}B", memory),
        "-nodefaults",
        "-no-user-config",
        "-display",
        "none",
        // A guest's restart is its end: what it was given for its start is used up.
        "-no-reboot",
    ]
    .map(str::to_owned)
    .to_vec()
}
