//! From the names that clients write to templates.

use std::collections::HashMap;

use model::TeamId;
use sqlx::SqliteConnection;

use crate::template::{SELECT_TEMPLATE, TemplateRow};
use crate::{Catalog, CatalogError, DEFAULT_TAG, LookupError, Template, TemplateName};

impl Catalog {
    /// The template that `text` (`[team/]alias[:tag]` or `id[:tag]`) means to a team, at the build of that tag.
    ///
    /// A name without a team is looked for among the team's own aliases, then the built-in ones, then the identifiers.
    ///
    /// # Errors
    /// See [`LookupError`].
    pub async fn template_by_name(&self, team: &TeamId, text: &str) -> Result<Template, LookupError> {
        let name = TemplateName::parse(text)?;
        let not_found = || LookupError::NotFound(name.untagged());
        let id = {
            let mut reader = self.reader.acquire().await.map_err(CatalogError::query("find a template"))?;
            find_id(&mut reader, team, &name).await?.ok_or_else(not_found)?
        };
        if let Some(template) = self.template_at(&id, name.tag_or_default()).await? {
            let usable = template.usable_by(team);
            return if usable { Ok(template) } else { Err(LookupError::Forbidden(name.untagged())) };
        }
        // The tag is missing, or the template is gone by now. Whether this team may know decides about the message.
        Err(match self.usable(&id, team).await? {
            Some(true) => {
                LookupError::TagNotFound { name: name.untagged(), tag: name.tag_or_default().to_owned() }
            }
            Some(false) => LookupError::Forbidden(name.untagged()),
            None => not_found(),
        })
    }

    /// The templates that a team may list: its own, newest first, then the built-in ones. Snapshots have a list of their
    /// own.
    ///
    /// # Errors
    /// When the catalog fails.
    pub async fn list_templates(&self, team: &TeamId) -> Result<Vec<Template>, CatalogError> {
        const WHAT: &str = "list the templates";
        let query = format!(
            "{SELECT_TEMPLATE} WHERE g.tag = $1 AND (t.team_id = $2 OR t.team_id IS NULL) AND NOT t.snapshot
             ORDER BY t.team_id IS NULL, t.created_at DESC, t.id"
        );
        let rows: Vec<TemplateRow> = sqlx::query_as(sqlx::AssertSqlSafe(query))
            .bind(DEFAULT_TAG)
            .bind(team.as_str())
            .fetch_all(&self.reader)
            .await
            .map_err(CatalogError::query(WHAT))?;
        let pairs: Vec<(String, String)> = sqlx::query_as(
            "SELECT template_id, alias FROM template_aliases WHERE namespace = $1 OR namespace = '' ORDER BY alias",
        )
        .bind(team.as_str())
        .fetch_all(&self.reader)
        .await
        .map_err(CatalogError::query(WHAT))?;
        let mut aliases: HashMap<String, Vec<String>> = HashMap::new();
        for (template, alias) in pairs {
            aliases.entry(template).or_default().push(alias);
        }
        rows.into_iter()
            .map(|row| {
                let own = aliases.remove(row.id()).unwrap_or_default();
                row.read(own)
            })
            .collect()
    }

    /// Whether a team may start sandboxes from a template; `None` when there is no such template.
    async fn usable(&self, id: &str, team: &TeamId) -> Result<Option<bool>, CatalogError> {
        let row: Option<(Option<String>, bool)> =
            sqlx::query_as("SELECT team_id, public FROM templates WHERE id = $1")
                .bind(id)
                .fetch_optional(&self.reader)
                .await
                .map_err(CatalogError::query("find a template"))?;
        Ok(row.map(|(owner, public)| public || owner.is_none_or(|owner| owner == team.as_str())))
    }

    async fn template_at(&self, id: &str, tag: &str) -> Result<Option<Template>, CatalogError> {
        const WHAT: &str = "read a template";
        let query = format!("{SELECT_TEMPLATE} WHERE t.id = $1 AND g.tag = $2");
        let row: Option<TemplateRow> = sqlx::query_as(sqlx::AssertSqlSafe(query))
            .bind(id)
            .bind(tag)
            .fetch_optional(&self.reader)
            .await
            .map_err(CatalogError::query(WHAT))?;
        let Some(row) = row else { return Ok(None) };
        let aliases: Vec<(String,)> =
            sqlx::query_as("SELECT alias FROM template_aliases WHERE template_id = $1 ORDER BY alias")
                .bind(id)
                .fetch_all(&self.reader)
                .await
                .map_err(CatalogError::query(WHAT))?;
        row.read(aliases.into_iter().map(|(alias,)| alias).collect()).map(Some)
    }
}

/// The identifier that a name leads a team to, whosever the template is.
pub(crate) async fn find_id(
    connection: &mut SqliteConnection,
    team: &TeamId,
    name: &TemplateName,
) -> Result<Option<String>, CatalogError> {
    let query = match &name.namespace {
        Some(namespace) => sqlx::query_as(
            "SELECT a.template_id FROM template_aliases a JOIN teams m ON m.id = a.namespace
             WHERE a.alias = $1 AND m.slug = $2",
        )
        .bind(&name.name)
        .bind(namespace),
        None => sqlx::query_as(
            "SELECT template_id FROM (
                 SELECT template_id, 1 AS rank FROM template_aliases WHERE alias = $1 AND namespace = $2
                 UNION ALL
                 SELECT template_id, 2 AS rank FROM template_aliases WHERE alias = $1 AND namespace = ''
                 UNION ALL
                 SELECT id AS template_id, 3 AS rank FROM templates WHERE id = $1
             ) AS candidates ORDER BY rank LIMIT 1",
        )
        .bind(&name.name)
        .bind(team.as_str()),
    };
    let row: Option<(String,)> =
        query.fetch_optional(connection).await.map_err(CatalogError::query("find a template"))?;
    Ok(row.map(|(id,)| id))
}
