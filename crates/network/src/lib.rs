//! Namespaces, links, taps and the packet filter around every sandbox.
//!
//! ```text
//!  guest ── tap0 ┐ namespace cf<tag>-<n> ┌ eth0 ══ cf<tag>-<n> ┐ host ┌ uplink ── internet
//!  169.254.0.21  │ 169.254.0.22          │ x.y.z.odd    .even  │      │
//!                └ filter, NAT, no default route until allowed ┘      └ filter, NAT
//! ```
//! Every guest has the same address, so that a snapshot resumes anywhere; two layers of NAT make it unique. Both
//! layers also filter, each on its own able to keep a guest away from private ranges: [`Host`] owns the outer one,
//! shared by all sandboxes and independent of their number; [`Slot`] the inner one, part of one sandbox.
//!
//! A slot is made ahead of need, with netlink and one run of `nft`. Giving it to a sandbox ([`Slot::apply`]) adds or
//! removes one route. The host reaches a guest by sockets made inside the namespace ([`Dialer`]); there is no route to
//! guests and nothing is forwarded to them.
#![forbid(unsafe_code)]

mod claim;
mod dialer;
mod error;
pub mod guest;
mod host;
mod make;
mod named;
mod namespace;
mod netlink;
mod nft;
mod ruleset;
mod slot;
mod subnet;
mod survey;
mod sysctl;
mod tag;
mod tap;

pub use dialer::Dialer;
pub use error::NetworkError;
pub use host::Host;
pub use namespace::enter;
pub use slot::Slot;
pub use subnet::{BadSubnet, Subnet};
pub use tag::{BadTag, InstanceTag};
pub use tap::open_tap;
