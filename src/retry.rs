//! Replaying after a 401, as a policy for tower's `Retry`.
//!
//! The layer reports a 401 to its store before the policy sees it, so all that is left to decide is whether to send again: at once
//! if another credential is in force, after a wait if a fetch is to be waited for, and otherwise not. The first denial travels in
//! the copy that is sent, as the private extension `Replay`. `authorize` takes it out, and returns it in place of a request that
//! would be sent with what was denied. A copy that carries it is not copied again, which alone makes replays at most one.

use std::fmt;
use std::future::{self, Future};
use std::pin::Pin;
use std::time::Duration;

use http::{Method, Request, Response};
use tower::retry::Policy;

use crate::authorize::{Anonymous, Replay};
use crate::credential::Credential;
use crate::denial::{MAX_WAIT, Renewal};
use crate::error::{BoxError, Error};

/// Replays a request once after a 401, if its store has another credential in force by then.
///
/// A policy for [`tower::retry::Retry`], outside of [`AnyreachAuth`](crate::AnyreachAuth) and inside of redirects, for stacks whose
/// error is [`Error`] or [`BoxError`]. It needs no store, because a denial knows its own. After an [`Error::Unauthorized`]:
///
/// 1. If the store has another credential in force than the one that the request left with, the request is replayed.
/// 2. If there is no fetch to wait for, the denial is the answer at once. That is so without a source, while the source rests, and
///    for a request's own [`Credential`].
/// 3. Otherwise the policy waits for the fetch that the 401 led to, for at most [`max_wait`](Self::max_wait). It begins one only
///    where that one ended with its runtime. If the replay would then be sent with what was denied, the first denial is the
///    answer, without any I/O. tower has decided for the replay by then, and waits for the readiness of the stack below: a limit
///    there may hold up the denial for a second permit, and an error of that readiness comes in its place.
///
/// Each request that the policy sees is replayed at most once. Copies of an outer `Retry` or `Hedge` are requests of their own:
/// each may be replayed once, and only with another credential; of a hedge, the first answer wins, be it a denial.
///
/// Any method is replayed, because a 401 is taken to be given before anything is done; Anyreach does not document that, and a
/// proxy's 401 is replayed as well. Where redirects are followed inside of the policy, which is the wrong order, a `GET` that
/// a redirect made of another method is not replayed. Never replayed are a 403, and a denial under
/// [`PassThrough`](crate::DeniedResponses::PassThrough).
///
/// tower clones each request up front. The body must be [`Clone`], unless
/// [`clone_body_with`](RefreshPolicy::clone_body_with) says how to clone it. A clone that shares its data with the original, such as a
/// handle of one stream, is empty once the original was sent, and so is the replay. A layer that keeps requests between this policy
/// and [`AnyreachAuth`](crate::AnyreachAuth), to send them later, has to clear their extensions.
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
///     .retry(RefreshPolicy::new())
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
#[derive(Clone)]
pub struct RefreshPolicy<C = ByClone> {
    max_wait: Duration,
    clone_body: C,
}

/// Ready when the request is to be sent again.
type RefreshFuture = Pin<Box<dyn Future<Output = ()> + Send>>;

/// Clones bodies by their [`Clone`]: the default of [`RefreshPolicy`].
#[derive(Debug, Clone, Copy, Default)]
pub struct ByClone;

/// How a [`RefreshPolicy`] clones bodies; sealed.
#[diagnostic::on_unimplemented(
    message = "`RefreshPolicy` cannot clone the body `{B}`",
    label = "the body is not `Clone`",
    note = "use `RefreshPolicy::new().clone_body_with(..)`; where it returns `None`, a request is not replayed"
)]
pub trait CloneBody<B>: sealed::CloneBody<B> {}

impl<B, C: sealed::CloneBody<B>> CloneBody<B> for C {}

mod sealed {
    #[allow(unnameable_types, reason = "sealed")]
    pub trait CloneBody<B> {
        fn clone_body(&self, body: &B) -> Option<B>;
    }

    impl<B: Clone> CloneBody<B> for super::ByClone {
        fn clone_body(&self, body: &B) -> Option<B> {
            Some(body.clone())
        }
    }

    impl<B, F: Fn(&B) -> Option<B>> CloneBody<B> for F {
        fn clone_body(&self, body: &B) -> Option<B> {
            self(body)
        }
    }
}

impl RefreshPolicy {
    /// Creates a policy that clones bodies by their [`Clone`].
    #[must_use]
    pub fn new() -> Self {
        Self {
            max_wait: MAX_WAIT,
            clone_body: ByClone,
        }
    }
}

