//! With tower around and below: readiness, denials, refusals and their errors come through.

use std::convert::Infallible;
use std::future::{pending, ready};
use std::io;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use http::header::AUTHORIZATION;
use http::{Request, Response, StatusCode};
use http_body_util::{BodyExt, Full};
use tower::buffer::Buffer;
use tower::load_shed::error::Overloaded;
use tower::timeout::error::Elapsed;
use tower::{Layer, Service, ServiceBuilder, ServiceExt, service_fn};
use tower_anyreach::{AnyreachAuthLayer, BoxError, Credential, Error, ForeignRequests};
use tower_test::mock;

use support::{KEY, OnceMore, SECOND, answer, get, layer};

const URI: &str = "https://api.anyreach.ai/core/agents";
const NOPE: &str = r#"{"detail": "Nope"}"#;

fn denied() -> Response<String> {
    answer(StatusCode::UNAUTHORIZED, NOPE)
}

/// A client that is denied everything.
async fn deny(request: Request<String>) -> Result<Response<String>, io::Error> {
    assert_eq!(request.headers()[AUTHORIZATION], format!("Bearer {KEY}"));
    Ok(denied())
}

async fn hang(_: Request<String>) -> Result<Response<String>, io::Error> {
    pending().await
}

/// The error of an outcome whose answer need not be `Debug`.
#[track_caller]
fn failure<T, E>(outcome: Result<T, E>) -> E {
    match outcome {
        Ok(_) => panic!("a denied answer passed through"),
        Err(error) => error,
    }
}

/// The error of a GET.
async fn failed<S, R>(service: S, uri: &str) -> S::Error
where
    S: Service<Request<String>, Response = R>,
{
    failure(service.oneshot(get(uri)).await)
}

