//! Servers of hosts that are not to be trusted.

use std::convert::Infallible;
use std::net::SocketAddr;

use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE};
use bytes::Bytes;
use http::header::{AUTHORIZATION, WWW_AUTHENTICATE};
use http::{HeaderValue, Request, Response, StatusCode};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use tokio::net::TcpListener;

use crate::canaries::{Canaries, Kind};

/// Starts a server that goes on as long as its runtime does.
pub(crate) async fn serve(
    answer: impl Fn(Request<Incoming>) -> Response<Full<Bytes>> + Clone + Send + Sync + 'static,
) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let answer = answer.clone();
            tokio::spawn(async move {
                let service = service_fn(move |request| {
                    let answered = answer(request);
                    async { Ok::<_, Infallible>(answered) }
                });
                // The client may go away.
                let _ = auto::Builder::new(TokioExecutor::new())
                    .serve_connection(TokioIo::new(stream), service)
                    .await;
            });
        }
    });
    address
}

/// Denies everything, and writes what it was sent into its answer, in all the ways there are.
///
/// The query says with which status, and which of the ways: one for each, so that none hides behind another.
pub(crate) fn echo(request: &Request<Incoming>) -> Response<Full<Bytes>> {
    let server = Canaries(crate::seed()).text(Kind::ServerText);
    let authorization = request.headers()[AUTHORIZATION].to_str().unwrap();
    let credential = authorization.strip_prefix("Bearer ").unwrap();
    let query = request.uri().query().unwrap();
    let (status, way) = query.split_once('&').unwrap();
    let way = &*way.replace('+', " ");
    let each = |form: fn(u8) -> String| -> String { credential.bytes().map(form).collect() };
    let echo = match way {
        "clear" => credential.to_owned(),
        "upper" => credential.to_uppercase(),
        "hex" => each(|byte| format!("{byte:02x}")),
        "percent" => each(|byte| format!("%{byte:02X}")),
        "base64" => STANDARD.encode(authorization),
        "base64url" => URL_SAFE.encode(format!("{authorization} ")),
        // What stands before it moves its digits, by one to three places.
        "base64 after one" => format!("v{}", STANDARD.encode(credential)),
        "base64 after two" => format!("v1{}", STANDARD.encode(credential)),
        "base64 after three" => format!("v10{}", STANDARD.encode(credential)),
        "cut" => credential[..credential.len() - 9].to_owned(),
        way => panic!("{way} is none"),
    };
    let body = serde_json::json!({
        "detail": format!("The credential {echo} is not accepted."),
        "debug": {"server": server, "authorization": authorization},
    });
    let challenge = format!(
        "Bearer error=\"invalid_token\", error_description=\"{server} {credential}\", scope=\"agents:read {credential}\""
    );
    let mut response = Response::new(Full::from(body.to_string()));
    *response.status_mut() = status.parse::<StatusCode>().unwrap();
    let headers = response.headers_mut();
    headers.insert("content-type", HeaderValue::from_static("application/json"));
    headers.insert(WWW_AUTHENTICATE, HeaderValue::try_from(challenge).unwrap());
    headers.insert(
        "x-debug",
        HeaderValue::try_from(format!("{server} {authorization}")).unwrap(),
    );
    response
}

/// The ways of [`echo`].
pub(crate) const WAYS: [&str; 10] = [
    "clear",
    "upper",
    "hex",
    "percent",
    "base64",
    "base64 after one",
    "base64 after two",
    "base64 after three",
    "base64url",
    "cut",
];

/// What a third party sees of a request, written back in its answer.
pub(crate) fn mirror(request: &Request<Incoming>) -> Response<Full<Bytes>> {
    Response::new(Full::from(format!(
        "{} {:?}",
        request.uri(),
        request.headers()
    )))
}
