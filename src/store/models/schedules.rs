//! Random schedules of eight tasks on one store, with the fetches that they begin: too many for every interleaving.
//!
//! `RUSTFLAGS='--cfg anyreach_shuttle' cargo test --lib --release models -- --nocapture` prints how many there were.
//! `ANYREACH_SCHEDULES` is the number of random ones, to which a tenth of PCT ones is added; `ANYREACH_SEED` is what
//! they are drawn from. A schedule that fails is printed, for `shuttle::replay`.

use std::collections::BTreeMap;
use std::str::FromStr;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, LazyLock, Mutex};
use std::time::{Duration, Instant};

use shuttle::rand::{Rng, thread_rng};
use shuttle::scheduler::{PctScheduler, RandomScheduler, Scheduler};
use shuttle::thread::{self, JoinHandle};
use shuttle::{Config, Runner};

use super::{Flight, Store, Tick, credential};
use crate::credential::Credential;
use crate::source::{SourceError, SourceErrorReason};
use crate::store::Refreshed;
use crate::store::cell::{Fetch, Outcome, Snapshot, Step};

/// Credentials that nobody else has, made once: the first one in force, then one for each rotation and each fetch.
static CREDENTIALS: LazyLock<Vec<Credential>> =
    LazyLock::new(|| (0..64).map(|n| credential(&format!("{n:02}"))).collect());

const FIRST: usize = 0;

/// From its beginning on until a fetch is overdue.
const OVERDUE: Duration = Duration::from_secs(11);

/// One store, and what its tasks have seen of it. Nothing here but the store itself lets another task in.
struct World {
    store: Store,
    milliseconds: AtomicU64,
    made: AtomicUsize,
    /// The fetches that are counted on, by number, and from when on each is overdue: one, but for moments in which who
    /// began the next one has not said so yet.
    in_flight: Mutex<BTreeMap<u64, Tick>>,
    flights: Mutex<Vec<JoinHandle<()>>>,
    /// The version that a credential was fetched for.
    fetched_for: Mutex<BTreeMap<usize, u64>>,
    /// The credential of each version that was seen.
    seen: Mutex<BTreeMap<u64, usize>>,
    totals: Arc<Totals>,
}

/// How often what is to be tried came about, over all schedules.
#[derive(Default)]
struct Totals {
    fetches: AtomicUsize,
    waits: AtomicUsize,
    overtaken: AtomicUsize,
    lost: AtomicUsize,
    stuck: AtomicUsize,
}

/// What becomes of a fetch.
#[derive(Clone, Copy)]
enum Fate {
    New,
    Unchanged,
    Fails,
    /// Its runtime goes away.
    Lost,
    /// Its runtime stands still until the fetch is overdue, and then goes on.
    Stuck,
}

impl World {
    fn new(totals: Arc<Totals>) -> Arc<Self> {
        Arc::new(Self {
            store: Store::new(1, CREDENTIALS[FIRST].clone()),
            milliseconds: AtomicU64::new(0),
            made: AtomicUsize::new(FIRST + 1),
            in_flight: Mutex::default(),
            flights: Mutex::default(),
            fetched_for: Mutex::default(),
            seen: Mutex::default(),
            totals,
        })
    }

    fn now(&self) -> Tick {
        Tick(Duration::from_millis(self.milliseconds.load(Relaxed)))
    }

    fn pass(&self, milliseconds: u64) {
        self.milliseconds.fetch_add(milliseconds, Relaxed);
    }

    fn make(&self) -> usize {
        self.made.fetch_add(1, Relaxed)
    }

    /// What every look at the store must find: for each version one credential, and what was fetched for a version
    /// only right after it (I6).
    fn check(&self, snapshot: &Snapshot) -> u64 {
        let version = snapshot.provenance.version;
        let id = snapshot.credential.id();
        let number = CREDENTIALS.iter().position(|one| one.id() == id).unwrap();
        let before = *self.seen.lock().unwrap().entry(version).or_insert(number);
        assert_eq!(before, number, "two credentials of version {version}");
        if let Some(fetched_for) = self.fetched_for.lock().unwrap().get(&number) {
            assert_eq!(
                version,
                fetched_for + 1,
                "a fetch has outdone a rotation that came after it began"
            );
        }
        version
    }

    fn look(&self) -> u64 {
        self.check(&self.store.snapshot())
    }

    fn rotate(&self) {
        let before = self.look();
        let number = self.make();
        self.store.rotate(CREDENTIALS[number].clone());
        assert!(self.look() > before);
    }

