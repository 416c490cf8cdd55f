//! When is the source asked? The rules as a pure state machine: no lock, no task, no clock of its own.
//!
//! Terms. A *fetch* asks the source once; there is one at a time. It is made for one of three [purposes](Purpose): a *poll*, at
//! an interval; a *call* of `refresh()`; or a *look*, because of a 401. A *rest* is a time after a look during which a 401 starts
//! no further look. A look is *outdated* once `rotate` has changed the credential: from then on it counts as any other fetch, and
//! no rest follows it. *Barred* is the credential that the one in force replaced, if it has met a 401 or was replaced by
//! `rotate`: polls and calls do not bring it back.
//!
//! | event | idle | poll, call or outdated look in flight | look in flight |
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
//! | `rotate`, another credential | publish, end the rest | publish, end the rest | publish, end the rest |
//! | `rotate`, the same credential | nothing | nothing | nothing |
//! | fetch is lost | - | idle | idle |
//!
//! A 401 that arrives during a look cannot be at rest, because a rest begins when a look ends. A fetch is *lost* when its runtime
//! ends, or when it is late and aborted. Neither is an outcome: no rest follows, no failure is counted, and what was owed is
//! lost too, so that its waiters ask again.
//!
//! Each rule is needed; the simulation in `models` fails without it:
//!
//! - **A 401 to another credential asks nothing**, at rest too. Requests that were in flight during a rotation arrive late, and
//!   would otherwise surface their denials.
//! - **Only a look is followed by a rest**: 1 s, then 2, 4 and 8 s, of which between half and all is taken. Without one, a key
//!   that is dead for good has the source asked for each request. If polls obeyed or started rests, a 401 right after an
//!   unchanged poll would go unnoticed, which is the moment at which a rotation without overlap happens.
//! - **A look is owed** where another fetch is in flight: that one may have read the source before the change. One look follows
//!   for all, and an owed look also answers the calls that wait.
//! - **A version that meets its first 401 after a second or more has worked.** The next look is then at most a second away, and
//!   the count starts again. Successes are not recorded instead, because public paths succeed with any key.
//! - **Polls and calls do not bring back a barred credential.** Replicas of a source that disagree would otherwise displace a
//!   good key with a dead one. A look may, because then the credential in force is refused.
//! - **A fetch during which `rotate` changed the credential is not taken**: it may have read the source before.

use std::fmt;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use tokio::time::Instant;

use super::{Outcome, Refreshed};
use crate::source::SourceError;

const SECOND: Duration = Duration::from_secs(1);
/// The longest rest. One that would last longer was begun by another clock, such as that of a paused runtime, and is over.
const LONGEST_REST: Duration = Duration::from_secs(8);

/// A SHA-256 digest of token and organization: two credentials differ if their fingerprints do.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct Fingerprint(pub(super) [u8; 32]);

/// Why a fetch was begun.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Purpose {
    Poll,
    Call,
    Look,
}

/// Stands for one fetch, in flight or owed, with those who wait for it.
#[derive(Clone, Default)]
pub(super) struct Ticket(Arc<OnceLock<End>>);

/// How a fetch ended.
#[derive(Clone)]
pub(super) enum End {
    Outcome(Outcome),
    /// Without an outcome, or it was never begun.
    Lost,
}

impl Ticket {
    pub(super) fn end(&self) -> Option<End> {
        self.0.get().cloned()
    }

    /// Called once, after what the fetch brought is in force: a caller that sees the end sees that too.
    pub(super) fn settle(&self, end: End) {
        drop(self.0.set(end));
    }

