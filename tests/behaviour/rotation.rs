//! `CredentialStore`: what is in force, and how a source brings it up to date.

use std::collections::BTreeSet;
use std::future::pending;
use std::ptr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::thread;
use std::time::Duration;

use http::header::AUTHORIZATION;
use tokio::runtime;
use tokio::sync::Notify;
use tokio::task::{JoinSet, yield_now};
use tokio::time::{Instant, advance, sleep, timeout};
use tower::Layer;
use tower_anyreach::{
    AnyreachAuthLayer, BoxError, Credential, CredentialSource, CredentialStore, Refreshed,
    SourceError, SourceErrorReason,
};

use crate::scripted::{
    Fetch, Script, Server, assert_in_force, key_of, panic_quietly, paused, tasks,
};
use support::{MILLI, ORG, SECOND, get_agents, now, send, token_for};

/// Lets all that can run now run, without letting time pass.
async fn settle() {
    for _ in 0..16 {
        yield_now().await;
    }
}

#[track_caller]
fn cause(error: &SourceError) -> *const u8 {
    ptr::from_ref(error.expose_cause().unwrap()).cast()
}

// What is in force.

#[test]
fn no_request_pairs_one_rotations_token_with_anothers_organization() {
    let tokens: Vec<Credential> = (0..4)
        .map(|number| {
            let token = tower_anyreach::PersonalAccessToken::new(format!("pat_t{number}")).unwrap();
            let organization = support::organization(&format!("org_{number}"));
            token.for_organization(organization).into()
        })
        .collect();
    let store = CredentialStore::new(tokens[0].clone());
    let layer = AnyreachAuthLayer::new(store.clone());
    thread::scope(|scope| {
        let senders: Vec<_> = (0..2)
            .map(|_| {
                scope.spawn(|| {
                    for _ in 0..4_000 {
                        let head = send(&layer, get_agents()).head();
                        let token = head.headers[AUTHORIZATION].to_str().unwrap();
                        let number = token.strip_prefix("Bearer pat_t").unwrap();
                        assert_eq!(head.headers[&ORG], format!("org_{number}"));
                    }
                })
            })
            .collect();
        let mut last = store.version();
        while !senders.iter().all(thread::ScopedJoinHandle::is_finished) {
            for token in &tokens {
                store.rotate(token.clone());
                assert!(store.version() > last, "versions only grow");
                last = store.version();
            }
        }
    });
}

#[test]
fn a_store_without_a_source_needs_no_runtime() {
    let store = CredentialStore::new(key_of("v1"));
    assert_eq!(now(store.refresh()).unwrap(), Refreshed::Unchanged);
    store.rotate(key_of("v2"));
    assert_eq!(now(store.refresh()).unwrap(), Refreshed::Unchanged);
    assert_eq!(store.version(), 2);
}

// One fetch at a time, shared.

#[tokio::test]
async fn another_organization_for_the_same_token_is_another_credential() {
    let organization = Arc::new(AtomicUsize::new(1));
    let source = {
        let organization = Arc::clone(&organization);
        move || {
            let number = organization.load(Ordering::Relaxed);
            async move { Ok(token_for(&format!("org_{number}"))) }
        }
    };
    let store = CredentialStore::load(source).await.unwrap();
    organization.store(2, Ordering::Relaxed);
    assert_eq!(store.refresh().await.unwrap(), Refreshed::Rotated);
    let in_force = store.credential();
    assert_eq!(in_force.organization().unwrap().as_str(), "org_2");
}

#[tokio::test(start_paused = true)]
async fn a_fetch_that_ends_after_a_rotation_does_not_overwrite_it() {
    // Also if that leads there and back.
    for (rotations, version) in [(&["byhand"][..], 2), (&["byhand", "v1"], 3)] {
        let script = Script::new(Fetch::Gives("late"));
        script.take(100);
        let store = script.store().await;
        let (outcome, ()) = tokio::join!(store.refresh(), async {
            sleep(MILLI * 50).await;
            for name in rotations {
                store.rotate(key_of(name));
            }
        });
        assert_eq!(outcome.unwrap(), Refreshed::Rotated);
        assert_in_force(&store, rotations.last().unwrap());
        assert_eq!(store.version(), version);
        // The next one is asked anew, and is in order.
        assert_eq!(store.refresh().await.unwrap(), Refreshed::Rotated);
        assert_in_force(&store, "late");
        assert_eq!((store.version(), script.fetches()), (version + 1, 2));
    }
}

