//! One process of the fleet: its credential follows a key in etcd, and its requests never wait for etcd.

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

/// Makes requests until standard input ends.
pub(crate) async fn run(etcd: &str, origin: &str) -> anyhow::Result<()> {
    let (credential, revision) = read(&mut connect(etcd).await?).await?;
    let store = CredentialStore::new(credential);
    let client: Authenticated = ServiceBuilder::new()
        // The store has no source: what was refused is replayed if another credential has come meanwhile.
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

/// Follows the key for ever. While etcd is away, the last good credential stays in force.
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
        // Jitter, so that a fleet does not come back in step.
        sleep(back_off.mul_f64(0.5 + fastrand::f64() / 2.0)).await;
        back_off = (back_off * 2).min(LONGEST_BACK_OFF);
    }
}

/// Watches the key from the revision after `revision`, which it keeps up to date, until something breaks.
async fn watch(
    etcd: &str,
    store: &CredentialStore,
    revision: &mut i64,
) -> anyhow::Result<std::convert::Infallible> {
    let mut client = connect(etcd).await?;
    let options = WatchOptions::new()
        .with_start_revision(*revision + 1)
        // Keeps the revision fresh while nobody touches the key.
        .with_progress_notify();
    let mut events = client.watch(KEY, Some(options)).await?;
    while let Some(response) = events.message().await? {
        let now = response
            .header()
            .map_or(*revision, ResponseHeader::revision);
        if response.compact_revision() > 0 || now < *revision {
            // What was missed is no longer to be had, or etcd is back from a backup. What matters is how it ended.
            let (credential, read_at) = read(&mut client).await?;
            store.rotate(credential);
            *revision = read_at;
            bail!("its history is gone, the key was read again");
        }
        ensure!(!response.canceled(), "etcd canceled it");
        // Of several values that come at once only the last is of interest.
        if let Some(entry) = response.events().last().and_then(Event::kv) {
            // A deleted key has no value.
            match parse(entry) {
                Ok(credential) => {
                    store.rotate(credential);
                }
                Err(error) => println!("kept the last good credential: {error:#}"),
            }
            *revision = entry.mod_revision();
        } else if !response.created() {
            // A sign of progress: nothing has happened up to here.
            *revision = now;
        }
    }
    bail!("etcd ended it")
}

/// etcd's client quotes whole chains; what kind of failure it was will do.
fn brief(error: &anyhow::Error) -> String {
    match error.downcast_ref() {
        Some(etcd_client::Error::GRpcStatus(status)) => status.code().to_string(),
        _ => error.to_string(),
    }
}

async fn connect(etcd: &str) -> anyhow::Result<Client> {
    let options = ConnectOptions::new()
        .with_connect_timeout(Duration::from_secs(2))
        // A connection that is dead without a word is noticed.
        .with_keep_alive(Duration::from_secs(5), Duration::from_secs(2))
        .with_keep_alive_while_idle(true)
        // A member that is cut off from the others says so, instead of being silent.
        .with_require_leader(true);
    Ok(Client::connect([etcd], Some(options)).await?)
}

/// Reads the credential, and at which revision that was.
async fn read(client: &mut Client) -> anyhow::Result<(Credential, i64)> {
    let response = client.get(KEY, None).await?;
    let entry = response.kvs().first().context("no credential in etcd")?;
    let header = response.header().context("an answer without a header")?;
    Ok((parse(entry)?, header.revision()))
}

/// None of the errors holds any of the value.
fn parse(entry: &KeyValue) -> anyhow::Result<Credential> {
    Ok(Credential::parse(entry.value_str()?)?)
}

async fn work(mut client: Authenticated, uri: Uri) {
    loop {
        if let Err(error) = ask(&mut client, &uri).await {
            FAILURES.fetch_add(1, Relaxed);
            println!("FAILED: {error:#}");
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

/// Prints every new version as soon as it is in force, and a sign of life each half second.
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
