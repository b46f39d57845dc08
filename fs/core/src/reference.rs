//! The name of an image, as a user types it and as a registry knows it.

use std::fmt;
use std::str::FromStr;

use crate::{Digest, ParseDigestError};

/// The registry a name without a host means.
pub const DEFAULT_DOMAIN: &str = "docker.io";
/// The tag a name without tag and digest means.
pub const DEFAULT_TAG: &str = "latest";
/// The path prefix of a name of one component on [`DEFAULT_DOMAIN`].
const OFFICIAL_PREFIX: &str = "library/";
/// An old name of [`DEFAULT_DOMAIN`].
const LEGACY_DOMAIN: &str = "index.docker.io";
/// The longest `domain/path`, in bytes. Source: distribution/reference, `NameTotalLengthMax`.
const NAME_LEN_MAX: usize = 255;
/// The longest tag, in bytes. Source: the same, `TagRegexp`.
const TAG_LEN_MAX: usize = 128;

/// A reference to an image: registry host, path, and a tag or a digest or both.
///
/// `Display` gives the familiar form (`alpine:3`), [`ImageRef::canonical`] the full one
/// (`docker.io/library/alpine:3`); both parse back to the same value.
///
/// Source: the grammar of github.com/distribution/reference.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ImageRef {
    domain: String,
    path: String,
    tag: Option<String>,
    digest: Option<Digest>,
}

/// Why a string is not an [`ImageRef`].
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum ParseRefError {
    /// Nothing, or no repository name before the tag or digest.
    Empty,
    /// The repository path has an upper-case letter; holds the path.
    UpperCase(String),
    /// `domain/path` is longer than 255 bytes; holds its length.
    TooLong(usize),
    /// 64 hex digits: an image id, not a name.
    LooksLikeId,
    /// The registry host is malformed.
    Domain(String),
    /// A component of the path is malformed.
    Path(String),
    /// The tag is malformed.
    Tag(String),
    /// The digest is malformed.
    Digest(ParseDigestError),
}

impl ImageRef {
    /// The registry host, with its port if one was given: `docker.io`, `localhost:5000`.
    #[must_use]
    pub fn domain(&self) -> &str {
        &self.domain
    }

    /// The repository's path on the registry: `library/alpine`.
    #[must_use]
    pub fn path(&self) -> &str {
        &self.path
    }

    /// The tag, if one was given.
    #[must_use]
    pub fn tag(&self) -> Option<&str> {
        self.tag.as_deref()
    }

    /// The digest, if one was given.
    #[must_use]
    pub const fn digest(&self) -> Option<Digest> {
        self.digest
    }

    /// `domain/path`, in full.
    #[must_use]
    pub fn name(&self) -> String {
        format!("{}/{}", self.domain, self.path)
    }

    /// The name as Docker prints it: without `docker.io/` and `library/`.
    #[must_use]
    pub fn familiar_name(&self) -> String {
        if self.domain != DEFAULT_DOMAIN {
            return self.name();
        }
        match self.path.strip_prefix(OFFICIAL_PREFIX) {
            Some(rest) if !rest.contains('/') => rest.to_owned(),
            Some(_) | None => self.path.clone(),
        }
    }

    /// The full form: `docker.io/library/alpine:3`.
    #[must_use]
    pub fn canonical(&self) -> String {
        self.suffixed(self.name())
    }

    /// The same name with `latest` when neither tag nor digest was given.
    #[must_use]
    pub fn or_latest(mut self) -> Self {
        if self.tag.is_none() && self.digest.is_none() {
            self.tag = Some(DEFAULT_TAG.to_owned());
        }
        self
    }

    /// Whether neither tag nor digest was given.
    #[must_use]
    pub const fn is_name_only(&self) -> bool {
        self.tag.is_none() && self.digest.is_none()
    }

    /// The same repository with only this digest.
    #[must_use]
    pub fn at_digest(&self, digest: Digest) -> Self {
        Self {
            domain: self.domain.clone(),
            path: self.path.clone(),
            tag: None,
            digest: Some(digest),
        }
    }

    /// The same repository with only this tag.
    ///
    /// # Errors
    ///
    /// `Tag` when `tag` is malformed.
    pub fn at_tag(&self, tag: &str) -> Result<Self, ParseRefError> {
        check_tag(tag)?;
        Ok(Self {
            domain: self.domain.clone(),
            path: self.path.clone(),
            tag: Some(tag.to_owned()),
            digest: None,
        })
    }

    /// The reference without its digest.
    #[must_use]
    pub fn without_digest(mut self) -> Self {
        self.digest = None;
        self
    }

    fn suffixed(&self, mut text: String) -> String {
        if let Some(tag) = &self.tag {
            text.push(':');
            text.push_str(tag);
        }
        if let Some(digest) = self.digest {
            text.push('@');
            text.push_str(&digest.to_string());
        }
        text
    }
}

