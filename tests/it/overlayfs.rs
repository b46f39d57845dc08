//! `rrun-overlayfs`, called as fuse-overlayfs is.

use std::fs;
use std::process::Command;

use crate::support::{Home, User, binary, finish, fixture, has, is_root, skip};

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
fn the_kernels_overlayfs_has_the_options_of_the_mount() {
    if !is_root() {
        return skip("mounting needs root");
    }
    let home = Home::new();
    for dir in ["low", "up", "work", "mnt"] {
        fs::create_dir(home.path(dir)).unwrap();
    }
    let path = |name: &str| home.path(name).display().to_string();
    let (mnt, up) = (path("mnt"), home.path("up"));
    let places = format!(
        "lowerdir={},upperdir={},workdir={},fs_mode=hybrid",
        path("low"),
        path("up"),
        path("work")
    );
    let run = |words: &[&str]| {
        let mut command = Command::new(words[0]);
        command.args(&words[1..]);
        finish(command, words)
    };
    // The last one: what is written with `volatile` is not to be mounted again.
    for (asked, listed) in [
        ("rw", "rw,relatime - overlay name rw,"),
        (
            "nosuid,nodev,noexec,noatime,nodiratime",
            "rw,nosuid,nodev,noexec,noatime,nodiratime - overlay name rw,",
        ),
        ("strictatime,sync", "rw - overlay name rw,sync,"),
        ("ro", "ro,relatime - overlay name ro,"),
        ("fsname=other", "rw,relatime - overlay other rw,"),
        ("volatile", "volatile"),
    ] {
        let options = format!("{places},{asked}");
        let binary = binary().display().to_string();
        let mounted = run(&[&binary, "overlayfs", "name", &mnt, "-o", &options]);
        if asked == "rw" && mounted.err.contains("the kernel's overlayfs") {
            return skip(&mounted.err);
        }
        mounted.ok();
        let list = fs::read_to_string("/proc/self/mountinfo").unwrap();
        let written = fs::write(home.path("mnt/new"), asked).is_ok();
        run(&["umount", &mnt]).ok();
        let line = list.lines().rev().find(|line| line.contains(&mnt)).unwrap();
        assert!(line.contains(listed), "{asked}: {line}");
        assert_eq!(written, asked != "ro", "{asked}");
        assert_eq!(fs::remove_file(up.join("new")).is_ok(), written, "{asked}");
    }
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
    run(&["-o", "lowerdir=/,io_uring=maybe", "/tmp"]).fails(1, "on, off or auto");
    assert!(run(&["--version"]).ok().contains("version"));
}

#[test]
fn rings_are_used_or_their_lack_is_explained() {
    if !is_root() {
        return skip("mounting needs root");
    }
    let home = Home::new();
    for dir in ["low", "mnt"] {
        fs::create_dir(home.path(dir)).unwrap();
    }
    fs::write(home.path("low/a"), "one").unwrap();
    let low = format!("lowerdir={}", home.path("low").display());
    let mnt = home.path("mnt").display().to_string();
    for choice in ["auto", "on"] {
        let options = format!("{low},io_uring={choice}");
        let words = ["overlayfs", "-o", &options, &mnt];
        let mut command = Command::new(binary());
        command.args(words);
        let mounted = finish(command, &words);
        if choice == "on" && mounted.code != 0 {
            assert!(
                mounted.err.contains("no FUSE over io_uring: "),
                "{mounted:?}"
            );
            skip(mounted.err.trim());
            continue;
        }
        assert_eq!(mounted.code, 0, "{mounted:?}");
        let seen = fs::read_to_string(home.path("mnt/a")).unwrap();
        let mut command = Command::new("umount");
        command.arg(&mnt);
        finish(command, &["umount"]).ok();
        assert_eq!(seen, "one", "{choice}");
    }
}

