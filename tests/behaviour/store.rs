//! `CredentialStore`: what is in force, and when its source is asked.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Barrier, OnceLock};
use std::thread;
use std::time::Duration;

use http::header::AUTHORIZATION;
use http::{Response, StatusCode};
use tokio::task::{JoinSet, yield_now};
use tokio::time::{Instant, advance, sleep, timeout};
use tower::Layer;
use tower_anyreach::source::AnySource;
use tower_anyreach::{
    AnyreachAuthLayer, BoxError, Credential, CredentialSource, CredentialStore, DeniedResponses,
    Error, Refreshed, SourceErrorReason,
};

use crate::scripted::{Fetch, Script, assert_in_force, key_of, settle, tasks};
use support::{MILLI, ORG, Recorder, SECOND, answer, get_agents, now, send, token_for};

/// Sends one request that is denied, and gives its error.
async fn denied(store: &CredentialStore) -> Error {
    let server = Recorder::answering(answer(StatusCode::UNAUTHORIZED, "{}"));
    let client = AnyreachAuthLayer::new(store.clone()).layer(server);
    tower::ServiceExt::oneshot(client, get_agents())
        .await
        .unwrap_err()
}

// What is in force.

#[test]
fn no_request_pairs_one_rotations_token_with_anothers_organization() {
    let tokens = [0, 1, 2, 3].map(|number| {
        let token = tower_anyreach::PersonalAccessToken::new(format!("pat_t{number}")).unwrap();
        let organization = support::organization(&format!("org_{number}"));
        Credential::from(token.for_organization(organization))
    });
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
            for token in tokens.iter().cycle().skip(1).take(4) {
                let version = store.rotate(token.clone());
                assert_eq!(version, last + 1, "versions only grow");
                last = version;
            }
        }
    });
}

#[test]
fn a_store_without_a_source_needs_no_runtime() {
    let store = CredentialStore::new(key_of("v1"));
    assert_eq!(now(store.refresh()).unwrap(), Refreshed::Unchanged);
    assert_eq!(store.rotate(key_of("v2")), 2);
    assert_eq!(now(store.changed_since(1)), 2);
    assert_eq!((store.version(), store.status().last_fetched()), (2, None));
}

/// S12: a user's own poller may rotate the same key again and again.
#[tokio::test(start_paused = true)]
async fn rotating_to_the_credential_in_force_changes_ends_and_wakes_nothing() {
    let script = Script::new(Fetch::Gives("v1"));
    let store = script.store().await;
    denied(&store).await;
    settle().await;
    let mut changed = tokio_test::task::spawn(store.changed_since(1));
    assert!(changed.poll().is_pending());
    assert_eq!(store.rotate(key_of("v1")), 1);
    assert!(!changed.is_woken());
    assert!(store.status().last_denied().is_some());
    // The rest goes on: this 401 asks nothing.
    denied(&store).await;
    settle().await;
    assert_eq!(script.fetches(), 1);
}

/// S9: of two rotations at once, neither may be published after the other with an older version.
#[test]
fn changed_since_sees_the_later_of_two_rotations_at_once() {
    const ROUNDS: u64 = 5_000;
    let store = CredentialStore::new(key_of("v0"));
    let both = Barrier::new(2);
    let rotate = |name: &str| {
        for round in 0..ROUNDS {
            both.wait();
            let own = store.rotate(key_of(&format!("{name}{round}")));
            both.wait();
            let version = 2 * round + 3;
            assert!(own == version || own == version - 1);
            assert_eq!(store.version(), version);
            assert_eq!(now(store.changed_since(version - 1)), version);
        }
    };
    thread::scope(|scope| {
        scope.spawn(|| rotate("one"));
        rotate("other");
    });
}

