//! Servers of hosts that are not to be trusted.

use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE};
use bytes::Bytes;
use http::header::{AUTHORIZATION, WWW_AUTHENTICATE};
use http::{HeaderValue, Request, Response, StatusCode};
use http_body_util::Full;
use hyper::body::Incoming;

use crate::canaries::{Canaries, Kind};
use support::each;

/// Denies everything, and writes what it was sent into its answer, in all the ways there are.
///
/// The query says with which status, and which of [`WAYS`]: one for each, so that none hides behind another.
pub(crate) fn echo(request: &Request<Incoming>) -> Response<Full<Bytes>> {
    let server = Canaries(crate::seed()).text(Kind::ServerText);
    let authorization = request.headers()[AUTHORIZATION].to_str().unwrap();
    let credential = authorization.strip_prefix("Bearer ").unwrap();
    let query = request.uri().query().unwrap();
    let (status, way) = query.split_once('&').unwrap();
    let (_, form) = WAYS[way.parse::<usize>().unwrap()];
    let echo = form(credential);
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

/// A name, and what is made of a credential.
type Way = (&'static str, fn(&str) -> String);

/// The ways of [`echo`].
pub(crate) const WAYS: [Way; 10] = [
    ("clear", str::to_owned),
    ("upper", str::to_uppercase),
    ("hex", |text| each(text, |byte| format!("{byte:02x}"))),
    ("percent", |text| each(text, |byte| format!("%{byte:02X}"))),
    ("base64", |text| STANDARD.encode(format!("Bearer {text}"))),
    // What stands before it moves its digits, by one to three places.
    ("base64 after one", |text| {
        format!("v{}", STANDARD.encode(text))
    }),
    ("base64 after two", |text| {
        format!("v1{}", STANDARD.encode(text))
    }),
    ("base64 after three", |text| {
        format!("v10{}", STANDARD.encode(text))
    }),
    ("base64url", |text| {
        URL_SAFE.encode(format!("Bearer {text} "))
    }),
    ("cut", |text| text[..text.len() - 9].to_owned()),
];

/// What a third party sees of a request, written back in its answer.
pub(crate) fn mirror(request: &Request<Incoming>) -> Response<Full<Bytes>> {
    Response::new(Full::from(format!(
        "{} {:?}",
        request.uri(),
        request.headers()
    )))
}