/// What podman is made to do; prints what the assertions look for.
///
/// crun refuses hosts that mount both cgroup versions, so it is shown none of the second.
const PODMAN: &str = r#"
set -e
podman import -q "$HOME/busybox.tar" localhost/bb:1 >/dev/null
podman run --name p1 --network none localhost/bb:1 \
    sh -c 'grep " / " /proc/mounts; echo hi >/x; rm /bin/vi; chown 5:6 /x'
podman diff p1
podman commit -q p1 localhost/bb:2 >/dev/null
podman run --rm --network none localhost/bb:2 ls -ln /x
printf 'FROM localhost/bb:2\nRUN echo built >/built && rm /bin/top\nCMD ["cat","/built"]\n' >"$HOME/Dockerfile"
podman build -q --network none -t localhost/b3 -f "$HOME/Dockerfile" "$HOME" >/dev/null
podman run --rm --network none localhost/b3
podman rm -fa >/dev/null
podman system reset -f >/dev/null 2>&1 || true
"#;

#[test]
fn podman_runs_builds_and_commits_on_it() {
    let tar = match fixture("busybox.tar") {
        Ok(tar) if is_root() && has("podman") && has("crun") && has("unshare") => tar,
        Ok(_) => return skip("root, podman, crun and unshare are needed"),
        Err(why) => return skip(&why),
    };
    let mut users = vec![("root", User::Caller)];
    match User::with_range() {
        Ok(user) => users.push(("user with a range", user)),
        Err(why) => skip(&why),
    }
    for (name, user) in users {
        let out = podman(user, &tar);
        assert!(out.contains("fuse.rrun"), "{name}: {out}");
        for line in ["A /x", "C /bin", "D /bin/vi", "built"] {
            assert!(
                out.lines().any(|seen| seen == line),
                "{name}: no {line:?} in {out}"
            );
        }
        let owned = out
            .lines()
            .any(|line| line.contains(" 5 ") && line.contains(" 6 "));
        assert!(owned, "{name}: {out}");
    }
}

fn podman(user: User, tar: &std::path::Path) -> String {
    let home = Home::of(user);
    home.write("busybox.tar", &fs::read(tar).unwrap());
    let program = home.path("rrun-overlayfs");
    std::os::unix::fs::symlink(binary(), &program).unwrap();
    let path = |name: &str| home.path(name).display().to_string();
    let storage = format!(
        "[storage]\ndriver=\"overlay\"\ngraphroot=\"{}\"\nrunroot=\"{}\"\n\
         [storage.options.overlay]\nmount_program=\"{}\"\n",
        path("graph"),
        path("run"),
        program.display()
    );
    let containers = "[containers]\ncgroups=\"disabled\"\n\
        default_ulimits=[\"nofile=20000:20000\",\"nproc=32768:32768\"]\n\
        [engine]\nruntime=\"crun\"\ncgroup_manager=\"cgroupfs\"\nevents_logger=\"file\"\n";
    home.write("storage.conf", storage.as_bytes());
    home.write("containers.conf", containers.as_bytes());
    let script = home.write("script", PODMAN.as_bytes());
    fs::create_dir(home.path("xdg")).unwrap();
    home.own(&home.path("xdg"));
    let inner = user.command(std::path::Path::new("sh"));
    let mut words = vec!["sh".to_owned(), "-c".to_owned()];
    words.push("umount /sys/fs/cgroup/unified 2>/dev/null; exec \"$@\"".to_owned());
    words.push("sh".to_owned());
    words.push(inner.get_program().to_string_lossy().into_owned());
    words.extend(
        inner
            .get_args()
            .map(|word| word.to_string_lossy().into_owned()),
    );
    words.push(script.display().to_string());
    let mut command = Command::new("unshare");
    command
        .args(["-m", "--propagation", "private"])
        .args(&words)
        .env("HOME", home.path(""))
        .env("XDG_RUNTIME_DIR", path("xdg"))
        .env("CONTAINERS_STORAGE_CONF", path("storage.conf"))
        .env("CONTAINERS_CONF", path("containers.conf"))
        .current_dir(home.path(""));
    finish(command, &["podman"]).ok()
}
