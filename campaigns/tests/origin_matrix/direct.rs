//! Requests without redirects: every URI, method, `Host` header, credential and mode, with and without headers of the
//! caller's own.

use http::header::AUTHORIZATION;
use http::{HeaderValue, Method, Uri};
use tower::{Layer, Service};
use tower_anyreach::{
    AnyreachAuth, AnyreachAuthLayer, CallerHeaders, Credential, Error, ForeignRequests, Origin,
};

use crate::ingredients::{Expected, HostHeader, METHODS, Target, request};
use crate::plan::{Digits, Plan};
use crate::wire::{Wire, drive};
use campaigns::judge::{CALLERS, Carried, Judge, ORGANIZATION, carried};
use campaigns::random::Random;
use campaigns::tally::Tally;
use support::{KEY, ORG, credential, token_for};

/// Of everything that is asked of the origin which users have.
const SHARE: u64 = 40_000;
/// Of each other origin.
const SHARE_OF_OTHERS: u64 = 6_000;

/// A personal access token first, then a key.
pub(crate) fn credentials() -> [Credential; 2] {
    [token_for(ORGANIZATION), credential(KEY)]
}

pub(crate) const FOREIGN: [ForeignRequests; 2] = [
    ForeignRequests::Reject,
    ForeignRequests::ForwardWithoutCredentials,
];

/// A layer that is told so, over a wire.
struct Mode {
    service: AnyreachAuth<Wire>,
    wire: Wire,
    relative: bool,
    foreign: ForeignRequests,
}

fn modes(target: &Target) -> Vec<Mode> {
    let origin: Origin = target.origin.parse().unwrap();
    let mut modes = Vec::new();
    for credential in credentials() {
        for foreign in FOREIGN {
            for relative in [false, true] {
                let layer = AnyreachAuthLayer::new(credential.clone())
                    .origin(origin.clone())
                    .foreign_requests(foreign)
                    .caller_headers(CallerHeaders::Replace);
                let layer = if relative {
                    layer.allow_relative_uris()
                } else {
                    layer
                };
                let wire = Wire::default();
                modes.push(Mode {
                    service: layer.layer(wire.clone()),
                    wire,
                    relative,
                    foreign,
                });
            }
        }
    }
    modes
}

/// URI x method x `Host` x mode, with a personal access token, whose two headers are more to lose.
pub(crate) fn every_request(target: &Target, plan: &Plan) -> Tally {
    let mut run = Run::new(target, &METHODS, target.host_headers.len());
    run.modes.truncate(4);
    let total = target.uris() * run.each();
    run.all_of(plan.indices(total, SHARE))
}

/// Those of them whose URI is in order or in origin form, with either credential, and all of them in every form of the
/// campaign: few as they are, a draw would miss what their method and their `Host` forbid.
pub(crate) fn every_request_to_us(target: &Target) -> Tally {
    let mut run = Run::new(target, &METHODS, target.host_headers.len());
    let each = run.each();
    let ours = (0..target.uris()).filter(|uri| {
        let (text, expected) = target.uri(*uri);
        expected == Expected::Ours || text.starts_with(['/', '*'])
    });
    run.all_of(ours.flat_map(|uri| uri * each..(uri + 1) * each))
}

/// The same for other origins, with either credential, two methods and four `Host` headers.
pub(crate) fn some_requests(target: &Target, plan: &Plan) -> Tally {
    let mut run = Run::new(target, &[Method::GET, Method::CONNECT], 4);
    let total = target.uris() * run.each();
    run.all_of(plan.indices(total, SHARE_OF_OTHERS))
}

struct Run<'a> {
    target: &'a Target,
    modes: Vec<Mode>,
    methods: &'a [Method],
    hosts: Vec<(Vec<HeaderValue>, HostHeader)>,
}

impl<'a> Run<'a> {
    fn new(target: &'a Target, methods: &'a [Method], host_headers: usize) -> Self {
        let hosts = target.host_headers[..host_headers]
            .iter()
            .map(|(lines, says)| {
                let lines = lines.iter().map(|line| line.parse().unwrap()).collect();
                (lines, *says)
            })
            .collect();
        Self {
            target,
            modes: modes(target),
            methods,
            hosts,
        }
    }

    /// How many cases there are of each URI.
    fn each(&self) -> u64 {
        (self.modes.len() * self.hosts.len() * self.methods.len()) as u64
    }

    fn all_of(&mut self, indices: impl Iterator<Item = u64>) -> Tally {
        let Self {
            target,
            modes,
            methods,
            hosts,
        } = self;
        let judge = Judge::new(target.origin);
        let callers = [&format!("Bearer {CALLERS}"), CALLERS];
        let callers = callers.map(|callers| HeaderValue::try_from(callers).unwrap());
        let mut tally = Tally::default();
        let mut uri: (u64, Option<Uri>, Expected) = (u64::MAX, None, Expected::Refused);
        for index in indices {
            let mut digits = Digits(index);
            let mode = digits.below(modes.len());
            let mode = &mut modes[mode];
            let (lines, says) = digits.pick(hosts);
            let method = digits.pick(methods);
            if uri.0 != digits.0 {
                let (text, expected) = target.uri(digits.0);
                uri = (digits.0, text.parse().ok(), expected);
            }
            let Some(to) = &uri.1 else {
                tally.add("unbuildable", 1);
                continue;
            };
            tally.add("cases", 1);
            let expected = match uri.2.with(method, *says) {
                Expected::Relative if mode.relative => Expected::Ours,
                Expected::Relative => Expected::Refused,
                Expected::Foreign if mode.foreign == ForeignRequests::Reject => Expected::Refused,
                expected => expected,
            };
            let mut request = request(method, to, lines);
            // Headers of the caller's own, which half of the requests bring, change nothing.
            let mut random = Random(index);
            if random.one_in(2) {
                let headers = request.headers_mut();
                headers.insert(AUTHORIZATION, random.pick(&callers));
                headers.insert(&ORG, HeaderValue::from_static("org_2"));
            }
            let outcome = drive(mode.service.call(request));
            let arrived = mode.wire.take();
            let found = match (&arrived[..], &outcome) {
                ([], Err(error @ Error::UntrustedDestination(_))) if !error.was_sent() => {
                    tally.add("refused", 1);
                    Some(Expected::Refused)
                }
                ([head], Ok(_)) => match carried(&head.headers) {
                    Carried::Ours if judge.is_ours(head) => {
                        tally.add("attached", 1);
                        Some(Expected::Ours)
                    }
                    Carried::Nothing if !judge.leads_to_our_host(&head.uri) => {
                        tally.add("forwarded", 1);
                        Some(Expected::Foreign)
                    }
                    _ => None,
                },
                _ => None,
            };
            if found != Some(expected) {
                tally.violation(|| {
                let sent: Vec<_> = arrived.iter().map(|head| &head.headers).collect();
                format!(
                    "{}: {method} {to} with Host {lines:?}, {:?}, relative {}: {expected:?} expected, {found:?} found: {outcome:?} {sent:?}",
                    target.origin, mode.foreign, mode.relative
                )
            });
            }
        }
        tally
    }
}
