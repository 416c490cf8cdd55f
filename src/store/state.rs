//! When is the source asked? The rules as a pure state machine: no lock, no task, no clock of its own.
//!
//! Terms. A *fetch* asks the source once; there is one at a time, and they are numbered. It is a *poll*, at an interval; a *call*, of
//! `refresh()`; or a *look*, because of a 401. A caller that waits for a fetch has its number, or the one that follows it where
//! that is *owed*. A *rest* is a time after a look during which a 401 starts no further look. A look is *outdated* once `rotate`
//! has changed the credential: from then on it counts as any other fetch, and no rest follows it. *Barred* is the credential that the one in force replaced, if it has met a 401 or was replaced by
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

use std::time::Duration;

use tokio::time::Instant;

use super::{Outcome, Refreshed, StoreStatus};
use crate::credential::CredentialId;
use crate::source::SourceError;

const SECOND: Duration = Duration::from_secs(1);
/// The longest rest. One that would last longer was begun by another clock, such as that of a paused runtime, and is over.
const LONGEST_REST: Duration = Duration::from_secs(8);

/// A SHA-256 digest of token and organization: two credentials differ if their fingerprints do.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct Fingerprint(pub(super) [u8; 32]);

/// How far the fetch is that a caller waits for.
pub(super) enum Progress {
    /// That fetch, or a later one, has ended with this.
    Ended(Outcome),
    /// It is in flight, or the one before it is; and until when to wait for that.
    InFlight(Instant),
    /// None is in flight: that one was lost, or is still to be begun.
    Lost,
}

/// The end of a fetch with an outcome.
pub(super) struct Ended {
    /// What the fetch brought is in force from now on, and is to be published.
    pub(super) is_taken: bool,
    /// The fetch that was owed, which has begun.
    pub(super) next: Option<u64>,
    /// Failures in a row before this fetch.
    pub(super) failures_before: u32,
    /// The outcome of the fetch before, to be dropped outside of the lock: an error's destructor may call the store.
    pub(super) outcome_before: Option<Outcome>,
}

struct Fetch {
    number: u64,
    /// Begun because of a 401, and not by a poll or a call.
    is_look: bool,
    /// The version in force when it began.
    version: u64,
    /// From then on it is late.
    deadline: Instant,
    /// The version that met a 401 since; a look is owed while that is in force.
    look_owed_to: Option<u64>,
    is_call_owed: bool,
}

pub(super) struct State {
    in_force: Fingerprint,
    version: u64,
    since: Instant,
    /// The last 401 to the credential in force.
    last_denied: Option<Instant>,
    /// The credential that the one in force replaced, and whether it is barred.
    replaced: Option<(Fingerprint, bool)>,
    fetch: Option<Fetch>,
    /// How long a fetch may take before it is late.
    pub(super) patience: Duration,
    /// The numbers of the fetch that began last, and of the one that ended last with an outcome, and that outcome.
    begun: u64,
    answered: u64,
    outcome: Option<Outcome>,
    last_fetched: Option<Instant>,
    /// Fetches that failed in a row.
    failures: u32,
    /// Looks in a row, when the last one ended, and how long the source rests from then on.
    looks: u32,
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

    /// The first fetch has ended, with this failure where a fall-back is in force instead.
    pub(super) fn loaded(&mut self, failure: Option<SourceError>, now: Instant) {
        self.failures = u32::from(failure.is_some());
        self.last_fetched = failure.is_none().then_some(now);
        self.outcome = failure.map(Err);
    }

    /// A poll is due. Returns the fetch if one is begun.
    pub(super) fn poll(&mut self, now: Instant) -> Option<u64> {
        let is_due = self.fetch.is_none();
        is_due.then(|| self.begin(false, now))
    }

    /// `refresh()` was called. Returns the fetch that answers it, which begins from now on.
    pub(super) fn call(&mut self, now: Instant) -> u64 {
        if let Some(fetch) = &mut self.fetch {
            fetch.is_call_owed = true;
            return fetch.number + 1;
        }
        self.begin(false, now)
    }

