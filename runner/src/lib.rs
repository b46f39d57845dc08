//! Runs processes in namespaces: plan, spawn, monitor.

pub mod ids;
pub mod seccomp;
