//! Every interleaving of a few threads at the lock and the shards, within loom's bounds.
//!
//! `RUSTFLAGS='--cfg anyreach_loom' cargo test --lib --release models -- --nocapture` prints how
//! many there were.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::time::Duration;

use loom::thread::{self, JoinHandle};

use crate::credential::Credential;
use crate::source::{SourceError, SourceErrorReason};
use crate::store::core::{Core, fingerprint};
use crate::store::fetch::Source;
use crate::store::state::{Progress, State};
use crate::store::{Outcome, Refreshed};

const LIMIT: Duration = Duration::from_secs(3_600);

fn credential(name: &str) -> Credential {
    Credential::parse(format!("ak_{name}.secret")).unwrap()
}

/// A store whose source is never asked, because no model has a runtime: the models set the result
/// of a fetch.
fn store() -> Arc<Core> {
    let source = Source {
        source: Arc::new(async || Ok(credential("never"))),
        limit: LIMIT,
    };
    Core::new(credential("old"), Some(source))
}

fn spawn<T: 'static>(
    store: &Arc<Core>,
    run: impl FnOnce(&Arc<Core>) -> T + 'static,
) -> JoinHandle<T> {
    let store = Arc::clone(store);
    thread::spawn(move || run(&store))
}

/// The id in force, and its version.
fn in_force(store: &Core) -> (u64, String) {
    let snapshot = store.snapshot();
    assert_eq!(version(store), snapshot.version);
    (snapshot.version, snapshot.credential.id().to_string())
}

fn version(store: &Core) -> u64 {
    store.state(|state, _| state.version())
}

fn call(store: &Arc<Core>) -> (u64, bool) {
    store.ask(None, State::call)
}

fn progress(store: &Core, number: u64) -> Progress {
    store.state(|state, now| state.progress(number, now))
}

fn has_ended(store: &Core, number: u64) -> bool {
    matches!(progress(store, number), Progress::Ended(_))
}

fn outcome(store: &Core, number: u64) -> Outcome {
    match progress(store, number) {
        Progress::Ended(outcome) => outcome,
        Progress::InFlight(..) | Progress::Lost => panic!("fetch {number} has not ended"),
    }
}

/// Runs a fetch that was begun, and what is owed after it, to the end: the source gives the
/// credential of this name. Returns how many there were.
fn run(store: &Core, (number, is_begun): (u64, bool), name: &str) -> usize {
    let (mut next, mut fetches) = (is_begun.then_some(number), 0);
    while let Some(number) = next {
        next = store.ended(number, &Ok(credential(name)), 0.0);
        fetches += usize::from(has_ended(store, number));
    }
    fetches
}

/// Reports a 401 to version 1, and runs the look that it leads to, if it is this caller's. Returns
/// the look, and how many fetches ran.
fn denied(store: &Arc<Core>, name: &str) -> (Option<u64>, usize) {
    let sent = fingerprint(&credential("old"));
    let (look, is_begun) = store.ask(None, |state, now| {
        let (_, look) = state.denied(sent, true, now);
        assert!(look.is_none() || state.in_force() == sent);
        look
    });
    (
        look,
        look.map_or(0, |look| run(store, (look, is_begun), name)),
    )
}

/// Explores a model, and prints how many interleavings it has.
fn explore(name: &str, model: impl Fn() + Send + Sync + 'static) {
    let count = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&count);
    loom::model::Builder::new().check(move || {
        counted.fetch_add(1, Relaxed);
        model();
    });
    println!("{name}: {} interleavings", count.load(Relaxed));
}

#[test]
fn a_fetch_during_which_rotate_changed_the_credential_is_not_taken() {
    explore("rotation x call x 401", || {
        let store = store();
        let rotating = spawn(&store, |store| store.rotate(credential("rotated")));
        let denied = spawn(&store, |store| denied(store, "fetched"));
        let ((number, began_at), is_begun) =
            store.ask(None, |state, now| (state.call(now), state.version()));
        let calls = run(&store, (number, is_begun), "fetched");
        let rotated = rotating.join().unwrap();
        let (look, looks) = denied.join().unwrap();
        // Version 1 is gone, so that each 401 to it can be replayed; no waiter is left.
        let (version, id) = in_force(&store);
        assert!(
            (2..=4).contains(&version) && version >= rotated,
            "{version}"
        );
        assert!(!id.starts_with("ak_old"), "{id}");
        let is_in_flight = |look| matches!(progress(&store, look), Progress::InFlight(..));
        assert!(!look.is_some_and(is_in_flight));
        if (looks, calls) == (0, 1) {
            // The version after the one at which the fetch began is the fetch's or the rotation's.
            let outcome = outcome(&store, number).unwrap();
            assert!(outcome != Refreshed::Rotated || rotated != began_at + 1);
            assert!(outcome != Refreshed::Ignored || id.starts_with("ak_rotate"));
        }
    });
}

