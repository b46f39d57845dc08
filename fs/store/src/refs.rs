//! Names of images: one JSON file each, in `refs/`.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::path::PathBuf;

use rrun_core::{Digest, Time};
use serde::{Deserialize, Serialize};

use crate::error::{At, StoreError};
use crate::store::{digest_of, sync_dir};
use crate::{ImageLayer, ImageRecord, LayerBlob, NamedImage, Resolved, Store};

/// Longest name in bytes: a reference has at most 255 for its path, plus host, port and tag.
const NAME_MAX: usize = 1024;
/// Longest file name made of an escaped name; longer ones are hashed. Leaves room below 255.
const ESCAPED_MAX: usize = 200;
/// Starts the file names of images without a name; no escaped name contains it.
const UNTAGGED: char = '@';

#[derive(Serialize, Deserialize)]
struct RefFile {
    version: u32,
    name: Option<String>,
    config: String,
    manifest: Option<String>,
    manifest_media_type: String,
    #[serde(default)]
    extra_blobs: Vec<String>,
    layers: Vec<RefLayer>,
    #[serde(default)]
    repo_digests: Vec<String>,
    tagged_secs: i64,
    tagged_nanos: u32,
}

#[derive(Serialize, Deserialize)]
struct RefLayer {
    diff_id: String,
    blob: Option<RefBlob>,
}

#[derive(Serialize, Deserialize)]
struct RefBlob {
    digest: String,
    size: u64,
    media_type: String,
}

fn encode(name: Option<&str>, image: &ImageRecord) -> String {
    let layers = image.layers.iter().map(|layer| RefLayer {
        diff_id: layer.diff_id.to_string(),
        blob: layer.blob.as_ref().map(|blob| RefBlob {
            digest: blob.digest.to_string(),
            size: blob.size,
            media_type: blob.media_type.clone(),
        }),
    });
    let file = RefFile {
        version: 1,
        name: name.map(str::to_owned),
        config: image.config.to_string(),
        manifest: image.manifest.map(|id| id.to_string()),
        manifest_media_type: image.manifest_media_type.clone(),
        extra_blobs: image.extra_blobs.iter().map(Digest::to_string).collect(),
        layers: layers.collect(),
        repo_digests: image.repo_digests.clone(),
        tagged_secs: image.tagged.secs,
        tagged_nanos: image.tagged.nanos,
    };
    // Strings and numbers only: this cannot fail.
    serde_json::to_string(&file).unwrap_or_default()
}

fn decode(text: &str) -> Option<NamedImage> {
    let file: RefFile = serde_json::from_str(text).ok()?;
    (file.version == 1).then_some(())?;
    let mut layers = Vec::new();
    for layer in file.layers {
        let blob = match layer.blob {
            None => None,
            Some(blob) => Some(LayerBlob {
                digest: blob.digest.parse().ok()?,
                size: blob.size,
                media_type: blob.media_type,
            }),
        };
        layers.push(ImageLayer {
            diff_id: layer.diff_id.parse().ok()?,
            blob,
        });
    }
    let extra: Result<Vec<Digest>, _> = file.extra_blobs.iter().map(|id| id.parse()).collect();
    let image = ImageRecord {
        config: file.config.parse().ok()?,
        manifest: file.manifest.map(|id| id.parse()).transpose().ok()?,
        manifest_media_type: file.manifest_media_type,
        extra_blobs: extra.ok()?,
        layers,
        repo_digests: file.repo_digests,
        tagged: Time {
            secs: file.tagged_secs,
            nanos: file.tagged_nanos,
        },
    };
    Some(NamedImage {
        name: file.name,
        image,
    })
}

/// A file name for any name: no separators, no leading dot, not too long, different for
/// different names.
fn file_name(name: &str) -> String {
    let mut out = String::with_capacity(name.len() + 8);
    for (at, byte) in name.bytes().enumerate() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' => out.push(char::from(byte)),
            b'.' if at > 0 => out.push('.'),
            _ => out.push_str(&format!("%{byte:02x}")),
        }
    }
    if out.len() > ESCAPED_MAX {
        return format!("%long-{}", digest_of(name.as_bytes()).hex());
    }
    out
}

