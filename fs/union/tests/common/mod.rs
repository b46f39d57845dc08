//! A lower tree of three layers on disk, and what it must look like when merged.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Once};

use rrun_core::{Device, FileType};
use rrun_union::{DirLayers, IdStore, Options, Union, UnionError, XattrDialect};
use rustix::fs::{self as rfs, AtFlags, CWD, Mode, Timespec, Timestamps, XattrFlags};

/// The time every lower file was changed last.
pub(crate) const LOWER_MTIME: i64 = 1_000_000_000;

/// What a model knows of a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Node {
    pub(crate) kind: FileType,
    pub(crate) perm: u32,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    /// Contents of a regular file, target of a symbolic link.
    pub(crate) data: Vec<u8>,
    pub(crate) rdev: Device,
    pub(crate) xattrs: BTreeMap<Vec<u8>, Vec<u8>>,
    /// Seconds, while known.
    pub(crate) mtime: Option<i64>,
    /// `st_ino`, once seen.
    pub(crate) ino: Option<u64>,
}

/// Paths without a leading slash (the root is empty) and the files they name.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Model {
    pub(crate) paths: BTreeMap<String, usize>,
    pub(crate) nodes: Vec<Node>,
}

pub(crate) fn join(dir: &str, name: &str) -> String {
    if dir.is_empty() {
        name.to_owned()
    } else {
        format!("{dir}/{name}")
    }
}

pub(crate) fn split(path: &str) -> (&str, &str) {
    path.rsplit_once('/').unwrap_or(("", path))
}

impl Model {
    pub(crate) fn node(&self, path: &str) -> &Node {
        &self.nodes[self.paths[path]]
    }

    pub(crate) fn node_mut(&mut self, path: &str) -> &mut Node {
        let id = self.paths[path];
        &mut self.nodes[id]
    }

    pub(crate) fn is_dir(&self, path: &str) -> bool {
        self.paths
            .get(path)
            .is_some_and(|id| self.nodes[*id].kind == FileType::Directory)
    }

    pub(crate) fn add(&mut self, path: &str, node: Node) {
        self.nodes.push(node);
        self.paths.insert(path.to_owned(), self.nodes.len() - 1);
    }

    pub(crate) fn below<'a>(&'a self, dir: &str) -> impl Iterator<Item = &'a String> {
        let prefix = if dir.is_empty() {
            String::new()
        } else {
            format!("{dir}/")
        };
        let dir = dir.to_owned();
        self.paths
            .keys()
            .filter(move |path| path.starts_with(&prefix) && **path != dir)
    }

    pub(crate) fn names(&self, dir: &str) -> BTreeSet<String> {
        self.below(dir)
            .filter(|path| split(path).0 == dir)
            .map(|path| split(path).1.to_owned())
            .collect()
    }

    pub(crate) fn remove_tree(&mut self, path: &str) {
        let gone: Vec<String> = self.below(path).cloned().collect();
        for path in gone {
            self.paths.remove(&path);
        }
        self.paths.remove(path);
    }

    pub(crate) fn links(&self, id: usize) -> usize {
        self.paths.values().filter(|other| **other == id).count()
    }
}

