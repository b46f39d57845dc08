//! Pulling an image.

use std::io::Read;
use std::path::PathBuf;
use std::time::{SystemTime, UNIX_EPOCH};

use rrun_core::{DEFAULT_TAG, Digest, ImageRef, Time};
use rrun_store::{ImageLayer, ImageRecord, LayerBlob, Store, StoreError};
use ureq::http::{Method, StatusCode, header};

use crate::layers::{Wanted, bring};
use crate::registry::blob::BlobReader;
use crate::registry::conf::Endpoint;
use crate::registry::http::{Ask, Connection, Intent, Payload, read_body};
use crate::registry::{Credentials, RegistriesConf};
use crate::spec::{DOCUMENT_BYTES_MAX, digest_of};
use crate::{
    Arch, Descriptor, Event, ImageConfig, ImageError, Manifest, ManifestKind, Progress, media,
};

/// Levels of indexes inside indexes that are followed: images use one.
const INDEX_DEPTH_MAX: u32 = 3;

/// How registries are spoken with.
#[derive(Debug, Clone)]
pub struct Registry {
    /// Mirrors and exceptions.
    pub conf: RegistriesConf,
    /// Files to look for credentials in, in order.
    pub credential_files: Vec<PathBuf>,
    /// Credentials that come before those in files.
    pub credentials: Option<Credentials>,
    /// The machine to choose images for.
    pub arch: Arch,
    /// `User-Agent` of requests.
    pub user_agent: String,
}

impl Default for Registry {
    fn default() -> Self {
        Self {
            conf: RegistriesConf::default(),
            credential_files: Vec::new(),
            credentials: None,
            arch: Arch::native(),
            user_agent: concat!("rrun/", env!("CARGO_PKG_VERSION")).to_owned(),
        }
    }
}

/// Whether a pull changed anything.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PullStatus {
    /// The name leads to another image than before.
    Downloaded,
    /// It leads where it led.
    UpToDate,
}

/// What a pull brought.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pulled {
    /// The name, with the tag that was used.
    pub image: ImageRef,
    /// The image id.
    pub id: Digest,
    /// The digest of the manifest or index the registry served.
    pub digest: Digest,
    /// Whether it is new.
    pub status: PullStatus,
}

/// Bytes of a manifest or index with what the server called them.
#[derive(Debug)]
struct Document {
    bytes: Vec<u8>,
    content_type: String,
    digest: Digest,
}

/// A manifest chosen for this machine, with the index it was chosen from.
#[derive(Debug)]
struct Chosen {
    top: Document,
    bytes: Vec<u8>,
    digest: Digest,
    media_type: String,
    manifest: Manifest,
}

