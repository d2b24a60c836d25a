//! What the kernel must be told about this kind of machine.

/// Parameters for a guest that runs on the processor.
pub(super) fn kvm(guest: &str) -> String {
    join(COMMON, guest)
}

/// Parameters for a guest that is translated, on a host whose time stamp counter runs at `tsc_khz`.
pub(super) fn tcg(tsc_khz: u32, guest: &str) -> String {
    join(&format!("{COMMON} {TCG} tsc_early_khz={tsc_khz}"), guest)
}

const COMMON: &str = "console=ttyS0 quiet reboot=t panic=-1 cryptomgr.notests";

const TCG: &str = "tsc=reliable no_timer_check";

fn join(machine: &str, guest: &str) -> String {
    if guest.is_empty() { machine.to_owned() } else { format!("{machine} {guest}") }
}
