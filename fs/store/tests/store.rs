//! The store as a whole: sharing, names, leases, gc, check, debris.
#![expect(clippy::unwrap_used, reason = "test helpers")]

mod support;

use std::fs;
use std::io::{Read, Write};

use flate2::write::GzEncoder;
use rrun_core::{Data, Digest, Errno, Lower, NodeId, Time};
use rrun_store::{
    Compression, Expect, ImageLayer, ImageRecord, LayerIndex, Repair, Store, StoreError, chain_id,
};
use support::{Item, dir, file, find, link, tar, try_ingest};

fn record(store: &Store, config: &[u8], layers: &[Digest]) -> ImageRecord {
    ImageRecord {
        config: store.put_blob(config, None).unwrap(),
        manifest: None,
        manifest_media_type: String::new(),
        extra_blobs: Vec::new(),
        layers: layers
            .iter()
            .map(|id| ImageLayer {
                diff_id: *id,
                blob: None,
            })
            .collect(),
        repo_digests: Vec::new(),
        tagged: Time::default(),
    }
}

#[test]
fn every_compression_gives_the_same_layer_and_remembers_its_blob() {
    let temp = tempfile::tempdir().unwrap();
    let store = Store::open(temp.path()).unwrap();
    let plain = tar(&[file("a", &[1; 6000])]);
    let mut gzip = Vec::new();
    for half in plain.chunks(plain.len() / 2 + 1) {
        let mut member = GzEncoder::new(Vec::new(), flate2::Compression::fast());
        member.write_all(half).unwrap();
        gzip.extend(member.finish().unwrap());
    }
    let mut zst = b"\x50\x2a\x4d\x18\x03\0\0\0abc".to_vec();
    zst.extend(zstd::encode_all(&plain[..], 1).unwrap());
    let mut last = None;
    let cases = [
        (&plain, Compression::None),
        (&gzip, Compression::Gzip),
        (&zst, Compression::Zstd),
    ];
    for (count, (bytes, compression)) in cases.into_iter().enumerate() {
        let seen = std::cell::Cell::new(0);
        let expect = Expect {
            keep_blob: true,
            ..Expect::default()
        };
        let info = store
            .ingest_layer(&bytes[..], Compression::Auto, &expect, &|done| {
                seen.set(done);
            })
            .unwrap();
        assert_eq!(
            (info.blob.compression, info.blob.size),
            (compression, bytes.len() as u64)
        );
        assert_eq!(seen.get(), bytes.len() as u64);
        assert_eq!(info.blobs.len(), count + 1);
        assert_eq!(store.layer_info(&info.diff_id).unwrap(), info);
        assert_eq!(store.blob(&info.blob.digest).unwrap(), *bytes);
        assert_eq!(*last.get_or_insert(info.diff_id), info.diff_id);
    }
    let cut = &gzip[..gzip.len() - 5];
    assert!(matches!(
        try_ingest(&store, cut),
        Err(StoreError::Source(_) | StoreError::Tar { .. })
    ));
}

#[test]
fn equal_files_are_one_object_and_concurrent_ingests_agree() {
    let temp = tempfile::tempdir().unwrap();
    let store = Store::open(temp.path()).unwrap();
    let items: Vec<_> = (0..200_u32)
        .map(|n| file(&format!("d/{n}"), &(n / 2).to_le_bytes().repeat(500)))
        .collect();
    let bytes = tar(&items);
    let ids = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..4)
            .map(|_| {
                scope.spawn(|| {
                    let store = Store::open(temp.path()).unwrap();
                    try_ingest(&store, &bytes).unwrap().diff_id
                })
            })
            .collect();
        threads
            .into_iter()
            .map(|thread| thread.join().unwrap())
            .collect::<Vec<_>>()
    });
    assert!(ids.iter().all(|id| *id == ids[0]));
    assert_eq!(store.usage().unwrap().objects, 100);
    let report = store.check(Repair::No).unwrap();
    assert_eq!(report.problems, [""; 0]);
    let again = file("other", &7_u32.to_le_bytes().repeat(500));
    try_ingest(&store, &tar(&[again])).unwrap();
    assert_eq!(store.usage().unwrap().objects, 100);
}

#[test]
fn debris_of_dead_processes_goes_and_that_of_live_ones_stays() {
    let temp = tempfile::tempdir().unwrap();
    let store = Store::open(temp.path()).unwrap();
    let dead = temp.path().join("tmp/0-1-2/layer0/o");
    fs::create_dir_all(&dead).unwrap();
    fs::write(dead.join("x"), b"half").unwrap();
    store.put_blob(b"x", None).unwrap();
    Store::open(temp.path()).unwrap();
    assert!(!temp.path().join("tmp/0-1-2").try_exists().unwrap());
    let live: Vec<_> = fs::read_dir(temp.path().join("tmp")).unwrap().collect();
    assert_eq!(live.len(), 1);
    drop(store);
    assert_eq!(fs::read_dir(temp.path().join("tmp")).unwrap().count(), 0);
}