impl Registry {
    pub(crate) fn intent(
        &self,
        image: &ImageRef,
        actions: &'static str,
    ) -> Result<Intent<'_>, ImageError> {
        let credentials = match &self.credentials {
            Some(given) => Some(given.clone()),
            None => Credentials::find(&self.credential_files, image)?,
        };
        Ok(Intent {
            user_agent: &self.user_agent,
            display: image.to_string(),
            actions,
            credentials,
        })
    }

    /// Fetches an image and gives it its name in the store.
    ///
    /// Layers that are here are not fetched again. The name is set last; a pull that fails or
    /// is killed leaves at most layers that `gc` removes.
    ///
    /// # Errors
    ///
    /// `Denied`, `ManifestUnknown`, `Registry`, `Network` for what the registry answers;
    /// `MediaType`, `Platform`, `Malformed`, `DigestMismatch`, `Layer` for what it serves.
    pub fn pull(
        &self,
        store: &Store,
        image: &ImageRef,
        progress: &dyn Progress,
    ) -> Result<Pulled, ImageError> {
        if image.is_name_only() {
            progress.event(&Event::DefaultTag(DEFAULT_TAG));
        }
        let image = image.clone().or_latest();
        progress.event(&Event::Pulling(&image));
        let (connection, chosen) = self.find(&image, progress)?;
        let config = fetch_config(&connection, &chosen.manifest, progress)?;
        check_counts(&chosen.manifest, &config)?;
        let wanted = wanted_layers(&chosen.manifest, &config)?;
        bring(store, wanted, progress, |layer: &Wanted<Descriptor>| {
            let digest = layer.source.parsed()?;
            BlobReader::open(&connection, digest, layer.source.size, progress)
        })?;
        self.record(store, &image, &chosen, &config, progress)
    }

    /// Tries each place that may have the image.
    fn find(
        &self,
        image: &ImageRef,
        progress: &dyn Progress,
    ) -> Result<(Connection, Chosen), ImageError> {
        let intent = self.intent(image, "pull")?;
        let mut last = None;
        for endpoint in self.conf.endpoints(image)? {
            match self.find_at(&endpoint, &intent, image) {
                Ok(found) => return Ok(found),
                Err(error) if endpoint.mirror => {
                    let note = format!("mirror {} passed over: {error}", endpoint.host);
                    progress.event(&Event::Note(&note));
                    last = Some(error);
                }
                Err(error) => return Err(error),
            }
        }
        Err(last.unwrap_or_else(|| ImageError::ManifestUnknown(image.to_string())))
    }

    fn find_at(
        &self,
        endpoint: &Endpoint,
        intent: &Intent<'_>,
        image: &ImageRef,
    ) -> Result<(Connection, Chosen), ImageError> {
        let mut intent = intent.clone();
        if endpoint.mirror {
            // The credentials are for the registry named in the image, not for its mirrors.
            let place = format!("{}/{}", endpoint.host, endpoint.path);
            intent.credentials = match place.parse() {
                Ok(mirror) => Credentials::find(&self.credential_files, &mirror)?,
                Err(_) => None,
            };
        }
        let connection = Connection::open(endpoint, &intent)?;
        let reference = match (image.digest(), image.tag()) {
            (Some(digest), _) => digest.to_string(),
            (None, tag) => tag.unwrap_or(DEFAULT_TAG).to_owned(),
        };
        let top = fetch_manifest(&connection, &reference)?;
        if let Some(expected) = image.digest() {
            check_digest(&format!("manifest of {image}"), expected, top.digest)?;
        }
        let chosen = self.choose(&connection, image, top)?;
        Ok((connection, chosen))
    }

    /// Follows indexes down to the manifest for this machine.
    fn choose(
        &self,
        connection: &Connection,
        image: &ImageRef,
        top: Document,
    ) -> Result<Chosen, ImageError> {
        let mut bytes = top.bytes.clone();
        let mut content_type = top.content_type.clone();
        let mut digest = top.digest;
        for _ in 0..=INDEX_DEPTH_MAX {
            let object = format!("manifest of {image}");
            match ManifestKind::parse(&bytes, &content_type, &object)? {
                ManifestKind::Image(manifest) => {
                    let media_type = if manifest.media_type.is_empty() {
                        media::OCI_MANIFEST.to_owned()
                    } else {
                        manifest.media_type.clone()
                    };
                    return Ok(Chosen {
                        top,
                        bytes,
                        digest,
                        media_type,
                        manifest,
                    });
                }
                ManifestKind::Index(index) => {
                    let entry = index
                        .select(&self.arch)
                        .ok_or_else(|| ImageError::Platform {
                            image: image.to_string(),
                            wanted: format!("linux/{}", self.arch.architecture),
                            available: index.platforms(),
                        })?;
                    let expected = entry.parsed()?;
                    let document = fetch_manifest(connection, &entry.digest)?;
                    check_digest(&object, expected, document.digest)?;
                    content_type.clone_from(&entry.media_type);
                    digest = document.digest;
                    bytes = document.bytes;
                }
            }
        }
        Err(ImageError::malformed(
            format!("manifest of {image}"),
            "too many indexes inside indexes",
        ))
    }

    fn record(
        &self,
        store: &Store,
        image: &ImageRef,
        chosen: &Chosen,
        config: &ImageConfig,
        progress: &dyn Progress,
    ) -> Result<Pulled, ImageError> {
        let (os, arch) = (config.text("os"), config.text("architecture"));
        if !arch.is_empty() && (arch != self.arch.architecture || os != "linux") {
            let wanted = &self.arch.architecture;
            let note = format!(
                "the image is for {os}/{arch}, which does not match this host (linux/{wanted})"
            );
            progress.event(&Event::Note(&note));
        }
        store.put_blob(&chosen.bytes, Some(&chosen.digest))?;
        let mut extra_blobs = Vec::new();
        if chosen.top.digest != chosen.digest {
            extra_blobs.push(store.put_blob(&chosen.top.bytes, Some(&chosen.top.digest))?);
        }
        let id = store.put_blob(&config.bytes, None)?;
        let name = match image.digest() {
            Some(digest) => image.at_digest(digest).canonical(),
            None => image.canonical(),
        };
        let before = match store.resolve(&name) {
            Ok(found) => Some(found.image),
            Err(StoreError::ImageUnknown(_)) => None,
            Err(other) => return Err(other.into()),
        };
        let repo_digest = format!("{}@{}", image.name(), chosen.top.digest);
        let same = before.as_ref().filter(|before| before.config == id);
        let status = match same {
            Some(before) if before.repo_digests.contains(&repo_digest) => PullStatus::UpToDate,
            Some(_) | None => PullStatus::Downloaded,
        };
        let mut repo_digests = same.map_or_else(Vec::new, |before| before.repo_digests.clone());
        if !repo_digests.contains(&repo_digest) {
            repo_digests.push(repo_digest);
        }
        let record = ImageRecord {
            config: id,
            manifest: Some(chosen.digest),
            manifest_media_type: chosen.media_type.clone(),
            extra_blobs,
            layers: record_layers(&chosen.manifest, config)?,
            repo_digests,
            tagged: now(),
        };
        store.set_ref(&name, &record)?;
        progress.event(&Event::Digest(chosen.top.digest));
        Ok(Pulled {
            image: image.clone(),
            id,
            digest: chosen.top.digest,
            status,
        })
    }

    /// The tags of a repository, all pages.
    ///
    /// # Errors
    ///
    /// As [`Registry::pull`].
    pub fn tags(&self, image: &ImageRef) -> Result<Vec<String>, ImageError> {
        let endpoints = self.conf.endpoints(image)?;
        let Some(endpoint) = endpoints.last() else {
            return Ok(Vec::new());
        };
        let connection = Connection::open(endpoint, &self.intent(image, "pull")?)?;
        let mut url = connection.url("tags/list?n=1000");
        let mut tags = Vec::new();
        for _ in 0..TAG_PAGES_MAX {
            let mut response = connection.send(&Ask::get(url.clone()))?;
            if response.status() != StatusCode::OK {
                return Err(connection.refusal(&url, response));
            }
            let bytes = read_body(&mut response, DOCUMENT_BYTES_MAX, &url)?;
            let page: serde_json::Value = serde_json::from_slice(&bytes)
                .map_err(|error| ImageError::malformed("tag list", error))?;
            let list = page.get("tags").and_then(serde_json::Value::as_array);
            for tag in list.into_iter().flatten() {
                tags.extend(tag.as_str().map(str::to_owned));
            }
            match super::http::next_page(&response, &url) {
                Some(next) if super::url::same_origin(&next, &url) => url = next,
                Some(_) | None => break,
            }
        }
        Ok(tags)
    }
}

