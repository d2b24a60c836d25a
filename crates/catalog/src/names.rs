//! What names builds, for those who look at the storage of a host.

use model::BuildId;
use sqlx::FromRow;

use crate::{Catalog, CatalogError};

/// A build that a template or a snapshot of any team leads to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NamedBuild {
    /// `team/name:tag`, with the identifier where there is no name and no team where it is built in.
    pub name: String,
    /// Whether it is a snapshot of a sandbox.
    pub snapshot: bool,
    /// The build.
    pub build: BuildId,
}

#[derive(FromRow)]
struct Row {
    id: String,
    alias: Option<String>,
    slug: Option<String>,
    snapshot: bool,
    tag: String,
    build_id: String,
}

impl Catalog {
    /// Every name of every build, in the order of the names.
    ///
    /// # Errors
    /// When the catalog fails or a row cannot be read.
    pub async fn build_names(&self) -> Result<Vec<NamedBuild>, CatalogError> {
        let rows: Vec<Row> = sqlx::query_as(
            "SELECT t.id, t.snapshot, g.tag, g.build_id, m.slug,
                    (SELECT MIN(a.alias) FROM template_aliases a WHERE a.template_id = t.id) AS alias
             FROM template_tags g
             JOIN templates t ON t.id = g.template_id
             LEFT JOIN teams m ON m.id = t.team_id",
        )
        .fetch_all(&self.reader)
        .await
        .map_err(CatalogError::query("list the names of builds"))?;
        let mut names = rows.into_iter().map(Row::read).collect::<Result<Vec<_>, _>>()?;
        names.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(names)
    }
}

impl Row {
    fn read(self) -> Result<NamedBuild, CatalogError> {
        let team = self.slug.map(|slug| slug + "/").unwrap_or_default();
        Ok(NamedBuild {
            name: format!("{team}{}:{}", self.alias.unwrap_or(self.id), self.tag),
            snapshot: self.snapshot,
            build: self.build_id.parse().map_err(CatalogError::damaged("build id"))?,
        })
    }
}
