//! A credential that is rotated every 5 ms, under load: no failure surfaces, and the books close.
//!
//! `ANYREACH_SOAK` multiplies the number of requests: 1 unless set, 100 for a release.
#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::VecDeque;
use std::convert::Infallible;
use std::fs;
use std::future::{Future, ready};
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use bytes::Bytes;
use http::header::{AUTHORIZATION, HeaderMap, HeaderValue};
use http::{Request, Response, StatusCode};
use http_body_util::{Empty, Full};
use hyper::body::Incoming;
use hyper_util::client::legacy::Client;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use hyper_util::service::TowerToHyperService;
use tokio::net::TcpListener;
use tokio::runtime::{Handle, Runtime};
use tokio::task::{JoinSet, yield_now};
use tower::{Service, ServiceBuilder, ServiceExt, service_fn};
use tower_anyreach::retry::RefreshPolicy;
use tower_anyreach::{AnyreachAuthLayer, Credential, CredentialStore, Error};

const ROTATION: Duration = Duration::from_millis(5);

fn times(requests: u64) -> u64 {
    requests * std::env::var("ANYREACH_SOAK").map_or(1, |times| times.parse().unwrap())
}

/// What the server knows: the keys that it takes, newest last, and how often it saw each request.
struct Server {
    keys: Mutex<VecDeque<String>>,
    /// How many keys before the newest one are still taken.
    grace: usize,
    attempts: Vec<AtomicU8>,
    refused: AtomicU64,
}

impl Server {
    fn new(requests: u64, grace: usize) -> Arc<Self> {
        Arc::new(Self {
            keys: Mutex::new([key(0)].into()),
            grace,
            attempts: (0..requests).map(|_| AtomicU8::new(0)).collect(),
            refused: AtomicU64::new(0),
        })
    }

    /// Makes a new key, and deletes the oldest.
    fn rotate(&self, key: String) {
        let mut keys = self.keys.lock().unwrap();
        keys.push_back(key);
        if keys.len() > self.grace + 1 {
            keys.pop_front();
        }
    }

    fn newest(&self) -> String {
        self.keys.lock().unwrap().back().unwrap().clone()
    }

    fn answer(&self, headers: &HeaderMap) -> StatusCode {
        let id: usize = headers["x-request-id"].to_str().unwrap().parse().unwrap();
        let before = self.attempts[id].fetch_add(1, Ordering::Relaxed);
        assert!(before < 2, "request {id} was sent a third time");
        let mut authorizations = headers.get_all(AUTHORIZATION).iter();
        let sent = authorizations.next().unwrap().to_str().unwrap();
        assert!(authorizations.next().is_none());
        let sent = sent.strip_prefix("Bearer ").unwrap();
        if self.keys.lock().unwrap().iter().any(|known| known == sent) {
            StatusCode::OK
        } else {
            self.refused.fetch_add(1, Ordering::Relaxed);
            StatusCode::UNAUTHORIZED
        }
    }

    /// Every request arrived once, or twice if it was refused at first; those that were cancelled, at most once.
    fn assert_books_close(&self, issued: u64, books: Books) {
        assert_eq!(books.ok + books.cancelled, issued, "{books:?}");
        let arrived: u64 = self
            .attempts
            .iter()
            .map(|attempts| u64::from(attempts.load(Ordering::Relaxed)))
            .sum();
        let refused = self.refused.load(Ordering::Relaxed);
        let missing = (books.ok + books.cancelled + refused).checked_sub(arrived);
        assert!(
            missing.is_some_and(|missing| missing <= books.cancelled),
            "{arrived} arrived and {refused} were refused: {books:?}"
        );
        if books.cancelled == 0 {
            assert!(
                self.attempts
                    .iter()
                    .all(|attempts| attempts.load(Ordering::Relaxed) >= 1)
            );
        }
    }
}

/// The outcomes of all requests.
#[derive(Debug, Default, Clone, Copy)]
struct Books {
    ok: u64,
    cancelled: u64,
}

fn key(generation: u64) -> String {
    format!("ak_{generation}.c2VjcmV0c2VjcmV0")
}

/// Rotates until it is dropped.
struct Rotator {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<u64>>,
}

impl Rotator {
    fn start(server: &Arc<Server>, store: &CredentialStore) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let thread = thread::spawn({
            let (stop, server, store) = (Arc::clone(&stop), Arc::clone(server), store.clone());
            move || {
                let mut generation = 0;
                while !stop.load(Ordering::Relaxed) {
                    thread::sleep(ROTATION);
                    generation += 1;
                    server.rotate(key(generation));
                    store.rotate(Credential::parse(key(generation)).unwrap());
                }
                generation
            }
        });
        Self {
            stop,
            thread: Some(thread),
        }
    }

    fn stop(mut self) -> u64 {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.take().unwrap().join().unwrap()
    }
}

/// A store whose source knows what the server takes, as a vault would.
async fn store(server: &Arc<Server>) -> CredentialStore {
    let server = Arc::clone(server);
    CredentialStore::load(move || {
        let key = server.newest();
        async move { Ok(Credential::parse(key)?) }
    })
    .await
    .unwrap()
}

/// What must be back where it was, when all is done.
#[derive(Debug, PartialEq, Eq)]
struct Baseline {
    tasks: usize,
    files: usize,
}

fn baseline() -> Baseline {
    Baseline {
        tasks: Handle::current().metrics().num_alive_tasks(),
        files: fs::read_dir("/proc/self/fd").unwrap().count(),
    }
}

/// Pages in memory.
fn resident_kib() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let line = status
        .lines()
        .find(|line| line.starts_with("VmRSS:"))
        .unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

