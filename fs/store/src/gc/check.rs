//! Proving everything in the store again.

use std::collections::HashSet;
use std::fs::{self, File};
use std::io::{self, Read};
use std::path::Path;

use rrun_core::Digest;
use sha2::{Digest as _, Sha256};

use super::{named, tree_bytes};
use crate::base::{View, verify};
use crate::error::{At, StoreError};
use crate::layer::EntryKind;
use crate::store::finish;
use crate::sys;
use crate::{CheckReport, Repair, Store};

/// Bytes hashed at a time.
const STEP: usize = 256 << 10;

struct Checker<'a> {
    store: &'a Store,
    repair: Repair,
    report: CheckReport,
}

impl Store {
    /// Hashes everything again.
    ///
    /// # Errors
    ///
    /// `Io` when the store cannot be read at all.
    pub fn check(&self, repair: Repair) -> Result<CheckReport, StoreError> {
        let _lock = match repair {
            Repair::Yes => self.lock_exclusive()?,
            Repair::No => self.lock_shared()?,
        };
        let mut checker = Checker {
            store: self,
            repair,
            report: CheckReport::default(),
        };
        let sound = checker.objects()?;
        checker.blobs()?;
        checker.layers(&sound)?;
        checker.bases()?;
        checker.references()?;
        Ok(checker.report)
    }
}

impl Checker<'_> {
    /// Hashes every object; returns those that are sound.
    fn objects(&mut self) -> Result<HashSet<Digest>, StoreError> {
        let mut sound = HashSet::new();
        for (id, path) in self.store.object_files()? {
            if self.hash(&path)? == id {
                sound.insert(id);
            } else {
                self.bad(&path, &format!("object {id} has other contents"))?;
            }
        }
        Ok(sound)
    }

    fn blobs(&mut self) -> Result<(), StoreError> {
        for (id, path) in named(&self.store.dir("blobs"))? {
            if self.hash(&path)? != id {
                self.bad(&path, &format!("blob {id} has other contents"))?;
            }
        }
        Ok(())
    }

    fn layers(&mut self, sound: &HashSet<Digest>) -> Result<(), StoreError> {
        for (id, path) in named(&self.store.dir("layers"))? {
            self.report.checked += 1;
            self.report.bytes += tree_bytes(&path)?;
            if let Some(problem) = self.layer_problem(&id, sound) {
                self.bad(&path, &format!("layer {id}: {problem}"))?;
                self.report.broken_layers.push(id);
            }
        }
        Ok(())
    }

    /// What is wrong with a layer: its files, its objects, or the tar they make.
    fn layer_problem(&self, id: &Digest, sound: &HashSet<Digest>) -> Option<String> {
        let index = match self.store.layer(id) {
            Ok(index) => index,
            Err(error) => return Some(error.to_string()),
        };
        for entry in index.entries() {
            match entry {
                Ok(entry) => {
                    if let EntryKind::Object { digest, .. } = entry.kind
                        && !sound.contains(&digest)
                    {
                        return Some(format!("object {digest} is missing or bad"));
                    }
                }
                Err(error) => return Some(error.to_string()),
            }
        }
        if let Err(error) = self.store.layer_info(id) {
            return Some(error.to_string());
        }
        let mut hasher = Sha256::new();
        let read = match self.store.layer_tar(id) {
            Ok(mut tar) => copy(&mut tar, &mut hasher).map_err(|error| error.to_string()),
            Err(error) => Err(error.to_string()),
        };
        match read {
            Err(problem) => Some(problem),
            Ok(_) if finish(hasher) != *id => Some("its tar has another digest".to_owned()),
            Ok(_) => None,
        }
    }

    fn bases(&mut self) -> Result<(), StoreError> {
        for (id, path) in named(&self.store.dir("bases"))? {
            self.report.checked += 1;
            let file = File::open(&path).at("open", &path)?;
            let sound = sys::map_file(&file).is_ok_and(|map| {
                self.report.bytes += map.len() as u64;
                View::new(&map, &id).is_ok() && verify(&map)
            });
            if !sound {
                self.bad(&path, &format!("base {id} is damaged"))?;
            }
        }
        Ok(())
    }

    /// Names must lead to things that are there.
    fn references(&mut self) -> Result<(), StoreError> {
        for named in self.store.refs()? {
            let name = named.name.unwrap_or_else(|| named.image.config.to_string());
            for layer in &named.image.layers {
                if !self.store.has_layer(&layer.diff_id)? {
                    let problem = format!("image {name} lacks layer {}", layer.diff_id);
                    self.report.problems.push(problem);
                    if !self.report.broken_layers.contains(&layer.diff_id) {
                        self.report.broken_layers.push(layer.diff_id);
                    }
                }
            }
            let blobs = named.image.manifest.iter().chain([&named.image.config]);
            for blob in blobs.chain(&named.image.extra_blobs) {
                if !self.store.has_blob(blob)? {
                    self.report
                        .problems
                        .push(format!("image {name} lacks blob {blob}"));
                }
            }
        }
        Ok(())
    }

    fn hash(&mut self, path: &Path) -> Result<Digest, StoreError> {
        let mut file = File::open(path).at("open", path)?;
        let mut hasher = Sha256::new();
        self.report.checked += 1;
        // What cannot be read is as bad as what reads wrong.
        self.report.bytes += copy(&mut file, &mut hasher).unwrap_or_default();
        Ok(finish(hasher))
    }

    /// Reports a bad file or directory and moves it away when that was asked for.
    fn bad(&mut self, path: &Path, problem: &str) -> Result<(), StoreError> {
        self.report.problems.push(problem.to_owned());
        match self.repair {
            Repair::No => Ok(()),
            Repair::Yes => {
                let name = path.file_name().unwrap_or_default().to_string_lossy();
                let temp = self.store.temp_path("bad")?;
                let unique = temp
                    .iter()
                    .rev()
                    .nth(1)
                    .unwrap_or_default()
                    .to_string_lossy();
                let number = self.report.problems.len();
                let to = self
                    .store
                    .dir("quarantine")
                    .join(format!("{name}.{unique}.{number}"));
                fs::rename(path, &to).at("move to quarantine", path)
            }
        }
    }
}

fn copy(reader: &mut dyn Read, hasher: &mut Sha256) -> io::Result<u64> {
    let mut buffer = vec![0; STEP];
    let mut total = 0;
    loop {
        match reader.read(&mut buffer) {
            Ok(0) => return Ok(total),
            Ok(count) => {
                hasher.update(&buffer[..count]);
                total += count as u64;
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}
