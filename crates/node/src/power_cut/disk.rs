//! A directory as a disk that forgets what was not synced.
//!
//! No file system is worse than this one: a file has on the disk what was synced, or of each sector anything that was
//! written to it since; a name in a directory is what it was when the directory was synced, or anything that it was since,
//! and no two names know of each other.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fs;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// What a disk writes as a whole, in bytes.
const SECTOR: usize = 512;
/// The directory that everything is in.
const ROOT: Id = Id(0);

/// A file or a directory. The numbers of inodes are used again, these are not.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
struct Id(u64);

type Names = BTreeMap<String, Id>;

#[derive(Debug, Clone, PartialEq, Eq)]
enum Content {
    File(Arc<[u8]>),
    Dir(Arc<Names>),
}

#[derive(Debug, Clone)]
struct Inode {
    synced: Content,
    /// What it had since then, the latest last.
    since: Vec<Content>,
}

impl Inode {
    fn latest(&self) -> &Content {
        self.since.last().unwrap_or(&self.synced)
    }

    fn versions(&self) -> Vec<&Content> {
        std::iter::once(&self.synced).chain(&self.since).collect()
    }
}

/// What is lost when the power is cut.
#[derive(Debug, Clone, Copy)]
pub(super) enum Loss {
    /// All that was not synced.
    Everything,
    /// Nothing.
    Nothing,
    /// The content of files, but not their lengths.
    Content,
    /// Some of everything.
    Some(u64),
}

/// What somebody finds when the power is back: files by their paths, and directories.
pub(super) type Found = BTreeMap<PathBuf, Option<Arc<[u8]>>>;

/// What of a disk is in its write cache, and what is not.
#[derive(Debug, Clone)]
pub(super) struct Disk {
    inodes: BTreeMap<Id, Inode>,
    numbers: HashMap<u64, Id>,
    next: u64,
}

impl Disk {
    /// The disk at `root`, of which everything is synced.
    pub(super) fn new(root: &Path) -> Self {
        let mut disk = Self { inodes: BTreeMap::new(), numbers: HashMap::new(), next: 0 };
        disk.look(root);
        for inode in disk.inodes.values_mut() {
            inode.synced = inode.latest().clone();
            inode.since.clear();
        }
        disk
    }

    /// Notes what changed. Returns whether anything did.
    pub(super) fn look(&mut self, root: &Path) -> bool {
        loop {
            let mut alive = BTreeSet::new();
            match self.look_at(root, &mut alive) {
                Ok((_, changed)) => {
                    self.numbers.retain(|_, id| alive.contains(id));
                    return changed;
                }
                // Another thread of the process removed it meanwhile.
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => panic!("looking at {}: {error}", root.display()),
            }
        }
    }

    fn look_at(&mut self, path: &Path, alive: &mut BTreeSet<Id>) -> io::Result<(Id, bool)> {
        let meta = fs::symlink_metadata(path)?;
        let id = *self.numbers.entry(meta.ino()).or_insert_with(|| {
            self.next += 1;
            Id(self.next - 1)
        });
        alive.insert(id);
        let mut changed = false;
        let (empty, content) = if meta.is_dir() {
            let mut names = Names::new();
            for entry in fs::read_dir(path)? {
                let name = entry?.file_name().into_string().unwrap();
                if !is_memory(&name) {
                    let (id, inside) = self.look_at(&path.join(&name), alive)?;
                    changed |= inside;
                    names.insert(name, id);
                }
            }
            (Content::Dir(Arc::default()), Content::Dir(names.into()))
        } else {
            assert!(meta.is_file(), "{}", path.display());
            (Content::File(Arc::default()), Content::File(fs::read(path)?.into()))
        };
        let inode = self.inodes.entry(id).or_insert_with(|| Inode { synced: empty, since: Vec::new() });
        if *inode.latest() != content {
            inode.since.push(content);
            changed = true;
        }
        Ok((id, changed))
    }

