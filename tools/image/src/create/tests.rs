use std::sync::Arc;

use rrun_core::{Device, Errno, Time};
use rrun_store::Store;
use rrun_union::{Caller, Ino, OnWrite, Options, RenameMode, SetAttr, SetTime, Union, XattrMode};

use super::*;
use crate::archive::{SaveFormat, load, save_to_stream};
use crate::testing::{Image, Recorder, Reply, Server, gzip, layer_tar};
use crate::{Silent, images};

const ROOT: Caller = Caller {
    uid: 0,
    gid: 0,
    umask: 0o22,
};

struct Room {
    dir: tempfile::TempDir,
    store: Store,
    image: ImageRecord,
}

fn room() -> Room {
    room_of(&Image::new(&[
        &[
            ("etc/hosts", b"a\n"),
            ("etc/same", b"s\n"),
            ("dir/a", b"a"),
            ("dir/b", b"b"),
            ("moved/x/y", b"deep"),
            ("gone/one", b"1"),
        ],
        &[("bin/x", b"x\n")],
    ]))
}

/// A store with an image of two layers.
fn room_of(image: &Image) -> Room {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(&dir.path().join("store")).unwrap();
    let layers: Vec<_> = (0..2).map(|n| format!("{n}.tar")).collect();
    let manifest = json!([{"Config": "c", "RepoTags": ["base:1"], "Layers": layers}]);
    let archive = layer_tar(&[
        ("manifest.json", manifest.to_string().as_bytes()),
        ("c", &image.config),
        ("0.tar", &image.tars[0]),
        ("1.tar", &image.tars[1]),
    ]);
    load(
        &store,
        Input::Stream(&mut &archive[..]),
        &Arch::native(),
        &Silent,
    )
    .unwrap();
    let image = images::find(&store, "base:1").unwrap().0;
    Room { dir, store, image }
}

impl Room {
    fn writable(&self) -> Union {
        let upper = self.dir.path().join("upper");
        let work = self.dir.path().join("work");
        std::fs::create_dir_all(&upper).unwrap();
        std::fs::create_dir_all(&work).unwrap();
        let base = self.store.base(&self.image.diff_ids()).unwrap();
        Union::open(Arc::new(base), Some((&upper, &work)), Options::default()).unwrap()
    }

    fn read_only(&self, id: Digest) -> Union {
        let (image, _) = images::find(&self.store, &id.to_string()).unwrap();
        let base = self.store.base(&image.diff_ids()).unwrap();
        let options = Options {
            read_only: true,
            ..Options::default()
        };
        Union::open(Arc::new(base), None, options).unwrap()
    }
}

fn at(union: &Union, path: &str) -> Ino {
    path.split('/').fold(Ino::ROOT, |dir, name| {
        union.lookup(dir, name.as_bytes()).unwrap().ino
    })
}

fn write_file(union: &Union, dir: Ino, name: &[u8], contents: &[u8]) -> Ino {
    let entry = union
        .mknod(dir, name, 0o100_644, Device::default(), &ROOT)
        .unwrap();
    union.write(entry.ino, 0, contents, OnWrite::Keep).unwrap();
    entry.ino
}

/// A change of every kind.
fn change_everything(union: &Union) -> Result<(), Errno> {
    let (root, etc, dir) = (Ino::ROOT, at(union, "etc"), at(union, "dir"));
    union.unlink(etc, b"same")?;
    union.write(at(union, "etc/hosts"), 0, b"changed", OnWrite::Keep)?;
    let file = write_file(union, root, &[b'n'; 200], &vec![7; 300_000]);
    union.link(file, etc, b"zlink")?;
    union.link(file, dir, b"link")?;
    let owner = SetAttr {
        uid: Some(3_000_000),
        gid: Some(5),
        perm: Some(0o4711),
        ..SetAttr::default()
    };
    union.setattr(file, &owner)?;
    let old = SetAttr {
        mtime: Some(SetTime::At(Time {
            secs: -5,
            nanos: 250_000_000,
        })),
        ..SetAttr::default()
    };
    union.setattr(at(union, "bin/x"), &old)?;
    union.setxattr(file, b"user.note", b"\0\x01", XattrMode::Set)?;
    union.symlink(etc, b"sym", &[b't'; 150], &ROOT)?;
    union.mknod(root, b"pipe", 0o010_600, Device::default(), &ROOT)?;
    let null = Device { major: 1, minor: 3 };
    union.mknod(root, b"null", 0o020_666, null, &ROOT)?;
    // A directory made anew hides what the old one had.
    union.unlink(at(union, "gone"), b"one")?;
    union.rmdir(root, b"gone")?;
    let fresh = union.mkdir(root, b"gone", 0o755, &ROOT)?.ino;
    write_file(union, fresh, b"two", b"2");
    // A file becomes a directory and the reverse.
    union.unlink(dir, b"a")?;
    union.mkdir(dir, b"a", 0o700, &ROOT)?;
    union.rename(
        (root, b"moved"),
        (root, b"new place"),
        RenameMode::NoReplace,
    )?;
    write_file(union, root, b"moved", b"a file now");
    Ok(())
}

