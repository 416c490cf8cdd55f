//! reqwest below the layer: two combinators of tower's make it a `Service<http::Request>`, and redirects are off.
//! A redirect to another host comes back as it is; reqwest by itself would follow, and tell that host the organization.
//! All of it happens against servers on loopback. Run it as `cargo run -p reqwest_client`.
#![allow(clippy::print_stdout, reason = "an example shows what it sees")]

use std::future::IntoFuture;
use std::net::Ipv4Addr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use anyhow::ensure;
use axum::Router;
use http::header::LOCATION;
use http::{HeaderMap, Request, Response, StatusCode};
use http_body_util::BodyExt;
use reqwest::Body;
use reqwest::redirect::Policy;
use tokio::net::TcpListener;
use tower::{Service, ServiceBuilder, ServiceExt};
use tower_anyreach::test_util::FakeAnyreach;
use tower_anyreach::{
    AnyreachAuthLayer, BoxError, Error, OrganizationId, Origin, PersonalAccessToken,
};
use tower_http::follow_redirect::FollowRedirectLayer;

#[tokio::main(flavor = "current_thread")]
async fn main() -> anyhow::Result<()> {
    let anyreach = FakeAnyreach::builder()
        .personal_access_token("pat_secret", [("org_acme", ["agents:read"])])
        .start()
        .await?;
    println!("Asking FakeAnyreach at {}.\n", anyreach.origin());

    let mut all_good = calls(&anyreach).await?;
    all_good &= redirects().await?;
    ensure!(all_good, "not everything was as expected");
    Ok(())
}

/// A client of reqwest's that is fit to stand below the layer.
fn client(https_only: bool) -> reqwest::Result<reqwest::Client> {
    reqwest::Client::builder()
        // What reqwest follows by itself, the layer does not see.
        .redirect(Policy::none())
        // True in production, with one of reqwest's TLS features. `FakeAnyreach` speaks plain http, on loopback.
        .https_only(https_only)
        // A proxy that the environment names would read the headers of plain http. Not needed over https.
        .no_proxy()
        .build()
}

/// The adapter. reqwest's client is a `Service<reqwest::Request>`, and has the conversions on both sides.
///
/// Both combinators pass readiness on, and what is no URL for reqwest fails in the future.
fn service(
    client: reqwest::Client,
) -> impl Service<Request<Body>, Response = Response<Body>, Error = BoxError, Future: Send> + Clone
{
    ServiceBuilder::new()
        .map_response(Response::<Body>::from)
        .filter(<reqwest::Request as TryFrom<Request<Body>>>::try_from)
        .service(client)
}

fn layer(origin: Origin) -> anyhow::Result<AnyreachAuthLayer> {
    let organization = OrganizationId::try_from("org_acme")?;
    let token = PersonalAccessToken::new("pat_secret")?.for_organization(organization);
    // By default credentials go to https://api.anyreach.ai alone.
    Ok(AnyreachAuthLayer::new(token).origin(origin))
}

async fn calls(anyreach: &FakeAnyreach) -> anyhow::Result<bool> {
    let authenticated = ServiceBuilder::new()
        .layer(layer(anyreach.origin())?)
        .service(service(client(false)?));

    let request = Request::get(anyreach.uri("/core/agents")).body(Body::default())?;
    let outcome = send(authenticated.clone(), request).await;
    let listed = matches!(&outcome, Ok(answer) if answer.status() == StatusCode::OK);
    let mut good = row("a good call", &shown(&outcome), listed);

    // A 403 is an error that knows what was asked for.
    let request = Request::post(anyreach.uri("/core/agents")).body(Body::from("{}"))?;
    let outcome = send(authenticated, request).await;
    let forbidden = matches!(outcome, Err(Error::Forbidden(_)));
    good &= row("missing scope", &shown(&outcome), forbidden);

    // A guard below the layer's own: the fake is at a plain http origin, and this client would not even go there.
    let requests_before = anyreach.received().len();
    let strict = ServiceBuilder::new()
        .layer(layer(anyreach.origin())?)
        .service(service(client(true)?));
    let request = Request::get(anyreach.uri("/core/agents")).body(Body::default())?;
    let outcome = send(strict, request).await;
    let refused = matches!(outcome, Err(Error::Service(_)));
    let not_sent = anyreach.received().len() == requests_before;
    good &= row("https only", &shown(&outcome), refused && not_sent);

    Ok(good && anyreach.violations().is_empty())
}

