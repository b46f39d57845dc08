//! The digest that names every blob and object.

use std::fmt;
use std::str::FromStr;

/// The SHA-256 of some bytes: the only name a blob has.
///
/// Parsing is the sole way in from text, so holding a `Digest` means 64 lower-case
/// hex digits were seen. It does *not* mean the bytes exist or were verified.
///
/// Source: OCI image-spec, "Digests".
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Digest([u8; 32]);

/// Why a string is not a [`Digest`].
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum ParseDigestError {
    /// The part before `:` is not `sha256`.
    Algorithm(String),
    /// The hex part is not 64 characters; holds its length in bytes.
    Length(usize),
    /// A character outside `0-9a-f`; holds its byte offset in the hex part.
    NotHex(usize),
}

impl Digest {
    /// Length of the hex part of the text form, in characters.
    pub const HEX_LEN: usize = 64;

    /// Wraps the 32 bytes a SHA-256 hasher returned.
    #[must_use]
    pub const fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// The 32 raw bytes.
    #[must_use]
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// The 64 hex digits, without `sha256:`.
    #[must_use]
    pub fn hex(&self) -> String {
        const DIGITS: &[u8; 16] = b"0123456789abcdef";
        let mut out = String::with_capacity(Self::HEX_LEN);
        for byte in self.0 {
            out.push(char::from(DIGITS[usize::from(byte >> 4)]));
            out.push(char::from(DIGITS[usize::from(byte & 15)]));
        }
        out
    }

    /// The first 12 hex digits, as tables print ids.
    #[must_use]
    pub fn short(&self) -> String {
        let mut hex = self.hex();
        hex.truncate(12);
        hex
    }

    /// Parses 64 hex digits without the `sha256:` prefix.
    ///
    /// # Errors
    ///
    /// `Length` or `NotHex`.
    pub fn from_hex(hex: &str) -> Result<Self, ParseDigestError> {
        if hex.len() != Self::HEX_LEN {
            return Err(ParseDigestError::Length(hex.len()));
        }
        let mut bytes = [0; 32];
        for (offset, digit) in hex.bytes().enumerate() {
            let value = match digit {
                b'0'..=b'9' => digit - b'0',
                b'a'..=b'f' => digit - b'a' + 10,
                _ => return Err(ParseDigestError::NotHex(offset)),
            };
            bytes[offset / 2] = (bytes[offset / 2] << 4) | value;
        }
        Ok(Self(bytes))
    }
}

impl FromStr for Digest {
    type Err = ParseDigestError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (algorithm, hex) = text.split_once(':').unwrap_or(("", text));
        if algorithm != "sha256" {
            return Err(ParseDigestError::Algorithm(algorithm.to_owned()));
        }
        Self::from_hex(hex)
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "sha256:{}", self.hex())
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl fmt::Display for ParseDigestError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Algorithm(name) => write!(f, "digest algorithm {name:?} is not sha256"),
            Self::Length(len) => write!(f, "digest has {len} hex digits, not 64"),
            Self::NotHex(at) => write!(f, "digest has a character outside 0-9a-f at {at}"),
        }
    }
}

impl std::error::Error for ParseDigestError {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn digest_text_round_trips_and_rejects_near_misses() {
        let good = format!("sha256:{}", "0f".repeat(32));
        assert_eq!(good.parse::<Digest>().unwrap().to_string(), good);
        let cases = [
            (
                "md5:00".to_owned(),
                ParseDigestError::Algorithm("md5".into()),
            ),
            ("0f".repeat(32), ParseDigestError::Algorithm(String::new())),
            ("sha256:abc".to_owned(), ParseDigestError::Length(3)),
            (good.replace("0f", "0F"), ParseDigestError::NotHex(1)),
        ];
        for (text, expected) in cases {
            assert_eq!(text.parse::<Digest>(), Err(expected), "input {text:?}");
        }
    }
}
