//! Random operations on a union and on a simple model of a file system, compared after each.
#![expect(
    clippy::unwrap_used,
    clippy::panic,
    clippy::wildcard_enum_match_arm,
    clippy::cast_possible_truncation,
    reason = "test code"
)]

mod common;

use std::collections::{BTreeMap, BTreeSet};

use common::{Fixture, Model, Node, is_root, join, options, snapshot, split};
use proptest::prelude::*;
use proptest::test_runner::RngSeed;
use proptest::test_runner::TestCaseError;
use rrun_core::{Attr, ChangeKind, Device, Errno, FileType, Time};
use rrun_union::{
    Caller, IdStore, Ino, OnWrite, Options, RenameMode, SetAttr, SetTime, SpaceMode, Union,
    UnionError, XattrMode,
};

/// Names new files get; those of the lower layers are among them.
const NAMES: [&str; 10] = ["a", "b", "c", "d", "e", "f", "h1", "h2", ".wh.a", ".wh.d"];
const XATTRS: [&str; 3] = ["user.one", "user.two", "user.overlay.opaque"];

/// One step; numbers choose among what exists at that time.
#[derive(Debug, Clone)]
enum Op {
    Create(usize, usize, u32, u32),
    Mkdir(usize, usize, u32),
    Symlink(usize, usize, usize),
    Fifo(usize, usize),
    Device(usize, usize),
    Write(usize, u64, usize, u8),
    Truncate(usize, u64),
    Punch(usize, u64, u64),
    Unlink(usize),
    Rmdir(usize),
    Rename(usize, usize, usize, u8),
    RenameOver(usize, usize, u8),
    Link(usize, usize, usize),
    Chmod(usize, u32),
    Chown(usize, u32, u32),
    Times(usize, i64),
    SetXattr(usize, usize, u8),
    RemoveXattr(usize, usize),
    Reopen,
    Look,
}

fn op() -> impl Strategy<Value = Op> {
    let at = 0_usize..1000;
    let name = 0_usize..NAMES.len();
    let perm = prop::sample::select(vec![0o644_u32, 0o600, 0o4755, 0o2755, 0o1777, 0o000, 0o070]);
    let offset = prop_oneof![0_u64..100, 4000_u64..9000, 100_000_u64..320_000];
    prop_oneof![
        3 => (at.clone(), name.clone(), perm.clone(), 0_u32..3)
            .prop_map(|(d, n, p, u)| Op::Create(d, n, p, u)),
        3 => (at.clone(), name.clone(), perm.clone()).prop_map(|(d, n, p)| Op::Mkdir(d, n, p)),
        1 => (at.clone(), name.clone(), 1_usize..300).prop_map(|(d, n, l)| Op::Symlink(d, n, l)),
        1 => (at.clone(), name.clone()).prop_map(|(d, n)| Op::Fifo(d, n)),
        1 => (at.clone(), name.clone()).prop_map(|(d, n)| Op::Device(d, n)),
        5 => (at.clone(), offset.clone(), 1_usize..10_000, any::<u8>())
            .prop_map(|(f, o, l, b)| Op::Write(f, o, l, b)),
        3 => (at.clone(), offset.clone()).prop_map(|(f, o)| Op::Truncate(f, o)),
        1 => (at.clone(), offset, 1_u64..9000).prop_map(|(f, o, l)| Op::Punch(f, o, l)),
        4 => at.clone().prop_map(Op::Unlink),
        4 => at.clone().prop_map(Op::Rmdir),
        6 => (at.clone(), at.clone(), name.clone(), 0_u8..4)
            .prop_map(|(f, d, n, m)| Op::Rename(f, d, n, m)),
        5 => (at.clone(), at.clone(), 0_u8..4).prop_map(|(f, t, m)| Op::RenameOver(f, t, m)),
        3 => (at.clone(), at.clone(), name).prop_map(|(f, d, n)| Op::Link(f, d, n)),
        2 => (at.clone(), perm).prop_map(|(f, p)| Op::Chmod(f, p)),
        2 => (at.clone(), 0_u32..3, 0_u32..3).prop_map(|(f, u, g)| Op::Chown(f, u, g)),
        1 => (at.clone(), 1_i64..2_000_000_000).prop_map(|(f, t)| Op::Times(f, t)),
        2 => (at.clone(), 0..XATTRS.len(), any::<u8>()).prop_map(|(f, n, v)| Op::SetXattr(f, n, v)),
        1 => (at, 0..XATTRS.len()).prop_map(|(f, n)| Op::RemoveXattr(f, n)),
        2 => Just(Op::Reopen),
        1 => Just(Op::Look),
    ]
}

