//! Tar headers, written the same way every time.

use std::fmt::Write as _;

use rrun_core::{Attr, Device, Time};

/// A tar block.
const BLOCK: usize = 512;
/// Two blocks of zeros end an archive; the same zeros pad a file.
const ZEROS: [u8; 2 * BLOCK] = [0; 2 * BLOCK];
/// The longest name in the `name` and `linkname` fields.
const NAME_FIELD: usize = 100;
/// The largest value of an 8-byte octal field (7 digits and a NUL).
const OCTAL_7: u64 = 0o7_777_777;
/// The largest value of a 12-byte octal field.
const OCTAL_11: u64 = 0o77_777_777_777;

/// Name and value of an extended attribute.
pub(crate) type Xattr = (Vec<u8>, Vec<u8>);

/// One entry's metadata.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Record {
    pub(crate) path: Vec<u8>,
    pub(crate) link: Vec<u8>,
    pub(crate) kind: u8,
    pub(crate) perm: u32,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    pub(crate) size: u64,
    pub(crate) mtime: Time,
    pub(crate) device: Device,
    /// Sorted by name.
    pub(crate) xattrs: Vec<Xattr>,
}

impl Record {
    /// An entry of owner 0, without permissions or times: a whiteout is one.
    pub(crate) fn new(path: &[u8], kind: u8) -> Self {
        Self {
            path: path.to_vec(),
            link: Vec::new(),
            kind,
            perm: 0,
            uid: 0,
            gid: 0,
            size: 0,
            mtime: Time::default(),
            device: Device::default(),
            xattrs: Vec::new(),
        }
    }

    /// The same with owner, permissions and time of a file.
    pub(crate) fn with(mut self, attr: &Attr) -> Self {
        self.perm = attr.perm;
        self.uid = attr.uid;
        self.gid = attr.gid;
        self.mtime = attr.mtime;
        self
    }

    /// Appends the header, preceded by an extended one where the plain one cannot say all.
    ///
    /// Source: POSIX.1-2017, pax, "ustar Interchange Format", "pax Header Block".
    pub(crate) fn write(&self, out: &mut Vec<u8>) {
        let extended = self.extended();
        if !extended.is_empty() {
            let mut fields = Self::new(b"PaxHeaders.0/entry", b'x');
            fields.perm = 0o644;
            fields.size = extended.len() as u64;
            fields.block(out);
            out.extend_from_slice(&extended);
            out.extend_from_slice(padding(fields.size));
        }
        self.block(out);
    }

    fn extended(&self) -> Vec<u8> {
        let mut out = Vec::new();
        if self.path.len() > NAME_FIELD {
            pax(&mut out, b"path", &self.path);
        }
        if self.link.len() > NAME_FIELD {
            pax(&mut out, b"linkpath", &self.link);
        }
        let numbers: [(&[u8], u64, u64); 3] = [
            (b"uid", self.uid.into(), OCTAL_7),
            (b"gid", self.gid.into(), OCTAL_7),
            (b"size", self.size, OCTAL_11),
        ];
        for (key, value, limit) in numbers {
            if value > limit {
                pax(&mut out, key, value.to_string().as_bytes());
            }
        }
        let seconds = u64::try_from(self.mtime.secs);
        if self.mtime.nanos != 0 || !seconds.is_ok_and(|seconds| seconds <= OCTAL_11) {
            pax(&mut out, b"mtime", decimal(self.mtime).as_bytes());
        }
        for (name, value) in &self.xattrs {
            let mut key = b"SCHILY.xattr.".to_vec();
            key.extend_from_slice(name);
            pax(&mut out, &key, value);
        }
        out
    }

    fn block(&self, out: &mut Vec<u8>) {
        let mut block = [0; BLOCK];
        put(&mut block[..100], &self.path);
        octal(&mut block[100..108], self.perm.into());
        octal(&mut block[108..116], self.uid.into());
        octal(&mut block[116..124], self.gid.into());
        octal(&mut block[124..136], self.size);
        octal(
            &mut block[136..148],
            u64::try_from(self.mtime.secs).unwrap_or(0),
        );
        block[148..156].fill(b' ');
        block[156] = self.kind;
        put(&mut block[157..257], &self.link);
        put(&mut block[257..265], b"ustar\x0000");
        octal(&mut block[329..337], self.device.major.into());
        octal(&mut block[337..345], self.device.minor.into());
        let sum: u64 = block.iter().map(|byte| u64::from(*byte)).sum();
        octal(&mut block[148..155], sum);
        out.extend_from_slice(&block);
    }
}

/// Copies what fits.
fn put(field: &mut [u8], value: &[u8]) {
    let len = value.len().min(field.len());
    field[..len].copy_from_slice(&value[..len]);
}

