//! The snapshot in force, in sixteen copies, so that threads do not write to each other's cache lines.
//!
//! Every request counts up and down the references of a snapshot and of two header values. With one copy for all threads that
//! costs two threads 1.5 to 3.6 times as much as one; with a copy for each, nothing. Threads are numbered, and a number picks a
//! shard. A copy owns its bytes. Publishing writes all shards, one after the other: a reader sees the old snapshot or the new
//! one, and never a mixture. The version is raised only when all are written.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::core::Snapshot;
use crate::sync::{RwLock, read, write};

#[cfg(not(all(test, anyreach_loom)))]
const SHARDS: usize = 16;
/// As many as the models have threads for.
#[cfg(all(test, anyreach_loom))]
const SHARDS: usize = 2;

/// One for each shard.
pub(super) type Copies = [Arc<Snapshot>; SHARDS];

pub(super) struct Shards([Shard; SHARDS]);

/// On cache lines of its own: two, because processors fetch them in pairs.
#[repr(align(128))]
struct Shard(RwLock<Arc<Snapshot>>);

impl Shards {
    pub(super) fn new(snapshot: &Snapshot) -> Self {
        Self(std::array::from_fn(|_| {
            Shard(RwLock::new(Arc::new(snapshot.deep_copy())))
        }))
    }

    #[inline]
    pub(super) fn read(&self) -> Arc<Snapshot> {
        self.read_at(thread_number())
    }

    pub(super) fn read_at(&self, number: usize) -> Arc<Snapshot> {
        Arc::clone(&read(&self.0[number % SHARDS].0))
    }

    /// Writes all shards. What was in them is returned, to be dropped, and wiped, outside of the caller's lock.
    #[must_use]
    pub(super) fn publish(&self, snapshot: &Snapshot) -> Copies {
        std::array::from_fn(|at| {
            let copy = Arc::new(snapshot.deep_copy());
            std::mem::replace(&mut *write(&self.0[at].0), copy)
        })
    }
}

fn thread_number() -> usize {
    static NEXT: AtomicUsize = AtomicUsize::new(0);
    thread_local! {
        static NUMBER: usize = NEXT.fetch_add(1, Ordering::Relaxed);
    }
    // While a thread ends, its number may be gone.
    NUMBER.try_with(|number| *number).unwrap_or(0)
}