#[tokio::test(start_paused = true)]
async fn a_callers_going_away_does_not_end_its_fetch() {
    let script = Script::new(Fetch::Gives("v2"));
    script.take(100);
    let store = script.store().await;
    timeout(MILLI * 10, store.refresh()).await.unwrap_err();
    sleep(MILLI * 91).await;
    assert_in_force(&store, "v2");
    assert_eq!(script.fetches(), 1);
}

// Rest and back-off.

#[tokio::test(start_paused = true)]
async fn after_unchanged_the_source_rests_for_a_second() {
    let script = Script::new(Fetch::Gives("v1"));
    let store = script.store().await;
    assert_eq!(store.refresh().await.unwrap(), Refreshed::Unchanged);
    assert_eq!((store.version(), script.fetches()), (1, 1));
    script.tell(Fetch::Gives("v2"));
    advance(MILLI * 999).await;
    let asked = Instant::now();
    assert_eq!(store.refresh().await.unwrap(), Refreshed::Unchanged);
    assert_eq!(script.fetches(), 1);
    assert_eq!(asked.elapsed(), Duration::ZERO);
    advance(MILLI * 2).await;
    assert_eq!(store.refresh().await.unwrap(), Refreshed::Rotated);
    assert_eq!((store.version(), script.fetches()), (2, 2));
}

#[tokio::test(start_paused = true)]
async fn after_a_rotation_the_source_may_be_asked_at_once() {
    let script = Script::new(Fetch::GivesFresh);
    let store = script.store().await;
    for fetches in 1..=5 {
        assert_eq!(store.refresh().await.unwrap(), Refreshed::Rotated);
        assert_eq!(script.fetches(), fetches);
    }
}

#[tokio::test(start_paused = true)]
async fn callers_inside_the_back_off_get_the_same_error_at_once() {
    for fetch in [
        Fetch::Fails,
        Fetch::Hangs,
        Fetch::PanicsAtOnce,
        Fetch::PanicsLater,
    ] {
        let script = Script::new(fetch);
        let store = script.store().await;
        let first = store.refresh().await.unwrap_err();
        assert_in_force(&store, "v1");
        assert_eq!(store.version(), 1, "{fetch:?}");
        script.tell(Fetch::Gives("v2"));
        // A hundredth of 250 ms is the shortest back-off that there is.
        for _ in 0..4 {
            advance(Duration::from_micros(500)).await;
            let asked = Instant::now();
            let error = store.refresh().await.unwrap_err();
            assert_eq!(asked.elapsed(), Duration::ZERO);
            assert_eq!(error.reason(), first.reason());
            if fetch == Fetch::Fails {
                assert_eq!(cause(&error), cause(&first), "one error, shared");
            }
        }
        assert_eq!(script.fetches(), 1, "{fetch:?}");
        advance(MILLI * 250).await;
        assert_eq!(store.refresh().await.unwrap(), Refreshed::Rotated);
        assert_eq!(script.fetches(), 2, "{fetch:?}");
    }
}

/// How long the source is left alone from now on, in steps of a 200th of what it may be at most.
async fn back_off(store: &CredentialStore, script: &Script, longest: Duration) -> Duration {
    let (fetches, failed) = (script.fetches(), Instant::now());
    while script.fetches() == fetches {
        advance(longest / 200).await;
        store.refresh().await.unwrap_err();
    }
    failed.elapsed()
}