    /// What `Inner::take_off_or_wait` does.
    fn take_off_or_wait(self: &Arc<Self>, refused: u64, fate: Fate) -> Result<Flight, Outcome> {
        let flight = Flight::default();
        let now = self.now();
        let step = self
            .store
            .begin(refused, now, now + OVERDUE, || flight.clone());
        match step {
            Step::Done(outcome) => Err(outcome),
            Step::Wait(flight) => {
                self.totals.waits.fetch_add(1, Relaxed);
                Ok(flight)
            }
            Step::Fetch(fetch) => {
                assert_eq!(
                    fetch.version, refused,
                    "a late 401 has invalidated a later version"
                );
                self.totals.fetches.fetch_add(1, Relaxed);
                let mut in_flight = self.in_flight.lock().unwrap();
                let overdue = now + OVERDUE;
                let later = in_flight.split_off(&fetch.number);
                assert!(
                    in_flight.values().all(|overdue| *overdue <= now)
                        && later.values().all(|next| overdue + OVERDUE <= *next),
                    "two fetches at a time"
                );
                *in_flight = if later.is_empty() {
                    BTreeMap::from([(fetch.number, overdue)])
                } else {
                    later
                };
                drop(in_flight);
                let (world, landing) = (Arc::clone(self), flight.clone());
                let task = thread::spawn(move || world.fly(fetch, overdue, &landing, fate));
                self.flights.lock().unwrap().push(task);
                Ok(flight)
            }
        }
    }

    /// What `Flight::run` does, and its drop.
    fn fly(&self, fetch: Fetch, overdue: Tick, flight: &Flight, fate: Fate) {
        // The source is asked: whoever likes may come in between.
        thread::yield_now();
        let fate = match fate {
            Fate::Stuck => {
                self.totals.stuck.fetch_add(1, Relaxed);
                self.pass_until(overdue);
                // Those who wait have a timer of their own.
                flight.end(None);
                thread::yield_now();
                draw(&[Fate::New, Fate::Fails, Fate::Lost])
            }
            fate => fate,
        };
        let fetched = match fate {
            Fate::New => {
                let number = self.make();
                self.fetched_for
                    .lock()
                    .unwrap()
                    .insert(number, fetch.version);
                Ok(CREDENTIALS[number].clone())
            }
            Fate::Unchanged => Ok(self.store.snapshot().credential.clone()),
            Fate::Fails => Err(SourceError::new("model", SourceErrorReason::Failed, None)),
            Fate::Lost | Fate::Stuck => {
                self.totals.lost.fetch_add(1, Relaxed);
                self.has_ended(fetch);
                self.store.abandon(fetch);
                flight.end(None);
                return;
            }
        };
        self.has_ended(fetch);
        let failed = fetched.is_err();
        let outcome = self.store.finish(fetch, fetched, self.now(), 1.0);
        assert_eq!(outcome.is_err(), failed);
        if !failed && self.store.version() > fetch.version + 1 {
            self.totals.overtaken.fetch_add(1, Relaxed);
        }
        self.look();
        flight.end(Some(outcome));
    }

    fn has_ended(&self, fetch: Fetch) {
        self.in_flight.lock().unwrap().remove(&fetch.number);
    }

    fn pass_until(&self, Tick(then): Tick) {
        let milliseconds = then.as_millis().try_into().unwrap();
        self.milliseconds.fetch_max(milliseconds, Relaxed);
    }

    /// What `Inner::refresh` does.
    fn refresh(self: &Arc<Self>, refused: u64, fate: Fate) -> Outcome {
        let asked_at = self.store.version();
        for _ in 0..3 {
            let outcome = match self.take_off_or_wait(refused, fate) {
                Ok(flight) => flight.wait(),
                Err(outcome) => return self.checked(asked_at, outcome),
            };
            if let Some(outcome) = outcome {
                let was_for_another =
                    matches!(outcome, Ok(Refreshed::Rotated)) && self.store.version() == refused;
                if !was_for_another {
                    return self.checked(asked_at, outcome);
                }
            }
        }
        Err(SourceError::new(
            "model",
            SourceErrorReason::NoRuntime,
            None,
        ))
    }

    fn checked(&self, asked_at: u64, outcome: Outcome) -> Outcome {
        let version = self.look();
        assert!(version >= asked_at, "versions go back");
        outcome
    }
}

fn draw(fates: &[Fate]) -> Fate {
    fates[thread_rng().gen_range(0..fates.len())]
}

