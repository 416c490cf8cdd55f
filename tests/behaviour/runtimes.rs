//! Where a fetch runs: on runtimes that are shared, that end, that stall, and that a source blocks.

use std::fmt;
use std::panic::resume_unwind;
use std::sync::{OnceLock, mpsc};

use tokio::runtime::{self, Runtime};

use crate::prelude::*;
use crate::scripted::{after_v1, panic_quietly};
use support::runtime::{current_thread, multi_thread, paused};

/// Ends a runtime with all its tasks, before it returns.
fn end(runtime: Runtime) {
    thread::scope(|scope| drop(scope.spawn(|| runtime.shutdown_timeout(SECOND * 5))));
}

/// The script's store, loaded on a runtime that has ended.
fn loaded(script: &Script) -> CredentialStore {
    current_thread().block_on(script.store())
}

/// Sends one request that is denied, and returns whether waiting for another credential helped.
async fn is_renewed(store: &CredentialStore) -> bool {
    denied(store).await.renewed().await
}

// No runtime.

#[test]
fn a_fetch_outside_of_a_runtime_is_a_typed_error_and_no_failure() {
    let error = now(CredentialStore::load(Script::new(Fetch::Gives("v1")))).unwrap_err();
    assert_eq!(error.reason(), SourceErrorReason::NoRuntime);

    let script = Script::new(Fetch::Gives("v2"));
    let store = loaded(&script);
    let is_without_runtime = |outcome: Result<Refreshed, SourceError>| {
        outcome.unwrap_err().reason() == SourceErrorReason::NoRuntime
    };
    assert!(is_without_runtime(now(store.refresh())));
    let denial = now(denied(&store));
    let mut renewed = task::spawn(denial.renewed());
    assert!(renewed.poll().is_pending(), "it yields once");
    assert_eq!(renewed.poll(), Poll::Ready(false));
    // One without a timer, and one that has ended.
    let without_timer = runtime::Builder::new_current_thread().build().unwrap();
    assert!(is_without_runtime(without_timer.block_on(store.refresh())));
    assert!(!without_timer.block_on(is_renewed(&store)));
    let ended = current_thread().handle().clone();
    let entered = ended.enter();
    assert!(is_without_runtime(now(store.refresh())));
    drop(entered);
    assert_eq!((script.fetches(), store.status().failures()), (0, 0));

    // The denial that came without a runtime is renewed on one.
    assert!(current_thread().block_on(denial.renewed()));
    assert_in_force(&store, "v2");
}

#[test]
#[should_panic(expected = "timers are disabled")]
fn load_panics_without_a_timer() {
    let without_timer = runtime::Builder::new_current_thread().build().unwrap();
    drop(without_timer.block_on(CredentialStore::load(Script::new(Fetch::Gives("v1")))));
}

// Runtimes that end.

/// As tests share a `static`, each with a runtime of its own.
#[test]
fn a_store_in_a_static_serves_one_runtime_after_another_and_many_at_once() {
    static STORE: OnceLock<CredentialStore> = OnceLock::new();
    let store = STORE.get_or_init(|| loaded(&Script::new(Fetch::GivesFresh)));
    let refresh_often = || {
        for _ in 0..50 {
            let outcome = current_thread().block_on(store.refresh());
            assert_eq!(outcome.unwrap(), Refreshed::Rotated);
        }
    };
    refresh_often();
    assert!(paused().block_on(is_renewed(store)));
    thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(refresh_often);
        }
    });
}

/// A rest that a paused clock has set far ahead is over on a runtime whose clock runs.
#[test]
fn a_rest_and_a_fetch_of_a_paused_clock_do_not_hold_on_a_running_one() {
    let script = Script::new(Fetch::Gives("v1"));
    let store = loaded(&script);
    paused().block_on(async {
        sleep(SECOND * 3_600).await;
        assert!(!is_renewed(&store).await);
    });
    // The second fetch hangs on a runtime that is not driven, with a deadline two hours ahead.
    script.set(Fetch::Hangs);
    let stalled = paused();
    stalled.block_on(async {
        sleep(SECOND * 7_200).await;
        denied(&store).await;
        settle().await;
    });
    script.set(Fetch::Gives("v2"));
    assert!(current_thread().block_on(is_renewed(&store)));
    assert_in_force(&store, "v2");
}
#[tokio::test]
async fn callers_begin_again_on_their_own_runtime_when_that_of_the_fetch_ends() {
    let script = Script::new(Fetch::Hangs);
    let store = script.store().await;
    let other = multi_thread(1);
    let begun = store.clone();
    drop(other.spawn(async move { drop(denied(&begun).await) }));
    while script.in_flight() == 0 {
        yield_now().await;
    }
    script.set(Fetch::Gives("v3"));
    let denial = denied(&store).await;
    let mut waits = [denial.renewed(), denial.renewed()].map(task::spawn);
    for wait in &mut waits {
        // The first poll yields.
        assert!(wait.poll().is_pending() && wait.poll().is_pending());
    }
    let mut refresh = task::spawn(store.refresh());
    assert!(refresh.poll().is_pending());
    end(other);
    assert!(refresh.is_woken());
    for wait in waits {
        assert!(wait.await);
    }
    refresh.await.unwrap();
    assert_in_force(&store, "v3");
}

