//! The elements of a world, how they are drawn from a seed, and how a plan that fails is made
//! smaller.

use std::env;
use std::str::FromStr;
use std::time::Duration;

use super::world::{Tally, World};

pub(super) type Key = u32;

pub(super) const fn ms(milliseconds: u64) -> Duration {
    Duration::from_millis(milliseconds)
}

/// Numbers from a seed, by splitmix64.
pub(super) struct Random(u64);

impl Random {
    pub(super) fn new(seed: u64) -> Self {
        Self(seed)
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut bits = self.0;
        bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        bits ^ (bits >> 31)
    }

    /// From 0 to 1.
    pub(super) fn unit(&mut self) -> f64 {
        f64::from((self.next() >> 32) as u32) / f64::from(u32::MAX)
    }

    pub(super) fn up_to(&mut self, most: Duration) -> Duration {
        most.mul_f64(self.unit())
    }

    /// One way of a round trip that takes at most that long.
    pub(super) fn way(&mut self, trip: Duration) -> Duration {
        trip / 4 + self.up_to(trip / 4)
    }

    pub(super) fn between(&mut self, least: u64, most: u64) -> Duration {
        ms(least) + self.up_to(ms(most - least))
    }

    pub(super) fn percent(&mut self, percent: u64) -> bool {
        self.next() % 100 < percent
    }

    pub(super) fn one_of<T: Copy>(&mut self, items: &[T]) -> T {
        items[usize::try_from(self.next() % 64).unwrap() % items.len()]
    }
}

/// Sends requests, each up to `gap` after the one before.
#[derive(Debug, Clone, Copy)]
pub(super) struct Client {
    pub(super) gap: Duration,
    /// The longest round trip.
    pub(super) trip: Duration,
    /// The longest time until a denial's body is read.
    pub(super) body: Duration,
    /// `RefreshPolicy` is outside of the layer.
    pub(super) replays: bool,
    /// A fetch can run where the layer sees the 401.
    pub(super) has_runtime: bool,
    pub(super) path: Path,
}

pub(super) const STEADY: Client = Client {
    gap: ms(50),
    trip: ms(150),
    body: Duration::ZERO,
    replays: true,
    has_runtime: true,
    path: Path::Guarded,
};

/// What a client's requests meet.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Path {
    /// A 200 for good keys, a 401 for others.
    Guarded,
    /// As `Guarded`, with a 404 in the place of the 200.
    Missing,
    /// The same answer for every key.
    Public,
    Unavailable,
    Firewall,
    /// A 401 for every key, until the source is right.
    Unfair,
}

impl Path {
    pub(super) fn status(self, is_good: bool, is_right: bool) -> u16 {
        match self {
            Self::Public => 200,
            Self::Unavailable => 503,
            Self::Firewall => 403,
            Self::Unfair if !is_right => 401,
            _ if !is_good => 401,
            Self::Missing => 404,
            Self::Guarded | Self::Unfair => 200,
        }
    }
}

/// Something in the world, or something that happens to it.
#[derive(Debug, Clone, Copy)]
pub(super) enum Element {
    Client(Client),
    /// `refresh_every`.
    Poller(Duration),
    /// `refresh()` is called at this interval.
    Caller(Duration),
    /// The next key is delivered to the source. The server refuses the one before from `dies` on,
    /// and accepts the new one from `accepted` on.
    Rotation {
        at: Duration,
        dies: Duration,
        accepted: Duration,
    },
    /// Fetches that begin meanwhile go wrong.
    Fault {
        at: Duration,
        lasts: Duration,
        fault: Fault,
    },
    /// `rotate` is called.
    Hand {
        at: Duration,
        hand: Hand,
    },
    /// The runtime of the fetch in flight ends, unless it is the one that polls.
    RuntimeEnds {
        at: Duration,
    },
    /// A 401 is reported on a runtime whose clock is ahead.
    OtherClock {
        at: Duration,
        ahead: Duration,
        ends: bool,
    },
}

#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Fault {
    Fails,
    /// Fails half of the time.
    Flaps,
    /// Until the time limit.
    Hangs,
    /// A new dead key each time.
    Mints,
    /// Replicas of the source, of which one is late.
    Disagrees,
    /// The runtime is alive and not driven.
    Stalls,
    /// The source blocks its thread.
    Blocks,
}

