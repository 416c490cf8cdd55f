//! The faults of the network and of the hosts, and the operator's acts, each with its time.

use std::cmp::Reverse;
use std::time::Duration;

use turmoil::Sim;

use campaigns::random::Random;

use crate::scene::{Api, Shared, Tokens};
use crate::{CALM, TICK};

type Act = Box<dyn Fn(&mut Sim<'_>, &Shared)>;

fn act(act: impl Fn(&mut Sim<'_>, &Shared) + 'static) -> Act {
    Box::new(act)
}

pub(crate) struct Plan {
    /// Latest first.
    acts: Vec<(Duration, Act)>,
    /// From when on the neighbour crashes as soon as it fetches.
    crash_of_neighbour: Option<Duration>,
    pub(crate) faults: u64,
}

impl Plan {
    pub(crate) fn draw(random: &mut Random) -> Self {
        let mut acts = Vec::new();
        // The crash of the neighbour.
        let mut faults = 1;
        let mut at = Duration::ZERO;
        while at < CALM {
            let [begin, end] = draw_fault(random);
            let ended = at + random.skewed_duration(200, 5);
            if ended < CALM {
                faults += 1;
                acts.extend([(at, begin), (ended, end)]);
            }
            at += random.duration(200..2_000);
        }
        let mut at = random.duration(500..8_000);
        while at < CALM {
            let is_pushed = random.one_in(3);
            let create = act(move |_, scene| scene.lock().create_key(is_pushed));
            let delete = act(|_, scene| {
                let mut scene = scene.lock();
                scene.oldest = scene.newest;
            });
            // Before the last fault ends, because a key that is deleted while the source rests would be missed.
            let deleted = (at + random.duration(0..3_000)).min(CALM.saturating_sub(TICK));
            acts.extend([(at, create), (deleted, delete)]);
            at += random.duration(500..6_000);
        }
        acts.sort_by_key(|(at, _)| Reverse(*at));
        Self {
            acts,
            crash_of_neighbour: Some(random.duration(5_000..70_000)),
            faults,
        }
    }

    /// Does the acts that are due.
    pub(crate) fn act(&mut self, sim: &mut Sim<'_>, scene: &Shared) {
        let now = sim.elapsed();
        while let Some((_, act)) = self.acts.pop_if(|(at, _)| *at <= now) {
            act(sim, scene);
        }
        let is_fetching = || {
            let scene = scene.lock();
            scene.neighbour_asks && scene.fetch.is_some()
        };
        if let Some(due) = self.crash_of_neighbour
            && due <= now
            && (now >= CALM || is_fetching())
        {
            self.crash_of_neighbour = None;
            scene.lock().neighbour_crashes = true;
            sim.crash("neighbour");
            scene.lock().neighbour_crashes = false;
        }
    }
}

const LINKS: [[&str; 2]; 3] = [
    ["client", "api"],
    ["client", "tokens"],
    ["neighbour", "tokens"],
];

/// Returns how a fault begins and how it ends.
fn draw_fault(random: &mut Random) -> [Act; 2] {
    let mut link = random.pick(&LINKS);
    link.rotate_left(random.index(2));
    let [a, b] = link;
    let host = random.pick(&["api", "tokens"]);
    let repair = act(move |sim, _| sim.repair(a, b));
    let release = act(move |sim, _| sim.release(a, b));
    match random.below(12) {
        0 => [act(move |sim, _| sim.partition(a, b)), repair],
        1 => [act(move |sim, _| sim.partition_oneway(a, b)), repair],
        2 => [act(move |sim, _| sim.hold(a, b)), release],
        3 | 4 => {
            let latency = random.skewed_duration(1, 11).min(Duration::from_secs(2));
            let usual = Duration::from_millis(5);
            let set = move |latency| act(move |sim, _| sim.set_link_latency(a, b, latency));
            [set(latency), set(usual)]
        }
        5 => {
            let restart = act(move |sim, _| {
                if !sim.is_host_running(host) {
                    sim.bounce(host);
                }
            });
            [act(move |sim, _| sim.crash(host)), restart]
        }
        // A restart without any time in between.
        6 => [act(move |sim, _| sim.bounce(host)), act(|_, _| ())],
        7 | 8 => {
            let [one, two, five] = [1, 2, 5].map(Api::Denies);
            let api = random.pick(&[one, two, five, Api::Fails]);
            let set = |api| act(move |_, scene| scene.lock().api = api);
            [set(api), set(Api::Works)]
        }
        9 | 10 => {
            let text = random.pick(&["", "ak_", "<h1>502 Bad Gateway</h1>", "ak_1.s\u{e9}cret"]);
            let answers = Tokens::Answers(text);
            let tokens = [Tokens::LagsBehind, Tokens::Fails, Tokens::Hangs, answers];
            let set = |tokens| act(move |_, scene| scene.lock().tokens = tokens);
            [set(random.pick(&tokens)), set(Tokens::Works)]
        }
        _ => {
            let set = |panics| act(move |_, scene| scene.lock().source_panics = panics);
            [set(true), set(false)]
        }
    }
}