    pub(super) fn is(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

/// The fetch that answers a call or a 401, and whether it was begun for it, by which it becomes the caller's to run.
pub(super) struct Asked {
    pub(super) ticket: Ticket,
    pub(super) is_begun: bool,
}

impl Asked {
    fn joined(ticket: &Ticket) -> Self {
        Self {
            ticket: ticket.clone(),
            is_begun: false,
        }
    }

    pub(super) fn begun(&self) -> Option<Ticket> {
        self.is_begun.then(|| self.ticket.clone())
    }
}

/// What a 401 leads to.
pub(super) enum Verdict {
    /// Another credential is in force, with which the request can be sent again.
    Replay,
    /// The denial is the answer.
    Deny,
    /// The denial is the answer unless this fetch brings another credential.
    Wait(Asked),
    /// As [`Wait`](Self::Wait), but the fetch could not be begun here.
    NotBegun,
}

/// The end of a fetch with an outcome. What it brought is to be published if it is taken, and then the ticket settled.
pub(super) struct Ended {
    pub(super) is_taken: bool,
    /// The fetch that was owed, which has begun.
    pub(super) next: Option<Ticket>,
    pub(super) outcome: Outcome,
    /// Failures in a row before this one.
    pub(super) failures_before: u32,
    /// The error of before, to be dropped outside of the lock.
    pub(super) error_before: Option<SourceError>,
}

struct Fetch {
    ticket: Ticket,
    purpose: Purpose,
    /// The version in force when it began.
    version: u64,
    /// From then on it is late.
    deadline: Instant,
    owed: Option<Owed>,
}

/// The one fetch that follows the one in flight.
#[derive(Default)]
struct Owed {
    ticket: Ticket,
    /// The version that met a 401; a look is owed while that is in force.
    look_at: Option<u64>,
    /// `refresh()` waits for it.
    is_called: bool,
}

struct Replaced {
    fingerprint: Fingerprint,
    is_barred: bool,
}

pub(super) struct State {
    in_force: Fingerprint,
    version: u64,
    since: Instant,
    /// The last 401 to the credential in force.
    last_denied: Option<Instant>,
    replaced: Option<Replaced>,
    fetch: Option<Fetch>,
    /// How long a fetch may take before it is late.
    patience: Duration,
    /// Looks in a row, the end of the last one, and of the rest after it.
    looks: u32,
    looked: Option<Instant>,
    rest_end: Option<Instant>,
    /// Fetches that failed in a row, and with what the last one did.
    failures: u32,
    last_error: Option<SourceError>,
    last_fetched: Option<Instant>,
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
            looks: 0,
            looked: None,
            rest_end: None,
            failures: 0,
            last_error: None,
            last_fetched: None,
        }
    }

    /// The first fetch, which the store begins with: its time, or its failure where a fall-back is in force instead.
    pub(super) fn loaded(&mut self, failure: Option<SourceError>, now: Instant) {
        self.failures = u32::from(failure.is_some());
        self.last_fetched = failure.is_none().then_some(now);
        self.last_error = failure;
    }

    /// A poll is due. Returns the fetch if one is begun.
    pub(super) fn poll(&mut self, now: Instant) -> Option<Ticket> {
        let is_due = self.fetch.is_none();
        is_due.then(|| self.begin_for(Purpose::Poll, now).ticket)
    }

    /// `refresh()` was called. Only a fetch that begins from now on answers it.
    pub(super) fn call(&mut self, now: Instant) -> Asked {
        if let Some(fetch) = &mut self.fetch {
            let owed = fetch.owed.get_or_insert_default();
            owed.is_called = true;
            return Asked::joined(&owed.ticket);
        }
        self.begin_for(Purpose::Call, now)
    }

    /// A request that carried `sent` got a 401. `can_begin` says whether the caller can run a fetch.
    pub(super) fn denied(&mut self, sent: Fingerprint, can_begin: bool, now: Instant) -> Verdict {
        if sent != self.in_force {
            // A late 401 is as good a reason not to bring that credential back.
            if let Some(replaced) = &mut self.replaced {
                replaced.is_barred |= replaced.fingerprint == sent;
            }
            return Verdict::Replay;
        }
        if self.last_denied.is_none() && now.saturating_duration_since(self.since) >= SECOND {
            self.looks = 0;
            let earliest = self.looked.map(|looked| looked + SECOND);
            self.rest_end = self.rest_end.min(earliest);
        }
        self.last_denied = Some(now);
        if self.rests(now) {
            return Verdict::Deny;
        }
        let version = self.version;
        match &mut self.fetch {
            Some(fetch) if fetch.purpose == Purpose::Look && fetch.version == version => {
                Verdict::Wait(Asked::joined(&fetch.ticket))
            }
            Some(fetch) => {
                let owed = fetch.owed.get_or_insert_default();
                owed.look_at = Some(version);
                Verdict::Wait(Asked::joined(&owed.ticket))
            }
            None if can_begin => Verdict::Wait(self.begin_for(Purpose::Look, now)),
            None => Verdict::NotBegun,
        }
    }

