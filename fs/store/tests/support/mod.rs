//! A tar writer for tests: makes whatever it is told, sound or not.
#![allow(dead_code, reason = "each test binary uses a part")]

use rrun_core::{Lower, NodeId};
use rrun_store::{Base, Compression, Expect, LayerInfo, Store, StoreError};

/// One entry to write.
#[derive(Debug, Clone)]
pub(crate) struct Item {
    pub(crate) kind: u8,
    pub(crate) path: Vec<u8>,
    pub(crate) link: Vec<u8>,
    pub(crate) mode: u32,
    pub(crate) uid: u32,
    pub(crate) data: Vec<u8>,
    pub(crate) mtime: u64,
    /// PAX records to put before it.
    pub(crate) pax: Vec<(Vec<u8>, Vec<u8>)>,
    pub(crate) device: (u32, u32),
}

pub(crate) fn item(kind: u8, path: &str) -> Item {
    Item {
        kind,
        path: path.into(),
        link: Vec::new(),
        mode: 0o644,
        uid: 0,
        data: Vec::new(),
        mtime: 0,
        pax: Vec::new(),
        device: (0, 0),
    }
}

pub(crate) fn file(path: &str, data: &[u8]) -> Item {
    Item {
        data: data.into(),
        ..item(b'0', path)
    }
}

pub(crate) fn dir(path: &str) -> Item {
    Item {
        mode: 0o755,
        ..item(b'5', path)
    }
}

pub(crate) fn link(kind: u8, path: &str, target: &str) -> Item {
    Item {
        link: target.into(),
        ..item(kind, path)
    }
}

impl Item {
    pub(crate) fn pax(mut self, key: &str, value: &[u8]) -> Self {
        self.pax.push((key.into(), value.into()));
        self
    }
}

fn block(kind: u8, path: &[u8], size: usize, item: &Item) -> [u8; 512] {
    let mut block = [0_u8; 512];
    block[..path.len().min(100)].copy_from_slice(&path[..path.len().min(100)]);
    block[100..107].copy_from_slice(format!("{:07o}", item.mode).as_bytes());
    block[108..115].copy_from_slice(format!("{:07o}", item.uid).as_bytes());
    block[116..123].copy_from_slice(b"0000000");
    block[124..135].copy_from_slice(format!("{size:011o}").as_bytes());
    block[136..147].copy_from_slice(format!("{:011o}", item.mtime).as_bytes());
    block[156] = kind;
    block[157..157 + item.link.len().min(100)]
        .copy_from_slice(&item.link[..item.link.len().min(100)]);
    block[257..265].copy_from_slice(b"ustar\x0000");
    block[329..336].copy_from_slice(format!("{:07o}", item.device.0).as_bytes());
    block[337..344].copy_from_slice(format!("{:07o}", item.device.1).as_bytes());
    seal(&mut block);
    block
}

/// Sets the checksum of a header.
pub(crate) fn seal(block: &mut [u8]) {
    block[148..156].fill(b' ');
    let sum: u32 = block[..512].iter().map(|byte| u32::from(*byte)).sum();
    block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
}

pub(crate) fn pax_record(key: &[u8], value: &[u8]) -> Vec<u8> {
    let body = key.len() + value.len() + 3;
    let mut len = body + 1;
    while len != body + len.to_string().len() {
        len = body + len.to_string().len();
    }
    let mut out = format!("{len} ").into_bytes();
    out.extend_from_slice(key);
    out.push(b'=');
    out.extend_from_slice(value);
    out.push(b'\n');
    out
}

fn put(out: &mut Vec<u8>, head: &[u8; 512], data: &[u8]) {
    out.extend_from_slice(head);
    out.extend_from_slice(data);
    out.resize(out.len().next_multiple_of(512), 0);
}

pub(crate) fn tar(items: &[Item]) -> Vec<u8> {
    let mut out = Vec::new();
    for item in items {
        let mut pax = Vec::new();
        for (key, value) in &item.pax {
            pax.extend_from_slice(&pax_record(key, value));
        }
        if item.path.len() > 100 {
            pax.extend_from_slice(&pax_record(b"path", &item.path));
        }
        if item.link.len() > 100 {
            pax.extend_from_slice(&pax_record(b"linkpath", &item.link));
        }
        if !pax.is_empty() {
            put(&mut out, &block(b'x', b"pax", pax.len(), item), &pax);
        }
        put(
            &mut out,
            &block(item.kind, &item.path, item.data.len(), item),
            &item.data,
        );
    }
    out.resize(out.len() + 1024, 0);
    out
}

pub(crate) fn try_ingest(store: &Store, tar: &[u8]) -> Result<LayerInfo, StoreError> {
    store.ingest_layer(tar, Compression::Auto, &Expect::default(), &|_| {})
}

pub(crate) fn find(base: &Base, path: &str) -> Option<NodeId> {
    let mut node = NodeId::ROOT;
    for part in path.split('/').filter(|part| !part.is_empty()) {
        node = base.lookup(node, part.as_bytes()).ok()??;
    }
    Some(node)
}
