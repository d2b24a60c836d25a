//! Names of owners and groups, from `/etc/passwd` and `/etc/group`.

use std::collections::HashMap;
use std::path::Path;

/// Largest user or group database that is read, in bytes: the guest writes these files.
const MAX_DATABASE: u64 = 4 << 20;

/// Names by number, as they were when this was read.
#[derive(Debug, Default)]
pub(crate) struct Names {
    users: HashMap<u32, String>,
    groups: HashMap<u32, String>,
}

impl Names {
    /// Reads both databases. A missing or unreadable one has no names.
    pub(crate) fn load() -> Self {
        Self { users: read(Path::new("/etc/passwd")), groups: read(Path::new("/etc/group")) }
    }

    /// The name of a user, or the number as text.
    pub(crate) fn user(&self, uid: u32) -> String {
        self.users.get(&uid).cloned().unwrap_or_else(|| uid.to_string())
    }

    /// The name of a group, or the number as text.
    pub(crate) fn group(&self, gid: u32) -> String {
        self.groups.get(&gid).cloned().unwrap_or_else(|| gid.to_string())
    }
}

fn read(path: &Path) -> HashMap<u32, String> {
    match std::fs::metadata(path) {
        Ok(metadata) if metadata.len() <= MAX_DATABASE => {
            std::fs::read(path).map(|bytes| parse(&bytes)).unwrap_or_default()
        }
        _ => HashMap::new(),
    }
}

/// Both formats begin with `name:password:number`. The first line of a number counts, as in getpwuid(3).
fn parse(bytes: &[u8]) -> HashMap<u32, String> {
    let mut names = HashMap::new();
    for line in String::from_utf8_lossy(bytes).lines() {
        let mut fields = line.split(':');
        if let (Some(name), Some(_), Some(number)) = (fields.next(), fields.next(), fields.next())
            && !name.is_empty()
            && let Ok(number) = number.parse()
        {
            names.entry(number).or_insert_with(|| name.to_owned());
        }
    }
    names
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_name_counts_and_nonsense_is_skipped() {
        let users = parse(b"root:x:0:0::/root:/bin/sh\ntoor:x:0:0\n\n#\nx\nbad:x:-1:\n:x:7:\nuser:x:1000:1000:\n\xff:x:8:");
        let names = Names { users, groups: parse(b"wheel:x:0:root,user\n") };
        assert_eq!(names.user(0), "root");
        assert_eq!(names.user(1000), "user");
        assert_eq!(names.user(7), "7");
        assert_eq!(names.group(0), "wheel");
        assert_eq!(names.group(1000), "1000");
    }
}
