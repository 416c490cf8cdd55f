//! A source and a server that do as they are told, and count.

use std::collections::BTreeSet;
use std::convert::Infallible;
use std::future::{Future, pending};
use std::panic::resume_unwind;
use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::task::{Context, Poll};
use std::time::Duration;

use http::header::AUTHORIZATION;
use http::request::Parts;
use http::{Request, Response, StatusCode};
use tokio::runtime::Handle;
use tokio::sync::watch;
use tokio::task::yield_now;
use tokio::time::{Instant, sleep};
use tower::Service;
#[cfg(feature = "retry")]
use tower::{ServiceBuilder, retry::Retry};
#[cfg(feature = "retry")]
use tower_anyreach::{AnyreachAuth, AnyreachAuthLayer, retry::RefreshPolicy};
use tower_anyreach::{BoxError, Credential, CredentialSource, CredentialStore};

use support::{answer, credential};

pub(crate) use support::runtime::{current_thread, paused};

/// The text of a key of that name.
pub(crate) fn key(name: &str) -> String {
    format!("ak_{name}.c2VjcmV0")
}

/// The key of that name.
pub(crate) fn key_of(name: &str) -> Credential {
    credential(&key(name))
}

/// Lets all that can run now run, without letting time pass.
pub(crate) async fn settle() {
    for _ in 0..16 {
        yield_now().await;
    }
}

/// How many tasks the runtime has, besides the test itself.
pub(crate) fn tasks() -> usize {
    Handle::current().metrics().num_alive_tasks()
}

#[track_caller]
pub(crate) fn assert_in_force(store: &CredentialStore, name: &str) {
    assert_eq!(store.credential().id(), key_of(name).id());
}

/// What a fetch comes to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fetch {
    /// The key of that name.
    Gives(&'static str),
    /// A key that never was before: `fresh1`, `fresh2` ...
    GivesFresh,
    Fails,
    Hangs,
    /// Before there is a future to poll.
    PanicsAtOnce,
    /// After the first await.
    PanicsLater,
}

/// The text of the errors of a [`Script`].
pub(crate) const CAUSE: &str = "the vault is sealed";

/// A source that does as it was last told; clones share.
#[derive(Debug, Clone)]
pub(crate) struct Script(Arc<Scripted>);

#[derive(Debug)]
struct Scripted {
    told: Mutex<(Fetch, Duration)>,
    begun: Mutex<Vec<Instant>>,
    in_flight: AtomicUsize,
    most_in_flight: AtomicUsize,
}

impl Script {
    pub(crate) fn new(fetch: Fetch) -> Self {
        Self(Arc::new(Scripted {
            told: Mutex::new((fetch, Duration::ZERO)),
            begun: Mutex::default(),
            in_flight: AtomicUsize::new(0),
            most_in_flight: AtomicUsize::new(0),
        }))
    }

    /// From here on, what each fetch does.
    pub(crate) fn tell(&self, fetch: Fetch) {
        lock(&self.0.told).0 = fetch;
    }

    /// From here on, how long each fetch takes to do it.
    pub(crate) fn take(&self, millis: u64) {
        lock(&self.0.told).1 = Duration::from_millis(millis);
    }

    pub(crate) fn fetches(&self) -> usize {
        lock(&self.0.begun).len()
    }

    /// When each fetch began.
    pub(crate) fn begun(&self) -> Vec<Instant> {
        lock(&self.0.begun).clone()
    }

    /// How many fetches there ever were at a time.
    #[cfg(feature = "retry")]
    pub(crate) fn most_in_flight(&self) -> usize {
        self.0.most_in_flight.load(Ordering::Relaxed)
    }

    /// A store that has this source, and the key `v1` in force as version 1. Its first fetch is not counted.
    pub(crate) async fn store(&self) -> CredentialStore {
        self.store_with_limit(Duration::from_secs(10)).await
    }

    pub(crate) async fn store_with_limit(&self, limit: Duration) -> CredentialStore {
        let (fetch, takes) = std::mem::replace(
            &mut *lock(&self.0.told),
            (Fetch::Gives("v1"), Duration::ZERO),
        );
        let store = CredentialStore::loader(self.clone())
            .timeout(limit)
            .load()
            .await
            .unwrap();
        *lock(&self.0.told) = (fetch, takes);
        lock(&self.0.begun).clear();
        store
    }
}

impl CredentialSource for Script {
    fn fetch(&self) -> impl Future<Output = Result<Credential, BoxError>> + Send {
        let (fetch, takes) = *lock(&self.0.told);
        lock(&self.0.begun).push(Instant::now());
        let under_way = UnderWay::new(&self.0);
        let number = self.fetches();
        if fetch == Fetch::PanicsAtOnce {
            panic_quietly();
        }
        async move {
            let _under_way = under_way;
            if !takes.is_zero() {
                sleep(takes).await;
            }
            match fetch {
                Fetch::Gives(name) => Ok(key_of(name)),
                Fetch::GivesFresh => Ok(key_of(&format!("fresh{number}"))),
                Fetch::Fails => Err(CAUSE.into()),
                Fetch::Hangs => pending().await,
                Fetch::PanicsAtOnce | Fetch::PanicsLater => {
                    yield_now().await;
                    panic_quietly()
                }
            }
        }
    }
}

