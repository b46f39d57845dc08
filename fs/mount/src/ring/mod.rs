//! The second transport: FUSE over `io_uring`.
//!
//! The kernel has a queue for each processor, and sends a request to that of the processor its
//! asker runs on. A worker bound to that processor answers it there: no other processor is woken,
//! and askers on several processors do not wait for each other. What the kernel does not send this
//! way (forgetting, interrupts) still comes by `/dev/fuse`.
//!
//! Source: kernel `Documentation/filesystems/fuse/fuse-io-uring.rst`.

mod bell;
mod beside;
mod slot;
mod worker;

use std::fmt;
use std::fs;
use std::io;

use rustix::thread::CpuSet;

pub(crate) use bell::Bell;
use worker::Worker;

use crate::options::{IoUring, ServeOptions};
use crate::sys::uring::CommandRing;

/// Whether the module `fuse` takes rings, `Y` or `N`.
const PARAMETER: &str = "/sys/module/fuse/parameters/enable_uring";
/// The processors there may ever be: the kernel has a queue for each. Source: `cpu(7)`, kernel
/// `Documentation/admin-guide/cputopology.rst`.
const POSSIBLE: &str = "/sys/devices/system/cpu/possible";
/// Most processors for which we make queues; a kernel for more does not exist.
const QUEUES_MAX: u16 = 8192;
/// Smallest payload the kernel takes. Source: `FUSE_MIN_READ_BUFFER`.
const PAYLOAD_MIN: usize = 8192;

/// Why there is no FUSE over `io_uring`.
#[derive(Debug)]
#[non_exhaustive]
pub enum IoUringError {
    /// The kernel does not know it.
    Kernel,
    /// The administrator has not switched it on.
    SwitchedOff,
    /// This process may make no ring.
    Forbidden,
    /// The processors cannot be told.
    Processors(io::Error),
    /// A ring could not be made.
    Setup(io::Error),
}

impl fmt::Display for IoUringError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("no FUSE over io_uring: ")?;
        match self {
            Self::Kernel => f.write_str(
                "this kernel has none; it needs Linux 6.14 with CONFIG_FUSE_IO_URING, \
                 use io_uring=off",
            ),
            Self::SwitchedOff => write!(
                f,
                "it is switched off; root switches it on with `echo Y > {PARAMETER}`"
            ),
            Self::Forbidden => f.write_str(
                "this process may not use io_uring; see sysctl kernel.io_uring_disabled \
                 and the seccomp filter it runs under",
            ),
            Self::Processors(error) => write!(f, "could not read {POSSIBLE}: {error}"),
            Self::Setup(error) => write!(f, "could not make a ring: {error}"),
        }
    }
}

impl std::error::Error for IoUringError {}

impl IoUringError {
    fn of_setup(error: io::Error) -> Self {
        match error.raw_os_error() {
            Some(libc::EPERM | libc::EACCES) => Self::Forbidden,
            Some(libc::ENOSYS | libc::EINVAL) => Self::Kernel,
            _ => Self::Setup(error),
        }
    }
}

/// Tells whether the kernel takes FUSE over `io_uring` from this process, before anything is
/// mounted.
///
/// # Errors
///
/// What is missing, and what to do about it.
pub fn io_uring_available() -> Result<(), IoUringError> {
    match fs::read(PARAMETER) {
        Ok(value) if value.starts_with(b"N") => return Err(IoUringError::SwitchedOff),
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Err(IoUringError::Kernel),
        // Where it cannot be read the kernel tells soon enough.
        Ok(_) | Err(_) => {}
    }
    CommandRing::new().map(drop).map_err(IoUringError::of_setup)
}

/// A worker to be: what it will be bound to, and which queues it will serve.
pub(crate) struct Post {
    processors: Option<CpuSet>,
    /// What those may be bound to who help it.
    anywhere: Option<CpuSet>,
    queues: Vec<u16>,
    ring: CommandRing,
}

/// All workers to be.
pub(crate) struct Rings {
    pub(crate) posts: Vec<Post>,
    pub(crate) bell: Bell,
}

