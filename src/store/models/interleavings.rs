//! Every interleaving of a few threads at the lock and the shards, within loom's bounds.
//!
//! `RUSTFLAGS='--cfg anyreach_loom' cargo test --lib --release models -- --nocapture` prints how many there were. Tickets are not
//! loom's: what is checked is the order of the steps, not the memory order of `OnceLock`, which std guarantees.

use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Weak};
use std::time::Duration;

use loom::thread::{self, JoinHandle};

use crate::credential::Credential;
use crate::source::{SourceError, SourceErrorReason};
use crate::store::Refreshed;
use crate::store::core::{Begun, Core, fingerprint};
use crate::store::state::{Asked, End, State, Ticket, Verdict};

const LIMIT: Duration = Duration::from_secs(3_600);

fn credential(name: &str) -> Credential {
    Credential::parse(format!("ak_{name}.secret")).unwrap()
}

fn store(limit: Duration) -> Arc<Core> {
    Arc::new(Core::new(credential("old"), limit, Weak::new()))
}

fn spawn<T: 'static>(store: &Arc<Core>, run: impl FnOnce(&Core) -> T + 'static) -> JoinHandle<T> {
    let store = Arc::clone(store);
    thread::spawn(move || run(&store))
}

/// The id in force, and its version.
fn in_force(store: &Core) -> (u64, String) {
    let snapshot = store.snapshot();
    assert_eq!(store.version(), snapshot.version);
    (snapshot.version, snapshot.credential.id().to_string())
}

/// Runs a fetch, if one was begun, to its end: the source gives the credential of this name. Returns what each came to.
fn run(store: &Core, begun: Option<Begun>, name: &str) -> Vec<Refreshed> {
    let mut ticket = begun.map(|begun| begun.ticket);
    let mut outcomes = Vec::new();
    while let Some(fetch) = ticket {
        let Some((ended, _)) = store.ended(&fetch, &Ok(credential(name)), 0.0) else {
            break;
        };
        outcomes.push(ended.outcome.unwrap());
        ticket = ended.next;
    }
    outcomes
}

/// Reports a 401 to version 1, and runs the look that it leads to, if it is this caller's.
fn denied(store: &Core, name: &str) -> (Option<Ticket>, usize) {
    let sent = fingerprint(&credential("old"));
    let ((_, verdict), begun) = store.denied(sent, true);
    let looks = run(store, begun, name).len();
    match verdict {
        Verdict::Wait(Asked { ticket, .. }) => (Some(ticket), looks),
        Verdict::Replay | Verdict::Deny => (None, looks),
        Verdict::NotBegun => panic!("it can begin"),
    }
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
        let store = store(LIMIT);
        let rotating = spawn(&store, |store| store.rotate(credential("rotated")));
        let denied = spawn(&store, |store| denied(store, "fetched"));
        let (_, begun) = store.call();
        let calls = run(&store, begun, "fetched");
        let (rotated, _) = rotating.join().unwrap();
        let (ticket, looks) = denied.join().unwrap();
        // Version 1 is gone, so that each 401 to it can be replayed; no waiter is left.
        let (version, id) = in_force(&store);
        assert!(
            (2..=4).contains(&version) && version >= rotated,
            "{version}"
        );
        assert!(!id.starts_with("ak_old"), "{id}");
        assert!(ticket.is_none_or(|ticket| ticket.end().is_some()));
        // What was ignored is not in force.
        let ignored = calls.iter().filter(|call| **call == Refreshed::Ignored);
        if looks == 0 && ignored.count() == calls.len() {
            assert!(id.starts_with("ak_rotate"), "{id}");
        }
    });
}

#[test]
fn two_401s_to_one_version_cost_one_look_whatever_else_is_in_flight() {
    explore("two 401s x poll", || {
        let store = store(LIMIT);
        let threads = [0, 1].map(|_| spawn(&store, |store| denied(store, "old")));
        let polls = run(&store, store.poll(), "old");
        let mut looks = 0;
        // All of them have ended before any ticket is looked at.
        for (ticket, run) in threads.map(|denied| denied.join().unwrap()) {
            looks += run;
            assert!(ticket.is_none_or(|ticket| matches!(ticket.end(), Some(End::Outcome(_)))));
        }
        // The owed look runs after the poll, in the same task.
        assert!(
            (1..=2).contains(&(looks + polls.len())),
            "{looks} {polls:?}"
        );
        assert_eq!(in_force(&store).0, 1);
    });
}

