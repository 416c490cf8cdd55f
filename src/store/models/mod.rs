//! The store's state machine under model checkers: what stands in for time and for tokio's channels.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
#![allow(clippy::print_stdout, reason = "how much was explored is the result")]

#[cfg(anyreach_loom)]
mod interleavings;
#[cfg(anyreach_shuttle)]
mod schedules;

use std::ops::Add;
use std::sync::Arc;
use std::time::Duration;

use super::cell::{Cell, Outcome};
use crate::credential::Credential;
use crate::sync::{Condvar, Mutex, lock};

/// A point in time, which passes only when a model says so.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Tick(Duration);

impl Add<Duration> for Tick {
    type Output = Self;

    fn add(self, later: Duration) -> Self {
        Self(self.0 + later)
    }
}

/// What those who wait for a fetch wait on.
#[derive(Clone, Default)]
struct Flight(Arc<Landing>);

#[derive(Default)]
struct Landing {
    /// `Some(None)` if the flight was abandoned.
    #[allow(
        clippy::option_option,
        reason = "whether it has ended, and whether with an outcome"
    )]
    ended: Mutex<Option<Option<Outcome>>>,
    woken: Condvar,
}

impl Flight {
    fn end(&self, outcome: Option<Outcome>) {
        *lock(&self.0.ended) = Some(outcome);
        self.0.woken.notify_all();
    }

    fn wait(&self) -> Option<Outcome> {
        let mut ended = lock(&self.0.ended);
        loop {
            if let Some(outcome) = ended.clone() {
                return outcome;
            }
            ended = self.0.woken.wait(ended).unwrap();
        }
    }
}

type Store = Cell<Flight, Tick>;

fn credential(name: &str) -> Credential {
    Credential::parse(format!("ak_{name}.secret")).unwrap()
}
