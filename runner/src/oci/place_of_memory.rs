//! Processors and memory nodes by number, and the policies about the latter.

use super::plan::invalid;
use super::spec::MemoryPolicy;
use crate::error::Failure;

/// Most processors or nodes told apart. Source: `MAX_NUMNODES` and `NR_CPUS` of distributions.
const NUMBERS_MAX: usize = 8192;

/// Source: `linux/mempolicy.h`.
pub(super) const MODES: [(&str, u32); 7] = [
    ("MPOL_DEFAULT", 0),
    ("MPOL_PREFERRED", 1),
    ("MPOL_BIND", 2),
    ("MPOL_INTERLEAVE", 3),
    ("MPOL_LOCAL", 4),
    ("MPOL_PREFERRED_MANY", 5),
    ("MPOL_WEIGHTED_INTERLEAVE", 6),
];
/// Source: `linux/mempolicy.h`.
pub(super) const FLAGS: [(&str, u32); 3] = [
    ("MPOL_F_NUMA_BALANCING", 1 << 13),
    ("MPOL_F_RELATIVE_NODES", 1 << 14),
    ("MPOL_F_STATIC_NODES", 1 << 15),
];

/// The bits of a list such as `0-3,7`; none for an empty one.
pub(super) fn mask(list: &str) -> Result<Vec<u64>, Failure> {
    let bad = || invalid(format!("invalid list {list:?}"));
    let mut bits: Vec<u64> = Vec::new();
    for part in list
        .split(',')
        .map(str::trim)
        .filter(|part| !part.is_empty())
    {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let first: usize = first.trim().parse().map_err(|_| bad())?;
        let last: usize = last.trim().parse().map_err(|_| bad())?;
        if first > last || last >= NUMBERS_MAX {
            return Err(bad());
        }
        if bits.len() <= last / 64 {
            bits.resize(last / 64 + 1, 0);
        }
        for number in first..=last {
            if let Some(word) = bits.get_mut(number / 64) {
                *word |= 1 << (number % 64);
            }
        }
    }
    Ok(bits)
}

/// Mode with flags, and nodes, as the kernel takes them.
pub(super) fn parse(policy: &MemoryPolicy) -> Result<(u32, Vec<u64>), Failure> {
    let find = |list: &[(&str, u32)], name: &str| {
        let known = list.iter().find(|(known, _)| *known == name);
        known
            .map(|(_, number)| *number)
            .ok_or_else(|| invalid(format!("unknown word {name:?} of linux.memoryPolicy")))
    };
    let mut mode = find(&MODES, &policy.mode)?;
    for flag in &policy.flags {
        mode |= find(&FLAGS, flag)?;
    }
    Ok((mode, mask(&policy.nodes)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_become_bits_and_policies_numbers() {
        assert_eq!(mask("0-3, 7").unwrap(), [0x8f]);
        assert_eq!(mask("64").unwrap(), [0, 1]);
        assert_eq!(mask("").unwrap(), [] as [u64; 0]);
        for bad in ["x", "3-1", "9999999", "-1"] {
            assert!(mask(bad).is_err(), "input {bad}");
        }
        let policy = MemoryPolicy {
            mode: "MPOL_BIND".to_owned(),
            nodes: "0".to_owned(),
            flags: vec!["MPOL_F_STATIC_NODES".to_owned()],
        };
        assert_eq!(parse(&policy).unwrap(), (2 | 1 << 15, vec![1]));
        assert!(parse(&MemoryPolicy::default()).is_err());
    }
}
