//! Images built by the tests: layers entry by entry, archives in Docker's form.

use serde_json::{Value, json};
use sha2::{Digest, Sha256};

/// A layer being written.
pub(crate) struct Layer(tar::Builder<Vec<u8>>);

/// Owner, group and mode of an entry.
#[derive(Clone, Copy)]
pub(crate) struct Meta {
    pub(crate) uid: u64,
    pub(crate) gid: u64,
    pub(crate) mode: u32,
}

/// Root's, 0644 or 0755.
pub(crate) const FILE: Meta = Meta {
    uid: 0,
    gid: 0,
    mode: 0o644,
};
pub(crate) const DIR: Meta = Meta {
    uid: 0,
    gid: 0,
    mode: 0o755,
};

impl Layer {
    pub(crate) fn new() -> Self {
        Self(tar::Builder::new(Vec::new()))
    }

    fn header(kind: tar::EntryType, meta: Meta) -> tar::Header {
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(kind);
        header.set_mode(meta.mode);
        // Ids above the field's octal range are written in base 256, as GNU tar does.
        header.set_uid(meta.uid);
        header.set_gid(meta.gid);
        header.set_mtime(1_600_000_000);
        header.set_size(0);
        header
    }

    pub(crate) fn dir(mut self, path: &str, meta: Meta) -> Self {
        let mut header = Self::header(tar::EntryType::Directory, meta);
        self.0.append_data(&mut header, path, &[][..]).unwrap();
        self
    }

    pub(crate) fn file(mut self, path: &str, data: &[u8], meta: Meta) -> Self {
        let mut header = Self::header(tar::EntryType::Regular, meta);
        header.set_size(data.len() as u64);
        self.0.append_data(&mut header, path, data).unwrap();
        self
    }

    /// A file with an extended attribute, in a PAX record.
    pub(crate) fn xattr(mut self, path: &str, data: &[u8], name: &str, value: &[u8]) -> Self {
        let key = format!("SCHILY.xattr.{name}");
        self.0
            .append_pax_extensions([(key.as_str(), value)])
            .unwrap();
        self.file(path, data, FILE)
    }

    pub(crate) fn symlink(mut self, path: &str, target: &str) -> Self {
        let mut header = Self::header(tar::EntryType::Symlink, DIR);
        self.0.append_link(&mut header, path, target).unwrap();
        self
    }

    pub(crate) fn hardlink(mut self, path: &str, target: &str) -> Self {
        let mut header = Self::header(tar::EntryType::Link, FILE);
        self.0.append_link(&mut header, path, target).unwrap();
        self
    }

    pub(crate) fn device(mut self, path: &str, major: u32, minor: u32) -> Self {
        let mut header = Self::header(tar::EntryType::Char, FILE);
        header.set_device_major(major).unwrap();
        header.set_device_minor(minor).unwrap();
        self.0.append_data(&mut header, path, &[][..]).unwrap();
        self
    }

    pub(crate) fn fifo(mut self, path: &str) -> Self {
        let mut header = Self::header(tar::EntryType::Fifo, FILE);
        self.0.append_data(&mut header, path, &[][..]).unwrap();
        self
    }

    /// An entry whose name the tar crate would refuse to write.
    pub(crate) fn raw(mut self, path: &str, kind: tar::EntryType, target: &str) -> Self {
        let mut header = Self::header(kind, FILE);
        let name = &mut header.as_old_mut().name;
        name[..path.len()].copy_from_slice(path.as_bytes());
        let link = &mut header.as_old_mut().linkname;
        link[..target.len()].copy_from_slice(target.as_bytes());
        header.set_cksum();
        self.0.append(&header, &[][..]).unwrap();
        self
    }

    /// Hides a path of the layers below.
    pub(crate) fn whiteout(self, dir: &str, name: &str) -> Self {
        self.file(&format!("{dir}.wh.{name}"), b"", FILE)
    }

    /// Hides everything below in a directory.
    pub(crate) fn opaque(self, dir: &str) -> Self {
        self.file(&format!("{dir}/.wh..wh..opq"), b"", FILE)
    }

    pub(crate) fn tar(self) -> Vec<u8> {
        self.0.into_inner().unwrap()
    }
}

/// The text form of a digest.
pub(crate) fn digest(bytes: &[u8]) -> String {
    let hex: String = Sha256::digest(bytes)
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect();
    format!("sha256:{hex}")
}

/// The config of an image of these layers.
pub(crate) fn config(layers: &[Vec<u8>], settings: &Value) -> Value {
    let diff_ids: Vec<String> = layers.iter().map(|layer| digest(layer)).collect();
    let history: Vec<Value> = layers
        .iter()
        .map(|_| json!({"created": "2020-01-01T00:00:00Z", "created_by": "/bin/sh -c #(nop) ADD"}))
        .collect();
    json!({
        "architecture": if cfg!(target_arch = "aarch64") { "arm64" } else { "amd64" },
        "os": "linux",
        "created": "2020-01-01T00:00:00Z",
        "config": settings,
        "rootfs": {"type": "layers", "diff_ids": diff_ids},
        "history": history,
    })
}

/// What a member of an archive holds.
pub(crate) type Member = (String, Vec<u8>);

/// The members of a docker-archive; `pack` compresses a layer, or does not.
pub(crate) fn docker_members(
    name: &str,
    config: &Value,
    layers: &[Vec<u8>],
    pack: &dyn Fn(&[u8]) -> Vec<u8>,
) -> Vec<Member> {
    let config = config.to_string().into_bytes();
    let config_name = format!("{}.json", digest(&config).trim_start_matches("sha256:"));
    let mut members = Vec::new();
    let mut paths = Vec::new();
    for (index, layer) in layers.iter().enumerate() {
        let path = format!("layer{index}.tar");
        members.push((path.clone(), pack(layer)));
        paths.push(path);
    }
    let manifest = json!([{"Config": config_name, "RepoTags": [name], "Layers": paths}]);
    members.push((config_name, config));
    members.push((
        "manifest.json".to_owned(),
        manifest.to_string().into_bytes(),
    ));
    members
}

/// A tar of members.
pub(crate) fn pack_members(members: &[Member]) -> Vec<u8> {
    let mut layer = Layer::new();
    for (path, bytes) in members {
        layer = layer.file(path, bytes, FILE);
    }
    layer.tar()
}

/// A docker-archive of plain layers.
pub(crate) fn docker_archive(name: &str, settings: &Value, layers: &[Vec<u8>]) -> Vec<u8> {
    let config = config(layers, settings);
    pack_members(&docker_members(name, &config, layers, &<[u8]>::to_vec))
}
