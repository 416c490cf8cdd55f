//! How replays with the store's credentials fare, so that a policy knows when to stop.

use std::sync::atomic::{AtomicU32, Ordering};

#[cfg(feature = "retry")]
use std::sync::atomic::AtomicU64;

/// So many replays in a row that were refused as well are enough.
#[cfg(feature = "retry")]
const ENOUGH: u32 = 3;

/// Replays in a row that were refused as well, shared by all versions of a store.
#[derive(Debug, Default)]
pub(crate) struct Replays {
    fruitless: AtomicU32,
    /// The version of the last of them.
    #[cfg(feature = "retry")]
    version: AtomicU64,
}

impl Replays {
    /// A request that carried the store's credential was not refused for it.
    #[inline]
    pub(crate) fn note_success(&self) {
        // Read first: nearly always there is nothing to reset, and all cores may keep the line.
        if self.fruitless.load(Ordering::Relaxed) != 0 {
            self.fruitless.store(0, Ordering::Relaxed);
        }
    }
}

#[cfg(feature = "retry")]
impl Replays {
    pub(crate) fn note_fruitless(&self, version: u64) {
        self.version.fetch_max(version, Ordering::Relaxed);
        self.fruitless.fetch_add(1, Ordering::Relaxed);
    }

    /// Whether there were enough, and nothing has changed since.
    pub(crate) fn have_failed(&self, version_in_force: u64) -> bool {
        if self.fruitless.load(Ordering::Relaxed) < ENOUGH {
            return false;
        }
        if self.version.load(Ordering::Relaxed) == version_in_force {
            return true;
        }
        self.fruitless.store(0, Ordering::Relaxed);
        false
    }
}
