//! A process in which everything goes wrong, with every event of every crate enabled: its output holds no credential, in any
//! encoding, and neither does its memory once the last holder of a credential is gone.
//!
//! The test runs itself as a child and searches its output. Every canary is made from a seed, new in each run.
//! `ANYREACH_LEAK_SEED` repeats an earlier run, and `ANYREACH_LEAK_ROUNDS` sets how often everything goes wrong.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
#![allow(
    clippy::print_stdout,
    reason = "a child prints what is searched, and the test its figures"
)]

mod canaries;
#[cfg(target_os = "linux")]
mod memory;
mod planted;
mod scenario;
mod servers;
mod shown;

use std::collections::BTreeSet;
use std::io::Read;
use std::process::{Command, Stdio};
use std::time::Instant;

use support::scanner::{Scanner, Search};

use crate::canaries::{Kind, seed};

/// Returns a command that runs one ignored test of this binary.
fn child(test: &str) -> Command {
    let mut child = Command::new(std::env::current_exe().unwrap());
    let arguments = ["--ignored", "--nocapture", "--test-threads=1", "--exact"];
    child
        .args(arguments)
        .arg(test)
        .env("ANYREACH_LEAK_SEED", seed().to_string())
        .env("RUST_BACKTRACE", "full");
    child
}

/// Reads to the end, and returns the last 4,000 bytes.
fn search_all(mut from: impl Read, searches: &mut [Search<'_>]) -> String {
    let mut buffer = vec![0; 1 << 16];
    let mut last = Vec::new();
    while let Ok(len @ 1..) = from.read(&mut buffer) {
        for search in &mut *searches {
            search.feed(&buffer[..len]);
        }
        last.extend_from_slice(&buffer[..len]);
        let old = last.len().saturating_sub(4_000);
        last.drain(..old);
    }
    String::from_utf8_lossy(&last).into_owned()
}

/// Texts that the child certainly prints, without their spaces. It prints the organization as well.
const EXPECTED: [&str; 8] = [
    "hyper_util::client",
    "h2::codec",
    "rustls::client",
    "tower_http::trace",
    "tower_anyreach:requestdenied",
    "credentialsourcefailed",
    "\"authorization\":Sensitive",
    "stackbacktrace:",
];

#[test]
fn nothing_that_a_process_emits_holds_a_credential() {
    let started = Instant::now();
    let scanner = Scanner::new(canaries::all());
    let expected = EXPECTED.map(|text| (text, text.to_owned()));
    let organization = ("the organization", canaries::organization());
    let heard = Scanner::whole(expected.into_iter().chain([organization]));
    let searches = || [scanner.search(), heard.search()];

    let garbage = format!("Bearer {}", canaries::text(Kind::Garbage));
    let mut child = child("scenario::child_in_which_everything_goes_wrong")
        .env("ANYREACH_TOKEN", garbage)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let (mut out, mut err) = (searches(), searches());
    let (stdout, stderr) = (child.stdout.take().unwrap(), child.stderr.take().unwrap());
    let (last_out, last_err) = std::thread::scope(|scope| {
        let stderr = scope.spawn(|| search_all(stderr, &mut err));
        (search_all(stdout, &mut out), stderr.join().unwrap())
    });
    let status = child.wait().unwrap();

    let (bytes, found) = (out[0].bytes + err[0].bytes, out[0].found + err[0].found);
    let (seed, needles, took) = (seed(), scanner.needles(), started.elapsed());
    println!("leaks: seed {seed}, {bytes} bytes, {needles} needles, {found} hits, in {took:.1?}");
    let hits = [&out[0].hits, &err[0].hits];
    assert_eq!(found, 0, "stdout and stderr: {hits:#?}");
    assert!(status.success(), "{last_out}\n{last_err}");
    let heard: BTreeSet<_> = out[1].names.union(&err[1].names).collect();
    let is_all = heard.len() == EXPECTED.len() + 1;
    assert!(is_all, "only {heard:?} was printed");
}
