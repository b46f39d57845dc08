//! The base file; docs/formats.md has its table.

use std::ops::Range;

use rrun_core::Digest;
use sha2::{Digest as _, Sha256};

pub(super) const MAGIC: &[u8; 8] = b"rrunbas1";
pub(super) const HEADER_LEN: usize = 256;
pub(super) const NODE_LEN: usize = 48;
pub(super) const ENTRY_LEN: usize = 8;
pub(super) const OWNER_LEN: usize = 8;
pub(super) const LINK_LEN: usize = 12;
pub(super) const DIGEST_LEN: usize = 32;
/// Where in the header the hash of the part of it before lies.
const HEADER_SUM: usize = 224;
/// Bit of the header's flags: some node has xattrs.
pub(super) const FLAG_XATTRS: u32 = 1;
/// Bit of the header's flags: no node is what the kernel's overlayfs would take for its own mark.
pub(super) const FLAG_NO_MARKS: u32 = 2;
/// Bit in a node's nanoseconds: the contents are in the arena.
pub(super) const NODE_INLINE: u32 = 1 << 31;

/// The sections in the order of the file, and the length of one item.
pub(super) const SECTIONS: [(usize, &str); 7] = [
    (DIGEST_LEN, "layers"),
    (OWNER_LEN, "owners"),
    (NODE_LEN, "nodes"),
    (ENTRY_LEN, "entries"),
    (LINK_LEN, "links"),
    (DIGEST_LEN, "objects"),
    (1, "arena"),
];

/// Where the sections of a base are; offsets are proven to lie within the file.
#[derive(Debug, Clone)]
pub(crate) struct View {
    pub(super) chain: Digest,
    pub(super) flags: u32,
    sections: [Range<usize>; 7],
}

impl View {
    /// Checks the header and that the sections fill the file; touches nothing else.
    pub(crate) fn new(bytes: &[u8], chain: &Digest) -> Result<Self, &'static str> {
        let header = bytes.get(..HEADER_LEN).ok_or("too short")?;
        if header[..8] != *MAGIC {
            return Err("not a base of this version");
        }
        if Sha256::digest(&header[..HEADER_SUM]).as_slice() != &header[HEADER_SUM..] {
            return Err("checksum of the header does not hold");
        }
        if header[16..48] != *chain.as_bytes() {
            return Err("it is of another chain");
        }
        let mut at = HEADER_LEN;
        let mut sections = [const { 0..0 }; 7];
        for (number, (len, _)) in SECTIONS.into_iter().enumerate() {
            let count = usize::try_from(u64_at(header, 80 + 8 * number)).ok();
            let end = count.and_then(|count| count.checked_mul(len)?.checked_add(at));
            let end = end
                .filter(|end| *end <= bytes.len())
                .ok_or("sections exceed the file")?;
            sections[number] = at..end;
            at = end;
        }
        if at != bytes.len() {
            return Err("sections do not fill the file");
        }
        Ok(Self {
            chain: *chain,
            flags: u32_at(header, 8),
            sections,
        })
    }

    fn item<'a>(&self, bytes: &'a [u8], section: usize, number: usize) -> Option<&'a [u8]> {
        let len = SECTIONS[section].0;
        let start = number.checked_mul(len)?;
        bytes
            .get(self.sections[section].clone())?
            .get(start..start.checked_add(len)?)
    }

    fn count(&self, section: usize) -> usize {
        self.sections[section].len() / SECTIONS[section].0
    }

    /// The diffIDs, lowest first.
    pub(crate) fn layers(&self, bytes: &[u8]) -> Vec<Digest> {
        self.digests(bytes, 0)
    }

    /// The digests of all objects, each once.
    pub(crate) fn objects(&self, bytes: &[u8]) -> Vec<Digest> {
        self.digests(bytes, 5)
    }

    fn digests(&self, bytes: &[u8], section: usize) -> Vec<Digest> {
        let numbers = 0..self.count(section);
        numbers
            .filter_map(|number| self.digest(bytes, section, number))
            .collect()
    }

    fn digest(&self, bytes: &[u8], section: usize, number: usize) -> Option<Digest> {
        let raw = self.item(bytes, section, number)?;
        Some(Digest::from_bytes(raw.try_into().ok()?))
    }

    pub(super) fn object(&self, bytes: &[u8], number: u32) -> Option<Digest> {
        self.digest(bytes, 5, usize::try_from(number).ok()?)
    }

    pub(super) fn owner(&self, bytes: &[u8], number: u32) -> Option<(u32, u32)> {
        let raw = self.item(bytes, 1, usize::try_from(number).ok()?)?;
        Some((u32_at(raw, 0), u32_at(raw, 4)))
    }

    /// Every pair of uid and gid that owns something, each once.
    pub(super) fn owners(&self, bytes: &[u8]) -> Vec<(u32, u32)> {
        let numbers = 0..u32::try_from(self.count(1)).unwrap_or(u32::MAX);
        numbers
            .filter_map(|number| self.owner(bytes, number))
            .collect()
    }

    pub(super) fn node_count(&self) -> usize {
        self.count(2)
    }

    /// The record of a node, numbered from 1.
    pub(super) fn node(&self, bytes: &[u8], number: u32) -> Option<Node> {
        let raw = self.item(bytes, 2, usize::try_from(number).ok()?.checked_sub(1)?)?;
        let nanos = u32_at(raw, 16);
        Some(Node {
            mode: u32::from(u16::from_le_bytes([raw[0], raw[1]])),
            layer: u32::from(u16::from_le_bytes([raw[2], raw[3]])),
            owner: u32_at(raw, 4),
            secs: u64_at(raw, 8).cast_signed(),
            nanos: nanos & !NODE_INLINE,
            inline: nanos & NODE_INLINE != 0,
            nlink: u32_at(raw, 20),
            size: u64_at(raw, 24),
            content: u32_at(raw, 32),
            xattrs: u32_at(raw, 36),
            parent: u32_at(raw, 40),
            entry: u32_at(raw, 44),
        })
    }

    /// The name and the node of a directory entry.
    pub(super) fn entry<'a>(&self, bytes: &'a [u8], number: u32) -> Option<(&'a [u8], u32)> {
        let raw = self.item(bytes, 3, usize::try_from(number).ok()?)?;
        let at = u32_at(raw, 0);
        let len = *self.arena(bytes, at, 1)?.first()?;
        Some((
            self.arena(bytes, at.checked_add(1)?, u64::from(len))?,
            u32_at(raw, 4),
        ))
    }

    pub(super) fn link_count(&self) -> usize {
        self.count(4)
    }

    /// One more name of a hard-linked node: the node, the directory, the entry.
    pub(super) fn link(&self, bytes: &[u8], number: usize) -> Option<(u32, u32, u32)> {
        let raw = self.item(bytes, 4, number)?;
        Some((u32_at(raw, 0), u32_at(raw, 4), u32_at(raw, 8)))
    }

    pub(super) fn arena<'a>(&self, bytes: &'a [u8], offset: u32, len: u64) -> Option<&'a [u8]> {
        let start = usize::try_from(offset).ok()?;
        let end = start.checked_add(usize::try_from(len).ok()?)?;
        bytes.get(self.sections[6].clone())?.get(start..end)
    }

    /// An encoded set of xattrs: its length (u32), then the set as in a layer index.
    pub(super) fn xattrs<'a>(&self, bytes: &'a [u8], offset: u32) -> Option<&'a [u8]> {
        let len = u32_at(self.arena(bytes, offset, 4)?, 0);
        self.arena(bytes, offset.checked_add(4)?, u64::from(len))
    }
}

