//! Serves the gateway: `axum_gateway ADDRESS`, with one token for two organizations.
//!
//! The token is where the environment says (`CredentialStore::from_env`), such as in a file of a secret volume that
//! `ANYREACH_TOKEN_FILE` names. Ctrl-C lets requests under way end.

use std::collections::HashMap;

use anyhow::Context;
use axum_gateway::{Gateway, Tenant};
use tokio::net::TcpListener;
use tower_anyreach::{AnyreachAuthLayer, CredentialStore, OrganizationId, Origin};

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    tracing_subscriber::fmt().init();
    let address = std::env::args()
        .nth(1)
        .context("usage: axum_gateway ADDRESS")?;
    let store = CredentialStore::from_env().await?;
    let mut tenants = HashMap::new();
    for (token, organization) in [("tenant-acme", "org_acme"), ("tenant-globex", "org_globex")] {
        let organization = OrganizationId::new(organization)?;
        tenants.insert(token.to_owned(), Tenant::Organization(organization));
    }
    let auth = AnyreachAuthLayer::new(store.clone());
    let gateway = Gateway::new(auth, Origin::default(), vec![store], tenants);
    tokio::spawn(gateway.clone().log_changes());
    axum::serve(TcpListener::bind(address).await?, gateway.router())
        .with_graceful_shutdown(async { drop(tokio::signal::ctrl_c().await) })
        .await?;
    Ok(())
}
