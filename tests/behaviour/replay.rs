//! `RefreshPolicy`: what is replayed after a 401, once, and how long it waits.

use http::Version;
use tower::retry::Policy;
use tower::util::BoxCloneService;
use tower_anyreach::retry::CloneBody;

use crate::classify::NO_ORGANIZATION;
use crate::prelude::*;

// What is replayed.

type Boxed = BoxCloneService<Request<String>, Response<String>, BoxError>;

fn boxed<S>(service: S) -> Boxed
where
    S: Service<Request<String>, Response = Response<String>> + Clone + Send + 'static,
    S::Error: Into<BoxError>,
    S::Future: Send,
{
    service.map_err(Into::into).boxed_clone()
}

/// The policy around the layer: directly, around a timeout that boxes errors, and around a buffer and a limit.
fn stacks(store: &CredentialStore, server: &Server) -> [Boxed; 3] {
    let auth = || AnyreachAuthLayer::new(store.clone()).layer(server.clone());
    let timeout = ServiceBuilder::new().timeout(SECOND);
    let limited = ServiceBuilder::new().buffer(4).concurrency_limit(1);
    [
        boxed(replaying(auth())),
        boxed(replaying(timeout.service(auth()))),
        boxed(replaying(limited.service(auth()))),
    ]
}

#[tokio::test]
async fn a_401_is_cured_by_one_fetch_and_one_replay_directly_and_through_other_layers() {
    for at in 0..3 {
        let (store, script) = revoked().await;
        let server = Server::accepting(&["v2"]);
        let client = &stacks(&store, &server)[at];
        let v2 = [key("v2")];
        for keys in [&[key("v1"), key("v2")][..], &v2, &v2] {
            let response = client.clone().oneshot(get_agents()).await.unwrap();
            assert_eq!(response.status(), StatusCode::OK);
            assert_eq!(server.take_keys(), keys, "{at}");
        }
        assert_eq!((script.fetches(), store.version()), (1, 2));

        // A denial that the replay gets passes through the same layers.
        let ((store, _), server) = (revoked().await, Server::accepting(&[]));
        let client = &stacks(&store, &server)[at];
        let error = client.clone().oneshot(get_agents()).await.unwrap_err();
        assert_eq!(denied_attempt(Error::find(error.as_ref()).unwrap()), 2);
        assert_eq!(server.attempts(), 2);
    }
}

#[test]
fn a_rotation_cures_without_source_or_runtime() {
    let store = CredentialStore::new(key_of("v1"));
    let server = Server::accepting(&["v2"]);
    let rotating = store.clone();
    let service = server.clone().map_request(move |request: Request<String>| {
        rotating.rotate(key_of("v2"));
        request
    });
    let response = now(client(&store, service).oneshot(get_agents())).unwrap();
    assert_eq!(response.status(), StatusCode::OK);
    assert_eq!(server.take_keys(), [key("v1"), key("v2")]);

    // Without a rotation there is nothing to wait for either.
    let server = Server::accepting(&[]);
    let error = now(client(&store, server.clone()).oneshot(get_agents())).unwrap_err();
    assert_eq!((denied_attempt(&error), server.attempts()), (1, 1));
}

#[tokio::test]
async fn another_token_or_organization_in_force_is_replayed_with_unless_the_request_hides_it() {
    let [one, two, own] = ["org_1", "org_2", "org_own"];
    let pat = credential;
    // In force before and after the first attempt, and the request's own organization; then what arrives.
    #[rustfmt::skip]
    let cases = [
        (token_for(one), token_for(two), None, vec![(TOKEN, one), (TOKEN, two)]),
        // Token and organization are those that were denied.
        (token_for(one), token_for(two), Some(own), vec![(TOKEN, own)]),
        (pat("pat_first"), pat("pat_second"), Some(own), vec![("pat_first", own), ("pat_second", own)]),
    ];
    for (before, after, own, expected) in cases {
        let (store, server) = (CredentialStore::new(before), Server::accepting(&[]));
        let rotating = store.clone();
        let service = server.clone().map_request(move |request: Request<String>| {
            rotating.rotate(after.clone());
            request
        });
        let mut request = get_agents();
        if let Some(own) = own {
            request = with(organization(own), request);
        }
        let error = client(&store, service).oneshot(request).await.unwrap_err();
        let arrived = server.take();
        assert_eq!([denied_attempt(&error), arrived.len()], [expected.len(); 2]);
        for (head, (token, organization)) in arrived.iter().zip(expected) {
            assert_carries(head, token, Some(organization));
        }
    }
}
#[tokio::test]
async fn a_tenants_own_store_is_reported_to_asked_and_replayed_with() {
    let (own, own_script) = revoked().await;
    let (store, script) = revoked().await;
    let client = client(&store, Server::accepting(&["v2"]));
    let outcome = client.oneshot(with(own.clone(), get_agents())).await;
    assert_eq!(outcome.unwrap().status(), StatusCode::OK);
    assert_eq!((own_script.fetches(), own.version()), (1, 2));
    assert_eq!((script.fetches(), store.version()), (0, 1));
    assert!(store.status().last_denied().is_none());
}

