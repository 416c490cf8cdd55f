//! `CommandSource` with real commands, most of them hostile: each fetch ends in time, shows nothing that the command printed, and
//! leaves no process behind.

use std::fs;
use std::io::ErrorKind;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Instant;

use tower_anyreach::source::{CommandError, CommandErrorReason as Reason, CommandSource};
use tower_anyreach::{CredentialSource as _, InvalidCredentialReason};

use crate::events::Listener;
use crate::prelude::*;
use support::runtime::{current_thread, multi_thread, without_runtime};
use support::{Directory, credential as credential_of};

const CANARY: &str = "C0MM4ND-C4NARY";
const LIMIT: Duration = Duration::from_millis(600);

/// A command whose script can be changed, and the processes that it started.
struct Script(Directory);

impl Script {
    fn new(text: &str) -> Self {
        let directory = Directory::new();
        directory.file("script", text);
        Self(directory)
    }

    /// A source that runs the script, with an argument that no error may show.
    fn source(&self) -> CommandSource {
        CommandSource::new("sh")
            .arg(self.0.join("script"))
            .arg(format!("argument-{CANARY}"))
            .env("PIDS", self.0.join("pids"))
            .env("CANARY", CANARY)
            .timeout(LIMIT)
    }

    /// Sets what the script does after it has recorded the number of its shell.
    fn set(&self, text: &str) {
        let script = format!("echo $$ >> \"$PIDS\"\n{text}");
        self.0.file("script", script);
    }

    /// Waits until none of the recorded processes is left, and returns how many there were.
    fn assert_no_process_left(&self, name: &str) -> usize {
        let pids = fs::read_to_string(self.0.join("pids")).unwrap_or_default();
        let until = Instant::now() + MILLI * 500;
        for pid in pids.lines() {
            while is_alive(pid) {
                assert!(Instant::now() < until, "{name}: process {pid} is left");
                thread::sleep(MILLI);
            }
        }
        fs::write(self.0.join("pids"), "").unwrap();
        pids.lines().count()
    }
}

/// A zombie counts as alive, unless another process has to reap it.
fn is_alive(pid: &str) -> bool {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let own = format!("PPid:\t{}\n", std::process::id());
    !status.is_empty() && (!status.contains("State:\tZ") || status.contains(&own))
}

/// Fetches, and returns why that failed.
async fn failed(source: &CommandSource) -> CommandError {
    let error = source.fetch().await.unwrap_err();
    *error.downcast().unwrap()
}

fn invalid(reason: InvalidCredentialReason) -> Reason {
    Reason::InvalidCredential(reason)
}

