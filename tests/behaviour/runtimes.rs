//! Where a fetch runs: on runtimes that are shared, that end, that stall, and that a source blocks.

use std::future::pending;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc;
use std::sync::{Arc, Mutex, OnceLock};
use std::task::Poll;
use std::thread;
use std::time::Duration;

use http::StatusCode;
use tokio::runtime::{self, Runtime};
use tokio::sync::Notify;
use tokio::time::{Instant, sleep, timeout};
use tower::{Layer, ServiceExt};
use tower_anyreach::{
    AnyreachAuthLayer, BoxError, Credential, CredentialSource, CredentialStore, Denial, Refreshed,
    SourceErrorReason,
};

use crate::scripted::{
    Fetch, Script, Server, assert_in_force, current_thread, key_of, panic_quietly, paused, settle,
    tasks,
};
use support::{MILLI, Recorder, SECOND, answer, get_agents, now};

fn workers(number: usize) -> Runtime {
    let mut builder = runtime::Builder::new_multi_thread();
    builder.worker_threads(number).enable_all().build().unwrap()
}

/// Ends a runtime with all its tasks, before it returns.
fn end(runtime: Runtime) {
    thread::spawn(|| runtime.shutdown_timeout(SECOND * 5))
        .join()
        .unwrap();
}

/// Sends one request that is denied, and gives its denial.
async fn denied(store: &CredentialStore) -> Denial {
    let server = Recorder::answering(answer(StatusCode::UNAUTHORIZED, "{}"));
    let client = AnyreachAuthLayer::new(store.clone()).layer(server);
    support::denial(client.oneshot(get_agents()).await)
}

/// A source that gives `v1` first, and then does that.
fn after_v1<F, Fut>(then: F) -> impl CredentialSource + use<F, Fut>
where
    F: Fn(usize) -> Fut + Send + Sync + 'static,
    Fut: Future<Output = Result<Credential, BoxError>> + Send,
{
    let fetches = AtomicUsize::new(0);
    let then = Arc::new(then);
    move || {
        let number = fetches.fetch_add(1, Ordering::Relaxed);
        let then = Arc::clone(&then);
        async move {
            match number {
                0 => Ok(key_of("v1")),
                number => then(number).await,
            }
        }
    }
}

// No runtime.

#[test]
fn without_a_runtime_a_source_cannot_be_asked_and_that_is_typed_and_no_failure() {
    let error = now(CredentialStore::load(Script::new(Fetch::Gives("v1")))).unwrap_err();
    assert_eq!(error.reason(), SourceErrorReason::NoRuntime);

    let script = Script::new(Fetch::Gives("v2"));
    let store = current_thread().block_on(script.store());
    let is_without_runtime = |outcome: Result<Refreshed, tower_anyreach::SourceError>| {
        outcome.unwrap_err().reason() == SourceErrorReason::NoRuntime
    };
    assert!(is_without_runtime(now(store.refresh())));
    let denial = now(denied(&store));
    let mut renewed = tokio_test::task::spawn(denial.renewed());
    assert!(renewed.poll().is_pending(), "it yields once");
    assert_eq!(renewed.poll(), Poll::Ready(false));
    // One without a timer, and one that has ended.
    let without_timer = runtime::Builder::new_current_thread().build().unwrap();
    assert!(is_without_runtime(without_timer.block_on(store.refresh())));
    assert!(!without_timer.block_on(async { denied(&store).await.renewed().await }));
    let ended = current_thread();
    let handle = ended.handle().clone();
    drop(ended);
    let entered = handle.enter();
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

/// S8: as tests share a `static`, each with a runtime of its own.
#[test]
fn a_store_in_a_static_serves_one_runtime_after_another_and_many_at_once() {
    static STORE: OnceLock<CredentialStore> = OnceLock::new();
    let store = STORE.get_or_init(|| {
        let source = after_v1(async |number| Ok(key_of(&format!("v{}", number + 1))));
        current_thread()
            .block_on(CredentialStore::load(source))
            .unwrap()
    });
    for _ in 0..50 {
        let outcome = current_thread().block_on(store.refresh());
        assert_eq!(outcome.unwrap(), Refreshed::Rotated);
    }
    assert!(paused().block_on(async { denied(store).await.renewed().await }));
    thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| {
                for _ in 0..50 {
                    let outcome = current_thread().block_on(store.refresh());
                    assert_eq!(outcome.unwrap(), Refreshed::Rotated);
                }
            });
        }
    });
}

