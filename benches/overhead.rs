//! What attaching the headers costs: this crate beside two inserts by hand and tower-http's layers.
//!
//! `cargo bench` measures; with `--short`, or when `cargo test --benches` runs it, it only shows that everything works.
//! `benches/peers` has more contenders, instructions and threads.
#![allow(clippy::print_stdout, reason = "the table is the result")]

mod harness;

use harness::{Contender, timing};

fn main() {
    let arguments: Vec<_> = std::env::args().skip(1).collect();
    let arguments: Vec<_> = arguments.iter().map(String::as_str).collect();
    let rounds = match arguments[..] {
        ["--bench"] => timing::FULL,
        // `cargo bench` adds `--bench` to the arguments, `cargo test --benches` passes none.
        [] | ["--test"] | ["--short", ..] => timing::SHORT,
        _ => panic!("expected --short or nothing, not {arguments:?}"),
    };
    let contenders = harness::contenders();
    contenders.iter().for_each(Contender::check);
    timing::print_times(&contenders, rounds);
}
