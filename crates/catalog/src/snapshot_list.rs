//! The snapshots of a team, page by page.

use jiff::Timestamp;
use model::{SandboxId, TeamId, TemplateId};
use sqlx::FromRow;

use crate::lookup::find_id;
use crate::snapshot::{check_namespace, slug_of};
use crate::{Catalog, CatalogError, Snapshot, SnapshotError, TemplateName, time};

/// Which snapshots are wanted; `None` leaves it open.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SnapshotFilter {
    /// Those of this sandbox.
    pub source: Option<SandboxId>,
    /// Those of this name or identifier; without a tag, whatever their tags are.
    pub name: Option<TemplateName>,
}

/// Where a snapshot is in the list: it comes before older ones.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SnapshotPosition {
    /// When it was made, to the microsecond.
    pub made_at: Timestamp,
    /// Among those of one moment, by template.
    pub template: TemplateId,
    /// Among those of one template, by tag.
    pub tag: String,
}

impl Snapshot {
    /// Where it is in the list.
    #[must_use]
    pub fn position(&self) -> SnapshotPosition {
        SnapshotPosition { made_at: self.made_at, template: self.template.clone(), tag: self.tag.clone() }
    }
}

#[derive(FromRow)]
struct SnapshotRow {
    id: String,
    slug: String,
    alias: Option<String>,
    tag: String,
    build_id: String,
    source_sandbox: String,
    created_at: i64,
}

impl SnapshotRow {
    fn read(self) -> Result<Snapshot, CatalogError> {
        Ok(Snapshot {
            template: self.id.parse().map_err(CatalogError::damaged("template id"))?,
            team_slug: self.slug,
            alias: self.alias,
            tag: self.tag,
            build: self.build_id.parse().map_err(CatalogError::damaged("build id"))?,
            source: self.source_sandbox.parse().map_err(CatalogError::damaged("sandbox id"))?,
            made_at: time::read("snapshot time", self.created_at)?,
        })
    }
}

impl Catalog {
    /// At most `limit` snapshots of a team that fit a filter, newest first, from the first that comes after a position.
    ///
    /// # Errors
    /// [`SnapshotError::ForeignNamespace`] when the filter names another team's, or when the catalog fails.
    pub async fn list_snapshots(
        &self,
        team: &TeamId,
        filter: &SnapshotFilter,
        after: Option<&SnapshotPosition>,
        limit: u32,
    ) -> Result<Vec<Snapshot>, SnapshotError> {
        const WHAT: &str = "list the snapshots";
        let mut tx = self.reader.begin().await.map_err(CatalogError::query(WHAT))?;
        let template = match &filter.name {
            None => None,
            Some(name) => {
                check_namespace(name, &slug_of(&mut tx, team).await?)?;
                let Some(id) = find_id(&mut tx, team, name).await? else { return Ok(Vec::new()) };
                Some(id)
            }
        };
        let tag = filter.name.as_ref().and_then(|name| name.tag.as_deref());
        // The casts tell PostgreSQL the types of parameters that are asked only whether they are there.
        let rows: Vec<SnapshotRow> = sqlx::query_as(
            "SELECT t.id, m.slug, (SELECT MIN(a.alias) FROM template_aliases a WHERE a.template_id = t.id) AS alias,
                    g.tag, g.build_id, b.source_sandbox, g.created_at
             FROM templates t
             JOIN teams m ON m.id = t.team_id
             JOIN template_tags g ON g.template_id = t.id
             JOIN builds b ON b.id = g.build_id
             WHERE t.team_id = $1 AND t.snapshot AND b.source_sandbox IS NOT NULL
               AND (CAST($2 AS TEXT) IS NULL OR b.source_sandbox = $2)
               AND (CAST($3 AS TEXT) IS NULL OR t.id = $3)
               AND (CAST($4 AS TEXT) IS NULL OR g.tag = $4)
               AND (CAST($5 AS BIGINT) IS NULL OR (g.created_at, t.id, g.tag) < ($5, $6, $7))
             ORDER BY g.created_at DESC, t.id DESC, g.tag DESC
             LIMIT $8",
        )
        .bind(team.as_str())
        .bind(filter.source.as_ref().map(SandboxId::as_str))
        .bind(template)
        .bind(tag)
        .bind(after.map(|after| after.made_at.as_microsecond()))
        .bind(after.map(|after| after.template.as_str()))
        .bind(after.map(|after| after.tag.as_str()))
        .bind(i64::from(limit))
        .fetch_all(&mut *tx)
        .await
        .map_err(CatalogError::query(WHAT))?;
        tx.commit().await.map_err(CatalogError::query(WHAT))?;
        Ok(rows.into_iter().map(SnapshotRow::read).collect::<Result<_, _>>()?)
    }
}
