//! Pushing an image.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::sync::Mutex;

use flate2::Compression;
use flate2::read::GzEncoder;
use rrun_core::{DEFAULT_TAG, Digest, ImageRef};
use rrun_store::{ImageLayer, ImageRecord, LayerBlob, Store};
use sha2::{Digest as _, Sha256};
use ureq::http::{Method, StatusCode, header};

use crate::archive::spool;
use crate::error::At as _;
use crate::parallel::{self, LAYERS_AT_ONCE};
use crate::registry::Registry;
use crate::registry::auth::encode;
use crate::registry::http::{
    ATTEMPTS_MAX, Ask, Connection, Payload, backoff, challenge_of, location_of,
};
use crate::spec::digest_of;
use crate::{Descriptor, Event, ImageError, LayerState, Manifest, Progress, media};

/// Bytes between two news of a moving layer.
const NEWS_BYTES: u64 = 256 << 10;

/// What a push left on the registry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pushed {
    /// The name, with the tag that was used.
    pub image: ImageRef,
    /// The digest of the manifest.
    pub digest: Digest,
    /// Its size in bytes.
    pub size: u64,
}

/// Bytes to upload, readable from the start as often as needed.
#[derive(Debug)]
enum Upload<'a> {
    Bytes(&'a [u8]),
    File(File),
}

impl Registry {
    /// Uploads what the registry lacks of an image, then its manifest.
    ///
    /// Blobs the registry has are not sent, blobs another repository there has are mounted,
    /// layers whose compressed blob was not kept are compressed with gzip. The original manifest
    /// is sent if all its blobs are as it says.
    ///
    /// # Errors
    ///
    /// `NoSuchImage`; `Denied`, `Registry`, `Network` for what the registry answers; `Store`.
    pub fn push(
        &self,
        store: &Store,
        image: &ImageRef,
        progress: &dyn Progress,
    ) -> Result<Pushed, ImageError> {
        if image.is_name_only() {
            progress.event(&Event::DefaultTag(DEFAULT_TAG));
        }
        let image = image.clone().or_latest().without_digest();
        let (record, _) = crate::images::find(store, &image.canonical())?;
        progress.event(&Event::Pushing(&image));
        let endpoints = self.conf.endpoints(&image)?;
        let Some(endpoint) = endpoints.iter().find(|endpoint| !endpoint.mirror) else {
            return Err(ImageError::Blocked(image.domain().to_owned()));
        };
        let connection = Connection::open(endpoint, &self.intent(&image, "pull,push")?)?;
        let found: Mutex<BTreeMap<Digest, LayerBlob>> = Mutex::default();
        let mut layers = record.layers.clone();
        layers.sort_by_key(|layer| layer.diff_id);
        layers.dedup_by_key(|layer| layer.diff_id);
        parallel::for_each(layers, LAYERS_AT_ONCE, |layer| {
            let blob = push_layer(store, &connection, &image, &record, &layer, progress)?;
            if let Ok(mut found) = found.lock() {
                found.insert(layer.diff_id, blob);
            }
            Ok(())
        })?;
        let found = found.into_inner().unwrap_or_default();
        let config = store.blob(&record.config)?;
        if !exists(&connection, record.config)? {
            let mut source = Upload::Bytes(&config);
            upload(
                &connection,
                record.config,
                config.len() as u64,
                &mut source,
                &|_| {},
            )?;
        }
        let mut record = record;
        let bytes = manifest_of(store, &mut record, &found, config.len() as u64)?;
        put_manifest(&connection, &image, &bytes, &record.manifest_media_type)?;
        let digest = store.put_blob(&bytes, None)?;
        let repo_digest = format!("{}@{digest}", image.name());
        if !record.repo_digests.contains(&repo_digest) {
            record.repo_digests.push(repo_digest);
        }
        store.set_ref(&image.canonical(), &record)?;
        progress.event(&Event::Digest(digest));
        Ok(Pushed {
            image,
            digest,
            size: bytes.len() as u64,
        })
    }
}

/// The manifest to send; the record is made to match it.
fn manifest_of(
    store: &Store,
    record: &mut ImageRecord,
    found: &BTreeMap<Digest, LayerBlob>,
    config_size: u64,
) -> Result<Vec<u8>, ImageError> {
    let same = |layer: &ImageLayer| {
        let blob = layer.blob.as_ref().map(|blob| blob.digest);
        blob.is_some() && blob == found.get(&layer.diff_id).map(|blob| blob.digest)
    };
    if let Some(digest) = record.manifest
        && record.layers.iter().all(same)
    {
        return Ok(store.blob(&digest)?);
    }
    let mut layers = Vec::new();
    for layer in &mut record.layers {
        if let Some(blob) = found.get(&layer.diff_id) {
            layers.push(Descriptor::new(&blob.media_type, blob.digest, blob.size));
            layer.blob = Some(blob.clone());
        }
    }
    let manifest = Manifest {
        schema_version: 2,
        media_type: media::OCI_MANIFEST.to_owned(),
        config: Descriptor::new(media::OCI_CONFIG, record.config, config_size),
        layers,
        annotations: BTreeMap::new(),
    };
    let bytes = serde_json::to_vec(&manifest)
        .map_err(|error| ImageError::malformed("the new manifest", error))?;
    record.manifest = Some(digest_of(&bytes));
    media::OCI_MANIFEST.clone_into(&mut record.manifest_media_type);
    record.extra_blobs.clear();
    Ok(bytes)
}

