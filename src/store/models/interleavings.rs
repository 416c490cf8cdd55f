//! Every interleaving of a few threads, within loom's bounds.
//!
//! `RUSTFLAGS='--cfg anyreach_loom' cargo test --lib --release models -- --nocapture` prints how many there were.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::time::Duration;

use loom::thread;

use super::{Flight, Store, Tick, credential};
use crate::source::{SourceError, SourceErrorReason};
use crate::store::Refreshed;
use crate::store::cell::{Fetch, Outcome, Step};

/// Time stands still: what rests does not wake within a model, and only what is overdue at once ever is.
const NOW: Tick = Tick(Duration::ZERO);
const LATER: Tick = Tick(Duration::from_secs(1));

fn in_force(store: &Store) -> (u64, String) {
    let snapshot = store.snapshot();
    assert_eq!(store.version(), snapshot.provenance.version);
    (
        snapshot.provenance.version,
        snapshot.credential.id().to_string(),
    )
}

/// What a caller of `refresh` does, with a source that gives `new`: fetch, wait, or neither.
fn refresh(store: &Store, refused: u64, fetches: &AtomicUsize, new: &str) -> Outcome {
    loop {
        let flight = Flight::default();
        match store.begin(refused, NOW, LATER, || flight.clone()) {
            Step::Done(outcome) => return outcome,
            Step::Fetch(fetch) => {
                fetches.fetch_add(1, Relaxed);
                let outcome = store.finish(fetch, Ok(credential(new)), NOW, 1.0);
                flight.end(Some(outcome.clone()));
                return outcome;
            }
            Step::Wait(flight) => {
                if let Some(outcome) = flight.wait() {
                    return outcome;
                }
            }
        }
    }
}

/// Explores a model, and says how many interleavings it has.
fn explore(name: &str, model: impl Fn() + Send + Sync + 'static) {
    let count = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&count);
    let builder = loom::model::Builder::new();
    builder.check(move || {
        counted.fetch_add(1, Relaxed);
        model();
    });
    println!("{name}: {} interleavings", count.load(Relaxed));
}

#[test]
fn a_fetch_never_outdoes_a_rotation_that_came_after_it() {
    explore("publisher x refresher x late 401", || {
        let store = Arc::new(Store::new(1, credential("old")));
        let fetches = Arc::new(AtomicUsize::new(0));

        let publisher = {
            let store = Arc::clone(&store);
            thread::spawn(move || store.rotate(credential("rotated")))
        };
        let late = {
            let (store, fetches) = (Arc::clone(&store), Arc::clone(&fetches));
            thread::spawn(move || refresh(&store, 1, &fetches, "fetched").unwrap())
        };
        let begun = {
            let flight = Flight::default();
            match store.begin(store.version(), NOW, LATER, || flight.clone()) {
                Step::Fetch(fetch) => {
                    let outcome = store.finish(fetch, Ok(credential("fetched")), NOW, 1.0);
                    flight.end(Some(outcome));
                    Some(fetch.version)
                }
                Step::Done(_) | Step::Wait(_) => None,
            }
        };
        publisher.join().unwrap();
        // Whatever came first, version 1 is gone, so that who asked because of it may replay.
        assert_eq!(late.join().unwrap(), Refreshed::Rotated);

        let (version, id) = in_force(&store);
        assert!((2..=4).contains(&version), "{version}");
        // What was fetched for version 1 is in force only if nothing was rotated after it.
        if begun == Some(1) && fetches.load(Relaxed) == 0 {
            assert!(id.starts_with("ak_rotate"), "{version} {id}");
        }
        assert!(!id.starts_with("ak_old"), "{id}");
    });
}

#[test]
fn late_401s_for_one_version_cost_one_fetch() {
    explore("two late 401s x refresher", || {
        let store = Arc::new(Store::new(1, credential("old")));
        let fetches = Arc::new(AtomicUsize::new(0));
        let late: Vec<_> = (0..2)
            .map(|_| {
                let (store, fetches) = (Arc::clone(&store), Arc::clone(&fetches));
                thread::spawn(move || refresh(&store, 1, &fetches, "new").unwrap())
            })
            .collect();
        let general = refresh(&store, store.version(), &fetches, "new").unwrap();
        for late in late {
            assert_eq!(late.join().unwrap(), Refreshed::Rotated);
        }
        // One of the three fetched the new credential. The general one may have come after that, and have found it
        // unchanged with a fetch of its own.
        let fetches = fetches.load(Relaxed);
        assert!(
            fetches == 1 || (fetches == 2 && general == Refreshed::Unchanged),
            "{fetches} {general:?}"
        );
        assert_eq!(in_force(&store).0, 2);
    });
}

#[test]
fn a_leader_that_goes_away_leaves_nobody_waiting() {
    explore("canceller x leader x follower", || {
        let store = Arc::new(Store::new(1, credential("old")));
        let fetches = Arc::new(AtomicUsize::new(0));
        // The leader's runtime goes away in the middle of its fetch, if it came to fetch.
        let leader = {
            let store = Arc::clone(&store);
            thread::spawn(move || {
                let flight = Flight::default();
                if let Step::Fetch(fetch) =
                    store.begin(store.version(), NOW, LATER, || flight.clone())
                {
                    store.abandon(fetch);
                    flight.end(None);
                }
            })
        };
        let follower = {
            let (store, fetches) = (Arc::clone(&store), Arc::clone(&fetches));
            thread::spawn(move || refresh(&store, 1, &fetches, "new").unwrap())
        };
        let other = refresh(&store, 1, &fetches, "new").unwrap();
        leader.join().unwrap();
        assert_eq!(follower.join().unwrap(), Refreshed::Rotated);
        assert_eq!(other, Refreshed::Rotated);
        assert_eq!(fetches.load(Relaxed), 1);
        assert_eq!(in_force(&store).0, 2);
    });
}