fn exported(union: &Union) -> Vec<u8> {
    let mut out = Vec::new();
    export(union, &mut out, &Silent).unwrap();
    out
}

fn names(tar: &[u8]) -> Vec<String> {
    let mut archive = tar::Archive::new(tar);
    let entries = archive.entries().unwrap();
    entries
        .map(|entry| String::from_utf8_lossy(&entry.unwrap().path_bytes()).into_owned())
        .collect()
}

#[test]
fn a_committed_container_has_the_same_tree() {
    let room = room();
    let union = room.writable();
    change_everything(&union).unwrap();
    let name: ImageRef = "made:1".parse().unwrap();
    let changes = ["CMD [\"run\"]".to_owned()];
    let request = Commit {
        parent: Some(&room.image),
        created_by: "sh -c change",
        labels: Labels {
            name: Some(&name),
            changes: &changes,
            message: "why",
            author: "me",
        },
        ..Commit::default()
    };
    let id = commit(&room.store, &union, &request, &Arch::native(), &Silent).unwrap();
    let (live, committed) = (exported(&union), exported(&room.read_only(id)));
    assert_eq!(names(&live), names(&committed));
    assert!(
        live == committed,
        "the trees differ in attributes or contents"
    );
    let (image, _) = images::find(&room.store, "made:1").unwrap();
    assert_eq!((image.config, image.layers.len()), (id, 3));
    let bytes = room.store.blob(&id).unwrap();
    let value: Value = serde_json::from_slice(&bytes).unwrap();
    assert_eq!(value["x.unknown"], json!(1));
    assert_eq!(value["config"]["Cmd"], json!(["run"]));
    assert_eq!(value["history"][1]["created_by"], json!("sh -c change"));
    let keys: Vec<_> = value
        .as_object()
        .unwrap()
        .keys()
        .map(String::as_str)
        .collect();
    assert_eq!(keys[..3], ["architecture", "os", "x.unknown"]);
    // The same changes give the same layer.
    let again = commit(&room.store, &union, &request, &Arch::native(), &Silent).unwrap();
    let (again, _) = images::find(&room.store, &again.to_string()).unwrap();
    assert_eq!(again.diff_ids(), image.diff_ids());
}

#[test]
fn a_container_without_changes_adds_no_layer() {
    let room = room();
    let request = Commit {
        parent: Some(&room.image),
        ..Commit::default()
    };
    let union = room.writable();
    let id = commit(&room.store, &union, &request, &Arch::native(), &Silent).unwrap();
    let (image, _) = images::find(&room.store, &id.to_string()).unwrap();
    assert_eq!(image.diff_ids(), room.image.diff_ids());
    let rows = images::history(&room.store, &image).unwrap();
    assert_eq!(rows.iter().filter(|row| row.id.is_some()).count(), 1);
    // Of a plain directory only the changes are committed.
    write_file(&union, Ino::ROOT, b"only", b"1");
    let id = commit(
        &room.store,
        &union,
        &Commit::default(),
        &Arch::native(),
        &Silent,
    )
    .unwrap();
    assert_eq!(names(&exported(&room.read_only(id))), ["only"]);
}

#[test]
fn sockets_are_left_out_with_a_note() {
    let room = room();
    let union = room.writable();
    union
        .mknod(Ino::ROOT, b"sock", 0o140_600, Device::default(), &ROOT)
        .unwrap();
    write_file(&union, Ino::ROOT, b"file", b"1");
    let progress = Recorder::default();
    let request = Commit {
        parent: Some(&room.image),
        ..Commit::default()
    };
    let id = commit(&room.store, &union, &request, &Arch::native(), &progress).unwrap();
    assert_eq!(progress.count("socket /sock"), 1);
    let names = names(&exported(&room.read_only(id)));
    assert!(names.contains(&"file".to_owned()) && !names.contains(&"sock".to_owned()));
}

