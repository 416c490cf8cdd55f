//! `RefreshPolicy`: what is replayed after a 401, and what never is.

use std::convert::Infallible;
use std::future::ready;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use http::header::AUTHORIZATION;
use http::{HeaderValue, Method, Request, Response, StatusCode, Version};
use tokio::time::Instant;
use tower::retry::Policy;
use tower::{Layer, Service, ServiceBuilder, ServiceExt, service_fn};
use tower_anyreach::retry::{LogicalRequest, RefreshPolicy};
use tower_anyreach::{
    Anonymous, AnyreachAuthLayer, BoxError, CallerHeaders, Credential, CredentialStore, Denial,
    DenialReason, DeniedResponses, Error, ForeignRequests, OrganizationId, PersonalAccessToken,
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
            .retry(RefreshPolicy::new(store.clone()))
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
        .retry(RefreshPolicy::new(store.clone()))
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

#[tokio::test]
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
    // The next logical request may.
    script.tell(Fetch::Gives("v3"));
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
async fn a_rotation_to_what_was_refused_is_nothing_new() {
    let store = CredentialStore::new(key_of("v1"));
    let server = Server::accepting(&[]);
    server.hold();
    let mut client = client(&store, server.clone());
    let (error, ()) = tokio::join!(call(&mut client), async {
        tokio::task::yield_now().await;
        store.rotate(key_of("v1"));
        server.let_out();
    });
    assert_eq!(denied_attempt(&error.unwrap_err()), 1);
    assert_eq!((server.attempts(), store.version()), (1, 2));
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
            .retry(RefreshPolicy::new(store.clone()))
            .timeout(SECOND)
            .retry(RefreshPolicy::new(store.clone()))
            .retry(RefreshPolicy::new(store.clone()))
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

#[tokio::test]
async fn a_logical_request_is_replayed_once_under_an_outer_retry() {
    let mut logical = get_agents();
    logical.extensions_mut().insert(LogicalRequest::new());
    // Sent, replayed, and sent once more by the outer policy. Without the marker, the outer policy's second copy has a
    // replay of its own.
    for (request, attempts) in [(logical, 3), (get_agents(), 4)] {
        let store = Script::new(Fetch::GivesFresh).store().await;
        let server = Server::accepting(&[]);
        let client = ServiceBuilder::new()
            .retry(OnceMore::default())
            .retry(RefreshPolicy::new(store.clone()))
            .layer(AnyreachAuthLayer::new(store))
            .service(server.clone());
        assert!(client.oneshot(request).await.unwrap_err().is_unauthorized());
        assert_eq!(server.attempts(), attempts);
    }
}

#[tokio::test]
async fn what_no_replay_can_help_is_not_cloned() {
    let (store, _script) = revoked().await;
    let mut policy = RefreshPolicy::new(store);
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

#[tokio::test]
async fn a_refresh_shows_its_name_only() {
    let (store, _script) = revoked().await;
    let client = AnyreachAuthLayer::new(store.clone()).layer(Server::accepting(&[]));
    let mut refused = client.oneshot(get_agents()).await;
    assert!(refused.as_ref().is_err_and(Error::is_unauthorized));
    let refresh = RefreshPolicy::new(store).retry(&mut get_agents(), &mut refused);
    assert_eq!(format!("{refresh:?}"), "Some(RefreshFuture { .. })");
}

// 3. Never.

/// Sends a request to a server that denies everything so, and gives what became of it: attempts and fetches.
/// The source has another credential to give, and would be asked if the 401 were one to be cured.
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
        .retry(RefreshPolicy::new(store.clone()))
        .layer(change(AnyreachAuthLayer::new(store.clone())))
        .service(server.clone());
    let outcome = service.oneshot(request).await;
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
    let unnamed: Outcome = |outcome| reason(outcome) == Some(DenialReason::MissingOrganization);
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
        ("for want of scope", v1(), same, get_agents(), want_of_scope, (1, 0), no_scope),
        ("for want of an organization", support::credential(TOKEN), lenient, get_agents(), want_of_organization, (1, 0), unnamed),
        ("the request's own", v1(), same, with(key_of("own")), unauthorized(), (1, 0), denied),
        ("anonymous", v1(), same, with(Anonymous), unauthorized(), (1, 0), passed),
        ("foreign", v1(), forwarding, get("https://storage.example/file"), unauthorized(), (1, 0), passed),
        ("passed through", v1(), passing, get_agents(), unauthorized(), (1, 0), passed_with_denial),
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
        .retry(RefreshPolicy::new(store.clone()))
        .timeout(SECOND)
        .layer(AnyreachAuthLayer::new(store.clone()))
        .service(service);
    boxed.oneshot(get_agents()).await.unwrap_err();
    assert_eq!((*attempts.lock().unwrap(), script.fetches()), (2, 0));
}

#[tokio::test]
async fn a_policy_of_another_store_replays_nothing_and_asks_neither() {
    let (store, script) = revoked().await;
    let (other, other_script) = revoked().await;
    let server = Server::accepting(&["v2"]);
    let error = ServiceBuilder::new()
        .retry(RefreshPolicy::new(other.clone()))
        .layer(AnyreachAuthLayer::new(store.clone()))
        .service(server.clone())
        .oneshot(get_agents())
        .await
        .unwrap_err();
    assert_eq!(denied_attempt(&error), 1);
    assert_eq!(server.attempts(), 1);
    assert_eq!((script.fetches(), other_script.fetches()), (0, 0));
    assert_eq!((store.version(), other.version()), (1, 1));

    // A clone of a store is that store.
    let service = ServiceBuilder::new()
        .retry(RefreshPolicy::new(store.clone()))
        .layer(AnyreachAuthLayer::new(store.clone().clone()).error_body_limit(0))
        .service(server);
    assert!(service.oneshot(get_agents()).await.is_ok());
}

// 4. Not for ever.

#[tokio::test]
async fn after_three_fruitless_replays_there_are_none_until_another_credential_is_in_force() {
    let script = Script::new(Fetch::GivesFresh);
    let store = script.store().await;
    let server = Server::accepting(&[]);
    let mut client = client(&store, server.clone());
    let mut attempts = Vec::new();
    for _ in 0..8 {
        let error = call(&mut client).await.unwrap_err();
        assert!(error.is_unauthorized());
        attempts.push(server.take().len());
    }
    assert_eq!(attempts, [2, 2, 2, 1, 1, 1, 1, 1]);
    assert_eq!(script.fetches(), 3);

    store.rotate(key_of("byhand"));
    attempts.clear();
    for _ in 0..5 {
        call(&mut client).await.unwrap_err();
        attempts.push(server.take().len());
    }
    assert_eq!(attempts, [2, 2, 2, 1, 1]);
    assert_eq!(script.fetches(), 6);

    // A rotation to a good one ends it all.
    store.rotate(key_of("good"));
    server.accept_only(&["good"]);
    assert!(call(&mut client).await.is_ok());
    assert_eq!(server.take_keys(), [key("good")]);
}

#[tokio::test]
async fn the_answer_of_a_stranger_is_no_success_of_the_credential() {
    let script = Script::new(Fetch::GivesFresh);
    let store = script.store().await;
    let server = Server::accepting(&[]);
    let ours = server.clone();
    let service = service_fn(move |request: Request<String>| {
        let server = ours.clone();
        async move {
            if request.uri().host() == Some("api.anyreach.ai") {
                server.oneshot(request).await
            } else {
                Ok(answer(StatusCode::OK, "{}"))
            }
        }
    });
    let mut client = ServiceBuilder::new()
        .retry(RefreshPolicy::new(store.clone()))
        .layer(
            AnyreachAuthLayer::new(store.clone())
                .foreign_requests(ForeignRequests::ForwardWithoutCredentials),
        )
        .service(service);
    let mut attempts = Vec::new();
    for _ in 0..6 {
        let request = get("https://storage.example/file");
        client.ready().await.unwrap().call(request).await.unwrap();
        call(&mut client).await.unwrap_err();
        attempts.push(server.take().len());
    }
    assert_eq!(attempts, [2, 2, 2, 1, 1, 1]);
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
        .retry(RefreshPolicy::new(store.clone()))
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
