//! Rotation under load, a test for each figure that is claimed of it. Time is simulated.

use std::collections::HashSet;

use crate::prelude::*;
use crate::scripted::Client;

type Outcome = Result<Response<String>, Error>;

fn get_number(number: usize) -> Request<String> {
    let mut request = get_agents();
    request.headers_mut().insert("x-request", number.into());
    request
}

/// Sends that many requests at once. When it returns, all are at the server and none is answered.
async fn in_flight(client: &Client, server: &Server, requests: usize) -> JoinSet<Outcome> {
    server.hold();
    let mut calls = JoinSet::new();
    for number in 0..requests {
        calls.spawn(client.clone().oneshot(get_number(number)));
    }
    while server.attempts() < requests {
        yield_now().await;
    }
    calls
}

/// Asserts that each request arrived once or twice, and never with the same credential.
fn assert_no_excess_attempts(server: &Server, requests: usize) {
    let mut seen = HashSet::new();
    let mut attempts = vec![0; requests];
    for head in server.take() {
        let number: usize = head.headers["x-request"].to_str().unwrap().parse().unwrap();
        attempts[number] += 1;
        let key = head.headers["authorization"].as_bytes().to_vec();
        assert!(seen.insert((number, key)), "{number}");
    }
    assert!(attempts.iter().all(|attempts| (1..=2).contains(attempts)));
}

/// Denies all requests with `v1`; they are replayed with `v2`, which is rotated in by hand or fetched.
async fn a_revocation_under(requests: usize, is_by_hand: bool) {
    let script = Script::new(Fetch::Gives(if is_by_hand { "worse" } else { "v2" }));
    script.delay(100);
    let store = script.store().await;
    let server = Server::accepting(&["v2"]);
    let client = client(&store, server.clone());
    let calls = in_flight(&client, &server, requests).await;
    if is_by_hand {
        store.rotate(key_of("v2"));
    }
    server.release();
    for outcome in calls.join_all().await {
        assert_eq!(outcome.unwrap().status(), StatusCode::OK);
    }
    assert_eq!(script.fetches(), usize::from(!is_by_hand));
    assert!(server.attempts() <= 2 * requests);
    assert_no_excess_attempts(&server, requests);
    assert_in_force(&store, "v2");
    assert_eq!(store.version(), 2);
}

