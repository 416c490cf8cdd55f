//! The state that all hosts share. It survives their crashes.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use http::StatusCode;
use tower_anyreach::CredentialStore;

use campaigns::key;
use campaigns::tally::Tally;

use crate::RECOVERY;
use crate::model::Model;

#[derive(Clone, Default)]
pub(crate) struct Shared(Arc<Mutex<Scene>>);

impl Shared {
    pub(crate) fn lock(&self) -> MutexGuard<'_, Scene> {
        self.0.lock().unwrap()
    }

    pub(crate) fn violation(&self, what: String) {
        self.lock().violations.push(what);
    }
}

#[derive(Default)]
pub(crate) struct Scene {
    /// The generations of the oldest key that the API accepts, and of the last one that the operator created.
    pub(crate) oldest: u64,
    pub(crate) newest: u64,
    pub(crate) api: Api,
    pub(crate) tokens: Tokens,
    pub(crate) source_panics: bool,
    /// The neighbour waits for a refresh.
    pub(crate) neighbour_asks: bool,
    pub(crate) neighbour_crashes: bool,
    pub(crate) store: Option<CredentialStore>,
    pub(crate) model: Model,
    /// The requests that the API received, in their order.
    pub(crate) arrivals: Vec<Arrival>,
    /// The outcome of each request, `None` while it is in flight.
    pub(crate) outcomes: Vec<Option<Outcome>>,
    /// How long after the last fault a request succeeded.
    pub(crate) recovered_after: Option<Duration>,
    pub(crate) violations: Vec<String>,
}

#[derive(Debug, Clone, Copy)]
pub(crate) struct Arrival {
    pub(crate) request: usize,
    pub(crate) key: u64,
    pub(crate) status: StatusCode,
}

#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Outcome {
    Answered(StatusCode),
    /// `Error::Unauthorized`.
    Denied,
    /// The connection failed, or a time limit was reached.
    Failed,
    Cancelled,
}

#[derive(Clone, Copy, Default)]
pub(crate) enum Api {
    #[default]
    Works,
    /// Answers one of so many requests with a 401, whatever its key is.
    Denies {
        one_in: u64,
    },
    Fails,
}

#[derive(Clone, Copy, Default)]
pub(crate) enum Tokens {
    #[default]
    Works,
    /// Gives the key before the newest.
    LagsBehind,
    Fails,
    Hangs,
    Answers(&'static str),
}

impl Scene {
    /// Compares the store with its model.
    pub(crate) fn compare(&mut self) {
        if let Some(store) = &self.store {
            self.model.compare(store);
        }
    }

    /// The operator creates a key, and may rotate the store to it.
    pub(crate) fn create_key(&mut self, is_pushed: bool) {
        self.newest += 1;
        self.compare();
        if let Some(store) = self.store.as_ref().filter(|_| is_pushed) {
            store.rotate(support::credential(&key(self.newest)));
            self.model.rotate(self.newest);
        }
    }

    /// Compares the outcome of each request with what the API received.
    pub(crate) fn audit(&mut self) {
        let mut attempts: Vec<Vec<Arrival>> = vec![Vec::new(); self.outcomes.len()];
        for arrival in &self.arrivals {
            attempts[arrival.request].push(*arrival);
        }
        let denied = StatusCode::UNAUTHORIZED;
        for (request, (outcome, attempts)) in self.outcomes.iter().zip(&attempts).enumerate() {
            let is_replay_justified = match attempts[..] {
                [] | [_] => true,
                [first, second] => first.status == denied && first.key != second.key,
                _ => false,
            };
            let last = attempts.last().map(|last| last.status);
            let is_outcome_true = match outcome {
                None => false,
                Some(Outcome::Answered(status)) => last == Some(*status),
                Some(Outcome::Denied) => last == Some(denied),
                Some(Outcome::Failed | Outcome::Cancelled) => true,
            };
            if !is_replay_justified || !is_outcome_true {
                let violation = format!("request {request}: {outcome:?} after {attempts:?}");
                self.violations.push(violation);
            }
        }
        if self.recovered_after.is_none_or(|after| after > RECOVERY) {
            self.violations.push(format!(
                "no request succeeds within {RECOVERY:?} of the last fault: {:?} is in force, and {} valid",
                self.model.in_force, self.newest
            ));
        }
        self.violations.append(&mut self.model.violations);
    }

    pub(crate) fn tally(&mut self) -> Tally {
        let mut tally = std::mem::take(&mut self.model.tally);
        tally.add("seeds", 1);
        tally.add("rotations", self.newest);
        tally.add("requests", self.outcomes.len() as u64);
        for outcome in self.outcomes.iter().flatten() {
            let name = match outcome {
                Outcome::Answered(_) => "answered",
                Outcome::Denied => "denied",
                Outcome::Failed => "failed",
                Outcome::Cancelled => "cancelled",
            };
            tally.add(name, 1);
        }
        let arrivals = self.arrivals.iter();
        let arrived: BTreeSet<_> = arrivals.map(|arrival| arrival.request).collect();
        tally.add("replays", (self.arrivals.len() - arrived.len()) as u64);
        tally
    }
}
