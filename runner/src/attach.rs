//! The client side of a container's streams: the caller's terminal or pipes against the monitor.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;

use crate::error::{At, RunnerError};
use crate::monitor::SOCKET;
use crate::protocol::{self, Frame};
use crate::terminal::RawMode;
use crate::{sys, terminal};

/// Bytes read at once: the size of a pipe.
const CHUNK_BYTES: usize = 64 << 10;
/// Bytes that may wait for the monitor before the input is left alone.
const BACKLOG_BYTES_MAX: usize = 1 << 20;

/// What an attached client does.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AttachOptions {
    /// Whether the container has a terminal: ours becomes raw and follows its size.
    pub tty: bool,
    /// Whether our standard input goes to the container.
    pub stdin: bool,
    /// Whether its standard output, or terminal, is shown.
    pub stdout: bool,
    /// Whether its standard error is shown.
    pub stderr: bool,
    /// Whether signals we get go to the container.
    pub forward_signals: bool,
    /// The bytes that detach, by default ctrl-p ctrl-q; empty disables it.
    pub detach_keys: Vec<u8>,
}

impl Default for AttachOptions {
    fn default() -> Self {
        Self {
            tty: false,
            stdin: false,
            stdout: true,
            stderr: true,
            forward_signals: true,
            detach_keys: vec![0x10, 0x11],
        }
    }
}

/// How an attachment ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// The container ended.
    Exited {
        /// Its exit code.
        code: i32,
        /// Why, when not by itself; often empty.
        error: String,
    },
    /// The detach keys were pressed.
    Detached,
    /// The monitor went away: the container was killed with it.
    Lost,
}

/// Connects to a running container.
///
/// # Errors
///
/// When it does not run.
pub fn connect(dir: &Path) -> Result<OwnedFd, RunnerError> {
    use rustix::fs::{CWD, Mode, OFlags, openat};
    use rustix::net::{
        AddressFamily, SocketAddrUnix, SocketFlags, SocketType, connect, socket_with,
    };
    crate::peers::answer(dir)?;
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let handle = openat(CWD, dir, flags, Mode::empty()).at("open", dir)?;
    let number = std::os::fd::AsRawFd::as_raw_fd(&handle);
    let socket = socket_with(
        AddressFamily::UNIX,
        SocketType::STREAM,
        SocketFlags::CLOEXEC,
        None,
    )
    .at("make a socket for", dir)?;
    // The true path may be longer than a socket's path can be.
    let address = SocketAddrUnix::new(format!("/proc/self/fd/{number}/{SOCKET}"));
    match address.and_then(|address| connect(&socket, &address)) {
        Ok(()) => Ok(socket),
        Err(Errno::NOENT | Errno::CONNREFUSED) => {
            Err(RunnerError::NotRunning(crate::container::id_of(dir)))
        }
        Err(error) => Err(error).at("connect to", dir),
    }
}

/// The signals that go to a process instead of us, and the one of a changed terminal size.
///
/// Not those that job control, children or our own faults cause.
pub(crate) fn forwarded_signals() -> Vec<i32> {
    let kept = [
        libc::SIGKILL,
        libc::SIGSTOP,
        libc::SIGCHLD,
        libc::SIGURG,
        libc::SIGPIPE,
        libc::SIGSEGV,
        libc::SIGBUS,
        libc::SIGFPE,
        libc::SIGILL,
        libc::SIGTRAP,
        libc::SIGTSTP,
        libc::SIGTTIN,
        libc::SIGTTOU,
        libc::SIGCONT,
    ];
    (1..=31).filter(|signal| !kept.contains(signal)).collect()
}

struct Client<'a> {
    socket: &'a OwnedFd,
    options: &'a AttachOptions,
    signals: OwnedFd,
    incoming: Vec<u8>,
    outgoing: Vec<u8>,
    keys_seen: usize,
    stdin_open: bool,
}