#[track_caller]
fn assert_denial_within(error: &(dyn std::error::Error + 'static)) {
    let found = Error::find(error).unwrap_or_else(|| panic!("no error of ours in {error:?}"));
    assert_eq!(found.denial().unwrap().detail(), Some("Nope"));
}

#[tokio::test(start_paused = true)]
async fn a_timeout_outside_lets_a_denial_through_and_cuts_what_hangs() {
    let service = || ServiceBuilder::new().timeout(SECOND * 5).layer(layer());
    let error = failed(service().service_fn(deny), URI).await;
    assert_denial_within(error.as_ref());
    let refused = failed(service().service_fn(deny), "http://api.anyreach.ai/").await;
    assert!(Error::find(refused.as_ref()).is_some_and(Error::is_refused));
    let error = failed(service().service_fn(hang), URI).await;
    assert!(error.is::<Elapsed>() && Error::find(error.as_ref()).is_none());
}

#[tokio::test(start_paused = true)]
async fn a_timeout_inside_comes_out_as_the_services_own_failure() {
    let service = || ServiceBuilder::new().layer(layer()).timeout(SECOND * 5);
    let error = failed(service().service_fn(deny), URI).await;
    assert_denial_within(&error);
    let error = failed(service().service_fn(hang), URI).await;
    let Error::Service(inner) = &error else {
        panic!("{error:?}")
    };
    assert!(inner.is::<Elapsed>());
    assert!(Error::find(&error).is_none(), "a mere wrapper");
}

#[tokio::test]
async fn every_attempt_of_a_retry_is_authenticated_anew_and_once() {
    for fail_first in [false, true] {
        let attempts = Arc::new(AtomicUsize::new(0));
        let service = || {
            let attempts = Arc::clone(&attempts);
            ServiceBuilder::new()
                .retry(OnceMore::default())
                .layer(layer())
                .service_fn(move |request: Request<String>| {
                    assert_eq!(request.headers().get_all(AUTHORIZATION).iter().count(), 1);
                    let attempt = attempts.fetch_add(1, Ordering::SeqCst);
                    ready(match attempt {
                        0 if fail_first => Err(io::Error::other("connection reset")),
                        0 => Ok(denied()),
                        _ => Ok(Response::new("fine".into())),
                    })
                })
        };
        let response = service().oneshot(get(URI)).await.unwrap();
        assert_eq!(response.status(), 200);
        assert_eq!(attempts.load(Ordering::SeqCst), 2);
        let refused = service().oneshot(get("https://other.example/")).await;
        assert!(matches!(refused, Err(Error::Refused(_))));
        assert_eq!(
            attempts.load(Ordering::SeqCst),
            2,
            "a refused request is not sent, however often it is tried"
        );
    }
}

#[tokio::test]
async fn a_buffer_outside_survives_refusals_and_denials() {
    let service = Buffer::new(layer().layer(service_fn(deny)), 2);
    for _ in 0..5 {
        let error = service.clone().oneshot(get(URI)).await.unwrap_err();
        assert_denial_within(error.as_ref());
        let refused = service.clone().oneshot(get("/relative")).await.unwrap_err();
        assert!(Error::find(refused.as_ref()).is_some_and(Error::is_refused));
    }
}

#[tokio::test]
async fn a_denial_releases_the_permits_of_limits_outside_and_inside() {
    let mut service = ServiceBuilder::new()
        .concurrency_limit(1)
        .layer(layer())
        .concurrency_limit(1)
        .service_fn(deny);
    for _ in 0..3 {
        assert_denial_within(&failed(&mut service, URI).await);
        let refused = failed(&mut service, "/").await;
        assert!(refused.is_refused());
    }
}

#[tokio::test]
async fn load_shedding_inside_keeps_its_error() {
    let mut inside = ServiceBuilder::new()
        .layer(layer())
        .load_shed()
        .concurrency_limit(1)
        .service_fn(hang);
    let held = inside.ready().await.unwrap().call(get(URI));
    let error = failed(&mut inside, URI).await;
    assert!(
        matches!(&error, Error::Service(inner) if inner.is::<Overloaded>()),
        "{error:?}"
    );
    drop(held);
}

async fn error_of<S>(service: S) -> BoxError
where
    S: Service<Request<String>, Error: Into<BoxError>>,
{
    failure(service.oneshot(get(URI)).await).into()
}

#[tokio::test]
async fn find_sees_through_every_wrapper() {
    let auth = || layer().layer(service_fn(deny));
    let ours = || async { auth().oneshot(get(URI)).await.unwrap_err() };
    let plain = || async { error_of(auth()).await };
    let in_io = || async { io::Error::other(plain().await) };
    // What it attached, the inner one would refuse; so it has another origin.
    let outer = layer()
        .origin("https://other.example".parse().unwrap())
        .foreign_requests(ForeignRequests::ForwardWithoutCredentials);
    let stack = ServiceBuilder::new().buffer(1).timeout(SECOND).load_shed();
    let any = anyhow::Error::new(ours().await).context("listing agents");

    for (name, error) in [
        ("nothing", plain().await),
        (
            "buffer, timeout, load shed",
            error_of(stack.service(auth())).await,
        ),
        ("anyhow", any.context("at start").into()),
        ("io", in_io().await.into()),
        ("io in io", io::Error::other(in_io().await).into()),
        (
            "anyhow in io",
            io::Error::other(anyhow::Error::new(ours().await).context("x")).into(),
        ),
        ("service", Error::Service(plain().await).into()),
        (
            "service in service",
            Error::Service(Error::Service(plain().await).into()).into(),
        ),
        ("auth around auth", error_of(outer.layer(auth())).await),
    ] {
        let found = Error::find(error.as_ref()).unwrap_or_else(|| panic!("{name}: {error:?}"));
        assert_eq!(found.denial().unwrap().detail(), Some("Nope"), "{name}");
    }
}

#[tokio::test]
async fn a_chain_of_errors_reads_as_one_sentence_after_the_other() {
    let denied = || async { error_of(layer().layer(service_fn(deny))).await };
    let failed = || async { Error::Service(io::Error::other("connection reset by peer").into()) };
    let id = Credential::parse(KEY).unwrap().id().to_string();
    let sentence = format!(
        "listing agents: Anyreach answered 401: the credential was rejected: it is \
         invalid or deleted, or possibly expired; rotate it (credential {id})"
    );

    let any = anyhow::Error::from_boxed(denied().await).context("listing agents");
    assert_eq!(format!("{any:#}"), sentence);
    let any = anyhow::Error::new(Error::Service(denied().await)).context("listing agents");
    assert_eq!(
        format!("{any:#}"),
        sentence.replace(
            "Anyreach",
            "the inner service failed (cause in `source()`): Anyreach"
        )
    );

    // What failed on the way is told once.
    let on_the_way =
        "listing agents: the inner service failed (cause in `source()`): connection reset by peer";
    let any = anyhow::Error::new(failed().await).context("listing agents");
    assert_eq!(format!("{any:#}"), on_the_way);
}

#[tokio::test]
async fn find_gives_the_innermost_that_is_more_than_a_wrapper() {
    // A readiness error kills a buffer, and comes out of it as the source of another.
    let refused = AnyreachAuthLayer::per_request().authorize(&mut get(URI).into_parts().0);
    let (broken, mut handle) = mock::pair::<Request<String>, Response<String>>();
    handle.send_error(Error::Service(refused.unwrap_err().into()));
    let error = error_of(Buffer::new(broken, 1)).await;
    assert!(
        Error::find(error.as_ref()).is_some_and(Error::is_refused),
        "{error:?}"
    );

    for foreign in [
        BoxError::from("connection refused"),
        Error::Service("connection refused".into()).into(),
        io::Error::other(Error::Service(
            io::Error::other("connection refused").into(),
        ))
        .into(),
        io::Error::from(io::ErrorKind::TimedOut).into(),
        anyhow::Error::msg("connection refused").context("x").into(),
    ] {
        assert!(Error::find(foreign.as_ref()).is_none(), "{foreign:?}");
    }
}

async fn denied_with<B>(body: B)
where
    B: http_body::Body,
{
    let mut body = Some(body);
    let service = layer().layer(service_fn(move |_: Request<String>| {
        let response = Response::builder().status(401).body(body.take().unwrap());
        ready(Ok::<_, Infallible>(response.unwrap()))
    }));
    assert_denial_within(&failure(service.oneshot(get(URI)).await));
}

#[tokio::test]
async fn bodies_of_every_kind_are_read() {
    denied_with(Full::<Bytes>::from(NOPE)).await;
    denied_with(NOPE.to_owned()).await;
    denied_with(Box::new(NOPE.to_owned())).await;
    denied_with(Full::<Bytes>::from(NOPE).boxed()).await;
    denied_with(Full::<Bytes>::from(NOPE).boxed_unsync()).await;
    denied_with(Full::<Bytes>::from(NOPE).map_err(|never| match never {})).await;
    denied_with(Full::new(io::Cursor::new(NOPE))).await;
    // Not even `Send`.
    denied_with(Full::new(io::Cursor::new(Rc::<[u8]>::from(
        NOPE.as_bytes(),
    ))))
    .await;
}
