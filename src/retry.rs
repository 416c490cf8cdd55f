//! Replaying after a 401, as a policy for tower's `Retry`.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};

use http::{Method, Request, Response};
use tower::retry::Policy;

use crate::authorize::{Anonymous, Replay};
use crate::credential::Credential;
use crate::denial::DenialReason;
use crate::error::{BoxError, Error};
use crate::store::CredentialStore;

/// Refreshes the store after a 401 and replays the request once, if another credential is in force then.
///
/// A policy for [`tower::retry::Retry`], outside [`AnyreachAuth`](crate::AnyreachAuth), for stacks whose error is
/// [`Error`] or [`BoxError`]. It acts on [`Error::Unauthorized`] only:
///
/// 1. It asks the store to refresh. A 401 that comes late, for a credential that is no longer in force, fetches
///    nothing.
/// 2. The request is replayed at most once, and only if the credential or organization in force differs from what
///    was refused; else the first denial is the answer, without any I/O.
/// 3. Never for a 403, a missing organization, an `insufficient_scope`, a request's own [`Credential`] or
///    [`CredentialStore`], or [`Anonymous`].
/// 4. After three replays in a row that were refused as well, there are no more until a request succeeds or gets a 403,
///    or another credential comes in force. Until then a 401 has the source asked once a second at most, without
///    waiting for it.
///
/// A 401 is taken to be given before anything is done, so any method is replayed; Anyreach does not say so in as many
/// words, and a proxy's 401 is replayed as well. Nothing else is: an answer that got lost may have placed a telephone
/// call, and so may a `POST` whose redirect led to a `GET` that was refused. The body must be `Clone`, and tower clones
/// every request up front.
///
/// Where keys are rotated by hand, rotate the store before the old key is deleted: a 401 that comes in between finds
/// nothing newer to replay with.
///
/// An outer `Retry` makes its copies before this policy sees a request, so each of them is a new one to it. Give
/// such requests a [`LogicalRequest`] extension, which all copies share.
///
/// # Examples
///
/// ```
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// use std::sync::atomic::{AtomicBool, Ordering};
/// use http::{Request, Response, StatusCode, header::AUTHORIZATION};
/// use tower::{Service, ServiceBuilder, ServiceExt, service_fn};
/// use tower_anyreach::{AnyreachAuthLayer, Credential, CredentialStore, retry::RefreshPolicy};
///
/// // A source whose first key has been revoked since.
/// static ROTATED: AtomicBool = AtomicBool::new(false);
/// let store = CredentialStore::load(async || {
///     let key = if ROTATED.load(Ordering::Relaxed) { "ak_new.c2VjcmV0" } else { "ak_old.c2VjcmV0" };
///     Ok(Credential::parse(key)?)
/// })
/// .await?;
/// ROTATED.store(true, Ordering::Relaxed);
///
/// let mut client = ServiceBuilder::new()
///     .retry(RefreshPolicy::new(store.clone()))
///     .layer(AnyreachAuthLayer::new(store))
///     .service(service_fn(async |request: Request<String>| {
///         let known = request.headers()[AUTHORIZATION] == "Bearer ak_new.c2VjcmV0";
///         let status = if known { StatusCode::OK } else { StatusCode::UNAUTHORIZED };
///         Response::builder().status(status).body(r#"{"detail": "Invalid API key"}"#.to_owned())
///     }));
///
/// let request = Request::get("https://api.anyreach.ai/core/agents").body(String::new())?;
/// assert_eq!(client.ready().await?.call(request).await?.status(), StatusCode::OK);
/// # Ok(()) }
/// ```
#[derive(Debug, Clone)]
pub struct RefreshPolicy {
    store: CredentialStore,
}

impl RefreshPolicy {
    /// Creates a policy that refreshes this store, the one that the layer below was made with.
    ///
    /// With another store nothing is ever replayed.
    ///
    /// # Examples
    ///
    /// ```
    /// use tower::ServiceBuilder;
    /// use tower_anyreach::{AnyreachAuthLayer, Credential, CredentialStore, retry::RefreshPolicy};
    ///
    /// let store = CredentialStore::new(Credential::parse("ak_4711.c2VjcmV0")?);
    /// let client = ServiceBuilder::new()
    ///     .retry(RefreshPolicy::new(store.clone()))
    ///     .layer(AnyreachAuthLayer::new(store));
    /// # let _ = client;
    /// # Ok::<(), tower_anyreach::InvalidCredential>(())
    /// ```
    #[must_use]
    pub fn new(store: CredentialStore) -> Self {
        Self { store }
    }

