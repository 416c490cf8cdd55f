//! With crates around and below the layer that few users have together: axum, eyre, tower-http's decompression.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::convert::Infallible;
use std::future::ready;
use std::io::Write;

use axum::body::{Body, Bytes};
use axum::routing::get;
use axum::{Json, Router};
use flate2::Compression;
use flate2::write::GzEncoder;
use http::header::AUTHORIZATION;
use http::{HeaderMap, Request, Response, StatusCode};
use http_body_util::{BodyExt, Full};
use support::{KEY, answer_with, get_agents, layer};
use tower::{Layer, ServiceExt, service_fn};
use tower_anyreach::{AnyreachAuth, DenialReason, Error};
use tower_http::decompression::DecompressionLayer;

const NOPE: &str = r#"{"detail": "Nope"}"#;

#[track_caller]
fn detail<'a>(error: &'a (dyn std::error::Error + 'static)) -> Option<&'a str> {
    Error::find(error).unwrap().denial().unwrap().detail()
}

async fn denied() -> Error {
    let answer = support::answer(StatusCode::UNAUTHORIZED, NOPE);
    let inner = service_fn(|_: Request<String>| ready(Ok::<_, Infallible>(answer.clone())));
    let outcome = layer().layer(inner).oneshot(get_agents()).await;
    outcome.map(drop).unwrap_err()
}

#[tokio::test]
async fn find_sees_through_axum_and_eyre() {
    let error = axum::Error::new(denied().await);
    assert_eq!(detail(&error), Some("Nope"));
    let report = eyre::Report::new(denied().await).wrap_err("listing agents");
    assert_eq!(detail(report.wrap_err("at start").as_ref()), Some("Nope"));
}

#[tokio::test]
async fn an_axum_router_is_an_inner_service_whose_future_is_send() {
    let nope = || Json(serde_json::json!({"detail": "Nope"}));
    let deny = async move || (StatusCode::FORBIDDEN, nope());
    let echo = async |headers: HeaderMap| headers[AUTHORIZATION].to_str().unwrap().to_owned();
    let router = Router::new()
        .route("/denied", get(deny))
        .route("/echo", get(echo));
    let service: AnyreachAuth<Router> = layer().layer(router);
    let send = |path: &str| {
        let request = Request::get(format!("https://api.anyreach.ai{path}"));
        let request = request.body(Body::empty()).unwrap();
        tokio::spawn(service.clone().oneshot(request))
    };
    let error = send("/denied").await.unwrap().unwrap_err();
    assert!(error.is_forbidden());
    assert_eq!(detail(&error), Some("Nope"));
    let response: Response<Body> = send("/echo").await.unwrap().unwrap();
    let body = response.into_body().collect().await.unwrap().to_bytes();
    assert_eq!(body, format!("Bearer {KEY}"));
}

/// Answers with a compressed denial.
async fn server(_: Request<String>) -> Result<Response<Full<Bytes>>, Infallible> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::best());
    encoder.write_all(NOPE.as_bytes()).unwrap();
    let headers = [
        ("content-type", "application/json"),
        ("content-encoding", "gzip"),
    ];
    Ok(answer_with(401, &headers, encoder.finish().unwrap().into()))
}

#[tokio::test]
async fn decompression_inside_gives_a_compressed_denial_its_detail() {
    let client = layer().layer(DecompressionLayer::new().layer(service_fn(server)));
    let error = client.oneshot(get_agents()).await.map(drop).unwrap_err();
    assert_eq!(detail(&error), Some("Nope"));
    assert_eq!(error.denial().unwrap().body(), NOPE);
}

#[tokio::test]
async fn decompression_outside_hides_the_detail_and_not_the_denial() {
    let client = DecompressionLayer::new().layer(layer().layer(service_fn(server)));
    let error = client.oneshot(get_agents()).await.map(drop).unwrap_err();
    assert_eq!(detail(&error), None);
    let denial = Error::find(&error).unwrap().denial().unwrap();
    assert_eq!(denial.reason(), DenialReason::InvalidCredential);
}
