//! The FUSE protocol's bytes. All numbers are in host order, as the kernel passes them.
//!
//! Source: `include/uapi/linux/fuse.h`, version 7.40 and later.
#![expect(clippy::host_endian_bytes, reason = "the protocol is in host order")]

use rrun_core::{Attr, Errno, FileType, Time};
use rrun_union::{Entry, Listed};

/// Bytes of `struct fuse_in_header`.
pub(crate) const IN_HEADER: usize = 40;
/// Bytes of `struct fuse_out_header`.
pub(crate) const OUT_HEADER: usize = 16;
/// `st_blksize` we report: the unit of the page cache.
const BLOCK_SIZE: u32 = 4096;
/// How long the kernel may keep what we tell it, in seconds: as good as forever, since every
/// change goes through us.
const FOREVER_SECS: u64 = 1_000_000_000;

macro_rules! opcodes {
    ($($name:ident = $value:literal),* $(,)?) => {
        /// The operations.
        pub(crate) mod op {
            #![expect(dead_code, reason = "some are only ever named in counters")]
            $(pub(crate) const $name: u32 = $value;)*
        }

        pub(crate) fn opcode_name(opcode: u32) -> &'static str {
            match opcode {
                $($value => stringify!($name),)*
                _ => "OTHER",
            }
        }
    };
}

opcodes! {
    LOOKUP = 1, FORGET = 2, GETATTR = 3, SETATTR = 4, READLINK = 5, SYMLINK = 6, MKNOD = 8,
    MKDIR = 9, UNLINK = 10, RMDIR = 11, RENAME = 12, LINK = 13, OPEN = 14, READ = 15, WRITE = 16,
    STATFS = 17, RELEASE = 18, FSYNC = 20, SETXATTR = 21, GETXATTR = 22, LISTXATTR = 23,
    REMOVEXATTR = 24, FLUSH = 25, INIT = 26, OPENDIR = 27, READDIR = 28, RELEASEDIR = 29,
    FSYNCDIR = 30, ACCESS = 34, CREATE = 35, INTERRUPT = 36, DESTROY = 38, IOCTL = 39,
    BATCH_FORGET = 42, FALLOCATE = 43, READDIRPLUS = 44, RENAME2 = 45, LSEEK = 46,
    COPY_FILE_RANGE = 47, SYNCFS = 50, TMPFILE = 51, STATX = 52,
}

/// A request as read.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Request<'a> {
    pub(crate) opcode: u32,
    pub(crate) unique: u64,
    pub(crate) node: u64,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    /// The thread that asks, in the namespace of whoever mounted; 0 when it has no number there.
    pub(crate) pid: u32,
    pub(crate) body: Body<'a>,
}

/// The arguments of a request, consumed from the front.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Body<'a>(&'a [u8]);

impl<'a> Request<'a> {
    /// Reads the header. `None` for fewer bytes than it says.
    pub(crate) fn parse(bytes: &'a [u8]) -> Option<Self> {
        let mut header = Body(bytes.get(..IN_HEADER)?);
        let len = usize::try_from(header.u32().ok()?).ok()?;
        let opcode = header.u32().ok()?;
        let unique = header.u64().ok()?;
        let node = header.u64().ok()?;
        let uid = header.u32().ok()?;
        let gid = header.u32().ok()?;
        let pid = header.u32().ok()?;
        Some(Self {
            opcode,
            unique,
            node,
            uid,
            gid,
            pid,
            body: Body(bytes.get(IN_HEADER..len)?),
        })
    }
}

impl<'a> Body<'a> {
    fn take<const N: usize>(&mut self) -> Result<[u8; N], Errno> {
        let (head, rest) = self.0.split_first_chunk::<N>().ok_or(Errno::EINVAL)?;
        self.0 = rest;
        Ok(*head)
    }

    pub(crate) fn u32(&mut self) -> Result<u32, Errno> {
        self.take().map(u32::from_ne_bytes)
    }

    pub(crate) fn u64(&mut self) -> Result<u64, Errno> {
        self.take().map(u64::from_ne_bytes)
    }

    pub(crate) fn array<const N: usize>(&mut self) -> Result<[u8; N], Errno> {
        self.take()
    }

    pub(crate) fn skip(&mut self, count: usize) -> Result<(), Errno> {
        self.0 = self.0.get(count..).ok_or(Errno::EINVAL)?;
        Ok(())
    }

    /// Bytes up to a NUL.
    pub(crate) fn name(&mut self) -> Result<&'a [u8], Errno> {
        let end = self
            .0
            .iter()
            .position(|byte| *byte == 0)
            .ok_or(Errno::EINVAL)?;
        let (name, rest) = self.0.split_at(end);
        self.0 = rest.get(1..).unwrap_or_default();
        Ok(name)
    }

    pub(crate) fn bytes(&mut self, count: usize) -> Result<&'a [u8], Errno> {
        let out = self.0.get(..count).ok_or(Errno::EINVAL)?;
        self.0 = self.0.get(count..).unwrap_or_default();
        Ok(out)
    }
}

