//! What a good request allocates, and how much heap a hostile answer can cost.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::convert::Infallible;
use std::future::{Future, Ready, ready};
use std::io::Write;
use std::pin::{Pin, pin};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use bytes::Bytes;
use flate2::Compression;
use flate2::write::GzEncoder;
use http::header::{self, AUTHORIZATION, CONTENT_ENCODING, HeaderName, HeaderValue};
use http::{Request, Response, StatusCode};
use http_body::{Body, Frame};
use http_body_util::{Empty, Full};
use hyper_util::client::legacy::Client;
use hyper_util::rt::TokioExecutor;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::time::{Instant, Sleep, sleep};
use tower::{Layer, Service, ServiceBuilder, ServiceExt, service_fn};
use tower_anyreach::{
    AnyreachAuth, AnyreachAuthLayer, Credential, CredentialStore, Denial, Error,
    OrganizationApiKey, OrganizationId, PersonalAccessToken,
};
use tower_http::decompression::DecompressionLayer;
use watching_alloc::{Counts, WatchingAlloc, count};

#[global_allocator]
static ALLOC: WatchingAlloc = WatchingAlloc;

const TOKEN: &str = "pat_4711c2VjcmV0c2VjcmV0";
const KEY: &str = "ak_4711.c2VjcmV0c2VjcmV0";
static X_ANYREACH_ORG: HeaderName = HeaderName::from_static("x-anyreach-org");

/// What a hostile answer may cost.
const HEAP: u64 = 256 * 1024;

// --- Good requests ---

#[derive(Clone)]
struct Inner;

impl Service<Request<()>> for Inner {
    type Response = Response<Empty<Bytes>>;
    type Error = Infallible;
    type Future = Ready<Result<Self::Response, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<()>) -> Self::Future {
        drop(request);
        ready(Ok(Response::new(Empty::new())))
    }
}

/// Prebuilt, sensitive values, inserted; nothing else.
struct ByHand {
    authorization: HeaderValue,
    organization: Option<HeaderValue>,
}

impl ByHand {
    fn new(credential: &str, organization: Option<&'static str>) -> Self {
        let mut authorization = HeaderValue::try_from(format!("Bearer {credential}")).unwrap();
        authorization.set_sensitive(true);
        // As values are once they have been cloned: shared.
        drop(authorization.clone());
        Self {
            authorization,
            organization: organization.map(HeaderValue::from_static),
        }
    }

    fn call(&self, mut request: Request<()>) {
        request
            .headers_mut()
            .insert(AUTHORIZATION, self.authorization.clone());
        if let Some(organization) = &self.organization {
            request
                .headers_mut()
                .insert(&X_ANYREACH_ORG, organization.clone());
        }
        now(Inner.call(request)).unwrap();
    }
}

fn now<F: Future>(future: F) -> F::Output {
    match pin!(future).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(output) => output,
        Poll::Pending => panic!("the future waits for something"),
    }
}

fn request(headers: usize) -> Request<()> {
    let mut request = Request::get("https://api.anyreach.ai/core/agents")
        .body(())
        .unwrap();
    let known = [
        (header::ACCEPT, "application/json"),
        (header::ACCEPT_ENCODING, "gzip"),
        (header::CACHE_CONTROL, "no-cache"),
        (header::CONTENT_TYPE, "application/json"),
        (header::CONTENT_LENGTH, "2"),
        (header::HOST, "api.anyreach.ai"),
        (header::USER_AGENT, "test"),
        (HeaderName::from_static("x-request-id"), "4711"),
    ];
    for (name, value) in known.into_iter().take(headers) {
        request
            .headers_mut()
            .append(name, HeaderValue::from_static(value));
    }
    request
}

fn anyreach(service: &mut AnyreachAuth<Inner>, request: Request<()>) {
    now(service.call(request)).unwrap();
}

/// Counts one call, with a request that was made before.
fn counted(request: Request<()>, call: impl FnOnce(Request<()>)) -> Counts {
    count(|| call(request)).1
}

fn token() -> PersonalAccessToken {
    PersonalAccessToken::new(TOKEN)
        .unwrap()
        .for_organization(OrganizationId::try_from("org_1").unwrap())
}

#[test]
fn a_good_request_allocates_as_often_as_inserts_by_hand() {
    let key = OrganizationApiKey::new(KEY).unwrap();
    for headers in [0, 1, 8] {
        for (name, layer, by_hand) in [
            (
                "pat_",
                AnyreachAuthLayer::new(token()),
                ByHand::new(TOKEN, Some("org_1")),
            ),
            (
                "ak_",
                AnyreachAuthLayer::new(key.clone()),
                ByHand::new(KEY, None),
            ),
        ] {
            let mut service = layer.layer(Inner);
            anyreach(&mut service, request(headers));
            let ours = counted(request(headers), |request| anyreach(&mut service, request));
            let hand = counted(request(headers), |request| by_hand.call(request));
            assert_eq!(
                (ours.allocations, ours.deallocations, ours.bytes),
                (hand.allocations, hand.deallocations, hand.bytes),
                "{name} with {headers} headers"
            );
        }
    }
    // The count is one that counts.
    let by_hand = ByHand::new(TOKEN, Some("org_1"));
    assert_eq!(
        counted(request(0), |request| by_hand.call(request)).allocations,
        2
    );
}

