//! Bounds as typed.
//!
//! Source of words and bounds: moby daemon, `verifyPlatformContainerResources`.

use std::fs;
use std::os::unix::fs::MetadataExt;

use rrun_runner::Limits;
use rrun_runner::oci::{BlockIo, DeviceRule, ThrottleDevice, WeightDevice};

use super::engine;
use crate::args::{CreateArgs, DeviceLimitArgs, LimitArgs};
use crate::failure::Failure;
use crate::{human, report};

/// Smallest limit of memory. Source: moby, `linuxMinMemory`.
const MEMORY_BYTES_MIN: u64 = 6 << 20;

fn bad(flag: &str, text: &str) -> Failure {
    Failure::flags(format!("invalid argument {text:?} for \"--{flag}\" flag"))
}

/// The limits of a new container.
pub(super) fn of_new(typed: &CreateArgs) -> Result<Limits, Failure> {
    let mut limits = changed(&typed.limits, Limits::default())?;
    let devices = &typed.devices;
    limits.parent = devices.cgroup_parent.clone().unwrap_or_default();
    limits.oom_kill_disable = devices.oom_kill_disable;
    if limits.oom_kill_disable && limits.memory_bytes.is_none() {
        report::warn(
            "OOM killer is disabled for the container, but no memory limit is set, this can result in the system running out of resources.",
        );
    }
    limits.swappiness = match devices.memory_swappiness {
        None | Some(-1) => None,
        Some(number) => Some(
            u64::try_from(number)
                .ok()
                .filter(|number| *number <= 100)
                .ok_or_else(|| {
                    engine(format!(
                        "Invalid value: {number}, valid memory swappiness range is 0-100"
                    ))
                })?,
        ),
    };
    block_io(devices, &mut limits)?;
    if !devices.device_cgroup_rule.is_empty() {
        // What is not allowed is refused.
        limits.devices.push(DeviceRule::default());
        for rule in &devices.device_cgroup_rule {
            limits.devices.push(device_rule(rule)?);
        }
    }
    Ok(limits)
}

/// `limits` with what was typed in place of what they said.
pub(crate) fn changed(typed: &LimitArgs, mut limits: Limits) -> Result<Limits, Failure> {
    memory(typed, &mut limits)?;
    processors(typed, &mut limits)?;
    if let Some(pids) = typed.pids_limit {
        limits.pids = Some(u64::try_from(pids).unwrap_or(0));
    }
    if let Some(weight) = typed.blkio_weight {
        if weight != 0 && !(10..=1000).contains(&weight) {
            return Err(engine("Range of blkio weight is from 10 to 1000"));
        }
        let io = limits.block_io.get_or_insert_default();
        io.weight = Some(weight);
    }
    Ok(limits)
}

