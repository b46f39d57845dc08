//! What can go wrong with images, in words for the person who asked.

use std::fmt;
use std::io;

use rrun_core::{Digest, Errno, ParseRefError};
use rrun_store::StoreError;

/// The exit status a failed command deserves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ExitClass {
    /// The command failed: 1.
    Failed,
    /// The command was not understood: 125.
    Usage,
}

/// Why an operation on images failed. `Display` names the action and the object, in lower case.
#[derive(Debug)]
#[non_exhaustive]
pub enum ImageError {
    /// The store refused.
    Store(Box<StoreError>),
    /// A layer could not be stored.
    Layer {
        /// Its blob digest, or its diffID.
        layer: Digest,
        /// Why.
        source: Box<StoreError>,
    },
    /// A file or stream failed.
    Io {
        /// The verb: `open`, `read`, `write`.
        action: &'static str,
        /// What it was done to.
        object: String,
        /// The system's answer.
        source: io::Error,
    },
    /// The container's file system failed.
    Tree {
        /// The verb.
        action: &'static str,
        /// The path inside the container.
        path: String,
        /// The system's answer.
        errno: Errno,
    },
    /// A name is malformed.
    Reference {
        /// What was given.
        text: String,
        /// What is wrong with it.
        source: ParseRefError,
    },
    /// No local image has this name or id.
    NoSuchImage(String),
    /// An id prefix fits several images.
    AmbiguousId {
        /// The prefix.
        prefix: String,
        /// The short ids it fits.
        candidates: Vec<String>,
    },
    /// An image cannot be removed while something needs it.
    InUse {
        /// The image as the user named it.
        image: String,
        /// Why it stays.
        reason: String,
        /// Whether `-f` helps.
        force_helps: bool,
    },
    /// The registry has no such repository, or does not show it to us.
    Denied {
        /// What was tried: `pull` or `push`.
        action: &'static str,
        /// The repository, familiar form.
        name: String,
        /// What the registry said.
        reason: String,
    },
    /// The registry knows the repository but not the tag or digest.
    ManifestUnknown(String),
    /// The registry answered with an error.
    Registry {
        /// The address asked.
        url: String,
        /// The HTTP status.
        status: u16,
        /// Its error code and message.
        message: String,
    },
    /// The registry could not be reached.
    Network {
        /// The address asked.
        url: String,
        /// What failed.
        reason: String,
    },
    /// The registry is blocked by registries.conf.
    Blocked(String),
    /// A file of credentials or registries cannot be used.
    Settings {
        /// The file or program.
        object: String,
        /// What is wrong.
        reason: String,
    },
    /// Something has a media type that cannot be used.
    MediaType {
        /// The manifest or layer.
        object: String,
        /// Its type.
        found: String,
    },
    /// No image for this machine in an index.
    Platform {
        /// The image.
        image: String,
        /// What was looked for.
        wanted: String,
        /// What is there.
        available: Vec<String>,
    },
    /// Bytes are not those a digest names.
    DigestMismatch {
        /// The blob or member.
        object: String,
        /// The digest it should have.
        expected: Digest,
        /// The digest it has.
        found: Digest,
    },
    /// A length is not the announced one.
    SizeMismatch {
        /// The blob or member.
        object: String,
        /// Bytes announced.
        expected: u64,
        /// Bytes there.
        found: u64,
    },
    /// JSON or another text of an image is malformed.
    Malformed {
        /// The document.
        object: String,
        /// What is wrong.
        reason: String,
    },
    /// An archive lacks a member.
    MissingMember {
        /// The archive.
        archive: String,
        /// The member.
        member: String,
    },
    /// An archive ends too early.
    Truncated {
        /// The archive.
        archive: String,
        /// The member in which it ends.
        member: String,
    },
    /// An archive holds a plain file tree, not an image.
    NotAnImage(String),
    /// An archive holds a saved image, not a plain file tree.
    SavedImage(String),
    /// An instruction of `--change` cannot be used.
    Change {
        /// The instruction.
        text: String,
        /// Why.
        reason: String,
    },
    /// A limit of ours is exceeded.
    TooBig {
        /// The object.
        object: String,
        /// The limit in bytes.
        limit_bytes: u64,
    },
}

impl ImageError {
    /// The status the command should end with.
    #[must_use]
    pub const fn exit_class(&self) -> ExitClass {
        if matches!(self, Self::Reference { .. } | Self::Change { .. }) {
            return ExitClass::Usage;
        }
        ExitClass::Failed
    }

    /// One command or step that may help.
    #[must_use]
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::NoSuchImage(name) => Some(format!(
                "see what is here with 'rrun images', or fetch it with 'rrun pull {name}'"
            )),
            Self::Denied { name, .. } => Some(format!(
                "check the spelling of {name:?}, or log in with 'rrun login'"
            )),
            Self::NotAnImage(file) => Some(format!(
                "to make an image of a file tree use 'rrun import {file} NAME'"
            )),
            Self::SavedImage(file) => Some(format!("use 'rrun load -i {file}'")),
            Self::InUse {
                force_helps: true,
                image,
                ..
            } => Some(format!("remove it nevertheless with 'rrun rmi -f {image}'")),
            Self::Platform { .. } => Some("choose another image with NAME@DIGEST".to_owned()),
            Self::Truncated { .. } => Some("fetch or write the archive again".to_owned()),
            Self::AmbiguousId { .. } => Some("give more digits of the id".to_owned()),
            Self::Store(_)
            | Self::Layer { .. }
            | Self::Io { .. }
            | Self::Tree { .. }
            | Self::Reference { .. }
            | Self::InUse { .. }
            | Self::ManifestUnknown(_)
            | Self::Registry { .. }
            | Self::Network { .. }
            | Self::Blocked(_)
            | Self::Settings { .. }
            | Self::MediaType { .. }
            | Self::DigestMismatch { .. }
            | Self::SizeMismatch { .. }
            | Self::Malformed { .. }
            | Self::MissingMember { .. }
            | Self::Change { .. }
            | Self::TooBig { .. } => None,
        }
    }

    pub(crate) fn malformed(object: impl Into<String>, reason: impl fmt::Display) -> Self {
        Self::Malformed {
            object: object.into(),
            reason: reason.to_string(),
        }
    }
}

