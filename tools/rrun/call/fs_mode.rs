//! Who takes a container's writes: our server, or the kernel's overlayfs on top of it.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use rrun_runner::IdMap;
use rrun_runner::overlay::{self, Dialect};
use rrun_store::{Base, Store};
use serde::{Deserialize, Serialize};

use super::ground::Ground;
use crate::environment::Environment;
use crate::failure::{ExitCode, Failure};
use crate::request::FsMode;

/// Where a probe's outcome is kept: it is the same until the next boot.
const PROBED: &str = "fs-probe.json";
const USE_FUSE: &str = "leave --fs-mode out, or use --fs-mode fuse";

/// Chooses for a new container on `ground`. Not by itself the kernel, since something is lost by
/// it: hard links part when one is written, `st_ino` lasts until the container ends, and large
/// files are copied whole.
pub(crate) fn choose(
    mode: FsMode,
    map: &IdMap,
    ground: &Ground,
    environment: &Environment,
) -> Result<Option<Dialect>, Failure> {
    match mode {
        FsMode::Auto | FsMode::Fuse => Ok(None),
        FsMode::Hybrid => hybrid(map, ground, environment).map(Some),
    }
}

fn refused(reason: &str) -> Failure {
    Failure::new(
        ExitCode::ENGINE,
        format!("--fs-mode hybrid is not possible: {reason}"),
    )
    .hint(USE_FUSE)
}

fn hybrid(map: &IdMap, ground: &Ground, environment: &Environment) -> Result<Dialect, Failure> {
    let dialect = Dialect::of(map).ok_or_else(|| {
        refused("it needs subordinate ids (/etc/subuid, /etc/subgid and the package uidmap)")
    })?;
    let Ground::Layers { store, diff_ids } = ground else {
        return Err(refused(
            "a directory of the host may change below the kernel",
        ));
    };
    suits(&Store::open(store)?.base(diff_ids)?, map)?;
    let containers = environment.containers();
    match outcome(&containers, &environment.data_dir, dialect)? {
        None => Ok(dialect),
        Some(reason) => Err(refused(&reason)),
    }
}

/// Whether the kernel's overlayfs shows and copies up an image as it is.
fn suits(base: &Base, map: &IdMap) -> Result<(), Failure> {
    if !base.has_no_overlay_marks() {
        return Err(refused(
            "the image has whiteouts or attributes of overlayfs as files",
        ));
    }
    let IdMap::Range { uids, gids } = map else {
        return Ok(());
    };
    let count = |ranges: &[rrun_runner::subid::IdRange]| {
        let ids = ranges.iter().map(|range| u64::from(range.count));
        ids.sum::<u64>() + 1
    };
    let (uids, gids) = (count(uids), count(gids));
    let stranger = |owner: &(u32, u32)| u64::from(owner.0) >= uids || u64::from(owner.1) >= gids;
    match base.owners().into_iter().find(stranger) {
        Some((uid, gid)) => Err(refused(&format!(
            "the image has files of {uid}:{gid}, outside of the {uids} ids that there are"
        ))),
        None => Ok(()),
    }
}

/// What was found out, and where it holds.
#[derive(Debug, Serialize, Deserialize)]
struct Probed {
    boot: String,
    device: u64,
    dialect: Dialect,
    /// Why not, if not.
    refused: Option<String>,
}

/// Why this host refuses, as found out once a boot.
fn outcome(
    containers: &Path,
    data_dir: &Path,
    dialect: Dialect,
) -> Result<Option<String>, Failure> {
    fs::create_dir_all(containers)?;
    let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
    let device = fs::metadata(containers)?.dev();
    let path = data_dir.join(PROBED);
    let known: Option<Probed> = fs::read(&path)
        .ok()
        .and_then(|text| serde_json::from_slice(&text).ok());
    if let Some(known) = known
        && (&known.boot, known.device, known.dialect) == (&boot, device, dialect)
    {
        return Ok(known.refused);
    }
    let refused = overlay::probe(containers, dialect).err();
    let probed = Probed {
        boot,
        device,
        dialect,
        refused: refused.map(|error| error.to_string()),
    };
    // Without it the next container finds out anew.
    drop(fs::write(&path, serde_json::to_vec(&probed)?));
    Ok(probed.refused)
}