#[tokio::test(start_paused = true)]
async fn the_back_off_doubles_from_250_ms_to_30_s_with_full_jitter() {
    const STORES: u32 = 100;
    let longest = [
        250, 500, 1_000, 2_000, 4_000, 8_000, 16_000, 30_000, 30_000, 30_000,
    ]
    .map(Duration::from_millis);
    let mut shares = [const { Vec::new() }; 10];
    for _ in 0..STORES {
        let script = Script::new(Fetch::Fails);
        let store = script.store().await;
        store.refresh().await.unwrap_err();
        for (longest, shares) in longest.iter().zip(&mut shares) {
            let taken = back_off(&store, &script, *longest).await;
            assert!(taken >= *longest / 100, "{taken:?} of {longest:?}");
            assert!(
                taken <= *longest + *longest / 200,
                "{taken:?} of {longest:?}"
            );
            shares.push(taken.div_duration_f64(*longest));
        }
    }
    // Evenly spread: neither is any of these due to chance in a million years, nor would half a jitter pass.
    for shares in shares {
        let mean = shares.iter().sum::<f64>() / f64::from(STORES);
        assert!((0.3..0.7).contains(&mean), "{mean}");
        assert!(shares.iter().any(|share| *share < 0.25));
        assert!(shares.iter().any(|share| *share > 0.75));
    }
}

#[tokio::test(start_paused = true)]
async fn a_success_ends_the_growth_of_the_back_off() {
    for success in [Fetch::Gives("v2"), Fetch::Gives("v1")] {
        for _ in 0..20 {
            let script = Script::new(Fetch::Fails);
            let store = script.store().await;
            for _ in 0..8 {
                store.refresh().await.unwrap_err();
                advance(SECOND * 30).await;
            }
            script.tell(success);
            store.refresh().await.unwrap();
            advance(SECOND).await;
            script.tell(Fetch::Fails);
            store.refresh().await.unwrap_err();
            let taken = back_off(&store, &script, MILLI * 250).await;
            assert!(taken <= MILLI * 252, "{taken:?}");
        }
    }
}

// Time limits, typed errors.

#[tokio::test(start_paused = true)]
async fn the_first_and_later_fetches_may_take_ten_seconds_unless_told_otherwise() {
    for (limit, millis) in [(None, 10_000), (Some(MILLI * 300), 300)] {
        let script = Script::new(Fetch::Gives("v1"));
        let loader = || {
            let loader = CredentialStore::loader(script.clone());
            match limit {
                None => loader,
                Some(limit) => loader.timeout(limit),
            }
        };
        script.take(millis - 1);
        let store = loader().load().await.unwrap();
        script.tell(Fetch::Gives("v2"));
        assert_eq!(store.refresh().await.unwrap(), Refreshed::Rotated);

        script.take(millis + 1);
        let limit = Duration::from_millis(millis);
        for is_first in [false, true] {
            let asked = Instant::now();
            let error = if is_first {
                loader().load().await.unwrap_err()
            } else {
                store.refresh().await.unwrap_err()
            };
            assert_eq!(error.reason(), SourceErrorReason::TimedOut);
            assert!((limit..=limit + MILLI).contains(&asked.elapsed()));
        }
    }
}

#[tokio::test(start_paused = true)]
async fn absurd_time_limits_are_limits_like_others() {
    for limit in [Duration::ZERO, Duration::MAX] {
        let script = Script::new(Fetch::Gives("v2"));
        let store = script.store_with_limit(limit).await;
        assert_eq!(
            store.refresh().await.unwrap(),
            Refreshed::Rotated,
            "{limit:?}"
        );
    }
}

#[tokio::test(start_paused = true)]
async fn what_a_load_fails_with_is_typed() {
    for (fetch, reason) in [
        (Fetch::Fails, SourceErrorReason::Failed),
        (Fetch::Hangs, SourceErrorReason::TimedOut),
        (Fetch::PanicsAtOnce, SourceErrorReason::Panicked),
        (Fetch::PanicsLater, SourceErrorReason::Panicked),
    ] {
        let error = CredentialStore::load(Script::new(fetch)).await.unwrap_err();
        assert_eq!(error.reason(), reason, "{fetch:?}");
    }
    assert_eq!(tasks(), 0);
}

