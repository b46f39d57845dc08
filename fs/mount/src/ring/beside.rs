//! The thread beside the workers with rings: `/dev/fuse` still brings what the kernel sends by no
//! ring.

use std::io;
use std::sync::atomic::Ordering;
use std::thread::Scope;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, poll};

use super::{Bell, Post, Worker};
use crate::options::IoUring;
use crate::server::{HEADER_ROOM, ServeError, Server, Source, buffer_len, read_device};
use crate::wire::{Reply, Request, op};

/// What the kernel forgets it tells by `/dev/fuse` also where requests come by rings. It tells more
/// of it at a time to one who does not ask at once, and nobody waits for that.
const FORGET_PAUSE: Duration = Duration::from_millis(2);

impl Server<'_> {
    /// Has a worker for each processor take requests by rings; takes itself what comes beside.
    pub(crate) fn work_with_rings<'scope>(
        &'scope self,
        scope: &'scope Scope<'scope, '_>,
        posts: Vec<Post>,
        bell: &'scope Bell,
    ) -> io::Result<()> {
        for post in posts {
            Worker::start(self, (scope, bell), post)?;
        }
        match self.read_beside_rings(bell) {
            Ok(()) => self.halt(),
            Err(error) => self.fail(ServeError::Device(error)),
        }
        Ok(())
    }

    /// Takes what the kernel does not send by rings, which is mostly about what it forgets.
    fn read_beside_rings(&self, bell: &Bell) -> io::Result<()> {
        let mut buffer = vec![0; buffer_len(&self.options)];
        let mut reply = Reply::with_capacity(HEADER_ROOM);
        loop {
            let mut fds = [
                PollFd::new(self.device, PollFlags::IN),
                PollFd::from_borrowed_fd(bell.fd(), PollFlags::IN),
            ];
            match poll(&mut fds, None) {
                Ok(_) | Err(rustix::io::Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
            let [device, over] = fds.map(|fd| !fd.revents().is_empty());
            if over {
                return Ok(());
            }
            if !device {
                continue;
            }
            let Some(len) = read_device(self.device, &mut buffer)? else {
                (self.ended)();
                return Ok(());
            };
            let Some(request) = Request::parse(&buffer[..len]) else {
                continue;
            };
            self.answer(&request, Source::Blocking, &mut reply, &mut || {});
            let forgets = matches!(request.opcode, op::FORGET | op::BATCH_FORGET);
            if forgets && self.has_rings.load(Ordering::Relaxed) {
                std::thread::sleep(FORGET_PAUSE);
            }
        }
    }

    /// Takes note that a worker with a ring ended. If the kernel had not taken its slots it goes
    /// on as if there were no rings.
    pub(crate) fn ring_failed(&self, error: io::Error, accepted: bool) {
        if accepted || self.options.io_uring == IoUring::On {
            self.fail(ServeError::Ring(error));
        } else {
            self.has_rings.store(false, Ordering::Relaxed);
        }
    }
}
