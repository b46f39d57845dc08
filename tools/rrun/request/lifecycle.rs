//! Restart policy, health check, log and limits as typed.

use std::time::Duration;

use rrun_runner::{Limits, LogConfig, LogDriver, RestartPolicy};

use super::{engine, limits};
use crate::args::CreateArgs;
use crate::call::moment;
use crate::failure::Failure;
use crate::human;

/// A health check of the command line: what is not asked for comes from the image.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Health {
    /// Run by a shell; empty means none.
    pub(crate) command: Option<String>,
    pub(crate) none: bool,
    pub(crate) interval: Option<Duration>,
    pub(crate) timeout: Option<Duration>,
    pub(crate) start_period: Option<Duration>,
    pub(crate) start_interval: Option<Duration>,
    pub(crate) retries: Option<u32>,
}

impl Health {
    pub(super) fn parse(typed: &CreateArgs) -> Result<Self, Failure> {
        let time = |flag: &str, text: &Option<String>| -> Result<Option<Duration>, Failure> {
            let Some(text) = text else { return Ok(None) };
            let bad = || {
                Failure::flags(format!(
                    "invalid argument {text:?} for \"--{flag}\" flag: time: invalid duration {text:?}"
                ))
            };
            let time = moment::duration(text).ok_or_else(bad)?;
            // Docker's least; shorter is meant to be another unit.
            if !time.is_zero() && time < Duration::from_millis(1) {
                return Err(engine(format!("--{flag} cannot be less than 1ms")));
            }
            Ok(Some(time))
        };
        let health = Self {
            command: typed.health_cmd.clone(),
            none: typed.no_healthcheck,
            interval: time("health-interval", &typed.health_interval)?,
            timeout: time("health-timeout", &typed.health_timeout)?,
            start_period: time("health-start-period", &typed.health_start_period)?,
            start_interval: time("health-start-interval", &typed.health_start_interval)?,
            retries: typed.health_retries,
        };
        let none = Self {
            none: true,
            ..Self::default()
        };
        if health.none && health != none {
            return Err(Failure::flags(
                "--no-healthcheck conflicts with --health-* options",
            ));
        }
        Ok(health)
    }
}

/// How a container lives.
#[derive(Debug, Clone)]
pub(crate) struct Life {
    pub(crate) restart: RestartPolicy,
    pub(crate) health: Health,
    pub(crate) log: LogConfig,
    pub(crate) limits: Limits,
}

impl Life {
    pub(super) fn parse(typed: &CreateArgs) -> Result<Self, Failure> {
        let restart = restart(typed.restart.as_deref())?;
        if typed.remove && restart.name != "no" {
            return Err(Failure::flags(
                "conflicting options: cannot specify both --restart and --rm",
            ));
        }
        let limits = limits::of_new(typed)?;
        Ok(Self {
            restart,
            health: Health::parse(typed)?,
            log: log(typed)?,
            limits,
        })
    }
}

/// `--restart`
pub(crate) fn restart(text: Option<&str>) -> Result<RestartPolicy, Failure> {
    let Some(text) = text.filter(|text| !text.is_empty()) else {
        return Ok(RestartPolicy::default());
    };
    let (name, count) = text.split_once(':').unwrap_or((text, ""));
    let bad = |why: &str| {
        Err(Failure::flags(format!("invalid restart policy: {why}"))
            .hint("use one of no, always, on-failure[:MAX], unless-stopped"))
    };
    let retries_max = match (name, count) {
        ("no" | "always" | "unless-stopped" | "on-failure", "") => 0,
        ("on-failure", count) => match count.parse() {
            Ok(count) => count,
            Err(_) => return bad("maximum retry count must be an integer"),
        },
        ("no" | "always" | "unless-stopped", _) => {
            return bad("maximum retry count can only be used with 'on-failure'");
        }
        _ => return bad(&format!("unknown policy '{name}'")),
    };
    Ok(RestartPolicy {
        name: name.to_owned(),
        retries_max,
    })
}

/// `--log-driver` and `--log-opt`
fn log(typed: &CreateArgs) -> Result<LogConfig, Failure> {
    let driver = match typed.log_driver.as_deref() {
        None | Some("" | "json-file" | "local") => LogDriver::JsonFile,
        Some("k8s-file") => LogDriver::K8sFile,
        Some("none") => LogDriver::None,
        Some(other) => {
            return Err(engine(format!(
                "logger: no log driver named '{other}' is registered"
            ))
            .hint("there are: json-file, local, k8s-file, none"));
        }
    };
    let mut log = LogConfig {
        driver,
        ..LogConfig::default()
    };
    for word in &typed.log_opt {
        let (key, value) = word.split_once('=').unwrap_or((word, ""));
        let bad = || engine(format!("invalid value for log opt '{key}': {value:?}"));
        match key {
            "max-size" if value == "-1" => log.size_max_bytes = None,
            "max-size" => {
                let bytes = human::parse_bytes(value).filter(|bytes| *bytes > 0);
                log.size_max_bytes = Some(bytes.ok_or_else(bad)?);
            }
            "max-file" => {
                let count: u32 = value.parse().map_err(|_| bad())?;
                log.files_max = Some(count).filter(|count| *count > 0).ok_or_else(bad)?;
            }
            // What they ask for changes no line.
            "compress" | "mode" | "max-buffer-size" | "labels" | "labels-regex" | "env"
            | "env-regex" | "tag" => {}
            "path" if driver == LogDriver::K8sFile => {}
            _ => {
                let name = typed.log_driver.as_deref().unwrap_or("json-file");
                return Err(engine(format!(
                    "unknown log opt '{key}' for {name} log driver"
                )));
            }
        }
    }
    if log.files_max > 1 && log.size_max_bytes.is_none() {
        return Err(engine(
            "max-file has no meaning without max-size: set both with --log-opt",
        ));
    }
    Ok(log)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn restart_policies_are_read() {
        let policy = |text: &str| restart(Some(text)).map(|p| (p.name, p.retries_max)).ok();
        assert_eq!(policy("always"), Some(("always".to_owned(), 0)));
        assert_eq!(policy("on-failure:3"), Some(("on-failure".to_owned(), 3)));
        assert_eq!(policy("no"), Some(("no".to_owned(), 0)));
        for bad in ["never", "always:3", "on-failure:x", "on-failure:-1"] {
            assert_eq!(policy(bad), None, "input {bad}");
        }
    }
}
