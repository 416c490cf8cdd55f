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

use std::{fmt, thread};

use campaigns::judge::Judge;
use campaigns::random::Random;
use campaigns::tally::Tally;
use http::header::{AUTHORIZATION, COOKIE};
use http::{HeaderMap, StatusCode};
use support::ORG;
use tower_anyreach::{Refusal, RefusalReason};
use url::Url;

use draw::{Case, Identity, Letters, TARGETS};
use stacks::{Arrived, Outcome, Stack};
use walk::Walk;

/// Chains of the short form.
const SHORT: u64 = 6_000;

const OFF_THE_ORIGIN: &str = "credentials off the origin";
const CHOSEN: &str = "authenticated hops that another host chose";
const ANOTHERS: &str = "hops with another credential than the caller's";
const BROKEN: &str = "broken chains";
const NOT_ANONYMOUS: &str = "refused anonymous chains";
const COOKIES: &str = "cookies at another place";
/// What the control shows.
const LOST: &str = "lost overrides";

const CLAIMS: [&str; 6] = [
    OFF_THE_ORIGIN,
    CHOSEN,
    ANOTHERS,
    BROKEN,
    NOT_ANONYMOUS,
    COOKIES,
];
const HOPS: [&str; 5] = [
    "authenticated hops",
    "hops off the origin",
    "redirects followed",
    ALONG,
    LOST,
];
const ALONG: &str = "chains at the origin with two hops or more";
const WORKED: &str = "worked";
const IN_3XX: &str = "ended in a 3xx";

#[test]
fn redirects_keep_credentials_at_the_origin_and_with_their_caller() {
    let chains = campaigns::number("ANYREACH_CHAINS", SHORT);
    let seed = campaigns::number("ANYREACH_SEED", 1);
    let workers = thread::available_parallelism().map_or(2, |number| number.get().min(8));
    let mut tallies: Vec<Tally> = Stack::ALL.iter().map(|_| Tally::default()).collect();
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
    for ((_, name), tally) in Stack::ALL.iter().zip(&tallies) {
        println!("  {name}: {}", Summary(tally));
    }
    for tally in &tallies {
        tally.assert_no_violations();
    }
    // A run in which these did not happen proves nothing.
    for ((stack, of_stack), tally) in Stack::ALL.iter().zip(&tallies) {
        let least = |name, share| {
            let count = tally.count(name);
            assert!(count >= chains / share, "{of_stack}: {name}: {tally}");
        };
        least("authenticated hops", 5);
        least("foreign_redirect", 100);
        least("hops off the origin", 20);
        if stack.follows() {
            least("redirects followed", 5);
        }
        if stack.has_policy() {
            least(ALONG, 20);
        }
        if !stack.keeps_extensions() {
            least(LOST, 100);
        }
    }
}

