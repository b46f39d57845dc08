//! The workers: one leads and takes every request, the others wait to be needed.
//!
//! Most requests are answered in a few microseconds, less than it takes to wake a thread, so the
//! leader answers them itself and meanwhile lets the next ones queue. Before one that may take
//! long it hands the lead to another worker. The leader goes to the processor of whoever asks
//! (`follow`) and sleeps between requests; while it cannot tell, it polls for a short while after a
//! request, because the next one usually follows. An idle server never wakes.

use std::fmt;
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex, PoisonError, mpsc};
use std::thread::Scope;
use std::time::{Duration, Instant};

use rrun_core::Errno;
use rrun_union::Union;

use crate::dispatch::{Answer, Context, dispatch, read_place};
use crate::follow::{Advice, CALM};
use crate::lead::{Lead, Seat};
use crate::negotiate::{self, Session};
use crate::options::{IoUring, ServeOptions};
use crate::passthrough::Passthrough;
use crate::ring::{self, Bell, IoUringError};
use crate::seek::{self, Seek};
use crate::splice::Pipe;
use crate::stats::Stats;
use crate::sys;
use crate::wire::{Reply, Request, op};

/// Room for the headers of the largest request. Source: `fuse_dev_do_read` wants
/// `FUSE_MIN_READ_BUFFER` and `max_write` plus headers.
pub(crate) const HEADER_ROOM: usize = 4096;
/// A write from this size on may take long enough to hand over the lead. A read tells by itself
/// when it has to wait.
const LONG_TRANSFER_BYTES: u32 = 64 << 10;
/// Contents from this size on go through a pipe: below, the calls cost more than the copy.
const SPLICE_MIN: usize = 32 << 10;

/// Why a server stopped.
#[derive(Debug)]
#[non_exhaustive]
pub enum ServeError {
    /// The connection failed.
    Device(io::Error),
    /// The kernel speaks a version we do not.
    Version,
    /// A worker could not be started.
    Thread(io::Error),
    /// Rings were required and are not to be had.
    IoUring(IoUringError),
    /// A ring failed.
    Ring(io::Error),
}

impl fmt::Display for ServeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Device(error) => write!(f, "could not read from /dev/fuse: {error}"),
            Self::Version => {
                f.write_str("the kernel's FUSE protocol is too old; Linux 5.11 is needed")
            }
            Self::Thread(error) => write!(f, "could not start a worker thread: {error}"),
            Self::IoUring(error) => error.fmt(f),
            Self::Ring(error) => write!(f, "could not go on with FUSE over io_uring: {error}"),
        }
    }
}

impl std::error::Error for ServeError {}

/// A connection being served.
pub(crate) struct Server<'a> {
    pub(crate) device: &'a File,
    /// The same connection, non-blocking, to poll on; `None` when it cannot be had.
    poll: Option<File>,
    pub(crate) union: &'a Union,
    pub(crate) options: ServeOptions,
    pub(crate) stats: &'a Stats,
    session: Session,
    passthrough: Passthrough,
    lead: Lead,
    failure: Mutex<Option<ServeError>>,
    /// To the thread that answers where data and holes are; `None` ends it.
    seeks: mpsc::Sender<Option<Seek>>,
    /// Rung when workers with rings are to end; `None` where there are none.
    bell: Option<&'a Bell>,
    /// Whether requests come by rings.
    pub(crate) has_rings: AtomicBool,
    pub(crate) ended: &'a (dyn Fn() + Sync),
}

/// A mounted connection, as [`serve`] needs it.
#[derive(Debug)]
pub struct Connection {
    /// `/dev/fuse`, as it was mounted.
    pub device: File,
    /// A `/proc` of the process id namespace of whoever mounted: where the askers' processors are
    /// looked up. Without one they are not followed.
    pub proc: Option<OwnedFd>,
}

