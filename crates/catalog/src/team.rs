use model::TeamId;
use sqlx::FromRow;

use crate::{Catalog, CatalogError, time};

/// What a team may use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TeamLimits {
    /// Sandboxes running at the same time.
    pub max_sandboxes: u32,
    /// Hours from a sandbox's start to its last possible end.
    pub max_hours: u32,
}

/// The limits of a team that nobody gave others.
pub const DEFAULT_LIMITS: TeamLimits = TeamLimits { max_sandboxes: 100, max_hours: 24 };

/// The owner of keys, templates and sandboxes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Team {
    /// Its identifier.
    pub id: TeamId,
    /// Its name in template names (`slug/name`); unique.
    pub slug: String,
    /// Its name for people.
    pub name: String,
    /// What it may use.
    pub limits: TeamLimits,
}

/// No name of a team or key is longer, in bytes.
const MAX_NAME: usize = 128;
const SLUG_RULE: &str = "expected 1 to 63 characters of a-z, 0-9, '-' and '_'";
const MAX_SLUG: usize = 63;
const NAME_RULE: &str = "expected 1 to 128 bytes without control characters";

#[derive(FromRow)]
pub(crate) struct TeamRow {
    id: String,
    slug: String,
    name: String,
    max_sandboxes: i64,
    max_hours: i64,
}

impl TeamRow {
    pub(crate) fn read(self) -> Result<Team, CatalogError> {
        Ok(Team {
            id: self.id.parse().map_err(CatalogError::damaged("team id"))?,
            slug: self.slug,
            name: self.name,
            limits: TeamLimits {
                max_sandboxes: u32::try_from(self.max_sandboxes)
                    .map_err(CatalogError::damaged("max_sandboxes"))?,
                max_hours: u32::try_from(self.max_hours).map_err(CatalogError::damaged("max_hours"))?,
            },
        })
    }
}

impl Catalog {
    /// The team with this slug, made with [`DEFAULT_LIMITS`] when there is none. The name of a team that is there stays.
    ///
    /// # Errors
    /// When slug or name cannot be used, or the catalog fails.
    pub async fn ensure_team(&self, slug: &str, name: &str) -> Result<Team, CatalogError> {
        let slug_ok = (1..=MAX_SLUG).contains(&slug.len())
            && slug.bytes().all(|b| matches!(b, b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_'));
        if !slug_ok {
            return Err(CatalogError::BadName { what: "team slug", name: slug.into(), rule: SLUG_RULE });
        }
        check_name("team name", name)?;
        sqlx::query(
            "INSERT INTO teams (id, slug, name, max_sandboxes, max_hours, created_at) VALUES ($1, $2, $3, $4, $5, $6)
             ON CONFLICT (slug) DO NOTHING",
        )
        .bind(TeamId::random().as_str())
        .bind(slug)
        .bind(name)
        .bind(i64::from(DEFAULT_LIMITS.max_sandboxes))
        .bind(i64::from(DEFAULT_LIMITS.max_hours))
        .bind(time::now().as_microsecond())
        .execute(&self.writer)
        .await
        .map_err(CatalogError::query("make a team"))?;
        self.team_by_slug(slug)
            .await?
            .ok_or(CatalogError::Query { what: "read back a team", source: sqlx::Error::RowNotFound })
    }

    /// The team with this slug.
    ///
    /// # Errors
    /// When the catalog fails.
    pub async fn team_by_slug(&self, slug: &str) -> Result<Option<Team>, CatalogError> {
        sqlx::query_as::<_, TeamRow>(
            "SELECT id, slug, name, max_sandboxes, max_hours FROM teams WHERE slug = $1",
        )
        .bind(slug)
        .fetch_optional(&self.reader)
        .await
        .map_err(CatalogError::query("find a team"))?
        .map(TeamRow::read)
        .transpose()
    }

    /// The team with this id, as it is now.
    ///
    /// # Errors
    /// When the catalog fails.
    pub async fn team_by_id(&self, id: &TeamId) -> Result<Option<Team>, CatalogError> {
        sqlx::query_as::<_, TeamRow>(
            "SELECT id, slug, name, max_sandboxes, max_hours FROM teams WHERE id = $1",
        )
        .bind(id.as_str())
        .fetch_optional(&self.reader)
        .await
        .map_err(CatalogError::query("find a team"))?
        .map(TeamRow::read)
        .transpose()
    }

    /// Every team, by slug.
    ///
    /// # Errors
    /// When the catalog fails.
    pub async fn list_teams(&self) -> Result<Vec<Team>, CatalogError> {
        sqlx::query_as::<_, TeamRow>(
            "SELECT id, slug, name, max_sandboxes, max_hours FROM teams ORDER BY slug",
        )
        .fetch_all(&self.reader)
        .await
        .map_err(CatalogError::query("list the teams"))?
        .into_iter()
        .map(TeamRow::read)
        .collect()
    }

    /// Changes what a team may use, from the next request on. `false` when there is no such team.
    ///
    /// # Errors
    /// When the catalog fails.
    pub async fn set_team_limits(&self, team: &TeamId, limits: TeamLimits) -> Result<bool, CatalogError> {
        let done = sqlx::query("UPDATE teams SET max_sandboxes = $2, max_hours = $3 WHERE id = $1")
            .bind(team.as_str())
            .bind(i64::from(limits.max_sandboxes))
            .bind(i64::from(limits.max_hours))
            .execute(&self.writer)
            .await
            .map_err(CatalogError::query("change a team's limits"))?;
        self.keys.clear();
        Ok(done.rows_affected() > 0)
    }
}

pub(crate) fn check_name(what: &'static str, name: &str) -> Result<(), CatalogError> {
    if (1..=MAX_NAME).contains(&name.len()) && !name.chars().any(char::is_control) {
        Ok(())
    } else {
        let name = name.chars().filter(|c| !c.is_control()).take(MAX_NAME).collect();
        Err(CatalogError::BadName { what, name, rule: NAME_RULE })
    }
}
