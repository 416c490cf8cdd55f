//! What the pages refer to exists: the examples that they show, and the tests that they name.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::path::Path;

const CLIENTS: &str = include_str!("../../../docs/clients.md");
const ORDER: &str = include_str!("../../../docs/layer-order.md");
const MIGRATION: &str = include_str!("../../../docs/migration.md");

#[test]
fn the_page_on_clients_shows_the_examples_as_they_are() {
    let examples = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../examples");
    for path in [
        "axum_gateway/src/lib.rs",
        "axum_gateway/src/main.rs",
        "reqwest_middleware/src/lib.rs",
    ] {
        let example = std::fs::read_to_string(examples.join(path)).unwrap();
        let is_shown = CLIENTS.contains(&format!("```rust,ignore\n{example}```\n"));
        assert!(
            is_shown,
            "docs/clients.md shows another {path} than the example has"
        );
    }
}

/// Their origin is one over plain http, where a proxy of the environment would read the credential.
#[test]
fn each_reqwest_client_on_the_page_is_built_without_proxies() {
    let builds = |line: &&str| line.contains("reqwest::Client::builder()");
    let clients: Vec<_> = CLIENTS.lines().filter(builds).collect();
    assert!(clients.len() >= 2 && !CLIENTS.contains("reqwest::Client::new()"));
    assert!(clients.iter().all(|line| line.contains(".no_proxy()")));
}

#[test]
fn each_test_that_a_page_names_exists() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let directories = ["tests/behaviour", "campaigns/tests", "tests/pages/tests"];
    let mut names = 0;
    for quoted in [ORDER, MIGRATION].iter().flat_map(|page| page.split('`')) {
        let Some((module, test)) = quoted.split_once("::") else {
            continue;
        };
        let files = directories.map(|directory| root.join(directory).join(format!("{module}.rs")));
        let Some(file) = files.iter().find(|file| file.is_file()) else {
            continue;
        };
        let source = std::fs::read_to_string(file).unwrap();
        assert!(source.contains(&format!("fn {test}(")), "no test {quoted}");
        names += 1;
    }
    assert!(names >= 30, "only {names} tests are named");
}