#[test]
fn an_exported_tree_is_imported_as_one_layer() {
    let room = room();
    let union = room.writable();
    change_everything(&union).unwrap();
    let tar = exported(&union);
    let name: ImageRef = "flat".parse().unwrap();
    for form in [tar.clone(), gzip(&tar)] {
        let labels = Labels {
            name: Some(&name),
            ..Labels::default()
        };
        let input = Input::Stream(&mut &form[..]);
        let id = import(&room.store, input, &labels, &Arch::native(), &Silent).unwrap();
        assert_eq!(exported(&room.read_only(id)), tar);
        let (image, _) = images::find(&room.store, "flat").unwrap();
        assert_eq!((image.config, image.layers.len()), (id, 1));
        let rows = images::history(&room.store, &image).unwrap();
        assert_eq!(rows[0].comment, "Imported from -");
    }
}

#[test]
fn a_saved_image_is_not_imported() {
    let room = room();
    for format in [SaveFormat::DockerArchive, SaveFormat::OciArchive] {
        let mut saved = Vec::new();
        save_to_stream(&room.store, &["base:1".to_owned()], format, &mut saved).unwrap();
        let input = Input::Stream(&mut &saved[..]);
        let result = import(
            &room.store,
            input,
            &Labels::default(),
            &Arch::native(),
            &Silent,
        );
        let error = result.unwrap_err();
        assert!(matches!(error, ImageError::SavedImage(_)), "{error}");
        assert!(error.hint().unwrap().contains("load"));
    }
    let input = Input::Stream(&mut &b"no tar at all"[..]);
    let result = import(
        &room.store,
        input,
        &Labels::default(),
        &Arch::native(),
        &Silent,
    );
    assert!(result.is_err());
    assert_eq!(room.store.refs().unwrap().len(), 1);
}

#[test]
fn a_tree_is_imported_from_an_address() {
    let room = room();
    let tar = gzip(&layer_tar(&[("bin/sh", b"#")]));
    let body = tar.clone();
    let server = Server::start(move |seen| match seen.target.as_str() {
        "/old" => Reply::new(302, "").with("Location", "/new.tgz"),
        "/new.tgz" => Reply::new(200, body.clone()),
        "/cut" => {
            let mut reply = Reply::new(200, body.clone());
            reply.cut = Some(body.len() / 2);
            reply
        }
        _ => Reply::new(404, ""),
    });
    let fetch = |path: &str| {
        let url = format!("http://{}{path}", server.host);
        import_url(
            &room.store,
            &url,
            &Labels::default(),
            &Arch::native(),
            &Silent,
        )
    };
    let id = fetch("/old").unwrap();
    assert_eq!(names(&exported(&room.read_only(id))), ["bin/", "bin/sh"]);
    assert!(fetch("/none").unwrap_err().to_string().contains("404"));
    assert!(fetch("/cut").is_err());
}

#[test]
fn hard_links_of_the_image_stay_together_when_one_name_changes() {
    let mut tar = tar::Builder::new(Vec::new());
    let mut header = tar::Header::new_ustar();
    header.set_mode(0o644);
    header.set_size(3);
    tar.append_data(&mut header, "d/one", &b"old"[..]).unwrap();
    for name in ["d/three", "two"] {
        let mut header = tar::Header::new_ustar();
        header.set_mode(0o644);
        header.set_entry_type(tar::EntryType::Link);
        header.set_size(0);
        tar.append_link(&mut header, name, "d/one").unwrap();
    }
    let tars = vec![tar.into_inner().unwrap(), layer_tar(&[("x", b"x")])];
    let room = room_of(&Image::of_tars(tars));
    let union = room.writable();
    union
        .write(at(&union, "two"), 0, b"new", OnWrite::Keep)
        .unwrap();
    let request = Commit {
        parent: Some(&room.image),
        ..Commit::default()
    };
    let id = commit(&room.store, &union, &request, &Arch::native(), &Silent).unwrap();
    let committed = room.read_only(id);
    let inode = |path: &str| committed.getattr(at(&committed, path)).unwrap().ino;
    assert_eq!(inode("two"), inode("d/one"));
    assert_eq!(inode("two"), inode("d/three"));
    assert!(exported(&union) == exported(&committed), "the trees differ");
}
