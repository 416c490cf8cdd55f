//! Going away at any moment, and failing at any step: nothing gets stuck, nothing is left behind.

use std::collections::{HashMap, HashSet};
use std::future::{pending, poll_fn};
use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::task::Poll;
use std::time::Duration;

use http::{Request, StatusCode};
use tokio::task::{JoinHandle, JoinSet, yield_now};
use tokio::time::{sleep, timeout};
use tower::{Service, ServiceBuilder, ServiceExt};
use tower_anyreach::retry::RefreshPolicy;
use tower_anyreach::{
    AnyreachAuthLayer, BoxError, CredentialSource, CredentialStore, Error, SourceError,
};

use crate::scripted::{
    Client, Fetch, Script, Server, assert_in_force, client, key_of, panic_quietly, paused, settle,
    tasks,
};
use support::{MILLI, SECOND, get_agents, now};

/// How long each fetch may take here.
const LIMIT: Duration = SECOND;

/// A store whose credential has just been revoked, its source, its server, and those who also want something of it.
struct World {
    store: CredentialStore,
    script: Script,
    server: Server,
    others: Mutex<Vec<JoinHandle<Result<(), SourceError>>>>,
}

impl World {
    async fn new(fetch: Fetch, takes: u64) -> Self {
        let script = Script::new(fetch);
        script.take(takes);
        let store = script.store_with_limit(LIMIT).await;
        Self {
            store,
            script,
            server: Server::accepting(&["v2"]),
            others: Mutex::default(),
        }
    }

    /// Another caller who refreshes, from now on, and stays.
    fn spawn_other(&self) {
        let store = self.store.clone();
        let other = tokio::spawn(async move { store.refresh().await.map(drop) });
        self.others.lock().unwrap().push(other);
    }

    /// Whatever happened: who waits is woken, a refresh and a request come through, and no task is left.
    async fn assert_healthy(self, name: &str) {
        // A caller who comes now waits no longer than for the fetch in flight and one more.
        self.spawn_other();
        let others = std::mem::take(&mut *self.others.lock().unwrap());
        for other in others {
            // Failing is an answer too.
            drop(
                timeout(2 * (LIMIT + MILLI * 100), other)
                    .await
                    .unwrap_or_else(|_| panic!("{name}: somebody waits for ever"))
                    .unwrap_or_else(|_| panic!("{name}: somebody panicked")),
            );
        }

        self.script.tell(Fetch::Gives("healthy"));
        self.script.take(10);
        self.server.accept_only(&["healthy"]);
        self.server.let_out();
        // The longest rest.
        sleep(SECOND * 8).await;
        let fetches = self.script.fetches();
        let refreshes = (0..3).map(|_| {
            let store = self.store.clone();
            async move { store.refresh().await }
        });
        let outcomes = timeout(SECOND, refreshes.collect::<JoinSet<_>>().join_all()).await;
        for outcome in outcomes.unwrap_or_else(|_| panic!("{name}: the store is stuck")) {
            outcome.unwrap_or_else(|error| panic!("{name}: {error}"));
        }
        // The first one's, and one for both who called meanwhile.
        assert_eq!(self.script.fetches(), fetches + 2, "{name}");
        assert_eq!(self.script.most_in_flight(), 1, "{name}");
        assert_in_force(&self.store, "healthy");
        let call = client(&self.store, self.server.clone()).oneshot(get_agents());
        let response = timeout(SECOND, call).await.unwrap().unwrap();
        assert_eq!(response.status(), StatusCode::OK, "{name}");

        drop(self);
        settle().await;
        assert_eq!(tasks(), 0, "{name}: a task is left");
    }
}

/// One future, which may be dropped at any moment.
type Doing = Pin<Box<dyn Future<Output = ()>>>;
type Act = fn(&World, CredentialStore, Client) -> Doing;

