//! One carried connection: bytes go both ways through pipes, without being copied to us.

use std::os::fd::{AsFd, OwnedFd};

use rustix::io::Errno;
use rustix::net::{Shutdown, shutdown, sockopt};
use rustix::pipe::{PipeFlags, SpliceFlags, fcntl_setpipe_size, pipe_with, splice};

/// Bytes a pipe is asked to hold; more makes fewer system calls, unprivileged users share 64 MiB.
const PIPE_BYTES: usize = 256 << 10;
/// Bytes moved in one go before other connections have their turn.
const TURN_BYTES: usize = 4 << 20;
/// Empty pipes kept for the next connection that has something to say.
const SPARE_PIPES: usize = 8;

/// Empty pipes that wait for use: idle connections hold none.
#[derive(Debug, Default)]
pub(crate) struct Pipes {
    spare: Vec<Pipe>,
}

#[derive(Debug)]
struct Pipe {
    out: OwnedFd,
    into: OwnedFd,
}

impl Pipes {
    fn take(&mut self) -> rustix::io::Result<Pipe> {
        if let Some(pipe) = self.spare.pop() {
            return Ok(pipe);
        }
        let (out, into) = pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK)?;
        // The default size works as well.
        let _refused = fcntl_setpipe_size(&into, PIPE_BYTES);
        Ok(Pipe { out, into })
    }

    fn give(&mut self, pipe: Pipe) {
        if self.spare.len() < SPARE_PIPES {
            self.spare.push(pipe);
        }
    }
}

/// One direction of a connection.
#[derive(Debug, Default)]
struct Direction {
    pipe: Option<Pipe>,
    held: usize,
    read_ended: bool,
    write_ended: bool,
}

/// How far a turn came.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Progress {
    /// Nothing more can be moved before the next event.
    Waits,
    /// There is more; it is another's turn.
    More,
    /// Both directions are at their end, or the connection broke.
    Ended,
}

/// A client of the host and the container's socket that answers it.
#[derive(Debug)]
pub(crate) struct Stream {
    client: OwnedFd,
    server: OwnedFd,
    connected: bool,
    up: Direction,
    down: Direction,
}

impl Stream {
    /// Both sockets are not blocking; `server` is connecting.
    pub(crate) fn new(client: OwnedFd, server: OwnedFd) -> Self {
        Self {
            client,
            server,
            connected: false,
            up: Direction::default(),
            down: Direction::default(),
        }
    }

    /// Moves what can be moved now.
    pub(crate) fn turn(&mut self, pipes: &mut Pipes) -> Progress {
        if !self.connected {
            match sockopt::socket_error(&self.server) {
                Ok(Ok(())) => {}
                Ok(Err(_)) | Err(_) => {
                    self.reset();
                    return Progress::Ended;
                }
            }
            match rustix::net::getpeername(&self.server) {
                Ok(Some(_)) => self.connected = true,
                Ok(None) | Err(_) => return Progress::Waits,
            }
        }
        let up = self.up.turn(&self.client, &self.server, pipes);
        let down = self.down.turn(&self.server, &self.client, pipes);
        match (up, down) {
            (Ok(up), Ok(down)) => {
                if self.up.write_ended && self.down.write_ended {
                    Progress::Ended
                } else if up || down {
                    Progress::More
                } else {
                    Progress::Waits
                }
            }
            (Err(_), _) | (_, Err(_)) => {
                self.reset();
                Progress::Ended
            }
        }
    }

    /// Makes both ends see a broken connection, not an end of data.
    fn reset(&self) {
        let zero = Some(std::time::Duration::ZERO);
        // A socket that is gone needs no more breaking.
        let _gone = sockopt::set_socket_linger(&self.client, zero);
        let _gone = sockopt::set_socket_linger(&self.server, zero);
    }
}

impl Direction {
    /// True when it stopped for the sake of others.
    fn turn(&mut self, from: &OwnedFd, to: &OwnedFd, pipes: &mut Pipes) -> Result<bool, Errno> {
        let mut moved = 0;
        let flags = SpliceFlags::NONBLOCK | SpliceFlags::MOVE;
        while !self.write_ended {
            let mut progress = false;
            if !self.read_ended && self.held < PIPE_BYTES {
                let pipe = match self.pipe.take() {
                    Some(pipe) => pipe,
                    None => pipes.take()?,
                };
                let got = splice(from, None, pipe.into.as_fd(), None, PIPE_BYTES, flags);
                self.pipe = Some(pipe);
                match got {
                    Ok(0) => (self.read_ended, progress) = (true, true),
                    Ok(count) => (self.held, progress) = (self.held + count, true),
                    Err(Errno::AGAIN | Errno::INTR) => {}
                    Err(error) => return Err(error),
                }
            }
            if self.held > 0
                && let Some(pipe) = &self.pipe
            {
                match splice(pipe.out.as_fd(), None, to, None, self.held, flags) {
                    Ok(count) => {
                        self.held -= count.min(self.held);
                        moved += count;
                        progress |= count > 0;
                    }
                    Err(Errno::AGAIN | Errno::INTR) => {}
                    Err(error) => return Err(error),
                }
            }
            if self.held == 0 && self.read_ended {
                self.write_ended = true;
                match shutdown(to, Shutdown::Write) {
                    Ok(()) | Err(Errno::NOTCONN) => {}
                    Err(error) => return Err(error),
                }
            }
            if !progress {
                break;
            }
            if moved >= TURN_BYTES {
                return Ok(true);
            }
        }
        if self.held == 0
            && let Some(pipe) = self.pipe.take()
        {
            pipes.give(pipe);
        }
        Ok(false)
    }
}
