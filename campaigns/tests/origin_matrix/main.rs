//! Where credentials go, over a matrix of URIs, `Host` headers and methods.
//!
//! Each case is judged twice: by the labels of its ingredients, and by the WHATWG `url` crate. Unless
//! `ANYREACH_MATRIX=full`, cases are drawn from the same enumeration by `ANYREACH_SEED`.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
#![allow(clippy::print_stdout, reason = "how much was tried is the result")]

mod direct;
mod ingredients;

use std::thread;

use campaigns::judge::{Judge, ORGANIZATION};
use campaigns::random::Random;
use campaigns::tally::Tally;
use http::header::{AUTHORIZATION, LOCATION};
use http::{HeaderValue, Method, StatusCode, Uri};
use ingredients::{Target, request};
use support::runtime::drive;
use support::{KEY, ORG, Recorder, answer};
use tower::{Layer, Service};
use tower_http::auth::AddAuthorizationLayer;
use tower_http::follow_redirect::FollowRedirectLayer;
use tower_http::set_header::SetRequestHeaderLayer;

/// How much of the matrix is tried: everything, or a draw of it from this seed.
#[derive(Debug, Clone, Copy)]
enum Plan {
    Full,
    Seed(u64),
}

impl Plan {
    fn from_env() -> Self {
        match std::env::var("ANYREACH_MATRIX").as_deref() {
            Ok("full") => Self::Full,
            Ok(other) => panic!("ANYREACH_MATRIX is `full` or not set, and not {other:?}"),
            Err(_) => Self::Seed(campaigns::number("ANYREACH_SEED", 1)),
        }
    }

    /// Returns the indices to try of an enumeration: all in their order, or `share` of them.
    fn indices(self, total: u64, share: u64) -> impl Iterator<Item = u64> {
        let (count, seed) = match self {
            Self::Full => (total, None),
            Self::Seed(seed) => (share.min(total), Some(seed)),
        };
        let mut random = seed.map(Random);
        (0..count).map(move |index| random.as_mut().map_or(index, |random| random.below(total)))
    }
}

#[test]
fn no_credential_leaves_its_origin_and_none_is_missing_there() {
    let plan = Plan::from_env();
    let (ours, others) = ([Target::anyreach(), Target::proxy()], Target::others());
    let tally = thread::scope(|scope| {
        let drawn = scope.spawn(|| {
            let mut tally = direct::every_request(&ours[0], plan);
            for target in &others {
                tally += direct::some_requests(target, plan);
            }
            tally
        });
        let mut tally = Tally::default();
        for target in &ours {
            tally += direct::every_request_to_us(target);
        }
        tally += drawn.join().unwrap();
        tally
    });

    println!("origin matrix ({plan:?}): {tally}");
    tally.assert_no_violations();
    // Without these the matrix proves nothing. The short form gives 200,000 cases, 2,400 attached and 1 in 117 forwarded.
    let cases = tally.count("cases");
    let is_full = matches!(plan, Plan::Full);
    let least = if is_full { 90_000_000 } else { 190_000 };
    assert!(cases >= least, "{tally}");
    assert!(tally.count("attached") >= 2_300, "{tally}");
    assert!(tally.count("forwarded") >= cases / 130, "{tally}");
}

/// The URIs of the matrix as `Location`s under tower-http's generic header layers: the matrix sees what leaves the origin.
#[test]
fn a_generic_header_layer_delivers_to_every_foreign_hop() {
    let (target, plan) = (Target::anyreach(), Plan::from_env());
    let judge = Judge::new(target.origin);
    let home: Uri = format!("{}/core/agents", target.origin).parse().unwrap();
    let wire = Recorder::default();
    let organization = HeaderValue::from_static(ORGANIZATION);
    let organization = SetRequestHeaderLayer::overriding(ORG.clone(), organization);
    let authorization = AddAuthorizationLayer::bearer(KEY);
    let inside = authorization.layer(organization.layer(wire.clone()));
    let mut service = FollowRedirectLayer::new().layer(inside);
    let (mut cases, mut foreign_hops) = (0_u64, 0);
    for index in plan.indices(target.uris(), 12_000) {
        let Ok(location) = HeaderValue::from_bytes(target.uri(index).0.as_bytes()) else {
            continue;
        };
        let mut redirect = answer(StatusCode::TEMPORARY_REDIRECT, "");
        redirect.headers_mut().insert(LOCATION, location);
        wire.answer_next(redirect);
        drive(service.call(request(&Method::GET, &home, &[]))).unwrap();
        cases += 1;
        for head in wire.take().iter().filter(|head| !judge.is_ours(head)) {
            foreign_hops += 1;
            assert!(head.headers.contains_key(AUTHORIZATION) && head.headers.contains_key(&ORG));
        }
    }
    println!("control ({plan:?}): both headers on {foreign_hops} foreign hops of {cases}");
    assert!(foreign_hops >= cases * 2 / 5);
}
