//! Threads that share one service, against threads with a service each.
//!
//! Nanoseconds are those of a core: the time of all cores that the threads can use, divided by all requests. What
//! shares nothing has the same figure whatever the number of threads.

use std::io;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Barrier, OnceLock};
use std::thread::{self, available_parallelism};
use std::time::{Duration, Instant};

use tower_anyreach::{AnyreachAuth, CredentialStore};

use crate::contenders::{Case, Contender, Inner, Judge, anyreach, cases, token};
use crate::figures::Figures;
use crate::peers;
use crate::stopwatch::{Effort, median};
use crate::table::Table;

const THREADS: [u32; 4] = [1, 2, 4, 8];

/// Cases by name; whether the service is cloned for each request, as hyper and axum do, or once for each thread.
const CASES: [(&str, bool); 2] = [("call_shared", false), ("clone_per_request", true)];

/// Whether all threads use clones of one service, or each has built its own.
#[derive(Clone, Copy, PartialEq)]
enum Ownership {
    Own,
    Shared,
}

/// A contender, and how so many threads race with it.
struct Racer {
    name: &'static str,
    race: Box<dyn Fn(bool, Ownership, u32, Duration) -> f64>,
}

struct Collect {
    case: Case,
    racers: Vec<Racer>,
}

impl<I: Inner> Judge<I> for Collect {
    fn judge<S: Contender>(
        &mut self,
        name: &'static str,
        inner: &I,
        wrap: impl Fn(I) -> S + Send + Sync + 'static,
    ) {
        let (case, inner) = (self.case.clone(), inner.clone());
        let race = move |clone_per_request, ownership, threads, duration| {
            let one = wrap(inner.clone());
            Race::hold(threads, duration, |race| {
                let own = (ownership == Ownership::Own).then(|| wrap(inner.clone()));
                let service = own.as_ref().unwrap_or(&one);
                if clone_per_request {
                    race.run(|| case.call(&mut service.clone()))
                } else {
                    let mut service = service.clone();
                    race.run(|| case.call(&mut service))
                }
            })
        };
        self.racers.push(Racer {
            name,
            race: Box::new(race),
        });
    }
}

/// Threads that call for the same time.
struct Race {
    ready: Barrier,
    start: OnceLock<Instant>,
    duration: Duration,
}

impl Race {
    /// Lets so many threads do that, and returns the nanoseconds of a core for each request.
    fn hold(threads: u32, duration: Duration, calls: impl Fn(&Self) -> u32 + Sync) -> f64 {
        let race = Self {
            ready: Barrier::new(threads as usize),
            start: OnceLock::new(),
            duration,
        };
        // Each thread gets a core of its own as long as there are any: left to itself, a scheduler may not part two
        // threads before the race is over.
        let cores = core_affinity::get_core_ids().unwrap_or_default();
        let requests: u32 = thread::scope(|scope| {
            let (race, calls) = (&race, &calls);
            let mut cores = cores.iter().cycle();
            let threads: Vec<_> = (0..threads)
                .map(|_| {
                    let core = cores.next();
                    scope.spawn(move || {
                        core.map(|core| core_affinity::set_for_current(*core));
                        calls(race)
                    })
                })
                .collect();
            threads
                .into_iter()
                .map(|thread| thread.join().expect("no contender panics"))
                .sum()
        });
        let cores = available_parallelism().map_or(1, usize::from);
        let cores = threads.min(u32::try_from(cores).unwrap_or(u32::MAX));
        duration.as_secs_f64() * 1e9 * f64::from(cores) / f64::from(requests)
    }

    /// Calls until time is up, and returns how often.
    fn run(&self, mut once: impl FnMut()) -> u32 {
        const BATCH: u32 = 32;
        let mut calls_until = |end| {
            let mut calls = 0;
            // One batch at least: a thread that was kept off its core until time was up is slow, not infinitely so.
            loop {
                (0..BATCH).for_each(|_| once());
                calls += BATCH;
                if Instant::now() >= end {
                    break calls;
                }
            }
        };
        self.ready.wait();
        // A core that was asleep takes a while to be as fast as the others.
        let start = *self
            .start
            .get_or_init(|| Instant::now() + self.duration / 2);
        calls_until(start);
        calls_until(start + self.duration)
    }
}