#[test]
fn a_rotation_costs_one_copy_and_no_request_after_it_anything() {
    let store = CredentialStore::new(token());
    let mut service = AnyreachAuthLayer::new(store.clone()).layer(Inner);
    let by_hand = ByHand::new(TOKEN, Some("org_1"));
    let hand = counted(request(8), |request| by_hand.call(request));
    for _ in 0..10 {
        store.rotate(token());
        let first = counted(request(8), |request| anyreach(&mut service, request));
        assert!(first.allocations > hand.allocations);
        for _ in 0..3 {
            let ours = counted(request(8), |request| anyreach(&mut service, request));
            assert_eq!(ours.allocations, hand.allocations);
        }
    }
}

#[test]
fn a_requests_own_extensions_allocate_nothing() {
    let by_hand = ByHand::new(TOKEN, Some("org_1"));
    let with_extensions = || {
        let mut request = request(8);
        request.extensions_mut().insert(Credential::from(token()));
        request
            .extensions_mut()
            .insert(OrganizationId::try_from("org_2").unwrap());
        request
    };
    let mut service = AnyreachAuthLayer::per_request().layer(Inner);
    let ours = counted(with_extensions(), |request| anyreach(&mut service, request));
    let hand = counted(with_extensions(), |request| by_hand.call(request));
    assert_eq!(ours.allocations, hand.allocations);
}

#[test]
fn a_service_clone_allocates_nothing() {
    let mut service = AnyreachAuthLayer::new(token()).layer(Inner);
    anyreach(&mut service, request(8));
    assert_eq!(count(|| service.clone()).1.allocations, 0);
}

#[test]
fn service_and_future_are_little_larger_than_the_inner_ones() {
    type Outer = <AnyreachAuth<Inner> as Service<Request<()>>>::Future;
    type Inside = <Inner as Service<Request<()>>>::Future;

    assert!(size_of::<AnyreachAuth<Inner>>() <= size_of::<Inner>() + 16);
    assert!(
        size_of::<Outer>() <= size_of::<Inside>() + 48,
        "{} and {}",
        size_of::<Outer>(),
        size_of::<Inside>()
    );
}

// --- Hostile answers ---

static CHUNK: [u8; 65536] = [b'x'; 65536];

/// A body that never ends: a large chunk whenever it is asked, or a byte a second.
enum Endless {
    Flood,
    Trickle(Pin<Box<Sleep>>),
}

impl Body for Endless {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        match &mut *self {
            Self::Flood => Poll::Ready(Some(Ok(Frame::data(Bytes::from_static(&CHUNK))))),
            Self::Trickle(next) => {
                std::task::ready!(next.as_mut().poll(cx));
                next.set(sleep(Duration::from_secs(1)));
                Poll::Ready(Some(Ok(Frame::data(Bytes::from_static(b"x")))))
            }
        }
    }
}

fn unauthorized<B>(body: B) -> Response<B> {
    let mut response = Response::new(body);
    *response.status_mut() = StatusCode::UNAUTHORIZED;
    response
}

fn denial<T: std::fmt::Debug>(result: Result<T, Error>) -> Denial {
    match result {
        Err(Error::Unauthorized(denial)) => denial,
        other => panic!("{other:?}"),
    }
}

fn run<F: Future>(future: F) -> F::Output {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .start_paused(true)
        .build()
        .unwrap()
        .block_on(future)
}

#[test]
fn an_endless_body_costs_no_more_than_its_limit() {
    run(async {
        let client = AnyreachAuthLayer::new(token()).layer(service_fn(|_: Request<()>| {
            ready(Ok::<_, Infallible>(unauthorized(Endless::Flood)))
        }));
        let (denied, counts) = count(|| now(client.oneshot(request(8))));
        let denial = denial(denied.map(drop));
        assert!(denial.is_body_truncated());
        assert_eq!(denial.body().len(), 8 * 1024);
        assert!(counts.peak <= 2 * 8 * 1024 + 4096, "{counts:?}");
    });
}

