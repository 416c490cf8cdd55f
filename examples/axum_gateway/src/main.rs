//! Serves the gateway: `axum_gateway ADDRESS [ORIGIN]`, with one token for two organizations.
//!
//! `CredentialStore::from_env` loads the token, for example from the file of a secret volume that `ANYREACH_TOKEN_FILE` names.
//! After Ctrl-C the gateway completes its in-flight requests and exits. A peer that stalls in the middle of a head holds that up.

use std::collections::HashMap;

use anyhow::Context;
use axum_gateway::{Gateway, Tenant, client, log_changes};
use tokio::net::TcpListener;
use tower_anyreach::{AnyreachAuthLayer, CredentialStore, Origin};

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    tracing_subscriber::fmt().init();
    let mut arguments = std::env::args().skip(1);
    let address = arguments.next().context("usage: ADDRESS [ORIGIN]")?;
    let origin = arguments.next().unwrap_or(Origin::default().to_string());
    let store = CredentialStore::from_env().await?;
    tokio::spawn(log_changes(store.clone()));
    let mut tenants = HashMap::new();
    for name in ["org_acme", "org_globex"] {
        let tenant = Tenant::Organization(name.parse()?);
        tenants.insert(format!("token-of-{name}"), tenant);
    }
    let auth = AnyreachAuthLayer::new(store.clone()).origin(origin.parse()?);
    let gateway = Gateway {
        client: client(auth),
        stores: vec![store],
        tenants: tenants.into(),
    };
    let server = axum::serve(TcpListener::bind(address).await?, gateway.router());
    let stop = async { drop(tokio::signal::ctrl_c().await) };
    server.with_graceful_shutdown(stop).await?;
    Ok(())
}
