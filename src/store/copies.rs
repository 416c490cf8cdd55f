//! A copy of the snapshot for each core, so that no request writes to a cache line that other cores write to.
//!
//! Sharing one snapshot would cost more than all the rest of a request: every core would add one to the same
//! reference counts, of the snapshot and of its header values. A copy owns its bytes, and only the threads of one
//! core count its references.

use std::sync::{Arc, Weak};

use super::cell::Snapshot;
use crate::cores::{CORES, Padded};
use crate::sync::{Mutex, lock};

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
        let mut slot = lock(&self.0[core].0);
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
    #[cfg(all(test, any(anyreach_loom, anyreach_shuttle)))]
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
pub(crate) struct Nearest(Weak<Snapshot>);

impl Nearest {
    /// The snapshot in force, for a service that was on this core before. Without rotation there is no lock on the
    /// way, and nothing is written but the reference count of this core's copy.
    #[inline]
    pub(crate) fn snapshot(
        &mut self,
        store: &super::CredentialStore,
        core: usize,
    ) -> Arc<Snapshot> {
        match self.0.upgrade() {
            Some(copy) if copy.provenance.version == store.0.cell.version() => copy,
            _ => self.find(store, core),
        }
    }

    #[cold]
    fn find(&mut self, store: &super::CredentialStore, core: usize) -> Arc<Snapshot> {
        let inner = &store.0;
        let copy = inner
            .copies
            .of_core(core, inner.cell.version(), || inner.cell.snapshot());
        self.0 = Arc::downgrade(&copy);
        copy
    }
}

impl Clone for Nearest {
    /// Starts anew: the clone may be for another core.
    fn clone(&self) -> Self {
        Self::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Credential, CredentialStore};

    #[test]
    fn a_rotation_drops_the_copies_of_what_it_replaces_and_no_others() {
        let key = |text: &'static str| Credential::parse(text).unwrap();
        let store = CredentialStore::new(key("ak_1.old"));
        let copy_of = |core| Arc::downgrade(&Nearest::default().snapshot(&store, core));
        let old = [copy_of(0), copy_of(CORES - 1)];
        assert!(old.iter().all(|copy| copy.upgrade().is_some()));

        store.rotate(key("ak_2.new"));
        assert!(old.iter().all(|copy| copy.upgrade().is_none()));

        let new = copy_of(0);
        let copies = &store.0.copies;
        copies.clear_before(store.version());
        assert!(new.upgrade().is_some());
        copies.clear_before(store.version() + 1);
        assert!(new.upgrade().is_none());
    }
}
