//! The old key dies at the instant its successor is delivered, and no request surfaces a 401.
//!
//! A cell is one setting of a client, its source and its server. Workers send requests while an operator rotates, each time a
//! second after the store can have taken the last key, because it promises nothing of faster rotations. If `ANYREACH_ROTATION` is
//! set, the long forms run.
#![allow(clippy::print_stdout, reason = "a campaign prints its figures")]
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::HashMap;
use std::convert::Infallible;
use std::fs;
use std::future::{Ready, ready};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, LazyLock, Mutex};
use std::time::{Duration, Instant};

use bytes::Bytes;
use campaigns::random::Random;
use campaigns::{key, tally::Tally};
use futures_util::stream;
use http::header::{AUTHORIZATION, LOCATION};
use http::{Method, Request, Response, StatusCode};
use http_body::Frame;
use http_body_util::{BodyExt, StreamBody, combinators::UnsyncBoxBody};
use support::runtime::{multi_thread, paused};
use support::{MILLI, SECOND, answer, denial, get_agents, organization};
use tempfile::TempDir;
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};
use tower::hedge::{self, Hedge};
use tower::retry::Policy;
use tower::util::BoxCloneService;
use tower::{Layer, Service, ServiceBuilder, ServiceExt, service_fn};
use tower_anyreach::follow_redirect::RedirectPolicy;
use tower_anyreach::retry::RefreshPolicy;
use tower_anyreach::source::{AnySource, FileSource};
use tower_anyreach::{AnyreachAuthLayer, BoxError, Credential, CredentialStore, Error};
use tower_anyreach::{PersonalAccessToken, Refreshed};
use tower_http::follow_redirect::FollowRedirectLayer;

static IS_LONG: LazyLock<bool> = LazyLock::new(|| std::env::var_os("ANYREACH_ROTATION").is_some());

type Answer = Response<UnsyncBoxBody<Bytes, Infallible>>;
type Outcome<R> = Result<Response<R>, Error>;
type Client = BoxCloneService<Request<String>, Answer, BoxError>;

#[derive(Debug, Clone, Copy, PartialEq)]
enum Source {
    Closure,
    Watch,
    /// A watch, beside a task that rotates to whatever it brings.
    Rotate,
    File,
}

/// What is around the layer.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Stack {
    Replays,
    Limits,
    Timeouts,
    Hedge,
    TwoRetries,
    Redirects,
}

/// Times are in milliseconds.
#[derive(Debug, Clone, Copy)]
struct Cell {
    /// Between polls; 0 is no polling.
    interval: u64,
    /// Whether a caller calls `refresh()` every 100 ms.
    refreshes: bool,
    fetch_takes: u64,
    source: Source,
    /// The status of every answer to a good key.
    good: u16,
    /// The longest way to the server, and the longest way back.
    latency: u64,
    /// How long the body of a 401 takes to arrive.
    denial_takes: u64,
    stack: Stack,
    requests: u64,
}

fn text(generation: u64) -> String {
    key(generation).replacen("ak_", "pat_", 1)
}

fn token(generation: u64) -> Credential {
    let token = PersonalAccessToken::new(text(generation)).unwrap();
    token.for_organization(organization("org_1")).into()
}

async fn pause(milliseconds: u64) {
    if milliseconds > 0 {
        sleep(MILLI * u32::try_from(milliseconds).unwrap()).await;
    }
}

/// The user's own policy: sends a request again after a 503, or where an answer is slow.
#[derive(Clone)]
struct Again;

impl<B: Clone, R> Policy<Request<B>, Response<R>, Error> for Again {
    type Future = Ready<()>;

    fn retry(&mut self, _: &mut Request<B>, result: &mut Outcome<R>) -> Option<Ready<()>> {
        let status = result.as_ref().ok()?.status();
        (status == StatusCode::SERVICE_UNAVAILABLE).then(|| ready(()))
    }