#[test]
fn two_thousand_runtimes_that_end_in_mid_fetch_cause_no_wrong_error() {
    let script = Script::new(Fetch::GivesFresh);
    let store = loaded(&script);
    script.delay(1);
    let give_up_often = || {
        for round in 0..1_000_u64 {
            let given_up = Duration::from_micros(round % 20 * 100);
            let refresh = async { timeout(given_up, store.refresh()).await };
            drop(current_thread().block_on(refresh));
        }
    };
    thread::scope(|scope| {
        let others = [scope.spawn(give_up_often), scope.spawn(give_up_often)];
        let mut outcomes = 0;
        current_thread().block_on(async {
            while !others.iter().all(thread::ScopedJoinHandle::is_finished) {
                let outcome = timeout(SECOND * 10, store.refresh()).await;
                outcome.expect("stuck").unwrap();
                outcomes += 1;
            }
        });
        assert!(outcomes > 100);
    });
}

/// Also after a look that brought nothing new.
#[test]
#[cfg(feature = "retry")]
fn a_runtime_for_each_request_recovers() {
    let script = Script::new(Fetch::Gives("v1"));
    let store = loaded(&script);
    script.delay(20);
    let client = client(&store, Server::accepting(&["v2"]));
    let request = || current_thread().block_on(client.clone().oneshot(get_agents()));
    for _ in 0..20 {
        assert!(request().unwrap_err().is_unauthorized());
    }
    script.set(Fetch::Gives("v2"));
    // The rest after the first look.
    thread::sleep(SECOND);
    for _ in 0..20 {
        assert_eq!(request().unwrap().status(), StatusCode::OK);
    }
}
#[test]
fn polling_ends_with_its_runtime_in_mid_poll_and_everything_else_goes_on() {
    let script = Script::new(Fetch::Gives("v1"));
    let polling = multi_thread(1);
    let loader = CredentialStore::loader(script.clone()).refresh_every(MILLI * 10);
    let store = polling.block_on(loader.load()).unwrap();
    script.set(Fetch::Hangs);
    thread::sleep(MILLI * 100);
    let fetches = script.fetches();
    assert_eq!(script.in_flight(), 1);
    end(polling);
    script.set(Fetch::GivesFresh);
    current_thread().block_on(async {
        sleep(MILLI * 100).await;
        assert_eq!((script.fetches(), script.in_flight()), (fetches, 0));
        assert!(is_renewed(&store).await);
        assert_eq!(store.refresh().await.unwrap(), Refreshed::Rotated);
        assert_eq!((script.fetches(), store.version()), (fetches + 2, 3));
    });
}

// Runtimes that stall, and sources that block.

#[test]
fn a_runtime_that_is_not_driven_holds_up_a_look_for_one_limit() {
    let script = Script::new(Fetch::Gives("v2"));
    let stalled = current_thread();
    let store = stalled.block_on(async {
        let store = script.store_with_limit(MILLI * 300).await;
        script.delay(3_600_000);
        drop(denied(&store).await);
        settle().await;
        script.delay(0);
        store
    });
    assert_eq!(script.fetches(), 1);
    let driven = current_thread();
    let (first, second, waited) = driven.block_on(async {
        let asked = Instant::now();
        let denial = denied(&store).await;
        let first = denial.renewed().await;
        let waited = asked.elapsed();
        (first, is_renewed(&store).await, waited)
    });
    assert!(!first && waited < MILLI * 500, "{waited:?}");
    assert!(second, "the late fetch was replaced");
    assert_in_force(&store, "v2");
    // The late fetch ends as soon as its runtime is driven.
    stalled.block_on(settle());
    assert_eq!(stalled.handle().metrics().num_alive_tasks(), 0);
    assert_eq!((script.fetches(), store.version()), (2, 2));
}
#[test]
fn a_source_that_blocks_its_thread_is_never_asked_a_second_time_and_its_callers_time_out() {
    let (release, released) = mpsc::channel::<()>();
    let released = Arc::new(Mutex::new(released));
    let asked = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&asked);
    let source = after_v1(move || {
        counted.fetch_add(1, Ordering::Relaxed);
        let released = Arc::clone(&released);
        async move {
            // Until the other end is dropped.
            let _disconnected = released.lock().unwrap().recv();
            Ok(key_of("v2"))
        }
    });
    let runtime = multi_thread(4);
    let loader = CredentialStore::loader(source).timeout(MILLI * 10);
    let loader = loader.refresh_every(MILLI * 50);
    let store = runtime.block_on(loader.load()).unwrap();
    runtime.block_on(async {
        for _ in 0..5 {
            let outcome = timeout(SECOND * 10, store.refresh()).await.expect("stuck");
            assert_eq!(outcome.unwrap_err().reason(), SourceErrorReason::TimedOut);
            // Before more than one worker is blocked, and nothing runs any more.
            assert_eq!(asked.load(Ordering::Relaxed), 1);
            assert!(!is_renewed(&store).await);
        }
        drop(release);
        let recovered = async {
            while store.version() == 1 {
                sleep(MILLI * 10).await;
            }
        };
        timeout(SECOND * 10, recovered).await.expect("stuck");
    });
    assert_in_force(&store, "v2");
    end(runtime);
}