fn without_set_id(perm: u32) -> u32 {
    let perm = perm & !0o4000;
    if perm & 0o010 == 0 {
        perm
    } else {
        perm & !0o2000
    }
}

/// The union under test, what it must look like, and what it started from.
struct Pair {
    union: Option<Union>,
    model: Model,
    below: Model,
    fixture: Fixture,
    options: Options,
    /// Names of each directory in the order of the last listing.
    order: BTreeMap<String, Vec<String>>,
    /// Names the last operation may have moved.
    touched: BTreeSet<String>,
}

type Outcome = Result<(), Errno>;

impl Pair {
    fn new(options: Options) -> Self {
        let fixture = Fixture::new();
        let union = fixture.open(options.clone()).unwrap();
        let mut model = fixture.model.clone();
        if options.ids == IdStore::Real {
            // an overlay's own upper directory keeps its times
            model.node_mut("").mtime = None;
        }
        Self {
            union: Some(union),
            below: model.clone(),
            model,
            fixture,
            options,
            order: BTreeMap::new(),
            touched: BTreeSet::new(),
        }
    }

    fn union(&self) -> &Union {
        self.union.as_ref().unwrap()
    }

    fn resolve(union: &Union, path: &str) -> Result<Ino, Errno> {
        let mut at = Ino::ROOT;
        for part in path.split('/').filter(|part| !part.is_empty()) {
            at = union.lookup(at, part.as_bytes())?.ino;
        }
        Ok(at)
    }

    fn ino(&self, path: &str) -> Ino {
        Self::resolve(self.union(), path).unwrap_or_else(|e| panic!("lookup {path}: {e}"))
    }

    fn any(&self, number: usize) -> String {
        let paths: Vec<&String> = self.model.paths.keys().filter(|p| !p.is_empty()).collect();
        if paths.is_empty() {
            return String::new();
        }
        paths[number % paths.len()].clone()
    }

    fn any_dir(&self, number: usize) -> String {
        let dirs: Vec<&String> = self
            .model
            .paths
            .keys()
            .filter(|path| self.model.is_dir(path))
            .collect();
        dirs[number % dirs.len()].clone()
    }

    fn any_file(&self, number: usize) -> Option<String> {
        let files: Vec<&String> = self
            .model
            .paths
            .iter()
            .filter(|(_, id)| self.model.nodes[**id].kind == FileType::Regular)
            .map(|(path, _)| path)
            .collect();
        (!files.is_empty()).then(|| files[number % files.len()].clone())
    }

    /// Enters a new file in the model.
    fn born(&mut self, path: &str, kind: FileType, perm: u32, uid: u32, data: &[u8]) -> Outcome {
        if self.model.paths.contains_key(path) {
            return Err(Errno::EEXIST);
        }
        let (dir, _) = split(path);
        let parent = self.model.node(dir);
        let (mut perm, mut gid) = (perm, uid);
        if parent.perm & 0o2000 != 0 {
            gid = parent.gid;
            if kind == FileType::Directory {
                perm |= 0o2000;
            }
        }
        let node = Node {
            kind,
            perm,
            uid,
            gid,
            data: data.to_vec(),
            rdev: Device::default(),
            xattrs: BTreeMap::new(),
            mtime: None,
            ino: None,
        };
        self.model.add(path, node);
        self.model.node_mut(dir).mtime = None;
        Ok(())
    }

