//! `RefreshPolicy`: what is never replayed.

use tower::retry::Policy;
use tower_http::follow_redirect::FollowRedirectLayer;

use crate::prelude::*;

fn unauthorized() -> Response<String> {
    answer(StatusCode::UNAUTHORIZED, r#"{"detail": "Invalid API key"}"#)
}

#[test]
fn a_request_that_no_replay_can_help_is_not_cloned() {
    let mut policy = RefreshPolicy::new();
    let mut is_cloned = |request: &Request<String>| {
        Policy::<_, Response<String>, Error>::clone_request(&mut policy, request).is_some()
    };
    assert!(is_cloned(&get_agents()));
    assert!(!is_cloned(&with(Anonymous, get_agents())));
    assert!(!is_cloned(&with(token_for("org_1"), get_agents())));
}

type Change = fn(AnyreachAuthLayer) -> AnyreachAuthLayer;

/// Sends a request to a server that answers everything so, while the source has another credential to give. Returns attempts and
/// fetches, and what the outcome is.
async fn sent(
    credential: Credential,
    change: Change,
    request: Request<String>,
    answer: Response<String>,
) -> ((usize, usize), String) {
    let (store, script) = revoked().await;
    store.rotate(credential);
    let server = Recorder::answering(answer);
    let auth = change(AnyreachAuthLayer::new(store.clone()));
    let outcome = replaying(auth.layer(server.clone())).oneshot(request).await;
    // A look may end that nothing waits for.
    yield_now().await;
    let outcome = match outcome {
        Ok(response) => match response.extensions().get::<Denial>() {
            Some(_) => format!("{} with its denial", response.status().as_u16()),
            None => response.status().as_u16().to_string(),
        },
        Err(error) => match error.denial() {
            Some(denial) => format!("{}: {}", error.label(), denial.reason().as_str()),
            None => error.label().to_owned(),
        },
    };
    ((server.take().len(), script.fetches()), outcome)
}

#[tokio::test]
async fn only_the_401_to_a_stores_credential_is_replayed() {
    let same: Change = |layer| layer;
    let lenient: Change = |layer| layer.require_organization(false);
    let forwarding: Change = |layer| layer.foreign_requests(FORWARD);
    let replacing: Change = |layer| layer.caller_headers(CallerHeaders::Replace);
    let passing: Change = |layer| layer.denied_responses(DeniedResponses::PassThrough);

    let (v1, token) = (|| key_of("v1"), credential(TOKEN));
    let own = || with(key_of("own"), get_agents());
    let own_header = || with_headers(&[("authorization", "Bearer own")], get_agents());
    let organization = with(organization("org_1"), get_agents());
    let [storage, other] = ["https://storage.example/file", "https://other.example/"].map(get);
    let challenge = r#"Bearer error="insufficient_scope", scope="calls:write""#;
    let unscoped = answer_with(401, &[("www-authenticate", challenge)], "{}".to_owned());
    let detail = r#"{"detail": "Token is missing organization claim."}"#;
    let unnamed = answer(StatusCode::UNAUTHORIZED, detail);
    let forbidden = answer(StatusCode::FORBIDDEN, r#"{"detail": "Invalid API key"}"#);
    // Says nothing about scopes.
    let firewall = answer(StatusCode::FORBIDDEN, "<html>");

    // Attempts and fetches, and the outcome. All that follow the first differ from it in one thing.
    let invalid = "unauthorized: invalid_credential";
    #[rustfmt::skip]
    let cases = [
        ("a store's", v1(), same, get_agents(), unauthorized(), (2, 1), invalid),
        ("a replaced header", v1(), replacing, own_header(), unauthorized(), (2, 1), invalid),
        ("a 403", v1(), same, get_agents(), forbidden, (1, 0), "forbidden: insufficient_scope"),
        ("a firewall's 403", v1(), same, get_agents(), firewall, (1, 0), "forbidden: unspecified"),
        // Every 401 starts a look, whatever its reason is.
        ("without a scope", v1(), same, get_agents(), unscoped, (2, 1), "unauthorized: insufficient_scope"),
        ("without an organization", token, lenient, get_agents(), unnamed, (2, 1), "unauthorized: missing_organization"),
        ("the request's own", v1(), same, own(), unauthorized(), (1, 0), invalid),
        ("anonymous", v1(), same, with(Anonymous, get_agents()), unauthorized(), (1, 0), "401"),
        ("foreign", v1(), forwarding, storage, unauthorized(), (1, 0), "401"),
        ("passed through", v1(), passing, get_agents(), unauthorized(), (1, 1), "401 with its denial"),
        // Refused before any I/O.
        ("the caller's header", v1(), same, own_header(), unauthorized(), (0, 0), "refused"),
        ("an organization beside a key", v1(), same, organization, unauthorized(), (0, 0), "refused"),
        ("another host", v1(), same, other, unauthorized(), (0, 0), "refused"),
    ];
    for (name, credential, change, request, answer, counts, outcome) in cases {
        let expected = (counts, outcome.to_owned());
        let sent = sent(credential, change, request, answer).await;
        assert_eq!(sent, expected, "{name}");
    }
    let others = [200, 204, 302, 400, 404, 407, 408, 409, 419, 429];
    for status in others.into_iter().chain([500, 502, 503, 504]) {
        let answer = answer_with::<&str, _>(status, &[], "{}".to_owned());
        let sent = sent(v1(), same, get_agents(), answer).await;
        assert_eq!(sent, ((1, 0), status.to_string()));
    }
}

#[tokio::test]
async fn a_failure_of_the_inner_service_is_never_replayed() {
    let (store, script) = revoked().await;
    let attempts = AtomicUsize::new(0);
    let service = service_fn(|_: Request<String>| {
        attempts.fetch_add(1, Ordering::Relaxed);
        ready(Err::<Response<String>, _>(io::Error::other("reset")))
    });
    let direct = client(&store, service).oneshot(get_agents()).await;
    assert!(matches!(direct, Err(Error::Service(_))), "{direct:?}");
    let auth = AnyreachAuthLayer::new(store).layer(service);
    let boxed = replaying(ServiceBuilder::new().timeout(SECOND).service(auth));
    boxed.oneshot(get_agents()).await.unwrap_err();
    assert_eq!((attempts.load(Ordering::Relaxed), script.fetches()), (2, 0));
}

/// The requests that arrive at a server that redirects `/here` to `/there`, with that status, and takes `v2` only.
async fn redirected(status: u16, method: &Method) -> Vec<String> {
    let (store, _script) = revoked().await;
    let (server, arrived) = (Server::accepting(&["v2"]), Recorder::default());
    let log = arrived.clone();
    let service = service_fn(move |request: Request<String>| {
        let (server, log) = (server.clone(), log.clone());
        async move {
            log.oneshot(request.clone()).await?;
            if request.uri().path() == "/there" {
                return server.oneshot(request).await;
            }
            let to_there = [("location", "/there")];
            Ok(answer_with(status, &to_there, String::new()))
        }
    });
    let auth = AnyreachAuthLayer::new(store).layer(service);
    let client = replaying(FollowRedirectLayer::new().layer(auth));
    let mut request = get("https://api.anyreach.ai/here");
    *request.method_mut() = method.clone();
    drop(client.oneshot(request).await);
    let line = |head: http::request::Parts| format!("{} {}", head.method, head.uri.path());
    arrived.take().into_iter().map(line).collect()
}

#[tokio::test]
async fn a_request_that_may_have_been_carried_out_before_a_redirect_is_not_replayed() {
    for (status, method, once, times) in [
        (303, Method::POST, ["POST /here", "GET /there"], 1),
        // A 307 says that nothing was carried out.
        (307, Method::POST, ["POST /here", "POST /there"], 2),
        (303, Method::GET, ["GET /here", "GET /there"], 2),
    ] {
        assert_eq!(redirected(status, &method).await, once.repeat(times));
    }
}

#[tokio::test]
async fn a_replay_that_would_be_refused_is_answered_by_the_first_denial() {
    let (store, script) = revoked().await;
    store.rotate(PersonalAccessToken::new(TOKEN).unwrap());
    let server = Server::accepting(&[]);
    // By the time of the replay the source has a key, which must not go beside an organization.
    let request = with(organization("org_1"), get_agents());
    let outcome = client(&store, server.clone()).oneshot(request).await;
    assert_eq!(denied_attempt(&outcome.unwrap_err()), 1);
    assert_eq!((server.attempts(), script.fetches()), (1, 1));
    assert_in_force(&store, "v2");
}

#[tokio::test]
async fn the_head_of_a_replay_that_is_answered_by_the_first_denial_has_neither_header() {
    let store = Script::new(Fetch::Hangs).store().await;
    let auth = AnyreachAuthLayer::new(store).caller_headers(CallerHeaders::Replace);
    let own = [("authorization", "Basic one"), ("x-anyreach-org", "org_1")];
    let request = with_headers(&own, get_agents());
    let mut policy = RefreshPolicy::new();
    let mut copy = policy.copy_request(&request).unwrap();
    let denied = auth.layer(Server::accepting(&[])).oneshot(request);
    assert!(policy.retry(&mut copy, &mut denied.await).is_some());
    let mut head = copy.into_parts().0;
    assert_eq!(denied_attempt(&auth.authorize(&mut head).unwrap_err()), 1);
    assert_carries_nothing(&head);
}
