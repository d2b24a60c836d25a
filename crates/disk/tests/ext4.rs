//! Images by the real mke2fs, checked by the real e2fsck and debugfs.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on should panic")]

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::Path;
use std::process::Command;

use disk::ext4::{Ext4Error, make_image};

fn tool(program: &str, arguments: &[&str], image: &Path) -> String {
    let output = Command::new(format!("/usr/sbin/{program}"))
        .args(arguments)
        .arg(image)
        .env("LC_ALL", "C")
        .output()
        .unwrap_or_else(|e| panic!("{program} (package e2fsprogs): {e}"));
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{program}: {text} {}", String::from_utf8_lossy(&output.stderr));
    text
}

#[test]
fn holds_the_tree_and_is_clean_sparse_and_reproducible() {
    let directory = tempfile::tempdir().unwrap();
    let tree = directory.path().join("tree");
    fs::create_dir_all(tree.join("etc")).unwrap();
    fs::write(tree.join("etc/motd"), "frost outside\n").unwrap();
    fs::write(tree.join("secret"), "x").unwrap();
    std::os::unix::fs::chown(tree.join("secret"), Some(1000), Some(1001)).unwrap();
    fs::set_permissions(tree.join("secret"), fs::Permissions::from_mode(0o4711)).unwrap();
    symlink("etc/motd", tree.join("link")).unwrap();

    let (one, two) = (directory.path().join("one.ext4"), directory.path().join("two.ext4"));
    make_image(&tree, &one, 256 << 20).unwrap();
    make_image(&tree, &two, 256 << 20).unwrap();

    tool("e2fsck", &["-fn"], &one);
    assert_eq!(tool("debugfs", &["-R", "cat /etc/motd"], &one), "frost outside\n");
    let inode = tool("debugfs", &["-R", "stat /secret"], &one);
    assert!(inode.contains("Mode:  04711") && inode.contains("User:  1000   Group:  1001"), "{inode}");
    assert!(tool("debugfs", &["-R", "stat /link"], &one).contains("etc/motd"));
    let header = tool("dumpe2fs", &["-h"], &one);
    assert!(header.contains("Reserved block count:     0\n"), "{header}");
    assert!(header.contains("has_journal"), "{header}");
    let groups = tool("dumpe2fs", &[], &one);
    let uninitialised = groups.lines().filter(|l| l.starts_with("Group ") && !l.contains("ITABLE_ZEROED"));
    assert_eq!(uninitialised.filter(|l| l.contains("csum")).count(), 0, "no work is left to the guest");

    let metadata = fs::metadata(&one).unwrap();
    assert_eq!(metadata.len(), 256 << 20);
    assert!(metadata.blocks() * 512 < 8 << 20, "sparse, but uses {} blocks", metadata.blocks());
    let same = Command::new("cmp").args([&one, &two]).status().unwrap();
    assert!(same.success(), "equal input gives equal bytes");
    assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 3, "no partial file is left");
}

#[test]
fn a_tree_that_does_not_fit_is_an_error_with_the_tools_words() {
    let directory = tempfile::tempdir().unwrap();
    let tree = directory.path().join("tree");
    fs::create_dir(&tree).unwrap();
    fs::write(tree.join("big"), vec![1; 40 << 20]).unwrap();
    let image = directory.path().join("image");
    let error = make_image(&tree, &image, 16 << 20).unwrap_err();
    assert!(matches!(&error, Ext4Error::Tool { .. }));
    assert!(error.to_string().contains("big"), "{error}");
    assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 1, "nothing is left");
}

#[test]
fn impossible_requests_are_refused() {
    let directory = tempfile::tempdir().unwrap();
    let image = directory.path().join("image");
    for size in [0, 4096, (16 << 20) + 1] {
        assert!(matches!(make_image(directory.path(), &image, size), Err(Ext4Error::Size(_))));
    }
    let missing = make_image(&directory.path().join("missing"), &image, 16 << 20).unwrap_err();
    assert!(missing.to_string().contains("missing"), "{missing}");
    let file = directory.path().join("file");
    fs::write(&file, "x").unwrap();
    assert!(matches!(make_image(&file, &image, 16 << 20), Err(Ext4Error::Io { .. })));
}