    fn same(&mut self, what: &str, got: Result<(), Errno>, expected: Outcome) {
        assert_eq!(got, expected, "{what}");
    }

    fn touch(&mut self, path: &str) {
        self.touched.insert(split(path).1.to_owned());
    }

    fn new_id(&self, wanted: u32) -> u32 {
        if self.options.ids == IdStore::Virtual || is_root() {
            wanted
        } else {
            0
        }
    }

    fn step(&mut self, op: &Op) {
        self.touched.clear();
        match *op {
            Op::Create(d, n, perm, uid) => self.make(d, n, FileType::Regular, perm, uid, b""),
            Op::Mkdir(d, n, perm) => self.make(d, n, FileType::Directory, perm, 0, b""),
            Op::Symlink(d, n, len) => {
                let target = vec![b't'; len];
                self.make(d, n, FileType::Symlink, 0o777, len as u32 % 2, &target);
            }
            Op::Fifo(d, n) => self.make(d, n, FileType::Fifo, 0o640, 1, b""),
            Op::Device(d, n) => {
                if self.options.ids == IdStore::Virtual || is_root() {
                    self.make(d, n, FileType::BlockDevice, 0o640, 1, b"");
                }
            }
            Op::Write(f, offset, len, byte) => self.write(f, offset, len, byte),
            Op::Truncate(f, size) => self.truncate(f, size),
            Op::Punch(f, offset, len) => self.punch(f, offset, len),
            Op::Unlink(f) => self.unlink(f),
            Op::Rmdir(f) => self.rmdir(f),
            Op::Rename(f, d, n, mode) => {
                let to = join(&self.any_dir(d), NAMES[n]);
                self.rename(f, &to, mode);
            }
            Op::RenameOver(f, t, mode) => {
                let to = self.any(t);
                self.rename(f, &to, mode);
            }
            Op::Link(f, d, n) => self.link(f, d, n),
            Op::Chmod(..) | Op::Chown(..) | Op::Times(..) => self.attributes(op),
            Op::SetXattr(..) | Op::RemoveXattr(..) => self.xattr(op),
            Op::Reopen => {
                self.changes_are_the_difference();
                self.union = None;
                self.union = Some(self.fixture.open(self.options.clone()).unwrap());
                self.order.clear();
            }
            Op::Look => self.look(),
        }
    }

    fn make(&mut self, d: usize, n: usize, kind: FileType, perm: u32, uid: u32, data: &[u8]) {
        let dir = self.any_dir(d);
        let path = join(&dir, NAMES[n]);
        let uid = self.new_id(uid);
        let caller = Caller {
            uid,
            gid: uid,
            umask: 0,
        };
        let parent = self.ino(&dir);
        let name = NAMES[n].as_bytes();
        let rdev = if kind.is_device() {
            Device { major: 8, minor: 3 }
        } else {
            Device::default()
        };
        let mode = kind.mode_bits() | perm;
        let got = match kind {
            FileType::Directory => self.union().mkdir(parent, name, mode, &caller),
            FileType::Symlink => self.union().symlink(parent, name, data, &caller),
            _ => self.union().mknod(parent, name, mode, rdev, &caller),
        };
        let expected = self.born(&path, kind, perm, uid, data);
        if expected.is_ok() {
            self.model.node_mut(&path).rdev = rdev;
        }
        self.touch(&path);
        self.same(&format!("make {kind:?} {path}"), got.map(|_| ()), expected);
    }

    fn write(&mut self, f: usize, offset: u64, len: usize, byte: u8) {
        let Some(path) = self.any_file(f) else { return };
        let bytes: Vec<u8> = (0..len).map(|n| byte.wrapping_add(n as u8)).collect();
        let ino = self.ino(&path);
        let got = self.union().write(ino, offset, &bytes, OnWrite::Keep);
        assert_eq!(got, Ok(len), "write {path}");
        let node = self.model.node_mut(&path);
        let start = offset as usize;
        if node.data.len() < start + len {
            node.data.resize(start + len, 0);
        }
        node.data[start..start + len].copy_from_slice(&bytes);
        node.mtime = None;
    }

