use axum::extract::FromRequestParts;
use catalog::Team;
use http::StatusCode;
use http::request::Parts;

use crate::ApiState;
use crate::error::ApiError;

const HEADER: &str = "x-api-key";

/// The team whose key came with the request. The first argument of every handler but the health check, so that a
/// stranger learns nothing and makes no work.
pub(crate) struct Caller(pub(crate) Team);

impl FromRequestParts<ApiState> for Caller {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &ApiState) -> Result<Self, ApiError> {
        let refused = |message: &'static str| ApiError::new(StatusCode::UNAUTHORIZED, message);
        let key = parts.headers.get(HEADER).ok_or_else(|| {
            refused("no API key: send it in the X-API-Key header (E2B clients take it from E2B_API_KEY)")
        })?;
        let unknown = || refused("unknown API key: it was mistyped, deleted, or made for another server");
        let key = key.to_str().map_err(|_| unknown())?;
        let team = state.catalog().team_by_key(key).await.map_err(|error| ApiError::internal(&error))?;
        team.map(Self).ok_or_else(unknown)
    }
}
