//! Removing what nothing uses.

use rrun_image::images::{self as library, Force, Removed};
use rrun_runner::{Status, container};
use rrun_store::Store;

use super::ground::Ground;
use super::image::failed;
use super::{images as commands, volume};
use crate::args::{PruneArgs, VolumePruneArgs};
use crate::environment::Environment;
use crate::failure::{ExitCode, Failure};
use crate::{human, report};

/// Collects what neither names nor containers reach; the bytes given back.
pub(crate) fn collect(store: &Store, environment: &Environment) -> Result<u64, Failure> {
    let chains: Vec<_> = container::list(&environment.containers())?
        .iter()
        .filter_map(|one| Ground::of(&one.config).ok()?.chain())
        .collect();
    Ok(store.gc(&chains)?.bytes)
}

fn confirmed(force: bool, what: &str) -> bool {
    force
        || report::confirm(&format!(
            "WARNING! This will remove {what}.\nAre you sure you want to continue?"
        ))
}

fn reclaimed(bytes: u64) -> Result<ExitCode, Failure> {
    report::line(&format!("Total reclaimed space: {}", human::size(bytes)))?;
    Ok(ExitCode::OK)
}

/// `rrun container prune`.
pub(crate) fn containers(args: &PruneArgs, environment: &Environment) -> Result<ExitCode, Failure> {
    if !confirmed(args.force, "all stopped containers") {
        return Ok(ExitCode::OK);
    }
    remove_stopped(environment)?;
    reclaimed(0)
}

fn remove_stopped(environment: &Environment) -> Result<(), Failure> {
    for one in container::list(&environment.containers())? {
        if matches!(one.state.status, Status::Created | Status::Exited) {
            container::remove(&one.dir, false)?;
            report::line(&one.config.id)?;
        }
    }
    Ok(())
}

/// `rrun image prune`.
pub(crate) fn images(args: &PruneArgs, environment: &Environment) -> Result<ExitCode, Failure> {
    let what = if args.all {
        "all images without a container"
    } else {
        "all dangling images"
    };
    if !confirmed(args.force, what) {
        return Ok(ExitCode::OK);
    }
    let store = commands::store(environment)?;
    remove_images(&store, environment, args.all)?;
    reclaimed(collect(&store, environment)?)
}

fn remove_images(store: &Store, environment: &Environment, all: bool) -> Result<(), Failure> {
    let users = commands::users(environment)?;
    for row in library::list(store).map_err(|error| failed(&error))? {
        let used = users.iter().any(|user| user.image == row.id);
        if used || (row.repository.is_some() && !all) {
            continue;
        }
        let name = match (&row.repository, &row.tag) {
            (Some(repository), Some(tag)) => format!("{repository}:{tag}"),
            _ => row.id.to_string(),
        };
        // An image with several names is met once for each.
        if let Ok(lines) = library::remove(store, &name, Force::No, &users) {
            for line in lines {
                if matches!(line, Removed::Untagged(_) | Removed::Deleted(_)) {
                    report::line(&line.to_string())?;
                }
            }
        }
    }
    Ok(())
}

/// `rrun system prune`.
pub(crate) fn system(args: &PruneArgs, environment: &Environment) -> Result<ExitCode, Failure> {
    if !confirmed(args.force, "all stopped containers and what no image uses") {
        return Ok(ExitCode::OK);
    }
    remove_stopped(environment)?;
    let store = commands::store(environment)?;
    remove_images(&store, environment, args.all)?;
    if args.volumes {
        volume::remove_unused(environment, false)?;
    }
    reclaimed(collect(&store, environment)?)
}

/// `rrun volume prune`.
pub(crate) fn volumes(
    args: &VolumePruneArgs,
    environment: &Environment,
) -> Result<ExitCode, Failure> {
    if !confirmed(args.force, "volumes that no container uses") {
        return Ok(ExitCode::OK);
    }
    volume::remove_unused(environment, args.all)?;
    reclaimed(0)
}