/// Sends the chains with these numbers through every stack; returns a tally for each.
fn run(seed: u64, chains: impl Iterator<Item = u64>) -> Vec<Tally> {
    let judges = TARGETS.each_ref().map(|target| Judge::new(target.origin));
    let letters = TARGETS.each_ref().map(Letters::of);
    let mut tallies: Vec<Tally> = Stack::ALL.iter().map(|_| Tally::default()).collect();
    for tally in &mut tallies {
        for claim in CLAIMS {
            tally.add(claim, 0);
        }
    }
    for index in chains {
        let case = Case::draw(&mut Random(seed ^ (index << 20)), &letters);
        let (layer, request) = (case.layer(), case.request());
        for ((stack, _), tally) in Stack::ALL.iter().zip(&mut tallies) {
            let outcome = stacks::send(*stack, &case, &layer, request.clone());
            Trial {
                index,
                case: &case,
                judge: &judges[case.target],
                stack: *stack,
                outcome: &outcome,
                tally,
            }
            .judge();
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
        self.count();
        let caller = self.case.caller();
        let mut has_left = false;
        let mut places = Vec::new();
        for hop in &self.outcome.arrived {
            let is_ours = self.judge.leads_to_us(&hop.head.uri);
            has_left |= !is_ours;
            let carried = Carried::of(&hop.head.headers);
            if carried == Carried::Nothing {
                if is_ours && matches!(caller, Ok(Some(_))) {
                    self.violates(ANOTHERS);
                }
            } else {
                self.tally.add("authenticated hops", 1);
                if !is_ours {
                    self.violates(OFF_THE_ORIGIN);
                }
                if has_left {
                    self.violates(CHOSEN);
                }
                let is_callers = matches!(&caller, Ok(Some(caller)) if carried.is(caller));
                if !is_callers && self.stack.keeps_extensions() {
                    self.violates(ANOTHERS);
                } else if !is_callers {
                    self.tally.add(LOST, 1);
                }
            }
            self.tally.add("hops off the origin", (!is_ours).into());
            if let Ok(url) = Url::parse(&hop.head.uri.to_string()) {
                places.push(url.origin());
            }
            let is_same_place = places.windows(2).all(|pair| pair[0] == pair[1]);
            if hop.head.headers.contains_key(COOKIE)
                && !is_same_place
                && self.stack.has_policy_last()
            {
                self.violates(COOKIES);
            }
        }
        if self.stack.has_policy() {
            self.judge_arrival();
        }
        if self.stack.has_policy_last() && self.case.is_anonymous {
            let reason = self.outcome.refusal().map(Refusal::reason);
            if self.outcome.answer.is_err() && reason != Some(RefusalReason::ForeignRedirect) {
                self.violates(NOT_ANONYMOUS);
            }
        }
    }

    /// Compares a chain that stays at the origin with its walk.
    fn judge_arrival(&mut self) {
        let clones = self.case.clones_bodies;
        let walk = Walk::of(self.case, clones, self.stack.limit());
        if !walk.stays_at_the_origin {
            return;
        }
        let arrived = &self.outcome.arrived;
        let is_right = if let Err(reason) = self.case.caller() {
            arrived.is_empty() && self.outcome.refusal().map(Refusal::reason) == Some(reason)
        } else {
            self.tally.add(ALONG, (walk.hops.len() > 1).into());
            let is_there = |(hop, expected): (&Arrived, &walk::Hop)| {
                hop.head.uri == expected.uri
                    && hop.head.method == expected.method
                    && hop.body_len == expected.body_len
            };
            arrived.len() == walk.hops.len()
                && arrived.iter().zip(&walk.hops).all(is_there)
                && matches!(&self.outcome.answer, Ok(status) if *status == walk.status)
        };
        if !is_right {
            self.violates(BROKEN);
        }
    }

    fn count(&mut self) {
        let ended = match &self.outcome.answer {
            Ok(StatusCode::OK) => WORKED,
            Ok(_) => IN_3XX,
            Err(error) => error
                .refusal()
                .map_or(error.label(), |refusal| refusal.reason().as_str()),
        };
        self.tally.add(ended, 1);
        let followed = self.outcome.arrived.len().saturating_sub(1);
        self.tally.add("redirects followed", followed as u64);
    }

    fn violates(&mut self, claim: &'static str) {
        self.tally.add(claim, 1);
        let Self {
            index,
            case,
            stack,
            outcome,
            ..
        } = self;
        self.tally.violation(|| {
            let heads = outcome.arrived.iter().map(|hop| &hop.head);
            let sent = heads.map(|head| (&head.method, &head.uri, Carried::of(&head.headers)));
            let sent: Vec<_> = sent.collect();
            format!(
                "{claim}, chain {index}, {stack:?}: {case:?}: {sent:?}, {:?}",
                outcome.answer
            )
        });
    }
}

/// A tally of one stack: what became of its chains, its hops, and the violations of each claim.
struct Summary<'a>(&'a Tally);

impl fmt::Display for Summary<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let counts = |names: &[&str]| -> Vec<String> {
            let count = |name: &&str| format!("{} {name}", self.0.count(name));
            names.iter().map(count).collect()
        };
        let rest = [WORKED, IN_3XX, "violations"];
        let reasons: Vec<_> = self
            .0
            .names()
            .filter(|name| !CLAIMS.contains(name) && !HOPS.contains(name) && !rest.contains(name))
            .collect();
        let refused: u64 = reasons.iter().map(|reason| self.0.count(reason)).sum();
        write!(
            f,
            "{}, {refused} refused ({}); {}; {}",
            counts(&rest[..2]).join(", "),
            counts(&reasons).join(", "),
            counts(&HOPS).join(", "),
            counts(&CLAIMS).join(", ")
        )
    }
}

/// What the two headers of a hop hold.
#[derive(Debug, PartialEq)]
enum Carried {
    Nothing,
    /// One bearer token, marked sensitive, and at most one organization.
    Credential(String, Option<String>),
    Unsound,
}

impl Carried {
    fn of(headers: &HeaderMap) -> Self {
        let lines = |name| -> Vec<_> {
            let values = headers.get_all(name).iter();
            values
                .map(|value| value.to_str().unwrap().to_owned())
                .collect()
        };
        let organizations = lines(&ORG);
        match (&lines(&AUTHORIZATION)[..], &organizations[..]) {
            ([], []) => Self::Nothing,
            ([bearer], [] | [_])
                if bearer.starts_with("Bearer ") && headers[AUTHORIZATION].is_sensitive() =>
            {
                let secret = bearer["Bearer ".len()..].to_owned();
                Self::Credential(secret, organizations.first().cloned())
            }
            _ => Self::Unsound,
        }
    }

    fn is(&self, caller: &Identity) -> bool {
        matches!(
            self,
            Self::Credential(secret, organization)
                if secret == caller.secret && organization.as_deref() == caller.organization
        )
    }
}