impl FromStr for ImageRef {
    type Err = ParseRefError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if text.len() == Digest::HEX_LEN && Digest::from_hex(text).is_ok() {
            return Err(ParseRefError::LooksLikeId);
        }
        let (rest, digest) = match text.split_once('@') {
            Some((rest, digest)) => (
                rest,
                Some(digest.parse::<Digest>().map_err(ParseRefError::Digest)?),
            ),
            None => (text, None),
        };
        // A colon after the last slash starts a tag; before it, a port.
        let name_end = match (rest.rfind(':'), rest.rfind('/')) {
            (Some(colon), Some(slash)) if colon > slash => Some(colon),
            (Some(colon), None) => Some(colon),
            (Some(_) | None, _) => None,
        };
        let (name, tag) = match name_end {
            Some(at) => (&rest[..at], Some(&rest[at + 1..])),
            None => (rest, None),
        };
        let (domain, path) = split_domain(name);
        check_path(&path)?;
        check_domain(domain)?;
        let len = domain.len() + 1 + path.len();
        if len > NAME_LEN_MAX {
            return Err(ParseRefError::TooLong(len));
        }
        tag.map_or(Ok(()), check_tag)?;
        Ok(Self {
            domain: domain.to_owned(),
            path,
            tag: tag.map(str::to_owned),
            digest,
        })
    }
}

fn split_domain(name: &str) -> (&str, String) {
    let (domain, path) = match name.split_once('/') {
        Some((first, rest)) if is_host(first) => (first, rest),
        Some(_) | None => (DEFAULT_DOMAIN, name),
    };
    let domain = if domain == LEGACY_DOMAIN {
        DEFAULT_DOMAIN
    } else {
        domain
    };
    if domain == DEFAULT_DOMAIN && !path.contains('/') && !path.is_empty() {
        return (domain, format!("{OFFICIAL_PREFIX}{path}"));
    }
    (domain, path.to_owned())
}

fn is_host(first: &str) -> bool {
    first == "localhost"
        || first.contains(['.', ':'])
        || first.bytes().any(|byte| byte.is_ascii_uppercase())
}

fn check_domain(domain: &str) -> Result<(), ParseRefError> {
    let bad = || ParseRefError::Domain(domain.to_owned());
    let (host, port) = match domain.strip_prefix('[') {
        Some(rest) => {
            let (host, after) = rest.split_once(']').ok_or_else(bad)?;
            let fine = |byte: u8| byte.is_ascii_hexdigit() || byte == b':';
            if host.is_empty() || !host.bytes().all(fine) {
                return Err(bad());
            }
            match after {
                "" => return Ok(()),
                _ => ("x", Some(after.strip_prefix(':').ok_or_else(bad)?)),
            }
        }
        None => match domain.split_once(':') {
            Some((host, port)) => (host, Some(port)),
            None => (domain, None),
        },
    };
    if let Some(port) = port
        && (port.is_empty() || !port.bytes().all(|byte| byte.is_ascii_digit()))
    {
        return Err(bad());
    }
    let part_ok = |part: &str| {
        !part.is_empty()
            && !part.starts_with('-')
            && !part.ends_with('-')
            && part
                .bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
    };
    if host.split('.').all(part_ok) {
        Ok(())
    } else {
        Err(bad())
    }
}

fn check_path(path: &str) -> Result<(), ParseRefError> {
    if path.is_empty() {
        return Err(ParseRefError::Empty);
    }
    if path.bytes().any(|byte| byte.is_ascii_uppercase()) {
        return Err(ParseRefError::UpperCase(path.to_owned()));
    }
    if path.split('/').all(is_path_component) {
        Ok(())
    } else {
        Err(ParseRefError::Path(path.to_owned()))
    }
}

/// Runs of `[a-z0-9]` joined by one `.`, one or two `_`, or any number of `-`.
fn is_path_component(component: &str) -> bool {
    let alphanumeric = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    let bytes = component.as_bytes();
    let mut at = 0;
    loop {
        let run = bytes[at..]
            .iter()
            .take_while(|byte| alphanumeric(**byte))
            .count();
        if run == 0 {
            return false;
        }
        at += run;
        let gap = bytes[at..]
            .iter()
            .take_while(|byte| !alphanumeric(**byte))
            .count();
        let separator = &bytes[at..at + gap];
        match separator {
            [] => return at == bytes.len(),
            b"." | b"_" | b"__" => {}
            dashes if dashes.iter().all(|byte| *byte == b'-') => {}
            _ => return false,
        }
        at += gap;
    }
}

fn check_tag(tag: &str) -> Result<(), ParseRefError> {
    let word = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
    let fine = tag.len() <= TAG_LEN_MAX
        && tag.bytes().next().is_some_and(word)
        && tag
            .bytes()
            .all(|byte| word(byte) || byte == b'.' || byte == b'-');
    if fine {
        Ok(())
    } else {
        Err(ParseRefError::Tag(tag.to_owned()))
    }
}

impl fmt::Display for ImageRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.suffixed(self.familiar_name()))
    }
}

