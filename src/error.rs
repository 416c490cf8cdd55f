//! What a call can fail with.

use std::error::Error as StdError;
use std::fmt;
use std::io;

use http::HeaderName;

use crate::denial::Denial;
use crate::origin::Destination;

/// Any error, boxed: what tower's own middleware makes of the errors below it.
///
/// # Examples
///
/// ```
/// use tower_anyreach::{BoxError, Error};
///
/// let error: BoxError = Error::MissingOrganization.into();
/// assert!(Error::find(error.as_ref()).is_some());
/// ```
pub type BoxError = Box<dyn StdError + Send + Sync>;

/// Why a call through [`AnyreachAuth`](crate::AnyreachAuth) failed.
///
/// 1. [`Unauthorized`](Self::Unauthorized) and [`Forbidden`](Self::Forbidden): Anyreach said no.
/// 2. [`Service`](Self::Service): the service below failed.
/// 3. All others: refused here, before any I/O; nothing was sent.
///
/// `Display` is one sentence with the remedy where there is one, and shows neither a secret nor a text from the
/// server, but for where a redirect led ([`Destination`]). `Service` gives the inner error as its
/// [`source`](StdError::source) and does not repeat its text.
///
/// # Examples
///
/// ```
/// # #[tokio::main(flavor = "current_thread")] async fn main() {
/// use http::{Request, Response};
/// use tower::{Layer, ServiceExt, service_fn};
/// use tower_anyreach::{AnyreachAuthLayer, Error, PersonalAccessToken};
///
/// let client = AnyreachAuthLayer::new(PersonalAccessToken::new("pat_c2VjcmV0").unwrap())
///     .layer(service_fn(async |_: Request<String>| Ok::<_, std::io::Error>(Response::new(String::new()))));
/// let request = Request::get("https://api.anyreach.ai/core/agents").body(String::new()).unwrap();
///
/// let error = client.oneshot(request).await.unwrap_err();
/// assert!(matches!(error, Error::MissingOrganization));
/// assert!(!error.was_sent());
/// # }
/// ```
#[derive(Debug)]
#[non_exhaustive]
pub enum Error {
    /// Anyreach answered 401: the credential is missing, invalid or deleted, or the organization is missing.
    Unauthorized(Denial),
    /// Anyreach answered 403: the credential is valid, and its scopes do not grant the action.
    Forbidden(Denial),
    /// The layer has no credential of its own ([`AnyreachAuthLayer::per_request`](crate::AnyreachAuthLayer::per_request)),
    /// and the request carries neither a [`Credential`](crate::Credential) nor [`Anonymous`](crate::Anonymous) as
    /// an extension. Nothing was sent.
    MissingCredential,
    /// A personal access token without an organization, which Anyreach would answer with 401. Nothing was sent.
    MissingOrganization,
    /// An organization beside an organization API key, which carries its own. Nothing was sent.
    UnexpectedOrganization,
    /// The request brought this header itself, which [`CallerHeaders`](crate::CallerHeaders) forbids. Nothing was sent.
    CallerHeader(HeaderName),
    /// The request does not go to the [`Origin`](crate::Origin). Nothing was sent.
    UntrustedDestination(Destination),
    /// The inner service failed, on being readied or called.
    Service(BoxError),
}

impl Error {
    /// Returns what Anyreach answered, if it denied the request.
    ///
    /// # Examples
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # use tower::{Layer, ServiceExt};
    /// # let anyreach = tower_anyreach::test_util::FakeAnyreach::builder()
    /// #     .personal_access_token("pat_secret", [("org_acme", ["agents:read"])])
    /// #     .in_memory();
    /// # let token = tower_anyreach::PersonalAccessToken::new("pat_secret")?.for_organization("org_acme".parse()?);
    /// # let client = tower_anyreach::AnyreachAuthLayer::new(token).layer(anyreach.service());
    /// # let request = http::Request::post(anyreach.uri("/core/agents")).body(String::from("{}"))?;
    /// # let denial = client.oneshot(request).await.unwrap_err().denial().unwrap().clone();
    /// // `POST /core/agents`, with the scope `agents:read` only:
    /// let error = tower_anyreach::Error::Forbidden(denial);
    /// assert_eq!(error.denial().unwrap().status(), 403);
    /// assert!(tower_anyreach::Error::MissingOrganization.denial().is_none());
    /// # Ok(()) }
    /// ```
    #[must_use]
    pub fn denial(&self) -> Option<&Denial> {
        match self {
            Self::Unauthorized(denial) | Self::Forbidden(denial) => Some(denial),
            _ => None,
        }
    }

    /// Returns whether Anyreach answered 401.
    ///
    /// # Examples
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # use tower::{Layer, ServiceExt};
    /// # let anyreach = tower_anyreach::test_util::FakeAnyreach::builder().in_memory();
    /// # let key = tower_anyreach::OrganizationApiKey::new("ak_unknown.secret")?;
    /// # let client = tower_anyreach::AnyreachAuthLayer::new(key).layer(anyreach.service());
    /// # let request = http::Request::get(anyreach.uri("/core/agents")).body(String::new())?;
    /// # let denial = client.oneshot(request).await.unwrap_err().denial().unwrap().clone();
    /// // With a key that was deleted:
    /// let error = tower_anyreach::Error::Unauthorized(denial);
    /// assert!(error.is_unauthorized());
    /// # Ok(()) }
    /// ```
    #[must_use]
    pub fn is_unauthorized(&self) -> bool {
        matches!(self, Self::Unauthorized(_))
    }

