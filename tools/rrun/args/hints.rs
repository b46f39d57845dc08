//! Answers to command lines that do not parse: what is wrong, and the form that was meant.

use clap::CommandFactory;
use clap::error::{ContextKind, ContextValue, ErrorKind};

use super::LowArgs;
use crate::failure::{ExitCode, Failure};

/// The whole tree of commands, put together with all their options.
fn whole_tree() -> clap::Command {
    let mut command = LowArgs::command();
    command.build();
    command
}

/// The command words at the start of `argv` (without the program), such as `image ls`.
fn command_words(argv: &[String]) -> Vec<String> {
    let mut command = whole_tree();
    let mut words = Vec::new();
    for word in argv.iter().filter(|word| !word.starts_with('-')) {
        let Some(found) = command.find_subcommand(word).cloned() else {
            break;
        };
        words.push(found.get_name().to_owned());
        command = found;
    }
    words
}

fn command_at(words: &[String]) -> clap::Command {
    let mut command = whole_tree();
    for word in words {
        if let Some(found) = command.find_subcommand(word).cloned() {
            command = found;
        }
    }
    command
}

fn path(words: &[String]) -> String {
    let mut path = "rrun".to_owned();
    for word in words {
        path.push(' ');
        path.push_str(word);
    }
    path
}

fn see(words: &[String]) -> String {
    format!("See '{} --help'.", path(words))
}

/// The usage line and summary of a command, as they follow an arguments error.
fn usage(words: &[String]) -> String {
    let mut command = command_at(words);
    let rendered = command.render_usage().to_string();
    let line = rendered.trim_start_matches("Usage:").trim();
    let about = command
        .get_about()
        .map(ToString::to_string)
        .unwrap_or_default();
    format!("Usage:  {line}\n\n{about}")
}

/// Mistakes that parse, or whose parse error would mislead; found before parsing.
pub(crate) fn mistaken(argv: &[String]) -> Option<Failure> {
    let first = argv.first()?;
    if first == "-ps" {
        return Some(
            Failure::flags("unknown shorthand flag: 'p' in -ps").hint("did you mean 'rrun ps'?"),
        );
    }
    if let Some(second) = argv.get(1)
        && first.len() > 1
        && first.starts_with('-')
        && first[1..].chars().all(|letter| "dit".contains(letter))
        && ["run", "create", "exec"].contains(&second.as_str())
    {
        let letter = first.chars().nth(1).unwrap_or('-');
        return Some(
            Failure::flags(format!("unknown shorthand flag: '{letter}' in {first}")).hint(format!(
                "options of a command come after it; did you mean 'rrun {second} {first} ...'?"
            )),
        );
    }
    // Before the tree is put together, which takes longer than most commands.
    let at = argv.iter().position(|word| word == "--")?;
    let words = command_words(argv);
    if matches!(words.last().map(String::as_str), Some("run" | "create"))
        && argv
            .iter()
            .skip(words.len())
            .take_while(|word| *word != "--")
            .all(|word| word.starts_with('-'))
        && let Some(name) = argv.get(at + 1)
        && known_long(&words, name)
    {
        return Some(
            Failure::flags(format!("stray '--' before '{name}'"))
                .hint(format!("did you mean '--{name}' (no space)?")),
        );
    }
    None
}

fn known_long(words: &[String], name: &str) -> bool {
    let name = name.split('=').next().unwrap_or(name);
    command_at(words).get_arguments().any(|arg| {
        arg.get_long() == Some(name)
            || arg
                .get_all_aliases()
                .is_some_and(|aliases| aliases.contains(&name))
    })
}

/// The answer to a word that stands where an image or container should and starts with `-`.
pub(crate) fn explain_leading_flag(word: &str, words: &[&str]) -> Failure {
    let words: Vec<String> = words.iter().map(|word| (*word).to_owned()).collect();
    unknown_flag(word, &words)
}

fn unknown_flag(flag: &str, words: &[String]) -> Failure {
    let name = flag.split('=').next().unwrap_or(flag);
    let text = if name.starts_with("--") {
        format!("unknown flag: {name}\n{}", see(words))
    } else {
        let known: Vec<char> = command_at(words)
            .get_arguments()
            .filter_map(clap::Arg::get_short)
            .collect();
        let letter = name
            .chars()
            .skip(1)
            .find(|letter| !known.contains(letter))
            .or_else(|| name.chars().nth(1))
            .unwrap_or('-');
        format!(
            "unknown shorthand flag: '{letter}' in {name}\n{}",
            see(words)
        )
    };
    let failure = Failure::flags(text);
    let bare = name.trim_start_matches('-');
    if !name.starts_with("--") && known_long(words, bare) {
        return failure.hint(format!("did you mean --{bare}?"));
    }
    match nearest_long(words, bare) {
        Some(long) if name.starts_with("--") => failure.hint(format!("did you mean --{long}?")),
        _ => failure,
    }
}