    fn truncate(&mut self, f: usize, size: u64) {
        let Some(path) = self.any_file(f) else { return };
        let set = SetAttr {
            size: Some(size),
            ..SetAttr::default()
        };
        let attr = self.union().setattr(self.ino(&path), &set);
        assert_eq!(attr.map(|a| a.size), Ok(size), "truncate {path}");
        let node = self.model.node_mut(&path);
        node.data.resize(size as usize, 0);
        node.mtime = None;
    }

    fn punch(&mut self, f: usize, offset: u64, len: u64) {
        let Some(path) = self.any_file(f) else { return };
        let ino = self.ino(&path);
        match self
            .union()
            .fallocate(ino, offset, len, SpaceMode::PunchHole, OnWrite::Keep)
        {
            Ok(()) => {}
            Err(Errno::EOPNOTSUPP) => return,
            Err(error) => panic!("punch {path}: {error}"),
        }
        let node = self.model.node_mut(&path);
        let end = ((offset + len) as usize).min(node.data.len());
        if let Some(part) = node.data.get_mut(offset as usize..end) {
            part.fill(0);
        }
        node.mtime = None;
    }

    fn unlink(&mut self, f: usize) {
        let path = self.any(f);
        if path.is_empty() {
            return;
        }
        let (dir, name) = split(&path);
        let got = self.union().unlink(self.ino(dir), name.as_bytes());
        let expected = if self.model.is_dir(&path) {
            Err(Errno::EISDIR)
        } else {
            self.model.paths.remove(&path);
            self.model.node_mut(dir).mtime = None;
            Ok(())
        };
        self.same(&format!("unlink {path}"), got, expected);
        let gone = self.union().unlink(self.ino(dir), b"nothing");
        self.same("unlink of nothing", gone, Err(Errno::ENOENT));
    }

    fn rmdir(&mut self, f: usize) {
        let path = self.any(f);
        if path.is_empty() {
            return;
        }
        let (dir, name) = split(&path);
        let got = self.union().rmdir(self.ino(dir), name.as_bytes());
        let expected = if !self.model.is_dir(&path) {
            Err(Errno::ENOTDIR)
        } else if self.model.below(&path).next().is_some() {
            Err(Errno::ENOTEMPTY)
        } else {
            self.model.paths.remove(&path);
            self.model.node_mut(dir).mtime = None;
            Ok(())
        };
        self.same(&format!("rmdir {path}"), got, expected);
    }

    fn rename(&mut self, f: usize, to: &str, mode: u8) {
        let from = self.any(f);
        // What the kernel itself refuses never gets to us.
        let inside = |a: &str, b: &str| b.starts_with(&format!("{a}/"));
        if from.is_empty() || to.is_empty() || inside(&from, to) || inside(to, &from) {
            return;
        }
        let mode = match mode {
            0 | 1 => RenameMode::Replace,
            2 => RenameMode::NoReplace,
            _ => RenameMode::Exchange,
        };
        let ((from_dir, from_name), (to_dir, to_name)) = (split(&from), split(to));
        let got = self.union().rename(
            (self.ino(from_dir), from_name.as_bytes()),
            (self.ino(to_dir), to_name.as_bytes()),
            mode,
        );
        let expected = self.rename_model(&from, to, mode);
        self.touch(&from);
        self.touch(to);
        self.order
            .retain(|dir, _| dir != &from && dir != to && !inside(&from, dir) && !inside(to, dir));
        self.same(&format!("rename {from} to {to} {mode:?}"), got, expected);
    }

