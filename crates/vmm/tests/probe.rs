//! The accelerator probe on whatever this host is.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on should panic")]

mod common;

use std::fs;
use std::path::Path;

use common::Guest;
use vmm::{Accel, AccelChoice, choose};

#[tokio::test]
async fn the_verdict_is_found_by_booting_explained_and_remembered() {
    let guest = Guest::get();
    let directory = tempfile::tempdir().unwrap();
    let memo = directory.path().join("cache/accel.json");
    let verdict = choose(AccelChoice::Auto, &guest.kernel, &guest.initrd, &memo).await.unwrap();
    println!("{}: {}", verdict.accel, verdict.reason);
    match verdict.accel {
        Accel::Kvm => assert_eq!(verdict.reason, "a test guest booted under KVM"),
        Accel::Tcg => assert!(verdict.reason.contains("/dev/kvm"), "{}", verdict.reason),
    }
    if !Path::new("/dev/kvm").exists() {
        assert!(!memo.exists(), "what costs nothing to find out is not remembered");
        return;
    }

    let again = choose(AccelChoice::Auto, &guest.kernel, &guest.initrd, &memo).await.unwrap();
    assert_eq!(again.accel, verdict.accel);
    assert!(
        again.reason.starts_with(&verdict.reason) && again.reason.ends_with("(seen earlier)"),
        "{}",
        again.reason
    );
}

#[tokio::test]
async fn a_guest_that_cannot_boot_means_tcg_and_a_file_that_cannot_be_written_nothing() {
    let guest = Guest::get();
    let verdict = choose(AccelChoice::Auto, &guest.initrd, &guest.initrd, Path::new("/proc/version/memo"))
        .await
        .unwrap();
    assert_eq!(verdict.accel, Accel::Tcg, "{}", verdict.reason);
}

#[tokio::test]
async fn the_operators_choice_needs_no_proof() {
    let nowhere = Path::new("/nonexistent");
    let tcg = choose(AccelChoice::Tcg, nowhere, nowhere, nowhere).await.unwrap();
    assert_eq!((tcg.accel, &*tcg.reason), (Accel::Tcg, "it was chosen"));
    let kvm = choose(AccelChoice::Kvm, nowhere, nowhere, nowhere).await;
    if fs::File::options().read(true).write(true).open("/dev/kvm").is_ok() {
        assert_eq!(kvm.unwrap().accel, Accel::Kvm);
    } else {
        assert!(kvm.unwrap_err().to_string().contains("/dev/kvm"));
    }
}
