//! Callers that are cancelled at any moment: nothing gets stuck, and nothing is left behind.

use std::future::poll_fn;

use tokio::join;
use tokio::task::JoinHandle;

use crate::prelude::*;
use crate::scripted::Client;
use support::runtime::paused;

type Refreshed = Result<tower_anyreach::Refreshed, SourceError>;

/// How long each fetch may take here.
const LIMIT: Duration = SECOND;

/// A store whose credential has just been revoked, its source, its server, and other callers of the store.
#[derive(Clone)]
struct World {
    store: CredentialStore,
    script: Script,
    server: Server,
    client: Client,
    others: Arc<Mutex<Vec<JoinHandle<Refreshed>>>>,
}

impl World {
    async fn new(fetch: Fetch, delay: u64) -> Self {
        let script = Script::new(fetch);
        script.delay(delay);
        let store = script.store_with_limit(LIMIT).await;
        let server = Server::accepting(&["v2"]);
        Self {
            client: client(&store, server.clone()),
            others: Arc::default(),
            store,
            script,
            server,
        }
    }

    async fn refresh(&self) {
        drop(self.store.refresh().await);
    }

    async fn request(&self) {
        self.request_through(&self.client).await;
    }

    /// Sends a request; what comes of it does not matter.
    async fn request_through<S: Service<Request<String>> + Clone>(&self, client: &S) {
        drop(client.clone().oneshot(get_agents()).await);
    }

    /// Adds another caller that refreshes, and is not cancelled.
    fn spawn_other(&self) {
        let store = self.store.clone();
        let other = tokio::spawn(async move { store.refresh().await });
        self.others.lock().unwrap().push(other);
    }

    /// Asserts that all other callers are answered, that refreshes and requests succeed, and that no task is left.
    async fn assert_healthy(self, name: &str) {
        // A caller that comes now waits for the fetch in flight and one more at most.
        self.spawn_other();
        let others = std::mem::take(&mut *self.others.lock().unwrap());
        for other in others {
            // An error is an answer too.
            let answered = timeout(2 * (LIMIT + MILLI * 100), other).await;
            let answered = answered.unwrap_or_else(|_| panic!("{name}: a caller waits for ever"));
            drop(answered.expect(name));
        }
        self.script.set(Fetch::Gives("healthy"));
        self.script.delay(10);
        self.server.accept_only(&["healthy"]);
        self.server.release();
        // The longest rest.
        sleep(SECOND * 8).await;
        let fetches = self.script.fetches();
        let refresh = || timeout(SECOND, self.store.refresh());
        let (first, second, third) = join!(refresh(), refresh(), refresh());
        for outcome in [first, second, third] {
            let outcome = outcome.unwrap_or_else(|_| panic!("{name}: the store is stuck"));
            outcome.unwrap_or_else(|error| panic!("{name}: {error}"));
        }
        // One for the first, and one for both that called meanwhile.
        assert_eq!(self.script.fetches(), fetches + 2, "{name}");
        assert_eq!(self.script.most_in_flight(), 1, "{name}");
        assert_in_force(&self.store, "healthy");
        let call = self.client.clone().oneshot(get_agents());
        let response = timeout(SECOND, call).await.unwrap().unwrap();
        assert_eq!(response.status(), StatusCode::OK, "{name}");

        drop(self);
        settle().await;
        assert_eq!(tasks(), 0, "{name}: a task is left");
    }
}

/// What a caller does that may be cancelled in the middle of it.
const ACTS: &str = "a refresh | a refresh that others wait for | a refresh that waits for another's | three refreshes at once | \
    refreshes in a row | a refresh that a rotation supersedes | a refresh under its caller's time limit | \
    the loading of another store | polling of another store | the drop of a store beside a refresh | a request | \
    a request that others wait with | three requests at once | requests in a row | a request beside a rotation | \
    a request through nested policies | a request under a time limit | requests through buffer and limit | \
    requests in a limit around it all";

