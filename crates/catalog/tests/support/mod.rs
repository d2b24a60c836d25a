//! A catalog in a file of its own.
#![allow(dead_code, reason = "each file of tests uses a part of it")]

use std::path::{Path, PathBuf};

use catalog::Catalog;
use tempfile::TempDir;

pub(crate) struct Scene {
    dir: TempDir,
    pub(crate) catalog: Catalog,
}

impl Scene {
    pub(crate) async fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let catalog = Catalog::open(&dir.path().join("catalog.db")).await.unwrap();
        Self { dir, catalog }
    }

    pub(crate) fn dir(&self) -> &Path {
        self.dir.path()
    }

    pub(crate) fn path(&self) -> PathBuf {
        self.dir().join("catalog.db")
    }

    /// The same catalog as another process has it.
    pub(crate) async fn another_process(&self) -> Catalog {
        Catalog::open(&self.path()).await.unwrap()
    }
}
