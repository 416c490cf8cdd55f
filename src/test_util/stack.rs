//! Finds unsound orders of layers, by driving a stack with a probe in place of the HTTP client.
//!
//! [`Drive`] sends the requests one by one. [`StackProbe`] answers by their path, and records the
//! heads that reach it. Findings come from those heads. They come from the outcome only where
//! necessary, because a stack may have responses and errors of its own.

use std::convert::Infallible;
use std::fmt;
use std::future::{Future, poll_fn, ready};
use std::marker::PhantomData;
use std::pin::{Pin, pin};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::header::{AUTHORIZATION, CACHE_CONTROL, CONTENT_TYPE, HOST, LOCATION};
use http::request::Parts;
use http::uri::{Authority, Scheme};
use http::{HeaderName, HeaderValue, Request, Response, Uri};
use http_body_util::Full;
use tokio::sync::Notify;
use tokio::time::timeout;
use tower_service::Service;

use super::lock;
use crate::authorize::{Anonymous, ORGANIZATION};
use crate::credential::{Credential, PersonalAccessToken};
use crate::denial::Denial;
use crate::error::{BoxError, Error};
use crate::organization::OrganizationId;
use crate::origin::{Destination, Origin};
use crate::store::CredentialStore;

const OLD: &str = "pat_b2xk";
const NEW: &str = "pat_bmV3";
const OWN: &str = "pat_b3du";
const OWN_ORG: &str = "org_own";
const PATIENCE: Duration = Duration::from_secs(10);
/// The time for which the probe keeps a request of one tenant in flight if that of another does not
/// arrive.
const OVERLAP: Duration = Duration::from_millis(50);
/// The redirects of the probe, from a path at the origin.
const REDIRECTS: [(&str, &str); 7] = [
    ("/elsewhere", "https://elsewhere.example/"),
    ("/plain-http", "http://api.anyreach.ai/"),
    ("/other-port", "https://api.anyreach.ai:8443/"),
    ("/credential", "/moved/credential"),
    ("/store", "/moved/store"),
    ("/organization", "/moved/organization"),
    ("/anonymous", "/moved/anonymous"),
];

/// Drives a stack of layers as clients do and as hostile servers would, and returns what is unsound
/// about its order.
///
/// `stack` receives a store, to create the [`AnyreachAuthLayer`](crate::AnyreachAuthLayer) with,
/// and a [`StackProbe`] in place of the HTTP client. The check sends these requests for
/// `https://api.anyreach.ai` through the stack that it returns:
///
/// 1. one whose credential was replaced in the source;
/// 2. one that is forbidden;
/// 3. three that are redirected: to another host, and to the origin's host by plain http and at
///    another port;
/// 4. four that are redirected at the origin, each with another extension: a credential, a store,
///    an organization, `Anonymous`;
/// 5. two for one URI by two tenants, first in turn, with answers that caches may store, then at
///    the same time.
///
/// The check ends with [`StackFinding::NotAnswered`] if one of them has no response within 10
/// seconds. It does not find layers on the wrong side that send no credential to a wrong place,
/// such as limits, time limits and decompression. A client that sends the path alone hides the
/// scheme, which is then taken for https. The stack needs the given store, the default origin and
/// [`IntoError`](crate::DeniedResponses::IntoError); for `per_request`, insert the store into each
/// request in a layer outside.
///
/// # Examples
///
/// ```
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() {
/// # #[cfg(feature = "retry")] {
/// use tower::ServiceBuilder;
/// use tower_anyreach::{AnyreachAuthLayer, retry::RefreshPolicy, test_util::check_stack};
///
/// let findings = check_stack::<_, String, _>(|store, probe| {
///     ServiceBuilder::new()
///         .retry(RefreshPolicy::new())
///         .layer(AnyreachAuthLayer::new(store))
///         .service(probe)
/// })
/// .await;
/// assert_eq!(findings, []);
/// # }
/// # }
/// ```
///
/// # Panics
///
/// Panics outside a tokio runtime whose timer is enabled, as that of `tokio::test` is.
pub async fn check_stack<S, B, R>(
    stack: impl FnOnce(CredentialStore, StackProbe) -> S,
) -> Vec<StackFinding>
where
    S: Service<Request<B>, Response = Response<R>>,
    S::Error: Into<BoxError>,
    B: Default,
{
    // The first fetch is that of `load`.
    let is_loaded = AtomicBool::new(false);
    let store = CredentialStore::load(move || {
        let is_loaded = is_loaded.swap(true, Ordering::Relaxed);
        ready(Ok(token(if is_loaded { NEW } else { OLD }, "org_check")))
    })
    .await
    .expect("the source of a check gives a credential");
    let probe = StackProbe {
        seen: Arc::default(),
        is_ready: false,
    };
    let mut drive = Drive {
        seen: Arc::clone(&probe.seen),
        stack: stack(store, probe),
        findings: Vec::new(),
        body: PhantomData,
    };
    if drive.run().await.is_none() {
        drive.find(StackFinding::NotAnswered);
    }
    if drive.seen.was_called_unready.load(Ordering::Relaxed) {
        drive.find(StackFinding::CalledUnready);
    }
    drive.findings
}

/// A finding of [`check_stack`]: a defect in the order of a stack. `Display` names its remedy.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum StackFinding {
    /// A request reached the origin without exactly one `Authorization`, marked sensitive, and one
    /// `X-Anyreach-Org`.
    NotAuthenticated,
    /// A credential, or the organization, was sent to a host other than the origin's.
    LeftOrigin,
    /// A credential, or the organization, was sent to the origin's host with another scheme or
    /// port, and not to another host.
    LeftSchemeOrPort,
    /// After a 401 the replacement credential was not tried.
    NotReplayed,
    /// After a 401 the denied credential was sent again.
    RefusedSentAgain,
    /// The stack returned a 403 neither as an [`Error`] that [`Error::find`] finds, nor as a
    /// response with its [`Denial`].
    DenialLost,
    /// A request, or its redirect at the origin, reached the client without the effect of the
    /// request's own extension.
    OverrideLost,
    /// A request received the response to another tenant's request.
    TenantsMixed,
    /// The innermost service was called without having been polled ready.
    CalledUnready,
    /// A request had no response within 10 seconds.
    NotAnswered,
}