/// Everything that may fail before the kernel is told that there will be rings: from then on it
/// makes everybody wait for them. `None` when there shall be none.
///
/// # Errors
///
/// When rings are required and cannot be had.
pub(crate) fn prepare(options: &ServeOptions) -> Result<Option<Rings>, IoUringError> {
    let rings = || -> Result<Rings, IoUringError> {
        io_uring_available()?;
        let possible = fs::read_to_string(POSSIBLE).map_err(IoUringError::Processors)?;
        let queues = count(&possible)
            .filter(|count| (1..=QUEUES_MAX).contains(count))
            .ok_or_else(|| IoUringError::Processors(io::ErrorKind::InvalidData.into()))?;
        let ours = rustix::thread::sched_getaffinity(None).ok();
        let bell = Bell::new().map_err(IoUringError::Setup)?;
        let posts = share_out(queues, ours.as_ref()).into_iter();
        let posts = posts.map(|(processor, queues)| {
            Ok(Post {
                processors: processor.map(only),
                anywhere: ours,
                queues,
                ring: CommandRing::new().map_err(IoUringError::of_setup)?,
            })
        });
        let posts = posts.collect::<Result<_, _>>()?;
        Ok(Rings { posts, bell })
    };
    match options.io_uring {
        IoUring::Off => Ok(None),
        IoUring::Auto => Ok(rings().ok()),
        IoUring::On => rings().map(Some),
    }
}

/// Bytes of payload a slot must have room for. Source: `fuse_uring_create` in
/// `fs/fuse/dev_uring.c`.
pub(crate) fn payload_len(options: &ServeOptions) -> usize {
    usize::try_from(options.transfer_bytes_max)
        .unwrap_or(PAYLOAD_MIN)
        .max(PAYLOAD_MIN)
}

/// The number of processors in a list such as `0-3,8`.
fn count(list: &str) -> Option<u16> {
    list.trim().split(',').try_fold(0_u16, |sum, part| {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let (first, last): (u16, u16) = (first.parse().ok()?, last.parse().ok()?);
        sum.checked_add(last.checked_sub(first)?.checked_add(1)?)
    })
}

fn only(processor: usize) -> CpuSet {
    let mut set = CpuSet::new();
    set.set(processor);
    set
}

/// One worker for each processor that is `ours`; queues of the others, whose askers run where we
/// may not, are shared out among them.
fn share_out(queues: u16, ours: Option<&CpuSet>) -> Vec<(Option<usize>, Vec<u16>)> {
    let is_ours = |queue: u16| {
        let number = usize::from(queue);
        number < CpuSet::MAX_CPU && ours.is_some_and(|set| set.is_set(number))
    };
    let mut posts: Vec<(Option<usize>, Vec<u16>)> = (0..queues)
        .filter(|queue| is_ours(*queue))
        .map(|queue| (Some(usize::from(queue)), vec![queue]))
        .collect();
    if posts.is_empty() {
        return vec![(None, (0..queues).collect())];
    }
    let last = posts.len();
    for (number, queue) in (0..queues).filter(|queue| !is_ours(*queue)).enumerate() {
        if let Some((_, queues)) = posts.get_mut(number % last) {
            queues.push(queue);
        }
    }
    posts
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn processors_are_counted_as_the_kernel_lists_them() {
        let cases = [
            ("0\n", Some(1)),
            ("0-3\n", Some(4)),
            ("0-3,8,10-11", Some(7)),
            ("", None),
            ("3-1", None),
            ("0-65535", None),
        ];
        for (list, expected) in cases {
            assert_eq!(count(list), expected, "{list:?}");
        }
    }

    #[test]
    fn every_queue_has_one_worker() {
        let mut ours = CpuSet::new();
        for processor in [1, 2] {
            ours.set(processor);
        }
        let posts = share_out(5, Some(&ours));
        assert_eq!(
            posts,
            [(Some(1), vec![1, 0, 4]), (Some(2), vec![2, 3])],
            "two processors of five"
        );
        assert_eq!(share_out(2, None), [(None, vec![0, 1])]);
        assert_eq!(share_out(1, Some(&ours)), [(None, vec![0])]);
    }
}
