//! What a good request allocates, beside two inserts by hand.

use std::convert::Infallible;
use std::future::{Ready, ready};
use std::thread;

use bytes::Bytes;
use http::header::{self, AUTHORIZATION, HeaderName, HeaderValue};
use http::{Request, Response};
use http_body_util::Empty;
use support::alloc::{Counts, count};
use support::{ORG, credential, now, organization, with};
use tower::util::ServiceFn;
use tower::{Layer, Service, service_fn};
use tower_anyreach::{
    AnyreachAuth, AnyreachAuthLayer, Credential, CredentialStore, PersonalAccessToken,
};

const TOKEN: &str = "pat_4711c2VjcmV0c2VjcmV0";
const KEY: &str = "ak_4711.c2VjcmV0c2VjcmV0";

type Answer = Ready<Result<Response<Empty<Bytes>>, Infallible>>;
type Inner = ServiceFn<fn(Request<()>) -> Answer>;

fn inner() -> Inner {
    service_fn(|request| {
        drop(request);
        ready(Ok(Response::new(Empty::new())))
    })
}

/// Prebuilt, sensitive values, inserted; nothing else.
struct ByHand {
    authorization: HeaderValue,
    organization: Option<HeaderValue>,
}

impl ByHand {
    fn new(credential: &str, organization: Option<&'static str>) -> Self {
        let mut authorization = HeaderValue::try_from(format!("Bearer {credential}")).unwrap();
        authorization.set_sensitive(true);
        // As values are once they have been cloned: shared.
        drop(authorization.clone());
        Self {
            authorization,
            organization: organization.map(HeaderValue::from_static),
        }
    }

    fn call(&self, mut request: Request<()>) {
        request
            .headers_mut()
            .insert(AUTHORIZATION, self.authorization.clone());
        if let Some(organization) = &self.organization {
            request.headers_mut().insert(&ORG, organization.clone());
        }
        now(inner().call(request)).unwrap();
    }
}

fn request(headers: usize) -> Request<()> {
    let mut request = Request::get("https://api.anyreach.ai/core/agents")
        .body(())
        .unwrap();
    let known = [
        (header::ACCEPT, "application/json"),
        (header::ACCEPT_ENCODING, "gzip"),
        (header::CACHE_CONTROL, "no-cache"),
        (header::CONTENT_TYPE, "application/json"),
        (header::CONTENT_LENGTH, "2"),
        (header::HOST, "api.anyreach.ai"),
        (header::USER_AGENT, "test"),
        (HeaderName::from_static("x-request-id"), "4711"),
    ];
    for (name, value) in known.into_iter().take(headers) {
        request
            .headers_mut()
            .append(name, HeaderValue::from_static(value));
    }
    request
}

fn anyreach(service: &mut AnyreachAuth<Inner>, request: Request<()>) {
    now(service.call(request)).unwrap();
}

/// Counts one call, with a request that was made before.
fn counted(request: Request<()>, call: impl FnOnce(Request<()>)) -> Counts {
    count(|| call(request)).1
}

fn token() -> PersonalAccessToken {
    let token = PersonalAccessToken::new(TOKEN).unwrap();
    token.for_organization(organization("org_1"))
}

#[test]
fn a_good_request_allocates_as_often_as_inserts_by_hand() {
    for headers in [0, 1, 8] {
        for (name, credential, by_hand) in [
            ("pat_", token().into(), ByHand::new(TOKEN, Some("org_1"))),
            ("ak_", credential(KEY), ByHand::new(KEY, None)),
        ] {
            let mut service = AnyreachAuthLayer::new(credential).layer(inner());
            anyreach(&mut service, request(headers));
            let ours = counted(request(headers), |request| anyreach(&mut service, request));
            let hand = counted(request(headers), |request| by_hand.call(request));
            assert_eq!(
                (ours.allocations, ours.deallocations, ours.bytes),
                (hand.allocations, hand.deallocations, hand.bytes),
                "{name} with {headers} headers"
            );
        }
    }
    // The count is one that counts.
    let by_hand = ByHand::new(TOKEN, Some("org_1"));
    assert_eq!(
        counted(request(0), |request| by_hand.call(request)).allocations,
        2
    );
}

#[test]
fn a_rotation_allocates_and_no_request_after_it_does() {
    let store = CredentialStore::new(token());
    let mut service = AnyreachAuthLayer::new(store.clone()).layer(inner());
    let by_hand = ByHand::new(TOKEN, Some("org_1"));
    let hand = counted(request(8), |request| by_hand.call(request));
    let other = PersonalAccessToken::new("pat_other").unwrap();
    let other = other.for_organization(organization("org_1"));
    for next in [other, token()].into_iter().cycle().take(10) {
        assert!(count(|| store.rotate(next)).1.allocations > 0);
        for _ in 0..3 {
            let ours = counted(request(8), |request| anyreach(&mut service, request));
            assert_eq!(ours.allocations, hand.allocations);
        }
    }
}

#[test]
fn a_requests_own_extensions_allocate_nothing() {
    let by_hand = ByHand::new(TOKEN, Some("org_1"));
    let with_extensions = || {
        let request = with(Credential::from(token()), request(8));
        with(organization("org_2"), request)
    };
    let mut service = AnyreachAuthLayer::per_request().layer(inner());
    let ours = counted(with_extensions(), |request| anyreach(&mut service, request));
    let hand = counted(with_extensions(), |request| by_hand.call(request));
    assert_eq!(ours.allocations, hand.allocations);
}

#[test]
fn a_service_clone_allocates_nothing() {
    let mut service = AnyreachAuthLayer::new(token()).layer(inner());
    anyreach(&mut service, request(8));
    assert_eq!(count(|| service.clone()).1.allocations, 0);
}

/// R25.
#[test]
fn a_service_that_was_used_on_one_thread_costs_nothing_more_on_another() {
    let mut service = AnyreachAuthLayer::new(token()).layer(inner());
    let here = counted(request(8), |request| anyreach(&mut service, request));
    let there = thread::spawn(move || {
        let (mut clone, cloning) = count(|| service.clone());
        let call = counted(request(8), |request| anyreach(&mut clone, request));
        (cloning.allocations, call.allocations)
    });
    assert_eq!(there.join().unwrap(), (0, here.allocations));
}

#[test]
fn service_and_future_are_little_larger_than_the_inner_ones() {
    type Outer = <AnyreachAuth<Inner> as Service<Request<()>>>::Future;
    type Inside = <Inner as Service<Request<()>>>::Future;

    assert!(size_of::<AnyreachAuth<Inner>>() <= size_of::<Inner>() + 16);
    // What the answer is read with: the credential, an organization of the request's own, the origin and the limits.
    let room = 48 + 8 * usize::from(cfg!(feature = "follow-redirect"));
    let [outer, inside] = [size_of::<Outer>(), size_of::<Inside>()];
    assert!(outer <= inside + room, "{outer} and {inside}");
}
