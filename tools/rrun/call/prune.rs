//! Removing what nothing uses.

use std::collections::BTreeMap;

use rrun_image::images::{self as library, Force, Removed};
use rrun_runner::{Status, container};
use rrun_store::Store;

use super::ground::Ground;
use super::image::failed;
use super::ps::{filter_pairs, label_matches, own_bytes};
use super::{images as commands, journal, moment, volume};
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

/// What `--filter` of a prune leaves.
struct Wanted {
    pairs: Vec<(String, String)>,
    until: Option<jiff::Timestamp>,
}

impl Wanted {
    fn parse(words: &[String]) -> Result<Self, Failure> {
        // `label!=x` has its `=` after the `!`.
        let pairs = filter_pairs(words, &["until", "label", "label!", "all"])?;
        let until = pairs.iter().find(|(key, _)| key == "until");
        let until = until.map(|(_, text)| moment::parse(text)).transpose()?;
        Ok(Self { pairs, until })
    }

    fn includes(&self, labels: &BTreeMap<String, String>, created: &str) -> bool {
        let young = self.until.is_some_and(|until| {
            created
                .parse::<jiff::Timestamp>()
                .is_ok_and(|created| created > until)
        });
        !young
            && self.pairs.iter().all(|(key, value)| match key.as_str() {
                "label" => label_matches(labels, value),
                "label!" => !label_matches(labels, value),
                _ => true,
            })
    }
}

/// `rrun container prune`.
pub(crate) fn containers(args: &PruneArgs, environment: &Environment) -> Result<ExitCode, Failure> {
    let wanted = Wanted::parse(&args.filter)?;
    if !confirmed(args.force, "all stopped containers") {
        return Ok(ExitCode::OK);
    }
    reclaimed(remove_stopped(environment, &wanted)?)
}

fn remove_stopped(environment: &Environment, wanted: &Wanted) -> Result<u64, Failure> {
    let mut removed = Vec::new();
    let mut bytes = 0_u64;
    for one in container::list(&environment.containers())? {
        let stopped = matches!(one.state.status, Status::Created | Status::Exited);
        if !stopped || !wanted.includes(&one.config.labels, &one.config.created) {
            continue;
        }
        let size = own_bytes(&one);
        // One that was started meanwhile stays.
        if container::remove(&one.dir, false).is_ok() {
            journal::container(&environment.data_dir, "destroy", &one.config, &[]);
            bytes = bytes.saturating_add(size);
            removed.push(one.config.id);
        }
    }
    if !removed.is_empty() {
        report::line(&format!("Deleted Containers:\n{}\n", removed.join("\n")))?;
    }
    Ok(bytes)
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
    let wanted = Wanted::parse(&args.filter)?;
    if !confirmed(args.force, "all stopped containers and what no image uses") {
        return Ok(ExitCode::OK);
    }
    let mut bytes = remove_stopped(environment, &wanted)?;
    let store = commands::store(environment)?;
    remove_images(&store, environment, args.all)?;
    if args.volumes {
        bytes += volume::remove_unused(environment, false, &|labels| !wanted.includes(labels, ""))?;
    }
    reclaimed(bytes.saturating_add(collect(&store, environment)?))
}

/// `rrun volume prune`.
pub(crate) fn volumes(
    args: &VolumePruneArgs,
    environment: &Environment,
) -> Result<ExitCode, Failure> {
    let wanted = Wanted::parse(&args.filter)?;
    let all = args.all
        || wanted
            .pairs
            .iter()
            .any(|(key, value)| key == "all" && value != "false");
    let what = if all {
        "all local volumes not used by at least one container"
    } else {
        "anonymous local volumes not used by at least one container"
    };
    if !confirmed(args.force, what) {
        return Ok(ExitCode::OK);
    }
    reclaimed(volume::remove_unused(environment, all, &|labels| {
        !wanted.includes(labels, "")
    })?)
}
