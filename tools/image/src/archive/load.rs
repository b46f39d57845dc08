//! Reading images from archives and directories.

use std::collections::BTreeMap;

use rrun_core::{Digest, ImageRef};
use rrun_store::{ImageLayer, ImageRecord, Store};
use serde::Deserialize;

use crate::archive::source::{Input, Source};
use crate::layers::{Wanted, bring};
use crate::registry::{check_counts, now, record_layers, wanted_layers};
use crate::spec::{CONTAINERD_NAME, DOCUMENT_BYTES_MAX, REF_NAME, digest_of};
use crate::{
    Arch, Descriptor, Event, ImageConfig, ImageError, Index, Manifest, ManifestKind, Progress,
    media,
};

/// Levels of indexes inside indexes that are followed.
const INDEX_DEPTH_MAX: u32 = 3;

/// An image that was read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Loaded {
    /// The image id.
    pub id: Digest,
    /// The names it got; none for an image saved by id.
    pub names: Vec<ImageRef>,
}

/// One image found in an archive, not yet stored.
#[derive(Debug)]
struct Found {
    names: Vec<ImageRef>,
    config: ImageConfig,
    manifest: Option<FoundManifest>,
    /// The member that holds each layer, lowest first.
    layers: Vec<Wanted<String>>,
}

