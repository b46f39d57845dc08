//! The command line of the benchmark.

use std::path::PathBuf;

use crate::support::keeper;
use crate::tree::Shape;

pub(crate) const USAGE: &str = "cargo bench --bench filesystem -- [OPTIONS]
  --quick                one round on a tree of a tenth the size
  --rounds N             interleaved rounds (5)
  --layers N             lower directories (6)
  --userns               in a user namespace even as root; others always are
  --disk DIR             work below DIR instead of on a tmpfs
  --only LIST            contenders, of native,overlay,fuse-overlayfs,ours,image
  --rows TEXT            only workloads whose name contains TEXT
  --rrun PATH            the binary to measure (the one cargo just built)
  --rrun-options LIST    its mount options (metacopy=on,redirect_dir=on)
  --peer PATH            fuse-overlayfs to compare with
  --peer-options LIST    its mount options
  --overlay-options LIST mount options of the kernel's overlayfs (userxattr in a user namespace)
  --counts               system calls and requests per operation instead of times; needs strace";

/// What was asked for.
pub(crate) struct Settings {
    pub(crate) quick: bool,
    pub(crate) counts: bool,
    pub(crate) rounds: usize,
    pub(crate) user_namespace: bool,
    pub(crate) disk: Option<PathBuf>,
    pub(crate) shape: Shape,
    pub(crate) rows: Option<String>,
    pub(crate) rrun: String,
    pub(crate) rrun_options: String,
    pub(crate) peer: String,
    pub(crate) peer_options: String,
    pub(crate) overlay_options: String,
    only: Option<Vec<String>>,
}

impl Settings {
    pub(crate) fn parse(mut words: impl Iterator<Item = String>) -> Result<Self, String> {
        let user_namespace = !keeper::is_root();
        let mut settings = Self {
            quick: false,
            counts: false,
            rounds: 0,
            user_namespace,
            disk: None,
            shape: Shape::new(6, false),
            rows: None,
            rrun: option_env!("CARGO_BIN_EXE_rrun")
                .unwrap_or("rrun")
                .to_owned(),
            rrun_options: "metacopy=on,redirect_dir=on".to_owned(),
            peer: "fuse-overlayfs".to_owned(),
            peer_options: String::new(),
            overlay_options: String::new(),
            only: None,
        };
        let mut overlay_options = None;
        let mut layers = settings.shape.layers;
        while let Some(word) = words.next() {
            let mut value = || words.next().ok_or(format!("option {word} needs a value"));
            match word.as_str() {
                "--bench" => {}
                "--quick" => settings.quick = true,
                "--counts" => settings.counts = true,
                "--userns" => settings.user_namespace = true,
                "--rounds" => settings.rounds = number(&value()?)?,
                "--layers" => layers = number(&value()?)?,
                "--disk" => settings.disk = Some(PathBuf::from(value()?)),
                "--only" => {
                    settings.only = Some(value()?.split(',').map(str::to_owned).collect());
                }
                "--rows" => settings.rows = Some(value()?),
                "--rrun" => settings.rrun = value()?,
                "--rrun-options" => settings.rrun_options = value()?,
                "--peer" => settings.peer = value()?,
                "--peer-options" => settings.peer_options = value()?,
                "--overlay-options" => overlay_options = Some(value()?),
                _ => return Err(format!("unknown option {word}\n{USAGE}")),
            }
        }
        if settings.rounds == 0 {
            settings.rounds = if settings.quick { 1 } else { 5 };
        }
        settings.shape = Shape::new(layers, settings.quick);
        let usual = if settings.user_namespace {
            "userxattr"
        } else {
            ""
        };
        settings.overlay_options = overlay_options.unwrap_or_else(|| usual.to_owned());
        Ok(settings)
    }

    pub(crate) fn takes_part(&self, kind: &str) -> bool {
        let listed = |list: &Vec<String>| list.iter().any(|name| name == kind);
        self.only.as_ref().is_none_or(listed)
    }
}

fn number(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(number) if number > 0 => Ok(number),
        _ => Err(format!("{text:?} is not a number above 0")),
    }
}
