//! Carrying the streams of a process between it and the caller.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;

use super::{CHUNK_BYTES, ExecSpec, Outcome};
use crate::attach::{filter_keys, forwarded_signals, write_all};
use crate::monitor::Child;
use crate::terminal::RawMode;
use crate::{sys, terminal};

struct Pump<'a> {
    process: &'a Child,
    signals: OwnedFd,
    /// Where standard input goes; the terminal or a pipe.
    input: Option<OwnedFd>,
    /// The terminal or the two pipes.
    outputs: [Option<OwnedFd>; 2],
    tty: bool,
    reads_stdin: bool,
    pending: Vec<u8>,
    detach_keys: &'a [u8],
    keys_seen: usize,
    /// Whether the detach keys were pressed.
    left: bool,
}

pub(crate) fn carry(
    exec: &ExecSpec,
    process: &Child,
    terminal: Option<(OwnedFd, OwnedFd)>,
    near: [Option<OwnedFd>; 3],
) -> io::Result<Outcome> {
    let signals = sys::signal_fd(&forwarded_signals())?;
    let (outputs, input, _slave) = match terminal {
        Some((master, slave)) => {
            rustix::io::ioctl_fionbio(&master, true)?;
            let input = master.try_clone()?;
            ([Some(master), None], Some(input), Some(slave))
        }
        None => {
            let [input, output, error] = near;
            ([output, error], input, None)
        }
    };
    let raw = if exec.tty && exec.stdin {
        RawMode::enter(io::stdin())?
    } else {
        None
    };
    let mut pump = Pump {
        process,
        signals,
        input,
        outputs,
        tty: exec.tty,
        reads_stdin: exec.stdin,
        pending: Vec::new(),
        detach_keys: if exec.can_be_left() {
            &exec.detach_keys
        } else {
            &[]
        },
        keys_seen: 0,
        left: false,
    };
    pump.resize();
    while !pump.turn()? {
        if pump.left {
            return Ok(Outcome::Left);
        }
    }
    for (number, output) in pump.outputs.iter().enumerate() {
        if let Some(fd) = output {
            while copy_output(fd, number) == Copied::Some {}
        }
    }
    drop(raw);
    Ok(Outcome::Exited(process.reap()))
}

/// What came of reading an output once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Copied {
    Some,
    Nothing,
    End,
}

/// Copies one chunk of output number 0 or 1 to ours.
fn copy_output(from: &OwnedFd, number: usize) -> Copied {
    let mut buffer = vec![0_u8; CHUNK_BYTES];
    match rustix::io::read(from, &mut buffer) {
        Ok(count) if count > 0 => {
            let bytes = buffer.get(..count).unwrap_or_default();
            if number == 0 {
                write_all(io::stdout().as_fd(), bytes);
            } else {
                write_all(io::stderr().as_fd(), bytes);
            }
            Copied::Some
        }
        Err(Errno::AGAIN | Errno::INTR) => Copied::Nothing,
        Ok(_) | Err(_) => Copied::End,
    }
}

impl Pump<'_> {
    fn resize(&self) {
        if let (true, Some(master), Some((rows, columns))) =
            (self.tty, &self.input, terminal::size(io::stdout()))
        {
            terminal::resize(master.as_fd(), rows, columns);
        }
    }

    /// Waits once and handles what came; true when the process has ended.
    fn turn(&mut self) -> io::Result<bool> {
        let stdin = io::stdin();
        let mut list: Vec<(usize, BorrowedFd<'_>, PollFlags)> = vec![
            (0, self.process.pidfd.as_fd(), PollFlags::IN),
            (1, self.signals.as_fd(), PollFlags::IN),
        ];
        for (number, output) in (2..).zip(&self.outputs) {
            list.extend(
                output
                    .as_ref()
                    .map(|fd| (number, fd.as_fd(), PollFlags::IN)),
            );
        }
        if !self.pending.is_empty() {
            list.extend(
                self.input
                    .as_ref()
                    .map(|fd| (4, fd.as_fd(), PollFlags::OUT)),
            );
        } else if self.reads_stdin && self.input.is_some() {
            list.push((5, stdin.as_fd(), PollFlags::IN));
        }
        let mut fds: Vec<PollFd<'_>> = list
            .iter()
            .map(|(_, fd, flags)| PollFd::from_borrowed_fd(*fd, *flags))
            .collect();
        match poll(&mut fds, None) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
        let ready: Vec<usize> = list
            .iter()
            .zip(&fds)
            .filter(|(_, fd)| !fd.revents().is_empty())
            .map(|((number, ..), _)| *number)
            .collect();
        for number in &ready {
            match number {
                1 => self.signalled(),
                2 | 3 => {
                    let number = number - 2;
                    if let Some(slot) = self.outputs.get_mut(number)
                        && slot.as_ref().map(|fd| copy_output(fd, number)) == Some(Copied::End)
                    {
                        *slot = None;
                    }
                }
                4 => self.write_input(),
                5 => self.read_stdin(stdin.as_fd()),
                _ => {}
            }
        }
        Ok(ready.contains(&0))
    }

    fn signalled(&self) {
        let mut record = [0_u8; 128];
        if rustix::io::read(&self.signals, &mut record) != Ok(record.len()) {
            return;
        }
        match sys::signal_number(&record) {
            Some(libc::SIGWINCH) => self.resize(),
            Some(signal) => self.process.signal(signal),
            None => {}
        }
    }

    fn read_stdin(&mut self, stdin: BorrowedFd<'_>) {
        let mut buffer = vec![0_u8; CHUNK_BYTES];
        match rustix::io::read(stdin, &mut buffer) {
            Ok(count) if count > 0 => {
                buffer.truncate(count);
                if !self.detach_keys.is_empty() {
                    (buffer, self.left) =
                        filter_keys(self.detach_keys, &mut self.keys_seen, &buffer);
                }
                self.pending = buffer;
                self.write_input();
            }
            Err(Errno::AGAIN | Errno::INTR) => {}
            Ok(_) | Err(_) => {
                self.reads_stdin = false;
                if !self.tty {
                    self.input = None;
                }
            }
        }
    }

    fn write_input(&mut self) {
        let Some(fd) = &self.input else { return };
        match rustix::io::write(fd, &self.pending) {
            Ok(count) => drop(self.pending.drain(..count)),
            Err(Errno::AGAIN | Errno::INTR) => {}
            // The process closed its input.
            Err(_) => {
                self.pending.clear();
                self.input = None;
            }
        }
    }
}