#[derive(Debug)]
struct FoundManifest {
    bytes: Vec<u8>,
    digest: Digest,
    media_type: String,
    layers: Vec<ImageLayer>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct DockerItem {
    config: String,
    #[serde(default)]
    repo_tags: Option<Vec<String>>,
    #[serde(default)]
    layers: Option<Vec<String>>,
}

/// Reads all images of an archive or OCI directory into the store and gives them their names.
///
/// Everything is verified: configs and layer blobs against the digests that name them, layers
/// against the diffIDs of the config. Names are set when everything is in the store.
///
/// # Errors
///
/// `NotAnImage`, `MissingMember`, `Truncated`, `DigestMismatch`, `SizeMismatch`, `Malformed`,
/// `Layer`, `Platform`.
pub fn load(
    store: &Store,
    input: Input<'_>,
    arch: &Arch,
    progress: &dyn Progress,
) -> Result<Vec<Loaded>, ImageError> {
    let source = Source::open(input, &store.root().join("tmp"))?;
    let images = if source.has("manifest.json")? {
        docker_images(&source, progress)?
    } else if source.has("oci-layout")? || source.has("index.json")? {
        oci_images(&source, arch, progress)?
    } else {
        return Err(ImageError::NotAnImage(source.name));
    };
    let mut wanted = Vec::new();
    for layer in images.iter().flat_map(|image| &image.layers) {
        let found = source.member(&layer.source)?.size();
        if let Some(expected) = layer.size.filter(|expected| *expected != found) {
            return Err(ImageError::SizeMismatch {
                object: format!("{} in {}", layer.source, source.name),
                expected,
                found,
            });
        }
        let mut layer = layer.clone();
        layer.size = Some(found);
        wanted.push(layer);
    }
    bring(store, wanted, progress, |layer: &Wanted<String>| {
        source.member(&layer.source)
    })?;
    images.iter().map(|image| record(store, image)).collect()
}

fn record(store: &Store, image: &Found) -> Result<Loaded, ImageError> {
    let id = store.put_blob(&image.config.bytes, None)?;
    let mut record = ImageRecord {
        config: id,
        manifest: None,
        manifest_media_type: String::new(),
        extra_blobs: Vec::new(),
        layers: Vec::new(),
        repo_digests: Vec::new(),
        tagged: now(),
    };
    match &image.manifest {
        Some(manifest) => {
            store.put_blob(&manifest.bytes, Some(&manifest.digest))?;
            record.manifest = Some(manifest.digest);
            record.manifest_media_type.clone_from(&manifest.media_type);
            record.layers.clone_from(&manifest.layers);
        }
        None => {
            let layer = |diff_id: &Digest| ImageLayer {
                diff_id: *diff_id,
                blob: None,
            };
            record.layers = image.config.diff_ids.iter().map(layer).collect();
        }
    }
    if image.names.is_empty() {
        store.set_untagged(&record)?;
    }
    for name in &image.names {
        store.set_ref(&name.canonical(), &record)?;
    }
    Ok(Loaded {
        id,
        names: image.names.clone(),
    })
}

fn docker_images(source: &Source, progress: &dyn Progress) -> Result<Vec<Found>, ImageError> {
    let bytes = source.document("manifest.json", DOCUMENT_BYTES_MAX)?;
    let object = || format!("manifest.json in {}", source.name);
    let items: Vec<DockerItem> =
        serde_json::from_slice(&bytes).map_err(|error| ImageError::malformed(object(), error))?;
    items
        .into_iter()
        .map(|item| docker_image(source, item, progress))
        .collect()
}

fn docker_image(
    source: &Source,
    item: DockerItem,
    progress: &dyn Progress,
) -> Result<Found, ImageError> {
    let bytes = source.document(&item.config, DOCUMENT_BYTES_MAX)?;
    if let Some(expected) = digest_in_name(&item.config) {
        check(source, &item.config, expected, digest_of(&bytes))?;
    }
    let config = ImageConfig::parse(bytes)?;
    let members = item.layers.unwrap_or_default();
    let (named, expected) = (members.len(), config.diff_ids.len());
    if named != expected {
        return Err(ImageError::malformed(
            format!("manifest.json in {}", source.name),
            format!("it names {named} layers, the configuration {expected}"),
        ));
    }
    let layer = |(member, diff_id): (String, &Digest)| Wanted {
        shown: *diff_id,
        diff_id: *diff_id,
        blob: None,
        size: None,
        source: member,
    };
    let layers = members.into_iter().zip(&config.diff_ids).map(layer);
    let layers = layers.collect();
    let tags = item.repo_tags.unwrap_or_default();
    Ok(Found {
        names: names(tags.iter().map(String::as_str), progress),
        config,
        manifest: None,
        layers,
    })
}

/// The digest in `blobs/sha256/HEX`, `HEX.json` or `HEX`.
fn digest_in_name(member: &str) -> Option<Digest> {
    let file = member.rsplit('/').next().unwrap_or(member);
    Digest::from_hex(file.strip_suffix(".json").unwrap_or(file)).ok()
}

fn check(source: &Source, member: &str, expected: Digest, found: Digest) -> Result<(), ImageError> {
    if expected == found {
        return Ok(());
    }
    Err(ImageError::DigestMismatch {
        object: format!("{member} in {}", source.name),
        expected,
        found,
    })
}

/// Parses names; one that is none is told of and left out.
fn names<'a>(texts: impl Iterator<Item = &'a str>, progress: &dyn Progress) -> Vec<ImageRef> {
    let mut found = Vec::new();
    for text in texts {
        match text.parse::<ImageRef>() {
            Ok(name) => {
                let name = name.without_digest().or_latest();
                if !found.contains(&name) {
                    found.push(name);
                }
            }
            Err(error) => {
                let note = format!("name {text:?} in the archive is left out: {error}");
                progress.event(&Event::Note(&note));
            }
        }
    }
    found
}

