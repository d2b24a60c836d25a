//! Teams, API keys, templates, snapshots and paused sandboxes, durably.
//!
//! One file of SQLite holds them. The server and the command line may have it open at once: whatever one of them
//! changes, the other sees at its next question, a deleted key within [`KEY_CACHE_TTL`]. The queries are plain enough
//! for PostgreSQL, which is to come by URL.
#![forbid(unsafe_code)]

mod error;
mod key;
mod key_cache;
mod lookup;
mod names;
mod paused;
mod removal;
mod snapshot;
mod snapshot_list;
mod store;
mod team;
mod template;
mod template_name;
mod time;

pub use error::{CatalogError, DeleteError, LookupError, SnapshotError};
pub use key::{ApiKey, KEY_HEX_CHARS, KEY_PREFIX, KeyMask};
pub use key_cache::KEY_CACHE_TTL;
pub use names::NamedBuild;
pub use snapshot::{NewSnapshot, Snapshot};
pub use snapshot_list::{SnapshotFilter, SnapshotPosition};
pub use store::Catalog;
pub use team::{DEFAULT_LIMITS, Team, TeamLimits};
pub use template::{Build, Template};
pub use template_name::{DEFAULT_TAG, TemplateName};
