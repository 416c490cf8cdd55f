//! Servers that must not be trusted, and one over TLS.

use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE};
use campaigns::server::serve_connection;
use http::header::{AUTHORIZATION, CONTENT_TYPE, WWW_AUTHENTICATE};
use http::{Method, Request, Response, StatusCode};
use hyper::body::Incoming;
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::connect::HttpConnector;
use support::{answer, each};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::PrivateKeyDer;
use tokio_rustls::rustls::{ClientConfig, RootCertStore, ServerConfig};

use crate::canaries::{self, Kind};

/// Denies everything, and repeats what it was sent in its answer. The query has the status, and the index of one of [`WAYS`].
pub(crate) fn echo(request: &Request<Incoming>) -> Response<String> {
    let server = canaries::text(Kind::ServerText);
    let authorization = request.headers()[AUTHORIZATION].to_str().unwrap();
    let credential = authorization.strip_prefix("Bearer ").unwrap();
    let query = request.uri().query().unwrap();
    let (status, way) = query.split_once('&').unwrap();
    let (_, form) = WAYS[way.parse::<usize>().unwrap()];
    let echo = form(credential);
    let body = serde_json::json!({
        "detail": format!("The credential {echo} is not accepted."),
        "debug": {"server": server, "authorization": authorization},
    });
    let challenge = format!(
        "Bearer error=\"invalid_token\", error_description=\"{server} {credential}\", scope=\"agents:read {credential}\""
    );
    let response = Response::builder()
        .status(status)
        .header(CONTENT_TYPE, "application/json")
        .header(WWW_AUTHENTICATE, challenge)
        .header("x-debug", format!("{server} {authorization}"));
    response.body(body.to_string()).unwrap()
}

/// A name, and how a credential is written.
type Way = (&'static str, fn(&str) -> String);

/// The ways of [`echo`].
pub(crate) const WAYS: [Way; 10] = [
    ("clear", str::to_owned),
    ("upper", str::to_uppercase),
    ("hex", |text| each(text, |byte| format!("{byte:02x}"))),
    ("percent", |text| each(text, |byte| format!("%{byte:02X}"))),
    ("base64", |text| STANDARD.encode(format!("Bearer {text}"))),
    // Text before it moves its digits, by one to three places.
    ("base64 1", |text| format!("v{}", STANDARD.encode(text))),
    ("base64 2", |text| format!("v1{}", STANDARD.encode(text))),
    ("base64 3", |text| format!("v10{}", STANDARD.encode(text))),
    ("base64url", |text| URL_SAFE.encode(format!("v1 {text} "))),
    ("cut", |text| text[..text.len() - 9].to_owned()),
];

/// Answers with the request, as a third party receives it.
pub(crate) fn mirror(request: &Request<Incoming>) -> Response<String> {
    let (uri, headers) = (request.uri(), request.headers());
    Response::new(format!("{uri} {headers:?}"))
}

/// Starts a server of one version of HTTP that forbids everything except GET; returns its port, and a connector that trusts it.
/// The server ends with its runtime.
pub(crate) async fn over_tls(http2: bool) -> (u16, HttpsConnector<HttpConnector>) {
    let issued = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    let certificate = issued.cert.der().clone();
    let key = PrivateKeyDer::try_from(issued.signing_key.serialize_der()).unwrap();
    let provider = Arc::new(ring::default_provider());
    let mut config = ServerConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![certificate.clone()], key)
        .unwrap();
    let protocol: &[u8] = if http2 { b"h2" } else { b"http/1.1" };
    config.alpn_protocols = vec![protocol.to_vec()];
    let acceptor = TlsAcceptor::from(Arc::new(config));

    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        while let Ok((client, _)) = listener.accept().await {
            let acceptor = acceptor.clone();
            tokio::spawn(async move {
                // A client that does not trust the certificate closes the connection.
                if let Ok(client) = acceptor.accept(client).await {
                    serve_connection(client, forbid).await;
                }
            });
        }
    });

    let mut roots = RootCertStore::empty();
    roots.add(certificate).unwrap();
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    let connector = HttpsConnectorBuilder::new()
        .with_tls_config(config)
        .https_only()
        .enable_all_versions();
    (port, connector.build())
}

async fn forbid(request: Request<Incoming>) -> Response<String> {
    match *request.method() {
        Method::GET => answer(StatusCode::OK, "{}"),
        _ => answer(StatusCode::FORBIDDEN, r#"{"detail": "No."}"#),
    }
}
