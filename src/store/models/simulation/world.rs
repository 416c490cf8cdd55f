//! The world: a queue of events in simulated time around the real [`State`], and what must hold at
//! each of them.
//!
//! Everything that happens is an [`Event`]; there is no runtime and no thread. Requests do what the
//! layer and `RefreshPolicy` do, and a [`Waiter`] does what `fetch::wait` does. The world records
//! the fetch in flight and what is owed after it, and compares each answer of the state with that
//! record.

mod fetches;
mod requests;
mod waits;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use tokio::time::Instant;

use super::plan::{Client, Element, Fault, Key, Plan, Random, ms};
use crate::store::state::{Fingerprint, State};

/// How long after its limit a fetch is late, as in `fetch`.
const GRACE: Duration = ms(100);
const LONGEST_REST: Duration = ms(8_000);
/// Time from a right source, or the end of the fetch then in flight, to the right credential.
const RECOVERY: Duration = ms(9_000);
/// Keys from here on are never good.
const FIRST_DEAD: Key = 1 << 20;

/// The result of a plan.
#[derive(Debug, Default)]
pub(super) struct Tally {
    pub(super) requests: u64,
    pub(super) attempts: u64,
    pub(super) looks: u64,
    /// Requests that may be replayed and ended in a 401.
    pub(super) surfaced: u64,
    /// How often a fetch put a dead key in the place of a good one.
    pub(super) displaced: u64,
    /// The longest time from the delivery of a good key to the source until it was in force.
    pub(super) slowest: Duration,
    /// When the last fetches began.
    pub(super) fetches: Vec<Duration>,
    pub(super) lasted: Duration,
}

#[derive(Clone, Copy)]
struct Request {
    id: u64,
    client: usize,
    first_sent: Duration,
    sent: Key,
    is_replay: bool,
}

#[derive(Clone, Copy)]
enum Event {
    Send(usize),
    Arrive(Request),
    Answer(Request, u16),
    /// The body of a denial was read: the policy decides. It has the fetch that the 401 led to, if
    /// any.
    Decide(Request, Option<u64>),
    Poll(Poller),
    Call(Duration),
    Read(u64),
    End(u64),
    Timer(u64),
    Happen(Element),
    Right,
}

#[derive(Clone, Copy)]
struct Poller {
    interval: Duration,
    /// The next pause is spread over the interval.
    is_spread: bool,
}

/// On whose behalf a wait is.
enum Caller {
    Request(Request),
    /// A call of `refresh()`.
    Refresh,
    Poller(Poller),
}

struct Waiter {
    caller: Caller,
    fetch: u64,
    is_begun: bool,
    since: Duration,
    losses_before: u32,
    until: Option<Duration>,
}

enum Waited {
    Ended,
    Lost,
    Over,
}

/// On whose runtime a fetch is.
#[derive(Clone, Copy, PartialEq)]
enum Runner {
    Poller,
    Caller,
    Request(u64),
}

/// The fetch in flight.
struct Fetch {
    number: u64,
    runner: Runner,
    begun: Duration,
    version: u64,
    is_look: bool,
    fault: Option<Fault>,
    read: Option<Key>,
    /// A 401 met this version, and waits for the next fetch.
    look_at: Option<u64>,
    is_called: bool,
}

pub(super) struct World<'a> {
    plan: &'a Plan,
    random: Random,
    start: Instant,
    now: Duration,
    queue: BTreeMap<(Duration, u64), Event>,
    numbers: u64,
    clients: Vec<Client>,
    /// From when and until when the server accepts each key.
    lifetimes: Vec<(Duration, Duration)>,
    /// What the source gives from when on.
    deliveries: Vec<(Duration, Key)>,
    dead_keys: Key,
    /// The newest key of the source that has been in force.
    newest: Key,
    state: State,
    key: Key,
    /// The key that the one in force replaced.
    replaced: Option<Key>,
    /// Keys that met a 401 or were rotated out since they were last put in force.
    refused: BTreeSet<Key>,
    fetch: Option<Fetch>,
    /// When the fetch that ended last began.
    last_begun: Duration,
    waiters: BTreeMap<u64, Waiter>,
    /// Requests whose runtime has ended.
    gone: BTreeSet<u64>,
    losses: u32,
    /// When looks began since `rotate` changed the credential, without those that were lost.
    looks: VecDeque<Duration>,
    /// When the last look ended that a rest must follow.
    look_ended: Option<Duration>,
    right: Option<Right>,
    calm_from: Option<Duration>,
    violation: Option<String>,
    tally: Tally,
}

/// The source is right; the store has to recover.
struct Right {
    key: Key,
    in_flight: Option<u64>,
    /// Of a fetch then in flight that blocks, known once it has ended.
    recover_by: Option<Duration>,
    is_recovered: bool,
}

fn print(key: Key) -> Fingerprint {
    let mut bytes = [0; 32];
    bytes[..4].copy_from_slice(&key.to_le_bytes());
    Fingerprint(bytes)
}

