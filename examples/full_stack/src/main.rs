//! The whole stack of layers, in the documented order, with what each of them is there for.
//! A rotation is cured by a replay, a 503 is tried again, a redirect to another host is refused, and time limits hold.
//! It runs against `FakeAnyreach`, with a service below that fails on purpose. Run it as `cargo run -p full_stack`.
#![allow(
    clippy::print_stdout,
    reason = "an example shows what it does on the terminal"
)]

use std::collections::VecDeque;
use std::future::pending;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, bail, ensure};
use bytes::{Buf, Bytes};
use http::header::LOCATION;
use http::{Method, Request, Response, StatusCode, Uri};
use http_body::Body;
use http_body_util::{BodyExt, Either, Empty, Full};
use hyper::body::Incoming;
use hyper_util::client::legacy::{Client, connect::HttpConnector};
use hyper_util::rt::TokioExecutor;
use tokio::sync::{Mutex, watch};
use tokio::time::{Sleep, sleep};
use tower::limit::ConcurrencyLimitLayer;
use tower::retry::{Policy, RetryLayer};
use tower::timeout::{TimeoutLayer, error::Elapsed};
use tower::{Service, ServiceBuilder, ServiceExt, service_fn};
use tower_anyreach::retry::RefreshPolicy;
use tower_anyreach::test_util::FakeAnyreach;
use tower_anyreach::{AnyreachAuthLayer, BoxError, Credential, CredentialStore, Error, Origin};
use tower_http::classify::ServerErrorsFailureClass;
use tower_http::decompression::DecompressionLayer;
use tower_http::follow_redirect::FollowRedirectLayer;
use tower_http::trace::TraceLayer;
use tracing::Span;
use tracing_subscriber::filter::Targets;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;

const ALL_ATTEMPTS: Duration = Duration::from_secs(2);
const ONE_ATTEMPT: Duration = Duration::from_millis(500);

/// The stack, from the outside in. `client` stands for hyper's, or any other that follows no redirects by itself.
fn stack<S, R>(
    store: CredentialStore,
    origin: Origin,
    client: S,
) -> impl Service<
    Request<Full<Bytes>>,
    Response = Response<impl Body<Data: Buf, Error: Into<BoxError>>>,
    Error = BoxError,
> + Clone
where
    S: Service<Request<Full<Bytes>>, Response = Response<R>, Error: Into<BoxError>> + Clone,
    R: Body<Error: Into<BoxError>>,
{
    ServiceBuilder::new()
        // Sees a call as its caller does: once, with what came of it in the end. With the feature `tower-http`,
        .layer(
            TraceLayer::new_for_http()
                .on_response(|response: &Response<_>, _: Duration, _: &Span| {
                    tracing::info!("trace: answered with {}", response.status().as_u16());
                })
                .on_failure(|failure: ServerErrorsFailureClass, _: Duration, _: &Span| {
                    tracing::info!("trace: {failure}");
                }),
        )
        // Covers waiting, refreshing and replaying.
        .layer(TimeoutLayer::new(ALL_ATTEMPTS))
        .layer(RetryLayer::new(WhenBusy::default()))
        // Each hop is a request of its own to the layers below, and a 401 replays that hop alone.
        .layer(FollowRedirectLayer::new())
        .layer(RetryLayer::new(RefreshPolicy::new()))
        .layer(ConcurrencyLimitLayer::new(32))
        .layer(AnyreachAuthLayer::new(store).origin(origin))
        // Inside, or a compressed denial would hide its text.
        .layer(DecompressionLayer::new())
        // Inside, so that it comes out as the service's own failure.
        .layer(TimeoutLayer::new(ONE_ATTEMPT))
        .service(client)
}

/// Tries again what was answered by 429 or 503, with more patience each time.
///
/// Only what may be repeated: a `POST` may have placed a telephone call.
#[derive(Clone, Default)]
struct WhenBusy {
    tried_again: u32,
}

impl<B: Clone, R> Policy<Request<B>, Response<R>, Error> for WhenBusy {
    type Future = Sleep;

    fn retry(
        &mut self,
        _: &mut Request<B>,
        result: &mut Result<Response<R>, Error>,
    ) -> Option<Sleep> {
        // A denial is an `Err`, and left to `RefreshPolicy`.
        let status = result.as_ref().ok()?.status();
        let busy = [
            StatusCode::TOO_MANY_REQUESTS,
            StatusCode::SERVICE_UNAVAILABLE,
        ];
        if !busy.contains(&status) || self.tried_again == 8 {
            return None;
        }
        let wait = Duration::from_millis(100) * 2_u32.pow(self.tried_again);
        self.tried_again += 1;
        Some(sleep(wait))
    }

    fn clone_request(&mut self, request: &Request<B>) -> Option<Request<B>> {
        let repeatable = [Method::GET, Method::HEAD].contains(request.method());
        repeatable.then(|| request.clone())
    }
}

// What happens to it.

