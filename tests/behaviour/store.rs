//! `CredentialStore`: what is in force, and when its source is asked.

use std::sync::{Barrier, OnceLock};

use tokio::time::advance;

use crate::prelude::*;
use crate::scripted::after_v1;

/// Sends one request that is denied, and lets what follows from that happen.
async fn denied_and_settled(store: &CredentialStore) {
    denied(store).await;
    settle().await;
}

// What is in force.

#[test]
fn no_request_pairs_one_rotations_token_with_anothers_organization() {
    let tokens = [0, 1, 2, 3].map(|number| {
        let token = PersonalAccessToken::new(format!("pat_t{number}")).unwrap();
        Credential::from(token.for_organization(organization(&format!("org_{number}"))))
    });
    let store = CredentialStore::new(tokens[0].clone());
    let layer = AnyreachAuthLayer::new(store.clone());
    let send_many = || {
        for _ in 0..4_000 {
            let head = send(&layer, get_agents()).head();
            let token = head.headers[AUTHORIZATION].to_str().unwrap();
            let number = token.strip_prefix("Bearer pat_t").unwrap();
            assert_eq!(head.headers[&ORG], format!("org_{number}"));
        }
    };
    thread::scope(|scope| {
        let senders = [scope.spawn(send_many), scope.spawn(send_many)];
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

/// A user's own poller may rotate the same key again and again.
#[tokio::test(start_paused = true)]
async fn rotating_to_the_credential_in_force_changes_ends_and_wakes_nothing() {
    let script = Script::new(Fetch::Gives("v1"));
    let store = script.store().await;
    denied_and_settled(&store).await;
    let mut changed = task::spawn(store.changed_since(1));
    assert!(changed.poll().is_pending());
    assert_eq!(store.rotate(key_of("v1")), 1);
    assert!(!changed.is_woken());
    assert!(store.status().last_denied().is_some());
    // The rest goes on: this 401 asks nothing.
    denied_and_settled(&store).await;
    assert_eq!(script.fetches(), 1);
}

/// Of two rotations at once, neither may be published after the other with an older version.
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
    let rotated = store.clone();
    let rotating = thread::spawn(move || {
        for number in 1..=2_000 {
            rotated.rotate(key_of(&format!("v{number}")));
        }
    });
    let watching = async {
        let mut version = 1;
        while version != 2_001 {
            let next = store.changed_since(version).await;
            assert!(next > version);
            version = next;
        }
    };
    timeout(SECOND * 60, watching).await.unwrap();
    rotating.join().unwrap();
    // A dropped wait loses nothing.
    let mut dropped = task::spawn(store.changed_since(2_001));
    assert!(dropped.poll().is_pending());
    drop(dropped);
    store.rotate(key_of("last"));
    assert_eq!(store.changed_since(2_001).await, 2_002);
}

#[tokio::test(start_paused = true)]
async fn status_shows_what_is_in_force_when_it_was_denied_and_how_its_source_fares() {
    let script = Script::new(Fetch::Fails);
    let loaded = Instant::now().into_std();
    let store = script.store().await;
    // Version, failures, last denial, last fetch and last error.
    let found = || {
        let status = store.status();
        assert_eq!(status.credential(), store.credential().id());
        let error = status.last_error().map(SourceError::reason);
        let times = [status.last_denied(), status.last_fetched()];
        (status.version(), status.failures(), times, error)
    };
    assert_in_force(&store, "v1");
    assert_eq!(found(), (1, 0, [None, Some(loaded)], None));

    advance(SECOND * 5).await;
    denied_and_settled(&store).await;
    let later = loaded + SECOND * 5;
    let times = [Some(later), Some(loaded)];
    let failed = Some(SourceErrorReason::Failed);
    assert_eq!(found(), (1, 1, times, failed));
    store.refresh().await.unwrap_err();
    assert_eq!(found(), (1, 2, times, failed));

    // The denial was that of another credential.
    script.set(Fetch::Gives("v2"));
    store.refresh().await.unwrap();
    assert_eq!(found(), (2, 0, [None, Some(later)], None));
    assert_in_force(&store, "v2");
}

// `refresh`.

/// `campaigns/tests/rotation` wakes 100,000 callers.
#[tokio::test(start_paused = true)]
async fn a_refresh_sees_what_was_written_before_it_and_all_that_wait_share_one_fetch_and_outcome() {
    for (fetch, expected) in [
        (Fetch::Gives("v2"), Ok(Refreshed::Rotated)),
        (Fetch::Fails, Err(SourceErrorReason::Failed)),
    ] {
        let script = Script::new(Fetch::Gives("v1"));
        script.delay(100);
        let store = script.store().await;
        let refresh = || {
            let store = store.clone();
            async move { store.refresh().await.map_err(|error| error.reason()) }
        };
        let before = tokio::spawn(refresh());
        settle().await;
        script.set(fetch);
        let asked = Instant::now();
        let callers: JoinSet<_> = (0..100).map(|_| refresh()).collect();
        assert_eq!(callers.join_all().await, [expected; 100]);
        assert_eq!(before.await.unwrap(), Ok(Refreshed::Unchanged));
        assert_eq!((script.fetches(), asked.elapsed()), (2, MILLI * 200));
    }
}

#[tokio::test(start_paused = true)]
async fn a_fetch_during_which_rotate_changed_the_credential_is_ignored() {
    for (rotations, version) in [(&["byhand"][..], 2), (&["byhand", "v1"], 3)] {
        let script = Script::new(Fetch::Gives("late"));
        script.delay(100);
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
#[tokio::test(start_paused = true)]
async fn polls_and_refreshes_do_not_bring_back_what_was_denied_or_rotated_out_and_a_look_does() {
    let script = Script::new(Fetch::Gives("v1"));
    let store = script.store().await;
    denied_and_settled(&store).await;
    store.rotate(key_of("wrong"));
    assert_eq!(store.refresh().await.unwrap(), Refreshed::Ignored);
    assert_in_force(&store, "wrong");
    // The rotation has ended the rest that followed the first look.
    denied_and_settled(&store).await;
    assert_in_force(&store, "v1");
    assert_eq!(script.fetches(), 3);
    // A 401 that comes after the change counts too.
    let (client, mut server) = tower_test::mock::pair::<Request<String>, Response<String>>();
    let client = AnyreachAuthLayer::new(store.clone()).layer(client);
    let late = tokio::spawn(client.oneshot(get_agents()));
    let (_, respond) = server.next_request().await.unwrap();
    script.set(Fetch::Gives("v2"));
    assert_eq!(store.refresh().await.unwrap(), Refreshed::Rotated);
    respond.send_response(answer(StatusCode::UNAUTHORIZED, "{}"));
    late.await.unwrap().unwrap_err();
    script.set(Fetch::Gives("v1"));
    assert_eq!(store.refresh().await.unwrap(), Refreshed::Ignored);
    assert_in_force(&store, "v2");
}
#[tokio::test]
async fn a_loop_of_failing_refreshes_lets_other_tasks_run() {
    let store = Script::new(Fetch::Fails).store().await;
    let other = tokio::spawn(async {
        for _ in 0..99 {
            yield_now().await;
        }
    });
    for _ in 0..100 {
        store.refresh().await.unwrap_err();
    }
    assert!(other.is_finished());
}

// Looks and rests.

#[tokio::test(start_paused = true)]
async fn the_source_rests_for_1_2_4_and_8_seconds_less_up_to_a_half_after_looks_in_a_row() {
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

/// An unchanged poll or refresh is no reason not to look.
#[tokio::test(start_paused = true)]
async fn a_refresh_neither_starts_nor_obeys_nor_ends_a_rest() {
    let script = Script::new(Fetch::Gives("v1"));
    let store = script.store().await;
    assert_eq!(store.refresh().await.unwrap(), Refreshed::Unchanged);
    denied_and_settled(&store).await;
    assert_eq!(script.fetches(), 2);
    // During the rest `refresh` asks, and a 401 still does not.
    store.refresh().await.unwrap();
    denied_and_settled(&store).await;
    assert_eq!(script.fetches(), 3);
}

#[tokio::test(start_paused = true)]
async fn a_401_during_another_fetch_is_followed_by_one_look() {
    let script = Script::new(Fetch::Gives("v1"));
    script.delay(100);
    let store = script.store().await;
    let (refreshed, ()) = tokio::join!(store.refresh(), async {
        settle().await;
        denied_and_settled(&store).await;
        assert_eq!(script.fetches(), 1);
    });
    assert_eq!(refreshed.unwrap(), Refreshed::Unchanged);
    sleep(SECOND).await;
    assert_eq!(script.fetches(), 2);
}

/// The simulation in `src/store/models` has a dead key beside such answers, and counts looks and attempts.
#[tokio::test(start_paused = true)]
async fn no_answer_but_a_401_starts_a_look_or_ends_a_rest() {
    let script = Script::new(Fetch::Gives("v1"));
    let store = script.store().await;
    let auth = AnyreachAuthLayer::new(store.clone());
    for fetches in [0, 1] {
        for status in [200, 307, 403, 404, 429, 503] {
            let to_agents = [("location", "/core/agents")];
            let server = Recorder::answering(answer_with(status, &to_agents, String::new()));
            drop(send_to(&server, &auth, get_agents()));
            settle().await;
            assert_eq!(script.fetches(), fetches, "{status}");
        }
        // The first one starts a look, and the second one does not, because the rest goes on.
        denied_and_settled(&store).await;
        assert_eq!(script.fetches(), 1);
    }
}

// Loading and polling.

#[tokio::test(start_paused = true)]
async fn the_first_and_later_fetches_may_take_the_limit_which_is_ten_seconds_by_default() {
    for (limit, millis) in [(None, 10_000), (Some(MILLI * 300), 300)] {
        let script = Script::new(Fetch::Gives("v1"));
        let load = async || {
            let loader = || CredentialStore::loader(script.clone());
            let limited = limit.map(|limit| loader().timeout(limit));
            limited.unwrap_or_else(loader).load().await
        };
        script.delay(millis - 1);
        let store = load().await.unwrap();
        script.set(Fetch::Gives("v2"));
        assert_eq!(store.refresh().await.unwrap(), Refreshed::Rotated);

        script.delay(millis + 1);
        let limit = Duration::from_millis(millis);
        let asked = Instant::now();
        let later = store.refresh().await.unwrap_err();
        let between = Instant::now();
        let first = load().await.unwrap_err();
        for (error, took) in [(later, between - asked), (first, between.elapsed())] {
            assert_eq!(error.reason(), SourceErrorReason::TimedOut);
            assert!((limit..=limit + MILLI).contains(&took), "{took:?}");
        }
    }
    // Limits that a clock cannot express are limits like others.
    for limit in [Duration::ZERO, Duration::MAX] {
        let script = Script::new(Fetch::Gives("v2"));
        let store = script.store_with_limit(limit).await;
        assert_eq!(store.refresh().await.unwrap(), Refreshed::Rotated);
    }
}

/// A store that polls the script at that interval.
async fn polling(script: &Script, interval: Duration) -> CredentialStore {
    let loader = CredentialStore::loader(script.clone()).or_start_with(key_of("v0"));
    loader.refresh_every(interval).load().await.unwrap()
}

#[tokio::test(start_paused = true)]
async fn a_load_that_fails_has_a_typed_error_and_a_fall_back_starts_in_its_place() {
    for (fetch, reason) in [
        (Fetch::Fails, SourceErrorReason::Failed),
        (Fetch::Hangs, SourceErrorReason::TimedOut),
        (Fetch::PanicsAtOnce, SourceErrorReason::Panicked),
        (Fetch::PanicsLater, SourceErrorReason::Panicked),
    ] {
        let error = CredentialStore::load(Script::new(fetch)).await.unwrap_err();
        assert_eq!(error.reason(), reason, "{fetch:?}");
        let script = Script::new(fetch);
        let store = polling(&script, SECOND * 3_600).await;
        assert_in_force(&store, "v0");
        let status = store.status();
        assert_eq!(status.last_error().unwrap().reason(), reason);
        assert_eq!((status.failures(), status.last_fetched()), (1, None));
        // The fall-back counts as a failure: the next poll comes after a back-off, not after an hour.
        script.set(Fetch::Gives("v1"));
        sleep(SECOND + MILLI).await;
        assert_in_force(&store, "v1");
    }
    settle().await;
    assert_eq!(tasks(), 0);
}

/// Otherwise a fleet asks in step after an outage.
#[tokio::test(start_paused = true)]
async fn polls_come_at_each_interval_less_up_to_a_tenth_and_anywhere_in_it_at_first_and_after_a_recovery()
 {
    let (mut first, mut recovered) = (Duration::ZERO, Duration::ZERO);
    for _ in 0..40 {
        let script = Script::new(Fetch::GivesFresh);
        let begun = Instant::now();
        let store = polling(&script, SECOND * 60).await;
        sleep(SECOND * 600).await;
        let polls = script.begun().split_off(1);
        first += polls[0] - begun;
        for pair in polls.windows(2) {
            let wait = pair[1] - pair[0];
            let allowed = SECOND * 54..=SECOND * 60 + MILLI * 2;
            assert!(allowed.contains(&wait), "{wait:?}");
        }
        assert_eq!(store.version(), script.fetches() as u64);

        script.set(Fetch::Fails);
        sleep(SECOND * 600).await;
        script.set(Fetch::GivesFresh);
        let failed = script.fetches();
        sleep(SECOND * 120).await;
        let polls = script.begun().split_off(failed);
        recovered += polls[1] - polls[0];
    }
    for sum in [first, recovered] {
        let mean = sum / 40;
        assert!((SECOND * 15..SECOND * 45).contains(&mean), "{mean:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn an_interval_of_zero_polls_every_10_ms_and_the_longest_one_never() {
    for (interval, polls) in [(Duration::ZERO, 90..=101), (Duration::MAX, 0..=0)] {
        let script = Script::new(Fetch::Gives("v1"));
        let store = polling(&script, interval).await;
        sleep(SECOND).await;
        let polled = script.fetches() - 1;
        assert!(polls.contains(&polled), "{polled}");
        assert_eq!(tasks(), 1);
        drop(store);
        settle().await;
    }
}
#[tokio::test(start_paused = true)]
async fn one_failed_poll_at_a_long_interval_is_followed_by_another_within_a_second() {
    let script = Script::new(Fetch::Gives("v1"));
    let store = polling(&script, SECOND * 3_000).await;
    for fetch in [Fetch::Fails, Fetch::PanicsAtOnce, Fetch::PanicsLater] {
        script.set(fetch);
        let failures = store.status().failures();
        while store.status().failures() == failures {
            sleep(MILLI * 100).await;
        }
    }
    // The first fetch, the first poll, and one after each failure.
    for (pair, longest) in script.begun()[1..].windows(2).zip([1, 2, 4, 8, 16, 30, 30]) {
        assert!(pair[1] - pair[0] <= SECOND * longest + MILLI * 2);
    }
    script.set(Fetch::Gives("v2"));
    sleep(SECOND * 30 + MILLI * 2).await;
    assert_in_force(&store, "v2");
}

#[tokio::test(start_paused = true)]
async fn a_source_that_asks_its_own_store_ends_at_its_time_limit() {
    let own: Arc<OnceLock<CredentialStore>> = Arc::default();
    let given = Arc::clone(&own);
    let source = after_v1(move || {
        let store = given.get().unwrap().clone();
        async move {
            store.refresh().await?;
            Ok(key_of("v2"))
        }
    });
    let store = CredentialStore::load(source).await.unwrap();
    own.set(store.clone()).unwrap();
    let asked = Instant::now();
    let error = store.refresh().await.unwrap_err();
    assert_eq!(error.reason(), SourceErrorReason::TimedOut);
    assert!(asked.elapsed() <= SECOND * 10 + MILLI);
}