impl fmt::Display for StackFinding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NotAuthenticated => {
                "a request reached the origin without its credential: put the layer in the path \
                 of all requests, and nothing inside it that changes its headers"
            }
            Self::LeftOrigin => {
                "credentials were sent to another host: follow redirects outside the layer only"
            }
            Self::LeftSchemeOrPort => {
                "credentials were sent to the origin's host with another scheme or port: put no \
                 layer inside that follows redirects or compares hosts by name alone"
            }
            Self::NotReplayed => {
                "a replaced credential was not tried after a 401: put a `Retry` with \
                 `RefreshPolicy` outside the layer"
            }
            Self::RefusedSentAgain => {
                "the denied credential was sent again after a 401: put every layer \
                 that retries outside"
            }
            Self::DenialLost => {
                "a denial was lost: put nothing outside the layer that replaces errors"
            }
            Self::OverrideLost => {
                "a request's own extension was lost: let nothing outside the layer drop \
                 extensions, and give tower-http 0.7's `FollowRedirect` a `RedirectPolicy`"
            }
            Self::TenantsMixed => {
                "one tenant received the response to another's request: put caches and request \
                 coalescing inside the layer, keyed by `authorization` and `x-anyreach-org`"
            }
            Self::CalledUnready => {
                "the innermost service was called unready: let each layer call the service that \
                 it polled, not a clone of it"
            }
            Self::NotAnswered => {
                "a request had no response within 10 seconds: let no layer delay a request until \
                 another one arrives or ends"
            }
        })
    }
}

/// The innermost service of a stack that [`check_stack`] drives, in place of the HTTP client.
pub struct StackProbe {
    seen: Arc<Seen>,
    is_ready: bool,
}

#[derive(Default)]
struct Seen {
    arrived: Mutex<Vec<Parts>>,
    was_called_unready: AtomicBool,
    /// Wakes the first of two simultaneous requests when the second arrives.
    second_arrived: Notify,
}

/// A clone must be polled ready by itself.
impl Clone for StackProbe {
    fn clone(&self) -> Self {
        Self {
            seen: Arc::clone(&self.seen),
            is_ready: false,
        }
    }
}

impl fmt::Debug for StackProbe {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StackProbe").finish_non_exhaustive()
    }
}

impl<B> Service<Request<B>> for StackProbe {
    type Response = Response<Full<Bytes>>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Infallible>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.is_ready = true;
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let (head, _) = request.into_parts();
        let response = answer(&head);
        let is_simultaneous = head.uri.path() == "/at-once";
        let seen = Arc::clone(&self.seen);
        if !std::mem::take(&mut self.is_ready) {
            seen.was_called_unready.store(true, Ordering::Relaxed);
        }
        lock(&seen.arrived).push(head);
        let is_second = lock(&seen.arrived).len() > 1;
        Box::pin(async move {
            if is_simultaneous && is_second {
                seen.second_arrived.notify_one();
            } else if is_simultaneous {
                // If the other tenant's request has not arrived by then, it joined this one, or
                // waits for its end.
                let _ = timeout(OVERLAP, seen.second_arrived.notified()).await;
            }
            Ok(response)
        })
    }
}

