//! A source and a server that follow a script and count, and helpers of the tests that use them.

use std::collections::BTreeSet;
use std::panic::resume_unwind;
use std::pin::Pin;

use http::request::Parts;
use tokio::runtime::Handle;
use tokio::sync::watch;
#[cfg(feature = "retry")]
use tower::retry::Retry;
#[cfg(feature = "retry")]
use tower_anyreach::AnyreachAuth;

use crate::prelude::*;

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

/// What a fetch does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fetch {
    /// The key of that name.
    Gives(&'static str),
    /// A new key each time: `fresh1`, `fresh2` ...
    GivesFresh,
    Fails,
    Hangs,
    /// Before there is a future to poll.
    PanicsAtOnce,
    /// After the first await.
    PanicsLater,
}

/// A source whose fetches do what was last set; clones share.
#[derive(Debug, Clone)]
pub(crate) struct Script(Arc<Scripted>);

#[derive(Debug)]
struct Scripted {
    next: Mutex<(Fetch, Duration)>,
    begun: Mutex<Vec<Instant>>,
    /// Held by each fetch until it is dropped.
    in_flight: Arc<()>,
    most_in_flight: AtomicUsize,
}

impl Script {
    pub(crate) fn new(fetch: Fetch) -> Self {
        Self(Arc::new(Scripted {
            next: Mutex::new((fetch, Duration::ZERO)),
            begun: Mutex::default(),
            in_flight: Arc::default(),
            most_in_flight: AtomicUsize::new(0),
        }))
    }

    /// Sets what each fetch does from now on.
    pub(crate) fn set(&self, fetch: Fetch) {
        self.0.next.lock().unwrap().0 = fetch;
    }

    /// Sets how long each fetch takes from now on.
    pub(crate) fn delay(&self, millis: u64) {
        self.0.next.lock().unwrap().1 = Duration::from_millis(millis);
    }

    pub(crate) fn fetches(&self) -> usize {
        self.0.begun.lock().unwrap().len()
    }

    /// When each fetch began.
    pub(crate) fn begun(&self) -> Vec<Instant> {
        self.0.begun.lock().unwrap().clone()
    }

    /// How many fetches are in flight.
    pub(crate) fn in_flight(&self) -> usize {
        Arc::strong_count(&self.0.in_flight) - 1
    }

    /// The largest number of fetches that were in flight at once.
    pub(crate) fn most_in_flight(&self) -> usize {
        self.0.most_in_flight.load(Ordering::Relaxed)
    }

    /// A store with this source and the key `v1` in force as version 1. Its first fetch is not counted.
    pub(crate) async fn store(&self) -> CredentialStore {
        self.store_with_limit(SECOND * 10).await
    }

    pub(crate) async fn store_with_limit(&self, limit: Duration) -> CredentialStore {
        let next = *self.0.next.lock().unwrap();
        *self.0.next.lock().unwrap() = (Fetch::Gives("v1"), Duration::ZERO);
        let loader = CredentialStore::loader(self.clone()).timeout(limit);
        let store = loader.load().await.unwrap();
        *self.0.next.lock().unwrap() = next;
        self.0.begun.lock().unwrap().clear();
        store
    }
}

impl CredentialSource for Script {
    fn fetch(&self) -> impl Future<Output = Result<Credential, BoxError>> + Send {
        let (fetch, delay) = *self.0.next.lock().unwrap();
        self.0.begun.lock().unwrap().push(Instant::now());
        let in_flight = Arc::clone(&self.0.in_flight);
        let most = &self.0.most_in_flight;
        most.fetch_max(self.in_flight(), Ordering::Relaxed);
        let number = self.fetches();
        if fetch == Fetch::PanicsAtOnce {
            panic_quietly();
        }
        async move {
            if !delay.is_zero() {
                sleep(delay).await;
            }
            let outcome = match fetch {
                Fetch::Gives(name) => Ok(key_of(name)),
                Fetch::GivesFresh => Ok(key_of(&format!("fresh{number}"))),
                Fetch::Fails => Err("the vault is sealed".into()),
                Fetch::Hangs => pending().await,
                Fetch::PanicsAtOnce | Fetch::PanicsLater => {
                    yield_now().await;
                    panic_quietly()
                }
            };
            drop(in_flight);
            outcome
        }
    }
}

/// Panics on purpose, without a message on standard error.
pub(crate) fn panic_quietly() -> ! {
    resume_unwind(Box::new("as scripted"))
}

/// A source that gives `v1` first, and then what `then` makes.
pub(crate) fn after_v1<F, Fut>(then: F) -> impl CredentialSource + use<F, Fut>
where
    F: Fn() -> Fut + Send + Sync + 'static,
    Fut: Future<Output = Result<Credential, BoxError>> + Send,
{
    let (is_later, then) = (AtomicBool::new(false), Arc::new(then));
    move || {
        let (is_later, then) = (is_later.swap(true, Ordering::Relaxed), Arc::clone(&then));
        async move {
            if is_later {
                return then().await;
            }
            Ok(key_of("v1"))
        }
    }
}

