//! Waiting for many descriptors, and numbered places for what they belong to.

use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};

use rustix::event::{Timespec, epoll};

/// Events taken from the kernel at once.
const EVENTS_MAX: usize = 64;
/// Bits of a token that say which of its kind something is.
const INDEX_BITS: u32 = 48;

/// What a watched descriptor is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Kind {
    /// The line to the monitor.
    Line,
    /// A child that is the uplink.
    Child,
    /// A listening socket of the host.
    Listener,
    /// A socket of a stream that is carried.
    Stream,
    /// A datagram socket of the container, for one client.
    Session,
    /// The container's interface.
    Interface,
    /// A stream of the host that our own network stack ends.
    Flow,
    /// A datagram socket of the host that our own network stack feeds.
    Datagram,
}

/// Names a watched descriptor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Token {
    pub(crate) kind: Kind,
    pub(crate) index: usize,
}

impl Token {
    fn to_bits(self) -> u64 {
        let index = u64::try_from(self.index).unwrap_or(0);
        (u64::from(self.kind as u8) << INDEX_BITS) | index
    }

    fn from_bits(bits: u64) -> Option<Self> {
        let kind = match bits >> INDEX_BITS {
            0 => Kind::Line,
            1 => Kind::Child,
            2 => Kind::Listener,
            3 => Kind::Stream,
            4 => Kind::Session,
            5 => Kind::Interface,
            6 => Kind::Flow,
            7 => Kind::Datagram,
            _ => return None,
        };
        let index = usize::try_from(bits & ((1 << INDEX_BITS) - 1)).ok()?;
        Some(Self { kind, index })
    }
}

/// An epoll instance; every descriptor is watched by edge, so its owner reads until `EAGAIN`.
#[derive(Debug)]
pub(crate) struct Poller {
    epoll: OwnedFd,
}

impl Poller {
    /// Makes one that watches nothing.
    ///
    /// # Errors
    ///
    /// Those of `epoll_create1(2)`.
    pub(crate) fn new() -> io::Result<Self> {
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        Ok(Self { epoll })
    }

    /// Watches a descriptor until it is closed.
    ///
    /// # Errors
    ///
    /// Those of `epoll_ctl(2)`.
    pub(crate) fn add(&self, fd: impl AsFd, kind: Kind, index: usize) -> io::Result<()> {
        let data = epoll::EventData::new_u64(Token { kind, index }.to_bits());
        let mut flags = epoll::EventFlags::IN | epoll::EventFlags::RDHUP | epoll::EventFlags::ET;
        // Of these only the end is of interest.
        if !matches!(kind, Kind::Line | Kind::Child) {
            flags |= epoll::EventFlags::OUT;
        }
        Ok(epoll::add(&self.epoll, fd, data, flags)?)
    }

    /// Waits until something happened, at most `timeout_ms`; without one for ever.
    ///
    /// # Errors
    ///
    /// Those of `epoll_wait(2)`, except `EINTR`.
    pub(crate) fn wait(&self, timeout_ms: Option<u32>, out: &mut Vec<Token>) -> io::Result<()> {
        let timeout = timeout_ms.map(|ms| Timespec {
            tv_sec: i64::from(ms / 1000),
            tv_nsec: i64::from(ms % 1000) * 1_000_000,
        });
        let mut space = [MaybeUninit::<epoll::Event>::uninit(); EVENTS_MAX];
        out.clear();
        match epoll::wait(&self.epoll, &mut space, timeout.as_ref()) {
            Ok((events, _)) => {
                out.extend(
                    events
                        .iter()
                        .filter_map(|event| Token::from_bits(event.data.u64())),
                );
                Ok(())
            }
            Err(rustix::io::Errno::INTR) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }
}

/// Things by number; numbers of what was taken out are given again.
#[derive(Debug)]
pub(crate) struct Slab<T> {
    places: Vec<Option<T>>,
    free: Vec<usize>,
}

impl<T> Default for Slab<T> {
    fn default() -> Self {
        Self {
            places: Vec::new(),
            free: Vec::new(),
        }
    }
}

impl<T> Slab<T> {
    pub(crate) fn insert(&mut self, value: T) -> usize {
        if let Some(index) = self.free.pop()
            && let Some(place) = self.places.get_mut(index)
        {
            *place = Some(value);
            return index;
        }
        self.places.push(Some(value));
        self.places.len() - 1
    }

    /// The number the next thing will have.
    pub(crate) fn next(&self) -> usize {
        self.free.last().copied().unwrap_or(self.places.len())
    }

    pub(crate) fn get_mut(&mut self, index: usize) -> Option<&mut T> {
        self.places.get_mut(index)?.as_mut()
    }

    pub(crate) fn remove(&mut self, index: usize) -> Option<T> {
        let value = self.places.get_mut(index)?.take()?;
        self.free.push(index);
        Some(value)
    }

    pub(crate) fn len(&self) -> usize {
        self.places.len() - self.free.len()
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (usize, &T)> {
        let numbered = self.places.iter().enumerate();
        numbered.filter_map(|(index, place)| place.as_ref().map(|value| (index, value)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_and_numbers_come_back() {
        for kind in [
            Kind::Line,
            Kind::Child,
            Kind::Listener,
            Kind::Stream,
            Kind::Session,
            Kind::Interface,
            Kind::Flow,
            Kind::Datagram,
        ] {
            let token = Token { kind, index: 77 };
            assert_eq!(Token::from_bits(token.to_bits()), Some(token));
        }
        assert_eq!(Token::from_bits(u64::MAX), None);
        let mut slab = Slab::default();
        let (a, b) = (slab.insert('a'), slab.insert('b'));
        assert_eq!(slab.remove(a), Some('a'));
        assert_eq!(slab.remove(a), None);
        assert_eq!((slab.insert('c'), slab.len()), (a, 2));
        assert_eq!(slab.iter().collect::<Vec<_>>(), [(a, &'c'), (b, &'b')]);
    }
}
