//! The projects own checks.

fn main() {}
