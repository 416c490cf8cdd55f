//! With tower around and below: denials, refusals and their errors come through, and bodies of every kind are read.

use std::rc::Rc;

use tower::buffer::Buffer;
use tower::timeout::error::Elapsed;

use crate::prelude::*;
use support::respond;

const URI: &str = "https://api.anyreach.ai/core/agents";
const NOPE: &str = r#"{"detail": "Nope"}"#;

/// A client that is denied everything.
async fn deny(request: Request<String>) -> Result<Response<String>, io::Error> {
    assert_eq!(request.headers()[AUTHORIZATION], format!("Bearer {KEY}"));
    Ok(answer(StatusCode::UNAUTHORIZED, NOPE))
}

async fn hang(_: Request<String>) -> Result<Response<String>, io::Error> {
    pending().await
}

/// The error of a GET.
async fn failed<S: Service<Request<String>>>(service: S, uri: &str) -> S::Error {
    let outcome = service.oneshot(get(uri)).await;
    outcome.err().expect("an error")
}

#[track_caller]
fn assert_denial_within(error: &(dyn std::error::Error + 'static)) {
    let found = Error::find(error).unwrap_or_else(|| panic!("no error of ours in {error:?}"));
    assert_eq!(found.denial().unwrap().detail(), Some("Nope"));
}

#[track_caller]
fn assert_refusal_within(error: &BoxError) {
    assert!(Error::find(error.as_ref()).is_some_and(Error::is_refused));
}

#[tokio::test(start_paused = true)]
async fn a_timeout_outside_lets_a_denial_through_and_cuts_what_hangs() {
    let service = || ServiceBuilder::new().timeout(SECOND * 5).layer(layer());
    let error = failed(service().service_fn(deny), URI).await;
    assert_denial_within(error.as_ref());
    assert_refusal_within(&failed(service().service_fn(deny), "http://api.anyreach.ai/").await);
    let error = failed(service().service_fn(hang), URI).await;
    assert!(error.is::<Elapsed>() && Error::find(error.as_ref()).is_none());
}

#[tokio::test(start_paused = true)]
async fn a_timeout_inside_comes_out_as_the_services_own_failure() {
    let service = || ServiceBuilder::new().layer(layer()).timeout(SECOND * 5);
    assert_denial_within(&failed(service().service_fn(deny), URI).await);
    let error = failed(service().service_fn(hang), URI).await;
    assert!(matches!(&error, Error::Service(inner) if inner.is::<Elapsed>()));
    assert!(Error::find(&error).is_none(), "a mere wrapper");
}

#[tokio::test]
async fn every_attempt_of_a_retry_is_authenticated_anew_and_once() {
    for fail_first in [false, true] {
        let attempts = AtomicUsize::new(0);
        let service = service_fn(|request: Request<String>| {
            assert_eq!(request.headers().get_all(AUTHORIZATION).iter().count(), 1);
            ready(match attempts.fetch_add(1, Ordering::SeqCst) {
                0 if fail_first => Err(io::Error::other("connection reset")),
                0 => Ok(answer(StatusCode::UNAUTHORIZED, NOPE)),
                _ => Ok(answer(StatusCode::OK, "fine")),
            })
        });
        let retry = ServiceBuilder::new().retry(once_more());
        let service = retry.service(layer().layer(service));
        let response = service.clone().oneshot(get(URI)).await.unwrap();
        assert_eq!(response.status(), 200);
        assert_eq!(attempts.load(Ordering::SeqCst), 2);
        // A refused request is not sent, however often it is tried.
        let refused = failed(service, "https://other.example/").await;
        assert!(refused.is_refused());
        assert_eq!(attempts.load(Ordering::SeqCst), 2);
    }
}

#[tokio::test]
async fn a_buffer_outside_survives_refusals_and_denials() {
    let service = Buffer::new(layer().layer(service_fn(deny)), 2);
    for _ in 0..5 {
        assert_denial_within(failed(service.clone(), URI).await.as_ref());
        assert_refusal_within(&failed(service.clone(), "/relative").await);
    }
}

async fn denied_with<B: http_body::Body>(body: B) {
    let mut body = Some(body);
    let service = layer().layer(service_fn(move |_: Request<String>| {
        let response = respond(StatusCode::UNAUTHORIZED, body.take().unwrap());
        ready(Ok::<_, Infallible>(response))
    }));
    assert_denial_within(&failed(service, URI).await);
}

#[tokio::test]
async fn bodies_of_every_kind_are_read() {
    let full = || Full::<Bytes>::from(NOPE);
    denied_with(full()).await;
    denied_with(NOPE.to_owned()).await;
    denied_with(Box::new(NOPE.to_owned())).await;
    denied_with(full().boxed()).await;
    denied_with(full().boxed_unsync()).await;
    denied_with(full().map_err(|never| match never {})).await;
    denied_with(Full::new(io::Cursor::new(NOPE))).await;
    // Not even `Send`.
    let local = Rc::<[u8]>::from(NOPE.as_bytes());
    denied_with(Full::new(io::Cursor::new(local))).await;
}
