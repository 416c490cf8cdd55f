//! The error of a call through the layer.

use std::error::Error as StdError;
use std::fmt;
use std::io;

use crate::denial::Denial;
use crate::refusal::Refusal;

/// A boxed error, as tower's own middleware returns it.
pub type BoxError = Box<dyn StdError + Send + Sync>;

/// Why a call through [`AnyreachAuth`](crate::AnyreachAuth) failed.
///
/// 1. [`Unauthorized`](Self::Unauthorized) and [`Forbidden`](Self::Forbidden): Anyreach answered
///    401 or 403.
/// 2. [`Refused`](Self::Refused): this layer refused the request before any I/O of this attempt, or
///    refused a redirect.
/// 3. [`Service`](Self::Service): the inner service failed.
///
/// `Display` is one sentence, with the next step if there is one. It contains neither a secret nor
/// server-written text. `Service` returns the inner error from [`source`](StdError::source) and
/// does not repeat its text.
///
/// # Examples
///
/// ```
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() {
/// use http::{Request, Response};
/// use tower::{Layer, ServiceExt, service_fn};
/// use tower_anyreach::{AnyreachAuthLayer, Error, PersonalAccessToken, RefusalReason};
///
/// let client = AnyreachAuthLayer::new(PersonalAccessToken::new("pat_c2VjcmV0").unwrap())
///     .layer(service_fn(async |_: Request<String>| {
///         Ok::<_, std::io::Error>(Response::new(String::new()))
///     }));
/// let request = Request::get("https://api.anyreach.ai/core/agents")
///     .body(String::new())
///     .unwrap();
///
/// let Err(Error::Refused(refusal)) = client.oneshot(request).await else {
///     panic!()
/// };
/// assert_eq!(refusal.reason(), RefusalReason::MissingOrganization);
/// # }
/// ```
#[derive(Debug)]
#[non_exhaustive]
pub enum Error {
    /// Anyreach answered 401: the credential is missing, invalid or deleted, or the organization is
    /// missing.
    Unauthorized(Denial),
    /// Anyreach answered 403: the credential is valid, but does not grant the action.
    Forbidden(Denial),
    /// The layer refused the request, or a redirect that the inner service returned.
    Refused(Refusal),
    /// The inner service failed with this error.
    Service(BoxError),
}

/// The maximum number of errors examined. It is enough for any stack, and ends a chain that refers
/// back to itself.
const MAX_DEPTH: usize = 64;

impl Error {
    /// Returns the denial, if Anyreach answered 401 or 403.
    #[must_use]
    pub fn denial(&self) -> Option<&Denial> {
        match self {
            Self::Unauthorized(denial) | Self::Forbidden(denial) => Some(denial),
            Self::Refused(_) | Self::Service(_) => None,
        }
    }

    /// Returns the refusal, if the layer refused the request or a redirect.
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

    /// Returns whether the layer refused the request or a redirect.
    #[must_use]
    pub fn is_refused(&self) -> bool {
        matches!(self, Self::Refused(_))
    }

    /// Returns `unauthorized`, `forbidden`, `refused` or `service`. It is stable and suits a metric
    /// label.
    #[must_use]
    pub fn label(&self) -> &'static str {
        match self {
            Self::Unauthorized(_) => "unauthorized",
            Self::Forbidden(_) => "forbidden",
            Self::Refused(_) => "refused",
            Self::Service(_) => "service",
        }
    }

    /// Finds an error of this crate in a chain of sources, through any middleware that has wrapped
    /// it.
    ///
    /// It examines `error`, its sources and the error inside an [`io::Error`], at most 64 errors in
    /// all, and returns the innermost [`Error`] that is not just a [`Service`](Self::Service)
    /// around an error of another crate. With a [`BoxError`] or an `anyhow::Error` named `error`,
    /// pass `error.as_ref()`.
    ///
    /// After `anyhow::Error::from_boxed(..).context(..)` the boxed error cannot be downcast; use
    /// `anyhow::Error::new(Error::Service(boxed))` instead.
    ///
    /// # Examples
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # use http::Request;
    /// # use tower::{Layer, ServiceExt};
    /// use tower_anyreach::{AnyreachAuthLayer, BoxError, Error, test_util::FakeAnyreach};
    ///
    /// # let anyreach = FakeAnyreach::builder().in_memory();
    /// # let client = AnyreachAuthLayer::per_request().layer(anyreach.service());
    /// # let request = Request::get("https://api.anyreach.ai/").body(String::new())?;
    /// let error: Error = client.oneshot(request).await.unwrap_err();
    /// let wrapped: BoxError = std::io::Error::other(error).into();
    /// assert!(Error::find(wrapped.as_ref()).is_some_and(Error::is_refused));
    ///
    /// let foreign: BoxError = "connection refused".into();
    /// assert!(Error::find(foreign.as_ref()).is_none());
    /// # Ok(())
    /// # }
    /// ```
    #[must_use]
    pub fn find<'a>(error: &'a (dyn StdError + 'static)) -> Option<&'a Self> {
        let ours = Self::chain(error).filter_map(<dyn StdError>::downcast_ref);
        ours.filter(|ours| !matches!(ours, Self::Service(_))).last()
    }

    /// Returns the outermost error of this crate. What it may have as its cause concerns another
    /// request, such as one that the inner service has sent.
    #[cfg(feature = "retry")]
    pub(crate) fn outermost<'a>(error: &'a (dyn StdError + 'static)) -> Option<&'a Self> {
        Self::chain(error).find_map(<dyn StdError>::downcast_ref)
    }

    /// Returns the error and its causes, down to the maximum depth.
    fn chain<'a>(
        error: &'a (dyn StdError + 'static),
    ) -> impl Iterator<Item = &'a (dyn StdError + 'static)> {
        std::iter::successors(Some(error), |&error| {
            // The `source` of an `io::Error` is that of the error inside it, so it would skip that
            // error.
            match error.downcast_ref().and_then(io::Error::get_ref) {
                Some(carried) => Some(carried as &(dyn StdError + 'static)),
                None => error.source(),
            }
        })
        .take(MAX_DEPTH)
    }

    /// Converts a boxed error into an [`Error`], for stacks whose outer layers box their errors.
    ///
    /// 1. A boxed [`Error`] is unboxed.
    /// 2. Otherwise, the error that [`find`](Self::find) returns is cloned.
    /// 3. Otherwise, the boxed error becomes [`Service`](Self::Service).
    ///
    /// # Examples
    ///
    /// ```
    /// use std::time::Duration;
    /// use tower::{ServiceBuilder, timeout::TimeoutLayer};
    /// use tower_anyreach::{AnyreachAuthLayer, Error};
    ///
    /// // `TimeoutLayer` boxes its errors; callers of this stack still match on `Error`.
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
            Self::Service(_) => f.write_str("the inner service failed (cause in `source()`)"),
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
