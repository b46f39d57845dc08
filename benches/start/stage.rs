//! What the commands are run on: an image, a bundle, two users, configurations, all in the work
//! directory or in private mounts.

use std::fs::{self, File};
use std::os::unix::fs::{chown, symlink};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::support::program;

/// Ids that ordinary installations do not give out.
const RANGED: u32 = 54_321;
const SINGLE: u32 = 54_322;
/// The image's name everywhere.
pub(crate) const IMAGE: &str = "localhost/bench:latest";

/// Who runs a command.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum User {
    Root,
    /// Has 65536 subordinate ids.
    Ranged,
    /// Has its own id only.
    Single,
}

/// The prepared place.
pub(crate) struct Stage {
    pub(crate) dir: PathBuf,
    pub(crate) rrun: PathBuf,
}

impl Stage {
    pub(crate) fn prepare(dir: &Path, rrun: &Path) -> Result<Self, String> {
        let stage = Self {
            dir: dir.to_owned(),
            rrun: rrun.to_owned(),
        };
        stage.mounts()?;
        stage.users()?;
        stage.image()?;
        stage.configurations()?;
        Ok(stage)
    }

    fn log(&self) -> PathBuf {
        self.dir.join("errors")
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }

    fn call(&self, program: &str, arguments: &[&str]) -> Result<(), String> {
        let mut command = program::limited(program);
        command.args(arguments).current_dir("/");
        program::timed(&mut command, &self.log_or_null()).map(|_| ())
    }

    fn log_or_null(&self) -> PathBuf {
        if self.dir.is_dir() {
            self.log()
        } else {
            PathBuf::from("/dev/null")
        }
    }

    /// Private places for what the peers leave behind.
    fn mounts(&self) -> Result<(), String> {
        let dir = self.dir.display().to_string();
        for (place, mode) in [(dir.as_str(), "755"), ("/run", "755"), ("/dev/shm", "1777")] {
            let mode = format!("mode={mode}");
            self.call("mount", &["-t", "tmpfs", "-o", &mode, "tmpfs", place])?;
        }
        // crun refuses a machine that has both hierarchies; not mounted is as good as hidden.
        if Path::new("/sys/fs/cgroup/unified/cgroup.procs").is_file() {
            self.call("umount", &["/sys/fs/cgroup/unified"])?;
        }
        Ok(())
    }

    /// Two users that exist in this mount namespace only.
    fn users(&self) -> Result<(), String> {
        let lines = [
            (
                "/etc/passwd",
                format!(
                    "bench-ranged:x:{RANGED}:{RANGED}::{0}/ranged:/bin/sh\nbench-single:x:{SINGLE}:{SINGLE}::{0}/single:/bin/sh\n",
                    self.dir.display()
                ),
            ),
            (
                "/etc/group",
                format!("bench-ranged:x:{RANGED}:\nbench-single:x:{SINGLE}:\n"),
            ),
            ("/etc/subuid", "bench-ranged:700000000:65536\n".to_owned()),
            ("/etc/subgid", "bench-ranged:700000000:65536\n".to_owned()),
        ];
        for (file, more) in lines {
            let Ok(mut text) = fs::read_to_string(file) else {
                continue;
            };
            if !text.ends_with('\n') && !text.is_empty() {
                text.push('\n');
            }
            text.push_str(&more);
            let copy = self.path(&file.replace('/', "_"));
            write(&copy, &text)?;
            let copy = copy.display().to_string();
            self.call("mount", &["--bind", &copy, file])?;
        }
        for (name, id) in [("root", 0), ("ranged", RANGED), ("single", SINGLE)] {
            for dir in [name.to_owned(), format!("{name}/run")] {
                let dir = self.path(&dir);
                fs::create_dir(&dir).map_err(|e| format!("could not create a home: {e}"))?;
                chown(&dir, Some(id), Some(id)).map_err(|e| format!("could not chown: {e}"))?;
            }
        }
        Ok(())
    }

