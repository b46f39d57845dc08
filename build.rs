//! Links the programs at a fixed address.
//!
//! A program that may lie anywhere has some 11,000 pointers to adjust at each start, which copies 51
//! pages and reads 64 more: half of the time until its first line. Where libraries, stack and heap
//! lie stays random. See docs/decisions.md.

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    let of_target = |name: &str| std::env::var(format!("CARGO_CFG_TARGET_{name}"));
    let gnu = of_target("ENV").is_ok_and(|env| env == "gnu");
    // A static program is linked with other start files, which this would not fit.
    let fixed =
        of_target("FEATURE").is_ok_and(|list| list.split(',').any(|one| one == "crt-static"));
    if gnu && !fixed {
        println!("cargo::rustc-link-arg-bins=-no-pie");
    }
}
