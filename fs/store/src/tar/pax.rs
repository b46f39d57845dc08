//! Extended header records of the PAX format.

use rrun_core::Time;

use super::sparse::PaxSparse;
use crate::error::TarProblem;

/// Longest xattr name in bytes.
///
/// Source: `XATTR_NAME_MAX` in linux/limits.h.
const XATTR_NAME_MAX: usize = 255;
/// Longest xattr value in bytes.
///
/// Source: `XATTR_SIZE_MAX` in linux/limits.h.
const XATTR_VALUE_MAX: usize = 65536;
/// Most xattrs of one file: `XATTR_LIST_MAX` (64 KiB) divided by the shortest names.
const XATTRS_MAX: usize = 8192;

/// What extended headers say of an entry.
#[derive(Debug, Default, Clone)]
pub(super) struct Pax {
    pub(super) path: Option<Vec<u8>>,
    pub(super) link: Option<Vec<u8>>,
    pub(super) size: Option<u64>,
    pub(super) uid: Option<u32>,
    pub(super) gid: Option<u32>,
    pub(super) mtime: Option<Time>,
    pub(super) sparse: PaxSparse,
    xattrs: Vec<(Vec<u8>, Vec<u8>)>,
    /// Those written by libarchive in its own form, used where the other form is absent.
    archive_xattrs: Vec<(Vec<u8>, Vec<u8>)>,
}

impl Pax {
    /// Adds the records `LENGTH KEY=VALUE\n`; a later one overrides an earlier one.
    pub(super) fn read(&mut self, mut bytes: &[u8]) -> Result<(), TarProblem> {
        while !bytes.is_empty() {
            // Some writers pad with NUL.
            if bytes.iter().all(|byte| *byte == 0) {
                break;
            }
            let (record, rest) = split_record(bytes).ok_or(TarProblem::PaxRecord)?;
            let equals = record.iter().position(|byte| *byte == b'=');
            let equals = equals.filter(|at| *at > 0).ok_or(TarProblem::PaxRecord)?;
            self.record(&record[..equals], &record[equals + 1..])?;
            bytes = rest;
        }
        Ok(())
    }

    fn record(&mut self, key: &[u8], value: &[u8]) -> Result<(), TarProblem> {
        if let Some(name) = key.strip_prefix(b"SCHILY.xattr.") {
            return put(&mut self.xattrs, name.to_vec(), value.to_vec());
        }
        if let Some(name) = key.strip_prefix(b"LIBARCHIVE.xattr.") {
            let name = percent_decode(name).ok_or(TarProblem::Xattrs)?;
            let value = base64_decode(value).ok_or(TarProblem::Xattrs)?;
            return put(&mut self.archive_xattrs, name, value);
        }
        if let Some(field) = key.strip_prefix(b"GNU.sparse.") {
            return self.sparse.record(field, value);
        }
        // An empty value takes back what a global header said.
        let value = (!value.is_empty()).then_some(value);
        match key {
            b"path" => self.path = value.map(<[u8]>::to_vec),
            b"linkpath" => self.link = value.map(<[u8]>::to_vec),
            b"size" => self.size = value.map(|value| decimal(value, "size")).transpose()?,
            b"uid" => self.uid = value.map(|value| id(value, "uid")).transpose()?,
            b"gid" => self.gid = value.map(|value| id(value, "gid")).transpose()?,
            b"mtime" => self.mtime = value.map(time).transpose()?,
            _ => {}
        }
        Ok(())
    }

    /// The xattrs, sorted by name.
    pub(super) fn take_xattrs(&mut self) -> Vec<(Vec<u8>, Vec<u8>)> {
        let mut xattrs = std::mem::take(&mut self.xattrs);
        for (name, value) in std::mem::take(&mut self.archive_xattrs) {
            if !xattrs.iter().any(|(have, _)| *have == name) {
                xattrs.push((name, value));
            }
        }
        xattrs.sort();
        xattrs
    }
}

