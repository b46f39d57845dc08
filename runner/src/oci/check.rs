//! What is wrong with a configuration, whatever the host is like.

use std::collections::BTreeSet;
use std::path::Path;

use super::plan::{Namespaces, invalid};
use super::spec::{Hook, Linux, Process, Spec};
use crate::error::Failure;
use crate::sys;

/// Longest name of an interface in bytes. Source: `IFNAMSIZ`, `linux/if.h`.
const INTERFACE_NAME_MAX: usize = 15;

/// Kernel parameters that belong to an IPC namespace, `fs.mqueue.*` apart.
const IPC_SYSCTLS: [&str; 8] = [
    "kernel.msgmax",
    "kernel.msgmnb",
    "kernel.msgmni",
    "kernel.sem",
    "kernel.shmall",
    "kernel.shmmax",
    "kernel.shmmni",
    "kernel.shm_rmid_forced",
];

/// Checks a configuration.
pub(crate) fn check(spec: &Spec) -> Result<(), Failure> {
    let mut version = spec.oci_version.split(['.', '-', '+']);
    let numbers = version
        .by_ref()
        .take(3)
        .filter(|part| part.parse::<u32>().is_ok());
    if numbers.count() != 3 || !spec.oci_version.starts_with("1.") {
        let text = format!(
            "unsupported version {:?} of the specification",
            spec.oci_version
        );
        return Err(invalid(text));
    }
    let hooks = &spec.hooks;
    let lists = [
        &hooks.prestart,
        &hooks.create_runtime,
        &hooks.create_container,
        &hooks.start_container,
        &hooks.poststart,
        &hooks.poststop,
    ];
    for hook in lists.into_iter().flatten() {
        check_hook(hook)?;
    }
    let linux = &spec.linux;
    if linux.intel_rdt.is_some() {
        // It needs processors that have it, and their file system.
        return Err(invalid("linux.intelRdt is not supported"));
    }
    check_net_devices(linux)?;
    if let Some(policy) = &linux.memory_policy {
        super::place_of_memory::parse(policy)?;
    }
    for mount in &spec.mounts {
        if mount.destination.as_os_str().is_empty() {
            return Err(invalid("a mount has no destination"));
        }
    }
    spec.process.as_ref().map_or(Ok(()), check_process)
}

/// Devices go into a network namespace that is not the host's, under names it can have.
fn check_net_devices(linux: &Linux) -> Result<(), Failure> {
    if linux.net_devices.is_empty() {
        return Ok(());
    }
    if !linux.namespaces.iter().any(|one| one.kind == "network") {
        return Err(invalid("netDevices need a network namespace"));
    }
    let mut seen = BTreeSet::new();
    for (outside, device) in &linux.net_devices {
        let inside = if device.name.is_empty() {
            outside
        } else {
            &device.name
        };
        for name in [outside, inside] {
            let good = (1..=INTERFACE_NAME_MAX).contains(&name.len())
                && ![".", ".."].contains(&name.as_str())
                && !name.contains(|letter: char| "/:%".contains(letter) || letter.is_whitespace());
            if !good {
                return Err(invalid(format!("invalid network device name {name:?}")));
            }
        }
        if !seen.insert(inside) {
            return Err(invalid(format!("two network devices are named {inside:?}")));
        }
    }
    Ok(())
}

fn check_hook(hook: &Hook) -> Result<(), Failure> {
    if !hook.path.is_absolute() {
        let text = format!(
            "hook path {:?} is not absolute",
            hook.path.display().to_string()
        );
        return Err(invalid(text));
    }
    if hook.timeout.is_some_and(|timeout| timeout <= 0) {
        return Err(invalid(format!("hook {} has no time", hook.path.display())));
    }
    Ok(())
}

/// What is wrong with a process.
pub(crate) fn check_process(process: &Process) -> Result<(), Failure> {
    if process.args.is_empty() {
        return Err(invalid("the process has no args"));
    }
    if let Some(affinity) = &process.exec_cpu_affinity {
        for list in [&affinity.initial, &affinity.last] {
            super::place_of_memory::mask(list)?;
        }
    }
    if !Path::new(&process.cwd).is_absolute() {
        return Err(invalid(format!(
            "cwd {:?} is not an absolute path",
            process.cwd
        )));
    }
    let mut seen = BTreeSet::new();
    for limit in &process.rlimits {
        if !seen.insert(&limit.kind) {
            return Err(invalid(format!("rlimit {} is given twice", limit.kind)));
        }
        if limit.soft > limit.hard {
            return Err(invalid(format!(
                "rlimit {} is above its hard limit",
                limit.kind
            )));
        }
    }
    Ok(())
}

/// Only what belongs to a namespace of the container's own may be set.
pub(crate) fn check_sysctl(key: &str, namespaces: &Namespaces) -> Result<(), Failure> {
    let key = &key.replace('/', ".");
    let (bit, kind) = if IPC_SYSCTLS.contains(&key.as_str()) || key.starts_with("fs.mqueue.") {
        (sys::CLONE_NEWIPC, "ipc")
    } else if key.starts_with("net.") {
        (sys::CLONE_NEWNET, "network")
    } else if key == "kernel.domainname" {
        (sys::CLONE_NEWUTS, "uts")
    } else {
        let text = format!("sysctl {key} does not belong to a namespace, so it cannot be set");
        return Err(invalid(text));
    };
    if namespaces.has(bit) {
        Ok(())
    } else {
        Err(invalid(format!(
            "sysctl {key} needs a {kind} namespace of its own"
        )))
    }
}
