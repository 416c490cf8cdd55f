//! Rotates a secret volume under load. Each old token is deleted at the moment its replacement is delivered, and no request fails. A
//! token and its organization change together, by the replacement of one symbolic link, as on a Kubernetes node.
//! Runs against `FakeAnyreach`: `cargo run --example rotate_file`.
#![allow(clippy::print_stdout, reason = "an example prints its results")]

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use anyhow::ensure;
use bytes::Bytes;
use http::{Request, StatusCode, Uri};
use http_body_util::{BodyExt, Empty};
use hyper_util::client::legacy::{Client, connect::HttpConnector};
use hyper_util::rt::TokioExecutor;
use tokio::time::{Instant, interval, sleep};
use tower::retry::Retry;
use tower::{Service, ServiceBuilder, ServiceExt};
use tower_anyreach::retry::RefreshPolicy;
use tower_anyreach::source::FileSource;
use tower_anyreach::test_util::{FakeAnyreach, ReceivedRequest};
use tower_anyreach::{AnyreachAuth, AnyreachAuthLayer, CredentialStore};

type Authenticated = Retry<RefreshPolicy, AnyreachAuth<Client<HttpConnector, Empty<Bytes>>>>;

const WORKERS: usize = 8;
const LASTS: Duration = Duration::from_secs(7);
/// Rotations without overlap must be at least a second apart.
const BETWEEN_ROTATIONS: Duration = Duration::from_millis(1_500);
/// A usual interval for a volume. It is longer than the time between rotations, so a 401 reveals most of them.
const POLLED_EVERY: Duration = Duration::from_secs(10);

static REQUESTS: AtomicU64 = AtomicU64::new(0);
static FAILURES: AtomicU64 = AtomicU64::new(0);

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let anyreach = FakeAnyreach::builder().start().await?;
    let volume = SecretVolume::create()?;
    deliver(&anyreach, &volume, 0)?;

    // The client, as in a pod. It shares nothing but the volume with the task that rotates.
    let source =
        FileSource::new(volume.path("token")).organization_file(volume.path("organization"));
    let loader = CredentialStore::loader(source).refresh_every(POLLED_EVERY);
    let store = loader.load().await?;
    let client: Authenticated = ServiceBuilder::new()
        .retry(RefreshPolicy::new())
        .layer(AnyreachAuthLayer::new(store.clone()).origin(anyreach.origin()))
        .service(Client::builder(TokioExecutor::new()).build_http());

    let end = Instant::now() + LASTS;
    let workers: Vec<_> = (0..WORKERS)
        .map(|_| tokio::spawn(work(client.clone(), anyreach.uri("/core/agents"), end)))
        .collect();

    let (rotations, ()) = tokio::try_join!(rotate(&anyreach, &volume, end), async {
        let mut ticks = interval(Duration::from_millis(500));
        while Instant::now() < end {
            ticks.tick().await;
            println!("{}", counts(&store, &anyreach));
        }
        Ok(())
    })?;
    for worker in workers {
        worker.await?;
    }

    let summary = counts(&store, &anyreach);
    println!("rotated {rotations} times; {summary}");
    let violations = anyreach.violations();
    ensure!(violations.is_empty(), "wrong requests: {violations:?}");
    let failures = FAILURES.load(Relaxed);
    ensure!(failures == 0, "{failures} requests failed");
    println!("every request succeeded");
    Ok(())
}

/// Lists the agents until `end`.
async fn work(mut client: Authenticated, uri: Uri, end: Instant) {
    while Instant::now() < end {
        if let Err(error) = ask(&mut client, &uri).await {
            // The first few are enough to see the cause.
            if FAILURES.fetch_add(1, Relaxed) < 3 {
                println!("FAILED: {error:#}");
            }
        }
        REQUESTS.fetch_add(1, Relaxed);
        sleep(Duration::from_millis(2)).await;
    }
}

async fn ask(client: &mut Authenticated, uri: &Uri) -> anyhow::Result<()> {
    let request = Request::get(uri.clone()).body(Empty::new())?;
    let response = client.ready().await?.call(request).await?;
    let status = response.status();
    ensure!(status.is_success(), "{status}");
    // A connection is reused only after its response was read.
    response.into_body().collect().await?;
    Ok(())
}

/// The operator: creates a token, delivers it, and deletes the old one.
async fn rotate(
    anyreach: &FakeAnyreach,
    volume: &SecretVolume,
    end: Instant,
) -> anyhow::Result<usize> {
    let mut generation = 0;
    loop {
        sleep(BETWEEN_ROTATIONS).await;
        if Instant::now() >= end {
            return Ok(generation);
        }
        generation += 1;
        deliver(anyreach, volume, generation)?;
        anyreach.revoke(&token(generation - 1));
    }
}

/// Adds a token to the server, then delivers it. Each token is valid in one organization only, so that a token with the
/// organization of another would be denied.
fn deliver(anyreach: &FakeAnyreach, volume: &SecretVolume, generation: usize) -> io::Result<()> {
    let (token, organization) = (token(generation), format!("org_{generation}"));
    anyreach.add_personal_access_token(&*token, [(&*organization, ["agents:read"])]);
    volume.swap(generation, &token, &organization)
}

fn token(generation: usize) -> String {
    format!("pat_generation-{generation}")
}

/// A directory of symbolic links into `..data`, which is a link to the current directory.
struct SecretVolume(PathBuf);

impl SecretVolume {
    fn create() -> io::Result<Self> {
        let root = std::env::temp_dir().join(format!("rotate_file-{}", std::process::id()));
        fs::create_dir(&root)?;
        let volume = Self(root);
        symlink("..data/token", volume.path("token"))?;
        symlink("..data/organization", volume.path("organization"))?;
        Ok(volume)
    }

    fn path(&self, name: impl AsRef<Path>) -> PathBuf {
        self.0.join(name)
    }

    fn swap(&self, generation: usize, token: &str, organization: &str) -> io::Result<()> {
        let directory = self.path(format!("..{generation}"));
        fs::create_dir(&directory)?;
        fs::write(directory.join("token"), token)?;
        fs::write(directory.join("organization"), organization)?;
        symlink(directory, self.path("..data_tmp"))?;

        let before = fs::read_link(self.path("..data"));
        fs::rename(self.path("..data_tmp"), self.path("..data"))?;
        before.map_or(Ok(()), fs::remove_dir_all)
    }
}

impl Drop for SecretVolume {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

#[cfg(unix)]
use std::os::unix::fs::symlink;

#[cfg(not(unix))]
fn symlink(_: impl AsRef<Path>, _: impl AsRef<Path>) -> io::Result<()> {
    Err(io::ErrorKind::Unsupported.into())
}

fn counts(store: &CredentialStore, anyreach: &FakeAnyreach) -> String {
    let received = anyreach.received();
    let statuses = received.iter().map(ReceivedRequest::status);
    format!(
        "requests {} rotations-seen {} denied-and-replayed {} failures {}",
        REQUESTS.load(Relaxed),
        store.version() - 1,
        statuses.filter(|s| *s == StatusCode::UNAUTHORIZED).count(),
        FAILURES.load(Relaxed),
    )
}
