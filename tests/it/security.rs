//! What has broken other runtimes, tried on ours: each test names the reports.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use serde_json::json;
use sha2::Digest as _;

use crate::support::archive::{DIR, FILE, Layer, Meta, docker_archive};
use crate::support::{Home, binary, count, finish, for_all_users, is_root, processes, skip};

/// Runs `test` with an empty home of every user there is, and the program that images here are.
fn for_all_with_busybox(test: impl Fn(&str, &Home, &[u8])) {
    match fs::read("/bin/busybox") {
        Ok(busybox) => for_all_users(|user, home| test(user, home, &busybox)),
        Err(error) => skip(&format!("/bin/busybox: {error}")),
    }
}

fn with_shell(layer: Layer, busybox: &[u8]) -> Layer {
    let program = Meta {
        mode: 0o755,
        ..FILE
    };
    layer.dir("bin/", DIR).file("bin/sh", busybox, program)
}

fn load(home: &Home, name: &str, config: &serde_json::Value, layer: Vec<u8>) {
    let file = home.write("in.tar", &docker_archive(name, config, &[layer]));
    home.rrun(&["load", "-i", file.to_str().unwrap()]).ok();
}

/// A directory of the host that nothing in a container may change.
struct Canary(PathBuf);

impl Canary {
    fn new(home: &Home) -> Self {
        let dir = home.path("canary");
        fs::create_dir(&dir).unwrap();
        home.own(&dir);
        fs::write(dir.join("file"), "alive\n").unwrap();
        home.own(&dir.join("file"));
        Self(dir)
    }

    #[track_caller]
    fn lives(&self, what: &str) {
        let names: Vec<_> = fs::read_dir(&self.0)
            .unwrap()
            .flatten()
            .map(|one| one.file_name())
            .collect();
        assert_eq!(names, ["file"], "{what}");
        assert_eq!(
            fs::read_to_string(self.0.join("file")).unwrap(),
            "alive\n",
            "{what}"
        );
        assert_eq!(
            fs::metadata(self.0.join("file")).unwrap().mode() & 0o7777,
            0o644,
            "{what}"
        );
    }
}

/// CVE-2024-21626: a leaked descriptor as working directory.
#[test]
fn nothing_is_inherited_and_no_directory_leads_out() {
    for_all_users(|user, home| {
        let list = "ls /proc/self/fd | tr '\\n' ' '";
        let words = ["run", "-d", "--name", "fds", "bb:1", "sleep", "1000"];
        home.rrun(&words).ok();
        // 3 is the directory that ls itself reads.
        let run = home.rrun(&["run", "--rm", "bb:1", "sh", "-c", list]).ok();
        assert_eq!(run, "0 1 2 3 ", "{user}");
        let exec = home.rrun(&["exec", "fds", "sh", "-c", list]).ok();
        assert_eq!(exec, "0 1 2 3 ", "{user}");
        let seen = home
            .rrun(&["exec", "fds", "sh", "-c", "ls /proc/1/fd | tr '\\n' ' '"])
            .ok();
        assert_eq!(seen, "0 1 2 ", "{user}");
        for number in 3..20 {
            let dir = format!("/proc/self/fd/{number}");
            let script = "cd ../../../../..; pwd; cat etc/hostname";
            let ran = home.rrun(&[
                "run", "--rm", "-h", "inside", "-w", &dir, "bb:1", "sh", "-c", script,
            ]);
            assert!(
                ran.code != 0 || ran.out == "/\ninside\n",
                "{user}: {number}: {ran:?}"
            );
            let ran = home.rrun(&["exec", "-w", &dir, "fds", "sh", "-c", script]);
            assert!(
                ran.code != 0 || ran.out.starts_with("/\n"),
                "{user}: {number}: {ran:?}"
            );
        }
    });
}

/// CVE-2019-5736: our own program reached by `/proc/self/exe`.
/// Root inside could change owner and mode of the host's device through a descriptor of it.
#[test]
fn an_empty_standard_stream_is_the_containers_own_null_device() {
    for_all_users(|name, home| {
        let script =
            "test \"$(stat -L -c %d:%i /proc/self/fd/0)\" = \"$(stat -c %d:%i /dev/null)\"";
        home.rrun(&["run", "--name", "box", "bb:1", "sh", "-c", script])
            .ok();
        home.rrun(&["rm", "box"]).ok();
        home.rrun(&["run", "-d", "--name", "box", "bb:1", "sleep", "60"])
            .ok();
        let ran = home.rrun(&["exec", "box", "sh", "-c", script]);
        assert_eq!(ran.code, 0, "{name}: {ran:?}");
        home.rrun(&["rm", "-f", "box"]).ok();
    });
}

