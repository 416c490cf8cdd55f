//! The layer: its constructors, its options, and the decision without Tower.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use tower_layer::Layer;

use http::request::Parts;

use crate::answer::Authorized;
use crate::config::{CallerHeaders, Config, DeniedResponses, ForeignRequests, RelativeUris};
use crate::error::Error;
use crate::origin::Origin;
use crate::service::{AnyreachAuth, Shared};
use crate::store::CredentialStore;

/// Layer that applies [`AnyreachAuth`], which authenticates requests to the Anyreach API.
///
/// It attaches `Authorization: Bearer <credential>` and, for personal access tokens, `X-Anyreach-Org`, to
/// requests that go to its [`Origin`] and to no others, and turns a 401 or 403 into a typed
/// [`Error`](crate::Error). Clones share credential and configuration.
///
/// Each option's documentation ends with its default. The defaults refuse whatever could send a credential to another host;
/// refusals come from the response future, before any I/O.
///
/// # Examples
///
/// ```
/// # #[tokio::main(flavor = "current_thread")] async fn main() {
/// use http::{Request, Response, header::AUTHORIZATION};
/// use tower::{Layer, ServiceExt, service_fn};
/// use tower_anyreach::{AnyreachAuthLayer, OrganizationApiKey};
///
/// let key = OrganizationApiKey::new("ak_4711.c2VjcmV0").unwrap();
/// let client = AnyreachAuthLayer::new(key).layer(service_fn(async |request: Request<String>| {
///     assert_eq!(request.headers()[AUTHORIZATION], "Bearer ak_4711.c2VjcmV0");
///     Ok::<_, std::io::Error>(Response::new(String::from("[]")))
/// }));
///
/// let request = Request::get("https://api.anyreach.ai/core/agents").body(String::new()).unwrap();
/// assert_eq!(client.oneshot(request).await.unwrap().body(), "[]");
/// # }
/// ```
///
/// Customized, for a client that goes through a proxy of its own and reads larger error bodies:
///
/// ```
/// use tower_anyreach::{AnyreachAuthLayer, CallerHeaders, Origin, PersonalAccessToken};
///
/// let layer = AnyreachAuthLayer::new(PersonalAccessToken::new("pat_c2VjcmV0")?)
///     .origin("https://anyreach.proxy.example".parse::<Origin>()?)
///     .caller_headers(CallerHeaders::Replace)
///     .error_body_limit(64 * 1024);
/// assert!(!format!("{layer:?}").contains("c2VjcmV0"));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone)]
#[must_use = "a layer does nothing until it is applied to a service"]
pub struct AnyreachAuthLayer(Arc<Shared>);

impl AnyreachAuthLayer {
    /// Creates a layer that authenticates with one credential, or with whichever a [`CredentialStore`] has in
    /// force when a request is made.
    ///
    /// # Examples
    ///
    /// ```
    /// use tower_anyreach::{AnyreachAuthLayer, Credential, CredentialStore, OrganizationApiKey};
    ///
    /// let key = OrganizationApiKey::new("ak_4711.c2VjcmV0")?;
    /// let layer = AnyreachAuthLayer::new(key.clone());
    ///
    /// // The same, with a store that is kept for rotating.
    /// let store = CredentialStore::new(key);
    /// let layer = AnyreachAuthLayer::new(store.clone());
    /// store.rotate(Credential::parse("ak_4712.bmV3")?);
    /// assert!(format!("{layer:?}").contains("version: 2"));
    /// # Ok::<(), tower_anyreach::InvalidCredential>(())
    /// ```
    pub fn new(credentials: impl Into<CredentialStore>) -> Self {
        Self::with_store(Some(credentials.into()))
    }