impl<'a> World<'a> {
    /// Runs a plan to its end, or to the first thing that must not happen.
    pub(super) fn run(plan: &'a Plan) -> Result<Tally, String> {
        let mut world = World::new(plan);
        while let Some(((at, _), event)) = world.queue.pop_first() {
            world.now = at;
            world.happen(event);
            let recover_by = world.right.as_ref().filter(|right| !right.is_recovered);
            let recover_by = recover_by.and_then(|right| right.recover_by);
            let in_time = recover_by.is_none_or(|by| at <= by);
            world.must(in_time, "the store recovers in time");
            let is_known = world.state.in_force() == print(world.key);
            world.must(
                is_known,
                "only a fetch or `rotate` changes what is in force",
            );
            if let Some(violation) = world.violation {
                return Err(format!("at {at:?}: violated: {violation}"));
            }
        }
        world.must(world.waiters.is_empty(), "every wait ends");
        let recovered = world.right.as_ref().is_none_or(|right| right.is_recovered);
        world.must(plan.right.is_none() || recovered, "the store recovers");
        world.tally.lasted = world.now;
        world.violation.map_or(Ok(world.tally), Err)
    }

    fn new(plan: &'a Plan) -> Self {
        let start = Instant::now();
        let mut world = Self {
            plan,
            random: Random::new(plan.seed),
            start,
            now: Duration::ZERO,
            queue: BTreeMap::new(),
            numbers: 0,
            clients: vec![plan.steady],
            lifetimes: vec![(Duration::ZERO, Duration::MAX)],
            deliveries: vec![(Duration::ZERO, 0)],
            dead_keys: FIRST_DEAD,
            newest: 0,
            state: State::new(print(0), plan.limit + GRACE, start),
            key: 0,
            replaced: None,
            refused: BTreeSet::new(),
            fetch: None,
            last_begun: Duration::ZERO,
            waiters: BTreeMap::new(),
            gone: BTreeSet::new(),
            losses: 0,
            looks: VecDeque::new(),
            look_ended: None,
            right: None,
            calm_from: plan.calm_from,
            violation: None,
            tally: Tally::default(),
        };
        world.state.loaded(None, start);
        world.populate();
        world
    }

    fn populate(&mut self) {
        for element in self.plan.elements.clone() {
            match element {
                Element::Client(client) => self.clients.push(client),
                Element::Poller(interval) => self.poll_later(Poller {
                    interval,
                    is_spread: true,
                }),
                Element::Caller(every) => self.after(every, Event::Call(every)),
                Element::Rotation { at, dies, accepted } => {
                    let _key = self.deliver(at, dies, accepted);
                }
                Element::Fault { .. } => {}
                Element::Hand { at, .. }
                | Element::RuntimeEnds { at }
                | Element::OtherClock { at, .. } => self.after(at, Event::Happen(element)),
            }
        }
        for client in 0..self.clients.len() {
            let phase = self.random.up_to(self.clients[client].gap);
            self.after(phase, Event::Send(client));
        }
        if let Some(right) = self.plan.right {
            self.after(right, Event::Right);
        }
    }

    fn must(&mut self, holds: bool, rule: &str) {
        if !holds && self.violation.is_none() {
            self.violation = Some(rule.to_owned());
        }
    }

    fn after(&mut self, wait: Duration, event: Event) {
        self.numbers += 1;
        self.queue.insert((self.now + wait, self.numbers), event);
    }

    fn instant(&self) -> Instant {
        self.start + self.now
    }

    /// A new key is delivered to the source; its predecessor dies, and the server accepts it from
    /// `accepted` on.
    fn deliver(&mut self, at: Duration, dies: Duration, accepted: Duration) -> Key {
        let key = Key::try_from(self.lifetimes.len()).unwrap();
        for lifetime in &mut self.lifetimes {
            lifetime.1 = lifetime.1.min(dies);
        }
        self.lifetimes.push((accepted, Duration::MAX));
        self.deliveries.push((at, key));
        key
    }

    fn accepts(&self, key: Key) -> bool {
        let lifetime = self.lifetimes.get(key as usize);
        lifetime.is_some_and(|(from, until)| (*from..*until).contains(&self.now))
    }

    fn delivered(&self) -> impl Iterator<Item = Key> {
        let now = self.now;
        let delivered = self
            .deliveries
            .iter()
            .rev()
            .filter(move |(at, _)| *at <= now);
        delivered.map(|(_, key)| *key)
    }

    fn dead_key(&mut self) -> Key {
        self.dead_keys += 1;
        self.dead_keys
    }

    fn is_sending(&self) -> bool {
        self.now < self.plan.until
    }

    fn happen(&mut self, event: Event) {
        match event {
            Event::Send(client) => self.send_first(client),
            Event::Arrive(request) => {
                let (client, is_good) = (self.clients[request.client], self.accepts(request.sent));
                let is_right = self.plan.right.is_some_and(|right| self.now >= right);
                let status = client.path.status(is_good, is_right);
                let way = self.random.way(client.trip);
                self.after(way, Event::Answer(request, status));
            }
            Event::Answer(request, status) => self.answered(request, status),
            Event::Decide(request, look) => self.decide(request, look),
            Event::Poll(poller) => self.poll(poller),
            Event::Call(every) => {
                if self.is_sending() {
                    self.after(every, Event::Call(every));
                    self.call(self.now, self.losses);
                }
            }
            Event::Read(number) => {
                let fetch = self.fetch.as_ref().filter(|fetch| fetch.number == number);
                if let Some(fault) = fetch.map(|fetch| fetch.fault) {
                    let read = self.source_gives(fault);
                    self.fetch.as_mut().unwrap().read = read;
                }
            }
            Event::End(number) => self.end(number),
            Event::Timer(waiter) => self.check(waiter),
            Event::Happen(Element::Hand { hand, .. }) => self.hand(hand),
            Event::Happen(Element::OtherClock { ahead, ends, .. }) => self.other_clock(ahead, ends),
            Event::Happen(_) => self.runtime_ends(),
            Event::Right => self.be_right(),
        }
    }
}
