//! One difference between a container and its image.

/// What happened to a path; the letter is that of `docker diff`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ChangeKind {
    /// Not in the image.
    Added,
    /// In the image, with other contents or attributes.
    Modified,
    /// In the image, gone from the container.
    Deleted,
}

impl ChangeKind {
    /// `A`, `C` or `D`.
    #[must_use]
    pub const fn letter(self) -> char {
        match self {
            Self::Added => 'A',
            Self::Modified => 'C',
            Self::Deleted => 'D',
        }
    }
}

/// One line of `diff`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    /// What happened.
    pub kind: ChangeKind,
    /// Path from the root, without a leading slash, parts separated by `/`; not always UTF-8.
    pub path: Vec<u8>,
}
