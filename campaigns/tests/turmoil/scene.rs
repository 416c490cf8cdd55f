//! The state that all hosts share, which survives their crashes, and in it a model of the store that is compared with it.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use campaigns::key;
use campaigns::tally::Tally;
use http::StatusCode;
use support::credential;
use tokio::time::Instant;
use tower_anyreach::CredentialStore;

use crate::{FETCH, MARGIN, RECOVERY};

#[derive(Clone, Default)]
pub(crate) struct Shared(Arc<Mutex<Scene>>);

impl Shared {
    pub(crate) fn lock(&self) -> MutexGuard<'_, Scene> {
        self.0.lock().unwrap()
    }
}

#[derive(Default)]
pub(crate) struct Scene {
    /// What violations begin with.
    pub(crate) name: String,
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
    /// The generation in force, once a first fetch has succeeded, and the one before it.
    in_force: Option<u64>,
    replaced: Option<u64>,
    version: u64,
    /// When the fetch in flight began, and the version that was in force then.
    pub(crate) fetch: Option<(Instant, u64)>,
    /// The result of the last fetch, if the store may take it.
    offered: Option<u64>,
    /// The requests that the API received, in their order.
    pub(crate) arrivals: Vec<Arrival>,
    /// The outcome of each request, `None` while it is in flight.
    pub(crate) outcomes: Vec<Option<Outcome>>,
    /// How long after the last fault a request succeeded.
    pub(crate) recovered_after: Option<Duration>,
    pub(crate) tally: Tally,
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
    Denies(u64),
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
    pub(crate) fn violation(&mut self, what: &str) {
        self.tally.violation(|| format!("{}: {what}", self.name));
    }

    /// The operator creates a key, and may rotate the store to it.
    pub(crate) fn create_key(&mut self, is_pushed: bool) {
        self.newest += 1;
        self.compare();
        if let Some(store) = self.store.as_ref().filter(|_| is_pushed) {
            store.rotate(credential(&key(self.newest)));
            self.rotate(self.newest);
        }
    }

    fn rotate(&mut self, generation: u64) {
        self.replaced = self.in_force.replace(generation);
        self.version += 1;
    }

    fn end_fetch(&mut self, fetched: Option<u64>) {
        let Some((began, version)) = self.fetch.take() else {
            return self.violation("a fetch ended twice");
        };
        let took = began.elapsed();
        if took > FETCH + MARGIN {
            self.violation(&format!("a fetch took {took:?}"));
        }
        if fetched.is_none() {
            self.tally.add("failed fetches", 1);
        } else if self.in_force.is_none() {
            (self.in_force, self.version) = (fetched, 1);
        } else if version == self.version {
            // Otherwise `rotate` changed the credential during the fetch.
            self.offered = fetched.filter(|_| fetched != self.in_force);
        }
    }

    /// Checks that the store has taken the result of the last fetch, which it may leave out only if it has just replaced it, and
    /// that it has in force what the model has.
    pub(crate) fn compare(&mut self) {
        let Some(store) = self.store.clone() else {
            return;
        };
        if let Some(offered) = self.offered.take() {
            if store.version() > self.version {
                self.rotate(offered);
            } else if self.replaced != Some(offered) {
                self.violation(&format!("{offered} was not taken"));
            } else {
                self.tally.add("left out", 1);
            }
        }
        let expected = self.in_force.map(|n| credential(&key(n)).id().clone());
        let (expected, credential) = ((expected, self.version), store.credential());
        let found = (Some(credential.id().clone()), store.version());
        if expected != found {
            self.violation(&format!("{found:?} is in force, and not {expected:?}"));
        }
    }

    /// Compares the outcome of each request with what the API received, and counts all.
    pub(crate) fn audit(&mut self) {
        let mut attempts: Vec<Vec<Arrival>> = vec![Vec::new(); self.outcomes.len()];
        for arrival in &self.arrivals {
            attempts[arrival.request].push(*arrival);
        }
        let denied = StatusCode::UNAUTHORIZED;
        let outcomes = std::mem::take(&mut self.outcomes);
        for (request, (outcome, attempts)) in outcomes.iter().zip(&attempts).enumerate() {
            let is_replay_justified = match attempts[..] {
                [] | [_] => true,
                [first, second] => first.status == denied && first.key != second.key,
                _ => false,
            };
            let last = attempts.last().map(|last| last.status);
            let (name, is_outcome_true) = match outcome {
                None => ("unfinished", false),
                Some(Outcome::Answered(status)) => ("answered", last == Some(*status)),
                Some(Outcome::Denied) => ("denied", last == Some(denied)),
                Some(Outcome::Failed) => ("failed", true),
                Some(Outcome::Cancelled) => ("cancelled", true),
            };
            self.tally.add(name, 1);
            if !is_replay_justified || !is_outcome_true {
                self.violation(&format!(
                    "request {request}: {outcome:?} after {attempts:?}"
                ));
            }
        }
        if self.recovered_after.is_none_or(|after| after > RECOVERY) {
            self.violation(&format!(
                "no request succeeds within {RECOVERY:?} of the last fault: {:?} is in force, and {} valid",
                self.in_force, self.newest
            ));
        }
        let arrivals = self.arrivals.iter();
        let arrived: BTreeSet<_> = arrivals.map(|arrival| arrival.request).collect();
        let replays = self.arrivals.len() - arrived.len();
        self.tally.add("seeds", 1);
        self.tally.add("rotations", self.newest);
        self.tally.add("requests", outcomes.len() as u64);
        self.tally.add("replays", replays as u64);
    }
}

/// A fetch in flight. Dropping it ends it.
pub(crate) struct Fetch {
    scene: Shared,
    fetched: Option<u64>,
}

impl Fetch {
    pub(crate) fn begin(scene: &Shared) -> Self {
        let mut locked = scene.lock();
        locked.compare();
        locked.tally.add("fetches", 1);
        let fetch = (Instant::now(), locked.version);
        if locked.fetch.replace(fetch).is_some() {
            locked.violation("two fetches at once");
        }
        Self {
            scene: scene.clone(),
            fetched: None,
        }
    }

    pub(crate) fn succeed(mut self, generation: u64) {
        self.fetched = Some(generation);
    }
}

impl Drop for Fetch {
    fn drop(&mut self) {
        let mut scene = self.scene.lock();
        if scene.neighbour_crashes {
            scene.tally.add("abandoned fetches", 1);
            scene.fetch = None;
        } else {
            scene.end_fetch(self.fetched);
        }
    }
}