fn oci_images(
    source: &Source,
    arch: &Arch,
    progress: &dyn Progress,
) -> Result<Vec<Found>, ImageError> {
    let bytes = source.document("index.json", DOCUMENT_BYTES_MAX)?;
    let object = format!("index.json in {}", source.name);
    let index: Index =
        serde_json::from_slice(&bytes).map_err(|error| ImageError::malformed(&object, error))?;
    let mut images: BTreeMap<String, Found> = BTreeMap::new();
    let mut order = Vec::new();
    for descriptor in &index.manifests {
        let names = names(name_of(descriptor).into_iter(), progress);
        if let Some(found) = images.get_mut(&descriptor.digest) {
            let new = names.into_iter().filter(|name| !found.names.contains(name));
            let new: Vec<_> = new.collect();
            found.names.extend(new);
            continue;
        }
        if let Some(mut found) = oci_image(source, descriptor, arch, 0)? {
            found.names = names;
            order.push(descriptor.digest.clone());
            images.insert(descriptor.digest.clone(), found);
        }
    }
    if images.is_empty() {
        return Err(ImageError::Platform {
            image: source.name.clone(),
            wanted: format!("linux/{}", arch.architecture),
            available: index.platforms(),
        });
    }
    let in_order = order.iter().filter_map(|digest| images.remove(digest));
    Ok(in_order.collect())
}

/// A full name wins over a bare tag, which is how Docker fills the two annotations.
fn name_of(descriptor: &Descriptor) -> Option<&str> {
    let text = |key: &str| descriptor.annotations.get(key).map(String::as_str);
    match (text(REF_NAME), text(CONTAINERD_NAME)) {
        (Some(name), Some(full)) if !name.contains(['/', ':']) => Some(full),
        (Some(name), _) => Some(name),
        (None, full) => full,
    }
}

/// Reads the manifest a descriptor leads to; `None` for what is no image (an attestation).
fn oci_image(
    source: &Source,
    descriptor: &Descriptor,
    arch: &Arch,
    depth: u32,
) -> Result<Option<Found>, ImageError> {
    let platform = descriptor.platform.as_ref();
    if platform.is_some_and(|platform| platform.os == "unknown") {
        return Ok(None);
    }
    let digest = descriptor.parsed()?;
    let bytes = blob(source, descriptor)?;
    let object = format!("manifest {digest} in {}", source.name);
    match ManifestKind::parse(&bytes, &descriptor.media_type, &object)? {
        ManifestKind::Index(_) if depth >= INDEX_DEPTH_MAX => Err(ImageError::malformed(
            object,
            "too many indexes inside indexes",
        )),
        ManifestKind::Index(inner) => {
            let entry = inner.select(arch).ok_or_else(|| ImageError::Platform {
                image: format!("index {digest} in {}", source.name),
                wanted: format!("linux/{}", arch.architecture),
                available: inner.platforms(),
            })?;
            oci_image(source, entry, arch, depth + 1)
        }
        ManifestKind::Image(manifest) => oci_manifest(source, &manifest, bytes, digest).map(Some),
    }
}

fn oci_manifest(
    source: &Source,
    manifest: &Manifest,
    bytes: Vec<u8>,
    digest: Digest,
) -> Result<Found, ImageError> {
    let config = ImageConfig::parse(blob(source, &manifest.config)?)?;
    check_counts(manifest, &config)?;
    let mut layers = Vec::new();
    for layer in wanted_layers(manifest, &config)? {
        layers.push(Wanted {
            shown: layer.shown,
            diff_id: layer.diff_id,
            blob: layer.blob,
            size: layer.size,
            source: blob_path(&layer.source)?,
        });
    }
    let media_type = match manifest.media_type.as_str() {
        "" => media::OCI_MANIFEST,
        named => named,
    };
    Ok(Found {
        names: Vec::new(),
        manifest: Some(FoundManifest {
            bytes,
            digest,
            media_type: media_type.to_owned(),
            layers: record_layers(manifest, &config)?,
        }),
        config,
        layers,
    })
}

fn blob_path(descriptor: &Descriptor) -> Result<String, ImageError> {
    Ok(format!("blobs/sha256/{}", descriptor.parsed()?.hex()))
}

/// A small blob of the layout, verified.
fn blob(source: &Source, descriptor: &Descriptor) -> Result<Vec<u8>, ImageError> {
    let path = blob_path(descriptor)?;
    let bytes = source.document(&path, DOCUMENT_BYTES_MAX)?;
    check(source, &path, descriptor.parsed()?, digest_of(&bytes))?;
    Ok(bytes)
}