/// The long option one edit away from `name`.
fn nearest_long(words: &[String], name: &str) -> Option<String> {
    command_at(words)
        .get_arguments()
        .filter_map(clap::Arg::get_long)
        .find(|long| edit_distance(long, name) == 1)
        .map(ToOwned::to_owned)
}

fn edit_distance(left: &str, right: &str) -> usize {
    let right: Vec<char> = right.chars().collect();
    let mut row: Vec<usize> = (0..=right.len()).collect();
    for (index, letter) in left.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = index + 1;
        for column in 0..right.len() {
            let change = diagonal + usize::from(letter != right[column]);
            diagonal = row[column + 1];
            row[column + 1] = change.min(diagonal + 1).min(row[column] + 1);
        }
    }
    row.last().copied().unwrap_or(0)
}

#[expect(
    clippy::wildcard_enum_match_arm,
    reason = "clap adds kinds; the last arm fits them all"
)]
/// Turns a parse error into Docker's words and exit code.
pub(crate) fn explain(error: &clap::Error, argv: &[String]) -> Failure {
    let words = command_words(argv);
    let invalid = context(error, ContextKind::InvalidArg);
    let value = context(error, ContextKind::InvalidValue);
    match error.kind() {
        ErrorKind::InvalidSubcommand => {
            let name = context(error, ContextKind::InvalidSubcommand).unwrap_or_default();
            let failure = Failure::general(format!(
                "'{name}' is not a command of {}\n{}",
                path(&words),
                see(&words)
            ));
            match context(error, ContextKind::SuggestedSubcommand) {
                Some(suggested) => failure.hint(format!("did you mean '{suggested}'?")),
                None => failure,
            }
        }
        ErrorKind::UnknownArgument => {
            let flag = invalid.unwrap_or_default();
            if flag.starts_with('-') {
                let typed = argv
                    .iter()
                    .find(|word| {
                        word.as_str() == flag
                            || !flag.starts_with("--")
                                && word.starts_with('-')
                                && !word.starts_with("--")
                                && word.contains(&flag[1..])
                    })
                    .map_or(flag.as_str(), String::as_str);
                unknown_flag(typed, &words)
            } else {
                too_many(&words, &flag)
            }
        }
        ErrorKind::MissingRequiredArgument | ErrorKind::MissingSubcommand => too_few(&words),
        ErrorKind::InvalidValue
        | ErrorKind::ValueValidation
        | ErrorKind::NoEquals
        | ErrorKind::TooFewValues
        | ErrorKind::WrongNumberOfValues => {
            let flag = invalid.unwrap_or_default();
            let flag = flag.split(' ').next().unwrap_or_default();
            match value {
                Some(value) if !value.is_empty() => Failure::flags(format!(
                    "invalid argument \"{value}\" for \"{flag}\"\n{}",
                    see(&words)
                )),
                _ => Failure::flags(format!("flag needs an argument: {flag}\n{}", see(&words))),
            }
        }
        ErrorKind::InvalidUtf8 => Failure::flags("an argument is not valid UTF-8"),
        _ => {
            let text = error.to_string();
            let line = text.lines().next().unwrap_or_default();
            let line = line.trim_start_matches("error: ").to_owned();
            Failure::new(ExitCode::FLAGS, format!("{line}\n{}", see(&words)))
        }
    }
}

fn too_few(words: &[String]) -> Failure {
    let command = command_at(words);
    let required = command
        .get_positionals()
        .filter(|arg| arg.is_required_set())
        .count()
        // Containers may be chosen by other means than their names.
        .max(1);
    let more = command.get_positionals().any(|arg| {
        !arg.is_required_set() || arg.get_num_args().is_some_and(|n| n.max_values() > 1)
    });
    let bound = if more { "at least" } else { "exactly" };
    let plural = if required == 1 { "" } else { "s" };
    Failure::general(format!(
        "\"{}\" requires {bound} {required} argument{plural}.\n{}\n\n{}",
        path(words),
        see(words),
        usage(words)
    ))
}

fn too_many(words: &[String], extra: &str) -> Failure {
    let failure = Failure::general(format!(
        "\"{}\" does not take the argument \"{extra}\".\n{}\n\n{}",
        path(words),
        see(words),
        usage(words)
    ));
    let command = command_at(words);
    let is_flags = !extra.is_empty()
        && extra.chars().all(|letter| {
            command
                .get_arguments()
                .any(|arg| arg.get_short() == Some(letter))
        });
    if is_flags {
        failure.hint(format!("did you mean '{} -{extra}'?", path(words)))
    } else {
        failure
    }
}

fn context(error: &clap::Error, kind: ContextKind) -> Option<String> {
    let value = error.get(kind)?;
    if let ContextValue::String(text) = value {
        return Some(text.clone());
    }
    let ContextValue::Strings(texts) = value else {
        return None;
    };
    texts.first().cloned()
}
