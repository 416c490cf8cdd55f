//! Feature `tower-http`: denials as failures in traces, and credentials that follow no redirect.

use std::convert::Infallible;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use http::header::{AUTHORIZATION, CONTENT_TYPE, LOCATION};
use http::{HeaderMap, Request, Response, StatusCode};

use tower::{Layer, Service, ServiceBuilder, ServiceExt, service_fn};
use tower_anyreach::tower_http::{DenialsAsFailures, Failure, KeepCredentialsAtOrigin};
use tower_anyreach::{AnyreachAuthLayer, DenialReason, DeniedResponses, Origin};
use tower_http::follow_redirect::FollowRedirectLayer;
use tower_http::trace::TraceLayer;

use support::{KEY, ORG, Recorder, TOKEN, answer, credential, get, get_agents, now, token_for};

fn denied(status: StatusCode) -> Recorder {
    let mut denied = answer(status, r#"{"detail": "no"}"#);
    let json = "application/json".parse().unwrap();
    denied.headers_mut().insert(CONTENT_TYPE, json);
    Recorder::answering(denied)
}

/// What a `TraceLayer` outside of everything calls failures.
fn failures<S, E>(
    layer: impl Layer<Recorder, Service = S>,
    inner: Recorder,
    request: Request<String>,
) -> Vec<Failure>
where
    S: Service<Request<String>, Response = Response<String>, Error = E>,
    E: std::fmt::Display + 'static,
{
    let failures = Arc::new(Mutex::new(Vec::new()));
    let heard = Arc::clone(&failures);
    let trace = TraceLayer::new(DenialsAsFailures).on_failure(
        move |failure: Failure, _: Duration, _: &tracing::Span| {
            heard.lock().unwrap().push(failure);
        },
    );
    drop(now(trace.layer(layer.layer(inner)).oneshot(request)));
    failures.lock().unwrap().clone()
}

#[test]
fn a_denial_is_a_failure_as_an_error_and_as_a_response() {
    let layer = AnyreachAuthLayer::new(credential(KEY));
    let forbidden = Failure::Denied(StatusCode::FORBIDDEN, DenialReason::InsufficientScope);
    assert_eq!(
        failures(layer.clone(), denied(StatusCode::FORBIDDEN), get_agents()),
        [forbidden]
    );
    let passing = layer.denied_responses(DeniedResponses::PassThrough);
    assert_eq!(
        failures(passing, denied(StatusCode::FORBIDDEN), get_agents()),
        [forbidden]
    );
    assert_eq!(forbidden.to_string(), "denied with 403: InsufficientScope");
}

#[test]
fn what_is_refused_and_what_fails_are_told_apart() {
    let layer = AnyreachAuthLayer::new(credential(KEY));
    assert_eq!(
        failures(
            layer.clone(),
            Recorder::default(),
            get("https://evil.example/")
        ),
        [Failure::Refused]
    );
    let unavailable = Recorder::answering(answer(StatusCode::SERVICE_UNAVAILABLE, ""));
    assert_eq!(
        failures(layer.clone(), unavailable, get_agents()),
        [Failure::Status(StatusCode::SERVICE_UNAVAILABLE)]
    );
    let broken = ServiceBuilder::new()
        .layer(layer.clone())
        .filter(|_: Request<String>| {
            Err::<Request<String>, _>(std::io::Error::other("lost Bearer S3CR3T"))
        })
        .into_inner();
    let told = failures(broken, Recorder::default(), get_agents());
    assert_eq!(told, [Failure::Service]);
    assert_eq!(
        format!("{} {:?}", told[0], told[0]),
        "failed on the way Service"
    );
    assert_eq!(failures(layer, Recorder::default(), get_agents()), []);
}

// Redirects.

/// Answers each hop with a redirect to the next of these, and records what headers each hop brought.
async fn chain(hops: &'static [&'static str]) -> Vec<HeaderMap> {
    let seen = Arc::new(Mutex::new(Vec::new()));
    let record = Arc::clone(&seen);
    let server = service_fn(move |request: Request<String>| {
        let mut seen = record.lock().unwrap();
        seen.push(request.headers().clone());
        let mut response = Response::new(String::new());
        if let Some(next) = hops.get(seen.len() - 1) {
            *response.status_mut() = StatusCode::TEMPORARY_REDIRECT;
            response
                .headers_mut()
                .insert(LOCATION, next.parse().unwrap());
        }
        async { Ok::<_, Infallible>(response) }
    });
    // The wrong order, which this policy is for: the layer outside of the redirects.
    let client = ServiceBuilder::new()
        .layer(AnyreachAuthLayer::new(token_for("org_acme")))
        .layer(FollowRedirectLayer::with_policy(
            KeepCredentialsAtOrigin::new(Origin::default()),
        ))
        .service(server);
    client.oneshot(get_agents()).await.unwrap();
    Arc::try_unwrap(seen).unwrap().into_inner().unwrap()
}

fn carries(headers: &HeaderMap) -> (bool, bool) {
    (
        headers.contains_key(AUTHORIZATION),
        headers.contains_key(&ORG),
    )
}

const AWAY_AND_BACK: &[&str] = &[
    "https://api.anyreach.ai/core/agents/",
    "https://evil.example/",
    "https://api.anyreach.ai/core/agents",
];

#[tokio::test]
async fn credentials_stay_at_the_origin_and_do_not_come_back() {
    let seen = chain(AWAY_AND_BACK).await;
    let carried: Vec<_> = seen.iter().map(carries).collect();
    assert_eq!(
        carried,
        [(true, true), (true, true), (false, false), (false, false)]
    );
    for headers in &seen[2..] {
        assert!(!format!("{headers:?}").contains(TOKEN));
    }
}

#[tokio::test]
async fn a_near_miss_of_the_origin_is_not_the_origin() {
    for hop in [
        &["http://api.anyreach.ai/"][..],
        &["https://api.anyreach.ai:8443/"],
        &["https://api.anyreach.ai:99999/"],
        &["https://me@api.anyreach.ai/"],
        &["https://api.anyreach.ai./"],
    ] {
        let seen = chain(hop).await;
        // tower-http itself refuses to go to some of them.
        for headers in &seen[1..] {
            assert_eq!(carries(headers), (false, false), "{hop:?}");
        }
    }
}
