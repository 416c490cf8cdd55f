//! Turns the figures of a benchmark run into SVG charts and Markdown tables.
//!
//! Reads `target/figures/*.jsonl` of the repository, or those of `CARGO_TARGET_DIR`, which the benchmarks have written:
//!
//! ```text
//! cargo run --manifest-path benches/report/Cargo.toml            writes beside the figures
//! cargo run --manifest-path benches/report/Cargo.toml -- DIR     writes to DIR
//! ```
#![allow(
    clippy::print_stderr,
    reason = "a command says on the terminal what it has skipped"
)]

mod bars;
mod canvas;
mod figures;
mod growth;
mod lines;
mod names;
mod table;
mod threads;
mod ticks;
mod trip;

use std::path::{Path, PathBuf};
use std::{env, fs};

use anyhow::{Context, bail};

use crate::figures::Figures;

/// Makes one file, or nothing if its figures are missing.
type Make = fn(&Figures) -> anyhow::Result<Option<String>>;

/// Each file, what makes it, and what that needs.
const FILES: [(&str, Make, &str); 6] = [
    ("overhead.svg", bars::overhead, "suite overhead, times"),
    (
        "instructions.svg",
        bars::instructions,
        "suite overhead, instructions",
    ),
    ("threads.svg", threads::draw, "suite threads"),
    ("growth.svg", growth::draw, "suite growth"),
    ("trip.svg", trip::draw, "suite trip"),
    ("table.md", table::write, "any suite"),
];

fn main() -> anyhow::Result<()> {
    let source = source();
    let mut arguments = env::args_os().skip(1);
    let target = arguments
        .next()
        .map_or_else(|| source.clone(), PathBuf::from);
    if arguments.next().is_some() {
        bail!("usage: anyreach_report [DIR]");
    }

    let figures = Figures::read(&source)?;
    fs::create_dir_all(&target).with_context(|| target.display().to_string())?;
    for (name, make, needs) in FILES {
        let path = target.join(name);
        match make(&figures).with_context(|| name.to_owned())? {
            Some(text) => {
                fs::write(&path, text).with_context(|| path.display().to_string())?;
                eprintln!("{name}: written");
            }
            None => eprintln!("{name}: skipped, for there are no figures of {needs}"),
        }
    }
    Ok(())
}

/// The directory that the benchmarks write to.
fn source() -> PathBuf {
    let repository = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let target = env::var_os("CARGO_TARGET_DIR").unwrap_or_else(|| "target".into());
    repository.join(target).join("figures")
}