/// What somebody does who may go away in the middle of it. What comes of it is not asked.
const ACTS: &[(&str, Act)] = &[
    ("a refresh", |_, store, _| {
        Box::pin(async move { drop(store.refresh().await) })
    }),
    ("a refresh that others wait for", |_, store, _| {
        Box::pin(async move {
            drop(tokio::join!(store.refresh(), async {
                for store in [store.clone(), store.clone()] {
                    drop(tokio::spawn(async move { store.refresh().await }));
                }
            }));
        })
    }),
    ("a refresh that waits for another's", |world, store, _| {
        world.spawn_other();
        Box::pin(async move {
            yield_now().await;
            drop(store.refresh().await);
        })
    }),
    ("three refreshes at once", |_, store, _| {
        Box::pin(async move {
            drop(tokio::join!(
                store.refresh(),
                store.refresh(),
                store.refresh()
            ));
        })
    }),
    ("refreshes in a row", |_, store, _| {
        Box::pin(async move {
            for _ in 0..3 {
                drop(store.refresh().await);
                sleep(MILLI * 300).await;
            }
        })
    }),
    ("a refresh that a rotation outdoes", |_, store, _| {
        Box::pin(async move {
            drop(tokio::join!(store.refresh(), async {
                sleep(MILLI * 50).await;
                store.rotate(key_of("byhand"));
            }));
        })
    }),
    (
        "a refresh under a time limit of its caller's",
        |_, store, _| Box::pin(async move { drop(timeout(MILLI * 50, store.refresh()).await) }),
    ),
    ("the loading of another store", |world, _, _| {
        let source = world.script.clone();
        Box::pin(async move {
            drop(CredentialStore::loader(source).timeout(LIMIT).load().await);
        })
    }),
    ("polling of another store", |world, _, _| {
        let source = world.script.clone();
        Box::pin(async move {
            let loader = CredentialStore::loader(source).timeout(LIMIT);
            let store = loader.refresh_every(MILLI * 400).load().await;
            sleep(MILLI * 1_600).await;
            drop(store);
        })
    }),
    ("the drop of a store beside a refresh", |_, store, _| {
        let clone = store.clone();
        Box::pin(async move {
            drop(tokio::join!(store.refresh(), async {
                sleep(MILLI * 50).await;
                drop(clone);
            }));
        })
    }),
    ("a request", |_, _, client| {
        Box::pin(async move { drop(client.oneshot(get_agents()).await) })
    }),
    ("a request that others wait with", |world, _, client| {
        world.spawn_other();
        Box::pin(async move { drop(client.oneshot(get_agents()).await) })
    }),
    ("three requests at once", |_, _, client| {
        Box::pin(async move {
            let call = || client.clone().oneshot(get_agents());
            drop(tokio::join!(call(), call(), call()));
        })
    }),
    ("requests in a row", |_, _, client| {
        Box::pin(async move {
            for _ in 0..4 {
                drop(client.clone().oneshot(get_agents()).await);
            }
        })
    }),
    ("a request beside a rotation", |world, store, client| {
        let server = world.server.clone();
        Box::pin(async move {
            server.hold();
            drop(tokio::join!(client.oneshot(get_agents()), async {
                sleep(MILLI * 20).await;
                store.rotate(key_of("v2"));
                server.let_out();
            }));
        })
    }),
    ("a request through nested policies", |_, _, client| {
        let client = ServiceBuilder::new()
            .retry(RefreshPolicy::new())
            .service(client);
        Box::pin(async move { drop(client.oneshot(get_agents()).await) })
    }),
    ("a request under a time limit", |world, store, _| {
        let client = ServiceBuilder::new()
            .timeout(MILLI * 50)
            .retry(RefreshPolicy::new())
            .timeout(SECOND)
            .layer(AnyreachAuthLayer::new(store.clone()))
            .service(world.server.clone());
        Box::pin(async move { drop(client.oneshot(get_agents()).await) })
    }),
    ("requests through buffer and limit", |world, store, _| {
        let client = ServiceBuilder::new()
            .retry(RefreshPolicy::new())
            .buffer(2)
            .concurrency_limit(1)
            .layer(AnyreachAuthLayer::new(store.clone()))
            .service(world.server.clone());
        Box::pin(async move {
            let call = || client.clone().oneshot(get_agents());
            drop(tokio::join!(call(), call(), call()));
        })
    }),
    ("a request in a limit around it all", |_, _, client| {
        let client = ServiceBuilder::new().concurrency_limit(1).service(client);
        Box::pin(async move {
            let call = || client.clone().oneshot(get_agents());
            drop(tokio::join!(call(), call()));
        })
    }),
];

/// What the source does meanwhile, and how many milliseconds it takes for it.
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

/// Where the future is dropped: right after its nth poll, or when it has been woken after that, before it can see why.
#[derive(Debug, Clone, Copy)]
enum Moment {
    AfterPoll(u32),
    AfterWake(u32),
}

/// Polls the future until that moment, and drops it there. Gives whether it ended before.
async fn drop_at(moment: Moment, mut future: Doing) -> bool {
    let mut polls = 0;
    poll_fn(|cx| {
        let (last, woken) = match moment {
            Moment::AfterPoll(last) => (last, false),
            Moment::AfterWake(last) => (last, true),
        };
        if polls == last && (last == 0 || woken) {
            return Poll::Ready(false);
        }
        polls += 1;
        match future.as_mut().poll(cx) {
            Poll::Ready(()) => Poll::Ready(true),
            Poll::Pending if polls == last && !woken => Poll::Ready(false),
            Poll::Pending => Poll::Pending,
        }
    })
    .await
}

