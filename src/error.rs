//! What a call can fail with.

use std::error::Error as StdError;
use std::fmt;
use std::io;

use crate::denial::Denial;
use crate::refusal::Refusal;

/// Any error, boxed: what tower's own middleware makes of the errors below it.
pub type BoxError = Box<dyn StdError + Send + Sync>;

/// Why a call through [`AnyreachAuth`](crate::AnyreachAuth) failed.
///
/// 1. [`Unauthorized`](Self::Unauthorized) and [`Forbidden`](Self::Forbidden): Anyreach answered 401 or 403.
/// 2. [`Refused`](Self::Refused): this layer refused the request, or a redirect, before any I/O of this attempt.
/// 3. [`Service`](Self::Service): the inner service failed.
///
/// `Display` is one sentence, with the remedy where there is one. It shows neither a secret nor a text that a server wrote.
/// `Service` returns the inner error as its [`source`](StdError::source) and does not repeat its text.
///
/// # Examples
///
/// ```
/// # #[tokio::main(flavor = "current_thread")] async fn main() {
/// use http::{Request, Response};
/// use tower::{Layer, ServiceExt, service_fn};
/// use tower_anyreach::{AnyreachAuthLayer, Error, PersonalAccessToken, RefusalReason};
///
/// let client = AnyreachAuthLayer::new(PersonalAccessToken::new("pat_c2VjcmV0").unwrap())
///     .layer(service_fn(async |_: Request<String>| Ok::<_, std::io::Error>(Response::new(String::new()))));
/// let request = Request::get("https://api.anyreach.ai/core/agents").body(String::new()).unwrap();
///
/// let Err(Error::Refused(refusal)) = client.oneshot(request).await else { panic!() };
/// assert_eq!(refusal.reason(), RefusalReason::MissingOrganization);
/// # }
/// ```
#[derive(Debug)]
#[non_exhaustive]
pub enum Error {
    /// Anyreach answered 401: the credential is missing, invalid or deleted, or the organization is missing.
    Unauthorized(Denial),
    /// Anyreach answered 403: the credential is valid, and does not grant the action.
    Forbidden(Denial),
    /// The layer refused the request, or a redirect that the inner service answered with.
    Refused(Refusal),
    /// The inner service failed, with the error that it gave.
    Service(BoxError),
}

/// How many sources of an error are looked at: enough for any stack, and an end for a chain that leads back to itself.
const MAX_DEPTH: usize = 64;

impl Error {
    /// Returns what Anyreach answered, for a 401 or 403.
    #[must_use]
    pub fn denial(&self) -> Option<&Denial> {
        match self {
            Self::Unauthorized(denial) | Self::Forbidden(denial) => Some(denial),
            Self::Refused(_) | Self::Service(_) => None,
        }
    }

    /// Returns why the layer refused the request, if it did.
    #[must_use]
    pub fn refusal(&self) -> Option<&Refusal> {
        match self {
            Self::Refused(refusal) => Some(refusal),
            Self::Unauthorized(_) | Self::Forbidden(_) | Self::Service(_) => None,
        }
    }

    /// Returns whether Anyreach answered 401.
    #[must_use]
    pub fn is_unauthorized(&self) -> bool {
        matches!(self, Self::Unauthorized(_))
    }

    /// Returns whether Anyreach answered 403.
    #[must_use]
    pub fn is_forbidden(&self) -> bool {
        matches!(self, Self::Forbidden(_))
    }

    /// Returns whether the layer refused the request.
    #[must_use]
    pub fn is_refused(&self) -> bool {
        matches!(self, Self::Refused(_))
    }