/// Panics without a word on standard error, since it is meant.
pub(crate) fn panic_quietly() -> ! {
    resume_unwind(Box::new("as told"))
}

/// One fetch, from its beginning until it is dropped.
struct UnderWay(Arc<Scripted>);

impl UnderWay {
    fn new(scripted: &Arc<Scripted>) -> Self {
        let now = scripted.in_flight.fetch_add(1, Ordering::Relaxed) + 1;
        scripted.most_in_flight.fetch_max(now, Ordering::Relaxed);
        Self(Arc::clone(scripted))
    }
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        self.0.in_flight.fetch_sub(1, Ordering::Relaxed);
    }
}

/// A server that knows some keys, records what arrives, and panics if it is called without having been ready.
///
/// A denial's `detail` is the number of the attempt, from 1.
#[derive(Debug)]
pub(crate) struct Server {
    state: Arc<State>,
    is_ready: bool,
}

#[derive(Debug)]
struct State {
    accepted: Mutex<BTreeSet<String>>,
    arrived: Mutex<Vec<Parts>>,
    /// Whether answers are let out.
    open: watch::Sender<bool>,
}

/// More than any test sends, so that a loop becomes a failure.
const MOST_ATTEMPTS: usize = 30_000;

impl Server {
    /// A server that knows the keys of these names.
    pub(crate) fn accepting(names: &[&str]) -> Self {
        let server = Self {
            state: Arc::new(State {
                accepted: Mutex::default(),
                arrived: Mutex::default(),
                open: watch::Sender::new(true),
            }),
            is_ready: false,
        };
        server.accept_only(names);
        server
    }

    pub(crate) fn accept_only(&self, names: &[&str]) {
        *lock(&self.state.accepted) = names.iter().map(|name| key(name)).collect();
    }

    /// From here on, answers are decided when the request arrives, but wait for `let_out`.
    #[cfg(feature = "retry")]
    pub(crate) fn hold(&self) {
        self.state.open.send_replace(false);
    }

    #[cfg(feature = "retry")]
    pub(crate) fn let_out(&self) {
        self.state.open.send_replace(true);
    }

    #[cfg(feature = "retry")]
    pub(crate) fn attempts(&self) -> usize {
        lock(&self.state.arrived).len()
    }

    /// Gives the heads that arrived since the last time.
    #[cfg(feature = "retry")]
    pub(crate) fn take(&self) -> Vec<Parts> {
        std::mem::take(&mut *lock(&self.state.arrived))
    }

    /// Gives the keys that arrived since the last time.
    #[cfg(feature = "retry")]
    pub(crate) fn take_keys(&self) -> Vec<String> {
        let bearer = |head: Parts| {
            let value = head.headers.get(AUTHORIZATION)?.to_str().ok()?.to_owned();
            value.strip_prefix("Bearer ").map(str::to_owned)
        };
        self.take()
            .into_iter()
            .map(|head| bearer(head).unwrap_or_default())
            .collect()
    }

    fn answer(&self, head: Parts) -> Response<String> {
        let accepted = head.headers.get(AUTHORIZATION).is_some_and(|value| {
            lock(&self.state.accepted)
                .iter()
                .any(|key| value == format!("Bearer {key}").as_str())
        });
        let mut arrived = lock(&self.state.arrived);
        arrived.push(head);
        assert!(arrived.len() <= MOST_ATTEMPTS, "somebody sends for ever");
        if accepted {
            return answer(StatusCode::OK, "{}");
        }
        let detail = format!(r#"{{"detail": "{}"}}"#, arrived.len());
        answer(StatusCode::UNAUTHORIZED, &detail)
    }
}

/// Shares everything but readiness.
impl Clone for Server {
    fn clone(&self) -> Self {
        Self {
            state: Arc::clone(&self.state),
            is_ready: false,
        }
    }
}

impl<B> Service<Request<B>> for Server {
    type Response = Response<String>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Response<String>, Infallible>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.is_ready = true;
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        assert!(
            std::mem::take(&mut self.is_ready),
            "called without having been ready"
        );
        let answer = self.answer(request.into_parts().0);
        let mut open = self.state.open.subscribe();
        Box::pin(async move {
            // The sender lives as long as the server.
            drop(open.wait_for(|open| *open).await);
            Ok(answer)
        })
    }
}

/// A client of that server, which replays after a 401.
#[cfg(feature = "retry")]
pub(crate) type Client<S = Server> = Retry<RefreshPolicy, AnyreachAuth<S>>;

#[cfg(feature = "retry")]
pub(crate) fn client<S>(store: &CredentialStore, server: S) -> Client<S> {
    ServiceBuilder::new()
        .retry(RefreshPolicy::new())
        .layer(AnyreachAuthLayer::new(store.clone()))
        .service(server)
}

/// Locks, also after one of the panics that are meant.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex
        .lock()
        .unwrap_or_else(std::sync::PoisonError::into_inner)
}