    fn clone_request(&mut self, request: &Request<B>) -> Option<Request<B>> {
        Some(request.clone())
    }
}

impl<B: Clone> hedge::Policy<Request<B>> for Again {
    fn clone_request(&self, request: &Request<B>) -> Option<Request<B>> {
        Some(request.clone())
    }

    fn can_retry(&self, _: &Request<B>) -> bool {
        true
    }
}

/// The operator, the source and the server of a cell.
struct World {
    cell: Cell,
    /// The token that is in the source and, because no request is judged while it changes, the only good one.
    delivered: watch::Sender<u64>,
    directory: TempDir,
    fetches: AtomicU64,
    /// How often each request arrived, and with a good key; those after a redirect by themselves.
    arrived: Mutex<HashMap<(u64, Method), (u64, u64)>>,
}

impl World {
    async fn operate(self: Arc<Self>) {
        let mut random = Random(1);
        loop {
            let cell = self.cell;
            // A 401 may wait for a fetch that began too early, and then for its own.
            let recovery = 2 * cell.fetch_takes + 4 * cell.latency + cell.denial_takes;
            pause(1_000 + recovery + random.below(1_000)).await;
            self.delivered.send_modify(|generation| {
                *generation += 1;
                self.write(*generation);
            });
        }
    }

    fn write(&self, generation: u64) {
        let [new, token] = ["new", "token"].map(|name| self.directory.path().join(name));
        fs::write(&new, text(generation)).unwrap();
        fs::rename(new, token).unwrap();
    }

    fn source(self: &Arc<Self>) -> AnySource {
        if self.cell.source == Source::File {
            let file = FileSource::new(self.directory.path().join("token"));
            return AnySource::new(file.organization(organization("org_1")));
        }
        let (world, watched) = (Arc::clone(self), self.delivered.subscribe());
        AnySource::new(move || {
            let (world, watched) = (Arc::clone(&world), watched.clone());
            async move {
                let read = || match world.cell.source {
                    Source::Closure => *world.delivered.borrow(),
                    _ => *watched.borrow(),
                };
                // Every other fetch reads when it begins, and the others when they end.
                let is_late = world.fetches.fetch_add(1, Ordering::Relaxed) % 2 == 1;
                let early = read();
                pause(world.cell.fetch_takes).await;
                Ok(token(if is_late { read() } else { early }))
            }
        })
    }

    fn count(&self, number: u64, method: &Method, sent: u64, good: u64) -> (u64, u64) {
        let mut arrived = self.arrived.lock().unwrap();
        let counts = arrived.entry((number, method.clone())).or_default();
        *counts = (counts.0 + sent, counts.1 + good);
        *counts
    }