#[tokio::main(flavor = "current_thread")]
async fn main() -> anyhow::Result<()> {
    tracing_subscriber::registry()
        .with(
            tracing_subscriber::fmt::layer()
                .with_ansi(false)
                .with_level(false)
                .with_target(false)
                .without_time(),
        )
        .with(Targets::new().with_target("full_stack", tracing::Level::INFO))
        .init();
    let anyreach = FakeAnyreach::builder()
        .api_key("ak_old.secret", "org_acme", ["agents:read"])
        .start()
        .await?;
    let elsewhere = FakeAnyreach::builder().start().await?;

    // Where operators put the key: a vault, a file, a watched value.
    let (vault, key) = watch::channel("ak_old.secret");
    let store = CredentialStore::load(move || {
        let key = Credential::parse(*key.borrow());
        async { Ok(key?) }
    })
    .await?;
    let faults = Faults::default();
    let client = stack(store.clone(), anyreach.origin(), faulty(faults.clone()));
    let agents = anyreach.uri("/core/agents");

    println!("A call that goes well:");
    let outcome = get(&client, &agents).await;
    ensure!(matches!(outcome, Ok(StatusCode::OK)));
    println!("Anyreach answered {}.", answers(&anyreach, 0));

    println!("\nThe key is rotated, and nobody tells the store:");
    vault.send("ak_new.secret")?;
    anyreach.rotate("ak_old.secret", "ak_new.secret");
    let outcome = get(&client, &agents).await;
    ensure!(matches!(outcome, Ok(StatusCode::OK)));
    println!("Anyreach answered {}.", answers(&anyreach, 1));
    println!(
        "In force: {}, version {}.",
        store.credential().id(),
        store.version()
    );

    println!("\nTwo answers of 503:");
    faults.lock().await.extend([Fault::Busy, Fault::Busy]);
    let outcome = get(&client, &agents).await;
    ensure!(matches!(outcome, Ok(StatusCode::OK)));
    println!("After both, Anyreach answered {}.", answers(&anyreach, 3));

    println!("\nA redirect to another host:");
    let there = elsewhere.uri("/core/agents").to_string();
    let there: Uri = there.replace("127.0.0.1", "localhost").parse()?;
    faults.lock().await.push_back(Fault::Redirect(there));
    let error = failure(get(&client, &agents).await)?;
    let error = Error::find(error.as_ref()).context("not ours")?;
    ensure!(error.is_refused());
    println!(
        "The other host received {} requests.",
        elsewhere.received().len()
    );

    println!("\nAn attempt without an answer:");
    faults.lock().await.push_back(Fault::Silence);
    let error = failure(get(&client, &agents).await)?;
    // The inner limit is a service that failed, to the layer.
    ensure!(matches!(error.downcast_ref(), Some(Error::Service(_))));
    println!("{:#}.", anyhow::Error::from_boxed(error));

    println!("\n503 for longer than all attempts may take:");
    faults.lock().await.extend(vec![Fault::Busy; 9]);
    let error = failure(get(&client, &agents).await)?;
    // The outer limit is outside of the layer, and none of its errors.
    ensure!(Error::find(error.as_ref()).is_none() && error.is::<Elapsed>());
    println!("{:#}.", anyhow::Error::from_boxed(error));

    ensure!(anyreach.violations().is_empty());
    Ok(())
}

/// Sends a request, reads the answer to its end, and returns the status.
async fn get<S, R>(client: &S, uri: &Uri) -> Result<StatusCode, BoxError>
where
    S: Service<Request<Full<Bytes>>, Response = Response<R>, Error = BoxError> + Clone,
    R: Body<Error: Into<BoxError>>,
{
    let request = Request::get(uri.clone()).body(Full::default())?;
    let response = client.clone().oneshot(request).await?;
    let status = response.status();
    // A connection is used again only if its answer was read.
    response.into_body().collect().await.map_err(Into::into)?;
    Ok(status)
}

/// What goes wrong below the stack, one for each request that gets there.
type Faults = Arc<Mutex<VecDeque<Fault>>>;

#[derive(Clone)]
enum Fault {
    Busy,
    Redirect(Uri),
    Silence,
}

type Answer = Response<Either<Incoming, Empty<Bytes>>>;

/// hyper's client, and in its place a fault as long as there are any.
fn faulty(
    faults: Faults,
) -> impl Service<Request<Full<Bytes>>, Response = Answer, Error = BoxError, Future: Send> + Clone {
    let client: Client<HttpConnector, _> = Client::builder(TokioExecutor::new()).build_http();
    service_fn(move |request: Request<Full<Bytes>>| {
        let (client, faults) = (client.clone(), Arc::clone(&faults));
        async move {
            let fault = faults.lock().await.pop_front();
            let empty = Either::Right(Empty::new());
            let answer = match fault {
                None => client.request(request).await?.map(Either::Left),
                Some(Fault::Busy) => Response::builder()
                    .status(StatusCode::SERVICE_UNAVAILABLE)
                    .body(empty)?,
                Some(Fault::Redirect(to)) => Response::builder()
                    .status(StatusCode::TEMPORARY_REDIRECT)
                    .header(LOCATION, to.to_string())
                    .body(empty)?,
                Some(Fault::Silence) => pending().await,
            };
            Ok::<Answer, BoxError>(answer)
        }
    })
}

/// How the server answered, from its request number `first` on.
fn answers(anyreach: &FakeAnyreach, first: usize) -> String {
    let received = anyreach.received();
    let answers = received[first..].iter();
    let answers: Vec<_> = answers
        .map(|request| request.status().as_str().to_owned())
        .collect();
    answers.join(", then ")
}

fn failure(outcome: Result<StatusCode, BoxError>) -> anyhow::Result<BoxError> {
    match outcome {
        Ok(status) => bail!("{status} instead of a failure"),
        Err(error) => Ok(error),
    }
}
