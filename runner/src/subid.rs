//! `/etc/subuid` and `/etc/subgid`: which ids a user may hand to containers.

use std::path::Path;

use serde::{Deserialize, Serialize};

/// Largest file read, in bytes; a line is some 20 bytes, so this is 50,000 users.
const FILE_BYTES_MAX: u64 = 1 << 20;

/// Some consecutive ids of the host.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct IdRange {
    /// First id.
    pub start: u32,
    /// Number of ids.
    pub count: u32,
}

/// The ranges of a user in the text of `/etc/subuid` or `/etc/subgid`, by name or number.
///
/// Lines that are not `owner:start:count` are passed over, as `newuidmap` does.
///
/// Source: `subuid(5)`.
#[must_use]
pub fn parse(text: &str, user: &str, uid: u32) -> Vec<IdRange> {
    let number = uid.to_string();
    text.lines()
        .filter_map(|line| {
            let mut fields = line.trim().split(':');
            let (owner, start, count) = (fields.next()?, fields.next()?, fields.next()?);
            let owned = (!user.is_empty() && owner == user) || owner == number;
            let range = IdRange {
                start: start.parse().ok()?,
                count: count.parse().ok()?,
            };
            (owned && range.count > 0 && range.start.checked_add(range.count).is_some())
                .then_some(range)
        })
        .collect()
}

/// The ranges of a user in a file; none when it cannot be read.
#[must_use]
pub fn read(path: &Path, user: &str, uid: u32) -> Vec<IdRange> {
    crate::files::read_bounded(path, FILE_BYTES_MAX)
        .map(|bytes| parse(&String::from_utf8_lossy(&bytes), user, uid))
        .unwrap_or_default()
}

/// The lines of an id map: id 0 inside is `own`, ids from 1 are taken from the ranges in turn.
pub(crate) fn map_lines(own: u32, ranges: &[IdRange]) -> Vec<[u32; 3]> {
    let mut lines = vec![[0, own, 1]];
    let mut next = 1_u32;
    for range in ranges {
        let Some(after) = next.checked_add(range.count) else {
            break;
        };
        lines.push([next, range.start, range.count]);
        next = after;
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_found_by_name_and_by_number_and_damage_is_passed_over() {
        let text = "# c\nann:100000:65536\nbob:1:2\n1000:300000:10\nann:x:1\nann:5\nann:7:0\nann:4294967295:2\n";
        let ranges = parse(text, "ann", 1000);
        let expected = [
            IdRange {
                start: 100_000,
                count: 65536,
            },
            IdRange {
                start: 300_000,
                count: 10,
            },
        ];
        assert_eq!(ranges, expected);
        assert_eq!(parse(text, "", 5), []);
        assert_eq!(
            map_lines(1000, &ranges),
            [[0, 1000, 1], [1, 100_000, 65536], [65537, 300_000, 10]]
        );
    }
}