#[tokio::test]
async fn changed_since_misses_no_change_and_never_goes_back() {
    let store = CredentialStore::new(key_of("v0"));
    let watched = store.clone();
    let watching = tokio::spawn(async move {
        let (mut version, mut seen) = (1, 0);
        while version < 2_001 {
            let next = watched.changed_since(version).await;
            assert!(next > version);
            (version, seen) = (next, seen + 1);
        }
        seen
    });
    let rotating = thread::spawn({
        let store = store.clone();
        move || {
            for number in 1..=2_000 {
                store.rotate(key_of(&format!("v{number}")));
            }
        }
    });
    let seen = timeout(SECOND * 60, watching).await.unwrap().unwrap();
    rotating.join().unwrap();
    assert!((1..=2_000).contains(&seen));
    // A dropped wait loses nothing.
    assert!(
        tokio_test::task::spawn(store.changed_since(2_001))
            .poll()
            .is_pending()
    );
    store.rotate(key_of("last"));
    assert_eq!(store.changed_since(2_001).await, 2_002);
}

#[tokio::test(start_paused = true)]
async fn status_says_what_is_in_force_when_it_was_denied_and_how_its_source_fares() {
    let script = Script::new(Fetch::Fails);
    let loaded = Instant::now().into_std();
    let store = script.store().await;
    let status = store.status();
    assert_eq!((status.version(), status.failures()), (1, 0));
    assert_eq!(status.credential(), key_of("v1").id());
    assert_eq!(
        (status.last_denied(), status.last_fetched()),
        (None, Some(loaded))
    );
    assert!(status.last_error().is_none());

    advance(SECOND * 5).await;
    denied(&store).await;
    settle().await;
    let status = store.status();
    assert_eq!(status.last_denied(), Some(loaded + SECOND * 5));
    assert_eq!(status.last_fetched(), Some(loaded));
    assert_eq!(
        status.last_error().unwrap().reason(),
        SourceErrorReason::Failed
    );
    assert_eq!(status.failures(), 1);
    store.refresh().await.unwrap_err();
    assert_eq!(store.status().failures(), 2);

    script.tell(Fetch::Gives("v2"));
    store.refresh().await.unwrap();
    let status = store.status();
    assert_eq!((status.version(), status.failures()), (2, 0));
    assert_eq!(status.last_denied(), None, "that was another credential");
    assert_eq!(status.last_fetched(), Some(loaded + SECOND * 5));
    assert!(status.last_error().is_none());
}

// `refresh`.

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
    assert_eq!(store.credential().organization().unwrap().as_str(), "org_2");
}

/// P2.
#[tokio::test(start_paused = true)]
async fn a_refresh_sees_what_was_written_before_it_was_called() {
    let script = Script::new(Fetch::Gives("v1"));
    script.take(100);
    let store = script.store().await;
    let called = store.clone();
    let before = tokio::spawn(async move { called.refresh().await.unwrap() });
    settle().await;
    script.tell(Fetch::Gives("v2"));
    let asked = Instant::now();
    let (one, other) = tokio::join!(store.refresh(), store.refresh());
    assert_eq!([one.unwrap(), other.unwrap()], [Refreshed::Rotated; 2]);
    assert_eq!(before.await.unwrap(), Refreshed::Unchanged);
    assert_eq!((script.fetches(), asked.elapsed()), (2, MILLI * 200));
    assert_in_force(&store, "v2");
}

#[tokio::test(start_paused = true)]
async fn a_fetch_during_which_rotate_changed_the_credential_is_ignored() {
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
        assert_eq!(outcome.unwrap(), Refreshed::Ignored);
        assert_in_force(&store, rotations.last().unwrap());
        assert_eq!(store.version(), version);
        assert_eq!(store.refresh().await.unwrap(), Refreshed::Rotated);
        assert_in_force(&store, "late");
    }
}

