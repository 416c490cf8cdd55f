//! Requests without redirects: every URI, method, `Host` header, credential and mode, with and without headers of the
//! caller's own.

use http::header::AUTHORIZATION;
use http::request::Parts;
use http::{HeaderValue, Method, Uri};
use tower::{Layer, Service};
use tower_anyreach::{
    AnyreachAuth, AnyreachAuthLayer, CallerHeaders, Error, ForeignRequests, RefusalReason,
    RelativeUris,
};

use crate::Plan;
use crate::ingredients::{Digits, Expected, METHODS, Target, request};
use campaigns::judge::{CALLERS, Carried, Judge, ORGANIZATION, carried};
use campaigns::random::Random;
use campaigns::tally::Tally;
use support::runtime::drive;
use support::{KEY, ORG, Recorder, TOKEN, credential_for};

/// How many cases are drawn of the origins that users have.
const SHARE: u64 = 80_000;
/// How many of each other origin.
const SHARE_OF_OTHERS: u64 = 12_000;

/// Two otherwise equal services over one inner service. One rejects a caller's headers.
struct Mode {
    replacing: AnyreachAuth<Recorder>,
    rejecting: AnyreachAuth<Recorder>,
    wire: Recorder,
    secret: &'static str,
    organization: Option<&'static str>,
    relative: RelativeUris,
    foreign: ForeignRequests,
}

const RELATIVE: [RelativeUris; 3] = [
    RelativeUris::Reject,
    RelativeUris::Complete,
    RelativeUris::Trust,
];
const FOREIGN: [ForeignRequests; 2] = [
    ForeignRequests::Reject,
    ForeignRequests::ForwardWithoutCredentials,
];

impl Mode {
    /// Returns the modes with a personal access token, and then those with a key.
    fn all(origin: &str) -> Vec<Self> {
        let secrets = [(TOKEN, Some(ORGANIZATION)), (KEY, None)];
        let modes = (0..secrets.len() * RELATIVE.len() * FOREIGN.len()).map(|number| {
            let mut digits = Digits(number as u64);
            let (foreign, relative) = (*digits.pick(&FOREIGN), *digits.pick(&RELATIVE));
            let (secret, organization) = *digits.pick(&secrets);
            let layer = AnyreachAuthLayer::new(credential_for(secret, organization))
                .origin(origin.parse().unwrap())
                .relative_uris(relative)
                .foreign_requests(foreign);
            let wire = Recorder::default();
            let rejecting = layer.layer(wire.clone());
            let replacing = layer.caller_headers(CallerHeaders::Replace);
            Self {
                rejecting,
                replacing: replacing.layer(wire.clone()),
                wire,
                secret,
                organization,
                relative,
                foreign,
            }
        });
        modes.collect()
    }
}

/// URI x method x `Host` x mode, with a personal access token, which has both headers.
pub(crate) fn every_request(target: &Target, plan: Plan) -> Tally {
    let mut run = Run::new(target, &METHODS, target.host_headers.len());
    run.modes.retain(|mode| mode.organization.is_some());
    let total = target.uris() * run.each();
    run.all_of(plan.indices(total, SHARE))
}

/// Those of them whose URI is the origin's or in origin form, with either credential, and all of them in every form of the
/// campaign: they are few, and a draw would miss the methods and `Host` headers that are refused.
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
pub(crate) fn some_requests(target: &Target, plan: Plan) -> Tally {
    let mut run = Run::new(target, &[Method::GET, Method::CONNECT], 4);
    let total = target.uris() * run.each();
    run.all_of(plan.indices(total, SHARE_OF_OTHERS))
}

struct Run<'a> {
    target: &'a Target,
    judge: Judge,
    modes: Vec<Mode>,
    methods: &'a [Method],
    hosts: &'a [(Vec<HeaderValue>, bool)],
}

impl<'a> Run<'a> {
    fn new(target: &'a Target, methods: &'a [Method], host_headers: usize) -> Self {
        Self {
            target,
            judge: Judge::new(target.origin),
            modes: Mode::all(target.origin),
            methods,
            hosts: &target.host_headers[..host_headers],
        }
    }