impl fmt::Display for ParseRefError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Empty => f.write_str("image name is empty"),
            Self::UpperCase(path) => {
                write!(f, "repository name {path:?} must be lower case")
            }
            Self::TooLong(len) => {
                write!(f, "image name has {len} bytes, more than {NAME_LEN_MAX}")
            }
            Self::LooksLikeId => f.write_str("64 hex digits are an image id, not a name"),
            Self::Domain(domain) => write!(f, "registry host {domain:?} is malformed"),
            Self::Path(path) => write!(f, "repository name {path:?} is malformed"),
            Self::Tag(tag) => write!(f, "tag {tag:?} is malformed"),
            Self::Digest(error) => error.fmt(f),
        }
    }
}

impl std::error::Error for ParseRefError {}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<ImageRef, ParseRefError> {
        text.parse()
    }

    #[test]
    fn references_have_a_familiar_and_a_canonical_form() {
        let digest = format!("sha256:{}", "ab".repeat(32));
        let at_digest = format!("alpine@{digest}");
        let at_both = format!("alpine:3@{digest}");
        let cases = [
            ("alpine", "docker.io/library/alpine", "alpine"),
            ("alpine:3", "docker.io/library/alpine:3", "alpine:3"),
            ("library/alpine", "docker.io/library/alpine", "alpine"),
            ("docker.io/alpine", "docker.io/library/alpine", "alpine"),
            ("index.docker.io/u/x", "docker.io/u/x", "u/x"),
            (
                "docker.io/library/a/b",
                "docker.io/library/a/b",
                "library/a/b",
            ),
            ("user/app:v1", "docker.io/user/app:v1", "user/app:v1"),
            ("localhost/x", "localhost/x", "localhost/x"),
            (
                "localhost:5000/x:t",
                "localhost:5000/x:t",
                "localhost:5000/x:t",
            ),
            ("127.0.0.1:5/a/b", "127.0.0.1:5/a/b", "127.0.0.1:5/a/b"),
            ("[::1]:5000/x", "[::1]:5000/x", "[::1]:5000/x"),
            ("[fe80::1]/x", "[fe80::1]/x", "[fe80::1]/x"),
            ("Host/x", "Host/x", "Host/x"),
            (
                "quay.io/a/b__c-d--e.f",
                "quay.io/a/b__c-d--e.f",
                "quay.io/a/b__c-d--e.f",
            ),
            ("x:_T.-a", "docker.io/library/x:_T.-a", "x:_T.-a"),
            ("localhost", "docker.io/library/localhost", "localhost"),
            (
                "localhost:5000",
                "docker.io/library/localhost:5000",
                "localhost:5000",
            ),
        ];
        for (text, canonical, familiar) in cases {
            let value = parse(text).unwrap_or_else(|error| panic!("input {text:?}: {error}"));
            assert_eq!(value.canonical(), canonical, "input {text:?}");
            assert_eq!(value.to_string(), familiar, "input {text:?}");
            assert_eq!(parse(canonical), Ok(value.clone()), "input {text:?}");
            assert_eq!(parse(familiar), Ok(value), "input {text:?}");
        }
        assert_eq!(parse(&at_digest).unwrap().to_string(), at_digest);
        let both = parse(&at_both).unwrap();
        assert_eq!(both.to_string(), at_both);
        assert_eq!((both.tag(), both.digest().is_some()), (Some("3"), true));
        assert_eq!(parse("x").unwrap().or_latest().to_string(), "x:latest");
        assert_eq!(parse(&at_digest).unwrap().or_latest().tag(), None);
    }

    #[test]
    fn near_misses_say_what_is_wrong() {
        let path = |text: &str| ParseRefError::Path(text.to_owned());
        let tag = |text: &str| ParseRefError::Tag(text.to_owned());
        let domain = |text: &str| ParseRefError::Domain(text.to_owned());
        let cases = [
            ("", ParseRefError::Empty),
            (":tag", ParseRefError::Empty),
            ("localhost:5000/", ParseRefError::Empty),
            ("Alpine", ParseRefError::UpperCase("library/Alpine".into())),
            ("x/Y", ParseRefError::UpperCase("x/Y".into())),
            ("alpine:", tag("")),
            ("alpine:-x", tag("-x")),
            ("alpine:a b", tag("a b")),
            ("a//b", path("a//b")),
            ("/a", path("/a")),
            ("a/", path("a/")),
            ("-a", path("library/-a")),
            ("a-", path("library/a-")),
            ("a..b", path("library/a..b")),
            ("a___b", path("library/a___b")),
            ("a._b", path("library/a._b")),
            ("a b", path("library/a b")),
            ("docker://x/y", path("/x/y")),
            ("-bad.com/x", domain("-bad.com")),
            ("bad..com/x", domain("bad..com")),
            ("host:port/x", domain("host:port")),
            (
                "x@sha256:12",
                ParseRefError::Digest(ParseDigestError::Length(2)),
            ),
        ];
        for (text, expected) in cases {
            assert_eq!(parse(text), Err(expected), "input {text:?}");
        }
        assert_eq!(parse(&"a".repeat(64)), Err(ParseRefError::LooksLikeId));
        assert_eq!(parse(&"b".repeat(260)), Err(ParseRefError::TooLong(278)));
        assert_eq!(
            parse(&format!("a:{}", "t".repeat(129))),
            Err(tag(&"t".repeat(129)))
        );
        assert!(parse(&format!("a:{}", "t".repeat(128))).is_ok());
    }
}
