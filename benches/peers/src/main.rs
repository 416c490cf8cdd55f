//! What the layer costs beside its peers: requests, clones, threads and sizes, in one process.
#![allow(clippy::print_stdout, reason = "the tables are what is asked for")]

mod building;
mod check;
mod clones;
#[path = "../../contenders/mod.rs"]
mod contenders;
mod count;
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
            print!("{}", figures::about(suite, command));
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

fn measure(effort: Effort, command: &str) -> io::Result<()> {
    check::check_all();
    let tables = [
        overhead::run(effort, &mut Figures::create("overhead", command)?)?,
        clones::run(effort, &mut Figures::create("clone", command)?)?,
        threads::run(effort, &mut Figures::create("threads", command)?)?,
        sizes::run(),
    ];
    for table in tables {
        println!("\n{table}");
    }
    Ok(())
}