    /// Returns the number of cases of each URI.
    fn each(&self) -> u64 {
        (self.modes.len() * self.hosts.len() * self.methods.len()) as u64
    }

    fn all_of(&mut self, indices: impl Iterator<Item = u64>) -> Tally {
        let mut tally = Tally::default();
        let mut uri: (u64, Option<Uri>, Expected) = (u64::MAX, None, Expected::Refused);
        for index in indices {
            let mut digits = Digits(index);
            let mode = digits.pick(&self.modes);
            let (lines, host_agrees) = digits.pick(self.hosts);
            let method = digits.pick(self.methods);
            if uri.0 != digits.0 {
                let (text, expected) = self.target.uri(digits.0);
                uri = (digits.0, text.parse().ok(), expected);
            }
            let Some(to) = &uri.1 else {
                tally.add("unbuildable", 1);
                continue;
            };
            tally.add("cases", 1);
            let mut expected = match uri.2.with(method, *host_agrees) {
                Expected::Relative if mode.relative == RelativeUris::Reject => Expected::Refused,
                Expected::Relative => Expected::Ours,
                Expected::Foreign if mode.foreign == ForeignRequests::Reject => Expected::Refused,
                expected => expected,
            };
            // Half of the requests bring headers of the caller's own; half of those meet a layer that rejects them.
            let mut random = Random(index);
            let (brings, rejects) = (random.one_in(2), random.one_in(2));
            let mut request = request(method, to, lines);
            if brings {
                let scheme = random.pick(&["Bearer", "bearer  "]);
                let callers = HeaderValue::try_from(format!("{scheme} {CALLERS}")).unwrap();
                let headers = request.headers_mut();
                headers.insert(AUTHORIZATION, callers);
                headers.insert(&ORG, HeaderValue::from_static("org_2"));
            }
            let refuses_headers = brings && rejects && expected != Expected::Refused;
            if refuses_headers {
                expected = Expected::Refused;
            }
            let services = [&mode.replacing, &mode.rejecting];
            let outcome = drive(services[usize::from(rejects)].clone().call(request));
            let arrived = mode.wire.take();
            let found = match (&arrived[..], &outcome) {
                ([], Err(Error::Refused(refusal))) => {
                    let is_header = refusal.reason() == RefusalReason::CallerHeader;
                    (is_header == refuses_headers).then_some(Expected::Refused)
                }
                ([head], Ok(_)) if self.is_where(mode, to, &head.uri) => self.found(mode, head),
                _ => None,
            };
            match found {
                Some(Expected::Refused) => tally.add("refused", 1),
                Some(Expected::Foreign) => tally.add("forwarded", 1),
                Some(_) => tally.add("attached", 1),
                None => {}
            }
            if found != Some(expected) {
                let (origin, relative) = (self.target.origin, mode.relative);
                tally.violation(|| {
                    format!(
                        "{origin}: {method} {to}, Host {lines:?}, {relative:?}: {expected:?} expected, {found:?} found: \
                         {outcome:?} {arrived:?}"
                    )
                });
            }
        }
        tally
    }

    /// Returns where a head that arrived may go with the headers that it carries.
    fn found(&self, mode: &Mode, head: &Parts) -> Option<Expected> {
        let carried = carried(&head.headers);
        if carried == Carried::Nothing {
            return (!self.judge.leads_to_our_host(&head.uri)).then_some(Expected::Foreign);
        }
        let is_own = carried.is(mode.secret, mode.organization);
        (is_own && self.judge.is_ours(head)).then_some(Expected::Ours)
    }

    /// Returns whether the URI is unchanged, or completed if it is relative and the mode completes such URIs.
    fn is_where(&self, mode: &Mode, before: &Uri, after: &Uri) -> bool {
        if mode.relative == RelativeUris::Complete && before.scheme().is_none() {
            after.to_string() == format!("{}{before}", self.target.origin)
        } else {
            before == after
        }
    }
}
