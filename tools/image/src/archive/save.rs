//! Writing images as archives and directories that Docker, podman, skopeo and umoci read.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::Path;

use rrun_core::{Digest, ImageRef};
use rrun_store::{ImageRecord, Store};
use serde::Serialize;

use crate::archive::write::{Sink, TarSink};
use crate::error::At as _;
use crate::spec::{CONTAINERD_NAME, REF_NAME, digest_of};
use crate::{Descriptor, ImageError, Index, Manifest, media};

/// Bytes gathered before they are written: a pipe's capacity.
const WRITE_BUFFER: usize = 64 << 10;

/// The forms an image is saved in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SaveFormat {
    /// What `docker save` writes.
    DockerArchive,
    /// A tar of an OCI layout.
    OciArchive,
    /// An OCI layout.
    OciDirectory,
}

impl SaveFormat {
    /// The format a word of `--format` names.
    #[must_use]
    pub fn from_word(word: &str) -> Option<Self> {
        match word {
            "docker-archive" => Some(Self::DockerArchive),
            "oci-archive" => Some(Self::OciArchive),
            "oci-dir" => Some(Self::OciDirectory),
            _ => None,
        }
    }
}

/// An image to save, with the names it is saved under.
#[derive(Debug)]
struct Item {
    image: ImageRecord,
    names: Vec<ImageRef>,
    manifest: Vec<u8>,
    media_type: String,
    /// Its layers, lowest first.
    blobs: Vec<Blob>,
}

