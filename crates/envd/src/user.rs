//! Users of the guest: who a request acts for, and where that user's paths lead.
//!
//! A client names a user with HTTP Basic authentication; the password is ignored, because whoever may talk to this
//! daemon may be anybody. The name decides ownership, home directory and, for processes, credentials.

mod accounts;
mod cached;
mod path;
mod request;

pub(crate) use accounts::{Accounts, UnknownUser, User};
pub(crate) use path::resolve_path;
pub(crate) use request::{authenticate, request_user};