/// Serves `union` on a mounted connection until it is unmounted.
///
/// `ended` is called at once by the worker that sees the unmount: whoever unmounted may want to
/// unmount next what the union holds open, and a program that exits there lets go soonest.
///
/// # Errors
///
/// When the connection breaks; unmounting is no error.
pub fn serve(
    connection: &Connection,
    union: &Arc<Union>,
    options: &ServeOptions,
    stats: &Stats,
    ended: &(dyn Fn() + Sync),
) -> Result<(), ServeError> {
    let device = &connection.device;
    let rings = ring::prepare(options).map_err(ServeError::IoUring)?;
    let Some(session) = handshake(device, options, rings.is_some(), stats)? else {
        ended();
        return Ok(());
    };
    if session.writeback {
        union.hold_writes_back();
    }
    let rings = rings.filter(|_| session.io_uring);
    if rings.is_none() && options.io_uring == IoUring::On {
        return Err(ServeError::IoUring(IoUringError::SwitchedOff));
    }
    let proc = connection.proc.as_ref().filter(|_| options.follow);
    let proc = proc.and_then(|proc| proc.try_clone().ok());
    let (posts, bell) = rings.map(|rings| (rings.posts, rings.bell)).unzip();
    let poll = if options.spin_us == 0 || posts.is_some() {
        None
    } else {
        sys::clone_nonblocking(device.as_fd()).ok()
    };
    let (seeks, questions) = mpsc::channel();
    let server = Server {
        device,
        poll: poll.map(File::from),
        union,
        options: *options,
        stats,
        session,
        passthrough: Passthrough::default(),
        lead: Lead::new(proc),
        failure: Mutex::new(None),
        seeks,
        bell: bell.as_ref(),
        has_rings: AtomicBool::new(posts.is_some()),
        ended,
    };
    std::thread::scope(|scope| {
        let builder = std::thread::Builder::new().name("rrun-fuse-seek".into());
        let helper = &server;
        let seeker = move || {
            let send = |source: Source, bytes: &[u8]| helper.send(source, bytes);
            seek::answer_all(questions, device, union, &send);
        };
        if let Err(error) = builder.spawn_scoped(scope, seeker) {
            server.fail(ServeError::Thread(error));
            return;
        }
        let started = match (posts, server.bell) {
            (Some(posts), Some(bell)) => server.work_with_rings(scope, posts, bell),
            _ => server.work_together(scope),
        };
        if let Err(error) = started {
            server.fail(ServeError::Thread(error));
        }
    });
    match server
        .failure
        .into_inner()
        .unwrap_or_else(PoisonError::into_inner)
    {
        Some(error) => Err(error),
        None => Ok(()),
    }
}

/// Answers the first request; `None` when unmounted before it came.
fn handshake(
    mut device: &File,
    options: &ServeOptions,
    rings: bool,
    stats: &Stats,
) -> Result<Option<Session>, ServeError> {
    let mut buffer = vec![0; buffer_len(options)];
    let mut reply = Reply::with_capacity(HEADER_ROOM);
    loop {
        let Some(len) = read_device(device, &mut buffer).map_err(ServeError::Device)? else {
            return Ok(None);
        };
        let Some(request) = Request::parse(&buffer[..len]) else {
            continue;
        };
        reply.clear();
        // The kernel sends nothing else before.
        let answer = if request.opcode == op::INIT {
            negotiate::answer(request.body, options, rings, &mut reply)
        } else {
            Err(Errno::EPROTO)
        };
        stats.count(request.opcode, answer.is_err());
        let bytes = reply.finish(request.unique, answer.map(drop));
        device.write_all(bytes).map_err(ServeError::Device)?;
        return answer.map(Some).map_err(|_| ServeError::Version);
    }
}

/// Bytes of a buffer for any request.
pub(crate) fn buffer_len(options: &ServeOptions) -> usize {
    usize::try_from(options.transfer_bytes_max).unwrap_or(1 << 20) + HEADER_ROOM
}

/// The poller's patience, adapted to how soon requests follow each other.
struct Patience {
    budget: Duration,
    most: Duration,
}

impl Patience {
    fn caught(&mut self) {
        self.budget = self.most;
    }

    fn missed(&mut self) {
        self.budget /= 2;
        if self.budget < Duration::from_micros(2) {
            self.budget = Duration::ZERO;
        }
    }

    /// A request that came soon after the last one although nobody polled: polling pays again.
    fn woken(&mut self, waited: Duration) {
        if waited <= self.most {
            self.budget = self.most;
        }
    }
}

/// Where a request was read, and so must be answered.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Source {
    Blocking,
    Polled,
}

