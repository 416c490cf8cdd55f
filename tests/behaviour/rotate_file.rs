//! The example `rotate_file`, as it was built beside this test: a fleet's recipe that does not work is worse than none.

use std::path::PathBuf;
use std::process::Command;

#[test]
fn a_secret_volume_rotates_under_load_without_a_failed_request() {
    let output = Command::new(example()).output().unwrap();
    let stdout = String::from_utf8(output.stdout).unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{stdout}{stderr}");

    let (summary, verdict) = {
        let mut lines = stdout.lines().rev();
        let verdict = lines.next().unwrap();
        (lines.next().unwrap(), verdict)
    };
    assert_eq!(verdict, "every request succeeded", "{stdout}");
    assert_eq!(count(summary, "failures"), 0, "{stdout}");
    // Far fewer than on a machine that is busy with other tests: it must have worked at all.
    assert!(count(summary, "requests") >= 100, "{stdout}");
    assert!(count(summary, "rotations-seen") >= 4, "{stdout}");
    assert!(count(summary, "refused-and-replayed") >= 1, "{stdout}");
    // The tokens are `pat_generation-...`.
    assert!(!stdout.contains("generation-"), "{stdout}");
    assert!(!stderr.contains("generation-"), "{stderr}");
}

/// `cargo test` builds all examples; this binary stands in `deps` beside their directory.
fn example() -> PathBuf {
    let test = std::env::current_exe().unwrap();
    let profile = test.parent().and_then(|deps| deps.parent()).unwrap();
    let example = profile.join("examples").join("rotate_file");
    assert!(
        example.is_file(),
        "run `cargo build --example rotate_file` first, or `cargo test` without `--test`"
    );
    example
}

#[track_caller]
fn count(summary: &str, name: &str) -> u64 {
    let mut words = summary.split_whitespace();
    words
        .find(|word| *word == name)
        .and_then(|_| words.next())
        .and_then(|number| number.parse().ok())
        .unwrap_or_else(|| panic!("no count of {name} in {summary:?}"))
}