fn put(
    xattrs: &mut Vec<(Vec<u8>, Vec<u8>)>,
    name: Vec<u8>,
    value: Vec<u8>,
) -> Result<(), TarProblem> {
    let fits = !name.is_empty() && name.len() <= XATTR_NAME_MAX && value.len() <= XATTR_VALUE_MAX;
    if !fits || name.contains(&0) || xattrs.len() >= XATTRS_MAX {
        return Err(TarProblem::Xattrs);
    }
    match xattrs.iter_mut().find(|(have, _)| *have == name) {
        Some((_, have)) => *have = value,
        None => xattrs.push((name, value)),
    }
    Ok(())
}

/// The first record without length and newline, and what follows it.
fn split_record(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let space = bytes.iter().take(20).position(|byte| *byte == b' ')?;
    let len = usize::try_from(decimal(&bytes[..space], "length").ok()?).ok()?;
    if len <= space + 1 || len > bytes.len() {
        return None;
    }
    let (record, rest) = bytes.split_at(len);
    Some((record[space + 1..].strip_suffix(b"\n")?, rest))
}

/// Decimal digits, of at most 63 bits.
pub(super) fn decimal(digits: &[u8], field: &'static str) -> Result<u64, TarProblem> {
    let bad = TarProblem::Number(field);
    if digits.is_empty() || digits.len() > 19 {
        return Err(bad);
    }
    let mut value = 0_u64;
    for digit in digits {
        if !digit.is_ascii_digit() {
            return Err(bad);
        }
        // Nineteen digits fit.
        value = value * 10 + u64::from(digit - b'0');
    }
    if i64::try_from(value).is_err() {
        Err(bad)
    } else {
        Ok(value)
    }
}

fn id(value: &[u8], field: &'static str) -> Result<u32, TarProblem> {
    u32::try_from(decimal(value, field)?).map_err(|_| TarProblem::Number(field))
}

/// Seconds with an optional sign and fraction.
fn time(value: &[u8]) -> Result<Time, TarProblem> {
    let bad = || TarProblem::Number("mtime");
    let (negative, value) = match value.strip_prefix(b"-") {
        Some(rest) => (true, rest),
        None => (false, value),
    };
    let dot = value.iter().position(|byte| *byte == b'.');
    let (whole, fraction) = match dot {
        Some(at) => (&value[..at], &value[at + 1..]),
        None => (value, &b""[..]),
    };
    let secs = if whole.is_empty() {
        0
    } else {
        decimal(whole, "mtime")?
    };
    let secs = i64::try_from(secs).map_err(|_| bad())?;
    if !fraction.iter().all(u8::is_ascii_digit) {
        return Err(bad());
    }
    let mut nanos = 0_u32;
    for at in 0..9 {
        let digit = fraction.get(at).map_or(0, |digit| digit - b'0');
        nanos = nanos * 10 + u32::from(digit);
    }
    Ok(match (negative, nanos) {
        (false, nanos) => Time { secs, nanos },
        (true, 0) => Time {
            secs: -secs,
            nanos: 0,
        },
        (true, nanos) => Time {
            secs: -secs - 1,
            nanos: 1_000_000_000 - nanos,
        },
    })
}

fn percent_decode(text: &[u8]) -> Option<Vec<u8>> {
    let mut out = Vec::with_capacity(text.len());
    let mut bytes = text.iter();
    while let Some(byte) = bytes.next() {
        if *byte == b'%' {
            let high = char::from(*bytes.next()?).to_digit(16)?;
            let low = char::from(*bytes.next()?).to_digit(16)?;
            out.push(u8::try_from(high << 4 | low).ok()?);
        } else {
            out.push(*byte);
        }
    }
    Some(out)
}

/// Base64 with or without padding.
fn base64_decode(text: &[u8]) -> Option<Vec<u8>> {
    let mut out = Vec::with_capacity(text.len());
    let mut bits = 0_u32;
    let mut have = 0;
    for byte in text {
        let value = match byte {
            b'A'..=b'Z' => byte - b'A',
            b'a'..=b'z' => byte - b'a' + 26,
            b'0'..=b'9' => byte - b'0' + 52,
            b'+' => 62,
            b'/' => 63,
            b'=' => break,
            _ => return None,
        };
        bits = (bits << 6 | u32::from(value)) & 0xffff;
        have += 6;
        if have >= 8 {
            have -= 8;
            out.push(u8::try_from(bits >> have & 0xff).ok()?);
        }
    }
    Some(out)
}
