//! hyper with rustls below the layer, over HTTP/2 and HTTP/1.1. One connection carries every request, including one that is denied.
//! `FakeAnyreach` runs behind a TLS terminator on loopback, with a generated certificate. A client that does not trust this
//! certificate sends no request: `cargo run -p hyper_client`.
#![allow(clippy::print_stdout, reason = "an example prints its results")]

use std::net::Ipv4Addr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::time::Duration;

use anyhow::{Context, ensure};
use bytes::Bytes;
use http::{Request, StatusCode, Uri, Version};
use http_body_util::{BodyExt, Empty};
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::{Client, connect::HttpConnector};
use hyper_util::rt::TokioExecutor;
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::crypto::{CryptoProvider, ring};
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::rustls::{ClientConfig, RootCertStore, ServerConfig};
use tower::{Layer, ServiceExt};
use tower_anyreach::test_util::FakeAnyreach;
use tower_anyreach::{
    AnyreachAuth, AnyreachAuthLayer, CredentialStore, Error, OrganizationApiKey, Origin,
};

type Connector = HttpsConnector<HttpConnector>;
type Authenticated = AnyreachAuth<Client<Connector, Empty<Bytes>>>;

#[tokio::main(flavor = "current_thread")]
async fn main() -> anyhow::Result<()> {
    let anyreach = FakeAnyreach::builder()
        .api_key("ak_new.secret", "org_acme", ["agents:read"])
        .start()
        .await?;
    let front = TlsFront::start(&anyreach).await?;
    println!("FakeAnyreach behind TLS at {}.", front.origin);

    println!("\nHTTP/2, negotiated in the TLS handshake:");
    let tls = trusting(front.certificate.clone())?;
    let connector = HttpsConnectorBuilder::new()
        .with_tls_config(tls.clone())
        .https_only()
        .enable_http2()
        .build();
    let mut all_good = a_rotation(connector, Version::HTTP_2, &front, &anyreach).await?;

    // The layer reads the body of a denial, and `ask` that of any other response.
    println!("\nHTTP/1.1, which reuses a connection only after the last response was read:");
    let connector = HttpsConnectorBuilder::new()
        .with_tls_config(tls)
        .https_only()
        .enable_http1()
        .build();
    all_good &= a_rotation(connector, Version::HTTP_11, &front, &anyreach).await?;

    println!("\nA client that trusts the public authorities only, as for the real API:");
    let connector = HttpsConnectorBuilder::new()
        .with_provider_and_webpki_roots(provider())?
        .https_only()
        .enable_all_versions()
        .build();
    all_good &= an_unknown_certificate(connector, &front, &anyreach).await?;

    ensure!(all_good, "at least one row above is not as expected");
    Ok(())
}

/// Revokes and replaces a key, over one connection.
async fn a_rotation(
    connector: Connector,
    version: Version,
    front: &TlsFront,
    anyreach: &FakeAnyreach,
) -> anyhow::Result<bool> {
    let connections_before = front.accepted();
    anyreach.add_api_key("ak_old.secret", "org_acme", ["agents:read"]);
    let store = CredentialStore::new(OrganizationApiKey::new("ak_old.secret")?);
    let client = client(connector, store.clone(), front);
    let is_good =
        |outcome: &Outcome| matches!(outcome, Ok(answer) if *answer == (StatusCode::OK, version));

    let outcome = ask(client.clone(), front.uri("/core/agents")?).await;
    let mut good = row("a good key", &shown(&outcome), is_good(&outcome));

    anyreach.revoke("ak_old.secret");
    let outcome = ask(client.clone(), front.uri("/core/agents")?).await;
    let refused = matches!(outcome, Err(Error::Unauthorized(_)));
    good &= row("a revoked key", &shown(&outcome), refused);

    store.rotate(OrganizationApiKey::new("ak_new.secret")?);
    let outcome = ask(client.clone(), front.uri("/core/agents")?).await;
    good &= row("its replacement", &shown(&outcome), is_good(&outcome));

    if version == Version::HTTP_2 {
        let mut calls = tokio::task::JoinSet::new();
        for _ in 0..16 {
            calls.spawn(ask(client.clone(), front.uri("/core/agents")?));
        }
        let outcomes = calls.join_all().await;
        let answered = outcomes.iter().filter(|outcome| is_good(outcome)).count();
        let saw = format!("{answered} of 16 answered");
        good &= row("calls at once", &saw, answered == 16);
    }

    let connections = front.accepted() - connections_before;
    good &= row("connections", &connections.to_string(), connections == 1);
    Ok(good)
}

