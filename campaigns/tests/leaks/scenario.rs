//! What goes wrong in the child, with everything switched on that says something about it.
//!
//! Left out, by name, is what is not the crate's to hide: `Authorization` on its way to the server; [`Denial::headers`]
//! and [`Denial::body`], which are the server's words and say so; [`SourceError::expose_cause`], which is a source's; the
//! words of a source that panics aloud, which the panic hook prints before anybody can catch it; and the URI and the
//! headers of a caller who puts a secret of its own there, as a `TraceLayer` outside of the layer shows them.
//!
//! [`Denial::headers`]: tower_anyreach::Denial::headers
//! [`Denial::body`]: tower_anyreach::Denial::body
//! [`SourceError::expose_cause`]: tower_anyreach::SourceError::expose_cause

use std::fmt;
use std::future::ready;
use std::panic::resume_unwind;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use campaigns::server::Server;
use http::{HeaderValue, Method, Request, Response, Uri};
use http_body_util::{BodyExt, Full};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::{Connect, HttpConnector};
use hyper_util::rt::TokioExecutor;
use support::runtime::multi_thread;
use support::with;
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

use crate::canaries::{Canaries, Kind};
use crate::servers::{WAYS, echo, mirror};
use crate::{shown, tls};

type Body = Full<Bytes>;
type Http = Client<HttpConnector, Body>;
type Stack = BoxCloneService<Request<Body>, Response<()>, Error>;

/// Good requests in each round, beside those that go wrong.
const TRAFFIC: usize = 20;

fn text(kind: Kind) -> String {
    Canaries(crate::seed()).text(kind)
}

fn credential(kind: Kind) -> Credential {
    Credential::parse(text(kind)).unwrap()
}

fn token() -> PersonalAccessToken {
    PersonalAccessToken::new(text(Kind::Token)).unwrap()
}

fn organization() -> OrganizationId {
    OrganizationId::try_from(Canaries(crate::seed()).organization()).unwrap()
}

/// What a careless source says: the old key, in its words and in those of what it was caused by.
struct Careless(Option<Box<Self>>);

impl Careless {
    fn error() -> Self {
        Self(Some(Box::new(Self(None))))
    }
}

impl fmt::Debug for Careless {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [old_key, error] = [Kind::OldKey, Kind::SourceError].map(text);
        write!(f, "the vault refused {old_key} and {error}")
    }
}

impl fmt::Display for Careless {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self:?}")
    }
}

impl std::error::Error for Careless {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.0.as_ref().map(|cause| &**cause as _)
    }
}

/// How a source behaves.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Mood {
    Fails,
    FailsByIo,
    GivesGarbage,
    Panics,
    PanicsAloud,
    Hangs,
}

async fn fetch(mood: Mood) -> Result<Credential, BoxError> {
    match mood {
        Mood::Fails => Err(Careless::error().into()),
        Mood::FailsByIo => Err(std::io::Error::other(Careless::error()).into()),
        Mood::GivesGarbage => Ok(Credential::parse(format!("\"{}\"", text(Kind::Garbage)))?),
        // Without the panic hook, which would print the source's own words.
        Mood::Panics => resume_unwind(Box::new(text(Kind::SourcePanic))),
        Mood::PanicsAloud => panic!("the vault is on fire"),
        Mood::Hangs => std::future::pending().await,
    }
}

fn span(level: Level) -> DefaultMakeSpan {
    DefaultMakeSpan::new().level(level).include_headers(true)
}

/// hyper's client below both kinds of trace; `traced` says whether the outer one, which sees what the caller brings.
fn stack<C>(http: &Client<C, Body>, layer: &AnyreachAuthLayer, traced: bool) -> Stack
where
    C: Connect + Clone + Send + Sync + 'static,
{
    let inner = ServiceBuilder::new()
        .retry(RefreshPolicy::new())
        .layer(layer.clone())
        // Inside of the layer it sees what was attached.
        .layer(TraceLayer::new_for_http().make_span_with(span(Level::TRACE)))
        .layer(DecompressionLayer::new())
        .layer(TimeoutLayer::new(Duration::from_secs(5)))
        .service(http.clone());
    shown::debug("layer", layer);
    if traced {
        // Errors are failures to it: denials among them.
        let trace = TraceLayer::new_for_http().make_span_with(span(Level::ERROR));
        collected(ServiceBuilder::new().layer(trace).service(inner))
    } else {
        collected(inner)
    }
}

/// Reads bodies to their end, so that connections are used again.
fn collected<S, B>(service: S) -> Stack
where
    S: Service<Request<Body>, Response = Response<B>, Error = Error> + Clone + Send + 'static,
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

fn get(uri: impl TryInto<Uri, Error: fmt::Debug>) -> Request<Body> {
    let mut request = Request::new(Body::default());
    *request.uri_mut() = uri.try_into().unwrap();
    request
}

fn post(uri: String) -> Request<Body> {
    let mut request = get(uri);
    *request.method_mut() = Method::POST;
    request
}