    /// Creates a layer without a credential of its own, for gateways that serve many tenants.
    ///
    /// Each request must have a [`Credential`](crate::Credential), a [`CredentialStore`] or [`Anonymous`](crate::Anonymous) among
    /// its extensions. One without is refused as [`MissingCredential`](crate::RefusalReason::MissingCredential), so that a
    /// request that has lost its tenant is never sent with another's key.
    ///
    /// # Examples
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")] async fn main() {
    /// use http::{Request, Response};
    /// use tower::{Layer, Service, ServiceExt, service_fn};
    /// use tower_anyreach::{AnyreachAuthLayer, Credential};
    ///
    /// let mut client = AnyreachAuthLayer::per_request()
    ///     .layer(service_fn(async |_: Request<String>| Ok::<_, std::io::Error>(Response::new(String::new()))));
    /// let uri = "https://api.anyreach.ai/core/agents";
    ///
    /// let tenant = Credential::parse("ak_tenant.c2VjcmV0").unwrap();
    /// let request = Request::get(uri).extension(tenant).body(String::new()).unwrap();
    /// assert!(client.ready().await.unwrap().call(request).await.is_ok());
    ///
    /// let request = Request::get(uri).body(String::new()).unwrap();
    /// let error = client.ready().await.unwrap().call(request).await.unwrap_err();
    /// assert!(error.is_refused());
    /// # }
    /// ```
    pub fn per_request() -> Self {
        Self::with_store(None)
    }

    fn with_store(store: Option<CredentialStore>) -> Self {
        Self(Arc::new(Shared {
            store,
            config: Config::default(),
        }))
    }

    fn with(mut self, change: impl FnOnce(&mut Config)) -> Self {
        change(&mut Arc::make_mut(&mut self.0).config);
        self
    }

    /// Sets the one origin that credentials may go to.
    ///
    /// Default: [`Origin::default()`], `https://api.anyreach.ai`.
    ///
    /// # Examples
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// use http::Request;
    /// use tower::{Layer, ServiceExt};
    /// use tower_anyreach::{AnyreachAuthLayer, OrganizationApiKey, test_util::FakeAnyreach};
    ///
    /// let anyreach = FakeAnyreach::builder().api_key("ak_id.secret", "org_acme", ["agents:read"]).in_memory();
    /// let client = AnyreachAuthLayer::new(OrganizationApiKey::new("ak_id.secret")?)
    ///     .origin("https://anyreach.proxy.example:8443".parse()?)
    ///     .layer(anyreach.service());
    ///
    /// let request = Request::get("https://anyreach.proxy.example:8443/core/agents").body(String::new())?;
    /// assert!(client.clone().oneshot(request).await.is_ok());
    /// let request = Request::get("https://api.anyreach.ai/core/agents").body(String::new())?;
    /// assert!(client.oneshot(request).await.is_err());
    /// # Ok(()) }
    /// ```
    pub fn origin(self, origin: Origin) -> Self {
        self.with(|config| config.origin = origin)
    }

    /// Sets what happens to requests whose URI has no scheme and authority.
    ///
    /// Default: [`RelativeUris::Reject`].
    pub fn relative_uris(self, relative_uris: RelativeUris) -> Self {
        self.with(|config| config.relative_uris = relative_uris)
    }

    /// Sets what becomes of `Authorization` and `X-Anyreach-Org` headers that a request already brings.
    ///
    /// Default: [`CallerHeaders::Reject`].
    ///
    /// # Examples
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// use http::{Request, header::AUTHORIZATION};
    /// use tower::{Layer, ServiceExt};
    /// use tower_anyreach::{AnyreachAuthLayer, CallerHeaders, OrganizationApiKey, test_util::FakeAnyreach};
    ///
    /// let anyreach = FakeAnyreach::builder().api_key("ak_id.secret", "org_acme", ["agents:read"]).in_memory();
    /// let client = AnyreachAuthLayer::new(OrganizationApiKey::new("ak_id.secret")?)
    ///     .caller_headers(CallerHeaders::Replace)
    ///     .layer(anyreach.service());
    ///
    /// let request = Request::get(anyreach.uri("/core/agents"))
    ///     .header(AUTHORIZATION, "Bearer of another caller")
    ///     .body(String::new())?;
    /// client.oneshot(request).await?;
    /// assert_eq!(anyreach.received()[0].headers()[AUTHORIZATION], "Bearer ak_id.secret");
    /// # Ok(()) }
    /// ```
    pub fn caller_headers(self, caller_headers: CallerHeaders) -> Self {
        self.with(|config| config.caller_headers = caller_headers)
    }

