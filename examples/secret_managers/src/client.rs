//! The workload: it takes its credential from wherever the environment says, and does not know from where.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use anyhow::ensure;
use bytes::Bytes;
use http::{Request, Uri};
use http_body_util::{BodyExt, Empty};
use hyper_util::client::legacy::{Client, connect::HttpConnector};
use hyper_util::rt::TokioExecutor;
use tokio::task::JoinSet;
use tokio::time::sleep;
use tower::retry::Retry;
use tower::{Service, ServiceBuilder, ServiceExt};
use tower_anyreach::retry::RefreshPolicy;
use tower_anyreach::{AnyreachAuth, AnyreachAuthLayer, CredentialStore, Origin};

type Authenticated = Retry<RefreshPolicy, AnyreachAuth<Client<HttpConnector, Empty<Bytes>>>>;

const WORKERS: usize = 8;

/// What came of a workload.
#[derive(Debug, Default)]
pub struct Counts {
    /// Requests that were sent.
    pub requests: AtomicU64,
    /// Those that ended in an error, or not in a success.
    pub failures: AtomicU64,
}

/// Asks for the agents again and again, until `stop` is set.
pub async fn work(
    store: CredentialStore,
    origin: Origin,
    stop: Arc<AtomicBool>,
) -> anyhow::Result<Arc<Counts>> {
    let uri = origin.uri("/core/agents")?;
    let client: Authenticated = ServiceBuilder::new()
        .retry(RefreshPolicy::new())
        .layer(AnyreachAuthLayer::new(store).origin(origin))
        .service(Client::builder(TokioExecutor::new()).build_http());
    let counts = Arc::new(Counts::default());
    let mut workers = JoinSet::new();
    for _ in 0..WORKERS {
        let (mut client, uri) = (client.clone(), uri.clone());
        let (counts, stop) = (Arc::clone(&counts), Arc::clone(&stop));
        workers.spawn(async move {
            while !stop.load(Relaxed) {
                if let Err(error) = ask(&mut client, &uri).await {
                    counts.failures.fetch_add(1, Relaxed);
                    println!("FAILED: {error:#}");
                }
                counts.requests.fetch_add(1, Relaxed);
                sleep(Duration::from_millis(2)).await;
            }
        });
    }
    workers.join_all().await;
    Ok(counts)
}

async fn ask(client: &mut Authenticated, uri: &Uri) -> anyhow::Result<()> {
    let request = Request::get(uri.clone()).body(Empty::new())?;
    let response = client.ready().await?.call(request).await?;
    let status = response.status();
    ensure!(status.is_success(), "{status}");
    // A connection is used again only if its answer was read.
    response.into_body().collect().await?;
    Ok(())
}
