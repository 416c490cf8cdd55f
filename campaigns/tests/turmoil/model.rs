//! The store's contract, as a model that records what happens and reports violations.

use campaigns::key;
use campaigns::tally::Tally;
use tokio::time::Instant;
use tower_anyreach::CredentialStore;

use crate::scene::Shared;
use crate::{FETCH, MARGIN};

#[derive(Default)]
pub(crate) struct Model {
    /// The generation in force, once a first fetch has succeeded, and the one before it.
    pub(crate) in_force: Option<u64>,
    replaced: Option<u64>,
    version: u64,
    /// When the fetch in flight began, and the version that was in force then.
    pub(crate) fetch: Option<(Instant, u64)>,
    /// The result of the last fetch, if the store may take it.
    offered: Option<u64>,
    pub(crate) tally: Tally,
    pub(crate) violations: Vec<String>,
}

impl Model {
    fn begin(&mut self) {
        self.tally.add("fetches", 1);
        let fetch = (Instant::now(), self.version);
        if self.fetch.replace(fetch).is_some() {
            self.violations.push("two fetches at once".to_owned());
        }
    }

    fn end(&mut self, fetched: Option<u64>) {
        let Some((began, version)) = self.fetch.take() else {
            return self.violations.push("a fetch ended twice".to_owned());
        };
        let took = began.elapsed();
        if took > FETCH + MARGIN {
            self.violations.push(format!("a fetch took {took:?}"));
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

    pub(crate) fn rotate(&mut self, generation: u64) {
        self.replaced = self.in_force.replace(generation);
        self.version += 1;
    }

    /// Checks that the store has taken the result of the last fetch, which it may leave out only if it has just replaced it, and
    /// that it has in force what the model has.
    pub(crate) fn compare(&mut self, store: &CredentialStore) {
        if let Some(offered) = self.offered.take() {
            if store.version() > self.version {
                self.rotate(offered);
            } else if self.replaced != Some(offered) {
                self.violations.push(format!("{offered} was not taken"));
            } else {
                self.tally.add("left out", 1);
            }
        }
        let in_force = self.in_force.map(|n| support::credential(&key(n)));
        let expected = in_force
            .as_ref()
            .map(|credential| (credential.id(), self.version));
        let (credential, version) = (store.credential(), store.version());
        if expected != Some((credential.id(), version)) {
            let found = (credential.id(), version);
            let violation = format!("{found:?} is in force, and not {expected:?}");
            self.violations.push(violation);
        }
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
        locked.model.begin();
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
            scene.model.tally.add("abandoned fetches", 1);
            scene.model.fetch = None;
        } else {
            scene.model.end(self.fetched);
        }
    }
}