/// Runs the scenario once for each moment that there is in it, and gives how many there were.
fn cancel_everywhere(name: &str, act: Act, (fetch, takes): (Fetch, u64)) -> usize {
    let mut points = 0;
    for number in 0.. {
        assert!(number < 1_000, "{name} never ends");
        let mut ended = true;
        for moment in [Moment::AfterPoll(number), Moment::AfterWake(number)] {
            let name = format!("{name}, {fetch:?} in {takes} ms, {moment:?}");
            ended &= paused().block_on(async {
                let world = World::new(fetch, takes).await;
                let client = client(&world.store, world.server.clone());
                let ended = drop_at(moment, act(&world, world.store.clone(), client)).await;
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
    let mut points = 0;
    for (name, act) in ACTS {
        for source in SOURCES {
            points += cancel_everywhere(name, *act, *source);
        }
    }
    assert!(ACTS.len() * SOURCES.len() >= 150);
    assert!(points >= 1_000, "{points} points in all");
}

#[test]
fn an_undisturbed_scenario_is_polled_more_than_once() {
    // Or else the harness would drop nothing in the middle.
    let polls = |act: Act, source| cancel_everywhere("", act, source) / 2;
    let (_, refresh) = ACTS[0];
    assert!(polls(refresh, (Fetch::Gives("v2"), 100)) >= 3);
    let (_, in_a_row) = ACTS[4];
    assert!(polls(in_a_row, (Fetch::Gives("v2"), 100)) >= 6);
}

// Failing at every step.

/// What goes wrong at one step.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Fault {
    Fails,
    Hangs,
    Panics,
}

const FAULTS: [Fault; 3] = [Fault::Fails, Fault::Hangs, Fault::Panics];

impl Fault {
    async fn happen(self) -> BoxError {
        match self {
            Self::Fails => "as told".into(),
            Self::Hangs => pending().await,
            Self::Panics => panic_quietly(),
        }
    }
}

/// Counts the fetches and inner calls of a run, and makes some of them go wrong.
#[derive(Clone, Default)]
struct Steps {
    taken: Arc<AtomicUsize>,
    faults: Arc<HashMap<usize, Fault>>,
}

impl Steps {
    fn with(faults: impl IntoIterator<Item = (usize, Fault)>) -> Self {
        Self {
            taken: Arc::default(),
            faults: Arc::new(faults.into_iter().collect()),
        }
    }

    fn next(&self) -> Option<Fault> {
        let step = self.taken.fetch_add(1, Ordering::Relaxed);
        self.faults.get(&step).copied()
    }

    /// How many there were.
    fn taken(&self) -> usize {
        self.taken.load(Ordering::Relaxed)
    }

    /// From here on, nothing goes wrong.
    fn end(&self) {
        self.taken.store(usize::MAX / 2, Ordering::Relaxed);
    }

    fn source(&self, script: &Script) -> impl CredentialSource + use<> {
        let (steps, script) = (self.clone(), script.clone());
        move || {
            let (fault, fetch) = (steps.next(), script.clone());
            async move {
                match fault {
                    None => fetch.fetch().await,
                    Some(fault) => Err(fault.happen().await),
                }
            }
        }
    }
}

/// What became of the requests of one run; each has exactly one outcome.
#[derive(Debug, Default, PartialEq, Eq)]
struct Outcomes {
    ok: usize,
    denied: usize,
    failed: usize,
    timed_out: usize,
    panicked: usize,
}

const ROUNDS: usize = 6;
const REQUESTS: usize = 4;

/// Six rounds of a revocation, one request, and three at once, with faults at those steps.
async fn run(faults: &[(usize, Fault)]) -> (Outcomes, usize) {
    let steps = Steps::with(faults.iter().copied());
    let script = Script::new(Fetch::Gives("v1"));
    script.take(10);
    // The first fetch is a step like others, and may have to be tried again.
    let store = loop {
        let loaded = CredentialStore::loader(steps.source(&script)).timeout(LIMIT);
        match loaded.load().await {
            Ok(store) => break store,
            Err(_) => assert!(steps.taken() <= 3),
        }
    };
    let server = Server::accepting(&["v1"]);
    let client = ServiceBuilder::new()
        .timeout(SECOND * 5)
        .retry(RefreshPolicy::new())
        .layer(AnyreachAuthLayer::new(store.clone()))
        .service_fn({
            let (server, steps) = (server.clone(), steps.clone());
            move |request: Request<String>| {
                let (fault, mut server) = (steps.next(), server.clone());
                let ready = now(ServiceExt::<Request<String>>::ready(&mut server));
                let answer = ready.unwrap().call(request);
                async move {
                    match fault {
                        None => Ok::<_, BoxError>(answer.await?),
                        Some(fault) => Err(fault.happen().await),
                    }
                }
            }
        });

    let mut outcomes = Outcomes::default();
    for name in ["v1", "v2", "v3", "v4", "v5", "v6"] {
        script.tell(Fetch::Gives(name));
        server.accept_only(&[name]);
        for at_once in [1, REQUESTS - 1] {
            let calls: Vec<_> = (0..at_once)
                .map(|_| tokio::spawn(client.clone().oneshot(get_agents())))
                .collect();
            for call in calls {
                let outcome = match call.await {
                    Ok(Ok(response)) => {
                        assert_eq!(response.status(), StatusCode::OK);
                        &mut outcomes.ok
                    }
                    Ok(Err(error)) => match Error::find(error.as_ref()) {
                        Some(error) => {
                            assert!(error.is_unauthorized(), "{error:?}");
                            &mut outcomes.denied
                        }
                        None if error.is::<tower::timeout::error::Elapsed>() => {
                            &mut outcomes.timed_out
                        }
                        None => {
                            assert!(error.is::<Error>(), "{error:?}");
                            &mut outcomes.failed
                        }
                    },
                    Err(error) => {
                        assert!(error.is_panic());
                        &mut outcomes.panicked
                    }
                };
                *outcome += 1;
            }
        }
        // The longest rest.
        sleep(SECOND * 8).await;
    }
    assert!(server.attempts() <= 2 * ROUNDS * REQUESTS);
    let taken = steps.taken();
    steps.end();
    drop(client);

    // Whatever it was, it is over.
    script.tell(Fetch::Gives("healthy"));
    server.accept_only(&["healthy"]);
    let healthy = crate::scripted::client(&store, server);
    let response = timeout(SECOND * 2, healthy.oneshot(get_agents())).await;
    let response = response.unwrap_or_else(|_| panic!("stuck after {faults:?}"));
    let response = response.unwrap_or_else(|error| panic!("{error} after {faults:?}"));
    assert_eq!(response.status(), StatusCode::OK);
    assert_in_force(&store, "healthy");
    assert_eq!(script.most_in_flight(), 1);
    drop(store);
    settle().await;
    assert_eq!(tasks(), 0, "a task is left after {faults:?}");
    (outcomes, taken)
}

/// Runs with those faults, and asserts what holds whatever goes wrong.
fn run_with(faults: &[(usize, Fault)]) -> Outcomes {
    let (outcomes, _) = paused().block_on(run(faults));
    let by_kind = [outcomes.failed, outcomes.timed_out, outcomes.panicked];
    let spoiled: usize = by_kind.iter().sum();
    assert_eq!(
        outcomes.ok + outcomes.denied + spoiled,
        ROUNDS * REQUESTS,
        "nothing is lost: {outcomes:?} after {faults:?}"
    );
    // A fault in an inner call spoils that request; one in a fetch, those of its round that wait for it.
    let faults_of = |kind| faults.iter().filter(|(_, fault)| *fault == kind).count();
    for (spoiled, kind) in by_kind.into_iter().zip(FAULTS) {
        assert!(spoiled <= faults_of(kind), "{outcomes:?} {faults:?}");
    }
    assert!(
        spoiled + outcomes.denied.div_ceil(REQUESTS) <= faults.len(),
        "{outcomes:?} {faults:?}"
    );
    outcomes
}

fn steps_without_faults() -> usize {
    let (outcomes, steps) = paused().block_on(run(&[]));
    assert_eq!(outcomes.ok, ROUNDS * REQUESTS);
    steps
}

#[test]
fn a_step_that_fails_hangs_or_panics_spoils_no_more_than_its_own_requests() {
    let mut kinds = HashSet::new();
    let steps = steps_without_faults();
    // One load, 24 requests, and for each of five revocations a fetch and a replay.
    assert_eq!(steps, 35);
    for step in 0..steps {
        for fault in FAULTS {
            let outcomes = run_with(&[(step, fault)]);
            kinds.insert((
                fault,
                outcomes.denied > 0,
                outcomes.failed + outcomes.timed_out + outcomes.panicked > 0,
            ));
        }
    }
    // Each kind of fault was seen at fetches and at inner calls.
    for fault in FAULTS {
        assert!(kinds.contains(&(fault, true, false)), "{kinds:?}");
        assert!(kinds.contains(&(fault, false, true)), "{kinds:?}");
    }
}

#[test]
fn any_two_steps_that_fail_hang_or_panic_spoil_no_more_than_their_own_requests() {
    let steps = steps_without_faults();
    let mut pairs = 0;
    for first in 0..steps {
        for second in first + 1..steps {
            for one in FAULTS {
                for other in FAULTS {
                    run_with(&[(first, one), (second, other)]);
                    pairs += 1;
                }
            }
        }
    }
    assert_eq!(pairs, steps * (steps - 1) / 2 * 9);
}