/// An origin that sends its callers elsewhere, and what three clients make of that.
async fn redirects() -> anyhow::Result<bool> {
    let elsewhere = Elsewhere::start().await?;
    let origin: Origin = redirecting_to(elsewhere.uri.clone()).await?.parse()?;
    let request = || Request::get(format!("{origin}/core/agents")).body(Body::default());

    println!("\nThe origin answers with a redirect to another host:");
    let careful = ServiceBuilder::new()
        .layer(layer(origin.clone())?)
        .service(service(client(false)?));
    let outcome = send(careful.clone(), request()?).await;
    let returned = matches!(&outcome, Ok(answer) if answer.status().is_redirection());
    let saw = format!("{}; {}", shown(&outcome), elsewhere.seen());
    let mut good = row("redirects off", &saw, returned && !elsewhere.was_asked());

    // Who wants redirects followed has it done outside the layer, which then judges each hop.
    let following = ServiceBuilder::new()
        .layer(FollowRedirectLayer::new())
        .service(careful);
    let outcome = send(following, request()?).await;
    let refused = matches!(outcome, Err(Error::Refused(_)));
    let saw = format!("{}; {}", shown(&outcome), elsewhere.seen());
    good &= row("followed outside", &saw, refused && !elsewhere.was_asked());

    // What `Policy::none()` is for: reqwest drops `Authorization` on the way, and keeps what it does not know.
    let careless = reqwest::Client::builder().no_proxy().build()?;
    let careless = ServiceBuilder::new()
        .layer(layer(origin.clone())?)
        .service(service(careless));
    let outcome = send(careless, request()?).await;
    let saw = format!("{}; {}", shown(&outcome), elsewhere.seen());
    Ok(good & row("reqwest's default", &saw, elsewhere.was_asked()))
}

type Outcome = Result<Response<()>, Error>;

/// Sends a request, and reads the answer to its end.
async fn send<S>(client: S, request: Request<Body>) -> Outcome
where
    S: Service<Request<Body>, Response = Response<Body>, Error = Error>,
{
    let (head, body) = client.oneshot(request).await?.into_parts();
    let body = body.collect().await;
    body.map_err(|error| Error::Service(error.into()))?;
    Ok(Response::from_parts(head, ()))
}

fn shown(outcome: &Outcome) -> String {
    match outcome {
        Ok(answer) => match answer.headers().get(LOCATION) {
            Some(to) => format!("{} to {to:?}", answer.status().as_u16()),
            None => answer.status().as_u16().to_string(),
        },
        Err(Error::Unauthorized(denial) | Error::Forbidden(denial)) => {
            let shown = format!("{}, {}", denial.status().as_u16(), denial.reason());
            let scopes = denial.required_scopes();
            scopes.fold(shown, |shown, scope| {
                shown + "; the server asked for " + scope
            })
        }
        Err(error) => with_causes(error),
    }
}

/// An error with all that led to it, in one line.
fn with_causes(error: &(dyn std::error::Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        text = format!("{text}: {cause}");
        next = cause.source();
    }
    text
}

/// Prints what was seen, and returns whether it was as expected.
fn row(what: &str, saw: &str, as_expected: bool) -> bool {
    let mark = if as_expected { "ok" } else { "??" };
    println!("{mark}  {what:20}{saw}");
    as_expected
}

/// Answers everything with a redirect, and returns where it does so.
async fn redirecting_to(location: String) -> anyhow::Result<String> {
    let (listener, port) = listener().await?;
    let answer = [(LOCATION, location)];
    let router = Router::new().fallback(async || (StatusCode::TEMPORARY_REDIRECT, answer));
    tokio::spawn(axum::serve(listener, router).into_future());
    Ok(format!("http://127.0.0.1:{port}"))
}

/// Another host, which remembers the last headers it was sent.
struct Elsewhere {
    uri: String,
    headers: Arc<Mutex<Option<HeaderMap>>>,
}

impl Elsewhere {
    async fn start() -> anyhow::Result<Self> {
        let (listener, port) = listener().await?;
        let headers = Arc::<Mutex<_>>::default();
        let router = Router::new().fallback({
            let headers = Arc::clone(&headers);
            async move |received| *lock(&headers) = Some(received)
        });
        tokio::spawn(axum::serve(listener, router).into_future());
        let uri = format!("http://localhost:{port}/");
        Ok(Self { uri, headers })
    }

    fn was_asked(&self) -> bool {
        lock(&self.headers).is_some()
    }

    fn seen(&self) -> String {
        let saw = match &*lock(&self.headers) {
            None => "nothing".to_owned(),
            Some(headers) => ["Authorization", "X-Anyreach-Org"]
                .into_iter()
                .filter(|name| headers.contains_key(*name))
                .collect::<Vec<_>>()
                .join(", "),
        };
        format!("the other host saw {saw}")
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

async fn listener() -> anyhow::Result<(TcpListener, u16)> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
    let port = listener.local_addr()?.port();
    Ok((listener, port))
}
