//! Whether a stack of layers is in a sound order, found out by driving it.

use std::convert::Infallible;
use std::fmt;
use std::future::{Ready, ready};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::header::{AUTHORIZATION, CONTENT_TYPE, LOCATION};
use http::request::Parts;
use http::{HeaderValue, Request, Response, StatusCode};
use http_body_util::Full;
use tower_service::Service;

use super::lock;
use crate::authorize::ORGANIZATION;
use crate::credential::{Credential, PersonalAccessToken};
use crate::denial::Denial;
use crate::error::{BoxError, Error};
use crate::organization::OrganizationId;
use crate::store::CredentialStore;

const ORIGIN: &str = "https://api.anyreach.ai";
const ELSEWHERE: &str = "https://elsewhere.example/";
const OLD: &str = "pat_b2xk";
const NEW: &str = "pat_bmV3";
/// Nothing that is asked here takes that long.
const PATIENCE: Duration = Duration::from_secs(10);

/// Drives a stack of layers as clients do and as hostile servers would have it, and says what is unsound about it.
///
/// `stack` is given a store to make the [`AnyreachAuthLayer`](crate::AnyreachAuthLayer) and the
/// [`RefreshPolicy`](crate::retry::RefreshPolicy) with, and a [`StackProbe`] to put in the place of the HTTP client.
/// What it returns is sent a few requests for `https://api.anyreach.ai`:
///
/// 1. one whose credential has been replaced meanwhile,
/// 2. one that is forbidden,
/// 3. one that is redirected to another host.
///
/// It needs a tokio runtime with its timer enabled, as `tokio::test` has. A stack that has not answered within 10
/// seconds is given up.
///
/// # Examples
///
/// ```
/// # #[tokio::main(flavor = "current_thread")] async fn main() {
/// use tower::ServiceBuilder;
/// use tower_anyreach::AnyreachAuthLayer;
/// use tower_anyreach::test_util::{StackFinding, check_stack};
///
/// # #[cfg(feature = "retry")] {
/// use tower_anyreach::retry::RefreshPolicy;
///
/// let findings = check_stack::<_, String, _>(|store, probe| {
///     ServiceBuilder::new()
///         .retry(RefreshPolicy::new(store.clone()))
///         .layer(AnyreachAuthLayer::new(store))
///         .service(probe)
/// })
/// .await;
/// assert_eq!(findings, []);
/// # }
///
/// // Without a retry, a credential that was replaced is not tried.
/// let findings = check_stack::<_, String, _>(|store, probe| {
///     ServiceBuilder::new().layer(AnyreachAuthLayer::new(store)).service(probe)
/// })
/// .await;
/// assert_eq!(findings, [StackFinding::NotReplayed]);
/// # }
/// ```
///
/// # Panics
///
/// Panics outside of a tokio runtime, and if its timer is not enabled.
pub async fn check_stack<S, B, R>(
    stack: impl FnOnce(CredentialStore, StackProbe) -> S,
) -> Vec<StackFinding>
where
    S: Service<Request<B>, Response = Response<R>>,
    S::Error: Into<BoxError>,
    B: Default,
{
    let source_has_new = Arc::new(AtomicBool::new(false));
    let store = CredentialStore::load({
        let source_has_new = Arc::clone(&source_has_new);
        move || {
            ready(Ok(token(if source_has_new.load(Ordering::Relaxed) {
                NEW
            } else {
                OLD
            })))
        }
    })
    .await
    .expect("the source of a check gives a credential");
    let seen = Arc::new(Mutex::new(Seen::default()));
    let mut stack = stack(store, StackProbe::new(Arc::clone(&seen)));

    source_has_new.store(true, Ordering::Relaxed);
    let mut findings = Vec::new();
    for path in ["/rotated", "/forbidden", "/redirected"] {
        let outcome = tokio::time::timeout(PATIENCE, send(&mut stack, path)).await;
        let arrived = std::mem::take(&mut lock(&seen).arrived);
        findings.extend(match (path, outcome) {
            (_, Err(_elapsed)) => vec![StackFinding::NotAnswered],
            ("/rotated", Ok(outcome)) => judge_rotation(&arrived, outcome.is_ok()),
            ("/forbidden", Ok(outcome)) => judge_denial(&outcome),
            (_, Ok(_)) => Vec::new(),
        });
        findings.extend(judge_heads(&arrived));
    }
    if lock(&seen).was_called_unready {
        findings.push(StackFinding::CalledUnready);
    }
    let mut told = Vec::new();
    findings.retain(|finding| {
        !told.contains(finding) && {
            told.push(*finding);
            true
        }
    });
    findings
}

/// What is unsound about a stack, as [`check_stack`] found it; `Display` says what to do about it.
///
/// # Examples
///
/// ```
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// use tower_anyreach::test_util::{StackFinding, check_stack};
///
/// // A stack without the layer.
/// let findings = check_stack::<_, String, _>(|_, probe| probe).await;
/// assert!(findings.contains(&StackFinding::NotAuthenticated));
/// # Ok(()) }
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum StackFinding {
    /// A request reached the origin without exactly one `Authorization`, marked sensitive, and one `X-Anyreach-Org`.
    NotAuthenticated,
    /// A credential, or the organization, was sent to another host than the origin's.
    LeftOrigin,
    /// After a 401 the credential that had come in force was not tried.
    NotReplayed,
    /// After a 401 the refused credential was sent again.
    RefusedSentAgain,
    /// A 403 did not come out as an [`Error`] that [`Error::find`] finds, nor as a response with its [`Denial`].
    DenialLost,
    /// The innermost service was called without having been ready.
    CalledUnready,
    /// There was no answer within 10 seconds.
    NotAnswered,
}

