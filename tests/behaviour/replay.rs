//! `RefreshPolicy`: what is replayed after a 401, and what never is.

use std::convert::Infallible;
use std::future::ready;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};
use std::time::Duration;

use http::header::AUTHORIZATION;
use http::{HeaderValue, Method, Request, Response, StatusCode, Version};
use tokio::time::{Instant, sleep};
use tower::retry::Policy;
use tower::{Layer, Service, ServiceBuilder, ServiceExt, service_fn};
use tower_anyreach::retry::{CloneBody, RefreshPolicy};
use tower_anyreach::{
    Anonymous, AnyreachAuth, AnyreachAuthLayer, BoxError, CallerHeaders, Credential,
    CredentialStore, Denial, DenialReason, DeniedResponses, Error, ForeignRequests, OrganizationId,
    PersonalAccessToken,
};
use tower_http::follow_redirect::FollowRedirectLayer;

use crate::scripted::{Client, Fetch, Script, Server, assert_in_force, client, key, key_of};
use support::{
    MILLI, ORG, OnceMore, Recorder, SECOND, TOKEN, answer, get, get_agents, now, organization,
    token_for,
};

async fn call<S>(client: &mut Client<S>) -> Result<Response<String>, Error>
where
    S: Service<Request<String>, Response = Response<String>> + Clone,
    S::Error: Into<BoxError>,
{
    client.ready().await.unwrap().call(get_agents()).await
}

/// The number of the attempt that was denied, which [`Server`] puts into its detail.
#[track_caller]
fn denied_attempt(error: &Error) -> usize {
    assert!(error.is_unauthorized(), "{error:?}");
    error.denial().unwrap().detail().unwrap().parse().unwrap()
}

/// A store and the source that it has: `v1` in force, `v2` to be fetched.
async fn revoked() -> (CredentialStore, Script) {
    let script = Script::new(Fetch::Gives("v2"));
    (script.store().await, script)
}

// 1. It refreshes and replays.

#[tokio::test]
async fn a_401_is_cured_by_one_fetch_and_one_replay() {
    let (store, script) = revoked().await;
    let server = Server::accepting(&["v2"]);
    let mut client = client(&store, server.clone());
    assert_eq!(call(&mut client).await.unwrap().status(), StatusCode::OK);
    assert_eq!(server.take_keys(), [key("v1"), key("v2")]);
    assert_eq!((script.fetches(), store.version()), (1, 2));
    // From here on nothing is special.
    assert_eq!(call(&mut client).await.unwrap().status(), StatusCode::OK);
    assert_eq!(server.take_keys(), [key("v2")]);
    assert_eq!(script.fetches(), 1);
}

#[tokio::test]
async fn a_401_is_cured_through_errors_that_are_boxed() {
    let boxed = |store: &CredentialStore, server: Server| {
        ServiceBuilder::new()
            .retry(RefreshPolicy::new())
            .timeout(SECOND)
            .layer(AnyreachAuthLayer::new(store.clone()))
            .service(server)
    };
    let (store, script) = revoked().await;
    let server = Server::accepting(&["v2"]);
    let response = boxed(&store, server.clone()).oneshot(get_agents()).await;
    assert_eq!(response.unwrap().status(), StatusCode::OK);
    assert_eq!((server.attempts(), script.fetches()), (2, 1));

    // What is not cured comes out as it was.
    let (store, _) = revoked().await;
    let server = Server::accepting(&[]);
    let error = boxed(&store, server.clone())
        .oneshot(get_agents())
        .await
        .unwrap_err();
    assert_eq!(denied_attempt(Error::find(error.as_ref()).unwrap()), 2);
    assert_eq!(server.attempts(), 2);
}

#[tokio::test]
async fn a_401_is_cured_through_a_buffer_and_a_limit() {
    let (store, script) = revoked().await;
    let server = Server::accepting(&["v2"]);
    let service = ServiceBuilder::new()
        .retry(RefreshPolicy::new())
        .buffer(4)
        .concurrency_limit(1)
        .layer(AnyreachAuthLayer::new(store.clone()))
        .service(server.clone());
    for attempts in [2, 3, 4] {
        let response = service.clone().oneshot(get_agents()).await.unwrap();
        assert_eq!(response.status(), StatusCode::OK);
        assert_eq!((server.attempts(), script.fetches()), (attempts, 1));
    }
}

