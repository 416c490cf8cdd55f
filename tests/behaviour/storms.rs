//! The figures that are claimed of rotation under load, each as one test. Time is simulated.

use std::collections::HashSet;
use std::ptr;

use http::{Request, Response, StatusCode};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout};
use tower::ServiceExt;
use tower_anyreach::{CredentialStore, Error, Refreshed, SourceErrorReason};

use crate::scripted::{CAUSE, Client, Fetch, Script, Server, assert_in_force, client, key_of};
use support::{MILLI, SECOND, get_agents};

fn get_number(number: usize) -> Request<String> {
    let mut request = get_agents();
    request.headers_mut().insert("x-request", number.into());
    request
}

/// Sends that many requests at once. They are all at the server, and none is answered, when this returns.
async fn in_flight(
    client: &Client,
    server: &Server,
    requests: usize,
) -> JoinSet<Result<Response<String>, Error>> {
    server.hold();
    let mut calls = JoinSet::new();
    for number in 0..requests {
        calls.spawn(client.clone().oneshot(get_number(number)));
    }
    while server.attempts() < requests {
        tokio::task::yield_now().await;
    }
    calls
}

/// Asserts that no request was at the server more than twice, or with one credential twice.
fn assert_accounts_close(server: &Server, requests: usize) {
    let mut seen = HashSet::new();
    let mut attempts = vec![0; requests];
    for head in server.take() {
        let number: usize = head.headers["x-request"].to_str().unwrap().parse().unwrap();
        attempts[number] += 1;
        assert!(
            seen.insert((number, head.headers["authorization"].as_bytes().to_vec())),
            "request {number} was sent twice with one credential"
        );
    }
    assert!(attempts.iter().all(|attempts| (1..=2).contains(attempts)));
}

async fn a_revocation_under(requests: usize) {
    let script = Script::new(Fetch::Gives("v2"));
    script.take(100);
    let store = script.store().await;
    let server = Server::accepting(&["v2"]);
    let client = client(&store, server.clone());
    let calls = in_flight(&client, &server, requests).await;
    server.let_out();
    for outcome in calls.join_all().await {
        assert_eq!(outcome.unwrap().status(), StatusCode::OK);
    }
    assert_eq!(script.fetches(), 1);
    assert!(server.attempts() <= 2 * requests);
    assert_accounts_close(&server, requests);
    assert_in_force(&store, "v2");
    assert_eq!(store.version(), 2);
}

