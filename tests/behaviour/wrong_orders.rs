//! The harm of each wrong order that the pages name and that `check_stack` does not look for, beside the right order.

use tower::timeout::error::Elapsed;
use tower_http::trace::TraceLayer;

use crate::prelude::*;
use support::Again;

// Traces and counters.

#[tokio::test]
async fn a_trace_inside_sees_each_attempt_and_no_refusal() {
    let (outside, inside) = (Arc::<AtomicUsize>::default(), Arc::<AtomicUsize>::default());
    let trace = |count: &Arc<AtomicUsize>| {
        let count = Arc::clone(count);
        TraceLayer::new_for_http().on_request(move |_: &Request<String>, _: &tracing::Span| {
            count.fetch_add(1, Ordering::Relaxed);
        })
    };
    let inner = trace(&inside).layer(Server::accepting(&["v2"]));
    let client = trace(&outside).layer(client(&revoked().await.0, inner));
    let counts = || [&outside, &inside].map(|count| count.load(Ordering::Relaxed));
    let response = client.clone().oneshot(get_agents()).await.unwrap();
    assert_eq!((response.status(), counts()), (StatusCode::OK, [1, 2]));
    let refused = client.oneshot(get("https://elsewhere.example/")).await;
    assert!(refused.map(drop).unwrap_err().is_refused());
    assert_eq!(counts(), [2, 2]);
}

// Time limits.

#[tokio::test(start_paused = true)]
async fn a_total_timeout_inside_of_the_refresh_policy_starts_again_with_each_attempt() {
    // Each answer takes three seconds, and the first one is a denial.
    let slow = service_fn(async |request: Request<String>| {
        sleep(SECOND * 3).await;
        Server::accepting(&["v2"]).oneshot(request).await
    });
    let began = Instant::now();
    let auth = AnyreachAuthLayer::new(revoked().await.0).layer(slow);
    let inside = replaying(ServiceBuilder::new().timeout(SECOND * 5).service(auth));
    assert_eq!(inside.oneshot(get_agents()).await.unwrap().status(), 200);
    assert_eq!(began.elapsed().as_secs(), 6);

    let began = Instant::now();
    let outside = ServiceBuilder::new().timeout(SECOND * 5);
    let outside = outside.service(client(&revoked().await.0, slow));
    let error = outside.oneshot(get_agents()).await.unwrap_err();
    assert!(error.is::<Elapsed>());
    assert_eq!(began.elapsed().as_secs(), 5);
}

#[tokio::test(start_paused = true)]
async fn a_total_timeout_does_not_cover_the_body_of_the_response() {
    let client = service_fn(|_: Request<String>| {
        let body = Scripted::new([Step::Wait(SECOND * 60), Step::data("late")]);
        ready(Ok::<_, Infallible>(Response::new(body)))
    });
    let client = layer().layer(client);
    let client = ServiceBuilder::new().timeout(SECOND).service(client);
    let began = Instant::now();
    let body = client.oneshot(get_agents()).await.unwrap().into_body();
    assert_eq!(body.collect().await.unwrap().to_bytes(), "late");
    assert_eq!(began.elapsed().as_secs(), 60);
}

// Buffers.

#[tokio::test]
async fn a_buffer_inside_keeps_a_slot_for_a_refused_request() {
    let mut first = ServiceBuilder::new()
        .layer(layer())
        .buffer::<Request<String>>(1)
        .service_fn(|_| pending::<Result<Response<String>, BoxError>>());
    let mut second = first.clone();
    let refused = first.ready().await.unwrap().call(get("/")).await;
    assert!(refused.map(drop).unwrap_err().is_refused());
    let waits = task::spawn(second.ready()).poll().is_pending();
    assert!(waits, "the only slot still belongs to the first handle");

    let mut first = ServiceBuilder::new()
        .buffer::<Request<String>>(1)
        .layer(layer())
        .service(Recorder::default());
    let mut second = first.clone();
    let refused = first.ready().await.unwrap().call(get("/")).await;
    let refused = refused.unwrap_err();
    assert!(Error::find(refused.as_ref()).unwrap().is_refused());
    let sent = second.ready().await.unwrap().call(get_agents()).await;
    assert_eq!(sent.unwrap().status(), 200);
}

// Layers that count errors, and to which a denial is an error now.

/// The transient case in one expression, as the page on migration has it.
fn is_transient(error: &BoxError) -> bool {
    match Error::find(error.as_ref()) {
        Some(error) => matches!(error, Error::Service(_)),
        None => true,
    }
}

/// Retries each error that counts, twice at most.
fn twice<R>(counts: fn(&BoxError) -> bool) -> Again<impl Fn(&Result<R, BoxError>) -> bool + Clone> {
    Again(2, move |outcome: &Result<R, BoxError>| {
        outcome.as_ref().is_err_and(counts)
    })
}

/// How often a POST is sent that has this outcome each time, if the errors that count are retried.
async fn attempts(
    counts: fn(&BoxError) -> bool,
    outcome: fn() -> io::Result<Response<String>>,
) -> usize {
    let attempts = AtomicUsize::new(0);
    let inner = layer().layer(service_fn(|_: Request<String>| {
        attempts.fetch_add(1, Ordering::Relaxed);
        ready(outcome())
    }));
    let retry = ServiceBuilder::new().retry(twice(counts));
    let mut post = get_agents();
    *post.method_mut() = Method::POST;
    let client = retry.map_err(BoxError::from).service(inner);
    assert!(client.oneshot(post).await.is_err());
    attempts.into_inner()
}

