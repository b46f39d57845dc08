//! Who a process runs as: `name|uid[:group|gid]` against the container's own files.
//!
//! The C library's lookups are never used: they would load code from the container.

use std::path::Path;

use crate::error::Failure;

/// Largest passwd or group file read, in bytes; beyond that it is not a user list.
const FILE_BYTES_MAX: u64 = 16 << 20;
/// Most supplementary groups a process may have. Source: `setgroups(2)`.
const GROUPS_MAX: usize = 65536;

/// The ids of a process, and where its home is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    /// User id.
    pub uid: u32,
    /// Group id.
    pub gid: u32,
    /// Supplementary groups, `gid` among them.
    pub groups: Vec<u32>,
    /// Home directory.
    pub home: String,
}

struct Passwd<'a> {
    name: &'a str,
    uid: u32,
    gid: u32,
    home: &'a str,
}

fn passwd_line(line: &str) -> Option<Passwd<'_>> {
    let mut fields = line.trim().split(':');
    let (name, _, uid, gid) = (
        fields.next()?,
        fields.next()?,
        fields.next()?,
        fields.next()?,
    );
    let home = fields.nth(1).unwrap_or("");
    Some(Passwd {
        name,
        uid: uid.parse().ok()?,
        gid: gid.parse().ok()?,
        home,
    })
}

fn group_line(line: &str) -> Option<(&str, u32, &str)> {
    let mut fields = line.trim().split(':');
    let (name, _, gid) = (fields.next()?, fields.next()?, fields.next()?);
    Some((name, gid.parse().ok()?, fields.next().unwrap_or("")))
}

/// Resolves a user text against the contents of a passwd and a group file.
///
/// # Errors
///
/// When a name is in neither file: exit code 126 with Docker's words.
pub fn resolve(
    user: &str,
    group_add: &[String],
    passwd: &str,
    group: &str,
) -> Result<Identity, Failure> {
    let (user, group_text) = user.split_once(':').unwrap_or((user, ""));
    let user = if user.is_empty() { "0" } else { user };
    let number = user.parse::<u32>().ok();
    let entry = passwd
        .lines()
        .filter_map(passwd_line)
        .find(|entry| entry.name == user || number == Some(entry.uid));
    let (uid, primary) = match (&entry, number) {
        (Some(entry), _) => (entry.uid, entry.gid),
        (None, Some(uid)) => (uid, 0),
        (None, None) => {
            return Err(Failure::not_executable(format!(
                "unable to find user {user}: no matching entries in passwd file"
            )));
        }
    };
    let gid = if group_text.is_empty() {
        primary
    } else {
        find_group(group_text, group)?
    };
    let mut groups = vec![gid];
    if group_text.is_empty()
        && let Some(entry) = &entry
    {
        let member = |list: &str| list.split(',').any(|name| name == entry.name);
        groups.extend(
            group
                .lines()
                .filter_map(group_line)
                .filter(|g| member(g.2))
                .map(|(_, gid, _)| gid),
        );
    }
    for extra in group_add {
        groups.push(find_group(extra, group)?);
    }
    let mut seen = std::collections::BTreeSet::new();
    groups.retain(|gid| seen.insert(*gid));
    groups.truncate(GROUPS_MAX);
    let home = entry
        .map(|entry| entry.home)
        .filter(|home| !home.is_empty())
        .unwrap_or("/");
    Ok(Identity {
        uid,
        gid,
        groups,
        home: home.to_owned(),
    })
}

fn find_group(text: &str, group: &str) -> Result<u32, Failure> {
    let number = text.parse::<u32>().ok();
    let named = group
        .lines()
        .filter_map(group_line)
        .find(|(name, ..)| *name == text);
    named.map(|(_, gid, _)| gid).or(number).ok_or_else(|| {
        Failure::not_executable(format!(
            "unable to find group {text}: no matching entries in group file"
        ))
    })
}

/// Resolves a user text inside the current root directory.
///
/// # Errors
///
/// As [`resolve`]; missing or unreadable files count as empty.
pub(crate) fn resolve_here(user: &str, group_add: &[String]) -> Result<Identity, Failure> {
    let read = |path: &str| {
        crate::files::read_bounded(Path::new(path), FILE_BYTES_MAX)
            .map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
            .unwrap_or_default()
    };
    resolve(user, group_add, &read("/etc/passwd"), &read("/etc/group"))
}

#[cfg(test)]
mod tests {
    use super::*;

    const PASSWD: &str = "root:x:0:0:root:/root:/bin/sh\nann:x:1000:100::/home/ann:/bin/sh\nbad\n";
    const GROUP: &str = "root:x:0:\nusers:x:100:\naudio:x:29:bob,ann\nwheel:x:10:ann\n";

    #[test]
    fn users_resolve_by_name_and_number() {
        let cases: [(&str, u32, u32, &[u32], &str); 7] = [
            ("", 0, 0, &[0], "/root"),
            ("ann", 1000, 100, &[100, 29, 10], "/home/ann"),
            ("1000", 1000, 100, &[100, 29, 10], "/home/ann"),
            ("1000:wheel", 1000, 10, &[10], "/home/ann"),
            ("4242", 4242, 0, &[0], "/"),
            ("4242:77", 4242, 77, &[77], "/"),
            (":users", 0, 100, &[100], "/root"),
        ];
        for (text, uid, gid, groups, home) in cases {
            let identity = resolve(text, &[], PASSWD, GROUP).unwrap();
            let expected = Identity {
                uid,
                gid,
                groups: groups.to_vec(),
                home: home.to_owned(),
            };
            assert_eq!(identity, expected, "input {text:?}");
        }
    }

    #[test]
    fn unknown_names_say_so_in_dockers_words() {
        let user = resolve("eve", &[], PASSWD, GROUP).unwrap_err();
        assert_eq!(
            user.text,
            "unable to find user eve: no matching entries in passwd file"
        );
        let group = resolve("ann:nope", &[], PASSWD, GROUP).unwrap_err();
        assert_eq!(
            group.text,
            "unable to find group nope: no matching entries in group file"
        );
    }
}
