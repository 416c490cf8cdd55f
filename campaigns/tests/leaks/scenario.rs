//! The failures in the child, with every event enabled.
//!
//! Left out, by name, is what the crate cannot hide: `Authorization` on its way to the server; `Denial::headers` and
//! `Denial::body`, which are server-written and documented as such; `SourceError::expose_cause`, which is a source's text; the
//! payload of a source's ordinary panic, which the panic hook prints before the crate can catch it; and secrets that a caller
//! puts into a URI or a header, as a `TraceLayer` outside of the layer shows them.

use std::fmt;
use std::future::ready;
use std::panic::resume_unwind;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use campaigns::server::Server;
use http::{Request, Response};
use http_body_util::BodyExt;
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::{Connect, HttpConnector};
use hyper_util::rt::TokioExecutor;
use support::runtime::multi_thread;
use support::{each, get, with, with_headers};
use tower::timeout::TimeoutLayer;
use tower::util::BoxCloneService;
use tower::{BoxError, Layer, Service, ServiceBuilder, ServiceExt};
use tower_anyreach::retry::RefreshPolicy;
use tower_anyreach::source::FileSource;
use tower_anyreach::test_util::FakeAnyreach;
use tower_anyreach::{
    Anonymous, AnyreachAuthLayer, CallerHeaders, Credential, CredentialStore, Denial,
    DeniedResponses, Error, ForeignRequests, OrganizationApiKey, OrganizationId, Origin,
    PersonalAccessToken,
};
use tower_http::decompression::DecompressionLayer;
use tower_http::trace::{DefaultMakeSpan, TraceLayer};
use tracing::Level;
use tracing_subscriber::fmt::format::FmtSpan;

use crate::canaries::{self, Kind, credential, secret, text};
use crate::servers::{self, WAYS, echo, mirror};
use crate::shown;

type Http = Client<HttpConnector, String>;
type Stack = BoxCloneService<Request<String>, Response<()>, Error>;

fn token() -> PersonalAccessToken {
    PersonalAccessToken::new(secret(Kind::Token)).unwrap()
}

fn organization() -> OrganizationId {
    support::organization(&canaries::organization())
}

/// The error of a source that repeats the old key and a secret of its own, in its text and in its cause's.
fn careless() -> BoxError {
    let [old_key, error] = [Kind::OldKey, Kind::SourceError].map(text);
    let cause = std::io::Error::other(format!("the vault refused {old_key} and {error}"));
    std::io::Error::other(cause).into()
}

fn span(level: Level) -> DefaultMakeSpan {
    DefaultMakeSpan::new().level(level).include_headers(true)
}

/// hyper's client below both kinds of trace. The outer one, which shows what the caller brings, is there if `is_traced`.
fn stack<C>(http: &Client<C, String>, layer: &AnyreachAuthLayer, is_traced: bool) -> Stack
where
    C: Connect + Clone + Send + Sync + 'static,
{
    let inner = ServiceBuilder::new()
        .retry(RefreshPolicy::new())
        .layer(layer.clone())
        // Inside the layer, it sees the attached headers.
        .layer(TraceLayer::new_for_http().make_span_with(span(Level::TRACE)))
        .layer(DecompressionLayer::new())
        .layer(TimeoutLayer::new(Duration::from_secs(5)))
        .service(http.clone());
    shown::debug("layer", layer);
    if is_traced {
        // Denials are failures to it.
        let trace = TraceLayer::new_for_http().make_span_with(span(Level::ERROR));
        collected(ServiceBuilder::new().layer(trace).service(inner))
    } else {
        collected(inner)
    }
}

/// Reads bodies to their end, so that connections are used again.
fn collected<S, B>(service: S) -> Stack
where
    S: Service<Request<String>, Response = Response<B>, Error = Error> + Clone + Send + 'static,
    S::Future: Send + 'static,
    B: http_body::Body<Error: fmt::Debug, Data: Send> + Send + 'static,
{
    BoxCloneService::new(service.and_then(|response: Response<B>| async {
        let (head, body) = response.into_parts();
        shown::debug("response", &head);
        if let Some(denial) = head.extensions.get::<Denial>() {
            shown::denial(denial);
        }
        body.collect().await.unwrap();
        Ok(Response::from_parts(head, ()))
    }))
}

fn post(uri: &str) -> Request<String> {
    Request::post(uri).body(String::new()).unwrap()
}

/// A request with that header and the caller's own key in it.
fn with_key(header: &str, uri: &str) -> Request<String> {
    let bearer = format!("Bearer {}", text(Kind::CallersKey));
    with_headers(&[(header, &bearer)], get(uri))
}

async fn denied(stack: &Stack, name: &str, request: Request<String>) {
    let error = stack.clone().oneshot(request).await.unwrap_err();
    shown::error(name, &error);
    let boxed: BoxError = Box::new(std::io::Error::other(error));
    shown::error(name, &*boxed);
}