/// Carries streams until the container ends or the detach keys are pressed.
///
/// Blocks signals of the calling thread for good when they are forwarded, so the caller should
/// end after it.
///
/// # Errors
///
/// When the terminal or the connection fails.
pub fn run(socket: &OwnedFd, options: &AttachOptions) -> Result<Outcome, RunnerError> {
    let wanted = if options.forward_signals {
        forwarded_signals()
    } else {
        vec![libc::SIGWINCH]
    };
    let signals = sys::signal_fd(&wanted).at("catch signals for", "the container")?;
    let raw = if options.tty && options.stdin {
        RawMode::enter(io::stdin()).at("make raw", "the terminal")?
    } else {
        None
    };
    let mut client = Client {
        socket,
        options,
        signals,
        incoming: Vec::new(),
        outgoing: Vec::new(),
        keys_seen: 0,
        stdin_open: options.stdin,
    };
    client.resize();
    let outcome = loop {
        if let Some(outcome) = client.turn().at("carry the streams of", "the container")? {
            break outcome;
        }
    };
    drop(raw);
    Ok(outcome)
}

impl Client<'_> {
    fn resize(&mut self) {
        if self.options.tty
            && let Some((rows, columns)) = terminal::size(io::stdout())
        {
            protocol::encode(&mut self.outgoing, &Frame::Resize { rows, columns });
        }
    }

    fn turn(&mut self) -> io::Result<Option<Outcome>> {
        let stdin = io::stdin();
        let mut socket_flags = PollFlags::IN;
        if !self.outgoing.is_empty() {
            socket_flags |= PollFlags::OUT;
        }
        let reads_stdin = self.stdin_open && self.outgoing.len() < BACKLOG_BYTES_MAX;
        let stdin_flags = if reads_stdin {
            PollFlags::IN
        } else {
            PollFlags::empty()
        };
        let mut fds = vec![
            PollFd::new(self.socket, socket_flags),
            PollFd::new(&self.signals, PollFlags::IN),
        ];
        if reads_stdin {
            fds.push(PollFd::new(&stdin, stdin_flags));
        }
        match poll(&mut fds, None) {
            Ok(_) => {}
            Err(Errno::INTR) => return Ok(None),
            Err(error) => return Err(error.into()),
        }
        let ready: Vec<PollFlags> = fds.iter().map(PollFd::revents).collect();
        drop(fds);
        let at = |index: usize| ready.get(index).copied().unwrap_or(PollFlags::empty());
        if !at(1).is_empty() {
            self.signalled();
        }
        if !at(2).is_empty() && self.read_stdin(stdin.as_fd()) {
            self.flush();
            return Ok(Some(Outcome::Detached));
        }
        self.flush();
        if at(0).intersects(PollFlags::IN | PollFlags::HUP | PollFlags::ERR) {
            return self.read_socket();
        }
        Ok(None)
    }

    fn signalled(&mut self) {
        let mut record = [0_u8; 128];
        if rustix::io::read(&self.signals, &mut record) != Ok(record.len()) {
            return;
        }
        match sys::signal_number(&record) {
            Some(libc::SIGWINCH) => self.resize(),
            Some(signal) => {
                let signal = u32::try_from(signal).unwrap_or_default();
                protocol::encode(&mut self.outgoing, &Frame::Signal(signal));
            }
            None => {}
        }
    }

    /// Takes input; true when the detach keys are complete.
    fn read_stdin(&mut self, stdin: BorrowedFd<'_>) -> bool {
        let mut buffer = vec![0_u8; CHUNK_BYTES];
        let count = match rustix::io::read(stdin, &mut buffer) {
            Ok(count) if count > 0 => count,
            Err(Errno::INTR | Errno::AGAIN) => return false,
            Ok(_) | Err(_) => {
                self.stdin_open = false;
                protocol::encode(&mut self.outgoing, &Frame::StdinEnd);
                return false;
            }
        };
        buffer.truncate(count);
        if !self.options.tty || self.options.detach_keys.is_empty() {
            protocol::encode(&mut self.outgoing, &Frame::Stdin(buffer));
            return false;
        }
        let (pass, detach) = filter_keys(&self.options.detach_keys, &mut self.keys_seen, &buffer);
        protocol::encode(&mut self.outgoing, &Frame::Stdin(pass));
        detach
    }

    fn flush(&mut self) {
        use rustix::net::{SendFlags, send};
        let flags = SendFlags::NOSIGNAL | SendFlags::DONTWAIT;
        while !self.outgoing.is_empty() {
            match send(self.socket, &self.outgoing, flags) {
                Ok(count) => drop(self.outgoing.drain(..count)),
                Err(Errno::INTR) => {}
                // Full, or the monitor is gone, which reading tells.
                Err(_) => return,
            }
        }
    }

    fn read_socket(&mut self) -> io::Result<Option<Outcome>> {
        let mut buffer = vec![0_u8; CHUNK_BYTES];
        match rustix::io::read(self.socket, &mut buffer) {
            Ok(0) | Err(Errno::CONNRESET) => return Ok(Some(Outcome::Lost)),
            Ok(count) => {
                self.incoming
                    .extend_from_slice(buffer.get(..count).unwrap_or_default());
            }
            Err(Errno::INTR | Errno::AGAIN) => return Ok(None),
            Err(error) => return Err(error.into()),
        }
        loop {
            match protocol::decode(&mut self.incoming) {
                Ok(Some(Frame::Stdout(bytes))) if self.options.stdout => {
                    write_all(io::stdout().as_fd(), &bytes);
                }
                Ok(Some(Frame::Stderr(bytes))) if self.options.stderr => {
                    write_all(io::stderr().as_fd(), &bytes);
                }
                Ok(Some(Frame::Exit { code, error })) => {
                    let code = i32::try_from(code).unwrap_or(255);
                    return Ok(Some(Outcome::Exited { code, error }));
                }
                Ok(Some(_)) => {}
                Ok(None) => return Ok(None),
                Err(protocol::BadFrame) => return Ok(Some(Outcome::Lost)),
            }
        }
    }
}

