//! Where credentials go, over a matrix of URIs, `Host` headers, methods, layer orders and redirects.
//!
//! Each case is judged twice: by what its ingredients are labelled with, and by the WHATWG `url` crate. Unless
//! `ANYREACH_MATRIX=full`, cases are drawn evenly from the same enumeration; `ANYREACH_SEED` says where that begins.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
#![allow(clippy::print_stdout, reason = "how much was tried is the result")]

mod callers;
mod chains;
mod control;
mod direct;
mod ingredients;
mod judge;
mod plan;
#[path = "../support/random.rs"]
mod random;
mod wire;

use std::thread;

use ingredients::Target;
use plan::{Plan, Tally};

#[test]
fn no_credential_leaves_its_origin_and_none_is_missing_there() {
    let plan = Plan::from_env();
    let campaigns: [fn(&Plan) -> Tally; 2] = [
        |plan| {
            let mut tally = direct::every_request_to_us(&Target::anyreach());
            tally += direct::every_request_to_us(&Target::proxy());
            tally += direct::every_request(&Target::anyreach(), plan);
            tally
        },
        |plan| {
            let mut tally = Tally::default();
            for target in Target::others() {
                tally += direct::some_requests(&target, plan);
            }
            tally += callers::every_header(&Target::anyreach(), plan);
            for target in [Target::anyreach(), Target::proxy()] {
                tally += chains::every_location(&target, plan);
                tally += chains::every_word(&target, plan);
                tally += chains::drawn(&target, plan);
            }
            tally
        },
    ];
    let tally = thread::scope(|scope| {
        let running = campaigns.map(|campaign| {
            scope.spawn({
                let plan = &plan;
                move || campaign(plan)
            })
        });
        running
            .into_iter()
            .map(|campaign| campaign.join().unwrap())
            .fold(Tally::default(), |mut sum, tally| {
                sum += tally;
                sum
            })
    });

    println!("origin matrix ({plan}): {tally}");
    for violation in &tally.examples {
        println!("{violation}");
    }
    assert_eq!(tally.violations, 0);
    // Without these the matrix would say nothing.
    assert!(tally.cases >= plan.least_cases(), "{tally}");
    assert!(tally.attached >= tally.cases / 100, "{tally}");
    assert!(tally.forwarded >= tally.cases / 20, "{tally}");
    assert!(tally.hops >= tally.cases / 50, "{tally}");
}

#[test]
fn a_generic_header_layer_delivers_to_every_foreign_hop() {
    let plan = Plan::from_env();
    let inside = control::inside_the_redirects(&Target::anyreach(), &plan);
    println!("control, generic layers inside FollowRedirect ({plan}): {inside}");
    assert!(inside.foreign_hops >= plan.least_cases() / 50, "{inside}");
    assert_eq!(inside.authorizations, inside.foreign_hops, "{inside}");
    assert_eq!(inside.organizations, inside.foreign_hops, "{inside}");

    let outside = control::outside_of_the_redirects(&Target::anyreach(), &plan);
    println!("control, generic layers outside of FollowRedirect ({plan}): {outside}");
    assert_eq!(outside.organizations, outside.foreign_hops, "{outside}");
}
