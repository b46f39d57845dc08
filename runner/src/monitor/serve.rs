//! The monitor's loop: streams, clients, signals, the end.

use std::collections::VecDeque;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;

use super::health::Checks;
use super::launch::{Running, SERVER_END_MS};
use super::orphans;
use super::{MonitorEvent, MonitorOptions, SOCKET, last_line};
use crate::error::{At, RunnerError};
use crate::log::Stream;
use crate::protocol::{self, Frame};
use crate::state::{self, Status};
use crate::{memory, sys};

/// Bytes read at once: the size of a pipe.
const CHUNK_BYTES: usize = 64 << 10;
/// Bytes a slow client or process may leave waiting before we stop reading for it.
const BACKLOG_BYTES_MAX: usize = 1 << 20;
/// Attached clients at the same time; more are turned away.
const CLIENTS_MAX: usize = 64;
/// How long a killed process may wait for a file system that does not answer.
const SERVER_PATIENCE: Duration = Duration::from_secs(5);
/// How often the network helper is started again within [`NET_RESTARTS_IN`].
const NET_RESTARTS_MAX: usize = 5;
/// See there.
const NET_RESTARTS_IN: Duration = Duration::from_secs(10);
/// Exit code of a process that SIGKILL ended.
const EXIT_CODE_KILLED: i32 = 128 + libc::SIGKILL;
/// How long clients may take to read what is left after the end, in milliseconds.
const CLIENT_DRAIN_MS: u32 = 2000;

struct Client {
    socket: OwnedFd,
    incoming: Vec<u8>,
    outgoing: Vec<u8>,
    gone: bool,
}

struct Loop<'a> {
    running: &'a mut Running,
    clients: Vec<Client>,
    /// Waiting for standard input or the terminal.
    input: VecDeque<u8>,
    input_ends: bool,
    /// When the network helper was started again lately.
    net_restarts: Vec<Instant>,
    kill_at: Option<Instant>,
    /// When it has run as long as it may.
    over_at: Option<Instant>,
    is_over: bool,
    /// When the memory of the start is given back.
    settled_at: Option<Instant>,
    /// When a server is killed that keeps the dead from dying.
    kill_server_at: Option<Instant>,
    checks: Option<Checks>,
    options: &'a MonitorOptions,
}

/// What a readable descriptor is.
#[derive(Debug, Clone, Copy)]
enum Source {
    Init,
    Server,
    Net,
    Signals,
    Listener,
    Output(usize),
    Input,
    Client(usize),
    Check,
    CheckOutput,
}

/// The clients that wait to hear how the container ended.
pub(super) struct Clients(Vec<Client>);

impl Clients {
    /// Tells them.
    pub(super) fn tell_end(&mut self, state: &state::State) {
        let exit = Frame::Exit {
            code: u32::try_from(state.exit_code).unwrap_or(255),
            error: state.error.clone(),
        };
        for client in &mut self.0 {
            protocol::encode(&mut client.outgoing, &exit);
            client.flush_within(CLIENT_DRAIN_MS);
        }
        self.0.clear();
    }
}

/// Carries streams and signals until the container has ended; the outcome is in the state.
pub(super) fn serve(
    running: &mut Running,
    options: &MonitorOptions,
) -> Result<Clients, RunnerError> {
    let longest = Duration::from_secs(u64::from(running.config.run_timeout_s));
    let mut this = Loop {
        clients: Vec::new(),
        input: VecDeque::new(),
        input_ends: false,
        net_restarts: Vec::new(),
        kill_at: None,
        is_over: false,
        over_at: (!longest.is_zero()).then(|| Instant::now() + longest),
        settled_at: Some(Instant::now() + memory::SETTLED_AFTER),
        kill_server_at: None,
        checks: running.config.health.as_ref().map(Checks::new),
        options,
        running,
    };
    if let Some(socket) = this.running.attached.take() {
        this.adopt(socket);
    }
    while !this.turn()? {}
    this.drain_outputs();
    this.settle();
    Ok(Clients(this.clients))
}

