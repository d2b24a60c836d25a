//! See [`crate::fuzzing`].

use super::body::InitBody;
use super::{hyperloop, pem, volumes};

/// Reads the body of a request to `/init` and checks what those rely on who act on it.
///
/// # Errors
/// What is wrong with it, for people.
pub fn init_body(bytes: &[u8]) -> Result<(), String> {
    let body = InitBody::parse(bytes)?;
    if let Some(certificates) = &body.ca_bundle {
        let again = pem::normalise(certificates);
        assert_eq!(again.as_ref(), Ok(certificates), "what was written in one way is written so again");
    }
    assert!(volumes::check(&body.volume_mounts).is_ok());
    for volume in &body.volume_mounts {
        let (_, path) = volume.server().expect("it was checked");
        assert!(path.starts_with('/') && volume.nfs_target.ends_with(path));
    }
    let due = volumes::Ledger::default().due(&body.volume_mounts, body.lifecycle_id.as_deref());
    assert_eq!(due, body.volume_mounts, "no two of them are at the same place");
    if let Some(ip) = body.hyperloop {
        // Any file of names, and the request is at hand.
        let once = hyperloop::with_name(bytes, ip);
        assert_eq!(hyperloop::with_name(&once, ip), once);
    }
    Ok(())
}
