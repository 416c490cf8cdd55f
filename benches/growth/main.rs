//! Whether a request costs more as a fleet grows: against the number of organizations, credentials, rotations, clones,
//! and requests so far.
//!
//! `benches/growth.sh` counts instructions, by callgrind, and fails if a curve is not flat. `--time` measures
//! nanoseconds, which also know of cache misses, for information. Each is net of `bare`: the same request with the
//! same extension, and no layer.
#![allow(
    clippy::print_stdout,
    reason = "the script reads the list, and everybody the tables"
)]

mod curves;
#[path = "../figures/mod.rs"]
mod figures;
mod report;

use std::collections::HashMap;
use std::env;
use std::hint::black_box;
use std::io;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};

use curves::{CURVES, Curve, Part};
use figures::{Figures, versions};
use report::{Point, Unit, report};

const PARTS: [(&str, Part); 3] = [
    ("bare", Part::Bare),
    ("layer", Part::Layer),
    ("rotation", Part::Rotation),
];

fn main() -> anyhow::Result<ExitCode> {
    let arguments: Vec<_> = env::args()
        .skip(1)
        .filter(|argument| argument != "--bench")
        .collect();
    let arguments: Vec<_> = arguments.iter().map(String::as_str).collect();
    match arguments[..] {
        [] | ["--list"] => list(),
        ["--count", case, x, part] => count(case, x.parse()?, part)?,
        ["--table"] => return table(),
        ["--time"] => time()?,
        _ => bail!("expected --list, --count CASE X PART, --table or --time"),
    }
    Ok(ExitCode::SUCCESS)
}

fn locked() -> String {
    let lock = include_str!("../../Cargo.lock");
    versions(lock, &["http", "tower", "tower-anyreach"])
}

/// Prints the runs that callgrind has to make.
fn list() {
    for curve in &CURVES {
        for &x in curve.xs {
            for (name, part) in PARTS {
                if is_there(part, curve, x) {
                    println!("{} {x} {name}", curve.case);
                }
            }
        }
    }
}

fn is_there(part: Part, curve: &Curve, x: u32) -> bool {
    part != Part::Rotation || curve.case == "rotations_per_second" && x > 0
}

/// Makes one of them.
fn count(case: &str, x: u32, part: &str) -> anyhow::Result<()> {
    let curve = CURVES.iter().find(|curve| curve.case == case);
    let part = PARTS.iter().find(|(name, _)| *name == part);
    let (curve, (_, part)) = curve.zip(part).context("no such case or part")?;
    (curve.set_up)(x, *part).measure(*part, (curve.calls)(x), counted);
    Ok(())
}

/// What callgrind counts, by this name.
#[inline(never)]
fn counted(times: u32, work: &mut dyn FnMut()) {
    for _ in 0..times {
        work();
    }
    // Nor is the last call to become a jump.
    black_box(());
}

/// Reads the runs with what callgrind has counted.
fn table() -> anyhow::Result<ExitCode> {
    let mut counts = HashMap::new();
    for line in io::stdin().lines() {
        let line = line?;
        let (run, count) = line.rsplit_once(' ').context("expected a count")?;
        let count: u32 = count.parse().with_context(|| line.clone())?;
        ensure!(count > 0, "nothing was counted: {line}");
        counts.insert(run.to_owned(), f64::from(count));
    }
    let unit = Unit {
        net: "instructions_net",
        rotation: "instructions_per_rotation",
    };
    let mut figures = Figures::create("growth", "bash benches/growth.sh", &locked())?;
    let mut are_flat = true;
    for curve in &CURVES {
        let mut points = Vec::new();
        for &x in curve.xs {
            let counted = |(name, part)| {
                if !is_there(part, curve, x) {
                    return Ok(None);
                }
                let run = format!("{} {x} {name}", curve.case);
                let count = counts.get(&run).copied();
                count.context(format!("was not counted: {run}")).map(Some)
            };
            let [bare, layer, rotation] = PARTS.map(counted);
            points.push(point(curve, x, [bare?, layer?, rotation?]));
        }
        let is_flat = report(curve, &unit, &points, &mut figures)?;
        println!("{}", if is_flat { "FLAT" } else { "NOT FLAT" });
        are_flat &= is_flat;
    }
    Ok(if are_flat {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

fn point(curve: &Curve, x: u32, parts: [Option<f64>; 3]) -> Point {
    let [bare, layer, rotation] = parts;
    let net = layer.unwrap_or(f64::NAN) - bare.unwrap_or(f64::NAN);
    Point {
        x,
        net: net / f64::from((curve.calls)(x)),
        rotation: rotation.map(|rotation| rotation / f64::from(x)),
    }
}

/// All points of a curve in turn, again and again, so that what disturbs one disturbs them all.
fn time() -> anyhow::Result<()> {
    const ROUNDS: usize = 21;

    let unit = Unit {
        net: "ns_net",
        rotation: "ns_per_rotation",
    };
    let mut figures = Figures::create(
        "growth_time",
        "cargo bench --bench growth -- --time",
        &locked(),
    )?;
    for curve in &CURVES {
        let mut rounds = vec![Vec::new(); curve.xs.len()];
        for _ in 0..ROUNDS {
            for (&x, points) in curve.xs.iter().zip(&mut rounds) {
                let parts = PARTS.map(|(_, part)| is_there(part, curve, x).then_some(part));
                let parts = parts.map(|part| part.map(|part| nanoseconds(curve, x, part)));
                points.push(point(curve, x, parts));
            }
        }
        let points: Vec<_> = rounds.iter().map(|points| median_point(points)).collect();
        report(curve, &unit, &points, &mut figures)?;
    }
    Ok(())
}

fn nanoseconds(curve: &Curve, x: u32, part: Part) -> f64 {
    let mut spent = Duration::ZERO;
    (curve.set_up)(x, part).measure(part, (curve.calls)(x), |times, work| {
        let begin = Instant::now();
        (0..times).for_each(|_| work());
        spent += begin.elapsed();
    });
    spent.as_secs_f64() * 1e9
}

fn median_point(points: &[Point]) -> Point {
    Point {
        x: points[0].x,
        net: median(points.iter().map(|point| point.net)),
        rotation: points[0]
            .rotation
            .map(|_| median(points.iter().filter_map(|point| point.rotation))),
    }
}

fn median(values: impl Iterator<Item = f64>) -> f64 {
    let mut values: Vec<_> = values.collect();
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}