pub(crate) fn run(effort: Effort, figures: &mut Figures) -> io::Result<Table> {
    // More threads than cores, in a race that is over before most are let run.
    let hasty = Race::hold(8, Duration::from_nanos(1), |race| race.run(|| ()));
    assert!(hasty.is_finite(), "a race in which nobody ran: {hasty}");

    let mut table = Table::new(
        "Threads: ns of a core for one request, with own services, and what sharing one multiplies that by",
    );
    let [_, case] = cases();
    let mut collect = Collect {
        case: case.clone(),
        racers: Vec::new(),
    };
    peers::judge_all(&case.inner(), &mut collect);

    for (case, clone_per_request) in CASES {
        for threads in THREADS {
            let blocks = || 0..effort.blocks;
            // For each block, for each contender: own and shared.
            let blocks: Vec<Vec<_>> = blocks()
                .map(|_| {
                    let race = |racer: &Racer| {
                        [Ownership::Own, Ownership::Shared].map(|ownership| {
                            (racer.race)(clone_per_request, ownership, threads, effort.race)
                        })
                    };
                    collect.racers.iter().map(race).collect()
                })
                .collect();
            for (index, racer) in collect.racers.iter().enumerate() {
                let pairs: Vec<_> = blocks.iter().map(|block| block[index]).collect();
                report(case, racer.name, threads, &pairs, figures, &mut table)?;
            }
        }
    }
    rotating(&case, effort, figures, &mut table)?;
    Ok(table)
}

/// Adds what pairs of own and shared have in the middle.
fn report(
    case: &str,
    contender: &'static str,
    threads: u32,
    pairs: &[[f64; 2]],
    figures: &mut Figures,
    table: &mut Table,
) -> io::Result<()> {
    let own = median(pairs.iter().map(|[own, _]| *own));
    let shared = median(pairs.iter().map(|[_, shared]| *shared));
    let ratio = median(pairs.iter().map(|[own, shared]| shared / own));
    for (metric, value) in [
        ("ns_own", own),
        ("ns_shared", shared),
        ("shared_over_own", ratio),
    ] {
        figures.add(case, contender, Some(threads), metric, value)?;
    }
    let row = format!("{case} {contender}");
    table.set(
        &row,
        &threads.to_string(),
        &format!("{own:.0} {ratio:5.2}x"),
    );
    Ok(())
}

/// The same while credentials are rotated: threads with a service and a store each, against threads that share both.
fn rotating(
    case: &Case,
    effort: Effort,
    figures: &mut Figures,
    table: &mut Table,
) -> io::Result<()> {
    const NAME: &str = "call_shared_rotating";
    for threads in THREADS {
        let race = |services: &[(CredentialStore, _)]| {
            let next = AtomicUsize::new(0);
            Race::hold(threads, effort.rotating_race, |race| {
                let (_, service) = &services[next.fetch_add(1, Ordering::Relaxed) % services.len()];
                let mut service = AnyreachAuth::clone(service);
                race.run(|| case.call(&mut service))
            })
        };
        let build = || {
            let store = CredentialStore::new(token());
            let service = anyreach(case.inner(), store.clone());
            (store, service)
        };
        let own: Vec<_> = (0..threads).map(|_| build()).collect();
        let shared = [build()];
        let stores: Vec<_> = own.iter().chain(&shared).map(|(store, _)| store).collect();
        let pairs: Vec<_> = while_rotating(&stores, || {
            let pair = |_| [race(&own), race(&shared)];
            (0..effort.blocks).map(pair).collect()
        });
        report(NAME, "anyreach_pat", threads, &pairs, figures, table)?;
    }
    Ok(())
}

/// Does that while another thread rotates the credential of each store a hundred times a second.
fn while_rotating<T>(stores: &[&CredentialStore], measure: impl FnOnce() -> T) -> T {
    let over = AtomicBool::new(false);
    let before: Vec<_> = stores.iter().map(|store| store.version()).collect();
    let measured = thread::scope(|scope| {
        scope.spawn(|| {
            while !over.load(Ordering::Relaxed) {
                thread::sleep(Duration::from_millis(10));
                for store in stores {
                    store.rotate(token());
                }
            }
        });
        let measured = measure();
        over.store(true, Ordering::Relaxed);
        measured
    });
    assert!(
        stores
            .iter()
            .zip(before)
            .all(|(store, before)| store.version() > before + 1),
        "nothing was rotated"
    );
    measured
}
