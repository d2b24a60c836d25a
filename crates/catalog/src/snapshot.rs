//! Snapshots: templates whose builds are what running sandboxes of their team once were.
//!
//! A snapshot is one tag of such a template. One without a name is called by the template's identifier. A snapshot that is
//! made under the name of another takes its place: the tag moves to the new build, and the old build is named no more.

use jiff::Timestamp;
use model::{BuildId, SandboxId, TeamId, TemplateId};
use sqlx::SqliteConnection;

use crate::lookup::find_id;
use crate::removal::drop_unnamed;
use crate::template::{point_tag, take_alias};
use crate::{Build, Catalog, CatalogError, DEFAULT_TAG, SnapshotError, TemplateName, time};

/// What a running sandbox was, under the names by which sandboxes are made from it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Snapshot {
    /// The template that it is a tag of.
    pub template: TemplateId,
    /// The slug of the team that has it.
    pub team_slug: String,
    /// The name it was given, in lower case.
    pub alias: Option<String>,
    /// Which of the snapshots of that name.
    pub tag: String,
    /// What sandboxes start from.
    pub build: BuildId,
    /// The sandbox that it was made of, which may be gone.
    pub source: SandboxId,
    /// When it was made, to the microsecond.
    pub made_at: Timestamp,
}

impl Snapshot {
    /// The full name, `team/name:tag`, when it was given one.
    #[must_use]
    pub fn name(&self) -> Option<String> {
        self.alias.as_ref().map(|alias| format!("{}/{alias}:{}", self.team_slug, self.tag))
    }

    /// What it is called by: its full name, else `id:tag`.
    #[must_use]
    pub fn id(&self) -> String {
        self.name().unwrap_or_else(|| format!("{}:{}", self.template, self.tag))
    }
}

/// A snapshot to be written.
#[derive(Debug, Clone)]
pub struct NewSnapshot {
    /// Whose it is.
    pub team: TeamId,
    /// What it is to be called.
    pub name: Option<TemplateName>,
    /// The sandbox that it was made of.
    pub source: SandboxId,
    /// What sandboxes start from.
    pub build: Build,
}

impl Catalog {
    /// Whether a snapshot of a team may have a name: it is new, or that of a snapshot, whose place it takes. A name that
    /// leads to anything else is refused, that of a built-in template included: creates that mean the template would start
    /// from the snapshot.
    ///
    /// # Errors
    /// See [`SnapshotError`].
    pub async fn check_snapshot_name(&self, team: &TeamId, name: &TemplateName) -> Result<(), SnapshotError> {
        const WHAT: &str = "check a snapshot's name";
        let mut tx = self.reader.begin().await.map_err(CatalogError::query(WHAT))?;
        let slug = slug_of(&mut tx, team).await?;
        predecessor(&mut tx, team, &slug, name).await?;
        tx.commit().await.map_err(CatalogError::query(WHAT))?;
        Ok(())
    }

    /// Writes a snapshot, durably. The builds that are named no more since then come with it.
    ///
    /// # Errors
    /// When it may not have its name, see [`Catalog::check_snapshot_name`], or the catalog fails; nothing is changed then.
    pub async fn put_snapshot(
        &self,
        snapshot: &NewSnapshot,
    ) -> Result<(Snapshot, Vec<BuildId>), SnapshotError> {
        const WHAT: &str = "write a snapshot";
        let NewSnapshot { team, name, source, build } = snapshot;
        let mut tx = self.writer.begin().await.map_err(CatalogError::query(WHAT))?;
        let slug = lock_team(&mut tx, team).await?;
        let before = match name {
            Some(name) => predecessor(&mut tx, team, &slug, name).await?,
            None => None,
        };
        let template = match &before {
            Some(id) => id.parse().map_err(CatalogError::damaged("template id"))?,
            None => insert_template(&mut tx, team, name.as_ref()).await?,
        };
        let tag = name.as_ref().map_or(DEFAULT_TAG, TemplateName::tag_or_default);
        let replaced = build_at(&mut tx, &template, tag).await?;
        let made_at = point_tag(&mut tx, &template, tag, build).await?;
        sqlx::query("UPDATE builds SET source_sandbox = $2 WHERE id = $1")
            .bind(build.id.as_str())
            .bind(source.as_str())
            .execute(&mut *tx)
            .await
            .map_err(CatalogError::query(WHAT))?;
        sqlx::query("UPDATE templates SET updated_at = $2 WHERE id = $1")
            .bind(template.as_str())
            .bind(made_at.as_microsecond())
            .execute(&mut *tx)
            .await
            .map_err(CatalogError::query(WHAT))?;
        let mut unnamed = Vec::new();
        if let Some(old) = replaced.filter(|old| *old != build.id)
            && drop_unnamed(&mut tx, &old).await?
        {
            unnamed.push(old);
        }
        let alias = alias(&mut tx, &template).await?;
        tx.commit().await.map_err(CatalogError::query(WHAT))?;
        let (tag, build, source) = (tag.to_owned(), build.id.clone(), source.clone());
        Ok((Snapshot { template, team_slug: slug, alias, tag, build, source, made_at }, unnamed))
    }
}

