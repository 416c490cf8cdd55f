//! Starts a secret manager, a fake Anyreach and the program `client`, and rotates the credential during its requests.
//!
//! ```text
//! cargo run -p secret_managers -- MANAGER [ROTATIONS]      openbao, openbao-api, pass or aws; 6 rotations
//! ```
#![allow(clippy::print_stdout, reason = "an example prints its results")]

use anyhow::{Context, bail};
use bytes::Bytes;
use http::Request;
use http_body_util::{BodyExt, Empty};
use hyper_util::client::legacy::Client;
use hyper_util::rt::TokioExecutor;
use secret_managers::manager::Manager;
use secret_managers::rotation::{by_closure, by_command};
use tower_anyreach::{Credential, CredentialSource};

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let mut arguments = std::env::args().skip(1);
    let name = arguments.next().unwrap_or_default();
    let rotations = arguments
        .next()
        .map_or(Ok(6), |rotations| rotations.parse());
    let rotations = rotations.context("the number of rotations is not a number")?;
    let client = std::env::current_exe()?.with_file_name("client");
    match &*name {
        "openbao" => by_command(&Manager::openbao().await?, rotations, &client).await?,
        "pass" => by_command(&Manager::pass().await?, rotations, &client).await?,
        "aws" => by_command(&Manager::aws().await?, rotations, &client).await?,
        "openbao-api" => {
            let manager = Manager::openbao().await?;
            let address = &manager.environment[0].1;
            by_closure(&manager, rotations, openbao_api(address)).await?
        }
        _ => bail!("usage: secret_managers openbao|openbao-api|pass|aws [ROTATIONS]"),
    };
    println!("every request succeeded");
    Ok(())
}

/// Returns a source that reads from version 2 of OpenBao's key-value store, over its HTTP API.
fn openbao_api(address: &str) -> impl CredentialSource + use<> {
    let http = Client::builder(TokioExecutor::new()).build_http::<Empty<Bytes>>();
    let uri = format!("{address}/v1/secret/data/anyreach");
    move || {
        let (http, uri) = (http.clone(), uri.clone());
        async move {
            let request = Request::get(uri)
                .header("x-vault-token", "root")
                .body(Empty::new())?;
            let body = http
                .request(request)
                .await?
                .into_body()
                .collect()
                .await?
                .to_bytes();
            let secret: serde_json::Value = serde_json::from_slice(&body)?;
            let token = secret["data"]["data"]["token"].as_str();
            Ok(Credential::parse(
                token.ok_or("OpenBao has no such secret")?,
            )?)
        }
    }
}
