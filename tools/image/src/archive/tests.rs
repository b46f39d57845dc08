use std::io::Write;
use std::path::Path;
use std::process::Command;

use rrun_store::Store;
use serde_json::json;

use super::{Input, Loaded, SaveFormat, load, save_to_path, save_to_stream};
use crate::spec::{REF_NAME, digest_of, media};
use crate::testing::{Image, have};
use crate::{Arch, ImageError, Silent, images};

fn image() -> Image {
    Image::new(&[
        &[("etc/hosts", b"a\n"), ("etc/same", b"s\n")],
        &[("etc/.wh.hosts", b""), ("bin/x", b"x\n")],
    ])
}

fn store(dir: &tempfile::TempDir) -> Store {
    Store::open(&dir.path().join("store")).unwrap()
}

fn archive(members: &[(&str, Vec<u8>)]) -> Vec<u8> {
    let borrowed: Vec<_> = members
        .iter()
        .map(|(path, bytes)| (*path, &bytes[..]))
        .collect();
    crate::testing::layer_tar(&borrowed)
}

fn load_bytes(store: &Store, bytes: &[u8]) -> Result<Vec<Loaded>, ImageError> {
    let mut reader = bytes;
    load(store, Input::Stream(&mut reader), &Arch::native(), &Silent)
}

fn docker_manifest(config: &str, layers: &[&str], tags: &[&str]) -> Vec<u8> {
    let value = json!([{"Config": config, "RepoTags": tags, "Layers": layers}]);
    value.to_string().into_bytes()
}

/// Podman's form, members in an unhelpful order, one layer compressed, one behind a link.
fn podman_archive(image: &Image) -> Vec<u8> {
    let config = format!("{}.json", image.id().hex());
    let mut tar = tar::Builder::new(Vec::new());
    let mut add = |path: &str, bytes: &[u8]| {
        let mut header = tar::Header::new_gnu();
        header.set_mode(0o644);
        header.set_size(bytes.len() as u64);
        tar.append_data(&mut header, path, bytes).unwrap();
    };
    add("real.tar", &image.tars[0]);
    add("second/layer.tar", &image.blobs[1]);
    add(&config, &image.config);
    let tags = ["docker.io/library/x:1", "localhost:5/y:2"];
    let layers = ["first/layer.tar", "second/layer.tar"];
    add("manifest.json", &docker_manifest(&config, &layers, &tags));
    let mut header = tar::Header::new_gnu();
    header.set_entry_type(tar::EntryType::Symlink);
    header.set_size(0);
    tar.append_link(&mut header, "first/layer.tar", "../real.tar")
        .unwrap();
    tar.into_inner().unwrap()
}