impl Server<'_> {
    pub(crate) fn fail(&self, error: ServeError) {
        let mut failure = self.failure.lock().unwrap_or_else(PoisonError::into_inner);
        failure.get_or_insert(error);
        drop(failure);
        self.halt();
    }

    pub(crate) fn halt(&self) {
        // It may have ended already.
        let _told = self.seeks.send(None);
        self.lead.close();
        if let Some(bell) = self.bell {
            bell.ring();
        }
    }

    /// Has workers take requests from the device in turn.
    fn work_together<'scope>(&'scope self, scope: &'scope Scope<'scope, '_>) -> io::Result<()> {
        for number in 1..self.options.threads.max(1) {
            let builder = std::thread::Builder::new().name(format!("rrun-fuse-{number}"));
            builder.spawn_scoped(scope, move || self.work())?;
        }
        self.work();
        Ok(())
    }

    fn work(&self) {
        let mut buffer = vec![0; buffer_len(&self.options)];
        let mut reply = Reply::with_capacity(HEADER_ROOM);
        let mut pipe = Pipe::new();
        let most = Duration::from_micros(u64::from(self.options.spin_us));
        let mut patience = Patience {
            budget: Duration::ZERO,
            most,
        };
        while let Some(seat) = self.lead.take() {
            let tools = (&mut *buffer, &mut reply, &mut pipe);
            if !self.serve_leading(seat, tools, &mut patience) {
                return;
            }
        }
    }

    /// Answers requests until the lead is given away; false when there will be no more.
    fn serve_leading(
        &self,
        mut seat: Seat,
        (buffer, reply, pipe): (&mut [u8], &mut Reply, &mut Option<Pipe>),
        patience: &mut Patience,
    ) -> bool {
        let helped = self.options.threads > 1;
        if seat.is_calm() {
            std::thread::sleep(CALM);
        }
        let mut answered = Instant::now();
        loop {
            let (len, source) = match self.next(buffer, patience, seat.bound()) {
                Ok(Some(next)) => next,
                Ok(None) => {
                    (self.ended)();
                    self.halt();
                    return false;
                }
                Err(error) => {
                    self.fail(ServeError::Device(error));
                    return false;
                }
            };
            let Some(request) = Request::parse(&buffer[..len]) else {
                continue;
            };
            let pause = answered.elapsed();
            let bound = seat.bound();
            // Bulk writes come ahead of need: asker and worker then do well side by side. Of reads
            // the kernel asks 128 KiB at a time, and the asker soon waits for the answer.
            let ahead = is_bulk(&request) && request.opcode == op::WRITE;
            let advice = match (ahead, bound) {
                (true, Some(_)) => Advice::LetGo,
                (true, None) => Advice::Stay,
                (false, _) => seat.follow.advise(request.pid, pause, bound),
            };
            let mut held = Some(seat);
            let mut leave = || {
                if helped && let Some(seat) = held.take() {
                    self.lead.give(seat, bound);
                }
            };
            if may_take_long(&request) {
                leave();
            }
            if !self.answer_bulk_read(&request, source, pipe, &mut leave) {
                self.answer(&request, source, reply, &mut leave);
            }
            let Some(still) = held else { return true };
            seat = still;
            answered = Instant::now();
            match advice {
                Advice::Stay => {}
                Advice::LetGo => self.lead.let_go(&mut seat),
                Advice::Move { processor, calm } => {
                    match self.lead.move_to(seat, processor, calm) {
                        Some(still) => seat = still,
                        None => return true,
                    }
                }
            }
        }
    }

    /// Waits for a request; `None` when the connection was unmounted.
    fn next(
        &self,
        buffer: &mut [u8],
        patience: &mut Patience,
        bound: Option<usize>,
    ) -> io::Result<Option<(usize, Source)>> {
        // On the asker's processor polling would only be in its way.
        if bound.is_none()
            && let Some(poll) = &self.poll
            && patience.budget > Duration::ZERO
        {
            let start = Instant::now();
            loop {
                match read_device(poll, buffer) {
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                    Ok(None) => return Ok(None),
                    Ok(Some(len)) => {
                        patience.caught();
                        return Ok(Some((len, Source::Polled)));
                    }
                    Err(error) => return Err(error),
                }
                if start.elapsed() >= patience.budget {
                    patience.missed();
                    break;
                }
                std::thread::yield_now();
            }
        }
        let start = Instant::now();
        let read = read_device(self.device, buffer)?;
        patience.woken(start.elapsed());
        Ok(read.map(|len| (len, Source::Blocking)))
    }

    /// Answers a large read of a lower file; false when it is to be answered like any other.
    fn answer_bulk_read(
        &self,
        request: &Request<'_>,
        source: Source,
        pipe: &mut Option<Pipe>,
        waits: &mut dyn FnMut(),
    ) -> bool {
        if request.opcode != op::READ || !is_bulk(request) {
            return false;
        }
        let Some(ready) = pipe.as_ref() else {
            return false;
        };
        let Ok((offset, size)) = read_place(request.body) else {
            return false;
        };
        let device = self.device_of(source);
        let send = |file: &File, count: usize| {
            // Little is left of it: a copy is cheaper.
            if count < SPLICE_MIN || !ready.holds(count) {
                return None;
            }
            Some(ready.answer(device, request.unique, (file, offset, count)))
        };
        let ino = rrun_union::Ino(request.node);
        let sent = self.union.with_lower_file(ino, (offset, size), waits, send);
        match sent.ok().flatten().flatten() {
            Some(true) => {
                self.stats.count(request.opcode, false);
                true
            }
            Some(false) => {
                // It may hold half an answer.
                *pipe = Pipe::new();
                false
            }
            None => false,
        }
    }

    pub(crate) fn answer(
        &self,
        request: &Request<'_>,
        source: Source,
        reply: &mut Reply,
        waits: &mut dyn FnMut(),
    ) {
        if self.waits_for_writes(request)
            && let Ok(seek) = Seek::parse(request, source)
            && self.seeks.send(Some(seek)).is_ok()
        {
            self.stats.count(request.opcode, false);
            return;
        }
        if let Some(bytes) = self.respond(request, reply, waits) {
            self.send(source, bytes);
        }
    }

    /// Whether the answer to a request has to wait for the kernel, which asks us meanwhile.
    pub(crate) fn waits_for_writes(&self, request: &Request<'_>) -> bool {
        self.session.writeback && request.opcode == op::LSEEK
    }

    /// Finds the answer to a request, as it is written to `/dev/fuse`; `None` if nobody waits for
    /// one.
    pub(crate) fn respond<'r>(
        &self,
        request: &Request<'_>,
        reply: &'r mut Reply,
        waits: &mut dyn FnMut(),
    ) -> Option<&'r [u8]> {
        let context = Context {
            union: self.union,
            options: &self.options,
            session: self.session,
            device: self.device,
            passthrough: &self.passthrough,
        };
        reply.clear();
        match dispatch(context, request, reply, waits) {
            Answer::Reply(result) => {
                self.stats.count(request.opcode, result.is_err());
                Some(reply.finish(request.unique, result))
            }
            Answer::Silence => {
                self.stats.count(request.opcode, false);
                None
            }
        }
    }

    fn device_of(&self, source: Source) -> &File {
        match (source, &self.poll) {
            (Source::Polled, Some(poll)) => poll,
            (Source::Polled | Source::Blocking, _) => self.device,
        }
    }

    /// Sends an answer to where its question was read.
    fn send(&self, source: Source, bytes: &[u8]) {
        let mut device = self.device_of(source);
        // ENOENT: the asker was interrupted and no longer waits. Nothing else can be done about
        // any other error either: the next read will tell if the connection is gone.
        let _sent = device.write_all(bytes);
    }
}

