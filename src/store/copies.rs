//! A copy of the snapshot for each core, so that no request writes to a cache line that other cores write to.
//!
//! Sharing one snapshot would cost more than all the rest of a request: every core would add one to the same
//! reference counts, of the snapshot and of its header values. A copy owns its bytes, and only the threads of one
//! core count its references.

use std::cell::Cell;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Weak};

use super::cell::Snapshot;
use crate::sync::{Mutex, lock};

/// More cores than this share copies.
const CORES: usize = 16;

/// On cache lines of its own; modern processors fetch them in pairs.
#[derive(Default)]
#[repr(align(128))]
struct Padded<T>(T);

/// The copies of the snapshot in force, each made when its core first needs it.
#[derive(Default)]
pub(super) struct Copies([Padded<Mutex<Option<Arc<Snapshot>>>>; CORES]);

impl Copies {
    /// The calling core's copy of the snapshot in force; `master` gives the snapshot if there is no copy of it.
    pub(super) fn of_core(
        &self,
        core: usize,
        version: u64,
        master: impl FnOnce() -> Arc<Snapshot>,
    ) -> Arc<Snapshot> {
        let mut slot = lock(&self.0[core % CORES].0);
        if let Some(copy) = slot
            .as_ref()
            .filter(|copy| copy.provenance.version == version)
        {
            return Arc::clone(copy);
        }
        // Under the slot's lock, so that a rotation that comes now waits to clear it.
        let copy = Arc::new(master().deep_copy());
        *slot = Some(Arc::clone(&copy));
        copy
    }

    /// The versions of the copies that there are.
    #[cfg(all(test, anyreach_loom))]
    pub(super) fn versions(&self) -> impl Iterator<Item = u64> {
        self.0
            .iter()
            .filter_map(|Padded(slot)| Some(lock(slot).as_ref()?.provenance.version))
    }

    /// Drops all copies of versions before this one.
    pub(super) fn clear_before(&self, version: u64) {
        for Padded(slot) in &self.0 {
            let mut slot = lock(slot);
            let old = slot.take_if(|copy| copy.provenance.version < version);
            // What is dropped may be wiped: not under the lock.
            drop(slot);
            drop(old);
        }
    }
}

/// A service's way to its core's copy, which it does not keep alive: a rotation wipes it all the same.
#[derive(Debug, Default)]
pub(crate) struct Nearest {
    copy: Weak<Snapshot>,
    core: usize,
}

impl Nearest {
    /// The snapshot in force. Without rotation and migration there is no lock on the way, and nothing is written but
    /// the reference count of this core's copy.
    #[inline]
    pub(crate) fn snapshot(&mut self, store: &super::CredentialStore) -> Arc<Snapshot> {
        let core = this_core();
        if core == self.core
            && let Some(copy) = self.copy.upgrade()
            && copy.provenance.version == store.0.cell.version()
        {
            return copy;
        }
        self.find(store, core)
    }

    #[cold]
    fn find(&mut self, store: &super::CredentialStore, core: usize) -> Arc<Snapshot> {
        let inner = &store.0;
        let copy = inner
            .copies
            .of_core(core, inner.cell.version(), || inner.cell.snapshot());
        self.copy = Arc::downgrade(&copy);
        self.core = core;
        copy
    }
}

impl Clone for Nearest {
    /// Starts anew: a count in common with the original is what this is to avoid.
    fn clone(&self) -> Self {
        Self::default()
    }
}

/// A number that stands for the core: threads are numbered as they come, and runtimes have one for each core.
#[inline]
fn this_core() -> usize {
    thread_local! {
        static THIS: Cell<usize> = const { Cell::new(0) };
    }
    static LAST: AtomicUsize = AtomicUsize::new(0);

    // During a thread's end there is nothing to read: any number will do.
    THIS.try_with(|this| {
        if this.get() == 0 {
            this.set(LAST.fetch_add(1, Ordering::Relaxed) + 1);
        }
        this.get()
    })
    .unwrap_or(1)
}
