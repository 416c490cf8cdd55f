//! What Cargo.toml declares is so.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::env;
use std::process::Command;

use serde_json::Value;

/// What comes with the library, with all its features; Cargo.toml has the reason for each.
const DEPENDENCIES: [&str; 20] = [
    "bytes",
    "http",
    "http-auth",
    "http-body",
    "http-body-util",
    "hyper",
    "hyper-util",
    "libc",
    "pin-project-lite",
    "secrecy",
    "serde_core",
    "serde_json",
    "sha2",
    "tokio",
    "tower",
    "tower-http",
    "tower-layer",
    "tower-service",
    "tracing",
    "zeroize",
];

/// What `cargo metadata` says of the packages and of who depends on whom, on this system: those are there already.
fn metadata() -> Value {
    let rustc = run(Command::new("rustc").arg("-vV"));
    let host = rustc.lines().find_map(|line| line.strip_prefix("host: "));
    let cargo = env::var("CARGO").unwrap_or_else(|_| "cargo".to_owned());
    let manifest = concat!(env!("CARGO_MANIFEST_DIR"), "/Cargo.toml");
    let metadata = run(Command::new(cargo)
        .args(["metadata", "--format-version=1", "--all-features"])
        .args(["--locked", "--offline", "--filter-platform", host.unwrap()])
        .args(["--manifest-path", manifest]));
    serde_json::from_str(&metadata).unwrap()
}

fn run(command: &mut Command) -> String {
    let output = command.output().unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?}: {stderr}");
    String::from_utf8(output.stdout).unwrap()
}

fn list(value: &Value) -> &[Value] {
    value.as_array().map_or(&[], Vec::as_slice)
}

/// What a package needs to be built into somebody's program.
fn dependencies(node: &Value) -> impl Iterator<Item = &str> {
    list(&node["deps"])
        .iter()
        .filter(|dependency| {
            list(&dependency["dep_kinds"])
                .iter()
                .any(|kind| kind["kind"] != "dev")
        })
        .filter_map(|dependency| dependency["pkg"].as_str())
}

/// `1.88` or `1.88.0` as numbers.
fn version(text: &str) -> [u32; 2] {
    let mut numbers = text.split('.').map(|number| number.parse().unwrap());
    [numbers.next().unwrap(), numbers.next().unwrap()]
}

struct Tree {
    root: String,
    packages: HashMap<String, Value>,
    nodes: HashMap<String, Value>,
}

impl Tree {
    fn read() -> Self {
        let metadata = metadata();
        let by_id = |values: &Value| {
            let pair = |value: &Value| (value["id"].as_str().unwrap().to_owned(), value.clone());
            list(values).iter().map(pair).collect::<HashMap<_, _>>()
        };
        Self {
            root: metadata["resolve"]["root"].as_str().unwrap().to_owned(),
            packages: by_id(&metadata["packages"]),
            nodes: by_id(&metadata["resolve"]["nodes"]),
        }
    }

    fn direct(&self) -> impl Iterator<Item = &Value> {
        dependencies(&self.nodes[&self.root]).map(|id| &self.packages[id])
    }

    /// All that comes with the library, itself not included.
    fn all(&self) -> impl Iterator<Item = &Value> {
        let mut seen = HashSet::new();
        let mut next: Vec<_> = dependencies(&self.nodes[&self.root]).collect();
        while let Some(id) = next.pop() {
            if seen.insert(id) {
                next.extend(dependencies(&self.nodes[id]));
            }
        }
        seen.into_iter().map(|id| &self.packages[id])
    }
}

/// Not on any system, nor under any `cfg`: all of these stand in the lock files of those who use this crate.
#[test]
fn the_manifest_names_no_others_for_any_target() {
    let tree = Tree::read();
    let named: BTreeSet<_> = list(&tree.packages[&tree.root]["dependencies"])
        .iter()
        .filter(|dependency| dependency["kind"] != "dev")
        .map(|dependency| dependency["name"].as_str().unwrap())
        .collect();
    assert_eq!(named, DEPENDENCIES.into_iter().collect());
}

#[test]
fn the_library_depends_on_these_and_no_others() {
    let tree = Tree::read();
    let direct: BTreeSet<_> = tree
        .direct()
        .map(|package| package["name"].as_str().unwrap())
        .collect();
    assert_eq!(direct, DEPENDENCIES.into_iter().collect());
}

#[test]
fn the_declared_rust_version_is_the_greatest_that_a_dependency_asks_for() {
    let tree = Tree::read();
    let declared = version(tree.packages[&tree.root]["rust_version"].as_str().unwrap());
    let asked = tree.all().filter_map(|package| {
        let asked = version(package["rust_version"].as_str()?);
        Some((asked, package["name"].as_str()?))
    });
    let (greatest, by) = asked.max().unwrap();
    assert_eq!(declared, greatest, "{by} asks for the greatest");
}
