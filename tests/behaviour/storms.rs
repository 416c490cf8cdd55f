//! The figures that are claimed of rotation under load, each as one test. Time is simulated.

use std::collections::HashSet;
use std::convert::Infallible;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use http::header::LOCATION;
use http::{HeaderValue, Request, Response, StatusCode};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout};
use tower::{ServiceBuilder, ServiceExt, service_fn};
use tower_anyreach::follow_redirect::RedirectPolicy;
use tower_anyreach::retry::RefreshPolicy;
use tower_anyreach::{AnyreachAuthLayer, Error, SourceErrorReason};
use tower_http::follow_redirect::FollowRedirectLayer;

use crate::scripted::{Client, Fetch, Script, Server, assert_in_force, client, key_of};
use support::{MILLI, SECOND, answer, get_agents};

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

/// All requests are denied with `v1` and replayed with `v2`, which is rotated to by hand or fetched.
async fn a_revocation_under(requests: usize, is_by_hand: bool) {
    let script = Script::new(Fetch::Gives(if is_by_hand { "worse" } else { "v2" }));
    script.take(100);
    let store = script.store().await;
    let server = Server::accepting(&["v2"]);
    let client = client(&store, server.clone());
    let calls = in_flight(&client, &server, requests).await;
    if is_by_hand {
        store.rotate(key_of("v2"));
    }
    server.let_out();
    for outcome in calls.join_all().await {
        assert_eq!(outcome.unwrap().status(), StatusCode::OK);
    }
    assert_eq!(script.fetches(), usize::from(!is_by_hand));
    assert!(server.attempts() <= 2 * requests);
    assert_accounts_close(&server, requests);
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

/// What became of requests that were sent one every millisecond, and after how long.
async fn one_every_millisecond(client: &Client, requests: usize) -> Vec<(Error, Duration)> {
    let mut calls = JoinSet::new();
    for number in 0..requests {
        let client = client.clone();
        calls.spawn(async move {
            let sent = Instant::now();
            let outcome = client.oneshot(get_number(number)).await;
            (outcome.unwrap_err(), sent.elapsed())
        });
        sleep(MILLI).await;
    }
    calls.join_all().await
}

#[tokio::test(start_paused = true)]
async fn a_source_that_fails_panics_or_hangs_costs_one_fetch_and_each_request_gets_its_denial() {
    for (fetch, reason) in [
        (Fetch::Fails, SourceErrorReason::Failed),
        (Fetch::PanicsLater, SourceErrorReason::Panicked),
        (Fetch::Hangs, SourceErrorReason::TimedOut),
    ] {
        let limit = MILLI * 700;
        let script = Script::new(fetch);
        let store = script.store_with_limit(limit).await;
        script.take(100);
        let server = Server::accepting(&["v2"]);
        let client = client(&store, server.clone());
        for (error, waited) in one_every_millisecond(&client, 50).await {
            assert!(error.is_unauthorized(), "{error:?}");
            assert!(waited <= limit + MILLI, "{fetch:?}: {waited:?}");
        }
        assert_eq!((script.fetches(), server.attempts()), (1, 50), "{fetch:?}");
        let status = store.status();
        assert_eq!(status.last_error().unwrap().reason(), reason);
        // After the rest, the next request recovers.
        script.tell(Fetch::Gives("v2"));
        sleep(SECOND).await;
        let outcome = client.clone().oneshot(get_number(50)).await;
        assert_eq!(outcome.unwrap().status(), StatusCode::OK);
        assert_eq!(script.fetches(), 2);
    }
}

#[tokio::test(start_paused = true)]
async fn requests_given_up_every_20_ms_cost_one_fetch_and_no_other_waits_longer() {
    let script = Script::new(Fetch::Gives("v2"));
    script.take(100);
    let store = script.store().await;
    let client = client(&store, Server::accepting(&["v2"]));
    let begun = Instant::now();
    let mut calls = JoinSet::new();
    for number in 1..=20 {
        let client = client.clone();
        calls.spawn(async move {
            let call = client.oneshot(get_number(number));
            let outcome = timeout(MILLI * 20 * u32::try_from(number).unwrap(), call).await;
            outcome
                .ok()
                .map(|outcome| (outcome.unwrap().status(), begun.elapsed()))
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

#[tokio::test(start_paused = true)]
async fn a_thousand_late_401s_for_version_1_leave_version_2_untouched_and_fetch_nothing() {
    a_revocation_under(1_000, true).await;
}

/// A key that is dead for good, under 100 requests a second for a minute.
#[tokio::test(start_paused = true)]
async fn a_401_for_ever_is_looked_at_after_each_rest_only() {
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
        script.tell(Gives("good"));
        server.accept_only(&["good"]);
        sleep(SECOND * 8).await;
        let outcome = client.clone().oneshot(get_number(0)).await;
        assert_eq!(outcome.unwrap().status(), StatusCode::OK, "{fetch:?}");
    }
}

/// R3, R4, R15, Q10: beside a key that is dead for good, other answers to requests with that key neither end a rest nor start a look.
#[tokio::test(start_paused = true)]
async fn no_answer_but_a_401_says_anything_about_a_dead_key() {
    const REQUESTS: usize = 30_000;
    const PATHS: [&str; 7] = [
        "agents", "flaky", "public", "busy", "firewall", "missing", "moved",
    ];

    for fetch in [Fetch::Gives("v1"), Fetch::GivesFresh] {
        let script = Script::new(fetch);
        script.take(20);
        let store = script.store().await;
        let (arrived, is_good) = (
            Arc::new(AtomicUsize::new(0)),
            Arc::new(AtomicBool::new(false)),
        );
        let server = {
            let (arrived, is_good) = (Arc::clone(&arrived), Arc::clone(&is_good));
            let seen = Arc::new(Mutex::new(HashSet::new()));
            service_fn(move |request: Request<String>| {
                let path = request.uri().path().trim_start_matches("/core/").to_owned();
                let is_replay = !seen
                    .lock()
                    .unwrap()
                    .insert(request.headers()["x-request"].clone());
                let status = match path.as_str() {
                    "agents" if is_good.load(Ordering::Relaxed) => StatusCode::OK,
                    "flaky" if is_replay => StatusCode::SERVICE_UNAVAILABLE,
                    "agents" | "flaky" => StatusCode::UNAUTHORIZED,
                    "public" => StatusCode::OK,
                    "busy" => StatusCode::SERVICE_UNAVAILABLE,
                    "firewall" => StatusCode::FORBIDDEN,
                    "missing" => StatusCode::NOT_FOUND,
                    _ => StatusCode::TEMPORARY_REDIRECT,
                };
                // The hop after a redirect is counted, and the redirect is not.
                arrived.fetch_add(usize::from(path != "moved"), Ordering::Relaxed);
                let mut response = answer(status, "<html></html>");
                let target = HeaderValue::from_static("/core/agents");
                response.headers_mut().insert(LOCATION, target);
                async move {
                    // Answers of before a change of key arrive after it.
                    sleep(if path == "public" {
                        MILLI * 200
                    } else {
                        MILLI * 20
                    })
                    .await;
                    Ok::<_, Infallible>(response)
                }
            })
        };
        let auth = AnyreachAuthLayer::new(store.clone());
        let client = ServiceBuilder::new()
            .layer(FollowRedirectLayer::with_policy(RedirectPolicy::new(&auth)))
            .retry(RefreshPolicy::new())
            .layer(auth)
            .service(server);
        let mut calls = JoinSet::new();
        for number in 0..REQUESTS {
            let mut request = get_number(number);
            let path = PATHS[number % PATHS.len()];
            *request.uri_mut() = format!("https://api.anyreach.ai/core/{path}")
                .parse()
                .unwrap();
            calls.spawn(client.clone().oneshot(request));
            sleep(MILLI * 10).await;
        }
        drop(calls.join_all().await);
        let looks = script.begun();
        assert!(
            (20..=60).contains(&looks.len()),
            "{fetch:?}: {}",
            looks.len()
        );
        assert!(looks.windows(2).all(|pair| pair[1] - pair[0] >= SECOND / 2));
        let attempts = arrived.load(Ordering::Relaxed);
        assert!(attempts * 50 <= REQUESTS * 51, "{fetch:?}: {attempts}");
        assert!(fetch == Fetch::Gives("v1") || attempts > REQUESTS + looks.len() / 2);

        // One good credential, and the next look recovers.
        script.tell(Fetch::Gives("good"));
        is_good.store(true, Ordering::Relaxed);
        sleep(SECOND * 8).await;
        let outcome = client.oneshot(get_number(REQUESTS)).await;
        assert_eq!(outcome.unwrap().status(), StatusCode::OK, "{fetch:?}");
    }
}