/// Listens on the attach socket, reached through the directory's descriptor: paths of sockets are
/// bounded to 108 bytes.
pub(super) fn listen(dir: &Path) -> Result<OwnedFd, RunnerError> {
    use rustix::net::{
        AddressFamily, SocketAddrUnix, SocketFlags, SocketType, bind, listen, socket_with,
    };
    let path = dir.join(SOCKET);
    match std::fs::remove_file(&path) {
        Ok(()) => {}
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
        Err(error) => return Err(error).at("remove the old socket", path),
    }
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)
        .at("make the socket", &path)?;
    // The monitor works in the container directory; the umask keeps others out.
    let old = rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o177));
    let bound = SocketAddrUnix::new(SOCKET).and_then(|address| bind(&socket, &address));
    rustix::process::umask(old);
    bound.at("bind the socket", &path)?;
    listen(&socket, 16).at("listen on", &path)?;
    Ok(socket)
}

impl Loop<'_> {
    fn adopt(&mut self, socket: OwnedFd) {
        if self.clients.len() < CLIENTS_MAX && rustix::io::ioctl_fionbio(&socket, true).is_ok() {
            let (incoming, outgoing) = (Vec::new(), Vec::new());
            self.clients.push(Client {
                socket,
                incoming,
                outgoing,
                gone: false,
            });
        }
    }

    /// Waits once and handles what came; true when the container has ended.
    fn turn(&mut self) -> Result<bool, RunnerError> {
        let ready = self.wait()?;
        let mut ended = false;
        for (source, flags) in ready {
            match source {
                Source::Init => ended = true,
                Source::Server => self.server_died(),
                Source::Net => self.net_died(),
                Source::Signals => self.signalled(),
                Source::Listener => {
                    let flags = rustix::net::SocketFlags::CLOEXEC;
                    if let Ok(socket) = rustix::net::accept_with(&self.running.listener, flags) {
                        self.adopt(socket);
                    }
                }
                Source::Output(number) => {
                    self.read_output(number);
                }
                Source::Input => self.write_input(flags),
                Source::Client(number) => self.client_ready(number, flags),
                Source::Check => self.check(|checks, _, health| checks.finish(health, None)),
                Source::CheckOutput => self.checks.iter_mut().for_each(Checks::read),
            }
        }
        self.clients.retain(|client| !client.gone);
        self.check(Checks::tick);
        if self.settled_at.is_some_and(|at| Instant::now() >= at) {
            self.settled_at = None;
            memory::give_back();
        }
        if self.over_at.is_some_and(|at| Instant::now() >= at) {
            (self.over_at, self.is_over) = (None, true);
            self.kill_at = Some(Instant::now());
        }
        if self.kill_at.is_some_and(|at| Instant::now() >= at) {
            self.kill_at = None;
            self.running.init.signal(libc::SIGKILL);
            self.kill_server_at = Some(Instant::now() + SERVER_PATIENCE);
        }
        if self.kill_server_at.is_some_and(|at| Instant::now() >= at) {
            self.kill_server_at = None;
            if let Some(server) = &self.running.server {
                server.signal(libc::SIGKILL);
            }
        }
        Ok(ended)
    }

    /// Lets the checks go on, and tells when they changed what is known.
    fn check(&mut self, step: impl FnOnce(&mut Checks, &Path, &mut state::Health) -> bool) {
        let Some(checks) = &mut self.checks else {
            return;
        };
        let running = &mut *self.running;
        let health = running.state.health.get_or_insert_default();
        let before = health.status.clone();
        if !step(checks, &running.dir, health) {
            return;
        }
        let changed = health.status != before;
        // The next check writes again.
        let _unwritten = state::write(&running.dir, &running.state);
        if changed {
            self.options.tell(running, MonitorEvent::Health);
        }
    }

    fn wait(&self) -> Result<Vec<(Source, PollFlags)>, RunnerError> {
        let running = &self.running;
        let mut list: Vec<(Source, BorrowedFd<'_>, PollFlags)> = vec![
            (Source::Init, running.init.pidfd.as_fd(), PollFlags::IN),
            (Source::Signals, running.signals.as_fd(), PollFlags::IN),
            (Source::Listener, running.listener.as_fd(), PollFlags::IN),
        ];
        if let Some(server) = &running.server {
            list.push((Source::Server, server.pidfd.as_fd(), PollFlags::IN));
        }
        if let Some(net) = &running.net {
            list.push((Source::Net, net.child.pidfd.as_fd(), PollFlags::IN));
        }
        let full = self
            .clients
            .iter()
            .any(|client| client.outgoing.len() > BACKLOG_BYTES_MAX);
        for (number, output) in running.outputs.iter().enumerate() {
            if let Some(fd) = output.as_ref().filter(|_| !full) {
                list.push((Source::Output(number), fd.as_fd(), PollFlags::IN));
            }
        }
        if let Some(fd) = self.input_fd().filter(|_| !self.input.is_empty()) {
            list.push((Source::Input, fd, PollFlags::OUT));
        }
        let (check, output) = self
            .checks
            .as_ref()
            .map_or((None, None), Checks::descriptors);
        list.extend(check.map(|fd| (Source::Check, fd, PollFlags::IN)));
        list.extend(output.map(|fd| (Source::CheckOutput, fd, PollFlags::IN)));
        for (number, client) in self.clients.iter().enumerate() {
            let mut flags = PollFlags::empty();
            if self.input.len() < BACKLOG_BYTES_MAX {
                flags |= PollFlags::IN;
            }
            if !client.outgoing.is_empty() {
                flags |= PollFlags::OUT;
            }
            list.push((Source::Client(number), client.socket.as_fd(), flags));
        }
        let mut fds: Vec<PollFd<'_>> = list
            .iter()
            .map(|(_, fd, flags)| PollFd::from_borrowed_fd(*fd, *flags))
            .collect();
        let check_at = self.checks.as_ref().map(Checks::next);
        let timeout = [
            self.kill_at,
            self.over_at,
            self.settled_at,
            self.kill_server_at,
            check_at,
        ]
        .into_iter()
        .flatten()
        .min()
        .map(|at| timespec(at.saturating_duration_since(Instant::now())));
        match poll(&mut fds, timeout.as_ref()) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(error) => return Err(error).at("wait for", &running.dir),
        }
        let ready = list
            .iter()
            .zip(&fds)
            .filter(|(_, fd)| !fd.revents().is_empty());
        Ok(ready
            .map(|((source, ..), fd)| (*source, fd.revents()))
            .collect())
    }

    /// Where input goes: the terminal's master side or the pipe.
    fn input_fd(&self) -> Option<BorrowedFd<'_>> {
        if self.running.tty {
            self.running.outputs.first()?.as_ref().map(AsFd::as_fd)
        } else {
            self.running.input.as_ref().map(AsFd::as_fd)
        }
    }

    fn server_died(&mut self) {
        if let Some(server) = self.running.server.take() {
            let code = server.reap();
            // A clean end means that the mount is gone, and so the container.
            if code != 0 {
                let said = last_line(&self.running.dir.join(super::SERVER_LOG));
                self.running.state.error = match said {
                    Some(said) => format!("the file-system server ended with {code}: {said}"),
                    None => format!("the file-system server ended with {code}"),
                };
            }
            self.running.init.signal(libc::SIGKILL);
        }
    }

    /// Starts the network helper again, on the same ports. One that keeps dying is let go: the
    /// container goes on without its network, as when a cable is pulled.
    fn net_died(&mut self) {
        let Some(net) = self.running.net.take() else {
            return;
        };
        net.end();
        let now = Instant::now();
        self.net_restarts
            .retain(|at| now.duration_since(*at) < NET_RESTARTS_IN);
        self.net_restarts.push(now);
        let running = &mut *self.running;
        crate::net::release(&running.state.network, &running.dir);
        let again = if self.net_restarts.len() > NET_RESTARTS_MAX {
            None
        } else {
            crate::net::start(&running.dir, &running.config, &running.init).ok()
        };
        match again {
            Some((helper, network)) => (running.net, running.state.network) = (helper, network),
            None => {
                "the network helper ended".clone_into(&mut running.state.error);
                running.state.network.ports.clear();
            }
        }
        // Readers see the old state until the next one is written.
        let _unwritten = state::write(&running.dir, &running.state);
    }

    fn signalled(&mut self) {
        let mut record = [0_u8; 128];
        if rustix::io::read(&self.running.signals, &mut record) != Ok(record.len()) {
            return;
        }
        if sys::signal_number(&record) == Some(libc::SIGTERM) {
            let config = &self.running.config;
            let signal = crate::signals::parse(&config.stop_signal).unwrap_or(libc::SIGTERM);
            self.running.init.signal(signal);
            let timeout = Duration::from_secs(u64::from(config.stop_timeout_s));
            let at = Instant::now() + timeout;
            self.kill_at = Some(self.kill_at.map_or(at, |before| before.min(at)));
        }
    }

    /// Reads one chunk of output for the log and the clients; false when there is no more now.
    fn read_output(&mut self, number: usize) -> bool {
        let stream = if number == 0 {
            Stream::Stdout
        } else {
            Stream::Stderr
        };
        let Some(slot) = self.running.outputs.get_mut(number) else {
            return false;
        };
        let Some(fd) = slot.as_ref() else {
            return false;
        };
        let mut buffer = vec![0_u8; CHUNK_BYTES];
        let time = crate::time::now();
        match rustix::io::read(fd, &mut buffer) {
            Ok(count) if count > 0 => {
                let bytes = buffer.get(..count).unwrap_or_default();
                // A full disk must not stop the container's output to its clients.
                let _unlogged = self.running.log.write(stream, bytes, &time);
                for client in &mut self.clients {
                    protocol::encode_output(&mut client.outgoing, number == 1, bytes);
                    client.flush();
                }
                true
            }
            Err(Errno::AGAIN | Errno::INTR) => false,
            // End of the pipe. A terminal has none while we hold its other side.
            Ok(_) | Err(_) => {
                *slot = None;
                let _unlogged = self.running.log.finish(stream, &time);
                false
            }
        }
    }

    fn write_input(&mut self, flags: PollFlags) {
        if flags.intersects(PollFlags::ERR) && !self.running.tty {
            // The process closed its input: what waits for it is lost, as with any pipe.
            self.running.input = None;
            self.input.clear();
            return;
        }
        let Some(fd) = self.input_fd() else { return };
        let (bytes, _) = self.input.as_slices();
        let written = match rustix::io::write(fd, bytes) {
            Ok(count) => count,
            Err(Errno::AGAIN | Errno::INTR) => 0,
            Err(_) => self.input.len(),
        };
        self.input.drain(..written.min(self.input.len()));
        self.end_input();
    }

    fn end_input(&mut self) {
        if self.input_ends && self.input.is_empty() && !self.running.tty {
            self.running.input = None;
        }
    }

    fn client_ready(&mut self, number: usize, flags: PollFlags) {
        let Some(client) = self.clients.get_mut(number) else {
            return;
        };
        if flags.intersects(PollFlags::OUT) {
            client.flush();
        }
        if !flags.intersects(PollFlags::IN | PollFlags::HUP | PollFlags::ERR) {
            return;
        }
        let mut buffer = vec![0_u8; CHUNK_BYTES];
        match rustix::io::read(&client.socket, &mut buffer) {
            Ok(count) if count > 0 => {
                client
                    .incoming
                    .extend_from_slice(buffer.get(..count).unwrap_or_default());
            }
            Err(Errno::AGAIN | Errno::INTR) => {}
            Ok(_) | Err(_) => client.gone = true,
        }
        let mut frames = Vec::new();
        loop {
            match protocol::decode(&mut client.incoming) {
                Ok(Some(frame)) => frames.push(frame),
                Ok(None) => break,
                Err(protocol::BadFrame) => {
                    client.gone = true;
                    break;
                }
            }
        }
        for frame in frames {
            self.obey(frame);
        }
    }

    fn obey(&mut self, frame: Frame) {
        match frame {
            Frame::Stdin(bytes) => {
                if self.running.config.stdin_open && self.input_fd().is_some() {
                    self.input.extend(bytes);
                    self.write_input(PollFlags::empty());
                }
            }
            Frame::StdinEnd => {
                self.input_ends = true;
                self.end_input();
            }
            Frame::Resize { rows, columns } => {
                if let (true, Some(Some(fd))) = (self.running.tty, self.running.outputs.first()) {
                    crate::terminal::resize(fd.as_fd(), rows, columns);
                }
            }
            Frame::Signal(signal) => {
                if let Ok(signal @ 1..=64) = i32::try_from(signal) {
                    self.running.init.signal(signal);
                }
            }
            Frame::Stdout(_) | Frame::Stderr(_) | Frame::Exit { .. } => {}
        }
    }

    fn drain_outputs(&mut self) {
        for number in 0..2 {
            while self.read_output(number) {}
            let stream = if number == 0 {
                Stream::Stdout
            } else {
                Stream::Stderr
            };
            let _unlogged = self.running.log.finish(stream, &crate::time::now());
        }
    }

    /// Collects the exit code and ends the helpers.
    fn settle(&mut self) {
        if let Some(mut checks) = self.checks.take() {
            checks.abandon();
        }
        let running = &mut *self.running;
        running.state.exit_code = running.init.reap();
        if self.is_over && running.state.exit_code == EXIT_CODE_KILLED {
            running.tell_timeout();
        }
        if running.config.host.pid {
            orphans::end_children(running);
        }
        if let Some(namespace) = &running.mount_namespace {
            orphans::end_in(namespace);
        }
        running.state.status = Status::Exited;
        running.state.pid = 0;
        running.state.server_pid = 0;
        running.state.oom_killed = {
            let late = crate::cgroup::front::late(&running.dir);
            let groups = &running.state.cgroups;
            crate::cgroup::front::out_of_memory(&[groups.clone(), late].concat())
        };
        if let Some(net) = running.net.take() {
            net.end();
        }
        crate::net::release(&running.state.network, &running.dir);
        running.state.network = crate::net::NetState::default();
        // It is in the mount namespace, which must go for the server to end.
        if let Some(supervisor) = running.supervisor.take() {
            supervisor.signal(libc::SIGKILL);
            supervisor.reap();
        }
        if let Some(server) = running.server.take() {
            let code = server.wait(SERVER_END_MS).unwrap_or_else(|| {
                server.signal(libc::SIGKILL);
                server.reap()
            });
            if code != 0 && running.state.error.is_empty() {
                let said = last_line(&running.dir.join(super::SERVER_LOG)).unwrap_or_default();
                running.state.error = format!("the file-system server ended with {code}: {said}");
            }
        }
        crate::cgroup::front::remove(&running.dir, &running.state.cgroups);
        running.state.cgroups.clear();
        running.state.finished_at = crate::time::now();
        let _gone = std::fs::remove_file(running.dir.join(SOCKET));
    }
}

impl Client {
    fn flush(&mut self) {
        while !self.outgoing.is_empty() && !self.gone {
            match rustix::net::send(
                &self.socket,
                &self.outgoing,
                rustix::net::SendFlags::NOSIGNAL,
            ) {
                Ok(count) => drop(self.outgoing.drain(..count)),
                Err(Errno::AGAIN) => return,
                Err(Errno::INTR) => {}
                Err(_) => self.gone = true,
            }
        }
    }

    fn flush_within(&mut self, timeout_ms: u32) {
        let end = Instant::now() + Duration::from_millis(u64::from(timeout_ms));
        self.flush();
        while !self.outgoing.is_empty() && !self.gone {
            let left = end.saturating_duration_since(Instant::now());
            let mut fds = [PollFd::new(&self.socket, PollFlags::OUT)];
            if left.is_zero() || poll(&mut fds, Some(&timespec(left))).is_err() {
                return;
            }
            self.flush();
        }
    }
}

fn timespec(duration: Duration) -> Timespec {
    Timespec {
        tv_sec: i64::try_from(duration.as_secs()).unwrap_or(i64::MAX),
        tv_nsec: i64::from(duration.subsec_nanos()),
    }
}
