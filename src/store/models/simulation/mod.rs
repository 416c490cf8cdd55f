//! A simulation of the store's rules: the real state machine in a world of clients, a server, a
//! source and operators, in simulated time.
//!
//! | module | purpose |
//! |---|---|
//! | `plan` | what a world is made of, drawn from a seed; a failing plan is made smaller |
//! | `world` | the events, and what must hold at each of them |
//! | this one | thousands of drawn plans, and a plan for each attack that a rule is for |
//!
//! Two kinds of plans are drawn. In a *calm* one the source works, keys die when their successor is
//! delivered or later, and rotations are as far apart as the known limits in `state` say; no 401
//! may surface. In a *troubled* one anything happens for a while. Then the source is right, the
//! store has to recover within 9 s, and one more rotation without overlap must cost no request. In
//! both, looks keep their distance, no wait is above its bound, and each answer of the state is
//! compared with the world's record.
//!
//! `ANYREACH_SCENARIOS=100000 cargo test --release --lib --no-default-features simulation --
//! --nocapture` is the long form. `bash .ci/rules` deletes each rule of `state` in turn, and
//! requires that a test of this module fails.

#![allow(
    clippy::unchecked_time_subtraction,
    reason = "simulated time only grows"
)]

mod plan;
mod world;

use std::time::Duration;

use self::plan::{Client, Element, Fault, Hand, Path, Plan, STEADY, ms, setting};
use self::world::Tally;

const RATES: [u64; 7] = [0, 60_000, 10_000, 2_000, 1_000, 500, 50];

/// The old key dies, and its successor is delivered to the source that much later.
fn rotation(at: u64, late: u64) -> Element {
    Element::Rotation {
        at: ms(at + late),
        dies: ms(at),
        accepted: Duration::ZERO,
    }
}

fn fault(at: u64, lasts: u64, fault: Fault) -> Element {
    Element::Fault {
        at: ms(at),
        lasts: ms(lasts),
        fault,
    }
}

fn hand(at: u64, hand: Hand) -> Element {
    Element::Hand { at: ms(at), hand }
}

fn poller(interval: u64) -> Element {
    Element::Poller(ms(interval))
}

/// A plan in which no 401 may surface of requests that are first sent from then on.
fn calm_from(at: u64, until: u64, elements: Vec<Element>) -> Plan {
    Plan {
        calm_from: Some(ms(at)),
        ..Plan::new(ms(until), elements)
    }
}

/// Runs a plan with different draws, and returns the tally of each.
fn runs(plan: &Plan) -> Vec<Tally> {
    let run = |seed| {
        Plan {
            seed,
            ..plan.clone()
        }
        .check()
    };
    (0..10).map(run).collect()
}

#[test]
fn drawn_plans_keep_every_rule() {
    let first = setting("ANYREACH_SEED", 0);
    let scenarios = setting("ANYREACH_SCENARIOS", 1_000);
    let (mut requests, mut attempts, mut looks) = (0, 0, 0);
    let mut simulated = Duration::ZERO;
    for seed in first..first + scenarios {
        let tally = Plan::draw(seed).check();
        requests += tally.requests;
        attempts += tally.attempts;
        looks += tally.looks;
        simulated += tally.lasted;
    }
    println!(
        "{scenarios} scenarios from seed {first}: {requests} requests, {attempts} attempts, \
         {looks} looks, \
         {} s simulated, 0 violations",
        simulated.as_secs()
    );
}

#[test]
fn no_request_surfaces_a_401_when_the_old_key_dies_as_its_successor_is_delivered() {
    for interval in RATES {
        for latency in [0, 20, 500] {
            for (is_called, path) in [
                (false, Path::Guarded),
                (true, Path::Guarded),
                (false, Path::Missing),
                (true, Path::Missing),
            ] {
                // At other times of the interval each time.
                let mut elements: Vec<_> = (0..4).map(|n| rotation(3_000 + n * 4_370, 0)).collect();
                elements.extend((interval > 0).then(|| poller(interval)));
                elements.extend(is_called.then_some(Element::Caller(ms(100))));
                let mut plan = calm_from(0, 21_000, elements);
                plan.seed = interval + latency;
                plan.latency = ms(latency);
                (plan.steady.gap, plan.steady.path) = (ms(10), path);
                let tally = plan.check();
                assert!(tally.requests >= 2_000 && tally.attempts > tally.requests);
                assert_eq!(tally.surfaced, 0);
            }
        }
    }
}

#[test]
fn a_key_that_is_dead_for_good_costs_few_looks_and_few_attempts() {
    for source in [
        None,
        Some(Fault::Mints),
        Some(Fault::Fails),
        Some(Fault::Flaps),
    ] {
        let paths = [Path::Public, Path::Unavailable, Path::Firewall];
        let mut elements = vec![rotation(1_000, 302_000)];
        elements.extend(paths.map(|path| {
            Element::Client(Client {
                gap: ms(20),
                trip: ms(20),
                path,
                ..STEADY
            })
        }));
        elements.extend(source.map(|source| fault(1_000, 299_500, source)));
        let mut plan = Plan::new(ms(301_000), elements);
        (plan.steady.gap, plan.steady.trip) = (ms(10), ms(20));
        let tally = plan.clone().check();
        assert!(tally.looks <= 60, "{source:?}: {} looks", tally.looks);
        let replays = tally.attempts - tally.requests;
        assert!(
            replays * 50 <= tally.requests / 2,
            "{source:?}: {replays} replays"
        );
        // Then one good credential.
        plan.until = ms(320_000);
        let tally = plan.check();
        assert!(
            tally.slowest <= ms(8_100),
            "{source:?}: {:?}",
            tally.slowest
        );
    }
}

