//! The operator and the whole fleet on one machine: etcd, a fake Anyreach and three followers.

use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, ensure};
use http::StatusCode;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, Command};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};
use tower_anyreach::Credential;
use tower_anyreach::test_util::{FakeAnyreach, ReceivedRequest};

use crate::etcd::{self, Etcd};

const FOLLOWERS: usize = 3;
const BETWEEN_ROTATIONS: Duration = Duration::from_millis(300);
/// The time in which a follower must have a new credential, including its longest back-off.
const CONVERGES_WITHIN: Duration = Duration::from_secs(20);

pub(crate) async fn run(rotations: usize) -> anyhow::Result<()> {
    ensure!(rotations >= 2, "the outage needs two rotations");
    let directory = tempfile::tempdir()?;
    let port = etcd::free_port();
    let mut etcd = Etcd::start(directory.path(), port).await?;
    let anyreach = FakeAnyreach::builder().start().await?;
    let mut keys = Keys::new(&anyreach);
    etcd.put(keys.make()).await?;

    let mut fleet = (1..=FOLLOWERS)
        .map(|number| Follower::spawn(number, port, &anyreach))
        .collect::<anyhow::Result<Vec<_>>>()?;
    converge(&mut fleet, &keys).await?;

    // Two rotations happen during the outage, the others before and after it.
    for _ in 0..(rotations - 2) / 2 {
        rotate(&mut etcd, &mut fleet, &mut keys).await?;
    }

    println!("etcd: killed; the fleet keeps the last credential");
    etcd.kill().await?;
    sleep(2 * BETWEEN_ROTATIONS).await;
    // At another port, so that no follower sees these two rotations.
    let mut etcd = Etcd::start(directory.path(), etcd::free_port()).await?;
    etcd.put(keys.make()).await?;
    let revision = etcd.put(keys.make()).await?;
    etcd.compact(revision).await?;
    etcd.kill().await?;
    let mut etcd = Etcd::start(directory.path(), port).await?;
    println!("etcd: restarted; the fleet missed two rotations, whose history is compacted");
    converge(&mut fleet, &keys).await?;
    keys.revoke_old();

    for _ in 0..(rotations - 2).div_ceil(2) {
        rotate(&mut etcd, &mut fleet, &mut keys).await?;
    }
    // Time for requests with the last key alone.
    sleep(BETWEEN_ROTATIONS).await;

    let last = keys.id()?;
    for follower in fleet {
        let state = follower.end().await?;
        ensure!(
            state.credential == last,
            "a follower does not have the last credential"
        );
        ensure!(
            state.failures == "0",
            "a follower had {} failed requests",
            state.failures
        );
    }
    etcd.kill().await?;

    let violations = anyreach.violations();
    ensure!(violations.is_empty(), "wrong requests: {violations:?}");
    let received = anyreach.received();
    let statuses = received.iter().map(ReceivedRequest::status);
    println!(
        "followers {FOLLOWERS} rotations {rotations} outages 1 requests {} denied-and-replayed {} failures 0",
        received.len(),
        statuses.filter(|s| *s == StatusCode::UNAUTHORIZED).count(),
    );
    println!("every follower has {last}");
    Ok(())
}

/// Delivers a new key, and revokes the old one after every follower has the new one.
async fn rotate(
    etcd: &mut Etcd,
    fleet: &mut [Follower],
    keys: &mut Keys<'_>,
) -> anyhow::Result<()> {
    etcd.put(keys.make()).await?;
    converge(fleet, keys).await?;
    keys.revoke_old();
    sleep(BETWEEN_ROTATIONS).await;
    Ok(())
}

async fn converge(fleet: &mut [Follower], keys: &Keys<'_>) -> anyhow::Result<()> {
    let wanted = keys.id()?;
    for follower in fleet {
        let state = &mut follower.state;
        timeout(
            CONVERGES_WITHIN,
            state.wait_for(|state| state.credential == wanted),
        )
        .await
        .context("a follower does not have the new credential in time")?
        .context("a follower exited; its output is above")?;
    }
    Ok(())
}

/// Creates and revokes keys at the server.
struct Keys<'a> {
    anyreach: &'a FakeAnyreach,
    /// The valid keys. The last one is in use.
    good: Vec<String>,
    made: usize,
}

impl<'a> Keys<'a> {
    fn new(anyreach: &'a FakeAnyreach) -> Self {
        Self {
            anyreach,
            good: Vec::new(),
            made: 0,
        }
    }

    fn make(&mut self) -> &str {
        self.made += 1;
        let key = format!("ak_{:04}.c2VjcmV0{:016x}", self.made, fastrand::u64(..));
        self.anyreach
            .add_api_key(&*key, "org_fleet", ["agents:read"]);
        self.good.push(key);
        self.current()
    }

    fn revoke_old(&mut self) {
        let current = self.good.len().saturating_sub(1);
        for key in self.good.drain(..current) {
            self.anyreach.revoke(&key);
        }
    }

    fn current(&self) -> &str {
        self.good.last().map_or("", String::as_str)
    }

    /// Returns the id that a follower prints in place of its key.
    fn id(&self) -> anyhow::Result<String> {
        Ok(Credential::parse(self.current())?.id().to_string())
    }
}

/// The last state that a follower printed.
#[derive(Clone, Default)]
struct State {
    credential: String,
    failures: String,
}

struct Follower {
    process: Child,
    state: watch::Receiver<State>,
    reading: JoinHandle<()>,
}

impl Follower {
    fn spawn(number: usize, port: u16, anyreach: &FakeAnyreach) -> anyhow::Result<Self> {
        let origin = anyreach.uri("/").to_string();
        let mut process = Command::new(std::env::current_exe()?)
            .args([
                "follow",
                &etcd::endpoint(port),
                origin.trim_end_matches('/'),
            ])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()?;
        let stdout = process.stdout.take().context("its output is a pipe")?;
        let (said, state) = watch::channel(State::default());
        let reading = tokio::spawn(async move {
            let mut lines = BufReader::new(stdout).lines();
            while let Ok(Some(line)) = lines.next_line().await {
                println!("follower {number}: {line}");
                let words: Vec<_> = line.split(' ').collect();
                if let [
                    "version",
                    _,
                    "credential",
                    credential,
                    "requests",
                    _,
                    "failures",
                    failures,
                ] = words[..]
                {
                    let (credential, failures) = (credential.to_owned(), failures.to_owned());
                    said.send_replace(State {
                        credential,
                        failures,
                    });
                }
            }
        });
        Ok(Self {
            process,
            state,
            reading,
        })
    }

    /// Ends the follower, and returns its last state.
    async fn end(mut self) -> anyhow::Result<State> {
        drop(self.process.stdin.take());
        let status = timeout(CONVERGES_WITHIN, self.process.wait()).await??;
        ensure!(
            status.success(),
            "a follower failed with {status}; its output is above"
        );
        self.reading.await?;
        Ok(self.state.borrow().clone())
    }
}