/// A fetch whose runtime stands still until it is overdue, and which then ends so while others come.
fn overdue(name: &str, end: fn(&Store, Fetch)) {
    explore(name, move || {
        let store = Arc::new(Store::new(1, credential("old")));
        let fetches = Arc::new(AtomicUsize::new(0));
        let Step::Fetch(overdue) = store.begin(1, NOW, NOW, Flight::default) else {
            panic!("nobody else is here yet");
        };
        let leader = {
            let store = Arc::clone(&store);
            thread::spawn(move || end(&store, overdue))
        };
        let follower = {
            let (store, fetches) = (Arc::clone(&store), Arc::clone(&fetches));
            thread::spawn(move || refresh(&store, 1, &fetches, "new"))
        };
        let other = refresh(&store, 1, &fetches, "new");
        leader.join().unwrap();
        let outcomes = [follower.join().unwrap(), other];
        // The leader's failure is told to both, or to neither if one of them was faster.
        let failed = outcomes.iter().filter(|outcome| outcome.is_err()).count();
        assert_eq!(fetches.load(Relaxed), usize::from(failed < 2));
        assert_eq!(in_force(&store).0, 1 + u64::from(failed < 2));
        assert!(failed != 1, "{outcomes:?}");
    });
}

#[test]
fn who_comes_after_an_overdue_fetch_begins_another_and_only_one() {
    overdue(
        "overdue leader that is lost x two followers",
        Store::abandon,
    );
    overdue(
        "overdue leader that fails x two followers",
        |store, fetch| {
            let error = SourceError::new("model", SourceErrorReason::Failed, None);
            store.finish(fetch, Err(error), NOW, 1.0).unwrap_err();
        },
    );
}

#[test]
fn an_overdue_fetch_that_lands_late_outdoes_no_rotation() {
    explore("late landing x successor x rotation", || {
        let store = Arc::new(Store::new(1, credential("old")));
        let fetches = Arc::new(AtomicUsize::new(0));
        let Step::Fetch(overdue) = store.begin(1, NOW, NOW, Flight::default) else {
            panic!("nobody else is here yet");
        };
        let late = {
            let store = Arc::clone(&store);
            thread::spawn(move || store.finish(overdue, Ok(credential("late")), NOW, 1.0))
        };
        let successor = {
            let (store, fetches) = (Arc::clone(&store), Arc::clone(&fetches));
            thread::spawn(move || refresh(&store, 1, &fetches, "new").unwrap())
        };
        store.rotate(credential("rotated"));
        // Whichever of the two came first, version 1 is gone.
        assert_eq!(late.join().unwrap().unwrap(), Refreshed::Rotated);
        assert_eq!(successor.join().unwrap(), Refreshed::Rotated);
        assert!(fetches.load(Relaxed) <= 1);
        // At most one of the two fetches is put in force, and nothing after the rotation.
        let (version, id) = in_force(&store);
        assert!((2..=3).contains(&version), "{version}");
        assert!(id.starts_with("ak_rotate"), "{version} {id}");
    });
}

#[test]
fn a_failure_is_shared_and_changes_nothing() {
    explore("two callers x a failing source", || {
        let store = Arc::new(Store::new(1, credential("old")));
        let fetches = Arc::new(AtomicUsize::new(0));
        let call = |store: &Store, fetches: &AtomicUsize| {
            let flight = Flight::default();
            match store.begin(1, NOW, LATER, || flight.clone()) {
                Step::Done(outcome) => outcome,
                Step::Fetch(fetch) => {
                    fetches.fetch_add(1, Relaxed);
                    let error = SourceError::new("model", SourceErrorReason::Failed, None);
                    let outcome = store.finish(fetch, Err(error), NOW, 1.0);
                    flight.end(Some(outcome.clone()));
                    outcome
                }
                Step::Wait(flight) => flight.wait().expect("nobody abandons it"),
            }
        };
        let other = {
            let (store, fetches) = (Arc::clone(&store), Arc::clone(&fetches));
            thread::spawn(move || call(&store, &fetches))
        };
        assert!(call(&store, &fetches).is_err());
        assert!(other.join().unwrap().is_err());
        assert_eq!(fetches.load(Relaxed), 1);
        assert_eq!(in_force(&store).0, 1);
    });
}

#[test]
fn a_reader_sees_the_old_snapshot_or_the_new_one_and_never_goes_back() {
    explore("rotation x two readers", || {
        let store = Arc::new(Store::new(1, credential("old")));
        let readers: Vec<_> = (0..2)
            .map(|shard| {
                let store = Arc::clone(&store);
                thread::spawn(move || {
                    let version = store.version();
                    let snapshot = store.snapshot_at(shard);
                    let of_version = [credential("old"), credential("new")];
                    let expected = &of_version[usize::from(snapshot.provenance.version == 2)];
                    assert_eq!(snapshot.credential.id(), expected.id());
                    // The version is raised when every shard has the snapshot.
                    assert!(snapshot.provenance.version >= version);
                })
            })
            .collect();
        store.rotate(credential("new"));
        assert!(store.copies().all(|version| version == 2));
        for reader in readers {
            reader.join().unwrap();
        }
    });
}
