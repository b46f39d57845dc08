//! The values that go in and out of the store.

use rrun_core::{Digest, Time};

/// How a layer blob is compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Compression {
    /// Find out from the first bytes.
    Auto,
    /// A plain tar.
    None,
    /// One or more gzip members.
    Gzip,
    /// One or more zstd frames, skippable ones too.
    Zstd,
}

impl Compression {
    /// The word the store's files have for it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Auto => "auto",
            Self::None => "none",
            Self::Gzip => "gzip",
            Self::Zstd => "zstd",
        }
    }

    /// The compression a word of [`Compression::as_str`] means.
    #[must_use]
    pub fn from_word(word: &str) -> Option<Self> {
        match word {
            "none" => Some(Self::None),
            "gzip" => Some(Self::Gzip),
            "zstd" => Some(Self::Zstd),
            _ => None,
        }
    }
}

/// What a layer is promised to be; each promise is checked, none is believed.
#[derive(Debug, Clone, Copy, Default)]
pub struct Expect {
    /// Digest of the blob as it comes (compressed).
    pub blob: Option<Digest>,
    /// Size of the blob in bytes; reading stops when more come.
    pub blob_size: Option<u64>,
    /// Digest of the uncompressed tar.
    pub diff_id: Option<Digest>,
    /// Whether to keep the blob itself, for a push that must not compress again.
    pub keep_blob: bool,
}

/// One form in which a layer came.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BlobInfo {
    /// Digest of the blob.
    pub digest: Digest,
    /// Its size in bytes.
    pub size: u64,
    /// How it was compressed.
    pub compression: Compression,
}

/// What is known of a layer in the store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LayerInfo {
    /// Digest of the uncompressed tar.
    pub diff_id: Digest,
    /// The blob it was read from last.
    pub blob: BlobInfo,
    /// Every blob that was seen to hold this tar, `blob` included.
    pub blobs: Vec<BlobInfo>,
    /// Length of the uncompressed tar in bytes.
    pub uncompressed_size: u64,
    /// Number of entries in the tar.
    pub entries: u64,
    /// Sum of the sizes of its regular files in bytes, as `docker history` counts.
    pub content_size: u64,
}

/// A layer of an image, as the image's manifest and config name it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImageLayer {
    /// Digest of the uncompressed tar: names the layer in the store.
    pub diff_id: Digest,
    /// The blob the manifest names, if there was a manifest.
    pub blob: Option<LayerBlob>,
}

/// A layer blob as a manifest describes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LayerBlob {
    /// Digest of the blob.
    pub digest: Digest,
    /// Size in bytes.
    pub size: u64,
    /// Media type.
    pub media_type: String,
}

/// An image: what a name leads to. Its id is the digest of its config.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImageRecord {
    /// The config; kept as a blob.
    pub config: Digest,
    /// The manifest, if it came with one; kept as a blob.
    pub manifest: Option<Digest>,
    /// Media type of the manifest; empty without one.
    pub manifest_media_type: String,
    /// Other blobs to keep as long as the image: an image index, signatures.
    pub extra_blobs: Vec<Digest>,
    /// The layers, lowest first.
    pub layers: Vec<ImageLayer>,
    /// Where it was pulled from, `registry/repository@digest`, for the digests column.
    pub repo_digests: Vec<String>,
    /// When this name was last set.
    pub tagged: Time,
}

impl ImageRecord {
    /// The diffIDs, lowest first.
    #[must_use]
    pub fn diff_ids(&self) -> Vec<Digest> {
        self.layers.iter().map(|layer| layer.diff_id).collect()
    }
}

/// A name and the image it leads to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NamedImage {
    /// The name; `None` for an image without one.
    pub name: Option<String>,
    /// The image.
    pub image: ImageRecord,
}

/// What a name or the start of an id was found to mean.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Resolved {
    /// The name, when a name was asked for.
    pub name: Option<String>,
    /// All names of that image, sorted.
    pub names: Vec<String>,
    /// The image.
    pub image: ImageRecord,
}

/// What `gc` removed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct GcReport {
    /// Objects removed.
    pub objects: u64,
    /// Layers removed.
    pub layers: u64,
    /// Bases removed.
    pub bases: u64,
    /// Blobs removed.
    pub blobs: u64,
    /// Bytes given back to the disk.
    pub bytes: u64,
}

/// Whether `check` only looks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Repair {
    /// Only report.
    No,
    /// Move what is bad to `quarantine/`, so that it is fetched or built again.
    Yes,
}

/// What `check` found.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct CheckReport {
    /// Objects, blobs, layers and bases looked at.
    pub checked: u64,
    /// Bytes hashed.
    pub bytes: u64,
    /// One sentence each.
    pub problems: Vec<String>,
    /// Layers that lack something and must be fetched again.
    pub broken_layers: Vec<Digest>,
}

/// How much disk the store takes, in bytes as `du` counts.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Usage {
    /// Number of objects.
    pub objects: u64,
    /// Bytes of objects.
    pub object_bytes: u64,
    /// Number of layers.
    pub layers: u64,
    /// Bytes of layer indexes and tar headers.
    pub layer_bytes: u64,
    /// Bytes of bases.
    pub base_bytes: u64,
    /// Bytes of configs, manifests and kept layer blobs.
    pub blob_bytes: u64,
}
