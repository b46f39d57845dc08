//! Objects of a layer in the making.

use std::collections::HashSet;
use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};

use rrun_core::Digest;

use crate::Store;
use crate::error::{At, StoreError};
use crate::store::{create_new, digest_of, make_dir, rename_new};

/// The objects a layer needs, each as a file in the layer's temporary directory: written there,
/// or linked from the store so that `gc` cannot take it away meanwhile.
#[derive(Debug)]
pub(super) struct Objects<'a> {
    store: &'a Store,
    dir: PathBuf,
    have: HashSet<Digest>,
}

impl<'a> Objects<'a> {
    pub(super) fn new(store: &'a Store, dir: &Path) -> Self {
        Self {
            store,
            dir: dir.join("o"),
            have: HashSet::new(),
        }
    }

    pub(super) fn into_digests(self) -> Vec<Digest> {
        self.have.into_iter().collect()
    }

    /// Takes contents that are in memory.
    pub(super) fn put(&mut self, bytes: &[u8]) -> Result<Digest, StoreError> {
        let digest = digest_of(bytes);
        if self.have.contains(&digest) || self.link(&digest, bytes.len() as u64) {
            self.have.insert(digest);
            return Ok(digest);
        }
        let path = self.dir.join(digest.hex());
        create_new(&path)?.write_all(bytes).at("write", &path)?;
        self.have.insert(digest);
        Ok(digest)
    }

    /// A file to write contents to, for [`Objects::put_file`].
    pub(super) fn create(&self) -> Result<(PathBuf, File), StoreError> {
        let path = self.store.temp_path("object")?;
        let file = create_new(&path)?;
        Ok((path, file))
    }

    /// Takes contents that were written to a file.
    pub(super) fn put_file(
        &mut self,
        path: &Path,
        digest: &Digest,
        size: u64,
    ) -> Result<(), StoreError> {
        if self.have.contains(digest) || self.link(digest, size) {
            fs::remove_file(path).at("remove", path)?;
        } else {
            fs::rename(path, self.dir.join(digest.hex())).at("rename", path)?;
        }
        self.have.insert(*digest);
        Ok(())
    }

    /// Links the store's object, if there is a sound one.
    fn link(&self, digest: &Digest, size: u64) -> bool {
        let path = self.store.object_path(digest);
        // A wrong length is damage that needs no hashing to see; our copy then replaces it.
        let sound = fs::symlink_metadata(&path).is_ok_and(|meta| meta.len() == size);
        // Too many links to one inode, or none at all on this file system: write another.
        sound && fs::hard_link(&path, self.dir.join(digest.hex())).is_ok()
    }
}

/// Moves the objects of a layer to their places; the shared lock is held.
pub(super) fn publish(store: &Store, dir: &Path, objects: &[Digest]) -> Result<(), StoreError> {
    for digest in objects {
        let from = dir.join(digest.hex());
        let to = store.object_path(digest);
        match place(&from, &to) {
            Err(StoreError::Io { source, .. }) if source.kind() == std::io::ErrorKind::NotFound => {
                if let Some(parent) = to.parent() {
                    make_dir(parent)?;
                }
                place(&from, &to)?;
            }
            other => other?,
        }
    }
    Ok(())
}

fn place(from: &Path, to: &Path) -> Result<(), StoreError> {
    if rename_new(from, to)? {
        return Ok(());
    }
    let same_len = match (fs::symlink_metadata(from), fs::symlink_metadata(to)) {
        (Ok(new), Ok(old)) => new.len() == old.len(),
        (Ok(_) | Err(_), Err(_)) | (Err(_), Ok(_)) => true,
    };
    if same_len {
        Ok(())
    } else {
        fs::rename(from, to).at("replace", to)
    }
}
