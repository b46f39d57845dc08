//! The OCI runtime: bundles, their life, what they cannot do to the host.

use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use crate::support::{Home, Ran, User, finish, fixture, skip};

/// A bundle of busybox in a home.
struct Bundle {
    home: Home,
    dir: PathBuf,
    spec: Value,
}

impl Bundle {
    /// As `rrun oci spec` makes it, without a terminal, running a script.
    fn new(user: User, rootless: bool) -> Result<Self, String> {
        let tar = fixture("busybox.tar")?;
        let home = Home::of(user);
        let dir = home.path("bundle");
        let root = dir.join("rootfs");
        std::fs::create_dir_all(&root).unwrap();
        let file = std::fs::File::open(tar).unwrap();
        tar::Archive::new(file).unpack(&root).unwrap();
        for name in ["proc", "sys", "dev", "tmp", "etc"] {
            std::fs::create_dir_all(root.join(name)).unwrap();
        }
        own_all(&home, &dir);
        let words = [
            &["oci", "spec", "-b", dir.to_str().unwrap()][..],
            rootless_flag(rootless),
        ];
        home.rrun(&words.concat()).ok();
        let text = std::fs::read(dir.join("config.json")).unwrap();
        let mut spec: Value = serde_json::from_slice(&text).unwrap();
        spec["process"]["terminal"] = json!(false);
        if !rootless {
            // All are called "box"; tests run at the same time.
            let own = home
                .path("")
                .parent()
                .unwrap()
                .file_name()
                .unwrap()
                .to_owned();
            spec["linux"]["cgroupsPath"] = json!(format!("/rrun-oci/{}", own.display()));
        }
        Ok(Self { home, dir, spec })
    }

    fn script(&mut self, script: &str) -> &mut Self {
        self.spec["process"]["args"] = json!(["/bin/sh", "-c", script]);
        self
    }

    fn save(&self) {
        let path = self.dir.join("config.json");
        std::fs::write(&path, self.spec.to_string()).unwrap();
        self.home.own(&path);
    }

    fn oci(&self, words: &[&str]) -> Ran {
        let root = self.home.path("oci");
        let words = [&["oci", "--root", root.to_str().unwrap()][..], words].concat();
        let mut command = self.home.command();
        command.current_dir(&self.dir).args(&words);
        finish(command, &words)
    }

    fn run(&self) -> Ran {
        self.save();
        self.oci(&["run", "box"])
    }

    fn status(&self) -> String {
        let state: Value = serde_json::from_str(&self.oci(&["state", "box"]).ok()).unwrap();
        state["status"].as_str().unwrap().to_owned()
    }
}

impl Drop for Bundle {
    fn drop(&mut self) {
        self.oci(&["delete", "--force", "box"]);
    }
}

fn rootless_flag(rootless: bool) -> &'static [&'static str] {
    if rootless { &["--rootless"] } else { &[] }
}

fn own_all(home: &Home, path: &Path) {
    if path.is_symlink() {
        return;
    }
    home.own(path);
    if path.is_dir() {
        for entry in std::fs::read_dir(path).unwrap() {
            own_all(home, &entry.unwrap().path());
        }
    }
}

/// Runs a test for root, and for an ordinary user in a user namespace.
fn for_bundles(test: impl Fn(&str, Bundle)) {
    for (name, user) in User::all() {
        let name = match name {
            "caller" if crate::support::is_root() => "root",
            other => other,
        };
        match Bundle::new(user, name != "root") {
            Ok(bundle) => test(name, bundle),
            Err(why) => skip(&why),
        }
    }
}

#[test]
fn a_bundle_runs_and_leaves_nothing_behind() {
    for_bundles(|name, mut bundle| {
        bundle.script("echo $0 $(id -u) $(hostname); cat; exit 7");
        let ran = bundle.run();
        assert_eq!(
            (ran.code, ran.out.as_str()),
            (7, "/bin/sh 0 rrun\n"),
            "{name}: {ran:?}"
        );
        assert_eq!(bundle.oci(&["list", "-q"]).ok(), "", "{name}");
        bundle.spec["process"]["args"] = json!(["nope"]);
        bundle.run().fails(1, "executable file not found");
        assert_eq!(bundle.oci(&["list", "-q"]).ok(), "", "{name}");
    });
}

