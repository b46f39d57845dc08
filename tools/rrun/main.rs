//! The `rrun` command line: arguments, request, call, report.

fn main() {}
