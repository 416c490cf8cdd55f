//! The URIs of the matrix as `Location`s under tower-http's generic header layers, which shows that the matrix sees what leaves.

use http::header::{AUTHORIZATION, LOCATION};
use http::{HeaderValue, Method, StatusCode, Uri};
use tower::{Layer, Service};
use tower_http::auth::AddAuthorizationLayer;
use tower_http::follow_redirect::FollowRedirectLayer;
use tower_http::set_header::SetRequestHeaderLayer;

use crate::ingredients::{Target, request};
use crate::plan::Plan;
use campaigns::judge::{Judge, ORGANIZATION};
use campaigns::tally::Tally;
use support::runtime::drive;
use support::{KEY, ORG, Recorder, answer};

const SHARE: u64 = 12_000;

/// Counts what arrives off the origin, and with which headers, if generic layers stand inside of `FollowRedirect`.
pub(crate) fn generic_layers(target: &Target, plan: Plan) -> Tally {
    let wire = Recorder::default();
    let organization = HeaderValue::from_static(ORGANIZATION);
    let organization = SetRequestHeaderLayer::overriding(ORG.clone(), organization);
    let mut service = FollowRedirectLayer::new()
        .layer(AddAuthorizationLayer::bearer(KEY).layer(organization.layer(wire.clone())));
    let judge = Judge::new(target.origin);
    let home: Uri = format!("{}/core/agents", target.origin).parse().unwrap();
    let mut leaks = Tally::default();
    for index in plan.indices(target.uris(), SHARE) {
        let Ok(location) = HeaderValue::from_bytes(target.uri(index).0.as_bytes()) else {
            continue;
        };
        let mut redirect = answer(StatusCode::TEMPORARY_REDIRECT, "");
        redirect.headers_mut().insert(LOCATION, location);
        wire.answer_next(redirect);
        drive(service.call(request(&Method::GET, &home, &[]))).unwrap();
        leaks.add("cases", 1);
        for head in wire.take().iter().filter(|head| !judge.is_ours(head)) {
            let headers = &head.headers;
            leaks.add("foreign hops", 1);
            leaks.add(
                "with Authorization",
                headers.contains_key(AUTHORIZATION).into(),
            );
            leaks.add("with X-Anyreach-Org", headers.contains_key(&ORG).into());
        }
    }
    leaks
}
