//! A rotating client in a simulated network that fails in every way it can: the books close, and it comes back.
//!
//! Each seed is a network of its own, of 120 simulated seconds: a client, the API, a token service that the client's
//! store fetches from, and an operator who rotates keys. For 80 seconds links, hosts and answers fail as the seed
//! says; then all is well again.
//!
//! `ANYREACH_SEEDS` is how many seeds are run: 30 unless set, 2,000 for a release. `ANYREACH_SEED` runs that one
//! seed ten times: what a seed does not decide is the jitter of the store's rests and polls.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
#![allow(clippy::print_stdout, reason = "the figures of a campaign")]

use std::collections::BTreeSet;
use std::future::{Future, pending};
use std::net::Ipv4Addr;
use std::panic::resume_unwind;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::header::AUTHORIZATION;
use http::{Method, Request, Response, StatusCode, Version};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use support::answer;
use tokio::runtime::Handle;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, sleep_until, timeout};
use tower::timeout::TimeoutLayer;
use tower::timeout::error::Elapsed;
use tower::{Service, ServiceBuilder, ServiceExt};
use tower_anyreach::retry::RefreshPolicy;
use tower_anyreach::source::CredentialSource;
use tower_anyreach::{AnyreachAuthLayer, BoxError, Credential, CredentialStore, Error, Origin};
use turmoil::net::{TcpListener, TcpStream};
use turmoil::{Builder, Sim};

use campaigns::connection::Connection;
use campaigns::random::Random;
use campaigns::server::serve_connection;
use campaigns::tally::Tally;
use campaigns::{key, number};

/// When the last fault ends.
const CALM: Duration = Duration::from_secs(80);
/// The longest rest, the fetch in flight and one more, and a few attempts.
const RECOVERY: Duration = Duration::from_secs(20);
const LENGTH: Duration = Duration::from_secs(120);
/// How exactly messages are delivered; hosts keep their own time to the millisecond.
const TICK: Duration = Duration::from_millis(20);

const WORKERS: u64 = 8;
/// Of a request as a whole, of each attempt, and of a fetch.
const TOTAL: Duration = Duration::from_secs(10);
const ATTEMPT: Duration = Duration::from_secs(4);
const FETCH: Duration = Duration::from_secs(3);
/// Timers are exact to the millisecond.
const MARGIN: Duration = Duration::from_millis(2);

#[test]
fn over_http1_no_request_is_lost_whatever_the_network_does() {
    run_seeds(Version::HTTP_11);
}

#[test]
fn over_http2_no_request_is_lost_whatever_the_network_does() {
    run_seeds(Version::HTTP_2);
}

/// Even seeds run over HTTP/1.1, odd ones over HTTP/2.
fn version_of(seed: u64) -> Version {
    if seed.is_multiple_of(2) {
        Version::HTTP_11
    } else {
        Version::HTTP_2
    }
}

fn run_seeds(version: Version) {
    let seeds: Vec<u64> = match std::env::var("ANYREACH_SEED") {
        Ok(seed) => vec![seed.parse().unwrap(); 10],
        Err(_) => (0..number("ANYREACH_SEEDS", 30)).collect(),
    };
    let mut sum = Tally::default();
    let mut slowest_recovery = Duration::ZERO;
    for seed in seeds
        .into_iter()
        .filter(|&seed| version_of(seed) == version)
    {
        match run(seed) {
            Ok((tally, recovery)) => {
                sum += tally;
                slowest_recovery = slowest_recovery.max(recovery);
            }
            Err(violations) => panic!(
                "seed {seed}, {version:?}:\n{violations}\nTo run it again: \
                 ANYREACH_SEED={seed} cargo test -p campaigns --test turmoil"
            ),
        }
    }
    println!("{version:?}: {sum}; slowest recovery {slowest_recovery:?}");
}

