//! What the routes say about a file that was written.

use std::collections::BTreeMap;
use std::path::Path;

use serde::Serialize;

/// A file that was written.
#[derive(Debug, Serialize)]
pub(super) struct Written {
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    metadata: BTreeMap<String, String>,
    name: String,
    path: String,
    r#type: &'static str,
}

impl Written {
    /// The file at this path, with what was attached to it.
    pub(super) fn new(path: &Path, metadata: BTreeMap<String, String>) -> Self {
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        Self { metadata, name, path: path.to_string_lossy().into_owned(), r#type: "file" }
    }
}
