//! Requests without redirects: every URI, method, `Host` header, credential and mode, with and without headers of the
//! caller's own.

use http::header::AUTHORIZATION;
use http::{HeaderValue, Method, Uri};
use tower::{Layer, Service};
use tower_anyreach::{
    AnyreachAuth, AnyreachAuthLayer, CallerHeaders, Credential, Error, ForeignRequests, Origin,
    Refusal, RefusalReason, RelativeUris,
};

use crate::ingredients::{Expected, HostHeader, METHODS, Target, request};
use crate::plan::{Digits, Plan};
use campaigns::judge::{CALLERS, Carried, Judge, ORGANIZATION, carried};
use campaigns::random::Random;
use campaigns::tally::Tally;
use support::runtime::drive;
use support::{KEY, ORG, Recorder, credential, token_for};

/// Of everything that is asked of the origin which users have.
const SHARE: u64 = 80_000;
/// Of each other origin.
const SHARE_OF_OTHERS: u64 = 12_000;

/// A personal access token first, then a key.
fn credentials() -> [Credential; 2] {
    [token_for(ORGANIZATION), credential(KEY)]
}

const FOREIGN: [ForeignRequests; 2] = [
    ForeignRequests::Reject,
    ForeignRequests::ForwardWithoutCredentials,
];

const RELATIVE: [RelativeUris; 3] = [
    RelativeUris::Reject,
    RelativeUris::Complete,
    RelativeUris::Trust,
];

/// A layer with these options, over a wire; of two otherwise equal services, one rejects a caller's headers.
struct Mode {
    replacing: AnyreachAuth<Recorder>,
    rejecting: AnyreachAuth<Recorder>,
    wire: Recorder,
    relative: RelativeUris,
    foreign: ForeignRequests,
}

fn modes(target: &Target) -> Vec<Mode> {
    let origin: Origin = target.origin.parse().unwrap();
    let mut modes = Vec::new();
    for credential in credentials() {
        for foreign in FOREIGN {
            for relative in RELATIVE {
                let layer = AnyreachAuthLayer::new(credential.clone())
                    .origin(origin.clone())
                    .foreign_requests(foreign)
                    .relative_uris(relative);
                let wire = Recorder::default();
                modes.push(Mode {
                    rejecting: layer.layer(wire.clone()),
                    replacing: layer
                        .caller_headers(CallerHeaders::Replace)
                        .layer(wire.clone()),
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
    run.modes.truncate(FOREIGN.len() * RELATIVE.len());
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
    hosts: &'a [(Vec<HeaderValue>, HostHeader)],
}

impl<'a> Run<'a> {
    fn new(target: &'a Target, methods: &'a [Method], host_headers: usize) -> Self {
        Self {
            target,
            modes: modes(target),
            methods,
            hosts: &target.host_headers[..host_headers],
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
        let callers = ["Bearer ", "bearer   "];
        let callers =
            callers.map(|scheme| HeaderValue::try_from(format!("{scheme}{CALLERS}")).unwrap());
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
                Expected::Relative if mode.relative == RelativeUris::Reject => Expected::Refused,
                Expected::Relative => Expected::Ours,
                Expected::Foreign if mode.foreign == ForeignRequests::Reject => Expected::Refused,
                expected => expected,
            };
            let mut request = request(method, to, lines);
            // Half of the requests bring headers of the caller's own; half of those meet a layer that rejects them.
            let mut random = Random(index);
            let (brings, is_rejecting) = (random.one_in(2), random.one_in(2));
            if brings {
                let headers = request.headers_mut();
                headers.insert(AUTHORIZATION, random.pick(&callers));
                headers.insert(&ORG, HeaderValue::from_static("org_2"));
            }
            let (expected, refuses_headers) = if brings && is_rejecting {
                (Expected::Refused, expected != Expected::Refused)
            } else {
                (expected, false)
            };
            let outcome = drive(if is_rejecting {
                mode.rejecting.call(request)
            } else {
                mode.replacing.call(request)
            });
            let arrived = mode.wire.take();
            let is_sound = |refusal: &Refusal| {
                (refusal.reason() == RefusalReason::CallerHeader) == refuses_headers
            };
            let found = match (&arrived[..], &outcome) {
                ([], Err(Error::Refused(refusal))) if is_sound(refusal) => {
                    tally.add("refused", 1);
                    Some(Expected::Refused)
                }
                ([head], Ok(_)) if !is_where(target, mode.relative, to, &head.uri) => None,
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
                    "{}: {method} {to} with Host {lines:?}, {:?}, {:?}: {expected:?} expected, {found:?} found: {outcome:?} {sent:?}",
                    target.origin, mode.foreign, mode.relative
                )
            });
            }
        }
        tally
    }
}

/// Returns whether the URI is unchanged, or completed if it is relative and the mode completes such URIs.
fn is_where(target: &Target, relative: RelativeUris, before: &Uri, after: &Uri) -> bool {
    if relative == RelativeUris::Complete && before.scheme().is_none() {
        after.to_string() == format!("{}{before}", target.origin)
    } else {
        before == after
    }
}
