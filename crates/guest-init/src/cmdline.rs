//! What the host says on the kernel command line.

use std::collections::BTreeMap;
use std::io;
use std::net::Ipv4Addr;

use base64::Engine as _;
use base64::engine::general_purpose::{URL_SAFE, URL_SAFE_NO_PAD};
use guest_init::machine_name;

use crate::error::{Attempt as _, Failure};

const DEFAULT_HOSTNAME: &str = "sandbox";

/// An address on a link, and the way out of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Network {
    pub(crate) address: Ipv4Addr,
    pub(crate) prefix: u8,
    pub(crate) gateway: Option<Ipv4Addr>,
}

/// The keys that start with `coldframe.`; the kernel's own are not ours to read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Cmdline {
    pub(crate) probe: bool,
    pub(crate) hostname: String,
    pub(crate) network: Option<Network>,
    pub(crate) dns: Vec<Ipv4Addr>,
    pub(crate) env: BTreeMap<String, String>,
}

impl Cmdline {
    pub(crate) fn read() -> Result<Self, Failure> {
        let text = std::fs::read_to_string("/proc/cmdline").attempt(|| "read /proc/cmdline".to_owned())?;
        Self::parse(&text)
    }

    fn parse(text: &str) -> Result<Self, Failure> {
        let mut found = Self {
            probe: false,
            hostname: DEFAULT_HOSTNAME.to_owned(),
            network: None,
            dns: Vec::new(),
            env: BTreeMap::new(),
        };
        let mut gateway = None;
        for word in text.split_ascii_whitespace() {
            let Some(word) = word.strip_prefix("coldframe.") else { continue };
            let (key, value) = word.split_once('=').unwrap_or((word, ""));
            let bad = |expected: &str| invalid(key, value, expected);
            match key {
                "probe" => found.probe = true,
                "hostname" if machine_name::is_valid(value) => found.hostname = value.to_owned(),
                "hostname" => return Err(bad("1 to 63 letters, digits, dots or hyphens")),
                "ip" => {
                    found.network =
                        Some(parse_address(value).ok_or_else(|| bad("an address like 10.0.0.2/30"))?);
                }
                "gw" => gateway = Some(value.parse().map_err(|_| bad("an IPv4 address"))?),
                "dns" => {
                    let servers = value.split(',').filter(|s| !s.is_empty()).map(str::parse);
                    found.dns = servers
                        .collect::<Result<_, _>>()
                        .map_err(|_| bad("IPv4 addresses between commas"))?;
                }
                "env" => {
                    found.env = parse_env(value).ok_or_else(|| bad("a base64url JSON object of strings"))?;
                }
                // A newer host may say more than this program knows.
                _ => {}
            }
        }
        if let Some(network) = &mut found.network {
            network.gateway = gateway;
        }
        Ok(found)
    }
}

fn invalid(key: &str, value: &str, expected: &str) -> Failure {
    let why = io::Error::new(io::ErrorKind::InvalidInput, format!("expected {expected}"));
    Failure::new(format!("use coldframe.{key}={value} from the kernel command line"), why)
}

fn parse_address(text: &str) -> Option<Network> {
    let (address, prefix) = text.split_once('/')?;
    let prefix = prefix.parse().ok().filter(|bits| *bits <= 32)?;
    Some(Network { address: address.parse().ok()?, prefix, gateway: None })
}

fn parse_env(text: &str) -> Option<BTreeMap<String, String>> {
    if text.is_empty() {
        return Some(BTreeMap::new());
    }
    let json = URL_SAFE_NO_PAD.decode(text).or_else(|_| URL_SAFE.decode(text)).ok()?;
    let env: BTreeMap<String, String> = serde_json::from_slice(&json).ok()?;
    // What cannot be an environment variable would make every start of envd fail.
    let possible = |(name, value): (&String, &String)| {
        !name.is_empty() && !name.contains(['=', '\0']) && !value.contains('\0')
    };
    env.iter().all(possible).then_some(env)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everything_the_host_says_is_understood() {
        let env = URL_SAFE_NO_PAD.encode(r#"{"A":"b c"}"#);
        let text = format!(
            "console=ttyS0 quiet coldframe.hostname=i0abc coldframe.gw=169.254.0.22 \
             coldframe.ip=169.254.0.21/30 coldframe.dns=1.1.1.1,8.8.8.8 coldframe.env={env} coldframe.later=x\n"
        );
        let found = Cmdline::parse(&text).unwrap();
        assert!(!found.probe);
        assert_eq!(found.hostname, "i0abc");
        let network = found.network.unwrap();
        assert_eq!((network.address, network.prefix), ([169, 254, 0, 21].into(), 30));
        assert_eq!(network.gateway, Some([169, 254, 0, 22].into()));
        assert_eq!(found.dns, [Ipv4Addr::from([1, 1, 1, 1]), Ipv4Addr::from([8, 8, 8, 8])]);
        assert_eq!(found.env["A"], "b c");
    }

    #[test]
    fn a_probe_needs_nothing_else() {
        let found = Cmdline::parse("console=ttyS0 coldframe.probe").unwrap();
        assert!(found.probe && found.network.is_none() && found.hostname == DEFAULT_HOSTNAME);
    }

    #[test]
    fn nonsense_is_named() {
        for bad in
            ["hostname=a/b", "ip=1.2.3.4", "ip=1.2.3.4/33", "gw=x", "dns=1.1.1.1,x", "env=%%", "env=e30x"]
        {
            let failure = Cmdline::parse(&format!("coldframe.{bad}")).unwrap_err().to_string();
            assert!(failure.contains(bad.split('=').next().unwrap()), "{failure}");
        }
    }

    #[test]
    fn a_variable_that_cannot_be_set_is_refused() {
        for bad in [r#"{"":"x"}"#, r#"{"A=B":"x"}"#, "{\"A\":\"x\\u0000\"}", r#"{"A":1}"#, "[]"] {
            assert!(parse_env(&URL_SAFE_NO_PAD.encode(bad)).is_none(), "{bad}");
        }
    }
}
