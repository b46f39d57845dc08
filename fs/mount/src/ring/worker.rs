//! A worker: takes requests from its queues and answers them.

use std::io;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread::Scope;

use rrun_core::Errno;
use rrun_union::Ino;
use rustix::thread::CpuSet;

use super::slot::Slot;
use super::{Bell, Post, payload_len};
use crate::dispatch::read_place;
use crate::server::{HEADER_ROOM, Server, may_take_long};
use crate::sys::uring::{CommandRing, Target};
use crate::wire::{Reply, Request, op};

/// The token of the bell; those of slots are their numbers.
const BELL: u64 = u64::MAX;
/// Who serves the queues of one post, at most [`ServeOptions::threads`](crate::ServeOptions).
#[derive(Debug, Clone)]
struct Crew {
    queues: Arc<[u16]>,
    count: Arc<AtomicUsize>,
    /// Where those after the first may run; `None` when it cannot be told.
    anywhere: Option<CpuSet>,
}

impl Crew {
    /// Room for one more: there was to be one and is not.
    fn one_less(&self) {
        self.count.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Where workers live, and how they hear of their end.
pub(crate) type Place<'scope, 'env> = (&'scope Scope<'scope, 'env>, &'scope Bell);

/// One thread with its ring and slots.
pub(crate) struct Worker<'scope, 'env> {
    server: &'scope Server<'scope>,
    place: Place<'scope, 'env>,
    crew: Crew,
    /// Where it runs.
    processors: Option<CpuSet>,
    /// Whether it is not the first of its crew.
    is_reinforcement: bool,
    ring: CommandRing,
    slots: Vec<Slot>,
    reply: Reply,
    /// Whether a request came, so that the kernel has taken a slot of ours.
    accepted: bool,
}

/// Whether a worker goes on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Next {
    Go,
    End,
}

impl<'scope, 'env> Worker<'scope, 'env> {
    /// Starts the first worker of a post.
    ///
    /// # Errors
    ///
    /// `EAGAIN` when there can be no more threads.
    pub(crate) fn start(
        server: &'scope Server<'scope>,
        place: Place<'scope, 'env>,
        post: Post,
    ) -> io::Result<()> {
        let crew = Crew {
            queues: post.queues.into(),
            count: Arc::new(AtomicUsize::new(1)),
            anywhere: post.anywhere,
        };
        let worker = Self::new(server, place, crew, post.ring);
        Self {
            processors: post.processors,
            is_reinforcement: false,
            ..worker
        }
        .spawn()
    }

    fn new(
        server: &'scope Server<'scope>,
        place: Place<'scope, 'env>,
        crew: Crew,
        ring: CommandRing,
    ) -> Self {
        Self {
            server,
            place,
            processors: crew.anywhere,
            crew,
            is_reinforcement: true,
            ring,
            slots: Vec::new(),
            reply: Reply::with_capacity(HEADER_ROOM),
            accepted: false,
        }
    }

    fn spawn(self) -> io::Result<()> {
        let first = self.crew.queues.first().copied().unwrap_or(0);
        let builder = std::thread::Builder::new().name(format!("rrun-ring-{first}"));
        let (scope, _) = self.place;
        builder.spawn_scoped(scope, move || self.run()).map(drop)
    }

    fn run(mut self) {
        if let Some(processors) = &self.processors {
            // Refused only if our processors were changed meanwhile; the kernel then chooses.
            let _bound = rustix::thread::sched_setaffinity(None, processors);
        }
        match self.work() {
            Ok(()) => {}
            // The queues have another worker, and what it did not take nobody misses.
            Err(_) if !self.accepted && self.is_reinforcement => self.crew.one_less(),
            Err(error) => self.server.ring_failed(error, self.accepted),
        }
    }

    fn work(&mut self) -> io::Result<()> {
        self.ring.enable()?;
        for queue in self.crew.queues.iter().copied() {
            let mut slot = Slot::new(queue, payload_len(&self.server.options))?;
            let target = target(self.server, self.slots.len(), queue);
            slot.register(&mut self.ring, target)?;
            self.slots.push(slot);
        }
        let (_, bell) = self.place;
        self.ring.watch(bell.fd(), BELL)?;
        loop {
            self.ring.wait()?;
            while let Some((token, result)) = self.ring.completion() {
                if self.complete(token, result)? == Next::End {
                    return Ok(());
                }
                // Apart from waiting: whoever is woken by the answer then runs at once and asks
                // again, and finds us awake, which costs less than to wake us; and who asked first
                // does not wait for the answer to the next.
                self.ring.submit()?;
            }
        }
    }