fn write_layout(image: &Image, dir: &Path, name: Option<&str>) {
    let blobs = dir.join("blobs/sha256");
    std::fs::create_dir_all(&blobs).unwrap();
    let all = image.blobs.iter().chain([&image.config, &image.manifest]);
    for blob in all {
        std::fs::write(blobs.join(digest_of(blob).hex()), blob).unwrap();
    }
    std::fs::write(dir.join("oci-layout"), r#"{"imageLayoutVersion":"1.0.0"}"#).unwrap();
    let mut entry = json!({"mediaType": media::OCI_MANIFEST, "size": image.manifest.len(),
        "digest": digest_of(&image.manifest).to_string()});
    if let Some(name) = name {
        entry["annotations"] = json!({ REF_NAME: name });
    }
    let index = json!({"schemaVersion": 2, "manifests": [entry]});
    std::fs::write(dir.join("index.json"), index.to_string()).unwrap();
}

#[test]
fn a_docker_archive_is_read_in_any_order_and_through_links() {
    let image = image();
    let bytes = podman_archive(&image);
    for form in [bytes.clone(), crate::testing::gzip(&bytes)] {
        let dir = tempfile::tempdir().unwrap();
        let store = store(&dir);
        let loaded = load_bytes(&store, &form).unwrap();
        assert_eq!(loaded.len(), 1);
        assert_eq!(loaded[0].id, image.id());
        let names: Vec<_> = loaded[0].names.iter().map(ToString::to_string).collect();
        assert_eq!(names, ["x:1", "localhost:5/y:2"]);
        assert_eq!(images::find(&store, "x:1").unwrap().0.config, image.id());
        assert_eq!(store.blob(&image.id()).unwrap(), image.config);
    }
}

#[test]
fn an_oci_directory_is_named_by_its_annotation() {
    let image = image();
    let dir = tempfile::tempdir().unwrap();
    let layout = dir.path().join("layout");
    write_layout(&image, &layout, Some("quay.io/a/b:v1"));
    let store = store(&dir);
    let loaded = load(&store, Input::Path(&layout), &Arch::native(), &Silent).unwrap();
    assert_eq!(loaded[0].id, image.id());
    assert_eq!(loaded[0].names[0].canonical(), "quay.io/a/b:v1");
}

#[test]
fn every_format_gives_the_same_image_back_and_the_same_bytes_twice() {
    let image = image();
    let dir = tempfile::tempdir().unwrap();
    let first = store(&dir);
    load_bytes(&first, &podman_archive(&image)).unwrap();
    let names = ["x:1".to_owned(), "localhost:5/y:2".to_owned()];
    for format in [SaveFormat::DockerArchive, SaveFormat::OciArchive] {
        let mut saved = Vec::new();
        save_to_stream(&first, &names, format, &mut saved).unwrap();
        let mut again = Vec::new();
        save_to_stream(&first, &names, format, &mut again).unwrap();
        assert_eq!(saved, again, "{format:?} is not reproducible");
        let other = tempfile::tempdir().unwrap();
        let second = store(&other);
        let loaded = load_bytes(&second, &saved).unwrap();
        assert_eq!(loaded.len(), 1, "{format:?}");
        assert_eq!(loaded[0].id, image.id(), "{format:?}");
        assert_eq!(loaded[0].names.len(), 2, "{format:?}");
        assert_eq!(second.blob(&image.id()).unwrap(), image.config);
    }
    let layout = dir.path().join("out");
    save_to_path(&first, &names, SaveFormat::OciDirectory, &layout).unwrap();
    let other = tempfile::tempdir().unwrap();
    let loaded = load(
        &store(&other),
        Input::Path(&layout),
        &Arch::native(),
        &Silent,
    )
    .unwrap();
    assert_eq!(loaded[0].id, image.id());
}

#[test]
fn damage_is_named_and_leaves_no_image() {
    let image = image();
    let config = format!("{}.json", image.id().hex());
    let manifest = docker_manifest(&config, &["a.tar", "b.tar"], &["x:1"]);
    let good = [
        ("manifest.json", manifest.clone()),
        (config.as_str(), image.config.clone()),
        ("a.tar", image.tars[0].clone()),
        ("b.tar", image.tars[1].clone()),
    ];
    let whole = archive(&good);
    let other = Image::new(&[&[("z", b"z")], &[]]);
    let mut wrong_config = good.clone();
    wrong_config[1].1.push(b' ');
    let mut wrong_layer = good.clone();
    wrong_layer[3].1 = other.tars[0].clone();
    let cases: [(Vec<u8>, &str); 8] = [
        (archive(&good[..3]), "lacks b.tar"),
        (archive(&good[1..]), "holds no image"),
        (
            archive(&[good[0].clone(), good[2].clone(), good[3].clone()]),
            "lacks",
        ),
        (whole[..whole.len() - 2048].to_vec(), "truncated"),
        (archive(&wrong_config), "is corrupt"),
        (archive(&wrong_layer), "layer"),
        (
            archive(&[("manifest.json", b"{".to_vec())]),
            "manifest.json",
        ),
        (b"this is no archive at all, only text".repeat(40), "tar"),
    ];
    for (bytes, expected) in cases {
        let dir = tempfile::tempdir().unwrap();
        let store = store(&dir);
        let error = load_bytes(&store, &bytes).unwrap_err().to_string();
        assert!(error.contains(expected), "{error:?} lacks {expected:?}");
        assert!(store.refs().unwrap().is_empty(), "{error}");
    }
    let dir = tempfile::tempdir().unwrap();
    let layout = dir.path().join("layout");
    write_layout(&image, &layout, None);
    let blob = layout.join("blobs/sha256").join(image.blob(1).hex());
    std::fs::File::options()
        .append(true)
        .open(&blob)
        .unwrap()
        .write_all(b"x")
        .unwrap();
    let store = store(&dir);
    let error = load(&store, Input::Path(&layout), &Arch::native(), &Silent).unwrap_err();
    assert!(matches!(error, ImageError::SizeMismatch { .. }), "{error}");
    std::fs::remove_file(&blob).unwrap();
    let error = load(&store, Input::Path(&layout), &Arch::native(), &Silent).unwrap_err();
    assert!(error.to_string().contains(&image.blob(1).hex()), "{error}");
}

fn run(program: &str, arguments: &[&str]) -> Vec<u8> {
    let output = Command::new(program).args(arguments).output().unwrap();
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{program} {arguments:?}: {error}");
    output.stdout
}

#[test]
fn skopeo_and_umoci_read_what_we_write_and_the_reverse() {
    if !have("skopeo") || !have("umoci") {
        return;
    }
    let image = image();
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name).display().to_string();
    let first = store(&dir);
    load_bytes(&first, &podman_archive(&image)).unwrap();
    let names = ["x:1".to_owned()];
    let forms = [
        (SaveFormat::DockerArchive, "docker-archive:", "d.tar"),
        (SaveFormat::OciArchive, "oci-archive:", "o.tar"),
        (SaveFormat::OciDirectory, "oci:", "o.dir"),
    ];
    for (format, transport, file) in forms {
        save_to_path(&first, &names, format, Path::new(&path(file))).unwrap();
        let source = format!("{transport}{}", path(file));
        let config = run("skopeo", &["inspect", "--config", "--raw", &source]);
        let config = config.strip_suffix(b"\n").unwrap_or(&config);
        assert_eq!(config, image.config, "{format:?}");
        let copy = path(&format!("{file}.copy"));
        let target = format!("oci:{copy}:back:2");
        run(
            "skopeo",
            &["--insecure-policy", "copy", "-q", &source, &target],
        );
        let other = tempfile::tempdir().unwrap();
        let second = store(&other);
        let loaded = load(
            &second,
            Input::Path(Path::new(&copy)),
            &Arch::native(),
            &Silent,
        );
        let loaded = loaded.unwrap();
        // From Docker's form to OCI's, skopeo writes the configuration anew.
        if format != SaveFormat::DockerArchive {
            assert_eq!(loaded[0].id, image.id(), "{format:?}");
        }
        assert_eq!(loaded[0].names[0].to_string(), "back:2");
        let archive = path(&format!("{file}.tar"));
        let target = format!("docker-archive:{archive}:again:3");
        run(
            "skopeo",
            &["--insecure-policy", "copy", "-q", &source, &target],
        );
        let loaded = load(
            &second,
            Input::Path(Path::new(&archive)),
            &Arch::native(),
            &Silent,
        );
        let loaded = loaded.unwrap();
        assert_eq!(loaded[0].id, image.id(), "{format:?}");
        assert_eq!(loaded[0].names[0].to_string(), "again:3");
    }
    let layout = format!("{}:docker.io/library/x:1", path("o.dir"));
    run(
        "umoci",
        &["unpack", "--rootless", "--image", &layout, &path("bundle")],
    );
    let file = dir.path().join("bundle/rootfs/bin/x");
    assert_eq!(std::fs::read(file).unwrap(), b"x\n");
    assert!(!dir.path().join("bundle/rootfs/etc/hosts").is_file());
}