    /// A root of one static program, as a tar archive and as a bundle.
    fn image(&self) -> Result<(), String> {
        let busybox = program::find("busybox").ok_or("busybox is not installed")?;
        let root = self.path("bundle/rootfs");
        for name in ["bin", "dev", "etc", "proc", "sys", "tmp"] {
            fs::create_dir_all(root.join(name)).map_err(|e| format!("could not mkdir: {e}"))?;
        }
        fs::copy(busybox, root.join("bin/busybox")).map_err(|e| format!("could not copy: {e}"))?;
        for name in ["true", "sh", "sleep"] {
            symlink("busybox", root.join("bin").join(name))
                .map_err(|e| format!("could not link: {e}"))?;
        }
        let (root, archive) = (root.display().to_string(), self.path("root.tar"));
        self.call(
            "tar",
            &["-C", &root, "-cf", &archive.display().to_string(), "."],
        )
    }

    fn configurations(&self) -> Result<(), String> {
        // The defaults ask for more than a machine without CAP_SYS_RESOURCE can give.
        let common = "[containers]\ndefault_ulimits=[\"nofile=1024:1024\",\"nproc=1024:1024\"]\n";
        let engine = "[engine]\ncgroup_manager=\"cgroupfs\"\nevents_logger=\"file\"\n";
        write(&self.path("root.conf"), &format!("{common}{engine}"))?;
        write(
            &self.path("ranged.conf"),
            &format!("{common}cgroups=\"disabled\"\n{engine}"),
        )?;
        for name in ["root", "ranged"] {
            let home = self.path(name).display().to_string();
            let mut text = format!(
                "[storage]\ndriver=\"overlay\"\ngraphroot=\"{home}/storage\"\nrunroot=\"{home}/run/storage\"\n"
            );
            if name != "root" {
                text.push_str(
                    "[storage.options.overlay]\nmount_program=\"/usr/bin/fuse-overlayfs\"\n",
                );
            }
            write(&self.path(&format!("{name}.storage")), &text)?;
        }
        Ok(())
    }

    /// A command with an environment of its own, run by `user`.
    pub(crate) fn command(&self, user: User, program: impl AsRef<Path>) -> Command {
        let (name, id) = match user {
            User::Root => ("root", 0),
            User::Ranged => ("ranged", RANGED),
            User::Single => ("single", SINGLE),
        };
        let home = self.path(name);
        let mut command = Command::new(program.as_ref());
        command
            .env_clear()
            .env("PATH", "/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin")
            .env("HOME", &home)
            .env("XDG_DATA_HOME", home.join("data"))
            .env("XDG_RUNTIME_DIR", home.join("run"))
            .env("CONTAINERS_CONF", self.path(&format!("{name}.conf")))
            .env(
                "CONTAINERS_STORAGE_CONF",
                self.path(&format!("{name}.storage")),
            )
            .current_dir(&home)
            .stdin(std::process::Stdio::null())
            .stdout(std::process::Stdio::null());
        if user != User::Root {
            command.uid(id).gid(id);
        }
        if let Ok(file) = File::create(self.log()) {
            command.stderr(file);
        }
        command
    }

    /// What the last command complained about.
    pub(crate) fn complaint(&self) -> String {
        let text = fs::read_to_string(self.log()).unwrap_or_default();
        text.lines().last().unwrap_or("nothing was said").to_owned()
    }

    /// A bundle for the OCI runtimes, made by one of them.
    pub(crate) fn bundle(&self) -> Result<PathBuf, String> {
        let bundle = self.path("bundle");
        let config = bundle.join("config.json");
        let maker = ["crun", "runc"].into_iter().find_map(program::find);
        let maker = maker.ok_or("neither crun nor runc is installed")?;
        let mut command = program::limited(maker);
        program::timed(command.arg("spec").current_dir(&bundle), &self.log())?;
        let text = fs::read_to_string(&config).map_err(|e| format!("no config.json: {e}"))?;
        let text = text
            .replace("\"terminal\": true", "\"terminal\": false")
            .replace("\"sh\"", "\"/bin/true\"");
        write(&config, &text)?;
        Ok(bundle)
    }
}

fn write(path: &Path, text: &str) -> Result<(), String> {
    fs::write(path, text).map_err(|e| format!("could not write {}: {e}", path.display()))
}
