//! Servers that must not be trusted.

use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE};
use bytes::Bytes;
use http::header::{AUTHORIZATION, CONTENT_TYPE, WWW_AUTHENTICATE};
use http::{Request, Response};
use http_body_util::Full;
use hyper::body::Incoming;

use crate::canaries::{Canaries, Kind};
use support::each;

/// Denies everything, and repeats what it was sent in its answer. The query has the status, and the index of one of [`WAYS`].
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
    let response = Response::builder()
        .status(status)
        .header(CONTENT_TYPE, "application/json")
        .header(WWW_AUTHENTICATE, challenge)
        .header("x-debug", format!("{server} {authorization}"));
    response.body(Full::from(body.to_string())).unwrap()
}

/// A name, and how a credential is written.
type Way = (&'static str, fn(&str) -> String);

/// The ways of [`echo`].
pub(crate) const WAYS: [Way; 10] = [
    ("clear", str::to_owned),
    ("upper", str::to_uppercase),
    ("hex", |text| each(text, |byte| format!("{byte:02x}"))),
    ("percent", |text| each(text, |byte| format!("%{byte:02X}"))),
    ("base64", |text| STANDARD.encode(format!("Bearer {text}"))),
    // Text before it moves its digits, by one to three places.
    ("base64 1", |text| format!("v{}", STANDARD.encode(text))),
    ("base64 2", |text| format!("v1{}", STANDARD.encode(text))),
    ("base64 3", |text| format!("v10{}", STANDARD.encode(text))),
    ("base64url", |text| URL_SAFE.encode(format!("v1 {text} "))),
    ("cut", |text| text[..text.len() - 9].to_owned()),
];

/// Answers with the request, as a third party receives it.
pub(crate) fn mirror(request: &Request<Incoming>) -> Response<Full<Bytes>> {
    let (uri, headers) = (request.uri(), request.headers());
    Response::new(Full::from(format!("{uri} {headers:?}")))
}
