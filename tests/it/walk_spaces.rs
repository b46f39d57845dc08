//! Namespaces of other containers, and what keeps a container in its bounds.

use crate::support::{Home, Ran, for_all_users, is_root};
use crate::walk::{inspect, sleeper, wait_for};

fn run(home: &Home, words: &[&str]) -> Ran {
    let words = [&["run", "--rm", "--network", "none"][..], words].concat();
    home.rrun(&words)
}

fn shell(home: &Home, options: &[&str], script: &str) -> Ran {
    run(home, &[options, &["bb:1", "sh", "-c", script]].concat())
}

#[test]
fn namespaces_of_another_container_are_joined() {
    for_all_users(|who, home| {
        sleeper(home, "donor", &["--ipc", "shareable"]);
        let ids = "for n in pid ipc net user; do readlink /proc/self/ns/$n; done";
        let own = home.rrun(&["exec", "donor", "sh", "-c", ids]).ok();
        let all = [
            "run",
            "--rm",
            "--pid",
            "container:donor",
            "--ipc",
            "container:donor",
            "--network",
            "container:donor",
            "bb:1",
            "sh",
            "-c",
        ];
        let seen = home.rrun(&[&all[..], &[ids]].concat()).ok();
        assert_eq!(seen, own, "{who}");
        let write = "echo hello >/dev/shm/a; kill -0 1 && echo seen";
        let written = home.rrun(&[&all[..], &[write]].concat()).ok();
        assert_eq!(written, "seen\n", "{who}");
        let read = home.rrun(&["exec", "donor", "cat", "/dev/shm/a"]).ok();
        assert_eq!(read, "hello\n", "{who}");
        // What the first process leaves goes with it, although the namespace stays.
        sleeper(home, "guest", &["--pid", "container:donor"]);
        home.rrun(&["exec", "-d", "guest", "sleep", "4321"]).ok();
        wait_for("both run", || {
            home.rrun(&["top", "guest"]).out.lines().count() == 3
        });
        assert!(inspect(home, "{{.HostConfig.PidMode}}", "guest").starts_with("container:"));
        home.rrun(&["rm", "-f", "guest"]).ok();
        let left = home.rrun(&["exec", "donor", "ps", "-o", "stat,args"]).ok();
        assert!(!left.contains("sleep 4321"), "{who}: {left}");
        sleeper(home, "closed", &[]);
        let refused = run(home, &["--ipc", "container:closed", "bb:1", "true"]);
        refused.fails(125, "non-shareable IPC");
        home.rrun(&["stop", "-t", "0", "closed"]).ok();
        run(home, &["--pid", "container:closed", "bb:1", "true"])
            .fails(125, "cannot join PID of a non running container");
        run(home, &["--pid", "container:nope", "bb:1", "true"]).fails(125, "no such container");
    });
}

#[test]
fn namespaces_are_the_hosts_or_none_where_that_is_asked_for() {
    for_all_users(|who, home| {
        let none = shell(home, &["--ipc", "none"], "test -e /dev/shm || echo none");
        assert_eq!(none.ok(), "none\n", "{who}");
        for (flag, says) in [
            ("--pid", "--pid: invalid PID mode"),
            ("--ipc", "--ipc: invalid IPC mode"),
            ("--uts", "--uts: invalid UTS mode"),
            ("--userns", "--userns: invalid USER mode"),
            ("--cgroupns", "--cgroupns: invalid CGROUP mode"),
        ] {
            run(home, &[flag, "frob", "bb:1", "true"]).fails(125, says);
        }
        let host = std::fs::read_link("/proc/self/ns/cgroup").unwrap();
        let seen = shell(
            home,
            &["--cgroupns", "host"],
            "readlink /proc/self/ns/cgroup",
        );
        assert_eq!(seen.ok().trim(), host.to_str().unwrap(), "{who}");
        assert_eq!(
            shell(home, &["--userns", "host"], "id -u").ok(),
            "0\n",
            "{who}"
        );
        let names = ["--domainname", "example.org", "--hostname", "h"];
        let names = shell(
            home,
            &names,
            "cat /proc/sys/kernel/domainname; tail -n1 /etc/hosts",
        );
        let expected = "example.org\n127.0.0.1\th.example.org h\n";
        assert_eq!(names.ok(), expected, "{who}");
    });
}

/// A block device that root of the host can read, and its numbers.
fn block_device() -> Option<(String, u32, u32)> {
    use std::os::unix::fs::MetadataExt;
    let readable = |name: String| {
        let data = std::fs::metadata(&name).ok()?;
        // One that is not in use is empty.
        let mut file = std::fs::File::open(&name).ok()?;
        std::io::Read::read_exact(&mut file, &mut [0]).ok()?;
        let number = data.rdev();
        Some((name, rustix::fs::major(number), rustix::fs::minor(number)))
    };
    (0..8).find_map(|number| readable(format!("/dev/loop{number}")))
}

