//! The demonstration succeeds. It needs `etcd` in the path.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::process::{Command, Output};

fn demo() -> Command {
    let mut demo = Command::new(env!("CARGO_BIN_EXE_rotate_etcd"));
    demo.args(["demo", "6"]);
    demo
}

fn text(output: &Output) -> String {
    let stdout = String::from_utf8_lossy(&output.stdout);
    let stderr = String::from_utf8_lossy(&output.stderr);
    format!("{stdout}{stderr}")
}

#[test]
fn a_fleet_follows_every_rotation_through_an_outage_of_etcd() {
    let output = demo().output().unwrap();
    let text = text(&output);
    assert!(output.status.success(), "{text}");

    let stdout = String::from_utf8(output.stdout).unwrap();
    let summary = "followers 3 rotations 6 outages 1 ";
    let summary = stdout
        .lines()
        .find(|line| line.starts_with(summary))
        .unwrap();
    assert!(summary.ends_with(" failures 0"), "{text}");
    assert!(!text.contains("FAILED"), "{text}");

    let last = stdout.lines().last().unwrap();
    let last = last.strip_prefix("every follower has ").unwrap();
    for follower in 1..=3 {
        let said: Vec<_> = stdout
            .lines()
            .filter_map(|line| line.strip_prefix(&format!("follower {follower}: ")))
            .collect();
        // The first key and 6 rotations, the first of the two in the outage unseen.
        let end = format!("version 6 credential {last} requests ");
        assert!(said.last().unwrap().starts_with(&end), "{text}");
        let resumed = said
            .iter()
            .any(|line| line.ends_with("the key was read again"));
        assert!(resumed, "{text}");
    }
    // Every secret begins with this text.
    assert!(!text.contains("c2VjcmV0"), "{text}");
}

#[test]
fn without_etcd_it_says_how_to_install_it() {
    let output = demo().env("PATH", "").output().unwrap();
    assert!(!output.status.success());
    let text = text(&output);
    assert!(text.contains("apt-get install etcd-server"), "{text}");
}