/// S3, S4, S13, R22.
#[tokio::test(start_paused = true)]
async fn polls_and_refreshes_do_not_bring_back_what_was_denied_or_rotated_out_and_a_look_does() {
    let script = Script::new(Fetch::Gives("v1"));
    let store = script.store().await;
    store.rotate(key_of("wrong"));
    assert_eq!(store.refresh().await.unwrap(), Refreshed::Ignored);
    assert_in_force(&store, "wrong");
    denied(&store).await;
    settle().await;
    assert_in_force(&store, "v1");
    // A 401 that comes after the change counts too.
    let (client, mut server) = tower_test::mock::pair::<http::Request<String>, Response<String>>();
    let client = AnyreachAuthLayer::new(store.clone()).layer(client);
    let late = tokio::spawn(tower::ServiceExt::oneshot(client, get_agents()));
    let (_, respond) = server.next_request().await.unwrap();
    script.tell(Fetch::Gives("v2"));
    assert_eq!(store.refresh().await.unwrap(), Refreshed::Rotated);
    respond.send_response(answer(StatusCode::UNAUTHORIZED, "{}"));
    late.await.unwrap().unwrap_err();
    script.tell(Fetch::Gives("v1"));
    assert_eq!(store.refresh().await.unwrap(), Refreshed::Ignored);
    assert_in_force(&store, "v2");
}

/// R24.
#[tokio::test]
async fn a_loop_of_failing_refreshes_lets_other_tasks_run() {
    let store = Script::new(Fetch::Fails).store().await;
    let others = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&others);
    let other = tokio::spawn(async move {
        loop {
            counted.fetch_add(1, Ordering::Relaxed);
            yield_now().await;
        }
    });
    for _ in 0..100 {
        store.refresh().await.unwrap_err();
    }
    other.abort();
    assert!(others.load(Ordering::Relaxed) >= 100);
}

// Looks and rests.

#[tokio::test(start_paused = true)]
async fn a_401_starts_a_look_without_a_retry_outside_and_when_passed_through() {
    for denied_responses in [DeniedResponses::IntoError, DeniedResponses::PassThrough] {
        let script = Script::new(Fetch::Gives("v2"));
        let store = script.store().await;
        let server = Recorder::answering(answer(StatusCode::UNAUTHORIZED, "<html>"));
        let layer = AnyreachAuthLayer::new(store.clone()).denied_responses(denied_responses);
        drop(tower::ServiceExt::oneshot(layer.layer(server), get_agents()).await);
        settle().await;
        assert_in_force(&store, "v2");
        assert_eq!(script.fetches(), 1);
    }
}

#[tokio::test(start_paused = true)]
async fn after_looks_in_a_row_the_source_rests_for_1_then_2_4_and_8_seconds_of_which_half_may_be_left_out()
 {
    let script = Script::new(Fetch::Gives("v1"));
    let store = script.store().await;
    let begun = Instant::now();
    while begun.elapsed() < SECOND * 120 {
        denied(&store).await;
        sleep(MILLI * 20).await;
    }
    let looks = script.begun();
    for (pair, longest) in looks.windows(2).zip([1, 2, 4, 8, 8, 8, 8, 8]) {
        let rest = pair[1] - pair[0];
        let allowed = SECOND * longest / 2..=SECOND * longest + MILLI * 21;
        assert!(allowed.contains(&rest), "{rest:?} of {longest} s");
    }
    assert!(looks.len() <= 30, "{}", looks.len());
}

#[tokio::test(start_paused = true)]
async fn polls_and_refreshes_neither_start_nor_obey_nor_end_a_rest() {
    let script = Script::new(Fetch::Gives("v1"));
    let store = script.store().await;
    // R1: an unchanged poll or refresh is no reason not to look.
    assert_eq!(store.refresh().await.unwrap(), Refreshed::Unchanged);
    denied(&store).await;
    settle().await;
    assert_eq!(script.fetches(), 2);
    // At rest, `refresh` asks, and a 401 still does not.
    store.refresh().await.unwrap();
    denied(&store).await;
    settle().await;
    assert_eq!(script.fetches(), 3);
}