/// Eight tasks on one store; when they are done it is as good as new.
fn model(totals: &Arc<Totals>) {
    const SOURCE: [Fate; 5] = [
        Fate::New,
        Fate::New,
        Fate::Unchanged,
        Fate::Fails,
        Fate::Stuck,
    ];

    let world = World::new(Arc::clone(totals));
    let publisher = |world: Arc<World>| {
        world.rotate();
        world.rotate();
    };
    let refresher = |world: Arc<World>| {
        for _ in 0..2 {
            let version = world.store.version();
            if let Ok(Refreshed::Rotated) = world.refresh(version, draw(&SOURCE)) {
                assert!(world.look() > version);
            }
            world.pass(thread_rng().gen_range(0..600));
        }
    };
    let late_401 = |world: Arc<World>| {
        for _ in 0..2 {
            // A request left with this version, and was refused.
            let refused = world.look();
            thread::yield_now();
            if let Ok(Refreshed::Rotated) = world.refresh(refused, draw(&SOURCE)) {
                assert!(world.look() > refused, "a replay with what was refused");
            }
        }
    };
    let canceller = |world: Arc<World>| {
        for _ in 0..2 {
            let refused = world.look();
            // Whatever it began or could wait for, it goes away.
            drop(world.take_off_or_wait(refused, draw(&[Fate::Lost, Fate::New])));
        }
    };
    let reader = |world: Arc<World>| {
        let mut last = 0;
        for _ in 0..4 {
            let version = world.store.version();
            assert!(version >= last, "versions go back");
            last = version;
            // A copy may be ahead of the version, which is raised last, and never behind it.
            assert!(world.look() >= version, "an old copy");
        }
    };
    let tasks: [fn(Arc<World>); 8] = [
        publisher, publisher, refresher, refresher, late_401, late_401, canceller, reader,
    ];
    let tasks = tasks.map(|task| {
        let world = Arc::clone(&world);
        thread::spawn(move || task(world))
    });
    for task in tasks {
        task.join().unwrap();
    }
    let flights = std::mem::take(&mut *world.flights.lock().unwrap());
    for flight in flights {
        flight.join().unwrap();
    }

    let version = world.look();
    assert_eq!(version, world.store.version());
    assert!(version >= 5, "a rotation was lost");
    assert!(
        world.store.copies().all(|copy| copy == version),
        "a copy has outlived its rotation"
    );
    // Later than the longest back-off the store answers as on its first day.
    world.pass(31_000);
    assert_eq!(
        world.refresh(version, Fate::New).unwrap(),
        Refreshed::Rotated
    );
    assert_eq!(world.look(), version + 1);
}

/// A number from the environment.
fn from_env<T: FromStr>(name: &str, default: T) -> T {
    std::env::var(name).map_or(default, |text| text.parse().ok().expect("a number"))
}

fn explore(name: &str, seed: u64, scheduler: impl Scheduler + 'static) {
    let begun = Instant::now();
    let totals = Arc::new(Totals::default());
    let counted = Arc::clone(&totals);
    let mut config = Config::new();
    config.stack_size = 0x1_0000;
    let tried = Runner::new(scheduler, config).run(move || model(&counted));
    let [fetches, waits, overtaken, lost, stuck] = [
        &totals.fetches,
        &totals.waits,
        &totals.overtaken,
        &totals.lost,
        &totals.stuck,
    ]
    .map(|total| total.load(Relaxed));
    println!(
        "{name}: {tried} schedules of 8 tasks and their fetches, seed {seed}, 0 violations, {:.1} s; {fetches} fetches, \
         {waits} waited for, {lost} lost, {stuck} stuck, {overtaken} overtaken",
        begun.elapsed().as_secs_f64()
    );
    // Without these the schedules would say nothing.
    assert!(
        [fetches, waits, overtaken, lost, stuck]
            .iter()
            .all(|total| *total >= tried / 20)
    );
}

#[test]
fn eight_tasks_in_random_schedules_keep_the_invariants() {
    let (count, seed) = (
        from_env("ANYREACH_SCHEDULES", 5_000),
        from_env("ANYREACH_SEED", 1),
    );
    explore("random", seed, RandomScheduler::new_from_seed(seed, count));
}

#[test]
fn eight_tasks_in_pct_schedules_keep_the_invariants() {
    const DEPTH: usize = 3;

    let (count, seed) = (
        from_env("ANYREACH_SCHEDULES", 5_000),
        from_env("ANYREACH_SEED", 1),
    );
    let scheduler = PctScheduler::new_from_seed(seed, DEPTH, count / 10);
    explore("PCT, depth 3", seed, scheduler);
}
