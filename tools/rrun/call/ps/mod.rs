//! `rrun ps`.

mod filter;
mod row;

use rrun_runner::{Container, Status, container};
use serde_json::Value;

use crate::args::PsArgs;
use crate::environment::Environment;
use crate::failure::{ExitCode, Failure};
use crate::report::{self, Column, Format};

pub(crate) use filter::{Filters, label_matches, pairs as filter_pairs};
pub(crate) use row::{Size, bytes_of, own_bytes, restarting, state_word};

const COLUMNS: [Column; 7] = [
    ("ID", "CONTAINER ID"),
    ("Image", "IMAGE"),
    ("Command", "COMMAND"),
    ("RunningFor", "CREATED"),
    ("Status", "STATUS"),
    ("Ports", "PORTS"),
    ("Names", "NAMES"),
];

/// With `--size`.
const SIZE: Column = ("Size", "SIZE");

/// Newest first, as every list of containers is.
pub(crate) fn newest_first(all: &mut [Container]) {
    all.sort_by(|left, right| right.config.created.cmp(&left.config.created));
}

/// `rrun ps`.
pub(crate) fn ps(args: &PsArgs, environment: &Environment) -> Result<ExitCode, Failure> {
    let kept = environment.client_setting("psFormat");
    let asked = args.format.as_deref().or(kept.as_deref());
    // What one line per container prints of its own accord goes before a kept format.
    let format = Format::parse(asked)?;
    let mut all = container::list(&environment.containers())?;
    newest_first(&mut all);
    if let Some(field) = &args.sort {
        sort(&mut all, field)?;
    }
    let filters = Filters::parse(&args.filter, &all, environment)?;
    let last = match (args.last, args.latest) {
        (Some(last), _) => usize::try_from(last).ok().filter(|last| *last > 0),
        (None, latest) => latest.then_some(1),
    };
    let everything = args.all || last.is_some() || filters.ask_for_state();
    let shown = all
        .iter()
        .filter(|one| everything || is_up(one))
        .filter(|one| filters.include(one))
        .take(last.unwrap_or(usize::MAX));
    if args.quiet && args.format.is_none() {
        for one in shown {
            report::line(&row::id(one, args.no_trunc))?;
        }
        return Ok(ExitCode::OK);
    }
    let now = jiff::Timestamp::now();
    // Looking at every file is only done when the answer is shown.
    let sizes = args.size || asked.is_some_and(|text| text.contains(".Size"));
    let mut rows: Vec<Value> = Vec::new();
    for one in shown {
        let size = sizes.then(|| Size::of(one, environment));
        rows.push(row::row(one, args.no_trunc, size, now));
    }
    let mut columns = COLUMNS.to_vec();
    if args.size {
        columns.push(SIZE);
    }
    let format = if args.noheading {
        format.bare()
    } else {
        format
    };
    report::list(&format, &columns, &rows)?;
    Ok(ExitCode::OK)
}

/// `--sort`, as podman has it: creation and size newest and largest first.
fn sort(all: &mut [Container], field: &str) -> Result<(), Failure> {
    let size = |one: &Container| row::own_bytes(one);
    match field {
        "created" | "runningfor" => newest_first(all),
        "names" => all.sort_by(|left, right| left.config.name.cmp(&right.config.name)),
        "id" => all.sort_by(|left, right| left.config.id.cmp(&right.config.id)),
        "image" => all.sort_by(|left, right| left.config.image.cmp(&right.config.image)),
        "command" => all.sort_by(|left, right| left.config.argv.cmp(&right.config.argv)),
        "status" => all.sort_by_key(state_word),
        "size" => all.sort_by_cached_key(|one| std::cmp::Reverse(size(one))),
        _ => {
            return Err(
                Failure::flags(format!("invalid option for --sort: {field}"))
                    .hint("use one of command, created, id, image, names, size, status"),
            );
        }
    }
    Ok(())
}

fn is_up(one: &Container) -> bool {
    matches!(one.state.status, Status::Running | Status::Paused) || restarting(one)
}