    fn rename_model(&mut self, from: &str, to: &str, mode: RenameMode) -> Outcome {
        let source = self.model.paths[from];
        let target = self.model.paths.get(to).copied();
        match (target, mode) {
            (Some(_), RenameMode::NoReplace) => return Err(Errno::EEXIST),
            (None, RenameMode::Exchange) => return Err(Errno::ENOENT),
            (Some(target), _) if target == source => return Ok(()),
            (Some(_), RenameMode::Replace) => {
                match (self.model.is_dir(from), self.model.is_dir(to)) {
                    (true, false) => return Err(Errno::ENOTDIR),
                    (false, true) => return Err(Errno::EISDIR),
                    (true, true) if self.model.below(to).next().is_some() => {
                        return Err(Errno::ENOTEMPTY);
                    }
                    _ => {}
                }
            }
            _ => {}
        }
        let take = |model: &mut Model, top: &str| {
            let paths: Vec<String> = model
                .paths
                .keys()
                .filter(|path| *path == top || path.starts_with(&format!("{top}/")))
                .cloned()
                .collect();
            paths
                .into_iter()
                .map(|path| {
                    let id = model.paths.remove(&path).unwrap();
                    (path[top.len()..].to_owned(), id)
                })
                .collect::<Vec<_>>()
        };
        let moving = take(&mut self.model, from);
        let replaced = take(&mut self.model, to);
        for (rest, id) in moving {
            self.model.paths.insert(format!("{to}{rest}"), id);
        }
        if mode == RenameMode::Exchange {
            for (rest, id) in replaced {
                self.model.paths.insert(format!("{from}{rest}"), id);
            }
        }
        for path in [from, to] {
            self.model.node_mut(split(path).0).mtime = None;
        }
        Ok(())
    }

    fn link(&mut self, f: usize, d: usize, n: usize) {
        let from = self.any(f);
        if from.is_empty() {
            return;
        }
        let dir = self.any_dir(d);
        let to = join(&dir, NAMES[n]);
        let got = self
            .union()
            .link(self.ino(&from), self.ino(&dir), NAMES[n].as_bytes());
        let expected = if self.model.is_dir(&from) {
            Err(Errno::EPERM)
        } else if self.model.paths.contains_key(&to) {
            Err(Errno::EEXIST)
        } else {
            let id = self.model.paths[&from];
            self.model.paths.insert(to.clone(), id);
            self.model.node_mut(&dir).mtime = None;
            Ok(())
        };
        self.touch(&to);
        self.same(&format!("link {from} as {to}"), got.map(|_| ()), expected);
    }

    fn attributes(&mut self, op: &Op) {
        let mut set = SetAttr::default();
        let path = match *op {
            Op::Chmod(f, _) | Op::Chown(f, _, _) | Op::Times(f, _) => self.any(f),
            _ => return,
        };
        if path.is_empty() {
            return;
        }
        let virtual_ids = self.options.ids == IdStore::Virtual;
        let links = self.model.links(self.model.paths[&path]);
        let node = self.model.node_mut(&path);
        match *op {
            Op::Chmod(_, perm) => {
                if node.kind == FileType::Symlink {
                    return;
                }
                set.perm = Some(perm);
                node.perm = perm;
            }
            Op::Chown(_, uid, gid) => {
                if !virtual_ids && !is_root() {
                    return;
                }
                if virtual_ids && node.kind == FileType::Symlink && links > 1 {
                    // a symlink that is one on disk cannot become a file under all its names
                    return;
                }
                (set.uid, set.gid) = (Some(uid), Some(gid));
                (node.uid, node.gid) = (uid, gid);
                if node.kind != FileType::Directory && node.kind != FileType::Symlink {
                    node.perm = without_set_id(node.perm);
                }
            }
            Op::Times(_, secs) => {
                set.mtime = Some(SetTime::At(Time { secs, nanos: 5 }));
                node.mtime = Some(secs);
            }
            _ => return,
        }
        let got = self.union().setattr(self.ino(&path), &set).map(|_| ());
        self.same(&format!("{op:?} {path}"), got, Ok(()));
    }

