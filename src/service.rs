//! Readiness and hand-over: the Tower side of the layer, and nothing else.

use std::fmt;
use std::task::{Context, Poll};

use http::{Request, Response};
use http_body::Body;
use tower_service::Service;

use crate::attach::attach;
use crate::authorize::{Rules, decide};
use crate::cores::{PerCore, this_core};
use crate::error::{BoxError, Error};
use crate::events;
use crate::future::{Reading, ResponseFuture};
use crate::store::{CredentialStore, Nearest};

/// Middleware that authenticates requests to the Anyreach API.
///
/// It is made by [`AnyreachAuthLayer`](crate::AnyreachAuthLayer), whose documentation has the options and an
/// example. Whatever goes wrong comes from the response future; `poll_ready` forwards the inner service's
/// readiness and does nothing else. The inner service is not cloned: the one that was polled ready is called.
///
/// # Clone
///
/// A clone shares the layer's credential and configuration, and clones the inner service, whose readiness is
/// its own.
///
/// # Examples
///
/// ```
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// use http::Request;
/// use tower::{Layer, ServiceExt};
/// use tower_anyreach::test_util::{FakeAnyreach, FakeService};
/// use tower_anyreach::{AnyreachAuth, AnyreachAuthLayer, OrganizationApiKey};
///
/// struct Agents {
///     client: AnyreachAuth<FakeService>,
/// }
///
/// let anyreach = FakeAnyreach::builder().api_key("ak_id.secret", "org_acme", ["agents:read"]).in_memory();
/// let layer = AnyreachAuthLayer::new(OrganizationApiKey::new("ak_id.secret")?);
/// let agents = Agents { client: layer.layer(anyreach.service()) };
///
/// let request = Request::get(anyreach.uri("/core/agents")).body(String::new())?;
/// assert_eq!(agents.client.clone().oneshot(request).await?.status(), 200);
/// # Ok(()) }
/// ```
#[derive(Clone)]
pub struct AnyreachAuth<S> {
    inner: S,
    shared: PerCore<Shared>,
    nearest: Nearest,
}

/// What all services of one layer share.
#[derive(Clone)]
pub(crate) struct Shared {
    pub(crate) store: Option<CredentialStore>,
    pub(crate) rules: Rules,
    pub(crate) reading: Reading,
}

impl<S> AnyreachAuth<S> {
    pub(crate) fn new(inner: S, shared: Shared) -> Self {
        Self {
            inner,
            shared: PerCore::new(shared),
            nearest: Nearest::default(),
        }
    }

    /// The service has come to another core, and counts that one's references from here on.
    #[cold]
    fn move_to(&mut self, core: usize) {
        self.shared = self.shared.on(core);
        self.nearest = Nearest::default();
    }

    /// Returns the inner service.
    ///
    /// # Examples
    ///
    /// ```
    /// use tower::Layer;
    /// use tower_anyreach::{AnyreachAuthLayer, OrganizationApiKey};
    ///
    /// struct Client {
    ///     connections: usize,
    /// }
    ///
    /// let client = AnyreachAuthLayer::new(OrganizationApiKey::new("ak_4711.c2VjcmV0")?).layer(Client { connections: 8 });
    /// assert_eq!(client.get_ref().connections, 8);
    /// # Ok::<(), tower_anyreach::InvalidCredential>(())
    /// ```
    pub fn get_ref(&self) -> &S {
        &self.inner
    }

    /// Returns the inner service for changing it; what is called through it is not authenticated.
    ///
    /// # Examples
    ///
    /// ```
    /// use tower::Layer;
    /// use tower_anyreach::{AnyreachAuthLayer, OrganizationApiKey};
    ///
    /// struct Client {
    ///     connections: usize,
    /// }
    ///
    /// let mut client = AnyreachAuthLayer::new(OrganizationApiKey::new("ak_4711.c2VjcmV0")?).layer(Client { connections: 8 });
    /// client.get_mut().connections += 1;
    /// assert_eq!(client.get_ref().connections, 9);
    /// # Ok::<(), tower_anyreach::InvalidCredential>(())
    /// ```
    pub fn get_mut(&mut self) -> &mut S {
        &mut self.inner
    }

