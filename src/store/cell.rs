//! What is in force, and what is being fetched: a state machine behind one short lock, without time or tasks of
//! its own, so that a model checker can walk through it.

use std::sync::Arc;
use std::time::Duration;

use crate::credential::Credential;
use crate::denial::Provenance;
use crate::events;
use crate::source::SourceError;
use crate::store::Refreshed;
use crate::store::replays::Replays;
use crate::store::shards::{Copies, Shards};
use crate::sync::{AtomicU64, Mutex, MutexGuard, Ordering, lock};

/// A credential with its organization, as it was in force at one version.
#[derive(Debug)]
pub(crate) struct Snapshot {
    pub(crate) credential: Credential,
    pub(crate) provenance: Provenance,
    pub(crate) replays: Arc<Replays>,
}

/// What publishing took out of force, to be dropped outside of the lock.
type Replaced = (Arc<Snapshot>, Copies);

/// What a refresh comes to; shared by all who waited for it.
pub(crate) type Outcome = Result<Refreshed, SourceError>;

/// The state of one store. `W` is what those who wait for a fetch wait on; `T` is a point in time.
pub(crate) struct Cell<W, T> {
    /// Tells one store from another, so that a denial can say privately where its credential came from.
    id: u64,
    /// The version in force, for who only wants to know whether it is still the same: read by every request, and
    /// written by rotations only.
    version: AtomicU64,
    /// The snapshot in force; written under the lock of the state.
    shards: Shards,
    state: Mutex<State<W, T>>,
}

struct State<W, T> {
    snapshot: Arc<Snapshot>,
    fetching: Fetching<W, T>,
    /// Fetches that were begun.
    fetches: u64,
    /// Fetches that failed in a row.
    failures: u32,
}

/// One fetch of a store.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Fetch {
    pub(crate) number: u64,
    /// The version that was in force when it was begun.
    pub(crate) version: u64,
}

enum Fetching<W, T> {
    /// Nobody is at it.
    Idle,
    /// One fetch is in flight, and from `overdue` on nobody counts on it any more.
    InFlight {
        fetch: Fetch,
        overdue: T,
        waiting: W,
    },
    /// The source is left alone for a while; whoever asks gets the last outcome.
    Resting { until: T, outcome: Outcome },
}

/// What a caller who wants a refresh has to do.
#[derive(Debug)]
pub(crate) enum Step<W> {
    /// Nothing: this is known already.
    Done(Outcome),
    /// Wait for the fetch in flight.
    Wait(W),
    /// Fetch, and say what came of it with [`Cell::finish`], or [`Cell::abandon`] it.
    Fetch(Fetch),
}

/// After a fetch that changed nothing.
const REST: Duration = Duration::from_secs(1);
/// After a first failure; it doubles with each further one.
const SHORTEST_BACK_OFF: Duration = Duration::from_millis(250);
const LONGEST_BACK_OFF: Duration = Duration::from_secs(30);

impl<W: Clone, T: Copy + Ord + std::ops::Add<Duration, Output = T>> Cell<W, T> {
    pub(crate) fn new(id: u64, credential: Credential) -> Self {
        let snapshot = Snapshot {
            credential,
            provenance: Provenance {
                store: id,
                version: 1,
            },
            replays: Arc::default(),
        };
        Self {
            id,
            version: AtomicU64::new(1),
            shards: Shards::new(&snapshot),
            state: Mutex::new(State {
                snapshot: Arc::new(snapshot),
                fetching: Fetching::Idle,
                fetches: 0,
                failures: 0,
            }),
        }
    }