/// Pages of a list that are read: a million tags.
const TAG_PAGES_MAX: usize = 1000;

fn fetch_manifest(connection: &Connection, reference: &str) -> Result<Document, ImageError> {
    let url = connection.url(&format!("manifests/{reference}"));
    let ask = Ask {
        method: Method::GET,
        url: url.clone(),
        accept: Some(media::ACCEPT_MANIFESTS),
        headers: Vec::new(),
        payload: Payload::None,
    };
    let mut response = connection.send(&ask)?;
    if response.status() != StatusCode::OK {
        return Err(connection.refusal(&url, response));
    }
    let content_type = response
        .headers()
        .get(header::CONTENT_TYPE)
        .and_then(|value| value.to_str().ok())
        .unwrap_or("")
        .to_owned();
    let bytes = read_body(&mut response, DOCUMENT_BYTES_MAX, &url)?;
    let digest = digest_of(&bytes);
    Ok(Document {
        bytes,
        content_type,
        digest,
    })
}

fn fetch_config(
    connection: &Connection,
    manifest: &Manifest,
    progress: &dyn Progress,
) -> Result<ImageConfig, ImageError> {
    let descriptor = &manifest.config;
    let digest = descriptor.parsed()?;
    let object = format!("image configuration {digest}");
    if descriptor.size > DOCUMENT_BYTES_MAX {
        return Err(ImageError::TooBig {
            object,
            limit_bytes: DOCUMENT_BYTES_MAX,
        });
    }
    let mut bytes = Vec::new();
    BlobReader::open(connection, digest, descriptor.size, progress)?
        .read_to_end(&mut bytes)
        .map_err(|error| ImageError::Network {
            url: object.clone(),
            reason: error.to_string(),
        })?;
    check_digest(&object, digest, digest_of(&bytes))?;
    ImageConfig::parse(bytes)
}

