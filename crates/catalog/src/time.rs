//! Times as the catalog stores them: microseconds since 1970.

use jiff::Timestamp;

use crate::CatalogError;

/// The current time, cut to what the catalog keeps, so that what is returned equals what will be read back.
pub(crate) fn now() -> Timestamp {
    let now = Timestamp::now();
    Timestamp::from_microsecond(now.as_microsecond()).unwrap_or(now)
}

pub(crate) fn read(what: &'static str, micros: i64) -> Result<Timestamp, CatalogError> {
    Timestamp::from_microsecond(micros).map_err(CatalogError::damaged(what))
}