    fn state(&self) -> MutexGuard<'_, State<W, T>> {
        lock(&self.state)
    }

    #[cfg(feature = "retry")]
    pub(crate) fn id(&self) -> u64 {
        self.id
    }

    pub(crate) fn version(&self) -> u64 {
        self.version.load(Ordering::Acquire)
    }

    pub(crate) fn snapshot(&self) -> Arc<Snapshot> {
        self.shards.read()
    }

    /// Puts another credential in force, whatever is being fetched.
    #[cfg(all(test, any(anyreach_loom, anyreach_shuttle)))]
    pub(crate) fn snapshot_at(&self, shard: usize) -> Arc<Snapshot> {
        self.shards.read_at(shard)
    }

    /// The versions of all copies.
    #[cfg(all(test, any(anyreach_loom, anyreach_shuttle)))]
    pub(crate) fn copies(&self) -> impl Iterator<Item = u64> {
        self.shards.versions()
    }

    pub(crate) fn rotate(&self, credential: Credential) {
        // What goes out of force is dropped, and wiped, outside the lock.
        let mut state = self.state();
        let old = self.publish(&mut state, credential);
        let new = Arc::clone(&state.snapshot);
        drop(state);
        new.replays.start_over();
        drop(old);
        events::rotated(&new.credential, new.provenance.version);
    }

    /// Something newer than the version `refused` is wanted. `waiting` is what others will wait on if this caller is
    /// the one to fetch, until the fetch is `overdue`: then whoever asks begins another.
    pub(crate) fn begin(
        &self,
        refused: u64,
        now: T,
        overdue: T,
        waiting: impl FnOnce() -> W,
    ) -> Step<W> {
        let mut state = self.state();
        let version = state.snapshot.provenance.version;
        if refused != version {
            // A late word on an old version says nothing about the one in force.
            return Step::Done(Ok(Refreshed::Rotated));
        }
        match &state.fetching {
            Fetching::InFlight {
                overdue, waiting, ..
            } if now < *overdue => return Step::Wait(waiting.clone()),
            Fetching::Resting { until, outcome } if now < *until => {
                return Step::Done(outcome.clone());
            }
            Fetching::Idle | Fetching::InFlight { .. } | Fetching::Resting { .. } => {}
        }
        state.fetches += 1;
        let fetch = Fetch {
            number: state.fetches,
            version,
        };
        state.fetching = Fetching::InFlight {
            fetch,
            overdue,
            waiting: waiting(),
        };
        Step::Fetch(fetch)
    }

    /// A fetch has ended at `now`. `jitter`, from 0 to 1, is how much of the back-off is taken after a failure. One
    /// that was overdue may still bring what is wanted; whoever waits for its successor is left to that.
    pub(crate) fn finish(
        &self,
        fetch: Fetch,
        fetched: Result<Credential, SourceError>,
        now: T,
        jitter: f64,
    ) -> Outcome {
        let mut old = None;
        let mut state = self.state();
        let failures_before = state.failures;
        let (outcome, rest) = match fetched {
            Err(error) => {
                let back_off = back_off(state.failures, jitter);
                state.failures = state.failures.saturating_add(1);
                (Err(error), Some(back_off))
            }
            Ok(credential) => {
                state.failures = 0;
                if state.snapshot.provenance.version != fetch.version {
                    // Somebody rotated meanwhile, and knows better.
                    (Ok(Refreshed::Rotated), None)
                } else if state.snapshot.credential.is_same(&credential) {
                    (Ok(Refreshed::Unchanged), Some(REST))
                } else {
                    old = Some(self.publish(&mut state, credential));
                    (Ok(Refreshed::Rotated), None)
                }
            }
        };
        if state.is_in_flight(fetch) {
            state.fetching = match rest {
                Some(rest) => Fetching::Resting {
                    until: now + rest,
                    outcome: outcome.clone(),
                },
                None => Fetching::Idle,
            };
        }
        let failures = state.failures;
        let in_force = Arc::clone(&state.snapshot);
        drop(state);
        let has_changed = old.is_some();
        drop(old);

        let (credential, version) = (&in_force.credential, in_force.provenance.version);
        if let Err(error) = &outcome {
            events::source_failed(error, credential.id(), version, failures);
        } else if failures_before > 0 {
            events::source_recovered(credential.id(), version, failures_before);
        }
        if has_changed {
            events::refreshed(credential, version);
        }
        outcome
    }

    fn publish(&self, state: &mut State<W, T>, credential: Credential) -> Replaced {
        let version = state.snapshot.provenance.version + 1;
        let new = Arc::new(Snapshot {
            credential,
            provenance: Provenance {
                store: self.id,
                version,
            },
            replays: Arc::clone(&state.snapshot.replays),
        });
        let copies = self.shards.publish(&new);
        // Last, so that whoever sees the version finds its snapshot in every shard.
        self.version.store(version, Ordering::Release);
        (std::mem::replace(&mut state.snapshot, new), copies)
    }

    /// A fetch has ended without an outcome, since its runtime is gone: the next caller may begin anew.
    pub(crate) fn abandon(&self, fetch: Fetch) {
        let mut state = self.state();
        if state.is_in_flight(fetch) {
            state.fetching = Fetching::Idle;
        }
    }
}