fn memory(typed: &LimitArgs, limits: &mut Limits) -> Result<(), Failure> {
    let bytes = |flag: &str, text: &Option<String>| -> Result<Option<u64>, Failure> {
        let text = text.as_deref().filter(|text| *text != "0");
        text.map(|text| human::parse_bytes(text).ok_or_else(|| bad(flag, text)))
            .transpose()
    };
    if let Some(bytes) = bytes("memory", &typed.memory)? {
        limits.memory_bytes = Some(bytes);
    }
    if let Some(bytes) = bytes("memory-reservation", &typed.memory_reservation)? {
        limits.memory_reservation_bytes = Some(bytes);
    }
    if let Some(text) = typed.memory_swap.as_deref().filter(|text| *text != "0") {
        let bytes = match text {
            "-1" => Some(-1),
            _ => human::parse_bytes(text).and_then(|bytes| i64::try_from(bytes).ok()),
        };
        limits.memory_swap_bytes = Some(bytes.ok_or_else(|| bad("memory-swap", text))?);
    }
    if bytes("kernel-memory", &typed.kernel_memory)?.is_some() {
        report::warn("--kernel-memory has no effect: kernels no longer have this limit");
    }
    let small = |bytes: Option<u64>| bytes.is_some_and(|bytes| bytes < MEMORY_BYTES_MIN);
    let swap = limits
        .memory_swap_bytes
        .and_then(|bytes| u64::try_from(bytes).ok());
    let wrong = [
        (
            small(limits.memory_bytes),
            "Minimum memory limit allowed is 6MB",
        ),
        (
            limits
                .memory_bytes
                .zip(swap)
                .is_some_and(|(memory, swap)| swap < memory),
            "Minimum memoryswap limit should be larger than memory limit, see usage",
        ),
        (
            limits.memory_bytes.is_none() && swap.is_some(),
            "You should always set the Memory limit when using Memoryswap limit, see usage",
        ),
        (
            small(limits.memory_reservation_bytes),
            "Minimum memory reservation allowed is 6MB",
        ),
        (
            limits
                .memory_bytes
                .zip(limits.memory_reservation_bytes)
                .is_some_and(|(memory, reserved)| memory < reserved),
            "Minimum memory limit can not be less than memory reservation limit, see usage",
        ),
    ];
    match wrong.into_iter().find(|(wrong, _)| *wrong) {
        Some((_, text)) => Err(engine(text)),
        None => Ok(()),
    }
}

fn processors(typed: &LimitArgs, limits: &mut Limits) -> Result<(), Failure> {
    if let Some(text) = typed.cpus.as_deref() {
        let share = milli(text).ok_or_else(|| bad("cpus", text))?;
        let count = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        let most = u64::try_from(count)
            .unwrap_or(u64::MAX)
            .saturating_mul(1000);
        if share > most {
            return Err(engine(format!(
                "range of CPUs is from 0.01 to {count}.00, as there are only {count} CPUs available"
            )));
        }
        if share > 0 {
            limits.cpu_milli = Some(share);
        }
    }
    let given = |value: Option<u64>| value.filter(|value| *value != 0);
    let signed = |value: Option<i64>| value.filter(|value| *value != 0);
    limits.cpu_shares = given(typed.cpu_shares).or(limits.cpu_shares);
    limits.cpu_period_us = given(typed.cpu_period).or(limits.cpu_period_us);
    limits.cpu_quota_us = signed(typed.cpu_quota).or(limits.cpu_quota_us);
    limits.cpu_rt_period_us = given(typed.cpu_rt_period).or(limits.cpu_rt_period_us);
    limits.cpu_rt_runtime_us = signed(typed.cpu_rt_runtime).or(limits.cpu_rt_runtime_us);
    let share = limits.cpu_milli.is_some();
    let range = 1000..=1_000_000;
    let wrong = [
        (
            share && limits.cpu_period_us.is_some(),
            "Conflicting options: Nano CPUs and CPU Period cannot both be set",
        ),
        (
            share && limits.cpu_quota_us.is_some(),
            "Conflicting options: Nano CPUs and CPU Quota cannot both be set",
        ),
        (
            limits
                .cpu_period_us
                .is_some_and(|period| !range.contains(&period)),
            "CPU cfs period can not be less than 1ms (i.e. 1000) or larger than 1s (i.e. 1000000)",
        ),
        (
            limits
                .cpu_quota_us
                .is_some_and(|quota| (1..1000).contains(&quota)),
            "CPU cfs quota can not be less than 1ms (i.e. 1000)",
        ),
    ];
    if let Some((_, text)) = wrong.into_iter().find(|(wrong, _)| *wrong) {
        return Err(engine(text));
    }
    if let Some(list) = &typed.cpuset_cpus {
        check_set(list, "CPUs", "cpus", "/sys/devices/system/cpu/online")?;
        limits.cpuset_cpus.clone_from(list);
    }
    if let Some(list) = &typed.cpuset_mems {
        check_set(
            list,
            "memory nodes",
            "mems",
            "/sys/devices/system/node/online",
        )?;
        limits.cpuset_mems.clone_from(list);
    }
    Ok(())
}

