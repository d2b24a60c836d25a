//! Where a page of the list ended: the moment, the template and the tag of its last snapshot. Snapshots that come or go
//! between two pages do not shift what follows.

use catalog::SnapshotPosition;
use jiff::Timestamp;

use crate::cursor_text::{self, SEPARATOR};
use crate::error::ApiError;

/// A tag may contain the separator, so it comes last.
const PARTS: usize = 3;

pub(super) fn encode(position: &SnapshotPosition) -> String {
    let SnapshotPosition { made_at, template, tag } = position;
    cursor_text::encode(&[&made_at.to_string(), template.as_str(), tag].join(SEPARATOR))
}

pub(super) fn decode(text: &str) -> Result<SnapshotPosition, ApiError> {
    read(text).ok_or_else(cursor_text::unknown)
}

fn read(text: &str) -> Option<SnapshotPosition> {
    let text = cursor_text::decode(text)?;
    let mut parts = text.splitn(PARTS, SEPARATOR);
    let made_at: Timestamp = parts.next()?.parse().ok()?;
    let template = parts.next()?.parse().ok()?;
    Some(SnapshotPosition { made_at, template, tag: parts.next()?.to_owned() })
}

#[cfg(test)]
mod tests {
    use model::TemplateId;

    use super::*;

    #[test]
    fn a_cursor_comes_back_whole() {
        for tag in ["default", "v1.2", "__", "a__b__c", "_-."] {
            let made_at = "2026-01-02T03:04:05.123456Z".parse().unwrap();
            let position = SnapshotPosition { made_at, template: TemplateId::random(), tag: tag.into() };
            assert_eq!(decode(&encode(&position)).unwrap(), position);
        }
    }

    #[test]
    fn what_is_no_cursor_is_refused() {
        let b64 = cursor_text::encode;
        let bad = [
            "!".into(),
            "AAAA".into(),
            b64("2026-01-02T03:04:05Z"),
            b64("2026-01-02T03:04:05Z__abc"),
            b64("yesterday__abc__default"),
            b64("2026-01-02T03:04:05Z__../x__default"),
        ];
        for text in bad {
            assert!(decode(&text).is_err(), "{text}");
        }
    }
}