#[tokio::test(start_paused = true)]
async fn ten_thousand_requests_in_flight_survive_a_revocation_with_one_fetch() {
    a_revocation_under(10_000).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_thousand_requests_on_two_threads_survive_a_revocation_with_one_fetch() {
    a_revocation_under(1_000).await;
}

#[tokio::test(start_paused = true)]
async fn a_failing_source_answers_a_hundred_callers_with_one_fetch_and_one_cause_within_60_ms() {
    let script = Script::new(Fetch::Fails);
    script.take(50);
    let store = script.store().await;
    let asked = Instant::now();
    let mut callers = JoinSet::new();
    for _ in 0..100 {
        let store = store.clone();
        callers.spawn(async move { (store.refresh().await.unwrap_err(), asked.elapsed()) });
    }
    let mut causes = HashSet::new();
    for (error, elapsed) in callers.join_all().await {
        assert!(elapsed <= MILLI * 60, "{elapsed:?}");
        assert_eq!(error.reason(), SourceErrorReason::Failed);
        let cause = error.expose_cause().unwrap();
        assert_eq!(cause.to_string(), CAUSE);
        causes.insert(ptr::from_ref(cause).cast::<u8>().addr());
    }
    assert_eq!(script.fetches(), 1);
    assert_eq!(store.version(), 1);
    assert_eq!(causes.len(), 1, "one cause, shared");
}

#[tokio::test(start_paused = true)]
async fn a_hanging_source_costs_one_fetch_and_a_typed_time_out_at_the_limit() {
    let script = Script::new(Fetch::Hangs);
    let limit = MILLI * 700;
    let store = script.store_with_limit(limit).await;
    let asked = Instant::now();
    let mut callers = JoinSet::new();
    for number in 0..50 {
        let store = store.clone();
        callers.spawn(async move {
            sleep(MILLI * number).await;
            (store.refresh().await.unwrap_err(), asked.elapsed())
        });
    }
    for (error, elapsed) in callers.join_all().await {
        assert_eq!(error.reason(), SourceErrorReason::TimedOut);
        assert!(
            (limit..=limit + MILLI * 10).contains(&elapsed),
            "{elapsed:?}"
        );
    }
    assert_eq!(script.fetches(), 1);
    // Later calls recover.
    script.tell(Fetch::Gives("v2"));
    sleep(MILLI * 250).await;
    assert_eq!(store.refresh().await.unwrap(), Refreshed::Rotated);
    assert_eq!(script.fetches(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_panicking_source_panics_no_caller_and_later_calls_recover() {
    for fetch in [Fetch::PanicsAtOnce, Fetch::PanicsLater] {
        let script = Script::new(fetch);
        let store = script.store().await;
        let mut callers = JoinSet::new();
        for _ in 0..20 {
            let store = store.clone();
            callers.spawn(async move { store.refresh().await.unwrap_err().reason() });
        }
        while let Some(caller) = callers.join_next().await {
            assert_eq!(
                caller.expect("no caller panics"),
                SourceErrorReason::Panicked
            );
        }
        assert_eq!(script.fetches(), 1, "{fetch:?}");
        script.tell(Fetch::Gives("v2"));
        sleep(MILLI * 250).await;
        assert_eq!(store.refresh().await.unwrap(), Refreshed::Rotated);
        assert_in_force(&store, "v2");
    }
}

#[tokio::test(start_paused = true)]
async fn leaders_dropped_every_20_ms_cost_one_fetch_and_no_survivor_waits_past_110_ms() {
    let script = Script::new(Fetch::Gives("v2"));
    script.take(100);
    let store = script.store().await;
    let begun = Instant::now();
    let mut callers = JoinSet::new();
    for number in 1..=20 {
        let store = store.clone();
        callers.spawn(async move {
            let refresh = timeout(MILLI * 20 * number, store.refresh()).await;
            refresh
                .ok()
                .map(|outcome| (number, outcome.unwrap(), begun.elapsed()))
        });
    }
    let survivors: Vec<_> = callers.join_all().await.into_iter().flatten().collect();
    // Only those whose patience was shorter than the fetch went without.
    assert!((15..=16).contains(&survivors.len()), "{survivors:?}");
    for (number, outcome, elapsed) in survivors {
        assert!(number >= 5, "{number}");
        assert_eq!(outcome, Refreshed::Rotated);
        assert!(elapsed <= MILLI * 110, "{elapsed:?}");
    }
    assert_eq!(script.fetches(), 1);
    assert_in_force(&store, "v2");
}

#[tokio::test(start_paused = true)]
async fn a_thousand_late_401s_for_version_1_leave_version_2_untouched_and_fetch_nothing() {
    let script = Script::new(Fetch::Gives("worse"));
    let store = script.store().await;
    let server = Server::accepting(&["v2"]);
    let client = client(&store, server.clone());
    let calls = in_flight(&client, &server, 1_000).await;
    store.rotate(key_of("v2"));
    server.let_out();
    for outcome in calls.join_all().await {
        assert_eq!(outcome.unwrap().status(), StatusCode::OK);
    }
    assert_accounts_close(&server, 1_000);
    assert_eq!(script.fetches(), 0);
    assert_eq!(store.version(), 2);
    assert_in_force(&store, "v2");
}

/// A minute of 100 requests in a second, to a server that answers 401 for ever.
struct Minute {
    /// Attempts per request, after the first second.
    amplification: f64,
    attempts: Vec<usize>,
    script: Script,
    store: CredentialStore,
}

async fn a_minute_of_401s(fetch: Fetch) -> Minute {
    const REQUESTS: usize = 6_000;
    const HELD_OFF: usize = 100;

    let script = Script::new(fetch);
    let store = script.store().await;
    let server = Server::accepting(&[]);
    let client = client(&store, server.clone());
    let mut attempts = Vec::with_capacity(REQUESTS);
    for number in 0..REQUESTS {
        let error = client
            .clone()
            .oneshot(get_number(number))
            .await
            .unwrap_err();
        assert!(error.is_unauthorized());
        attempts.push(server.take().len());
        sleep(MILLI * 10).await;
    }
    let after: usize = attempts[HELD_OFF..].iter().sum();
    let [after, requests] =
        [after, REQUESTS - HELD_OFF].map(|number| f64::from(u32::try_from(number).unwrap()));
    Minute {
        amplification: after / requests,
        attempts,
        script,
        store,
    }
}

#[tokio::test(start_paused = true)]
async fn a_401_for_ever_is_sent_once_and_fetched_once_a_second_while_the_source_has_nothing_new() {
    let minute = a_minute_of_401s(Fetch::Gives("v1")).await;
    assert!(minute.attempts.iter().all(|attempts| *attempts == 1));
    assert!(minute.amplification <= 1.01);
    let begun = minute.script.begun();
    assert!((50..=61).contains(&begun.len()), "{}", begun.len());
    for pair in begun.windows(2) {
        assert!(pair[1] - pair[0] >= SECOND);
    }
    assert_eq!(minute.store.version(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_401_for_ever_is_sent_once_and_fetched_once_per_back_off_while_the_source_fails() {
    for fetch in [
        Fetch::Fails,
        Fetch::PanicsAtOnce,
        Fetch::PanicsLater,
        Fetch::Hangs,
    ] {
        let minute = a_minute_of_401s(fetch).await;
        assert!(minute.amplification <= 1.01);
        assert!(minute.attempts.iter().all(|attempts| *attempts == 1));
        // Each back-off is a hundredth of what it may be, at least.
        let begun = minute.script.begun();
        let mut longest = MILLI * 250;
        for pair in begun.windows(2) {
            assert!(pair[1] - pair[0] >= longest / 100, "{begun:?}");
            longest = (longest * 2).min(SECOND * 30);
        }
        // About ten are to be expected.
        assert!((2..=40).contains(&begun.len()), "{}", begun.len());
        assert_eq!(minute.store.version(), 1);
    }
}

#[tokio::test(start_paused = true)]
async fn a_401_for_ever_ends_after_three_fruitless_replays_though_the_source_gives_ever_new_keys() {
    let minute = a_minute_of_401s(Fetch::GivesFresh).await;
    assert_eq!(minute.attempts[..4], [2, 2, 2, 1]);
    assert!(minute.amplification <= 1.01, "{}", minute.amplification);
    // Then once a second, for the way back may lead through the source only.
    let begun = minute.script.begun();
    assert!((50..=63).contains(&begun.len()), "{}", begun.len());
    for pair in begun[3..].windows(2) {
        assert!(pair[1] - pair[0] >= SECOND);
    }
}