#[test]
fn two_401s_to_one_version_cost_one_look_whatever_else_is_in_flight() {
    explore("two 401s x poll", || {
        let store = store();
        let threads = [0, 1].map(|_| spawn(&store, |store| denied(store, "old")));
        let (poll, is_begun) = store.ask(None, State::poll);
        let polls = run(&store, (poll.unwrap_or_default(), is_begun), "old");
        let mut looks = 0;
        // All of them have ended before any is looked at.
        for (look, run) in threads.map(|denied| denied.join().unwrap()) {
            looks += run;
            assert!(look.is_none_or(|look| has_ended(&store, look)));
        }
        // The owed look runs after the poll, in the same task.
        assert!((1..=2).contains(&(looks + polls)), "{looks} {polls}");
        assert_eq!(in_force(&store).0, 1);
    });
}

#[test]
fn a_fetch_that_is_lost_leaves_no_waiter_behind() {
    explore("lost fetch x two 401s", || {
        let store = store();
        let (lost, _) = call(&store);
        let losing = spawn(&store, move |store| store.lost(lost));
        let denials = [0, 1].map(|_| spawn(&store, |store| denied(store, "new")));
        losing.join().unwrap();
        for (look, _) in denials.map(|denied| denied.join().unwrap()) {
            let Some(look) = look else { continue };
            // Lost too, and then its waiter asks again; or run by one of the two.
            match progress(&store, look) {
                Progress::Lost => drop(denied(&store, "new")),
                Progress::Ended(outcome) => assert!(outcome.is_ok()),
                Progress::InFlight(..) => panic!("a waiter is left"),
            }
        }
        assert_eq!(in_force(&store).0, 2);
    });
}

#[test]
fn a_late_fetch_gives_way_and_its_end_changes_nothing() {
    explore("late end x successor x rotation", || {
        let store = store();
        // Each fetch is late at once.
        store.state(|state, _| state.patience = Duration::ZERO);
        let (late, _) = call(&store);
        let ending = spawn(&store, move |store| {
            store.ended(late, &Ok(credential("late")), 0.0);
            has_ended(store, late)
        });
        let succeeding = spawn(&store, |store| {
            let called = call(store);
            run(store, called, "new");
            called.0
        });
        let rotated = store.rotate(credential("rotated"));
        ending.join().unwrap();
        let successor = succeeding.join().unwrap();
        assert!(successor > late && has_ended(&store, successor));
        let (version, id) = in_force(&store);
        assert!((2..=4).contains(&version) && version >= rotated);
        // What the late one brought never follows a rotation or its successor.
        assert!(!id.starts_with("ak_late"), "{id}");
    });
}

#[test]
fn a_failure_is_counted_once_and_changes_nothing() {
    explore("failing look x 401", || {
        let store = store();
        let fail = |store: &Arc<Core>| {
            let sent = fingerprint(&credential("old"));
            let ((_, look), is_begun) = store.ask(None, |state, now| state.denied(sent, true, now));
            if is_begun {
                let error = SourceError::new("model", SourceErrorReason::Failed, None);
                assert!(store.ended(look.unwrap(), &Err(error), 0.0).is_none());
                assert!(outcome(store, look.unwrap()).is_err());
            }
        };
        let other = spawn(&store, fail);
        fail(&store);
        other.join().unwrap();
        assert_eq!(store.status().failures(), 1);
        assert_eq!(in_force(&store).0, 1);
    });
}

#[test]
fn a_reader_sees_the_old_snapshot_or_the_new_one_and_never_goes_back() {
    explore("rotation x two readers", || {
        let store = store();
        let readers = [0, 1].map(|shard| {
            spawn(&store, move |store| {
                let version = version(store);
                let snapshot = store.snapshot_at(shard);
                let of_version = [credential("old"), credential("new")];
                let expected = &of_version[usize::from(snapshot.version == 2)];
                assert_eq!(snapshot.credential.id(), expected.id());
                // The version is seen when every shard has the snapshot.
                assert!(snapshot.version >= version);
            })
        });
        store.rotate(credential("new"));
        assert!([0, 1].map(|shard| store.snapshot_at(shard).version) == [2, 2]);
        for reader in readers {
            reader.join().unwrap();
        }
    });
}

/// A waiter reads how far a fetch is, and then what is in force.
#[test]
fn a_waiter_that_sees_the_end_of_a_fetch_sees_what_it_brought() {
    explore("end of a fetch x two waiters", || {
        let store = store();
        let (number, is_begun) = call(&store);
        let waiters = [0, 1].map(|shard| {
            spawn(&store, move |store| {
                let has_ended = has_ended(store, number);
                let snapshot = store.snapshot_at(shard);
                assert!(!has_ended || snapshot.version == 2);
            })
        });
        run(&store, (number, is_begun), "new");
        for waiter in waiters {
            waiter.join().unwrap();
        }
    });
}
