//! The user and group database: `/etc/passwd` and `/etc/group`, read by hand and anew each time, since the guest may
//! change them at any time and they are small. Every request may need them, and all of the daemon shares one thread, so
//! that thread reads them only as far as they are in memory.

use std::path::{Path, PathBuf};

use thiserror::Error;

use super::cached;
use crate::filesystem::blocking;

const PASSWD: &str = "/etc/passwd";
const GROUP: &str = "/etc/group";

/// A user of the guest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct User {
    /// Login name.
    pub(crate) name: String,
    /// Numeric user id.
    pub(crate) uid: u32,
    /// Numeric id of the primary group.
    pub(crate) gid: u32,
    /// Home directory.
    pub(crate) home: PathBuf,
    /// All groups: the primary one, then the supplementary ones, each once.
    pub(crate) groups: Vec<u32>,
}

/// There is no user of this name. The text is what clients look for.
#[derive(Debug, Clone, Error, PartialEq, Eq)]
#[error("invalid username: '{0}'")]
pub(crate) struct UnknownUser(pub(crate) String);

impl User {
    /// Looks a user up by name.
    ///
    /// # Errors
    /// [`UnknownUser`] when no line of `/etc/passwd` has this name, or the file cannot be read.
    pub(crate) async fn by_name(name: &str) -> Result<Self, UnknownUser> {
        match Accounts::cached() {
            Some(accounts) => accounts.user(name),
            None => blocking(Accounts::read).await.user(name),
        }
    }
}

/// What both files said when they were read.
#[derive(Debug, Default)]
pub(crate) struct Accounts {
    passwd: String,
    group: String,
}

impl Accounts {
    /// Both files, if they can be read without waiting for a disk.
    fn cached() -> Option<Self> {
        let read = |path| Some(String::from_utf8_lossy(&cached::read(Path::new(path))?).into_owned());
        Some(Self { passwd: read(PASSWD)?, group: read(GROUP)? })
    }

    /// Reads both files, which may have to wait for a disk. One that is missing or unreadable counts as empty: an image need not have them.
    pub(crate) fn read() -> Self {
        let read = |path| String::from_utf8_lossy(&std::fs::read(path).unwrap_or_default()).into_owned();
        Self { passwd: read(PASSWD), group: read(GROUP) }
    }

    /// The user of this name, with all groups.
    ///
    /// # Errors
    /// [`UnknownUser`] when there is none.
    pub(crate) fn user(&self, name: &str) -> Result<User, UnknownUser> {
        let entry = self
            .passwd
            .lines()
            .filter_map(PasswdEntry::parse)
            .find(|entry| entry.name == name)
            .ok_or_else(|| UnknownUser(name.to_owned()))?;
        let mut groups = vec![entry.gid];
        for group in self.group.lines().filter_map(GroupEntry::parse) {
            if group.members.split(',').any(|member| member == name) && !groups.contains(&group.gid) {
                groups.push(group.gid);
            }
        }
        // An empty home directory field means the root directory, as for login(1).
        let home = if entry.home.is_empty() { "/" } else { entry.home };
        Ok(User { name: name.to_owned(), uid: entry.uid, gid: entry.gid, home: PathBuf::from(home), groups })
    }

    /// The name of a user id, or the number as text.
    pub(crate) fn user_name(&self, uid: u32) -> String {
        let mut entries = self.passwd.lines().filter_map(PasswdEntry::parse);
        entries.find(|entry| entry.uid == uid).map_or_else(|| uid.to_string(), |entry| entry.name.to_owned())
    }

    /// The name of a group id, or the number as text.
    pub(crate) fn group_name(&self, gid: u32) -> String {
        let mut entries = self.group.lines().filter_map(GroupEntry::parse);
        entries.find(|entry| entry.gid == gid).map_or_else(|| gid.to_string(), |entry| entry.name.to_owned())
    }
}

/// `name:password:uid:gid:comment:home:shell`
struct PasswdEntry<'a> {
    name: &'a str,
    uid: u32,
    gid: u32,
    home: &'a str,
}

impl<'a> PasswdEntry<'a> {
    fn parse(line: &'a str) -> Option<Self> {
        let mut fields = line.split(':');
        let name = fields.next().filter(|name| !name.is_empty() && !name.starts_with('#'))?;
        let _password = fields.next()?;
        let uid = fields.next()?.parse().ok()?;
        let gid = fields.next()?.parse().ok()?;
        let _comment = fields.next();
        Some(Self { name, uid, gid, home: fields.next().unwrap_or_default() })
    }
}

/// `name:password:gid:member,member,…`
struct GroupEntry<'a> {
    name: &'a str,
    gid: u32,
    members: &'a str,
}

impl<'a> GroupEntry<'a> {
    fn parse(line: &'a str) -> Option<Self> {
        let mut fields = line.split(':');
        let name = fields.next().filter(|name| !name.is_empty() && !name.starts_with('#'))?;
        let _password = fields.next()?;
        let gid = fields.next()?.parse().ok()?;
        Some(Self { name, gid, members: fields.next().unwrap_or_default() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn accounts() -> Accounts {
        Accounts {
            passwd: "root:x:0:0:root:/root:/bin/bash\n# a comment:x:1:1\nbroken\nuser:x:1000:1000:,,,:/home/user:/bin/sh\n\
                     bare:x:7:8::\nbad:x:many:1::/\n+nis::\n"
                .into(),
            group: "root:x:0:\nsudo:x:27:other,user\nuser:x:1000:user\ndocker:x:999:user\nusers:x:100:user2\n".into(),
        }
    }

    #[test]
    fn a_user_has_its_groups_once() {
        assert_eq!(
            accounts().user("user"),
            Ok(User {
                name: "user".into(),
                uid: 1000,
                gid: 1000,
                home: "/home/user".into(),
                groups: vec![1000, 27, 999],
            })
        );
        let bare = accounts().user("bare").unwrap();
        assert_eq!((bare.home, bare.groups), (PathBuf::from("/"), vec![8]));
    }

    #[test]
    fn unknown_and_broken_entries_are_no_users() {
        for name in ["nobody", "", "# a comment", "broken", "bad", "+nis", "use"] {
            let error = accounts().user(name).unwrap_err();
            assert_eq!(error.to_string(), format!("invalid username: '{name}'"));
        }
    }

    #[test]
    fn ids_without_a_name_stay_numbers() {
        let accounts = accounts();
        assert_eq!((accounts.user_name(1000), accounts.user_name(42)), ("user".into(), "42".into()));
        assert_eq!((accounts.group_name(27), accounts.group_name(42)), ("sudo".into(), "42".into()));
    }
}
