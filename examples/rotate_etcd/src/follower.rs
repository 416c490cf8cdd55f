//! One process of the fleet. Its credential follows a key in etcd, and its requests never wait for etcd.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use anyhow::{Context, bail, ensure};
use bytes::Bytes;
use etcd_client::{Client, ConnectOptions, Event, KeyValue, ResponseHeader, WatchOptions};
use http::{Request, Uri};
use http_body_util::{BodyExt, Empty};
use hyper_util::client::legacy::{self, connect::HttpConnector};
use hyper_util::rt::TokioExecutor;
use tokio::io::AsyncReadExt;
use tokio::time::{interval, sleep};
use tower::retry::Retry;
use tower::{Service, ServiceBuilder, ServiceExt};
use tower_anyreach::retry::RefreshPolicy;
use tower_anyreach::{AnyreachAuth, AnyreachAuthLayer, Credential, CredentialStore};

use crate::KEY;

type Authenticated =
    Retry<RefreshPolicy, AnyreachAuth<legacy::Client<HttpConnector, Empty<Bytes>>>>;

const WORKERS: usize = 4;
const SHORTEST_BACK_OFF: Duration = Duration::from_millis(100);
const LONGEST_BACK_OFF: Duration = Duration::from_secs(2);

static REQUESTS: AtomicU64 = AtomicU64::new(0);
static FAILURES: AtomicU64 = AtomicU64::new(0);

/// Sends requests until standard input ends.
pub(crate) async fn run(etcd: &str, origin: &str) -> anyhow::Result<()> {
    let (credential, revision) = read(&mut connect(etcd).await?).await?;
    let store = CredentialStore::new(credential);
    let client: Authenticated = ServiceBuilder::new()
        // The store has no source, so a denied request is replayed only if `follow` has rotated the credential meanwhile.
        .retry(RefreshPolicy::new())
        .layer(AnyreachAuthLayer::new(store.clone()).origin(origin.parse()?))
        .service(legacy::Client::builder(TokioExecutor::new()).build_http());

    let uri: Uri = format!("{origin}/core/agents").parse()?;
    let workers: Vec<_> = (0..WORKERS)
        .map(|_| tokio::spawn(work(client.clone(), uri.clone())))
        .collect();
    let mut stdin = tokio::io::stdin();
    tokio::select! {
        () = follow(etcd, &store, revision) => {}
        () = report(&store) => {}
        _ = stdin.read_u8() => {}
    }
    workers.iter().for_each(tokio::task::JoinHandle::abort);

    print(&store);
    let failures = FAILURES.load(Relaxed);
    ensure!(failures == 0, "{failures} requests failed");
    Ok(())
}

/// Follows the key until it is dropped. While etcd is down, the last credential stays in force.
async fn follow(etcd: &str, store: &CredentialStore, mut revision: i64) {
    let mut back_off = SHORTEST_BACK_OFF;
    loop {
        let before = revision;
        let Err(error) = watch(etcd, store, &mut revision).await;
        println!(
            "the watch broke after revision {revision}: {}",
            brief(&error)
        );
        if revision != before {
            back_off = SHORTEST_BACK_OFF;
        }
        // With jitter, so that the fleet does not reconnect at once.
        sleep(back_off.mul_f64(0.5 + fastrand::f64() / 2.0)).await;
        back_off = (back_off * 2).min(LONGEST_BACK_OFF);
    }
}

/// Watches the key from the revision after `revision`, which it updates, until the watch fails.
async fn watch(
    etcd: &str,
    store: &CredentialStore,
    revision: &mut i64,
) -> anyhow::Result<std::convert::Infallible> {
    let mut client = connect(etcd).await?;
    let options = WatchOptions::new()
        .with_start_revision(*revision + 1)
        // Updates the revision while the key does not change.
        .with_progress_notify();
    let mut events = client.watch(KEY, Some(options)).await?;
    while let Some(response) = events.message().await? {
        let now = response
            .header()
            .map_or(*revision, ResponseHeader::revision);
        if response.compact_revision() > 0 || now < *revision {
            // The missed history is compacted, or etcd was restored from a backup. Only the current value matters.
            let (credential, read_at) = read(&mut client).await?;
            store.rotate(credential);
            *revision = read_at;
            bail!("the history is compacted, the key was read again");
        }
        ensure!(!response.canceled(), "etcd canceled the watch");
        // Of several values in one response only the last matters.
        if let Some(entry) = response.events().last().and_then(Event::kv) {
            // A deleted key has no value.
            match parse(entry) {
                Ok(credential) => {
                    store.rotate(credential);
                }
                Err(error) => println!("kept the last credential: {error:#}"),
            }
            *revision = entry.mod_revision();
        } else if !response.created() {
            // A progress notification: no event up to this revision.
            *revision = now;
        }
    }
    bail!("etcd ended the watch")
}

/// Returns the kind of a failure. The texts of etcd's client repeat whole chains of errors.
fn brief(error: &anyhow::Error) -> String {
    match error.downcast_ref() {
        Some(etcd_client::Error::GRpcStatus(status)) => status.code().to_string(),
        _ => error.to_string(),
    }
}

async fn connect(etcd: &str) -> anyhow::Result<Client> {
    let options = ConnectOptions::new()
        .with_connect_timeout(Duration::from_secs(2))
        // Detects a connection that is lost without an error.
        .with_keep_alive(Duration::from_secs(5), Duration::from_secs(2))
        .with_keep_alive_while_idle(true)
        // A member that is cut off from the others fails the watch.
        .with_require_leader(true);
    Ok(Client::connect([etcd], Some(options)).await?)
}

/// Reads the credential, and its revision.
async fn read(client: &mut Client) -> anyhow::Result<(Credential, i64)> {
    let response = client.get(KEY, None).await?;
    let entry = response.kvs().first().context("etcd has no credential")?;
    let header = response.header().context("a response without a header")?;
    Ok((parse(entry)?, header.revision()))
}

/// Parses the credential. No error holds a part of the value.
fn parse(entry: &KeyValue) -> anyhow::Result<Credential> {
    Ok(Credential::parse(entry.value_str()?)?)
}

async fn work(mut client: Authenticated, uri: Uri) {
    loop {
        if let Err(error) = ask(&mut client, &uri).await {
            // The first few are enough to see the cause.
            if FAILURES.fetch_add(1, Relaxed) < 3 {
                println!("FAILED: {error:#}");
            }
        }
        REQUESTS.fetch_add(1, Relaxed);
        sleep(Duration::from_millis(5)).await;
    }
}

async fn ask(client: &mut Authenticated, uri: &Uri) -> anyhow::Result<()> {
    let request = Request::get(uri.clone()).body(Empty::new())?;
    let response = client.ready().await?.call(request).await?;
    let status = response.status();
    ensure!(status.is_success(), "{status}");
    response.into_body().collect().await?;
    Ok(())
}

/// Prints every new version within 20 milliseconds, and the counts every half second.
async fn report(store: &CredentialStore) {
    let mut ticks = interval(Duration::from_millis(20));
    let mut printed = (0, 0);
    for tick in 0_u64.. {
        ticks.tick().await;
        if printed != (store.version(), tick / 25) {
            printed = (store.version(), tick / 25);
            print(store);
        }
    }
}

fn print(store: &CredentialStore) {
    println!(
        "version {} credential {} requests {} failures {}",
        store.version(),
        store.credential().id(),
        REQUESTS.load(Relaxed),
        FAILURES.load(Relaxed),
    );
}
