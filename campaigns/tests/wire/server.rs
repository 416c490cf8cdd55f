//! A server that answers each request by its number, the same way every time.

use bytes::Bytes;
use http::header::{CONTENT_LENGTH, CONTENT_TYPE, DATE, LOCATION, SET_COOKIE, TRANSFER_ENCODING};
use http::{HeaderMap, HeaderValue, Request, Response, StatusCode, Version};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;

use crate::plan::{NUMBER, Outgoing, checksum, in_pieces};
use campaigns::random::Random;

/// An answer, as it was sent or as it arrived.
#[derive(Debug, PartialEq)]
pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
    pub(crate) trailers: Option<HeaderMap>,
}

impl Answer {
    pub(crate) async fn read(response: Response<Incoming>) -> Self {
        let (head, body) = response.into_parts();
        let body = body.collect().await.unwrap();
        Self {
            status: head.status,
            headers: head.headers,
            trailers: body.trailers().cloned(),
            body: body.to_bytes(),
        }
    }
}

/// Returns the answer to the request of that number.
pub(crate) fn answer_to(number: u64, version: Version) -> Answer {
    // Seeds that no plan uses.
    let mut random = Random(number ^ 0x0a45 << 32);
    let len = random.pick(&[0, 1, 100, 1_000, 17_000, 70_000]);
    let body = Bytes::from(random.bytes(len));
    let mut headers = HeaderMap::new();
    for (name, value) in [
        // Otherwise hyper adds one that depends on the time.
        (DATE, "Thu, 01 Jan 2026 00:00:00 GMT"),
        (CONTENT_TYPE, "application/json"),
        (LOCATION, "/core/agents/1"),
        // The layer does not touch headers of an answer, whatever they are called.
        (http::header::AUTHORIZATION, "Bearer ak_x.y"),
        (support::ORG.clone(), "org_server"),
    ] {
        headers.insert(name, HeaderValue::from_static(value));
    }
    for cookie in 0..random.below(3) {
        let cookie = format!("c{cookie}={}", random.text(12));
        headers.append(SET_COOKIE, HeaderValue::try_from(cookie).unwrap());
    }
    let is_in_pieces = random.one_in(2);
    if !is_in_pieces {
        headers.insert(CONTENT_LENGTH, HeaderValue::from(len));
    } else if version == Version::HTTP_11 {
        headers.insert(TRANSFER_ENCODING, HeaderValue::from_static("chunked"));
    }
    let has_trailers = is_in_pieces && version == Version::HTTP_2 && random.one_in(2);
    Answer {
        status: StatusCode::from_u16(random.pick(&[200, 200, 200, 201, 302, 404, 500])).unwrap(),
        headers,
        body,
        trailers: has_trailers.then(|| checksum(&random.text(8))),
    }
}

pub(crate) async fn answer(request: Request<Incoming>) -> Response<Outgoing> {
    let (head, body) = request.into_parts();
    // A request is answered once all of it has arrived.
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
