//! The `rrun` command line: arguments, request, call, report.

mod args;
mod call;
mod environment;
mod failure;
mod human;
mod report;
mod request;
mod sys;
mod table;
mod template;

use std::process;

use clap::Parser;
use clap::error::ErrorKind;

use crate::args::LowArgs;
use crate::call::Early;
use crate::environment::Environment;
use crate::failure::{ExitCode, Failure};

fn main() -> process::ExitCode {
    let argv = Environment::arguments();
    // The programs a container needs start often and must not pay for parsing.
    if let Some(code) = call::hidden(&argv) {
        return process::ExitCode::from(code.0);
    }
    call::seal(&argv);
    if let Some(code) = call::oci(&argv) {
        return process::ExitCode::from(code.0);
    }
    let code = match command_line(&argv) {
        Ok(code) => code,
        Err(failure) => {
            report::failure(&failure);
            failure.exit_code()
        }
    };
    process::ExitCode::from(code.0)
}

/// Parses a command line, again for each switch that has a value.
fn parse(argv: &[std::ffi::OsString]) -> Result<Result<LowArgs, clap::Error>, Failure> {
    let mut argv = argv.to_vec();
    loop {
        // Each time there is one fewer.
        let error = match LowArgs::try_parse_from(&argv) {
            Ok(low) => match args::plain_letters(&argv, &low) {
                Some(better) => {
                    argv = better?;
                    continue;
                }
                None => return Ok(Ok(low)),
            },
            Err(error) => error,
        };
        match args::plain_switches(&argv, &error) {
            Some(better) => argv = better?,
            None => return Ok(Err(error)),
        }
    }
}

fn command_line(argv: &[std::ffi::OsString]) -> Result<ExitCode, Failure> {
    let words: Vec<String> = argv
        .iter()
        .skip(1)
        .map(|word| word.to_string_lossy().into_owned())
        .collect();
    if let Some(failure) = args::mistaken(&words) {
        return Err(failure);
    }
    let early = begin_early(&words);
    let low = match parse(argv)? {
        Ok(low) => low,
        Err(error)
            if matches!(
                error.kind(),
                ErrorKind::DisplayHelp | ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand
            ) =>
        {
            report::text_out(&error.to_string())?;
            return Ok(ExitCode::OK);
        }
        Err(error) => return Err(args::explain(&error, &words)),
    };
    if low.version {
        report::line(&format!("rrun version {}", call::VERSION))?;
        return Ok(ExitCode::OK);
    }
    if !low.host.is_empty() || low.context.is_some() {
        report::warn("there is no daemon: --host and --context are ignored");
    }
    let Some(command) = low.command else {
        report::text_out(args::TOP_HELP)?;
        return Ok(ExitCode::OK);
    };
    let (environment, early) = match (low.data_root, low.config, early) {
        (None, None, Some((environment, early))) => (environment, Some(early)),
        (data_root, config, _) => (Environment::read(data_root, config)?, None),
    };
    call::dispatch(command.call(), &environment, early)
}

/// Begins what `run` needs first, before its words are understood, which takes as long. What fails
/// here fails again later, where it is told.
fn begin_early(words: &[String]) -> Option<(Environment, Early)> {
    let mut words = words.iter().map(String::as_str);
    let is_run = match words.next() {
        Some("container") => words.next() == Some("run"),
        first => first == Some("run"),
    };
    if !is_run {
        return None;
    }
    let environment = Environment::read(None, None).ok()?;
    let early = Early::begin(&environment).ok()?;
    Some((environment, early))
}