#[tokio::test]
async fn a_replay_differs_from_the_request_in_its_credential_only() {
    let (store, _) = revoked().await;
    let arrived = Mutex::new(Vec::new());
    let service = service_fn(|request| {
        arrived.lock().unwrap().push(request);
        ready(Ok::<_, Infallible>(answer(StatusCode::UNAUTHORIZED, "{}")))
    });
    let request = Request::post("https://api.anyreach.ai/core/conversations?dry=1")
        .version(Version::HTTP_2)
        .header("idempotency-key", "5")
        .header("x-twice", "a")
        .header("x-twice", "b")
        .extension(7_u32)
        .body("the body".to_owned())
        .unwrap();
    let (sent, body) = request.clone().into_parts();
    client(&store, service).oneshot(request).await.unwrap_err();

    let arrived = std::mem::take(&mut *arrived.lock().unwrap());
    assert_eq!(arrived.len(), 2);
    for (request, name) in arrived.into_iter().zip(["v1", "v2"]) {
        let (mut head, arrived_body) = request.into_parts();
        assert_carries(&head, &key(name), None);
        head.headers.remove(AUTHORIZATION);
        assert_eq!(head.headers, sent.headers);
        assert_eq!((&head.method, &head.uri), (&sent.method, &sent.uri));
        assert_eq!(head.version, Version::HTTP_2);
        assert_eq!(head.extensions.get(), Some(&7_u32));
        assert_eq!(arrived_body, body);
    }
}

/// A user's own policy around this one, over any body that this one can clone.
#[derive(Clone)]
struct Wrapping<C>(RefreshPolicy<C>);

impl<B, R, C: CloneBody<B>> Policy<Request<B>, Response<R>, Error> for Wrapping<C> {
    type Future = <RefreshPolicy<C> as Policy<Request<B>, Response<R>, Error>>::Future;

    fn retry(
        &mut self,
        request: &mut Request<B>,
        result: &mut Result<Response<R>, Error>,
    ) -> Option<Self::Future> {
        self.0.retry(request, result)
    }

    fn clone_request(&mut self, request: &Request<B>) -> Option<Request<B>> {
        self.0.copy_request(request)
    }
}
#[tokio::test]
async fn a_body_that_is_not_clone_is_replayed_if_the_cloner_gives_one_also_through_a_wrapping_policy()
 {
    #[derive(Debug)]
    struct Upload(&'static str);

    let policy = RefreshPolicy::new()
        .max_wait(SECOND)
        .clone_body_with(|body: &Upload| (body.0 == "bytes").then_some(Upload(body.0)));
    for (body, attempts) in [("bytes", 2), ("stream", 1)] {
        let (store, script) = revoked().await;
        let server = Server::accepting(&["v2"]);
        let auth = || AnyreachAuthLayer::new(store.clone()).layer(server.clone());
        let upload = || get_agents().map(|_| Upload(body));
        let direct = ServiceBuilder::new().retry(policy.clone()).service(auth());
        assert_eq!(direct.oneshot(upload()).await.is_ok(), attempts == 2);
        settle().await;
        assert_eq!((server.attempts(), script.fetches()), (attempts, 1));

        store.rotate(key_of("v1"));
        script.set(Fetch::Gives("v2"));
        let wrapping = Wrapping(policy.clone());
        let wrapped = ServiceBuilder::new().retry(wrapping).service(auth());
        assert_eq!(wrapped.oneshot(upload()).await.is_ok(), attempts == 2);
        assert_eq!(server.attempts(), 2 * attempts);
    }
}

// At most once.

#[tokio::test(start_paused = true)]
async fn a_second_denial_is_the_answer_and_is_not_replayed() {
    let (store, script) = revoked().await;
    let server = Server::accepting(&["v3"]);
    let client = client(&store, server.clone());
    let error = client.clone().oneshot(get_agents()).await.unwrap_err();
    assert_eq!(denied_attempt(&error), 2);
    let denial = error.denial().unwrap();
    assert_eq!(denial.credential(), Some(key_of("v2").id()));
    assert_eq!(server.take_keys(), [key("v1"), key("v2")]);
    assert_eq!(script.fetches(), 1);
    // After the rest of the source, the next request is replayed.
    script.set(Fetch::Gives("v3"));
    sleep(SECOND).await;
    assert!(client.oneshot(get_agents()).await.is_ok());
    assert_eq!(server.take_keys(), [key("v2"), key("v3")]);
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
        let server = Server::accepting(&[accepted]);
        let inner = replaying(client(&script.store().await, server.clone()));
        let service = replaying(ServiceBuilder::new().timeout(SECOND).service(inner));
        let response = service.oneshot(get_agents()).await;
        assert_eq!(response.is_ok(), accepted == "v2");
        let counts = (server.attempts(), script.fetches());
        assert_eq!(counts, (attempts, 1), "{fetch:?}");
    }
}

