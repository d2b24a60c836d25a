//! Every object of a build, and of the one that it continues, damaged in every way a disk can. Whoever opens it is told what
//! is lost, the memory or more, and which object it is; and no byte is ever read that was not written.

use std::fs;
use std::path::PathBuf;

use artifacts::Store as _;
use build::{PageSink as _, Pages as _, ReadError};
use model::{MiB, VcpuCount};

use super::*;

const SHAPE: Shape = Shape { vcpus: VcpuCount(1), memory: MiB(1), disk: MiB(1) };
const PAGE: usize = 4096;
/// Of an image. The first of two builds has all but the last two, the second has two of them anew.
const PAGES: usize = 6;
const WRITTEN: Range<usize> = 0..4;
const REWRITTEN: Range<usize> = 1..3;
/// How far damaged bytes of pages are apart.
const STEP: usize = 512;

/// What is lost with an object.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Loss {
    Nothing,
    Memory,
    All,
}

/// The same objects of two families of builds.
struct Scene {
    directory: tempfile::TempDir,
    store: LocalStore,
}

/// The build `number` of a family.
fn id(family: char, number: usize) -> BuildId {
    format!("{family}{number}").parse().unwrap()
}

fn page(family: char, kind: ObjectKind, number: usize, page: usize) -> Vec<u8> {
    let number = if REWRITTEN.contains(&page) { number } else { 0 };
    format!("{family}{number}{kind}{page:04}").bytes().cycle().take(PAGE).collect()
}

/// What the image of the second build of the first family is.
fn image(kind: ObjectKind) -> Vec<Vec<u8>> {
    (0..PAGES)
        .map(|number| if WRITTEN.contains(&number) { page('a', kind, 1, number) } else { vec![0; PAGE] })
        .collect()
}

impl Scene {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let store = LocalStore::open(directory.path()).unwrap();
        let scene = Self { directory, store };
        for family in ['a', 'b'] {
            scene.publish(family, 0, WRITTEN);
            scene.publish(family, 1, REWRITTEN);
        }
        scene
    }

    fn publish(&self, family: char, number: usize, written: Range<usize>) {
        let staged = self.store.begin(&id(family, number)).unwrap();
        let parent = (number > 0).then(|| id(family, number - 1));
        let image = |kind| {
            let open = |parent| Arc::new(Image::open(&self.store, parent, kind).unwrap());
            let mut writer = staged.writer(kind, parent.as_ref().map(open), PAGES as u64).unwrap();
            for at in written.clone() {
                writer.data(at as u64, &page(family, kind, number, at)).unwrap();
            }
            writer.finish().unwrap()
        };
        let manifest = Manifest {
            parent: parent.clone(),
            memory: Some(image(ObjectKind::Memory)),
            device_state: Some(staged.put_blob(ObjectName::DeviceState, &state(family, number)).unwrap()),
            ..tests::manifest(&id(family, number), SHAPE, image(ObjectKind::Disk))
        };
        staged.publish(&manifest).unwrap();
    }

    fn path(&self, build: &BuildId, name: ObjectName) -> PathBuf {
        self.directory.path().join(build.as_str()).join(name.file_name())
    }

    /// Does what a disk does to an object that is never written again.
    fn put(&self, build: &BuildId, name: ObjectName, content: Option<&[u8]>) {
        let path = self.path(build, name);
        if path.exists() {
            fs::remove_file(&path).unwrap();
        }
        if let Some(content) = content {
            fs::write(path, content).unwrap();
        }
    }

    /// Opens the second build of the first family, and reads all of it that can be read. What is lost, and why.
    fn look(&self) -> (Loss, Vec<String>) {
        let (store, id) = (self.directory.path(), id('a', 1));
        let disk = open_disk(store, &id, SHAPE).map(|origin| read(&origin.disk, ObjectKind::Disk));
        match open(store, &id, SHAPE) {
            Ok(Origin { disk: again, saved, .. }) => {
                let saved = saved.unwrap();
                assert_eq!(saved.device_state, state('a', 1));
                let (memory, again) =
                    (read(&saved.memory, ObjectKind::Memory), read(&again, ObjectKind::Disk));
                assert_eq!(disk.unwrap(), again);
                let loss = match (memory.is_empty(), again.is_empty()) {
                    (true, true) => Loss::Nothing,
                    (false, true) => Loss::Memory,
                    _ => Loss::All,
                };
                (loss, [memory, again].concat())
            }
            Err(Unusable::Memory(why)) => {
                assert_eq!(disk.unwrap(), [""; 0]);
                (Loss::Memory, vec![why])
            }
            Err(Unusable::Other(why)) => {
                assert_eq!(disk, Err(why.clone()));
                (Loss::All, vec![why])
            }
        }
    }
}