fn put_manifest(
    connection: &Connection,
    image: &ImageRef,
    bytes: &[u8],
    media_type: &str,
) -> Result<(), ImageError> {
    let url = connection.url(&format!("manifests/{}", image.tag().unwrap_or(DEFAULT_TAG)));
    let ask = Ask {
        method: Method::PUT,
        url: url.clone(),
        accept: None,
        headers: vec![("content-type", media_type.to_owned())],
        payload: Payload::Bytes(bytes),
    };
    let response = connection.send(&ask)?;
    if response.status().is_success() {
        return Ok(());
    }
    Err(connection.refusal(&url, response))
}

/// Sees to it that the registry has a layer; returns the form it has.
fn push_layer(
    store: &Store,
    connection: &Connection,
    image: &ImageRef,
    record: &ImageRecord,
    layer: &ImageLayer,
    progress: &dyn Progress,
) -> Result<LayerBlob, ImageError> {
    let shown = layer
        .blob
        .as_ref()
        .map_or(layer.diff_id, |blob| blob.digest);
    let tell = |state| {
        progress.event(&Event::Layer {
            digest: shown,
            state,
        });
    };
    tell(LayerState::Waiting);
    let candidates = candidates(store, layer)?;
    for blob in &candidates {
        if exists(connection, blob.digest)? {
            tell(LayerState::Exists);
            return Ok(blob.clone());
        }
    }
    if let Some(from) = mount_source(image, record) {
        for blob in &candidates {
            if mount(connection, blob.digest, &from)? {
                tell(LayerState::Exists);
                return Ok(blob.clone());
            }
        }
    }
    let (blob, mut source) = prepare(store, layer, &candidates)?;
    if exists(connection, blob.digest)? {
        tell(LayerState::Exists);
        return Ok(blob);
    }
    let total = Some(blob.size);
    upload(connection, blob.digest, blob.size, &mut source, &|done| {
        tell(LayerState::Moving { done, total });
    })?;
    tell(LayerState::Complete);
    Ok(blob)
}

/// The blobs known to hold a layer, the manifest's own first.
fn candidates(store: &Store, layer: &ImageLayer) -> Result<Vec<LayerBlob>, ImageError> {
    let mut found: Vec<_> = layer.blob.clone().into_iter().collect();
    for blob in store.layer_info(&layer.diff_id)?.blobs {
        let media_type = match blob.compression {
            rrun_store::Compression::Gzip => media::OCI_LAYER_GZIP,
            rrun_store::Compression::Zstd => media::OCI_LAYER_ZSTD,
            // An uncompressed layer is better sent compressed.
            rrun_store::Compression::None | rrun_store::Compression::Auto => continue,
        };
        if found.iter().all(|known| known.digest != blob.digest) {
            found.push(LayerBlob {
                digest: blob.digest,
                size: blob.size,
                media_type: media_type.to_owned(),
            });
        }
    }
    Ok(found)
}

/// A kept blob, or the layer compressed now.
fn prepare(
    store: &Store,
    layer: &ImageLayer,
    candidates: &[LayerBlob],
) -> Result<(LayerBlob, Upload<'static>), ImageError> {
    for blob in candidates {
        if let Some(file) = store.open_blob(&blob.digest)? {
            return Ok((blob.clone(), Upload::File(file)));
        }
    }
    let tar = store.layer_tar(&layer.diff_id)?;
    let mut stream = Hashed {
        inner: GzEncoder::new(tar, Compression::fast()),
        hasher: Sha256::new(),
        size: 0,
    };
    let name = format!("layer {}", layer.diff_id);
    let file = spool(&mut stream, &name, &store.root().join("tmp"))?;
    let blob = LayerBlob {
        digest: Digest::from_bytes(stream.hasher.finalize().into()),
        size: stream.size,
        media_type: media::OCI_LAYER_GZIP.to_owned(),
    };
    Ok((blob, Upload::File(file)))
}

/// Hashes and counts what is read through it.
struct Hashed<R> {
    inner: R,
    hasher: Sha256,
    size: u64,
}

impl<R: Read> Read for Hashed<R> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let count = self.inner.read(buf)?;
        self.hasher.update(&buf[..count]);
        self.size += count as u64;
        Ok(count)
    }
}

