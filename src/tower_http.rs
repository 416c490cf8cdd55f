//! What tower-http's middleware needs to know of this crate: which outcomes are failures, and which headers must not
//! follow a redirect.

use std::any::Any;
use std::fmt;

use ::tower_http::classify::{
    ClassifiedResponse, ClassifyResponse, MakeClassifier, NeverClassifyEos,
};
use ::tower_http::follow_redirect::policy::{Action, Attempt, FilterCredentials, Policy};
use http::{Request, Response, StatusCode};

use crate::authorize::remove_anyreach_credentials;
use crate::denial::{Denial, DenialReason};
use crate::error::{BoxError, Error};
use crate::origin::{Origin, Verdict};

/// Classifies outcomes for tower-http's `TraceLayer`: denials are failures, whether they are errors or responses.
///
/// 1. A 401 or 403 that became an [`Error`], or passed through with a [`Denial`] among its extensions, is
///    [`Failure::Denied`].
/// 2. What was refused before any I/O is [`Failure::Refused`].
/// 3. A response of status 500 and above is [`Failure::Status`], as tower-http has it.
/// 4. Any other error is [`Failure::Service`]. Its text is not kept, since it may quote what was sent.
///
/// Errors are also found inside a [`BoxError`], through whatever middleware has wrapped them.
///
/// # Examples
///
/// ```
/// use tower::ServiceBuilder;
/// use tower_anyreach::{AnyreachAuthLayer, OrganizationApiKey, tower_http::DenialsAsFailures};
/// use tower_http::trace::TraceLayer;
///
/// let client = ServiceBuilder::new()
///     .layer(TraceLayer::new(DenialsAsFailures))
///     .layer(AnyreachAuthLayer::new(OrganizationApiKey::new("ak_4711.c2VjcmV0")?));
/// # let _ = client;
///
/// // The same for a stack whose error is `BoxError`, as it is with a `Timeout` or a `Buffer`.
/// use tower_http::classify::ClassifyResponse;
/// let error: tower_anyreach::BoxError = tower_anyreach::Error::MissingOrganization.into();
/// assert_eq!(DenialsAsFailures.classify_error(&error).to_string(), "refused before it was sent");
/// # Ok::<(), tower_anyreach::InvalidCredential>(())
/// ```
#[derive(Debug, Clone, Copy, Default)]
pub struct DenialsAsFailures;

/// Why [`DenialsAsFailures`] calls an outcome a failure; holds and shows no text from outside.
///
/// # Examples
///
/// ```
/// use tower_anyreach::tower_http::{DenialsAsFailures, Failure};
/// use tower_http::classify::ClassifyResponse;
///
/// let failure = DenialsAsFailures.classify_error(&tower_anyreach::Error::MissingOrganization);
/// assert_eq!(failure, Failure::Refused);
/// let failure = DenialsAsFailures.classify_error(&std::io::Error::other("reset"));
/// assert_eq!(failure, Failure::Service);
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Failure {
    /// Anyreach said no, with this status.
    Denied(StatusCode, DenialReason),
    /// Refused by this crate; nothing was sent.
    Refused,
    /// A response of status 500 or above.
    Status(StatusCode),
    /// The inner service failed, or middleware outside of this crate's.
    Service,
}

impl Failure {
    fn of_denial(denial: &Denial) -> Self {
        Self::Denied(denial.status(), denial.reason())
    }

    fn of_error(error: &Error) -> Self {
        match (error.denial(), error.was_sent()) {
            (Some(denial), _) => Self::of_denial(denial),
            (None, true) => Self::Service,
            (None, false) => Self::Refused,
        }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Denied(status, reason) => {
                write!(f, "denied with {}: {reason:?}", status.as_u16())
            }
            Self::Refused => f.write_str("refused before it was sent"),
            Self::Status(status) => write!(f, "answered with {}", status.as_u16()),
            Self::Service => f.write_str("failed on the way"),
        }
    }
}