/// Runs one simulation, and returns its counts and how long the recovery took, or what must not have happened.
fn run(seed: u64) -> Result<(Tally, Duration), String> {
    let mut dice = Random(seed);
    let scene = Shared::default();
    let mut plan = Plan::draw(&mut dice);

    let mut sim = Builder::new()
        .rng_seed(seed)
        .enable_random_order()
        .tick_duration(TICK)
        .simulation_duration(LENGTH + TOTAL)
        .min_message_latency(Duration::from_millis(1))
        .max_message_latency(dice.duration(5..100))
        .build();
    sim.host("api", {
        let scene = scene.clone();
        move || serve(scene.clone(), answer_as_api)
    });
    sim.host("tokens", {
        let scene = scene.clone();
        move || serve(scene.clone(), answer_as_token_service)
    });
    sim.host("neighbour", {
        let (scene, seed) = (scene.clone(), dice.next());
        move || neighbour(scene.clone(), Random(seed))
    });
    sim.client(
        "client",
        client(scene.clone(), Random(dice.next()), version_of(seed)),
    );

    loop {
        plan.act(&mut sim, &scene);
        let done = sim
            .step()
            .map_err(|error| format!("{error}\n{}", scene.lock().violations.join("\n")))?;
        if done {
            break;
        }
    }
    let simulated = sim.elapsed();
    drop(sim);
    let mut scene = scene.lock();
    scene.audit();
    if scene.violations.is_empty() {
        Ok((
            scene.tally(simulated, plan.faults),
            scene.recovered_after.unwrap_or_default(),
        ))
    } else {
        Err(scene.violations.join("\n"))
    }
}

// ---- What is shared by all hosts, and survives their crashes ----

#[derive(Clone, Default)]
struct Shared(Arc<Mutex<Scene>>);

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Scene> {
        self.0.lock().unwrap()
    }

    fn violation(&self, what: String) {
        self.lock().violations.push(what);
    }
}

struct Scene {
    /// The generations of keys that the API takes now, and the last one that the operator made.
    valid: BTreeSet<u64>,
    newest: u64,
    api: ApiMood,
    tokens: TokenMood,
    source_panics: bool,
    /// The neighbour waits for a refresh.
    neighbour_asks: bool,
    /// The neighbour is being crashed.
    crashing: bool,
    store: Option<CredentialStore>,
    model: Model,
    /// What the API was asked, in that order.
    arrivals: Vec<Arrival>,
    /// What became of the requests; `None` while they are under way.
    outcomes: Vec<Option<Outcome>>,
    /// How long after the last fault a request succeeded.
    recovered_after: Option<Duration>,
    violations: Vec<String>,
}

#[derive(Debug, Clone, Copy)]
struct Arrival {
    request: usize,
    key: u64,
    status: StatusCode,
}