// Foreign errors, panics and drops.

/// Calls its store, and may panic, when it is dropped.
#[derive(Debug)]
struct Mine {
    store: Arc<OnceLock<CredentialStore>>,
    panics: bool,
}

impl Mine {
    /// Ends as an error, as a payload of a panic, or with the future that holds it.
    async fn spoil(self, kind: usize) -> Result<Credential, BoxError> {
        match kind {
            0 => Err(self.into()),
            1 => resume_unwind(Box::new(self)),
            _ => {
                let _held = self;
                pending().await
            }
        }
    }
}

impl Drop for Mine {
    fn drop(&mut self) {
        if let Some(store) = self.store.get() {
            drop(store.status());
            store.rotate(store.credential());
        }
        if self.panics && !thread::panicking() {
            panic_quietly();
        }
    }
}

impl fmt::Display for Mine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("mine")
    }
}

impl std::error::Error for Mine {}
#[tokio::test(start_paused = true)]
async fn errors_panics_and_futures_of_a_source_may_call_the_store_and_panic_when_they_are_dropped()
{
    let kinds = |panics| [0, 1, 2].map(|kind| (panics, kind));
    for (panics, kind) in [kinds(false), kinds(true)].concat() {
        let own = Arc::new(OnceLock::new());
        let is_well = Arc::new(AtomicBool::new(false));
        let (given, well) = (Arc::clone(&own), Arc::clone(&is_well));
        let source = after_v1(move || {
            let (store, well) = (Arc::clone(&given), well.load(Ordering::Relaxed));
            async move {
                if well {
                    return Ok(key_of("well"));
                }
                Mine { store, panics }.spoil(kind).await
            }
        });
        let loader = CredentialStore::loader(source).refresh_every(SECOND * 2);
        let store = loader.load().await.unwrap();
        assert!(own.set(store.clone()).is_ok());
        for _ in 0..3 {
            let refreshed = store.clone();
            let refresh = tokio::spawn(async move { drop(refreshed.refresh().await) });
            let ended = timeout(SECOND * 60, refresh).await.expect("stuck");
            ended.expect("no caller panics");
            is_renewed(&store).await;
        }
        sleep(SECOND * 60).await;
        is_well.store(true, Ordering::Relaxed);
        // Polling goes on.
        sleep(SECOND * 60).await;
        assert_in_force(&store, "well");
    }
    // A load that fails in any of these ways panics no caller either.
    for (panics, kind) in kinds(true) {
        let store = Arc::<OnceLock<_>>::default();
        let mine = move |store| Mine { store, panics };
        let source = move || mine(Arc::clone(&store)).spoil(kind);
        let load = tokio::spawn(async move { drop(CredentialStore::load(source).await) });
        load.await.expect("no caller panics");
    }
}

// Nothing is left behind.

#[tokio::test(start_paused = true)]
async fn creating_a_store_spawns_nothing_and_cancelling_a_caller_cancels_nothing() {
    let script = Script::new(Fetch::Gives("v2"));
    script.delay(100);
    let store = script.store().await;
    drop(store.refresh());
    assert_eq!((tasks(), script.fetches()), (0, 0));
    timeout(MILLI * 10, store.refresh()).await.unwrap_err();
    sleep(MILLI * 91).await;
    assert_in_force(&store, "v2");
    assert_eq!((tasks(), script.fetches()), (0, 1));
}

#[tokio::test(start_paused = true)]
async fn polling_and_a_fetch_in_flight_end_with_the_last_store_which_no_denial_keeps() {
    let script = Script::new(Fetch::Gives("v1"));
    let loader = CredentialStore::loader(script.clone()).timeout(SECOND * 3_600);
    let store = loader.refresh_every(SECOND * 60).load().await.unwrap();
    script.set(Fetch::Hangs);
    let denial = denied(&store).await;
    let mut renewed = task::spawn(denial.renewed());
    assert!(renewed.poll().is_pending() && renewed.poll().is_pending());
    settle().await;
    assert_eq!((tasks(), script.in_flight()), (2, 1));
    let client = AnyreachAuthLayer::new(store.clone()).layer(Server::accepting(&["v1"]));
    let answer = client.oneshot(get_agents());
    drop(store);
    drop(answer.await.unwrap());
    settle().await;
    assert_eq!((tasks(), script.in_flight()), (0, 0));
    assert!(!renewed.await && !denial.renewed().await);
}
