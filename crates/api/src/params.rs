//! Query parameters.

use std::fmt::Display;
use std::ops::RangeInclusive;
use std::str::FromStr;

use axum::extract::{FromRequestParts, Query};
use http::request::Parts;
use jiff::Timestamp;

use crate::ApiState;
use crate::error::{ApiError, shown};

/// The query, decoded once. A parameter that is there but empty counts as absent, as clients send both.
pub(crate) struct Params(Vec<(String, String)>);

impl FromRequestParts<ApiState> for Params {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, _: &ApiState) -> Result<Self, ApiError> {
        let pairs = Query::try_from_uri(&parts.uri)
            .map_err(|error| ApiError::bad_request(format!("the query cannot be read: {error}")))?;
        Ok(Self(pairs.0))
    }
}

impl Params {
    pub(crate) fn get(&self, name: &str) -> Option<&str> {
        self.0.iter().find(|(key, value)| key == name && !value.is_empty()).map(|(_, value)| value.as_str())
    }

    /// The items of a list, written `a,b` or repeated or both.
    pub(crate) fn list<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a str> {
        let values = self.0.iter().filter(move |(key, _)| key == name);
        values.flat_map(|(_, value)| value.split(',')).map(str::trim).filter(|item| !item.is_empty())
    }

    /// A number in a range.
    pub(crate) fn number<T>(&self, name: &str, range: RangeInclusive<T>) -> Result<Option<T>, ApiError>
    where
        T: FromStr + PartialOrd + Display,
    {
        let Some(text) = self.get(name) else { return Ok(None) };
        let number = text.parse().ok().filter(|number| range.contains(number)).ok_or_else(|| {
            let (from, to) = range.into_inner();
            ApiError::bad_request(format!(
                "{name} must be a number from {from} to {to}, not '{}'",
                shown(text)
            ))
        })?;
        Ok(Some(number))
    }

    /// A time in whole seconds since 1970.
    pub(crate) fn unix_seconds(&self, name: &str) -> Result<Option<Timestamp>, ApiError> {
        self.time(name, "seconds", Timestamp::from_second)
    }

    /// A time in milliseconds since 1970.
    pub(crate) fn unix_millis(&self, name: &str) -> Result<Option<Timestamp>, ApiError> {
        self.time(name, "milliseconds", Timestamp::from_millisecond)
    }

    fn time(
        &self,
        name: &str,
        unit: &str,
        read: fn(i64) -> Result<Timestamp, jiff::Error>,
    ) -> Result<Option<Timestamp>, ApiError> {
        let Some(text) = self.get(name) else { return Ok(None) };
        let time = text.parse().ok().and_then(|n| read(n).ok()).ok_or_else(|| {
            ApiError::bad_request(format!("{name} must be a Unix time in {unit}, not '{}'", shown(text)))
        })?;
        Ok(Some(time))
    }
}