/// A rest that a paused clock has set far ahead is over on a runtime whose clock runs.
#[test]
fn a_rest_and_a_fetch_of_a_paused_clock_do_not_hold_on_a_running_one() {
    let store = current_thread().block_on(CredentialStore::load(after_v1(async |number| {
        if number == 2 {
            pending::<()>().await;
        }
        Ok(key_of(if number == 1 { "v1" } else { "v2" }))
    })));
    let store = store.unwrap();
    paused().block_on(async {
        sleep(SECOND * 3_600).await;
        assert!(!denied(&store).await.renewed().await);
    });
    // The second fetch hangs on a runtime that is not driven, with a deadline two hours ahead.
    let stalled = paused();
    stalled.block_on(async {
        sleep(SECOND * 7_200).await;
        drop(denied(&store).await);
        settle().await;
    });
    assert!(current_thread().block_on(async { denied(&store).await.renewed().await }));
    assert_in_force(&store, "v2");
}

/// R17.
#[tokio::test]
async fn callers_begin_again_on_their_own_runtime_when_that_of_the_fetch_ends() {
    let hanging = Arc::new(Notify::new());
    let notify = Arc::clone(&hanging);
    let source = after_v1(move |number| {
        let hanging = Arc::clone(&notify);
        async move {
            if number == 1 {
                hanging.notify_one();
                pending::<()>().await;
            }
            Ok(key_of("v3"))
        }
    });
    let store = CredentialStore::load(source).await.unwrap();
    let other = workers(1);
    let begun = store.clone();
    drop(other.spawn(async move { drop(denied(&begun).await) }));
    hanging.notified().await;
    let denial = denied(&store).await;
    let mut waits = [denial.renewed(), denial.renewed()].map(tokio_test::task::spawn);
    for wait in &mut waits {
        // The first poll yields.
        assert!(wait.poll().is_pending() && wait.poll().is_pending());
    }
    let mut refresh = tokio_test::task::spawn(store.refresh());
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
    let store = current_thread().block_on(CredentialStore::load(after_v1(async |number| {
        sleep(MILLI).await;
        Ok(key_of(if number % 2 == 0 { "v1" } else { "v2" }))
    })));
    let store = store.unwrap();
    let is_over = AtomicUsize::new(0);
    thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                for round in 0..1_000_u64 {
                    let runtime = current_thread();
                    let given_up = Duration::from_micros(round % 20 * 100);
                    drop(runtime.block_on(async { timeout(given_up, store.refresh()).await }));
                }
                is_over.fetch_add(1, Ordering::Relaxed);
            });
        }
        let healthy = scope.spawn(|| {
            current_thread().block_on(async {
                let mut outcomes = 0;
                while is_over.load(Ordering::Relaxed) < 2 {
                    let outcome = timeout(SECOND * 10, store.refresh()).await;
                    outcome.expect("stuck").unwrap();
                    outcomes += 1;
                }
                outcomes
            })
        });
        assert!(healthy.join().unwrap() > 100);
    });
}

