//! Sandboxes that have been paused: what a server needs to resume them after a restart. Their tokens are stored as they
//! are, in the catalog's private file: clients get them again when the sandbox is resumed.

use std::collections::HashMap;

use model::{BuildId, PausedSandbox, SandboxId, SandboxSpec};
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
    fn read(self, builds: Vec<BuildId>) -> Result<PausedSandbox, CatalogError> {
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
            builds,
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
        let mut tx = self.writer.begin().await.map_err(CatalogError::query(WHAT))?;
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
        .execute(&mut *tx)
        .await
        .map_err(CatalogError::query(WHAT))?;
        sqlx::query("DELETE FROM paused_sandbox_builds WHERE sandbox_id = $1")
            .bind(id)
            .execute(&mut *tx)
            .await
            .map_err(CatalogError::query(WHAT))?;
        for (ordinal, build) in (0_i64..).zip(&paused.builds) {
            sqlx::query(
                "INSERT INTO paused_sandbox_builds (sandbox_id, ordinal, build_id) VALUES ($1, $2, $3)",
            )
            .bind(id)
            .bind(ordinal)
            .bind(build.as_str())
            .execute(&mut *tx)
            .await
            .map_err(CatalogError::query(WHAT))?;
        }
        tx.commit().await.map_err(CatalogError::query(WHAT))
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
        // One transaction, so that both questions are about the same moment.
        let mut tx = self.reader.begin().await.map_err(CatalogError::query(WHAT))?;
        let rows: Vec<PausedRow> = sqlx::query_as(
            "SELECT id, spec, build_id, envd_version, paused_at FROM paused_sandboxes ORDER BY id",
        )
        .fetch_all(&mut *tx)
        .await
        .map_err(CatalogError::query(WHAT))?;
        let pairs: Vec<(String, String)> = sqlx::query_as(
            "SELECT sandbox_id, build_id FROM paused_sandbox_builds ORDER BY sandbox_id, ordinal",
        )
        .fetch_all(&mut *tx)
        .await
        .map_err(CatalogError::query(WHAT))?;
        tx.commit().await.map_err(CatalogError::query(WHAT))?;

        let mut builds: HashMap<String, Vec<BuildId>> = HashMap::new();
        for (sandbox, build) in pairs {
            let build = build.parse().map_err(CatalogError::damaged("build id"))?;
            builds.entry(sandbox).or_default().push(build);
        }
        rows.into_iter()
            .map(|row| {
                let builds = builds.remove(&row.id).unwrap_or_default();
                row.read(builds)
            })
            .collect()
    }
}