async fn good(stack: &Stack, request: Request<String>) {
    let response = stack.clone().oneshot(request).await.unwrap();
    assert!(response.status().is_success());
}

/// The API by its rules: requests that go well, rotations, denials, replays.
async fn api(http: &Http) {
    let grants = [(organization().to_string(), ["agents:read"])];
    let anyreach = FakeAnyreach::builder()
        .api_key(text(Kind::OldKey), "org_acme", ["agents:read"])
        .api_key(text(Kind::OwnKey), "org_acme", ["agents:read"])
        .personal_access_token(text(Kind::Token), grants)
        .start()
        .await
        .unwrap();
    let to = |path: &str| anyreach.uri(path).to_string();
    let given = Arc::new(AtomicU64::new(0));
    let giving = Arc::clone(&given);
    let source = move || {
        ready(match giving.load(Ordering::Relaxed) {
            0 => Ok(credential(Kind::OldKey)),
            1 => Err(careless()),
            _ => Ok(credential(Kind::NewKey)),
        })
    };
    let store = CredentialStore::load(source).await.unwrap();
    let layer = AnyreachAuthLayer::new(store.clone()).origin(anyreach.origin());
    let client = stack(http, &layer, true);

    let paired = || token().for_organization(organization());
    for number in 0..20 {
        let mut request = get(&to(&format!("/core/agents?page={number}")));
        match number % 4 {
            1 => request = with(credential(Kind::OwnKey), request),
            2 => {
                request = with(organization(), request);
                request = with(Credential::from(token()), request);
            }
            3 => drop(store.rotate(paired())),
            _ => drop(store.rotate(credential(Kind::OldKey))),
        }
        shown::debug("request", &request);
        shown::debug("extensions", request.extensions());
        good(&client, request).await;
    }
    store.rotate(credential(Kind::OldKey));
    shown::debug("store", &store);
    shown::debug("token", &paired());
    shown::debug("key", &OrganizationApiKey::new(text(Kind::OldKey)).unwrap());

    denied(&client, "forbidden", post(&to("/core/agents"))).await;
    given.store(1, Ordering::Relaxed);
    shown::error("source", &store.refresh().await.unwrap_err());

    // A replay after the old key's end.
    assert!(anyreach.rotate(&text(Kind::OldKey), text(Kind::NewKey)));
    given.store(2, Ordering::Relaxed);
    tokio::time::sleep(Duration::from_millis(300)).await;
    good(&client, get(&to("/core/agents"))).await;
    assert!(anyreach.revoke(&text(Kind::NewKey)));
    for _ in 0..3 {
        denied(&client, "revoked", get(&to("/core/agents"))).await;
    }
    let missing = with(Credential::from(token()), get(&to("/core/agents")));
    denied(&client, "no organization", missing).await;
    let beside = with(organization(), get(&to("/core/agents")));
    denied(&client, "organization beside a key", beside).await;
    denied(&client, "foreign", get("http://127.0.0.1:1/")).await;

    shown::debug("fake", &anyreach);
    shown::debug("received", &anyreach.received());
    shown::debug("violations", &anyreach.violations());
}

/// A good request, a denial and a host with the certificate of another, over TLS.
async fn over_tls(http2: bool) {
    let (port, connector) = servers::over_tls(http2).await;
    let client = Client::builder(TokioExecutor::new()).build::<_, String>(connector);
    for host in ["localhost", "127.0.0.1"] {
        let uri = format!("https://{host}:{port}");
        let layer = AnyreachAuthLayer::new(credential(Kind::OldKey)).origin(uri.parse().unwrap());
        let stack = stack(&client, &layer, true);
        if host == "localhost" {
            good(&stack, get(&format!("{uri}/core/agents"))).await;
        }
        denied(&stack, "over TLS", post(&format!("{uri}/core/agents"))).await;
    }
}

/// Denials with hostile text.
async fn echoes(http: &Http) {
    let server = Server::start(|request| ready(echo(&request))).await;
    let origin = format!("http://{}", server.address());
    for (kind, denied_responses) in [
        (Kind::OldKey, DeniedResponses::IntoError),
        (Kind::Token, DeniedResponses::IntoError),
        (Kind::OldKey, DeniedResponses::PassThrough),
    ] {
        let layer = AnyreachAuthLayer::new(credential(kind))
            .origin(origin.parse().unwrap())
            .require_organization(false)
            .denied_responses(denied_responses);
        for status in [401, 403] {
            for (number, (way, _)) in WAYS.into_iter().enumerate() {
                let request = get(&format!("{origin}/?{status}&{number}"));
                match layer.layer(http.clone()).oneshot(request).await {
                    Ok(response) => shown::denial(response.extensions().get().unwrap()),
                    Err(error) => {
                        shown::error(way, &error);
                        shown::debug("cloned", &error.denial().unwrap().clone());
                    }
                }
            }
        }
    }
}

