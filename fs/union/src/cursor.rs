//! Where a listing of a directory stands, as the number that the caller gives back.

/// Positions of lower entries start here; 1 and 2 are `.` and `..`.
const LOWER: u64 = 2;
/// Positions of entries that only the upper directory has start here: above every lower one.
const UPPER: u64 = 1 << 32;
/// Bits of a position.
const AT_BITS: u32 = 33;
/// Above the position: one more than the newest entry to be listed; 0 means all.
/// A cookie is a file offset, so its highest bit stays clear.
const NEWEST_MAX: u64 = (1 << (63 - AT_BITS)) - 2;

/// A place in a listing.
///
/// It also says which entry of the upper directory was the newest when the listing began. Those
/// that came later are left out: a program that renames each entry it reads would otherwise meet
/// the new name, rename that, and never see the end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Cursor {
    at: u64,
    newest: Option<u64>,
}

impl Cursor {
    /// The beginning of a listing of a directory whose newest entry is `newest`.
    pub(crate) fn start(newest: u64) -> Self {
        Self {
            at: 0,
            newest: (newest <= NEWEST_MAX).then_some(newest),
        }
    }

    pub(crate) fn decode(cookie: u64) -> Self {
        Self {
            at: cookie & ((1 << AT_BITS) - 1),
            newest: (cookie >> AT_BITS).checked_sub(1),
        }
    }

    fn encode(self, at: u64) -> u64 {
        at | (self.newest.map_or(0, |newest| newest + 1) << AT_BITS)
    }

    /// Whether the first entry, `.`, or the second, `..`, is still to come.
    pub(crate) fn before_dot(self, number: u64) -> bool {
        self.at < number
    }

    /// The cookie after `.` or `..`.
    pub(crate) fn after_dot(self, number: u64) -> u64 {
        self.encode(number)
    }

    /// The lower position to go on from; `None` when the lower entries are done.
    pub(crate) fn lower(self) -> Option<u64> {
        (self.at < UPPER).then(|| self.at.saturating_sub(LOWER))
    }

    /// The cookie of a lower entry whose successor is at `next`.
    pub(crate) fn after_lower(self, next: u64) -> u64 {
        self.encode((LOWER + next).min(UPPER - 1))
    }

    /// The numbers of the upper entries to go on with: from the first, to the second inclusive.
    pub(crate) fn upper(self) -> (u64, u64) {
        let first = self.at.saturating_sub(UPPER) + 1;
        (first, self.newest.unwrap_or(u64::MAX))
    }

    /// The cookie of the upper entry `number`.
    pub(crate) fn after_upper(self, number: u64) -> u64 {
        self.encode((UPPER + number).min((1 << AT_BITS) - 1))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cookies_round_trip_and_stay_below_the_sign_bit() {
        for newest in [0, 1, 77, NEWEST_MAX, NEWEST_MAX + 1, u64::MAX] {
            let start = Cursor::start(newest);
            let shown = if newest > NEWEST_MAX {
                u64::MAX
            } else {
                newest
            };
            assert_eq!(start.lower(), Some(0), "{newest}");
            let cookie = start.after_dot(2);
            assert!(!Cursor::decode(cookie).before_dot(2), "{newest}");
            let at = Cursor::decode(start.after_lower(12));
            assert_eq!((at.lower(), at.upper()), (Some(12), (1, shown)), "{newest}");
            let cookie = start.after_upper(4_000_000_000);
            assert!(cookie < 1 << 63, "{newest}");
            let at = Cursor::decode(cookie);
            assert_eq!(at.lower(), None);
            assert_eq!(at.upper(), (4_000_000_001, shown), "{newest}");
        }
        // what a caller that knows no cookie starts with: everything after `..`
        assert_eq!(Cursor::decode(2).upper(), (1, u64::MAX));
    }
}