/// A layer as it is written.
#[derive(Debug, Clone)]
struct Blob {
    descriptor: Descriptor,
    digest: Digest,
    diff_id: Digest,
    /// Whether it is the compressed blob that was kept, not the plain tar.
    kept: bool,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
struct DockerItem {
    config: String,
    repo_tags: Option<Vec<String>>,
    layers: Vec<String>,
    layer_sources: BTreeMap<String, Descriptor>,
}

/// Saves images to a stream.
///
/// # Errors
///
/// `NoSuchImage`; `Io` for the output; `Store`. `OciDirectory` is no stream.
pub fn save_to_stream(
    store: &Store,
    images: &[String],
    format: SaveFormat,
    out: &mut dyn Write,
) -> Result<(), ImageError> {
    if format == SaveFormat::OciDirectory {
        return Err(ImageError::malformed(
            "the output",
            "a directory cannot be written to a stream; name one with -o",
        ));
    }
    let items = collect(store, images, format)?;
    let tar = TarSink {
        out: BufWriter::with_capacity(WRITE_BUFFER, out),
        name: "the output".to_owned(),
    };
    write(store, &items, format, Sink::Tar(tar))
}

/// Saves images to a file or directory; a file appears when it is complete.
///
/// # Errors
///
/// As [`save_to_stream`].
pub fn save_to_path(
    store: &Store,
    images: &[String],
    format: SaveFormat,
    path: &Path,
) -> Result<(), ImageError> {
    let object = &path.display();
    if format == SaveFormat::OciDirectory {
        let items = collect(store, images, format)?;
        std::fs::create_dir_all(path).at("make directory", object)?;
        let mut entries = std::fs::read_dir(path).at("read", object)?;
        if entries.next().is_some() && !path.join("oci-layout").is_file() {
            return Err(ImageError::malformed(
                object.to_string(),
                "the directory is neither empty nor an OCI layout",
            ));
        }
        return write(
            store,
            &items,
            format,
            Sink::<File>::Directory(path.to_owned()),
        );
    }
    to_path(path, &mut |out| save_to_stream(store, images, format, out))
}

/// Writes a file under a temporary name and renames it; a device or pipe is written directly.
pub(crate) fn to_path(
    path: &Path,
    write: &mut dyn FnMut(&mut dyn Write) -> Result<(), ImageError>,
) -> Result<(), ImageError> {
    let object = &path.display();
    if std::fs::metadata(path).is_ok_and(|meta| !meta.is_file()) {
        let mut file = File::options().write(true).open(path).at("open", object)?;
        return write(&mut file);
    }
    let mut partial = path.as_os_str().to_owned();
    partial.push(format!(".{}.partial", std::process::id()));
    let mut file = File::create(&partial).at("write", object)?;
    let result =
        write(&mut file).and_then(|()| std::fs::rename(&partial, path).at("write", object));
    if result.is_err() {
        drop(std::fs::remove_file(&partial));
    }
    result
}

/// Finds the images; several names of one image make one item.
fn collect(store: &Store, images: &[String], format: SaveFormat) -> Result<Vec<Item>, ImageError> {
    let mut items: Vec<Item> = Vec::new();
    for text in images {
        let (image, name) = crate::images::find(store, text)?;
        let same = |item: &&mut Item| item.image.config == image.config;
        let name = name.filter(|name| name.tag().is_some());
        let name = name.map(ImageRef::without_digest);
        match items.iter_mut().find(same) {
            Some(item) => {
                let new = name.filter(|name| !item.names.contains(name));
                item.names.extend(new);
            }
            None => {
                let mut item = item(store, image, format)?;
                item.names.extend(name);
                items.push(item);
            }
        }
    }
    Ok(items)
}

fn item(store: &Store, image: ImageRecord, format: SaveFormat) -> Result<Item, ImageError> {
    if format != SaveFormat::DockerArchive
        && let Some(digest) = image.manifest
        && let Some(blobs) = kept_blobs(store, &image)?
    {
        return Ok(Item {
            names: Vec::new(),
            manifest: store.blob(&digest)?,
            media_type: image.manifest_media_type.clone(),
            blobs,
            image,
        });
    }
    let mut blobs = Vec::new();
    for layer in &image.layers {
        let size = store.layer_info(&layer.diff_id)?.uncompressed_size;
        blobs.push(Blob {
            descriptor: Descriptor::new(media::OCI_LAYER, layer.diff_id, size),
            digest: layer.diff_id,
            diff_id: layer.diff_id,
            kept: false,
        });
    }
    let config_size = store.blob(&image.config)?.len() as u64;
    let manifest = Manifest {
        schema_version: 2,
        media_type: media::OCI_MANIFEST.to_owned(),
        config: Descriptor::new(media::OCI_CONFIG, image.config, config_size),
        layers: blobs.iter().map(|blob| blob.descriptor.clone()).collect(),
        annotations: BTreeMap::new(),
    };
    Ok(Item {
        names: Vec::new(),
        manifest: json(&manifest)?,
        media_type: media::OCI_MANIFEST.to_owned(),
        blobs,
        image,
    })
}

/// The blobs the manifest names, if every one can be written.
fn kept_blobs(store: &Store, image: &ImageRecord) -> Result<Option<Vec<Blob>>, ImageError> {
    let mut blobs = Vec::new();
    for layer in &image.layers {
        let Some(blob) = &layer.blob else {
            return Ok(None);
        };
        // A blob that is not compressed is the layer's own tar.
        let kept = blob.digest != layer.diff_id;
        if kept && !store.has_blob(&blob.digest)? {
            return Ok(None);
        }
        blobs.push(Blob {
            descriptor: Descriptor::new(&blob.media_type, blob.digest, blob.size),
            digest: blob.digest,
            diff_id: layer.diff_id,
            kept,
        });
    }
    Ok(Some(blobs))
}

fn json(value: &impl Serialize) -> Result<Vec<u8>, ImageError> {
    serde_json::to_vec(value).map_err(|error| ImageError::malformed("JSON to write", error))
}

fn blob_path(digest: &Digest) -> String {
    format!("blobs/sha256/{}", digest.hex())
}

fn write<W: Write>(
    store: &Store,
    items: &[Item],
    format: SaveFormat,
    mut sink: Sink<W>,
) -> Result<(), ImageError> {
    sink.directory("blobs")?;
    sink.directory("blobs/sha256")?;
    let mut written = BTreeSet::new();
    let mut index = Index {
        schema_version: 2,
        media_type: media::OCI_INDEX.to_owned(),
        manifests: Vec::new(),
    };
    for item in items {
        for blob in &item.blobs {
            if written.insert(blob.digest) {
                write_layer(store, blob, &mut sink)?;
            }
        }
        if written.insert(item.image.config) {
            let bytes = store.blob(&item.image.config)?;
            sink.bytes(&blob_path(&item.image.config), &bytes)?;
        }
        let manifest = digest_of(&item.manifest);
        if written.insert(manifest) {
            sink.bytes(&blob_path(&manifest), &item.manifest)?;
        }
        add_to_index(&mut index, item, manifest);
    }
    if format == SaveFormat::DockerArchive {
        write_docker(items, &mut sink)?;
    }
    sink.bytes("oci-layout", br#"{"imageLayoutVersion":"1.0.0"}"#)?;
    sink.bytes("index.json", &json(&index)?)?;
    sink.finish()
}

/// One entry per name, as skopeo and umoci look images up.
fn add_to_index(index: &mut Index, item: &Item, manifest: Digest) {
    let size = item.manifest.len() as u64;
    let mut descriptor = Descriptor::new(&item.media_type, manifest, size);
    if item.names.is_empty() {
        index.manifests.push(descriptor.clone());
    }
    for name in &item.names {
        let full = name.canonical();
        let notes = [(REF_NAME, full.clone()), (CONTAINERD_NAME, full)];
        descriptor.annotations = notes.map(|(key, value)| (key.to_owned(), value)).into();
        index.manifests.push(descriptor.clone());
    }
}

fn write_layer<W: Write>(store: &Store, blob: &Blob, sink: &mut Sink<W>) -> Result<(), ImageError> {
    let path = blob_path(&blob.digest);
    let size = blob.descriptor.size;
    if !blob.kept {
        return sink.file(&path, size, &mut store.layer_tar(&blob.diff_id)?);
    }
    let Some(mut file) = store.open_blob(&blob.digest)? else {
        return Err(ImageError::MissingMember {
            archive: "the store".to_owned(),
            member: format!("blob {}", blob.digest),
        });
    };
    sink.file(&path, size, &mut file)
}

/// The two files by which Docker and older tools find the images.
///
/// Source: moby, image/tarexport/save.go.
fn write_docker<W: Write>(items: &[Item], sink: &mut Sink<W>) -> Result<(), ImageError> {
    let mut list = Vec::new();
    let mut repositories: BTreeMap<String, BTreeMap<String, String>> = BTreeMap::new();
    for item in items {
        let tags: Vec<_> = item.names.iter().map(ToString::to_string).collect();
        let source = |blob: &Blob| (blob.diff_id.to_string(), blob.descriptor.clone());
        list.push(DockerItem {
            config: blob_path(&item.image.config),
            repo_tags: (!tags.is_empty()).then_some(tags),
            layers: item
                .blobs
                .iter()
                .map(|blob| blob_path(&blob.digest))
                .collect(),
            layer_sources: item.blobs.iter().map(source).collect(),
        });
        let top = item
            .blobs
            .last()
            .map_or(item.image.config, |blob| blob.digest);
        for name in &item.names {
            let tags = repositories.entry(name.familiar_name()).or_default();
            tags.insert(name.tag().unwrap_or_default().to_owned(), top.hex());
        }
    }
    sink.bytes("manifest.json", &json(&list)?)?;
    if repositories.is_empty() {
        return Ok(());
    }
    sink.bytes("repositories", &json(&repositories)?)
}