#[test]
fn a_container_is_created_started_entered_killed_and_deleted() {
    for_bundles(|name, mut bundle| {
        bundle.script("trap 'exit 3' TERM; echo up >/tmp/up; while :; do sleep 0.01; done");
        bundle.spec["root"]["readonly"] = json!(false);
        bundle.save();
        let pid_file = bundle.home.path("pid");
        if name != "root" {
            // The shell below runs as ourselves; ordinary users are covered by `run`.
            return;
        }
        // A created process holds the streams of its creator: a pipe would never end.
        let root = bundle.home.path("oci");
        let script = format!(
            "exec \"$0\" oci --root {} create --pid-file {} box >/dev/null 2>&1",
            root.display(),
            pid_file.display()
        );
        let program = crate::support::binary();
        let mut shell = std::process::Command::new("/bin/sh");
        shell.args(["-c", &script, program.to_str().unwrap()]);
        shell.current_dir(&bundle.dir);
        finish(shell, &["create"]).ok();
        assert_eq!(bundle.status(), "created");
        assert!(!bundle.dir.join("rootfs/tmp/up").is_file());
        assert!(
            std::fs::read_to_string(&pid_file)
                .unwrap()
                .parse::<u32>()
                .is_ok()
        );
        bundle.oci(&["start", "box"]).ok();
        assert_eq!(bundle.status(), "running");
        bundle.oci(&["start", "box"]).fails(1, "running");
        let out = bundle.oci(&[
            "exec",
            "-e",
            "A=b",
            "box",
            "/bin/sh",
            "-c",
            "echo $A; exit 4",
        ]);
        assert_eq!((out.code, out.out.as_str()), (4, "b\n"), "{out:?}");
        bundle.oci(&["delete", "box"]).fails(1, "running");
        bundle.oci(&["kill", "box", "TERM"]).ok();
        while bundle.status() == "running" {
            std::thread::sleep(std::time::Duration::from_millis(5));
        }
        bundle.oci(&["kill", "box"]).fails(1, "stopped");
        bundle.oci(&["delete", "box"]).ok();
        bundle.oci(&["state", "box"]).fails(1, "does not exist");
        bundle.oci(&["delete", "--force", "box"]).ok();
    });
}

#[test]
fn nothing_of_the_runtime_is_inherited_or_reached() {
    for_bundles(|name, mut bundle| {
        bundle.script("cd /proc/self/fd; echo *");
        let ran = bundle.run().ok();
        // The last one is the directory that the shell reads.
        assert_eq!(ran, "0 1 2 3\n", "{name}");
        for number in 3..12 {
            bundle.spec["process"]["cwd"] = json!(format!("/proc/self/fd/{number}"));
            let ran = bundle.run();
            assert_ne!(ran.code, 0, "{name}: cwd {number}: {ran:?}");
        }
        bundle.spec["process"]["cwd"] = json!("/");
        std::os::unix::fs::symlink("/proc/self/exe", bundle.dir.join("rootfs/tmp/self")).unwrap();
        bundle.spec["process"]["args"] = json!(["/tmp/self"]);
        bundle.run().fails(1, "magic link");
    });
}

#[test]
fn links_in_the_root_lead_nowhere_outside() {
    for_bundles(|name, mut bundle| {
        let canary = bundle.home.path("canary");
        std::fs::create_dir(&canary).unwrap();
        bundle.home.own(&canary);
        bundle.script("true");
        let root = bundle.dir.join("rootfs");
        std::os::unix::fs::symlink(&canary, root.join("out")).unwrap();
        let mounts = bundle.spec["mounts"].as_array_mut().unwrap();
        mounts.push(json!({ "destination": "/out/dir", "type": "tmpfs", "source": "tmpfs" }));
        let ran = bundle.run();
        assert_eq!(
            std::fs::read_dir(&canary).unwrap().count(),
            0,
            "{name}: {ran:?}"
        );
        bundle.spec["mounts"].as_array_mut().unwrap().pop();
        for dir in ["dev", "proc"] {
            std::fs::remove_dir_all(root.join(dir)).unwrap();
            std::os::unix::fs::symlink(&canary, root.join(dir)).unwrap();
            let ran = bundle.run();
            assert_eq!(ran.code, 1, "{name}: {dir}: {ran:?}");
            assert_eq!(
                std::fs::read_dir(&canary).unwrap().count(),
                0,
                "{name}: {dir}"
            );
            std::fs::remove_file(root.join(dir)).unwrap();
            std::fs::create_dir(root.join(dir)).unwrap();
        }
    });
}

#[test]
fn mounts_masks_and_capabilities_are_as_configured() {
    for_bundles(|name, mut bundle| {
        bundle.script(
            "test -c /proc/version && echo hidden; touch /x 2>/dev/null || echo ro;
             touch /proc/sys/kernel/x 2>/dev/null || echo ro; grep CapInh /proc/self/status;
             grep NoNewPrivs /proc/self/status; ls /dev/null /dev/pts/ptmx",
        );
        bundle.spec["linux"]["maskedPaths"] = json!(["/proc/version", "/nowhere"]);
        let expected = "hidden\nro\nro\nCapInh:\t0000000000000000\nNoNewPrivs:\t1\n/dev/null\n\
                        /dev/pts/ptmx\n";
        assert_eq!(bundle.run().ok(), expected, "{name}");
    });
}

