//! Manifests, indexes and configurations, read from their raw bytes and never written back.

use std::collections::BTreeMap;
use std::fmt;

use rrun_core::Digest;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use sha2::{Digest as _, Sha256};

use crate::ImageError;

/// Media types of manifests, configurations and layers.
pub mod media {
    /// OCI image manifest.
    pub const OCI_MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
    /// OCI image index.
    pub const OCI_INDEX: &str = "application/vnd.oci.image.index.v1+json";
    /// OCI image configuration.
    pub const OCI_CONFIG: &str = "application/vnd.oci.image.config.v1+json";
    /// OCI layer, uncompressed.
    pub const OCI_LAYER: &str = "application/vnd.oci.image.layer.v1.tar";
    /// OCI layer, gzip.
    pub const OCI_LAYER_GZIP: &str = "application/vnd.oci.image.layer.v1.tar+gzip";
    /// OCI layer, zstd.
    pub const OCI_LAYER_ZSTD: &str = "application/vnd.oci.image.layer.v1.tar+zstd";
    /// Docker schema 2 manifest.
    pub const DOCKER_MANIFEST: &str = "application/vnd.docker.distribution.manifest.v2+json";
    /// Docker manifest list.
    pub const DOCKER_LIST: &str = "application/vnd.docker.distribution.manifest.list.v2+json";
    /// Docker image configuration.
    pub const DOCKER_CONFIG: &str = "application/vnd.docker.container.image.v1+json";
    /// Everything a manifest request accepts, most wanted first.
    pub const ACCEPT_MANIFESTS: &str = "application/vnd.oci.image.manifest.v1+json, \
        application/vnd.oci.image.index.v1+json, \
        application/vnd.docker.distribution.manifest.v2+json, \
        application/vnd.docker.distribution.manifest.list.v2+json";
}

/// The annotation that names an image in an OCI layout.
pub(crate) const REF_NAME: &str = "org.opencontainers.image.ref.name";
/// The annotation in which containerd and Docker keep the full name.
pub(crate) const CONTAINERD_NAME: &str = "io.containerd.image.name";

/// The largest manifest, index or configuration read: registries refuse manifests above 4 MiB;
/// configurations of long histories stay far below.
pub(crate) const DOCUMENT_BYTES_MAX: u64 = 8 << 20;

/// The digest of some bytes.
pub(crate) fn digest_of(bytes: &[u8]) -> Digest {
    Digest::from_bytes(Sha256::digest(bytes).into())
}

/// A machine's architecture, as Go names it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Arch {
    /// `amd64`, `arm64`, ...
    pub architecture: String,
    /// `v7`, `v8`; empty where there is none.
    pub variant: String,
}

impl Arch {
    /// The architecture this program was built for.
    #[must_use]
    pub fn native() -> Self {
        let (architecture, variant) = match std::env::consts::ARCH {
            "x86_64" => ("amd64", ""),
            "aarch64" => ("arm64", "v8"),
            "arm" => ("arm", "v7"),
            "x86" => ("386", ""),
            "powerpc64" => ("ppc64le", ""),
            "loongarch64" => ("loong64", ""),
            other => (other, ""),
        };
        Self {
            architecture: architecture.to_owned(),
            variant: variant.to_owned(),
        }
    }
}

/// The platform of an entry of an index.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PlatformSpec {
    /// CPU.
    #[serde(default)]
    pub architecture: String,
    /// Operating system.
    #[serde(default)]
    pub os: String,
    /// CPU variant.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub variant: String,
}

impl fmt::Display for PlatformSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.os, self.architecture)?;
        if !self.variant.is_empty() {
            write!(f, "/{}", self.variant)?;
        }
        Ok(())
    }
}

/// What names a blob.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Descriptor {
    /// Its type.
    #[serde(default)]
    pub media_type: String,
    /// Its digest, as text: other algorithms than sha256 are refused when it is used.
    pub digest: String,
    /// Its length in bytes.
    pub size: u64,
    /// Notes.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub annotations: BTreeMap<String, String>,
    /// For which machine, in an index.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub platform: Option<PlatformSpec>,
}

impl Descriptor {
    /// A descriptor of bytes with this digest and size.
    #[must_use]
    pub fn new(media_type: &str, digest: Digest, size: u64) -> Self {
        Self {
            media_type: media_type.to_owned(),
            digest: digest.to_string(),
            size,
            annotations: BTreeMap::new(),
            platform: None,
        }
    }

