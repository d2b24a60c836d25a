//! What the kernel must be told about this kind of machine.
//!
//! Every sandbox boots, so what is here was weighed: by the code that QEMU had to translate until user space (74,000
//! blocks, which is nearly all of the boot under TCG), by processor time, and by small loads in the guest. What made no
//! difference is left out: other processor models, `lsm=`, `audit=0`, fewer serial ports, the choice of firmware.

/// Parameters for a guest that runs on the processor.
pub(super) fn kvm(guest: &str) -> String {
    join(&COMMON, &[], guest)
}

/// Parameters for a guest that is translated, on a host whose time stamp counter runs at `tsc_khz`.
pub(super) fn tcg(tsc_khz: u32, guest: &str) -> String {
    // There is no clock to calibrate the counter with but the emulated timer, and that fails on a busy host: the boot
    // then hangs for ever. So the kernel is told.
    let frequency = format!("tsc_early_khz={tsc_khz}");
    join(&COMMON, &[&TCG[..], &[&frequency]].concat(), guest)
}

const COMMON: [&str; 5] = [
    "console=ttyS0",
    // Each byte on the serial port is an exit to the monitor. Warnings still come.
    "quiet",
    // A restart by the one means that needs no device, and a panic restarts at once: both end the monitor.
    "reboot=t",
    "panic=-1",
    // The kernel tests its ciphers at each boot: 0.3 s under TCG, mostly waiting.
    "cryptomgr.notests",
];

const TCG: [&str; 4] = [
    // All virtual processors read the host's counter, so it needs no watching; a late virtual processor would look like
    // a broken counter.
    "tsc=reliable",
    // The check that timer interrupts arrive panics when a busy host is late with them.
    "no_timer_check",
    // A translated processor does not speculate. Saves a third of the time of starting a program.
    "mitigations=off",
    // Debian clears memory when it is allocated, beside where it must; another third.
    "init_on_alloc=0",
];

fn join(common: &[&str], more: &[&str], guest: &str) -> String {
    let mut words = [common, more].concat();
    if !guest.is_empty() {
        words.push(guest);
    }
    words.join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_guests_own_parameters_come_last() {
        assert!(kvm("a=b c").ends_with(" cryptomgr.notests a=b c"));
        assert!(!kvm("").ends_with(' ') && !kvm("").contains("tsc"));
        assert!(tcg(2_445_428, "a=b").ends_with(" init_on_alloc=0 tsc_early_khz=2445428 a=b"));
    }
}