impl Default for RefreshPolicy {
    fn default() -> Self {
        Self::new()
    }
}

impl<C> RefreshPolicy<C> {
    /// Sets how long a denied request waits for another credential.
    ///
    /// Set it below the total timeout of the stack, so that a known denial does not become a timeout. Where polls may hang, set
    /// [`Loader::timeout`](crate::Loader::timeout) to at most half of it, because a request may wait for two fetches in turn.
    ///
    /// Default: 3 seconds.
    #[must_use]
    pub fn max_wait(mut self, max_wait: Duration) -> Self {
        self.max_wait = max_wait;
        self
    }

    /// Clones bodies with this function. A request whose body it returns `None` for is sent and not replayed.
    ///
    /// # Examples
    ///
    /// A body that is either bytes, which can be replayed, or a stream, which cannot:
    ///
    /// ```
    /// use bytes::Bytes;
    /// use http_body_util::{Either, Full, combinators::BoxBody};
    /// use tower::ServiceBuilder;
    /// use tower_anyreach::{AnyreachAuthLayer, OrganizationApiKey, retry::RefreshPolicy};
    ///
    /// type Body = Either<Full<Bytes>, BoxBody<Bytes, std::io::Error>>;
    ///
    /// let policy = RefreshPolicy::new().clone_body_with(|body: &Body| match body {
    ///     Either::Left(bytes) => Some(Either::Left(bytes.clone())),
    ///     Either::Right(_) => None,
    /// });
    /// let auth = AnyreachAuthLayer::new(OrganizationApiKey::new("ak_4711.c2VjcmV0")?);
    /// let client = ServiceBuilder::new().retry(policy).layer(auth);
    /// # let _ = client;
    /// # Ok::<(), tower_anyreach::InvalidCredential>(())
    /// ```
    #[must_use]
    pub fn clone_body_with<B, F>(self, clone_body: F) -> RefreshPolicy<F>
    where
        F: Fn(&B) -> Option<B>,
    {
        RefreshPolicy {
            max_wait: self.max_wait,
            clone_body,
        }
    }

    /// Copies a request that may be replayed, for policies that wrap this one: their `clone_request` returns it.
    ///
    /// `None`: the body cannot be cloned; the request is a replay already; or it is [`Anonymous`] or has a [`Credential`] of its own,
    /// which no store renews.
    pub fn copy_request<B>(&self, request: &Request<B>) -> Option<Request<B>>
    where
        C: CloneBody<B>,
    {
        let extensions = request.extensions();
        let is_final = extensions.get::<Replay>().is_some()
            || extensions.get::<Anonymous>().is_some()
            || extensions.get::<Credential>().is_some();
        if is_final {
            return None;
        }
        let mut copy = Request::new(self.clone_body.clone_body(request.body())?);
        copy.method_mut().clone_from(request.method());
        copy.uri_mut().clone_from(request.uri());
        *copy.version_mut() = request.version();
        copy.headers_mut().clone_from(request.headers());
        copy.extensions_mut().clone_from(extensions);
        Some(copy)
    }

    fn decide<B>(&self, copy: &mut Request<B>, error: &Error) -> Option<RefreshFuture> {
        let Error::Unauthorized(denial) = error else {
            return None;
        };
        let was_redirected = denial.is_get() && copy.method() != Method::GET;
        if was_redirected {
            return None;
        }
        let report = denial.report()?;
        let wait = match report.renewal() {
            Renewal::Yes => Box::pin(future::ready(())),
            Renewal::Pending => report.wait(self.max_wait),
            Renewal::No => return None,
        };
        copy.extensions_mut().insert(Replay(denial.clone()));
        Some(wait)
    }
}

impl<B, R, C: CloneBody<B>> Policy<Request<B>, Response<R>, Error> for RefreshPolicy<C> {
    type Future = RefreshFuture;

    fn retry(
        &mut self,
        request: &mut Request<B>,
        result: &mut Result<Response<R>, Error>,
    ) -> Option<Self::Future> {
        self.decide(request, result.as_ref().err()?)
    }

    fn clone_request(&mut self, request: &Request<B>) -> Option<Request<B>> {
        self.copy_request(request)
    }
}

impl<B, R, C: CloneBody<B>> Policy<Request<B>, Response<R>, BoxError> for RefreshPolicy<C> {
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
        self.copy_request(request)
    }
}

impl<C> fmt::Debug for RefreshPolicy<C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RefreshPolicy")
            .field("max_wait", &self.max_wait)
            .finish_non_exhaustive()
    }
}
