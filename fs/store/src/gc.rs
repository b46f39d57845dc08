//! Removing what nothing reaches, and proving what is there.

mod check;

use std::collections::HashSet;
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use rrun_core::Digest;

use crate::error::{At, StoreError};
use crate::layer::EntryKind;
use crate::store::{chain_id, clean_tmp, pins};
use crate::{GcReport, Store, Usage};

/// What must stay.
#[derive(Debug, Default)]
struct Reached {
    layers: HashSet<Digest>,
    bases: HashSet<Digest>,
    blobs: HashSet<Digest>,
    objects: HashSet<Digest>,
}

impl Store {
    /// Removes what no name, lease, open store or `extra_chains` (chainIDs of stopped
    /// containers) reaches.
    ///
    /// # Errors
    ///
    /// `Io`; `Corrupt` when a record cannot be read: then nothing is removed.
    pub fn gc(&self, extra_chains: &[Digest]) -> Result<GcReport, StoreError> {
        let _lock = self.lock_exclusive()?;
        // Dead processes pin nothing.
        clean_tmp(&self.dir("tmp"));
        let reached = self.reach(extra_chains)?;
        let mut report = GcReport::default();
        for (id, path) in named(&self.dir("bases"))? {
            if !reached.bases.contains(&id) {
                report.bases += 1;
                report.bytes += remove(&path)?;
            }
        }
        for (id, path) in named(&self.dir("layers"))? {
            if !reached.layers.contains(&id) {
                report.layers += 1;
                report.bytes += self.remove_layer(&path)?;
            }
        }
        for (id, path) in named(&self.dir("blobs"))? {
            if !reached.blobs.contains(&id) {
                report.blobs += 1;
                report.bytes += remove(&path)?;
            }
        }
        for (id, path) in self.object_files()? {
            if !reached.objects.contains(&id) {
                report.objects += 1;
                report.bytes += remove(&path)?;
            }
        }
        Ok(report)
    }

    fn reach(&self, extra_chains: &[Digest]) -> Result<Reached, StoreError> {
        let mut reached = Reached::default();
        for named in self.refs()? {
            let image = named.image;
            reached.blobs.insert(image.config);
            reached.blobs.extend(image.manifest);
            reached.blobs.extend(&image.extra_blobs);
            let diff_ids = image.diff_ids();
            reached.bases.insert(chain_id(&diff_ids));
            reached.layers.extend(&diff_ids);
            reached.blobs.extend(
                image
                    .layers
                    .iter()
                    .filter_map(|layer| layer.blob.as_ref())
                    .map(|blob| blob.digest),
            );
        }
        for chain in self.leased()?.iter().chain(extra_chains) {
            reached.bases.insert(*chain);
            if let Some(base) = self.open_base(chain)? {
                reached.layers.extend(base.layers());
            }
        }
        // A pin does not say what it is of.
        for id in pins(&self.dir("tmp"))? {
            reached.blobs.insert(id);
            reached.bases.insert(id);
            reached.layers.insert(id);
        }
        for id in &reached.layers {
            let layer = match self.layer(id) {
                Ok(layer) => layer,
                Err(StoreError::LayerMissing(_)) => continue,
                Err(error) => return Err(error),
            };
            for entry in layer.entries() {
                if let EntryKind::Object { digest, .. } = entry?.kind {
                    reached.objects.insert(digest);
                }
            }
            // Compressed forms that were kept live as long as their layer.
            reached
                .blobs
                .extend(self.layer_info(id)?.blobs.iter().map(|blob| blob.digest));
        }
        Ok(reached)
    }

    /// Moves a layer out of sight at once, then removes it.
    fn remove_layer(&self, path: &Path) -> Result<u64, StoreError> {
        let bytes = tree_bytes(path)?;
        let away = self.temp_path("gone")?;
        fs::rename(path, &away).at("remove", path)?;
        fs::remove_dir_all(&away).at("remove", &away)?;
        Ok(bytes)
    }

    /// Every object and where it is.
    fn object_files(&self) -> Result<Vec<(Digest, PathBuf)>, StoreError> {
        let dir = self.dir("objects");
        let mut found = Vec::new();
        for head in list(&dir)? {
            let Some(prefix) = head.file_name().and_then(|name| name.to_str()) else {
                continue;
            };
            for path in list(&head)? {
                let tail = path.file_name().and_then(|name| name.to_str());
                let hex = tail.map(|tail| format!("{prefix}{tail}"));
                if let Some(id) = hex.and_then(|hex| Digest::from_hex(&hex).ok()) {
                    found.push((id, path));
                }
            }
        }
        Ok(found)
    }

    /// Adds up the disk space taken.
    ///
    /// # Errors
    ///
    /// `Io`.
    pub fn usage(&self) -> Result<Usage, StoreError> {
        let mut usage = Usage::default();
        for (_, path) in self.object_files()? {
            usage.objects += 1;
            usage.object_bytes += file_bytes(&path)?;
        }
        for (_, path) in named(&self.dir("layers"))? {
            usage.layers += 1;
            usage.layer_bytes += tree_bytes(&path)?;
        }
        usage.base_bytes = tree_bytes(&self.dir("bases"))?;
        usage.blob_bytes = tree_bytes(&self.dir("blobs"))?;
        Ok(usage)
    }
}

fn list(dir: &Path) -> Result<Vec<PathBuf>, StoreError> {
    let mut paths = Vec::new();
    for entry in fs::read_dir(dir).at("list", dir)? {
        paths.push(entry.at("list", dir)?.path());
    }
    Ok(paths)
}

/// The files of a directory whose names are digests.
fn named(dir: &Path) -> Result<Vec<(Digest, PathBuf)>, StoreError> {
    let with_id = |path: PathBuf| {
        let id = Digest::from_hex(path.file_name()?.to_str()?).ok()?;
        Some((id, path))
    };
    Ok(list(dir)?.into_iter().filter_map(with_id).collect())
}

/// Bytes a file takes on disk; 0 when it went away.
fn file_bytes(path: &Path) -> Result<u64, StoreError> {
    match fs::symlink_metadata(path) {
        Ok(meta) => Ok(meta.blocks() * 512),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(0),
        Err(error) => Err(error).at("look at", path),
    }
}

/// Bytes that the files of one directory take on disk.
fn tree_bytes(dir: &Path) -> Result<u64, StoreError> {
    let mut total = 0;
    for path in list(dir)? {
        total += file_bytes(&path)?;
    }
    Ok(total)
}

fn remove(path: &Path) -> Result<u64, StoreError> {
    let bytes = file_bytes(path)?;
    fs::remove_file(path).at("remove", path)?;
    Ok(bytes)
}