    /// The digest as a value.
    ///
    /// # Errors
    ///
    /// `Malformed` when it is no sha256 digest.
    pub fn parsed(&self) -> Result<Digest, ImageError> {
        self.digest
            .parse()
            .map_err(|error| ImageError::malformed(format!("digest {:?}", self.digest), error))
    }
}

/// An image manifest, of either standard.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Manifest {
    /// Always 2.
    pub schema_version: u32,
    /// Its own type; optional in OCI.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub media_type: String,
    /// The configuration.
    pub config: Descriptor,
    /// The layers, lowest first.
    pub layers: Vec<Descriptor>,
    /// Notes.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub annotations: BTreeMap<String, String>,
}

/// An OCI index or a Docker manifest list.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Index {
    /// Always 2.
    pub schema_version: u32,
    /// Its own type; optional in OCI.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub media_type: String,
    /// The images.
    #[serde(default)]
    pub manifests: Vec<Descriptor>,
}

/// What a manifest request or an index entry turned out to be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ManifestKind {
    /// One image.
    Image(Manifest),
    /// Several.
    Index(Index),
}

impl ManifestKind {
    /// Reads a manifest or index; `content_type` is what the server or descriptor called it.
    ///
    /// # Errors
    ///
    /// `MediaType` for what is neither; `Malformed` for bad JSON.
    pub fn parse(bytes: &[u8], content_type: &str, object: &str) -> Result<Self, ImageError> {
        let value: Value =
            serde_json::from_slice(bytes).map_err(|error| ImageError::malformed(object, error))?;
        if value.get("schemaVersion").and_then(Value::as_u64) == Some(1) {
            return Err(ImageError::MediaType {
                object: object.to_owned(),
                found: "application/vnd.docker.distribution.manifest.v1+json".to_owned(),
            });
        }
        let inner = value.get("mediaType").and_then(Value::as_str).unwrap_or("");
        let outer = content_type.split(';').next().unwrap_or("").trim();
        let named = if inner.is_empty() { outer } else { inner };
        let is_index = match named {
            media::OCI_INDEX | media::DOCKER_LIST => true,
            media::OCI_MANIFEST | media::DOCKER_MANIFEST => false,
            "" | "application/json" | "application/octet-stream" | "text/plain" => {
                value.get("manifests").is_some()
            }
            other => {
                return Err(ImageError::MediaType {
                    object: object.to_owned(),
                    found: other.to_owned(),
                });
            }
        };
        let malformed = |error| ImageError::malformed(object, error);
        if is_index {
            return Ok(Self::Index(
                serde_json::from_value(value).map_err(malformed)?,
            ));
        }
        let manifest: Manifest = serde_json::from_value(value).map_err(malformed)?;
        check_layers(&manifest)?;
        Ok(Self::Image(manifest))
    }
}

fn check_layers(manifest: &Manifest) -> Result<(), ImageError> {
    let config = manifest.config.media_type.as_str();
    if !matches!(config, media::OCI_CONFIG | media::DOCKER_CONFIG | "") {
        return Err(ImageError::MediaType {
            object: format!("configuration {}", manifest.config.digest),
            found: config.to_owned(),
        });
    }
    for layer in &manifest.layers {
        if !is_layer_type(&layer.media_type) {
            return Err(ImageError::MediaType {
                object: format!("layer {}", layer.digest),
                found: layer.media_type.clone(),
            });
        }
    }
    Ok(())
}

fn is_layer_type(media_type: &str) -> bool {
    let oci = [
        "application/vnd.oci.image.layer.v1.tar",
        "application/vnd.oci.image.layer.nondistributable.v1.tar",
    ];
    let docker = [
        "application/vnd.docker.image.rootfs.diff.tar",
        "application/vnd.docker.image.rootfs.foreign.diff.tar",
    ];
    let suffix_ok = |rest: &str, sep: char| {
        rest.is_empty()
            || rest
                .strip_prefix(sep)
                .is_some_and(|compression| matches!(compression, "gzip" | "zstd"))
    };
    oci.iter()
        .filter_map(|prefix| media_type.strip_prefix(prefix))
        .any(|rest| suffix_ok(rest, '+'))
        || docker
            .iter()
            .filter_map(|prefix| media_type.strip_prefix(prefix))
            .any(|rest| suffix_ok(rest, '.'))
}

