//! POSIX ACLs as the kernel passes them in xattrs.
//!
//! Layout: version u32 = 2, then entries of tag u16, permissions u16, id u32, little-endian.
//! Source: `include/uapi/linux/posix_acl_xattr.h`, `acl(5)`.

pub(crate) const ACCESS: &[u8] = b"system.posix_acl_access";
pub(crate) const DEFAULT: &[u8] = b"system.posix_acl_default";

const VERSION: u32 = 2;
const ENTRY_LEN: usize = 8;
const USER_OBJ: u16 = 0x01;
const GROUP_OBJ: u16 = 0x04;
const MASK: u16 = 0x10;
const OTHER: u16 = 0x20;

/// A parsed ACL.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Acl(Vec<AclEntry>);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct AclEntry {
    tag: u16,
    perm: u16,
    id: u32,
}

impl Acl {
    /// Reads an xattr value; `None` when malformed.
    pub(crate) fn decode(bytes: &[u8]) -> Option<Self> {
        let (version, rest) = bytes.split_first_chunk::<4>()?;
        if u32::from_le_bytes(*version) != VERSION || rest.len() % ENTRY_LEN != 0 {
            return None;
        }
        let entry = |chunk: &[u8]| {
            let (tag, chunk) = chunk.split_first_chunk::<2>()?;
            let (perm, chunk) = chunk.split_first_chunk::<2>()?;
            let (id, _) = chunk.split_first_chunk::<4>()?;
            Some(AclEntry {
                tag: u16::from_le_bytes(*tag),
                perm: u16::from_le_bytes(*perm),
                id: u32::from_le_bytes(*id),
            })
        };
        rest.chunks(ENTRY_LEN)
            .map(entry)
            .collect::<Option<Vec<_>>>()
            .map(Self)
    }

    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut out = VERSION.to_le_bytes().to_vec();
        for entry in &self.0 {
            out.extend_from_slice(&entry.tag.to_le_bytes());
            out.extend_from_slice(&entry.perm.to_le_bytes());
            out.extend_from_slice(&entry.id.to_le_bytes());
        }
        out
    }

    fn has(&self, tag: u16) -> bool {
        self.0.iter().any(|entry| entry.tag == tag)
    }

    /// Whether permission bits alone say the same.
    pub(crate) fn is_plain(&self) -> bool {
        self.0
            .iter()
            .all(|entry| matches!(entry.tag, USER_OBJ | GROUP_OBJ | OTHER))
    }

    /// The nine permission bits that stat shows for a file with this ACL.
    pub(crate) fn mode(&self) -> u32 {
        let group_tag = if self.has(MASK) { MASK } else { GROUP_OBJ };
        let bits = |tag: u16| {
            self.0
                .iter()
                .find(|e| e.tag == tag)
                .map_or(0, |e| u32::from(e.perm & 7))
        };
        (bits(USER_OBJ) << 6) | (bits(group_tag) << 3) | bits(OTHER)
    }

    /// Follows a chmod. Source: `acl(5)`, "Correspondence between ACL entries and mode".
    pub(crate) fn chmod(&mut self, mode: u32) {
        let group_tag = if self.has(MASK) { MASK } else { GROUP_OBJ };
        for entry in &mut self.0 {
            let shift = match entry.tag {
                USER_OBJ => 6,
                OTHER => 0,
                tag if tag == group_tag => 3,
                _ => continue,
            };
            entry.perm = u16::try_from((mode >> shift) & 7).unwrap_or(0);
        }
    }

    /// The access ACL and the mode of a new file in a directory whose default ACL is `self`.
    /// Source: `acl(5)`, "Object creation and default ACLs".
    pub(crate) fn inherit(&self, mode: u32) -> (Self, u32) {
        let mut acl = self.clone();
        let group_tag = if acl.has(MASK) { MASK } else { GROUP_OBJ };
        for entry in &mut acl.0 {
            let shift = match entry.tag {
                USER_OBJ => 6,
                OTHER => 0,
                tag if tag == group_tag => 3,
                _ => continue,
            };
            entry.perm &= u16::try_from((mode >> shift) & 7).unwrap_or(0);
        }
        let bits = acl.mode();
        (acl, (mode & !0o777) | bits)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> Acl {
        let entry = |tag, perm, id| AclEntry { tag, perm, id };
        Acl(vec![
            entry(USER_OBJ, 7, u32::MAX),
            entry(0x02, 5, 1000),
            entry(GROUP_OBJ, 5, u32::MAX),
            entry(MASK, 7, u32::MAX),
            entry(OTHER, 5, u32::MAX),
        ])
    }

    #[test]
    fn acl_bytes_round_trip_and_truncated_ones_are_refused() {
        let bytes = sample().encode();
        assert_eq!(Acl::decode(&bytes), Some(sample()));
        for len in [0, 3, 5, bytes.len() - 1] {
            assert_eq!(Acl::decode(&bytes[..len]), None, "length {len}");
        }
    }

    #[test]
    fn mode_bits_and_acl_follow_each_other() {
        let mut acl = sample();
        assert_eq!(acl.mode(), 0o775);
        acl.chmod(0o640);
        assert_eq!(acl.mode(), 0o640);
        let (inherited, mode) = sample().inherit(0o100_644);
        assert_eq!(mode, 0o100_644);
        assert_eq!(inherited.mode(), 0o644);
        assert!(!inherited.is_plain());
    }
}