#[test]
fn our_program_cannot_be_reached_or_written() {
    let hash = || sha2::Sha256::digest(fs::read(binary()).unwrap());
    let before = hash();
    for_all_users(|user, home| {
        let words = ["run", "-d", "--name", "exe", "bb:1", "sleep", "1000"];
        let id = home.rrun(&words).ok();
        let script =
            "printf '#!/proc/self/exe\\n' > /tmp/x; chmod 755 /tmp/x; ln -s /proc/self/exe /tmp/y";
        home.rrun(&["exec", "exe", "sh", "-c", script]).ok();
        for program in ["/proc/self/exe", "/tmp/x", "/tmp/y", "/proc/1/exe"] {
            let ran = home.rrun(&["exec", "exe", program]);
            assert!(
                program == "/proc/1/exe" || ran.code == 126,
                "{user}: {program}: {ran:?}"
            );
        }
        home.rrun(&["run", "--rm", "bb:1", "/proc/self/exe"])
            .fails(126, "magic link");
        if is_root() && user == "caller" {
            assert_sealed(user, id.trim());
        }
    });
    assert_eq!(hash(), before);
}

/// The processes that a container could come to see run from a read-only mount.
fn assert_sealed(user: &str, id: &str) {
    let monitors = processes(id);
    let mut found = monitors.iter().filter(|pid| {
        let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        String::from_utf8_lossy(&line).contains("__monitor")
    });
    let exe = format!("/proc/{}/exe", found.next().unwrap());
    let denied = fs::set_permissions(&exe, fs::Permissions::from_mode(0o777)).unwrap_err();
    assert_eq!(denied.raw_os_error(), Some(libc::EROFS), "{user}: {denied}");
    let name = fs::read_to_string(exe.replace("/exe", "/comm")).unwrap();
    assert_eq!(name, "rrun\n", "{user}");
}

/// CVE-2019-5736 where the container's root owns the program: a user's own copy of it.
#[test]
fn a_users_own_program_is_sealed_too() {
    for_all_users(|user, home| {
        let own = home.write("own-rrun", &fs::read(binary()).unwrap());
        fs::set_permissions(&own, fs::Permissions::from_mode(0o755)).unwrap();
        let run = |words: &[&str]| {
            let mut command = home.command_of(&own);
            command.args(words);
            finish(command, words)
        };
        let id = run(&["run", "-d", "--name", "own", "bb:1", "sleep", "1000"]).ok();
        assert_sealed(user, id.trim());
        assert_eq!(run(&["exec", "own", "echo", "in"]).ok(), "in\n", "{user}");
        run(&["restart", "-t", "0", "own"]).ok();
        assert_sealed(user, id.trim());
    });
}

/// What an image may have as a link in place of what a container needs.
const LINKS: [&str; 11] = [
    "dev",
    "proc",
    "sys",
    "etc",
    "run",
    "tmp",
    "dev/shm",
    "dev/pts",
    "etc/hosts",
    "etc/resolv.conf",
    "dev/null",
];

/// CVE-2026-41579, CVE-2021-30465, CVE-2025-31133: directories and files of the image that lead to
/// the host.
#[test]
fn links_in_the_image_lead_nowhere() {
    for_all_with_busybox(|user, home, busybox| {
        let canary = Canary::new(home);
        let out = canary.0.to_str().unwrap();
        let up = format!("../../../../../../..{out}");
        let tried = LINKS.iter().map(|name| (*name, out));
        for (name, target) in tried.chain([("dev", &*up), ("etc/hosts", &*up)]) {
            let mut layer = with_shell(Layer::new(), busybox);
            if let Some((dir, _)) = name.split_once('/') {
                layer = layer.dir(&format!("{dir}/"), DIR);
            }
            let file = if name == "etc/hosts" { "/file" } else { "" };
            let to = format!("{target}{file}");
            load(home, "link:1", &json!({}), layer.symlink(name, &to).tar());
            let script = "echo x > /dev/null; head -c 1 /proc/kcore; echo inside";
            let words = [
                "run",
                "--rm",
                "--tmpfs",
                "/run/a",
                "--add-host",
                "a:1.2.3.4",
            ];
            let ran = home.rrun(&[&words[..], &["link:1", "sh", "-c", script]].concat());
            // Refused, or run with a file system of its own.
            let fine = ran.code == 125 || ran.out == "inside\n";
            assert!(fine, "{user}: {name} -> {to}: {ran:?}");
            canary.lives(&format!("{user}: {name} -> {to}"));
        }
    });
}

