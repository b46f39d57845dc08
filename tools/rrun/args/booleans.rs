//! Switches with a value, such as `--rm=true`, which Go's flags take and ours do not.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;

use clap::error::{ContextKind, ContextValue, ErrorKind};

use super::{Command, ContainerVerb, LowArgs};
use crate::failure::Failure;

/// What a command line was meant to be that did not parse because a switch has a value; `None`
/// when that is not why.
pub(crate) fn plain(
    argv: &[OsString],
    error: &clap::Error,
) -> Option<Result<Vec<OsString>, Failure>> {
    let text = |kind| match error.get(kind) {
        Some(ContextValue::String(text)) => Some(text.clone()),
        _ => None,
    };
    let flag = text(ContextKind::InvalidArg)?;
    if error.kind() == ErrorKind::UnknownArgument && flag == "-=" {
        // A letter with a value, after which the sign is taken for another letter.
        let words = argv.iter().map(|word| word.to_string_lossy());
        let mut letters = words.filter(|word| word.starts_with('-') && !word.starts_with("--"));
        let word = letters.find(|word| word.contains('='))?;
        let (head, value) = word.split_once('=')?;
        return without_value(argv, head, value);
    }
    if error.kind() != ErrorKind::TooManyValues {
        return None;
    }
    let flag = flag.split(' ').next().unwrap_or_default().to_owned();
    let value = text(ContextKind::InvalidValue)?;
    without_value(argv, &flag, &value)
}

#[expect(
    clippy::wildcard_enum_match_arm,
    reason = "the few commands whose words may begin with a hyphen are named"
)]
/// The same for letters with a value before the image or container, where words with hyphens parse
/// as the first of the words that are the container's.
pub(crate) fn plain_letters(
    argv: &[OsString],
    low: &LowArgs,
) -> Option<Result<Vec<OsString>, Failure>> {
    let words = match low.command.as_ref()? {
        Command::Run(args) => &args.create.words,
        Command::Create(args) => &args.words,
        Command::Exec(args) => &args.words,
        Command::Container(object) => match &object.verb {
            ContainerVerb::Run(args) => &args.create.words,
            ContainerVerb::Create(args) => &args.words,
            ContainerVerb::Exec(args) => &args.words,
            _ => return None,
        },
        _ => return None,
    };
    let (head, value) = words.first()?.split_once('=')?;
    let letters = head.strip_prefix('-')?;
    if letters.is_empty() || !letters.chars().all(|letter| "dtiPq".contains(letter)) {
        return None;
    }
    without_value(argv, head, value)
}

fn without_value(
    argv: &[OsString],
    flag: &str,
    value: &str,
) -> Option<Result<Vec<OsString>, Failure>> {
    let at = argv.iter().position(|word| is_meant(word, flag, value))?;
    let word = argv.get(at)?.to_string_lossy().into_owned();
    let (head, _) = word.split_once('=')?;
    let mut plain = argv.to_vec();
    match truth(value) {
        Some(true) => *plain.get_mut(at)? = head.into(),
        // Of letters in one word the value is the last one's.
        Some(false) if !head.starts_with("--") && head.len() > 2 => {
            *plain.get_mut(at)? = head.get(..head.len() - 1)?.into();
        }
        Some(false) => drop(plain.remove(at)),
        None => {
            return Some(Err(Failure::flags(format!(
                "invalid argument \"{value}\" for \"{flag}\" flag: strconv.ParseBool: parsing \"{value}\": invalid syntax"
            ))));
        }
    }
    Some(Ok(plain))
}

/// Whether a word gives a switch this value: by its name, or as the last of letters.
fn is_meant(word: &OsStr, flag: &str, value: &str) -> bool {
    let text = String::from_utf8_lossy(word.as_bytes());
    let Some((head, given)) = text.split_once('=') else {
        return false;
    };
    given == value && (head == flag || head.starts_with('-') && !head.starts_with("--"))
}

/// Source: Go, `strconv.ParseBool`.
fn truth(text: &str) -> Option<bool> {
    match text {
        "1" | "t" | "T" | "true" | "TRUE" | "True" => Some(true),
        "0" | "f" | "F" | "false" | "FALSE" | "False" => Some(false),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    fn plain_words(words: &[&str]) -> Result<Vec<OsString>, String> {
        let mut argv: Vec<OsString> = words.iter().map(OsString::from).collect();
        loop {
            match LowArgs::try_parse_from(&argv) {
                Ok(low) => match plain_letters(&argv, &low) {
                    Some(better) => argv = better.map_err(|failure| failure.to_string())?,
                    None => return Ok(argv),
                },
                Err(error) => match plain(&argv, &error) {
                    Some(Ok(better)) => argv = better,
                    Some(Err(failure)) => return Err(failure.to_string()),
                    None => return Err(error.to_string()),
                },
            }
        }
    }

    #[test]
    fn switches_take_go_s_truth_values() {
        let cases: [(&[&str], &[&str]); 3] = [
            (
                &["rrun", "run", "--rm=true", "-d=0", "img", "--x=true"],
                &["rrun", "run", "--rm", "img", "--x=true"],
            ),
            (
                &["rrun", "run", "-it=false", "--init=F", "img"],
                &["rrun", "run", "-i", "img"],
            ),
            (&["rrun", "ps", "-a=true"], &["rrun", "ps", "-a"]),
        ];
        for (words, expected) in cases {
            assert_eq!(plain_words(words).unwrap(), expected, "input {words:?}");
        }
        let bad = plain_words(&["rrun", "run", "--rm=maybe", "img"]).unwrap_err();
        assert!(bad.contains("strconv.ParseBool"), "{bad}");
    }
}