/// One entry of a layer.
enum Item {
    Dir(u32),
    File(u32, Vec<u8>),
    Link(&'static str),
    Symlink(&'static str),
    Fifo,
    Xattr(&'static str, &'static str),
    Owner(u32, u32),
    CharWhiteout,
    DotWhiteout,
    OpaqueXattr,
    OpaqueFile,
}

/// Contents without a short period, so that a block in the wrong place shows.
pub(crate) fn pattern(seed: u32, len: usize) -> Vec<u8> {
    (0_u32..)
        .map(|n| (n.wrapping_mul(2_654_435_761).rotate_left(9) ^ seed).to_le_bytes()[1])
        .take(len)
        .collect()
}

fn layers() -> Vec<Vec<(&'static str, Item)>> {
    use Item::*;
    vec![
        vec![
            ("a", Dir(0o755)),
            ("a/f", File(0o644, b"lowest f".to_vec())),
            ("a/gone", File(0o644, b"whited out above".to_vec())),
            ("a/gone2", File(0o600, b"the same by a dot file".to_vec())),
            ("a/sub", Dir(0o2775)),
            ("a/sub/deep", File(0o4755, pattern(1, 5000))),
            ("b", Dir(0o700)),
            ("b/hidden", File(0o644, b"hidden by opaque".to_vec())),
            ("big", File(0o644, pattern(2, 300_000))),
            ("c", Dir(0o755)),
            ("c/hidden2", File(0o644, b"hidden too".to_vec())),
            ("d", File(0o640, pattern(3, 20_000))),
            ("link", Symlink("a/f")),
        ],
        vec![
            ("a", Dir(0o755)),
            ("a/gone", CharWhiteout),
            ("a/e", Dir(0o755)),
            ("a/e/x", File(0o644, b"x".to_vec())),
            ("b", Dir(0o711)),
            ("b", OpaqueXattr),
            ("b/c", File(0o666, b"middle".to_vec())),
            ("h1", File(0o644, b"two names".to_vec())),
            ("a/h2", Link("h1")),
        ],
        vec![
            ("a", Dir(0o751)),
            ("a", Xattr("user.one", "top")),
            ("a/f", File(0o755, b"topmost f".to_vec())),
            ("a/f", Owner(1000, 1001)),
            ("a/f", Xattr("user.one", "1")),
            ("a/gone2", DotWhiteout),
            ("c", Dir(0o755)),
            ("c", OpaqueFile),
            ("c/pipe", Fifo),
            ("c/a", File(0o644, Vec::new())),
            ("e", Dir(0o1777)),
        ],
    ]
}

pub(crate) fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// Modes are written as asked for: the mask of the process must not get in the way.
pub(crate) fn no_umask() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let _old = rustix::process::umask(Mode::empty());
    });
}

fn make(root: &Path, path: &str, item: &Item) {
    let full = root.join(path);
    match item {
        Item::Dir(perm) => {
            if !full.is_dir() {
                fs::create_dir(&full).unwrap();
            }
            fs::set_permissions(&full, fs::Permissions::from_mode(*perm)).unwrap();
        }
        Item::File(perm, data) => {
            fs::write(&full, data).unwrap();
            fs::set_permissions(&full, fs::Permissions::from_mode(*perm)).unwrap();
        }
        Item::Link(to) => fs::hard_link(root.join(to), &full).unwrap(),
        Item::Symlink(to) => std::os::unix::fs::symlink(to, &full).unwrap(),
        Item::Fifo => rfs::mknodat(CWD, &full, rfs::FileType::Fifo, Mode::RWXU, 0).unwrap(),
        Item::Xattr(name, value) => {
            rfs::setxattr(&full, *name, value.as_bytes(), XattrFlags::empty()).unwrap();
        }
        Item::Owner(uid, gid) => {
            if is_root() {
                let perm = full.metadata().unwrap().permissions();
                std::os::unix::fs::chown(&full, Some(*uid), Some(*gid)).unwrap();
                fs::set_permissions(&full, perm).unwrap();
            }
        }
        Item::CharWhiteout => {
            let kind = rfs::FileType::CharacterDevice;
            rfs::mknodat(CWD, &full, kind, Mode::empty(), 0).unwrap();
        }
        Item::DotWhiteout => {
            let (dir, name) = split(path);
            fs::write(root.join(join(dir, &format!(".wh.{name}"))), b"").unwrap();
        }
        Item::OpaqueXattr => {
            let name = "user.overlay.opaque";
            rfs::setxattr(&full, name, b"y", XattrFlags::empty()).unwrap();
        }
        Item::OpaqueFile => fs::write(full.join(".wh..wh..opq"), b"").unwrap(),
    }
}

fn merge(model: &mut Model, path: &str, item: &Item) {
    let me = (
        rustix::process::geteuid().as_raw(),
        rustix::process::getegid().as_raw(),
    );
    let node = |kind, perm, data: &[u8]| Node {
        kind,
        perm,
        uid: me.0,
        gid: me.1,
        data: data.to_vec(),
        rdev: Device::default(),
        xattrs: BTreeMap::new(),
        mtime: Some(LOWER_MTIME),
        ino: None,
    };
    match item {
        Item::Dir(perm) => {
            if model.is_dir(path) {
                model.node_mut(path).perm = *perm;
            } else {
                model.add(path, node(FileType::Directory, *perm, b""));
            }
        }
        Item::File(perm, data) => model.add(path, node(FileType::Regular, *perm, data)),
        Item::Link(to) => {
            let id = model.paths[*to];
            model.paths.insert(path.to_owned(), id);
        }
        Item::Symlink(to) => {
            model.add(path, node(FileType::Symlink, 0o777, to.as_bytes()));
        }
        Item::Fifo => model.add(path, node(FileType::Fifo, 0o700, b"")),
        Item::Xattr(name, value) => {
            let (name, value) = (name.as_bytes().to_vec(), value.as_bytes().to_vec());
            model.node_mut(path).xattrs.insert(name, value);
        }
        Item::Owner(uid, gid) => {
            if is_root() {
                let node = model.node_mut(path);
                (node.uid, node.gid) = (*uid, *gid);
            }
        }
        Item::CharWhiteout | Item::DotWhiteout => model.remove_tree(path),
        Item::OpaqueXattr | Item::OpaqueFile => {
            let below: Vec<String> = model.below(path).cloned().collect();
            for path in below {
                model.paths.remove(&path);
            }
        }
    }
}

