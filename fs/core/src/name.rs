//! One component of a path.

use std::borrow::Borrow;
use std::fmt;
use std::ops::Deref;

/// The longest name a directory entry may have, in bytes.
///
/// Source: `limits.h`; every Linux file system we sit on has this limit.
pub const NAME_MAX: usize = 255;

/// A file name: 1 to [`NAME_MAX`] bytes, no `/`, no NUL, neither `.` nor `..`.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Name(Box<[u8]>);

/// Why bytes are not a [`Name`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum NameError {
    /// No bytes at all.
    Empty,
    /// More than [`NAME_MAX`] bytes; holds the length.
    TooLong(usize),
    /// `.` or `..`.
    Dots,
    /// A `/` or NUL; holds its offset.
    BadByte(usize),
}

impl Name {
    /// Checks that `bytes` name a directory entry.
    ///
    /// # Errors
    ///
    /// Says which rule is broken.
    pub fn check(bytes: &[u8]) -> Result<(), NameError> {
        if bytes.is_empty() {
            return Err(NameError::Empty);
        }
        if bytes == b"." || bytes == b".." {
            return Err(NameError::Dots);
        }
        if let Some(at) = bytes.iter().position(|byte| matches!(byte, b'/' | 0)) {
            return Err(NameError::BadByte(at));
        }
        if bytes.len() > NAME_MAX {
            return Err(NameError::TooLong(bytes.len()));
        }
        Ok(())
    }

    /// Makes a name of `bytes`.
    ///
    /// # Errors
    ///
    /// As [`Name::check`].
    pub fn new(bytes: &[u8]) -> Result<Self, NameError> {
        Self::check(bytes)?;
        Ok(Self(bytes.into()))
    }

    /// The bytes; not always UTF-8.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

impl Deref for Name {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.0
    }
}

impl Borrow<[u8]> for Name {
    fn borrow(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Debug for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", String::from_utf8_lossy(&self.0))
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", String::from_utf8_lossy(&self.0).escape_debug())
    }
}

impl fmt::Display for NameError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Empty => f.write_str("name is empty"),
            Self::TooLong(len) => write!(f, "name has {len} bytes, more than {NAME_MAX}"),
            Self::Dots => f.write_str("name is . or .."),
            Self::BadByte(at) => write!(f, "name has a slash or NUL at byte {at}"),
        }
    }
}

impl std::error::Error for NameError {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_single_components() {
        let long = vec![b'a'; 256];
        let cases: [(&[u8], Result<(), NameError>); 8] = [
            (b"", Err(NameError::Empty)),
            (b".", Err(NameError::Dots)),
            (b"..", Err(NameError::Dots)),
            (b"...", Ok(())),
            (b"a/b", Err(NameError::BadByte(1))),
            (b"a\0", Err(NameError::BadByte(1))),
            (&long, Err(NameError::TooLong(256))),
            (&long[..255], Ok(())),
        ];
        for (bytes, expected) in cases {
            assert_eq!(Name::check(bytes), expected, "input {bytes:?}");
        }
    }
}