fn state(family: char, number: usize) -> Vec<u8> {
    format!("the devices of {family}{number}").into_bytes()
}

/// Reads an image page by page. What cannot be read is said; what can is right.
fn read(found: &Image, kind: ObjectKind) -> Vec<String> {
    let mut errors = Vec::new();
    for (number, expected) in image(kind).into_iter().enumerate() {
        let mut bytes = vec![0xee; PAGE];
        match found.read(number as u64, &mut bytes) {
            Ok(()) => assert!(bytes == expected, "page {number} of the {kind} is wrong"),
            Err(error) => {
                assert!(matches!(error, ReadError::Damaged { .. }), "{error}");
                errors.push(error.to_string());
            }
        }
    }
    errors
}

/// What becomes of an object: what it is called here, and its bytes unless it is gone.
fn damages(name: ObjectName, good: &[u8], other: Vec<u8>) -> Vec<(String, Option<Vec<u8>>)> {
    let mut damages = vec![("deleted".into(), None), ("swapped".into(), Some(other))];
    for length in [0, 1, good.len() / 2, good.len() - 1] {
        damages.push((format!("cut to {length}"), Some(good[..length].to_vec())));
    }
    damages.push(("longer".into(), Some([good, &[0]].concat())));
    // A bit of every byte that is read as a whole, and of pages here and there.
    let is_data = matches!(name, ObjectName::MemoryData | ObjectName::DiskData);
    let pages = if is_data { good.len() / (PAGE + 4) * PAGE } else { 0 };
    let bytes = (0..pages).step_by(STEP).chain([pages.saturating_sub(1)]).chain(pages..good.len());
    for bit in bytes.map(|byte| byte * 8 + byte % 7) {
        let mut bytes = good.to_vec();
        bytes[bit / 8] ^= 1 << (bit % 8);
        damages.push((format!("bit {} of byte {} flipped", bit % 8, bit / 8), Some(bytes)));
    }
    damages
}

/// What may be lost with an object of the second build, or of the first.
fn lost(number: usize, name: ObjectName) -> Loss {
    match (number, name) {
        (1, ObjectName::MemoryHeader | ObjectName::DeviceState) | (_, ObjectName::MemoryData) => Loss::Memory,
        (1, ObjectName::Manifest | ObjectName::DiskHeader) | (_, ObjectName::DiskData) => Loss::All,
        // A header is complete: of what a build continues, only the pages are needed.
        _ => Loss::Nothing,
    }
}

#[test]
fn whatever_is_damaged_is_named_and_nothing_else_is_lost() {
    let scene = Scene::new();
    assert_eq!(scene.look(), (Loss::Nothing, vec![]));
    for (number, name) in (0..2).flat_map(|number| ObjectName::ALL.map(|name| (number, name))) {
        let build = id('a', number);
        let good = fs::read(scene.path(&build, name)).unwrap();
        let other = fs::read(scene.path(&id('b', number), name)).unwrap();
        if name != ObjectName::Manifest {
            assert_eq!(good.len(), other.len(), "a length tells nothing");
        }
        for (what, content) in damages(name, &good, other) {
            scene.put(&build, name, content.as_deref());
            let (loss, why) = scene.look();
            let context = format!("{name} of build {build} {what}: {loss:?} is lost: {why:?}");
            assert!(why.iter().all(|why| why.starts_with(&format!("{name} of build {build}"))), "{context}");
            // A page that nobody needs may be damaged, and a manifest may be written in other words.
            let may_be_whole = match name {
                ObjectName::Manifest => content.is_some(),
                _ => number == 0 && what.contains("flipped"),
            };
            let expected = lost(number, name);
            assert!(loss == expected || loss == Loss::Nothing && may_be_whole, "{context}");
            if loss == Loss::Memory {
                let disk = ObjectName::DiskData;
                let whole = fs::read(scene.path(&id('a', 1), disk)).unwrap();
                scene.put(&id('a', 1), disk, None);
                assert_eq!(
                    scene.look(),
                    (Loss::All, vec!["disk.data of build a1 does not exist".into()]),
                    "{context}"
                );
                scene.put(&id('a', 1), disk, Some(&whole));
            }
        }
        scene.put(&build, name, Some(&good));
        assert_eq!(scene.look(), (Loss::Nothing, vec![]), "{name} of build {build} is good again");
    }
}