#[test]
fn a_rotation_cures_without_source_or_runtime() {
    let store = CredentialStore::new(key_of("v1"));
    let server = Server::accepting(&["v2"]);
    let service = service_fn({
        let (store, server) = (store.clone(), server.clone());
        move |request: Request<String>| {
            store.rotate(key_of("v2"));
            server.clone().oneshot(request)
        }
    });
    let mut client = client(&store, service);
    assert_eq!(now(call(&mut client)).unwrap().status(), StatusCode::OK);
    assert_eq!(server.take_keys(), [key("v1"), key("v2")]);

    // And without a rotation there is nothing to wait for either.
    let server = Server::accepting(&[]);
    let mut client = self::client(&store, server.clone());
    assert_eq!(denied_attempt(&now(call(&mut client)).unwrap_err()), 1);
    assert_eq!(server.attempts(), 1);
}

// 2. At most once, and only with something new.

#[tokio::test(start_paused = true)]
async fn a_source_that_gives_nothing_new_leaves_the_first_denial_as_answer() {
    for (fetch, limit) in [
        (Fetch::Gives("v1"), Duration::ZERO),
        (Fetch::Fails, Duration::ZERO),
        (Fetch::Hangs, SECOND * 10),
        (Fetch::PanicsAtOnce, Duration::ZERO),
        (Fetch::PanicsLater, Duration::ZERO),
    ] {
        let script = Script::new(fetch);
        let store = script.store().await;
        let server = Server::accepting(&[]);
        let asked = Instant::now();
        let error = call(&mut client(&store, server.clone())).await.unwrap_err();
        assert_eq!(denied_attempt(&error), 1);
        let denial = error.denial().unwrap();
        assert_eq!(denial.credential(), Some(key_of("v1").id()));
        assert_eq!(denial.reason(), DenialReason::InvalidCredential);
        assert_eq!((server.attempts(), script.fetches()), (1, 1), "{fetch:?}");
        assert!(asked.elapsed() <= limit + MILLI, "{fetch:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_replay_that_is_refused_as_well_is_the_answer_and_is_not_replayed() {
    let (store, script) = revoked().await;
    let server = Server::accepting(&["v3"]);
    let mut client = client(&store, server.clone());
    let error = call(&mut client).await.unwrap_err();
    assert_eq!(denied_attempt(&error), 2);
    let denial = error.denial().unwrap();
    assert_eq!(denial.credential(), Some(key_of("v2").id()));
    assert_eq!(server.take_keys(), [key("v1"), key("v2")]);
    assert_eq!(script.fetches(), 1);
    // The next request may, once the source has rested.
    script.tell(Fetch::Gives("v3"));
    sleep(SECOND).await;
    assert_eq!(call(&mut client).await.unwrap().status(), StatusCode::OK);
    assert_eq!(server.take_keys(), [key("v2"), key("v3")]);
}

#[tokio::test]
async fn another_token_or_organization_in_force_is_something_new() {
    let pat = support::credential;
    let token = format!("Bearer {TOKEN}");
    let [one, two, hidden] = ["org_1", "org_2", "org_own"].map(|name| format!("{token} {name}"));
    let [first, second] = ["first", "second"].map(|name| format!("Bearer pat_{name} org_own"));
    // In force before and after the first attempt, and the request's own organization; then what arrives.
    #[rustfmt::skip]
    let cases = [
        (token_for("org_1"), token_for("org_2"), None, vec![one, two]),
        // It hides that of the store: token and organization are what was refused.
        (token_for("org_1"), token_for("org_2"), Some("org_own"), vec![hidden]),
        (pat("pat_first"), pat("pat_second"), Some("org_own"), vec![first, second]),
    ];
    for (before, after, own, expected) in cases {
        let store = CredentialStore::new(before);
        let arrived: Arc<Mutex<Vec<String>>> = Arc::default();
        let service = {
            let (rotating, arrived) = (store.clone(), Arc::clone(&arrived));
            service_fn(move |request: Request<String>| {
                let headers = request.headers();
                let pair =
                    [&headers[AUTHORIZATION], &headers[&ORG]].map(|value| value.to_str().unwrap());
                arrived.lock().unwrap().push(pair.join(" "));
                rotating.rotate(after.clone());
                ready(Ok::<_, Infallible>(answer(StatusCode::UNAUTHORIZED, "{}")))
            })
        };
        let mut request = get_agents();
        if let Some(own) = own {
            request.extensions_mut().insert(organization(own));
        }
        let error = client(&store, service).oneshot(request).await.unwrap_err();
        assert!(error.is_unauthorized());
        assert_eq!(*arrived.lock().unwrap(), expected);
    }
}

#[tokio::test]
async fn nested_policies_replay_once_in_total() {
    for (fetch, accepted, attempts) in [
        (Fetch::GivesFresh, "none", 2),
        (Fetch::Gives("v1"), "none", 1),
        (Fetch::Fails, "none", 1),
        (Fetch::Gives("v2"), "v2", 2),
    ] {
        let script = Script::new(fetch);
        let store = script.store().await;
        let server = Server::accepting(&[accepted]);
        let service = ServiceBuilder::new()
            .retry(RefreshPolicy::new())
            .timeout(SECOND)
            .retry(RefreshPolicy::new())
            .retry(RefreshPolicy::new())
            .layer(AnyreachAuthLayer::new(store.clone()))
            .service(server.clone());
        let response = service.oneshot(get_agents()).await;
        assert_eq!(response.is_ok(), accepted == "v2");
        assert_eq!(
            (server.attempts(), script.fetches()),
            (attempts, 1),
            "{fetch:?}"
        );
    }
}

/// R12, R13: there is no marker that a copy could use up.
#[tokio::test]
async fn each_copy_of_an_outer_retry_is_replayed_at_most_once_and_only_with_another_credential() {
    // Sent, replayed, denied; the second copy is sent with the key that was denied last, while the source rests.
    for (fetch, attempts) in [(Fetch::GivesFresh, 3), (Fetch::Gives("v1"), 2)] {
        let store = Script::new(fetch).store().await;
        let server = Server::accepting(&[]);
        let client = ServiceBuilder::new()
            .retry(OnceMore::default())
            .retry(RefreshPolicy::new())
            .layer(AnyreachAuthLayer::new(store))
            .service(server.clone());
        let outcome = client.oneshot(get_agents()).await;
        assert!(outcome.unwrap_err().is_unauthorized());
        assert_eq!(server.attempts(), attempts, "{fetch:?}");
    }
}

/// R13.
#[tokio::test(start_paused = true)]
async fn a_copy_that_was_given_up_while_it_waited_does_not_use_up_the_replay_of_the_next_one() {
    let (store, script) = revoked().await;
    script.take(15);
    let server = Server::accepting(&["v2"]);
    let client = ServiceBuilder::new()
        .retry(OnceMore::default())
        .timeout(MILLI * 10)
        .retry(RefreshPolicy::new())
        .layer(AnyreachAuthLayer::new(store))
        .service(server.clone());
    assert!(client.oneshot(get_agents()).await.is_ok());
    assert_eq!(server.take_keys(), [key("v1"), key("v1"), key("v2")]);
    assert_eq!(script.fetches(), 1);
}

#[tokio::test]
async fn what_no_replay_can_help_is_not_cloned() {
    let mut policy = RefreshPolicy::new();
    let mut is_cloned = |request: &Request<String>| {
        Policy::<_, Response<String>, Error>::clone_request(&mut policy, request).is_some()
    };
    assert!(is_cloned(&get_agents()));

    let mut anonymous = get_agents();
    anonymous.extensions_mut().insert(Anonymous);
    assert!(!is_cloned(&anonymous));
    let mut own = get_agents();
    own.extensions_mut().insert(token_for("org_1"));
    assert!(!is_cloned(&own));
}

/// B42.
#[tokio::test]
async fn a_body_that_is_not_clone_is_replayed_if_the_cloner_gives_one_and_passes_if_not() {
    #[derive(Debug)]
    struct Upload(&'static str);

    for (body, attempts) in [("bytes", 2), ("stream", 1)] {
        let (store, script) = revoked().await;
        let server = Server::accepting(&["v2"]);
        let policy = RefreshPolicy::new()
            .max_wait(SECOND)
            .clone_body_with(|body: &Upload| (body.0 == "bytes").then_some(Upload(body.0)));
        // Of use to those who wrap it.
        assert_eq!(
            policy.copy_request(&Request::new(Upload(body))).is_some(),
            attempts == 2
        );
        let client = ServiceBuilder::new()
            .retry(policy)
            .layer(AnyreachAuthLayer::new(store.clone()))
            .service(server.clone());
        let outcome = client.oneshot(get_agents().map(|_| Upload(body))).await;
        assert_eq!(outcome.is_ok(), attempts == 2);
        while store.version() == 1 {
            tokio::task::yield_now().await;
        }
        assert_eq!((server.attempts(), script.fetches()), (attempts, 1));
    }
}

/// B42: a policy of a user's own around ours, over any body that ours can clone.
#[tokio::test]
async fn a_policy_that_wraps_this_one_compiles_over_any_body_and_replays() {
    #[derive(Clone)]
    struct Counting<C> {
        inner: RefreshPolicy<C>,
        replays: Arc<AtomicUsize>,
    }
    impl<B, R, C: CloneBody<B>> Policy<Request<B>, Response<R>, Error> for Counting<C> {
        type Future = <RefreshPolicy<C> as Policy<Request<B>, Response<R>, Error>>::Future;

        fn retry(
            &mut self,
            request: &mut Request<B>,
            result: &mut Result<Response<R>, Error>,
        ) -> Option<Self::Future> {
            let replay = self.inner.retry(request, result)?;
            self.replays.fetch_add(1, Ordering::Relaxed);
            Some(replay)
        }

        fn clone_request(&mut self, request: &Request<B>) -> Option<Request<B>> {
            self.inner.copy_request(request)
        }
    }

    let (store, _script) = revoked().await;
    let policy = Counting {
        inner: RefreshPolicy::new(),
        replays: Arc::default(),
    };
    let replays = Arc::clone(&policy.replays);
    let client = ServiceBuilder::new()
        .retry(policy)
        .layer(AnyreachAuthLayer::new(store))
        .service(Server::accepting(&["v2"]));
    assert!(client.oneshot(get_agents()).await.is_ok());
    assert_eq!(replays.load(Ordering::Relaxed), 1);
}

/// R16.
#[tokio::test]
async fn a_denial_that_nothing_can_cure_is_the_answer_at_once_without_a_second_permit() {
    for has_source in [false, true] {
        let store = if has_source {
            Script::new(Fetch::Gives("v1")).store().await
        } else {
            CredentialStore::new(key_of("v1"))
        };
        // The source rests after this one.
        let rested = client(&store, Server::accepting(&[]));
        rested.oneshot(get_agents()).await.unwrap_err();
        let permits = Arc::new(AtomicUsize::new(0));
        let counted = Arc::clone(&permits);
        let mut service = ServiceBuilder::new()
            .retry(RefreshPolicy::new())
            .layer_fn(move |inner: AnyreachAuth<Server>| Counted(inner, Arc::clone(&counted)))
            .layer(AnyreachAuthLayer::new(store))
            .service(Server::accepting(&[]));
        let error = service
            .ready()
            .await
            .unwrap()
            .call(get_agents())
            .await
            .unwrap_err();
        assert_eq!(denied_attempt(&error), 1);
        assert_eq!(permits.load(Ordering::Relaxed), 1);
    }
}

/// Counts how often readiness was asked for.
#[derive(Clone)]
struct Counted<S>(S, Arc<AtomicUsize>);

impl<S: Service<Request<String>>> Service<Request<String>> for Counted<S> {
    type Response = S::Response;
    type Error = S::Error;
    type Future = S::Future;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.1.fetch_add(1, Ordering::Relaxed);
        self.0.poll_ready(cx)
    }

    fn call(&mut self, request: Request<String>) -> S::Future {
        self.0.call(request)
    }
}

/// B48.
#[tokio::test(start_paused = true)]
async fn a_known_denial_never_becomes_somebodys_timeout() {
    for (max_wait, millis) in [(None, 3_000), (Some(MILLI * 500), 500)] {
        let script = Script::new(Fetch::Hangs);
        let store = script.store().await;
        let policy = RefreshPolicy::new();
        let client = ServiceBuilder::new()
            .timeout(SECOND * 4)
            .retry(max_wait.map_or(policy.clone(), |max_wait| policy.max_wait(max_wait)))
            .layer(AnyreachAuthLayer::new(store.clone()))
            .service(Server::accepting(&[]));
        let asked = Instant::now();
        let error = client.oneshot(get_agents()).await.unwrap_err();
        assert!(Error::find(error.as_ref()).unwrap().is_unauthorized());
        let waited = Duration::from_millis(millis);
        assert!(
            (waited..=waited + MILLI).contains(&asked.elapsed()),
            "{:?}",
            asked.elapsed()
        );
    }
}

/// P1.
#[tokio::test(start_paused = true)]
async fn a_rotation_replays_at_once_what_waits_for_a_hanging_fetch() {
    let script = Script::new(Fetch::Hangs);
    let store = script.store().await;
    let server = Server::accepting(&["byhand"]);
    let asked = Instant::now();
    let (outcome, ()) = tokio::join!(
        client(&store, server.clone()).oneshot(get_agents()),
        async {
            sleep(MILLI * 20).await;
            store.rotate(key_of("byhand"));
        }
    );
    assert_eq!(outcome.unwrap().status(), StatusCode::OK);
    assert!(asked.elapsed() <= MILLI * 21);
}

/// R14, S6.
#[tokio::test(start_paused = true)]
async fn while_the_source_rests_a_401_to_the_credential_before_is_still_replayed() {
    let script = Script::new(Fetch::Gives("v1"));
    let store = script.store().await;
    let server = Server::accepting(&["v2"]);
    let client = client(&store, server.clone());
    server.hold();
    let mut calls = tokio::task::JoinSet::new();
    for _ in 0..100 {
        calls.spawn(client.clone().oneshot(get_agents()));
    }
    while server.attempts() < 100 {
        tokio::task::yield_now().await;
    }
    // A fruitless look, then a fetch that brings the good key, then the 401s.
    let denied = AnyreachAuthLayer::new(store.clone()).layer(Server::accepting(&[]));
    denied.oneshot(get_agents()).await.unwrap_err();
    while script.fetches() == 0 {
        tokio::task::yield_now().await;
    }
    script.tell(Fetch::Gives("v2"));
    store.refresh().await.unwrap();
    server.let_out();
    for outcome in calls.join_all().await {
        assert_eq!(outcome.unwrap().status(), StatusCode::OK);
    }
    assert_eq!(script.fetches(), 2);
}

/// P7.
#[tokio::test]
async fn a_tenants_own_store_is_reported_to_asked_and_replayed_with() {
    let (own, own_script) = revoked().await;
    let (store, script) = revoked().await;
    let server = Server::accepting(&["v2"]);
    let mut request = get_agents();
    request.extensions_mut().insert(own.clone());
    let outcome = client(&store, server.clone()).oneshot(request).await;
    assert_eq!(outcome.unwrap().status(), StatusCode::OK);
    assert_eq!((own_script.fetches(), own.version()), (1, 2));
    assert_eq!((script.fetches(), store.version()), (0, 1));
    assert!(store.status().last_denied().is_none());
}

/// Q6: what the denial is called does not decide whether the source is asked.
#[tokio::test]
async fn renewed_waits_for_the_look_of_the_layer_and_says_what_came_of_it() {
    let texts = [
        "Invalid credential.",
        "Token is missing organization claim.",
    ];
    for (text, is_revoked) in texts
        .into_iter()
        .flat_map(|text| [(text, true), (text, false)])
    {
        let script = Script::new(Fetch::Gives(if is_revoked { "v2" } else { "v1" }));
        script.take(10);
        let store = script.store().await;
        let body = format!(r#"{{"detail": "{text}"}}"#);
        let server = Recorder::answering(answer(StatusCode::UNAUTHORIZED, &body));
        let client = AnyreachAuthLayer::new(store.clone()).layer(server);
        let denial = support::denial(client.oneshot(get_agents()).await);
        let mut renewed = tokio_test::task::spawn(denial.renewed());
        assert!(renewed.poll().is_pending(), "it yields once");
        assert_eq!(renewed.await, is_revoked);
        assert_eq!(script.fetches(), 1);
        // From what is in force, without a wait.
        assert_eq!(denial.renewed().await, is_revoked);
        store.rotate(key_of("later"));
        assert!(denial.renewed().await);
        drop(store);
        assert!(!denial.renewed().await, "the store is gone");
    }
}

// 3. Never.

/// Sends a request to a server that denies everything so, and gives what became of it: attempts and fetches.
/// The source has another credential to give.
async fn denied_with(
    credential: Credential,
    change: impl Fn(AnyreachAuthLayer) -> AnyreachAuthLayer,
    request: Request<String>,
    denial: Response<String>,
) -> (usize, usize, Result<Response<String>, Error>) {
    let script = Script::new(Fetch::Gives("v2"));
    let store = script.store().await;
    store.rotate(credential);
    let server = Recorder::answering(denial);
    let service = ServiceBuilder::new()
        .retry(RefreshPolicy::new())
        .layer(change(AnyreachAuthLayer::new(store.clone())))
        .service(server.clone());
    let outcome = service.oneshot(request).await;
    // Lets a look end that nothing waits for.
    tokio::task::yield_now().await;
    (server.take().len(), script.fetches(), outcome)
}

fn unauthorized() -> Response<String> {
    answer(StatusCode::UNAUTHORIZED, r#"{"detail": "Invalid API key"}"#)
}

#[tokio::test]
async fn nothing_but_the_401_of_a_stores_credential_is_replayed() {
    type Change = fn(AnyreachAuthLayer) -> AnyreachAuthLayer;
    type Outcome = fn(&Result<Response<String>, Error>) -> bool;

    fn with<T: Clone + Send + Sync + 'static>(extension: T) -> Request<String> {
        let mut request = get_agents();
        request.extensions_mut().insert(extension);
        request
    }
    fn reason(outcome: &Result<Response<String>, Error>) -> Option<DenialReason> {
        Some(outcome.as_ref().err()?.denial()?.reason())
    }

    let same: Change = |layer| layer;
    let lenient: Change = |layer| layer.require_organization(false);
    let forwarding: Change =
        |layer| layer.foreign_requests(ForeignRequests::ForwardWithoutCredentials);
    let replacing: Change = |layer| layer.caller_headers(CallerHeaders::Replace);
    let passing: Change = |layer| layer.denied_responses(DeniedResponses::PassThrough);

    let denied: Outcome = |outcome| outcome.as_ref().is_err_and(Error::is_unauthorized);
    let forbidden: Outcome = |outcome| outcome.as_ref().is_err_and(Error::is_forbidden);
    let refused: Outcome = |outcome| outcome.as_ref().is_err_and(Error::is_refused);
    let no_scope: Outcome = |outcome| reason(outcome) == Some(DenialReason::InsufficientScope);
    let passed: Outcome = |outcome| {
        let response = outcome.as_ref();
        response.is_ok_and(|response| response.status() == StatusCode::UNAUTHORIZED)
    };
    let passed_with_denial: Outcome = |outcome| {
        let response = outcome.as_ref();
        response.is_ok_and(|response| {
            response.status() == StatusCode::UNAUTHORIZED
                && response.extensions().get::<Denial>().is_some()
        })
    };

    let v1 = || key_of("v1");
    let mut with_header = get_agents();
    let own = HeaderValue::from_static("Bearer own");
    with_header.headers_mut().insert(AUTHORIZATION, own);
    let mut want_of_scope = unauthorized();
    want_of_scope.headers_mut().insert(
        "www-authenticate",
        HeaderValue::from_static(r#"Bearer error="insufficient_scope", scope="calls:write""#),
    );
    let organization = OrganizationId::try_from("org_1").unwrap();
    let want_of_organization = answer(
        StatusCode::UNAUTHORIZED,
        r#"{"detail": "Token is missing organization claim."}"#,
    );
    let api_403 = answer(StatusCode::FORBIDDEN, r#"{"detail": "Invalid API key"}"#);
    // Of something in front of the API, which says nothing about scopes.
    let other_403 = answer(StatusCode::FORBIDDEN, "<html>");

    // Attempts and fetches; all that follow the first differ from it in one thing.
    #[rustfmt::skip]
    let cases = [
        ("a store's", v1(), same, get_agents(), unauthorized(), (2, 1), denied),
        ("a replaced header", v1(), replacing, with_header.clone(), unauthorized(), (2, 1), denied),
        ("a 403", v1(), same, get_agents(), api_403, (1, 0), forbidden),
        ("another's 403", v1(), same, get_agents(), other_403, (1, 0), forbidden),
        // Reasons are for people: every 401 is a reason to look.
        ("for want of scope", v1(), same, get_agents(), want_of_scope, (2, 1), no_scope),
        ("for want of an organization", support::credential(TOKEN), lenient, get_agents(), want_of_organization, (2, 1), denied),
        ("the request's own", v1(), same, with(key_of("own")), unauthorized(), (1, 0), denied),
        ("anonymous", v1(), same, with(Anonymous), unauthorized(), (1, 0), passed),
        ("foreign", v1(), forwarding, get("https://storage.example/file"), unauthorized(), (1, 0), passed),
        ("passed through", v1(), passing, get_agents(), unauthorized(), (1, 1), passed_with_denial),
        // Refused before any I/O.
        ("the caller's header", v1(), same, with_header, unauthorized(), (0, 0), refused),
        ("an organization beside a key", v1(), same, with(organization), unauthorized(), (0, 0), refused),
        ("another host", v1(), same, get("https://other.example/"), unauthorized(), (0, 0), refused),
    ];
    for (name, credential, change, request, denial, expected, is_outcome) in cases {
        let (attempts, fetches, outcome) = denied_with(credential, change, request, denial).await;
        assert!(is_outcome(&outcome), "{name}: {outcome:?}");
        assert_eq!((attempts, fetches), expected, "{name}");
    }
}

#[tokio::test]
async fn no_other_status_is_replayed() {
    for status in [
        200, 204, 302, 400, 404, 407, 408, 409, 419, 429, 500, 502, 503, 504,
    ] {
        let status = StatusCode::from_u16(status).unwrap();
        let (attempts, fetches, outcome) = denied_with(
            key_of("v1"),
            |layer| layer,
            get_agents(),
            answer(status, "{}"),
        )
        .await;
        assert_eq!(outcome.unwrap().status(), status);
        assert_eq!((attempts, fetches), (1, 0), "{status}");
    }
}

#[tokio::test]
async fn a_failure_of_the_inner_service_is_never_replayed() {
    let (store, script) = revoked().await;
    let attempts = Arc::new(Mutex::new(0));
    let service = {
        let attempts = Arc::clone(&attempts);
        service_fn(move |_: Request<String>| {
            *attempts.lock().unwrap() += 1;
            ready(Err::<Response<String>, _>(std::io::Error::other("reset")))
        })
    };
    let error = call(&mut client(&store, service.clone()))
        .await
        .unwrap_err();
    assert!(matches!(error, Error::Service(_)), "{error:?}");
    assert_eq!((*attempts.lock().unwrap(), script.fetches()), (1, 0));

    let boxed = ServiceBuilder::new()
        .retry(RefreshPolicy::new())
        .timeout(SECOND)
        .layer(AnyreachAuthLayer::new(store.clone()))
        .service(service);
    boxed.oneshot(get_agents()).await.unwrap_err();
    assert_eq!((*attempts.lock().unwrap(), script.fetches()), (2, 0));
}

// What is replayed is the request.

#[tokio::test]
async fn a_replay_is_the_same_request_but_for_its_credential() {
    #[derive(Clone, Debug, PartialEq)]
    struct Mark(u32);

    let (store, _) = revoked().await;
    let arrived: Arc<Mutex<Vec<Request<String>>>> = Arc::default();
    let service = {
        let arrived = Arc::clone(&arrived);
        service_fn(move |request: Request<String>| {
            arrived.lock().unwrap().push(request);
            ready(Ok::<_, Infallible>(unauthorized()))
        })
    };
    let request = Request::builder()
        .method(Method::POST)
        .uri("https://api.anyreach.ai/core/conversations?dry=1")
        .version(Version::HTTP_2)
        .header("idempotency-key", "5")
        .header("x-twice", "a")
        .header("x-twice", "b")
        .extension(Mark(7))
        .body("the body".to_owned())
        .unwrap();
    client(&store, service).oneshot(request).await.unwrap_err();

    let arrived = std::mem::take(&mut *arrived.lock().unwrap());
    let [mut first, mut second] = <[_; 2]>::try_from(arrived).unwrap();
    assert_eq!(
        first.headers_mut().remove(AUTHORIZATION).unwrap(),
        format!("Bearer {}", key("v1"))
    );
    let authorization = second.headers_mut().remove(AUTHORIZATION).unwrap();
    assert_eq!(authorization, format!("Bearer {}", key("v2")));
    assert!(authorization.is_sensitive());
    assert_eq!(first.headers(), second.headers());
    for request in [first, second] {
        assert_eq!(request.method(), Method::POST);
        assert_eq!(
            request.uri().path_and_query().unwrap(),
            "/core/conversations?dry=1"
        );
        assert_eq!(request.version(), Version::HTTP_2);
        assert_eq!(request.headers().get_all("x-twice").iter().count(), 2);
        assert_eq!(request.extensions().get(), Some(&Mark(7)));
        assert_eq!(request.body(), "the body");
    }
}

// Redirects, which are followed between the policy and the layer.

/// What arrived at a server that redirects all but `/there` to it, with that status, and takes `v2` only.
async fn redirected(status: StatusCode, method: Method) -> Vec<String> {
    let (store, _script) = revoked().await;
    let server = Server::accepting(&["v2"]);
    let arrived = Arc::new(Mutex::new(Vec::new()));
    let service = service_fn({
        let arrived = Arc::clone(&arrived);
        move |request: Request<String>| {
            let line = format!("{} {}", request.method(), request.uri().path());
            arrived.lock().unwrap().push(line);
            let server = server.clone();
            async move {
                if request.uri().path() == "/there" {
                    return server.oneshot(request).await;
                }
                let mut response = answer(status, "");
                response
                    .headers_mut()
                    .insert("location", HeaderValue::from_static("/there"));
                Ok(response)
            }
        }
    });
    let client = ServiceBuilder::new()
        .retry(RefreshPolicy::new())
        .layer(FollowRedirectLayer::new())
        .layer(AnyreachAuthLayer::new(store))
        .service(service);
    let mut request = get("https://api.anyreach.ai/here");
    *request.method_mut() = method;
    drop(client.oneshot(request).await);
    std::mem::take(&mut *arrived.lock().unwrap())
}

#[tokio::test]
async fn what_may_have_been_carried_out_before_a_redirect_is_not_replayed() {
    let (see_other, same_method) = (StatusCode::SEE_OTHER, StatusCode::TEMPORARY_REDIRECT);
    let arrived = redirected(see_other, Method::POST).await;
    assert_eq!(arrived, ["POST /here", "GET /there"]);
    // What was only told to go elsewhere was not.
    let arrived = redirected(same_method, Method::POST).await;
    let once = ["POST /here", "POST /there"];
    assert_eq!(arrived, [once, once].concat());
    let arrived = redirected(see_other, Method::GET).await;
    let once = ["GET /here", "GET /there"];
    assert_eq!(arrived, [once, once].concat());
}

#[tokio::test]
async fn a_replay_that_cannot_leave_is_answered_by_the_first_denial() {
    let script = Script::new(Fetch::Gives("v2"));
    let store = script.store().await;
    store.rotate(PersonalAccessToken::new(TOKEN).unwrap());
    let server = Server::accepting(&[]);
    let mut request = get_agents();
    request.extensions_mut().insert(organization("org_1"));
    // The source has a key by now, which must not go beside an organization.
    let error = client(&store, server.clone())
        .oneshot(request)
        .await
        .unwrap_err();
    assert!(error.is_unauthorized(), "{error:?}");
    assert_eq!((server.attempts(), script.fetches()), (1, 1));
    assert_in_force(&store, "v2");
}