#[tokio::test(start_paused = true)]
async fn a_wrong_key_that_is_rotated_in_by_hand_is_looked_at_at_once() {
    let script = Script::new(Fetch::Gives("v1"));
    let store = script.store().await;
    denied(&store).await;
    settle().await;
    store.rotate(key_of("wrong"));
    denied(&store).await;
    settle().await;
    assert_in_force(&store, "v1");
    assert_eq!(script.fetches(), 2);
}

// Loading and polling.

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
    // Limits that a clock cannot express are limits like others.
    for limit in [Duration::ZERO, Duration::MAX] {
        let script = Script::new(Fetch::Gives("v2"));
        let store = script.store_with_limit(limit).await;
        assert_eq!(store.refresh().await.unwrap(), Refreshed::Rotated);
    }
}

#[tokio::test(start_paused = true)]
async fn what_a_load_fails_with_is_typed_and_a_fall_back_starts_in_its_place() {
    for (fetch, reason) in [
        (Fetch::Fails, SourceErrorReason::Failed),
        (Fetch::Hangs, SourceErrorReason::TimedOut),
        (Fetch::PanicsAtOnce, SourceErrorReason::Panicked),
        (Fetch::PanicsLater, SourceErrorReason::Panicked),
    ] {
        let error = CredentialStore::load(Script::new(fetch)).await.unwrap_err();
        assert_eq!(error.reason(), reason, "{fetch:?}");
        let script = Script::new(fetch);
        let loader = CredentialStore::loader(script.clone()).or_start_with(key_of("v0"));
        let store = loader.refresh_every(SECOND * 3_600).load().await.unwrap();
        assert_in_force(&store, "v0");
        let status = store.status();
        assert_eq!(status.last_error().unwrap().reason(), reason);
        assert_eq!((status.failures(), status.last_fetched()), (1, None));
        // The fall-back counts as a failure: the next poll comes after a back-off, not after an hour.
        script.tell(Fetch::Gives("v1"));
        sleep(SECOND + MILLI).await;
        assert_in_force(&store, "v1");
    }
    settle().await;
    assert_eq!(tasks(), 0);
}

#[tokio::test(start_paused = true)]
async fn polls_come_at_each_interval_less_up_to_a_tenth_and_the_first_one_anywhere_in_it() {
    let mut firsts = Vec::new();
    for _ in 0..40 {
        let script = Script::new(Fetch::GivesFresh);
        let begun = Instant::now();
        let loader = CredentialStore::loader(script.clone()).refresh_every(SECOND * 60);
        let store = loader.load().await.unwrap();
        sleep(SECOND * 600).await;
        let polls = script.begun().split_off(1);
        firsts.push((polls[0] - begun).as_secs_f64());
        for pair in polls.windows(2) {
            let wait = pair[1] - pair[0];
            assert!(
                (SECOND * 54..=SECOND * 60 + MILLI * 2).contains(&wait),
                "{wait:?}"
            );
        }
        assert_eq!(store.version(), script.fetches() as u64);
    }
    let mean = firsts.iter().sum::<f64>() / 40.0;
    assert!(
        (15.0..45.0).contains(&mean),
        "spread over the interval: {firsts:?}"
    );
}

/// R21, S7: otherwise a fleet asks in step after an outage.
#[tokio::test(start_paused = true)]
async fn the_second_poll_after_a_recovery_comes_anywhere_in_the_interval() {
    let mut waits = Vec::new();
    for _ in 0..40 {
        let script = Script::new(Fetch::Gives("v1"));
        let loader = CredentialStore::loader(script.clone()).refresh_every(SECOND * 60);
        let _store = loader.load().await.unwrap();
        script.tell(Fetch::Fails);
        sleep(SECOND * 600).await;
        script.tell(Fetch::Gives("v1"));
        let failed = script.fetches();
        sleep(SECOND * 120).await;
        let polls = script.begun().split_off(failed);
        waits.push((polls[1] - polls[0]).as_secs_f64());
    }
    let mean = waits.iter().sum::<f64>() / 40.0;
    assert!((15.0..45.0).contains(&mean), "{waits:?}");
}