#[test]
fn without_a_runtime_a_source_cannot_be_asked_and_that_is_typed() {
    let error = now(CredentialStore::load(Script::new(Fetch::Gives("v1")))).unwrap_err();
    assert_eq!(error.reason(), SourceErrorReason::NoRuntime);

    let runtime = || current_thread().build().unwrap();
    let script = Script::new(Fetch::Gives("v2"));
    let store = runtime().block_on(script.store());
    let error = now(store.refresh()).unwrap_err();
    assert_eq!(error.reason(), SourceErrorReason::NoRuntime);
    // Nor on one without a timer.
    let without_timer = runtime::Builder::new_current_thread().build().unwrap();
    let error = without_timer.block_on(store.refresh()).unwrap_err();
    assert_eq!(error.reason(), SourceErrorReason::NoRuntime);
    assert_eq!(script.fetches(), 0);
    // That was no failure of the source: where there is a runtime, it is asked at once.
    let outcome = runtime().block_on(async { timeout(SECOND * 5, store.refresh()).await });
    assert_eq!(outcome.expect("stuck").unwrap(), Refreshed::Rotated);
}

// Runtimes that go away, and sources that turn back.

/// A source whose first fetch hangs, and which says when it does.
fn hangs_once(hanging: &Arc<Notify>) -> impl CredentialSource + use<> {
    let hanging = Arc::clone(hanging);
    let fetches = AtomicUsize::new(0);
    move || {
        let number = fetches.fetch_add(1, Ordering::Relaxed);
        let hanging = Arc::clone(&hanging);
        async move {
            if number == 1 {
                hanging.notify_one();
                pending::<()>().await;
            }
            // What the second fetch would have given is lost with it.
            Ok(key_of(if number == 0 { "v1" } else { "v3" }))
        }
    }
}

fn workers(number: usize) -> runtime::Runtime {
    runtime::Builder::new_multi_thread()
        .worker_threads(number)
        .enable_all()
        .build()
        .unwrap()
}

/// Ends a runtime with all its tasks, before it returns.
fn end(runtime: runtime::Runtime) {
    thread::spawn(|| runtime.shutdown_timeout(SECOND * 5))
        .join()
        .unwrap();
}

#[tokio::test]
async fn who_wakes_late_after_the_end_of_a_runtime_is_told_of_the_rotation_since() {
    let hanging = Arc::new(Notify::new());
    let store = CredentialStore::load(hangs_once(&hanging)).await.unwrap();
    let other = workers(1);
    drop(other.spawn({
        let store = store.clone();
        async move { store.refresh().await }
    }));
    hanging.notified().await;
    let mut early = tokio_test::task::spawn(store.refresh());
    let mut late = tokio_test::task::spawn(store.refresh());
    assert!(early.poll().is_pending());
    assert!(late.poll().is_pending());
    end(other);
    assert!(early.is_woken() && late.is_woken());
    assert_eq!(early.await.unwrap(), Refreshed::Rotated);
    assert_in_force(&store, "v3");
    // `v1` was in force when it asked.
    assert_eq!(late.await.unwrap(), Refreshed::Rotated);
}

#[tokio::test(start_paused = true)]
async fn a_source_that_asks_its_own_store_ends_at_its_time_limit() {
    let own: Arc<OnceLock<CredentialStore>> = Arc::default();
    let source = {
        let own = Arc::clone(&own);
        move || {
            let store = own.get().cloned();
            async move {
                if let Some(store) = store {
                    store.refresh().await?;
                }
                Ok(key_of("v1"))
            }
        }
    };
    let store = CredentialStore::load(source).await.unwrap();
    own.set(store.clone()).unwrap();
    let asked = Instant::now();
    let error = store.refresh().await.unwrap_err();
    assert_eq!(error.reason(), SourceErrorReason::TimedOut);
    assert!(asked.elapsed() <= SECOND * 10 + MILLI);
}

/// Panics when it is dropped.
struct Bomb;

