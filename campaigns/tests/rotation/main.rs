//! The old key dies at the instant its successor is delivered, and no request surfaces a 401.
//!
//! A cell is one setting of a client, its source and its server. Workers send requests while an operator rotates, each time a
//! second after the store can have taken the last key, because it promises nothing about faster rotations. If
//! `ANYREACH_ROTATION` is set, the long forms run.
//!
//! `world` has the parts of a cell. One more test has 100,000 callers wait for one fetch.
#![allow(clippy::print_stdout, reason = "a campaign prints its figures")]
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod world;

use std::convert::Infallible;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use campaigns::random::Random;
use campaigns::tally::Tally;
use http::{Method, Request, StatusCode};
use support::runtime::{multi_thread, paused};
use support::{answer, denial, get_agents, organization};
use tokio::task::JoinSet;
use tower::{Layer, Service, ServiceExt, service_fn};
use tower_anyreach::{AnyreachAuthLayer, CredentialStore, Refreshed};

use crate::world::{World, pause, token};

static IS_LONG: LazyLock<bool> = LazyLock::new(|| std::env::var_os("ANYREACH_ROTATION").is_some());

#[derive(Debug, Clone, Copy, PartialEq)]
enum Source {
    Closure,
    Watch,
    /// A watch, beside a task that rotates to each of its values.
    Rotate,
    File,
}

/// The layers around `AnyreachAuthLayer`.
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

impl Cell {
    fn new(short: u64) -> Self {
        Self {
            interval: 0,
            refreshes: false,
            fetch_takes: 20,
            source: Source::Closure,
            good: 200,
            latency: 50,
            denial_takes: 0,
            stack: Stack::Replays,
            requests: if *IS_LONG { 2_000 } else { short },
        }
    }
}

async fn run(cell: Cell) -> Tally {
    let world = World::new(cell);
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
                pause(100).await;
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
    for worker in workers.join_all().await {
        tally += worker;
    }
    tally.add("cells", 1);
    tally.add("surfaced", 0);
    world.assert_accounts_close(&mut tally);
    tally
}

fn assert_calm(cells: impl IntoIterator<Item = Tally>) {
    let mut tally = Tally::default();
    for cell in cells {
        tally += cell;
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
            ..Cell::new(400)
        }))
    }));
}

#[test]
fn no_401_surfaces_in_real_time() {
    use Source::{Closure, File, Rotate, Watch};
    let cells = (0..14).map(|n| {
        let (source, takes) = ([File, Closure, Watch, Rotate][n % 4], [0, 20, 500][n % 3]);
        run(Cell {
            interval: [0, 60_000, 10_000, 2_000, 1_000, 500, 50][n % 7],
            refreshes: n % 3 == 0,
            // A file is read within 300 ms.
            fetch_takes: if source == File { 300 } else { takes },
            source,
            good: [200, 404][n % 2],
            ..Cell::new(120)
        })
    });
    assert_calm(multi_thread(2).block_on(async { cells.collect::<JoinSet<_>>().join_all().await }));
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
                latency: [1, 20, 200][latency],
                denial_takes: [0, 300, 900][denial],
                stack: [Limits, Timeouts, Hedge, TwoRetries, Redirects][stack],
                ..Cell::new(400)
            }))
        })
    }));
}

#[test]
fn one_fetch_answers_all_that_wait_for_it() {
    paused().block_on(async {
        let fetches = Arc::new(AtomicU64::new(0));
        let counted = Arc::clone(&fetches);
        let store = CredentialStore::load(move || {
            let number = counted.fetch_add(1, Ordering::Relaxed);
            async move {
                pause(1_000).await;
                Ok(token(number))
            }
        });
        let store = store.await.unwrap();
        let deny = service_fn(async |_: Request<String>| {
            Ok::<_, Infallible>(answer(StatusCode::UNAUTHORIZED, "{}"))
        });
        let client = AnyreachAuthLayer::new(store.clone()).layer(deny);
        let denial = denial(client.oneshot(get_agents()).await);
        let mut waiters = JoinSet::new();
        for _ in 0..50_000 {
            let (store, denial) = (store.clone(), denial.clone());
            waiters.spawn(async move { assert!(denial.renewed().await) });
            waiters.spawn(async move {
                assert_eq!(store.refresh().await.unwrap(), Refreshed::Rotated);
            });
        }
        waiters.join_all().await;
        // The first one, the look, and one for all calls of `refresh`.
        assert_eq!(fetches.load(Ordering::Relaxed), 3);
    });
}
