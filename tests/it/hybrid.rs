//! `--fs-mode hybrid`: the kernel's overlayfs takes the writes, and everything else is as ever.

use std::collections::BTreeSet;

use crate::support::{Home, Ran, User, can_run, home_with_busybox, is_root, skip};

/// Prints a line for each file that the tests make: name, type, mode, owner, size, target, contents.
const LIST: &str = "cd /; find d e -print0 | sort -z | xargs -0 stat -c '%N|%F|%a|%u|%g|%s|%Y' | \
    sed 's/directory|\\([0-9]*|[0-9]*|[0-9]*\\)|.*/directory|\\1/'; \
    find d e -type f | sort | xargs sha256sum";
/// Makes the lower files.
const BEFORE: &str = "mkdir -p /d/sub /d/moved /d/gone; cd /d; echo one > a; ln a b; ln a sub/c; \
    echo mode > m; echo f > moved/f; echo g > gone/g; ln -s a l; echo o > owned; \
    chown 3:4 owned; touch -d @1000000000 a m owned moved/f";
/// Changes them in every way that overlayfs has its own marks for.
const AFTER: &str = "cd /d; echo two >> b; chmod 600 m; mv moved moved2 && echo x > moved2/new; \
    rm l; rm -r gone; mkdir gone; echo h > gone/h; chown 7:8 owned; mkdir /e; echo n > /e/n; \
    ln /e/n /e/n2; chmod 700 /e; chown -R 5:6 /e; ln -s ../d/m /e/s; \
    head -c 200000 /dev/zero | tr '\\0' x > /e/large";

/// Homes of those who can have it, with how much of overlayfs they get.
fn homes() -> Vec<(&'static str, Home)> {
    if let Err(why) = can_run() {
        skip(&why);
        return Vec::new();
    }
    let mut homes = Vec::new();
    let users = [
        (
            "root",
            is_root()
                .then_some(User::Caller)
                .ok_or_else(|| "not root".to_owned()),
        ),
        ("user", User::with_range()),
    ];
    for (name, user) in users {
        match user.and_then(home_with_busybox) {
            Ok(home) => {
                let probe = home.rrun(&["run", "--rm", "--fs-mode", "hybrid", "bb:1", "true"]);
                if probe.err.contains("the kernel's overlayfs")
                    || probe.err.contains("mount overlayfs")
                {
                    skip(&format!("{name}: {}", probe.err));
                } else {
                    probe.ok();
                    homes.push((name, home));
                }
            }
            Err(why) => skip(&format!("{name}: {why}")),
        }
    }
    homes
}

/// Runs or creates the container `box` of the image that [`based`] makes, with a script.
fn hybrid(home: &Home, verb: &str, script: &str) -> Ran {
    let words = [verb, "--name", "box", "--fs-mode", "hybrid", "base:1"];
    home.rrun(&[&words[..], &["sh", "-c", script]].concat())
}

fn based(home: &Home) {
    home.rrun(&[
        "run",
        "--fs-mode",
        "fuse",
        "--name",
        "base",
        "bb:1",
        "sh",
        "-c",
        BEFORE,
    ])
    .ok();
    home.rrun(&["commit", "base", "base:1"]).ok();
    home.rrun(&["rm", "base"]).ok();
}

fn lines(text: &str) -> BTreeSet<&str> {
    text.lines().collect()
}

/// What a run of the exported container shows.
fn exported(home: &Home) -> String {
    let tar = home.path("out.tar");
    home.rrun(&["export", "-o", tar.to_str().unwrap(), "box"])
        .ok();
    home.rrun(&["import", tar.to_str().unwrap(), "flat:1"]).ok();
    home.rrun(&["run", "--rm", "flat:1", "sh", "-c", LIST]).ok()
}

