//! The objects that a build consists of, and their names.

use std::fmt;

use serde::{Deserialize, Serialize};

/// The two images that a build can have.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ObjectKind {
    /// The guest's memory.
    Memory,
    /// The root disk.
    Disk,
}

impl ObjectKind {
    /// The object with the [`crate::Header`] of such an image.
    #[must_use]
    pub const fn header(self) -> ObjectName {
        match self {
            Self::Memory => ObjectName::MemoryHeader,
            Self::Disk => ObjectName::DiskHeader,
        }
    }

    /// The object with the pages that a build stores of such an image.
    #[must_use]
    pub const fn data(self) -> ObjectName {
        match self {
            Self::Memory => ObjectName::MemoryData,
            Self::Disk => ObjectName::DiskData,
        }
    }
}

impl fmt::Display for ObjectKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Memory => "memory",
            Self::Disk => "disk",
        })
    }
}

/// An object of a build. It is displayed as its file name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum ObjectName {
    /// The [`crate::Manifest`].
    Manifest,
    /// Where the pages of the memory are.
    MemoryHeader,
    /// The memory pages that this build stores itself.
    MemoryData,
    /// Where the pages of the disk are.
    DiskHeader,
    /// The disk pages that this build stores itself.
    DiskData,
    /// What the VMM wrote about its devices and processors.
    DeviceState,
}

impl ObjectName {
    /// Every object that a build can have.
    pub const ALL: [Self; 6] = [
        Self::Manifest,
        Self::MemoryHeader,
        Self::MemoryData,
        Self::DiskHeader,
        Self::DiskData,
        Self::DeviceState,
    ];

    /// The name of its file in the build's directory.
    #[must_use]
    pub const fn file_name(self) -> &'static str {
        match self {
            Self::Manifest => "manifest.json",
            Self::MemoryHeader => "memory.header",
            Self::MemoryData => "memory.data",
            Self::DiskHeader => "disk.header",
            Self::DiskData => "disk.data",
            Self::DeviceState => "device.state",
        }
    }
}

impl fmt::Display for ObjectName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.file_name())
    }
}