/// Waits until what is ending has ended, down to no task at all.
async fn quiet() -> Baseline {
    for _ in 0..500 {
        if baseline().tasks == 0 {
            break;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    baseline()
}

/// One soak at a time: what they measure is the process's.
static ALONE: Mutex<()> = Mutex::new(());

fn runtime() -> Runtime {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .unwrap()
}

const WORKERS: u64 = 4;

async fn in_process(requests: u64) {
    // Longer than a busy machine keeps a thread waiting between the attaching and the judging.
    let server = Server::new(requests, 8);
    let store = store(&server).await;
    let client = ServiceBuilder::new()
        .retry(RefreshPolicy::new(store.clone()))
        .layer(AnyreachAuthLayer::new(store.clone()))
        .service(service_fn({
            let server = Arc::clone(&server);
            move |request: Request<()>| {
                let mut response = Response::new(Empty::<Bytes>::new());
                *response.status_mut() = server.answer(request.headers());
                ready(Ok::<_, Infallible>(response))
            }
        }));
    let rotator = Rotator::start(&server, &store);
    let mut workers = JoinSet::new();
    for worker in 0..WORKERS {
        let mut client = client.clone();
        workers.spawn(async move {
            let mut ok = 0;
            for id in (worker..requests).step_by(usize::try_from(WORKERS).unwrap()) {
                let request = Request::get("https://api.anyreach.ai/core/agents")
                    .header("x-request-id", HeaderValue::from(id))
                    .body(())
                    .unwrap();
                client.ready().await.unwrap().call(request).await.unwrap();
                ok += 1;
                if id % 1024 < WORKERS {
                    yield_now().await;
                }
            }
            ok
        });
    }
    let ok = workers.join_all().await.into_iter().sum();
    assert!(rotator.stop() > 10);
    server.assert_books_close(requests, Books { ok, cancelled: 0 });
}

#[test]
fn rotation_under_load_in_process_loses_nothing() {
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    runtime().block_on(async {
        in_process(times(1_000_000)).await;
        let (before, resident) = (quiet().await, resident_kib());
        in_process(times(10_000_000)).await;
        assert_eq!(quiet().await, before);
        // The log of attempts was a byte a request, and is gone; the allocator may keep a little.
        let drift = resident_kib().saturating_sub(resident);
        assert!(drift < 1024, "{drift} KiB more than before");
    });
}

async fn listen(server: Arc<Server>) -> (SocketAddr, tokio::task::AbortHandle) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let accepting = tokio::spawn(async move {
        let mut connections = JoinSet::new();
        loop {
            let (socket, _) = listener.accept().await.unwrap();
            socket.set_nodelay(true).unwrap();
            let server = Arc::clone(&server);
            let service =
                TowerToHyperService::new(service_fn(move |request: Request<Incoming>| {
                    let mut response = Response::new(Full::new(Bytes::from_static(b"{}")));
                    *response.status_mut() = server.answer(request.headers());
                    ready(Ok::<_, Infallible>(response))
                }));
            connections.spawn(async move {
                let connection = auto::Builder::new(TokioExecutor::new());
                drop(
                    connection
                        .serve_connection(TokioIo::new(socket), service)
                        .await,
                );
            });
        }
    });
    (address, accepting.abort_handle())
}

/// Every so many requests, one is given up at once.
const CANCELLED: u64 = 250;
const CONNECTIONS: u64 = 32;

async fn over_loopback(requests: u64, http2: bool) {
    // A quarter of a second, longer than a request takes on a busy machine.
    let server = Server::new(requests, 50);
    let store = store(&server).await;
    let (address, accepting) = listen(Arc::clone(&server)).await;
    let client = ServiceBuilder::new()
        .retry(RefreshPolicy::new(store.clone()))
        .layer(
            AnyreachAuthLayer::new(store.clone())
                .origin(format!("http://{address}").parse().unwrap()),
        )
        .service(
            Client::builder(TokioExecutor::new())
                .http2_only(http2)
                // h2 counts the answers that still come to requests that were given up, and else ends a connection
                // after a thousand of them.
                .http2_max_local_error_reset_streams(None)
                .build_http::<Empty<Bytes>>(),
        );
    let rotator = Rotator::start(&server, &store);
    let mut workers = JoinSet::new();
    for worker in 0..CONNECTIONS {
        let mut client = client.clone();
        workers.spawn(async move {
            let mut books = Books::default();
            for id in (worker..requests).step_by(usize::try_from(CONNECTIONS).unwrap()) {
                let request = Request::get(format!("http://{address}/core/agents"))
                    .header("x-request-id", HeaderValue::from(id))
                    .body(Empty::new())
                    .unwrap();
                let response = client.ready().await.unwrap().call(request);
                if id % CANCELLED == 0 {
                    give_up(response).await;
                    books.cancelled += 1;
                } else {
                    let response: Result<Response<Incoming>, Error> = response.await;
                    assert_eq!(response.unwrap().status(), StatusCode::OK);
                    books.ok += 1;
                }
            }
            books
        });
    }
    let books = workers
        .join_all()
        .await
        .into_iter()
        .fold(Books::default(), |all, books| Books {
            ok: all.ok + books.ok,
            cancelled: all.cancelled + books.cancelled,
        });
    assert!(rotator.stop() > 10);
    drop(client);
    accepting.abort();
    server.assert_books_close(requests, books);
}

/// Polls a future once or twice, and drops it.
async fn give_up(future: impl Future) {
    drop(tokio::time::timeout(Duration::ZERO, future).await);
}

#[test]
fn rotation_under_load_over_loopback_loses_nothing() {
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    runtime().block_on(async {
        over_loopback(times(10_000), false).await;
        over_loopback(times(10_000), true).await;
        let before = quiet().await;
        over_loopback(times(100_000), false).await;
        over_loopback(times(100_000), true).await;
        assert_eq!(quiet().await, before);
    });
}