#[test]
fn podman_reads_what_we_write_and_the_reverse() {
    if !have("podman") {
        return;
    }
    let image = image();
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name).display().to_string();
    let first = store(&dir);
    load_bytes(&first, &podman_archive(&image)).unwrap();
    let (root, runroot) = (path("podman"), path("podman-run"));
    let podman = |arguments: &[&str]| {
        let mut all = vec![
            "--root",
            &root,
            "--runroot",
            &runroot,
            "--storage-driver",
            "vfs",
        ];
        all.extend(arguments);
        Command::new("podman").args(all).output().unwrap()
    };
    let probe = podman(&["images", "-q"]);
    if !probe.status.success() {
        println!(
            "skipped: podman does not work here: {}",
            String::from_utf8_lossy(&probe.stderr)
        );
        return;
    }
    let names = ["localhost:5/y:2".to_owned(), "x:1".to_owned()];
    for (format, file) in [
        (SaveFormat::DockerArchive, "d.tar"),
        (SaveFormat::OciArchive, "o.tar"),
    ] {
        let saved = if format == SaveFormat::OciArchive {
            &names[..1]
        } else {
            &names[..]
        };
        save_to_path(&first, saved, format, Path::new(&path(file))).unwrap();
        let output = podman(&["load", "-i", &path(file)]);
        let error = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{format:?}: {error}");
        for name in saved {
            let output = podman(&["image", "inspect", "--format", "{{.Id}}", name]);
            let id = String::from_utf8_lossy(&output.stdout);
            assert_eq!(id.trim(), image.id().hex(), "{format:?} {name}");
        }
        for back in ["docker-archive", "oci-archive", "oci-dir"] {
            let target = path(&format!("{file}.{back}"));
            let output = podman(&["save", "--format", back, "-o", &target, &names[0]]);
            let error = String::from_utf8_lossy(&output.stderr);
            assert!(output.status.success(), "{back}: {error}");
            let other = tempfile::tempdir().unwrap();
            let input = Input::Path(Path::new(&target));
            let loaded = load(&store(&other), input, &Arch::native(), &Silent).unwrap();
            assert_eq!(loaded[0].names[0].to_string(), names[0], "{back}");
        }
        podman(&["rmi", "-a", "-f"]);
    }
}
