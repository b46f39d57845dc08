//! Containers with one id: owners that were asked for are shown as its own and kept.

use tar::EntryType;

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
    let seen = exported(&home, "c1", &["f", "null", "bin/vi", "tmp/"]);
    let expected = [
        ("bin/vi", (7, 8), EntryType::Symlink),
        ("f", (1234, 5678), EntryType::Regular),
        ("null", (0, 0), EntryType::Char),
        ("tmp/", (0, 99), EntryType::Directory),
    ];
    assert_eq!(seen, expected.map(owned));
}

type Seen = (String, (u64, u64), EntryType);

fn owned((path, ids, kind): (&str, (u64, u64), EntryType)) -> Seen {
    (path.to_owned(), ids, kind)
}

/// Owner and kind of some of the files that a container's export has, by name.
fn exported(home: &Home, container: &str, wanted: &[&str]) -> Vec<Seen> {
    let tar = home.path("exported.tar");
    home.rrun(&["export", "-o", tar.to_str().unwrap(), container])
        .ok();
    let mut archive = tar::Archive::new(std::fs::File::open(tar).unwrap());
    let mut seen = Vec::new();
    for entry in archive.entries().unwrap() {
        let entry = entry.unwrap();
        let path = entry.path().unwrap().display().to_string();
        let header = entry.header();
        let ids = (header.uid().unwrap(), header.gid().unwrap());
        if wanted.contains(&path.as_str()) {
            seen.push((path, ids, header.entry_type()));
        }
    }
    seen.sort_by(|left, right| left.0.cmp(&right.0));
    seen
}

/// What `id` and a new file say of a process.
const WHO: &str = "echo $(id -u):$(id -g) $(stat -c %u:%g /etc/passwd)";

#[test]
fn a_user_who_is_not_root_has_the_only_id() {
    let home = match home() {
        Ok(home) => home,
        Err(why) => return skip(&why),
    };
    let data = home.path("volume");
    std::fs::create_dir(&data).unwrap();
    home.own(&data);
    let volume = format!("{}:/v", data.display());
    let words = ["-d", "--name", "one", "--user", "guest", "-v", &volume];
    let mut run = vec!["run"];
    run.extend(words);
    home.rrun(&[&run[..], &["bb:1", "sleep", "1000"]].concat())
        .ok();
    let inside = |script: &str| {
        home.rrun(&["exec", "one", "sh", "-c", script])
            .out
            .trim()
            .to_owned()
    };
    assert_eq!(inside(WHO), "1000:1000 1000:1000");
    let made = "touch /tmp/own /v/own && stat -c %u:%g /tmp/own /v/own";
    assert_eq!(inside(made), "1000:1000\n1000:1000");
    // Nobody in it has rights, and nobody pretends.
    assert_eq!(
        inside("grep CapEff /proc/1/status"),
        "CapEff:\t0000000000000000"
    );
    for refused in ["chown 0 /tmp/own", "chgrp 5 /tmp/own"] {
        home.rrun(&["exec", "one", "sh", "-c", refused])
            .fails(1, "not permitted");
    }
    home.rrun(&["stop", "-t", "0", "one"]).ok();
    home.rrun(&["start", "one"]).ok();
    assert_eq!(inside(WHO), "1000:1000 1000:1000");
    let seen = exported(&home, "one", &["tmp/own", "etc/passwd"]);
    let expected = [
        ("etc/passwd", (0, 0), EntryType::Regular),
        ("tmp/own", (1000, 1000), EntryType::Regular),
    ];
    assert_eq!(seen, expected.map(owned));
    let diff = home.rrun(&["diff", "one"]).ok();
    assert!(
        diff.contains("A /tmp/own") && !diff.contains("/v/"),
        "{diff}"
    );
}

#[test]
fn exec_as_another_user_than_the_only_one() {
    let home = match home() {
        Ok(home) => home,
        Err(why) => return skip(&why),
    };
    for (name, user) in [("guests", "guest"), ("roots", "root")] {
        home.rrun(&[
            "run", "-d", "--name", name, "--user", user, "bb:1", "sleep", "1000",
        ])
        .ok();
        for (other, expected) in [
            ("root", "0:0 0:0"),
            ("bin", "2:2 2:2"),
            ("guest", "1000:1000 1000:1000"),
            ("7:8", "7:8 7:8"),
        ] {
            let ran = home.rrun(&["exec", "-u", other, name, "sh", "-c", WHO]);
            assert_eq!(
                ran.ok().trim(),
                expected,
                "{other} in the container of {user}"
            );
        }
    }
    let script =
        "touch /a /b /c && chown 0:0 /a && chown guest:guest /b && mknod /d b 8 0 && chown 5 /e";
    home.rrun(&["exec", "-u", "root", "guests", "sh", "-c", script])
        .fails(1, "/e");
    home.rrun(&["exec", "-u", "bin", "guests", "sh", "-c", "chown 0 /a"])
        .fails(1, "not permitted");
    let file = home.write("file", b"x");
    home.rrun(&["cp", file.to_str().unwrap(), "guests:/copy"])
        .ok();
    let seen = exported(&home, "guests", &["a", "b", "c", "d", "copy"]);
    let expected = [
        ("a", (0, 0), EntryType::Regular),
        ("b", (1000, 1000), EntryType::Regular),
        // What was not said belongs to the only id.
        ("c", (1000, 1000), EntryType::Regular),
        ("copy", (0, 0), EntryType::Regular),
        ("d", (1000, 1000), EntryType::Block),
    ];
    assert_eq!(seen, expected.map(owned));
}

#[test]
fn who_shares_namespaces_has_the_same_only_id() {
    let home = match home() {
        Ok(home) => home,
        Err(why) => return skip(&why),
    };
    let donor = ["run", "-d", "--name", "donor", "--user", "guest", "bb:1"];
    home.rrun(&[&donor[..], &["sleep", "1000"]].concat()).ok();
    let join = ["run", "--rm", "--network", "container:donor"];
    let own = [&join[..], &["--user", "guest", "bb:1", "id", "-u"]].concat();
    assert_eq!(home.rrun(&own).ok().trim(), "1000");
    home.rrun(&[&join[..], &["bb:1", "id"]].concat())
        .fails(125, "container donor has a single id, 1000:1000");
}
