//! Runs an example or a demonstration, and captures what it prints.

use std::env;
use std::path::Path;
use std::process::Command;

/// A program in an environment that holds nothing.
#[must_use]
pub fn program(path: &Path) -> Command {
    let shown = path.display();
    assert!(
        path.is_file(),
        "{shown} is not built: run all targets, or `cargo build --examples` first"
    );
    let mut program = Command::new(path);
    program.env_clear();
    // Windows finds its sockets through it.
    program.envs(env::var_os("SystemRoot").map(|root| ("SystemRoot", root)));
    program
}

/// An example, which cargo builds together with the tests.
#[must_use]
pub fn example(name: &str) -> Command {
    let test = env::current_exe().unwrap();
    // From `target/PROFILE/deps/TEST-HASH` to `target/PROFILE/examples/NAME`.
    let profile = test.parent().and_then(Path::parent).unwrap();
    let file = format!("{name}{}", env::consts::EXE_SUFFIX);
    program(&profile.join("examples").join(file))
}

/// What an example printed, with `PORT` for each port of this machine, and the code it ended with.
#[derive(Debug)]
pub struct Printed {
    /// Its standard output.
    pub stdout: String,
    /// Its standard error.
    pub stderr: String,
    /// What it exited with.
    pub code: Option<i32>,
}

/// Runs a program to its end.
pub fn printed(example: &mut Command) -> Printed {
    let output = example.output().unwrap();
    Printed {
        stdout: without_ports(str::from_utf8(&output.stdout).unwrap()),
        stderr: without_ports(str::from_utf8(&output.stderr).unwrap()),
        code: output.status.code(),
    }
}

fn without_ports(text: &str) -> String {
    let mut shown = String::new();
    for part in text.split_inclusive(':') {
        if shown.ends_with("127.0.0.1:") || shown.ends_with("localhost:") {
            shown += "PORT";
            shown += part.trim_start_matches(|c: char| c.is_ascii_digit());
        } else {
            shown += part;
        }
    }
    shown
}
