//! Manifests as text.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on should panic")]

use build::{
    BlobInfo, BootFiles, FormatError, MAX_MANIFEST_BYTES, MAX_WORKING_SET, Manifest, ObjectInfo, VmmIdentity,
};
use model::{MiB, Shape, VcpuCount};
use proptest::prelude::*;

fn example() -> Manifest {
    Manifest {
        id: "seedling".parse().unwrap(),
        parent: Some("base".parse().unwrap()),
        created_at: "2026-02-03T04:05:06.789Z".parse().unwrap(),
        owner: Some("isandbox".parse().unwrap()),
        shape: Shape { vcpus: VcpuCount(1), memory: MiB(512), disk: MiB(8192) },
        vmm: VmmIdentity {
            name: "qemu".into(),
            version: "7.2.22".into(),
            accel: "tcg".into(),
            cpu: "max".into(),
            machine: "microvm,rtc=on".into(),
        },
        tsc_khz: Some(2_400_000),
        envd_version: "0.6.13".into(),
        memory: Some(ObjectInfo { bytes: 4100, header_crc: 1 }),
        disk: ObjectInfo { bytes: 8200, header_crc: u32::MAX },
        device_state: Some(BlobInfo { bytes: 3, crc: 2 }),
        working_set: vec![(7, 1), (0, 3)],
        boot: Some(BootFiles { kernel: "kernels/6.1/vmlinux".into(), initrd: "kernels/6.1/initrd".into() }),
    }
}

#[test]
fn format_1_is_read_and_written_as_ever() {
    let fixture = include_bytes!("fixtures/manifest-1.json");
    assert_eq!(Manifest::decode(fixture).unwrap(), example());
    assert_eq!(example().encode().unwrap(), fixture);
}

#[test]
fn what_is_optional_may_be_missing() {
    let manifest = Manifest {
        parent: None,
        owner: None,
        tsc_khz: None,
        memory: None,
        device_state: None,
        working_set: vec![],
        boot: None,
        ..example()
    };
    assert_eq!(Manifest::decode(&manifest.encode().unwrap()).unwrap(), manifest);
}

#[test]
fn every_flipped_bit_is_an_error_or_means_the_same() {
    let bytes = example().encode().unwrap();
    for bit in 0..bytes.len() * 8 {
        let mut damaged = bytes.clone();
        damaged[bit / 8] ^= 1 << (bit % 8);
        if let Ok(manifest) = Manifest::decode(&damaged) {
            assert_eq!(manifest, example(), "bit {bit}");
        }
    }
}

#[test]
fn a_later_format_is_refused_whatever_it_looks_like() {
    let error = Manifest::decode(br#"{"format": 2, "something": "else"}"#).unwrap_err();
    assert_eq!(error, FormatError::Newer { found: 2, newest: 1 });
    assert!(error.to_string().contains("use a newer one"), "{error}");
    assert!(Manifest::decode(br#"{"format": 0}"#).is_err());
    assert!(Manifest::decode(b"").is_err());
    assert!(Manifest::decode(b"[]").is_err());
}

#[test]
fn sizes_are_limited() {
    let mut manifest = example();
    manifest.working_set = vec![(u64::from(u32::MAX), u64::from(u32::MAX)); MAX_WORKING_SET];
    Manifest::decode(&manifest.encode().unwrap()).unwrap();
    manifest.working_set.push((0, 1));
    assert!(matches!(manifest.encode(), Err(FormatError::TooMany { .. })));
    let large = vec![b' '; MAX_MANIFEST_BYTES + 1];
    assert!(matches!(Manifest::decode(&large), Err(FormatError::TooMany { .. })));
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn arbitrary_text_never_panics(bytes in prop::collection::vec(any::<u8>(), 0..200), text in ".{0,100}") {
        prop_assert!(Manifest::decode(&bytes).is_err());
        prop_assert!(Manifest::decode(text.as_bytes()).is_err());
    }
}