/// A request with that header and the caller's own key in it.
fn with_key(header: &'static str, uri: impl TryInto<Uri, Error: fmt::Debug>) -> Request<Body> {
    let bearer = HeaderValue::try_from(format!("Bearer {}", text(Kind::CallersKey))).unwrap();
    let mut request = get(uri);
    request.headers_mut().insert(header, bearer);
    request
}

async fn denied(stack: &Stack, name: &str, request: Request<Body>) {
    let error = stack.clone().oneshot(request).await.unwrap_err();
    shown::error(name, &error);
    let boxed: BoxError = Box::new(std::io::Error::other(error));
    shown::error(name, &*boxed);
}

async fn good(stack: &Stack, request: Request<Body>) {
    let response = stack.clone().oneshot(request).await.unwrap();
    assert!(response.status().is_success());
}

/// The API by its rules: requests that go well, rotations, denials, replays.
async fn api(http: &Http) {
    let anyreach = FakeAnyreach::builder()
        .api_key(text(Kind::OldKey), "org_acme", ["agents:read"])
        .api_key(text(Kind::OwnKey), "org_acme", ["agents:read"])
        .personal_access_token(
            text(Kind::Token),
            [(Canaries(crate::seed()).organization(), ["agents:read"])],
        )
        .start()
        .await
        .unwrap();
    let to = |path: &str| anyreach.uri(path).to_string();
    let origin = anyreach.origin();
    let given = Arc::new(AtomicU64::new(0));
    let store = CredentialStore::load({
        let given = Arc::clone(&given);
        move || {
            let given = given.load(Ordering::Relaxed);
            async move {
                match given {
                    0 => Ok(credential(Kind::OldKey)),
                    1 => Err(Careless::error().into()),
                    _ => Ok(credential(Kind::NewKey)),
                }
            }
        }
    })
    .await
    .unwrap();
    let layer = AnyreachAuthLayer::new(store.clone()).origin(origin);
    let client = stack(http, &layer, true);

    for number in 0..TRAFFIC {
        let mut request = get(to(&format!("/core/agents?page={number}")));
        match number % 4 {
            1 => drop(request.extensions_mut().insert(credential(Kind::OwnKey))),
            2 => {
                shown::debug("token", &token());
                request.extensions_mut().insert(Credential::from(token()));
                request.extensions_mut().insert(organization());
            }
            3 => drop(store.rotate(token().for_organization(organization()))),
            _ => drop(store.rotate(credential(Kind::OldKey))),
        }
        shown::debug("request", &request);
        shown::debug("extensions", request.extensions());
        good(&client, request).await;
    }
    store.rotate(credential(Kind::OldKey));
    shown::debug("store", &store);
    shown::debug("key", &OrganizationApiKey::new(text(Kind::OldKey)).unwrap());

    denied(&client, "forbidden", post(to("/core/agents"))).await;
    given.store(1, Ordering::Relaxed);
    let error = store.refresh().await.unwrap_err();
    shown::error("source", &error);

    // A replay after the old key's end.
    assert!(anyreach.rotate(&text(Kind::OldKey), text(Kind::NewKey)));
    given.store(2, Ordering::Relaxed);
    tokio::time::sleep(Duration::from_millis(300)).await;
    good(&client, get(to("/core/agents"))).await;
    assert!(anyreach.revoke(&text(Kind::NewKey)));
    for _ in 0..3 {
        denied(&client, "revoked", get(to("/core/agents"))).await;
    }
    let missing = with(Credential::from(token()), get(to("/core/agents")));
    denied(&client, "no organization", missing).await;
    let beside = with(organization(), get(to("/core/agents")));
    denied(&client, "organization beside a key", beside).await;
    denied(&client, "foreign", get("http://127.0.0.1:1/")).await;

    shown::debug("fake", &anyreach);
    for request in anyreach.received() {
        shown::debug("received", &request);
    }
    shown::debug("violations", &anyreach.violations());
}

/// A good request, a denial and a host whose certificate is another's, over TLS.
async fn over_tls(http2: bool) {
    let (port, connector) = tls::serve(http2).await;
    let client = Client::builder(TokioExecutor::new()).build::<_, Body>(connector);
    for (host, is_good) in [("localhost", true), ("127.0.0.1", false)] {
        let uri = format!("https://{host}:{port}");
        let store = CredentialStore::new(credential(Kind::OldKey));
        let layer = AnyreachAuthLayer::new(store.clone()).origin(uri.parse().unwrap());
        let stack = stack(&client, &layer, true);
        if is_good {
            good(&stack, get(format!("{uri}/core/agents"))).await;
        }
        denied(&stack, "over TLS", post(format!("{uri}/core/agents"))).await;
    }
}

