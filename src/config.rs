//! The options of the layer, except for the store.

use std::time::Duration;

use crate::origin::Origin;

/// Determines how requests with a relative URI, such as `/core/agents`, are handled.
///
/// [`Complete`](Self::Complete) and [`Trust`](Self::Trust) accept a path that starts with exactly
/// one `/`. Any other relative URI is refused as
/// [`RelativeUri`](crate::RefusalReason::RelativeUri). The relative URI of an
/// [`Anonymous`](crate::Anonymous) request is completed under `Complete`, and unchanged otherwise.
///
/// # Examples
///
/// ```
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// use http::Request;
/// use tower::{Layer, ServiceExt};
/// use tower_anyreach::{
///     AnyreachAuthLayer, OrganizationApiKey, RelativeUris, test_util::FakeAnyreach,
/// };
///
/// let anyreach = FakeAnyreach::builder()
///     .api_key("ak_id.secret", "org_acme", ["agents:read"])
///     .in_memory();
/// let client = AnyreachAuthLayer::new(OrganizationApiKey::new("ak_id.secret")?)
///     .relative_uris(RelativeUris::Complete)
///     .layer(anyreach.service());
///
/// let request = Request::get("/core/agents").body(String::new())?;
/// assert_eq!(client.oneshot(request).await?.status(), 200);
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum RelativeUris {
    /// Refuses the request. This is the default.
    #[default]
    Reject,
    /// Adds the scheme and authority of the layer's origin.
    Complete,
    /// Sends the request with credentials and does not change the URI, for an inner layer that
    /// completes it. That layer has to complete it with the origin: this one cannot check where the
    /// request goes.
    Trust,
}

/// Determines how a request's own `Authorization` and `X-Anyreach-Org` headers are handled.
///
/// At the origin, this applies to both headers. Elsewhere, it applies to `X-Anyreach-Org` and to
/// bearer tokens that start with `ak_` or `pat_`. Each line is checked separately; the case of the
/// scheme and the number of spaces after it do not matter.
///
/// # Examples
///
/// ```
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// use http::{Request, header::AUTHORIZATION};
/// use tower::{Layer, ServiceExt};
/// use tower_anyreach::{
///     AnyreachAuthLayer, CallerHeaders, OrganizationApiKey, RefusalReason,
///     test_util::FakeAnyreach,
/// };
///
/// let anyreach = FakeAnyreach::builder()
///     .api_key("ak_id.secret", "org_acme", ["agents:read"])
///     .in_memory();
/// let layer = AnyreachAuthLayer::new(OrganizationApiKey::new("ak_id.secret")?);
/// let request = || {
///     Request::get(anyreach.uri("/core/agents"))
///         .header(AUTHORIZATION, "Bearer ak_own.secret")
///         .body(String::new())
/// };
///
/// let error = layer
///     .clone()
///     .layer(anyreach.service())
///     .oneshot(request()?)
///     .await
///     .unwrap_err();
/// assert_eq!(
///     error.refusal().unwrap().reason(),
///     RefusalReason::CallerHeader
/// );
///
/// let client = layer
///     .caller_headers(CallerHeaders::Replace)
///     .layer(anyreach.service());
/// client.oneshot(request()?).await?;
/// assert_eq!(
///     anyreach.received()[0].headers()[AUTHORIZATION],
///     "Bearer ak_id.secret"
/// );
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum CallerHeaders {
    /// Refuses the request as [`CallerHeader`](crate::RefusalReason::CallerHeader), because it is a
    /// mistake if two parties authenticate one request. This is the default.
    #[default]
    Reject,
    /// Replaces the headers at the origin, and removes them elsewhere. A `Connection` header that
    /// names one is still refused.
    Replace,
}

