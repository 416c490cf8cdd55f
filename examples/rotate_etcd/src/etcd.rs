//! An etcd on loopback, with its data in a directory of the caller.

use std::net::TcpListener;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, bail};
use etcd_client::{Client, CompactionOptions};
use tokio::process::{Child, Command};
use tokio::time::{Instant, sleep};

use crate::KEY;

const STARTS_WITHIN: Duration = Duration::from_secs(30);

/// A running etcd and its client. Dropping it kills the process.
pub(crate) struct Etcd {
    process: Child,
    client: Client,
}

impl Etcd {
    /// Starts etcd with the data in the directory, and waits until it answers.
    pub(crate) async fn start(directory: &Path, port: u16) -> anyhow::Result<Self> {
        let (endpoint, peer) = (endpoint(port), endpoint(free_port()));
        let log = std::fs::File::options()
            .create(true)
            .append(true)
            .open(directory.join("log"))?;
        let mut process = Command::new("etcd")
            .arg("--data-dir")
            .arg(directory.join("data"))
            .args(["--listen-client-urls", &endpoint])
            .args(["--advertise-client-urls", &endpoint])
            .args(["--listen-peer-urls", &peer])
            .args(["--initial-advertise-peer-urls", &peer])
            .args(["--initial-cluster", &format!("default={peer}")])
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .kill_on_drop(true)
            .spawn()
            .context("etcd cannot be started; install it: apt-get install etcd-server")?;

        let deadline = Instant::now() + STARTS_WITHIN;
        loop {
            if let Some(status) = process.try_wait()? {
                let log = std::fs::read_to_string(directory.join("log"))?;
                bail!("etcd exited with {status}:\n{log}");
            }
            match answering(&endpoint).await {
                Ok(client) => return Ok(Self { process, client }),
                Err(error) if Instant::now() > deadline => {
                    return Err(error).context("etcd does not answer within 30 seconds");
                }
                Err(_) => {}
            }
            sleep(Duration::from_millis(50)).await;
        }
    }

    /// Writes a credential to the key of the followers, and returns its revision.
    pub(crate) async fn put(&mut self, credential: &str) -> anyhow::Result<i64> {
        let response = self.client.put(KEY, credential, None).await?;
        let header = response.header().context("a response without a header")?;
        Ok(header.revision())
    }

    /// Compacts the history before this revision.
    pub(crate) async fn compact(&mut self, revision: i64) -> anyhow::Result<()> {
        let options = CompactionOptions::new().with_physical();
        self.client.compact(revision, Some(options)).await?;
        Ok(())
    }

    /// Kills etcd, as the failure of its machine would.
    pub(crate) async fn kill(mut self) -> anyhow::Result<()> {
        self.process.kill().await?;
        Ok(())
    }
}

/// Connects, and reads once.
async fn answering(endpoint: &str) -> anyhow::Result<Client> {
    let mut client = Client::connect([endpoint], None).await?;
    client.get(KEY, None).await?;
    Ok(client)
}

pub(crate) fn endpoint(port: u16) -> String {
    format!("http://127.0.0.1:{port}")
}

/// Returns a port below those of outgoing connections, so that it stays free while etcd is down.
pub(crate) fn free_port() -> u16 {
    loop {
        let port = fastrand::u16(20_000..32_000);
        if TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
}
