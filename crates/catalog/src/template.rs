use jiff::Timestamp;
use model::{BuildId, MiB, Shape, TeamId, TemplateId, VcpuCount};
use sqlx::{FromRow, SqliteConnection};

use crate::template_name::is_identifier;
use crate::{Catalog, CatalogError, DEFAULT_TAG, time};

/// Something to start sandboxes from, at the build that one of its tags points to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Template {
    /// Its identifier.
    pub id: TemplateId,
    /// Whose it is; `None`: it is built in and everybody's.
    pub team: Option<TeamId>,
    /// The slug of that team. Filled in by the catalog.
    pub team_slug: Option<String>,
    /// Its other names, sorted.
    pub aliases: Vec<String>,
    /// Whether other teams may use it. A built-in template is public whatever this says.
    pub public: bool,
    /// What sandboxes start from.
    pub build: BuildId,
    /// The machine of that build.
    pub shape: Shape,
    /// Version of the guest daemon in that build.
    pub envd_version: String,
    /// When it was made.
    pub created_at: Timestamp,
    /// When its build last changed.
    pub updated_at: Timestamp,
    /// How many builds it has. Kept by the catalog.
    pub build_count: u64,
    /// How many sandboxes were made from it. Kept by the catalog.
    pub spawn_count: u64,
    /// When a sandbox was last made from it. Kept by the catalog.
    pub last_spawned_at: Option<Timestamp>,
}

impl Template {
    /// Whether a team may start sandboxes from it.
    #[must_use]
    pub fn usable_by(&self, team: &TeamId) -> bool {
        self.public || self.team.as_ref().is_none_or(|owner| owner == team)
    }
}

/// One build of a template.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Build {
    /// Its identifier; the artifacts are found by it.
    pub id: BuildId,
    /// The machine it is for.
    pub shape: Shape,
    /// Version of the guest daemon in it.
    pub envd_version: String,
}

/// The columns of a [`TemplateRow`]; the tag's build is joined in.
pub(crate) const SELECT_TEMPLATE: &str = "
    SELECT t.id, t.team_id, m.slug AS team_slug, t.public, t.created_at, t.updated_at, t.spawn_count,
           t.last_spawned_at, b.id AS build_id, b.vcpus, b.memory_mib, b.disk_mib, b.envd_version,
           (SELECT COUNT(*) FROM builds c WHERE c.template_id = t.id) AS build_count
    FROM templates t
    JOIN template_tags g ON g.template_id = t.id
    JOIN builds b ON b.id = g.build_id
    LEFT JOIN teams m ON m.id = t.team_id";

#[derive(FromRow)]
pub(crate) struct TemplateRow {
    id: String,
    team_id: Option<String>,
    team_slug: Option<String>,
    public: bool,
    created_at: i64,
    updated_at: i64,
    spawn_count: i64,
    last_spawned_at: Option<i64>,
    build_id: String,
    vcpus: i64,
    memory_mib: i64,
    disk_mib: i64,
    envd_version: String,
    build_count: i64,
}

impl TemplateRow {
    pub(crate) fn id(&self) -> &str {
        &self.id
    }

    pub(crate) fn read(self, aliases: Vec<String>) -> Result<Template, CatalogError> {
        let size = |what, n: i64| u32::try_from(n).map(MiB).map_err(CatalogError::damaged(what));
        let count = |what, n: i64| u64::try_from(n).map_err(CatalogError::damaged(what));
        let public = self.public || self.team_id.is_none();
        Ok(Template {
            id: self.id.parse().map_err(CatalogError::damaged("template id"))?,
            team: self.team_id.map(|id| id.parse()).transpose().map_err(CatalogError::damaged("team id"))?,
            team_slug: self.team_slug,
            aliases,
            public,
            build: self.build_id.parse().map_err(CatalogError::damaged("build id"))?,
            shape: Shape {
                vcpus: VcpuCount(u8::try_from(self.vcpus).map_err(CatalogError::damaged("vcpus"))?),
                memory: size("memory_mib", self.memory_mib)?,
                disk: size("disk_mib", self.disk_mib)?,
            },
            envd_version: self.envd_version,
            created_at: time::read("template creation time", self.created_at)?,
            updated_at: time::read("template update time", self.updated_at)?,
            build_count: count("build count", self.build_count)?,
            spawn_count: count("spawn_count", self.spawn_count)?,
            last_spawned_at: self.last_spawned_at.map(|t| time::read("last spawn time", t)).transpose()?,
        })
    }
}

const ALIAS_RULE: &str = "expected 1 to 128 characters of a-z, 0-9, '-' and '_'";