/// Determines how requests to a host other than the origin's are handled.
///
/// # Examples
///
/// ```
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// use http::Request;
/// use tower::{Layer, ServiceExt};
/// use tower_anyreach::{
///     AnyreachAuthLayer, ForeignRequests, OrganizationApiKey, test_util::FakeAnyreach,
/// };
///
/// let anyreach = FakeAnyreach::builder().in_memory();
/// let layer = AnyreachAuthLayer::new(OrganizationApiKey::new("ak_id.secret")?);
/// let request = || Request::get("https://elsewhere.example/").body(String::new());
///
/// for (foreign_requests, arrives) in [
///     (ForeignRequests::Reject, false),
///     (ForeignRequests::ForwardWithoutCredentials, true),
/// ] {
///     let client = layer
///         .clone()
///         .foreign_requests(foreign_requests)
///         .layer(anyreach.service());
///     assert_eq!(client.oneshot(request()?).await.is_ok(), arrives);
/// }
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ForeignRequests {
    /// Refuses the request as [`ForeignDestination`](crate::RefusalReason::ForeignDestination).
    /// This is the default.
    #[default]
    Reject,
    /// Sends the request without credentials. Other spellings of the origin's host are still
    /// refused, and so is a redirect in the response that may lead to the origin.
    ForwardWithoutCredentials,
}

/// Determines how a 401 or 403 is returned.
///
/// # Examples
///
/// ```
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// use http::Request;
/// use tower::{Layer, ServiceExt};
/// use tower_anyreach::test_util::FakeAnyreach;
/// use tower_anyreach::{
///     AnyreachAuthLayer, Denial, DeniedResponses, Error, OrganizationApiKey,
/// };
///
/// let anyreach = FakeAnyreach::builder().in_memory();
/// let layer = AnyreachAuthLayer::new(OrganizationApiKey::new("ak_unknown.secret")?);
/// let request = || Request::get(anyreach.uri("/core/agents")).body(String::new());
///
/// let denied = layer
///     .clone()
///     .layer(anyreach.service())
///     .oneshot(request()?)
///     .await;
/// assert!(matches!(denied, Err(Error::Unauthorized(_))));
///
/// let client = layer
///     .denied_responses(DeniedResponses::PassThrough)
///     .layer(anyreach.service());
/// let response = client.oneshot(request()?).await?;
/// assert_eq!(response.extensions().get::<Denial>().unwrap().status(), 401);
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum DeniedResponses {
    /// Returns [`Error::Unauthorized`](crate::Error::Unauthorized) or
    /// [`Error::Forbidden`](crate::Error::Forbidden). This is the default.
    #[default]
    IntoError,
    /// Returns the response unchanged, with its body unread and a [`Denial`](crate::Denial) in its
    /// extensions.
    PassThrough,
}

/// The options, with their defaults.
#[derive(Debug, Clone)]
pub(crate) struct Config {
    pub(crate) origin: Origin,
    pub(crate) relative_uris: RelativeUris,
    pub(crate) caller_headers: CallerHeaders,
    pub(crate) foreign_requests: ForeignRequests,
    pub(crate) requires_organization: bool,
    pub(crate) denied_responses: DeniedResponses,
    pub(crate) error_body: ErrorBodyLimits,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            origin: Origin::default(),
            relative_uris: RelativeUris::default(),
            caller_headers: CallerHeaders::default(),
            foreign_requests: ForeignRequests::default(),
            requires_organization: true,
            denied_responses: DeniedResponses::default(),
            error_body: ErrorBodyLimits {
                bytes: 8 * 1024,
                nanoseconds: 1_000_000_000,
            },
        }
    }
}

/// How much of a denial's body is read. Each request carries a copy, so the time is a `u64`, which
/// has half the size of a `Duration`.
#[derive(Debug, Clone, Copy)]
pub(crate) struct ErrorBodyLimits {
    pub(crate) bytes: usize,
    nanoseconds: u64,
}

impl ErrorBodyLimits {
    pub(crate) fn time(self) -> Duration {
        Duration::from_nanos(self.nanoseconds)
    }

    /// Sets the time limit. More than 584 years count as 584 years.
    pub(crate) fn set_time(&mut self, time: Duration) {
        self.nanoseconds = u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
    }
}
