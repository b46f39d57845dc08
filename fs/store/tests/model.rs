//! Random stacks of layers against a simple model of what overlayfs shows.
#![expect(clippy::unwrap_used, reason = "test helpers")]

mod support;

use std::collections::BTreeMap;

use proptest::prelude::*;
use proptest::test_runner::RngSeed;
use rrun_core::{Data, FileType, Lower, NodeId};
use rrun_store::{Base, Store};
use support::{Item, dir, file, item, link, tar, try_ingest};

/// One entry of a layer, on a path made of few names so that layers meet.
#[derive(Debug, Clone)]
enum Op {
    File(Vec<u8>, u8),
    Dir(Vec<u8>, u8),
    Symlink(Vec<u8>),
    /// The path and which earlier file of the layer or below it links to.
    Link(Vec<u8>, u8),
    Whiteout(Vec<u8>),
    Opaque(Vec<u8>),
}

/// A node of the model.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Kind {
    File(Vec<u8>),
    Dir,
    Symlink,
}

#[derive(Debug, Clone)]
struct Model {
    /// Path to node number; a hard link is two paths with one node.
    paths: BTreeMap<String, usize>,
    nodes: Vec<(Kind, u32, u32)>,
}

fn text(path: &[u8]) -> String {
    let names: Vec<_> = path
        .iter()
        .map(|part| char::from(b'a' + part % 4).to_string())
        .collect();
    names.join("/")
}

impl Model {
    fn below(&self, path: &str) -> Vec<String> {
        let prefix = format!("{path}/");
        let all = self.paths.keys();
        all.filter(|key| path.is_empty() || key.starts_with(&prefix))
            .cloned()
            .collect()
    }

    fn remove(&mut self, path: &str) {
        for key in self.below(path) {
            self.paths.remove(&key);
        }
        self.paths.remove(path);
    }

    fn is_dir(&self, path: &str) -> bool {
        path.is_empty()
            || self
                .paths
                .get(path)
                .is_some_and(|node| self.nodes[*node].0 == Kind::Dir)
    }

    fn add(&mut self, path: &str, kind: Kind, perm: u32, layer: u32) {
        self.nodes.push((kind, perm, layer));
        self.paths.insert(path.to_owned(), self.nodes.len() - 1);
    }

    /// Makes the parents; false when one is a file of this very layer.
    fn parents(&mut self, path: &str, layer: u32) -> bool {
        let mut at = 0;
        while let Some(slash) = path[at..].find('/') {
            let parent = path[..at + slash].to_owned();
            at += slash + 1;
            if self.is_dir(&parent) {
                continue;
            }
            if self
                .paths
                .get(&parent)
                .is_some_and(|node| self.nodes[*node].2 == layer)
            {
                return false;
            }
            self.add(&parent, Kind::Dir, 0o755, layer);
        }
        true
    }
}