/// Splits typed bytes into what goes on and whether the detach keys are complete.
pub(crate) fn filter_keys(keys: &[u8], seen: &mut usize, typed: &[u8]) -> (Vec<u8>, bool) {
    let mut pass = Vec::with_capacity(typed.len());
    for byte in typed {
        if keys.get(*seen) == Some(byte) {
            *seen += 1;
            if *seen == keys.len() {
                return (pass, true);
            }
            continue;
        }
        pass.extend_from_slice(keys.get(..*seen).unwrap_or_default());
        *seen = usize::from(keys.first() == Some(byte));
        if *seen == 0 {
            pass.push(*byte);
        }
    }
    (pass, false)
}

/// Writes to one of our standard streams, whatever mode it is in; a closed one takes nothing.
pub(crate) fn write_all(fd: BorrowedFd<'_>, mut bytes: &[u8]) {
    while !bytes.is_empty() {
        match rustix::io::write(fd, bytes) {
            Ok(count) => bytes = bytes.get(count..).unwrap_or_default(),
            Err(Errno::INTR) => {}
            Err(Errno::AGAIN) => {
                let mut fds = [PollFd::new(&fd, PollFlags::OUT)];
                let _retry = poll(&mut fds, None);
            }
            Err(_) => return,
        }
    }
}

/// Reads a text of detach keys: letters and `ctrl-X`, at commas.
#[must_use]
pub fn parse_detach_keys(text: &str) -> Option<Vec<u8>> {
    if text.is_empty() {
        return Some(Vec::new());
    }
    text.split(',')
        .map(|key| match (key.strip_prefix("ctrl-"), key.as_bytes()) {
            (Some(key), _) => match key.as_bytes() {
                [byte @ (b'a'..=b'z' | b'@' | b'[' | b'\\' | b']' | b'^' | b'_')] => {
                    Some(byte.to_ascii_uppercase() & 0x1f)
                }
                _ => None,
            },
            (None, [byte]) => Some(*byte),
            (None, _) => None,
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn detach_keys_are_held_back_and_given_when_they_were_none() {
        let keys = [0x10, 0x11];
        let mut seen = 0;
        assert_eq!(
            filter_keys(&keys, &mut seen, b"a\x10"),
            (b"a".to_vec(), false)
        );
        assert_eq!(
            filter_keys(&keys, &mut seen, b"b"),
            (b"\x10b".to_vec(), false)
        );
        assert_eq!(
            filter_keys(&keys, &mut seen, b"\x10\x10"),
            (b"\x10".to_vec(), false)
        );
        assert_eq!(filter_keys(&keys, &mut seen, b"\x11x"), (Vec::new(), true));
        assert_eq!(parse_detach_keys("ctrl-p,ctrl-q"), Some(keys.to_vec()));
        assert_eq!(parse_detach_keys("ctrl-a,d"), Some(vec![1, b'd']));
        assert_eq!(parse_detach_keys("ctrl-"), None);
    }
}