#[tokio::test]
async fn a_credential_is_read_and_trimmed_and_gets_the_organization() {
    let print = |text: &str| CommandSource::new("printf").args([text]);
    let fetched = print(r" \n\tak_4711.key\r\n").fetch().await.unwrap();
    assert_eq!(fetched.id(), credential_of("ak_4711.key").id());
    let token = print("pat_token").organization(organization("org_1"));
    let token = token.fetch().await.unwrap();
    assert_eq!(token.organization().unwrap().as_str(), "org_1");
    // Below the store's own limit of 10 seconds, whose error does not name the command.
    assert!(format!("{:?}", print("secret")).ends_with("timeout: 9s, .. }"));
    assert!(!format!("{:?}", print("secret")).contains("secret"));
    let refused = print("ak_4711.key").organization(organization("org_1"));
    let text = failed(&refused).await.to_string();
    assert!(text.ends_with("bound to its own organization"), "{text}");
}
#[tokio::test]
async fn a_hostile_command_ends_in_time_shows_nothing_and_leaves_neither_process_nor_credential() {
    use InvalidCredentialReason::{ControlCharacter, Empty, NonAscii};

    let listener = Listener::new();
    let script = Script::new("echo ak_v1.$CANARY");
    let store = CredentialStore::load(script.source()).await.unwrap();
    let before = store.status().credential().clone();
    #[rustfmt::skip]
    let cases = [
        ("hangs", "sleep 1000", Reason::TimedOut),
        ("hangs with output", "echo ak_v2.$CANARY; exec sleep 1000", Reason::TimedOut),
        ("prints without end", "exec yes $CANARY", Reason::TooLarge),
        ("prints 1 GiB", "head -c 1073741824 /dev/zero | tr '\\0' a", Reason::TooLarge),
        ("prints 8 KiB and a byte", "head -c 8193 /dev/zero | tr '\\0' ' '", Reason::TooLarge),
        ("prints a credential and fails", "echo ak_v2.$CANARY; exit 3", Reason::Failed(Some(3))),
        ("is killed", "echo ak_v2.$CANARY; kill -9 $$", Reason::Failed(None)),
        ("prints two lines", "echo ak_v2.$CANARY; echo ak_v3.$CANARY", invalid(ControlCharacter)),
        ("prints nothing", "exit 0", invalid(Empty)),
        ("prints blanks", "printf ' \\n\\t '", invalid(Empty)),
        ("ignores signals", "trap '' TERM INT HUP; while :; do sleep 1000; done", Reason::TimedOut),
        ("leaves a process that ignores signals and fails",
            "(trap '' TERM INT HUP; echo $$; while :; do sleep 1000; done) & echo $! >> $PIDS; exit 1", Reason::Failed(Some(1))),
        ("leaves its group", "exec perl -e 'setpgrp 0, getpgrp getppid; sleep 1000'", Reason::TimedOut),
        ("closes stdout and hangs", "echo ak_v2.$CANARY; exec >&-; sleep 1000", Reason::TimedOut),
        ("closes stdout without output", "exec >&-", invalid(Empty)),
        ("takes a little too long", "sleep 0.66; echo ak_v2.$CANARY", Reason::TimedOut),
        ("reads stdin", "cat; read line", Reason::Failed(Some(1))),
        ("writes secrets to stderr", "echo ak_v2.$CANARY >&2; exit 1", Reason::Failed(Some(1))),
        ("prints other characters than ASCII", "printf 'ak_v2.\\303\\244'", invalid(NonAscii)),
        ("prints bytes that are no text", "printf 'ak_v2.\\377'", invalid(NonAscii)),
    ];
    for (name, text, expected) in cases {
        script.set(text);
        let asked = Instant::now();
        let error = store.refresh().await.unwrap_err();
        let took = asked.elapsed();
        assert!(took < LIMIT + MILLI * 100, "{name}: {took:?}");
        let cause: &CommandError = error.expose_cause().unwrap().downcast_ref().unwrap();
        assert_eq!(cause.reason(), expected, "{name}");
        assert_eq!(cause.program(), "sh");
        assert_eq!(format!("{cause:?}"), format!("CommandError({cause})"));
        let processes = script.assert_no_process_left(name);
        assert!(processes > 0, "{name}: the script has not run");
        assert_eq!(*store.status().credential(), before, "{name}");
        let texts = format!("{error} {error:?} {cause} {cause:?} {:?}", script.source());
        let events = listener.take().join("\n");
        let shown = format!("{texts} {events}");
        assert!(!shown.contains("C4NARY"), "{shown}");
        assert!(texts.contains("`sh`"), "{texts}");
        // There is an event in which something could have been shown.
        assert!(events.contains("credential source failed"), "{name}");
    }
    script.set(&format!("echo {}", key("good")));
    store.refresh().await.unwrap();
    assert_in_force(&store, "good");
}

#[tokio::test]
async fn a_command_that_leaves_a_process_behind_or_closes_its_output_gives_its_credential() {
    let script = Script::new("");
    for text in [
        // It holds the pipe open.
        "sleep 1000 & echo $! >> $PIDS; echo ak_v1.key",
        "echo ak_v1.key; exec >&-; sleep 0.05",
        "cat; echo ak_v1.key",
        "echo noise >&2; head -c 8180 /dev/zero | tr '\\0' ' '; printf ak_v1.key",
    ] {
        script.set(text);
        let asked = Instant::now();
        let fetched = script.source().fetch().await.unwrap();
        assert!(asked.elapsed() < LIMIT, "{text}");
        assert_eq!(fetched.id(), credential_of("ak_v1.key").id(), "{text}");
        script.assert_no_process_left(text);
    }
}

#[tokio::test]
async fn a_program_that_cannot_be_started_is_an_error_with_its_name() {
    let script = Script::new(&format!("#!/bin/sh\necho ak_v1.{CANARY}"));
    let path: PathBuf = script.0.join("script");
    fs::set_permissions(&path, PermissionsExt::from_mode(0o600)).unwrap();
    for (program, kind) in [
        (Path::new("no-such-program"), ErrorKind::NotFound),
        (&path, ErrorKind::PermissionDenied),
        (Path::new("/"), ErrorKind::PermissionDenied),
    ] {
        let error = failed(&CommandSource::new(program)).await;
        assert_eq!(error.reason(), Reason::Io(kind));
        let expected = format!("`{}` could not be run: {kind}", program.display());
        assert_eq!(error.to_string(), expected);
    }
    let nul = CommandSource::new("printf").arg("ak_v1.\0key");
    let invalid = Reason::Io(ErrorKind::InvalidInput);
    assert_eq!(failed(&nul).await.reason(), invalid);
}

