//! The workload. `CredentialStore::from_env` loads its credential, so it has no code for a secret manager.

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

/// The result of a workload.
#[derive(Debug, Default)]
pub struct Counts {
    /// All requests.
    pub requests: AtomicU64,
    /// Requests that ended with an error, or without a success.
    pub failures: AtomicU64,
}

/// Lists the agents until `stop` is set.
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
                    // The first few are enough to see the cause.
                    if counts.failures.fetch_add(1, Relaxed) < 3 {
                        println!("FAILED: {error:#}");
                    }
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
    // A connection is reused only after its response was read.
    response.into_body().collect().await?;
    Ok(())
}
