//! Generated redirect chains, sent through every stack of a follower and the layer.
//!
//! A [`Case`] is drawn from the seed: the first URI, the answer of each server, the overrides that the caller inserts, and the
//! options of the layer. It is sent through each [`Stack`], over one inner service that plays all servers and records each
//! request. The `url` crate decides which hops are at the origin; [`Walk`], which shares no code with the crate, decides where
//! a chain leads.
//!
//! | Claim | Holds for |
//! |---|---|
//! | no credential or organization off the origin | every stack |
//! | no authenticated hop that another host chose | every stack |
//! | no credential or organization but the caller's: the override's, otherwise the layer's | stacks that keep extensions |
//! | a chain that never leaves the origin arrives, with the caller's credential on each hop | stacks with `RedirectPolicy` |
//! | an `Anonymous` request is refused only as `ForeignRedirect` | stacks in which `RedirectPolicy` is last |
//! | the caller's cookie stays at the scheme, host and port of the first request | stacks in which `RedirectPolicy` is last |
//!
//! A follower that drops extensions is the control: the campaign must see it lose overrides. Another stack sends foreign
//! requests past the layer, so that only the mark of `RedirectPolicy` keeps their redirects out of the origin.
//!
//! `ANYREACH_CHAINS` sets the number of chains, `ANYREACH_SEED` the seed.
#![allow(clippy::unwrap_used, reason = "a campaign fails by panicking")]
#![allow(clippy::print_stdout, reason = "how much was tried is the result")]

mod draw;
mod stacks;
mod walk;

use std::thread;

use campaigns::judge::{Carried, Judge, carried};
use campaigns::random::Random;
use campaigns::tally::Tally;
use http::StatusCode;
use http::header::COOKIE;
use tower_anyreach::RefusalReason;
use url::Url;

use draw::{Case, ORIGINS, Texts};
use stacks::{Arrived, Outcome, Stack};
use walk::{Hop, Walk};

/// Chains of the short form.
const SHORT: u64 = 6_000;

const OFF_THE_ORIGIN: &str = "credentials off the origin";
const CHOSEN: &str = "authenticated hops that another host chose";
const ANOTHERS: &str = "hops with another credential than the caller's";
const BROKEN: &str = "broken chains";
const NOT_ANONYMOUS: &str = "refused anonymous chains";
const COOKIES: &str = "cookies at another place";
/// Counted in the control.
const LOST: &str = "lost overrides";

const AUTHENTICATED: &str = "authenticated hops";
const FOREIGN: &str = "hops off the origin";
const FOLLOWED: &str = "redirects followed";
const ALONG: &str = "chains at the origin with two hops or more";

#[test]
fn redirects_keep_credentials_at_the_origin_and_with_their_caller() {
    let chains = campaigns::number("ANYREACH_CHAINS", SHORT);
    let seed = campaigns::number("ANYREACH_SEED", 1);
    let workers = thread::available_parallelism().map_or(2, |number| number.get().min(8));
    let mut tallies = Stack::ALL.map(|_| Tally::default());
    thread::scope(|scope| {
        let running: Vec<_> = (0..workers as u64)
            .map(|first| scope.spawn(move || run(seed, (first..chains).step_by(workers))))
            .collect();
        for worker in running {
            for (sum, tally) in tallies.iter_mut().zip(worker.join().unwrap()) {
                *sum += tally;
            }
        }
    });

    println!("redirects, seed {seed}, {chains} chains through each stack:");
    for (stack, tally) in Stack::ALL.iter().zip(&tallies) {
        println!("  {stack:?}: {tally}");
    }
    for (stack, tally) in Stack::ALL.iter().zip(&tallies) {
        tally.assert_no_violations();
        // A run in which these did not happen proves nothing.
        for (name, share, is_expected) in [
            (AUTHENTICATED, 5, true),
            ("foreign_redirect", 100, true),
            (FOREIGN, 20, true),
            (FOLLOWED, 5, *stack != Stack::NoFollower),
            (ALONG, 20, stack.has_policy()),
            (LOST, 100, *stack == Stack::DropsExtensions),
        ] {
            let is_there = tally.count(name) >= chains / share;
            assert!(is_there || !is_expected, "{stack:?}: {name}: {tally}");
        }
    }
}