impl Drop for Bomb {
    fn drop(&mut self) {
        if !thread::panicking() {
            panic_quietly();
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_fetch_that_panics_as_it_is_given_up_is_one_failure_like_others() {
    let fetches = Arc::new(AtomicUsize::new(0));
    let source = |harmless: usize| {
        let fetches = Arc::clone(&fetches);
        move || {
            let number = fetches.fetch_add(1, Ordering::Relaxed);
            async move {
                if number >= harmless {
                    let bomb = Bomb;
                    pending::<()>().await;
                    drop(bomb);
                }
                Ok(key_of("v1"))
            }
        }
    };
    let store = CredentialStore::load(source(1)).await.unwrap();
    let asked = Instant::now();
    let error = store.refresh().await.unwrap_err();
    assert_ne!(error.reason(), SourceErrorReason::NoRuntime);
    assert!(asked.elapsed() <= SECOND * 10 + MILLI);
    assert_eq!(
        fetches.load(Ordering::Relaxed),
        2,
        "one fetch, then back-off"
    );

    // In the caller's own task.
    let load = tokio::spawn(CredentialStore::load(source(0)));
    load.await.expect("no caller panics").unwrap_err();
}

// Runtimes that stand still, and sources that block.

fn current_thread() -> runtime::Builder {
    let mut builder = runtime::Builder::new_current_thread();
    builder.enable_all();
    builder
}

/// A runtime that nobody drives, with a fetch in flight on it whose caller is gone; and the store that fetches.
fn standing_still(script: &Script) -> (runtime::Runtime, CredentialStore) {
    let idle = current_thread().build().unwrap();
    let store = idle.block_on(async {
        let store = script.store().await;
        script.take(3_600_000);
        assert!(tokio_test::task::spawn(store.refresh()).poll().is_pending());
        settle().await;
        script.take(0);
        store
    });
    assert_eq!(script.fetches(), 1);
    (idle, store)
}

#[test]
fn a_runtime_that_stands_still_holds_others_up_until_a_second_after_the_limit() {
    let script = Script::new(Fetch::Gives("v2"));
    let (idle, store) = standing_still(&script);
    let paused = paused();
    paused.block_on(async {
        let asked = Instant::now();
        let mut waiters = JoinSet::new();
        for _ in 0..10 {
            let store = store.clone();
            waiters.spawn(async move { store.refresh().await });
        }
        for outcome in waiters.join_all().await {
            assert_eq!(outcome.unwrap(), Refreshed::Rotated);
        }
        // The fetch began a little before the clock was stopped.
        let waited = asked.elapsed();
        assert!(
            (SECOND * 10..=SECOND * 11 + MILLI * 2).contains(&waited),
            "{waited:?}"
        );
    });
    assert_eq!(script.fetches(), 2, "all share the second one too");
    assert_in_force(&store, "v2");

    // What was given up ends as soon as somebody drives it.
    idle.block_on(settle());
    assert_eq!(idle.handle().metrics().num_alive_tasks(), 0);
    assert_eq!(store.version(), 2);
}

#[test]
fn a_source_that_blocks_is_given_up_and_what_it_brings_at_last_is_used() {
    let (release, released) = std::sync::mpsc::channel::<()>();
    let released = Arc::new(std::sync::Mutex::new(released));
    let fetches = Arc::new(AtomicUsize::new(0));
    let source = {
        let fetches = Arc::clone(&fetches);
        move || {
            let number = fetches.fetch_add(1, Ordering::Relaxed);
            let released = Arc::clone(&released);
            async move {
                if number > 0 {
                    // Until the other end is dropped.
                    let _disconnected = released.lock().unwrap().recv();
                }
                Ok(key_of(if number == 0 { "v1" } else { "v2" }))
            }
        }
    };
    // Three workers are blocked, and one is left for the timer.
    let runtime = workers(4);
    let loader = CredentialStore::loader(source).timeout(MILLI * 10);
    let store = runtime.block_on(loader.load()).unwrap();
    let outcome = runtime.block_on(async { timeout(SECOND * 60, store.refresh()).await });
    let begun = fetches.load(Ordering::Relaxed);
    drop(release);
    end(runtime);
    let error = outcome.expect("stuck").unwrap_err();
    assert_eq!(error.reason(), SourceErrorReason::TimedOut);
    assert_eq!(begun, 4, "the first, and three in a row");
    assert_in_force(&store, "v2");
    assert_eq!(store.version(), 2, "the first of the three, and no other");
}

#[test]
fn without_a_timer_nobody_waits_for_a_fetch_and_that_is_typed() {
    let (_idle, store) = standing_still(&Script::new(Fetch::Gives("v2")));
    let error = now(store.refresh()).unwrap_err();
    assert_eq!(error.reason(), SourceErrorReason::NoRuntime);
    let without_timer = runtime::Builder::new_current_thread().build().unwrap();
    let error = without_timer.block_on(store.refresh()).unwrap_err();
    assert_eq!(error.reason(), SourceErrorReason::NoRuntime);
}

// In the background.

#[tokio::test(start_paused = true)]
async fn refresh_every_asks_at_each_interval_less_up_to_a_tenth() {
    let script = Script::new(Fetch::GivesFresh);
    let store = script.store().await;
    let begun = Instant::now();
    let guard = store.refresh_every(SECOND * 60);
    sleep(SECOND * 6_000).await;
    let mut last = begun;
    let mut waits = BTreeSet::new();
    for fetch in script.begun() {
        let wait = fetch - last;
        assert!(
            (MILLI * 53_999..=SECOND * 60 + MILLI * 2).contains(&wait),
            "{wait:?}"
        );
        waits.insert(wait);
        last = fetch;
    }
    assert!((100..=112).contains(&script.fetches()));
    assert!(waits.len() > 50, "a fleet must not ask in step");
    assert_eq!(store.version(), 1 + script.fetches() as u64);
    drop(guard);
}

#[tokio::test(start_paused = true)]
async fn dropping_its_guard_ends_refresh_every() {
    let script = Script::new(Fetch::GivesFresh);
    let store = script.store().await;
    let guard = store.refresh_every(SECOND);
    sleep(SECOND * 10).await;
    let fetches = script.fetches();
    assert!(fetches >= 9);
    drop(guard);
    settle().await;
    assert_eq!(tasks(), 0);
    sleep(SECOND * 10).await;
    assert_eq!(script.fetches(), fetches);
}

#[tokio::test(start_paused = true)]
async fn dropping_the_guard_leaves_a_fetch_in_flight_to_those_who_wait() {
    let script = Script::new(Fetch::Gives("v2"));
    script.take(500);
    let store = script.store().await;
    let guard = store.refresh_every(SECOND);
    sleep(MILLI * 1_100).await;
    assert_eq!(script.fetches(), 1);
    let (outcome, ()) = tokio::join!(store.refresh(), async { drop(guard) });
    assert_eq!(outcome.unwrap(), Refreshed::Rotated);
    assert_eq!(script.fetches(), 1);
    settle().await;
    assert_eq!(tasks(), 0);
}

#[tokio::test(start_paused = true)]
async fn failures_do_not_end_refresh_every() {
    let script = Script::new(Fetch::Fails);
    let store = script.store().await;
    let guard = store.refresh_every(SECOND * 31);
    for fetch in [Fetch::Fails, Fetch::PanicsAtOnce, Fetch::PanicsLater] {
        script.tell(fetch);
        sleep(SECOND * 100).await;
    }
    assert!(script.fetches() >= 6);
    script.tell(Fetch::Gives("v2"));
    sleep(SECOND * 62).await;
    assert_in_force(&store, "v2");
    drop(guard);
}

#[tokio::test(start_paused = true)]
async fn a_fetch_that_refresh_every_began_ends_with_the_last_store_too() {
    let script = Script::new(Fetch::Hangs);
    let store = script.store_with_limit(SECOND * 3600).await;
    let guard = store.refresh_every(SECOND);
    sleep(SECOND * 3).await;
    assert_eq!((tasks(), script.fetches()), (2, 1));
    drop(store);
    settle().await;
    assert_eq!(tasks(), 1, "the guard's own, until it wakes");
    drop(guard);
}

#[tokio::test(start_paused = true)]
async fn refresh_every_ends_within_an_interval_after_the_last_store() {
    let script = Script::new(Fetch::Gives("v1"));
    let store = script.store().await;
    let guard = store.refresh_every(SECOND * 60);
    let clone = store.clone();
    drop(store);
    sleep(SECOND * 150).await;
    assert_eq!(tasks(), 1);
    let fetches = script.fetches();
    assert!(fetches >= 2, "one store is left");
    drop(clone);
    sleep(SECOND * 60 + MILLI * 2).await;
    settle().await;
    assert_eq!(tasks(), 0);
    assert_eq!(script.fetches(), fetches);
    drop(guard);
}

#[tokio::test(start_paused = true)]
async fn refresh_every_keeps_to_the_sources_rest_whatever_the_interval() {
    let script = Script::new(Fetch::Gives("v1"));
    let store = script.store().await;
    let guard = store.refresh_every(Duration::ZERO);
    sleep(SECOND * 10).await;
    assert!((5..=11).contains(&script.fetches()), "{}", script.fetches());
    drop(guard);
    let fetches = script.fetches();
    let guard = store.refresh_every(Duration::MAX);
    sleep(SECOND * 3_600 * 24).await;
    assert_eq!(script.fetches(), fetches);
    assert_eq!(tasks(), 1, "it waits, and has not panicked");
    drop(guard);
}

#[test]
#[should_panic(expected = "there is no reactor running")]
fn refresh_every_panics_without_a_runtime() {
    drop(CredentialStore::new(key_of("v1")).refresh_every(SECOND));
}

// Nothing is left behind.

#[tokio::test(start_paused = true)]
async fn creating_a_store_spawns_nothing() {
    let script = Script::new(Fetch::Gives("v1"));
    let store = script.store().await;
    let layer = AnyreachAuthLayer::new(store.clone());
    let service = layer.layer(Server::accepting(&["v1"]));
    drop(store.refresh());
    assert_eq!((tasks(), script.fetches()), (0, 0));
    drop(service);
}

#[tokio::test(start_paused = true)]
async fn a_fetch_in_flight_ends_with_the_last_store() {
    let held = Arc::new(());
    let source = {
        let held = Arc::clone(&held);
        let fetches = AtomicUsize::new(0);
        move || {
            let (held, number) = (Arc::clone(&held), fetches.fetch_add(1, Ordering::Relaxed));
            async move {
                if number > 0 {
                    pending::<()>().await;
                }
                drop(held);
                Ok::<_, BoxError>(key_of("v1"))
            }
        }
    };
    let store = CredentialStore::load(source).await.unwrap();
    timeout(MILLI, store.refresh()).await.unwrap_err();
    assert_eq!((tasks(), Arc::strong_count(&held)), (1, 3));
    drop(store);
    settle().await;
    assert_eq!(tasks(), 0);
    assert_eq!(Arc::strong_count(&held), 1, "the source is gone as well");
}

/// A fetch that is under way for version 1 says nothing to who asks because of version 2.
#[tokio::test(start_paused = true)]
async fn who_asks_after_a_rotation_is_not_content_with_a_fetch_from_before_it() {
    let script = Script::new(Fetch::GivesFresh);
    script.take(100);
    let store = script.store().await;
    let mut before = tokio_test::task::spawn(store.refresh());
    assert!(before.poll().is_pending());
    yield_now().await;
    store.rotate(key_of("rotated"));
    let mut after = tokio_test::task::spawn(store.refresh());
    assert!(after.poll().is_pending());
    assert_eq!(before.await.unwrap(), Refreshed::Rotated);
    assert_in_force(&store, "rotated");
    assert_eq!(after.await.unwrap(), Refreshed::Rotated);
    assert_in_force(&store, "fresh2");
    assert_eq!(script.fetches(), 2);
}