    /// A request that carried `sent` got a 401; `can_begin` says whether the caller can run a fetch. Returns whether it is the first
    /// 401 to the credential in force, and the fetch to wait for, if there is one.
    pub(super) fn denied(
        &mut self,
        sent: Fingerprint,
        can_begin: bool,
        now: Instant,
    ) -> (bool, Option<u64>) {
        if sent != self.in_force {
            // A late 401 is as good a reason not to bring that credential back.
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

    /// Returns the look that answers a 401 to the credential in force.
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

    /// A fetch has ended with this. `jitter` is from 0 to 1. `None`: it was late, and is in flight no longer.
    pub(super) fn ended(
        &mut self,
        number: u64,
        fetched: Result<Fingerprint, SourceError>,
        now: Instant,
        jitter: f64,
    ) -> Option<Ended> {
        let fetch = self.fetch.take_if(|fetch| fetch.number == number)?;
        let is_outdated = fetch.version != self.version;
        let is_look = fetch.is_look && !is_outdated;
        if is_look {
            self.looks = self.looks.saturating_add(1);
            self.rest = Some((now, rest(self.looks, jitter)));
        }
        let outcome = fetched.map(|fingerprint| {
            let is_barred = self.replaced == Some((fingerprint, true));
            if fingerprint == self.in_force {
                Refreshed::Unchanged
            } else if is_outdated || (is_barred && !is_look) {
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

    /// `rotate` was called. Returns whether that changes anything.
    pub(super) fn rotate(&mut self, fingerprint: Fingerprint, now: Instant) -> bool {
        if fingerprint == self.in_force {
            return false;
        }
        self.put_in_force(fingerprint, true, now);
        (self.looks, self.rest) = (0, None);
        true
    }

    /// A fetch has ended without an outcome, and what it owed with it.
    pub(super) fn lost(&mut self, number: u64) {
        self.fetch.take_if(|fetch| fetch.number == number);
    }

    /// The fetch in flight, if it is late: its deadline has passed, or lies so far ahead that another clock must have set it, such
    /// as that of a paused runtime. Clocks that differ by less than a time limit are taken for one.
    pub(super) fn late(&self, now: Instant) -> Option<u64> {
        let fetch = self.fetch.as_ref()?;
        let is_late = now >= fetch.deadline || fetch.deadline > now + self.patience * 2;
        is_late.then_some(fetch.number)
    }

    /// How far the fetch of this number is. One that was never begun is owed while another is in flight.
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

    /// The number of the fetch that began last.
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

/// After the first look 1 s, then 2, 4 and 8 s, of which between half and all is taken, so that a fleet does not ask in step.
fn rest(looks: u32, jitter: f64) -> Duration {
    let longest = SECOND * (1 << (looks.clamp(1, 4) - 1));
    longest.mul_f64(0.5 + jitter.clamp(0.0, 1.0) / 2.0)
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
    }

    /// The columns of the table: nothing in flight, a poll, a look.
    fn column(name: &str) -> Case {
        let now = Instant::now();
        let mut state = State::new(key(1), PATIENCE, now);
        match name {
            "idle" => {}
            "poll, call or outdated look in flight" => assert_eq!(state.poll(now), Some(1)),
            "look in flight" => assert_eq!(state.denied(key(1), true, now), (true, Some(1))),
            _ => panic!("no such column: {name}"),
        }
        Case { state, now }
    }

    /// Reports a 401, and says what follows.
    fn denied(case: &mut Case, sent: Fingerprint) -> &'static str {
        let Case { state, now } = case;
        let (begun, owed) = (state.begun, state.owes());
        match state.denied(sent, true, *now).1 {
            None if sent != state.in_force => "replay",
            None => "deny",
            Some(look) if state.begun > begun => {
                assert_eq!(look, state.begun);
                "look, wait"
            }
            Some(look) if state.owes() != owed => {
                assert_eq!(look, begun + 1);
                "wait, owe a look"
            }
            Some(look) => {
                assert_eq!(look, begun);
                "wait"
            }
        }
    }

    /// Ends the fetch in flight, and says what follows.
    fn end(case: &mut Case, fetched: Result<Fingerprint, SourceError>) -> String {
        let Case { state, now } = case;
        let version = state.version;
        let ended = state.ended(1, fetched, *now, 0.0).unwrap();
        assert!(matches!(state.progress(1, *now), Progress::Ended(_)));
        let mut said = Vec::new();
        if state.version > version {
            assert!(ended.is_taken);
            said.push("publish");
        }
        if state.rest.is_some() {
            said.push("rest");
        }
        if let Some(next) = ended.next {
            assert_eq!(next, 2);
            let is_look = state.fetch.as_ref().unwrap().is_look;
            said.push(if is_look { "look" } else { "fetch" });
        }
        if said.is_empty() {
            said.push("nothing");
        }
        said.join(", ")
    }

    /// Does what a cell of the table is about, and returns what it should say.
    fn cell(event: &str, column_name: &str) -> String {
        let mut case = column(column_name);
        let Case { state, now } = &mut case;
        let now = *now;
        let is_look = column_name == "look in flight";
        match event {
            "401 to another credential" => denied(&mut case, key(2)).into(),
            "401 to the one in force, at rest" if is_look => "-".into(),
            "401 to the one in force, at rest" => {
                state.rest = Some((now, SECOND));
                denied(&mut case, key(1)).into()
            }
            "401 to the one in force" => denied(&mut case, key(1)).into(),
            "poll is due" => match state.poll(now) {
                Some(_) => "fetch".into(),
                None => "nothing".into(),
            },
            "`refresh()`" => {
                let begun = state.begun;
                assert_eq!(state.call(now), begun + 1);
                match state.begun > begun {
                    true => "fetch, wait".into(),
                    false if state.owes() => "owe a fetch, wait".into(),
                    false => "wait".into(),
                }
            }
            _ if event.starts_with("fetch") && state.fetch.is_none() => "-".into(),
            "fetch ends, takes another credential" => end(&mut case, Ok(key(2))),
            "fetch ends, takes nothing" => end(&mut case, Ok(key(1))),
            "fetch ends, a look is owed to the version in force" if is_look => "-".into(),
            "fetch ends, a look is owed to the version in force" => {
                state.denied(key(1), true, now);
                end(&mut case, Ok(key(1)))
            }
            "fetch ends, a fetch is owed" => {
                state.call(now);
                end(&mut case, Ok(key(1)))
            }
            "`rotate`, another credential" => {
                state.rest = Some((now, SECOND));
                assert!(state.rotate(key(2), now));
                assert!(state.rest.is_none() && state.in_force == key(2));
                "publish, end the rest".into()
            }
            "`rotate`, the same credential" => {
                let before = state.version;
                assert!(!state.rotate(key(1), now));
                assert_eq!(state.version, before);
                "nothing".into()
            }
            "fetch is lost" => {
                state.lost(1);
                assert!(matches!(state.progress(1, now), Progress::Lost));
                assert!(state.fetch.is_none() && state.rest.is_none() && state.failures == 0);
                "idle".into()
            }
            _ => panic!("no such event: {event}"),
        }
    }

    impl State {
        fn owes(&self) -> bool {
            let fetch = self.fetch.as_ref();
            fetch.is_some_and(|fetch| fetch.is_call_owed || fetch.look_owed_to.is_some())
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
