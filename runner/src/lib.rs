//! Runs processes in namespaces: plan, spawn, monitor.