    /// A fetch has ended with this. `jitter` is from 0 to 1. `None`: it was late, and is in flight no longer.
    pub(super) fn ended(
        &mut self,
        ticket: &Ticket,
        fetched: Result<Fingerprint, SourceError>,
        now: Instant,
        jitter: f64,
    ) -> Option<Ended> {
        let fetch = self.fetch.take_if(|fetch| fetch.ticket.is(ticket))?;
        let is_outdated = fetch.version != self.version;
        let is_look = fetch.purpose == Purpose::Look;
        if is_look && !is_outdated {
            self.looks = self.looks.saturating_add(1);
            self.looked = Some(now);
            self.rest_end = Some(now + rest(self.looks, jitter));
        }
        let failures_before = self.failures;
        let error_before = self.last_error.take();
        let mut is_taken = false;
        let outcome = match fetched {
            Err(error) => {
                self.failures = self.failures.saturating_add(1);
                self.last_error = Some(error.clone());
                Err(error)
            }
            Ok(fingerprint) => {
                (self.failures, self.last_fetched) = (0, Some(now));
                let differs = fingerprint != self.in_force;
                is_taken = differs && !is_outdated && (is_look || !self.is_barred(fingerprint));
                if is_taken {
                    self.publish(fingerprint, self.last_denied.is_some(), now);
                }
                Ok(match (differs, is_taken) {
                    (true, true) => Refreshed::Rotated,
                    (true, false) => Refreshed::Ignored,
                    (false, _) => Refreshed::Unchanged,
                })
            }
        };
        Some(Ended {
            is_taken,
            next: fetch.owed.and_then(|owed| self.begin_owed(owed, now)),
            outcome,
            failures_before,
            error_before,
        })
    }

    fn begin_owed(&mut self, owed: Owed, now: Instant) -> Option<Ticket> {
        let purpose = if owed.look_at == Some(self.version) {
            Purpose::Look
        } else if owed.is_called {
            Purpose::Call
        } else {
            // Those who wait for it can be replayed: another version is in force.
            owed.ticket.settle(End::Lost);
            return None;
        };
        self.begin(owed.ticket.clone(), purpose, now);
        Some(owed.ticket)
    }

    /// `rotate` was called. Returns whether that changes anything.
    pub(super) fn rotate(&mut self, fingerprint: Fingerprint, now: Instant) -> bool {
        if fingerprint == self.in_force {
            return false;
        }
        self.publish(fingerprint, true, now);
        (self.looks, self.rest_end) = (0, None);
        true
    }

    /// A fetch has ended without an outcome, and what it owed with it.
    pub(super) fn lost(&mut self, ticket: &Ticket) {
        if let Some(fetch) = self.fetch.take_if(|fetch| fetch.ticket.is(ticket)) {
            fetch.ticket.settle(End::Lost);
            if let Some(owed) = fetch.owed {
                owed.ticket.settle(End::Lost);
            }
        }
    }

    /// The fetch in flight, if it is late: its deadline has passed, or lies so far ahead that another clock must have set it, such
    /// as that of a paused runtime. Clocks that differ by less than a time limit are taken for one.
    pub(super) fn late(&self, now: Instant) -> Option<Ticket> {
        let fetch = self.fetch.as_ref()?;
        let is_late = now >= fetch.deadline || fetch.deadline > now + self.patience * 2;
        is_late.then(|| fetch.ticket.clone())
    }

    /// The fetch in flight, and until when to wait for its end.
    pub(super) fn in_flight(&self, now: Instant) -> Option<(Ticket, Instant)> {
        let fetch = self.fetch.as_ref()?;
        Some((
            fetch.ticket.clone(),
            fetch.deadline.min(now + self.patience),
        ))
    }

    fn begin_for(&mut self, purpose: Purpose, now: Instant) -> Asked {
        let ticket = Ticket::default();
        self.begin(ticket.clone(), purpose, now);
        Asked {
            ticket,
            is_begun: true,
        }
    }

