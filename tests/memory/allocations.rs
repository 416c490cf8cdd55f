//! What a good request allocates, beside two inserts by hand.

use std::convert::Infallible;
use std::future::{Ready, ready};
use std::thread;

use bytes::Bytes;
use http::header::{AUTHORIZATION, HeaderValue};
use http::{Request, Response};
use http_body_util::Empty;
use support::alloc::{Counts, count};
use support::{
    KEY, ORG, TOKEN, credential, get, get_agents, now, organization, token_for, with, with_headers,
};
use tower::util::ServiceFn;
use tower::{Layer, Service, service_fn};
use tower_anyreach::{AnyreachAuth, AnyreachAuthLayer, Credential, CredentialStore};

type Answer = Ready<Result<Response<Empty<Bytes>>, Infallible>>;
type Inner = ServiceFn<fn(Request<()>) -> Answer>;

fn inner() -> Inner {
    service_fn(|request| {
        drop(request);
        ready(Ok(Response::new(Empty::new())))
    })
}

/// Prebuilt, sensitive values, inserted; nothing else.
struct ByHand(HeaderValue, Option<HeaderValue>);

impl ByHand {
    fn new(credential: &str, organization: Option<&'static str>) -> Self {
        let mut authorization = HeaderValue::try_from(format!("Bearer {credential}")).unwrap();
        authorization.set_sensitive(true);
        // A value that was cloned before is shared.
        drop(authorization.clone());
        Self(authorization, organization.map(HeaderValue::from_static))
    }

    fn call(&self, mut request: Request<()>) {
        let headers = request.headers_mut();
        headers.insert(AUTHORIZATION, self.0.clone());
        if let Some(organization) = &self.1 {
            headers.insert(&ORG, organization.clone());
        }
        now(inner().call(request)).unwrap();
    }
}

fn request(headers: usize) -> Request<()> {
    let known = [
        ("accept", "application/json"),
        ("accept-encoding", "gzip"),
        ("cache-control", "no-cache"),
        ("content-type", "application/json"),
        ("content-length", "2"),
        ("host", "api.anyreach.ai"),
        ("user-agent", "test"),
        ("x-request-id", "4711"),
    ];
    with_headers(&known[..headers], get_agents().map(drop))
}

fn anyreach(service: &mut AnyreachAuth<Inner>, request: Request<()>) {
    now(service.call(request)).unwrap();
}

/// Counts one call, with a request that was made before.
fn counted(request: Request<()>, call: impl FnOnce(Request<()>)) -> Counts {
    count(|| call(request)).1
}

fn token() -> Credential {
    token_for("org_1")
}

#[test]
fn a_good_request_allocates_as_often_as_inserts_by_hand() {
    for headers in [0, 1, 8] {
        for (name, credential, by_hand) in [
            ("pat_", token(), ByHand::new(TOKEN, Some("org_1"))),
            ("ak_", credential(KEY), ByHand::new(KEY, None)),
        ] {
            let mut service = AnyreachAuthLayer::new(credential).layer(inner());
            anyreach(&mut service, request(headers));
            let ours = counted(request(headers), |request| anyreach(&mut service, request));
            let hand = counted(request(headers), |request| by_hand.call(request));
            let (ours, hand) = (Counts { peak: 0, ..ours }, Counts { peak: 0, ..hand });
            assert_eq!(ours, hand, "{name} with {headers} headers");
        }
    }
    // Both allocate, so there is something to count.
    let by_hand = ByHand::new(TOKEN, Some("org_1"));
    let counts = counted(request(0), |request| by_hand.call(request));
    assert_eq!(counts.allocations, 2);
}

#[test]
fn a_rotation_allocates_and_no_request_after_it_does() {
    let store = CredentialStore::new(token());
    let mut service = AnyreachAuthLayer::new(store.clone()).layer(inner());
    let by_hand = ByHand::new(TOKEN, Some("org_1"));
    let hand = counted(request(8), |request| by_hand.call(request));
    for next in [token_for("org_2"), token()].into_iter().cycle().take(10) {
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
        let request = with(token(), request(8));
        with(organization("org_2"), request)
    };
    let mut service = AnyreachAuthLayer::per_request().layer(inner());
    let ours = counted(with_extensions(), |request| anyreach(&mut service, request));
    let hand = counted(with_extensions(), |request| by_hand.call(request));
    assert_eq!(ours.allocations, hand.allocations);
}
#[test]
fn a_service_clone_allocates_nothing_and_costs_nothing_more_on_another_thread() {
    let mut service = AnyreachAuthLayer::new(token()).layer(inner());
    let here = counted(request(8), |request| anyreach(&mut service, request));
    assert_eq!(count(|| service.clone()).1.allocations, 0);
    let there = thread::spawn(move || {
        let (mut clone, cloning) = count(|| service.clone());
        let call = counted(request(8), |request| anyreach(&mut clone, request));
        (cloning.allocations, call.allocations)
    });
    assert_eq!(there.join().unwrap(), (0, here.allocations));
}

/// The searches for echoes take a time, and memory, in proportion to what they read.
#[test]
fn a_refused_destination_of_60_kb_is_read_to_its_first_few_kilobytes() {
    let mut service = AnyreachAuthLayer::new(token()).layer(inner());
    let long = get(&format!("https://{}/", "x".repeat(60_000))).map(drop);
    let refused = counted(long, |long| assert!(now(service.call(long)).is_err()));
    assert!(refused.bytes < 32 << 10, "{refused:?}");
}

#[test]
fn service_and_future_are_little_larger_than_the_inner_ones() {
    type Outer = <AnyreachAuth<Inner> as Service<Request<()>>>::Future;
    type Inside = <Inner as Service<Request<()>>>::Future;

    assert!(size_of::<AnyreachAuth<Inner>>() <= size_of::<Inner>() + 16);
    // What the answer is read with: the credential, the request's own organization, the origin and the limits.
    let added = 48 + 8 * usize::from(cfg!(feature = "follow-redirect"));
    let [outer, inside] = [size_of::<Outer>(), size_of::<Inside>()];
    assert!(outer <= inside + added, "{outer} and {inside}");
}