    /// Unwraps the inner service.
    ///
    /// # Examples
    ///
    /// ```
    /// use tower::Layer;
    /// use tower_anyreach::{AnyreachAuthLayer, OrganizationApiKey};
    ///
    /// let client = AnyreachAuthLayer::new(OrganizationApiKey::new("ak_4711.c2VjcmV0")?).layer("the client");
    /// assert_eq!(client.into_inner(), "the client");
    /// # Ok::<(), tower_anyreach::InvalidCredential>(())
    /// ```
    pub fn into_inner(self) -> S {
        self.inner
    }
}

impl<S, B, R> Service<Request<B>> for AnyreachAuth<S>
where
    S: Service<Request<B>, Response = Response<R>>,
    S::Error: Into<BoxError>,
    R: Body,
{
    type Response = S::Response;
    type Error = Error;
    type Future = ResponseFuture<S::Future, R>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.inner
            .poll_ready(cx)
            .map_err(|error| Error::Service(error.into()))
    }

    // The future is then built where it is polled from, instead of being copied there piece by piece.
    #[inline]
    fn call(&mut self, mut request: Request<B>) -> Self::Future {
        let core = this_core();
        if self.shared.core() != core {
            self.move_to(core);
        }
        let shared = &*self.shared;
        let snapshot = shared
            .store
            .as_ref()
            .map(|store| self.nearest.snapshot(store, core));
        let decided = decide(
            request.method(),
            request.uri(),
            request.headers(),
            request.extensions(),
            &shared.rules,
            snapshot,
        );
        let attached = match decided {
            Ok(attached) => attached,
            Err(error) => return refuse(error),
        };
        let caller_headers = shared.rules.caller_headers;
        if let Err(error) = attach(request.headers_mut(), &attached, caller_headers) {
            return refuse(error);
        }
        ResponseFuture::calling(self.inner.call(request), attached, shared.reading)
    }
}

#[cold]
fn refuse<F, R>(error: Box<Error>) -> ResponseFuture<F, R> {
    events::refused(&error);
    ResponseFuture::refused(error)
}

impl<S: fmt::Debug> fmt::Debug for AnyreachAuth<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut debug = f.debug_struct("AnyreachAuth");
        self.shared
            .fmt_fields(debug.field("inner", &self.inner))
            .finish_non_exhaustive()
    }
}

impl Shared {
    /// Adds what may be shown: no field of these holds a secret that its own `Debug` would print.
    pub(crate) fn fmt_fields<'a, 'b, 'c>(
        &self,
        debug: &'a mut fmt::DebugStruct<'b, 'c>,
    ) -> &'a mut fmt::DebugStruct<'b, 'c> {
        debug
            .field("store", &self.store)
            .field("rules", &self.rules)
            .field("reading", &self.reading)
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;
    use std::future::{Ready, ready};
    use std::thread;

    use tower::service_fn;
    use tower_layer::Layer;

    use super::*;
    use crate::credential::Credential;
    use crate::layer::AnyreachAuthLayer;

    #[test]
    fn a_service_counts_the_references_of_the_core_that_called_it_last() {
        let credential = Credential::parse("ak_4711.c2VjcmV0").expect("a key");
        let inner = service_fn(|_| -> Ready<Result<_, Infallible>> {
            ready(Ok(Response::new(String::new())))
        });
        let mut service = AnyreachAuthLayer::new(credential).layer(inner);
        for _ in 0..2 {
            // One of two threads that follow each other is on another core than this one.
            service = thread::spawn(move || {
                drop(service.call(Request::new(String::new())));
                assert_eq!(service.shared.core(), this_core());
                service
            })
            .join()
            .expect("the thread asserts");
        }
    }
}
