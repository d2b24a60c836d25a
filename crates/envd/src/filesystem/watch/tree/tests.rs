//! What happens between two looks at the kernel's queue, however much it is.

use std::fs;

use super::*;

struct Scene {
    root: tempfile::TempDir,
    tree: Tree,
}

impl Scene {
    /// A tree that is watched, with these directories in it.
    fn new(directories: &[&str]) -> Self {
        let root = tempfile::tempdir().unwrap();
        for directory in directories {
            fs::create_dir_all(root.path().join(directory)).unwrap();
        }
        let tree = Tree::new(root.path().to_owned(), true).unwrap();
        Self { root, tree }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.root.path().join(name)
    }

    fn make(&self, name: &str) {
        fs::create_dir_all(self.path(name)).unwrap();
    }

    fn write(&self, name: &str) {
        fs::write(self.path(name), "").unwrap();
    }

    fn rename(&self, from: &str, to: &str) {
        fs::rename(self.path(from), self.path(to)).unwrap();
    }

    /// Everything until now, as `+name` for what appeared, `-name` for what went away.
    fn read(&mut self) -> Vec<String> {
        let mut changes = Vec::new();
        while self.tree.read(&mut changes).unwrap() == Rest::Maybe {}
        let sign = |change| match change {
            Change::Create => "+",
            Change::Remove | Change::Rename => "-",
            Change::Write => "w",
            Change::Chmod => "m",
        };
        changes.into_iter().map(|(path, change)| format!("{}{}", sign(change), path.display())).collect()
    }

    /// Whether changes in a directory are heard of, under its name.
    fn hears(&mut self, directory: &str) -> bool {
        self.write(&format!("{directory}/probe"));
        let heard = self.read() == [format!("+{directory}/probe")];
        fs::remove_file(self.path(&format!("{directory}/probe"))).unwrap();
        heard && self.read() == [format!("-{directory}/probe")]
    }
}

#[test]
fn nested_directories_made_at_once() {
    let mut scene = Scene::new(&[]);
    scene.make("a/b/c");
    scene.write("a/b/c/file");
    assert_eq!(scene.read(), ["+a", "+a/b", "+a/b/c", "+a/b/c/file"]);
    assert!(scene.hears("a/b/c") && scene.hears("a"));
    assert!(scene.tree.announced.is_empty());
}

#[test]
fn what_was_there_before_is_not_told() {
    let mut scene = Scene::new(&["a/b"]);
    assert!(scene.read().is_empty());
    assert!(scene.hears("a/b"));
}

#[test]
fn made_and_renamed_before_anybody_looked() {
    let mut scene = Scene::new(&[]);
    scene.make("a/b");
    scene.rename("a", "z");
    let seen = scene.read();
    assert_eq!(seen.iter().filter(|line| *line == "+z").count(), 1, "{seen:?}");
    assert_eq!(seen.iter().filter(|line| line.ends_with("/b")).collect::<Vec<_>>(), ["+z/b"], "{seen:?}");
    assert!(scene.hears("z") && scene.hears("z/b"));
}

#[test]
fn a_directory_made_in_one_that_is_renamed_then() {
    let mut scene = Scene::new(&["a"]);
    scene.make("a/b/c");
    scene.rename("a", "z");
    let seen = scene.read();
    assert_eq!(seen, ["+a/b", "-a", "+z", "+z/b/c"]);
    assert!(scene.hears("z") && scene.hears("z/b") && scene.hears("z/b/c"));
}

#[test]
fn another_one_takes_the_name() {
    let mut scene = Scene::new(&["a/old"]);
    scene.rename("a", "z");
    scene.make("a/new");
    let seen = scene.read();
    assert_eq!(seen, ["-a", "+z", "+a", "+a/new"]);
    for directory in ["a", "a/new", "z", "z/old"] {
        assert!(scene.hears(directory), "{directory}");
    }
}

#[test]
fn removed_and_made_again() {
    let mut scene = Scene::new(&[]);
    scene.make("a/b");
    fs::remove_dir_all(scene.path("a")).unwrap();
    scene.make("a/b");
    let seen = scene.read();
    // However it is told, in the end both are there.
    for name in ["a", "a/b"] {
        let last = seen.iter().rfind(|line| &line[1..] == name).unwrap();
        assert_eq!(last, &format!("+{name}"), "{seen:?}");
        assert!(scene.hears(name), "{name}");
    }
}

#[test]
fn in_and_out_of_the_tree() {
    let outside = tempfile::tempdir().unwrap();
    let mut scene = Scene::new(&["a/b"]);
    fs::rename(scene.path("a"), outside.path().join("a")).unwrap();
    assert_eq!(scene.read(), ["-a"]);
    fs::write(outside.path().join("a/b/file"), "").unwrap();
    assert!(scene.read().is_empty());
    assert_eq!(scene.tree.directories.len(), 1);
    fs::rename(outside.path().join("a"), scene.path("back")).unwrap();
    assert_eq!(scene.read(), ["+back", "+back/b", "+back/b/file"]);
    assert!(scene.hears("back/b"));
}

#[test]
fn exchanged() {
    use rustix::fs::{CWD, RenameFlags, renameat_with};
    let mut scene = Scene::new(&["a/in-a", "b/in-b"]);
    renameat_with(CWD, scene.path("a"), CWD, scene.path("b"), RenameFlags::EXCHANGE).unwrap();
    scene.read();
    for directory in ["a/in-b", "b/in-a", "a", "b"] {
        assert!(scene.hears(directory), "{directory}");
    }
}

#[test]
fn links_are_not_directories() {
    let mut scene = Scene::new(&[]);
    let outside = tempfile::tempdir().unwrap();
    fs::create_dir(outside.path().join("x")).unwrap();
    scene.make("a");
    std::os::unix::fs::symlink(outside.path(), scene.path("a/link")).unwrap();
    assert_eq!(scene.read(), ["+a", "+a/link"]);
    fs::write(outside.path().join("x/file"), "").unwrap();
    assert!(scene.read().is_empty());
}