    /// Notes that the inode of this number is on stable storage.
    pub(super) fn sync(&mut self, number: u64) {
        // One without a name is lost in any case.
        if let Some(inode) = self.numbers.get(&number).and_then(|id| self.inodes.get_mut(id))
            && let Some(latest) = inode.since.pop()
        {
            inode.synced = latest;
            inode.since.clear();
        }
        self.forget();
    }

    /// Forgets what no name can lead to any more.
    fn forget(&mut self) {
        let mut reached = BTreeSet::new();
        let mut next = vec![ROOT];
        while let Some(id) = next.pop() {
            if reached.insert(id) {
                for content in self.inodes[&id].versions() {
                    if let Content::Dir(names) = content {
                        next.extend(names.values());
                    }
                }
            }
        }
        self.inodes.retain(|id, _| reached.contains(id));
    }

    /// What is there after a power cut.
    pub(super) fn after(&self, loss: Loss) -> Found {
        let mut found = Found::new();
        self.find(ROOT, PathBuf::new(), loss, &mut found);
        found
    }

    fn find(&self, id: Id, path: PathBuf, loss: Loss, found: &mut Found) {
        let inode = &self.inodes[&id];
        match inode.latest() {
            Content::File(latest) => {
                let bytes = match loss {
                    Loss::Nothing => latest.clone(),
                    Loss::Everything => file(&inode.synced).clone(),
                    Loss::Content => {
                        let mut bytes = file(&inode.synced).to_vec();
                        bytes.resize(latest.len(), 0);
                        bytes.into()
                    }
                    Loss::Some(seed) => mixed(inode, &mut Dice::new(seed, id)),
                };
                found.insert(path, Some(bytes));
            }
            Content::Dir(latest) => {
                let names = match loss {
                    Loss::Nothing | Loss::Content => Names::clone(latest),
                    Loss::Everything => Names::clone(dir(&inode.synced)),
                    Loss::Some(seed) => {
                        let dice = &mut Dice::new(seed, id);
                        let versions: Vec<&Names> = inode.versions().into_iter().map(dir).collect();
                        let all: BTreeSet<&String> = versions.iter().flat_map(|names| names.keys()).collect();
                        all.into_iter()
                            .filter_map(|name| Some((name.clone(), *dice.pick(&versions).get(name)?)))
                            .collect()
                    }
                };
                for (name, id) in names {
                    self.find(id, path.join(name), loss, found);
                }
                found.insert(path, None);
            }
        }
    }
}

/// Each sector and the length are those of any moment since the sync.
fn mixed(inode: &Inode, dice: &mut Dice) -> Arc<[u8]> {
    let versions: Vec<&Arc<[u8]>> = inode.versions().into_iter().map(file).collect();
    if let [only] = versions.as_slice() {
        return Arc::clone(only);
    }
    let mut bytes = vec![0; dice.pick(&versions).len()];
    for (number, sector) in bytes.chunks_mut(SECTOR).enumerate() {
        let written = dice.pick(&versions).get(number * SECTOR..).unwrap_or_default();
        let length = written.len().min(sector.len());
        sector[..length].copy_from_slice(&written[..length]);
    }
    bytes.into()
}

/// The index of a write-ahead log is shared memory that happens to have a name: `SQLite` makes it anew.
fn is_memory(name: &str) -> bool {
    name.ends_with("-shm")
}

fn file(content: &Content) -> &Arc<[u8]> {
    let Content::File(bytes) = content else { panic!("a directory was a file") };
    bytes
}

fn dir(content: &Content) -> &Names {
    let Content::Dir(names) = content else { panic!("a file was a directory") };
    names
}

/// Falls the same for the same inode and seed.
struct Dice(u64);

impl Dice {
    fn new(seed: u64, id: Id) -> Self {
        let mut hasher = DefaultHasher::new();
        (seed, id).hash(&mut hasher);
        Self(hasher.finish())
    }

    fn pick<'a, T>(&mut self, from: &[&'a T]) -> &'a T
    where
        T: ?Sized,
    {
        // SplitMix64.
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        let count = from.len() as u64;
        from[usize::try_from((mixed ^ (mixed >> 31)) % count).unwrap()]
    }
}