#[test]
fn errors_are_told_to_the_engine() {
    for_bundles(|name, mut bundle| {
        let log = bundle.home.path("log");
        bundle.spec["ociVersion"] = json!("9.0.0");
        bundle.save();
        let words = [
            "--log",
            log.to_str().unwrap(),
            "--log-format",
            "json",
            "run",
            "box",
        ];
        bundle.oci(&words).fails(1, "unsupported version");
        let line: Value = serde_json::from_slice(&std::fs::read(&log).unwrap()).unwrap();
        assert_eq!(line["level"], "error", "{name}");
        assert!(line["msg"].as_str().unwrap().contains("9.0.0"), "{name}");
        bundle.oci(&["--log-format", "xml", "list"]).fails(1, "xml");
    });
}

#[test]
fn memory_and_processors_are_placed() {
    for_bundles(|name, mut bundle| {
        bundle.spec["linux"]["memoryPolicy"] =
            json!({"mode": "MPOL_BIND", "nodes": "0", "flags": ["MPOL_F_STATIC_NODES"]});
        if Path::new("/proc/self/numa_maps").is_file() {
            bundle.script("head -n 1 /proc/self/numa_maps | cut -d ' ' -f 2");
            let ran = bundle.run();
            assert_eq!(ran.out, "bind=static:0\n", "{name}: {ran:?}");
        } else {
            skip("this kernel has no memory policies");
        }
        bundle.spec["linux"]["memoryPolicy"] = json!({"mode": "MPOL_FROB"});
        let ran = bundle.run();
        assert!(ran.err.contains("MPOL_FROB"), "{name}: {ran:?}");
        bundle.spec["linux"]["memoryPolicy"] = Value::Null;
        bundle.spec["process"]["execCPUAffinity"] = json!({"initial": "0-1", "final": "0"});
        bundle.script("sleep 1000");
        bundle.save();
        if name != "root" {
            // The shell below runs as ourselves.
            return;
        }
        // A detached process holds the streams of its creator: a pipe would never end.
        let script = format!(
            "exec \"$0\" oci --root {} run -d box >/dev/null 2>&1",
            bundle.home.path("oci").display()
        );
        let program = crate::support::binary();
        let mut shell = std::process::Command::new("/bin/sh");
        shell.args(["-c", &script, program.to_str().unwrap()]);
        shell.current_dir(&bundle.dir);
        finish(shell, &["run"]).ok();
        let words = [
            "exec",
            "box",
            "grep",
            "Cpus_allowed_list",
            "/proc/self/status",
        ];
        assert!(bundle.oci(&words).ok().ends_with("\t0\n"), "{name}");
        bundle.oci(&["delete", "--force", "box"]).ok();
        bundle.spec["process"]["execCPUAffinity"] = json!({"initial": "frob"});
        assert!(bundle.run().err.contains("invalid list"), "{name}");
    });
}

#[test]
fn network_devices_are_moved_into_a_bundle() {
    for_bundles(|name, mut bundle| {
        bundle.spec["linux"]["netDevices"] = json!({"rrx0": {"name": "in0"}});
        if name != "root" || !crate::support::has("ip") {
            return;
        }
        let namespaces = bundle.spec["linux"]["namespaces"].as_array_mut().unwrap();
        namespaces.retain(|one| one["type"] != "network");
        namespaces.push(json!({"type": "network"}));
        bundle.script(
            "ip -o addr show dev in0 | grep -o '10.9.9.1/24'; ip -o link show in0 | grep -c UP",
        );
        bundle.save();
        let root = bundle.home.path("oci");
        let line = format!(
            "ip link add rrx0 type veth peer name rry0 && ip addr add 10.9.9.1/24 dev rrx0 && \
             cd {} && {} oci --root {} run box",
            bundle.dir.display(),
            crate::support::binary().display(),
            root.display()
        );
        let mut command = std::process::Command::new("unshare");
        command.args(["-n", "sh", "-c", &line]);
        command.stdin(std::process::Stdio::null());
        let ran = finish(command, &["unshare"]);
        assert_eq!(ran.out, "10.9.9.1/24\n1\n", "{ran:?}");
        let missing = bundle.run();
        assert!(missing.err.contains("rrx0"), "{missing:?}");
        bundle.spec["linux"]["netDevices"] = json!({"a/b": {}});
        assert!(bundle.run().err.contains("invalid network device name"));
    });
}