/// Whether the host has all of a list of processors or memory nodes.
fn check_set(list: &str, what: &str, name: &str, online: &str) -> Result<(), Failure> {
    let bad = || engine(format!("Invalid value {list} for cpuset {name}"));
    let asked = ranges(list).ok_or_else(bad)?;
    // A host that does not say is asked by the kernel.
    let Ok(text) = fs::read_to_string(online) else {
        return Ok(());
    };
    let there = ranges(text.trim()).unwrap_or_default();
    let within = |&(first, last): &(u32, u32)| {
        there
            .iter()
            .any(|(low, high)| *low <= first && last <= *high)
    };
    if asked.iter().all(within) {
        return Ok(());
    }
    Err(engine(format!(
        "Requested {what} are not available - requested {list}, available: {}",
        text.trim()
    )))
}

/// `0-3,7`
fn ranges(list: &str) -> Option<Vec<(u32, u32)>> {
    let parts = list.split(',').filter(|part| !part.is_empty());
    parts
        .map(|part| {
            let (first, last) = part.split_once('-').unwrap_or((part, part));
            let pair = (first.parse().ok()?, last.parse().ok()?);
            (pair.0 <= pair.1).then_some(pair)
        })
        .collect()
}

/// `1.5` in thousandths.
fn milli(text: &str) -> Option<u64> {
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    if whole.is_empty() && fraction.is_empty() {
        return None;
    }
    let digits = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
    if !digits(whole) || !digits(fraction) {
        return None;
    }
    let whole: u64 = if whole.is_empty() {
        0
    } else {
        whole.parse().ok()?
    };
    let fraction: String = fraction.chars().chain("000".chars()).take(3).collect();
    whole.checked_mul(1000)?.checked_add(fraction.parse().ok()?)
}

fn block_io(typed: &DeviceLimitArgs, limits: &mut Limits) -> Result<(), Failure> {
    let mut io = limits.block_io.take().unwrap_or_default();
    for word in &typed.blkio_weight_device {
        let (path, text) = device_word(word)?;
        let weight = text.parse::<u16>().ok();
        let weight = weight.filter(|weight| *weight == 0 || (10..=1000).contains(weight));
        let weight =
            weight.ok_or_else(|| Failure::flags(format!("invalid weight for device: {word}")))?;
        let (major, minor) = numbers(path)?;
        io.weight_device.push(WeightDevice {
            major,
            minor,
            weight: Some(weight),
            leaf_weight: None,
        });
    }
    let bytes = |text: &str| human::parse_bytes(text);
    let count = |text: &str| text.parse().ok();
    for (words, list, parse) in [
        (
            &typed.device_read_bps,
            &mut io.throttle_read_bps_device,
            &bytes as &dyn Fn(&str) -> Option<u64>,
        ),
        (
            &typed.device_write_bps,
            &mut io.throttle_write_bps_device,
            &bytes,
        ),
        (
            &typed.device_read_iops,
            &mut io.throttle_read_iops_device,
            &count,
        ),
        (
            &typed.device_write_iops,
            &mut io.throttle_write_iops_device,
            &count,
        ),
    ] {
        for word in words {
            let (path, text) = device_word(word)?;
            let rate = parse(text).ok_or_else(|| {
                Failure::flags(format!(
                    "invalid rate for device: {word}. The correct format is <device-path>:<number>[<unit>]"
                ))
            })?;
            let (major, minor) = numbers(path)?;
            list.push(ThrottleDevice { major, minor, rate });
        }
    }
    limits.block_io = Some(io).filter(|io| *io != BlockIo::default());
    Ok(())
}

fn device_word(word: &str) -> Result<(&str, &str), Failure> {
    match word.split_once(':') {
        Some((path, value)) if path.starts_with("/dev/") => Ok((path, value)),
        Some((path, _)) => Err(Failure::flags(format!(
            "bad format for device path: {path}"
        ))),
        None => Err(Failure::flags(format!("bad format: {word}"))),
    }
}

