//! Damaged and hostile input: a clear error, nothing half-written, the host untouched.

use serde_json::json;

use crate::support::archive::{
    DIR, FILE, Layer, config, digest, docker_archive, docker_members, pack_members,
};
use crate::support::{Home, Ran};

fn load(home: &Home, bytes: &[u8]) -> Ran {
    let file = home.write("in.tar", bytes);
    home.rrun(&["load", "-i", file.to_str().unwrap()])
}

/// Asserts that a load failed, said something, and left nothing.
#[track_caller]
fn refused(bytes: &[u8], says: &str) {
    let home = Home::new();
    let ran = load(&home, bytes);
    assert_eq!(ran.code, 1, "expected {says:?}: {ran:?}");
    assert!(ran.err.contains(says), "no {says:?} in {ran:?}");
    assert!(!ran.err.contains("panicked"), "{ran:?}");
    assert_eq!(home.rrun(&["images", "-q"]).ok(), "");
    assert_eq!(home.rrun(&["store", "check"]).code, 0);
}

fn simple() -> Vec<u8> {
    Layer::new()
        .dir("etc/", DIR)
        .file("etc/a", b"a", FILE)
        .tar()
}

#[test]
fn damaged_archives_are_refused() {
    let layers = [simple()];
    let good = docker_archive("x:1", &json!({}), &layers);
    refused(b"", "");
    refused(b"not a tar at all, but long enough to look at", "");
    refused(&good[..good.len() / 2], "");
    let config = config(&layers, &json!({}));
    let members = docker_members("x:1", &config, &layers, &<[u8]>::to_vec);
    let without_layer: Vec<_> = members.iter().skip(1).cloned().collect();
    refused(&pack_members(&without_layer), "layer0.tar");
    let mut other_layer = members.clone();
    other_layer[0].1 = Layer::new().file("evil", b"e", FILE).tar();
    refused(&pack_members(&other_layer), &digest(&layers[0])[7..19]);
    let mut bad_config = members.clone();
    bad_config[1].1 = b"{".to_vec();
    refused(&pack_members(&bad_config), "");
    refused(&simple(), "");
}

#[test]
fn entries_that_leave_the_tree_are_refused() {
    let kinds = [
        Layer::new()
            .raw("../evil", tar::EntryType::Regular, "")
            .tar(),
        Layer::new()
            .raw("a/../../evil", tar::EntryType::Regular, "")
            .tar(),
        Layer::new()
            .raw("hard", tar::EntryType::Link, "../../etc/passwd")
            .tar(),
    ];
    for layer in kinds {
        refused(&docker_archive("x:1", &json!({}), &[layer]), "");
    }
}

#[test]
fn a_hard_link_to_nothing_is_found_when_the_layers_are_put_together() {
    let home = Home::new();
    let layer = Layer::new()
        .raw("hard", tar::EntryType::Link, "nowhere")
        .tar();
    load(&home, &docker_archive("x:1", &json!({}), &[layer])).ok();
    home.rrun(&["run", "--rm", "x:1", "true"])
        .fails(125, "nowhere");
}

#[test]
fn a_symlink_out_of_the_tree_is_kept_and_not_followed() {
    let home = Home::new();
    let outside = home.path("outside");
    std::fs::create_dir(&outside).unwrap();
    let layer = Layer::new()
        .symlink("link", outside.to_str().unwrap())
        .file("link/evil", b"e", FILE)
        .tar();
    // Accepted or refused: what counts is where nothing is written.
    let _ran = load(&home, &docker_archive("x:1", &json!({}), &[layer]));
    assert_eq!(std::fs::read_dir(&outside).unwrap().count(), 0);
}

#[test]
fn unknown_images_are_named() {
    let home = Home::new();
    for words in [
        &["inspect", "nope"][..],
        &["history", "nope"],
        &["rmi", "nope"],
        &["save", "-o", "x", "nope"],
        &["tag", "nope", "a"],
    ] {
        home.rrun(words).fails(1, "nope");
    }
    home.rrun(&["run", "--pull", "never", "nope", "true"])
        .fails(125, "nope");
    home.rrun(&["run", "UPPER", "true"])
        .fails(125, "invalid reference format");
}

#[test]
fn a_place_that_cannot_be_written_is_named() {
    let home = Home::new();
    let file = home.write("file", b"");
    let ran = home.rrun(&["--data-root", file.to_str().unwrap(), "images"]);
    assert_eq!(ran.code, 1, "{ran:?}");
    assert!(ran.err.contains("file"), "{ran:?}");
    let Ok(user) = crate::support::User::without_range() else {
        return crate::support::skip("no other user");
    };
    let other = Home::of(user);
    for words in [
        &["--data-root", "/proc/1/x", "images"][..],
        &["--data-root", "/etc/x", "images"],
    ] {
        let ran = other.rrun(words);
        assert_eq!(ran.code, 1, "{ran:?}");
        assert!(ran.err.contains(words[1]), "{ran:?}");
    }
}

#[test]
fn a_full_disk_is_named_and_leaves_nothing() {
    if !crate::support::is_root() {
        return crate::support::skip("mounting a small tmpfs needs root");
    }
    let home = Home::new();
    let small = home.path("small");
    std::fs::create_dir(&small).unwrap();
    let target = small.to_str().unwrap().to_owned();
    let words = ["-t", "tmpfs", "-o", "size=4m", "tmpfs", &target];
    let mut command = std::process::Command::new("mount");
    command.args(words);
    crate::support::finish(command, &words).ok();
    let data: Vec<u8> = (0..8_u32 << 20)
        .map(|byte| byte.to_le_bytes()[1] ^ 0x5a)
        .collect();
    let file = home.write("big.tar", &Layer::new().file("big", &data, FILE).tar());
    let ran = home.rrun(&[
        "--data-root",
        &target,
        "import",
        file.to_str().unwrap(),
        "big:1",
    ]);
    let images = home.rrun(&["--data-root", &target, "images", "-q"]);
    let check = home.rrun(&["--data-root", &target, "store", "check"]);
    let words = [target.as_str()];
    let mut command = std::process::Command::new("umount");
    command.args(words);
    crate::support::finish(command, &["umount"]).ok();
    assert_eq!(ran.code, 1, "{ran:?}");
    assert!(ran.err.contains("No space left"), "{ran:?}");
    assert_eq!(images.ok(), "");
    assert_eq!(check.code, 0, "{check:?}");
}