/// Adds a layer to the model; returns the tar entries that say the same.
fn apply(model: &mut Model, ops: &[Op], layer: u32) -> Vec<Item> {
    for op in ops {
        match op {
            Op::Whiteout(path) => {
                let path = text(path);
                model.remove(&path);
            }
            Op::Opaque(path) if model.is_dir(&text(path)) => {
                for key in model.below(&text(path)) {
                    model.paths.remove(&key);
                }
            }
            Op::Opaque(_) | Op::File(..) | Op::Dir(..) | Op::Symlink(_) | Op::Link(..) => {}
        }
    }
    let mut items = Vec::new();
    for op in ops {
        match op {
            Op::Whiteout(path) => {
                let path = text(path);
                let (parent, name) = path.rsplit_once('/').unwrap_or(("", &path));
                items.push(file(&format!("{parent}/.wh.{name}"), b""));
            }
            Op::Opaque(path) => items.push(file(&format!("{}/.wh..wh..opq", text(path)), b"")),
            Op::File(path, byte) => place(model, &mut items, path, layer, |path| {
                let data = vec![*byte; usize::from(*byte) * 9];
                (
                    Item {
                        mode: 0o640,
                        ..file(path, &data)
                    },
                    Kind::File(data),
                    0o640,
                )
            }),
            Op::Symlink(path) => place(model, &mut items, path, layer, |path| {
                (
                    Item {
                        mode: 0o777,
                        ..link(b'2', path, "/nowhere")
                    },
                    Kind::Symlink,
                    0o777,
                )
            }),
            Op::Dir(path, bits) => {
                let path = text(path);
                if !model.parents(&path, layer) {
                    continue;
                }
                let perm = 0o700 | u32::from(bits & 7);
                items.push(Item {
                    mode: perm,
                    ..dir(&path)
                });
                match model
                    .paths
                    .get(&path)
                    .copied()
                    .filter(|_| model.is_dir(&path))
                {
                    Some(node) => model.nodes[node] = (Kind::Dir, perm, layer),
                    None => model.add(&path, Kind::Dir, perm, layer),
                }
            }
            Op::Link(path, which) => add_link(model, &mut items, &text(path), *which, layer),
        }
    }
    items
}

fn place(
    model: &mut Model,
    items: &mut Vec<Item>,
    path: &[u8],
    layer: u32,
    make: impl Fn(&str) -> (Item, Kind, u32),
) {
    let path = text(path);
    // A symlink's children would be followed; the model keeps to plain trees.
    if model.parents(&path, layer) {
        let (item, kind, perm) = make(&path);
        items.push(item);
        model.remove(&path);
        model.add(&path, kind, perm, layer);
    }
}

fn add_link(model: &mut Model, items: &mut Vec<Item>, path: &str, which: u8, layer: u32) {
    let files: Vec<_> = model
        .paths
        .iter()
        .filter(|(_, node)| model.nodes[**node].0 != Kind::Dir)
        .map(|(path, node)| (path.clone(), *node))
        .collect();
    let Some((target, node)) = files.get(usize::from(which) % files.len().max(1)).cloned() else {
        return;
    };
    // A target that the link's own parents would replace is another story.
    if path == target || path.starts_with(&format!("{target}/")) || !model.parents(path, layer) {
        return;
    }
    items.push(link(b'1', path, &target));
    model.remove(path);
    model.paths.insert(path.to_owned(), node);
}

fn compare(base: &Base, model: &Model) {
    let mut seen = BTreeMap::new();
    let mut nodes = BTreeMap::new();
    walk(base, NodeId::ROOT, "", &mut seen);
    let expected: Vec<_> = model.paths.keys().collect();
    assert_eq!(seen.keys().collect::<Vec<_>>(), expected);
    for (path, node) in &seen {
        let number = model.paths[path];
        let (kind, perm, layer) = &model.nodes[number];
        assert_eq!(
            *nodes.entry(number).or_insert(*node),
            *node,
            "{path}: links are one node"
        );
        let attr = base.attr(*node).unwrap();
        assert_eq!(attr.perm, *perm, "{path}");
        assert_eq!(base.layer(*node), Ok(*layer), "{path}");
        let same = model
            .paths
            .values()
            .filter(|other| **other == number)
            .count();
        let names = base.names(*node).unwrap();
        match kind {
            Kind::Dir => {
                let children = model
                    .below(path)
                    .into_iter()
                    .filter(|child| !child[path.len() + 1..].contains('/') && model.is_dir(child));
                assert_eq!(attr.nlink as usize, 2 + children.count(), "{path}");
                assert_eq!((attr.kind, names.len()), (FileType::Directory, 1));
            }
            Kind::Symlink => assert_eq!(base.readlink(*node).unwrap(), b"/nowhere"),
            Kind::File(data) => {
                let found = match base.data(*node).unwrap() {
                    Data::Bytes(bytes) => bytes.into_vec(),
                    Data::File(file) => std::io::Read::bytes(file).map(Result::unwrap).collect(),
                };
                assert_eq!(found, *data, "{path}");
                assert_eq!(attr.size, data.len() as u64);
            }
        }
        if *kind != Kind::Dir {
            assert_eq!((attr.nlink as usize, names.len()), (same, same), "{path}");
        }
        for (parent, name) in names {
            assert_eq!(base.lookup(parent, &name), Ok(Some(*node)), "{path}");
        }
        assert_eq!(base.locate(&base.locator(*node).unwrap()), Ok(Some(*node)));
    }
}