impl<W, T> State<W, T> {
    /// Whether no other fetch has taken the place of this one.
    fn is_in_flight(&self, it: Fetch) -> bool {
        matches!(&self.fetching, Fetching::InFlight { fetch, .. } if *fetch == it)
    }
}

impl Snapshot {
    /// A copy that shares no memory with this one that a request would write to.
    pub(super) fn deep_copy(&self) -> Self {
        Self {
            credential: self.credential.deep_copy(),
            provenance: self.provenance,
            replays: Arc::clone(&self.replays),
        }
    }
}

/// Full jitter, so that a fleet does not come back in step; a hundredth at least, so that nobody asks in a loop.
fn back_off(failures: u32, jitter: f64) -> Duration {
    let longest = SHORTEST_BACK_OFF
        .saturating_mul(1_u32.checked_shl(failures).unwrap_or(u32::MAX))
        .min(LONGEST_BACK_OFF);
    longest.mul_f64(jitter.clamp(0.01, 1.0))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::panic, reason = "a test fails by panicking")]

    use std::time::Instant;

    use super::*;
    use crate::source::SourceErrorReason;

    #[test]
    fn from_the_moment_that_it_is_overdue_a_fetch_has_a_successor_and_no_say() {
        let key = |text| Credential::parse(text).expect("a key");
        let error = SourceError::new("test", SourceErrorReason::Failed, None);
        let cell = Cell::new(1, key("ak_1.secret"));
        let now = Instant::now();
        let begin = |overdue| cell.begin(1, now, overdue, || ());
        let later = now + Duration::from_nanos(1);
        let [first, second] = [1, 2].map(|number| Fetch { number, version: 1 });
        assert!(matches!(begin(now), Step::Fetch(fetch) if fetch == first));
        assert!(matches!(begin(later), Step::Fetch(fetch) if fetch == second));
        cell.abandon(first);
        assert!(matches!(begin(later), Step::Wait(())));
        for fetched in [Err(error), Ok(key("ak_1.secret"))] {
            drop(cell.finish(first, fetched, now, 1.0));
            assert!(matches!(begin(later), Step::Wait(())));
        }
        cell.abandon(second);
        assert!(matches!(begin(later), Step::Fetch(_)));
    }

    #[test]
    fn back_off_doubles_from_250_ms_to_30_s() {
        let longest: Vec<_> = (0..9)
            .map(|failures| back_off(failures, 1.0).as_millis())
            .collect();
        assert_eq!(
            longest,
            [250, 500, 1000, 2000, 4000, 8000, 16000, 30000, 30000]
        );
        assert_eq!(back_off(u32::MAX, 1.0), LONGEST_BACK_OFF);
        assert_eq!(back_off(0, 0.5).as_millis(), 125);
        assert_eq!(back_off(0, 0.0).as_micros(), 2500);
    }
}