#[test]
fn devices_of_the_host_stay_out_of_reach() {
    for_all_users(|who, home| {
        let usual = "for d in null zero full random urandom tty; do test -c /dev/$d || exit 9; \
                     done; echo x >/dev/null && head -c 3 /dev/zero | wc -c";
        for options in [
            &[][..],
            &["--cap-add", "SYS_ADMIN"],
            &["-v", "/dev:/hostdev"],
            &["--device-cgroup-rule", "c 1:3 rwm"],
        ] {
            let ran = shell(home, options, usual);
            assert_eq!(ran.out, "3\n", "{who} {options:?}: {ran:?}");
        }
        let mask = shell(
            home,
            &["-v", "/dev/null:/etc/mask"],
            "cat /etc/mask && echo read",
        );
        assert_eq!(mask.ok(), "read\n", "{who}");
        // The nodes are the container's own, and the null device that is a user's standard input
        // is not given away.
        let hosts = |name: &str| {
            use std::os::unix::fs::MetadataExt;
            let data = std::fs::metadata(name).unwrap();
            (data.mode(), data.uid(), data.gid())
        };
        let before = (hosts("/dev/null"), hosts("/dev/zero"));
        shell(home, &[], "chmod 600 /dev/zero; chown 5:5 /dev/zero; true").ok();
        for options in [&["-u", "4321"][..], &["-i", "-u", "4321"]] {
            // Without a range there is no such user.
            let _refused = shell(home, options, "true");
        }
        assert_eq!((hosts("/dev/null"), hosts("/dev/zero")), before, "{who}");
        if who != "caller" || !is_root() {
            let warned = shell(home, &["--device-cgroup-rule", "c 1:3 rwm"], "true");
            assert!(
                warned.err.contains("--device-cgroup-rule is not enforced"),
                "{who}"
            );
            return;
        }
        let Some((name, major, minor)) = block_device() else {
            crate::support::skip("no block device that root may read");
            return;
        };
        let try_it = format!(
            "for at in / /dev /tmp /vol /shm; do mkdir -p $at; mknod $at/x b {major} {minor}; \
             head -c 1 $at/x >/dev/null && echo read $at; done; echo done"
        );
        for options in [
            &["-v", "/vol", "--tmpfs", "/shm:dev"][..],
            &["--cap-add", "SYS_ADMIN", "--tmpfs", "/shm:dev"],
            &["-v", "/dev:/hostdev"],
            &["--device-cgroup-rule", "c 1:3 rwm"],
        ] {
            let ran = shell(home, options, &try_it);
            assert_eq!(ran.out, "done\n", "{options:?}: {ran:?}");
        }
        let given = ["--device", &name];
        let read = format!("head -c 1 {name} | wc -c");
        for options in [&[][..], &["--cap-add", "SYS_ADMIN"]] {
            let ran = shell(home, &[options, &given].concat(), &read);
            assert_eq!(ran.out, "1\n", "{options:?}: {ran:?}");
        }
        let rule = format!("b {major}:{minor} rm");
        let ran = shell(
            home,
            &["--device-cgroup-rule", &rule],
            &format!("mknod /x b {major} {minor}; head -c 1 /x | wc -c"),
        );
        assert_eq!(ran.out, "1\n", "{ran:?}");
    });
}

#[test]
fn security_options_have_effect() {
    for_all_users(|who, home| {
        let status = |options: &[&str], line: &str| {
            let ran = shell(home, options, &format!("grep {line}: /proc/self/status"));
            ran.ok().split_whitespace().last().unwrap().to_owned()
        };
        let opt = "--security-opt";
        for word in [
            "no-new-privileges",
            "no-new-privileges:true",
            "no-new-privileges=true",
        ] {
            assert_eq!(status(&[opt, word], "NoNewPrivs"), "1", "{who} {word}");
        }
        assert_eq!(
            status(&[opt, "no-new-privileges:false"], "NoNewPrivs"),
            "0",
            "{who}"
        );
        let profile = home.write(
            "profile.json",
            br#"{"defaultAction":"SCMP_ACT_ALLOW",
                 "syscalls":[{"names":["mkdir","mkdirat"],"action":"SCMP_ACT_ERRNO"}]}"#,
        );
        let profile = format!("seccomp={}", profile.display());
        let made = shell(
            home,
            &[opt, &profile],
            "mkdir /x; chmod 700 /tmp /etc && echo chmod",
        );
        assert_eq!(made.out, "chmod\n", "{who}: {made:?}");
        assert!(
            made.err.contains("Operation not permitted"),
            "{who}: {made:?}"
        );
        let wrong = home.write("wrong.json", br#"{"defaultAction":"FROB"}"#);
        let wrong = format!("seccomp={}", wrong.display());
        run(home, &[opt, &wrong, "bb:1", "true"]).fails(125, "Decoding seccomp profile failed");
        run(home, &[opt, "seccomp=/nope", "bb:1", "true"]).fails(125, "opening seccomp profile");
        run(home, &[opt, "frob", "bb:1", "true"]).fails(125, "invalid --security-opt");
        for word in [
            "label=disable",
            "label:type:x",
            "apparmor=unconfined",
            "apparmor=docker-default",
        ] {
            run(home, &[opt, word, "bb:1", "true"]).ok();
        }
        let masked = "head -c 1 /proc/kcore 2>/dev/null | wc -c; ls /proc/acpi 2>/dev/null | wc -l; \
                      test -w /proc/sysrq-trigger || echo protected";
        assert!(shell(home, &[], masked).ok().starts_with("0\n0\n"), "{who}");
        let mounts = |options: &[&str]| {
            let ran = shell(home, options, "grep -c ' /proc' /proc/mounts");
            ran.ok().trim().parse::<u32>().unwrap()
        };
        assert_eq!(mounts(&[opt, "systempaths=unconfined"]), 1, "{who}");
        assert!(mounts(&[]) > 5, "{who}");
        assert_eq!(
            status(&["--cap-drop", "ALL"], "CapEff"),
            "0000000000000000",
            "{who}"
        );
        let one = ["--cap-drop", "all", "--cap-add", "CAP_CHOWN"];
        assert_eq!(status(&one, "CapBnd"), "0000000000000001", "{who}");
        let all = u64::from_str_radix(&status(&["--cap-add", "ALL"], "CapEff"), 16).unwrap();
        assert!(all.count_ones() > 30, "{who}");
        run(home, &["--cap-add", "FROB", "bb:1", "true"]).fails(125, "FROB");
    });
}

