//! The health check of a new container: the image's with what was asked for.

use rrun_runner::HealthCheck;
use serde_json::{Value, json};

use super::texts;
use crate::call::hidden::Parts;
use crate::failure::{ExitCode, Failure};
use crate::request::CreateRequest;

/// Source: moby, `defaultProbeInterval` and its like.
const HEALTH_INTERVAL_NS: u64 = 30_000_000_000;
const HEALTH_START_INTERVAL_NS: u64 = 5_000_000_000;
const HEALTH_RETRIES: u64 = 3;

/// The health check as `inspect` shows it: the image's with what was asked for; in nanoseconds.
pub(super) fn shown(request: &CreateRequest, defaults: &Value) -> Option<Value> {
    let asked = &request.life.health;
    if asked.none {
        return Some(json!({"Test": ["NONE"]}));
    }
    let image = defaults.get("Healthcheck").and_then(Value::as_object);
    let mut check = image.cloned().unwrap_or_default();
    if let Some(command) = &asked.command {
        check.insert("Test".to_owned(), json!(["CMD-SHELL", command]));
    }
    for (name, time) in [
        ("Interval", asked.interval),
        ("Timeout", asked.timeout),
        ("StartPeriod", asked.start_period),
        ("StartInterval", asked.start_interval),
    ] {
        if let Some(time) = time {
            let nanos = u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
            check.insert(name.to_owned(), json!(nanos));
        }
    }
    if let Some(retries) = asked.retries {
        check.insert("Retries".to_owned(), json!(retries));
    }
    (!check.is_empty()).then_some(Value::Object(check))
}

/// The health check as the monitor runs it.
pub(super) fn check(
    request: &CreateRequest,
    defaults: &Value,
    parts: &Parts,
) -> Result<Option<HealthCheck>, Failure> {
    let Some(check) = shown(request, defaults) else {
        return Ok(None);
    };
    let test = texts(&check, "Test");
    let argv = match test.split_first() {
        None => return Ok(None),
        Some((kind, _)) if kind == "NONE" => return Ok(None),
        Some((kind, words)) if kind == "CMD" => words.to_vec(),
        Some((kind, words)) if kind == "CMD-SHELL" => {
            let shell = texts(defaults, "Shell");
            let mut argv = if shell.is_empty() {
                vec!["/bin/sh".to_owned(), "-c".to_owned()]
            } else {
                shell
            };
            argv.extend(words.iter().cloned());
            argv
        }
        Some((kind, _)) => {
            return Err(Failure::new(
                ExitCode::ENGINE,
                format!("unknown type {kind:?} of a health check's test"),
            ));
        }
    };
    let number = |name: &str, default: u64| {
        let asked = check.get(name).and_then(Value::as_u64);
        asked.filter(|number| *number > 0).unwrap_or(default)
    };
    let millis = |name: &str, default: u64| (number(name, default) / 1_000_000).max(1);
    Ok(Some(HealthCheck {
        argv,
        interval_ms: millis("Interval", HEALTH_INTERVAL_NS),
        timeout_ms: millis("Timeout", HEALTH_INTERVAL_NS),
        start_period_ms: number("StartPeriod", 0) / 1_000_000,
        start_interval_ms: millis("StartInterval", HEALTH_START_INTERVAL_NS),
        retries: u32::try_from(number("Retries", HEALTH_RETRIES)).unwrap_or(u32::MAX),
        probe_argv: parts.probe(),
    }))
}