#[test]
fn ids_of_a_mount_are_mapped_in_a_user_namespace() {
    use std::os::unix::fs::{PermissionsExt, lchown};
    if !crate::support::is_root() {
        return skip("only root may map the ids of a file system of the host");
    }
    let mut bundle = match Bundle::new(User::Caller, false) {
        Ok(bundle) => bundle,
        Err(why) => return skip(&why),
    };
    // Root of the container, 1 outside, must reach its root directory and own it.
    let open = std::fs::Permissions::from_mode(0o755);
    for dir in [bundle.dir.parent().unwrap(), &bundle.dir] {
        std::fs::set_permissions(dir, open.clone()).unwrap();
    }
    fn give(path: &Path) {
        lchown(path, Some(1), Some(1)).unwrap();
        if path.is_dir() && !path.is_symlink() {
            for entry in std::fs::read_dir(path).unwrap() {
                give(&entry.unwrap().path());
            }
        }
    }
    give(&bundle.dir.join("rootfs"));
    let source = bundle.home.path("source");
    std::fs::create_dir(&source).unwrap();
    std::fs::write(source.join("file"), "x").unwrap();
    let list = |from: u32, to: u32| json!([{"containerID": from, "hostID": to, "size": 65536}]);
    bundle.spec["linux"]["uidMappings"] = list(0, 1);
    bundle.spec["linux"]["gidMappings"] = list(0, 1);
    let namespaces = bundle.spec["linux"]["namespaces"].as_array_mut().unwrap();
    namespaces.push(json!({"type": "user"}));
    let mount = |at: &str, option: &str| {
        json!({
            "destination": at, "type": "bind", "source": source,
            "options": ["rbind", "ro", option],
        })
    };
    let mut shifted = mount("/shifted", "ridmap");
    shifted["uidMappings"] = list(0, 8);
    shifted["gidMappings"] = list(0, 9);
    let mounts = bundle.spec["mounts"].as_array_mut().unwrap();
    mounts.extend([
        mount("/plain", "private"),
        mount("/mapped", "idmap"),
        shifted,
    ]);
    let ran = bundle
        .script("stat -c %u:%g /plain/file /mapped/file /shifted/file; grep ' /dev/null ' /proc/self/mountinfo")
        .run();
    let out = ran.ok();
    assert!(out.starts_with("65534:65534\n0:0\n7:8\n"), "{out}");
    let null = out.lines().last().unwrap();
    assert!(null.contains("nosuid") && null.contains("noexec"), "{out}");
}

#[test]
fn a_service_manager_hears_when_the_process_is_ready() {
    use std::os::unix::net::UnixDatagram;
    for_bundles(|name, mut bundle| {
        let path = bundle.home.path("manager");
        let manager = UnixDatagram::bind(&path).unwrap();
        bundle.home.own(&path);
        let wait = Some(std::time::Duration::from_secs(20));
        manager.set_read_timeout(wait).unwrap();
        // busybox has one program that writes to such a socket: the one for the system's log.
        let script = "ln -s $NOTIFY_SOCKET /dev/log; logger STATUS=no; logger \"$(printf 'x\\nREADY=1')\"; \
                      echo $NOTIFY_SOCKET; sleep 1000";
        bundle.script(script).save();
        let oci = |words: &[&str]| {
            let root = bundle.home.path("oci");
            let words = [&["oci", "--root", root.to_str().unwrap()][..], words].concat();
            let mut command = bundle.home.command();
            command.env("NOTIFY_SOCKET", &path).current_dir(&bundle.dir);
            command.args(&words);
            // What a container holds open is not waited for.
            command.stdout(std::process::Stdio::null());
            command.stderr(std::process::Stdio::null());
            command.status().unwrap().success()
        };
        let heard = || {
            let mut message = [0; 200];
            let count = manager.recv(&mut message).unwrap();
            String::from_utf8(message[..count].to_vec()).unwrap()
        };
        for start in [&["run", "-d", "box"][..], &["create", "box"]] {
            assert!(oci(start), "{name}: {start:?}");
            if start[0] == "create" {
                assert!(oci(&["start", "box"]), "{name}");
            }
            let state = bundle.oci(&["state", "box"]).ok();
            let state: Value = serde_json::from_str(&state).unwrap();
            let expected = format!("READY=1\nMAINPID={}\n", state["pid"]);
            assert_eq!(heard(), expected, "{name}: {start:?}");
            bundle.oci(&["delete", "--force", "box"]).ok();
        }
    });
}