/// Each request has exactly one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Outcome {
    Answered(StatusCode),
    /// Answered, but the body did not come through.
    Cut(StatusCode),
    /// [`Error::Unauthorized`].
    Denied,
    /// [`Error::Service`]: an attempt failed or took too long.
    Failed,
    /// The request as a whole took too long.
    TimedOut,
    Cancelled,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum ApiMood {
    Fair,
    /// Refuses one of so many requests without a reason.
    Refuses {
        one_in: u64,
    },
    Fails,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum TokenMood {
    Gives,
    /// Gives the key before the newest.
    LagsBehind,
    Fails,
    Hangs,
    TalksNonsense(usize),
}

const NONSENSE: [&str; 8] = [
    "",
    "<html><h1>502 Bad Gateway</h1></html>",
    "Bearer ak_1.c2VjcmV0",
    "ak_",
    "ak_1.sécret",
    "\"ak_1.c2VjcmV0\"",
    "ak_1.c2Vj\ncmV0",
    r#"{"key": "ak_1.c2VjcmV0"}"#,
];

impl Default for Scene {
    fn default() -> Self {
        Self {
            valid: [1].into(),
            newest: 1,
            api: ApiMood::Fair,
            tokens: TokenMood::Gives,
            source_panics: false,
            neighbour_asks: false,
            crashing: false,
            store: None,
            model: Model::default(),
            arrivals: Vec::new(),
            outcomes: Vec::new(),
            recovered_after: None,
            violations: Vec::new(),
        }
    }
}

impl Scene {
    fn issue(&mut self) -> usize {
        self.outcomes.push(None);
        self.outcomes.len() - 1
    }

    fn close(&mut self, request: usize, outcome: Outcome) {
        if let Some(first) = self.outcomes[request].replace(outcome) {
            self.violations
                .push(format!("request {request}: {first:?}, then {outcome:?}"));
        }
    }

    fn compare(&mut self) {
        if let Some(store) = &self.store {
            self.model.compare(store);
        }
    }

    fn create_key(&mut self, pushed: bool) {
        self.newest += 1;
        self.valid.insert(self.newest);
        self.compare();
        if let Some(store) = self.store.as_ref().filter(|_| pushed) {
            store.rotate(Credential::parse(key(self.newest)).unwrap());
            self.model.rotate(self.newest);
        }
    }

    fn delete_old_keys(&mut self) {
        self.valid = [self.newest].into();
    }

    fn neighbour_fetches(&self) -> bool {
        self.neighbour_asks && self.model.flight.is_some()
    }

    /// Compares what the client was told with what the API saw.
    fn audit(&mut self) {
        let mut violations = Vec::new();
        let mut attempts: Vec<Vec<Arrival>> = vec![Vec::new(); self.outcomes.len()];
        for arrival in &self.arrivals {
            attempts[arrival.request].push(*arrival);
        }
        for (request, (outcome, attempts)) in self.outcomes.iter().zip(&attempts).enumerate() {
            let refused = |arrival: &Arrival| arrival.status == StatusCode::UNAUTHORIZED;
            let (last, before) = match attempts.split_last() {
                Some((last, before)) => (Some(last), before),
                None => (None, [].as_slice()),
            };
            let replay_justified = before.iter().all(refused)
                && before
                    .iter()
                    .all(|arrival| Some(arrival.key) != last.map(|last| last.key));
            let told_the_truth = match outcome {
                None => false,
                Some(Outcome::Answered(status) | Outcome::Cut(status)) => {
                    last.is_some_and(|last| last.status == *status)
                }
                Some(Outcome::Denied) => last.is_some_and(refused),
                Some(Outcome::Failed | Outcome::TimedOut | Outcome::Cancelled) => true,
            };
            if attempts.len() > 2 || !replay_justified || !told_the_truth {
                violations.push(format!("request {request}: {outcome:?} after {attempts:?}"));
            }
        }
        if self
            .recovered_after
            .is_none_or(|recovered_after| recovered_after > RECOVERY)
        {
            violations.push(format!(
                "no request succeeds within {RECOVERY:?} of the last fault: key {:?} is in force, {} is valid",
                self.model.in_force, self.newest
            ));
        }
        violations.append(&mut self.model.violations);
        self.violations.append(&mut violations);
    }

    fn tally(&mut self, simulated: Duration, faults: u64) -> Tally {
        let mut tally = std::mem::take(&mut self.model.tally);
        tally.add("seeds", 1);
        tally.add("simulated seconds", simulated.as_secs());
        tally.add("faults", faults);
        tally.add("rotations", self.newest - 1);
        tally.add("requests", self.outcomes.len() as u64);
        for outcome in self.outcomes.iter().flatten() {
            let name = match outcome {
                Outcome::Answered(_) => "answered",
                Outcome::Denied => "denied",
                Outcome::Failed | Outcome::TimedOut | Outcome::Cut(_) => "failed",
                Outcome::Cancelled => "cancelled",
            };
            tally.add(name, 1);
        }
        let arrivals = self.arrivals.iter();
        let arrived: BTreeSet<_> = arrivals.map(|arrival| arrival.request).collect();
        tally.add("replays", (self.arrivals.len() - arrived.len()) as u64);
        tally
    }
}

fn generation(key: &str) -> Option<u64> {
    let generation = key.strip_prefix("ak_")?.split_once('.')?.0.parse().ok()?;
    (campaigns::key(generation) == key).then_some(generation)
}

// ---- The store's contract, as a model that is told what happens and objects ----

#[derive(Default)]
struct Model {
    /// The generation in force, once a first fetch has succeeded, and the one before it.
    in_force: Option<u64>,
    replaced: Option<u64>,
    version: u64,
    flight: Option<Flight>,
    /// What the last fetch brought, if that can be taken.
    offered: Option<u64>,
    tally: Tally,
    violations: Vec<String>,
}

#[derive(Debug, Clone, Copy)]
struct Flight {
    began: Instant,
    /// What was in force then.
    version: u64,
}

impl Model {
    fn begin(&mut self, now: Instant) {
        self.tally.add("fetches", 1);
        let number = self.tally.count("fetches");
        let flight = Flight {
            began: now,
            version: self.version,
        };
        if self.flight.replace(flight).is_some() {
            self.violations
                .push(format!("fetch {number} overlaps another"));
        }
    }

    fn end(&mut self, now: Instant, fetched: Option<u64>) {
        let flight = self.flight.take();
        let took = flight.map(|flight| now.duration_since(flight.began));
        if took.is_none_or(|took| took > FETCH + MARGIN) {
            self.violations.push(format!("a fetch took {took:?}"));
        }
        if fetched.is_none() {
            self.tally.add("failed fetches", 1);
        } else if self.in_force.is_none() {
            (self.in_force, self.version) = (fetched, 1);
        } else if flight.is_some_and(|flight| flight.version == self.version) {
            // Not taken if `rotate` came in between.
            self.offered = fetched.filter(|_| fetched != self.in_force);
        }
    }

    fn abandon(&mut self) {
        self.tally.add("abandoned fetches", 1);
        self.flight = None;
    }

    fn rotate(&mut self, generation: u64) {
        self.replaced = self.in_force.replace(generation);
        self.version += 1;
    }

    /// Looks at whether the store has taken what the last fetch brought. It may leave out only what it has just replaced.
    fn catch_up(&mut self, store: &CredentialStore) {
        let Some(offered) = self.offered.take() else {
            return;
        };
        if store.version() > self.version {
            self.rotate(offered);
        } else if self.replaced != Some(offered) {
            self.violations.push(format!("{offered} was not taken"));
        } else {
            self.tally.add("left out", 1);
        }
    }

    fn compare(&mut self, store: &CredentialStore) {
        self.catch_up(store);
        let in_force = self
            .in_force
            .map(|generation| Credential::parse(key(generation)).unwrap().id().to_string());
        let credential = store.credential().id().to_string();
        if Some(&credential) != in_force.as_ref() || store.version() != self.version {
            self.violations.push(format!(
                "{credential} is in force as version {}, where {in_force:?} should be as {}",
                store.version(),
                self.version
            ));
        }
    }
}

/// The source of the store: it asks the token service over the network, and tells the model.
struct Source(Shared);

impl CredentialSource for Source {
    async fn fetch(&self) -> Result<Credential, BoxError> {
        let fetch = Fetch::begin(&self.0);
        if self.0.lock().source_panics {
            // As a panic, but without a message for each.
            resume_unwind(Box::new("the source panics"));
        }
        let key = ask_token_service().await?;
        let credential = Credential::parse(key.clone())?;
        fetch.succeeded(generation(key.trim()).unwrap_or(u64::MAX));
        Ok(credential)
    }
}

/// A fetch that is under way, until it is dropped.
struct Fetch {
    scene: Shared,
    fetched: Option<u64>,
}

impl Fetch {
    fn begin(scene: &Shared) -> Self {
        scene.lock().compare();
        scene.lock().model.begin(Instant::now());
        Self {
            scene: scene.clone(),
            fetched: None,
        }
    }

    fn succeeded(mut self, generation: u64) {
        self.fetched = Some(generation);
    }
}

impl Drop for Fetch {
    fn drop(&mut self) {
        let mut scene = self.scene.lock();
        if scene.crashing {
            scene.model.abandon();
        } else {
            scene.model.end(Instant::now(), self.fetched);
        }
    }
}

async fn ask_token_service() -> Result<String, BoxError> {
    let stream = TcpStream::connect(("tokens", 80)).await?;
    let (mut connection, driver) = Connection::handshake(stream, Version::HTTP_11).await?;
    // Ends with this fetch.
    let mut drivers = JoinSet::new();
    drivers.spawn(driver);
    let request = Request::get("http://tokens/key").body(Full::<Bytes>::default())?;
    let response = connection.call(request).await?;
    if response.status() != StatusCode::OK {
        return Err(response.status().to_string().into());
    }
    let body = response.into_body().collect().await?.to_bytes();
    Ok(String::from_utf8(body.into())?)
}

// ---- The hosts ----

/// Serves HTTP/1 and HTTP/2 on port 80, until it crashes.
async fn serve<F, A>(scene: Shared, answer: F) -> turmoil::Result
where
    F: Fn(Shared, Request<Incoming>) -> A + Clone + Send + Sync + 'static,
    A: Future<Output = Response<String>> + Send + 'static,
{
    let listener = TcpListener::bind((Ipv4Addr::UNSPECIFIED, 80)).await?;
    loop {
        let (stream, _) = listener.accept().await?;
        let (scene, answer) = (scene.clone(), answer.clone());
        let answer = move |request| answer(scene.clone(), request);
        tokio::spawn(serve_connection(stream, answer));
    }
}

/// Judges by the keys that are valid now.
async fn answer_as_api(scene: Shared, request: Request<Incoming>) -> Response<String> {
    let mut scene = scene.lock();
    let headers = request.headers();
    let id: usize = headers["x-request-id"].to_str().unwrap().parse().unwrap();
    let mut sent = headers.get_all(AUTHORIZATION).iter();
    let key = sent
        .next()
        .and_then(|sent| generation(sent.to_str().ok()?.strip_prefix("Bearer ")?))
        .filter(|key| *key <= scene.newest && sent.next().is_none());
    let Some(key) = key else {
        scene
            .violations
            .push(format!("request {id} came without a key of ours"));
        return answer(StatusCode::BAD_REQUEST, "");
    };
    let status = match scene.api {
        ApiMood::Fails => StatusCode::SERVICE_UNAVAILABLE,
        ApiMood::Refuses { one_in } if (scene.arrivals.len() as u64).is_multiple_of(one_in) => {
            StatusCode::UNAUTHORIZED
        }
        _ if scene.valid.contains(&key) => StatusCode::OK,
        _ => StatusCode::UNAUTHORIZED,
    };
    scene.arrivals.push(Arrival {
        request: id,
        key,
        status,
    });
    let body = match status {
        StatusCode::UNAUTHORIZED => r#"{"detail": "Invalid API key"}"#,
        _ => "{}",
    };
    answer(status, body)
}

async fn answer_as_token_service(scene: Shared, _: Request<Incoming>) -> Response<String> {
    let (mood, newest) = {
        let scene = scene.lock();
        (scene.tokens, scene.newest)
    };
    match mood {
        TokenMood::Gives => answer(StatusCode::OK, &key(newest)),
        TokenMood::LagsBehind => answer(StatusCode::OK, &key(newest.max(2) - 1)),
        TokenMood::Fails => answer(StatusCode::INTERNAL_SERVER_ERROR, &key(newest)),
        TokenMood::Hangs => pending().await,
        TokenMood::TalksNonsense(which) => answer(StatusCode::OK, NONSENSE[which]),
    }
}

/// Shares the client's store, refreshes it now and then, and crashes while it does.
async fn neighbour(scene: Shared, mut dice: Random) -> turmoil::Result {
    loop {
        sleep(dice.duration(500..3_000)).await;
        let store = scene.lock().store.clone();
        if let Some(store) = store {
            scene.lock().neighbour_asks = true;
            drop(store.refresh().await);
            scene.lock().neighbour_asks = false;
        }
    }
}

async fn client(scene: Shared, mut dice: Random, version: Version) -> turmoil::Result {
    let start = Instant::now();
    let tasks_before = alive_tasks();
    let interval = dice.one_in(3).then(|| dice.duration(1_000..20_000));
    let store = loop {
        let mut loader = CredentialStore::loader(Source(scene.clone())).timeout(FETCH);
        if let Some(interval) = interval {
            loader = loader.refresh_every(interval);
        }
        match loader.load().await {
            Ok(store) => break store,
            Err(_) => sleep(Duration::from_millis(250)).await,
        }
    };
    scene.lock().store = Some(store.clone());
    let stack = ServiceBuilder::new()
        .layer(TimeoutLayer::new(TOTAL))
        .retry(RefreshPolicy::new())
        .layer(
            AnyreachAuthLayer::new(store.clone())
                .origin(Origin::insecure("http://api:80").unwrap()),
        )
        .layer(TimeoutLayer::new(ATTEMPT))
        .service(Connections {
            version,
            drivers: Arc::default(),
        });

    let mut workers = JoinSet::new();
    for _ in 0..WORKERS {
        let (stack, scene) = (stack.clone(), scene.clone());
        let mut dice = Random(dice.next());
        workers.spawn(async move {
            while start.elapsed() < CALM {
                sleep(dice.duration(0..2_000)).await;
                let cancelled_after = dice.one_in(20).then(|| dice.duration(0..1_000));
                request(&stack, &scene, &mut dice, cancelled_after).await;
            }
        });
    }
    workers.join_all().await;
    let calm = start + CALM;
    sleep_until(calm).await;
    loop {
        let outcome = request(&stack, &scene, &mut dice, None).await;
        let recovered_after = calm.elapsed();
        if outcome == Outcome::Answered(StatusCode::OK) {
            scene.lock().recovered_after = Some(recovered_after);
            break;
        }
        if recovered_after > RECOVERY {
            break;
        }
        sleep(Duration::from_millis(500)).await;
    }
    while scene.lock().recovered_after.is_some() && start.elapsed() < LENGTH {
        let outcome = request(&stack, &scene, &mut dice, None).await;
        if outcome != Outcome::Answered(StatusCode::OK) {
            scene.violation(format!("{outcome:?} after the recovery"));
        }
        sleep(dice.duration(0..1_000)).await;
    }

    // Whatever is fetched now may end.
    drop(stack);
    let landed = Instant::now() + FETCH + MARGIN;
    while scene.lock().model.flight.is_some() && Instant::now() < landed {
        sleep(Duration::from_millis(10)).await;
    }
    scene.lock().model.compare(&store);
    let shared = scene.lock().store.take();
    drop((store, shared));
    sleep(Duration::from_millis(100)).await;
    let left = alive_tasks() - tasks_before;
    if left > 0 {
        scene.violation(format!("{left} tasks are left"));
    }
    Ok(())
}

fn alive_tasks() -> usize {
    Handle::current().metrics().num_alive_tasks()
}

/// Sends one request, and enters what becomes of it.
async fn request<S>(
    stack: &S,
    scene: &Shared,
    dice: &mut Random,
    cancelled_after: Option<Duration>,
) -> Outcome
where
    S: Service<Request<Full<Bytes>>, Response = Response<Incoming>, Error = BoxError> + Clone,
{
    let id = scene.lock().issue();
    let (method, body) = if dice.one_in(2) {
        (Method::POST, r#"{"to": "+15550100"}"#)
    } else {
        (Method::GET, "")
    };
    let request = Request::builder()
        .method(method)
        .uri("http://api/core/agents")
        .header("x-request-id", id)
        .body(Full::from(body))
        .unwrap();
    let began = Instant::now();
    let answer = timeout(
        cancelled_after.unwrap_or(Duration::MAX),
        stack.clone().oneshot(request),
    )
    .await;
    if began.elapsed() > TOTAL + MARGIN {
        let took = began.elapsed();
        scene.violation(format!("request {id} took {took:?}"));
    }
    let outcome = match answer {
        Err(_) => Outcome::Cancelled,
        Ok(Ok(response)) => {
            let status = response.status();
            match timeout(ATTEMPT, response.into_body().collect()).await {
                Ok(Ok(_)) => Outcome::Answered(status),
                _ => Outcome::Cut(status),
            }
        }
        Ok(Err(error)) if error.is::<Elapsed>() => Outcome::TimedOut,
        Ok(Err(error)) => match error.downcast_ref() {
            Some(Error::Unauthorized(_)) => Outcome::Denied,
            Some(Error::Service(_)) => Outcome::Failed,
            _ => {
                scene.violation(format!("request {id} failed with {error:?}"));
                Outcome::Failed
            }
        },
    };
    scene.lock().close(id, outcome);
    outcome
}

/// Connects to the API for each request, so that no connection outlives a fault.
#[derive(Clone)]
struct Connections {
    version: Version,
    /// These end with the last clone, if not by themselves.
    drivers: Arc<Mutex<JoinSet<hyper::Result<()>>>>,
}

impl Connections {
    async fn send(self, request: Request<Full<Bytes>>) -> Result<Response<Incoming>, BoxError> {
        let stream = TcpStream::connect(("api", 80)).await?;
        let (mut connection, driver) = Connection::handshake(stream, self.version).await?;
        self.drivers.lock().unwrap().spawn(driver);
        Ok(connection.call(request).await?)
    }
}

impl Service<Request<Full<Bytes>>> for Connections {
    type Response = Response<Incoming>;
    type Error = BoxError;
    type Future = Pin<Box<dyn Future<Output = Result<Response<Incoming>, BoxError>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Full<Bytes>>) -> Self::Future {
        Box::pin(self.clone().send(request))
    }
}

// ---- What goes wrong, and when ----

/// What is done to the network, to the hosts and to the keys.
struct Plan {
    /// Latest first.
    acts: Vec<(Duration, Act)>,
    /// When the neighbour is to crash, as soon as it fetches.
    crash_of_neighbour: Option<Duration>,
    faults: u64,
}

#[derive(Debug, Clone, Copy)]
enum Act {
    Fault(Fault),
    Undo(Fault),
    /// The operator makes a key, and may put it in force in the client right away.
    CreateKey {
        pushed: bool,
    },
    DeleteOldKeys,
}

#[derive(Debug, Clone, Copy)]
enum Fault {
    Partition(Link),
    OnewayPartition(Link),
    Hold(Link),
    Latency(Link, Duration),
    Crash(&'static str),
    /// A restart without any time in between.
    Bounce(&'static str),
    Api(ApiMood),
    Tokens(TokenMood),
    SourcePanics,
}

type Link = (&'static str, &'static str);

const LINKS: [Link; 6] = [
    ("client", "api"),
    ("api", "client"),
    ("client", "tokens"),
    ("tokens", "client"),
    ("neighbour", "tokens"),
    ("tokens", "neighbour"),
];

impl Plan {
    fn draw(dice: &mut Random) -> Self {
        let mut acts = Vec::new();
        let mut faults = 0;
        let mut at = Duration::ZERO;
        while at < CALM {
            let fault = Fault::draw(dice);
            let undone = at + dice.skewed_duration(200, 5);
            if undone < CALM {
                faults += 1;
                acts.extend([(at, Act::Fault(fault)), (undone, Act::Undo(fault))]);
            }
            at += dice.duration(200..2_000);
        }
        let mut at = dice.duration(500..8_000);
        while at < CALM {
            let pushed = dice.one_in(3);
            // Not after the last fault: a key that is deleted while the source rests would be missed.
            let deleted = (at + dice.duration(0..3_000)).min(CALM.saturating_sub(TICK));
            acts.extend([
                (at, Act::CreateKey { pushed }),
                (deleted, Act::DeleteOldKeys),
            ]);
            at += dice.duration(500..6_000);
        }
        acts.sort_by_key(|(at, _)| std::cmp::Reverse(*at));
        Self {
            acts,
            crash_of_neighbour: Some(dice.duration(5_000..70_000)),
            // The crash of the neighbour is one more.
            faults: faults + 1,
        }
    }

    /// Does what is due.
    fn act(&mut self, sim: &mut Sim<'_>, scene: &Shared) {
        let now = sim.elapsed();
        while let Some((_, act)) = self.acts.pop_if(|(at, _)| *at <= now) {
            match act {
                Act::Fault(fault) => fault.begin(sim, scene),
                Act::Undo(fault) => fault.end(sim, scene),
                Act::CreateKey { pushed } => scene.lock().create_key(pushed),
                Act::DeleteOldKeys => scene.lock().delete_old_keys(),
            }
        }
        let (due, late) = (self.crash_of_neighbour, now >= CALM);
        if due.is_some_and(|due| due <= now && (late || scene.lock().neighbour_fetches())) {
            self.crash_of_neighbour = None;
            scene.lock().crashing = true;
            sim.crash("neighbour");
            scene.lock().crashing = false;
        }
    }
}

impl Fault {
    fn draw(dice: &mut Random) -> Self {
        let link = dice.pick(&LINKS);
        let host = dice.pick(&["api", "tokens"]);
        let nonsense = dice.index(NONSENSE.len());
        match dice.below(12) {
            0 => Self::Partition(link),
            1 => Self::OnewayPartition(link),
            2 => Self::Hold(link),
            3 | 4 => Self::Latency(
                link,
                dice.skewed_duration(1, 11).min(Duration::from_secs(2)),
            ),
            5 => Self::Crash(host),
            6 => Self::Bounce(host),
            7 | 8 => Self::Api(dice.pick(&[
                ApiMood::Refuses { one_in: 1 },
                ApiMood::Refuses { one_in: 2 },
                ApiMood::Refuses { one_in: 5 },
                ApiMood::Fails,
            ])),
            9 | 10 => Self::Tokens(dice.pick(&[
                TokenMood::LagsBehind,
                TokenMood::Fails,
                TokenMood::Hangs,
                TokenMood::TalksNonsense(nonsense),
            ])),
            _ => Self::SourcePanics,
        }
    }

    fn begin(self, sim: &mut Sim<'_>, scene: &Shared) {
        match self {
            Self::Partition((a, b)) => sim.partition(a, b),
            Self::OnewayPartition((from, to)) => sim.partition_oneway(from, to),
            Self::Hold((a, b)) => sim.hold(a, b),
            Self::Latency((a, b), latency) => sim.set_link_latency(a, b, latency),
            Self::Crash(host) => sim.crash(host),
            Self::Bounce(host) => sim.bounce(host),
            Self::Api(mood) => scene.lock().api = mood,
            Self::Tokens(mood) => scene.lock().tokens = mood,
            Self::SourcePanics => scene.lock().source_panics = true,
        }
    }

    fn end(self, sim: &mut Sim<'_>, scene: &Shared) {
        match self {
            Self::Partition((a, b)) | Self::OnewayPartition((a, b)) => sim.repair(a, b),
            Self::Hold((a, b)) => sim.release(a, b),
            Self::Latency((a, b), _) => sim.set_link_latency(a, b, Duration::from_millis(5)),
            Self::Crash(host) if !sim.is_host_running(host) => sim.bounce(host),
            Self::Crash(_) | Self::Bounce(_) => {}
            Self::Api(_) => scene.lock().api = ApiMood::Fair,
            Self::Tokens(_) => scene.lock().tokens = TokenMood::Gives,
            Self::SourcePanics => scene.lock().source_panics = false,
        }
    }
}
