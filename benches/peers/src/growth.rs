//! A request's cost against the number of organizations, credentials, clones, earlier requests and rotations.
//!
//! `instructions.sh --growth` counts the instructions of each point twice, with the layer and without, and fails if a
//! row is not flat.

use std::future::Future;
use std::hint::black_box;
use std::pin::pin;
use std::task::{Context, Poll, Waker};

use http::Request;
use tower::{Layer, Service};
use tower_anyreach::{
    AnyreachAuthLayer, Credential, CredentialStore, OrganizationId, PersonalAccessToken,
};

use crate::harness::{Body, CASES, Inner};

/// The rows, each with how many there are of what it is named after.
///
/// `rotations` is their number in 100,000 requests; only the requests are counted. `rotation_itself` counts rotations
/// and no request.
const ROWS: [(&str, &[u32]); 6] = [
    ("organizations", &[1, 1_000, 100_000]),
    ("credentials", &[1, 100, 10_000]),
    ("clones", &[1, 100, 10_000]),
    ("requests_so_far", &[100, 10_000, 100_000]),
    ("rotations", &[0, 100, 1_000]),
    ("rotation_itself", &[1]),
];

/// Prints what has to be counted, as arguments of this program.
pub(crate) fn print_list() {
    for (row, xs) in ROWS {
        for x in xs {
            println!("--growth {row} {x} bare\n--growth {row} {x} layer");
        }
    }
}

/// Makes this many requests, or rotations, at one point.
pub(crate) fn count(row: &str, x: u32, has_layer: bool, times: u32) {
    let store = CredentialStore::new(token(0));
    let layer = match row {
        "credentials" => AnyreachAuthLayer::per_request(),
        _ => AnyreachAuthLayer::new(store.clone()),
    };
    let number_of = |name| if row == name { x } else { 1 };
    let organizations: Vec<_> = (0..number_of("organizations")).map(organization).collect();
    let credentials: Vec<_> = (0..number_of("credentials")).map(key).collect();
    let mut clones = vec![layer.layer(Inner::default()); number_of("clones") as usize];
    let mut send = |number: u32, has_layer: bool| {
        // A prime stride visits every element, in an order that no prefetcher follows.
        let number = number as usize * 7_919;
        let mut request = CASES[0].request();
        if row == "organizations" {
            let organization = &organizations[number % organizations.len()];
            request.extensions_mut().insert(organization.clone());
        } else if row == "credentials" {
            let credential = &credentials[number % credentials.len()];
            request.extensions_mut().insert(credential.clone());
        }
        if has_layer {
            let clone = number % clones.len();
            counted(|| answer(&mut clones[clone], request));
        } else {
            counted(|| answer(&mut Inner::default(), request));
        }
    };

    // What happens once in a process, thread or clone is not part of a request's cost.
    let once = number_of("requests_so_far").max(number_of("clones"));
    (0..once.max(100)).for_each(|number| send(number, true));
    for number in 0..times {
        let is_due = row == "rotations" && x > 0 && number % (100_000 / x) == 0;
        if is_due || row == "rotation_itself" {
            let next = token(number + 1);
            if is_due || !has_layer {
                store.rotate(next);
            } else {
                counted(|| {
                    store.rotate(next);
                });
            }
        }
        if row != "rotation_itself" {
            send(number, has_layer);
        }
    }
}

/// Does the work. callgrind counts what happens in functions of this name only.
#[inline(never)]
fn counted(work: impl FnOnce()) {
    work();
    // Keeps the call above from becoming a jump out of this function.
    black_box(());
}

fn answer<S: Service<Request<Body>>>(service: &mut S, request: Request<Body>) {
    let mut cx = Context::from_waker(Waker::noop());
    assert!(service.poll_ready(&mut cx).is_ready());
    let answer = pin!(service.call(request)).poll(&mut cx);
    assert!(matches!(black_box(answer), Poll::Ready(Ok(_))));
}

fn token(number: u32) -> PersonalAccessToken {
    PersonalAccessToken::new(format!("pat_{number:08}c2VjcmV0c2VjcmV0c2VjcmV0c2VjcmV0"))
        .expect("a valid token")
        .for_organization(organization(number))
}

fn key(number: u32) -> Credential {
    Credential::parse(format!("ak_{number:08}.c2VjcmV0c2VjcmV0c2VjcmV0c2VjcmV0"))
        .expect("a valid key")
}

fn organization(number: u32) -> OrganizationId {
    OrganizationId::try_from(format!("org_{number:08}c2VjcmV0")).expect("a valid id")
}