/// Tells how much was read through it.
struct Counted<'a> {
    inner: &'a mut dyn Read,
    done: u64,
    told: u64,
    news: &'a dyn Fn(u64),
}

impl Read for Counted<'_> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let count = self.inner.read(buf)?;
        self.done += count as u64;
        if self.done >= self.told + NEWS_BYTES {
            self.told = self.done;
            (self.news)(self.done);
        }
        Ok(count)
    }
}

/// Another repository of the same registry that has the image's blobs.
fn mount_source(image: &ImageRef, record: &ImageRecord) -> Option<String> {
    let others = record.repo_digests.iter();
    others
        .filter_map(|text| text.parse::<ImageRef>().ok())
        .find(|other| other.domain() == image.domain() && other.path() != image.path())
        .map(|other| other.path().to_owned())
}

/// Asks the registry to take a blob over from another of its repositories.
fn mount(connection: &Connection, digest: Digest, from: &str) -> Result<bool, ImageError> {
    let wanted = encode(&digest.to_string());
    let rest = format!("blobs/uploads/?mount={wanted}&from={}", encode(from));
    let url = connection.url(&rest);
    let ask = Ask {
        method: Method::POST,
        url: url.clone(),
        accept: None,
        headers: Vec::new(),
        payload: Payload::Bytes(b""),
    };
    let response = connection.send(&ask)?;
    if response.status() != StatusCode::ACCEPTED {
        return Ok(response.status() == StatusCode::CREATED);
    }
    // It opened an upload instead, which is not wanted here: the answer does not matter.
    if let Some(location) = location_of(&response, &url) {
        let mut cancel = Ask::get(location);
        cancel.method = Method::DELETE;
        drop(connection.send(&cancel));
    }
    Ok(false)
}

fn exists(connection: &Connection, digest: Digest) -> Result<bool, ImageError> {
    let url = connection.url(&format!("blobs/{digest}"));
    let mut ask = Ask::get(url.clone());
    ask.method = Method::HEAD;
    let response = connection.send(&ask)?;
    match response.status() {
        StatusCode::OK => Ok(true),
        StatusCode::NOT_FOUND => Ok(false),
        _ => Err(connection.refusal(&url, response)),
    }
}

/// Sends one blob; when the connection breaks it starts anew, a bounded number of times.
fn upload(
    connection: &Connection,
    digest: Digest,
    size: u64,
    source: &mut Upload<'_>,
    news: &dyn Fn(u64),
) -> Result<(), ImageError> {
    let mut attempt = 1;
    loop {
        let result = upload_once(connection, digest, size, source, news);
        let passing = match &result {
            Err(ImageError::Network { .. }) => true,
            Err(ImageError::Registry { status, .. }) => *status >= 500,
            Ok(()) | Err(_) => false,
        };
        if !passing || attempt >= ATTEMPTS_MAX {
            return result;
        }
        std::thread::sleep(backoff(attempt));
        attempt += 1;
    }
}

fn upload_once(
    connection: &Connection,
    digest: Digest,
    size: u64,
    source: &mut Upload<'_>,
    news: &dyn Fn(u64),
) -> Result<(), ImageError> {
    let url = connection.url("blobs/uploads/");
    let ask = Ask {
        method: Method::POST,
        url: url.clone(),
        accept: None,
        headers: Vec::new(),
        payload: Payload::Bytes(b""),
    };
    let response = connection.send(&ask)?;
    if response.status() != StatusCode::ACCEPTED {
        return Err(connection.refusal(&url, response));
    }
    let Some(location) = location_of(&response, &url) else {
        return Err(ImageError::Registry {
            url,
            status: response.status().as_u16(),
            message: "no Location for the upload".to_owned(),
        });
    };
    let join = if location.contains('?') { '&' } else { '?' };
    let target = format!("{location}{join}digest={}", encode(&digest.to_string()));
    let headers = [
        ("content-type", "application/octet-stream".to_owned()),
        (header::CONTENT_LENGTH.as_str(), size.to_string()),
    ];
    let mut send = || {
        let mut slice;
        let inner: &mut dyn Read = match source {
            Upload::Bytes(bytes) => {
                slice = *bytes;
                &mut slice
            }
            Upload::File(file) => {
                file.seek(SeekFrom::Start(0))
                    .at("read", "the blob to upload")?;
                file
            }
        };
        let mut body = Counted {
            inner,
            done: 0,
            told: 0,
            news,
        };
        connection.send_stream(&Method::PUT, &target, &headers, &mut body)
    };
    let mut response = send()?;
    if response.status() == StatusCode::UNAUTHORIZED
        && let Some(challenge) = challenge_of(&response)
    {
        // The token ran out during a long upload.
        connection.authorize(&challenge)?;
        response = send()?;
    }
    if response.status().is_success() {
        return Ok(());
    }
    Err(connection.refusal(&target, response))
}