/// Reads one request; `None` when unmounted.
pub(crate) fn read_device(mut device: impl Read, buffer: &mut [u8]) -> io::Result<Option<usize>> {
    let mut aborted = false;
    loop {
        return match device.read(buffer) {
            Ok(0) => Ok(None),
            Ok(len) => Ok(Some(len)),
            Err(error) => match Errno::from_raw(error.raw_os_error().unwrap_or(0)) {
                Errno::ENODEV | Errno::ENOTCONN => Ok(None),
                // ENOENT: interrupted between queueing and reading.
                Errno::EINTR | Errno::ENOENT => continue,
                // Also what the kernel says of a request it was handing out while an ordinary
                // unmount took place (`fuse_dev_do_read`); only of an abort does it say it again.
                Errno::ECONNABORTED if !aborted => {
                    aborted = true;
                    continue;
                }
                _ => Err(error),
            },
        };
    }
}

/// Whether a request moves more than a little data.
fn is_bulk(request: &Request<'_>) -> bool {
    let mut body = request.body;
    let size = match request.opcode {
        // `struct fuse_read_in` and `struct fuse_write_in` begin alike.
        op::READ | op::WRITE => body.skip(16).and_then(|()| body.u32()).unwrap_or(0),
        _ => 0,
    };
    size >= LONG_TRANSFER_BYTES
}

/// Whether a request may take so long that the next ones should not wait for it.
pub(crate) fn may_take_long(request: &Request<'_>) -> bool {
    match request.opcode {
        op::WRITE => is_bulk(request),
        op::FSYNC | op::FSYNCDIR | op::SYNCFS | op::FALLOCATE | op::COPY_FILE_RANGE => true,
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What each read gives, the last first: a count, or an error number below zero.
    struct Device(Vec<i32>);

    impl Read for Device {
        fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
            let next = self.0.pop().expect("no read was left");
            usize::try_from(next).map_err(|_| io::Error::from_raw_os_error(-next))
        }
    }

    fn read(mut results: Vec<i32>) -> Result<Option<usize>, Errno> {
        results.reverse();
        read_device(Device(results), &mut []).map_err(Errno::from)
    }

    #[test]
    fn an_unmount_that_meets_a_request_is_an_unmount() {
        let aborted = -Errno::ECONNABORTED.raw();
        let gone = -Errno::ENODEV.raw();
        assert_eq!(read(vec![gone]), Ok(None));
        assert_eq!(read(vec![aborted, gone]), Ok(None));
        assert_eq!(read(vec![aborted, aborted]), Err(Errno::ECONNABORTED));
    }

    #[test]
    fn interrupted_reads_go_on() {
        let (interrupted, taken_back) = (-Errno::EINTR.raw(), -Errno::ENOENT.raw());
        assert_eq!(read(vec![interrupted, taken_back, 40]), Ok(Some(40)));
    }
}
