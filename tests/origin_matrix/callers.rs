//! Requests that bring `Authorization` or `X-Anyreach-Org` themselves, or want none, to every absolute URI.

use http::header::AUTHORIZATION;
use http::{HeaderName, HeaderValue, Method, Uri};
use tower::{Layer, Service};
use tower_anyreach::{Anonymous, AnyreachAuthLayer, CallerHeaders, Error, ForeignRequests};

use crate::direct::{FOREIGN, key};
use crate::ingredients::{Expected, Target, request};
use crate::judge::{CALLERS, Carried, Judge, ORG, carried};
use crate::plan::{Digits, Plan, Tally};
use crate::wire::{Wire, drive};

const SHARE: u64 = 12_000;

/// What the layer is told about them, or the request says of itself.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Manner {
    Told(CallerHeaders),
    Anonymous,
}

const MANNERS: [Manner; 4] = [
    Manner::Told(CallerHeaders::Reject),
    Manner::Told(CallerHeaders::Replace),
    Manner::Told(CallerHeaders::Keep),
    Manner::Anonymous,
];

/// URI x header x manner x mode.
pub(crate) fn every_header(target: &Target, plan: &Plan) -> Tally {
    let judge = Judge::new(target.origin);
    let bearer = format!("Bearer {CALLERS}");
    let brought: [(HeaderName, HeaderValue); 3] = [
        (AUTHORIZATION, bearer.parse().unwrap()),
        (AUTHORIZATION, CALLERS.parse().unwrap()),
        (ORG.clone(), HeaderValue::from_static("org_2")),
    ];
    let mut services = Vec::new();
    for manner in MANNERS {
        for foreign in FOREIGN {
            let layer = AnyreachAuthLayer::new(key())
                .origin(target.origin.parse().unwrap())
                .foreign_requests(foreign);
            let layer = match manner {
                Manner::Told(caller_headers) => layer.caller_headers(caller_headers),
                Manner::Anonymous => layer,
            };
            let wire = Wire::default();
            services.push((manner, foreign, layer.layer(wire.clone()), wire));
        }
    }

    let mut tally = Tally::default();
    let total = target.absolute_uris() * (services.len() * brought.len()) as u64;
    for index in plan.indices(total, SHARE) {
        let mut digits = Digits(index);
        let service = digits.below(services.len());
        let (manner, foreign, service, wire) = &mut services[service];
        let (name, value) = digits.pick(&brought);
        let (text, expected) = target.absolute_uri(digits.0);
        let Ok(uri) = text.parse::<Uri>() else {
            tally.unbuildable += 1;
            continue;
        };
        tally.cases += 1;
        let mut request = request(&Method::GET, &uri, &[]);
        request.headers_mut().insert(name, value.clone());
        if *manner == Manner::Anonymous {
            request.extensions_mut().insert(Anonymous);
        }
        let outcome = drive(service.call(request));
        let arrived = wire.take();

        let is_sound = match (&arrived[..], &outcome, expected, *manner) {
            // It goes where it likes, with nothing.
            ([head], Ok(_), _, Manner::Anonymous) => carried(&head.headers) == Carried::Nothing,
            ([], Err(Error::UntrustedDestination(_)), Expected::Refused, _) => true,
            ([], Err(Error::UntrustedDestination(_)), Expected::Foreign, _) => {
                *foreign == ForeignRequests::Reject
            }
            ([head], Ok(_), Expected::Foreign, _) => {
                *foreign == ForeignRequests::ForwardWithoutCredentials
                    && carried(&head.headers) == Carried::Nothing
            }
            ([], Err(Error::CallerHeader(refused)), Expected::Ours, Manner::Told(told)) => {
                told == CallerHeaders::Reject && refused == name
            }
            ([], Err(Error::UnexpectedOrganization), Expected::Ours, Manner::Told(told)) => {
                told == CallerHeaders::Keep && *name == ORG
            }
            ([head], Ok(_), Expected::Ours, Manner::Told(CallerHeaders::Replace)) => {
                carried(&head.headers) == Carried::Ours && judge.is_ours(head)
            }
            ([head], Ok(_), Expected::Ours, Manner::Told(CallerHeaders::Keep)) => {
                *name == AUTHORIZATION
                    && head.headers[AUTHORIZATION] == *value
                    && judge.is_ours(head)
            }
            _ => false,
        };
        match &arrived[..] {
            [head] if head.headers.contains_key(AUTHORIZATION) => tally.attached += 1,
            [_] => tally.forwarded += 1,
            _ => tally.refused += 1,
        }
        if !is_sound {
            tally.violation(|| {
                let sent: Vec<_> = arrived.iter().map(|head| &head.headers).collect();
                format!("{uri} with {name}, {manner:?}, {foreign:?}: {outcome:?} {sent:?}")
            });
        }
    }
    tally
}