#[test]
fn a_store_of_another_version_is_left_alone() {
    let temp = tempfile::tempdir().unwrap();
    fs::write(temp.path().join("VERSION"), "rrun-store 99\n").unwrap();
    let error = Store::open(temp.path()).unwrap_err();
    assert!(error.to_string().contains("VERSION says"), "{error}");
    assert_eq!(fs::read_dir(temp.path()).unwrap().count(), 1);
    let file = temp.path().join("file");
    fs::write(&file, b"").unwrap();
    let error = Store::open(&file.join("store")).unwrap_err();
    assert!(error.to_string().contains("file/store"), "{error}");
}

#[test]
fn names_lead_to_images_and_ids_may_be_shortened() {
    let temp = tempfile::tempdir().unwrap();
    let store = Store::open(temp.path()).unwrap();
    let layer = try_ingest(&store, &tar(&[file("a", b"1")]))
        .unwrap()
        .diff_id;
    let images: Vec<_> = (0..40)
        .map(|n| record(&store, format!("config {n}").as_bytes(), &[layer]))
        .collect();
    store
        .set_ref("docker.io/library/x:latest", &images[0])
        .unwrap();
    store.set_ref("docker.io/library/x:1", &images[0]).unwrap();
    for image in &images[1..] {
        store.set_untagged(image).unwrap();
    }
    let found = store.resolve("docker.io/library/x:1").unwrap();
    assert_eq!(
        found.names,
        ["docker.io/library/x:1", "docker.io/library/x:latest"]
    );
    let hex = images[0].config.hex();
    for id in [&hex[..], &hex[..20], &format!("sha256:{hex}")] {
        assert_eq!(store.resolve(id).unwrap().image, images[0], "{id}");
    }
    // Forty ids and sixteen first digits.
    let ambiguous = (0..16).filter(|digit| {
        let result = store.resolve(&format!("{digit:x}"));
        matches!(result, Err(StoreError::ImageAmbiguous { candidates, .. }) if candidates.len() > 1)
    });
    assert!(ambiguous.count() > 0);
    for unknown in ["", "x", "docker.io/library/x", "sha256:", "zz"] {
        let result = store.resolve(unknown);
        assert!(
            matches!(result, Err(StoreError::ImageUnknown(_))),
            "{unknown:?}"
        );
    }
    // The name moves on; the image stays without one, and gets it back.
    let other = record(&store, b"other", &[layer]);
    store.remove_ref("docker.io/library/x:1").unwrap();
    store.set_ref("docker.io/library/x:latest", &other).unwrap();
    assert_eq!(store.resolve(&hex).unwrap().names, [""; 0]);
    assert_eq!(store.refs().unwrap().len(), 41);
    store.set_ref("back", &images[0]).unwrap();
    assert_eq!(store.resolve(&hex).unwrap().names, ["back"]);
    assert_eq!(store.refs().unwrap().len(), 41);
    let missing = ImageRecord {
        config: Digest::from_bytes([1; 32]),
        ..other
    };
    assert!(matches!(
        store.set_ref("n", &missing),
        Err(StoreError::BlobMissing(_))
    ));
    assert!(matches!(
        store.set_ref("", &images[0]),
        Err(StoreError::RefName(_))
    ));
}

#[test]
fn gc_keeps_what_names_leases_and_containers_reach() {
    let temp = tempfile::tempdir().unwrap();
    let store = Store::open(temp.path()).unwrap();
    let ids: Vec<_> = (0..4_u8)
        .map(|n| {
            try_ingest(&store, &tar(&[file("f", &[n; 600])]))
                .unwrap()
                .diff_id
        })
        .collect();
    let named = record(&store, b"named", &ids[..1]);
    store.set_ref("named", &named).unwrap();
    for id in &ids {
        store.base(&[*id]).unwrap();
    }
    let lease = store.lease(&[chain_id(&ids[1..2])]).unwrap();
    let other = Store::open(temp.path()).unwrap();
    assert_eq!(
        other.gc(&[]).unwrap().layers,
        0,
        "pinned by the store that took them in"
    );
    drop(store);
    let report = other.gc(&[chain_id(&ids[2..3])]).unwrap();
    assert_eq!((report.layers, report.bases, report.objects), (1, 1, 1));
    let kept: Vec<_> = ids.iter().map(|id| other.has_layer(id).unwrap()).collect();
    assert_eq!(kept, [true, true, true, false]);
    drop(lease);
    assert_eq!(other.gc(&[]).unwrap().layers, 2);
    let base = other.base(&ids[..1]).unwrap();
    assert!(matches!(
        base.data(find(&base, "f").unwrap()),
        Ok(Data::File(_))
    ));
    other.remove_ref("named").unwrap();
    let report = other.gc(&[]).unwrap();
    assert_eq!((report.layers, report.blobs, report.bases), (1, 1, 1));
    let usage = other.usage().unwrap();
    assert_eq!((usage.objects, usage.layers, usage.base_bytes), (0, 0, 0));
    assert!(matches!(
        other.lease(&[chain_id(&ids[..1])]),
        Err(StoreError::BaseMissing(_))
    ));
}