impl fmt::Display for StackFinding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NotAuthenticated => {
                "a request reached the origin without its credential: put the layer on the way of all of them, and \
                 nothing below it that changes its headers"
            }
            Self::LeftOrigin => {
                "credentials were sent to another host: put the layer inside of whatever follows redirects"
            }
            Self::NotReplayed => {
                "a replaced credential was not tried after a 401: put a `Retry` with `RefreshPolicy` outside of the layer"
            }
            Self::RefusedSentAgain => {
                "the refused credential was sent again after a 401: put the layer inside of whatever retries"
            }
            Self::DenialLost => {
                "a denial did not come out: put nothing between the layer and its caller that replaces errors"
            }
            Self::CalledUnready => {
                "the innermost service was called unready: some layer clones a service that it has readied"
            }
            Self::NotAnswered => "there was no answer within 10 seconds",
        })
    }
}

/// The innermost service of a stack that is checked: it takes the place of the HTTP client. A clone is not ready before
/// it is polled.
///
/// # Examples
///
/// ```
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// use tower::{Layer, ServiceBuilder};
/// use tower_anyreach::test_util::{StackFinding, StackProbe, check_stack};
/// use tower_anyreach::{AnyreachAuthLayer, CredentialStore};
///
/// fn stack(store: CredentialStore, probe: StackProbe) -> tower_anyreach::AnyreachAuth<StackProbe> {
///     AnyreachAuthLayer::new(store).layer(probe)
/// }
///
/// assert_eq!(check_stack::<_, String, _>(stack).await, [StackFinding::NotReplayed]);
/// # Ok(()) }
/// ```
pub struct StackProbe {
    seen: Arc<Mutex<Seen>>,
    is_ready: bool,
}

#[derive(Default)]
struct Seen {
    arrived: Vec<Parts>,
    was_called_unready: bool,
}

impl StackProbe {
    fn new(seen: Arc<Mutex<Seen>>) -> Self {
        Self {
            seen,
            is_ready: false,
        }
    }
}

impl Clone for StackProbe {
    fn clone(&self) -> Self {
        Self::new(Arc::clone(&self.seen))
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
    type Future = Ready<Result<Self::Response, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.is_ready = true;
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let (head, _) = request.into_parts();
        let mut response = Response::new(Full::default());
        *response.status_mut() = match head.uri.path() {
            "/rotated" if !carries(&head, NEW) => StatusCode::UNAUTHORIZED,
            "/forbidden" => StatusCode::FORBIDDEN,
            "/redirected" => StatusCode::TEMPORARY_REDIRECT,
            _ => StatusCode::OK,
        };
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        if head.uri.path() == "/redirected" {
            headers.insert(LOCATION, HeaderValue::from_static(ELSEWHERE));
        }

        let mut seen = lock(&self.seen);
        seen.was_called_unready |= !std::mem::take(&mut self.is_ready);
        seen.arrived.push(head);
        ready(Ok(response))
    }
}

fn token(text: &str) -> Credential {
    let organization = OrganizationId::try_from("org_check").expect("visible ASCII");
    let token = PersonalAccessToken::new(text).expect("a personal access token");
    token.for_organization(organization).into()
}

async fn send<S, B>(stack: &mut S, path: &str) -> Result<S::Response, BoxError>
where
    S: Service<Request<B>>,
    S::Error: Into<BoxError>,
    B: Default,
{
    let mut request = Request::new(B::default());
    *request.uri_mut() = format!("{ORIGIN}{path}").parse().expect("a valid URI");
    std::future::poll_fn(|cx| stack.poll_ready(cx))
        .await
        .map_err(Into::into)?;
    stack.call(request).await.map_err(Into::into)
}

fn carries(head: &Parts, token: &str) -> bool {
    head.headers
        .get(AUTHORIZATION)
        .and_then(|value| value.as_bytes().strip_prefix(b"Bearer "))
        == Some(token.as_bytes())
}

fn judge_rotation(arrived: &[Parts], succeeded: bool) -> Vec<StackFinding> {
    let mut findings = Vec::new();
    let refused = arrived.iter().filter(|head| !carries(head, NEW)).count();
    if refused > 1 {
        findings.push(StackFinding::RefusedSentAgain);
    }
    if !succeeded || refused == arrived.len() {
        findings.push(StackFinding::NotReplayed);
    }
    findings
}

fn judge_denial<R>(outcome: &Result<Response<R>, BoxError>) -> Vec<StackFinding> {
    let came_out = match outcome {
        Ok(response) => response.extensions().get::<Denial>().is_some(),
        Err(error) => Error::find(error.as_ref()).is_some_and(Error::is_forbidden),
    };
    if came_out {
        Vec::new()
    } else {
        vec![StackFinding::DenialLost]
    }
}

fn judge_heads(arrived: &[Parts]) -> impl Iterator<Item = StackFinding> {
    arrived.iter().filter_map(|head| {
        let authorization: Vec<_> = head.headers.get_all(AUTHORIZATION).iter().collect();
        let organizations = head.headers.get_all(ORGANIZATION).iter().count();
        let is_at_origin = head.uri.host() == ORIGIN.strip_prefix("https://");
        match (authorization.as_slice(), organizations) {
            ([value], 1) if is_at_origin && value.is_sensitive() => None,
            ([], 0) if !is_at_origin => None,
            _ if is_at_origin => Some(StackFinding::NotAuthenticated),
            _ => Some(StackFinding::LeftOrigin),
        }
    })
}
