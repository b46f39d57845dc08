//! Datagrams: each client of a published port has a socket of its own in the container.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use rustix::io::Errno;
use rustix::net::{RecvFlags, SendFlags, connect, recv, recvfrom, send, sendto};

use crate::net::config::Protocol;
use crate::net::inside::Inside;
use crate::net::listen::Listener;
use crate::net::poll::{Kind, Poller, Slab};

/// How long a client may be silent before its socket goes. Source: Docker's proxy.
const SILENCE: Duration = Duration::from_secs(90);
/// How often it is looked which clients are silent.
const LOOK: Duration = Duration::from_secs(10);
/// Clients at once; then the one that was silent longest gives way.
const SESSIONS_MAX: usize = 4096;
/// Largest datagram.
const DATAGRAM_BYTES: usize = 64 << 10;
/// Datagrams taken in one go from one socket: what came meanwhile raises no new event, so it is
/// as many as a socket's default buffer can hold.
const DATAGRAMS_MAX: usize = 4096;

/// One client of one listener.
#[derive(Debug)]
struct Session {
    socket: OwnedFd,
    listener: usize,
    client: SocketAddr,
    used: Instant,
}

/// All clients that spoke lately.
#[derive(Debug, Default)]
pub(super) struct Sessions {
    slab: Slab<Session>,
    by_client: HashMap<(usize, SocketAddr), usize>,
    buffer: Vec<u8>,
    /// When clients are looked at next.
    look: Option<Instant>,
}

impl Sessions {
    /// How long until clients are looked at again, in milliseconds.
    pub(super) fn timeout_ms(&self) -> Option<u32> {
        let look = self.look.filter(|_| self.slab.len() > 0)?;
        let left = look.saturating_duration_since(Instant::now());
        // Rounded up, so that it is past when we wake.
        Some(u32::try_from(left.as_millis()).unwrap_or(u32::MAX - 1) + 1)
    }

    /// Lets go of clients that were silent for too long.
    pub(super) fn expire(&mut self) {
        let now = Instant::now();
        if self.look.is_none_or(|look| now < look) {
            return;
        }
        let silent: Vec<usize> = self
            .slab
            .iter()
            .filter(|(_, session)| now.duration_since(session.used) >= SILENCE)
            .map(|(index, _)| index)
            .collect();
        for index in silent {
            self.remove(index);
        }
        self.look = Some(now + LOOK);
    }

    fn remove(&mut self, index: usize) {
        if let Some(session) = self.slab.remove(index) {
            self.by_client.remove(&(session.listener, session.client));
        }
    }

    /// Carries what waits at a listener into the container.
    pub(super) fn carry_in(
        &mut self,
        listener: usize,
        socket: &OwnedFd,
        target: SocketAddr,
        inside: &Inside,
        poller: &Poller,
    ) {
        let mut buffer = std::mem::take(&mut self.buffer);
        buffer.resize(DATAGRAM_BYTES, 0);
        for _ in 0..DATAGRAMS_MAX {
            let (count, client) = match recvfrom(socket, &mut *buffer, RecvFlags::DONTWAIT) {
                Ok((count, _, client)) => (count, client),
                // An error of an earlier answer says nothing about what waits.
                Err(Errno::INTR | Errno::CONNREFUSED) => continue,
                Err(_) => break,
            };
            let Some(Ok(client)) = client.map(SocketAddr::try_from) else {
                continue;
            };
            let Some(index) = self.session(listener, client, target, inside, poller) else {
                continue;
            };
            if let Some(session) = self.slab.get_mut(index) {
                session.used = Instant::now();
                let bytes = buffer.get(..count).unwrap_or_default();
                // Datagrams may be lost.
                let _lost = send(&session.socket, bytes, SendFlags::DONTWAIT);
            }
        }
        self.buffer = buffer;
    }

    fn session(
        &mut self,
        listener: usize,
        client: SocketAddr,
        target: SocketAddr,
        inside: &Inside,
        poller: &Poller,
    ) -> Option<usize> {
        if let Some(index) = self.by_client.get(&(listener, client)) {
            return Some(*index);
        }
        if self.slab.len() >= SESSIONS_MAX {
            let oldest = self.slab.iter().min_by_key(|(_, session)| session.used);
            let oldest = oldest.map(|(index, _)| index)?;
            self.remove(oldest);
        }
        let socket = inside.socket(Protocol::Udp).ok()?;
        connect(&socket, &target).ok()?;
        let index = self.slab.next();
        poller.add(&socket, Kind::Session, index).ok()?;
        self.slab.insert(Session {
            socket,
            listener,
            client,
            used: Instant::now(),
        });
        self.by_client.insert((listener, client), index);
        self.look.get_or_insert_with(|| Instant::now() + LOOK);
        Some(index)
    }

    /// Carries what the container says back to its client.
    pub(super) fn carry_out(&mut self, index: usize, listeners: &[Listener]) {
        let Some(session) = self.slab.get_mut(index) else {
            return;
        };
        let Some(listener) = listeners.get(session.listener) else {
            return;
        };
        let mut buffer = std::mem::take(&mut self.buffer);
        buffer.resize(DATAGRAM_BYTES, 0);
        for _ in 0..DATAGRAMS_MAX {
            let count = match recv(&session.socket, &mut *buffer, RecvFlags::DONTWAIT) {
                Ok((count, _)) => count,
                // Nobody listens in the container: as silent as a packet that is lost.
                Err(Errno::INTR | Errno::CONNREFUSED) => continue,
                Err(_) => break,
            };
            session.used = Instant::now();
            let bytes = buffer.get(..count).unwrap_or_default();
            let _lost = sendto(
                &listener.socket,
                bytes,
                SendFlags::DONTWAIT,
                &session.client,
            );
        }
        self.buffer = buffer;
    }
}