/// Sends one request that is denied, and returns its denial.
pub(crate) async fn denied(store: &CredentialStore) -> Denial {
    let server = Recorder::answering(answer(StatusCode::UNAUTHORIZED, "{}"));
    let client = AnyreachAuthLayer::new(store.clone()).layer(server);
    denial(client.oneshot(get_agents()).await)
}

/// The denial whose body is still to be read.
#[track_caller]
pub(crate) fn unread(answer: Answer) -> tower_anyreach::UnreadDenial {
    match answer {
        Answer::Denied(unread) => unread,
        answer => panic!("{answer:?}"),
    }
}

/// A server that accepts some keys, records what arrives, and panics if it is called without having been ready.
///
/// A denial's `detail` is the number of the attempt, from 1.
#[derive(Debug)]
pub(crate) struct Server {
    state: Arc<State>,
    is_ready: bool,
}

#[derive(Debug, Default)]
struct State {
    accepted: Mutex<BTreeSet<String>>,
    arrived: Mutex<Vec<Parts>>,
    /// How often readiness was asked for.
    readied: AtomicUsize,
    /// Whether answers are released.
    open: watch::Sender<bool>,
}

/// More than any test sends, so that a loop becomes a failure.
const MOST_ATTEMPTS: usize = 30_000;

impl Server {
    /// A server that accepts the keys of these names.
    pub(crate) fn accepting(names: &[&str]) -> Self {
        let (state, is_ready) = (Arc::<State>::default(), false);
        let server = Self { state, is_ready };
        server.accept_only(names);
        server.release();
        server
    }

    pub(crate) fn accept_only(&self, names: &[&str]) {
        *self.state.accepted.lock().unwrap() = names.iter().map(|name| key(name)).collect();
    }

    /// From now on, answers are decided when the request arrives, and wait for `release`.
    pub(crate) fn hold(&self) {
        self.state.open.send_replace(false);
    }

    pub(crate) fn release(&self) {
        self.state.open.send_replace(true);
    }

    pub(crate) fn attempts(&self) -> usize {
        self.state.arrived.lock().unwrap().len()
    }

    /// How often readiness was asked for.
    pub(crate) fn readied(&self) -> usize {
        self.state.readied.load(Ordering::Relaxed)
    }

    /// Returns the heads that arrived since the last time.
    pub(crate) fn take(&self) -> Vec<Parts> {
        std::mem::take(&mut *self.state.arrived.lock().unwrap())
    }

    /// Returns the keys that arrived since the last time.
    pub(crate) fn take_keys(&self) -> Vec<String> {
        let key = |head: Parts| {
            let value = head.headers[AUTHORIZATION].to_str().unwrap();
            value.strip_prefix("Bearer ").unwrap().to_owned()
        };
        self.take().into_iter().map(key).collect()
    }

    fn answer(&self, head: Parts) -> Response<String> {
        let value = head.headers.get(AUTHORIZATION);
        let key = value.and_then(|value| value.to_str().ok()?.strip_prefix("Bearer "));
        let accepted = key.is_some_and(|key| self.state.accepted.lock().unwrap().contains(key));
        let mut arrived = self.state.arrived.lock().unwrap();
        arrived.push(head);
        assert!(arrived.len() <= MOST_ATTEMPTS, "requests never end");
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
        let (state, is_ready) = (Arc::clone(&self.state), false);
        Self { state, is_ready }
    }
}

impl<B> Service<Request<B>> for Server {
    type Response = Response<String>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Response<String>, Infallible>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.is_ready = true;
        self.state.readied.fetch_add(1, Ordering::Relaxed);
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let is_ready = std::mem::take(&mut self.is_ready);
        assert!(is_ready, "called without having been ready");
        let answer = self.answer(request.into_parts().0);
        let mut open = self.state.open.subscribe();
        Box::pin(async move {
            // An error means that the sender, and with it the server, is gone.
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
    replaying(AnyreachAuthLayer::new(store.clone()).layer(server))
}

/// The policy with all defaults around that service.
#[cfg(feature = "retry")]
pub(crate) fn replaying<S>(inner: S) -> Retry<RefreshPolicy, S> {
    Retry::new(RefreshPolicy::new(), inner)
}

/// The number of the attempt that was denied, which [`Server`] puts into its detail.
#[cfg(feature = "retry")]
#[track_caller]
pub(crate) fn denied_attempt(error: &Error) -> usize {
    assert!(error.is_unauthorized(), "{error:?}");
    error.denial().unwrap().detail().unwrap().parse().unwrap()
}

/// A store and its source: `v1` is in force, and the source gives `v2`.
#[cfg(feature = "retry")]
pub(crate) async fn revoked() -> (CredentialStore, Script) {
    let script = Script::new(Fetch::Gives("v2"));
    (script.store().await, script)
}