impl Store {
    fn ref_path(&self, name: &str) -> PathBuf {
        self.dir("refs").join(file_name(name))
    }

    fn untagged_path(&self, config: &Digest) -> PathBuf {
        self.dir("refs").join(format!("{UNTAGGED}{}", config.hex()))
    }

    /// Lets `name` lead to an image. The image it led to before stays, without a name if that
    /// was its last.
    ///
    /// # Errors
    ///
    /// `LayerMissing`, `BlobMissing` when a part of the image is not in the store; `RefName`.
    pub fn set_ref(&self, name: &str, image: &ImageRecord) -> Result<(), StoreError> {
        if name.is_empty() || name.len() > NAME_MAX || name.contains('\0') {
            return Err(StoreError::RefName(name.chars().take(80).collect()));
        }
        let _lock = self.lock_shared()?;
        let _names = self.lock_names()?;
        self.check_parts(image)?;
        let refs = self.refs()?;
        let named = |config: &Digest| {
            let others = refs.iter().filter(|other| other.image.config == *config);
            others
                .filter(|other| other.name.as_deref() != Some(name))
                .count()
                > 0
        };
        let old = refs.iter().find(|old| old.name.as_deref() == Some(name));
        let old = old.filter(|old| old.image.config != image.config);
        if let Some(old) = old.filter(|old| !named(&old.image.config)) {
            let path = self.untagged_path(&old.image.config);
            self.write_whole(&path, encode(None, &old.image).as_bytes())?;
        }
        self.write_whole(&self.ref_path(name), encode(Some(name), image).as_bytes())?;
        remove_if_there(&self.untagged_path(&image.config))?;
        sync_dir(&self.dir("refs"))
    }

    /// Keeps an image that has no name; does nothing when it has one.
    ///
    /// # Errors
    ///
    /// As [`Store::set_ref`].
    pub fn set_untagged(&self, image: &ImageRecord) -> Result<(), StoreError> {
        let _lock = self.lock_shared()?;
        let _names = self.lock_names()?;
        self.check_parts(image)?;
        if self
            .refs()?
            .iter()
            .any(|other| other.image.config == image.config)
        {
            return Ok(());
        }
        let path = self.untagged_path(&image.config);
        self.write_whole(&path, encode(None, image).as_bytes())?;
        sync_dir(&self.dir("refs"))
    }

    /// All that the image needs must be there; `gc` is kept away by the caller.
    fn check_parts(&self, image: &ImageRecord) -> Result<(), StoreError> {
        let blobs = image.extra_blobs.iter().chain(image.manifest.as_ref());
        for blob in blobs.chain([&image.config]) {
            if !self.has_blob(blob)? {
                return Err(StoreError::BlobMissing(*blob));
            }
        }
        for layer in &image.layers {
            if !self.has_layer(&layer.diff_id)? {
                return Err(StoreError::LayerMissing(layer.diff_id));
            }
        }
        Ok(())
    }

    /// All names and all images without a name, sorted by name.
    ///
    /// # Errors
    ///
    /// `Corrupt`; `Io`.
    pub fn refs(&self) -> Result<Vec<NamedImage>, StoreError> {
        let dir = self.dir("refs");
        let mut found = Vec::new();
        for entry in fs::read_dir(&dir).at("list", &dir)? {
            let path = entry.at("list", &dir)?.path();
            let text = match fs::read_to_string(&path) {
                // Removed between listing and reading.
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                other => other.at("read", &path)?,
            };
            match decode(&text) {
                Some(named) => found.push(named),
                None => {
                    return Err(StoreError::Corrupt {
                        path,
                        what: "not an image reference",
                    });
                }
            }
        }
        found.sort_by(|a, b| (&a.name, a.image.config).cmp(&(&b.name, b.image.config)));
        Ok(found)
    }

