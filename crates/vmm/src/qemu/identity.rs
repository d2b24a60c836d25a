//! Which QEMU it is, and which machine it makes.

use std::process::Stdio;
use std::time::Duration;

use serde_json::Value;
use tokio::process::Command;
use tokio::time::timeout;

use super::{PROGRAM, arguments};
use crate::accel::Accel;
use crate::driver::VmmError;
use crate::identity::Identity;
use crate::qmp::printable;

pub(super) const NAME: &str = "qemu";

/// How long QEMU may take to say its version. Normally 25 ms.
const ASK: Duration = Duration::from_secs(10);

pub(super) fn of(accel: Accel, version: String) -> Identity {
    let cpu = match accel {
        // Everything QEMU can translate, whatever the host is.
        Accel::Tcg => "max".to_owned(),
        Accel::Kvm => host_processor(&std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default()),
    };
    Identity { name: NAME.to_owned(), version, accel, cpu, machine: arguments::LAYOUT.to_owned() }
}

/// The version in a greeting, in the form in which the program says it on its command line: `7.2.22 (Debian 1:7.2+dfsg)`.
pub(super) fn version_in(greeting: &Value) -> String {
    let version = &greeting["version"];
    let number = |name: &str| version["qemu"][name].as_u64().unwrap_or(0);
    let (major, minor, micro) = (number("major"), number("minor"), number("micro"));
    match version["package"].as_str() {
        Some(package) if !package.is_empty() => printable(&format!("{major}.{minor}.{micro} ({package})")),
        _ => format!("{major}.{minor}.{micro}"),
    }
}

pub(super) async fn ask_version() -> Result<String, VmmError> {
    let version_error = |reason: String| VmmError::Version { program: PROGRAM, reason };
    let output = Command::new(PROGRAM).arg("--version").stdin(Stdio::null()).kill_on_drop(true).output();
    let output = timeout(ASK, output)
        .await
        .map_err(|_| version_error(format!("it took longer than {} s", ASK.as_secs())))?
        .map_err(|source| VmmError::Spawn { program: PROGRAM.into(), source })?;
    let text = String::from_utf8_lossy(&output.stdout);
    let first = text.lines().next().unwrap_or_default();
    match first.strip_prefix("QEMU emulator version ") {
        Some(version) if output.status.success() => Ok(printable(version)),
        _ => Err(version_error(format!("it ended with {} and said {:?}", output.status, printable(first)))),
    }
}

/// The model, and a checksum of the features because they are many: the same model may have other ones behind another
/// hypervisor, with another firmware, or under another kernel.
fn host_processor(cpuinfo: &str) -> String {
    let field = |name: &str| {
        let mut lines = cpuinfo.lines().filter_map(|line| line.split_once(':'));
        lines.find(|(key, _)| key.trim() == name).map_or("?", |(_, value)| value.trim())
    };
    // FNV-1a, which stays the same in every build of ours.
    let features = field("flags").bytes().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    });
    let [vendor, family, model, stepping] = ["vendor_id", "cpu family", "model", "stepping"].map(field);
    printable(&format!("host {vendor} {family}-{model}-{stepping} {features:016x}"))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[tokio::test]
    async fn the_program_and_its_greeting_agree_on_the_form() {
        let numbers = json!({ "major": 7, "minor": 2, "micro": 22 });
        let greeting = |package: &str| json!({ "version": { "qemu": numbers, "package": package } });
        assert_eq!(version_in(&greeting("Debian 1:7.2")), "7.2.22 (Debian 1:7.2)");
        assert_eq!(version_in(&greeting("")), "7.2.22");
        assert_eq!(version_in(&Value::Null), "0.0.0");
        let asked = ask_version().await.unwrap();
        assert!(asked.starts_with(|c: char| c.is_ascii_digit()), "{asked}");
    }

    #[test]
    fn a_processor_is_known_by_its_model_and_features() {
        let cpuinfo = "processor\t: 0\nvendor_id\t: GenuineIntel\ncpu family\t: 6\nmodel\t\t: 85\nmodel name\t: X\n\
            stepping\t: 7\nflags\t\t: fpu vme\nbugs\t: none\n";
        let first = host_processor(cpuinfo);
        assert!(first.starts_with("host GenuineIntel 6-85-7 "), "{first}");
        assert_ne!(first, host_processor(&cpuinfo.replace("vme", "vmx")));
        assert!(host_processor("").starts_with("host ? ?-?-? "));
    }
}
