//! What the layer costs beside its peers: requests, clones, threads and sizes, in one process.
#![allow(clippy::print_stdout, reason = "the tables are what is asked for")]

mod building;
mod check;
mod clones;
#[path = "../../contenders/mod.rs"]
mod contenders;
mod count;
#[path = "../../figures/mod.rs"]
mod figures;
mod overhead;
mod peers;
mod sizes;
mod stopwatch;
mod table;
mod threads;

use std::env;
use std::io;
use std::time::Duration;

use figures::Figures;
use stopwatch::Effort;

const COMMAND: &str = "cargo bench --manifest-path benches/peers/Cargo.toml";

fn main() -> io::Result<()> {
    let arguments: Vec<_> = env::args()
        .skip(1)
        .filter(|argument| argument != "--bench")
        .collect();
    let arguments: Vec<_> = arguments.iter().map(String::as_str).collect();
    match arguments[..] {
        [] => measure(FULL, COMMAND),
        ["--short"] => measure(SHORT, &format!("{COMMAND} -- --short")),
        // The rest is for `instructions.sh`.
        ["--about", suite, command] => {
            print!("{}", figures::about(suite, command, &locked()));
            Ok(())
        }
        ["--contenders"] => {
            count::print_contenders();
            Ok(())
        }
        ["--count", case, contender, times] => {
            count::count(case, contender, times.parse().map_err(io::Error::other)?);
            Ok(())
        }
        _ => Err(io::Error::other(
            "expected nothing, or --short for all of it in a few seconds",
        )),
    }
}

/// Half a minute for requests and clones, and as much for threads.
const FULL: Effort = Effort {
    blocks: 5,
    turns: 50,
    turn: Duration::from_millis(1),
    race: Duration::from_millis(20),
    rotating_race: Duration::from_millis(100),
};

/// Shows that everything runs; the figures mean nothing.
const SHORT: Effort = Effort {
    blocks: 1,
    turns: 3,
    turn: Duration::from_millis(1),
    race: Duration::from_millis(2),
    rotating_race: Duration::from_millis(50),
};

/// The versions of the contenders.
fn locked() -> String {
    let lock = include_str!("../Cargo.lock");
    figures::versions(
        lock,
        &[
            "http",
            "kube-client",
            "octocrab",
            "reqwest",
            "tonic",
            "tower",
            "tower-anyreach",
            "tower-http",
        ],
    )
}

fn measure(effort: Effort, command: &str) -> io::Result<()> {
    check::check_all();
    let figures = |suite| Figures::create(suite, command, &locked());
    let tables = [
        overhead::run(effort, &mut figures("overhead")?)?,
        clones::run(effort, &mut figures("clone")?)?,
        threads::run(effort, &mut figures("threads")?)?,
        sizes::run(),
    ];
    for table in tables {
        println!("\n{table}");
    }
    Ok(())
}