#[test]
fn check_finds_damage_and_a_new_ingest_heals_it() {
    let temp = tempfile::tempdir().unwrap();
    let store = Store::open(temp.path()).unwrap();
    let bytes = tar(&[file("f", &[5; 6000])]);
    let id = try_ingest(&store, &bytes).unwrap().diff_id;
    let base = store.base(&[id]).unwrap();
    let digest = base.objects()[0].hex();
    let object = temp
        .path()
        .join("objects")
        .join(&digest[..2])
        .join(&digest[2..]);
    fs::remove_file(&object).unwrap();
    assert_eq!(
        base.data(find(&base, "f").unwrap()).unwrap_err(),
        Errno::EIO
    );
    fs::write(&object, [6; 6000]).unwrap();
    assert_eq!(store.check(Repair::No).unwrap().broken_layers, [id]);
    let report = store.check(Repair::Yes).unwrap();
    assert_eq!(report.problems.len(), 2, "{report:?}");
    assert_eq!(
        fs::read_dir(temp.path().join("quarantine"))
            .unwrap()
            .count(),
        2
    );
    assert!(!store.has_layer(&id).unwrap());
    try_ingest(&store, &bytes).unwrap();
    assert_eq!(store.check(Repair::Yes).unwrap().problems, [""; 0]);
    assert!(base.data(find(&base, "f").unwrap()).is_ok());
}

#[test]
fn damaged_indexes_are_refused_and_never_panic() {
    let temp = tempfile::tempdir().unwrap();
    let store = Store::open(temp.path()).unwrap();
    let items = [
        dir("d"),
        file("d/f", b"text").pax("SCHILY.xattr.user.a", b"b"),
        file("d/g", &[1; 700]),
        link(b'1', "d/h", "d/f"),
        link(b'2', "d/s", "f"),
        Item {
            device: (1, 2),
            ..link(b'3', "dev", "")
        },
    ];
    let id = try_ingest(&store, &tar(&items)).unwrap().diff_id;
    let whole = fs::read(temp.path().join("layers").join(id.hex()).join("index")).unwrap();
    assert!(LayerIndex::decode(whole.clone()).is_ok());
    for at in 0..whole.len() {
        assert!(
            LayerIndex::decode(whole[..at].to_vec()).is_err(),
            "cut at {at}"
        );
        let mut flipped = whole.clone();
        flipped[at] ^= 0x10;
        assert!(LayerIndex::decode(flipped).is_err(), "flip at {at}");
    }
    drop(store.base(&[id]).unwrap());
    let path = temp.path().join("bases").join(chain_id(&[id]).hex());
    let whole = fs::read(&path).unwrap();
    for at in 0..whole.len() {
        for bytes in [
            whole[..at].to_vec(),
            flip(&whole, at, 1),
            flip(&whole, at, 0x80),
        ] {
            fs::remove_file(&path).unwrap();
            fs::write(&path, &bytes).unwrap();
            touch(&store.base(&[id]).unwrap());
            if at < 256 || bytes.len() < whole.len() {
                assert!(fs::read(&path).unwrap() == whole, "built again: {at}");
            } else {
                assert_eq!(store.check(Repair::No).unwrap().problems.len(), 1, "{at}");
            }
        }
    }
    let report = store.check(Repair::Yes).unwrap();
    assert_eq!(report.problems.len(), 1);
    assert!(store.base(&[id]).is_ok());
}

fn flip(bytes: &[u8], at: usize, bit: u8) -> Vec<u8> {
    let mut bytes = bytes.to_vec();
    bytes[at] ^= bit;
    bytes
}

/// Asks a damaged base everything; only errors may come.
fn touch(base: &rrun_store::Base) {
    for number in 0..=base.len() as u64 + 2 {
        let node = NodeId(number);
        drop((
            base.attr(node),
            base.readlink(node),
            base.names(node),
            base.layer(node),
        ));
        drop((base.data(node), base.locator(node), base.lookup(node, b"f")));
        for name in base.xattr_names(node).unwrap_or_default() {
            drop(base.xattr(node, &name));
        }
        let _ignored = base.entries(node, 0, &mut |_| true);
    }
}

#[test]
fn an_export_fails_rather_than_lies_when_an_object_is_gone() {
    let temp = tempfile::tempdir().unwrap();
    let store = Store::open(temp.path()).unwrap();
    let id = try_ingest(&store, &tar(&[file("f", &[5; 6000])]))
        .unwrap()
        .diff_id;
    fs::remove_dir_all(temp.path().join("objects")).unwrap();
    let mut out = Vec::new();
    let error = store
        .layer_tar(&id)
        .unwrap()
        .read_to_end(&mut out)
        .unwrap_err();
    assert!(error.to_string().contains("object sha256:"), "{error}");
}
