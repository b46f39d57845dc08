//! The file systems that are compared, and mounting them.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::time::{Duration, Instant};

use crate::image;
use crate::options::Settings;
use crate::support::program;
use crate::tree;

/// One of the contenders.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// A plain directory with the same content: what no union can beat.
    Native,
    /// The kernel's overlayfs.
    Overlay,
    /// fuse-overlayfs.
    FuseOverlayfs,
    /// `rrun overlayfs` on the layers' directories.
    Ours,
    /// `rrun overlayfs` on the layers as an image in the store, merged when it was loaded.
    OurImage,
    /// The kernel's overlayfs on that image.
    Hybrid,
}

impl Kind {
    pub(crate) const ALL: [Self; 6] = [
        Self::Native,
        Self::Overlay,
        Self::FuseOverlayfs,
        Self::Ours,
        Self::OurImage,
        Self::Hybrid,
    ];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Native => "native",
            Self::Overlay => "overlay",
            Self::FuseOverlayfs => "fuse-overlayfs",
            Self::Ours => "ours",
            Self::OurImage => "image",
            Self::Hybrid => "hybrid",
        }
    }
}

/// A contender at work.
pub(crate) struct Contender {
    pub(crate) kind: Kind,
    /// Its directories: copy, uppers, mount points.
    dir: PathBuf,
    /// Counts the mounts: each has an upper directory of its own.
    generation: u32,
    mounted: Option<PathBuf>,
    /// Why it cannot take part.
    pub(crate) missing: Option<String>,
}

impl Contender {
    pub(crate) fn new(kind: Kind, base: &Path, settings: &Settings) -> Self {
        let absent = |name: &str| format!("{name} is not installed");
        let missing = match kind {
            _ if !settings.takes_part(kind.name()) => Some("left out by --only".to_owned()),
            Kind::FuseOverlayfs if program::find(&settings.peer).is_none() => {
                Some(absent(&settings.peer))
            }
            Kind::Ours | Kind::OurImage | Kind::Hybrid
                if program::find(&settings.rrun).is_none() =>
            {
                Some(absent(&settings.rrun))
            }
            Kind::Native
            | Kind::Overlay
            | Kind::FuseOverlayfs
            | Kind::Ours
            | Kind::OurImage
            | Kind::Hybrid => None,
        };
        Self {
            kind,
            dir: base.join(kind.name()),
            generation: 0,
            mounted: None,
            missing,
        }
    }

    /// Where its files are.
    pub(crate) fn root(&self) -> PathBuf {
        match (&self.mounted, self.kind) {
            (Some(path), _) => path.clone(),
            (None, _) => self.dir.join("copy"),
        }
    }

    fn log(&self) -> PathBuf {
        self.dir.join("errors")
    }

    /// Gives it an untouched tree; for the native directory that is a new copy.
    pub(crate) fn refresh(&mut self, base: &Path, settings: &Settings) -> Result<(), String> {
        self.unmount()?;
        if self.dir.is_dir() {
            fs::remove_dir_all(&self.dir)
                .map_err(|e| format!("could not remove {}: {e}", self.dir.display()))?;
        }
        let copy = self.dir.join("copy");
        fs::create_dir_all(&copy).map_err(|e| format!("could not create a directory: {e}"))?;
        if self.kind == Kind::Native {
            for number in 0..settings.shape.layers {
                let mut from = tree::layer(base, number).into_os_string();
                from.push("/.");
                let mut command = program::limited("cp");
                command.arg("-a").arg(from).arg(&copy);
                program::timed(&mut command, &self.log())?;
            }
        }
        Ok(())
    }

    /// Mounts it anew with an empty upper directory; gives the time that took.
    pub(crate) fn mount(&mut self, base: &Path, settings: &Settings) -> Result<Duration, String> {
        self.unmount()?;
        let (mut command, mountpoint) = self.command(base, settings, false)?;
        let took = program::timed(&mut command, &self.log())?;
        self.mounted = Some(mountpoint);
        Ok(took)
    }

    /// Mounts it with the server as our child.
    pub(crate) fn foreground(&mut self, base: &Path, settings: &Settings) -> Result<Child, String> {
        self.unmount()?;
        let (mut command, mountpoint) = self.command(base, settings, true)?;
        let child = command
            .spawn()
            .map_err(|error| format!("could not start {}: {error}", self.kind.name()))?;
        let deadline = Instant::now() + Duration::from_secs(10);
        while !is_mounted(&mountpoint) {
            if Instant::now() > deadline {
                return Err(format!("{} did not mount in 10 s", self.kind.name()));
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        self.mounted = Some(mountpoint);
        Ok(child)
    }

    fn command(
        &mut self,
        base: &Path,
        settings: &Settings,
        foreground: bool,
    ) -> Result<(Command, PathBuf), String> {
        self.generation += 1;
        let part = |name: &str| self.dir.join(format!("{name}{}", self.generation));
        let (upper, work, mountpoint) = (part("u"), part("w"), part("m"));
        for dir in [&upper, &work, &mountpoint] {
            fs::create_dir_all(dir)
                .map_err(|e| format!("could not create {}: {e}", dir.display()))?;
        }
        let lower: Vec<String> = (0..settings.shape.layers)
            .rev()
            .map(|number| tree::layer(base, number).display().to_string())
            .collect();
        let (program, extra) = match self.kind {
            Kind::Native => return Err("a directory is not mounted".to_owned()),
            Kind::Overlay => ("mount", &settings.overlay_options),
            Kind::FuseOverlayfs => (settings.peer.as_str(), &settings.peer_options),
            Kind::Ours | Kind::OurImage | Kind::Hybrid => {
                (settings.rrun.as_str(), &settings.rrun_options)
            }
        };
        let image = || {
            let store = image::data_root(base);
            format!("image={},data_root={}", image::NAME, store.display())
        };
        let lower = match self.kind {
            Kind::OurImage => image(),
            Kind::Hybrid => format!("{},fs_mode=hybrid", image()),
            Kind::Native | Kind::Overlay | Kind::FuseOverlayfs | Kind::Ours => {
                format!("lowerdir={}", lower.join(":"))
            }
        };
        let mut options = format!(
            "{lower},upperdir={},workdir={}",
            upper.display(),
            work.display()
        );
        if !extra.is_empty() {
            options.push(',');
            options.push_str(extra);
        }
        let mut command = if foreground {
            let mut command = Command::new(program);
            command.stdin(std::process::Stdio::null());
            command
        } else {
            program::limited(program)
        };
        match self.kind {
            Kind::Overlay => command.args(["-t", "overlay", "overlay"]),
            Kind::Ours | Kind::OurImage | Kind::Hybrid => command.arg("overlayfs"),
            Kind::Native | Kind::FuseOverlayfs => &mut command,
        };
        if foreground {
            command.arg("-f");
        }
        command.arg("-o").arg(options).arg(&mountpoint);
        Ok((command, mountpoint))
    }

    pub(crate) fn unmount(&mut self) -> Result<(), String> {
        let Some(mountpoint) = self.mounted.take() else {
            return Ok(());
        };
        let mut command = program::limited("umount");
        command.arg(&mountpoint);
        program::timed(&mut command, &self.log()).map(|_| ())
    }
}

fn is_mounted(path: &Path) -> bool {
    let table = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    let wanted = path.display().to_string();
    table
        .lines()
        .any(|line| line.split(' ').nth(4) == Some(wanted.as_str()))
}