/// Checks the hash over the sections, as the header has it.
pub(crate) fn verify(bytes: &[u8]) -> bool {
    let Some((header, body)) = bytes.split_at_checked(HEADER_LEN) else {
        return false;
    };
    Sha256::digest(body).as_slice() == &header[48..80]
}

/// The header before a body.
pub(super) fn header(chain: &Digest, flags: u32, counts: [u64; 7], body: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(HEADER_LEN);
    out.extend_from_slice(MAGIC);
    out.extend_from_slice(&flags.to_le_bytes());
    out.extend_from_slice(&[0; 4]);
    out.extend_from_slice(chain.as_bytes());
    out.extend_from_slice(Sha256::digest(body).as_slice());
    for count in counts {
        out.extend_from_slice(&count.to_le_bytes());
    }
    out.resize(HEADER_SUM, 0);
    let sum = Sha256::digest(&out);
    out.extend_from_slice(sum.as_slice());
    out
}

/// A node's record.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Node {
    pub(super) mode: u32,
    pub(super) layer: u32,
    pub(super) owner: u32,
    pub(super) secs: i64,
    pub(super) nanos: u32,
    pub(super) inline: bool,
    pub(super) nlink: u32,
    /// Size of a file or target; of a device, major in the upper half and minor in the lower;
    /// of a directory, number of entries in the upper half and the first one in the lower.
    pub(super) size: u64,
    /// Of a file the object's number, or its place in the arena; of a symlink that place.
    pub(super) content: u32,
    /// Place of the xattrs in the arena plus one; 0 for none.
    pub(super) xattrs: u32,
    pub(super) parent: u32,
    pub(super) entry: u32,
}

impl Node {
    pub(super) fn encode(&self, out: &mut Vec<u8>) {
        // Modes and layers are proven to fit before.
        out.extend_from_slice(&u16::try_from(self.mode).unwrap_or_default().to_le_bytes());
        out.extend_from_slice(&u16::try_from(self.layer).unwrap_or_default().to_le_bytes());
        out.extend_from_slice(&self.owner.to_le_bytes());
        out.extend_from_slice(&self.secs.to_le_bytes());
        let inline = if self.inline { NODE_INLINE } else { 0 };
        out.extend_from_slice(&(self.nanos | inline).to_le_bytes());
        out.extend_from_slice(&self.nlink.to_le_bytes());
        out.extend_from_slice(&self.size.to_le_bytes());
        out.extend_from_slice(&self.content.to_le_bytes());
        out.extend_from_slice(&self.xattrs.to_le_bytes());
        out.extend_from_slice(&self.parent.to_le_bytes());
        out.extend_from_slice(&self.entry.to_le_bytes());
    }

    /// The upper and the lower half of `size`.
    pub(super) fn halves(&self) -> (u32, u32) {
        let raw = self.size.to_le_bytes();
        (
            u32::from_le_bytes([raw[4], raw[5], raw[6], raw[7]]),
            u32::from_le_bytes([raw[0], raw[1], raw[2], raw[3]]),
        )
    }
}

/// The number at `at`; the caller has checked the length.
fn u32_at(bytes: &[u8], at: usize) -> u32 {
    let mut raw = [0; 4];
    raw.copy_from_slice(&bytes[at..at + 4]);
    u32::from_le_bytes(raw)
}

/// The number at `at`; the caller has checked the length.
fn u64_at(bytes: &[u8], at: usize) -> u64 {
    let mut raw = [0; 8];
    raw.copy_from_slice(&bytes[at..at + 8]);
    u64::from_le_bytes(raw)
}
