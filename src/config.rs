//! The options of the layer: everything that it is configured with except the store.

use std::time::Duration;

use crate::origin::Origin;

/// Decides what happens to a request whose URI has no scheme and authority, such as `/core/agents`.
///
/// [`Complete`](Self::Complete) and [`Trust`](Self::Trust) take a path that starts with exactly one `/`; any other relative
/// URI is refused as [`RelativeUri`](crate::RefusalReason::RelativeUri). An [`Anonymous`](crate::Anonymous) request with a
/// relative URI is completed under `Complete` and passes otherwise.
///
/// # Examples
///
/// ```
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// use http::Request;
/// use tower::{Layer, ServiceExt};
/// use tower_anyreach::{AnyreachAuthLayer, OrganizationApiKey, RelativeUris, test_util::FakeAnyreach};
///
/// let anyreach = FakeAnyreach::builder().api_key("ak_id.secret", "org_acme", ["agents:read"]).in_memory();
/// let client = AnyreachAuthLayer::new(OrganizationApiKey::new("ak_id.secret")?)
///     .relative_uris(RelativeUris::Complete)
///     .layer(anyreach.service());
///
/// let request = Request::get("/core/agents").body(String::new())?;
/// assert_eq!(client.oneshot(request).await?.status(), 200);
/// # Ok(()) }
/// ```
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum RelativeUris {
    /// Refuses the request. The default.
    #[default]
    Reject,
    /// Fills in the layer's origin.
    Complete,
    /// Sends the request with credentials and leaves the URI as it is, for a layer inside that completes it. That layer must
    /// complete it with the origin, because this one cannot see where the request goes.
    Trust,
}

/// Decides what happens to `Authorization` and `X-Anyreach-Org` headers that a request already has.
///
/// At the origin this concerns both headers; elsewhere it concerns `X-Anyreach-Org` and bearer tokens that start with `ak_` or
/// `pat_`. The scheme is matched in any case, with any number of spaces, in each line by itself.
///
/// # Examples
///
/// ```
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// use http::{Request, header::AUTHORIZATION};
/// use tower::{Layer, ServiceExt};
/// use tower_anyreach::{AnyreachAuthLayer, CallerHeaders, OrganizationApiKey, RefusalReason, test_util::FakeAnyreach};
///
/// let anyreach = FakeAnyreach::builder().api_key("ak_id.secret", "org_acme", ["agents:read"]).in_memory();
/// let layer = AnyreachAuthLayer::new(OrganizationApiKey::new("ak_id.secret")?);
/// let request = || Request::get(anyreach.uri("/core/agents")).header(AUTHORIZATION, "Bearer ak_own.secret").body(String::new());
///
/// let error = layer.clone().layer(anyreach.service()).oneshot(request()?).await.unwrap_err();
/// assert_eq!(error.refusal().unwrap().reason(), RefusalReason::CallerHeader);
///
/// let client = layer.caller_headers(CallerHeaders::Replace).layer(anyreach.service());
/// client.oneshot(request()?).await?;
/// assert_eq!(anyreach.received()[0].headers()[AUTHORIZATION], "Bearer ak_id.secret");
/// # Ok(()) }
/// ```
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum CallerHeaders {
    /// Refuses the request as [`CallerHeader`](crate::RefusalReason::CallerHeader), because two parties that both
    /// authenticate one request are a mistake. The default.
    #[default]
    Reject,
    /// Removes them.
    Replace,
}

/// Decides what happens to requests that go to another host than the origin's.
///
/// # Examples
///
/// ```
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// use http::Request;
/// use tower::{Layer, ServiceExt};
/// use tower_anyreach::{AnyreachAuthLayer, ForeignRequests, OrganizationApiKey, test_util::FakeAnyreach};
///
/// let anyreach = FakeAnyreach::builder().in_memory();
/// let layer = AnyreachAuthLayer::new(OrganizationApiKey::new("ak_id.secret")?);
/// let request = || Request::get("https://elsewhere.example/").body(String::new());
///
/// for (foreign_requests, arrives) in [
///     (ForeignRequests::Reject, false),
///     (ForeignRequests::ForwardWithoutCredentials, true),
/// ] {
///     let client = layer.clone().foreign_requests(foreign_requests).layer(anyreach.service());
///     assert_eq!(client.oneshot(request()?).await.is_ok(), arrives);
/// }
/// # Ok(()) }
/// ```
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ForeignRequests {
    /// Refuses the request as [`ForeignDestination`](crate::RefusalReason::ForeignDestination). The default.
    #[default]
    Reject,
    /// Sends the request without credentials. Other spellings of the origin's host are still refused, and so is a redirect
    /// in its answer that may lead back to the origin.
    ForwardWithoutCredentials,
}

/// Decides what happens to a 401 or 403.
///
/// # Examples
///
/// ```
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// use http::Request;
/// use tower::{Layer, ServiceExt};
/// use tower_anyreach::test_util::FakeAnyreach;
/// use tower_anyreach::{AnyreachAuthLayer, Denial, DeniedResponses, Error, OrganizationApiKey};
///
/// let anyreach = FakeAnyreach::builder().in_memory();
/// let layer = AnyreachAuthLayer::new(OrganizationApiKey::new("ak_unknown.secret")?);
/// let request = || Request::get(anyreach.uri("/core/agents")).body(String::new());
///
/// let denied = layer.clone().layer(anyreach.service()).oneshot(request()?).await;
/// assert!(matches!(denied, Err(Error::Unauthorized(_))));
///
/// let client = layer.denied_responses(DeniedResponses::PassThrough).layer(anyreach.service());
/// let response = client.oneshot(request()?).await?;
/// assert_eq!(response.extensions().get::<Denial>().unwrap().status(), 401);
/// # Ok(()) }
/// ```
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum DeniedResponses {
    /// Turns it into [`Error::Unauthorized`](crate::Error::Unauthorized) or [`Error::Forbidden`](crate::Error::Forbidden).
    /// The default.
    #[default]
    IntoError,
    /// Passes it through untouched, its body unread, with a [`Denial`](crate::Denial) among its extensions.
    PassThrough,
}

/// All options, with their defaults.
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

/// How much of a denial's body is read. Each request takes a copy along, so it is small: a `Duration` takes twice as much.
#[derive(Debug, Clone, Copy)]
pub(crate) struct ErrorBodyLimits {
    pub(crate) bytes: usize,
    nanoseconds: u64,
}

impl ErrorBodyLimits {
    pub(crate) fn time(self) -> Duration {
        Duration::from_nanos(self.nanoseconds)
    }

    /// Sets the time; more than 584 years count as that.
    pub(crate) fn set_time(&mut self, time: Duration) {
        self.nanoseconds = u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
    }
}