    /// Sets what becomes of requests that go to another host.
    ///
    /// Default: [`ForeignRequests::Reject`].
    ///
    /// # Examples
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// use http::{Request, header::AUTHORIZATION};
    /// use tower::{Layer, ServiceExt};
    /// use tower_anyreach::{AnyreachAuthLayer, ForeignRequests, OrganizationApiKey, test_util::FakeAnyreach};
    ///
    /// let anyreach = FakeAnyreach::builder().in_memory();
    /// let client = AnyreachAuthLayer::new(OrganizationApiKey::new("ak_id.secret")?)
    ///     .foreign_requests(ForeignRequests::ForwardWithoutCredentials)
    ///     .layer(anyreach.service());
    ///
    /// let request = Request::get("https://elsewhere.example/").body(String::new())?;
    /// client.oneshot(request).await?;
    /// assert!(!anyreach.received()[0].headers().contains_key(AUTHORIZATION));
    /// # Ok(()) }
    /// ```
    pub fn foreign_requests(self, foreign_requests: ForeignRequests) -> Self {
        self.with(|config| config.foreign_requests = foreign_requests)
    }

    /// Sets whether a personal access token needs an organization.
    ///
    /// Anyreach documents calls that are not organization-scoped, and does not list them. With `false`, a token without an
    /// organization is sent without `X-Anyreach-Org`.
    ///
    /// Default: `true`; such a request is refused as
    /// [`MissingOrganization`](crate::RefusalReason::MissingOrganization).
    pub fn require_organization(self, require: bool) -> Self {
        self.with(|config| config.requires_organization = require)
    }

    /// Sets what becomes of a 401 or 403.
    ///
    /// Default: [`DeniedResponses::IntoError`].
    ///
    /// # Examples
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// use http::Request;
    /// use tower::{Layer, ServiceExt};
    /// use tower_anyreach::{AnyreachAuthLayer, DeniedResponses, OrganizationApiKey, test_util::FakeAnyreach};
    ///
    /// let anyreach = FakeAnyreach::builder().api_key("ak_id.secret", "org_acme", ["agents:read"]).in_memory();
    /// let client = AnyreachAuthLayer::new(OrganizationApiKey::new("ak_id.secret")?)
    ///     .denied_responses(DeniedResponses::PassThrough)
    ///     .layer(anyreach.service());
    ///
    /// let request = Request::post(anyreach.uri("/core/agents")).body(String::from("{}"))?;
    /// assert_eq!(client.oneshot(request).await?.status(), 403);
    /// # Ok(()) }
    /// ```
    pub fn denied_responses(self, denied_responses: DeniedResponses) -> Self {
        self.with(|config| config.denied_responses = denied_responses)
    }

    /// Sets how many bytes of the body of a 401 or 403 are kept.
    ///
    /// What goes beyond is dropped, not drained. With 0 the body is not read at all, and the
    /// [`DenialReason`](crate::DenialReason) comes from the head alone.
    ///
    /// Default: 8 KiB.
    ///
    /// # Examples
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// use http::Request;
    /// use tower::{Layer, ServiceExt};
    /// use tower_anyreach::{AnyreachAuthLayer, Error, OrganizationApiKey, test_util::FakeAnyreach};
    ///
    /// let anyreach = FakeAnyreach::builder().in_memory();
    /// let client = AnyreachAuthLayer::new(OrganizationApiKey::new("ak_unknown.secret")?)
    ///     .error_body_limit(16)
    ///     .layer(anyreach.service());
    ///
    /// let request = Request::get(anyreach.uri("/core/agents")).body(String::new())?;
    /// let Err(Error::Unauthorized(denial)) = client.oneshot(request).await else { panic!() };
    /// assert!(denial.is_body_truncated());
    /// assert_eq!(denial.body().len(), 16);
    /// # Ok(()) }
    /// ```
    pub fn error_body_limit(self, bytes: usize) -> Self {
        self.with(|config| config.error_body.bytes = bytes)
    }

