//! A container sees exactly what other tools unpack of the same image.

use std::collections::BTreeMap;
use std::process::Command;

use serde_json::json;

use crate::images::rich_layers;
use crate::support::archive::docker_archive;
use crate::support::{Home, User, can_run, finish, fixture, has, is_root, skip};

/// Prints a line for each file of `.`: name, type, mode, owner, size, time, links, target.
const LIST: &str = "find . -xdev -path ./proc -prune -o -path ./sys -prune -o -path ./dev -prune \
    -o -print0 | xargs -0 stat -c '%n|%F|%a|%u|%g|%s|%Y|%h|%N|%t,%T'; \
    find . -xdev -path ./proc -prune -o -path ./sys -prune -o -path ./dev -prune \
    -o -type f -print0 | xargs -0 sha256sum";

/// The lines by name; sizes and link counts of directories are left out.
fn table(text: &str, owners: bool) -> BTreeMap<String, String> {
    let mut table = BTreeMap::new();
    for line in text.lines() {
        let fields: Vec<&str> = line.split('|').collect();
        if let [
            name,
            kind,
            mode,
            uid,
            gid,
            size,
            time,
            links,
            target,
            device,
        ] = fields[..]
        {
            let owner = if owners {
                format!("{uid}:{gid}")
            } else {
                String::new()
            };
            let (size, links) = if kind == "directory" {
                ("", "")
            } else {
                (size, links)
            };
            let text = format!("{kind} {mode} {owner} {size} {time} {links} {target} {device}");
            table.insert(name.to_owned(), text);
        } else if let Some((digest, name)) = line.split_once("  ") {
            table.insert(format!("sha256 of {name}"), digest.to_owned());
        }
    }
    // The container's own, not the image's.
    for name in [
        ".dockerenv",
        "etc/hosts",
        "etc/hostname",
        "etc/mtab",
        "etc/resolv.conf",
        "run/.containerenv",
    ] {
        table.remove(&format!("./{name}"));
        table.remove(&format!("sha256 of ./{name}"));
    }
    for name in [".", "./proc", "./sys", "./dev"] {
        table.remove(name);
    }
    table
}

fn unpacked(home: &Home, name: &str) -> std::path::PathBuf {
    let oci = home.path("oci");
    let path = oci.to_str().unwrap();
    home.rrun(&["save", "--format", "oci-dir", "-o", path, name])
        .ok();
    let index = std::fs::read_to_string(oci.join("index.json")).unwrap();
    let index: serde_json::Value = serde_json::from_str(&index).unwrap();
    let tag = index["manifests"][0]["annotations"]["org.opencontainers.image.ref.name"]
        .as_str()
        .unwrap();
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
    bundle.join("rootfs")
}

#[test]
fn a_container_sees_what_umoci_unpacks() {
    let tar = match (fixture("busybox.tar"), can_run()) {
        (Ok(tar), Ok(())) if is_root() && has("umoci") => tar,
        (Ok(_), Ok(())) => return skip("root and umoci are needed"),
        (Err(why), _) | (_, Err(why)) => return skip(&why),
    };
    let mut layers = vec![std::fs::read(tar).unwrap()];
    layers.extend(rich_layers());
    let archive = docker_archive("all:1", &json!({}), &layers);
    for (name, user) in User::all() {
        let home = Home::of(user);
        let file = home.write("in.tar", &archive);
        home.rrun(&["load", "-i", file.to_str().unwrap()]).ok();
        let script = format!("cd /; {LIST}");
        let inside = home
            .rrun(&["run", "--rm", "all:1", "sh", "-c", &script])
            .ok();
        let root = unpacked(&home, "all:1");
        let mut command = Command::new(root.join("bin/busybox"));
        command
            .args(["sh", "-c", LIST])
            .current_dir(&root)
            .env("PATH", root.join("bin"));
        let outside = finish(command, &["find"]).ok();
        let owners = user == User::Caller;
        let (inside, outside) = (table(&inside, owners), table(&outside, owners));
        for (path, line) in &outside {
            assert_eq!(inside.get(path), Some(line), "{name}: {path}");
        }
        for path in inside.keys() {
            assert!(outside.contains_key(path), "{name}: {path} is only inside");
        }
    }
}