/// Major and minor number of a device file of the host.
fn numbers(path: &str) -> Result<(i64, i64), Failure> {
    let data = fs::metadata(path)
        .map_err(|error| engine(format!("could not use the device {path}: {error}")))?;
    let number = data.rdev();
    let (major, minor) = (rustix::fs::major(number), rustix::fs::minor(number));
    if number == 0 {
        return Err(engine(format!("{path} is not a device")));
    }
    Ok((i64::from(major), i64::from(minor)))
}

/// `c 42:* rwm`
fn device_rule(text: &str) -> Result<DeviceRule, Failure> {
    let bad = || Failure::flags(format!("invalid device cgroup format '{text}'"));
    let parts: Vec<&str> = text.split(' ').collect();
    let [kind, numbers, access] = parts.as_slice() else {
        return Err(bad());
    };
    let (major, minor) = numbers.split_once(':').ok_or_else(bad)?;
    let number = |text: &str| match text {
        "*" => Ok(-1),
        _ => text.parse::<u32>().map(i64::from).map_err(|_| bad()),
    };
    let is_access = (1..=3).contains(&access.len()) && access.chars().all(|c| "rwm".contains(c));
    if !["a", "b", "c"].contains(kind) || !is_access {
        return Err(bad());
    }
    Ok(DeviceRule {
        allow: true,
        kind: Some((*kind).to_owned()),
        major: Some(number(major)?),
        minor: Some(number(minor)?),
        access: Some((*access).to_owned()),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(change: impl Fn(&mut LimitArgs)) -> Result<Limits, Failure> {
        let mut typed = LimitArgs::default();
        change(&mut typed);
        changed(&typed, Limits::default())
    }

    #[test]
    fn limits_are_read_exactly() {
        let cases = [
            ("1.5", Some(1500)),
            (".5", Some(500)),
            ("2", Some(2000)),
            ("0", Some(0)),
            ("x", None),
            ("-1", None),
            ("1.5.5", None),
            (".", None),
        ];
        for (text, expected) in cases {
            assert_eq!(milli(text), expected, "input {text}");
        }
        assert!(of(|typed| typed.memory = Some("5m".into())).is_err());
        let limits = of(|typed| {
            typed.memory = Some("64m".into());
            typed.memory_swap = Some("-1".into());
            typed.pids_limit = Some(-1);
        })
        .unwrap();
        assert_eq!(limits.memory_bytes, Some(64 << 20));
        assert_eq!((limits.memory_swap_bytes, limits.pids), (Some(-1), Some(0)));
    }

    #[test]
    fn what_contradicts_itself_is_refused_in_dockers_words() {
        let says = |change: &dyn Fn(&mut LimitArgs)| of(change).unwrap_err().to_string();
        assert!(
            says(&|typed| typed.memory_swap = Some("64m".into())).contains("always set the Memory")
        );
        assert!(
            says(&|typed| {
                typed.memory = Some("64m".into());
                typed.memory_swap = Some("32m".into());
            })
            .contains("Minimum memoryswap")
        );
        assert!(
            says(&|typed| {
                typed.cpus = Some("0.5".into());
                typed.cpu_quota = Some(5000);
            })
            .contains("Nano CPUs and CPU Quota")
        );
        assert!(says(&|typed| typed.cpuset_cpus = Some("9999".into())).contains("not available"));
        assert!(says(&|typed| typed.cpuset_cpus = Some("x".into())).contains("Invalid value"));
        assert!(says(&|typed| typed.blkio_weight = Some(5)).contains("10 to 1000"));
    }

    #[test]
    fn device_rules_are_docker_s() {
        let rule = device_rule("c 42:* rwm").unwrap();
        assert_eq!((rule.major, rule.minor), (Some(42), Some(-1)));
        for bad in ["c 42 rwm", "x 1:1 r", "c 1:1 q", "c 1:1", "c 1:-1 r"] {
            assert!(device_rule(bad).is_err(), "input {bad}");
        }
    }
}