    /// Sets how long reading the body of a 401 or 403 may take as a whole.
    ///
    /// It needs a tokio runtime with its timer enabled, as `tokio::main` has. Without any tokio runtime, what is
    /// there at once is read and the rest is dropped.
    ///
    /// Default: 1 second.
    ///
    /// # Examples
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// use std::time::Duration;
    /// use bytes::Bytes;
    /// use http::{Request, Response};
    /// use tower::{Layer, ServiceExt, service_fn};
    /// use tower_anyreach::{AnyreachAuthLayer, Error, OrganizationApiKey};
    /// # struct Never;
    /// # impl http_body::Body for Never {
    /// #     type Data = Bytes;
    /// #     type Error = std::io::Error;
    /// #     fn poll_frame(self: std::pin::Pin<&mut Self>, _: &mut std::task::Context<'_>)
    /// #         -> std::task::Poll<Option<Result<http_body::Frame<Bytes>, std::io::Error>>> { std::task::Poll::Pending }
    /// # }
    ///
    /// // A server that never ends the body of its 401.
    /// let server = service_fn(async |_: Request<String>| Response::builder().status(401).body(Never));
    /// let client = AnyreachAuthLayer::new(OrganizationApiKey::new("ak_4711.c2VjcmV0")?)
    ///     .error_body_timeout(Duration::from_millis(20))
    ///     .layer(server);
    ///
    /// let request = Request::get("https://api.anyreach.ai/core/agents").body(String::new())?;
    /// let Err(Error::Unauthorized(denial)) = client.oneshot(request).await else { panic!() };
    /// assert!(denial.is_body_truncated());
    /// # Ok(()) }
    /// ```
    pub fn error_body_timeout(self, timeout: Duration) -> Self {
        self.with(|config| config.error_body.set_time(timeout))
    }

    /// Decides about the head of a request and sets its headers, without Tower and without I/O.
    ///
    /// [`AnyreachAuth`] is built on this; any other client can be. In this order it refuses, as
    /// [`RefusalReason`](crate::RefusalReason) names it:
    ///
    /// 1. `Method`, `RelativeUri`, `Userinfo`, `Scheme`, `Authority`, `ForeignDestination`, `ForeignRedirect`;
    /// 2. of a request that is to carry credentials, `HostHeader`, `TooManyHeaders`, `CallerHeader`;
    /// 3. `MissingCredential`, `UnexpectedOrganization`, `MissingOrganization`.
    ///
    /// An [`Anonymous`](crate::Anonymous) request is never refused. After an error neither header is in the head. Authorize a
    /// head once: a second time its headers are the caller's, so copy it first if the request may be sent again.
    ///
    /// # Errors
    ///
    /// [`Error::Refused`]; or [`Error::Unauthorized`], the first denial, of a replay that would be sent with what was denied.
    ///
    /// # Examples
    ///
    /// ```
    /// use http::{Request, header::AUTHORIZATION};
    /// use tower_anyreach::{AnyreachAuthLayer, OrganizationApiKey};
    ///
    /// let auth = AnyreachAuthLayer::new(OrganizationApiKey::new("ak_4711.c2VjcmV0")?);
    /// let (mut head, _) = Request::get("https://api.anyreach.ai/core/agents").body(())?.into_parts();
    /// let authorized = auth.authorize(&mut head)?;
    /// assert_eq!(head.headers[AUTHORIZATION], "Bearer ak_4711.c2VjcmV0");
    /// // Send it, and then `authorized.on_response(..)`.
    /// # drop(authorized);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn authorize(&self, head: &mut Parts) -> Result<Authorized, Error> {
        self.0.authorize(head).map(Authorized::new)
    }

    #[cfg(feature = "follow-redirect")]
    pub(crate) fn config(&self) -> &Config {
        &self.0.config
    }
}

impl<S> Layer<S> for AnyreachAuthLayer {
    type Service = AnyreachAuth<S>;

    fn layer(&self, inner: S) -> Self::Service {
        AnyreachAuth::new(inner, Arc::clone(&self.0))
    }
}

impl fmt::Debug for AnyreachAuthLayer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AnyreachAuthLayer")
            .field("store", &self.0.store)
            .field("config", &self.0.config)
            .finish()
    }
}
