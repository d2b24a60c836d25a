//! Who a request is for, and which path it means.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use axum::extract::Query;
use http::request::Parts;
use serde::Deserialize;

use super::signature::{Claim, Operation, authorize};
use crate::error::HttpError;
use crate::filesystem::Owner;
use crate::state::Envd;
use crate::user::{User, request_user, resolve_path};

/// The query of both routes.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Parameters {
    path: Option<String>,
    username: Option<String>,
    signature: Option<String>,
    signature_expiration: Option<i64>,
}

/// A request that may be served.
#[derive(Debug, Clone)]
pub(super) struct Access {
    user: Arc<User>,
    workdir: Option<String>,
    /// The path in the query, as it was written.
    pub(super) path: Option<String>,
}

impl Access {
    /// Checks the token or the signature, then finds the user.
    ///
    /// # Errors
    ///
    /// 400 for a query that cannot be read, 401 for everything else.
    pub(super) async fn check(envd: &Envd, request: &Parts, operation: Operation) -> Result<Self, HttpError> {
        let Query(parameters) = Query::<Parameters>::try_from_uri(&request.uri)
            .map_err(|error| HttpError::bad_request(format!("cannot read the query: {error}")))?;
        let claim = Claim {
            path: parameters.path.as_deref().unwrap_or_default(),
            operation,
            username: parameters.username.as_deref().unwrap_or_default(),
            expires: parameters.signature_expiration,
            signature: parameters.signature.as_deref(),
        };
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        let now = i64::try_from(now).unwrap_or(i64::MAX);
        authorize(envd.access_token().as_deref(), &request.headers, &claim, now)
            .map_err(|refused| HttpError::unauthorized(refused.to_string()))?;
        let user = match parameters.username.as_deref() {
            Some(name) if !name.is_empty() => User::by_name(name).await.map(Arc::new),
            _ => request_user(envd, &request.extensions).await,
        };
        let user = user.map_err(|unknown| HttpError::unauthorized(unknown.to_string()))?;
        Ok(Self { user, workdir: envd.default_workdir(), path: parameters.path })
    }

    /// Where a path leads.
    ///
    /// # Errors
    ///
    /// 400 for a path that cannot be understood.
    pub(super) fn resolve(&self, path: &str) -> Result<PathBuf, HttpError> {
        resolve_path(path, &self.user, self.workdir.as_deref())
            .map_err(|error| HttpError::bad_request(error.to_string()))
    }

    /// Whom new files belong to.
    pub(super) fn owner(&self) -> Owner {
        Owner::from(&*self.user)
    }
}
