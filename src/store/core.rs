//! What is in force: the state behind its lock, and the snapshots that requests read without it.
//!
//! A change of credential happens in this order, under the lock: the state, every shard, and only then the version. A caller that sees
//! a version therefore finds its snapshot, or a later one, in every shard. What was in force before is dropped, and wiped, after
//! the lock is released, and so is everything that a source made: its destructors may call the store. The time is read under the
//! lock, so that it never runs backwards from one change of the state to the next.

use std::sync::{Arc, Weak};
use std::time::Duration;

use hmac_sha256::Hash;
use tokio::sync::watch;
use tokio::time::Instant;

use super::StoreStatus;
use super::fetch::{Inner, Task};
use super::shards::{Copies, Shards};
use super::state::{Asked, End, Ended, Fingerprint, State, Ticket, Verdict};
use crate::credential::Credential;
use crate::organization::OrganizationId;
use crate::source::SourceError;
use crate::sync::{AtomicU64, Mutex, MutexGuard, Ordering, lock};
use crate::wipe::with_stack_wiped;

/// A credential with its organization, as it was in force at one version.
pub(crate) struct Snapshot {
    pub(crate) credential: Credential,
    pub(crate) version: u64,
    pub(super) fingerprint: Fingerprint,
    /// The store that it belongs to, which requests do not keep alive.
    pub(super) store: Weak<Inner>,
}

impl Snapshot {
    /// A copy that shares no memory with this one that a request would write to.
    pub(super) fn deep_copy(&self) -> Self {
        Self {
            credential: self.credential.deep_copy(),
            version: self.version,
            fingerprint: self.fingerprint,
            store: Weak::clone(&self.store),
        }
    }
}

/// What was in force, and what is now.
pub(super) struct Change {
    pub(super) before: Arc<Snapshot>,
    pub(super) after: Arc<Snapshot>,
}

pub(super) struct Core {
    /// Read without the lock; raised when every shard has its snapshot.
    version: AtomicU64,
    shards: Shards,
    guarded: Mutex<Guarded>,
    /// Rings after each change of credential and each end of a fetch.
    pub(super) bell: watch::Sender<()>,
}

struct Guarded {
    state: State,
    in_force: Arc<Snapshot>,
    /// The task that runs the fetch in flight.
    task: Option<Arc<Task>>,
}

/// What a change took out of force, to be dropped outside of the lock.
type Replaced = (Arc<Snapshot>, Copies);

/// A fetch that was begun, and the task that is to run it.
pub(super) struct Begun {
    pub(super) ticket: Ticket,
    pub(super) task: Arc<Task>,
}

