//! Images in and out, whatever wrote them.

use std::process::Command;

use serde_json::json;

use crate::support::archive::{
    DIR, FILE, Layer, Meta, config, docker_archive, docker_members, pack_members,
};
use crate::support::{Home, finish, has, skip};

/// Layers with everything a layer can say.
pub(crate) fn rich_layers() -> Vec<Vec<u8>> {
    let long = format!("long/{}", "n".repeat(255));
    let first = Layer::new()
        .dir("bin/", DIR)
        .file(
            "bin/tool",
            b"tool",
            Meta {
                mode: 0o4755,
                ..FILE
            },
        )
        .hardlink("bin/tool2", "bin/tool")
        .dir("etc/", DIR)
        .file("etc/old", b"old", FILE)
        .file(
            "etc/kept",
            b"kept",
            Meta {
                uid: 1,
                gid: 2,
                mode: 0o640,
            },
        )
        .symlink("etc/abs", "/etc/kept")
        .dir("opq/", DIR)
        .file("opq/below", b"x", FILE)
        .dir("long/", DIR)
        .file(&long, b"l", FILE)
        .file(
            "huge",
            b"h",
            Meta {
                uid: 3_000_000_000,
                gid: 4_000_000_000,
                mode: 0o600,
            },
        )
        .xattr("labelled", b"v", "user.note", b"hello")
        .fifo("pipe")
        .device("null", 1, 3)
        .tar();
    let second = Layer::new()
        .dir("etc/", DIR)
        .whiteout("etc/", "old")
        .dir("opq/", Meta { mode: 0o700, ..DIR })
        .opaque("opq")
        .file("opq/above", b"y", FILE)
        .hardlink("kept-too", "etc/kept")
        .tar();
    vec![first, second]
}

/// Compresses a layer, or does not.
type Pack<'a> = &'a dyn Fn(&[u8]) -> Vec<u8>;

pub(crate) fn rich_settings() -> serde_json::Value {
    json!({"Cmd": ["/bin/tool"], "Env": ["A=b"], "Labels": {"k": "v"}})
}

fn load(home: &Home, bytes: &[u8]) -> String {
    let file = home.write("in.tar", bytes);
    home.rrun(&["load", "-i", file.to_str().unwrap()]).ok()
}

fn id_of(home: &Home, name: &str) -> String {
    home.rrun(&["images", "-q", "--no-trunc", name])
        .ok()
        .trim()
        .to_owned()
}