/// Zero-padded octal with a NUL behind; a value too large is cut (the extended header has it).
fn octal(field: &mut [u8], value: u64) {
    let digits = field.len() - 1;
    let mut rest = value;
    for place in field[..digits].iter_mut().rev() {
        *place = b"01234567"[usize::try_from(rest & 7).unwrap_or(0)];
        rest >>= 3;
    }
    field[digits] = 0;
}

/// `LENGTH KEY=VALUE\n`, where the length counts itself.
fn pax(out: &mut Vec<u8>, key: &[u8], value: &[u8]) {
    let rest = key.len() + value.len() + 3;
    let mut len = rest + 1;
    while len != rest + digits(len) {
        len = rest + digits(len);
    }
    out.extend_from_slice(len.to_string().as_bytes());
    out.push(b' ');
    out.extend_from_slice(key);
    out.push(b'=');
    out.extend_from_slice(value);
    out.push(b'\n');
}

fn digits(mut value: usize) -> usize {
    let mut count = 1;
    while value >= 10 {
        value /= 10;
        count += 1;
    }
    count
}

/// Seconds with a fraction, also before 1970: `-0.5` is half a second before.
fn decimal(time: Time) -> String {
    let total = i128::from(time.secs) * 1_000_000_000 + i128::from(time.nanos);
    let magnitude = total.unsigned_abs();
    let (seconds, nanos) = (magnitude / 1_000_000_000, magnitude % 1_000_000_000);
    let mut text = String::new();
    if total < 0 {
        text.push('-');
    }
    // Writing to a String cannot fail.
    let _ok = write!(text, "{seconds}");
    if nanos != 0 {
        let _ok = write!(text, ".{nanos:09}");
        text.truncate(text.trim_end_matches('0').len());
    }
    text
}

/// The zeros that follow a file of this size.
pub(crate) fn padding(size: u64) -> &'static [u8] {
    let over = usize::try_from(size % 512).unwrap_or(0);
    &ZEROS[..(BLOCK - over) % BLOCK]
}

/// The zeros that end an archive.
pub(crate) fn end_of_archive() -> &'static [u8] {
    &ZEROS
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read;

    #[test]
    fn times_before_and_after_the_epoch_are_decimal() {
        let cases = [
            (0, 5, "0.000000005"),
            (7, 500_000_000, "7.5"),
            (-1, 500_000_000, "-0.5"),
            (-2, 0, "-2"),
        ];
        for (secs, nanos, expected) in cases {
            assert_eq!(decimal(Time { secs, nanos }), expected);
        }
    }

    #[test]
    fn extended_records_count_themselves() {
        for len in [
            1, 85, 86, 87, 88, 89, 90, 91, 92, 93, 984, 985, 986, 987, 988, 989, 990,
        ] {
            let mut out = Vec::new();
            pax(&mut out, b"path", &vec![b'x'; len]);
            let text = String::from_utf8(out.clone()).unwrap();
            let said: usize = text.split(' ').next().unwrap().parse().unwrap();
            assert_eq!(said, out.len(), "value of {len}");
        }
    }

    #[test]
    fn a_foreign_reader_understands_our_headers() {
        let mut out = Vec::new();
        let mut record = Record::new("d/".repeat(90).as_bytes(), b'0');
        record.path.extend_from_slice(b"file");
        record.perm = 0o4755;
        record.uid = 3_000_000;
        record.gid = 7;
        record.size = 3;
        record.mtime = Time { secs: 9, nanos: 10 };
        record.xattrs = vec![(b"user.x".to_vec(), b"\0\xff".to_vec())];
        record.write(&mut out);
        out.extend_from_slice(b"abc");
        out.extend_from_slice(padding(3));
        out.extend_from_slice(end_of_archive());
        let mut archive = tar::Archive::new(&out[..]);
        let mut entries = archive.entries().unwrap();
        let mut entry = entries.next().unwrap().unwrap();
        assert_eq!(entry.path_bytes(), record.path);
        assert_eq!(entry.header().mode().unwrap(), 0o4755);
        let pax: Vec<_> = entry.pax_extensions().unwrap().unwrap().collect();
        let find = |key: &str| {
            let mut found = pax.iter().flatten();
            found
                .find(|e| e.key_bytes() == key.as_bytes())
                .map(|e| e.value_bytes().to_vec())
        };
        assert_eq!(find("uid").unwrap(), b"3000000");
        assert_eq!(find("mtime").unwrap(), b"9.00000001");
        assert_eq!(find("SCHILY.xattr.user.x").unwrap(), b"\0\xff");
        assert_eq!(find("gid"), None);
        let mut body = String::new();
        entry.read_to_string(&mut body).unwrap();
        assert_eq!(body, "abc");
        assert!(entries.next().is_none());
    }
}
