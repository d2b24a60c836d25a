//! What goes out of the catalog, and which builds nobody can name then.

use model::{BuildId, TeamId};
use sqlx::SqliteConnection;

use crate::lookup::find_id;
use crate::snapshot::lock_team;
use crate::{Catalog, CatalogError, DeleteError, TemplateName};

impl Catalog {
    /// Deletes a template or snapshots of a team, durably: with a tag only what the tag means, and everything that has the
    /// name with its last tag or without one. What comes back are the builds that no name leads to any more.
    ///
    /// # Errors
    /// When the team has none of that name, it is built in, or the catalog fails; nothing is changed then.
    pub async fn delete_template(
        &self,
        team: &TeamId,
        name: &TemplateName,
    ) -> Result<Vec<BuildId>, DeleteError> {
        const WHAT: &str = "delete a template";
        let not_found = || DeleteError::NotFound(name.untagged());
        let mut tx = self.writer.begin().await.map_err(CatalogError::query(WHAT))?;
        lock_team(&mut tx, team).await?;
        let id = find_id(&mut tx, team, name).await?.ok_or_else(not_found)?;
        let (owner,): (Option<String>,) = sqlx::query_as("SELECT team_id FROM templates WHERE id = $1")
            .bind(&id)
            .fetch_one(&mut *tx)
            .await
            .map_err(CatalogError::query(WHAT))?;
        match owner {
            None => return Err(DeleteError::BuiltIn(name.untagged())),
            // Another team's looks like none.
            Some(owner) if owner != team.as_str() => return Err(not_found()),
            Some(_) => {}
        }
        let unnamed = match &name.tag {
            None => delete_whole(&mut tx, &id).await?,
            Some(tag) => {
                let build = delete_tag(&mut tx, &id, tag)
                    .await?
                    .ok_or_else(|| DeleteError::TagNotFound { name: name.untagged(), tag: tag.clone() })?;
                if has_tags(&mut tx, &id).await? {
                    if drop_unnamed(&mut tx, &build).await? { vec![build] } else { Vec::new() }
                } else {
                    delete_whole(&mut tx, &id).await?
                }
            }
        };
        tx.commit().await.map_err(CatalogError::query(WHAT))?;
        Ok(unnamed)
    }

    /// Every build of every team's templates and snapshots: those that are not to be forgotten. What paused sandboxes read
    /// from is theirs, and goes with them: see [`Catalog::paused`].
    ///
    /// # Errors
    /// When the catalog fails or a row cannot be read; leaving one out would be to lose that build.
    pub async fn named_builds(&self) -> Result<Vec<BuildId>, CatalogError> {
        let rows: Vec<(String,)> = sqlx::query_as("SELECT id FROM builds ORDER BY id")
            .fetch_all(&self.reader)
            .await
            .map_err(CatalogError::query("list the builds"))?;
        read(rows)
    }
}

/// Deletes a build that no tag leads to. `false` when one does.
pub(crate) async fn drop_unnamed(tx: &mut SqliteConnection, build: &BuildId) -> Result<bool, CatalogError> {
    let done = sqlx::query(
        "DELETE FROM builds WHERE id = $1 AND NOT EXISTS (SELECT 1 FROM template_tags WHERE build_id = $1)",
    )
    .bind(build.as_str())
    .execute(tx)
    .await
    .map_err(CatalogError::query("delete a build"))?;
    Ok(done.rows_affected() > 0)
}

/// The build that the tag meant; `None` when there is no such tag.
async fn delete_tag(
    tx: &mut SqliteConnection,
    template: &str,
    tag: &str,
) -> Result<Option<BuildId>, CatalogError> {
    let row: Option<(String,)> =
        sqlx::query_as("DELETE FROM template_tags WHERE template_id = $1 AND tag = $2 RETURNING build_id")
            .bind(template)
            .bind(tag)
            .fetch_optional(tx)
            .await
            .map_err(CatalogError::query("delete a tag"))?;
    row.map(|(id,)| id.parse()).transpose().map_err(CatalogError::damaged("build id"))
}

async fn has_tags(tx: &mut SqliteConnection, template: &str) -> Result<bool, CatalogError> {
    let (count,): (i64,) = sqlx::query_as("SELECT COUNT(*) FROM template_tags WHERE template_id = $1")
        .bind(template)
        .fetch_one(tx)
        .await
        .map_err(CatalogError::query("count the tags"))?;
    Ok(count > 0)
}

/// Row by row: a tag refers to its build, and whether a cascade gets that right depends on the database.
async fn delete_whole(tx: &mut SqliteConnection, template: &str) -> Result<Vec<BuildId>, CatalogError> {
    const WHAT: &str = "delete a template";
    for statement in [
        "DELETE FROM template_tags WHERE template_id = $1",
        "DELETE FROM template_aliases WHERE template_id = $1",
    ] {
        sqlx::query(statement).bind(template).execute(&mut *tx).await.map_err(CatalogError::query(WHAT))?;
    }
    let builds: Vec<(String,)> = sqlx::query_as("DELETE FROM builds WHERE template_id = $1 RETURNING id")
        .bind(template)
        .fetch_all(&mut *tx)
        .await
        .map_err(CatalogError::query(WHAT))?;
    sqlx::query("DELETE FROM templates WHERE id = $1")
        .bind(template)
        .execute(&mut *tx)
        .await
        .map_err(CatalogError::query(WHAT))?;
    read(builds)
}

fn read(rows: Vec<(String,)>) -> Result<Vec<BuildId>, CatalogError> {
    rows.into_iter().map(|(id,)| id.parse().map_err(CatalogError::damaged("build id"))).collect()
}
