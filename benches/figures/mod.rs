//! Figures as JSON lines, `target/figures/<suite>.jsonl`, each file beginning with what made it.

use std::env;
use std::fs::{self, File};
use std::io::{self, Write};
use std::path::Path;
use std::process::Command;
use std::thread::available_parallelism;

use serde_json::Value;

pub(crate) struct Figures {
    suite: &'static str,
    file: File,
}

impl Figures {
    /// Begins the file of a suite anew, with the [`versions`] that matter to it.
    pub(crate) fn create(suite: &'static str, command: &str, versions: &str) -> io::Result<Self> {
        // A package below has the repository's root further up.
        let root = Path::new(env!("CARGO_MANIFEST_DIR"))
            .ancestors()
            .find(|folder| folder.join("CHANGELOG.md").is_file())
            .unwrap_or(Path::new("."));
        let target = env::var_os("CARGO_TARGET_DIR").unwrap_or_else(|| "target".into());
        let folder = root.join(target).join("figures");
        fs::create_dir_all(&folder)?;
        let mut file = File::create(folder.join(format!("{suite}.jsonl")))?;
        file.write_all(about(suite, command, versions).as_bytes())?;
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
        if !value.is_finite() {
            let error = format!("{case} {contender}: {metric} is {value}");
            return Err(io::Error::other(error));
        }
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
pub(crate) fn about(suite: &str, command: &str, versions: &str) -> String {
    let abouts = [
        ("command", command.to_owned()),
        ("rustc", said_by("rustc", &["--version"])),
        ("machine", machine()),
        ("date", said_by("date", &["-u", "+%F"])),
        ("versions", versions.to_owned()),
    ];
    abouts
        .map(|(about, text)| {
            let [suite, about, text] = [suite, about, &text].map(Value::from);
            format!("{{\"suite\":{suite},\"about\":{about},\"text\":{text}}}\n")
        })
        .concat()
}

const UNKNOWN: &str = "unknown";

fn said_by(command: &str, arguments: &[&str]) -> String {
    Command::new(command).args(arguments).output().map_or_else(
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

/// Those of some packages, as a lock file has them.
pub(crate) fn versions(lock: &str, packages: &[&str]) -> String {
    let versions = packages.iter().map(|name| {
        let version = lock
            .rsplit_once(&format!("name = \"{name}\"\nversion = \""))
            .and_then(|(_, rest)| rest.split_once('"'))
            .map_or(UNKNOWN, |(version, _)| version);
        format!("{name} {version}")
    });
    versions.collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    #[test]
    fn what_is_no_number_is_no_figure() -> std::io::Result<()> {
        let mut figures = super::Figures {
            suite: "suite",
            file: std::fs::File::create("/dev/null")?,
        };
        for value in [f64::INFINITY, f64::NEG_INFINITY, f64::NAN] {
            let refused = figures.add("case", "contender", None, "ns", value);
            assert!(refused.is_err(), "{value}");
        }
        figures.add("case", "contender", Some(2), "ns", 0.5)
    }
}