    fn complete(&mut self, token: u64, result: i32) -> io::Result<Next> {
        if token == BELL {
            return Ok(Next::End);
        }
        let number = usize::try_from(token).unwrap_or(usize::MAX);
        let Some(slot) = self.slots.get_mut(number) else {
            return Ok(Next::Go);
        };
        slot.returned();
        match result.saturating_neg() {
            ..=0 => {
                self.accepted = true;
                self.serve(number)?;
                Ok(Next::Go)
            }
            // Unmounted, or aborted: who reads `/dev/fuse` hears which.
            libc::ENOTCONN | libc::ECONNABORTED | libc::ECANCELED => {
                let waits = self.slots.iter().any(Slot::is_lent);
                Ok(if waits { Next::Go } else { Next::End })
            }
            errno => Err(io::Error::from_raw_os_error(errno)),
        }
    }

    /// Serves the request in a slot.
    fn serve(&mut self, number: usize) -> io::Result<()> {
        let (server, place, crew) = (self.server, self.place, &self.crew);
        let Some(slot) = self.slots.get_mut(number) else {
            return Ok(());
        };
        slot.assemble();
        answer(server, slot, &mut self.reply, &mut || {
            reinforce(server, place, crew);
        });
        let target = target(server, number, slot.queue);
        slot.commit(&mut self.ring, target)
    }
}

/// Puts the answer to the request in a slot there. `waits` is called before it has to wait.
fn answer(server: &Server<'_>, slot: &mut Slot, reply: &mut Reply, waits: &mut dyn FnMut()) {
    let Some(request) = Request::parse(slot.request()) else {
        return slot.refuse(Errno::EIO);
    };
    if may_take_long(&request) {
        waits();
    }
    if request.opcode == op::READ {
        let (ino, place) = (Ino(request.node), read_place(request.body));
        return read(server, slot, (ino, place), waits);
    }
    if server.waits_for_writes(&request) {
        // These writes come through the same queues, and the kernel gives a slot that is offered
        // meanwhile nothing of what is already there: in the end all slots may wait for a write
        // that gets none. Told so, the kernel takes every file for data from end to end.
        server.stats.count(request.opcode, true);
        return slot.refuse(Errno::ENOSYS);
    }
    match server.respond(&request, reply, waits) {
        Some(bytes) if slot.put(bytes) => {}
        Some(_) => slot.refuse(Errno::EIO),
        None => slot.refuse(Errno::ENOSYS),
    }
}

/// Reads to where the kernel takes it from.
fn read(
    server: &Server<'_>,
    slot: &mut Slot,
    (ino, place): (Ino, Result<(u64, usize), Errno>),
    waits: &mut dyn FnMut(),
) {
    let result = place.and_then(|(offset, size)| {
        let room = slot.payload().get_mut(..size).ok_or(Errno::EINVAL)?;
        server.union.read_telling(ino, offset, room, waits)
    });
    server.stats.count(op::READ, result.is_err());
    match result {
        Ok(count) => slot.accept(count),
        Err(errno) => slot.refuse(errno),
    }
}

fn target<'a>(server: &Server<'a>, slot: usize, queue: u16) -> Target<'a> {
    Target {
        device: server.device.as_fd(),
        queue,
        token: slot as u64,
    }
}

/// Before a worker waits: has another one take what comes meanwhile. That one may run anywhere,
/// so that bulk data moves on two processors.
fn reinforce<'scope, 'env>(
    server: &'scope Server<'scope>,
    place: Place<'scope, 'env>,
    crew: &Crew,
) {
    let most = server.options.threads;
    let more = |count: usize| (count < most).then_some(count + 1);
    let order = Ordering::Relaxed;
    if crew.count.fetch_update(order, order, more).is_err() {
        return;
    }
    let spawned =
        CommandRing::new().and_then(|ring| Worker::new(server, place, crew.clone(), ring).spawn());
    if spawned.is_err() {
        // What comes waits with us; the next time there may be room for one.
        crew.one_less();
    }
}