/// Sends the chains with these numbers through every stack; returns a tally for each.
fn run(seed: u64, chains: impl Iterator<Item = u64>) -> [Tally; Stack::ALL.len()] {
    let judges = ORIGINS.map(Judge::new);
    let texts = ORIGINS.map(Texts::of);
    let mut tallies = Stack::ALL.map(|_| Tally::default());
    for index in chains {
        let mut random = Random(seed ^ (index << 20));
        // Half of the chains are for the first origin.
        let target = random.pick(&[0, 0, 0, 0, 0, 1, 2, 3]);
        let case = Case::draw(&mut random, &texts[target]);
        let (layer, request) = (case.layer(), case.request());
        for (stack, tally) in Stack::ALL.into_iter().zip(&mut tallies) {
            let outcome = stacks::send(stack, &case, &layer, request.clone());
            let mut trial = Trial {
                index,
                case: &case,
                judge: &judges[target],
                stack,
                outcome: &outcome,
                tally,
            };
            trial.judge();
        }
    }
    tallies
}

/// One chain through one stack.
struct Trial<'a> {
    index: u64,
    case: &'a Case,
    judge: &'a Judge,
    stack: Stack,
    outcome: &'a Outcome,
    tally: &'a mut Tally,
}

impl Trial<'_> {
    fn judge(&mut self) {
        let caller = self.case.caller();
        let mut has_left = false;
        let mut places = Vec::new();
        for hop in &self.outcome.arrived {
            let is_ours = self.judge.leads_to_us(&hop.head.uri);
            has_left |= !is_ours;
            let carried = carried(&hop.head.headers);
            if carried == Carried::Nothing {
                let is_missing = is_ours && matches!(caller, Ok(Some(_)));
                self.must(!is_missing, ANOTHERS);
            } else {
                self.tally.add(AUTHENTICATED, 1);
                self.must(is_ours, OFF_THE_ORIGIN);
                self.must(!has_left, CHOSEN);
                let is_callers =
                    matches!(caller, Ok(Some(caller)) if carried.is(caller.0, caller.1));
                if self.stack == Stack::DropsExtensions {
                    self.tally.add(LOST, (!is_callers).into());
                } else {
                    self.must(is_callers, ANOTHERS);
                }
            }
            self.tally.add(FOREIGN, (!is_ours).into());
            if let Ok(url) = Url::parse(&hop.head.uri.to_string()) {
                places.push(url.origin());
            }
            let is_same_place = places.windows(2).all(|pair| pair[0] == pair[1]);
            if self.stack.has_policy_last() && !is_same_place {
                self.must(!hop.head.headers.contains_key(COOKIE), COOKIES);
            }
        }
        let followed = self.outcome.arrived.len().saturating_sub(1);
        self.tally.add(FOLLOWED, followed as u64);
        self.judge_end();
    }

    fn judge_end(&mut self) {
        let refusal = self.outcome.refusal();
        let ended = match &self.outcome.answer {
            Ok(StatusCode::OK) => "worked",
            Ok(_) => "ended in a 3xx",
            Err(error) => refusal.map_or(error.label(), RefusalReason::as_str),
        };
        self.tally.add(ended, 1);
        if self.stack.has_policy_last() && self.case.is_anonymous {
            let is_foreign = refusal == Some(RefusalReason::ForeignRedirect);
            self.must(self.outcome.answer.is_ok() || is_foreign, NOT_ANONYMOUS);
        }
        // A chain that stays at the origin arrives.
        let walk = Walk::of(self.case, self.judge, self.stack.limit());
        let Some(walk) = walk.filter(|_| self.stack.has_policy()) else {
            return;
        };
        let arrived = &self.outcome.arrived;
        let is_right = if let Err(reason) = self.case.caller() {
            arrived.is_empty() && refusal == Some(reason)
        } else {
            self.tally.add(ALONG, (walk.hops.len() > 1).into());
            let is_there = |(hop, expected): (&Arrived, &Hop)| {
                hop.head.uri == expected.uri
                    && hop.head.method == expected.method
                    && hop.body_len == expected.body_len
            };
            arrived.len() == walk.hops.len()
                && arrived.iter().zip(&walk.hops).all(is_there)
                && matches!(&self.outcome.answer, Ok(status) if *status == walk.status)
        };
        self.must(is_right, BROKEN);
    }

    fn must(&mut self, holds: bool, claim: &'static str) {
        self.tally.add(claim, (!holds).into());
        if !holds {
            let (index, stack, case) = (self.index, self.stack, self.case);
            let (arrived, answer) = (&self.outcome.arrived, &self.outcome.answer);
            self.tally.violation(|| {
                let heads = arrived.iter().map(|hop| &hop.head);
                let sent = heads.map(|head| (&head.method, &head.uri, carried(&head.headers)));
                let sent: Vec<_> = sent.collect();
                format!("{claim}, chain {index}, {stack:?}: {case:?}: {sent:?}, {answer:?}")
            });
        }
    }
}
