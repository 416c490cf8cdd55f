//! Starts a secret manager for one run, on loopback or in a temporary directory.

use std::net::TcpListener;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, ensure};
use tempfile::TempDir;
use tokio::io::AsyncWriteExt;
use tokio::process::{Child, Command};
use tokio::time::{Instant, sleep};

const STARTS_WITHIN: Duration = Duration::from_secs(30);

/// A running secret manager, with the commands that read and replace its secret. Dropping it ends its process.
#[derive(Debug)]
pub struct Manager {
    /// The command line that prints the secret, for `ANYREACH_TOKEN_COMMAND`.
    pub command: &'static str,
    /// The variables that its commands need.
    pub environment: Vec<(&'static str, String)>,
    /// The command line that replaces the secret with its standard input.
    replace: &'static [&'static str],
    _directory: TempDir,
    _server: Option<Child>,
}

impl Manager {
    /// Starts OpenBao in its development mode: in memory, with a known root token.
    pub async fn openbao() -> anyhow::Result<Self> {
        let directory = tempfile::tempdir()?;
        let address = format!("127.0.0.1:{}", free_port()?);
        let mut server = Command::new("bao");
        server
            .args([
                "server",
                "-dev",
                "-dev-root-token-id=root",
                "-dev-no-store-token",
            ])
            .arg(format!("-dev-listen-address={address}"))
            .env("HOME", directory.path());
        let install = "pip install --require-hashes --no-deps -r requirements.txt";
        let server = start(server, install, &directory.path().join("log"), &address).await?;
        let environment = vec![
            ("BAO_ADDR", format!("http://{address}")),
            ("BAO_TOKEN", "root".to_owned()),
            ("HOME", directory.path().display().to_string()),
        ];
        Ok(Self {
            command: "bao kv get -field=token secret/anyreach",
            environment,
            replace: &["bao", "kv", "put", "secret/anyreach", "token=-"],
            _directory: directory,
            _server: Some(server),
        })
    }

    /// Initializes pass, the standard Unix password manager, with a GnuPG key without a passphrase.
    pub async fn pass() -> anyhow::Result<Self> {
        let directory = tempfile::tempdir()?;
        let home = directory.path().display().to_string();
        let manager = Self {
            command: "pass show anyreach/token",
            environment: vec![("HOME", home)],
            replace: &["pass", "insert", "--multiline", "--force", "anyreach/token"],
            _directory: directory,
            _server: None,
        };
        let generate = "gpg --batch --passphrase= --quick-generate-key anyreach@example.com";
        manager
            .run(&generate.split(' ').collect::<Vec<_>>(), "")
            .await?;
        manager
            .run(&["pass", "init", "anyreach@example.com"], "")
            .await?;
        Ok(manager)
    }

    /// Starts moto, an emulator of AWS. Its secret is read with Amazon's own command.
    pub async fn aws() -> anyhow::Result<Self> {
        let directory = tempfile::tempdir()?;
        let address = format!("127.0.0.1:{}", free_port()?);
        let (host, port) = address.split_once(':').context("an address")?;
        let mut server = Command::new("moto_server");
        server.args(["--host", host, "--port", port]);
        let install = "pip install -r requirements-aws.txt";
        let server = start(server, install, &directory.path().join("log"), &address).await?;
        let environment = vec![
            ("AWS_ENDPOINT_URL", format!("http://{address}")),
            ("AWS_DEFAULT_REGION", "us-east-1".to_owned()),
            ("AWS_ACCESS_KEY_ID", "emulated".to_owned()),
            ("AWS_SECRET_ACCESS_KEY", "emulated".to_owned()),
            ("HOME", directory.path().display().to_string()),
        ];
        let manager = Self {
            command: "aws secretsmanager get-secret-value --secret-id anyreach --query SecretString --output text",
            environment,
            replace: &[
                "aws",
                "secretsmanager",
                "put-secret-value",
                "--secret-id",
                "anyreach",
                "--secret-string",
                "file:///dev/stdin",
            ],
            _directory: directory,
            _server: Some(server),
        };
        let create = [
            "aws",
            "secretsmanager",
            "create-secret",
            "--name",
            "anyreach",
        ];
        manager.run(&create, "").await?;
        Ok(manager)
    }

    /// Replaces the secret.
    pub async fn write(&self, token: &str) -> anyhow::Result<()> {
        self.run(self.replace, token).await
    }

    async fn run(&self, command: &[&str], input: &str) -> anyhow::Result<()> {
        let (program, arguments) = command.split_first().context("a program")?;
        let mut child = Command::new(program)
            .args(arguments)
            .envs(self.environment.iter().cloned())
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .with_context(|| format!("`{program}` cannot be started"))?;
        let mut stdin = child.stdin.take().context("a pipe")?;
        stdin.write_all(input.as_bytes()).await?;
        drop(stdin);
        let output = child.wait_with_output().await?;
        let error = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "{command:?} failed: {error}");
        Ok(())
    }
}

/// Starts a server that the command `install` installs, and waits until it listens.
async fn start(
    mut server: Command,
    install: &str,
    log: &Path,
    address: &str,
) -> anyhow::Result<Child> {
    let log = std::fs::File::create(log)?;
    let program = server.as_std().get_program().display().to_string();
    let child = server
        .stdin(Stdio::null())
        .stdout(log.try_clone()?)
        .stderr(log)
        .kill_on_drop(true)
        .spawn()
        .with_context(|| format!("`{program}` cannot be started; install it: {install}"))?;
    let deadline = Instant::now() + STARTS_WITHIN;
    while let Err(error) = tokio::net::TcpStream::connect(address).await {
        if Instant::now() > deadline {
            return Err(error).with_context(|| {
                format!("`{program}` was started but cannot be reached at {address}")
            });
        }
        sleep(Duration::from_millis(50)).await;
    }
    Ok(child)
}

fn free_port() -> anyhow::Result<u16> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    Ok(listener.local_addr()?.port())
}
