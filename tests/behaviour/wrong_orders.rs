//! The harm of each wrong order that the pages name and that `check_stack` does not look for, beside the right order.

use std::convert::Infallible;
use std::future::{Future, Ready, pending, ready};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed};
use std::task::{Context, Poll};

use http::header::AUTHORIZATION;
use http::{HeaderValue, Method, Request, Response, StatusCode};
use http_body_util::BodyExt;
use tokio::time::{Instant, sleep};
use tokio_test::task;
use tower::retry::Policy;
use tower::timeout::error::Elapsed;
use tower::{BoxError, Layer, Service, ServiceBuilder, ServiceExt, service_fn};
use tower_anyreach::retry::RefreshPolicy;
use tower_anyreach::{AnyreachAuthLayer, CredentialStore, Error};
use tower_http::trace::TraceLayer;

use crate::scripted::{Fetch, Script, Server, key_of};
use support::bodies::{Scripted, Step};
use support::{ORG, Recorder, SECOND, answer, get, get_agents, layer, token_for, with};

// Traces and counters.

#[tokio::test]
async fn a_trace_inside_sees_each_attempt_and_no_refusal() {
    let (outside, inside) = (Arc::<AtomicUsize>::default(), Arc::<AtomicUsize>::default());
    let trace = |count: &Arc<AtomicUsize>| {
        let count = Arc::clone(count);
        TraceLayer::new_for_http().on_request(move |_: &Request<String>, _: &tracing::Span| {
            count.fetch_add(1, Relaxed);
        })
    };
    let script = Script::new(Fetch::Gives("v2"));
    let store = script.store().await;
    let client = ServiceBuilder::new()
        .layer(trace(&outside))
        .retry(RefreshPolicy::new())
        .layer(AnyreachAuthLayer::new(store))
        .layer(trace(&inside))
        .service(Server::accepting(&["v2"]));
    assert_eq!(
        client.clone().oneshot(get_agents()).await.unwrap().status(),
        200
    );
    assert_eq!((outside.load(Relaxed), inside.load(Relaxed)), (1, 2));
    let refused = client.oneshot(get("https://elsewhere.example/")).await;
    assert!(refused.map(drop).unwrap_err().is_refused());
    assert_eq!((outside.load(Relaxed), inside.load(Relaxed)), (2, 2));
}

// Time limits.

/// A server that needs three seconds for each answer, and denies the first credential.
fn slow(
    server: Server,
) -> impl Service<Request<String>, Response = Response<String>, Error = Infallible, Future: Send> + Clone
{
    service_fn(move |request: Request<String>| {
        let server = server.clone();
        async move {
            sleep(SECOND * 3).await;
            server.oneshot(request).await
        }
    })
}

#[tokio::test(start_paused = true)]
async fn a_total_timeout_inside_of_the_refresh_policy_starts_again_with_each_attempt() {
    let store = || async { Script::new(Fetch::Gives("v2")).store().await };
    let began = Instant::now();
    let inside = ServiceBuilder::new()
        .retry(RefreshPolicy::new())
        .timeout(SECOND * 5)
        .layer(AnyreachAuthLayer::new(store().await))
        .service(slow(Server::accepting(&["v2"])));
    assert_eq!(inside.oneshot(get_agents()).await.unwrap().status(), 200);
    assert_eq!(began.elapsed().as_secs(), 6);

    let began = Instant::now();
    let outside = ServiceBuilder::new()
        .timeout(SECOND * 5)
        .retry(RefreshPolicy::new())
        .layer(AnyreachAuthLayer::new(store().await))
        .service(slow(Server::accepting(&["v2"])));
    let error = outside.oneshot(get_agents()).await.unwrap_err();
    assert!(error.is::<Elapsed>());
    assert_eq!(began.elapsed().as_secs(), 5);
}

