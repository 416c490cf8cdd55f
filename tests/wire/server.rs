//! A server that answers each request by its number, the same way every time.

use std::convert::Infallible;
use std::net::{Ipv4Addr, SocketAddr};

use bytes::Bytes;
use http::header::{CONTENT_LENGTH, CONTENT_TYPE, DATE, LOCATION, SET_COOKIE, TRANSFER_ENCODING};
use http::{HeaderMap, HeaderName, HeaderValue, Request, Response, StatusCode, Version};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

use crate::pieces::Pieces;
use crate::plan::NUMBER;
use crate::random::Random;

const ANSWERS: u64 = 0x0a45;

/// An answer, as it was sent or as it arrived.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
    pub(crate) trailers: Option<HeaderMap>,
}

pub(crate) struct Server {
    address: SocketAddr,
    accepting: JoinHandle<()>,
}

impl Server {
    pub(crate) async fn start() -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let accepting = tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                stream.set_nodelay(true).unwrap();
                tokio::spawn(async move {
                    let mut server = auto::Builder::new(TokioExecutor::new());
                    server.http2().max_header_list_size(1 << 20);
                    // The client goes away at the end of its run.
                    let _ = server
                        .serve_connection(TokioIo::new(stream), service_fn(answer))
                        .await;
                });
            }
        });
        Self { address, accepting }
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

/// What the server says to the request of that number.
pub(crate) fn answer_to(number: u64, version: Version) -> Answer {
    // Another stretch of numbers than that of the requests.
    let mut random = Random(number ^ ANSWERS << 32);
    let len = random.one_of(&[0, 1, 100, 1_000, 17_000, 70_000]);
    let body = random.bytes(len);
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
    let in_pieces = random.once_in(2);
    if !in_pieces {
        headers.insert(CONTENT_LENGTH, HeaderValue::from(len));
    } else if version == Version::HTTP_11 {
        headers.insert(TRANSFER_ENCODING, HeaderValue::from_static("chunked"));
    }
    let trailers = HeaderMap::from_iter([(
        HeaderName::from_static("x-checksum"),
        HeaderValue::try_from(random.text(8)).unwrap(),
    )]);
    let has_trailers = in_pieces && version == Version::HTTP_2 && random.once_in(2);
    Answer {
        status: StatusCode::from_u16(random.one_of(&[200, 200, 200, 201, 302, 404, 500])).unwrap(),
        headers,
        body,
        trailers: has_trailers.then_some(trailers),
    }
}

async fn answer(
    request: Request<Incoming>,
) -> Result<Response<UnsyncBoxBody<Bytes, Infallible>>, hyper::Error> {
    let (head, body) = request.into_parts();
    // All of it, so that a request has arrived when its answer is sent.
    body.collect().await?;
    let number = head.headers[&NUMBER].to_str().unwrap().parse().unwrap();
    let answer = answer_to(number, head.version);
    let body = if answer.headers.contains_key(CONTENT_LENGTH) {
        Full::new(answer.body).boxed_unsync()
    } else {
        Pieces::of(&answer.body, 8_000, answer.trailers).boxed_unsync()
    };
    let mut response = Response::new(body);
    *response.status_mut() = answer.status;
    *response.headers_mut() = answer.headers;
    Ok(response)
}