/// Returns the response of the probe to a request.
fn answer(head: &Parts) -> Response<Full<Bytes>> {
    let path = head.uri.path();
    let location = REDIRECTS.iter().find(|(from, _)| *from == path);
    let response = match path {
        "/rotated" if !carries(head, NEW) => Response::builder().status(401),
        "/forbidden" => Response::builder().status(403),
        // RFC 9111 section 3: without it, a cache need not store the answer.
        "/in-turn" => Response::builder().header(CACHE_CONTROL, "max-age=60"),
        _ => match location {
            Some((_, to)) => Response::builder().status(307).header(LOCATION, *to),
            None => Response::builder(),
        },
    };
    let response = response.header(CONTENT_TYPE, "application/json");
    response.body(Full::default()).expect("a valid head")
}

/// A check in progress.
struct Drive<S, B> {
    stack: S,
    seen: Arc<Seen>,
    findings: Vec<StackFinding>,
    body: PhantomData<fn(B)>,
}

impl<S, B, R> Drive<S, B>
where
    S: Service<Request<B>, Response = Response<R>>,
    S::Error: Into<BoxError>,
    B: Default,
{
    /// Sends all requests; `None` if one is not answered in time.
    async fn run(&mut self) -> Option<()> {
        let (arrived, outcome) = self.send("/rotated", ()).await?;
        self.judge_rotation(&arrived, outcome.is_ok());
        self.judge_heads(&arrived);
        let (arrived, outcome) = self.send("/forbidden", ()).await?;
        self.judge_denial(&outcome);
        self.judge_heads(&arrived);
        for path in ["/elsewhere", "/plain-http", "/other-port"] {
            let (arrived, _) = self.send(path, ()).await?;
            self.judge_heads(&arrived);
            if self.findings.contains(&StackFinding::LeftOrigin) {
                break; // The remedy is the same.
            }
        }
        self.check_overrides().await?;
        self.check_tenants().await
    }

    /// Sends a request with one extension, and returns the heads that reach the probe for it.
    async fn send(
        &mut self,
        path: &str,
        extension: impl Clone + Send + Sync + 'static,
    ) -> Option<(Vec<Parts>, Result<Response<R>, BoxError>)> {
        let outcome = timeout(PATIENCE, send(&mut self.stack, request(path, extension))).await;
        let arrived = std::mem::take(&mut *lock(&self.seen.arrived));
        Some((arrived, outcome.ok()?))
    }

    /// Sends requests that have extensions of their own; each is redirected at the origin.
    async fn check_overrides(&mut self) -> Option<()> {
        let own = token(OWN, OWN_ORG);
        let is_own = |head: &Parts| carries(head, OWN) && has(head, &ORGANIZATION, OWN_ORG);
        let (arrived, _) = self.send("/credential", own.clone()).await?;
        self.judge_override(&arrived, is_own);
        let (arrived, _) = self.send("/store", CredentialStore::new(own)).await?;
        self.judge_override(&arrived, is_own);
        let (arrived, _) = self.send("/organization", organization(OWN_ORG)).await?;
        self.judge_override(&arrived, |head| has(head, &ORGANIZATION, OWN_ORG));
        let (arrived, _) = self.send("/anonymous", Anonymous).await?;
        self.judge_override(&arrived, |head| !head.headers.contains_key(AUTHORIZATION));
        Some(())
    }

    /// Sends requests of two tenants for one URI: in turn, for caches, and at once, for what joins
    /// equal requests.
    async fn check_tenants(&mut self) -> Option<()> {
        let tenants = [organization("org_one"), organization("org_two")];
        let [one, two] = tenants.clone();
        let _ = self.send("/in-turn", one).await?;
        let (arrived, outcome) = self.send("/in-turn", two).await?;
        let is_cached = outcome.is_ok() && arrived.is_empty();

        let [one, two] = tenants.map(|tenant| request("/at-once", tenant));
        let is_answered = timeout(PATIENCE, send_both(&mut self.stack, one, two)).await;
        let is_joined = is_answered.ok()? && lock(&self.seen.arrived).len() < 2;
        if is_cached || is_joined {
            self.find(StackFinding::TenantsMixed);
        }
        Some(())
    }

    fn find(&mut self, finding: StackFinding) {
        if !self.findings.contains(&finding) {
            self.findings.push(finding);
        }
    }

    fn judge_rotation(&mut self, arrived: &[Parts], succeeded: bool) {
        let denied = arrived.iter().filter(|head| !carries(head, NEW)).count();
        if denied > 1 {
            self.find(StackFinding::RefusedSentAgain);
        }
        if !succeeded || denied == arrived.len() {
            self.find(StackFinding::NotReplayed);
        }
    }

    fn judge_denial(&mut self, outcome: &Result<Response<R>, BoxError>) {
        match outcome {
            Ok(response) if response.extensions().get::<Denial>().is_some() => {}
            Err(error) if Error::find(error.as_ref()).is_some_and(Error::is_forbidden) => {}
            _ => self.find(StackFinding::DenialLost),
        }
    }

    fn judge_override(&mut self, arrived: &[Parts], is_kept: impl Fn(&Parts) -> bool) {
        self.judge_heads(arrived);
        let is_lost = |head| judge(head).is_none() && !is_kept(head);
        if arrived.iter().any(is_lost) {
            self.find(StackFinding::OverrideLost);
        }
    }

    fn judge_heads(&mut self, arrived: &[Parts]) {
        let findings = arrived.iter().filter_map(judge);
        findings.for_each(|finding| self.find(finding));
    }
}

