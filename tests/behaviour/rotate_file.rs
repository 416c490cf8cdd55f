//! The example `rotate_file`, as it was built beside this test.

use support::{example, printed};

#[test]
fn a_secret_volume_rotates_under_load_without_a_failed_request() {
    // The example writes below the directory for temporary files.
    let temporary = std::env::var_os("TMPDIR").map(|directory| ("TMPDIR", directory));
    let printed = printed(example("rotate_file").envs(temporary));
    let (stdout, stderr) = (printed.stdout, printed.stderr);
    assert_eq!(printed.code, Some(0), "{stdout}{stderr}");

    let mut lines = stdout.lines().rev();
    let (verdict, summary) = (lines.next().unwrap(), lines.next().unwrap());
    assert_eq!(verdict, "every request succeeded", "{stdout}");
    assert_eq!(count(summary, "failures"), 0, "{stdout}");
    // A bound that also a busy machine reaches.
    assert!(count(summary, "requests") >= 100, "{stdout}");
    assert!(count(summary, "rotations-seen") >= 3, "{stdout}");
    assert!(count(summary, "denied-and-replayed") >= 1, "{stdout}");
    // The tokens are `pat_generation-...`.
    assert!(!stdout.contains("generation-"), "{stdout}");
    assert!(!stderr.contains("generation-"), "{stderr}");
}

#[track_caller]
fn count(summary: &str, name: &str) -> u64 {
    let mut words = summary.split_whitespace().skip_while(|word| *word != name);
    let number = words.nth(1).and_then(|number| number.parse().ok());
    number.unwrap_or_else(|| panic!("no count of {name} in {summary:?}"))
}