impl Index {
    /// The entry for linux on `arch`: an exact variant first, then one without, then any.
    #[must_use]
    pub fn select(&self, arch: &Arch) -> Option<&Descriptor> {
        let fits = |entry: &&Descriptor| {
            entry.platform.as_ref().is_some_and(|platform| {
                platform.os == "linux" && platform.architecture == arch.architecture
            })
        };
        let variant_of = |entry: &Descriptor| entry.platform.clone().unwrap_or_default().variant;
        let with = |wanted: &str| {
            self.manifests
                .iter()
                .filter(fits)
                .find(|entry| variant_of(entry) == wanted)
        };
        with(&arch.variant)
            .or_else(|| with(""))
            .or_else(|| self.manifests.iter().find(fits))
            .or_else(|| match self.manifests.as_slice() {
                [only] if only.platform.is_none() => Some(only),
                _ => None,
            })
    }

    /// The platforms offered, for an error text.
    #[must_use]
    pub fn platforms(&self) -> Vec<String> {
        self.manifests
            .iter()
            .filter_map(|entry| entry.platform.as_ref().map(ToString::to_string))
            .filter(|platform| !platform.starts_with("unknown"))
            .collect()
    }
}

/// An image's configuration: the raw bytes, and a view on them.
#[derive(Debug, Clone, PartialEq)]
pub struct ImageConfig {
    /// The bytes whose digest is the image id.
    pub bytes: Vec<u8>,
    /// The same as a value, fields in their order.
    pub value: Value,
    /// The layers, lowest first.
    pub diff_ids: Vec<Digest>,
}

impl ImageConfig {
    /// Reads a configuration.
    ///
    /// # Errors
    ///
    /// `Malformed`.
    pub fn parse(bytes: Vec<u8>) -> Result<Self, ImageError> {
        let object = || format!("image configuration {}", digest_of(&bytes));
        let value: Value = serde_json::from_slice(&bytes)
            .map_err(|error| ImageError::malformed(object(), error))?;
        if !value.is_object() {
            return Err(ImageError::malformed(object(), "not a JSON object"));
        }
        let mut diff_ids = Vec::new();
        if let Some(list) = value.pointer("/rootfs/diff_ids").and_then(Value::as_array) {
            for entry in list {
                let text = entry.as_str().unwrap_or_default();
                let digest = text.parse().map_err(|error| {
                    ImageError::malformed(object(), format!("diff_id {text:?}: {error}"))
                })?;
                diff_ids.push(digest);
            }
        } else if value.get("rootfs").is_none() {
            return Err(ImageError::malformed(object(), "it has no rootfs"));
        }
        Ok(Self {
            bytes,
            value,
            diff_ids,
        })
    }

    /// The image id.
    #[must_use]
    pub fn id(&self) -> Digest {
        digest_of(&self.bytes)
    }

    /// A string field at the top; empty when absent.
    #[must_use]
    pub fn text(&self, field: &str) -> &str {
        self.value.get(field).and_then(Value::as_str).unwrap_or("")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_index_offers_the_best_variant() {
        let entry = |arch: &str, variant: &str, digest: &str| {
            format!(
                r#"{{"mediaType":"x","digest":"{digest}","size":1,"platform":{{"os":"linux","architecture":"{arch}","variant":"{variant}"}}}}"#
            )
        };
        let text = format!(
            r#"{{"schemaVersion":2,"manifests":[{},{},{}]}}"#,
            entry("arm", "v6", "a"),
            entry("arm", "v7", "b"),
            entry("amd64", "", "c")
        );
        let index: Index = serde_json::from_str(&text).unwrap();
        let arch = |architecture: &str, variant: &str| Arch {
            architecture: architecture.into(),
            variant: variant.into(),
        };
        let pick = |a: &str, v: &str| index.select(&arch(a, v)).map(|d| d.digest.clone());
        assert_eq!(pick("arm", "v7").as_deref(), Some("b"));
        assert_eq!(pick("arm", "v5").as_deref(), Some("a"));
        assert_eq!(pick("amd64", "").as_deref(), Some("c"));
        assert_eq!(pick("s390x", ""), None);
        assert_eq!(
            index.platforms(),
            ["linux/arm/v6", "linux/arm/v7", "linux/amd64"]
        );
    }

    #[test]
    fn layer_types_are_told_from_others() {
        let good = [
            media::OCI_LAYER,
            media::OCI_LAYER_GZIP,
            "application/vnd.oci.image.layer.v1.tar+zstd",
            "application/vnd.docker.image.rootfs.diff.tar.gzip",
            "application/vnd.docker.image.rootfs.diff.tar",
            "application/vnd.docker.image.rootfs.diff.tar.zstd",
        ];
        for text in good {
            assert!(is_layer_type(text), "input {text:?}");
        }
        for text in [
            "",
            "application/vnd.oci.image.layer.v1.tar+bz2",
            "application/vnd.cncf.helm",
        ] {
            assert!(!is_layer_type(text), "input {text:?}");
        }
    }
}