impl Core {
    pub(super) fn new(credential: Credential, patience: Duration, store: Weak<Inner>) -> Self {
        let snapshot = Snapshot {
            fingerprint: fingerprint(&credential),
            credential,
            version: 1,
            store,
        };
        Self {
            version: AtomicU64::new(1),
            shards: Shards::new(&snapshot),
            guarded: Mutex::new(Guarded {
                state: State::new(snapshot.fingerprint, patience, Instant::now()),
                in_force: Arc::new(snapshot),
                task: None,
            }),
            bell: watch::Sender::new(()),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Guarded> {
        lock(&self.guarded)
    }

    /// Reads the state.
    pub(super) fn state<T>(&self, read: impl FnOnce(&State) -> T) -> T {
        read(&self.lock().state)
    }

    pub(super) fn status(&self) -> StoreStatus {
        let guarded = self.lock();
        StoreStatus {
            version: guarded.state.version(),
            credential: guarded.in_force.credential.id().clone(),
            last_denied: guarded.state.last_denied().map(Instant::into_std),
            last_fetched: guarded.state.last_fetched().map(Instant::into_std),
            failures: guarded.state.failures(),
            last_error: guarded.state.last_error().cloned(),
        }
    }

    pub(super) fn version(&self) -> u64 {
        self.version.load(Ordering::Acquire)
    }

    pub(super) fn snapshot(&self) -> Arc<Snapshot> {
        self.shards.read()
    }

    pub(super) fn loaded(&self, failure: Option<SourceError>) {
        self.lock().state.loaded(failure, Instant::now());
    }

    pub(super) fn poll(&self) -> Option<Begun> {
        self.ask(|state, now| ((), state.poll(now))).1
    }

    pub(super) fn call(&self) -> (Asked, Option<Begun>) {
        self.ask(|state, now| {
            let asked = state.call(now);
            let begun = asked.begun();
            (asked, begun)
        })
    }

    /// Reports a 401. The first part of the answer says whether it is the first one of the version in force.
    pub(super) fn denied(
        &self,
        sent: Fingerprint,
        can_begin: bool,
    ) -> ((bool, Verdict), Option<Begun>) {
        self.ask(|state, now| {
            let is_first = sent == state.in_force() && state.last_denied().is_none();
            let verdict = state.denied(sent, can_begin, now);
            let begun = match &verdict {
                Verdict::Wait(asked) => asked.begun(),
                Verdict::Replay | Verdict::Deny | Verdict::NotBegun => None,
            };
            ((is_first, verdict), begun)
        })
    }

    /// Asks the state for a fetch. One that is late gives way first, unless it is being polled: then it blocks its thread, and
    /// another would block one more.
    fn ask<A>(
        &self,
        ask: impl FnOnce(&mut State, Instant) -> (A, Option<Ticket>),
    ) -> (A, Option<Begun>) {
        let mut guarded = self.lock();
        let now = Instant::now();
        let late = guarded.give_up_late(now);
        let (answer, begun) = ask(&mut guarded.state, now);
        let begun = begun.map(|ticket| {
            let task = Arc::<Task>::default();
            guarded.task = Some(Arc::clone(&task));
            Begun { ticket, task }
        });
        drop(guarded);
        if let Some(late) = late {
            late.abort();
            self.bell.send_replace(());
        }
        (answer, begun)
    }

    /// A fetch has ended with this, which the caller drops. Returns how it ended, and the snapshots before and after where it changed what is in force;
    /// nothing if another fetch has taken its place.
    pub(super) fn ended(
        &self,
        ticket: &Ticket,
        fetched: &Result<Credential, SourceError>,
        jitter: f64,
    ) -> Option<(Ended, Option<Change>)> {
        let outcome = fetched.as_ref().map(fingerprint).map_err(Clone::clone);
        let mut guarded = self.lock();
        let now = Instant::now();
        let ended = guarded.state.ended(ticket, outcome, now, jitter)?;
        let mut replaced = None;
        if let (true, Ok(credential)) = (ended.is_taken, fetched) {
            replaced = Some(self.publish(&mut guarded, credential.clone()));
        }
        ticket.settle(End::Outcome(ended.outcome.clone()));
        let change = replaced.as_ref().map(|(before, _)| Change {
            before: Arc::clone(before),
            after: Arc::clone(&guarded.in_force),
        });
        drop(guarded);
        self.bell.send_replace(());
        Some((ended, change))
    }

    pub(super) fn lost(&self, ticket: &Ticket) {
        self.lock().state.lost(ticket);
        self.bell.send_replace(());
    }

    /// Puts this credential in force, and returns the version that then is.
    pub(super) fn rotate(&self, credential: Credential) -> (u64, Option<Change>) {
        let fingerprint = fingerprint(&credential);
        let mut guarded = self.lock();
        if !guarded.state.rotate(fingerprint, Instant::now()) {
            return (guarded.state.version(), None);
        }
        let (before, copies) = self.publish(&mut guarded, credential);
        let after = Arc::clone(&guarded.in_force);
        drop(guarded);
        drop(copies);
        self.bell.send_replace(());
        (after.version, Some(Change { before, after }))
    }

    fn publish(&self, guarded: &mut Guarded, credential: Credential) -> Replaced {
        let new = Arc::new(Snapshot {
            credential,
            version: guarded.state.version(),
            fingerprint: guarded.state.in_force(),
            store: Weak::clone(&guarded.in_force.store),
        });
        let copies = self.shards.publish(&new);
        self.version.store(new.version, Ordering::Release);
        (std::mem::replace(&mut guarded.in_force, new), copies)
    }

    /// Takes the task of the fetch in flight, to be aborted with the store.
    pub(super) fn take_task(&self) -> Option<Arc<Task>> {
        self.lock().task.take()
    }

    #[cfg(all(test, anyreach_loom))]
    pub(super) fn snapshot_at(&self, shard: usize) -> Arc<Snapshot> {
        self.shards.read_at(shard)
    }
}

impl Guarded {
    fn give_up_late(&mut self, now: Instant) -> Option<Arc<Task>> {
        let late = self.state.late(now)?;
        if self.task.as_ref().is_some_and(|task| task.is_polled()) {
            return None;
        }
        self.state.lost(&late);
        self.task.take()
    }
}

/// A SHA-256 digest of token and organization, whose parts a zero byte keeps apart: neither holds one.
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