#[tokio::test]
async fn a_retry_of_every_error_repeats_a_denied_post() {
    let denied = || Ok(answer(StatusCode::FORBIDDEN, r#"{"detail": "no"}"#));
    assert_eq!(attempts(|_| true, denied).await, 3);
    assert_eq!(attempts(is_transient, denied).await, 1);
}

#[tokio::test]
async fn the_transient_case_is_retried() {
    let reset = || Err(io::Error::other("connection reset"));
    assert_eq!(attempts(is_transient, reset).await, 3);
}

/// A circuit breaker, which lets no request through once an error counted.
fn breaker<S>(
    inner: S,
    counts: fn(&BoxError) -> bool,
) -> impl Service<Request<String>, Response = S::Response, Error = BoxError> + Clone
where
    S: Service<Request<String>, Error: Into<BoxError>> + Clone,
{
    let is_open = Arc::<AtomicBool>::default();
    service_fn(move |request| {
        let (inner, is_open) = (inner.clone(), Arc::clone(&is_open));
        async move {
            if is_open.load(Ordering::Relaxed) {
                return Err("the breaker is open".into());
            }
            let outcome = inner.oneshot(request).await.map_err(Into::into);
            if outcome.as_ref().is_err_and(counts) {
                is_open.store(true, Ordering::Relaxed);
            }
            outcome
        }
    })
}

#[tokio::test]
async fn a_circuit_breaker_outside_shuts_out_every_tenant_because_of_one_key() {
    async fn second_tenant<S>(client: S) -> Result<StatusCode, BoxError>
    where
        S: Service<Request<String>, Response = Response<String>> + Clone,
        S::Error: Into<BoxError>,
    {
        let revoked = with(key_of("revoked"), get_agents());
        let outcome = client.clone().oneshot(revoked).await;
        let error = outcome.map_err(Into::into).unwrap_err();
        assert!(Error::find(error.as_ref()).unwrap().is_unauthorized());
        let outcome = client.oneshot(with(key_of("good"), get_agents())).await;
        Ok(outcome.map_err(Into::into)?.status())
    }
    let auth = AnyreachAuthLayer::per_request();
    let server = || Server::accepting(&["good"]);

    let outside = breaker(auth.layer(server()), |_| true);
    let error = second_tenant(outside).await.unwrap_err();
    assert_eq!(error.to_string(), "the breaker is open");
    let outside = breaker(auth.layer(server()), is_transient);
    assert_eq!(second_tenant(outside).await.unwrap(), 200);
    // Inside, a 401 is a response.
    let inside = auth.layer(breaker(server(), |_| true));
    assert_eq!(second_tenant(inside).await.unwrap(), 200);
}

// Signatures.

#[tokio::test]
async fn a_signature_that_is_made_outside_does_not_cover_the_credential() {
    /// Lists the headers that a signature made here would cover.
    fn sign(mut request: Request<String>) -> Request<String> {
        let names: Vec<_> = request.headers().keys().map(AsRef::as_ref).collect();
        let covered = HeaderValue::from_str(&names.join(" ")).unwrap();
        request.headers_mut().insert("signed-headers", covered);
        request
    }
    async fn covered<L>(stack: L) -> String
    where
        L: Layer<Recorder, Service: Service<Request<String>>>,
    {
        let server = Recorder::default();
        drop(stack.layer(server.clone()).oneshot(get_agents()).await);
        let value = &server.take()[0].headers["signed-headers"];
        value.to_str().unwrap().to_owned()
    }
    let auth = AnyreachAuthLayer::new(token_for("org_1"));
    let outside = ServiceBuilder::new().map_request(sign).layer(auth.clone());
    assert_eq!(covered(outside).await, "");
    let inside = covered(ServiceBuilder::new().layer(auth).map_request(sign)).await;
    assert_eq!(inside, "authorization x-anyreach-org");
}

// Two origins in one program.

#[tokio::test(start_paused = true)]
async fn a_store_that_two_origins_share_rests_because_of_the_other_origin() {
    for is_shared in [true, false] {
        let script = Script::new(Fetch::Gives("v1"));
        let store = script.store().await;
        let own = CredentialStore::new(key_of("test"));
        let test = AnyreachAuthLayer::new(if is_shared { store.clone() } else { own });
        let test = test.origin("https://test.example".parse().unwrap());
        let test = test.layer(Server::accepting(&[]));
        let denied = test.oneshot(get("https://test.example/core/agents")).await;
        assert!(denied.unwrap_err().is_unauthorized());
        // Half a second later, production rotates without overlap.
        sleep(SECOND / 2).await;
        script.set(Fetch::Gives("v2"));
        let production = client(&store, Server::accepting(&["v2"]));
        let outcome = production.oneshot(get_agents()).await;
        let status =
            outcome.map_or_else(|error| error.denial().unwrap().status(), |ok| ok.status());
        assert_eq!(status, if is_shared { 401 } else { 200 });
    }
}

#[tokio::test]
async fn a_layer_refuses_requests_for_the_other_origin() {
    let server = Recorder::default();
    let test = layer().origin("https://test.example".parse().unwrap());
    for (layer, uri, is_sent) in [
        (layer(), "https://api.anyreach.ai/core/agents", true),
        (layer(), "https://test.example/core/agents", false),
        (test.clone(), "https://api.anyreach.ai/core/agents", false),
        (test, "https://test.example/core/agents", true),
    ] {
        let outcome = layer.layer(server.clone()).oneshot(get(uri)).await;
        assert_eq!(outcome.is_ok(), is_sent, "{uri}");
        assert_eq!(server.take().len(), usize::from(is_sent), "{uri}");
    }
}
