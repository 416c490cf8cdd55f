//! What attaching the headers costs, beside the libraries that a user would choose instead.
//!
//! Without arguments of its own it measures time. The other modes are for `instructions.sh`.
#![allow(clippy::print_stdout, reason = "the tables are the result")]

#[cfg(feature = "cf-gears")]
mod cf_gears;
mod growth;
#[path = "../../harness/mod.rs"]
mod harness;
mod peers;
mod threads;

use std::time::Duration;

use harness::{CASES, Contender, Way, timing};

fn main() {
    let arguments: Vec<_> = std::env::args().skip(1).collect();
    let arguments: Vec<_> = arguments.iter().map(String::as_str).collect();
    match arguments[..] {
        ["--list"] => print_list(),
        ["--list-growth"] => growth::print_list(),
        ["--count", case, way, contender, times] => count(case, way, contender, number(times)),
        ["--growth", row, x, part, times] => {
            growth::count(row, number(x), part == "layer", number(times));
        }
        ["--bench"] => measure(timing::FULL, 25, Duration::from_millis(20)),
        // `cargo bench` adds `--bench` to the arguments, `cargo test --benches` passes none.
        [] | ["--test"] | ["--short", ..] => measure(timing::SHORT, 1, Duration::from_millis(2)),
        _ => panic!("expected --short or nothing, not {arguments:?}"),
    }
}

fn number(argument: &str) -> u32 {
    argument.parse().expect("a number")
}

fn checked_contenders() -> Vec<Contender> {
    let contenders = peers::contenders();
    contenders.iter().for_each(Contender::check);
    contenders
}

fn measure(rounds: usize, races: usize, race: Duration) {
    let contenders = checked_contenders();
    timing::print_times(&contenders, rounds);
    threads::print_ratios(&contenders, races, race);
}

/// Prints what has to be counted, as arguments of this program.
fn print_list() {
    for contender in checked_contenders() {
        for case in &CASES {
            for way in Way::CALLS {
                println!("--count {} {} {}", case.name, way.name(), contender.name);
            }
        }
        println!("--count - {} {}", Way::Clone.name(), contender.name);
    }
}

/// Makes this many calls, for callgrind.
fn count(case: &str, way: &str, contender: &str, times: u32) {
    let case = CASES
        .iter()
        .find(|known| known.name == case)
        .unwrap_or(&CASES[0]);
    let ways = [Way::Held, Way::Oneshot, Way::Clone];
    let way = ways
        .into_iter()
        .find(|known| known.name() == way)
        .expect("a way");
    let contenders = peers::contenders();
    let contender = contenders.iter().find(|known| known.name == contender);
    contender.expect("a contender").build(1)[0].counted(case, way, times);
}