    fn xattr(&mut self, op: &Op) {
        let (Op::SetXattr(f, n, _) | Op::RemoveXattr(f, n)) = *op else {
            return;
        };
        let path = self.any(f);
        let allowed = [FileType::Regular, FileType::Directory];
        if path.is_empty() || !allowed.contains(&self.model.node(&path).kind) {
            return;
        }
        let name = XATTRS[n].as_bytes();
        let ino = self.ino(&path);
        let had = self.model.node(&path).xattrs.contains_key(name);
        if let Op::SetXattr(_, _, byte) = *op {
            let mode = match byte % 3 {
                0 => XattrMode::Set,
                1 => XattrMode::Create,
                _ => XattrMode::Replace,
            };
            let value = vec![byte; usize::from(byte)];
            let got = self.union().setxattr(ino, name, &value, mode);
            let expected = match (mode, had) {
                (XattrMode::Create, true) => Err(Errno::EEXIST),
                (XattrMode::Replace, false) => Err(Errno::ENODATA),
                _ => Ok(()),
            };
            if expected.is_ok() {
                let node = self.model.node_mut(&path);
                node.xattrs.insert(name.to_vec(), value);
            }
            self.same(&format!("{op:?} {path}"), got, expected);
        } else {
            let got = self.union().removexattr(ino, name);
            let expected = if had { Ok(()) } else { Err(Errno::ENODATA) };
            self.model.node_mut(&path).xattrs.remove(name);
            self.same(&format!("{op:?} {path}"), got, expected);
        }
    }

    /// A second, read-only union sees the same; a second writer is refused.
    fn look(&mut self) {
        let reader = self
            .fixture
            .open(Options {
                read_only: true,
                ..self.options.clone()
            })
            .unwrap();
        compare(
            &reader,
            &mut self.model,
            &mut BTreeMap::new(),
            &BTreeSet::new(),
        );
        let refused = reader.mkdir(Ino::ROOT, b"x", 0o755, &Caller::default());
        assert_eq!(refused.map(|_| ()), Err(Errno::EROFS));
        let second = self.fixture.open(self.options.clone());
        assert!(matches!(second, Err(UnionError::Busy(_))), "{second:?}");
    }

    fn check(&mut self) {
        let union = self.union.take().unwrap();
        compare(&union, &mut self.model, &mut self.order, &self.touched);
        self.union = Some(union);
    }

    fn changes_are_the_difference(&self) {
        let mut got = BTreeMap::new();
        self.union()
            .changes(&mut |changed| {
                let path = String::from_utf8(changed.change.path).unwrap();
                let old = got.insert(path.clone(), changed.change.kind);
                assert_eq!(old, None, "{path} is reported twice");
                Ok(())
            })
            .unwrap();
        let (below, now) = (&self.below, &self.model);
        for (path, kind) in &got {
            let (was, is) = (below.paths.contains_key(path), now.paths.contains_key(path));
            let expected = match kind {
                ChangeKind::Added => (false, true),
                ChangeKind::Modified => (true, true),
                ChangeKind::Deleted => (true, false),
            };
            assert_eq!((was, is), expected, "change {kind:?} {path}");
        }
        for path in now.paths.keys().filter(|path| !path.is_empty()) {
            let differs = below.paths.get(path).is_none_or(|id| {
                let (old, new) = (&below.nodes[*id], now.node(path));
                (old.kind, old.perm, old.uid, old.gid) != (new.kind, new.perm, new.uid, new.gid)
                    || (&old.data, &old.xattrs, old.rdev) != (&new.data, &new.xattrs, new.rdev)
            });
            assert!(!differs || got.contains_key(path), "{path} is not reported");
        }
        for path in below.paths.keys() {
            let parent = split(path).0;
            let top = !now.paths.contains_key(path) && below.is_dir(parent) && now.is_dir(parent);
            assert!(
                !top || got.contains_key(path),
                "{path} was not reported gone"
            );
        }
    }
}