#[tokio::test(start_paused = true)]
async fn ten_thousand_requests_in_flight_survive_a_revocation_with_one_fetch() {
    a_revocation_under(10_000, false).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_thousand_requests_on_two_threads_survive_a_revocation_with_one_fetch() {
    a_revocation_under(1_000, false).await;
}

#[tokio::test(start_paused = true)]
async fn a_thousand_late_401s_for_version_1_leave_version_2_untouched_and_fetch_nothing() {
    a_revocation_under(1_000, true).await;
}
#[tokio::test(start_paused = true)]
async fn a_401_to_the_previous_credential_is_replayed_while_the_source_rests() {
    let script = Script::new(Fetch::Gives("v1"));
    let store = script.store().await;
    let server = Server::accepting(&["v2"]);
    let client = client(&store, server.clone());
    let calls = in_flight(&client, &server, 100).await;
    // A fruitless look, then a fetch that brings the good key, then the 401s.
    denied(&store).await;
    while script.fetches() == 0 {
        yield_now().await;
    }
    script.set(Fetch::Gives("v2"));
    store.refresh().await.unwrap();
    server.release();
    assert!(calls.join_all().await.iter().all(Result::is_ok));
    assert_eq!(script.fetches(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_source_that_does_not_help_costs_one_fetch_and_each_request_gets_its_own_denial() {
    for (fetch, reason) in [
        (Fetch::Gives("v1"), None),
        (Fetch::Fails, Some(SourceErrorReason::Failed)),
        (Fetch::PanicsAtOnce, Some(SourceErrorReason::Panicked)),
        (Fetch::PanicsLater, Some(SourceErrorReason::Panicked)),
        (Fetch::Hangs, Some(SourceErrorReason::TimedOut)),
    ] {
        let limit = MILLI * 700;
        let script = Script::new(fetch);
        let store = script.store_with_limit(limit).await;
        script.delay(100);
        let server = Server::accepting(&["v2"]);
        let client = client(&store, server.clone());
        let mut calls = JoinSet::new();
        for number in 0..50 {
            let call = client.clone().oneshot(get_number(number));
            calls.spawn(async move {
                let sent = Instant::now();
                (call.await.unwrap_err(), sent.elapsed())
            });
            sleep(MILLI).await;
        }
        let mut attempts = HashSet::new();
        for (error, waited) in calls.join_all().await {
            assert!(attempts.insert(denied_attempt(&error)));
            let denial = error.denial().unwrap();
            assert_eq!(denial.credential(), Some(key_of("v1").id()));
            assert_eq!(denial.reason(), DenialReason::InvalidCredential);
            assert!(waited <= limit + MILLI, "{fetch:?}: {waited:?}");
        }
        assert_eq!((script.fetches(), server.attempts()), (1, 50), "{fetch:?}");
        let status = store.status();
        assert_eq!(status.last_error().map(SourceError::reason), reason);
        // After the rest, the next request recovers.
        script.set(Fetch::Gives("v2"));
        sleep(SECOND).await;
        let outcome = client.clone().oneshot(get_number(50)).await;
        assert_eq!(outcome.unwrap().status(), StatusCode::OK);
        assert_eq!(script.fetches(), 2);
    }
}

#[tokio::test(start_paused = true)]
async fn requests_given_up_every_20_ms_cost_one_fetch_and_no_other_waits_longer() {
    let script = Script::new(Fetch::Gives("v2"));
    script.delay(100);
    let store = script.store().await;
    let client = client(&store, Server::accepting(&["v2"]));
    let begun = Instant::now();
    let mut calls = JoinSet::new();
    for number in 1..=20 {
        let client = client.clone();
        calls.spawn(async move {
            let call = client.oneshot(get_number(number));
            let outcome = timeout(MILLI * 20 * u32::try_from(number).unwrap(), call).await;
            let outcome = outcome.ok()?;
            Some((outcome.unwrap().status(), begun.elapsed()))
        });
    }
    let survivors: Vec<_> = calls.join_all().await.into_iter().flatten().collect();
    assert!((15..=16).contains(&survivors.len()), "{survivors:?}");
    for (status, elapsed) in survivors {
        assert_eq!(status, StatusCode::OK);
        assert!(elapsed <= MILLI * 110, "{elapsed:?}");
    }
    assert_eq!(script.fetches(), 1);
    assert_in_force(&store, "v2");
}

/// A key that is dead for good, under 100 requests a second for a minute.
#[tokio::test(start_paused = true)]
async fn a_dead_key_is_looked_at_after_each_rest_only() {
    use Fetch::{Fails, Gives, GivesFresh, Hangs, PanicsLater};
    const REQUESTS: usize = 6_000;

    for fetch in [Gives("v1"), GivesFresh, Fails, PanicsLater, Hangs] {
        let script = Script::new(fetch);
        let store = script.store_with_limit(SECOND).await;
        let server = Server::accepting(&[]);
        let client = client(&store, server.clone());
        let mut calls = JoinSet::new();
        for number in 0..REQUESTS {
            calls.spawn(client.clone().oneshot(get_number(number)));
            sleep(MILLI * 10).await;
        }
        assert!(calls.join_all().await.iter().all(Result::is_err));
        let looks = script.begun();
        let number = looks.len();
        assert!((8..=20).contains(&number), "{fetch:?}: {number}");
        assert!(looks.windows(2).all(|pair| pair[1] - pair[0] >= SECOND / 2));
        // Each look that brings a new key has one request replayed, which waited for it.
        let replays = looks.len() * usize::from(fetch == GivesFresh);
        assert_eq!(server.attempts(), REQUESTS + replays, "{fetch:?}");

        // One good credential, and the next look recovers.
        script.set(Gives("good"));
        server.accept_only(&["good"]);
        sleep(SECOND * 8).await;
        let outcome = client.clone().oneshot(get_number(0)).await;
        assert_eq!(outcome.unwrap().status(), StatusCode::OK, "{fetch:?}");
    }
}
