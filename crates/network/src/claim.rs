//! Choosing the range of addresses for the links of slots, and holding it.
//!
//! The range is claimed by an unreachable route to it. Another instance on this host sees the route and takes another
//! range; packets to slots that do not exist end here instead of leaving by the default route. The route's metric
//! holds the instance's tag, by which it knows its own claim after a restart.

use crate::netlink::Netlink;
use crate::survey::Survey;
use crate::{InstanceTag, NetworkError, Subnet};

/// The upper half of a claim's metric; the lower half is the tag.
const METRIC: u32 = 0x00cf_0000;

/// The metric that marks an instance's claim.
pub(crate) fn metric(tag: InstanceTag) -> u32 {
    METRIC | u32::from(tag.value())
}

/// The range to use: the wanted one; or the one that was claimed before, whose slots may still be in use; or the first
/// default range that is free.
pub(crate) fn choose(
    survey: &Survey,
    tag: InstanceTag,
    wanted: Option<Subnet>,
) -> Result<Subnet, NetworkError> {
    let free = |subnet: &Subnet| survey.conflict(*subnet).is_none();
    match wanted {
        Some(subnet) => match survey.conflict(subnet) {
            None => Ok(subnet),
            Some(route) => Err(NetworkError::Conflict {
                subnet,
                route: route.to,
                via: route.device.as_ref().map(|device| format!(" by {device}")).unwrap_or_default(),
            }),
        },
        None => survey
            .claimed
            .iter()
            .copied()
            .chain(Subnet::candidates(tag))
            .find(free)
            .ok_or(NetworkError::NoFreeRange),
    }
}

/// Claims `subnet` and gives up what else was claimed.
pub(crate) fn hold(
    netlink: &Netlink,
    survey: &Survey,
    tag: InstanceTag,
    subnet: Subnet,
) -> Result<(), NetworkError> {
    for old in survey.claimed.iter().filter(|claimed| **claimed != subnet) {
        netlink.delete_unreachable(*old, metric(tag))?;
    }
    netlink.add_unreachable(subnet, metric(tag))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::survey::Route;

    fn survey(routes: &[&str]) -> Survey {
        let routes = routes
            .iter()
            .map(|to| Route { to: to.parse().unwrap(), device: Some("wg0".to_owned()) })
            .collect();
        Survey { routes, ..Survey::default() }
    }

    #[test]
    fn a_default_range_in_use_is_skipped_and_a_wanted_one_is_an_error() {
        let tag = InstanceTag::new(0);
        assert_eq!(choose(&survey(&[]), tag, None).unwrap(), Subnet::of(&tag));
        let busy = survey(&["192.0.2.0/24", "10.64.7.0/24"]);
        assert_eq!(choose(&busy, tag, None).unwrap().to_string(), "10.65.0.0/16");
        let error = choose(&busy, tag, Some(Subnet::of(&tag))).unwrap_err().to_string();
        assert!(error.contains("10.64.7.0/24 by wg0") && error.contains("10.64.0.0/16"), "{error}");
        let error = choose(&survey(&["10.0.0.0/8"]), tag, None).unwrap_err();
        assert!(matches!(error, NetworkError::NoFreeRange));
    }

    #[test]
    fn the_claim_of_an_earlier_run_is_kept() {
        let tag = InstanceTag::new(0);
        let mut before = survey(&[]);
        before.claimed.push("10.70.0.0/16".parse().unwrap());
        assert_eq!(choose(&before, tag, None).unwrap().to_string(), "10.70.0.0/16");
    }
}
