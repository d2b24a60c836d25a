//! Names of owners and groups, each looked up once.

use std::cell::RefCell;
use std::collections::HashMap;

use crate::user::Accounts;

/// Names by number, as the guest's databases were when this was made. A directory has many files of few owners.
#[derive(Debug, Default)]
pub(crate) struct Names {
    accounts: Accounts,
    users: RefCell<HashMap<u32, String>>,
    groups: RefCell<HashMap<u32, String>>,
}

impl Names {
    /// Reads the databases.
    pub(crate) fn load() -> Self {
        Self { accounts: Accounts::read(), ..Self::default() }
    }

    /// The name of a user, or the number as text.
    pub(crate) fn user(&self, uid: u32) -> String {
        self.users.borrow_mut().entry(uid).or_insert_with(|| self.accounts.user_name(uid)).clone()
    }

    /// The name of a group, or the number as text.
    pub(crate) fn group(&self, gid: u32) -> String {
        self.groups.borrow_mut().entry(gid).or_insert_with(|| self.accounts.group_name(gid)).clone()
    }
}