#[test]
fn a_fetch_that_is_lost_leaves_no_waiter_behind() {
    explore("lost fetch x two 401s", || {
        let store = store(LIMIT);
        let (_, begun) = store.call();
        let lost = begun.unwrap().ticket;
        let losing = spawn(&store, move |store| store.lost(&lost));
        let denials = [0, 1].map(|_| spawn(&store, |store| denied(store, "new")));
        losing.join().unwrap();
        for (ticket, _) in denials.map(|denied| denied.join().unwrap()) {
            let Some(ticket) = ticket else { continue };
            // Lost too, and then its waiter asks again; or run by one of the two.
            match ticket.end() {
                Some(End::Lost) => drop(self::denied(&store, "new")),
                Some(End::Outcome(outcome)) => assert!(outcome.is_ok()),
                None => panic!("a waiter is left"),
            }
        }
        assert_eq!(in_force(&store).0, 2);
    });
}

#[test]
fn a_late_fetch_gives_way_and_its_end_changes_nothing() {
    explore("late end x successor x rotation", || {
        // Without patience each fetch is late at once.
        let store = store(Duration::ZERO);
        let (_, begun) = store.call();
        let late = begun.unwrap().ticket;
        let ending = spawn(&store, move |store| {
            let ended = store.ended(&late, &Ok(credential("late")), 0.0);
            (late, ended.map(|(ended, _)| ended.outcome.unwrap()))
        });
        let succeeding = spawn(&store, |store| {
            let (asked, begun) = store.call();
            (asked.ticket, run(store, begun, "new"))
        });
        let (rotated, _) = store.rotate(credential("rotated"));
        let (late, ended) = ending.join().unwrap();
        let (successor, _) = succeeding.join().unwrap();
        assert_eq!(matches!(late.end(), Some(End::Lost)), ended.is_none());
        assert!(matches!(successor.end(), Some(End::Outcome(_))));
        let (version, id) = in_force(&store);
        assert!((2..=4).contains(&version) && version >= rotated);
        // What the late one brought never follows a rotation or its successor.
        assert!(!id.starts_with("ak_late"), "{id}");
    });
}

#[test]
fn a_failure_is_counted_once_and_changes_nothing() {
    explore("failing look x 401", || {
        let store = store(LIMIT);
        let fail = |store: &Core| {
            let sent = fingerprint(&credential("old"));
            if let (_, Some(begun)) = store.denied(sent, true) {
                let error = SourceError::new("model", SourceErrorReason::Failed, None);
                let (ended, _) = store.ended(&begun.ticket, &Err(error), 0.0).unwrap();
                assert!(ended.outcome.is_err() && ended.next.is_none());
            }
        };
        let other = spawn(&store, fail);
        fail(&store);
        other.join().unwrap();
        assert_eq!(store.state(State::failures), 1);
        assert_eq!(in_force(&store).0, 1);
    });
}

#[test]
fn a_reader_sees_the_old_snapshot_or_the_new_one_and_never_goes_back() {
    explore("rotation x two readers", || {
        let store = store(LIMIT);
        let readers = [0, 1].map(|shard| {
            spawn(&store, move |store| {
                let version = store.version();
                let snapshot = store.snapshot_at(shard);
                let of_version = [credential("old"), credential("new")];
                let expected = &of_version[usize::from(snapshot.version == 2)];
                assert_eq!(snapshot.credential.id(), expected.id());
                // The version is raised when every shard has the snapshot.
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

/// A waiter reads the end of a ticket without the lock, and then what is in force.
#[test]
fn whoever_sees_the_end_of_a_fetch_sees_what_it_brought() {
    explore("end of a fetch x two waiters", || {
        let store = store(LIMIT);
        let (_, begun) = store.call();
        let begun = begun.unwrap();
        let waiters = [0, 1].map(|shard| {
            let ticket = begun.ticket.clone();
            spawn(&store, move |store| {
                let has_ended = ticket.end().is_some();
                let snapshot = store.snapshot_at(shard);
                assert!(!has_ended || snapshot.version == 2);
            })
        });
        run(&store, Some(begun), "new");
        for waiter in waiters {
            waiter.join().unwrap();
        }
    });
}