fn list(union: &Union, dir: Ino) -> Vec<(String, u64, FileType)> {
    let mut out = Vec::new();
    let mut cookie = 0;
    loop {
        // In small pieces: going on must neither skip nor repeat.
        let mut taken = 0;
        union
            .readdir(dir, cookie, false, &mut |entry| {
                if taken == 3 {
                    return false;
                }
                taken += 1;
                cookie = entry.cookie;
                let name = String::from_utf8(entry.name.to_vec()).unwrap();
                out.push((name, entry.ino, entry.kind));
                true
            })
            .unwrap();
        if taken == 0 {
            return out;
        }
    }
}

fn compare(
    union: &Union,
    model: &mut Model,
    order: &mut BTreeMap<String, Vec<String>>,
    touched: &BTreeSet<String>,
) {
    let mut inos = BTreeMap::new();
    compare_dir(union, model, "", Ino::ROOT, &mut inos, order, touched);
}

fn compare_dir(
    union: &Union,
    model: &mut Model,
    path: &str,
    dir: Ino,
    inos: &mut BTreeMap<u64, usize>,
    order: &mut BTreeMap<String, Vec<String>>,
    touched: &BTreeSet<String>,
) {
    let own = union.getattr(dir).unwrap();
    compare_node(union, model, path, dir, &own, inos);
    let listed = list(union, dir);
    assert_eq!(
        (listed[0].0.as_str(), listed[0].1),
        (".", own.ino),
        "{path}"
    );
    assert_eq!(listed[1].0, "..", "{path}");
    let names: BTreeSet<String> = listed[2..].iter().map(|entry| entry.0.clone()).collect();
    assert_eq!(names.len(), listed.len() - 2, "{path} lists a name twice");
    assert_eq!(names, model.names(path), "names in {path:?}");
    let now: Vec<String> = listed[2..].iter().map(|entry| entry.0.clone()).collect();
    if let Some(before) = order.get(path) {
        let stay = |list: &[String], other: &[String]| {
            list.iter()
                .filter(|name| other.contains(name) && !touched.contains(*name))
                .cloned()
                .collect::<Vec<_>>()
        };
        assert_eq!(stay(before, &now), stay(&now, before), "order in {path:?}");
    }
    order.insert(path.to_owned(), now);
    for (name, ino, kind) in &listed[2..] {
        let entry = union.lookup(dir, name.as_bytes()).unwrap();
        let child = join(path, name);
        assert_eq!(
            (entry.attr.ino, entry.attr.kind),
            (*ino, *kind),
            "d_ino, d_type of {child}"
        );
        if *kind == FileType::Directory && model.is_dir(&child) {
            compare_dir(union, model, &child, entry.ino, inos, order, touched);
            let above = list(union, entry.ino)[1].1;
            assert_eq!(above, own.ino, ".. of {child}");
        } else {
            compare_node(union, model, &child, entry.ino, &entry.attr, inos);
        }
        union.forget(entry.ino, 1);
    }
}

