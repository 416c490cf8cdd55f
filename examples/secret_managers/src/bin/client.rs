//! A client that loads its credential with `CredentialStore::from_env`, and lists the agents until its standard input ends.
//!
//! `client ORIGIN` first prints the id of its credential, and at the end the counts of its requests. It fails if one of them failed.
#![allow(clippy::print_stdout, reason = "an example prints its results")]

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

use anyhow::{Context, ensure};
use secret_managers::client::work;
use tokio::io::{AsyncReadExt, stdin};
use tower_anyreach::{CredentialStore, Origin};

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let origin = std::env::args().nth(1).context("usage: client ORIGIN")?;
    let origin = Origin::insecure(&origin)?;
    let store = CredentialStore::from_env().await?;
    println!("credential {}", store.status().credential());

    let stop = Arc::new(AtomicBool::new(false));
    let working = tokio::spawn(work(store.clone(), origin, Arc::clone(&stop)));
    stdin().read_to_end(&mut Vec::new()).await?;
    stop.store(true, Relaxed);
    let counts = working.await??;
    let failures = counts.failures.load(Relaxed);
    println!(
        "requests {} failures {failures} credential {}",
        counts.requests.load(Relaxed),
        store.status().credential()
    );
    ensure!(failures == 0, "{failures} requests failed");
    Ok(())
}
