//! The credential in force: the state behind its lock, and the snapshots that requests read without
//! it.
//!
//! A change of credential writes the state and every shard under the lock, and the version is read
//! under the same lock. A caller that sees a version therefore finds its snapshot, or a later one,
//! in every shard.
//!
//! Old snapshots are dropped, and wiped, after the lock is released. So is everything that a source
//! returned, because its destructors may call the store. The time is read under the lock, so that
//! it never goes back from one change of the state to the next.

use std::sync::{Arc, OnceLock, Weak};
use std::time::Duration;

use hmac_sha256::Hash;
use tokio::sync::watch;
use tokio::task::AbortHandle;
use tokio::time::Instant;

use super::StoreStatus;
use super::fetch::{GRACE, Source, Task};
use super::shards::{Copies, Shards};
use super::state::{Fingerprint, State};
use crate::credential::Credential;
use crate::events;
use crate::organization::OrganizationId;
use crate::source::SourceError;
use crate::sync::{Mutex, lock};
use crate::wipe::with_stack_wiped;

/// The longest time limit, 34 years. Longer ones are reduced to it, because an `Instant` cannot
/// represent every `Duration`.
const MAX_LIMIT: Duration = Duration::from_secs(1 << 30);

/// A credential with its organization, as in force at one version.
pub(crate) struct Snapshot {
    pub(crate) credential: Credential,
    pub(crate) version: u64,
    pub(super) fingerprint: Fingerprint,
    /// The store it belongs to, which requests do not keep alive.
    pub(super) store: Weak<Core>,
}

impl Snapshot {
    /// Returns a copy that shares no reference count with this one. The weak pointer is shared, but
    /// requests do not clone it.
    pub(super) fn deep_copy(&self) -> Self {
        Self {
            credential: self.credential.deep_copy(),
            store: Weak::clone(&self.store),
            ..*self
        }
    }
}

/// The data that all clones of a store share.
pub(super) struct Core {
    shards: Shards,
    pub(super) guarded: Mutex<Guarded>,
    /// Wakes the waiters after each change of credential and each end of a fetch.
    pub(super) notify: watch::Sender<()>,
    pub(super) source: Option<Source>,
    pub(super) polling: OnceLock<AbortHandle>,
}

pub(super) struct Guarded {
    pub(super) state: State,
    /// The task of the fetch that began last.
    pub(super) task: Arc<Task>,
}

impl Core {
    pub(super) fn new(credential: Credential, source: Option<Source>) -> Arc<Self> {
        let limit = source
            .as_ref()
            .map_or(Duration::ZERO, |source| source.limit);
        let patience = limit.min(MAX_LIMIT) + GRACE;
        let fingerprint = fingerprint(&credential);
        Arc::new_cyclic(|store| {
            let snapshot = Snapshot {
                credential,
                version: 1,
                fingerprint,
                store: Weak::clone(store),
            };
            Self {
                shards: Shards::new(&snapshot),
                guarded: Mutex::new(Guarded {
                    state: State::new(fingerprint, patience, Instant::now()),
                    task: Arc::default(),
                }),
                notify: watch::Sender::new(()),
                source,
                polling: OnceLock::new(),
            }
        })
    }

    pub(super) fn state<T>(&self, read: impl FnOnce(&mut State, Instant) -> T) -> T {
        let mut guarded = lock(&self.guarded);
        read(&mut guarded.state, Instant::now())
    }

    pub(super) fn status(&self) -> StoreStatus {
        self.state(|state, _| state.status(self.snapshot().credential.id().clone()))
    }

    pub(super) fn snapshot(&self) -> Arc<Snapshot> {
        self.shards.read()
    }

    /// Records the end of a fetch. The caller drops the result. Returns the fetch that was owed,
    /// which has begun.
    pub(super) fn ended(
        &self,
        number: u64,
        fetched: &Result<Credential, SourceError>,
        jitter: f64,
    ) -> Option<u64> {
        let fingerprint = fetched.as_ref().map(fingerprint).map_err(Clone::clone);
        let mut guarded = lock(&self.guarded);
        let now = Instant::now();
        let ended = guarded.state.ended(number, fingerprint, now, jitter)?;
        let taken = fetched.as_ref().ok().filter(|_| ended.is_taken);
        let before = taken.map(|taken| self.publish(&guarded.state, taken.clone()));
        let in_force = self.snapshot();
        drop(guarded);
        self.notify.send_replace(());
        let (credential, version, failures) = (
            &in_force.credential,
            in_force.version,
            ended.failures_before,
        );
        match fetched {
            Err(error) => events::source_failed(
                error.reason().as_str(),
                error,
                credential,
                version,
                failures.saturating_add(1),
            ),
            Ok(_) if failures > 0 => events::source_recovered(credential, version, failures),
            Ok(_) => {}
        }
        if let Some([before, ..]) = before {
            events::refreshed(&before.credential, credential, version);
        }
        drop(ended.outcome_before);
        ended.next
    }

    pub(super) fn lost(&self, number: u64) {
        self.state(|state, _| state.lost(number));
        self.notify.send_replace(());
    }

    /// Puts this credential in force and returns the version in force afterwards.
    pub(super) fn rotate(&self, credential: Credential) -> u64 {
        let fingerprint = fingerprint(&credential);
        let mut guarded = lock(&self.guarded);
        let is_changed = guarded.state.rotate(fingerprint, Instant::now());
        let before = is_changed.then(|| self.publish(&guarded.state, credential));
        let in_force = self.snapshot();
        drop(guarded);
        if let Some([before, ..]) = before {
            self.notify.send_replace(());
            events::rotated(&before.credential, &in_force.credential, in_force.version);
        }
        in_force.version
    }

    /// Writes all shards and returns their old contents, to be dropped outside the lock.
    fn publish(&self, state: &State, credential: Credential) -> Copies {
        self.shards.publish(&Snapshot {
            credential,
            version: state.version(),
            fingerprint: state.in_force(),
            store: Weak::clone(&self.snapshot().store),
        })
    }

    #[cfg(all(test, anyreach_loom))]
    pub(super) fn snapshot_at(&self, shard: usize) -> Arc<Snapshot> {
        self.shards.read_at(shard)
    }
}

impl Drop for Core {
    fn drop(&mut self) {
        if let Some(polling) = self.polling.get() {
            polling.abort();
        }
        let task = Arc::clone(&lock(&self.guarded).task);
        task.abort();
    }
}

/// Returns a SHA-256 digest of token and organization. They are separated by a zero byte, which
/// neither can contain.
pub(super) fn fingerprint(credential: &Credential) -> Fingerprint {
    let organization = credential.organization().map(OrganizationId::as_str);
    Fingerprint(with_stack_wiped(|| {
        let mut hash = Hash::new();
        hash.update(credential.expose());
        hash.update([0]);
        hash.update(organization.unwrap_or_default());
        hash.finalize()
    }))
}
