//! Where things are below the state directory.

use std::path::{Path, PathBuf};

use model::BuildId;

/// Paths below one state directory. Nothing is made until it is needed.
#[derive(Debug, Clone)]
pub struct Dirs {
    root: PathBuf,
}

impl Dirs {
    /// The paths below the state directory `root`.
    pub fn new(root: impl Into<PathBuf>) -> Self {
        Self { root: root.into() }
    }

    /// Kernels and their initramfs.
    #[must_use]
    pub fn kernels(&self) -> PathBuf {
        self.root.join("kernels")
    }

    /// The directory of a build.
    #[must_use]
    pub fn build(&self, id: &BuildId) -> PathBuf {
        self.builds().join(id.as_str())
    }

    pub(crate) fn root(&self) -> &Path {
        &self.root
    }

    pub(crate) fn builds(&self) -> PathBuf {
        self.root.join("builds")
    }

    pub(crate) fn cache(&self) -> PathBuf {
        self.root.join("cache")
    }

    /// Names the current base build.
    pub(crate) fn current_base(&self) -> PathBuf {
        self.builds().join("base.json")
    }
}