/// A reply under construction; the header's space comes first.
///
/// The buffer keeps its length from one reply to the next, so that the space for a large read is
/// zeroed once and not each time.
#[derive(Debug)]
pub(crate) struct Reply {
    bytes: Vec<u8>,
    len: usize,
}

/// `struct fuse_out_header` of an answer with a body of so many bytes.
pub(crate) fn out_header(body_len: usize, error: i32, unique: u64) -> [u8; OUT_HEADER] {
    let len = u32::try_from(OUT_HEADER + body_len).unwrap_or(0);
    let mut header = [0; OUT_HEADER];
    header[0..4].copy_from_slice(&len.to_ne_bytes());
    header[4..8].copy_from_slice(&error.to_ne_bytes());
    header[8..16].copy_from_slice(&unique.to_ne_bytes());
    header
}

impl Reply {
    pub(crate) fn with_capacity(capacity: usize) -> Self {
        Self {
            bytes: vec![0; capacity.max(OUT_HEADER)],
            len: OUT_HEADER,
        }
    }

    pub(crate) fn clear(&mut self) {
        self.len = OUT_HEADER;
    }

    /// Writes the header; the bytes are then ready to be sent.
    pub(crate) fn finish(&mut self, unique: u64, result: Result<(), Errno>) -> &[u8] {
        let error = match result {
            Ok(()) => 0,
            Err(errno) => {
                self.len = OUT_HEADER;
                -errno.raw()
            }
        };
        self.header(error, unique)
    }

    /// The same of a message that answers nothing, with a code from `enum fuse_notify_code`.
    pub(crate) fn notification(&mut self, code: i32) -> &[u8] {
        self.header(code, 0)
    }

    /// `struct fuse_out_header`.
    fn header(&mut self, error: i32, unique: u64) -> &[u8] {
        let header = out_header(self.len - OUT_HEADER, error, unique);
        self.bytes[..OUT_HEADER].copy_from_slice(&header);
        &self.bytes[..self.len]
    }

    pub(crate) fn len(&self) -> usize {
        self.len - OUT_HEADER
    }

    pub(crate) fn u16(&mut self, value: u16) {
        self.raw(&value.to_ne_bytes());
    }

    pub(crate) fn u32(&mut self, value: u32) {
        self.raw(&value.to_ne_bytes());
    }

    pub(crate) fn u64(&mut self, value: u64) {
        self.raw(&value.to_ne_bytes());
    }

    pub(crate) fn raw(&mut self, bytes: &[u8]) {
        self.space(bytes.len()).copy_from_slice(bytes);
    }

    pub(crate) fn zeros(&mut self, count: usize) {
        self.space(count).fill(0);
    }

    /// Space for `count` bytes that the caller fills, holding anything; [`Reply::shrink`] cuts
    /// what was not filled.
    pub(crate) fn space(&mut self, count: usize) -> &mut [u8] {
        let start = self.len;
        self.len += count;
        if self.bytes.len() < self.len {
            self.bytes.resize(self.len.next_power_of_two(), 0);
        }
        &mut self.bytes[start..self.len]
    }

    pub(crate) fn shrink(&mut self, body_len: usize) {
        self.len = OUT_HEADER + body_len;
    }

    /// `struct fuse_attr`.
    fn attr(&mut self, attr: &Attr) {
        self.u64(attr.ino);
        self.u64(attr.size);
        self.u64(attr.blocks);
        for time in [attr.atime, attr.mtime, attr.ctime] {
            self.u64(time.secs.cast_unsigned());
        }
        for time in [attr.atime, attr.mtime, attr.ctime] {
            self.u32(time.nanos);
        }
        self.u32(attr.kind.mode_bits() | attr.perm);
        self.u32(attr.nlink);
        self.u32(attr.uid);
        self.u32(attr.gid);
        self.u32(encode_device(attr.rdev));
        self.u32(BLOCK_SIZE);
        self.u32(0);
    }

    /// `struct fuse_attr_out`; `fleeting` attributes are asked for each time.
    pub(crate) fn attr_out(&mut self, attr: &Attr, fleeting: bool) {
        self.u64(lifetime_secs(attr, fleeting));
        self.u64(0);
        self.attr(attr);
    }

    /// `struct fuse_entry_out`; `fleeting` as in [`attr_out`](Self::attr_out).
    pub(crate) fn entry_out(&mut self, entry: &Entry, fleeting: bool) {
        self.u64(entry.ino.0);
        self.u64(0);
        self.u64(FOREVER_SECS);
        self.u64(lifetime_secs(&entry.attr, fleeting));
        self.u64(0);
        self.attr(&entry.attr);
    }

    /// An entry that says the name does not exist, to be remembered.
    pub(crate) fn no_entry(&mut self) {
        self.u64(0);
        self.u64(0);
        self.u64(FOREVER_SECS);
        self.zeros(104);
    }

    /// `struct fuse_open_out`.
    pub(crate) fn open_out(&mut self, flags: u32) {
        self.u64(0);
        self.u32(flags);
        self.u32(0);
    }