#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Hand {
    /// What the source gives.
    Newest,
    /// The key that the source will give next.
    Next,
    Wrong,
    /// What is in force, and so on at this interval.
    Same {
        every: Duration,
    },
}

#[derive(Debug, Clone)]
pub(super) struct Plan {
    pub(super) seed: u64,
    /// The time limit of a fetch.
    pub(super) limit: Duration,
    /// How long the source takes at most.
    pub(super) latency: Duration,
    pub(super) until: Duration,
    /// No 401 may surface of requests that are first sent from then on.
    pub(super) calm_from: Option<Duration>,
    /// From then on the source is right, and the store has to recover.
    pub(super) right: Option<Duration>,
    pub(super) steady: Client,
    pub(super) elements: Vec<Element>,
}

impl Plan {
    pub(super) fn new(until: Duration, elements: Vec<Element>) -> Self {
        Self {
            seed: 1,
            limit: ms(10_000),
            latency: ms(20),
            until,
            calm_from: None,
            right: None,
            steady: STEADY,
            elements,
        }
    }

    pub(super) fn draw(seed: u64) -> Self {
        let mut random = Random::new(!seed);
        let mut plan = Self::new(ms(20_000), Vec::new());
        plan.seed = seed;
        plan.limit = random.one_of(&[ms(1_000), ms(1_500), ms(5_000), ms(10_000)]);
        plan.latency = random.one_of(&[ms(0), ms(5), ms(50), ms(300)]);
        for _ in 0..random.one_of(&[0, 1, 2]) {
            plan.elements.push(draw_client(&mut random));
        }
        if random.percent(60) {
            let interval = random.one_of(&[50, 500, 1_000, 2_000, 10_000]);
            plan.elements.push(Element::Poller(ms(interval)));
        }
        if random.percent(30) {
            plan.elements
                .push(Element::Caller(random.between(50, 2_000)));
        }
        if random.percent(40) {
            plan.draw_calm(&mut random);
        } else {
            plan.draw_trouble(&mut random);
        }
        plan
    }

    /// Rotations that must cost no request: the source works, and they are no closer than the known
    /// limits in docs/operations.md say.
    fn draw_calm(&mut self, random: &mut Random) {
        self.calm_from = Some(Duration::ZERO);
        self.latency = random.one_of(&[ms(0), ms(20), ms(100), ms(500)]);
        self.elements.retain(
            |element| !matches!(element, Element::Client(client) if client.path == Path::Unfair),
        );
        if random.percent(20) {
            let (at, hand) = (random.between(0, 2_000), Hand::Same { every: ms(100) });
            self.elements.push(Element::Hand { at, hand });
        }
        let mut at = random.between(0, 5_000);
        for _ in 0..6 {
            let overlap = if random.percent(60) {
                Duration::ZERO
            } else {
                random.between(0, 5_000)
            };
            let dies = at + overlap;
            let accepted = Duration::ZERO;
            self.elements.push(Element::Rotation { at, dies, accepted });
            if random.percent(25) {
                let at = at + random.one_of(&[Duration::ZERO, overlap, self.latency / 2]);
                let hand = Hand::Newest;
                self.elements.push(Element::Hand { at, hand });
            }
            if random.percent(20) {
                let at = dies + random.up_to(self.steady.trip + self.latency);
                self.elements.push(Element::RuntimeEnds { at });
            }
            at = dies + self.spacing() + random.one_of(&[ms(0), ms(100), ms(1_000), ms(10_000)]);
        }
        self.until = at + ms(1_000);
    }

    /// Anything at all for a while. Then the source is right, and the store has to recover.
    fn draw_trouble(&mut self, random: &mut Random) {
        let right = random.between(1_000, 30_000);
        let mut rotations: Vec<Duration> = (0..random.one_of(&[0, 1, 2, 4]))
            .map(|_| random.up_to(right))
            .collect();
        rotations.sort_unstable();
        for at in rotations {
            let dies = (at + random.between(0, 4_000)).saturating_sub(random.between(0, 4_000));
            let late = random.one_of(&[ms(0), ms(0), ms(3_000)]);
            self.elements.push(Element::Rotation {
                at,
                dies,
                accepted: at + random.up_to(late),
            });
        }
        self.draw_mishaps(random, right);
        self.right = Some(right);
        self.until = right + self.limit + ms(20_000) + self.spacing();
    }