/// Adds the action and object to an I/O error.
pub(crate) trait At<T> {
    /// Says what was done to what.
    fn at(self, action: &'static str, object: impl fmt::Display) -> Result<T, ImageError>;
}

impl<T> At<T> for io::Result<T> {
    fn at(self, action: &'static str, object: impl fmt::Display) -> Result<T, ImageError> {
        self.map_err(|source| ImageError::Io {
            action,
            object: object.to_string(),
            source,
        })
    }
}

impl From<StoreError> for ImageError {
    fn from(error: StoreError) -> Self {
        if let StoreError::ImageUnknown(name) = &error {
            return Self::NoSuchImage(name.clone());
        }
        if let StoreError::ImageAmbiguous { prefix, candidates } = &error {
            return Self::AmbiguousId {
                prefix: prefix.clone(),
                candidates: candidates.iter().map(Digest::short).collect(),
            };
        }
        Self::Store(Box::new(error))
    }
}

impl fmt::Display for ImageError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Store(error) => error.fmt(f),
            Self::Layer { layer, source } => write!(f, "could not store layer {layer}: {source}"),
            Self::Io {
                action,
                object,
                source,
            } => write!(f, "could not {action} {object}: {source}"),
            Self::Tree {
                action,
                path,
                errno,
            } => write!(f, "could not {action} {path} of the container: {errno}"),
            Self::Reference { text, source } => {
                write!(f, "invalid reference {text:?}: {source}")
            }
            Self::NoSuchImage(name) => write!(f, "no such image: {name}"),
            Self::AmbiguousId { prefix, candidates } => write!(
                f,
                "image id {prefix:?} is ambiguous: {}",
                candidates.join(", ")
            ),
            Self::InUse { image, reason, .. } => write!(
                f,
                "conflict: unable to remove repository reference {image:?}: {reason}"
            ),
            Self::Denied {
                action,
                name,
                reason,
            } => write!(
                f,
                "{action} access denied for {name}, repository does not exist or may require \
                 'docker login': {reason}"
            ),
            Self::ManifestUnknown(name) => {
                write!(f, "manifest for {name} not found: manifest unknown")
            }
            Self::Registry {
                url,
                status,
                message,
            } => write!(f, "{url} answered {status}: {message}"),
            Self::Network { url, reason } => write!(f, "could not reach {url}: {reason}"),
            Self::Blocked(host) => write!(f, "registry {host} is blocked by registries.conf"),
            Self::Settings { .. }
            | Self::MediaType { .. }
            | Self::Platform { .. }
            | Self::DigestMismatch { .. }
            | Self::SizeMismatch { .. }
            | Self::Malformed { .. }
            | Self::MissingMember { .. }
            | Self::Truncated { .. }
            | Self::NotAnImage(_)
            | Self::SavedImage(_)
            | Self::Change { .. }
            | Self::TooBig { .. } => self.fmt_content(f),
        }
    }
}

impl ImageError {
    fn fmt_content(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Settings { object, reason } => write!(f, "could not use {object}: {reason}"),
            Self::MediaType { object, found } => {
                write!(f, "{object} has the unsupported media type {found:?}")
            }
            Self::Platform {
                image,
                wanted,
                available,
            } => write!(
                f,
                "{image} has no image for {wanted}, only for {}",
                available.join(", ")
            ),
            Self::DigestMismatch {
                object,
                expected,
                found,
            } => write!(
                f,
                "{object} is corrupt: it has digest {found}, not {expected}"
            ),
            Self::SizeMismatch {
                object,
                expected,
                found,
            } => write!(
                f,
                "{object} is corrupt: it has {found} bytes, not {expected}"
            ),
            Self::Malformed { object, reason } => write!(f, "{object} is malformed: {reason}"),
            Self::MissingMember { archive, member } => {
                write!(f, "{archive} lacks {member}")
            }
            Self::Truncated { archive, member } => {
                write!(f, "{archive} is truncated: it ends inside {member}")
            }
            Self::NotAnImage(file) => write!(
                f,
                "{file} holds no image: neither manifest.json nor oci-layout is in it"
            ),
            Self::SavedImage(file) => {
                write!(f, "{file} is a saved image, not a plain file tree")
            }
            Self::Change { text, reason } => write!(f, "invalid change {text:?}: {reason}"),
            Self::TooBig {
                object,
                limit_bytes,
            } => write!(f, "{object} is larger than {limit_bytes} bytes"),
            Self::Store(_)
            | Self::Layer { .. }
            | Self::Io { .. }
            | Self::Tree { .. }
            | Self::Reference { .. }
            | Self::NoSuchImage(_)
            | Self::AmbiguousId { .. }
            | Self::InUse { .. }
            | Self::Denied { .. }
            | Self::ManifestUnknown(_)
            | Self::Registry { .. }
            | Self::Network { .. }
            | Self::Blocked(_) => Ok(()),
        }
    }
}

impl std::error::Error for ImageError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        if let Self::Store(error) | Self::Layer { source: error, .. } = self {
            return error.source();
        }
        None
    }
}
