//! What both benchmarks need: a place that vanishes with them, programs with a time limit, medians.

pub(crate) mod figures;
pub(crate) mod keeper;
pub(crate) mod program;
