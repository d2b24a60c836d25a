//! Whether guests can be run by the processor.

use super::Finding;
use crate::cli::AccelChoice;
use crate::state::StateDir;

const NAME: &str = "accelerator";

/// Boots a probe guest, or repeats what an earlier boot on this host showed.
pub(super) fn check(state: &StateDir) -> Finding {
    let Some(base) = template::existing_base(&template::Dirs::new(state.root())) else {
        return Finding::slower(
            NAME,
            "not probed: there is no kernel yet",
            "run `coldframe template base` first",
        );
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let verdict = runtime
        .map_err(|error| error.to_string())
        .and_then(|runtime| runtime.block_on(crate::builds::accelerator(AccelChoice::Auto, state, &base)));
    match verdict {
        Ok(verdict) if verdict.accel == vmm::Accel::Kvm => {
            Finding::fine(NAME, format!("KVM: {}", verdict.reason))
        }
        Ok(verdict) => Finding::slower(
            NAME,
            format!("TCG: {}", verdict.reason),
            "sandboxes work but are about ten times slower; use a host with hardware virtualization (and nested virtualization inside a VM)",
        ),
        Err(error) => {
            Finding::missing(NAME, error, "see the message above; `coldframe up --accel tcg` skips the probe")
        }
    }
}
