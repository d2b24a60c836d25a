//! Snapshots: what running sandboxes were, kept for sandboxes to start from. They are templates: a create takes them by
//! their names, and `DELETE /templates/{id}` deletes them.

mod create;
mod cursor;
mod list;

pub(crate) use create::create;
pub(crate) use list::list;

use catalog::SnapshotError;
use http::StatusCode;

use crate::error::ApiError;

impl From<SnapshotError> for ApiError {
    fn from(error: SnapshotError) -> Self {
        let status = match &error {
            SnapshotError::ForeignNamespace { .. } => StatusCode::BAD_REQUEST,
            SnapshotError::NameTaken(_) => StatusCode::CONFLICT,
            SnapshotError::Storage(reason) => return Self::internal(reason),
        };
        Self::new(status, error.to_string())
    }
}
