//! The 512-byte header block.

use rrun_core::Device;

use super::BLOCK;
use crate::error::TarProblem;

/// The fields of a header block that all dialects share.
#[derive(Debug)]
pub(super) struct Header {
    pub(super) name: Vec<u8>,
    pub(super) link: Vec<u8>,
    pub(super) kind: u8,
    pub(super) perm: u32,
    pub(super) uid: u32,
    pub(super) gid: u32,
    pub(super) size: u64,
    pub(super) mtime: i64,
    major: [u8; 8],
    minor: [u8; 8],
}

impl Header {
    pub(super) fn parse(block: &[u8; BLOCK]) -> Result<Self, TarProblem> {
        check_sum(block)?;
        let mut name = text(&block[..100]).to_vec();
        let posix = &block[257..263] == b"ustar\0";
        if posix {
            // The star dialect keeps times where the end of the prefix would be.
            let star = &block[508..512] == b"tar\0";
            let prefix = text(&block[345..if star { 476 } else { 500 }]);
            if !prefix.is_empty() {
                name = [prefix, b"/", &name].concat();
            }
        }
        let mut major = [0; 8];
        let mut minor = [0; 8];
        major.copy_from_slice(&block[329..337]);
        minor.copy_from_slice(&block[337..345]);
        let perm = number(&block[100..108], "mode")? & 0o7777;
        Ok(Self {
            name,
            link: text(&block[157..257]).to_vec(),
            kind: block[156],
            perm: u32::try_from(perm).map_err(|_| TarProblem::Number("mode"))?,
            uid: id(number(&block[108..116], "uid")?, "uid")?,
            gid: id(number(&block[116..124], "gid")?, "gid")?,
            size: u64::try_from(number(&block[124..136], "size")?)
                .map_err(|_| TarProblem::Number("size"))?,
            mtime: number(&block[136..148], "mtime")?,
            major,
            minor,
        })
    }

    /// The device number; of other entries the fields may be anything.
    pub(super) fn device(&self) -> Result<Device, TarProblem> {
        Ok(Device {
            major: id(number(&self.major, "devmajor")?, "devmajor")?,
            minor: id(number(&self.minor, "devminor")?, "devminor")?,
        })
    }
}

fn id(value: i64, field: &'static str) -> Result<u32, TarProblem> {
    u32::try_from(value).map_err(|_| TarProblem::Number(field))
}

/// A text field ends at its first NUL or where the field ends.
fn text(field: &[u8]) -> &[u8] {
    let end = field
        .iter()
        .position(|byte| *byte == 0)
        .unwrap_or(field.len());
    &field[..end]
}

/// The sum of all bytes, those of the sum itself counted as spaces. Some old programs added
/// them as signed.
fn check_sum(block: &[u8; BLOCK]) -> Result<(), TarProblem> {
    let claimed = number(&block[148..156], "chksum").map_err(|_| TarProblem::Checksum)?;
    let mut unsigned = 0_i64;
    let mut signed = 0_i64;
    for (at, byte) in block.iter().enumerate() {
        let byte = if (148..156).contains(&at) {
            b' '
        } else {
            *byte
        };
        unsigned += i64::from(byte);
        signed += i64::from(byte.cast_signed());
    }
    if claimed == unsigned || claimed == signed {
        Ok(())
    } else {
        Err(TarProblem::Checksum)
    }
}

/// Octal digits between blanks, or base 256 when the first bit is set.
pub(super) fn number(field: &[u8], name: &'static str) -> Result<i64, TarProblem> {
    let bad = TarProblem::Number(name);
    let Some(first) = field.first().copied() else {
        return Err(bad);
    };
    if first & 0x80 != 0 {
        let negative = first & 0x40 != 0;
        let mut value: i128 = if negative { -1 } else { 0 };
        for (at, byte) in field.iter().enumerate() {
            let byte = match (at, negative) {
                (0, false) => byte & 0x7f,
                _ => *byte,
            };
            // Twelve bytes at most, so the product stays within 128 bits.
            value = (value << 8) | i128::from(byte);
        }
        return i64::try_from(value).map_err(|_| bad);
    }
    let blank = |byte: &u8| matches!(byte, b' ' | 0);
    let start = field
        .iter()
        .position(|byte| !blank(byte))
        .unwrap_or(field.len());
    let digits = &field[start..];
    let end = digits.iter().position(blank).unwrap_or(digits.len());
    let mut value = 0_i64;
    for digit in &digits[..end] {
        if !(b'0'..=b'7').contains(digit) {
            return Err(bad);
        }
        // Twelve octal digits are 36 bits.
        value = value << 3 | i64::from(digit - b'0');
    }
    Ok(value)
}