fn compare_node(
    union: &Union,
    model: &mut Model,
    path: &str,
    ino: Ino,
    attr: &Attr,
    inos: &mut BTreeMap<u64, usize>,
) {
    let id = model.paths[path];
    let links = model.links(id);
    let dirs = model
        .names(path)
        .iter()
        .filter(|name| model.is_dir(&join(path, name)))
        .count();
    let node = &mut model.nodes[id];
    let stat = (attr.kind, attr.perm, attr.uid, attr.gid, attr.rdev);
    let expected = (node.kind, node.perm, node.uid, node.gid, node.rdev);
    assert_eq!(stat, expected, "type, mode, owner, device of {path:?}");
    let nlink = if node.kind == FileType::Directory {
        2 + dirs
    } else {
        links
    };
    // A lower tree merged on demand does not count subdirectories, and says 1.
    let uncounted = node.kind == FileType::Directory && attr.nlink == 1;
    assert!(
        uncounted || attr.nlink as usize == nlink,
        "nlink of {path:?} is {}, not {nlink}",
        attr.nlink
    );
    assert_eq!(
        *inos.entry(attr.ino).or_insert(id),
        id,
        "st_ino of {path:?} is not its own"
    );
    assert_eq!(
        *node.ino.get_or_insert(attr.ino),
        attr.ino,
        "st_ino of {path:?}"
    );
    if let Some(mtime) = node.mtime {
        assert_eq!(attr.mtime.secs, mtime, "mtime of {path:?}");
    }
    match node.kind {
        FileType::Regular => {
            assert_eq!(attr.size, node.data.len() as u64, "size of {path:?}");
            let mut bytes = vec![0; node.data.len() + 1];
            let count = union.read(ino, 0, &mut bytes).unwrap();
            bytes.truncate(count);
            let wrong = bytes.iter().zip(&node.data).position(|(a, b)| a != b);
            assert_eq!(
                (count, wrong),
                (node.data.len(), None),
                "contents of {path:?}"
            );
        }
        FileType::Symlink => {
            assert_eq!(
                union.readlink(ino).unwrap(),
                node.data,
                "target of {path:?}"
            );
            assert_eq!(attr.size, node.data.len() as u64, "size of {path:?}");
        }
        _ => {}
    }
    let mut names = union.listxattr(ino).unwrap();
    names.retain(|name| !name.starts_with(b"security.selinux"));
    names.sort();
    let expected: Vec<Vec<u8>> = node.xattrs.keys().cloned().collect();
    assert_eq!(names, expected, "xattrs of {path:?}");
    for (name, value) in &node.xattrs {
        assert_eq!(
            &union.getxattr(ino, name).unwrap(),
            value,
            "xattr of {path:?}"
        );
    }
}

fn run(options: Options, ops: &[Op]) -> Result<(), TestCaseError> {
    let mut pair = Pair::new(options);
    let layers = ["l0", "l1", "l2"].map(|name| pair.fixture.path(name));
    let before: Vec<Vec<String>> = layers.iter().map(|path| snapshot(path)).collect();
    pair.check();
    for op in ops {
        pair.step(op);
        pair.check();
    }
    pair.step(&Op::Look);
    pair.step(&Op::Reopen);
    pair.check();
    let after: Vec<Vec<String>> = layers.iter().map(|path| snapshot(path)).collect();
    prop_assert_eq!(before, after, "a lower layer changed");
    Ok(())
}

/// Sequences tried per configuration; `RRUN_MODEL_CASES` asks for more.
fn cases() -> ProptestConfig {
    let cases = std::env::var("RRUN_MODEL_CASES")
        .ok()
        .and_then(|text| text.parse().ok())
        .unwrap_or(12);
    ProptestConfig {
        cases,
        failure_persistence: None,
        max_shrink_iters: 2000,
        // The same every time unless more are asked for: CI is to speak of the change.
        rng_seed: std::env::var_os("RRUN_MODEL_CASES")
            .map_or(RngSeed::Fixed(20_261_121), |_| RngSeed::Random),
        ..ProptestConfig::default()
    }
}

proptest! {
    #![proptest_config(cases())]

    #[test]
    fn virtual_ids_sparse(ops in prop::collection::vec(op(), 1..40)) {
        run(options(IdStore::Virtual, true), &ops)?;
    }

    #[test]
    fn virtual_ids_whole(ops in prop::collection::vec(op(), 1..40)) {
        run(options(IdStore::Virtual, false), &ops)?;
    }

    #[test]
    fn real_ids_sparse(ops in prop::collection::vec(op(), 1..40)) {
        if is_root() {
            run(options(IdStore::Real, true), &ops)?;
        }
    }

    #[test]
    fn real_ids_whole(ops in prop::collection::vec(op(), 1..40)) {
        if is_root() {
            run(options(IdStore::Real, false), &ops)?;
        }
    }
}

#[test]
fn privileged_configurations_are_not_skipped_silently() {
    if !is_root() {
        eprintln!("skipped: real_ids_*: need root");
    }
}