    fn draw_mishaps(&mut self, random: &mut Random, right: Duration) {
        for _ in 0..random.one_of(&[0, 1, 2, 4]) {
            let at = random.up_to(right);
            let fault = random.one_of(&[
                Fault::Fails,
                Fault::Flaps,
                Fault::Hangs,
                Fault::Mints,
                Fault::Disagrees,
                Fault::Stalls,
                Fault::Blocks,
            ]);
            let lasts = random.up_to(right - at);
            self.elements.push(Element::Fault { at, lasts, fault });
        }
        for _ in 0..random.one_of(&[0, 1, 3]) {
            let hand = random.one_of(&[
                Hand::Newest,
                Hand::Wrong,
                Hand::Wrong,
                Hand::Same { every: ms(100) },
            ]);
            let at = random.up_to(right);
            self.elements.push(Element::Hand { at, hand });
        }
        for _ in 0..random.one_of(&[0, 0, 1, 5]) {
            self.elements.push(Element::RuntimeEnds {
                at: random.up_to(right),
            });
        }
        if random.percent(20) {
            let (ahead, ends) = (random.between(60_000, 3_600_000), random.percent(50));
            self.elements.push(Element::OtherClock {
                at: random.up_to(right),
                ahead,
                ends,
            });
        }
    }

    /// How far apart rotations without overlap are: a second, and what a request takes that meets
    /// one. That is a request for a 401 to be met, the fetches to be waited for, and the replay.
    pub(super) fn spacing(&self) -> Duration {
        let (mut trip, mut fetches) = (self.steady.trip, 1);
        let mut has_other = false;
        for element in &self.elements {
            match element {
                Element::Client(client) => trip = trip.max(client.trip + client.body),
                Element::Poller(_) | Element::Caller(_) => has_other = true,
                Element::RuntimeEnds { .. } => fetches += 1,
                _ => {}
            }
        }
        fetches += u32::from(has_other);
        ms(1_000) + self.steady.gap + trip * 2 + self.latency * fetches
    }

    /// Leaves out one element after the other while the plan still fails.
    pub(super) fn shrink(mut self) -> Self {
        let mut index = 0;
        while index < self.elements.len() {
            let mut smaller = self.clone();
            smaller.elements.remove(index);
            if World::run(&smaller).is_err() {
                (self, index) = (smaller, 0);
            } else {
                index += 1;
            }
        }
        self
    }

    /// Runs the plan. If it fails, prints what remains of it when it is made smaller.
    pub(super) fn check(self) -> Tally {
        World::run(&self).unwrap_or_else(|violation| {
            let seed = self.seed;
            let smallest = self.shrink();
            let smaller = World::run(&smallest).err();
            panic!(
                "{violation}\nreproduce with: ANYREACH_SEED={seed} ANYREACH_SCENARIOS=1 \
                 cargo test --lib --no-default-features simulation\n\
                 smallest plan, which fails {smaller:?}: {smallest:#?}"
            )
        })
    }
}

fn draw_client(random: &mut Random) -> Element {
    let paths = [
        Path::Guarded,
        Path::Missing,
        Path::Public,
        Path::Unavailable,
        Path::Firewall,
        Path::Unfair,
    ];
    Element::Client(Client {
        gap: random.between(20, 500),
        trip: random.one_of(&[ms(0), ms(20), ms(200), ms(1_000)]),
        body: random.one_of(&[ms(0), ms(0), ms(300), ms(900)]),
        replays: random.percent(70),
        has_runtime: random.percent(80),
        path: random.one_of(&paths),
    })
}

/// A number from the environment.
pub(super) fn setting<T: FromStr>(name: &str, otherwise: T) -> T {
    env::var(name)
        .ok()
        .and_then(|value| value.parse().ok())
        .unwrap_or(otherwise)
}