impl Catalog {
    /// Writes a template whole: its owner, visibility and aliases become these, its default build becomes this one.
    /// Earlier builds stay. Counts and the slug are the catalog's and not taken from here.
    ///
    /// # Errors
    /// When an alias cannot be used or is another template's, the build is another template's, or the catalog fails;
    /// nothing is changed then.
    pub async fn put_template(&self, template: &Template) -> Result<(), CatalogError> {
        const WHAT: &str = "write a template";
        let unusable =
            |alias: &&String| !is_identifier(alias) || alias.bytes().any(|b| b.is_ascii_uppercase());
        if let Some(bad) = template.aliases.iter().find(unusable) {
            return Err(CatalogError::BadName { what: "alias", name: bad.clone(), rule: ALIAS_RULE });
        }
        let mut tx = self.writer.begin().await.map_err(CatalogError::query(WHAT))?;
        sqlx::query(
            "INSERT INTO templates (id, team_id, public, created_at, updated_at, spawn_count)
             VALUES ($1, $2, $3, $4, $5, 0)
             ON CONFLICT (id) DO UPDATE
             SET team_id = excluded.team_id, public = excluded.public, updated_at = excluded.updated_at",
        )
        .bind(template.id.as_str())
        .bind(template.team.as_ref().map(TeamId::as_str))
        .bind(template.public || template.team.is_none())
        .bind(template.created_at.as_microsecond())
        .bind(template.updated_at.as_microsecond())
        .execute(&mut *tx)
        .await
        .map_err(CatalogError::query(WHAT))?;

        sqlx::query("DELETE FROM template_aliases WHERE template_id = $1")
            .bind(template.id.as_str())
            .execute(&mut *tx)
            .await
            .map_err(CatalogError::query(WHAT))?;
        let namespace = template.team.as_ref().map_or("", TeamId::as_str);
        for alias in &template.aliases {
            take_alias(&mut tx, namespace, alias, &template.id).await?;
        }
        let build = Build {
            id: template.build.clone(),
            shape: template.shape,
            envd_version: template.envd_version.clone(),
        };
        point_tag(&mut tx, &template.id, DEFAULT_TAG, &build).await?;
        tx.commit().await.map_err(CatalogError::query(WHAT))
    }

    /// Makes a build the one that new sandboxes of a template start from. Running ones are not touched. `false` when
    /// there is no such template.
    ///
    /// # Errors
    /// When the build is another template's, or the catalog fails.
    pub async fn set_default_build(
        &self,
        template: &TemplateId,
        build: &Build,
    ) -> Result<bool, CatalogError> {
        const WHAT: &str = "set a default build";
        let mut tx = self.writer.begin().await.map_err(CatalogError::query(WHAT))?;
        let found = sqlx::query("UPDATE templates SET updated_at = $2 WHERE id = $1")
            .bind(template.as_str())
            .bind(time::now().as_microsecond())
            .execute(&mut *tx)
            .await
            .map_err(CatalogError::query(WHAT))?;
        if found.rows_affected() == 0 {
            return Ok(false);
        }
        point_tag(&mut tx, template, DEFAULT_TAG, build).await?;
        tx.commit().await.map_err(CatalogError::query(WHAT))?;
        Ok(true)
    }

    /// Counts a sandbox made from a template.
    ///
    /// # Errors
    /// When the catalog fails.
    pub async fn count_spawn(&self, template: &TemplateId) -> Result<(), CatalogError> {
        sqlx::query("UPDATE templates SET spawn_count = spawn_count + 1, last_spawned_at = $2 WHERE id = $1")
            .bind(template.as_str())
            .bind(time::now().as_microsecond())
            .execute(&self.writer)
            .await
            .map_err(CatalogError::query("count a sandbox"))?;
        Ok(())
    }
}

pub(crate) async fn take_alias(
    tx: &mut SqliteConnection,
    namespace: &str,
    alias: &str,
    template: &TemplateId,
) -> Result<(), CatalogError> {
    const WHAT: &str = "write an alias";
    let done = sqlx::query(
        "INSERT INTO template_aliases (namespace, alias, template_id) VALUES ($1, $2, $3) ON CONFLICT DO NOTHING",
    )
    .bind(namespace)
    .bind(alias)
    .bind(template.as_str())
    .execute(&mut *tx)
    .await
    .map_err(CatalogError::query(WHAT))?;
    if done.rows_affected() > 0 {
        return Ok(());
    }
    let (holder,): (String,) =
        sqlx::query_as("SELECT template_id FROM template_aliases WHERE namespace = $1 AND alias = $2")
            .bind(namespace)
            .bind(alias)
            .fetch_one(&mut *tx)
            .await
            .map_err(CatalogError::query(WHAT))?;
    if holder == template.as_str() {
        return Ok(());
    }
    Err(CatalogError::AliasTaken { alias: alias.into(), holder })
}

/// Writes a build of a template and makes it what a tag means, from the time that is returned on.
pub(crate) async fn point_tag(
    tx: &mut SqliteConnection,
    template: &TemplateId,
    tag: &str,
    build: &Build,
) -> Result<Timestamp, CatalogError> {
    const WHAT: &str = "write a build";
    let now = time::now();
    let written = sqlx::query(
        "INSERT INTO builds (id, template_id, vcpus, memory_mib, disk_mib, envd_version, created_at)
         VALUES ($1, $2, $3, $4, $5, $6, $7)
         ON CONFLICT (id) DO UPDATE
         SET vcpus = excluded.vcpus, memory_mib = excluded.memory_mib, disk_mib = excluded.disk_mib,
             envd_version = excluded.envd_version
         WHERE builds.template_id = excluded.template_id",
    )
    .bind(build.id.as_str())
    .bind(template.as_str())
    .bind(i64::from(build.shape.vcpus.0))
    .bind(i64::from(build.shape.memory.0))
    .bind(i64::from(build.shape.disk.0))
    .bind(&build.envd_version)
    .bind(now.as_microsecond())
    .execute(&mut *tx)
    .await
    .map_err(CatalogError::query(WHAT))?;
    if written.rows_affected() == 0 {
        let rule = "it is another template's build";
        return Err(CatalogError::BadName { what: "build", name: build.id.to_string(), rule });
    }
    sqlx::query(
        "INSERT INTO template_tags (template_id, tag, build_id, created_at) VALUES ($1, $2, $3, $4)
         ON CONFLICT (template_id, tag) DO UPDATE
         SET build_id = excluded.build_id, created_at = excluded.created_at",
    )
    .bind(template.as_str())
    .bind(tag)
    .bind(build.id.as_str())
    .bind(now.as_microsecond())
    .execute(&mut *tx)
    .await
    .map_err(CatalogError::query("write a tag"))?;
    Ok(now)
}
