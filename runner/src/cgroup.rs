//! Control groups, where the host lets us have them.

use std::path::PathBuf;

/// Whether a container's groups are frozen.
pub(crate) fn frozen(groups: &[PathBuf]) -> bool {
    groups.iter().any(|group| {
        std::fs::read_to_string(group.join("cgroup.events"))
            .is_ok_and(|text| text.lines().any(|line| line == "frozen 1"))
            || std::fs::read_to_string(group.join("freezer.state"))
                .is_ok_and(|text| text.trim() == "FROZEN")
    })
}

/// Puts the first process into groups of its own, best effort: the directories, and warnings.
pub(crate) fn enter(
    config: &crate::config::ContainerConfig,
    _pid: rustix::process::Pid,
) -> (Vec<PathBuf>, Vec<String>) {
    let warnings = if config.limits.any() {
        vec!["no writable control group: the limits asked for are not enforced".to_owned()]
    } else {
        Vec::new()
    };
    (Vec::new(), warnings)
}

/// Whether the kernel killed something in the groups for lack of memory.
pub(crate) fn out_of_memory(groups: &[PathBuf]) -> bool {
    groups.iter().any(|group| {
        ["memory.events", "memory.oom_control"].iter().any(|file| {
            std::fs::read_to_string(group.join(file)).is_ok_and(|text| {
                text.lines().any(|line| {
                    line.strip_prefix("oom_kill ")
                        .is_some_and(|count| count.trim() != "0")
                })
            })
        })
    })
}

/// Removes the groups of a container that has ended.
pub(crate) fn remove(groups: &[PathBuf]) {
    for group in groups {
        // A group that is still busy is harmless, and removed with the container.
        let _busy = std::fs::remove_dir(group);
    }
}
