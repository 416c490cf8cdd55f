//! A server that answers each request by its number, the same way every time.

use std::convert::Infallible;

use bytes::Bytes;
use http::header::{CONTENT_LENGTH, CONTENT_TYPE, DATE, LOCATION, SET_COOKIE, TRANSFER_ENCODING};
use http::{HeaderMap, HeaderName, HeaderValue, Request, Response, StatusCode, Version};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;

use crate::plan::{NUMBER, in_pieces};
use campaigns::random::Random;

const ANSWERS: u64 = 0x0a45;

/// An answer, as it was sent or as it arrived.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
    pub(crate) trailers: Option<HeaderMap>,
}

/// What the server says to the request of that number.
pub(crate) fn answer_to(number: u64, version: Version) -> Answer {
    // Another stretch of numbers than that of the requests.
    let mut random = Random(number ^ ANSWERS << 32);
    let len = random.pick(&[0, 1, 100, 1_000, 17_000, 70_000]);
    let body = Bytes::from(random.bytes(len));
    let mut headers = HeaderMap::new();
    // Otherwise hyper adds one of its own, which depends on the time.
    let date = HeaderValue::from_static("Thu, 01 Jan 2026 00:00:00 GMT");
    headers.insert(DATE, date);
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    headers.insert(LOCATION, HeaderValue::from_static("/core/agents/1"));
    for cookie in 0..random.next() % 3 {
        let cookie = format!("c{cookie}={}", random.text(12));
        headers.append(SET_COOKIE, HeaderValue::try_from(cookie).unwrap());
    }
    // What looks like ours in an answer is not touched either.
    headers.insert("authorization", HeaderValue::from_static("Bearer ak_x.y"));
    headers.insert("x-anyreach-org", HeaderValue::from_static("org_server"));
    let in_pieces = random.one_in(2);
    if !in_pieces {
        headers.insert(CONTENT_LENGTH, HeaderValue::from(len));
    } else if version == Version::HTTP_11 {
        headers.insert(TRANSFER_ENCODING, HeaderValue::from_static("chunked"));
    }
    let trailers = HeaderMap::from_iter([(
        HeaderName::from_static("x-checksum"),
        HeaderValue::try_from(random.text(8)).unwrap(),
    )]);
    let has_trailers = in_pieces && version == Version::HTTP_2 && random.one_in(2);
    Answer {
        status: StatusCode::from_u16(random.pick(&[200, 200, 200, 201, 302, 404, 500])).unwrap(),
        headers,
        body,
        trailers: has_trailers.then_some(trailers),
    }
}

pub(crate) async fn answer(
    request: Request<Incoming>,
) -> Response<UnsyncBoxBody<Bytes, Infallible>> {
    let (head, body) = request.into_parts();
    // All of it, so that a request has arrived when its answer is sent.
    body.collect().await.unwrap();
    let number = head.headers[&NUMBER].to_str().unwrap().parse().unwrap();
    let answer = answer_to(number, head.version);
    let body = if answer.headers.contains_key(CONTENT_LENGTH) {
        Full::new(answer.body).boxed_unsync()
    } else {
        in_pieces(&answer.body, 8_000, answer.trailers)
    };
    let mut response = Response::new(body);
    *response.status_mut() = answer.status;
    *response.headers_mut() = answer.headers;
    response
}
