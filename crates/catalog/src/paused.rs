//! Sandboxes that have been paused: what a server needs to resume them after a restart. Their tokens are stored as they
//! are, in the catalog's private file: clients get them again when the sandbox is resumed.

use model::{PausedSandbox, SandboxId, SandboxSpec};
use sqlx::FromRow;

use crate::{Catalog, CatalogError, time};

#[derive(FromRow)]
struct PausedRow {
    id: String,
    spec: String,
    build_id: String,
    envd_version: String,
    paused_at: i64,
}

impl PausedRow {
    fn read(self) -> Result<PausedSandbox, CatalogError> {
        // The message of the parser may quote what it read, and that has tokens: only the place is told.
        let spec: SandboxSpec = serde_json::from_str(&self.spec).map_err(|error| CatalogError::Damaged {
            what: "paused sandbox",
            detail: format!("{}, at line {} column {}", self.id, error.line(), error.column()),
        })?;
        if spec.id.as_str() != self.id {
            let detail = format!("{} holds the specification of {}", self.id, spec.id);
            return Err(CatalogError::Damaged { what: "paused sandbox", detail });
        }
        Ok(PausedSandbox {
            spec,
            build: self.build_id.parse().map_err(CatalogError::damaged("build id"))?,
            paused_at: time::read("pause time", self.paused_at)?,
            envd_version: self.envd_version,
        })
    }
}

impl Catalog {
    /// Writes that a sandbox is paused; what was written of an earlier pause of it is replaced. Durable when it returns. The
    /// time is kept to the microsecond.
    ///
    /// # Errors
    /// When the catalog fails; nothing is changed then.
    pub async fn put_paused(&self, paused: &PausedSandbox) -> Result<(), CatalogError> {
        const WHAT: &str = "write a paused sandbox";
        let id = paused.spec.id.as_str();
        let spec = serde_json::to_string(&paused.spec)
            .map_err(|error| CatalogError::Query { what: WHAT, source: sqlx::Error::Encode(error.into()) })?;
        sqlx::query(
            "INSERT INTO paused_sandboxes (id, spec, build_id, envd_version, paused_at)
             VALUES ($1, $2, $3, $4, $5)
             ON CONFLICT (id) DO UPDATE
             SET spec = excluded.spec, build_id = excluded.build_id, envd_version = excluded.envd_version,
                 paused_at = excluded.paused_at",
        )
        .bind(id)
        .bind(spec)
        .bind(paused.build.as_str())
        .bind(&paused.envd_version)
        .bind(paused.paused_at.as_microsecond())
        .execute(&self.writer)
        .await
        .map_err(CatalogError::query(WHAT))?;
        Ok(())
    }

    /// Forgets what was written of a sandbox. `false` when nothing was.
    ///
    /// # Errors
    /// When the catalog fails.
    pub async fn remove_paused(&self, id: &SandboxId) -> Result<bool, CatalogError> {
        let done = sqlx::query("DELETE FROM paused_sandboxes WHERE id = $1")
            .bind(id.as_str())
            .execute(&self.writer)
            .await
            .map_err(CatalogError::query("remove a paused sandbox"))?;
        Ok(done.rows_affected() > 0)
    }

    /// What is written of every sandbox of every team, by id.
    ///
    /// # Errors
    /// When the catalog fails or a row cannot be read; leaving one out would be to lose that sandbox.
    pub async fn paused(&self) -> Result<Vec<PausedSandbox>, CatalogError> {
        const WHAT: &str = "list the paused sandboxes";
        let rows: Vec<PausedRow> = sqlx::query_as(
            "SELECT id, spec, build_id, envd_version, paused_at FROM paused_sandboxes ORDER BY id",
        )
        .fetch_all(&self.reader)
        .await
        .map_err(CatalogError::query(WHAT))?;
        rows.into_iter().map(PausedRow::read).collect()
    }
}
