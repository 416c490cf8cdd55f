//! The operator: creates a key, tries it, delivers it, and deletes the old one.

use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::Duration;

use anyhow::{Context, ensure};
use bytes::Bytes;
use http::Request;
use http_body_util::Empty;
use hyper_util::client::legacy::Client;
use hyper_util::rt::TokioExecutor;
use tokio::io::{AsyncBufReadExt, BufReader, Lines};
use tokio::process::{Child, ChildStdout, Command};
use tokio::time::sleep;
use tower::{Layer, ServiceExt};
use tower_anyreach::test_util::FakeAnyreach;
use tower_anyreach::{AnyreachAuthLayer, Credential, CredentialSource, CredentialStore};

use crate::client::work;
use crate::manager::Manager;

/// Rotations without overlap must be at least a second apart.
const BETWEEN_ROTATIONS: Duration = Duration::from_millis(1_600);

/// Rotates the key while the program `client` runs, which reads its credential with the manager's command line.
///
/// Returns the last line of the client.
pub async fn by_command(
    manager: &Manager,
    rotations: usize,
    client: &std::path::Path,
) -> anyhow::Result<String> {
    let anyreach = FakeAnyreach::builder().start().await?;
    deliver(&anyreach, manager, 0).await?;
    let mut command = Command::new(client);
    command
        .env("ANYREACH_TOKEN_COMMAND", manager.command)
        .envs(manager.environment.iter().cloned());
    let (child, mut lines) = spawn(command, &anyreach)?;
    let first = lines
        .next_line()
        .await?
        .context("the client exited; its error is above")?;
    println!("{first}");
    for generation in 1..=rotations {
        rotate(&anyreach, manager, generation).await?;
    }
    sleep(BETWEEN_ROTATIONS).await;
    let summary = end(child, lines).await?;
    println!("rotated {rotations} times; {summary}");
    check(&anyreach, &summary, rotations)?;
    Ok(summary)
}

/// Rotates the key while the same workload runs in this process, with a closure as its source.
pub async fn by_closure(
    manager: &Manager,
    rotations: usize,
    source: impl CredentialSource,
) -> anyhow::Result<String> {
    let anyreach = FakeAnyreach::builder().start().await?;
    deliver(&anyreach, manager, 0).await?;
    let loader = CredentialStore::loader(source).refresh_every(Duration::from_secs(60));
    let store = loader.load().await?;
    let stop = Arc::new(AtomicBool::new(false));
    let working = tokio::spawn(work(store.clone(), anyreach.origin(), Arc::clone(&stop)));
    for generation in 1..=rotations {
        rotate(&anyreach, manager, generation).await?;
    }
    sleep(BETWEEN_ROTATIONS).await;
    stop.store(true, Relaxed);
    let counts = working.await??;
    let (requests, failures) = (counts.requests.load(Relaxed), counts.failures.load(Relaxed));
    let summary = format!(
        "requests {requests} failures {failures} credential {}",
        store.status().credential()
    );
    println!("rotated {rotations} times; {summary}");
    check(&anyreach, &summary, rotations)?;
    Ok(summary)
}

/// Starts the client. It first prints the id of its credential.
pub fn spawn(
    mut client: Command,
    anyreach: &FakeAnyreach,
) -> anyhow::Result<(Child, Lines<BufReader<ChildStdout>>)> {
    let mut child = client
        .arg(anyreach.origin().to_string())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .context(
            "the program `client` cannot be started; build it: cargo build -p secret_managers",
        )?;
    let stdout = child.stdout.take().context("a pipe")?;
    Ok((child, BufReader::new(stdout).lines()))
}

/// Ends the client, and returns its last line.
pub async fn end(
    mut child: Child,
    mut lines: Lines<BufReader<ChildStdout>>,
) -> anyhow::Result<String> {
    drop(child.stdin.take());
    let mut last = String::new();
    while let Some(line) = lines.next_line().await? {
        if line.starts_with("FAILED") {
            println!("{line}");
        }
        last = line;
    }
    let status = child.wait().await?;
    ensure!(status.success(), "the client failed with {status}: {last}");
    Ok(last)
}

/// Creates a key, tries it, delivers it, and deletes the old one, without an overlap.
async fn rotate(
    anyreach: &FakeAnyreach,
    manager: &Manager,
    generation: usize,
) -> anyhow::Result<()> {
    sleep(BETWEEN_ROTATIONS).await;
    deliver(anyreach, manager, generation).await?;
    anyreach.revoke(&token(generation - 1));
    Ok(())
}

/// Creates a key, tries it, and delivers it. A server may accept a new key only after some time.
async fn deliver(
    anyreach: &FakeAnyreach,
    manager: &Manager,
    generation: usize,
) -> anyhow::Result<()> {
    let token = token(generation);
    anyreach.add_api_key(&*token, "org_acme", ["agents:read"]);
    let http = Client::builder(TokioExecutor::new()).build_http();
    let client = AnyreachAuthLayer::new(Credential::parse(&*token)?)
        .origin(anyreach.origin())
        .layer(http);
    let probe = Request::get(anyreach.uri("/core/agents")).body(Empty::<Bytes>::new())?;
    let response = client.oneshot(probe).await;
    let status = response.context("trying the new key at Anyreach")?.status();
    ensure!(
        status.is_success(),
        "trying the new key at Anyreach: {status}"
    );
    manager.write(&token).await
}

fn token(generation: usize) -> String {
    format!("ak_generation{generation}.c2VjcmV0")
}

fn check(anyreach: &FakeAnyreach, summary: &str, rotations: usize) -> anyhow::Result<()> {
    let violations = anyreach.violations();
    ensure!(violations.is_empty(), "wrong requests: {violations:?}");
    ensure!(summary.contains(" failures 0 "), "requests failed");
    let newest = Credential::parse(token(rotations))?;
    ensure!(
        summary.ends_with(&newest.id().to_string()),
        "the newest key is not in force"
    );
    Ok(())
}
