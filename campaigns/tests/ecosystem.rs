//! With crates around and below that few users have all of: axum, eyre, tower-http's decompression.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::convert::Infallible;
use std::future::ready;
use std::io::Write;

use axum::Router;
use bytes::Bytes;
use flate2::Compression;
use flate2::write::GzEncoder;
use http::{HeaderMap, Request, Response, StatusCode};
use http_body_util::{BodyExt, Full};
use support::{KEY, layer};
use tower::{Layer, Service, ServiceBuilder, ServiceExt, service_fn};
use tower_anyreach::{AnyreachAuth, DenialReason, Error};
use tower_http::decompression::DecompressionLayer;

const URI: &str = "https://api.anyreach.ai/core/agents";
const NOPE: &str = r#"{"detail": "Nope"}"#;

type Text = Full<Bytes>;

fn get<B: Default>(uri: &str) -> Request<B> {
    Request::get(uri).body(B::default()).unwrap()
}

#[track_caller]
fn detail<'a>(error: &'a (dyn std::error::Error + 'static)) -> Option<&'a str> {
    Error::find(error).unwrap().denial().unwrap().detail()
}

async fn denied() -> Error {
    let service = layer().layer(service_fn(|_: Request<()>| {
        let response = support::answer(StatusCode::UNAUTHORIZED, NOPE);
        ready(Ok::<_, Infallible>(response))
    }));
    service.oneshot(get(URI)).await.map(drop).unwrap_err()
}

#[tokio::test]
async fn find_sees_through_axum_and_eyre() {
    let error = axum::Error::new(denied().await);
    assert_eq!(detail(&error), Some("Nope"));
    let report = eyre::Report::new(denied().await)
        .wrap_err("listing agents")
        .wrap_err("at start");
    assert_eq!(detail(report.as_ref()), Some("Nope"));
}

#[tokio::test]
async fn an_axum_router_is_an_inner_service_whose_future_is_send() {
    let router = Router::new()
        .route(
            "/denied",
            axum::routing::get(async || {
                (
                    StatusCode::FORBIDDEN,
                    axum::Json(serde_json::json!({"detail": "Nope"})),
                )
            }),
        )
        .route(
            "/echo",
            axum::routing::get(async |headers: HeaderMap| {
                headers["authorization"].to_str().unwrap().to_owned()
            }),
        );
    let service: AnyreachAuth<Router> = layer().layer(router);

    let request: Request<axum::body::Body> = get("https://api.anyreach.ai/denied");
    let denied = tokio::spawn(service.clone().oneshot(request));
    let error = denied.await.unwrap().unwrap_err();
    assert!(error.is_forbidden());
    assert_eq!(detail(&error), Some("Nope"));

    let request: Request<axum::body::Body> = get("https://api.anyreach.ai/echo");
    let response: Response<axum::body::Body> = service.clone().oneshot(request).await.unwrap();
    assert_eq!(
        response.into_body().collect().await.unwrap().to_bytes(),
        format!("Bearer {KEY}")
    );
}

fn gzip(data: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::best());
    encoder.write_all(data).unwrap();
    encoder.finish().unwrap()
}

fn gzipped(
    data: &'static [u8],
) -> impl Service<Request<Text>, Response = Response<Text>, Error = Infallible, Future: Send> + Clone
{
    service_fn(move |_: Request<Text>| {
        ready(Ok(Response::builder()
            .status(401)
            .header("content-type", "application/json")
            .header("content-encoding", "gzip")
            .body(gzip(data).into())
            .unwrap()))
    })
}

#[tokio::test]
async fn decompression_inside_gives_a_compressed_denial_its_detail() {
    let service = ServiceBuilder::new()
        .layer(layer())
        .layer(DecompressionLayer::new())
        .service(gzipped(NOPE.as_bytes()));
    let error = service.oneshot(get(URI)).await.map(drop).unwrap_err();
    assert_eq!(detail(&error), Some("Nope"));
    assert_eq!(error.denial().unwrap().body(), NOPE);
}

#[tokio::test]
async fn decompression_outside_hides_the_detail_and_not_the_denial() {
    let service = ServiceBuilder::new()
        .layer(DecompressionLayer::new())
        .layer(layer())
        .service(gzipped(NOPE.as_bytes()));
    let error = service.oneshot(get(URI)).await.map(drop).unwrap_err();
    let denial = Error::find(&error).unwrap().denial().unwrap();
    assert_eq!(
        (denial.reason(), denial.detail()),
        (DenialReason::InvalidCredential, None)
    );
}
