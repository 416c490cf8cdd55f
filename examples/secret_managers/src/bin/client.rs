//! A client that takes its credential from the environment, and asks for the agents until its standard input ends.
//!
//! `client ORIGIN` prints the credential's id when it begins, and when it ends what came of its requests.
#![allow(
    clippy::print_stdout,
    reason = "an example shows what it does on the terminal"
)]

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

use anyhow::Context;
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
    println!(
        "requests {} failures {} credential {}",
        counts.requests.load(Relaxed),
        counts.failures.load(Relaxed),
        store.status().credential()
    );
    Ok(())
}
