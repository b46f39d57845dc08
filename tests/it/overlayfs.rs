//! `rrun-overlayfs`, called as fuse-overlayfs is.

use std::fs;
use std::process::Command;

use crate::support::{Home, binary, finish, has, is_root, skip};

#[test]
fn layers_are_mounted_and_changes_go_to_the_upper_directory() {
    if !is_root() {
        return skip("mounting needs root");
    }
    let home = Home::new();
    for dir in ["low1", "low2", "up", "work", "mnt"] {
        fs::create_dir(home.path(dir)).unwrap();
    }
    fs::write(home.path("low1/a"), "one").unwrap();
    fs::write(home.path("low2/a"), "two").unwrap();
    fs::write(home.path("low2/b"), "bee").unwrap();
    let path = |name: &str| home.path(name).display().to_string();
    let options = format!(
        "lowerdir={}:{},upperdir={},workdir={}",
        path("low1"),
        path("low2"),
        path("up"),
        path("work")
    );
    let words = ["overlayfs", "-o", &options, &path("mnt")];
    let mut command = Command::new(binary());
    command.args(words);
    let mounted = finish(command, &words);
    assert_eq!(mounted.code, 0, "{mounted:?}");
    let seen = fs::read_to_string(home.path("mnt/a")).unwrap();
    fs::write(home.path("mnt/b"), "changed").unwrap();
    fs::remove_file(home.path("mnt/a")).unwrap();
    let left = fs::read_dir(home.path("mnt")).unwrap().count();
    let words = [path("mnt")];
    let mut command = Command::new("umount");
    command.args(&words);
    finish(command, &["umount"]).ok();
    assert_eq!(seen, "one");
    assert_eq!(left, 1);
    assert_eq!(fs::read_to_string(home.path("up/b")).unwrap(), "changed");
    assert_eq!(fs::read_to_string(home.path("low2/b")).unwrap(), "bee");
    assert!(
        fs::symlink_metadata(home.path("up/a")).is_ok(),
        "no whiteout"
    );
}

#[test]
fn mistakes_are_named() {
    let home = Home::new();
    let run = |words: &[&str]| {
        let mut command = home.command();
        command.arg("overlayfs").args(words);
        finish(command, words)
    };
    run(&[]).fails(1, "mount point");
    run(&["/nonexistent"]).fails(1, "lowerdir");
    run(&["-o", "lowerdir=/nonexistent", "/tmp"]).fails(1, "/nonexistent");
    assert!(run(&["--version"]).ok().contains("version"));
}

#[test]
fn podman_runs_containers_on_it() {
    if !is_root() || !has("podman") {
        return skip("root and podman are needed");
    }
    skip("podman needs a working OCI runtime here: see docs/decisions.md");
}