/// The slug of a team, which nobody else changes anything of until the transaction ends. To be asked first: a transaction
/// that reads before it writes fails when another process writes in between.
pub(crate) async fn lock_team(tx: &mut SqliteConnection, team: &TeamId) -> Result<String, CatalogError> {
    let (slug,): (String,) = sqlx::query_as("UPDATE teams SET slug = slug WHERE id = $1 RETURNING slug")
        .bind(team.as_str())
        .fetch_one(tx)
        .await
        .map_err(CatalogError::query("find a team"))?;
    Ok(slug)
}

pub(crate) async fn slug_of(tx: &mut SqliteConnection, team: &TeamId) -> Result<String, CatalogError> {
    let (slug,): (String,) = sqlx::query_as("SELECT slug FROM teams WHERE id = $1")
        .bind(team.as_str())
        .fetch_one(tx)
        .await
        .map_err(CatalogError::query("find a team"))?;
    Ok(slug)
}

/// Refuses a name that says it is another team's.
pub(crate) fn check_namespace(name: &TemplateName, slug: &str) -> Result<(), SnapshotError> {
    match &name.namespace {
        Some(other) if other != slug => {
            Err(SnapshotError::ForeignNamespace { name: name.untagged(), own: slug.to_owned() })
        }
        _ => Ok(()),
    }
}

/// The team's snapshots that have a name already, as the identifier of their template.
async fn predecessor(
    tx: &mut SqliteConnection,
    team: &TeamId,
    slug: &str,
    name: &TemplateName,
) -> Result<Option<String>, SnapshotError> {
    check_namespace(name, slug)?;
    // What the name means when a create asks for it without the team.
    let bare = TemplateName { namespace: None, ..name.clone() };
    let Some(id) = find_id(tx, team, &bare).await? else { return Ok(None) };
    let (owner, snapshot): (Option<String>, bool) =
        sqlx::query_as("SELECT team_id, snapshot FROM templates WHERE id = $1")
            .bind(&id)
            .fetch_one(tx)
            .await
            .map_err(CatalogError::query("read a template"))?;
    if snapshot && owner.as_deref() == Some(team.as_str()) {
        return Ok(Some(id));
    }
    Err(SnapshotError::NameTaken(name.untagged()))
}

async fn insert_template(
    tx: &mut SqliteConnection,
    team: &TeamId,
    name: Option<&TemplateName>,
) -> Result<TemplateId, CatalogError> {
    let id = TemplateId::random();
    sqlx::query(
        "INSERT INTO templates (id, team_id, public, snapshot, created_at, updated_at, spawn_count)
         VALUES ($1, $2, FALSE, TRUE, $3, $3, 0)",
    )
    .bind(id.as_str())
    .bind(team.as_str())
    .bind(time::now().as_microsecond())
    .execute(&mut *tx)
    .await
    .map_err(CatalogError::query("write a snapshot"))?;
    if let Some(name) = name {
        take_alias(tx, team.as_str(), &name.name, &id).await?;
    }
    Ok(id)
}

async fn build_at(
    tx: &mut SqliteConnection,
    template: &TemplateId,
    tag: &str,
) -> Result<Option<BuildId>, CatalogError> {
    let row: Option<(String,)> =
        sqlx::query_as("SELECT build_id FROM template_tags WHERE template_id = $1 AND tag = $2")
            .bind(template.as_str())
            .bind(tag)
            .fetch_optional(tx)
            .await
            .map_err(CatalogError::query("read a tag"))?;
    row.map(|(id,)| id.parse()).transpose().map_err(CatalogError::damaged("build id"))
}

async fn alias(tx: &mut SqliteConnection, template: &TemplateId) -> Result<Option<String>, CatalogError> {
    let (alias,): (Option<String>,) =
        sqlx::query_as("SELECT MIN(alias) FROM template_aliases WHERE template_id = $1")
            .bind(template.as_str())
            .fetch_one(tx)
            .await
            .map_err(CatalogError::query("read an alias"))?;
    Ok(alias)
}