/// Denials whose words are hostile.
async fn echoes(http: &Http) {
    let server = Server::start(|request| ready(echo(&request))).await;
    let origin = format!("http://{}", server.address());
    for (kind, denied_responses) in [
        (Kind::OldKey, DeniedResponses::IntoError),
        (Kind::Token, DeniedResponses::IntoError),
        (Kind::OldKey, DeniedResponses::PassThrough),
    ] {
        let store = CredentialStore::new(credential(kind));
        let layer = AnyreachAuthLayer::new(store.clone())
            .origin(origin.parse().unwrap())
            .require_organization(false)
            .denied_responses(denied_responses);
        for status in [401, 403] {
            for (number, (way, _)) in WAYS.into_iter().enumerate() {
                let service = layer.layer(http.clone());
                let request = get(format!("{origin}/?{status}&{number}"));
                match service.oneshot(request).await {
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

/// Requests that are not let go, or not with a credential. Without the outer trace, which would show the caller's own.
async fn strangers(http: &Http) {
    let foreign = Server::start(|request| ready(mirror(&request))).await;
    let to = foreign.address();
    let store = CredentialStore::new(credential(Kind::OldKey));
    let origin: Origin = "http://localhost:2".parse().unwrap();
    let layer = AnyreachAuthLayer::new(store.clone()).origin(origin);
    let strict = stack(http, &layer, false);
    let secret = text(Kind::CallersKey).replace('/', "%2F");
    // Where a server sends those who follow its redirects.
    let echo: String = text(Kind::OldKey)
        .bytes()
        .flat_map(|byte| [byte >> 4, byte & 0xf])
        .filter_map(|digit| char::from_digit(digit.into(), 16))
        .collect();
    for uri in [
        format!("http://{echo}.localhost:2/"),
        format!("http://localhost:{echo}/"),
        format!("http://127.0.0.1:3/{secret}?{secret}"),
        format!("http://{secret}@localhost:2/"),
        format!("http://localhost:4/?token={secret}"),
        format!("https://localhost:2/{secret}"),
        format!("/{secret}"),
    ] {
        // What is no URI has no way in.
        if let Ok(uri) = uri.parse::<Uri>() {
            denied(&strict, "foreign", get(uri)).await;
        }
    }
    for header in ["authorization", "x-anyreach-org", "host"] {
        let request = with_key(header, "http://localhost:2/");
        denied(&strict, "caller's header", request).await;
    }

    let elsewhere = || with_key("authorization", format!("http://{to}/elsewhere"));
    let forwarding = layer
        .clone()
        .foreign_requests(ForeignRequests::ForwardWithoutCredentials);
    let rejecting = stack(http, &forwarding, false);
    denied(&rejecting, "caller's credential elsewhere", elsewhere()).await;
    let forwarding = forwarding.caller_headers(CallerHeaders::Replace);
    let forwarding = stack(http, &forwarding, false);
    let mut request = with(organization(), elsewhere());
    let callers = HeaderValue::from_static("org_callers");
    request.headers_mut().insert("x-anyreach-org", callers);
    good(&forwarding, request).await;
    good(&strict, with(Anonymous, elsewhere())).await;

    // To the origin, where no server listens; `strict` rejects such a header.
    let replacing = layer.caller_headers(CallerHeaders::Replace);
    let replacing = stack(http, &replacing, false);
    let request = with_key("authorization", "http://localhost:2/");
    denied(&replacing, "caller's credential", request).await;
    let gateway = stack(http, &AnyreachAuthLayer::per_request(), true);
    denied(&gateway, "per request", get("https://api.anyreach.ai/")).await;
}

/// Sources, files and environments that have nothing good to give.
async fn sources() {
    use Mood::{Fails, FailsByIo, GivesGarbage, Hangs, Panics, PanicsAloud};

    for mood in [Fails, FailsByIo, GivesGarbage, Panics, PanicsAloud, Hangs] {
        let loader =
            CredentialStore::loader(move || fetch(mood)).timeout(Duration::from_millis(50));
        shown::debug("loader", &loader);
        let error = loader.load().await.unwrap_err();
        shown::error("source", &error);
        shown::debug("reason", &error.reason());
        shown::panic(error);
    }
    let path = tempfile::NamedTempFile::new().unwrap().into_temp_path();
    let (garbage, own) = (text(Kind::Garbage), text(Kind::OwnKey));
    for content in [
        format!("Bearer {garbage}"),
        format!("{{\"token\":\"{garbage}\"}}"),
        format!("{own}\n{own}"),
        format!("\u{feff}{own}"),
        garbage.replace("ak_", "sk_"),
        garbage.repeat(200),
    ] {
        std::fs::write(&path, &content).unwrap();
        let source = FileSource::new(&path);
        shown::debug("file", &source);
        let error = CredentialStore::load(source).await.unwrap_err();
        shown::error("file", &error);

        let error = Credential::parse(content.as_str()).unwrap_err();
        shown::error("parse", &error);
        shown::panic(error);
        for origin in [
            content.parse::<Origin>(),
            Origin::insecure(&format!("http://{content}")),
        ] {
            if let Err(error) = origin {
                shown::error("origin", &error);
            }
        }
        if let Err(error) = OrganizationId::try_from(format!("{content},")) {
            shown::error("organization", &error);
        }
    }
    let error = Credential::from_env().unwrap_err();
    shown::error("environment", &error);
    shown::panic(error);
}

#[test]
#[ignore = "a part of another test, which runs it as a process"]
fn child_in_which_everything_goes_wrong() {
    // Every target, every level, spans as they open and close, and what goes through the `log` crate.
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
                .build_http::<Body>();
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
