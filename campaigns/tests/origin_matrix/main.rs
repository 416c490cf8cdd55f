//! Where credentials go, over a matrix of URIs, `Host` headers, methods, layer orders and redirects.
//!
//! Each case is judged twice: by what its ingredients are labelled with, and by the WHATWG `url` crate. Unless
//! `ANYREACH_MATRIX=full`, cases are drawn evenly from the same enumeration; `ANYREACH_SEED` says where that begins.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
#![allow(clippy::print_stdout, reason = "how much was tried is the result")]

mod chains;
mod control;
mod direct;
mod ingredients;
mod plan;
mod wire;

use std::thread;

use campaigns::tally::Tally;
use ingredients::Target;
use plan::Plan;

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
            for target in [Target::anyreach(), Target::proxy()] {
                tally += chains::every_location(&target, plan);
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
    tally.assert_no_violations();
    // Without these the matrix would say nothing.
    let cases = tally.count("cases");
    assert!(cases >= plan.least_cases(), "{tally}");
    assert!(tally.count("attached") >= cases / 100, "{tally}");
    assert!(tally.count("forwarded") >= cases / 20, "{tally}");
    assert!(tally.count("redirect hops") >= cases / 50, "{tally}");
}

#[test]
fn a_generic_header_layer_delivers_to_every_foreign_hop() {
    let plan = Plan::from_env();
    let leaks = control::generic_layers(&Target::anyreach(), &plan);
    println!("control, generic layers inside FollowRedirect ({plan}): {leaks}");
    let foreign_hops = leaks.count("foreign hops");
    assert!(foreign_hops >= plan.least_cases() / 50, "{leaks}");
    assert_eq!(leaks.count("with Authorization"), foreign_hops, "{leaks}");
    assert_eq!(leaks.count("with X-Anyreach-Org"), foreign_hops, "{leaks}");
}
