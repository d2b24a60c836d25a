//! Where a page of a list ended: the last sandbox's start and id, and the direction of reading. Sandboxes that come or
//! go between two pages do not shift what follows.

use std::cmp::Ordering;

use jiff::Timestamp;
use model::{SandboxId, SandboxRecord};

use crate::cursor_text::{self, SEPARATOR};
use crate::error::ApiError;

/// The direction of a list.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Order {
    /// Oldest first.
    Asc,
    /// Newest first.
    Desc,
}

impl Order {
    const fn as_str(self) -> &'static str {
        match self {
            Self::Asc => "asc",
            Self::Desc => "desc",
        }
    }

    /// Newest first, by id among equals; the other direction is the exact reverse.
    pub(super) fn compare(self, a: (Timestamp, &SandboxId), b: (Timestamp, &SandboxId)) -> Ordering {
        let newest_first = b.0.cmp(&a.0).then_with(|| a.1.cmp(b.1));
        match self {
            Self::Asc => newest_first.reverse(),
            Self::Desc => newest_first,
        }
    }
}

#[derive(Debug, PartialEq, Eq)]
pub(super) struct Cursor {
    started_at: Timestamp,
    id: SandboxId,
    order: Order,
}

impl Cursor {
    pub(super) fn after(record: &SandboxRecord, order: Order) -> Self {
        Self { started_at: record.spec.started_at, id: record.spec.id.clone(), order }
    }

    /// Whether a sandbox comes after the page that this cursor ended.
    pub(super) fn precedes(&self, record: &SandboxRecord) -> bool {
        let here = (self.started_at, &self.id);
        self.order.compare(here, (record.spec.started_at, &record.spec.id)) == Ordering::Less
    }

    pub(super) fn encode(&self) -> String {
        let Self { started_at, id, order } = self;
        let suffix = if *order == Order::Asc { "__asc" } else { "" };
        cursor_text::encode(&format!("{started_at}{SEPARATOR}{id}{suffix}"))
    }

    /// Reads a cursor that was made for the same order.
    pub(super) fn decode(text: &str, order: Order) -> Result<Self, ApiError> {
        let cursor = Self::read(text).ok_or_else(cursor_text::unknown)?;
        if cursor.order == order {
            return Ok(cursor);
        }
        Err(ApiError::bad_request(format!(
            "nextToken was given for order={}, not for order={}",
            cursor.order.as_str(),
            order.as_str()
        )))
    }

    fn read(text: &str) -> Option<Self> {
        let text = cursor_text::decode(text)?;
        let (text, order) = match text.strip_suffix("__asc") {
            Some(text) => (text, Order::Asc),
            None => (text.as_str(), Order::Desc),
        };
        let (started_at, id) = text.split_once(SEPARATOR)?;
        Some(Self { started_at: started_at.parse().ok()?, id: id.parse().ok()?, order })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cursor_comes_back_whole_with_and_without_padding() {
        for order in [Order::Asc, Order::Desc] {
            let started_at = "2026-01-02T03:04:05.123456789Z".parse().unwrap();
            let cursor = Cursor { started_at, id: SandboxId::random(), order };
            let mut text = cursor.encode();
            assert_eq!(Cursor::decode(&text, order).unwrap(), cursor);
            while !text.len().is_multiple_of(4) {
                text.push('=');
            }
            assert_eq!(Cursor::decode(&text, order).unwrap(), cursor);
        }
    }

    #[test]
    fn what_is_no_cursor_is_refused() {
        let b64 = cursor_text::encode;
        let bad = [
            "!".into(),
            "AAAA".into(),
            b64("2026-01-02T03:04:05Z"),
            b64("yesterday__i1"),
            b64("2026-01-02T03:04:05Z__../x"),
            b64("2026-01-02T03:04:05Z__i1__desc"),
        ];
        for text in bad {
            assert!(Cursor::decode(&text, Order::Desc).is_err(), "{text}");
        }
    }
}