fn walk(base: &Base, at: NodeId, path: &str, seen: &mut BTreeMap<String, NodeId>) {
    let mut from = 0;
    loop {
        // One at a time, as a reader with a tiny buffer would.
        let mut found = None;
        base.entries(at, from, &mut |entry| {
            found = Some((entry.name.to_vec(), entry.node, entry.kind, entry.next));
            false
        })
        .unwrap();
        let Some((name, node, kind, next)) = found else {
            break;
        };
        let name = String::from_utf8(name).unwrap();
        let path = if path.is_empty() {
            name
        } else {
            format!("{path}/{name}")
        };
        if kind == FileType::Directory {
            walk(base, node, &path, seen);
        }
        assert!(seen.insert(path, node).is_none());
        from = next;
    }
}

fn path() -> impl Strategy<Value = Vec<u8>> {
    proptest::collection::vec(0..4_u8, 1..4)
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        4 => (path(), any::<u8>()).prop_map(|(path, byte)| Op::File(path, byte)),
        3 => (path(), any::<u8>()).prop_map(|(path, bits)| Op::Dir(path, bits)),
        1 => path().prop_map(Op::Symlink),
        3 => (path(), any::<u8>()).prop_map(|(path, which)| Op::Link(path, which)),
        2 => path().prop_map(Op::Whiteout),
        1 => path().prop_map(Op::Opaque),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 150,
        // The same cases every time: what CI says of a change is about the change.
        rng_seed: RngSeed::Fixed(20_261_121),
        ..ProptestConfig::default()
    })]
    #[test]
    fn bases_show_what_overlayfs_would(
        layers in proptest::collection::vec(proptest::collection::vec(op(), 1..20), 1..5)
    ) {
        // In memory where there is such a place: an ingest syncs its file system.
        let shm = std::path::Path::new("/dev/shm");
        let place = if shm.is_dir() { shm.to_owned() } else { std::env::temp_dir() };
        let temp = tempfile::tempdir_in(place).unwrap();
        let store = Store::open(temp.path()).unwrap();
        let mut model = Model { paths: BTreeMap::new(), nodes: Vec::new() };
        let mut ids = Vec::new();
        for (number, ops) in (0..).zip(&layers) {
            // Children of a symlink of the same layer are followed; leave those stacks out.
            let links: Vec<_> = ops.iter().filter_map(|op| match op {
                Op::Symlink(path) => Some(text(path)),
                Op::File(..) | Op::Dir(..) | Op::Link(..) | Op::Whiteout(_) | Op::Opaque(_) => None,
            }).collect();
            let ops: Vec<_> = ops.iter().filter(|op| {
                let (Op::File(path, _) | Op::Dir(path, _) | Op::Symlink(path) | Op::Link(path, _)
                    | Op::Whiteout(path) | Op::Opaque(path)) = op;
                let path = text(path);
                !links.iter().any(|link| path.starts_with(&format!("{link}/")))
            }).cloned().collect();
            let mut items = apply(&mut model, &ops, number);
            // Layers must differ, or the chain would have one twice: that is allowed, but dull.
            items.push(Item { mtime: u64::from(number), ..item(b'5', "./") });
            ids.push(try_ingest(&store, &tar(&items)).unwrap().diff_id);
            let base = store.base(&ids).unwrap_or_else(|error| panic!("{error}"));
            compare(&base, &model);
        }
    }
}