    /// Returns `unauthorized`, `forbidden`, `refused` or `service`: stable, fit for a metric's label.
    #[must_use]
    pub fn label(&self) -> &'static str {
        match self {
            Self::Unauthorized(_) => "unauthorized",
            Self::Forbidden(_) => "forbidden",
            Self::Refused(_) => "refused",
            Self::Service(_) => "service",
        }
    }

    /// Finds this crate's error in a chain of sources, through whatever middleware has wrapped it.
    ///
    /// It looks at `error` itself, at up to 64 sources, and at what an [`io::Error`] carries, and returns the innermost
    /// [`Error`] that is not just a [`Service`](Self::Service) around another crate's. With a [`BoxError`] or an
    /// `anyhow::Error` named `error`, call it with `error.as_ref()`. After `anyhow::Error::from_boxed(..).context(..)` the
    /// boxed error cannot be found; use `anyhow::Error::new(Error::Service(boxed))` instead.
    ///
    /// # Examples
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # use http::Request;
    /// # use tower::{Layer, ServiceExt};
    /// use tower_anyreach::{AnyreachAuthLayer, BoxError, Error, test_util::FakeAnyreach};
    ///
    /// # let client = AnyreachAuthLayer::per_request().layer(FakeAnyreach::builder().in_memory().service());
    /// # let request = Request::get("https://api.anyreach.ai/").body(String::new())?;
    /// let error: Error = client.oneshot(request).await.unwrap_err();
    /// let wrapped: BoxError = std::io::Error::other(error).into();
    /// assert!(Error::find(wrapped.as_ref()).is_some_and(Error::is_refused));
    ///
    /// let foreign: BoxError = "connection refused".into();
    /// assert!(Error::find(foreign.as_ref()).is_none());
    /// # Ok(()) }
    /// ```
    #[must_use]
    pub fn find<'a>(error: &'a (dyn StdError + 'static)) -> Option<&'a Self> {
        let mut found = None;
        let mut next = Some(error);
        for _ in 0..MAX_DEPTH {
            let Some(error) = next else { break };
            match error.downcast_ref() {
                Some(Self::Service(_)) | None => {}
                ours => found = ours,
            }
            // The `source` of an `io::Error` would skip the error that it carries.
            let carried = error.downcast_ref().and_then(io::Error::get_ref);
            next = match carried {
                Some(carried) => Some(carried as &(dyn StdError + 'static)),
                None => error.source(),
            };
        }
        found
    }

    /// Turns a boxed error into an [`Error`], for stacks whose outer layers box.
    ///
    /// 1. A boxed [`Error`] is returned as it is.
    /// 2. Otherwise, what [`find`](Self::find) finds in it is cloned.
    /// 3. Otherwise it becomes [`Service`](Self::Service).
    ///
    /// # Examples
    ///
    /// ```
    /// use std::time::Duration;
    /// use tower::{ServiceBuilder, timeout::TimeoutLayer};
    /// use tower_anyreach::{AnyreachAuthLayer, Error};
    ///
    /// // `TimeoutLayer` boxes; callers of this stack match on `Error` all the same.
    /// let client = ServiceBuilder::new()
    ///     .map_err(Error::from_boxed)
    ///     .layer(TimeoutLayer::new(Duration::from_secs(30)))
    ///     .layer(AnyreachAuthLayer::per_request());
    /// # let _ = client;
    /// assert_eq!(Error::from_boxed("timed out".into()).label(), "service");
    /// ```
    #[must_use]
    pub fn from_boxed(error: BoxError) -> Self {
        let error = match error.downcast::<Self>() {
            Ok(ours) => return *ours,
            Err(error) => error,
        };
        match Self::find(error.as_ref()) {
            Some(Self::Unauthorized(denial)) => Self::Unauthorized(denial.clone()),
            Some(Self::Forbidden(denial)) => Self::Forbidden(denial.clone()),
            Some(Self::Refused(refusal)) => Self::Refused(refusal.clone()),
            Some(Self::Service(_)) | None => Self::Service(error),
        }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unauthorized(denial) | Self::Forbidden(denial) => denial.fmt(f),
            Self::Refused(refusal) => refusal.fmt(f),
            Self::Service(_) => f.write_str("the request could not be completed"),
        }
    }
}

impl StdError for Error {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        match self {
            Self::Service(error) => Some(error.as_ref()),
            Self::Unauthorized(_) | Self::Forbidden(_) | Self::Refused(_) => None,
        }
    }
}
