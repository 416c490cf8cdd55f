//! A credential that is rotated every 5 ms, under load: no failure surfaces, and the books close.
//!
//! `ANYREACH_SOAK` multiplies the number of requests, two million in process and 40,000 over loopback: 1 unless set, 500 for a
//! release.
#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::VecDeque;
use std::convert::Infallible;
use std::fs;
use std::future::ready;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use bytes::Bytes;
use campaigns::{key, number};
use http::header::{AUTHORIZATION, HeaderMap, HeaderValue};
use http::{Request, StatusCode};
use http_body_util::Empty;
use hyper_util::client::legacy::Client;
use hyper_util::rt::TokioExecutor;
use support::runtime::multi_thread;
use tokio::runtime::Handle;
use tokio::task::{JoinSet, yield_now};
use tower::{Service, ServiceBuilder, ServiceExt, service_fn};
use tower_anyreach::retry::RefreshPolicy;
use tower_anyreach::{AnyreachAuthLayer, Credential, CredentialStore};

const ROTATION: Duration = Duration::from_millis(5);

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

    /// Every request arrived once, or twice if it was refused at first. Of those that were cancelled, any may be missing.
    fn assert_books_close(&self, cancelled: u64) {
        let attempts = self.attempts.iter();
        let attempts = attempts.map(|attempts| u64::from(attempts.load(Ordering::Relaxed)));
        let missing = attempts.clone().filter(|attempts| *attempts == 0).count() as u64;
        assert!(missing <= cancelled, "{missing} never arrived");
        let refused = self.refused.load(Ordering::Relaxed);
        let arrived = attempts.sum::<u64>() + missing;
        let issued = self.attempts.len() as u64;
        // A request that is cancelled after its refusal is not replayed.
        assert!(arrived <= issued + refused && issued + refused <= arrived + cancelled);
    }
}

/// Rotates on a thread of its own, until the returned function stops it and gives the number of rotations.
fn start_rotating(server: &Arc<Server>, store: &CredentialStore) -> impl FnOnce() -> u64 + use<> {
    let stop = Arc::new(AtomicBool::new(false));
    let (stopped, server, store) = (Arc::clone(&stop), Arc::clone(server), store.clone());
    let thread = thread::spawn(move || {
        let mut generation = 0;
        while !stopped.load(Ordering::Relaxed) {
            thread::sleep(ROTATION);
            generation += 1;
            server.rotate(key(generation));
            store.rotate(Credential::parse(key(generation)).unwrap());
        }
        generation
    });
    move || {
        stop.store(true, Ordering::Relaxed);
        thread.join().unwrap()
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

/// Pages in memory.
fn resident_kib() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let line = status
        .lines()
        .find(|line| line.starts_with("VmRSS:"))
        .unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

/// Waits until what is ending has ended, and returns the number of tasks that are left.
async fn tasks() -> usize {
    let alive = || Handle::current().metrics().num_alive_tasks();
    for _ in 0..500 {
        if alive() == 0 {
            break;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    alive()
}

const WORKERS: u64 = 4;

async fn in_process(requests: u64) {
    // Longer than a busy machine keeps a thread waiting between the attaching and the judging.
    let server = Server::new(requests, 8);
    let store = store(&server).await;
    let client = ServiceBuilder::new()
        .retry(RefreshPolicy::new())
        .layer(AnyreachAuthLayer::new(store.clone()))
        .service(service_fn({
            let server = Arc::clone(&server);
            move |request: Request<()>| {
                let status = server.answer(request.headers());
                ready(Ok::<_, Infallible>(support::answer(status, "")))
            }
        }));
    let stop_rotating = start_rotating(&server, &store);
    let mut workers = JoinSet::new();
    for worker in 0..WORKERS {
        let mut client = client.clone();
        workers.spawn(async move {
            for id in (worker..requests).step_by(usize::try_from(WORKERS).unwrap()) {
                let request = Request::get("https://api.anyreach.ai/core/agents")
                    .header("x-request-id", HeaderValue::from(id))
                    .body(())
                    .unwrap();
                client.ready().await.unwrap().call(request).await.unwrap();
                if id % 1024 < WORKERS {
                    yield_now().await;
                }
            }
        });
    }
    workers.join_all().await;
    assert!(stop_rotating() > 10);
    server.assert_books_close(0);
}

/// One soak at a time: what they measure is the process's.
static ALONE: Mutex<()> = Mutex::new(());

#[test]
fn rotation_under_load_in_process_loses_nothing() {
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    let times = number("ANYREACH_SOAK", 1);
    multi_thread(2).block_on(async {
        in_process(times * 100_000).await;
        let (before, resident) = (tasks().await, resident_kib());
        in_process(times * 2_000_000).await;
        assert_eq!(tasks().await, before);
        // The log of attempts was a byte a request, and is gone; the allocator may keep a little, more in a long run. A
        // snapshot leaked at each rotation is some 500 KiB in the short one.
        let drift = resident_kib().saturating_sub(resident);
        assert!(drift < 128 * times.min(8), "{drift} KiB more than before");
    });
}

const CONNECTIONS: u64 = 32;
/// Every so many requests, one is given up at once.
const CANCELLED: u64 = 250;

async fn over_loopback(requests: u64, http2: bool) {
    // A quarter of a second, longer than a request takes on a busy machine.
    let server = Server::new(requests, 50);
    let store = store(&server).await;
    let listening = campaigns::server::Server::start({
        let server = Arc::clone(&server);
        move |request| {
            let status = server.answer(request.headers());
            ready(support::answer(status, "{}"))
        }
    })
    .await;
    let address = listening.address();
    let layer =
        AnyreachAuthLayer::new(store.clone()).origin(format!("http://{address}").parse().unwrap());
    let client = ServiceBuilder::new()
        .retry(RefreshPolicy::new())
        .layer(layer)
        .service(
            Client::builder(TokioExecutor::new())
                .http2_only(http2)
                // h2 counts the answers that still come to requests that were given up, and otherwise ends a connection
                // after a thousand of them.
                .http2_max_local_error_reset_streams(None)
                .build_http::<Empty<Bytes>>(),
        );
    let stop_rotating = start_rotating(&server, &store);
    let mut workers = JoinSet::new();
    for worker in 0..CONNECTIONS {
        let mut client = client.clone();
        workers.spawn(async move {
            for id in (worker..requests).step_by(usize::try_from(CONNECTIONS).unwrap()) {
                let request = Request::get(format!("http://{address}/core/agents"))
                    .header("x-request-id", HeaderValue::from(id))
                    .body(Empty::new())
                    .unwrap();
                let response = client.ready().await.unwrap().call(request);
                if id % CANCELLED == 0 {
                    drop(tokio::time::timeout(Duration::ZERO, response).await);
                } else {
                    assert_eq!(response.await.unwrap().status(), StatusCode::OK);
                }
            }
        });
    }
    workers.join_all().await;
    assert!(stop_rotating() > 10);
    server.assert_books_close(requests.div_ceil(CANCELLED));
}

fn open_files() -> usize {
    fs::read_dir("/proc/self/fd").unwrap().count()
}

#[test]
fn rotation_under_load_over_loopback_loses_nothing() {
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    let times = number("ANYREACH_SOAK", 1);
    multi_thread(2).block_on(async {
        for http2 in [false, true] {
            over_loopback(10_000, http2).await;
        }
        let before = (tasks().await, open_files());
        for http2 in [false, true] {
            over_loopback(times * 20_000, http2).await;
        }
        assert_eq!((tasks().await, open_files()), before);
    });
}
