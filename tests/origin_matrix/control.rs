//! The same locations and chains under tower-http's generic header layers, to see that the matrix sees what leaves.

use std::fmt;

use http::header::AUTHORIZATION;
use http::request::Parts;
use http::{HeaderValue, Method, Request, Response, StatusCode, Uri};
use tower::{Layer, Service};
use tower_http::auth::AddAuthorizationLayer;
use tower_http::follow_redirect::FollowRedirectLayer;
use tower_http::set_header::SetRequestHeaderLayer;

use crate::chains::{letters, location};
use crate::ingredients::{Target, request};
use crate::judge::{Judge, KEY, ORG, ORGANIZATION};
use crate::plan::{Digits, Plan};
use crate::wire::{Wire, drive};

const SHARE: u64 = 6_000;
const LONGEST: u32 = 5;

/// What went off the origin, and with what.
#[derive(Default)]
pub(crate) struct Leaks {
    cases: u64,
    pub(crate) foreign_hops: u64,
    pub(crate) authorizations: u64,
    pub(crate) organizations: u64,
    leaking_cases: u64,
}

impl Leaks {
    fn count(&mut self, judge: &Judge, arrived: &[Parts]) {
        self.cases += 1;
        let mut leaks = false;
        for head in arrived.iter().filter(|head| !judge.is_ours(head)) {
            let (authorization, organization) = (
                head.headers.contains_key(AUTHORIZATION),
                head.headers.contains_key(&ORG),
            );
            self.foreign_hops += 1;
            self.authorizations += u64::from(authorization);
            self.organizations += u64::from(organization);
            leaks |= authorization || organization;
        }
        self.leaking_cases += u64::from(leaks);
    }
}

impl fmt::Display for Leaks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} cases, {} foreign hops, {} with Authorization, {} with X-Anyreach-Org, {} cases deliver off origin",
            self.cases,
            self.foreign_hops,
            self.authorizations,
            self.organizations,
            self.leaking_cases
        )
    }
}

pub(crate) fn inside_the_redirects(target: &Target, plan: &Plan) -> Leaks {
    let wire = Wire::default();
    let service = FollowRedirectLayer::new()
        .layer(AddAuthorizationLayer::bearer(KEY).layer(organization().layer(wire.clone())));
    follow(target, plan, service, &wire)
}

pub(crate) fn outside_of_the_redirects(target: &Target, plan: &Plan) -> Leaks {
    let wire = Wire::default();
    let service = AddAuthorizationLayer::bearer(KEY)
        .layer(organization().layer(FollowRedirectLayer::new().layer(wire.clone())));
    follow(target, plan, service, &wire)
}

fn organization() -> SetRequestHeaderLayer<HeaderValue> {
    SetRequestHeaderLayer::overriding(ORG.clone(), HeaderValue::from_static(ORGANIZATION))
}

fn follow<S>(target: &Target, plan: &Plan, mut service: S, wire: &Wire) -> Leaks
where
    S: Service<Request<String>, Response = Response<String>>,
    S::Error: fmt::Debug,
{
    let judge = Judge::new(target.origin);
    let home: Uri = target.home.parse().unwrap();
    let letters = letters(target);
    let mut leaks = Leaks::default();
    let mut chain = |locations: Vec<String>| {
        let script: Option<Vec<_>> = locations
            .iter()
            .map(|location| {
                let location = HeaderValue::from_bytes(location.as_bytes()).ok()?;
                Some((StatusCode::TEMPORARY_REDIRECT, location))
            })
            .collect();
        let Some(script) = script else { return };
        wire.redirect(script);
        drive(service.call(request(&Method::GET, &home, &[]))).unwrap();
        leaks.count(&judge, &wire.take());
    };
    for index in plan.indices(target.uris(), SHARE) {
        chain(vec![location(target, index)]);
    }
    for length in 1..=LONGEST {
        let words = (letters.len() as u64).pow(length);
        for index in plan.indices(words, SHARE / u64::from(LONGEST)) {
            let mut digits = Digits(index);
            chain((0..length).map(|_| digits.pick(&letters).clone()).collect());
        }
    }
    leaks
}