#[tokio::test(start_paused = true)]
async fn a_total_timeout_does_not_cover_the_body_of_the_response() {
    let client = ServiceBuilder::new()
        .timeout(SECOND)
        .layer(layer())
        .service_fn(|_: Request<String>| {
            let body = Scripted::new([Step::Wait(SECOND * 60), Step::data("late")]);
            ready(Ok::<_, Infallible>(Response::new(body)))
        });
    let began = Instant::now();
    let response = client.oneshot(get_agents()).await.unwrap();
    assert_eq!(
        response.into_body().collect().await.unwrap().to_bytes(),
        "late"
    );
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
    assert!(
        task::spawn(second.ready()).poll().is_pending(),
        "the only slot still belongs to the first handle"
    );

    let mut first = ServiceBuilder::new()
        .buffer::<Request<String>>(1)
        .layer(layer())
        .service(Recorder::default());
    let mut second = first.clone();
    let refused = first.ready().await.unwrap().call(get("/")).await;
    assert!(
        Error::find(refused.unwrap_err().as_ref())
            .unwrap()
            .is_refused()
    );
    assert_eq!(
        second
            .ready()
            .await
            .unwrap()
            .call(get_agents())
            .await
            .unwrap()
            .status(),
        200
    );
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
#[derive(Clone)]
struct Twice {
    counts: fn(&BoxError) -> bool,
    left: usize,
}

impl<R> Policy<Request<String>, Response<R>, BoxError> for Twice {
    type Future = Ready<()>;

    fn retry(
        &mut self,
        _: &mut Request<String>,
        result: &mut Result<Response<R>, BoxError>,
    ) -> Option<Ready<()>> {
        let counts = result.as_ref().is_err_and(self.counts);
        self.left = self.left.checked_sub(usize::from(counts))?;
        counts.then(|| ready(()))
    }

    fn clone_request(&mut self, request: &Request<String>) -> Option<Request<String>> {
        Some(request.clone())
    }
}

fn post() -> Request<String> {
    let mut request = get_agents();
    *request.method_mut() = Method::POST;
    request
}

#[tokio::test]
async fn a_retry_of_every_error_repeats_a_denied_post() {
    for (counts, attempts) in [((|_| true) as fn(&BoxError) -> bool, 3), (is_transient, 1)] {
        let server = Recorder::answering(answer(StatusCode::FORBIDDEN, r#"{"detail": "no"}"#));
        let client = ServiceBuilder::new()
            .retry(Twice { counts, left: 2 })
            .map_err(BoxError::from)
            .layer(layer())
            .service(server.clone());
        assert!(client.oneshot(post()).await.is_err());
        assert_eq!(server.take().len(), attempts);
    }
}

#[tokio::test]
async fn the_transient_case_is_retried() {
    let attempts = Arc::new(AtomicUsize::new(0));
    let client = ServiceBuilder::new()
        .retry(Twice {
            counts: is_transient,
            left: 2,
        })
        .map_err(BoxError::from)
        .layer(layer())
        .service_fn(|_: Request<String>| {
            attempts.fetch_add(1, Relaxed);
            ready(Err::<Response<String>, _>(std::io::Error::other(
                "connection reset",
            )))
        });
    assert!(client.oneshot(get_agents()).await.is_err());
    assert_eq!(attempts.load(Relaxed), 3);
}

/// Lets no request through once an error counted.
#[derive(Clone)]
struct Breaker<S> {
    inner: S,
    counts: fn(&BoxError) -> bool,
    is_open: Arc<AtomicBool>,
}

impl<S> Service<Request<String>> for Breaker<S>
where
    S: Service<Request<String>, Response: Send + 'static, Future: Send + 'static>,
    S::Error: Into<BoxError>,
{
    type Response = S::Response;
    type Error = BoxError;
    type Future = Pin<Box<dyn Future<Output = Result<S::Response, BoxError>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.inner.poll_ready(cx).map_err(Into::into)
    }

    fn call(&mut self, request: Request<String>) -> Self::Future {
        let (counts, is_open) = (self.counts, Arc::clone(&self.is_open));
        if is_open.load(Relaxed) {
            return Box::pin(ready(Err("the breaker is open".into())));
        }
        let response = self.inner.call(request);
        Box::pin(async move {
            let outcome = response.await.map_err(Into::into);
            if outcome.as_ref().is_err_and(counts) {
                is_open.store(true, Relaxed);
            }
            outcome
        })
    }
}

fn breaker<S>(inner: S, counts: fn(&BoxError) -> bool) -> Breaker<S> {
    Breaker {
        inner,
        counts,
        is_open: Arc::default(),
    }
}

#[tokio::test]
async fn a_circuit_breaker_outside_shuts_out_every_tenant_because_of_one_key() {
    async fn second_tenant<S>(client: S) -> Result<StatusCode, BoxError>
    where
        S: Service<Request<String>, Response = Response<String>> + Clone,
        S::Error: Into<BoxError>,
    {
        let outcome = client
            .clone()
            .oneshot(with(key_of("revoked"), get_agents()))
            .await;
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
    let (outside, inside) = (Recorder::default(), Recorder::default());
    let stack = ServiceBuilder::new()
        .map_request(sign)
        .layer(AnyreachAuthLayer::new(token_for("org_1")));
    stack
        .service(outside.clone())
        .oneshot(get_agents())
        .await
        .unwrap();
    let stack = ServiceBuilder::new()
        .layer(AnyreachAuthLayer::new(token_for("org_1")))
        .map_request(sign);
    stack
        .service(inside.clone())
        .oneshot(get_agents())
        .await
        .unwrap();
    assert_eq!(outside.take()[0].headers["signed-headers"], "");
    let covered = inside.take()[0].headers["signed-headers"]
        .to_str()
        .unwrap()
        .to_owned();
    assert!(
        covered.contains(AUTHORIZATION.as_str()) && covered.contains(ORG.as_str()),
        "{covered}"
    );
}

// Two origins in one program.

#[tokio::test(start_paused = true)]
async fn a_store_that_two_origins_share_rests_because_of_the_other_origin() {
    async fn outcome_at_production(
        test_store: CredentialStore,
        store: CredentialStore,
        script: Script,
    ) -> Result<StatusCode, Error> {
        let test =
            AnyreachAuthLayer::new(test_store).origin("https://test.example".parse().unwrap());
        let test = test.layer(Server::accepting(&[]));
        let denied = test.oneshot(get("https://test.example/core/agents")).await;
        assert!(denied.unwrap_err().is_unauthorized());
        // Half a second later, production rotates without overlap.
        sleep(SECOND / 2).await;
        script.set(Fetch::Gives("v2"));
        let production = ServiceBuilder::new()
            .retry(RefreshPolicy::new())
            .layer(AnyreachAuthLayer::new(store));
        let production = production.service(Server::accepting(&["v2"]));
        Ok(production.oneshot(get_agents()).await?.status())
    }
    let script = Script::new(Fetch::Gives("v1"));
    let shared = script.store().await;
    let outcome = outcome_at_production(shared.clone(), shared, script).await;
    assert!(outcome.unwrap_err().is_unauthorized());

    let script = Script::new(Fetch::Gives("v1"));
    let test = CredentialStore::new(key_of("test"));
    let outcome = outcome_at_production(test, script.store().await, script).await;
    assert_eq!(outcome.unwrap(), 200);
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