fn check_digest(object: &str, expected: Digest, found: Digest) -> Result<(), ImageError> {
    if expected == found {
        return Ok(());
    }
    Err(ImageError::DigestMismatch {
        object: object.to_owned(),
        expected,
        found,
    })
}

/// Every layer needs its diffID.
pub(crate) fn check_counts(manifest: &Manifest, config: &ImageConfig) -> Result<(), ImageError> {
    let (layers, diff_ids) = (manifest.layers.len(), config.diff_ids.len());
    if layers == diff_ids {
        return Ok(());
    }
    Err(ImageError::malformed(
        format!("image {}", config.id()),
        format!("its manifest has {layers} layers, its configuration {diff_ids} diff_ids"),
    ))
}

/// The layers of a manifest as jobs.
pub(crate) fn wanted_layers(
    manifest: &Manifest,
    config: &ImageConfig,
) -> Result<Vec<Wanted<Descriptor>>, ImageError> {
    let pairs = manifest.layers.iter().zip(&config.diff_ids);
    pairs
        .map(|(descriptor, diff_id)| {
            let blob = descriptor.parsed()?;
            Ok(Wanted {
                shown: blob,
                diff_id: *diff_id,
                blob: Some(blob),
                size: Some(descriptor.size),
                source: descriptor.clone(),
            })
        })
        .collect()
}

/// The layers of a manifest as the store records them.
pub(crate) fn record_layers(
    manifest: &Manifest,
    config: &ImageConfig,
) -> Result<Vec<ImageLayer>, ImageError> {
    let pairs = manifest.layers.iter().zip(&config.diff_ids);
    pairs
        .map(|(descriptor, diff_id)| {
            Ok(ImageLayer {
                diff_id: *diff_id,
                blob: Some(LayerBlob {
                    digest: descriptor.parsed()?,
                    size: descriptor.size,
                    media_type: descriptor.media_type.clone(),
                }),
            })
        })
        .collect()
}

/// The current time.
pub(crate) fn now() -> Time {
    let since = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    Time {
        secs: i64::try_from(since.as_secs()).unwrap_or(i64::MAX),
        nanos: since.subsec_nanos(),
    }
}
