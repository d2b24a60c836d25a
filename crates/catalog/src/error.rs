use std::path::PathBuf;

/// The catalog could not do what it was asked to.
#[derive(Debug, thiserror::Error)]
pub enum CatalogError {
    /// The file could not be made or protected.
    #[error("cannot prepare the catalog file {path}: {source}")]
    File {
        /// The catalog's file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// The file is there but is not a database that can be opened.
    #[error("cannot open the catalog {path}: {source}")]
    Open {
        /// The catalog's file.
        path: PathBuf,
        /// What the database said.
        source: sqlx::Error,
    },
    /// The tables could not be brought to this version's form. A newer Coldframe may have written the file.
    #[error("cannot bring the catalog {path} to this version's form: {source}")]
    Migrate {
        /// The catalog's file.
        path: PathBuf,
        /// What the database said.
        source: sqlx::migrate::MigrateError,
    },
    /// A statement failed.
    #[error("cannot {what} in the catalog: {source}")]
    Query {
        /// What was attempted, to be read after "cannot".
        what: &'static str,
        /// What the database said.
        source: sqlx::Error,
    },
    /// A row holds something this version never writes.
    #[error("the catalog holds a damaged {what}: {detail}")]
    Damaged {
        /// The column.
        what: &'static str,
        /// What was found.
        detail: String,
    },
    /// A name given by the caller cannot be used.
    #[error("{what} '{name}' cannot be used: {rule}")]
    BadName {
        /// What was to be named.
        what: &'static str,
        /// The name.
        name: String,
        /// What a name must be.
        rule: &'static str,
    },
    /// Another template of the same team has the alias.
    #[error("alias '{alias}' belongs to template {holder}")]
    AliasTaken {
        /// The alias.
        alias: String,
        /// The template that has it.
        holder: String,
    },
}

impl CatalogError {
    /// For `map_err`: the statement that was to do `what` failed.
    pub(crate) fn query(what: &'static str) -> impl FnOnce(sqlx::Error) -> Self {
        move |source| Self::Query { what, source }
    }

    /// For `map_err`: the column `what` holds something that cannot be read.
    pub(crate) fn damaged<E: std::fmt::Display>(what: &'static str) -> impl FnOnce(E) -> Self {
        move |error| Self::Damaged { what, detail: error.to_string() }
    }
}

/// Why a template's name did not lead to a template. The text of all but [`LookupError::Storage`] is for the client.
#[derive(Debug, thiserror::Error)]
pub enum LookupError {
    /// The text cannot be a template's name.
    #[error(
        "'{0}' is not a template name: expected [team/]name[:tag] with a-z, 0-9, '-' and '_' (a tag may also have '.')"
    )]
    Malformed(String),
    /// No such template.
    #[error("template '{0}' not found")]
    NotFound(String),
    /// The template is there, the tag is not.
    #[error("tag '{tag}' of template '{name}' not found")]
    TagNotFound {
        /// The template as it was asked for, without the tag.
        name: String,
        /// The tag.
        tag: String,
    },
    /// The template is another team's and not public.
    #[error("template '{0}' belongs to another team and is not public")]
    Forbidden(String),
    /// The catalog failed.
    #[error(transparent)]
    Storage(#[from] CatalogError),
}

/// Why a name cannot be a snapshot's. The text of all but [`SnapshotError::Storage`] is for the client.
#[derive(Debug, thiserror::Error)]
pub enum SnapshotError {
    /// The name says that it is another team's.
    #[error("'{name}' is not a name of this team: write '{own}/NAME', or leave the team out")]
    ForeignNamespace {
        /// The name as it was given.
        name: String,
        /// The slug of the team that asks.
        own: String,
    },
    /// Something that is no snapshot of this team has the name.
    #[error("'{0}' is a template and no snapshot of this team: choose another name")]
    NameTaken(String),
    /// The catalog failed.
    #[error(transparent)]
    Storage(#[from] CatalogError),
}

/// Why nothing was deleted. The text of all but [`DeleteError::Storage`] is for the client.
#[derive(Debug, thiserror::Error)]
pub enum DeleteError {
    /// The team has no such template.
    #[error("template '{0}' not found")]
    NotFound(String),
    /// The team has the template, but the tag is not there.
    #[error("tag '{tag}' of template '{name}' not found")]
    TagNotFound {
        /// The template as it was asked for, without the tag.
        name: String,
        /// The tag.
        tag: String,
    },
    /// It is everybody's.
    #[error("template '{0}' is built in and cannot be deleted")]
    BuiltIn(String),
    /// The catalog failed.
    #[error(transparent)]
    Storage(#[from] CatalogError),
}
