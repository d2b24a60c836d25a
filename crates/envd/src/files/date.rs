//! Dates in headers (RFC 9110, section 5.6.7).

use jiff::Timestamp;
use jiff::fmt::rfc2822::DateTimePrinter;
use jiff::fmt::strtime;

/// The three forms that a client may write.
const FORMS: [&str; 3] = ["%a, %d %b %Y %H:%M:%S GMT", "%A, %d-%b-%y %H:%M:%S GMT", "%a %b %e %H:%M:%S %Y"];

/// Seconds since 1970 as a date; none for years that a date cannot have.
pub(super) fn format(seconds: i64) -> Option<String> {
    let time = Timestamp::from_second(seconds).ok()?;
    DateTimePrinter::new().timestamp_to_rfc9110_string(&time).ok()
}

/// A date as seconds since 1970; none when it is none.
pub(super) fn parse(text: &str) -> Option<i64> {
    FORMS.iter().find_map(|form| {
        let time = strtime::parse(form, text.trim()).ok()?.to_datetime().ok()?;
        Some(time.to_zoned(jiff::tz::TimeZone::UTC).ok()?.timestamp().as_second())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_and_back() {
        assert_eq!(format(784_111_777).as_deref(), Some("Sun, 06 Nov 1994 08:49:37 GMT"));
        for text in
            ["Sun, 06 Nov 1994 08:49:37 GMT", "Sunday, 06-Nov-94 08:49:37 GMT", "Sun Nov  6 08:49:37 1994"]
        {
            assert_eq!(parse(text), Some(784_111_777), "{text}");
        }
        assert_eq!(format(0).as_deref(), Some("Thu, 01 Jan 1970 00:00:00 GMT"));
        for nonsense in ["", "yesterday", "Sun, 06 Nov 1994", "784111777", "Sun, 36 Nov 1994 08:49:37 GMT"] {
            assert_eq!(parse(nonsense), None, "{nonsense}");
        }
        assert_eq!(format(i64::MAX), None);
    }
}
