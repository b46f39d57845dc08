//! Containers with one id: owners that were asked for are shown as root's and kept.

use crate::support::{Home, User, can_run, home_with_busybox, skip};

fn home() -> Result<Home, String> {
    can_run()?;
    home_with_busybox(User::without_range()?)
}

#[test]
fn chown_and_mknod_succeed_and_are_committed() {
    let home = match home() {
        Ok(home) => home,
        Err(why) => return skip(&why),
    };
    let script = "set -e; touch /f; chown 1234:5678 /f; mknod /null c 1 3; chown -h 7:8 /bin/vi; \
                  ls -ln /f; su guest -c true; chgrp 99 /tmp";
    let out = home
        .rrun(&["run", "--name", "c1", "bb:1", "sh", "-c", script])
        .ok();
    assert!(out.contains(" 0        0 "), "inside all is root's: {out}");
    let tar = home.path("c.tar");
    home.rrun(&["export", "-o", tar.to_str().unwrap(), "c1"])
        .ok();
    let mut archive = tar::Archive::new(std::fs::File::open(tar).unwrap());
    let mut seen = Vec::new();
    for entry in archive.entries().unwrap() {
        let entry = entry.unwrap();
        let path = entry.path().unwrap().display().to_string();
        let header = entry.header();
        let ids = (header.uid().unwrap(), header.gid().unwrap());
        if ["f", "null", "bin/vi", "tmp/"].contains(&path.as_str()) {
            seen.push((path, ids, header.entry_type()));
        }
    }
    seen.sort_by(|left, right| left.0.cmp(&right.0));
    let expected = [
        ("bin/vi", (7, 8), tar::EntryType::Symlink),
        ("f", (1234, 5678), tar::EntryType::Regular),
        ("null", (0, 0), tar::EntryType::Char),
        ("tmp/", (0, 99), tar::EntryType::Directory),
    ];
    let expected: Vec<_> = expected
        .into_iter()
        .map(|(path, ids, kind)| (path.to_owned(), ids, kind))
        .collect();
    assert_eq!(seen, expected);
}
