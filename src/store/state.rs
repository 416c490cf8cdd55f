//! Decides when the source is asked: a pure state machine without lock, task or clock.
//!
//! [`State`] is called with the time as a parameter, under the lock of `core`. Every method that
//! may start a fetch returns the fetch's number, and the caller, `fetch`, runs it. Credentials
//! appear here only as a [`Fingerprint`].
//!
//! # Terms
//!
//! - A *fetch* asks the source once. At most one is in flight, and fetches are numbered from 1.
//! - A *poll* is the fetch that an interval starts, a *call* is the one that `refresh()` starts,
//!   and a *look* is the one that a 401 starts.
//! - A fetch is *owed* if it has to follow the one in flight. Its number is the next one, so a
//!   caller can wait for it before it starts.
//! - A *rest* is the time after a look during which a 401 starts no further look.
//! - A look is *superseded* once `rotate` has changed the credential. From then on it counts as any
//!   other fetch, and no rest follows it.
//! - A fetch is *late* if its deadline has passed, and *lost* if it ended without an outcome,
//!   because its runtime ended or because it was late and was aborted. After a lost fetch there is
//!   no rest and no failure is counted. The fetches that it owed are lost too, and their waiters
//!   ask again.
//! - The credential that the current one replaced is *barred* if it has met a 401 or was replaced
//!   by `rotate`. Polls and calls do not bring it back.
//!
//! # Transitions
//!
//! A unit test reads this table and compares each cell with the code. A 401 during a look cannot be
//! at rest, because a rest begins when a look ends.
//!
//! | event | idle | poll, call or superseded look in flight | look in flight |
//! |---|---|---|---|
//! | 401 to another credential | replay | replay | replay |
//! | 401 to the one in force, at rest | deny | deny | - |
//! | 401 to the one in force | look, wait | wait, owe a look | wait |
//! | poll is due | fetch | nothing | nothing |
//! | `refresh()` | fetch, wait | owe a fetch, wait | owe a fetch, wait |
//! | fetch ends, takes another credential | - | publish | publish, rest |
//! | fetch ends, takes nothing | - | nothing | rest |
//! | fetch ends, a look is owed to the version in force | - | look | - |
//! | fetch ends, a fetch is owed | - | fetch | rest, fetch |
//! | `rotate`, another credential | publish, end rest | publish, end rest | publish, end rest |
//! | `rotate`, the same credential | nothing | nothing | nothing |
//! | fetch is lost | - | idle | idle |
//!
//! # Why each rule is needed
//!
//! The simulation in `models` fails if any of these rules is deleted; `bash .ci/rules` does that.
//!
//! - **A 401 to another credential starts no fetch**, during a rest too. Requests that were in
//!   flight during a rotation get their 401s late, and those denials would otherwise reach their
//!   callers.
//! - **Only a look is followed by a rest** of 1 s, then 2, 4 and at most 8 s, multiplied by a
//!   random factor from 0.5 to 1. Without rests, a key that is permanently revoked would make every
//!   request ask the source. If polls obeyed or started rests, a 401 right after an unchanged poll
//!   would go unnoticed, and that is when a rotation without overlap happens.
//! - **A 401 during another fetch owes a look**, because that fetch may have read the source before
//!   the change. One look follows for all callers, and it also answers the calls that wait.
//! - **A version that meets its first 401 after a second or more is taken to have worked.** Its
//!   next look is at most a second away, and the count of looks starts again at zero. Recording
//!   successes instead would be wrong, because public paths succeed with any key.
//! - **Polls and calls do not bring back a barred credential.** Replicas of a source that disagree
//!   would otherwise replace a valid key with a revoked one. A look may bring it back, because the
//!   current credential is then denied as well.
//! - **The result of a fetch during which `rotate` changed the credential is discarded**, because
//!   the fetch may have read the source before the change.
//!
//! # Tests
//!
//! `ANYREACH_SCENARIOS=100000 cargo test --release --lib --no-default-features simulation`
//! runs these rules in drawn scenarios of clients, servers, sources and operators. ASSURANCE.md has
//! the results.

use std::time::Duration;

use tokio::time::Instant;

use super::{Outcome, Refreshed, StoreStatus};
use crate::credential::CredentialId;
use crate::source::SourceError;

const SECOND: Duration = Duration::from_secs(1);
/// The longest rest. One that ends later than this from now was started by another clock, such as
/// that of a paused runtime, and is over.
const LONGEST_REST: Duration = Duration::from_secs(8);

/// A SHA-256 digest of token and organization. Two credentials differ exactly when their
/// fingerprints do.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct Fingerprint(pub(super) [u8; 32]);

/// The progress of the fetch that a caller waits for.
pub(super) enum Progress {
    /// That fetch, or a later one, has ended with this outcome.
    Ended(Outcome),
    /// That fetch, or the one before it, is in flight; wait for it until this time.
    InFlight(Instant),
    /// No fetch is in flight: that one was lost, or has not been started.
    Lost,
}

