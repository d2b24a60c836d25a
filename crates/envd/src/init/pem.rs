//! Certificates as text (RFC 7468).

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use thiserror::Error;

/// Longest text, in bytes, and most certificates: all of the public authorities would fit.
pub(super) const MAX_BYTES: usize = 512 << 10;
const MAX_CERTIFICATES: usize = 512;

const BEGIN: &str = "-----BEGIN CERTIFICATE-----";
const END: &str = "-----END CERTIFICATE-----";
/// Length of a line of base64.
const LINE: usize = 64;

/// Text that is no list of certificates.
#[derive(Debug, Error, PartialEq, Eq)]
pub(super) enum PemError {
    #[error("it is longer than {MAX_BYTES} bytes or has more than {MAX_CERTIFICATES} certificates")]
    TooLong,
    #[error("there is no certificate in it: it must have a block that begins with {BEGIN}")]
    Empty,
    #[error("line {0} begins something other than a certificate")]
    OtherBlock(usize),
    #[error("the certificate that ends in line {0} is damaged")]
    Damaged(usize),
}

/// Checks certificates and writes them in one way, whatever was between them: what is written so can be found again.
///
/// # Errors
/// When it is not a list of certificates, at least one.
pub(super) fn normalise(text: &str) -> Result<String, PemError> {
    if text.len() > MAX_BYTES {
        return Err(PemError::TooLong);
    }
    let mut normal = String::with_capacity(text.len());
    let (mut count, mut block) = (0, None::<String>);
    for (number, line) in (1..).zip(text.lines()) {
        let line = line.trim();
        match (&mut block, line) {
            (None, BEGIN) => block = Some(String::new()),
            (None, _) if line.starts_with("-----") => return Err(PemError::OtherBlock(number)),
            // Between certificates there may be words for people.
            (None, _) => {}
            (Some(contents), END) => {
                let der = STANDARD.decode(contents.as_bytes()).map_err(|_| PemError::Damaged(number))?;
                if !is_sequence(&der) {
                    return Err(PemError::Damaged(number));
                }
                write(&mut normal, &der);
                count += 1;
                block = None;
            }
            (Some(_), _) if line.starts_with("-----") => return Err(PemError::Damaged(number)),
            (Some(contents), _) => contents.push_str(line),
        }
        if count > MAX_CERTIFICATES {
            return Err(PemError::TooLong);
        }
    }
    match (count, block) {
        (_, Some(_)) => Err(PemError::Damaged(text.lines().count())),
        (0, None) => Err(PemError::Empty),
        (_, None) => Ok(normal),
    }
}

fn write(text: &mut String, der: &[u8]) {
    text.push_str(BEGIN);
    let encoded = STANDARD.encode(der);
    let mut rest = encoded.as_str();
    while !rest.is_empty() {
        let (line, others) = rest.split_at(rest.len().min(LINE));
        text.push('\n');
        text.push_str(line);
        rest = others;
    }
    text.push('\n');
    text.push_str(END);
    text.push('\n');
}

/// Whether this is one sequence of ASN.1 and nothing else (X.690, 8.1), as every certificate is.
fn is_sequence(der: &[u8]) -> bool {
    let (length, header) = match der {
        [0x30, short, ..] if *short < 0x80 => (usize::from(*short), 2),
        [0x30, 0x81, first, ..] => (usize::from(*first), 3),
        [0x30, 0x82, first, second, ..] => (usize::from(u16::from_be_bytes([*first, *second])), 4),
        _ => return false,
    };
    length > 0 && der.len() == header + length
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pem(contents: &[u8]) -> String {
        let mut text = String::new();
        write(&mut text, contents);
        text
    }

    #[test]
    fn certificates_are_written_in_one_way() {
        let small = [0x30, 3, 1, 2, 3];
        let mut large = vec![0x30, 0x82, 0x01, 0x00];
        large.extend(0..=255);
        let both = pem(&small) + &pem(&large);
        assert_eq!(normalise(&both).unwrap(), both);
        let loose = format!("# for people\r\n{}\n\n", both.replace('\n', "\r\n  "));
        assert_eq!(normalise(&loose).unwrap(), both);
        assert!(both.lines().all(|line| line.len() <= LINE));
    }

    #[test]
    fn garbage_is_refused() {
        let good = pem(&[0x30, 1, 7]);
        for (text, expected) in [
            (String::new(), PemError::Empty),
            ("hello".into(), PemError::Empty),
            ("-----BEGIN PRIVATE KEY-----\nMAEH\n-----END PRIVATE KEY-----".into(), PemError::OtherBlock(1)),
            (good.replace("MAEH", "MAE"), PemError::Damaged(3)),
            (good.replace("MAEH", "MAEHMAEH"), PemError::Damaged(3)),
            (good.replace("MAEH", ""), PemError::Damaged(3)),
            (good.replace(END, ""), PemError::Damaged(3)),
            (good.replace(END, BEGIN), PemError::Damaged(3)),
            ("x".repeat(MAX_BYTES + 1), PemError::TooLong),
            (good.repeat(MAX_CERTIFICATES + 1), PemError::TooLong),
        ] {
            assert_eq!(normalise(&text), Err(expected), "{}", &text[..text.len().min(80)]);
        }
    }
}
