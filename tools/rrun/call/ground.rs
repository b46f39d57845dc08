//! What a container's file system is made of, and opening it.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use rrun_core::{Digest, Lower};
use rrun_runner::{ContainerConfig, IdMap};
use rrun_store::{Lease, Store, chain_id};
use rrun_union::{DirLayers, IdStore, IdView, IdWindow, Options, Union, Writer, XattrDialect};
use serde_json::{Value, json};

use super::create::CONTAINERENV;
use super::init_layer::InitLayer;
use super::within::overlay;
use crate::failure::Failure;

/// Where [`Ground`] is kept in a container's configuration.
const KEY: &str = "ground";

/// The read-only tree a container stands on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Ground {
    /// Layers of an image, lowest first, in the store at this place.
    Layers {
        store: PathBuf,
        diff_ids: Vec<Digest>,
    },
    /// A directory of the host.
    Directory(PathBuf),
}

impl Ground {
    /// Writes it into a container's configuration.
    pub(crate) fn put(&self, config: &mut ContainerConfig) {
        let value = match self {
            Self::Layers { store, diff_ids } => json!({
                "store": store,
                "layers": diff_ids.iter().map(ToString::to_string).collect::<Vec<_>>(),
            }),
            Self::Directory(path) => json!({"directory": path}),
        };
        config.extra.insert(KEY.to_owned(), value);
    }

    /// Reads it from a container's configuration.
    pub(crate) fn of(config: &ContainerConfig) -> Result<Self, Failure> {
        let broken = || {
            Failure::general(format!(
                "the configuration of container {} does not say what it stands on",
                config.id
            ))
        };
        let value = config.extra.get(KEY).ok_or_else(broken)?;
        if let Some(path) = value.get("directory").and_then(Value::as_str) {
            return Ok(Self::Directory(PathBuf::from(path)));
        }
        let store = value
            .get("store")
            .and_then(Value::as_str)
            .ok_or_else(broken)?;
        let layers = value
            .get("layers")
            .and_then(Value::as_array)
            .ok_or_else(broken)?;
        let diff_ids = layers
            .iter()
            .map(|layer| {
                layer
                    .as_str()
                    .and_then(|text| text.parse().ok())
                    .ok_or_else(broken)
            })
            .collect::<Result<_, _>>()?;
        Ok(Self::Layers {
            store: PathBuf::from(store),
            diff_ids,
        })
    }

    /// The chain that a collection must spare; `None` for a directory.
    pub(crate) fn chain(&self) -> Option<Digest> {
        match self {
            Self::Layers { diff_ids, .. } => Some(chain_id(diff_ids)),
            Self::Directory(_) => None,
        }
    }

    /// Opens the tree, and takes the lease that keeps its layers.
    pub(crate) fn open(&self) -> Result<(Arc<dyn Lower>, Option<Lease>), Failure> {
        match self {
            Self::Layers { store, diff_ids } => {
                let store = Store::open(store)?;
                let lease = store.lease(&[chain_id(diff_ids)])?;
                Ok((Arc::new(store.base(diff_ids)?), Some(lease)))
            }
            Self::Directory(path) => {
                let layers = DirLayers::open(std::slice::from_ref(path), false)?;
                Ok((Arc::new(layers), None))
            }
        }
    }
}

/// Which ids a container has.
fn view(map: &IdMap) -> IdView {
    let windows = |ranges: &[rrun_runner::subid::IdRange]| {
        let count = ranges
            .iter()
            .fold(1_u32, |sum, range| sum.saturating_add(range.count));
        vec![IdWindow { start: 0, count }]
    };
    match map {
        IdMap::Root => IdView::True,
        IdMap::Squash => IdView::Squash { uid: 0, gid: 0 },
        // A file of nobody could not be written by anybody inside.
        IdMap::Single { uid, gid } => IdView::Squash {
            uid: *uid,
            gid: *gid,
        },
        IdMap::Range { uids, gids } => IdView::Windows {
            uids: windows(uids),
            gids: windows(gids),
        },
    }
}

/// Opens a container's file system to serve it: the writable union, or what is below the kernel's
/// overlayfs where that takes the writes.
pub(crate) fn served(
    dir: &Path,
    config: &ContainerConfig,
) -> Result<(Arc<Union>, Option<Lease>), Failure> {
    let options = Options {
        view: view(&config.id_map),
        ..stored(config)
    };
    if overlay(config).is_some() {
        let options = Options {
            read_only: true,
            ..options
        };
        return open(None, config, options);
    }
    open(Some(dir), config, options)
}

/// Opens a container's file system to look at it, with the true owners of files.
pub(crate) fn read_only(
    dir: &Path,
    config: &ContainerConfig,
) -> Result<(Arc<Union>, Option<Lease>), Failure> {
    let options = Options {
        view: IdView::True,
        read_only: true,
        ..stored(config)
    };
    open(Some(dir), config, options)
}

/// Opens what a container stands on, without its own changes.
pub(crate) fn image(config: &ContainerConfig) -> Result<(Arc<Union>, Option<Lease>), Failure> {
    let options = Options {
        read_only: true,
        ..Options::default()
    };
    open(None, config, options)
}

/// How owners and marks are kept on disk: as the kernel's overlayfs does where we may.
fn stored(config: &ContainerConfig) -> Options {
    let kernel = overlay(config);
    let real = Options {
        ids: IdStore::Real,
        writer: if kernel.is_some() {
            Writer::Kernel
        } else {
            Writer::Union
        },
        ..Options::default()
    };
    match config.id_map {
        IdMap::Root => Options {
            xattrs: XattrDialect::Trusted,
            ..real
        },
        _ if kernel.is_some() => real,
        IdMap::Range { .. } | IdMap::Squash | IdMap::Single { .. } => Options::default(),
    }
}

/// What the container is told of itself; nothing but where it is privileged.
fn containerenv(config: &ContainerConfig) -> &str {
    let text = config.extra.get(CONTAINERENV).and_then(Value::as_str);
    text.unwrap_or_default()
}

fn open(
    dir: Option<&Path>,
    config: &ContainerConfig,
    options: Options,
) -> Result<(Arc<Union>, Option<Lease>), Failure> {
    let (tree, lease) = Ground::of(config)?.open()?;
    let lower = Arc::new(InitLayer::on(tree, containerenv(config))?);
    let upper = dir.map(|dir| (dir.join("upper"), dir.join("work")));
    let upper = upper.as_ref().map(|(upper, work)| (&**upper, &**work));
    let union = Union::open(lower, upper, options)?;
    Ok((Arc::new(union), lease))
}