impl ClassifyResponse for DenialsAsFailures {
    type FailureClass = Failure;
    type ClassifyEos = NeverClassifyEos<Failure>;

    fn classify_response<B>(
        self,
        response: &Response<B>,
    ) -> ClassifiedResponse<Failure, NeverClassifyEos<Failure>> {
        let denial = response.extensions().get().map(Failure::of_denial);
        let status = response.status();
        let failure =
            denial.or_else(|| status.is_server_error().then_some(Failure::Status(status)));
        ClassifiedResponse::Ready(failure.map_or(Ok(()), Err))
    }

    fn classify_error<E>(self, error: &E) -> Failure
    where
        E: fmt::Display + 'static,
    {
        let error = error as &dyn Any;
        error
            .downcast_ref::<Error>()
            .or_else(|| Error::find(error.downcast_ref::<BoxError>()?.as_ref()))
            .map_or(Failure::Service, Failure::of_error)
    }
}

impl MakeClassifier for DenialsAsFailures {
    type Classifier = Self;
    type FailureClass = Failure;
    type ClassifyEos = NeverClassifyEos<Failure>;

    fn make_classifier<B>(&self, _: &Request<B>) -> Self {
        *self
    }
}

/// A redirection policy for stacks where [`AnyreachAuthLayer`](crate::AnyreachAuthLayer) cannot stand inside
/// `FollowRedirect`: it takes the credentials from every request that does not go to the origin.
///
/// 1. It does what tower-http's `FilterCredentials` does, which does not know `X-Anyreach-Org`.
/// 2. Where a request goes is judged as the layer judges it, and not by comparing it with the request before: a near
///    miss of the origin is not the origin.
/// 3. What was taken away is not put back when a later hop leads to the origin again.
///
/// The layer inside `FollowRedirect` needs no such policy, and answers a redirect to the origin with a fresh
/// credential; prefer that.
///
/// # Examples
///
/// ```
/// use tower::ServiceBuilder;
/// use tower_anyreach::{Origin, tower_http::KeepCredentialsAtOrigin};
/// use tower_http::follow_redirect::{FollowRedirectLayer, policy::{Limited, PolicyExt}};
///
/// let policy = KeepCredentialsAtOrigin::new(Origin::default());
/// let layer = FollowRedirectLayer::with_policy(Limited::new(5).and::<_, (), ()>(policy));
/// # let _ = ServiceBuilder::new().layer(layer);
/// ```
#[derive(Debug, Clone)]
pub struct KeepCredentialsAtOrigin {
    origin: Origin,
    others: FilterCredentials,
}

impl KeepCredentialsAtOrigin {
    /// Creates a policy that lets credentials go to this origin only.
    ///
    /// # Examples
    ///
    /// ```
    /// use tower_anyreach::{Origin, tower_http::KeepCredentialsAtOrigin};
    /// use tower_http::follow_redirect::FollowRedirectLayer;
    ///
    /// let policy = KeepCredentialsAtOrigin::new("https://anyreach.proxy.example".parse::<Origin>()?);
    /// let layer = FollowRedirectLayer::with_policy(policy);
    /// # let _ = tower::ServiceBuilder::new().layer(layer);
    /// # Ok::<(), tower_anyreach::InvalidOrigin>(())
    /// ```
    #[must_use]
    pub fn new(origin: Origin) -> Self {
        Self {
            origin,
            others: FilterCredentials::new(),
        }
    }
}

impl<B, E> Policy<B, E> for KeepCredentialsAtOrigin {
    fn redirect(&mut self, attempt: &Attempt<'_>) -> Result<Action, E> {
        Policy::<B, E>::redirect(&mut self.others, attempt)
    }

    fn on_request(&mut self, request: &mut Request<B>) {
        Policy::<B, E>::on_request(&mut self.others, request);
        let verdict = self
            .origin
            .judge(request.method(), request.uri(), None, false);
        // `FollowRedirect` makes the next request of what is left of this one.
        if verdict != Verdict::Ours {
            remove_anyreach_credentials(request.headers_mut());
        }
    }
}
