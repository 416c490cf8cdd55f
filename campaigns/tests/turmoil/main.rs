//! A rotating client in a simulated network that fails in every way: every request is accounted for, and the client recovers.
//!
//! Each seed is a network of its own, of 120 simulated seconds: a client, the API, a token service that the client's store
//! fetches from, a neighbour that shares the store, and an operator that rotates keys. For 80 seconds links, hosts and answers
//! fail as the seed says; then everything works again.
//!
//! | Module | Contents |
//! |---|---|
//! | `scene` | the state that all hosts share, with the outcome of each request, and a model that is compared with the store |
//! | `hosts` | the API, the token service and the neighbour |
//! | `client` | the client, and the source of its store |
//! | `plan` | the faults, and the operator |
//!
//! `ANYREACH_SEEDS` sets how many seeds are run: 30 unless set, 2,000 for a release. `ANYREACH_SEED` runs one seed ten times,
//! because a seed does not decide the jitter of the store's rests and polls.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
#![allow(clippy::print_stdout, reason = "the figures of a campaign")]

mod client;
mod hosts;
mod plan;
mod scene;

use std::time::Duration;

use http::Version;
use turmoil::Builder;

use campaigns::number;
use campaigns::random::Random;
use campaigns::tally::Tally;

use crate::hosts::serve;
use crate::plan::Plan;
use crate::scene::Shared;

/// When the last fault ends.
const CALM: Duration = Duration::from_secs(80);
/// The longest rest, the fetch in flight and one more, and a few attempts.
const RECOVERY: Duration = Duration::from_secs(20);
const LENGTH: Duration = Duration::from_secs(120);
/// How exactly messages are delivered; hosts keep their own time to the millisecond.
const TICK: Duration = Duration::from_millis(20);

/// Time limits of a request as a whole, of each attempt, and of a fetch.
const TOTAL: Duration = Duration::from_secs(10);
const ATTEMPT: Duration = Duration::from_secs(4);
const FETCH: Duration = Duration::from_secs(3);
/// Timers are exact to the millisecond.
const MARGIN: Duration = Duration::from_millis(2);

#[test]
fn over_http1_no_request_is_lost_whatever_the_network_does() {
    run_seeds(Version::HTTP_11, 0);
}

#[test]
fn over_http2_no_request_is_lost_whatever_the_network_does() {
    run_seeds(Version::HTTP_2, 1);
}

/// Runs the seeds that are odd, or those that are even.
fn run_seeds(version: Version, parity: u64) {
    let seeds: Vec<u64> = match std::env::var("ANYREACH_SEED") {
        Ok(seed) => vec![seed.parse().unwrap(); 10],
        Err(_) => (0..number("ANYREACH_SEEDS", 30)).collect(),
    };
    let mut sum = Tally::default();
    let mut slowest_recovery = Duration::ZERO;
    for seed in seeds.into_iter().filter(|seed| seed % 2 == parity) {
        let (tally, recovery) = run(seed, version);
        sum += tally;
        slowest_recovery = slowest_recovery.max(recovery);
    }
    println!("{version:?}: {sum}; slowest recovery {slowest_recovery:?}");
    sum.assert_no_violations();
}

/// Runs one simulation; returns its counts and violations, and how long the recovery took.
fn run(seed: u64, version: Version) -> (Tally, Duration) {
    let mut random = Random(seed);
    let scene = Shared::default();
    scene.lock().name = format!("ANYREACH_SEED={seed}, {version:?}");
    let mut plan = Plan::draw(&mut random);
    let mut sim = Builder::new()
        .rng_seed(seed)
        .enable_random_order()
        .tick_duration(TICK)
        .simulation_duration(LENGTH + TOTAL)
        .min_message_latency(Duration::from_millis(1))
        .max_message_latency(random.duration(5..100))
        .build();
    let [api, tokens, neighbour] = [(); 3].map(|()| scene.clone());
    let seed = random.next();
    sim.host("api", move || serve(api.clone(), hosts::api));
    sim.host("tokens", move || serve(tokens.clone(), hosts::tokens));
    sim.host("neighbour", move || {
        hosts::neighbour(neighbour.clone(), seed)
    });
    let client = client::run(scene.clone(), Random(random.next()), version);
    sim.client("client", client);

    loop {
        plan.act(&mut sim, &scene);
        match sim.step() {
            Ok(false) => {}
            Ok(true) => break,
            Err(error) => break scene.lock().violation(&error.to_string()),
        }
    }
    let simulated = sim.elapsed();
    drop(sim);
    let mut scene = scene.lock();
    scene.audit();
    let mut tally = std::mem::take(&mut scene.tally);
    tally.add("simulated seconds", simulated.as_secs());
    tally.add("faults", plan.faults);
    (tally, scene.recovered_after.unwrap_or_default())
}