/// R20: after a look that brought nothing new as well.
#[test]
#[cfg(feature = "retry")]
fn a_runtime_for_each_request_recovers() {
    let is_good = Arc::new(std::sync::atomic::AtomicBool::new(false));
    let source = {
        let is_good = Arc::clone(&is_good);
        after_v1(move |_| {
            let name = if is_good.load(Ordering::Relaxed) {
                "v2"
            } else {
                "v1"
            };
            async move {
                sleep(MILLI * 20).await;
                Ok(key_of(name))
            }
        })
    };
    let store = current_thread()
        .block_on(CredentialStore::load(source))
        .unwrap();
    let client = crate::scripted::client(&store, Server::accepting(&["v2"]));
    let request = || current_thread().block_on(client.clone().oneshot(get_agents()));
    for _ in 0..20 {
        assert!(request().unwrap_err().is_unauthorized());
    }
    is_good.store(true, Ordering::Relaxed);
    // The rest after the first look.
    thread::sleep(SECOND);
    for _ in 0..20 {
        assert_eq!(request().unwrap().status(), StatusCode::OK);
    }
}

/// B09.
#[test]
fn polling_ends_with_its_runtime_in_mid_poll_and_everything_else_goes_on() {
    let source = after_v1(async |number| {
        if number == 1 {
            pending::<()>().await;
        }
        Ok(key_of(&format!("v{number}")))
    });
    let polling = workers(1);
    let loader = CredentialStore::loader(source).refresh_every(MILLI * 10);
    let store = polling.block_on(loader.load()).unwrap();
    let last_fetched = store.status().last_fetched();
    thread::sleep(MILLI * 100);
    end(polling);
    current_thread().block_on(async {
        sleep(MILLI * 100).await;
        assert_eq!(store.status().last_fetched(), last_fetched);
        assert!(denied(&store).await.renewed().await);
        assert_in_force(&store, "v2");
        assert_eq!(store.refresh().await.unwrap(), Refreshed::Rotated);
        assert_in_force(&store, "v3");
    });
}

// Runtimes that stall, and sources that block.

#[test]
fn a_runtime_that_is_not_driven_holds_up_a_look_for_one_limit() {
    let script = Script::new(Fetch::Gives("v2"));
    let stalled = current_thread();
    let store = stalled.block_on(async {
        let store = script.store_with_limit(MILLI * 300).await;
        script.take(3_600_000);
        drop(denied(&store).await);
        settle().await;
        script.take(0);
        store
    });
    assert_eq!(script.fetches(), 1);
    let driven = current_thread();
    let (first, second, waited) = driven.block_on(async {
        let asked = Instant::now();
        let denial = denied(&store).await;
        let first = denial.renewed().await;
        let waited = asked.elapsed();
        (first, denied(&store).await.renewed().await, waited)
    });
    assert!(!first && waited < MILLI * 500, "{waited:?}");
    assert!(second, "the late fetch gave way");
    assert_in_force(&store, "v2");
    // What gave way ends as soon as its runtime is driven.
    stalled.block_on(settle());
    assert_eq!(stalled.handle().metrics().num_alive_tasks(), 0);
    assert_eq!((script.fetches(), store.version()), (2, 2));
}

