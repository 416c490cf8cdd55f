//! A policy for tower's `Retry` that replays a request after a 401.

// The layer has reported the 401 to its store before the policy sees it. The policy only decides
// whether to send the request again: at once if another credential is in force, after a wait if
// there is a fetch to wait for, and otherwise not at all.
//
// tower's policy has to decide before the wait, and cannot change its mind after it. So the first
// denial travels in the copy that is sent, as the private extension `Replay`. `authorize` removes
// it, and returns that denial if the replay would be sent with the denied credential and
// organization. A copy with this extension is not copied again, which limits replays to one.

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
/// Use it with [`tower::retry::Retry`], outside [`AnyreachAuth`](crate::AnyreachAuth) and inside
/// redirects, in stacks whose error is [`Error`] or [`BoxError`]. It needs no store, because a
/// denial refers to its own. After an [`Error::Unauthorized`]:
///
/// 1. If the store has a credential in force that differs from the denied one, the request is
///    replayed.
/// 2. If there is no fetch to wait for, the denial is returned at once. That is the case without a
///    source, while the source rests, and for a request's own [`Credential`].
/// 3. Otherwise the policy waits for the fetch that the 401 started or joined, for at most
///    [`max_wait`](Self::max_wait). It starts another fetch only if that one was lost with its
///    runtime, or if the 401 came outside a runtime. If the replay would then be sent with the
///    denied credential, or its organization does not suit the new one, the first denial is
///    returned without I/O.
///
/// In case 3, tower has decided to retry, so it waits for the inner stack to become ready again. A
/// limit there may delay the denial until a second permit is free, and an error from `poll_ready`
/// or from a `LoadShed` there replaces the denial.
///
/// Each request that the policy sees is replayed at most once. Copies that an outer `Retry` or
/// `Hedge` makes are separate requests. Each may be replayed once, and only with another
/// credential. A hedge returns the first response, even if it is a denial.
///
/// Requests of any method are replayed, on the assumption that a 401 is returned before anything is
/// done. That was not found in Anyreach's documentation, and a proxy's 401 is replayed as well. A
/// 403 is never replayed, nor is a denial under
/// [`PassThrough`](crate::DeniedResponses::PassThrough). If redirects are followed inside the
/// policy, which is the wrong order, a `GET` into which a redirect turned another method is not
/// replayed.
///
/// tower clones each request before it is sent. The body has to be [`Clone`], unless
/// [`clone_body_with`](RefreshPolicy::clone_body_with) sets how to clone it. A clone that shares
/// its data with the original, such as a handle to a shared stream, is empty after the original has
/// been sent, and so is the replay. A layer between this policy and
/// [`AnyreachAuth`](crate::AnyreachAuth) that stores requests and sends them later has to clear
/// their extensions.
///
/// # Examples
///
/// ```
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// use http::{Request, Response, StatusCode, header::AUTHORIZATION};
/// use std::sync::atomic::{AtomicBool, Ordering};
/// use tower::{Service, ServiceBuilder, ServiceExt, service_fn};
/// use tower_anyreach::{
///     AnyreachAuthLayer, Credential, CredentialStore, retry::RefreshPolicy,
/// };
///
/// // A source whose first key has been revoked since.
/// static ROTATED: AtomicBool = AtomicBool::new(false);
/// let store = CredentialStore::load(async || {
///     let key = if ROTATED.load(Ordering::Relaxed) {
///         "ak_new.c2VjcmV0"
///     } else {
///         "ak_old.c2VjcmV0"
///     };
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
///         let status = if known {
///             StatusCode::OK
///         } else {
///             StatusCode::UNAUTHORIZED
///         };
///         Response::builder()
///             .status(status)
///             .body(r#"{"detail": "Invalid API key"}"#.to_owned())
///     }));
///
/// let request = Request::get("https://api.anyreach.ai/core/agents").body(String::new())?;
/// assert_eq!(
///     client.ready().await?.call(request).await?.status(),
///     StatusCode::OK
/// );
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct RefreshPolicy<C = ByClone> {
    max_wait: Duration,
    clone_body: C,
}

/// Resolves when the request is to be sent again.
type RefreshFuture = Pin<Box<dyn Future<Output = ()> + Send + Sync>>;

/// Clones bodies with [`Clone`]. It is the default of [`RefreshPolicy`].
#[derive(Debug, Clone, Copy, Default)]
pub struct ByClone;

/// Clones the bodies of a [`RefreshPolicy`]. This trait is sealed.
#[diagnostic::on_unimplemented(
    message = "`RefreshPolicy` cannot clone the body `{B}`",
    label = "the body is not `Clone`",
    note = "use `RefreshPolicy::new().clone_body_with(..)`; if it returns `None`, \
            the request is not replayed"
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
    /// Creates a policy that clones bodies with [`Clone`].
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
    /// Set it below the total timeout of the stack, so that a known denial does not become a
    /// timeout. If polls may hang, set [`Loader::timeout`](crate::Loader::timeout) to at most half
    /// of it, because a request may wait for two fetches in turn.
    ///
    /// Default: 3 seconds.
    #[must_use]
    pub fn max_wait(mut self, max_wait: Duration) -> Self {
        self.max_wait = max_wait;
        self
    }

    /// Sets the function that clones bodies. If it returns `None`, the request is sent and not
    /// replayed.
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

    /// Copies a request that may be replayed, for policies that wrap this one and return it from
    /// `clone_request`.
    ///
    /// Returns `None` if the body cannot be cloned, if the request is a replay, or if it is
    /// [`Anonymous`] or has a [`Credential`] of its own, which no store replaces.
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
        let error = Error::outermost(result.as_ref().err()?.as_ref())?;
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

#[cfg(test)]
mod tests {
    use std::convert::Infallible;
    use std::future::ready;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use http::StatusCode;
    use support::runtime::without_runtime;
    use tower::retry::Retry;
    use tower::{Layer, ServiceExt, service_fn};

    use super::*;
    use crate::{AnyreachAuthLayer, CredentialStore};

    fn get() -> Request<String> {
        let request = Request::get("https://api.anyreach.ai/");
        request.body(String::new()).expect("a request")
    }

    // `ServiceBuilder::boxed_clone_sync` requires it.
    static_assertions::assert_impl_all!(RefreshFuture: Sync);

    #[test]
    fn a_denial_that_is_only_the_cause_of_a_failure_is_not_replayed() {
        let key = |text: &str| Credential::parse(text).expect("a key");
        let store = CredentialStore::new(key("ak_old.s"));
        let denied = service_fn(|_: Request<String>| {
            let mut response = Response::new(String::new());
            *response.status_mut() = StatusCode::UNAUTHORIZED;
            ready(Ok::<_, Infallible>(response))
        });
        let client = AnyreachAuthLayer::new(store.clone()).layer(denied);
        let error = without_runtime(client.oneshot(get())).expect_err("denied");
        let denial = error.denial().expect("a denial");
        store.rotate(key("ak_new.s"));
        for (is_cause, expected) in [(false, 2), (true, 1)] {
            let arrived = AtomicUsize::new(0);
            let fails = service_fn(|_: Request<String>| {
                arrived.fetch_add(1, Ordering::Relaxed);
                let error = Error::Unauthorized(denial.clone());
                let error = if is_cause {
                    Error::Service(error.into())
                } else {
                    error
                };
                ready(Err::<Response<String>, BoxError>(error.into()))
            });
            let outcome = Retry::new(RefreshPolicy::new(), fails).oneshot(get());
            assert!(without_runtime(outcome).is_err());
            assert_eq!(arrived.into_inner(), expected, "{is_cause}");
        }
    }
}
