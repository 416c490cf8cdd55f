//! Figures as JSON lines, `target/figures/<suite>.jsonl`, each file beginning with what made it.

use std::env;
use std::fs::{self, File};
use std::io::{self, Write};
use std::path::Path;
use std::process::Command;
use std::thread::available_parallelism;

use jiff::Timestamp;
use serde_json::{Value, json};

pub(crate) struct Figures {
    suite: &'static str,
    file: File,
}

impl Figures {
    /// Begins the file of a suite anew.
    pub(crate) fn create(suite: &'static str, command: &str) -> io::Result<Self> {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
        let target = env::var_os("CARGO_TARGET_DIR").unwrap_or_else(|| "target".into());
        let folder = root.join(target).join("figures");
        fs::create_dir_all(&folder)?;
        let mut file = File::create(folder.join(format!("{suite}.jsonl")))?;
        file.write_all(about(suite, command).as_bytes())?;
        Ok(Self { suite, file })
    }

    pub(crate) fn add(
        &mut self,
        case: &str,
        contender: &str,
        x: Option<u32>,
        metric: &str,
        value: f64,
    ) -> io::Result<()> {
        let [suite, case, contender, metric] =
            [self.suite, case, contender, metric].map(Value::from);
        let x = Value::from(x);
        writeln!(
            self.file,
            r#"{{"suite":{suite},"case":{case},"contender":{contender},"x":{x},"metric":{metric},"value":{value:.3}}}"#
        )
    }
}

/// The first lines of a suite: what made it.
pub(crate) fn about(suite: &str, command: &str) -> String {
    let abouts = [
        ("command", command.to_owned()),
        ("rustc", rustc()),
        ("machine", machine()),
        ("date", Timestamp::now().strftime("%Y-%m-%d").to_string()),
        ("versions", versions()),
    ];
    abouts
        .map(|(about, text)| {
            let [suite, about, text] = [suite, about, &text].map(|text| json!(text));
            format!("{{\"suite\":{suite},\"about\":{about},\"text\":{text}}}\n")
        })
        .concat()
}

const UNKNOWN: &str = "unknown";

fn rustc() -> String {
    let output = Command::new("rustc").arg("--version").output();
    output.map_or_else(
        |_| UNKNOWN.to_owned(),
        |output| String::from_utf8_lossy(&output.stdout).trim().to_owned(),
    )
}

fn machine() -> String {
    let processors = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = processors
        .lines()
        .find_map(|line| line.strip_prefix("model name")?.split_once(": "))
        .map_or(env::consts::ARCH, |(_, model)| model);
    let cores = available_parallelism().map_or(0, usize::from);
    format!("{model}, {cores} cores")
}

/// Those of the contenders, as they are locked.
fn versions() -> String {
    const NAMES: [&str; 8] = [
        "http",
        "kube-client",
        "octocrab",
        "reqwest",
        "tonic",
        "tower",
        "tower-anyreach",
        "tower-http",
    ];
    let lock = include_str!("../Cargo.lock");
    let mut versions = Vec::new();
    for name in NAMES {
        let version = lock
            .rsplit_once(&format!("name = \"{name}\"\nversion = \""))
            .and_then(|(_, rest)| rest.split_once('"'))
            .map_or(UNKNOWN, |(version, _)| version);
        versions.push(format!("{name} {version}"));
    }
    versions.join(", ")
}