#[test]
fn what_the_kernel_wrote_is_listed_committed_exported_and_removed() {
    for (name, home) in homes() {
        based(&home);
        let script = format!("{AFTER}; {LIST}");
        let inside = hybrid(&home, "run", &script).ok();
        assert!(inside.contains("moved2/new"), "{name}: {inside}");
        let driver = home
            .rrun(&["inspect", "--format", "{{.Driver}}", "box"])
            .ok();
        assert_eq!(driver.trim(), "rrun-hybrid", "{name}");

        let diff = home.rrun(&["diff", "box"]).ok();
        let changed = lines(&diff);
        for line in [
            "C /d",
            "C /d/b",
            "C /d/m",
            "A /d/moved2",
            "A /d/moved2/f",
            "A /d/moved2/new",
            "D /d/moved",
            "D /d/l",
            "A /d/gone/h",
            "D /d/gone/g",
            "C /d/owned",
            "A /e",
            "A /e/n",
        ] {
            assert!(changed.contains(line), "{name}: no {line} in {diff}");
        }
        assert!(!diff.contains("/bin"), "{name}: {diff}");

        // One of the directories is closed to the user outside.
        let size = home.rrun(&["ps", "-as", "--format", "{{.Size}}"]).ok();
        assert!(size.starts_with("200kB "), "{name}: {size}");

        home.rrun(&["commit", "box", "after:1"]).ok();
        for mode in ["fuse", "hybrid"] {
            let seen = home
                .rrun(&[
                    "run",
                    "--rm",
                    "--fs-mode",
                    mode,
                    "after:1",
                    "sh",
                    "-c",
                    LIST,
                ])
                .ok();
            assert_eq!(seen, inside, "{name}: {mode}");
        }
        assert_eq!(exported(&home), inside, "{name}: export");

        home.rrun(&["rm", "box"]).ok();
        let left = std::fs::read_dir(home.data().join("containers")).unwrap();
        let left: Vec<_> = left
            .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
            .filter(|file| file.len() == 64)
            .collect();
        assert!(left.is_empty(), "{name}: {left:?}");
    }
}

#[test]
fn a_stopped_hybrid_container_is_copied_into_and_started_again() {
    for (name, home) in homes() {
        based(&home);
        let show = "cat /d/put /d/b; ls -ln /d/put; stat /d/*";
        let script = format!("test -e /d/put || echo more >> /d/b; {show}");
        hybrid(&home, "create", &script).ok();
        let file = home.write("put", b"put\n");
        home.rrun(&["start", "-a", "box"]);
        home.rrun(&["cp", file.to_str().unwrap(), "box:/d/put"])
            .ok();
        let out = home.path("back");
        home.rrun(&["cp", "box:/d/put", out.to_str().unwrap()]).ok();
        assert_eq!(std::fs::read(&out).unwrap(), b"put\n", "{name}");
        let second = home.rrun(&["start", "-a", "box"]).ok();
        assert!(second.starts_with("put\none\nmore\n"), "{name}: {second}");
        home.rrun(&["rm", "box"]).ok();
    }
}

#[test]
fn hybrid_is_refused_where_something_would_be_lost() {
    if let Err(why) = can_run() {
        return skip(&why);
    }
    let home = match User::without_range().and_then(home_with_busybox) {
        Ok(home) => home,
        Err(why) => return skip(&why),
    };
    home.rrun(&["run", "--fs-mode", "hybrid", "bb:1", "true"])
        .fails(125, "it needs subordinate ids");
    home.rrun(&["run", "--fs-mode", "fast", "bb:1", "true"])
        .fails(125, "invalid --fs-mode: fast");
    home.rrun(&["run", "--rm", "--fs-mode", "auto", "bb:1", "true"])
        .ok();
    let mut command = home.command();
    command
        .args(["run", "--rm", "bb:1", "true"])
        .env("RRUN_FS_MODE", "hybrid");
    crate::support::finish(command, &["run"]).fails(125, "it needs subordinate ids");
}

#[test]
fn an_image_is_mounted_below_the_kernels_overlayfs() {
    if let Err(why) = can_run() {
        return skip(&why);
    }
    let home = match home_with_busybox(User::Caller) {
        Ok(home) => home,
        Err(why) => return skip(&why),
    };
    let script = "set -e; mkdir u w m; \
        \"$0\" overlayfs -o image=bb:1,fs_mode=hybrid,upperdir=u,workdir=w m; \
        grep -q ' overlay ' /proc/mounts; echo x > m/new; rm m/bin/busybox; \
        test -f u/new; test -c u/bin/busybox; umount m; ! ls m | grep -q .; \
        ! \"$0\" overlayfs -o image=bb:1,fs_mode=hybrid,upperdir=u,workdir=none m; \
        ! grep -q \" $PWD/m \" /proc/mounts; echo done";
    let mut command = std::process::Command::new("unshare");
    command
        .args(["--user", "--map-root-user", "--mount", "sh", "-c", script])
        .arg(crate::support::binary())
        .env("XDG_DATA_HOME", home.data().parent().unwrap())
        .current_dir(home.path(""));
    let ran = crate::support::finish(command, &["unshare"]);
    if ran.err.contains("unshare failed") {
        return skip(&ran.err);
    }
    assert!(ran.out.contains("done"), "{ran:?}");
}