/// R18, R19.
#[test]
fn a_source_that_blocks_its_thread_is_never_asked_a_second_time_and_its_callers_time_out() {
    let (release, released) = mpsc::channel::<()>();
    let released = Arc::new(Mutex::new(released));
    let asked = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&asked);
    let source = after_v1(move |_| {
        counted.fetch_add(1, Ordering::Relaxed);
        let released = Arc::clone(&released);
        async move {
            // Until the other end is dropped.
            let _disconnected = released.lock().unwrap().recv();
            Ok(key_of("v2"))
        }
    });
    let runtime = workers(4);
    let loader = CredentialStore::loader(source).timeout(MILLI * 10);
    let loader = loader.refresh_every(MILLI * 50);
    let store = runtime.block_on(loader.load()).unwrap();
    runtime.block_on(async {
        for _ in 0..5 {
            let outcome = timeout(SECOND * 10, store.refresh()).await.expect("stuck");
            assert_eq!(outcome.unwrap_err().reason(), SourceErrorReason::TimedOut);
            // Before more than one worker is blocked, and nothing runs any more.
            assert_eq!(asked.load(Ordering::Relaxed), 1);
            assert!(!denied(&store).await.renewed().await);
        }
        assert_eq!(asked.load(Ordering::Relaxed), 1);
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

/// Calls its store, or panics, when it is dropped.
#[derive(Debug)]
struct Mine {
    store: Arc<OnceLock<CredentialStore>>,
    panics: bool,
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

impl std::fmt::Display for Mine {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("mine")
    }
}

impl std::error::Error for Mine {}

/// R10.
#[tokio::test(start_paused = true)]
async fn errors_panics_and_futures_of_a_source_may_call_the_store_and_panic_when_they_are_dropped()
{
    for (panics, kind) in [false, true]
        .into_iter()
        .flat_map(|panics| [0, 1, 2].map(|kind| (panics, kind)))
    {
        let own = Arc::new(OnceLock::new());
        let given = Arc::clone(&own);
        let is_well = Arc::new(AtomicUsize::new(0));
        let well = Arc::clone(&is_well);
        let source = after_v1(move |_| {
            let mine = Mine {
                store: Arc::clone(&given),
                panics,
            };
            let well = well.load(Ordering::Relaxed) > 0;
            async move {
                match kind {
                    _ if well => {
                        std::mem::forget(mine);
                        Ok(key_of("well"))
                    }
                    0 => Err(mine.into()),
                    1 => std::panic::resume_unwind(Box::new(mine)),
                    _ => {
                        let _mine = mine;
                        pending().await
                    }
                }
            }
        });
        let loader = CredentialStore::loader(source).refresh_every(SECOND * 2);
        let store = loader.load().await.unwrap();
        assert!(own.set(store.clone()).is_ok());
        for _ in 0..3 {
            let refresh = tokio::spawn({
                let store = store.clone();
                async move { drop(store.refresh().await) }
            });
            timeout(SECOND * 60, refresh)
                .await
                .expect("stuck")
                .expect("no caller panics");
            denied(&store).await.renewed().await;
        }
        sleep(SECOND * 60).await;
        is_well.store(1, Ordering::Relaxed);
        // Polling goes on.
        sleep(SECOND * 60).await;
        assert_in_force(&store, "well");
    }
}

#[tokio::test(start_paused = true)]
async fn a_load_that_fails_in_any_way_panics_no_caller() {
    for kind in [0, 1, 2] {
        let source = move || {
            let mine = Mine {
                store: Arc::default(),
                panics: true,
            };
            async move {
                match kind {
                    0 => Err(mine.into()),
                    1 => std::panic::resume_unwind(Box::new(mine)),
                    _ => {
                        let _mine = mine;
                        pending().await
                    }
                }
            }
        };
        let load = tokio::spawn(async move { drop(CredentialStore::load(source).await) });
        load.await.expect("no caller panics");
    }
}

// Nothing is left behind.

#[tokio::test(start_paused = true)]
async fn creating_a_store_spawns_nothing_and_cancelling_a_caller_cancels_nothing() {
    let script = Script::new(Fetch::Gives("v2"));
    script.take(100);
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
    let held = Arc::new(());
    let holds = Arc::clone(&held);
    let source = after_v1(move |_| {
        let held = Arc::clone(&holds);
        async move {
            pending::<()>().await;
            drop(held);
            Ok(key_of("v1"))
        }
    });
    let loader = CredentialStore::loader(source).timeout(SECOND * 3_600);
    let store = loader.refresh_every(SECOND * 60).load().await.unwrap();
    let denial = denied(&store).await;
    let mut renewed = tokio_test::task::spawn(denial.renewed());
    assert!(renewed.poll().is_pending() && renewed.poll().is_pending());
    settle().await;
    assert_eq!((tasks(), Arc::strong_count(&held)), (2, 3));
    let client = AnyreachAuthLayer::new(store.clone()).layer(Server::accepting(&["v1"]));
    let answer = client.oneshot(get_agents());
    drop(store);
    drop(answer.await.unwrap());
    settle().await;
    assert_eq!((tasks(), Arc::strong_count(&held)), (0, 1));
    assert!(!renewed.await && !denial.renewed().await);
}
