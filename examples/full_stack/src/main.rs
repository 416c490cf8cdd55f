//! The whole stack of layers in the documented order, with the purpose of each.
//! After a rotation a request is replayed, after a 503 it is retried, a redirect to another host is refused, and time limits end calls.
//! Runs against `FakeAnyreach`, below which a service injects faults: `cargo run -p full_stack`.
#![allow(clippy::print_stdout, reason = "an example prints its results")]

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
use tower_anyreach::follow_redirect::RedirectPolicy;
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

/// Returns the stack, from the outside in, around hyper's client or another one that does not follow redirects.
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
    let auth = AnyreachAuthLayer::new(store).origin(origin);
    ServiceBuilder::new()
        // Records one line for each call, with its final outcome.
        .layer(
            TraceLayer::new_for_http()
                .on_response(|response: &Response<_>, _: Duration, _: &Span| {
                    tracing::info!("trace: status {}", response.status().as_u16());
                })
                // The failure has the text of the error without its causes. The caller prints both.
                .on_failure(|_: ServerErrorsFailureClass, _: Duration, _: &Span| {
                    tracing::info!("trace: an error");
                }),
        )
        // Limits the call: waiting, refreshing and replaying.
        .layer(TimeoutLayer::new(ALL_ATTEMPTS))
        .layer(RetryLayer::new(WhenBusy::default()))
        // Sends each hop through the layers below as a request of its own. After a 401, only that hop is replayed.
        .layer(FollowRedirectLayer::with_policy(RedirectPolicy::new(&auth)))
        // Replays a request after a 401, if the store has another credential by then.
        .layer(RetryLayer::new(RefreshPolicy::new()))
        // Outside of the layer, so that a refused request keeps no permit.
        .layer(ConcurrencyLimitLayer::new(32))
        .layer(auth)
        // Inside of the layer, which reads the text of a denial.
        .layer(DecompressionLayer::new())
        // Inside of the layer, so that the outcome is `Error::Service`.
        .layer(TimeoutLayer::new(ONE_ATTEMPT))
        .service(client)
}

/// Retries a GET or HEAD after a 429 or 503, with a longer wait each time.
///
/// A `POST` may place a telephone call, so it is not retried.
#[derive(Clone, Default)]
struct WhenBusy {
    retries: u32,
}

impl<B: Clone, R> Policy<Request<B>, Response<R>, Error> for WhenBusy {
    type Future = Sleep;

    fn retry(
        &mut self,
        _: &mut Request<B>,
        result: &mut Result<Response<R>, Error>,
    ) -> Option<Sleep> {
        // `RefreshPolicy` handles denials, which are errors.
        let status = result.as_ref().ok()?.status();
        let busy = [
            StatusCode::TOO_MANY_REQUESTS,
            StatusCode::SERVICE_UNAVAILABLE,
        ];
        if !busy.contains(&status) || self.retries == 8 {
            return None;
        }
        let wait = Duration::from_millis(100) * 2_u32.pow(self.retries);
        self.retries += 1;
        Some(sleep(wait))
    }

    fn clone_request(&mut self, request: &Request<B>) -> Option<Request<B>> {
        let repeatable = [Method::GET, Method::HEAD].contains(request.method());
        repeatable.then(|| request.clone())
    }
}

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

    // A secret manager with one key.
    let (manager, key) = watch::channel("ak_old.secret");
    let store = CredentialStore::load(move || {
        let key = Credential::parse(*key.borrow());
        async { Ok(key?) }
    })
    .await?;
    let faults = Faults::default();
    let client = stack(store.clone(), anyreach.origin(), faulty(faults.clone()));
    let agents = anyreach.uri("/core/agents");

    println!("A successful call:");
    let outcome = get(&client, &agents).await;
    ensure_success(outcome)?;
    println!("Anyreach answered {}.", answers(&anyreach, 0));

    println!("\nThe key is rotated in the secret manager:");
    manager.send("ak_new.secret")?;
    anyreach.rotate("ak_old.secret", "ak_new.secret");
    let outcome = get(&client, &agents).await;
    ensure_success(outcome)?;
    println!("Anyreach answered {}.", answers(&anyreach, 1));
    println!(
        "In force: {}, version {}.",
        store.credential().id(),
        store.version()
    );

    println!("\nTwo responses are 503:");
    faults.lock().await.extend([Fault::Busy, Fault::Busy]);
    let outcome = get(&client, &agents).await;
    ensure_success(outcome)?;
    println!("Then Anyreach answered {}.", answers(&anyreach, 3));

    println!("\nA redirect to another host:");
    let there = elsewhere.uri("/core/agents").to_string();
    let there: Uri = there.replace("127.0.0.1", "localhost").parse()?;
    faults.lock().await.push_back(Fault::Redirect(there));
    let error = failure(get(&client, &agents).await)?;
    let error = Error::find(error.as_ref()).context("an error of another layer")?;
    ensure!(error.is_refused());
    println!("{error}.");
    println!(
        "The other host received {} requests.",
        elsewhere.received().len()
    );

    println!("\nAn attempt has no response:");
    faults.lock().await.push_back(Fault::Silence);
    let error = failure(get(&client, &agents).await)?;
    // The inner limit is inside of the layer, which returns `Error::Service`.
    ensure!(matches!(error.downcast_ref(), Some(Error::Service(_))));
    println!("{:#}.", anyhow::Error::from_boxed(error));

    println!("\nEvery response is 503, until the time limit of the call:");
    faults.lock().await.extend(vec![Fault::Busy; 9]);
    let error = failure(get(&client, &agents).await)?;
    // The outer limit is outside of the layer, so the error is tower's.
    ensure!(Error::find(error.as_ref()).is_none() && error.is::<Elapsed>());
    println!("{:#}.", anyhow::Error::from_boxed(error));

    ensure!(anyreach.violations().is_empty());
    Ok(())
}

/// Sends a request, reads the whole response, and returns its status.
async fn get<S, R>(client: &S, uri: &Uri) -> Result<StatusCode, BoxError>
where
    S: Service<Request<Full<Bytes>>, Response = Response<R>, Error = BoxError> + Clone,
    R: Body<Error: Into<BoxError>>,
{
    let request = Request::get(uri.clone()).body(Full::default())?;
    let response = client.clone().oneshot(request).await?;
    let status = response.status();
    // A connection is reused only after its response was read.
    response.into_body().collect().await.map_err(Into::into)?;
    Ok(status)
}

/// The faults below the stack, one for each request that arrives there.
type Faults = Arc<Mutex<VecDeque<Fault>>>;

#[derive(Clone)]
enum Fault {
    Busy,
    Redirect(Uri),
    Silence,
}

type Answer = Response<Either<Incoming, Empty<Bytes>>>;

/// Returns hyper's client, which is replaced by a fault as long as there are any.
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

/// Returns the statuses of the server's responses, from index `first` on.
fn answers(anyreach: &FakeAnyreach, first: usize) -> String {
    let received = anyreach.received();
    let answers = received[first..].iter();
    let answers: Vec<_> = answers
        .map(|request| request.status().as_str().to_owned())
        .collect();
    answers.join(", then ")
}

fn ensure_success(outcome: Result<StatusCode, BoxError>) -> anyhow::Result<()> {
    let status = outcome.map_err(anyhow::Error::from_boxed)?;
    ensure!(status == StatusCode::OK, "the response is {status}");
    Ok(())
}

fn failure(outcome: Result<StatusCode, BoxError>) -> anyhow::Result<BoxError> {
    match outcome {
        Ok(status) => bail!("the response is {status} in place of an error"),
        Err(error) => Ok(error),
    }
}
