//! How replays with the store's credentials fare, so that a policy knows when to stop.

use std::sync::atomic::{AtomicU32, Ordering};

#[cfg(feature = "retry")]
use std::sync::{Mutex, PoisonError, atomic::AtomicU64};
#[cfg(feature = "retry")]
use std::time::Duration;

#[cfg(feature = "retry")]
use tokio::time::Instant;

#[cfg(feature = "retry")]
use crate::events;

/// So many replays in a row that were refused as well are enough.
#[cfg(feature = "retry")]
const ENOUGH: u32 = 3;
/// Who has stopped replaying asks the source so often all the same, for the way back may lead through it only.
#[cfg(feature = "retry")]
const LOOK_AGAIN: Duration = Duration::from_secs(1);

/// Replays in a row that were refused as well, shared by all versions of a store.
#[derive(Debug, Default)]
pub(crate) struct Replays {
    fruitless: AtomicU32,
    /// The version of the last of them, or a later one that was fetched since to be tried without replays.
    #[cfg(feature = "retry")]
    version: AtomicU64,
    /// When the source was last asked, or had to be.
    #[cfg(feature = "retry")]
    looked: Mutex<Option<Instant>>,
}

impl Replays {
    /// The store's credential has served, or was exchanged by who knows better.
    pub(crate) fn start_over(&self) {
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
        let fruitless = self.fruitless.fetch_add(1, Ordering::Relaxed) + 1;
        *self.looked.lock().unwrap_or_else(PoisonError::into_inner) = Some(Instant::now());
        if fruitless == ENOUGH {
            events::replays_stopped(version);
        }
    }

    /// Whether there were enough, and nothing has changed since.
    pub(crate) fn have_failed(&self, version_in_force: u64) -> bool {
        if self.fruitless.load(Ordering::Relaxed) < ENOUGH {
            return false;
        }
        if version_in_force <= self.version.load(Ordering::Relaxed) {
            return true;
        }
        self.fruitless.store(0, Ordering::Relaxed);
        false
    }

    /// Whether it is time to ask the source again. What it gives then is tried by requests, and not by replays.
    pub(crate) fn shall_look_again(&self, version_in_force: u64) -> bool {
        let mut looked = self.looked.lock().unwrap_or_else(PoisonError::into_inner);
        if looked.is_some_and(|looked| looked.elapsed() < LOOK_AGAIN) {
            return false;
        }
        *looked = Some(Instant::now());
        self.version
            .fetch_max(version_in_force + 1, Ordering::Relaxed);
        true
    }
}