/// Requests that are refused, or leave without a credential. Without the outer trace, which would show the caller's own.
async fn strangers(http: &Http) {
    let foreign = Server::start(|request| ready(mirror(&request))).await;
    let to = foreign.address();
    let origin: Origin = "http://localhost:2".parse().unwrap();
    let layer = AnyreachAuthLayer::new(credential(Kind::OldKey)).origin(origin);
    let strict = stack(http, &layer, false);
    let secret = text(Kind::CallersKey).replace('/', "%2F");
    // A credential in hexadecimal, as in a redirect of a server that received it.
    let echo = each(text(Kind::OldKey), |byte| format!("{byte:02x}"));
    for uri in [
        format!("http://{echo}.localhost:2/"),
        format!("http://127.0.0.1:3/{secret}?{secret}"),
        format!("http://{secret}@localhost:2/"),
        format!("http://localhost:4/?token={secret}"),
        format!("https://localhost:2/{secret}"),
        format!("/{secret}"),
    ] {
        denied(&strict, "foreign", get(&uri)).await;
    }
    for header in ["authorization", "x-anyreach-org", "host"] {
        let request = with_key(header, "http://localhost:2/");
        denied(&strict, "caller's header", request).await;
    }

    let elsewhere = || with_key("authorization", &format!("http://{to}/elsewhere"));
    good(&strict, with(Anonymous, elsewhere())).await;
    let forwarding = layer.foreign_requests(ForeignRequests::ForwardWithoutCredentials);
    let rejecting = stack(http, &forwarding, false);
    denied(&rejecting, "caller's credential elsewhere", elsewhere()).await;
    let replacing = forwarding.caller_headers(CallerHeaders::Replace);
    let replacing = stack(http, &replacing, false);
    let callers = with_headers(&[("x-anyreach-org", "org_callers")], elsewhere());
    good(&replacing, with(organization(), callers)).await;
    // To the origin, where no server listens.
    let request = with_key("authorization", "http://localhost:2/");
    denied(&replacing, "caller's credential", request).await;
    let gateway = stack(http, &AnyreachAuthLayer::per_request(), true);
    denied(&gateway, "per request", get("https://api.anyreach.ai/")).await;
}

/// Sources, files and environments without a usable credential.
async fn sources() {
    for way in 0..5 {
        let source = move || async move {
            match way {
                0 => Err(careless()),
                1 => Ok(Credential::parse(format!("\"{}\"", text(Kind::Garbage)))?),
                // The panic hook, which would print the payload, does not run.
                2 => resume_unwind(Box::new(text(Kind::SourcePanic))),
                3 => panic!("the vault is on fire"),
                _ => std::future::pending().await,
            }
        };
        let loader = CredentialStore::loader(source).timeout(Duration::from_millis(50));
        shown::debug("loader", &loader);
        let error = loader.load().await.unwrap_err();
        shown::error("source", &error);
        shown::debug("reason", &error.reason());
        shown::panic(error);
    }
    // The laws of `properties` show that errors show nothing of any other text.
    let path = tempfile::NamedTempFile::new().unwrap().into_temp_path();
    let content = format!("Bearer {}", text(Kind::Garbage));
    std::fs::write(&path, &content).unwrap();
    let source = FileSource::new(&path);
    shown::debug("file", &source);
    shown::error("file", &CredentialStore::load(source).await.unwrap_err());
    shown::error("parse", &Credential::parse(content.as_str()).unwrap_err());
    shown::error("origin", &content.parse::<Origin>().unwrap_err());
    shown::error("organization", &OrganizationId::new(&content).unwrap_err());
    let error = Credential::from_env().unwrap_err();
    shown::error("environment", &error);
    shown::panic(error);
}

#[test]
#[ignore = "a part of another test, which runs it as a process"]
fn child_in_which_everything_goes_wrong() {
    // Every target, every level, spans as they open and close, and events of the `log` crate.
    tracing_subscriber::fmt()
        .with_max_level(Level::TRACE)
        .with_span_events(FmtSpan::FULL)
        .with_ansi(false)
        .init();
    let runtime = multi_thread(2);
    for _ in 0..campaigns::number("ANYREACH_LEAK_ROUNDS", 1) {
        for http2 in [false, true] {
            // New connections each time, since the servers are new.
            let http = Client::builder(TokioExecutor::new())
                .http2_only(http2)
                .build_http::<String>();
            runtime.block_on(async {
                api(&http).await;
                echoes(&http).await;
                strangers(&http).await;
                over_tls(http2).await;
            });
        }
        runtime.block_on(sources());
    }
}