#[test]
fn archives_of_every_compression_give_the_same_image() {
    let layers = rich_layers();
    let config = config(&layers, &rich_settings());
    let gzip = |bytes: &[u8]| {
        use std::io::Write;
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        encoder.write_all(bytes).unwrap();
        encoder.finish().unwrap()
    };
    let zstd = |bytes: &[u8]| zstd::encode_all(bytes, 1).unwrap();
    let plain = <[u8]>::to_vec;
    let packs: [(&str, Pack<'_>); 3] = [("plain", &plain), ("gzip", &gzip), ("zstd", &zstd)];
    let expected = crate::support::archive::digest(config.to_string().as_bytes());
    for (name, pack) in packs {
        let home = Home::new();
        let members = docker_members("rich:1", &config, &layers, pack);
        assert_eq!(
            load(&home, &pack_members(&members)),
            "Loaded image: rich:1\n",
            "{name}"
        );
        assert_eq!(id_of(&home, "rich:1"), expected, "{name}");
        // The order of members is free.
        let mut reversed = members;
        reversed.reverse();
        assert_eq!(
            load(&home, &pack_members(&reversed)),
            "Loaded image: rich:1\n",
            "{name}"
        );
    }
}

#[test]
fn what_is_saved_is_the_image_that_was_loaded() {
    let home = Home::new();
    load(
        &home,
        &docker_archive("rich:1", &rich_settings(), &rich_layers()),
    );
    let id = id_of(&home, "rich:1");
    for format in ["docker-archive", "oci-archive", "oci-dir"] {
        let out = home.path(format);
        let path = out.to_str().unwrap();
        home.rrun(&["save", "--format", format, "-o", path, "rich:1"])
            .ok();
        let other = Home::new();
        other.rrun(&["load", "-i", path]).ok();
        assert_eq!(id_of(&other, "rich:1"), id, "{format}");
    }
}

#[test]
fn skopeo_and_umoci_read_what_we_save() {
    if !has("skopeo") || !has("umoci") || !crate::support::is_root() {
        return skip("skopeo, umoci and root are needed");
    }
    let home = Home::new();
    load(
        &home,
        &docker_archive("rich:1", &rich_settings(), &rich_layers()),
    );
    let dir = home.path("oci");
    let path = dir.to_str().unwrap();
    home.rrun(&["save", "--format", "oci-dir", "-o", path, "rich:1"])
        .ok();
    let copy = home.path("copy");
    let target = format!("dir:{}", copy.display());
    let words = [
        "copy",
        "-q",
        "--insecure-policy",
        &format!("oci:{path}"),
        &target,
    ];
    let mut command = Command::new("skopeo");
    command.args(words);
    finish(command, &words).ok();
    let index = std::fs::read_to_string(dir.join("index.json")).unwrap();
    let index: serde_json::Value = serde_json::from_str(&index).unwrap();
    let tag = index["manifests"][0]["annotations"]["org.opencontainers.image.ref.name"]
        .as_str()
        .unwrap()
        .to_owned();
    let bundle = home.path("bundle");
    let words = [
        "unpack",
        "--image",
        &format!("{path}:{tag}"),
        bundle.to_str().unwrap(),
    ];
    let mut command = Command::new("umoci");
    command.args(words);
    finish(command, &words).ok();
    let root = bundle.join("rootfs");
    assert_eq!(std::fs::read(root.join("kept-too")).unwrap(), b"kept");
    assert!(!root.join("etc/old").is_file());
    assert!(!root.join("opq/below").is_file());
}

#[test]
fn names_lead_to_images_and_can_be_taken_away() {
    let home = Home::new();
    load(
        &home,
        &docker_archive("rich:1", &rich_settings(), &rich_layers()),
    );
    home.rrun(&["tag", "rich:1", "localhost:5000/team/rich"])
        .ok();
    let listed = home
        .rrun(&["images", "--format", "{{.Repository}}:{{.Tag}}"])
        .ok();
    let mut lines: Vec<&str> = listed.lines().collect();
    lines.sort_unstable();
    assert_eq!(lines, ["localhost:5000/team/rich:latest", "rich:1"]);
    assert_eq!(home.rrun(&["images", "-q", "rich"]).ok().lines().count(), 1);
    assert_eq!(home.rrun(&["rmi", "rich:1"]).ok(), "Untagged: rich:1\n");
    let short = home.rrun(&["images", "-q"]).ok();
    assert_eq!(short.trim().len(), 12);
    let gone = home.rrun(&["image", "rm", short.trim()]).ok();
    assert!(
        gone.contains("Untagged: localhost:5000/team/rich:latest\n"),
        "{gone}"
    );
    assert!(gone.contains("Deleted: sha256:"), "{gone}");
    home.rrun(&["rmi", "rich:1"]).fails(1, "rich:1");
    assert_eq!(home.rrun(&["store", "check"]).code, 0);
}

#[test]
fn inspect_and_history_tell_what_the_config_says() {
    let home = Home::new();
    load(
        &home,
        &docker_archive("rich:1", &rich_settings(), &rich_layers()),
    );
    let format = "{{json .Config.Cmd}} {{.Config.Labels.k}} {{len .RootFS.Layers}}";
    let out = home
        .rrun(&["inspect", "--type", "image", "-f", format, "rich:1"])
        .ok();
    assert_eq!(out, "[\"/bin/tool\"] v 2\n");
    let history = home
        .rrun(&[
            "history",
            "--no-trunc",
            "--format",
            "{{.CreatedBy}}",
            "rich:1",
        ])
        .ok();
    assert_eq!(history, "/bin/sh -c #(nop) ADD\n".repeat(2));
}
