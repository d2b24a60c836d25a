//! What a damaged disk costs: what it damaged, and nothing beside it. Whoever has a copy of that can put it back.

use std::fs;
use std::path::Path;
use std::sync::Arc;

use artifacts::{LocalStore, Store};
use build::ObjectName;
use catalog::Catalog;
use model::EndReason;

use crate::adopt::enter_pauses;
use crate::paused::Paused;
use crate::power_cut::CatalogRecords;
use crate::power_cut::builds::Pause;
use crate::references::References;

const FIRST: Pause = Pause { sandbox: "one", number: 1, needs: &[] };
const SECOND: Pause = Pause { sandbox: "one", number: 2, needs: &[1] };
const OTHER: Pause = Pause { sandbox: "two", number: 1, needs: &[] };

/// What becomes of an object whose bytes are these; with those of another build's.
type Damage = fn(&[u8], Vec<u8>) -> Option<Vec<u8>>;

const DAMAGES: [(&str, Damage); 5] = [
    ("deleted", |_, _| None),
    ("emptied", |_, _| Some(Vec::new())),
    // By more than the line feed at the end of a text.
    ("cut", |good, _| Some(good[..good.len() - 2].to_vec())),
    ("flipped", |good, _| {
        let mut bytes = good.to_vec();
        bytes[good.len() / 2] ^= 1;
        Some(bytes)
    }),
    ("swapped", |_, other| Some(other)),
];

/// Has a file hold something else, or removes it. An object is never written to.
fn put(path: &Path, content: Option<&[u8]>) {
    if path.exists() {
        fs::remove_file(path).unwrap();
    }
    if let Some(content) = content {
        fs::write(path, content).unwrap();
    }
}

fn publish(store: &LocalStore, pauses: &[Pause]) {
    for pause in pauses {
        let (staged, manifest) = pause.stage(store);
        staged.publish(&manifest).unwrap();
    }
}

/// Damages an object of a build that the second one is, or reads from, and starts a server; then puts it back.
async fn damage_and_repair(victim: Pause, name: ObjectName, what: &str, damage: Damage) {
    let directory = tempfile::tempdir().unwrap();
    let store = LocalStore::open(directory.path()).unwrap();
    publish(&store, &[FIRST, SECOND, OTHER]);
    let path = |pause: Pause| directory.path().join(pause.build().as_str()).join(name.file_name());
    let good = fs::read(path(victim)).unwrap();
    put(&path(victim), damage(&good, fs::read(path(OTHER)).unwrap()).as_deref());
    let context = format!("{name} of {} {what}", victim.build());
    assert!(victim == FIRST || SECOND.is_whole(&store).is_err(), "{context}");

    let references = References::load(directory.path()).await.unwrap();
    references.complete();
    let hold = references.hold(&SECOND.build());
    references.collect().await;
    // What is only read from says nothing about what else is needed.
    assert!(victim == SECOND || !store.contains(&OTHER.build()).unwrap(), "{context}");
    put(&path(victim), Some(&good));
    assert_eq!(SECOND.is_whole(&store), Ok(()), "{context}");

    put(&path(victim), None);
    drop(hold);
    references.collect().await;
    assert!(store.list().unwrap().is_empty(), "{context}: nobody needs it");
    assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 0, "{context}: nothing is left of it");
}

#[tokio::test]
async fn what_a_damaged_build_reads_from_is_kept() {
    for name in ObjectName::ALL {
        for (what, damage) in DAMAGES {
            for victim in [FIRST, SECOND] {
                damage_and_repair(victim, name, what, damage).await;
            }
        }
    }
}

#[tokio::test]
async fn a_damaged_record_costs_no_build() {
    for (what, damage) in DAMAGES.into_iter().filter(|(what, _)| *what != "deleted") {
        let directory = tempfile::tempdir().unwrap();
        let [sandboxes, builds] = ["sandboxes", "store"].map(|name| directory.path().join(name));
        let store = LocalStore::open(&builds).unwrap();
        publish(&store, &[FIRST, SECOND, OTHER]);
        for pause in [SECOND, OTHER] {
            let dir = sandboxes.join(pause.sandbox);
            fs::create_dir_all(&dir).unwrap();
            control::write_paused(&dir, &pause.record()).unwrap();
        }
        let record = |dir: &str| sandboxes.join(dir).join(control::PAUSED_FILE);
        let good = fs::read(record(SECOND.sandbox)).unwrap();
        put(&record(SECOND.sandbox), damage(&good, fs::read(record(OTHER.sandbox)).unwrap()).as_deref());

        let catalog = Arc::new(Catalog::open(&directory.path().join("catalog.db")).await.unwrap());
        let start = async || {
            let records = Arc::new(CatalogRecords(Arc::clone(&catalog)));
            let paused = Paused::load(records, &builds, &sandboxes).await.unwrap();
            enter_pauses(&sandboxes, &[], &paused).await.unwrap();
            paused.references().complete();
            paused.references().collect().await;
            let mut found: Vec<_> = paused.all().iter().map(|paused| paused.spec.id.to_string()).collect();
            found.sort();
            found
        };
        for _ in 0..2 {
            assert_eq!(start().await, ["two"], "{what}");
            assert!(SECOND.is_whole(&store).is_ok() && OTHER.is_whole(&store).is_ok(), "{what}");
            assert!(!record("one").exists() && record("one.damaged").exists(), "{what}");
        }
        put(&record("one.damaged"), Some(&good));
        assert_eq!(start().await, ["one", "two"], "{what}");
        assert!(SECOND.is_whole(&store).is_ok(), "{what}");
    }
}

/// The server ran when it happened, and has not heard of the last build.
#[tokio::test]
async fn a_record_that_is_damaged_while_the_server_runs_costs_no_build() {
    let directory = tempfile::tempdir().unwrap();
    let [sandboxes, builds] = ["sandboxes", "store"].map(|name| directory.path().join(name));
    let store = LocalStore::open(&builds).unwrap();
    publish(&store, &[FIRST]);
    let catalog = Arc::new(Catalog::open(&directory.path().join("catalog.db")).await.unwrap());
    let records = Arc::new(CatalogRecords(catalog));
    let paused = Paused::load(records, &builds, &sandboxes).await.unwrap();
    paused.references().complete();
    let first = paused.references().hold(&FIRST.build());
    publish(&store, &[SECOND]);
    let dir = sandboxes.join(SECOND.sandbox);
    let id = SECOND.sandbox.parse().unwrap();
    // Also when it happens to the same sandbox again.
    for aside in ["one.damaged", "one.damaged2"] {
        fs::create_dir_all(&dir).unwrap();
        put(&dir.join(control::PAUSED_FILE), Some(b"not what was written"));
        paused.settle(&id, &dir, &EndReason::SupervisorDied).await.unwrap();
        assert!(!dir.exists() && sandboxes.join(aside).join(control::PAUSED_FILE).exists());
    }
    drop(first);
    paused.references().find_all_of(&id).await;
    paused.references().collect().await;
    assert_eq!(SECOND.is_whole(&store), Ok(()));

    // A server that starts leaves them where they are.
    enter_pauses(&sandboxes, &[], &paused).await.unwrap();
    let mut left: Vec<_> = fs::read_dir(&sandboxes).unwrap().map(|dir| dir.unwrap().file_name()).collect();
    left.sort();
    assert_eq!(left, ["one.damaged", "one.damaged2"]);
}