#[tokio::test]
async fn a_command_inherits_the_environment_and_gets_what_is_set_for_it() {
    let script = Script::new("printf ak_\"$HOME$ANYREACH_HERE\".key | tr -d /");
    let source = script.source().env("ANYREACH_HERE", "own");
    let home = std::env::var("HOME").unwrap().replace('/', "");
    let expected = credential_of(&format!("ak_{home}own.key"));
    assert_eq!(source.fetch().await.unwrap().id(), expected.id());
}

#[tokio::test]
async fn a_process_that_has_left_the_group_keeps_running() {
    let script = Script::new("");
    let left = "setsid sh -c 'echo $$ > $PIDS.left; exec sleep 30' & until [ -s $PIDS.left ]; do :; done; echo ak_v1.key";
    script.set(left);
    script.source().fetch().await.unwrap();
    script.assert_no_process_left("group");
    assert_keeps_running(&script.0.join("pids.left"));
}

#[tokio::test]
async fn a_command_inherits_no_variable_of_this_crate_and_keeps_running_if_its_parent_is_killed() {
    const NAME: &str = "commands::a_command_inherits_no_variable_of_this_crate_and_keeps_running_if_its_parent_is_killed";
    if std::env::var_os("COMMAND_PID").is_some() {
        let text = "echo $$ $ANYREACH_HERE > $COMMAND_PID; exec sleep 30";
        drop(CommandSource::new("sh").args(["-c", text]).fetch().await);
        return;
    }
    let directory = Directory::new();
    let pid = directory.file("pid", "");
    let mut parent = Command::new(std::env::current_exe().unwrap());
    parent.args([NAME, "--exact"]).stdout(Stdio::null());
    parent.env("COMMAND_PID", &pid).env("ANYREACH_HERE", CANARY);
    let mut parent = parent.spawn().unwrap();
    while !fs::read(&pid).unwrap().ends_with(b"\n") {
        thread::sleep(MILLI);
    }
    parent.kill().unwrap();
    parent.wait().unwrap();
    assert_keeps_running(&pid);
}

/// Asserts that the process whose number alone is in that file is not killed, and kills it.
fn assert_keeps_running(pid: &Path) {
    let pid = fs::read_to_string(pid).unwrap();
    thread::sleep(MILLI * 50);
    assert!(is_alive(pid.trim()), "process {pid}");
    drop(Command::new("kill").args(["-9", pid.trim()]).status());
}

// Callers that are cancelled, and runtimes that end.

#[tokio::test]
async fn a_fetch_that_is_dropped_kills_its_command_and_the_next_one_follows() {
    let script = Script::new("");
    script.set("sleep 1000 & echo $! >> $PIDS; sleep 1000");
    let source = Arc::new(script.source().timeout(SECOND * 30));
    for _ in 0..5 {
        let asked = Instant::now();
        assert!(timeout(MILLI * 50, source.fetch()).await.is_err());
        assert!(asked.elapsed() < MILLI * 150);
        assert_eq!(script.assert_no_process_left("dropped"), 2);
    }
    script.set(&format!("echo {}", key("v1")));
    assert_eq!(*source.fetch().await.unwrap().id(), *key_of("v1").id());
}

#[tokio::test]
async fn fetches_of_one_source_run_one_after_the_other() {
    let text = "mkdir $PIDS.lock || exit 1; sleep 0.02; rmdir $PIDS.lock; echo ak_v1.key";
    let script = Script::new(text);
    let source = script.source().timeout(SECOND * 9);
    let fetches = tokio::join!(source.fetch(), source.fetch(), source.fetch());
    assert!(fetches.0.is_ok() && fetches.1.is_ok() && fetches.2.is_ok());
}

#[test]
fn a_runtime_ends_at_once_and_takes_the_command_with_it() {
    for runtime in [multi_thread(2), current_thread()] {
        let script = Script::new(&format!("echo {}", key("v1")));
        let load = CredentialStore::load(script.source().timeout(SECOND * 30));
        let store = current_thread().block_on(load).unwrap();
        script.set("sleep 1000 & echo $! >> $PIDS; sleep 1000");
        let given_up = async { timeout(MILLI * 100, store.refresh()).await };
        runtime.block_on(given_up).unwrap_err();
        let dropped = Instant::now();
        drop(runtime);
        assert!(dropped.elapsed() < MILLI * 100, "{:?}", dropped.elapsed());
        assert_eq!(script.assert_no_process_left("runtime"), 2);
        script.set(&format!("echo {}", key("v2")));
        current_thread().block_on(store.refresh()).unwrap();
        assert_in_force(&store, "v2");
    }
}

#[test]
fn a_fetch_needs_no_runtime() {
    without_runtime(CommandSource::new("echo").arg("ak_v1.key").fetch()).unwrap();
}