/// What follows from the end of a fetch.
pub(super) struct Ended {
    /// The fetched credential is now in force, and the caller has to publish it.
    pub(super) is_taken: bool,
    /// The fetch that was owed. It has begun, and the caller has to run it.
    pub(super) next: Option<u64>,
    /// The number of consecutive failures before this fetch.
    pub(super) failures_before: u32,
    /// The previous outcome, to be dropped outside the lock: an error's destructor may call the
    /// store.
    pub(super) outcome_before: Option<Outcome>,
}

struct Fetch {
    number: u64,
    /// A 401 started it, not a poll or a call.
    is_look: bool,
    /// The version in force when it began.
    version: u64,
    /// The fetch is late from this time on.
    deadline: Instant,
    /// The version that met a 401 during this fetch. A look is owed while that version is in force.
    look_owed_to: Option<u64>,
    is_call_owed: bool,
}

pub(super) struct State {
    in_force: Fingerprint,
    version: u64,
    since: Instant,
    /// The time of the last 401 to the credential in force.
    last_denied: Option<Instant>,
    /// The credential that the current one replaced, and whether it is barred.
    replaced: Option<(Fingerprint, bool)>,
    fetch: Option<Fetch>,
    /// How long a fetch may take before it is late: the time limit and `GRACE`.
    pub(super) patience: Duration,
    /// The number of the latest fetch that began.
    begun: u64,
    /// The number of the latest fetch that ended with an outcome, which `outcome` holds.
    answered: u64,
    outcome: Option<Outcome>,
    last_fetched: Option<Instant>,
    /// The number of consecutive fetches that failed.
    failures: u32,
    /// The number of consecutive looks.
    looks: u32,
    /// When the last look ended, and how long the source rests from then on.
    rest: Option<(Instant, Duration)>,
}

impl State {
    pub(super) fn new(in_force: Fingerprint, patience: Duration, now: Instant) -> Self {
        Self {
            in_force,
            version: 1,
            since: now,
            last_denied: None,
            replaced: None,
            fetch: None,
            patience,
            begun: 0,
            answered: 0,
            outcome: None,
            last_fetched: None,
            failures: 0,
            looks: 0,
            rest: None,
        }
    }

    /// Records the first fetch. It has failed if the store starts with its fallback credential.
    pub(super) fn loaded(&mut self, failure: Option<SourceError>, now: Instant) {
        self.failures = u32::from(failure.is_some());
        self.last_fetched = failure.is_none().then_some(now);
        self.outcome = failure.map(Err);
    }

    /// Begins a poll and returns its number, unless a fetch is in flight.
    pub(super) fn poll(&mut self, now: Instant) -> Option<u64> {
        let is_due = self.fetch.is_none();
        is_due.then(|| self.begin(false, now))
    }

    /// Handles a call of `refresh()` and returns the number of the fetch that answers it.
    ///
    /// If a fetch is in flight, that is the next one, because the one in flight may have read the
    /// source before the call.
    pub(super) fn call(&mut self, now: Instant) -> u64 {
        if let Some(fetch) = &mut self.fetch {
            fetch.is_call_owed = true;
            return fetch.number + 1;
        }
        self.begin(false, now)
    }

    /// Handles a 401 to a request that carried `sent`. `can_begin` says whether the caller can run
    /// a fetch.
    ///
    /// Returns whether this is the first 401 to the credential in force, and the number of the
    /// fetch to wait for, if there is one.
    pub(super) fn denied(
        &mut self,
        sent: Fingerprint,
        can_begin: bool,
        now: Instant,
    ) -> (bool, Option<u64>) {
        if sent != self.in_force {
            // This bars the replaced credential even if its 401 arrives after the replacement.
            if let Some((replaced, is_barred)) = &mut self.replaced {
                *is_barred |= *replaced == sent;
            }
            return (false, None);
        }
        let is_first = self.last_denied.replace(now).is_none();
        if is_first && now.saturating_duration_since(self.since) >= SECOND {
            self.looks = 0;
            self.rest = self.rest.map(|(looked, rest)| (looked, rest.min(SECOND)));
        }
        let is_at_rest = self.rest.is_some_and(|(looked, rest)| {
            let end = looked + rest;
            now < end && end <= now + LONGEST_REST
        });
        let look = (!is_at_rest).then(|| self.look(can_begin, now));
        (is_first, look)
    }

    /// Returns the number of the look that answers a 401 to the credential in force.
    fn look(&mut self, can_begin: bool, now: Instant) -> u64 {
        match &mut self.fetch {
            Some(fetch) if fetch.is_look && fetch.version == self.version => fetch.number,
            Some(fetch) => {
                fetch.look_owed_to = Some(self.version);
                fetch.number + 1
            }
            None if can_begin => self.begin(true, now),
            None => self.begun + 1,
        }
    }