    fn begin(&mut self, ticket: Ticket, purpose: Purpose, now: Instant) {
        debug_assert!(self.fetch.is_none(), "one fetch at a time");
        self.fetch = Some(Fetch {
            ticket,
            purpose,
            version: self.version,
            deadline: now + self.patience,
            owed: None,
        });
    }

    fn publish(&mut self, fingerprint: Fingerprint, is_barred: bool, now: Instant) {
        self.replaced = Some(Replaced {
            fingerprint: self.in_force,
            is_barred,
        });
        (self.in_force, self.since) = (fingerprint, now);
        self.version += 1;
        self.last_denied = None;
    }

    fn is_barred(&self, fingerprint: Fingerprint) -> bool {
        let replaced = self.replaced.as_ref();
        replaced.is_some_and(|replaced| replaced.is_barred && replaced.fingerprint == fingerprint)
    }

    fn rests(&self, now: Instant) -> bool {
        self.rest_end
            .is_some_and(|end| now < end && end <= now + LONGEST_REST)
    }

    pub(super) fn in_force(&self) -> Fingerprint {
        self.in_force
    }

    pub(super) fn version(&self) -> u64 {
        self.version
    }

    pub(super) fn last_denied(&self) -> Option<Instant> {
        self.last_denied
    }

    pub(super) fn last_fetched(&self) -> Option<Instant> {
        self.last_fetched
    }

    pub(super) fn failures(&self) -> u32 {
        self.failures
    }

    pub(super) fn last_error(&self) -> Option<&SourceError> {
        self.last_error.as_ref()
    }
}

/// After the first look 1 s, then 2, 4 and 8 s, of which between half and all is taken, so that a fleet does not ask in step.
fn rest(looks: u32, jitter: f64) -> Duration {
    let longest = SECOND * (1 << (looks.clamp(1, 4) - 1));
    longest.mul_f64(0.5 + jitter.clamp(0.0, 1.0) / 2.0)
}

impl fmt::Debug for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Fingerprint")
    }
}

