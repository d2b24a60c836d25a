//! `GET /templates`, `GET /templates/aliases/{alias}`, `DELETE /templates/{id}`.

use axum::Json;
use axum::extract::State;
use catalog::{DeleteError, LookupError, Template, TemplateName};
use http::StatusCode;
use serde::Serialize;

use crate::ApiState;
use crate::auth::Caller;
use crate::detach::detach;
use crate::error::ApiError;
use crate::path::Segment;
use crate::wire::rfc3339;

impl From<LookupError> for ApiError {
    fn from(error: LookupError) -> Self {
        let status = match &error {
            LookupError::Malformed(_) => StatusCode::BAD_REQUEST,
            LookupError::NotFound(_) | LookupError::TagNotFound { .. } => StatusCode::NOT_FOUND,
            LookupError::Forbidden(_) => StatusCode::FORBIDDEN,
            LookupError::Storage(reason) => return Self::internal(reason),
        };
        Self::new(status, error.to_string())
    }
}

impl From<DeleteError> for ApiError {
    fn from(error: DeleteError) -> Self {
        let status = match &error {
            DeleteError::NotFound(_) | DeleteError::TagNotFound { .. } => StatusCode::NOT_FOUND,
            DeleteError::BuiltIn(_) => StatusCode::FORBIDDEN,
            DeleteError::Storage(reason) => return Self::internal(reason),
        };
        Self::new(status, error.to_string())
    }
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct ListedTemplate {
    #[serde(rename = "templateID")]
    template_id: String,
    #[serde(rename = "buildID")]
    build_id: String,
    cpu_count: u8,
    #[serde(rename = "memoryMB")]
    memory_mib: u32,
    #[serde(rename = "diskSizeMB")]
    disk_mib: u32,
    public: bool,
    aliases: Vec<String>,
    names: Vec<String>,
    created_at: String,
    updated_at: String,
    created_by: Option<()>,
    last_spawned_at: Option<String>,
    spawn_count: u64,
    build_count: u64,
    envd_version: String,
    build_status: &'static str,
}

impl From<Template> for ListedTemplate {
    fn from(template: Template) -> Self {
        let name = |alias: &String| match &template.team_slug {
            Some(slug) => format!("{slug}/{alias}"),
            None => alias.clone(),
        };
        Self {
            template_id: template.id.to_string(),
            build_id: template.build.to_string(),
            cpu_count: template.shape.vcpus.0,
            memory_mib: template.shape.memory.0,
            disk_mib: template.shape.disk.0,
            public: template.public,
            names: template.aliases.iter().map(name).collect(),
            aliases: template.aliases,
            created_at: rfc3339(template.created_at),
            updated_at: rfc3339(template.updated_at),
            created_by: None,
            last_spawned_at: template.last_spawned_at.map(rfc3339),
            spawn_count: template.spawn_count,
            build_count: template.build_count,
            envd_version: template.envd_version,
            build_status: "ready",
        }
    }
}

/// The caller's templates and the built-in ones. A `teamID` in the query changes nothing: the key names the team.
pub(crate) async fn list(
    Caller(team): Caller,
    State(state): State<ApiState>,
) -> Result<Json<Vec<ListedTemplate>>, ApiError> {
    let templates =
        state.catalog().list_templates(&team.id).await.map_err(|error| ApiError::internal(&error))?;
    Ok(Json(templates.into_iter().map(ListedTemplate::from).collect()))
}

#[derive(Serialize)]
pub(crate) struct Alias {
    #[serde(rename = "templateID")]
    template_id: String,
    public: bool,
}

/// Whether a name leads to a template that the caller may use.
pub(crate) async fn by_alias(
    Caller(team): Caller,
    State(state): State<ApiState>,
    Segment(alias): Segment,
) -> Result<Json<Alias>, ApiError> {
    let template = state.catalog().template_by_name(&team.id, &alias).await?;
    Ok(Json(Alias { template_id: template.id.to_string(), public: template.public }))
}

/// Deletes a template or a snapshot of the team; with a tag only what the tag means. Sandboxes that were made from it run
/// on. When the answer arrives, what nothing reads from is gone from the disk.
pub(crate) async fn delete(
    Caller(team): Caller,
    State(state): State<ApiState>,
    Segment(name): Segment,
) -> Result<StatusCode, ApiError> {
    let name = TemplateName::parse(&name)?;
    detach(async move {
        for build in state.catalog().delete_template(&team.id, &name).await? {
            state.fleet().forget(&build).await;
        }
        Ok(())
    })
    .await?;
    Ok(StatusCode::NO_CONTENT)
}