#[test]
fn groups_are_added_where_they_exist() {
    for_all_users(|who, home| {
        let ran = shell(home, &["--group-add", "77"], "id -G");
        if who == "user without a range" {
            // Only one group exists there.
            assert!(ran.code == 0 || ran.err.contains("group"), "{who}: {ran:?}");
            return;
        }
        assert!(
            ran.out.split_whitespace().any(|gid| gid == "77"),
            "{who}: {ran:?}"
        );
        assert!(
            home.rrun(&["run", "--help"]).ok().contains("--group-add"),
            "{who}"
        );
    });
}

#[test]
fn a_platform_is_looked_for() {
    for_all_users(|who, home| {
        let own = match std::env::consts::ARCH {
            "x86_64" => "linux/amd64",
            "aarch64" => "linux/arm64",
            other => return crate::support::skip(&format!("no name for {other}")),
        };
        assert_eq!(
            run(home, &["--platform", own, "bb:1", "echo", "x"]).out,
            "x\n",
            "{who}"
        );
        let other = run(
            home,
            &[
                "--platform",
                "linux/frob",
                "--pull",
                "never",
                "bb:1",
                "true",
            ],
        );
        assert_eq!(other.code, 125, "{who}: {other:?}");
    });
}

#[test]
fn mounts_of_the_host_spread_as_far_as_they_can() {
    for_all_users(|who, home| {
        let dir = home.path("spread");
        std::fs::create_dir(&dir).unwrap();
        home.own(&dir);
        let volume = |word: &str| format!("{}:/m:{word}", dir.display());
        if who != "caller" || !is_root() {
            // Nothing here is shared, unless the whole host is.
            let ran = run(home, &["-v", &volume("rslave"), "bb:1", "true"]);
            assert!(
                ran.code == 0 || ran.err.contains("not a shared or slave mount"),
                "{who}"
            );
            return;
        }
        // In a mount namespace of its own, so that the host never sees it.
        let rrun = crate::support::binary();
        let shared = format!("{}:/s:rshared", dir.display());
        let script = format!(
            "mount -t tmpfs none '{dir}' && mount --make-private '{dir}' && cd / && \
             ! $R create -v {slave} bb:1 true 2>&1 | grep -c 'not a shared or slave mount' | grep -qv 1 && \
             mount --make-shared '{dir}' && mkdir '{dir}/sub' '{dir}/back' && \
             $R run -d --name sp --privileged --network none -v {slave} -v {shared} bb:1 sleep 1000 && \
             mount -t tmpfs none '{dir}/sub' && touch '{dir}/sub/seen' && \
             $R exec sp ls /m/sub && \
             $R exec --privileged sp mount -t tmpfs none /s/back && $R exec sp touch /s/back/seen && \
             ls '{dir}/back'; $R exec sp grep -c ' /m' /proc/mounts; $R rm -f sp",
            dir = dir.display(),
            slave = volume("rslave"),
            shared = shared,
        );
        let mut command = std::process::Command::new("unshare");
        command.args(["-m", "--propagation", "private", "sh", "-c", &script]);
        for (key, value) in home.command().get_envs() {
            if let Some(value) = value {
                command.env(key, value);
            }
        }
        command.env("R", rrun).stdin(std::process::Stdio::null());
        let ran = crate::support::finish(command, &["unshare"]);
        let lines: Vec<&str> = ran.out.lines().skip(1).collect();
        assert_eq!(lines, ["seen", "seen", "3", "sp"], "{ran:?}");
    });
}
