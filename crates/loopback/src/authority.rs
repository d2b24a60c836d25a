//! What a `CONNECT` names: `localhost:PORT`.

use model::GuestPort;

const HOST: &str = "localhost";

/// The target of a request for a connection to `port`.
#[must_use]
pub fn authority(port: GuestPort) -> String {
    format!("{HOST}:{port}")
}

/// The port that such a target names. `None` for anything else, whatever it means elsewhere: this leads to one machine's
/// own ports and nowhere else.
#[must_use]
pub fn port_of(authority: &str) -> Option<GuestPort> {
    let digits = authority.strip_prefix(HOST)?.strip_prefix(':')?;
    // `str::parse` would also take a sign.
    digits
        .bytes()
        .all(|byte| byte.is_ascii_digit())
        .then(|| digits.parse().ok().and_then(GuestPort::new))
        .flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_ports_of_localhost_are_named() {
        for port in [1, 80, 65535] {
            let port = GuestPort::new(port).unwrap();
            assert_eq!(port_of(&authority(port)), Some(port));
        }
        for other in [
            "",
            "localhost",
            "localhost:",
            "localhost:0",
            "localhost:65536",
            "localhost:+80",
            "localhost:8o",
            "user@localhost:80",
            "127.0.0.1:80",
            "10.0.0.1:80",
            "localhost.example.com:80",
            "xlocalhost:80",
            "localhost:80:80",
            "LOCALHOST:80",
        ] {
            assert_eq!(port_of(other), None, "{other:?}");
        }
    }
}