/// Counts the fetches of a fleet in each tenth of the interval, and returns the peak over the mean.
fn peak_over_mean(fetches: &[Duration], from: Duration, interval: Duration) -> f64 {
    let mut tenths = [0_u32; 50];
    for fetch in fetches.iter().filter(|fetch| **fetch >= from) {
        let tenth = (*fetch - from).as_micros() * 10 / interval.as_micros();
        if let Some(count) = usize::try_from(tenth)
            .ok()
            .and_then(|tenth| tenths.get_mut(tenth))
        {
            *count += 1;
        }
    }
    f64::from(tenths.iter().max().copied().unwrap()) * 50.0 / f64::from(tenths.iter().sum::<u32>())
}

#[test]
fn a_thousand_clients_do_not_ask_in_step_at_first_nor_after_an_outage_of_an_hour() {
    // At an interval of a second, pauses are as long after an hour of failures as after some
    // minutes.
    for (interval, outage) in [(1_000, 120_000), (10_000, 3_600_000), (60_000, 3_600_000)] {
        let (begins, interval) = (interval * 5, ms(interval));
        let ends = ms(begins + outage);
        let elements = vec![
            Element::Poller(interval),
            fault(begins, outage, Fault::Fails),
        ];
        let mut plan = Plan::new(ends + interval * 7, elements);
        (plan.steady.path, plan.steady.gap) = (Path::Public, plan.until);
        let mut fetches = Vec::new();
        for seed in 0..1_000 {
            plan.seed = seed;
            fetches.extend(plan.clone().check().fetches);
        }
        let started = peak_over_mean(&fetches, Duration::ZERO, interval);
        // Once the back-off of each client is over, which is shorter than a long interval.
        let after = peak_over_mean(&fetches, ends + interval.min(ms(30_000)), interval);
        assert!(
            started <= 2.0 && after <= 2.0,
            "{interval:?}: {started} {after}"
        );
    }
}

#[test]
fn a_version_that_worked_is_looked_for_again_within_a_second() {
    let rotations = (1..7).map(|n| rotation(n * 10_000, 400)).collect();
    for tally in runs(&Plan::new(ms(70_000), rotations)) {
        assert!(tally.slowest <= ms(1_200), "{:?}", tally.slowest);
    }
}

#[test]
fn a_wrong_key_that_is_rotated_in_after_long_rests_is_replaced_within_a_second() {
    let elements = vec![rotation(5_000, 35_400), hand(40_000, Hand::Wrong)];
    for tally in runs(&Plan::new(ms(50_000), elements)) {
        assert!(tally.slowest <= ms(1_200), "{:?}", tally.slowest);
    }
}

#[test]
fn a_wrong_key_that_is_rotated_in_costs_no_request_while_the_source_gives_the_good_one() {
    let wrong = [3_000, 3_600, 4_200].map(|at| hand(at, Hand::Wrong));
    for interval in RATES {
        let mut elements = wrong.to_vec();
        elements.extend((interval > 0).then(|| poller(interval)));
        runs(&calm_from(0, 8_000, elements));
    }
}

#[test]
fn a_wrong_key_that_is_rotated_in_during_a_look_costs_no_later_request() {
    for at in [5_100, 5_250, 5_400, 5_600] {
        let elements = vec![rotation(5_000, 0), hand(at, Hand::Wrong)];
        let mut plan = calm_from(at, 10_000, elements);
        plan.latency = ms(600);
        runs(&plan);
    }
}

#[test]
fn a_credential_that_is_rotated_in_again_and_again_changes_nothing() {
    let every = ms(100);
    let elements = vec![rotation(5_000, 0), hand(0, Hand::Same { every })];
    let mut plan = calm_from(0, 10_000, elements);
    plan.latency = ms(150);
    runs(&plan);
}

#[test]
fn a_poll_does_not_undo_a_rotation_by_hand() {
    let elements = vec![
        rotation(5_000, 60_000),
        hand(5_000, Hand::Next),
        poller(500),
    ];
    runs(&calm_from(0, 30_000, elements));
}

#[test]
fn requests_that_wait_for_a_hanging_fetch_replay_as_soon_as_a_key_is_rotated_in() {
    let elements = vec![
        rotation(5_000, 60_000),
        fault(0, 60_000, Fault::Hangs),
        hand(7_500, Hand::Next),
    ];
    runs(&calm_from(0, 30_000, elements));
}

#[test]
fn replicas_that_disagree_do_not_displace_a_good_key() {
    // With many requests the 401s that arrive late show that the old key is dead, with few requests
    // only earlier ones do.
    for (gap, late) in [(50, 0), (1_000, 3_000)] {
        let elements = vec![
            rotation(5_000, late),
            poller(500),
            fault(0, 60_000, Fault::Disagrees),
        ];
        let mut plan = Plan::new(ms(60_000), elements);
        plan.steady.gap = ms(gap);
        for tally in runs(&plan) {
            assert_eq!(tally.displaced, 0, "one request each {gap} ms");
        }
    }
}

#[test]
fn denials_that_arrive_late_keep_a_dead_key_from_coming_back() {
    let elements = vec![
        rotation(5_000, 0),
        poller(500),
        fault(0, 60_000, Fault::Disagrees),
    ];
    let mut plan = Plan::new(ms(60_000), elements);
    plan.steady.trip = ms(4_000);
    let tallies = runs(&plan);
    let requests: u64 = tallies.iter().map(|tally| tally.requests).sum();
    let surfaced: u64 = tallies.iter().map(|tally| tally.surfaced).sum();
    println!("slow requests and replicas that disagree: {surfaced} of {requests} surface");
    assert!(surfaced * 100 <= requests, "{surfaced} of {requests}");
}