    /// The same for a file that the kernel reads and writes by itself.
    pub(crate) fn open_out_passthrough(&mut self, backing: i32) {
        /// `FOPEN_PASSTHROUGH`.
        const PASSTHROUGH: u32 = 1 << 7;
        self.u64(0);
        self.u32(PASSTHROUGH);
        self.raw(&backing.to_ne_bytes());
    }

    /// `struct fuse_statx_out`; `fleeting` as in [`attr_out`](Self::attr_out).
    pub(crate) fn statx_out(&mut self, attr: &Attr, fleeting: bool) {
        /// `STATX_BASIC_STATS | STATX_BTIME`.
        const MASK: u32 = 0xfff;
        self.u64(lifetime_secs(attr, fleeting));
        self.zeros(24);
        self.u32(MASK);
        self.u32(BLOCK_SIZE);
        self.u64(0);
        self.u32(attr.nlink);
        self.u32(attr.uid);
        self.u32(attr.gid);
        self.u16(u16::try_from(attr.kind.mode_bits() | attr.perm).unwrap_or(0));
        self.u16(0);
        self.u64(attr.ino);
        self.u64(attr.size);
        self.u64(attr.blocks);
        self.u64(0);
        for time in [attr.atime, attr.btime, attr.ctime, attr.mtime] {
            let Time { secs, nanos } = time;
            self.u64(secs.cast_unsigned());
            self.u32(nanos);
            self.u32(0);
        }
        self.u32(attr.rdev.major);
        self.u32(attr.rdev.minor);
        self.zeros(8 + 14 * 8);
    }

    /// Adds a directory entry if it fits in `limit` bytes of body; false when it does not. `plus`
    /// adds attributes, and says whether they are fleeting.
    pub(crate) fn dirent(&mut self, listed: &Listed<'_>, plus: Option<bool>, limit: usize) -> bool {
        const ENTRY_OUT: usize = 128;
        const DIRENT: usize = 24;
        let padded = (DIRENT + listed.name.len()).next_multiple_of(8);
        if self.len() + padded + plus.map_or(0, |_| ENTRY_OUT) > limit {
            return false;
        }
        if let Some(fleeting) = plus {
            match &listed.entry {
                Some(entry) => self.entry_out(entry, fleeting),
                // `.` and `..` carry none
                None => self.zeros(ENTRY_OUT),
            }
        }
        self.u64(listed.ino);
        self.u64(listed.cookie);
        self.u32(u32::try_from(listed.name.len()).unwrap_or(0));
        self.u32(listed.kind.mode_bits() >> 12);
        self.raw(listed.name);
        self.zeros(padded - DIRENT - listed.name.len());
        true
    }
}

/// How long the kernel may answer with these attributes, in seconds.
///
/// Always: whatever changes them comes by us. But a direct write or `copy_file_range` by one
/// without `CAP_FSETID` takes setuid and setgid away, and the kernel, which told us to, does not
/// expect the mode to change: the few files that have these bits are asked for each time. So are
/// `fleeting` ones.
fn lifetime_secs(attr: &Attr, fleeting: bool) -> u64 {
    const SET_ID: u32 = 0o6000;
    if fleeting || attr.kind == FileType::Regular && attr.perm & SET_ID != 0 {
        0
    } else {
        FOREVER_SECS
    }
}

/// Source: `new_encode_dev` in `include/linux/kdev_t.h`.
fn encode_device(device: rrun_core::Device) -> u32 {
    (device.minor & 0xff) | (device.major << 8) | ((device.minor & !0xff) << 12)
}

/// Source: `new_decode_dev` in `include/linux/kdev_t.h`.
pub(crate) fn decode_device(device: u32) -> rrun_core::Device {
    rrun_core::Device {
        major: (device & 0xfff00) >> 8,
        minor: (device & 0xff) | ((device >> 12) & 0xfff00),
    }
}

/// Whether a type may be opened for reading by an O_TMPFILE reply.
pub(crate) fn is_regular(mode: u32) -> bool {
    FileType::from_mode(mode) == Some(FileType::Regular) || mode & 0o170_000 == 0
}

#[cfg(test)]
mod tests {
    use super::*;
    use rrun_core::Device;

    #[test]
    fn devices_round_trip() {
        for (major, minor) in [(0, 0), (1, 3), (259, 300), (4095, 0xfffff)] {
            let device = Device { major, minor };
            assert_eq!(decode_device(encode_device(device)), device);
        }
    }

    #[test]
    fn a_request_shorter_than_it_says_is_refused() {
        let mut bytes = vec![0; IN_HEADER];
        bytes[0] = 41;
        assert!(Request::parse(&bytes).is_none());
        bytes.push(0);
        assert!(Request::parse(&bytes).is_some());
        assert!(Request::parse(&bytes[..39]).is_none());
    }

    #[test]
    fn replies_have_the_sizes_of_the_kernel_header() {
        let mut reply = Reply::with_capacity(0);
        reply.clear();
        reply.no_entry();
        assert_eq!(reply.len(), 128);
    }
}
