//! Rotates in each manager under load. `bao`, and `pass` with `gpg`, must be in the path.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
#![allow(clippy::print_stdout, reason = "the number of requests")]

use std::process::Command;

/// Runs the demonstration, and asserts that it sent at least 10,000 requests, of which none failed.
fn assert_no_request_fails(manager: &str) {
    let output = Command::new(env!("CARGO_BIN_EXE_secret_managers"))
        .args([manager, "5"])
        .output()
        .unwrap();
    let stdout = String::from_utf8(output.stdout).unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{manager}: {stdout}{stderr}");
    let summary = stdout
        .lines()
        .find_map(|line| line.strip_prefix("rotated 5 times; requests "));
    let requests = summary.unwrap().split(' ').next().unwrap();
    println!("{manager}: {requests} requests");
    assert!(
        requests.parse::<u64>().unwrap() >= 10_000,
        "{manager}: {stdout}"
    );
    // Every secret ends with this text.
    assert!(!stdout.contains("c2VjcmV0") && !stderr.contains("c2VjcmV0"));
}

#[test]
fn openbao_rotates_by_its_command() {
    assert_no_request_fails("openbao");
}

#[test]
fn openbao_rotates_by_its_api() {
    assert_no_request_fails("openbao-api");
}

#[test]
fn pass_rotates_by_its_command() {
    assert_no_request_fails("pass");
}