/// There is no marker that a copy could use up.
#[tokio::test]
async fn each_copy_of_an_outer_retry_is_replayed_at_most_once_and_only_with_another_credential() {
    // Sent, replayed, denied; the second copy is sent with the key that was denied last, while the source rests.
    for (fetch, attempts) in [(Fetch::GivesFresh, 3), (Fetch::Gives("v1"), 2)] {
        let server = Server::accepting(&[]);
        let client = client(&Script::new(fetch).store().await, server.clone());
        let client = ServiceBuilder::new().retry(once_more()).service(client);
        let outcome = client.oneshot(get_agents()).await;
        assert!(outcome.unwrap_err().is_unauthorized());
        assert_eq!(server.attempts(), attempts, "{fetch:?}");
    }
}
#[tokio::test(start_paused = true)]
async fn a_copy_that_was_given_up_while_it_waited_does_not_use_up_the_replay_of_the_next_one() {
    let (store, script) = revoked().await;
    script.delay(15);
    let server = Server::accepting(&["v2"]);
    let outer = ServiceBuilder::new().retry(once_more()).timeout(MILLI * 10);
    let client = outer.service(client(&store, server.clone()));
    assert!(client.oneshot(get_agents()).await.is_ok());
    assert_eq!(server.take_keys(), [key("v1"), key("v1"), key("v2")]);
    assert_eq!(script.fetches(), 1);
}

// How long it waits.
#[tokio::test]
async fn a_denial_that_nothing_can_cure_is_the_answer_at_once_without_a_second_permit() {
    let without_source = CredentialStore::new(key_of("v1"));
    let with_source = Script::new(Fetch::Gives("v1")).store().await;
    for store in [without_source, with_source] {
        // The source rests after this one.
        let rested = client(&store, Server::accepting(&[]));
        rested.oneshot(get_agents()).await.unwrap_err();
        let server = Server::accepting(&[]);
        let outcome = client(&store, server.clone()).oneshot(get_agents()).await;
        assert_eq!(denied_attempt(&outcome.unwrap_err()), 1);
        assert_eq!(server.readied(), 1);
    }
}
#[tokio::test(start_paused = true)]
async fn a_denial_is_returned_after_max_wait_and_not_lost_in_a_callers_timeout() {
    let limited = RefreshPolicy::new().max_wait(MILLI * 500);
    for (policy, wait) in [(RefreshPolicy::new(), SECOND * 3), (limited, MILLI * 500)] {
        let store = Script::new(Fetch::Hangs).store().await;
        let auth = AnyreachAuthLayer::new(store).layer(Server::accepting(&[]));
        let client = ServiceBuilder::new().timeout(SECOND * 4).retry(policy);
        let asked = Instant::now();
        let outcome = client.service(auth.clone()).oneshot(get_agents()).await;
        let waited = asked.elapsed();
        let error = outcome.unwrap_err();
        assert!(Error::find(error.as_ref()).unwrap().is_unauthorized());
        assert!((wait..=wait + MILLI).contains(&waited), "{waited:?}");
        let denial = denial(auth.clone().oneshot(get_agents()).await);
        let (asked, renewed) = (Instant::now(), denial.renewed().await);
        assert_eq!((renewed, asked.elapsed().as_secs()), (false, 3));
    }
}

#[tokio::test]
async fn an_error_of_readiness_after_the_wait_replaces_the_denial() {
    let (store, _script) = revoked().await;
    let (inner, mut server) = tower_test::mock::pair::<Request<String>, Response<String>>();
    let call = tokio::spawn(client(&store, inner).oneshot(get_agents()));
    let (_, respond) = server.next_request().await.unwrap();
    server.send_error("closed");
    respond.send_response(answer(StatusCode::UNAUTHORIZED, "{}"));
    let error = call.await.unwrap().unwrap_err();
    assert!(matches!(error, Error::Service(_)), "{error:?}");
}
#[tokio::test(start_paused = true)]
async fn a_rotation_replays_requests_at_once_that_wait_for_a_hanging_fetch() {
    let store = Script::new(Fetch::Hangs).store().await;
    let client = client(&store, Server::accepting(&["byhand"]));
    let asked = Instant::now();
    let (outcome, ()) = tokio::join!(client.oneshot(get_agents()), async {
        sleep(MILLI * 20).await;
        store.rotate(key_of("byhand"));
    });
    assert_eq!(outcome.unwrap().status(), StatusCode::OK);
    assert!(asked.elapsed() <= MILLI * 21);
}

/// The reason of the denial does not decide whether the source is asked.
#[tokio::test]
async fn renewed_waits_for_the_look_of_the_layer_and_returns_what_came_of_it() {
    let texts = ["Invalid credential.", NO_ORGANIZATION];
    for (text, is_revoked) in texts.map(|text| [(text, true), (text, false)]).concat() {
        let script = Script::new(Fetch::Gives(if is_revoked { "v2" } else { "v1" }));
        script.delay(10);
        let store = script.store().await;
        let body = format!(r#"{{"detail": "{text}"}}"#);
        let server = Recorder::answering(answer(StatusCode::UNAUTHORIZED, &body));
        let client = AnyreachAuthLayer::new(store.clone()).layer(server);
        let denial = denial(client.oneshot(get_agents()).await);
        let mut renewed = task::spawn(denial.renewed());
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
