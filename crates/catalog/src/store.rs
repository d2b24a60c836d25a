use std::fs::{OpenOptions, Permissions};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use sqlx::SqlitePool;
use sqlx::sqlite::{SqliteConnectOptions, SqliteJournalMode, SqlitePoolOptions, SqliteSynchronous};

use crate::CatalogError;
use crate::key_cache::KeyCache;

/// Connections for reading. Every connection has a thread and a page cache, and a read takes some 50 µs.
const READERS: u32 = 2;
/// Page cache of one connection. The whole catalog of a busy machine is not much larger.
const PAGE_CACHE_KIB: u32 = 256;
/// How long a statement waits for another process that writes.
const BUSY_TIMEOUT: Duration = Duration::from_secs(5);
/// How long a caller waits for a connection before it is told that the catalog is too busy.
const ACQUIRE_TIMEOUT: Duration = Duration::from_secs(10);
/// Prepared statements that one connection keeps; there are about so many different ones.
const STATEMENT_CACHE: usize = 32;
/// The file holds hashes of keys and the tokens of paused sandboxes: nobody else's business.
const FILE_MODE: u32 = 0o600;

/// Teams, API keys, templates, snapshots and paused sandboxes. Clones share the connections and what is remembered of keys.
#[derive(Debug, Clone)]
pub struct Catalog {
    pub(crate) writer: SqlitePool,
    pub(crate) reader: SqlitePool,
    pub(crate) keys: Arc<KeyCache>,
    path: Arc<Path>,
}

impl Catalog {
    /// Opens the catalog, makes it when it is not there (mode 0600) and brings its tables to this version's form.
    ///
    /// # Errors
    /// When the file cannot be made, is no catalog, or was written by a newer version.
    pub async fn open(path: &Path) -> Result<Self, CatalogError> {
        make_private(path).map_err(|source| CatalogError::File { path: path.into(), source })?;
        let options = SqliteConnectOptions::new()
            .filename(path)
            .journal_mode(SqliteJournalMode::Wal)
            // A key that was handed out must survive a power cut; writes are rare, so the sync costs nothing.
            .synchronous(SqliteSynchronous::Full)
            .foreign_keys(true)
            .busy_timeout(BUSY_TIMEOUT)
            .statement_cache_capacity(STATEMENT_CACHE)
            .thread_name(|n| format!("catalog-{n}"))
            .pragma("cache_size", format!("-{PAGE_CACHE_KIB}"));
        let open_error = |source| CatalogError::Open { path: path.into(), source };
        let writer = pool(1).connect_with(options.clone()).await.map_err(open_error)?;
        if let Err(source) = sqlx::migrate!().run(&writer).await {
            writer.close().await;
            return Err(CatalogError::Migrate { path: path.into(), source });
        }
        let reader = pool(READERS).connect_lazy_with(options.pragma("query_only", "on"));
        Ok(Self { writer, reader, keys: Arc::default(), path: path.into() })
    }

    /// The file that holds the catalog.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Finishes what is under way and closes the file.
    pub async fn close(&self) {
        self.reader.close().await;
        self.writer.close().await;
    }
}

fn pool(connections: u32) -> SqlitePoolOptions {
    SqlitePoolOptions::new()
        .max_connections(connections)
        .acquire_timeout(ACQUIRE_TIMEOUT)
        .idle_timeout(None)
        .max_lifetime(None)
        // It is a local file: a connection cannot have gone stale.
        .test_before_acquire(false)
}

/// The write-ahead log and its index take the mode of the main file, so this protects them too.
fn make_private(path: &Path) -> std::io::Result<()> {
    let file = OpenOptions::new().create(true).truncate(false).write(true).mode(FILE_MODE).open(path)?;
    file.set_permissions(Permissions::from_mode(FILE_MODE))
}