/// CVE-2024-1753 and the like: volumes and working directories where the image has a link.
#[test]
fn volumes_on_links_of_the_image_lead_nowhere() {
    for_all_with_busybox(|user, home, busybox| {
        let canary = Canary::new(home);
        let out = canary.0.to_str().unwrap();
        let layer = with_shell(Layer::new(), busybox).symlink("volume", out);
        let volumes = json!({"Volumes": {"/volume": {}}});
        load(home, "link:2", &volumes, layer.tar());
        for (options, file) in [
            (&[][..], "/volume/x"),
            (&["-v", "named:/volume/deep"], "/volume/deep/x"),
            (&["-w", "/volume/made"], "x"),
        ] {
            let script = format!("echo x > {file}");
            // Whether it may be asked for is not the question.
            home.rrun(
                &[
                    &["run", "--rm"][..],
                    options,
                    &["link:2", "sh", "-c", &script],
                ]
                .concat(),
            );
            canary.lives(&format!("{user}: {options:?}"));
        }
    });
}

/// CVE-2015-3631: volumes of an image where nothing may be mounted.
#[test]
fn an_image_cannot_ask_for_volumes_over_the_kernels_files() {
    for_all_with_busybox(|user, home, busybox| {
        for volume in ["/", "/proc", "/proc/sys", "..", "/../..", "/sys", "/sys/fs"] {
            let layer = with_shell(Layer::new(), busybox).tar();
            load(home, "vol:1", &json!({"Volumes": {volume: {}}}), layer);
            let ran = home.rrun(&[
                "run",
                "--rm",
                "vol:1",
                "sh",
                "-c",
                "test -d /proc/1 && test -d /sys/class && echo fine",
            ]);
            assert!(
                ran.code == 125 || ran.out == "fine\n",
                "{user}: {volume}: {ran:?}"
            );
            assert!(
                ran.code == 125 || !volume.starts_with("/proc"),
                "{user}: {volume}: {ran:?}"
            );
        }
    });
}

/// CVE-2022-29162, CVE-2022-36109, CVE-2022-0185 and the like.
#[test]
fn processes_have_no_more_than_they_need() {
    for_all_users(|user, home| {
        home.rrun(&["run", "-d", "--name", "least", "bb:1", "sleep", "1000"])
            .ok();
        let caps = "grep -E 'CapInh|CapAmb' /proc/self/status | tr -d '\\n\\t '";
        let none = "CapInh:0000000000000000CapAmb:0000000000000000";
        assert_eq!(
            home.rrun(&["run", "--rm", "bb:1", "sh", "-c", caps]).ok(),
            none,
            "{user}"
        );
        assert_eq!(
            home.rrun(&["exec", "least", "sh", "-c", caps]).ok(),
            none,
            "{user}"
        );
        let groups = "grep Groups /proc/self/status | tr -d '\\n\\t '";
        for id in ["0", "4321", "4321:4321"] {
            let run = home
                .rrun(&["run", "--rm", "-u", id, "bb:1", "sh", "-c", groups])
                .ok();
            let exec = home
                .rrun(&["exec", "-u", id, "least", "sh", "-c", groups])
                .ok();
            assert_eq!(run, exec, "{user}: {id}");
            assert!(
                ["Groups:", "Groups:0", "Groups:4321"].contains(&run.as_str()),
                "{user}: {id}: {run}"
            );
        }
        for call in [
            "unshare -U true",
            "unshare -m true",
            "mount -t tmpfs x /tmp",
            "mount -o remount,rw /proc/sys",
            "umount /proc/sys",
            "chroot / mount -t proc x /proc",
        ] {
            let ran = home.rrun(&["exec", "least", "sh", "-c", call]);
            assert!(ran.code != 0, "{user}: {call}: {ran:?}");
        }
        let writable = "grep cgroup /proc/mounts | grep -v ' ro,'; true";
        assert_eq!(
            home.rrun(&["exec", "least", "sh", "-c", writable]).ok(),
            "",
            "{user}"
        );
        for key in [
            "kernel.core_pattern",
            "kernel.panic",
            "vm.swappiness",
            "fs.file-max",
        ] {
            let asked = format!("{key}=1");
            home.rrun(&["run", "--rm", "--sysctl", &asked, "bb:1", "true"])
                .fails(125, "is not allowed");
        }
        home.rrun(&[
            "run",
            "--rm",
            "--network",
            "host",
            "--sysctl",
            "net.ipv4.ip_forward=1",
            "bb:1",
            "true",
        ])
        .fails(125, "not allowed");
    });
}