#[tokio::test(start_paused = true)]
async fn absurd_intervals_are_intervals_like_others() {
    for (interval, polls) in [(Duration::ZERO, 90..=101), (Duration::MAX, 0..=0)] {
        let script = Script::new(Fetch::Gives("v1"));
        let loader = CredentialStore::loader(script.clone()).refresh_every(interval);
        let store = loader.load().await.unwrap();
        sleep(SECOND).await;
        assert!(
            polls.contains(&(script.fetches() - 1)),
            "{}",
            script.fetches()
        );
        assert_eq!(tasks(), 1);
        drop(store);
        settle().await;
    }
}

/// R11.
#[tokio::test(start_paused = true)]
async fn one_failed_poll_at_a_long_interval_is_followed_by_another_within_a_second() {
    let script = Script::new(Fetch::Gives("v1"));
    let loader = CredentialStore::loader(script.clone()).refresh_every(SECOND * 3_000);
    let store = loader.load().await.unwrap();
    for fetch in [Fetch::Fails, Fetch::PanicsAtOnce, Fetch::PanicsLater] {
        script.tell(fetch);
        let failures = store.status().failures();
        while store.status().failures() == failures {
            sleep(MILLI * 100).await;
        }
    }
    // The first fetch, the first poll, and one after each failure.
    for (pair, longest) in script.begun()[1..].windows(2).zip([1, 2, 4, 8, 16, 30, 30]) {
        assert!(pair[1] - pair[0] <= SECOND * longest + MILLI * 2);
    }
    script.tell(Fetch::Gives("v2"));
    sleep(SECOND * 30 + MILLI * 2).await;
    assert_in_force(&store, "v2");
}

// Sources.

/// B01, B02.
#[tokio::test]
async fn a_source_may_hold_state_be_shared_boxed_or_chosen_at_run_time() {
    struct Vault(String);
    impl CredentialSource for Vault {
        async fn fetch(&self) -> Result<Credential, BoxError> {
            Ok(Credential::parse(self.0.clone())?)
        }
    }
    type Boxed = std::pin::Pin<Box<dyn Future<Output = Result<Credential, BoxError>> + Send>>;

    let shared = Arc::new(Vault("ak_v1.c2VjcmV0".to_owned()));
    let any = AnySource::new(Arc::clone(&shared));
    let path = String::from("v1");
    let closure = move || {
        let path = path.clone();
        async move { Ok(key_of(&path)) }
    };
    let boxed = || -> Boxed { Box::pin(async { Ok(key_of("v1")) }) };
    let boxed_closure: Box<dyn Fn() -> Boxed + Send + Sync> = Box::new(boxed);
    for store in [
        CredentialStore::load(shared).await,
        CredentialStore::load(any.clone()).await,
        CredentialStore::load(Arc::new(any)).await,
        CredentialStore::load(closure).await,
        CredentialStore::load(boxed).await,
        CredentialStore::load(boxed_closure).await,
    ] {
        assert_in_force(&store.unwrap(), "v1");
    }
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

/// 100,000 of them are woken in `campaigns/tests/soak.rs`.
#[tokio::test(start_paused = true)]
async fn all_who_wait_share_one_fetch_and_one_outcome() {
    let script = Script::new(Fetch::Fails);
    script.take(50);
    let store = script.store().await;
    let asked = Instant::now();
    let mut callers = JoinSet::new();
    for _ in 0..100 {
        let store = store.clone();
        callers.spawn(async move { store.refresh().await.unwrap_err() });
    }
    let errors = callers.join_all().await;
    // The first call's fetch, and one for all that came while that was in flight.
    assert_eq!((script.fetches(), asked.elapsed()), (2, MILLI * 100));
    assert!(
        errors
            .iter()
            .all(|error| error.reason() == SourceErrorReason::Failed)
    );
}
