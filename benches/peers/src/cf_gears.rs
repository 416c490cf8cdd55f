//! cf-gears-toolkit-auth: a layer that refreshes its token after a 401.
//!
//! It has no second header, so that tower-http sets that one, and it requires an inner service that fails with its own error
//! type.

use std::convert::Infallible;
use std::io::{Read, Write};
use std::mem;
use std::net::TcpListener;
use std::thread;

use toolkit_auth::{
    BearerAuthAutoRefreshLayer, OAuthClientConfig, SecretString, TokenError, TokenProvider,
};
use toolkit_http::{HttpClientConfig, HttpError};
use tower::ServiceBuilder;
use tower_http::set_header::SetRequestHeaderLayer;

use crate::harness::{BOTH, Contender, Inner, TOKEN, X_ANYREACH_ORG, organization};

pub(crate) fn contender() -> Contender {
    Contender::new("cf_gears", BOTH, || {
        let provider = token_provider().expect("a token was fetched");
        let organization = organization();
        ServiceBuilder::new()
            .layer(BearerAuthAutoRefreshLayer::new(provider))
            .layer(SetRequestHeaderLayer::overriding(
                X_ANYREACH_ORG.clone(),
                organization,
            ))
            .map_err(|never: Infallible| -> HttpError { match never {} })
            .service(Inner::default())
    })
}

/// Returns a provider that holds a token. It accepts one only from a token endpoint, so that a server on the loopback
/// interface issues one that is valid for ten hours; no request that is measured leaves the process.
fn token_provider() -> Result<TokenProvider, TokenError> {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = listener.local_addr().expect("a bound socket");
    let server = thread::spawn(move || -> std::io::Result<_> {
        let (mut connection, _) = listener.accept()?;
        let _ = connection.read(&mut [0; 4096])?;
        let body = format!(r#"{{"access_token":"{TOKEN}","expires_in":36000}}"#);
        let length = body.len();
        write!(
            connection,
            "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {length}\r\n\r\n{body}"
        )?;
        // Returned rather than dropped: closing with unread input would reset the connection.
        Ok(connection)
    });
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("a runtime");
    let provider = runtime.block_on(async {
        let provider = TokenProvider::new(OAuthClientConfig {
            token_endpoint: format!("http://{address}/token").parse().ok(),
            client_id: "peers".to_owned(),
            client_secret: SecretString::new("c2VjcmV0"),
            http_config: Some(HttpClientConfig::for_testing()),
            ..OAuthClientConfig::default()
        })?;
        provider.get().await?;
        Ok(provider)
    });
    drop(server.join());
    // Dropping the runtime would shut the provider down. As nothing runs it any more, no refresh disturbs a count.
    mem::forget(runtime);
    provider
}