    fn decide<B>(&self, request: &mut Request<B>, error: &Error) -> Option<RefreshFuture> {
        let Error::Unauthorized(denial) = error else {
            return None;
        };
        let was_redirected = denial.is_get() && request.method() != Method::GET;
        let extensions = request.extensions_mut();
        let refused = denial.provenance()?;
        if refused.store != self.store.id() {
            return None;
        }
        let replays = self.store.replays();
        if denial.is_replayed() {
            replays.note_fruitless(refused.version);
            return None;
        }
        let curable = !matches!(
            denial.reason(),
            DenialReason::MissingOrganization | DenialReason::InsufficientScope
        );
        if !curable || was_redirected || extensions.get::<Replay>().is_some() {
            return None;
        }
        let in_force = self.store.version();
        if replays.have_failed(in_force) {
            if replays.shall_look_again(in_force) {
                self.store.begin_refresh_after(refused.version);
            }
            return None;
        }
        let logical = extensions.get::<LogicalRequest>().cloned();
        let was_replayed =
            |logical: &LogicalRequest| logical.was_replayed.swap(true, Ordering::Relaxed);
        if logical.as_ref().is_some_and(was_replayed) {
            return None;
        }
        extensions.insert(Replay(denial.clone()));
        let store = self.store.clone();
        Some(RefreshFuture(Box::pin(async move {
            // Whatever comes of it: the replay looks at what is in force then.
            drop(store.refresh_after(refused.version).await);
            if store.version() == refused.version {
                // There is nothing to replay with: another copy may find something.
                if let Some(logical) = logical {
                    logical.was_replayed.store(false, Ordering::Relaxed);
                }
            }
        })))
    }
}

/// Marks all copies of a request as one, so that [`RefreshPolicy`] replays once for all of them.
///
/// An extension of the request, to be inserted outside of every retry.
///
/// # Examples
///
/// ```
/// use tower_anyreach::retry::LogicalRequest;
///
/// let request = http::Request::get("https://api.anyreach.ai/core/agents")
///     .extension(LogicalRequest::new())
///     .body(())?;
/// // A copy of it, as an outer `Retry` makes them, is the same logical request.
/// assert!(request.clone().extensions().get::<LogicalRequest>().is_some());
/// # Ok::<(), http::Error>(())
/// ```
#[derive(Debug, Clone, Default)]
pub struct LogicalRequest {
    was_replayed: Arc<AtomicBool>,
}

impl LogicalRequest {
    /// Creates a marker for one request and its copies.
    ///
    /// # Examples
    ///
    /// ```
    /// use tower_anyreach::retry::LogicalRequest;
    ///
    /// let mut request = http::Request::new(());
    /// request.extensions_mut().insert(LogicalRequest::new());
    /// # assert!(request.extensions().get::<LogicalRequest>().is_some());
    /// ```
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }
}

/// A request that a replay cannot help is not worth its clone.
fn clone_of<B: Clone>(request: &Request<B>) -> Option<Request<B>> {
    let extensions = request.extensions();
    let own = extensions.get::<Anonymous>().is_some() || extensions.get::<Credential>().is_some();
    (!own).then(|| request.clone())
}

impl<B: Clone, R> Policy<Request<B>, Response<R>, Error> for RefreshPolicy {
    type Future = RefreshFuture;

    fn retry(
        &mut self,
        request: &mut Request<B>,
        result: &mut Result<Response<R>, Error>,
    ) -> Option<Self::Future> {
        self.decide(request, result.as_ref().err()?)
    }

    fn clone_request(&mut self, request: &Request<B>) -> Option<Request<B>> {
        clone_of(request)
    }
}

impl<B: Clone, R> Policy<Request<B>, Response<R>, BoxError> for RefreshPolicy {
    type Future = RefreshFuture;

    fn retry(
        &mut self,
        request: &mut Request<B>,
        result: &mut Result<Response<R>, BoxError>,
    ) -> Option<Self::Future> {
        let error = Error::find(result.as_ref().err()?.as_ref())?;
        self.decide(request, error)
    }

    fn clone_request(&mut self, request: &Request<B>) -> Option<Request<B>> {
        clone_of(request)
    }
}

/// Future of [`RefreshPolicy`]: done when the refresh is, whatever has come of it.
///
/// # Examples
///
/// ```
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// use http::{Method, Request, Response};
/// use tower::retry::Policy;
/// use tower_anyreach::{Error, retry::{RefreshFuture, RefreshPolicy}};
/// use tower_anyreach::{Credential, CredentialStore};
///
/// let mut policy = RefreshPolicy::new(CredentialStore::new(Credential::parse("ak_4711.c2VjcmV0")?));
/// let mut answer: Result<Response<()>, Error> = Err(Error::Service("connection reset".into()));
/// // Nothing that a refresh could cure: no future.
/// let refresh: Option<RefreshFuture> = policy.retry(&mut Request::new(()), &mut answer);
/// assert!(refresh.is_none());
/// # Ok(()) }
/// ```
#[must_use = "futures do nothing unless polled"]
pub struct RefreshFuture(Pin<Box<dyn Future<Output = ()> + Send>>);

impl Future for RefreshFuture {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        self.0.as_mut().poll(cx)
    }
}

impl fmt::Debug for RefreshFuture {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RefreshFuture").finish_non_exhaustive()
    }
}