#[cfg(test)]
mod tests {
    #![allow(
        clippy::too_many_lines,
        reason = "one function has the events of the whole table"
    )]

    use super::*;

    const PATIENCE: Duration = Duration::from_secs(10);

    fn key(number: u8) -> Fingerprint {
        Fingerprint([number; 32])
    }

    /// What happens to the state in a column of the table, as its cells put it.
    struct Case {
        state: State,
        now: Instant,
        in_flight: Option<Ticket>,
    }

    /// The columns of the table: nothing in flight, a poll, a look.
    fn column(name: &str) -> Case {
        let now = Instant::now();
        let mut state = State::new(key(1), PATIENCE, now);
        let in_flight = match name {
            "idle" => None,
            "poll, call or outdated look in flight" => state.poll(now),
            "look in flight" => match state.denied(key(1), true, now) {
                Verdict::Wait(asked) => Some(asked.ticket),
                _ => None,
            },
            _ => panic!("no such column: {name}"),
        };
        assert_eq!(in_flight.is_some(), name != "idle");
        Case {
            state,
            now,
            in_flight,
        }
    }

    fn verdict(verdict: &Verdict, owed_before: bool, state: &State) -> &'static str {
        let owes = state
            .fetch
            .as_ref()
            .is_some_and(|fetch| fetch.owed.is_some());
        match verdict {
            Verdict::Replay => "replay",
            Verdict::Deny => "deny",
            Verdict::Wait(asked) if asked.is_begun => "look, wait",
            Verdict::Wait(_) if owes && !owed_before => "wait, owe a look",
            Verdict::Wait(_) => "wait",
            Verdict::NotBegun => "not begun",
        }
    }

    /// Ends the fetch in flight, and says what follows.
    fn end(case: &mut Case, fetched: Result<Fingerprint, SourceError>) -> String {
        let Case {
            state,
            now,
            in_flight,
        } = case;
        let version = state.version;
        let ended = state
            .ended(&in_flight.clone().unwrap(), fetched, *now, 0.0)
            .unwrap();
        let mut said = Vec::new();
        if state.version > version {
            assert!(ended.is_taken);
            said.push("publish");
        }
        if state.rest_end.is_some() {
            said.push("rest");
        }
        if ended.next.is_some() {
            said.push(match state.fetch.as_ref().unwrap().purpose {
                Purpose::Look => "look",
                Purpose::Call | Purpose::Poll => "fetch",
            });
        }
        if said.is_empty() {
            "nothing".to_owned()
        } else {
            said.join(", ")
        }
    }

    /// Does what a cell of the table is about, and returns what it should say.
    fn cell(event: &str, column_name: &str) -> String {
        let mut case = column(column_name);
        let Case {
            state,
            now,
            in_flight,
        } = &mut case;
        let now = *now;
        let is_look = column_name == "look in flight";
        match event {
            "401 to another credential" => {
                verdict(&state.denied(key(2), true, now), false, state).into()
            }
            "401 to the one in force, at rest" if is_look => "-".into(),
            "401 to the one in force, at rest" => {
                state.rest_end = Some(now + SECOND);
                verdict(&state.denied(key(1), true, now), false, state).into()
            }
            "401 to the one in force" => {
                verdict(&state.denied(key(1), true, now), false, state).into()
            }
            "poll is due" => if state.poll(now).is_some() {
                "fetch"
            } else {
                "nothing"
            }
            .into(),
            "`refresh()`" => {
                let is_begun = state.call(now).is_begun;
                let owes = state.fetch.as_ref().unwrap().owed.is_some();
                assert_ne!(is_begun, owes);
                if is_begun {
                    "fetch, wait"
                } else {
                    "owe a fetch, wait"
                }
                .into()
            }
            _ if event.starts_with("fetch") && in_flight.is_none() => "-".into(),
            "fetch ends, takes another credential" => end(&mut case, Ok(key(2))),
            "fetch ends, takes nothing" => end(&mut case, Ok(key(1))),
            "fetch ends, a look is owed to the version in force" if is_look => "-".into(),
            "fetch ends, a look is owed to the version in force" => {
                drop(state.denied(key(1), true, now));
                end(&mut case, Ok(key(1)))
            }
            "fetch ends, a fetch is owed" => {
                state.call(now);
                end(&mut case, Ok(key(1)))
            }
            "`rotate`, another credential" => {
                state.rest_end = Some(now + SECOND);
                assert!(state.rotate(key(2), now));
                assert!(state.rest_end.is_none() && state.in_force == key(2));
                "publish, end the rest".into()
            }
            "`rotate`, the same credential" => {
                let before = state.version;
                assert!(!state.rotate(key(1), now));
                assert_eq!(state.version, before);
                "nothing".into()
            }
            "fetch is lost" => {
                let ticket = in_flight.clone().unwrap();
                state.lost(&ticket);
                assert!(matches!(ticket.end(), Some(End::Lost)));
                assert!(state.fetch.is_none() && state.rest_end.is_none() && state.failures == 0);
                "idle".into()
            }
            _ => panic!("no such event: {event}"),
        }
    }

    #[test]
    fn a_fetch_is_late_after_its_deadline_or_if_a_clock_far_ahead_set_that() {
        let now = Instant::now();
        let mut state = State::new(key(1), PATIENCE, now);
        assert!(state.poll(now).is_some());
        let is_late = |now| state.late(now).is_some();
        let millisecond = Duration::from_millis(1);
        assert!(!is_late(now) && !is_late(now + PATIENCE - millisecond));
        assert!(is_late(now + PATIENCE));
        // Of two runtimes with paused clocks, one may be a little ahead.
        assert!(!is_late(now - millisecond) && is_late(now - PATIENCE - millisecond));
    }

    #[test]
    fn the_table_of_the_documentation_is_what_the_code_does() {
        let rows: Vec<Vec<&str>> = include_str!("state.rs")
            .lines()
            .filter_map(|line| line.strip_prefix("//! | "))
            .map(|line| line.trim_end_matches(" |").split(" | ").collect())
            .collect();
        let (head, rows) = rows.split_first().unwrap();
        assert_eq!(rows.len(), 12);
        for row in rows {
            for (column, said) in head.iter().zip(row).skip(1) {
                assert_eq!(cell(row[0], column), *said, "{} / {column}", row[0]);
            }
        }
    }
}