    async fn answer(self: Arc<Self>, request: Request<String>) -> Result<Answer, BoxError> {
        let cell = self.cell;
        let number: u64 = request.headers()["x-request"].to_str()?.parse()?;
        let mut random = Random(number * 8 + self.count(number, request.method(), 1, 0).0);
        pause(random.below(cell.latency + 1)).await;
        let bearer = format!("Bearer {}", text(*self.delivered.borrow()));
        let is_good = request.headers()[AUTHORIZATION] == bearer.as_str();
        let is_first = self.count(number, request.method(), 0, is_good.into()).1 == 1;
        pause(random.below(cell.latency + 1)).await;
        let (status, takes) = match cell.stack {
            _ if !is_good => (401, cell.denial_takes),
            Stack::TwoRetries if is_first && number.is_multiple_of(5) => (503, 0),
            Stack::Redirects if request.method() == Method::POST => (303, 0),
            _ => (cell.good, 0),
        };
        let body = stream::once(async move {
            pause(takes).await;
            Ok(Frame::data(Bytes::from_static(br#"{"detail": "No"}"#)))
        });
        let answer = Response::builder()
            .status(status)
            .header(LOCATION, "/core/agents");
        Ok(answer.body(StreamBody::new(body).boxed_unsync())?)
    }

    fn client(self: &Arc<Self>, store: &CredentialStore) -> Client {
        let world = Arc::clone(self);
        let server = service_fn(move |request| Arc::clone(&world).answer(request));
        let auth = AnyreachAuthLayer::new(store.clone());
        let follow = FollowRedirectLayer::with_policy(RedirectPolicy::new(&auth));
        let replay = ServiceBuilder::new().retry(RefreshPolicy::new());
        let outside = ServiceBuilder::new().map_err(BoxError::from);
        let inside = replay.clone().layer(auth.clone());
        match self.cell.stack {
            Stack::Replays => outside.layer(inside).service(server).boxed_clone(),
            Stack::Limits => {
                let limited = replay.concurrency_limit(6).buffer(8).layer(auth);
                limited.service(server).boxed_clone()
            }
            Stack::Timeouts => {
                let total = ServiceBuilder::new().timeout(SECOND * 5).layer(inside);
                total.timeout(SECOND / 2).service(server).boxed_clone()
            }
            Stack::Hedge => {
                let hedge = Hedge::new(inside.service(server), Again, 10, 0.9, SECOND * 10);
                // It cannot be cloned.
                ServiceBuilder::new().buffer(8).service(hedge).boxed_clone()
            }
            Stack::TwoRetries => {
                let twice = outside.retry(Again).layer(inside);
                twice.service(server).boxed_clone()
            }
            Stack::Redirects => {
                let followed = outside.layer(follow).layer(inside);
                followed.service(server).boxed_clone()
            }
        }
    }

    fn assert_books_close(&self, tally: &mut Tally) {
        let cell = self.cell;
        let copies = 1 + u64::from(matches!(cell.stack, Stack::Hedge | Stack::TwoRetries));
        for (request, (sent, good)) in self.arrived.lock().unwrap().iter() {
            tally.add("denied", sent - good);
            if *sent > 2 * copies || !(1..=copies).contains(good) {
                let text = || format!("{request:?}: sent {sent} times, {good} good, {cell:?}");
                tally.violation(text);
            }
        }
        let fetches = self.fetches.load(Ordering::Relaxed).saturating_sub(1);
        let rotations = *self.delivered.borrow();
        tally.add("rotations", rotations);
        tally.add("fetches", fetches);
        if cell.interval == 0 && !cell.refreshes {
            tally.add("looks", fetches);
            assert!(
                fetches <= rotations,
                "{fetches} looks, {rotations} rotations: {cell:?}"
            );
        }
    }
}

async fn run(cell: Cell) -> Tally {
    let world = Arc::new(World {
        cell,
        delivered: watch::Sender::new(0),
        directory: TempDir::new().unwrap(),
        fetches: AtomicU64::new(0),
        arrived: Mutex::default(),
    });
    world.write(0);
    let mut loader = CredentialStore::loader(world.source());
    if cell.interval > 0 {
        loader = loader.refresh_every(Duration::from_millis(cell.interval));
    }
    let store = loader.load().await.unwrap();
    let (client, mut watched) = (world.client(&store), world.delivered.subscribe());
    let mut beside = JoinSet::new();
    beside.spawn(Arc::clone(&world).operate());
    if cell.source == Source::Rotate {
        let store = store.clone();
        beside.spawn(async move {
            while watched.changed().await.is_ok() {
                store.rotate(token(*watched.borrow_and_update()));
            }
        });
    }
    if cell.refreshes {
        beside.spawn(async move {
            loop {
                sleep(MILLI * 100).await;
                let store = store.clone();
                tokio::spawn(async move { store.refresh().await });
            }
        });
    }
    let mut workers = JoinSet::new();
    for worker in 0..8 {
        let mut client = client.clone();
        workers.spawn(async move {
            let (mut random, mut tally) = (Random(worker), Tally::default());
            for number in (worker..cell.requests).step_by(8) {
                pause(random.below(300)).await;
                let mut request = get_agents();
                request.headers_mut().insert("x-request", number.into());
                if number.is_multiple_of(3) {
                    request.extensions_mut().insert(organization("org_2"));
                }
                if cell.stack == Stack::Redirects {
                    *request.method_mut() = Method::POST;
                }
                let answer = client.ready().await.unwrap().call(request).await;
                tally.add("requests", 1);
                if !matches!(&answer, Ok(answer) if answer.status() == cell.good) {
                    tally.add("surfaced", 1);
                    tally.violation(|| format!("request {number}: {answer:?}, {cell:?}"));
                }
            }
            tally
        });
    }
    let mut tally = Tally::default();
    for of_worker in workers.join_all().await {
        tally += of_worker;
    }
    tally.add("cells", 1);
    tally.add("surfaced", 0);
    world.assert_books_close(&mut tally);
    tally
}

fn assert_calm(of_cells: impl IntoIterator<Item = Tally>) {
    let mut tally = Tally::default();
    for of_cell in of_cells {
        tally += of_cell;
    }
    println!("{tally}");
    tally.assert_no_violations();
    assert!(tally.count("denied") > tally.count("rotations"));
}

#[test]
fn no_401_surfaces_at_any_interval_from_any_source() {
    assert_calm((0..252).map(|n| {
        paused().block_on(run(Cell {
            interval: [0, 60_000, 10_000, 2_000, 1_000, 500, 50][n % 7],
            refreshes: n / 7 % 2 == 1,
            fetch_takes: [0, 20, 500][n / 14 % 3],
            source: [Source::Closure, Source::Watch, Source::Rotate][n / 42 % 3],
            good: [200, 404][n / 126],
            latency: 50,
            denial_takes: 0,
            stack: Stack::Replays,
            requests: if *IS_LONG { 2_000 } else { 400 },
        }))
    }));
}

#[test]
fn no_401_surfaces_in_real_time() {
    use Source::{Closure, File, Rotate, Watch};
    // The interval, whether `refresh()` is called, the time of a fetch, the source and the status of a good answer.
    let cells = [
        (0, false, 300, File, 200),
        (10_000, true, 300, File, 404),
        (500, false, 300, File, 200),
        (50, true, 300, File, 200),
        (0, false, 20, Closure, 200),
        (60_000, false, 20, Closure, 404),
        (10_000, false, 20, Closure, 200),
        (2_000, true, 500, Closure, 200),
        (1_000, false, 500, Watch, 200),
        (500, false, 20, Watch, 404),
        (500, true, 500, Watch, 200),
        (50, false, 0, Rotate, 200),
        (50, true, 20, Rotate, 404),
        (0, true, 500, Rotate, 200),
    ];
    let cells = cells.map(|(interval, refreshes, fetch_takes, source, good)| {
        run(Cell {
            interval,
            refreshes,
            fetch_takes,
            source,
            good,
            latency: 50,
            denial_takes: 0,
            stack: Stack::Replays,
            requests: if *IS_LONG { 2_000 } else { 120 },
        })
    });
    assert_calm(multi_thread(2).block_on(async { JoinSet::from_iter(cells).join_all().await }));
}

#[test]
fn no_401_surfaces_under_limits_timeouts_hedges_retries_and_redirects() {
    use Stack::{Hedge, Limits, Redirects, Timeouts, TwoRetries};
    assert_calm((0..450).filter_map(|n| {
        let [stack, interval, latency, denial] = [n % 5, n / 5 % 5, n / 25 % 3, n / 75 % 3];
        // Drawn for the short form: each stack with each value of everything else.
        let sum = stack + interval;
        let is_drawn = [latency, denial, n / 225] == [sum % 3, (sum + interval) % 3, sum % 2];
        (*IS_LONG || is_drawn).then(|| {
            paused().block_on(run(Cell {
                interval: [0, 10_000, 2_000, 500, 50][interval],
                refreshes: n / 225 == 1,
                fetch_takes: 20,
                source: Source::Closure,
                good: 200,
                latency: [1, 20, 200][latency],
                denial_takes: [0, 300, 900][denial],
                stack: [Limits, Timeouts, Hedge, TwoRetries, Redirects][stack],
                requests: if *IS_LONG { 2_000 } else { 400 },
            }))
        })
    }));
}

/// How long after the outcome of one fetch the last of those who waited for it was answered.
async fn slowest_of(waiters: u64, refreshes: bool) -> Duration {
    let (gate, fetches) = (Arc::new(Semaphore::new(1)), Arc::new(AtomicU64::new(0)));
    let (opened, counted) = (Arc::clone(&gate), Arc::clone(&fetches));
    let store = CredentialStore::load(move || {
        let (gate, number) = (Arc::clone(&opened), counted.fetch_add(1, Ordering::Relaxed));
        async move {
            gate.acquire().await?.forget();
            Ok(token(number))
        }
    });
    let store = store.await.unwrap();
    let refuse = service_fn(async |_| Ok::<_, Infallible>(answer(StatusCode::UNAUTHORIZED, "{}")));
    let client = AnyreachAuthLayer::new(store.clone()).layer(refuse);
    let denial = denial(client.oneshot(get_agents()).await);
    let reaches = async |count: &AtomicU64, number| {
        while count.load(Ordering::Relaxed) < number {
            sleep(MILLI).await;
        }
    };
    let look = timeout(SECOND * 9, reaches(&fetches, 2)).await;
    look.expect("the layer begins a look");
    let (waiting, mut calls) = (Arc::new(AtomicU64::new(0)), JoinSet::new());
    for _ in 0..waiters {
        let (store, denial, waiting) = (store.clone(), denial.clone(), Arc::clone(&waiting));
        calls.spawn(async move {
            waiting.fetch_add(1, Ordering::Relaxed);
            if refreshes {
                assert_eq!(store.refresh().await.unwrap(), Refreshed::Rotated);
            } else {
                assert!(denial.renewed().await);
            }
            Instant::now()
        });
    }
    reaches(&waiting, waiters).await;
    // `renewed` yields once. Calls are answered by the fetch after the look.
    sleep(MILLI * 100).await;
    if refreshes {
        gate.add_permits(1);
        reaches(&fetches, 3).await;
    }
    let ended = Instant::now();
    gate.add_permits(1);
    let answered = calls.join_all().await;
    assert_eq!(fetches.load(Ordering::Relaxed), 2 + u64::from(refreshes));
    answered.into_iter().max().unwrap() - ended
}

/// How long tokio takes to wake as many tasks that wait for one `watch`, and do nothing else.
async fn slowest_of_tokio(waiters: u64) -> Duration {
    let (bell, mut calls) = (watch::Sender::new(()), JoinSet::new());
    for _ in 0..waiters {
        let mut rings = bell.subscribe();
        calls.spawn(async move {
            drop(timeout(SECOND * 10, rings.changed()).await);
            Instant::now()
        });
    }
    sleep(MILLI * 300).await;
    let rung = Instant::now();
    bell.send_replace(());
    calls.join_all().await.into_iter().max().unwrap() - rung
}

#[test]
fn one_fetch_answers_all_who_wait_for_it() {
    let waiters = if *IS_LONG { 100_000 } else { 10_000 };
    let report = |name, run: &dyn Fn() -> Duration| {
        let mut slowest = [run(), run(), run()];
        slowest.sort();
        println!("{waiters} waiters, {name}: the last after {:?}", slowest[1]);
    };
    report("tokio alone", &|| {
        multi_thread(2).block_on(slowest_of_tokio(waiters))
    });
    for (name, refreshes) in [("`renewed`", false), ("`refresh`", true)] {
        report(name, &|| {
            multi_thread(2).block_on(slowest_of(waiters, refreshes))
        });
    }
}