/// The handshake fails before a request is written.
async fn an_unknown_certificate(
    connector: Connector,
    front: &TlsFront,
    anyreach: &FakeAnyreach,
) -> anyhow::Result<bool> {
    let requests_before = anyreach.received().len();
    let key = OrganizationApiKey::new("ak_new.secret")?;
    let client = client(connector, key, front);

    let outcome = ask(client, front.uri("/core/agents")?).await;
    let saw = shown(&outcome);
    let failed = matches!(outcome, Err(Error::Service(_))) && saw.contains("certificate");
    let good = row("unknown certificate", &saw, failed);

    let arrived = anyreach.received().len() - requests_before;
    Ok(good & row("requests received", &arrived.to_string(), arrived == 0))
}

fn client(
    connector: Connector,
    credentials: impl Into<CredentialStore>,
    front: &TlsFront,
) -> Authenticated {
    AnyreachAuthLayer::new(credentials)
        // The default is https://api.anyreach.ai.
        .origin(front.origin.clone())
        .layer(Client::builder(TokioExecutor::new()).build(connector))
}

/// Trusts this certificate alone. For the real API, use `with_webpki_roots` of the connector.
fn trusting(certificate: CertificateDer<'static>) -> anyhow::Result<ClientConfig> {
    let mut roots = RootCertStore::empty();
    roots.add(certificate)?;
    let config = ClientConfig::builder_with_provider(provider().into())
        .with_safe_default_protocol_versions()?
        .with_root_certificates(roots)
        .with_no_client_auth();
    Ok(config)
}

/// rustls panics without an explicit provider if the dependencies of a program enable two of them.
fn provider() -> CryptoProvider {
    ring::default_provider()
}

type Outcome = Result<(StatusCode, Version), Error>;

/// Sends a request, and reads the whole response.
async fn ask(client: Authenticated, uri: Uri) -> Outcome {
    // hyper returns a connection to its pool shortly after the response has ended. An earlier HTTP/1.1 call opens another one.
    tokio::time::sleep(Duration::from_millis(20)).await;

    let mut request = Request::new(Empty::new());
    *request.uri_mut() = uri;
    let (head, body) = client.oneshot(request).await?.into_parts();
    let body = body.collect().await;
    body.map_err(|error| Error::Service(error.into()))?;
    Ok((head.status, head.version))
}

fn shown(outcome: &Outcome) -> String {
    match outcome {
        Ok((status, version)) => format!("{} over {version:?}", status.as_u16()),
        Err(Error::Unauthorized(denial) | Error::Forbidden(denial)) => {
            format!("{}, {}", denial.status().as_u16(), denial.reason())
        }
        Err(error) => with_causes(error),
    }
}

/// Formats an error with its causes in one line.
fn with_causes(error: &(dyn std::error::Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        text = format!("{text}: {cause}");
        next = cause.source();
    }
    text
}

/// Prints a row, and returns whether it was as expected.
fn row(what: &str, saw: &str, as_expected: bool) -> bool {
    let mark = if as_expected { "ok" } else { "??" };
    println!("{mark}  {what:22}{saw}");
    as_expected
}

/// Terminates TLS in front of a server without TLS, and counts connections.
struct TlsFront {
    origin: Origin,
    certificate: CertificateDer<'static>,
    accepted: Arc<AtomicUsize>,
}

impl TlsFront {
    async fn start(behind: &FakeAnyreach) -> anyhow::Result<Self> {
        let made = rcgen::generate_simple_self_signed(["localhost".to_owned()])?;
        let certificate = made.cert.der().clone();
        let key = PrivateKeyDer::Pkcs8(made.signing_key.serialize_der().into());
        let mut tls = ServerConfig::builder_with_provider(provider().into())
            .with_safe_default_protocol_versions()?
            .with_no_client_auth()
            .with_single_cert(vec![certificate.clone()], key)?;
        tls.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];

        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let origin = format!("https://localhost:{}", listener.local_addr()?.port()).parse()?;
        let port = behind.uri("/").port_u16();
        let behind = (Ipv4Addr::LOCALHOST, port.context("a fake with a port")?);
        let accepted = Arc::default();
        tokio::spawn(accept(listener, tls, behind, Arc::clone(&accepted)));
        Ok(Self {
            origin,
            certificate,
            accepted,
        })
    }

    fn uri(&self, path: &str) -> anyhow::Result<Uri> {
        Ok(self.origin.uri(path)?)
    }

    fn accepted(&self) -> usize {
        self.accepted.load(Relaxed)
    }
}

async fn accept(
    listener: TcpListener,
    tls: ServerConfig,
    behind: (Ipv4Addr, u16),
    accepted: Arc<AtomicUsize>,
) {
    let acceptor = TlsAcceptor::from(Arc::new(tls));
    while let Ok((client, _)) = listener.accept().await {
        accepted.fetch_add(1, Relaxed);
        let handshake = acceptor.accept(client);
        tokio::spawn(async move {
            // The client reports an error of this connection.
            let mut client = handshake.await?;
            let mut server = TcpStream::connect(behind).await?;
            tokio::io::copy_bidirectional(&mut client, &mut server).await
        });
    }
}