/// Judges the two headers of one head by where it goes.
fn judge(head: &Parts) -> Option<StackFinding> {
    let authorization: Vec<_> = head.headers.get_all(AUTHORIZATION).iter().collect();
    let organizations = head.headers.get_all(ORGANIZATION).iter().count();
    // A bare connection takes a request with `Host` and the path.
    let host = head.headers.get(HOST).map(HeaderValue::as_bytes);
    let mut uri = head.uri.clone().into_parts();
    if uri.authority.is_none() {
        uri.authority = host.and_then(|host| Authority::try_from(host).ok());
        uri.scheme = uri.authority.as_ref().map(|_| Scheme::HTTPS);
    }
    let uri = Uri::from_parts(uri).unwrap_or_default();
    let destination = Origin::default().destination(&uri);
    match (destination, authorization.as_slice(), organizations) {
        (Destination::Origin, [value], 1) if value.is_sensitive() => None,
        (Destination::Origin, ..) if head.uri.path().ends_with("/anonymous") => None,
        (Destination::Origin, ..) => Some(StackFinding::NotAuthenticated),
        (_, [], 0) => None,
        (Destination::NearMiss { .. }, ..) => Some(StackFinding::LeftSchemeOrPort),
        _ => Some(StackFinding::LeftOrigin),
    }
}

fn carries(head: &Parts, token: &str) -> bool {
    has(head, &AUTHORIZATION, &format!("Bearer {token}"))
}

fn has(head: &Parts, name: &HeaderName, value: &str) -> bool {
    head.headers.get(name).map(HeaderValue::as_bytes) == Some(value.as_bytes())
}

fn organization(text: &str) -> OrganizationId {
    OrganizationId::try_from(text).expect("visible ASCII")
}

fn token(text: &str, of: &str) -> Credential {
    let token = PersonalAccessToken::new(text).expect("a personal access token");
    token.for_organization(organization(of)).into()
}

fn request<B: Default>(path: &str, extension: impl Clone + Send + Sync + 'static) -> Request<B> {
    let mut request = Request::new(B::default());
    *request.uri_mut() = Origin::default().uri(path).expect("a path");
    request.extensions_mut().insert(extension);
    request
}

async fn send<S, B>(stack: &mut S, request: Request<B>) -> Result<S::Response, BoxError>
where
    S: Service<Request<B>>,
    S::Error: Into<BoxError>,
{
    let ready = poll_fn(|cx| stack.poll_ready(cx)).await;
    ready.map_err(Into::into)?;
    stack.call(request).await.map_err(Into::into)
}

/// Sends the second request while the first is in flight; returns whether the second one was
/// answered.
async fn send_both<S, B>(stack: &mut S, first: Request<B>, second: Request<B>) -> bool
where
    S: Service<Request<B>>,
    S::Error: Into<BoxError>,
{
    if poll_fn(|cx| stack.poll_ready(cx)).await.is_err() {
        return false;
    }
    let mut first = pin!(Some(stack.call(first)));
    let mut second = pin!(send(stack, second));
    let both = poll_fn(|cx| {
        let in_flight = first.as_mut().as_pin_mut();
        if in_flight.is_some_and(|first| first.poll(cx).is_ready()) {
            // It may hold a permit that the second request needs.
            first.set(None);
        }
        second.as_mut().poll(cx)
    });
    both.await.is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[should_panic(expected = "the source of a check gives a credential")]
    fn check_stack_panics_outside_of_a_runtime() {
        let found = support::runtime::without_runtime(check_stack::<_, (), _>(|_, probe| probe));
        unreachable!("{found:?}");
    }
}