/// A directory with the layers `l0` to `l2`, `upper` and `work`, and the merged model.
pub(crate) struct Fixture {
    pub(crate) dir: tempfile::TempDir,
    pub(crate) model: Model,
}

impl Fixture {
    pub(crate) fn new() -> Self {
        no_umask();
        let dir = tempfile::tempdir().unwrap();
        let mut model = Model::default();
        merge(&mut model, "", &Item::Dir(0o755));
        for (number, items) in layers().iter().enumerate() {
            let root = dir.path().join(format!("l{number}"));
            make(&root, "", &Item::Dir(0o755));
            // What a layer hides is hidden before what it adds is there.
            for pass in [true, false] {
                for (path, item) in items {
                    let hides = matches!(
                        item,
                        Item::CharWhiteout
                            | Item::DotWhiteout
                            | Item::OpaqueXattr
                            | Item::OpaqueFile
                    );
                    if hides == pass {
                        merge(&mut model, path, item);
                    }
                }
            }
            for (path, item) in items {
                make(&root, path, item);
            }
            set_times(&root);
        }
        for name in ["upper", "work"] {
            fs::create_dir(dir.path().join(name)).unwrap();
            let perm = fs::Permissions::from_mode(0o755);
            fs::set_permissions(dir.path().join(name), perm).unwrap();
        }
        Self { dir, model }
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub(crate) fn lower(&self) -> Arc<DirLayers> {
        let layers = [self.path("l2"), self.path("l1"), self.path("l0")];
        Arc::new(DirLayers::open(&layers, false).unwrap())
    }

    pub(crate) fn open(&self, options: Options) -> Result<Union, UnionError> {
        let (upper, work) = (self.path("upper"), self.path("work"));
        Union::open(self.lower(), Some((&upper, &work)), options)
    }
}

/// Options for a way of keeping ids; marks go where they may.
pub(crate) fn options(ids: IdStore, sparse: bool) -> Options {
    Options {
        ids,
        xattrs: match ids {
            IdStore::Real => XattrDialect::Trusted,
            IdStore::Virtual => XattrDialect::User,
        },
        sparse_copy_up: sparse,
        ..Options::default()
    }
}

fn set_times(path: &Path) {
    if path.symlink_metadata().unwrap().is_dir() {
        for entry in fs::read_dir(path).unwrap() {
            set_times(&entry.unwrap().path());
        }
    }
    let time = Timespec {
        tv_sec: LOWER_MTIME,
        tv_nsec: 0,
    };
    let times = Timestamps {
        last_access: time,
        last_modification: time,
    };
    rfs::utimensat(CWD, path, &times, AtFlags::SYMLINK_NOFOLLOW).unwrap();
}

/// Everything stat and read tell of a tree on disk, but access times.
pub(crate) fn snapshot(path: &Path) -> Vec<String> {
    let meta = path.symlink_metadata().unwrap();
    let data = if meta.is_file() {
        fs::read(path).unwrap()
    } else {
        Vec::new()
    };
    let mut out = vec![format!(
        "{} {:o} {} {} {} {} {}.{} {}.{} {}",
        path.display(),
        meta.mode(),
        meta.uid(),
        meta.gid(),
        meta.nlink(),
        meta.ino(),
        meta.mtime(),
        meta.mtime_nsec(),
        meta.ctime(),
        meta.ctime_nsec(),
        data.iter().fold(0_u64, |sum, byte| sum
            .wrapping_mul(31)
            .wrapping_add(u64::from(*byte))),
    )];
    if meta.is_dir() {
        let mut paths: Vec<PathBuf> = fs::read_dir(path)
            .unwrap()
            .map(|entry| entry.unwrap().path())
            .collect();
        paths.sort();
        for path in paths {
            out.extend(snapshot(&path));
        }
    }
    out
}
