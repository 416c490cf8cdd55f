//! How much memory a hostile answer may cost, whatever the server sends.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::convert::Infallible;
use std::future::ready;
use std::io::Write;
use std::net::SocketAddr;

use bytes::Bytes;
use campaigns::server::Server;
use flate2::Compression;
use flate2::write::GzEncoder;
use http::{Request, Response, StatusCode};
use http_body_util::{Empty, Full};
use hyper_util::client::legacy::Client;
use hyper_util::rt::TokioExecutor;
use support::alloc::{Counts, WatchingAlloc, count};
use support::bodies::{Scripted, Step};
use support::runtime::current_thread;
use support::{answer_with, denial, get_agents, now, respond, token_for};
use tower::{Layer, Service, ServiceBuilder, ServiceExt, service_fn};
use tower_anyreach::{AnyreachAuthLayer, Denial, Error};
use tower_http::decompression::DecompressionLayer;

#[global_allocator]
static ALLOC: WatchingAlloc = WatchingAlloc;

const HEAP: u64 = 256 * 1024;

const DENIED: StatusCode = StatusCode::UNAUTHORIZED;

static CHUNK: [u8; 65536] = [b'x'; 65536];

fn layer() -> AnyreachAuthLayer {
    AnyreachAuthLayer::new(token_for("org_1"))
}

/// Sends a request; returns the denial, and what this thread allocated meanwhile.
fn denied<R>(
    client: impl Service<Request<String>, Response = Response<R>, Error = Error>,
) -> (Denial, Counts) {
    let (outcome, counts) = count(|| now(client.oneshot(get_agents())));
    (denial(outcome.map(drop)), counts)
}

#[test]
fn an_endless_body_costs_no_more_than_its_limit() {
    let server = service_fn(|_: Request<String>| {
        let flood = Scripted::endless(|| Step::data(&CHUNK[..]));
        ready(Ok::<_, Infallible>(respond(DENIED, flood)))
    });
    let (denial, counts) = denied(layer().layer(server));
    assert!(denial.is_body_truncated());
    assert_eq!(denial.body().len(), 8 * 1024);
    assert!(counts.peak <= 2 * 8 * 1024 + 4096, "{counts:?}");
}

#[test]
fn a_decompression_bomb_costs_a_decoder_and_the_limit() {
    const INFLATED: usize = 32 * 1024 * 1024;

    let mut encoder = GzEncoder::new(Vec::new(), Compression::best());
    for _ in 0..INFLATED / CHUNK.len() {
        encoder.write_all(&CHUNK).unwrap();
    }
    let bomb = Bytes::from(encoder.finish().unwrap());
    assert!(INFLATED / bomb.len() >= 1000);
    let answer = answer_with(401, &[("content-encoding", "gzip")], Full::new(bomb));
    let server = service_fn(|_: Request<String>| ready(Ok::<_, Infallible>(answer.clone())));
    let client = ServiceBuilder::new()
        .layer(layer())
        .layer(DecompressionLayer::new());
    let (denial, counts) = denied(client.service(server));
    assert!(denial.is_body_truncated());
    assert!(denial.body().iter().all(|byte| *byte == b'x'));
    assert!(counts.peak <= HEAP, "{counts:?}");
}

#[test]
fn a_challenge_that_is_malformed_at_every_word_is_not_parsed_again_from_each() {
    let [half, whole] = [400, 800].map(|words| {
        let challenge = format!("Bearer {};", "Bearer =b,".repeat(words));
        let answer = answer_with(401, &[("www-authenticate", &challenge)], String::new());
        let server = service_fn(|_: Request<String>| ready(Ok::<_, Infallible>(answer.clone())));
        denied(layer().layer(server)).1.allocations
    });
    assert!(whole < half * 5 / 2, "{half} and {whole}");
}

fn get(address: SocketAddr) -> Request<Empty<Bytes>> {
    let request = Request::get(format!("http://{address}/"));
    request.body(Empty::new()).unwrap()
}

/// Returns the peak of this thread's heap during an exchange with a server whose head is as large as hyper's client accepts.
fn peak(exchange: impl AsyncFnOnce(SocketAddr)) -> u64 {
    let challenge = format!("Bearer {}", "x=\"yyyyyyyy\", ".repeat(580));
    let challenges = [("www-authenticate", &*challenge); 49];
    let answer = answer_with(401, &challenges, Empty::<Bytes>::new());
    let runtime = current_thread();
    let exchanged = async {
        let server = Server::start(move |_| ready(answer.clone())).await;
        exchange(server.address()).await;
    };
    count(|| runtime.block_on(exchanged)).1.peak
}

#[test]
fn a_head_of_400_kib_costs_little_more_than_without_the_layer() {
    let bare = peak(async |address| {
        let client = Client::builder(TokioExecutor::new()).build_http();
        let response = client.request(get(address)).await.unwrap();
        assert_eq!(response.status(), DENIED);
    });
    let ours = peak(async |address| {
        let client = layer()
            .origin(format!("http://{address}").parse().unwrap())
            .layer(Client::builder(TokioExecutor::new()).build_http());
        let denial = denial(client.oneshot(get(address)).await.map(drop));
        assert!(denial.headers().len() > 40);
    });
    assert!(bare > 400 * 1024, "{bare}: the head did not arrive");
    assert!(ours <= bare + HEAP, "{ours} and {bare} without");
}