#[test]
fn a_scope_more_costs_two_allocations_more() {
    let denied = |scopes: usize| {
        let scopes: Vec<_> = (0..scopes).map(|scope| format!("s:{scope}")).collect();
        let challenge = format!(
            "Bearer error=\"insufficient_scope\", scope=\"{}\"",
            scopes.join(" ")
        );
        let mut response = unauthorized(Empty::<Bytes>::new());
        *response.status_mut() = StatusCode::FORBIDDEN;
        let challenge = HeaderValue::try_from(challenge).unwrap();
        response
            .headers_mut()
            .insert(header::WWW_AUTHENTICATE, challenge);
        let client = AnyreachAuthLayer::new(token()).layer(service_fn(|_: Request<()>| {
            ready(Ok::<_, Infallible>(response.clone()))
        }));
        let (error, counts) = count(|| now(client.oneshot(request(8))).unwrap_err());
        assert_eq!(
            error.denial().unwrap().required_scopes().count(),
            scopes.len()
        );
        counts.allocations
    };
    // Its text and what marks echoes in it; and a little for a longer list.
    let more = denied(1_100) - denied(100);
    assert!(more <= 2 * 1_000 + 20, "{more}");
}

#[test]
fn a_trickling_body_costs_no_more_than_its_time() {
    run(async {
        let client = AnyreachAuthLayer::new(token()).layer(service_fn(async |_: Request<()>| {
            Ok::<_, Infallible>(unauthorized(Endless::Trickle(Box::pin(sleep(
                Duration::from_millis(300),
            )))))
        }));
        let start = Instant::now();
        let denial = denial(client.oneshot(request(8)).await.map(drop));
        assert!(denial.is_body_truncated());
        assert_eq!(denial.body(), "x");
        // To the millisecond that tokio's timer is coarse.
        let took = start.elapsed();
        assert!(
            took >= Duration::from_secs(1) && took <= Duration::from_millis(1002),
            "{took:?}"
        );
    });
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
    run(async {
        let client = ServiceBuilder::new()
            .layer(AnyreachAuthLayer::new(token()))
            .layer(DecompressionLayer::new())
            .service(service_fn(move |_: Request<()>| {
                let mut response = unauthorized(Full::new(bomb.clone()));
                response
                    .headers_mut()
                    .insert(CONTENT_ENCODING, HeaderValue::from_static("gzip"));
                ready(Ok::<_, Infallible>(response))
            }));
        let (denied, counts) = count(|| now(client.oneshot(request(0))));
        let denial = denial(denied.map(drop));
        assert!(denial.is_body_truncated());
        assert!(denial.body().iter().all(|byte| *byte == b'x'));
        assert!(counts.peak <= HEAP, "{counts:?}");
    });
}

/// Answers one connection with a 401 whose head is as large as hyper's client takes it.
async fn serve_large_head(listener: TcpListener) {
    let (mut socket, _) = listener.accept().await.unwrap();
    let mut request = [0; 4096];
    assert!(socket.read(&mut request).await.unwrap() > 0);
    let challenge = format!(
        "WWW-Authenticate: Bearer {}\r\n",
        "x=\"yyyyyyyy\", ".repeat(580)
    );
    let mut head = String::from("HTTP/1.1 401 Unauthorized\r\n");
    while head.len() + challenge.len() < 400 * 1024 {
        head.push_str(&challenge);
    }
    head.push_str("Content-Length: 0\r\n\r\n");
    socket.write_all(head.as_bytes()).await.unwrap();
    // Held until the client is done with it.
    assert_eq!(socket.read(&mut request).await.unwrap(), 0);
}

fn get(address: std::net::SocketAddr) -> Request<Empty<Bytes>> {
    Request::get(format!("http://{address}/"))
        .body(Empty::new())
        .unwrap()
}

/// By how much the heap was ever greater while the future ran, on this thread and its runtime.
fn peak<T>(future: impl Future<Output = T>) -> (T, u64) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    let (output, counts) = count(|| runtime.block_on(future));
    (output, counts.peak)
}

#[test]
fn a_head_of_400_kib_costs_little_more_than_without_the_layer() {
    let ((), bare) = peak(async {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let server = tokio::spawn(serve_large_head(listener));
        let client = Client::builder(TokioExecutor::new()).build_http();
        let response = client.request(get(address)).await.unwrap();
        assert_eq!(response.status(), StatusCode::UNAUTHORIZED);
        drop((response, client));
        server.await.unwrap();
    });
    let ((), ours) = peak(async {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let server = tokio::spawn(serve_large_head(listener));
        let client = AnyreachAuthLayer::new(token())
            .origin(format!("http://{address}").parse().unwrap())
            .layer(Client::builder(TokioExecutor::new()).build_http());
        let denial = denial(client.oneshot(get(address)).await.map(drop));
        assert!(denial.headers().len() > 40);
        drop(denial);
        server.await.unwrap();
    });
    assert!(bare > 400 * 1024, "{bare}: the head did not arrive");
    assert!(ours <= bare + HEAP, "{ours} and {bare} without");
}