    /// Handles the end of a fetch. `jitter` is a random number from 0 to 1.
    ///
    /// Returns `None` if the fetch is no longer in flight because it was late and was aborted.
    pub(super) fn ended(
        &mut self,
        number: u64,
        fetched: Result<Fingerprint, SourceError>,
        now: Instant,
        jitter: f64,
    ) -> Option<Ended> {
        let fetch = self.fetch.take_if(|fetch| fetch.number == number)?;
        let is_superseded = fetch.version != self.version;
        let is_look = fetch.is_look && !is_superseded;
        if is_look {
            self.looks = self.looks.saturating_add(1);
            self.rest = Some((now, rest(self.looks, jitter)));
        }
        let outcome = fetched.map(|fingerprint| {
            let is_barred = self.replaced == Some((fingerprint, true));
            if fingerprint == self.in_force {
                Refreshed::Unchanged
            } else if is_superseded || (is_barred && !is_look) {
                Refreshed::Ignored
            } else {
                self.put_in_force(fingerprint, self.last_denied.is_some(), now);
                Refreshed::Rotated
            }
        });
        let failures_before = self.failures;
        if outcome.is_ok() {
            (self.failures, self.last_fetched) = (0, Some(now));
        } else {
            self.failures = self.failures.saturating_add(1);
        }
        let is_look_owed = fetch.look_owed_to == Some(self.version);
        let is_owed = is_look_owed || fetch.is_call_owed;
        self.answered = number;
        Some(Ended {
            is_taken: matches!(outcome, Ok(Refreshed::Rotated)),
            next: is_owed.then(|| self.begin(is_look_owed, now)),
            failures_before,
            outcome_before: self.outcome.replace(outcome),
        })
    }

    /// Puts another credential in force. Returns `false` if it equals the current one, which
    /// changes nothing.
    pub(super) fn rotate(&mut self, fingerprint: Fingerprint, now: Instant) -> bool {
        if fingerprint == self.in_force {
            return false;
        }
        self.put_in_force(fingerprint, true, now);
        (self.looks, self.rest) = (0, None);
        true
    }

    /// Handles a fetch that ended without an outcome. The fetches that it owed are dropped with it.
    pub(super) fn lost(&mut self, number: u64) {
        self.fetch.take_if(|fetch| fetch.number == number);
    }

    /// Returns the number of the fetch in flight if it is late.
    ///
    /// It is also late if its deadline is so far ahead that another clock must have set it, such as
    /// that of a paused runtime. Clocks that differ by less than a time limit count as
    /// the same.
    pub(super) fn late(&self, now: Instant) -> Option<u64> {
        let fetch = self.fetch.as_ref()?;
        let is_late = now >= fetch.deadline || fetch.deadline > now + self.patience * 2;
        is_late.then_some(fetch.number)
    }

    /// Returns the progress of a fetch. One that has not begun counts as owed while another is in
    /// flight.
    pub(super) fn progress(&self, number: u64, now: Instant) -> Progress {
        match (&self.outcome, &self.fetch) {
            (Some(outcome), _) if self.answered >= number => Progress::Ended(outcome.clone()),
            (_, Some(fetch)) => Progress::InFlight(fetch.deadline.min(now + self.patience)),
            (_, None) => Progress::Lost,
        }
    }

    fn begin(&mut self, is_look: bool, now: Instant) -> u64 {
        debug_assert!(self.fetch.is_none(), "one fetch at a time");
        self.begun += 1;
        self.fetch = Some(Fetch {
            number: self.begun,
            is_look,
            version: self.version,
            deadline: now + self.patience,
            look_owed_to: None,
            is_call_owed: false,
        });
        self.begun
    }

    fn put_in_force(&mut self, fingerprint: Fingerprint, is_barred: bool, now: Instant) {
        self.replaced = Some((self.in_force, is_barred));
        (self.in_force, self.since) = (fingerprint, now);
        self.version += 1;
        self.last_denied = None;
    }

    pub(super) fn in_force(&self) -> Fingerprint {
        self.in_force
    }

    pub(super) fn version(&self) -> u64 {
        self.version
    }

    /// Returns the number of the latest fetch that began.
    pub(super) fn begun(&self) -> u64 {
        self.begun
    }

    pub(super) fn failures(&self) -> u32 {
        self.failures
    }

    pub(super) fn status(&self, credential: CredentialId) -> StoreStatus {
        let last_error = self.outcome.as_ref();
        StoreStatus {
            version: self.version,
            credential,
            last_denied: self.last_denied.map(Instant::into_std),
            last_fetched: self.last_fetched.map(Instant::into_std),
            failures: self.failures,
            last_error: last_error.and_then(|outcome| outcome.as_ref().err().cloned()),
        }
    }
}

/// Returns the rest after this many consecutive looks: 1, 2, 4 and then 8 s, multiplied by a random
/// factor from 0.5 to 1, so that the clients of a fleet do not ask at the same time.
fn rest(looks: u32, jitter: f64) -> Duration {
    let longest = SECOND * (1 << (looks.clamp(1, 4) - 1));
    longest.mul_f64(0.5 + jitter.clamp(0.0, 1.0) / 2.0)
}

#[cfg(test)]
mod tests;