    /// Forgets a name; the image goes with the next `gc` if it has no other. Returns what the
    /// name led to.
    ///
    /// # Errors
    ///
    /// `ImageUnknown`.
    pub fn remove_ref(&self, name: &str) -> Result<ImageRecord, StoreError> {
        let _names = self.lock_names()?;
        let refs = self.refs()?;
        let found = refs
            .into_iter()
            .find(|named| named.name.as_deref() == Some(name));
        let found = found.ok_or_else(|| StoreError::ImageUnknown(name.to_owned()))?;
        remove_if_there(&self.ref_path(name))?;
        Ok(found.image)
    }

    /// Forgets every name of an image; returns them.
    ///
    /// # Errors
    ///
    /// `Io`.
    pub fn remove_image(&self, config: &Digest) -> Result<Vec<String>, StoreError> {
        let _names = self.lock_names()?;
        let mut removed = Vec::new();
        for named in self
            .refs()?
            .into_iter()
            .filter(|named| named.image.config == *config)
        {
            if let Some(name) = named.name {
                remove_if_there(&self.ref_path(&name))?;
                removed.push(name);
            }
        }
        remove_if_there(&self.untagged_path(config))?;
        Ok(removed)
    }

    /// Finds an image by its exact name, its id (with or without `sha256:`), or the start of it.
    ///
    /// # Errors
    ///
    /// `ImageUnknown`; `ImageAmbiguous`.
    pub fn resolve(&self, name_or_id: &str) -> Result<Resolved, StoreError> {
        let refs = self.refs()?;
        let resolved = |name: Option<&str>, image: &ImageRecord| Resolved {
            name: name.map(str::to_owned),
            names: names_of(&refs, &image.config),
            image: image.clone(),
        };
        if let Some(named) = refs
            .iter()
            .find(|named| named.name.as_deref() == Some(name_or_id))
        {
            return Ok(resolved(Some(name_or_id), &named.image));
        }
        let unknown = || StoreError::ImageUnknown(name_or_id.to_owned());
        let prefix = name_or_id.strip_prefix("sha256:").unwrap_or(name_or_id);
        if prefix.is_empty() || !prefix.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            return Err(unknown());
        }
        let prefix = prefix.to_ascii_lowercase();
        let mut found = BTreeMap::new();
        for named in refs
            .iter()
            .filter(|named| named.image.config.hex().starts_with(&prefix))
        {
            found.insert(named.image.config, &named.image);
        }
        if found.len() > 1 {
            let candidates = found.into_keys().collect();
            return Err(StoreError::ImageAmbiguous { prefix, candidates });
        }
        found
            .into_values()
            .next()
            .map(|image| resolved(None, image))
            .ok_or_else(unknown)
    }
}

fn names_of(refs: &[NamedImage], config: &Digest) -> Vec<String> {
    let same = refs.iter().filter(|named| named.image.config == *config);
    let names: BTreeSet<String> = same.filter_map(|named| named.name.clone()).collect();
    names.into_iter().collect()
}

fn remove_if_there(path: &std::path::Path) -> Result<(), StoreError> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error).at("remove", path),
        Ok(()) | Err(_) => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn file_names_are_safe_and_distinct() {
        let long = "x".repeat(300);
        let cases = [
            ("a/b:c", "a%2fb%3ac"),
            (".", "%2e"),
            ("..", "%2e."),
            ("@x", "%40x"),
            ("a%2fb", "a%252fb"),
            ("host:5000/x.y_z-1:t", "host%3a5000%2fx.y_z-1%3at"),
        ];
        for (name, expected) in cases {
            assert_eq!(file_name(name), expected, "input {name:?}");
        }
        assert!(file_name(&long).starts_with("%long-"));
        assert_ne!(file_name(&long), file_name(&"x".repeat(301)));
    }
}