/// CVE-2020-15257: sockets that others can reach.
#[test]
fn others_cannot_attach() {
    for_all_users(|user, home| {
        let id = home.rrun(&["run", "-d", "bb:1", "sleep", "1000"]).ok();
        let dir = home.data().join("containers").join(id.trim());
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!(mode(&dir), 0o700, "{user}");
        assert_eq!(mode(&dir.join("attach.sock")), 0o600, "{user}");
        let abstracts = fs::read_to_string("/proc/net/unix").unwrap();
        let ours = abstracts
            .lines()
            .filter(|line| line.contains('@') && line.contains("rrun"));
        assert_eq!(ours.count(), 0, "{user}: {abstracts}");
    });
}

/// CVE-2018-15664, CVE-2019-14271, CVE-2026-41567: copies run nothing of the container's and
/// follow no link out of it.
#[test]
fn a_copy_runs_nothing_and_stays_inside() {
    for_all_users(|user, home| {
        let canary = Canary::new(home);
        let out = canary.0.to_str().unwrap();
        let script = format!(
            "for name in tar gzip xz zstd unpigz sh ls; do mkdir -p /shim; \
             printf '#!/bin/busybox sh\\necho ran >> /ran\\n' > /shim/$name; chmod 755 /shim/$name; done; \
             cp -f /shim/* /usr/bin/ 2>/dev/null; mkdir /real /host; ln -s {out} /lead; \
             while :; do rm -rf /swap; mkdir /swap; rm -rf /swap; ln -s {out} /swap; done"
        );
        let words = [
            "run",
            "-d",
            "--name",
            "shims",
            "-e",
            "PATH=/shim:/bin",
            "bb:1",
            "busybox",
            "sh",
            "-c",
            &script,
        ];
        home.rrun(&words).ok();
        let file = home.write("payload", b"payload");
        let file = file.to_str().unwrap();
        for round in 0..count("RRUN_RACES", 6) {
            for target in [
                "shims:/swap/x",
                "shims:/swap",
                "shims:/swap/deep/x",
                "shims:/lead/file",
            ] {
                // Whether it succeeds depends on the moment.
                home.rrun(&["cp", file, target]);
            }
            let back = home.path(&format!("back{round}"));
            home.rrun(&["cp", "shims:/swap", back.to_str().unwrap()]);
            canary.lives(&format!("{user}: round {round}"));
        }
        home.rrun(&["cp", file, "shims:/real/x"]).ok();
        let copied = home.path("copied");
        home.rrun(&["cp", "shims:/real/x", copied.to_str().unwrap()])
            .ok();
        assert_eq!(fs::read_to_string(&copied).unwrap(), "payload", "{user}");
        let ran = home.rrun(&["exec", "shims", "/bin/busybox", "ls", "/ran"]);
        assert_ne!(ran.code, 0, "{user}: {ran:?}");
        canary.lives(user);
    });
}

/// CVE-2021-30465, CVE-2024-45310: the target of a mount is exchanged for a link while a container
/// starts. `RRUN_RACES` sets the number of starts.
#[test]
fn an_exchanged_target_of_a_mount_leads_nowhere() {
    use rustix::fs::{CWD, RenameFlags, renameat_with};
    let races = count("RRUN_RACES", 6);
    for_all_users(|user, home| {
        let canary = Canary::new(home);
        let shared = home.path("shared");
        for dir in [&shared, &shared.join("here"), &shared.join("here/deep")] {
            fs::create_dir(dir).unwrap();
            home.own(dir);
        }
        // Inside, the volume is three deep: this is the canary of the host, if anything leads there.
        symlink(&canary.0, shared.join("there")).unwrap();
        let over = AtomicBool::new(false);
        let volume = format!("{}:/a/shared", shared.display());
        let (mut started, mut refused) = (0, 0);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                let (here, there) = (shared.join("here"), shared.join("there"));
                while !over.load(Ordering::Relaxed) {
                    renameat_with(CWD, &here, CWD, &there, RenameFlags::EXCHANGE).unwrap();
                }
            });
            for _ in 0..races {
                let words = [
                    "run",
                    "--rm",
                    "-v",
                    &volume,
                    "-v",
                    "inner:/a/shared/here/deep",
                    "--tmpfs",
                    "/a/shared/here/made",
                    "bb:1",
                    "sh",
                    "-c",
                    "echo x > /a/shared/here/deep/x; echo x > /a/shared/here/made/x; true",
                ];
                let ran = home.rrun(&words);
                if ran.code == 0 {
                    started += 1;
                } else {
                    refused += 1;
                }
            }
            over.store(true, Ordering::Relaxed);
        });
        canary.lives(user);
        eprintln!("{user}: {races} races, {started} started, {refused} refused");
    });
}
