//! The example `rotate_file`, as it was built beside this test: a fleet's recipe that does not work is worse than none.

use support::{Printed, example, printed};

#[test]
fn a_secret_volume_rotates_under_load_without_a_failed_request() {
    // The example writes below the directory for temporary files.
    let temporary = std::env::var_os("TMPDIR").map(|directory| ("TMPDIR", directory));
    let Printed {
        stdout,
        stderr,
        code,
    } = printed(example("rotate_file").envs(temporary));
    assert_eq!(code, Some(0), "{stdout}{stderr}");

    let (summary, verdict) = {
        let mut lines = stdout.lines().rev();
        let verdict = lines.next().unwrap();
        (lines.next().unwrap(), verdict)
    };
    assert_eq!(verdict, "every request succeeded", "{stdout}");
    assert_eq!(count(summary, "failures"), 0, "{stdout}");
    // Far fewer than on a machine that is busy with other tests: it must have worked at all.
    assert!(count(summary, "requests") >= 100, "{stdout}");
    assert!(count(summary, "rotations-seen") >= 3, "{stdout}");
    assert!(count(summary, "denied-and-replayed") >= 1, "{stdout}");
    // The tokens are `pat_generation-...`.
    assert!(!stdout.contains("generation-"), "{stdout}");
    assert!(!stderr.contains("generation-"), "{stderr}");
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