async fn act(name: &str, world: World) {
    let auth = AnyreachAuthLayer::new(world.store.clone());
    match name {
        "a refresh" => world.refresh().await,
        "a refresh that others wait for" => {
            join!(world.refresh(), async {
                for store in [world.store.clone(), world.store.clone()] {
                    drop(tokio::spawn(async move { store.refresh().await }));
                }
            });
        }
        "a refresh that waits for another's" => {
            world.spawn_other();
            yield_now().await;
            world.refresh().await;
        }
        "three refreshes at once" => {
            join!(world.refresh(), world.refresh(), world.refresh());
        }
        "refreshes in a row" => {
            for _ in 0..3 {
                world.refresh().await;
                sleep(MILLI * 300).await;
            }
        }
        "a refresh that a rotation supersedes" => {
            join!(world.refresh(), async {
                sleep(MILLI * 50).await;
                world.store.rotate(key_of("byhand"));
            });
        }
        "a refresh under its caller's time limit" => {
            drop(timeout(MILLI * 50, world.refresh()).await);
        }
        "the loading of another store" => {
            let loader = CredentialStore::loader(world.script.clone());
            drop(loader.timeout(LIMIT).load().await);
        }
        "polling of another store" => {
            let loader = CredentialStore::loader(world.script.clone()).timeout(LIMIT);
            let _store = loader.refresh_every(MILLI * 400).load().await;
            sleep(MILLI * 1_600).await;
        }
        "the drop of a store beside a refresh" => {
            let clone = world.store.clone();
            join!(world.refresh(), async {
                sleep(MILLI * 50).await;
                drop(clone);
            });
        }
        "a request" => world.request().await,
        "a request that others wait with" => {
            world.spawn_other();
            world.request().await;
        }
        "three requests at once" => {
            join!(world.request(), world.request(), world.request());
        }
        "requests in a row" => {
            for _ in 0..4 {
                world.request().await;
            }
        }
        "a request beside a rotation" => {
            world.server.hold();
            join!(world.request(), async {
                sleep(MILLI * 20).await;
                world.store.rotate(key_of("v2"));
                world.server.release();
            });
        }
        "a request through nested policies" => {
            let client = replaying(world.client.clone());
            world.request_through(&client).await;
        }
        "a request under a time limit" => {
            let inner = ServiceBuilder::new().timeout(SECOND);
            let client = replaying(inner.service(auth.layer(world.server.clone())));
            let client = ServiceBuilder::new().timeout(MILLI * 50).service(client);
            world.request_through(&client).await;
        }
        "requests through buffer and limit" => {
            let limited = ServiceBuilder::new().buffer(2).concurrency_limit(1);
            let client = replaying(limited.service(auth.layer(world.server.clone())));
            let call = || world.request_through(&client);
            join!(call(), call(), call());
        }
        "requests in a limit around it all" => {
            let limit = ServiceBuilder::new().concurrency_limit(1);
            let client = limit.service(world.client.clone());
            let call = || world.request_through(&client);
            join!(call(), call());
        }
        unknown => panic!("{unknown}"),
    }
}

/// What the source does meanwhile, and after how many milliseconds.
const SOURCES: &[(Fetch, u64)] = &[
    (Fetch::Gives("v2"), 0),
    (Fetch::Gives("v2"), 100),
    (Fetch::Gives("v1"), 100),
    (Fetch::GivesFresh, 30),
    (Fetch::Fails, 0),
    (Fetch::Fails, 100),
    (Fetch::Hangs, 0),
    (Fetch::PanicsAtOnce, 0),
    (Fetch::PanicsLater, 30),
];

/// Drops the future after that many polls: at once, or when it has been woken. Returns whether it ended before.
async fn drop_after(mut polls: u32, is_woken: bool, future: impl Future<Output = ()>) -> bool {
    let mut future = Box::pin(future);
    poll_fn(|cx| {
        if polls == 0 {
            return Poll::Ready(false);
        }
        polls -= 1;
        match future.as_mut().poll(cx) {
            Poll::Ready(()) => Poll::Ready(true),
            Poll::Pending if polls == 0 && !is_woken => Poll::Ready(false),
            Poll::Pending => Poll::Pending,
        }
    })
    .await
}

/// Runs the scenario once for each moment in it, and returns how many there were.
fn cancel_everywhere(act_name: &str, (fetch, delay): (Fetch, u64)) -> usize {
    let mut points = 0;
    for number in 0.. {
        assert!(number < 1_000, "{act_name} never ends");
        let mut ended = true;
        for is_woken in [false, true] {
            let source = format!("{fetch:?} in {delay} ms");
            let name = format!("{act_name}, {source}, poll {number}, woken: {is_woken}");
            ended &= paused().block_on(async {
                let world = World::new(fetch, delay).await;
                let act = act(act_name, world.clone());
                let ended = drop_after(number, is_woken, act).await;
                world.assert_healthy(&name).await;
                ended
            });
            points += 1;
        }
        if ended {
            break;
        }
    }
    points
}

#[test]
fn a_future_dropped_at_any_poll_or_wake_leaves_the_store_usable_and_no_task_behind() {
    let acts: Vec<_> = ACTS.split(" | ").collect();
    let mut points = 0;
    for act in &acts {
        for source in SOURCES {
            points += cancel_everywhere(act, *source);
        }
    }
    assert!(acts.len() * SOURCES.len() >= 150);
    assert!(points >= 1_000, "{points} points in all");
}

#[test]
fn an_undisturbed_scenario_is_polled_more_than_once() {
    // Otherwise the harness would drop nothing in the middle.
    let polls = |act| cancel_everywhere(act, (Fetch::Gives("v2"), 100)) / 2;
    assert!(polls("a refresh") >= 3);
    assert!(polls("refreshes in a row") >= 6);
}
