//! The URIs of the matrix as `Location`s under tower-http's generic header layers: the matrix sees what leaves the origin.

use http::header::{AUTHORIZATION, LOCATION};
use http::{HeaderValue, Method, StatusCode, Uri};
use tower::{Layer, Service};
use tower_http::auth::AddAuthorizationLayer;
use tower_http::follow_redirect::FollowRedirectLayer;
use tower_http::set_header::SetRequestHeaderLayer;

use crate::ingredients::{Target, request};
use crate::plan::Plan;
use campaigns::judge::{Judge, ORGANIZATION};
use support::runtime::drive;
use support::{KEY, ORG, Recorder, answer};

const SHARE: u64 = 12_000;

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
    for index in plan.indices(target.uris(), SHARE) {
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