    /// Returns whether Anyreach answered 403.
    ///
    /// # Examples
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # use tower::{Layer, ServiceExt};
    /// # let anyreach = tower_anyreach::test_util::FakeAnyreach::builder()
    /// #     .personal_access_token("pat_secret", [("org_acme", ["agents:read"])])
    /// #     .in_memory();
    /// # let token = tower_anyreach::PersonalAccessToken::new("pat_secret")?.for_organization("org_acme".parse()?);
    /// # let client = tower_anyreach::AnyreachAuthLayer::new(token).layer(anyreach.service());
    /// # let request = http::Request::post(anyreach.uri("/core/agents")).body(String::from("{}"))?;
    /// # let denial = client.oneshot(request).await.unwrap_err().denial().unwrap().clone();
    /// // `POST /core/agents`, with the scope `agents:read` only:
    /// let error = tower_anyreach::Error::Forbidden(denial);
    /// assert!(error.is_forbidden());
    /// # Ok(()) }
    /// ```
    #[must_use]
    pub fn is_forbidden(&self) -> bool {
        matches!(self, Self::Forbidden(_))
    }

    /// Returns whether the request may have been sent: `false` means that it certainly was not.
    ///
    /// It speaks of the request that reached the layer last. With redirects followed outside of the layer that may be
    /// one that was led to; those before it were sent.
    ///
    /// # Examples
    ///
    /// ```
    /// use tower_anyreach::Error;
    ///
    /// assert!(!Error::MissingOrganization.was_sent());
    /// assert!(Error::Service("connection reset".into()).was_sent());
    /// ```
    #[must_use]
    pub fn was_sent(&self) -> bool {
        match self {
            Self::Unauthorized(_) | Self::Forbidden(_) | Self::Service(_) => true,
            Self::MissingCredential
            | Self::MissingOrganization
            | Self::UnexpectedOrganization
            | Self::CallerHeader(_)
            | Self::UntrustedDestination(_) => false,
        }
    }

    /// Finds this crate's error in a chain of sources, through whatever middleware has wrapped it.
    ///
    /// It looks at `error` itself, its sources, and what an [`io::Error`] carries, and returns the innermost
    /// [`Error`] that is not a mere [`Service`](Self::Service) wrapper around somebody else's. From a
    /// [`BoxError`] or an `anyhow::Error` named `error`, call it with `error.as_ref()`. What went into anyhow as a box
    /// (`anyhow::Error::from_boxed`) and was given a context there shows nobody its top; make it
    /// `anyhow::Error::new(Error::Service(boxed))` instead.
    ///
    /// # Examples
    ///
    /// ```
    /// use tower_anyreach::{BoxError, Error};
    ///
    /// let wrapped: BoxError = std::io::Error::other(Error::MissingOrganization).into();
    /// assert!(matches!(Error::find(wrapped.as_ref()), Some(Error::MissingOrganization)));
    ///
    /// let foreign: BoxError = "connection refused".into();
    /// assert!(Error::find(Error::Service(foreign).as_dyn()).is_none());
    /// # trait AsDyn { fn as_dyn(&self) -> &(dyn std::error::Error + 'static); }
    /// # impl AsDyn for Error { fn as_dyn(&self) -> &(dyn std::error::Error + 'static) { self } }
    /// ```
    #[must_use]
    pub fn find<'a>(error: &'a (dyn StdError + 'static)) -> Option<&'a Self> {
        let mut found = None;
        let mut next = Some(error);
        while let Some(error) = next {
            match error.downcast_ref() {
                Some(Self::Service(_)) | None => {}
                ours => found = ours,
            }
            next = match error
                .downcast_ref::<io::Error>()
                .and_then(io::Error::get_ref)
            {
                // Its `source` would skip the error that it carries.
                Some(carried) => Some(carried as &(dyn StdError + 'static)),
                None => error.source(),
            };
        }
        found
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unauthorized(denial) | Self::Forbidden(denial) => denial.fmt(f),
            Self::MissingCredential => f.write_str(
                "the request has no credential: insert a `Credential` or `Anonymous` extension; nothing was sent",
            ),
            Self::MissingOrganization => f.write_str(
                "the personal access token names no organization: use `for_organization`, insert an `OrganizationId` \
                 extension, or set ANYREACH_ORG_ID where `from_env` reads it; nothing was sent",
            ),
            Self::UnexpectedOrganization => f.write_str(
                "an organization was named beside an organization API key, which carries its own; nothing was sent",
            ),
            Self::CallerHeader(name) => write!(
                f,
                "the request brings its own `{name}` header: remove it, or choose another `CallerHeaders`; nothing was sent",
            ),
            Self::UntrustedDestination(destination) => {
                write!(f, "credentials may not go there: {destination}; nothing was sent")
            }
            Self::Service(_) => f.write_str("the request could not be completed"),
        }
    }
}

impl StdError for Error {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        match self {
            Self::Service(error) => Some(error.as_ref()),
            _ => None,
        }
    }
}
