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
/// It attaches `Authorization: Bearer <credential>` and, for personal access tokens,
/// `X-Anyreach-Org`, to requests that go to its [`Origin`] and to no others. It turns a 401 or 403
/// into a typed [`Error`](crate::Error). Clones share credential and configuration.
///
/// # Rules
///
/// 1. **One origin.** Credentials go to one [`Origin`], whose host the URI has to spell in lower
///    case and without userinfo; the default port may be given or omitted. Every request is judged
///    by its own URI, so neither a redirect nor a typo sends a credential elsewhere.
/// 2. **Other hosts are refused**, unless [`ForeignRequests`] forwards such requests without
///    credentials or the request is [`Anonymous`](crate::Anonymous). Another spelling of the
///    origin's host is refused unless the request is `Anonymous`.
/// 3. **The layer sets both headers.** An authenticated request has one `Authorization`, marked
///    sensitive, and at most one `X-Anyreach-Org`. [`CallerHeaders`] decides about a caller's own.
/// 4. **A refused request is not sent.** Its refusal comes from the response future, before any
///    I/O; that of a redirect (rule 5) comes after the response. `poll_ready` only forwards the
///    inner service's readiness.
/// 5. **No other host chooses an authenticated request.** A redirect from another host that may
///    lead to the origin is refused as [`ForeignRedirect`](crate::RefusalReason::ForeignRedirect).
/// 6. **Only denials are read.** A bounded part of the body of a 401 or 403 is kept in a
///    [`Denial`](crate::Denial). Every other response passes unchanged, including a 401 or 403 to a
///    request without credentials, except a redirect that rule 5 refuses.
/// 7. **Both headers come from one version** of the [`CredentialStore`]: a rotation never pairs a
///    new token with an old organization.
/// 8. **Nothing is sent twice**, except by a retry policy around the layer.
///
/// # Overrides
///
/// These extensions of a request override the layer for that request. They are read and not
/// removed, so that a replay has them too.
///
/// - [`Anonymous`](crate::Anonymous): no credential; the request may go to any host.
/// - [`Credential`](crate::Credential): this credential, as in a gateway with one key per tenant.
/// - [`CredentialStore`]: the credential in force in this store.
/// - [`OrganizationId`](crate::OrganizationId): this organization, with a personal access token.
///
/// `Anonymous` takes precedence over `Credential`, which takes precedence over `CredentialStore`,
/// which takes precedence over the layer's own store.
///
/// # Examples
///
/// ```
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() {
/// use http::{Request, Response, header::AUTHORIZATION};
/// use tower::{Layer, ServiceExt, service_fn};
/// use tower_anyreach::{AnyreachAuthLayer, OrganizationApiKey};
///
/// let key = OrganizationApiKey::new("ak_4711.c2VjcmV0").unwrap();
/// let client =
///     AnyreachAuthLayer::new(key).layer(service_fn(async |request: Request<String>| {
///         assert_eq!(request.headers()[AUTHORIZATION], "Bearer ak_4711.c2VjcmV0");
///         Ok::<_, std::io::Error>(Response::new(String::from("[]")))
///     }));
///
/// let request = Request::get("https://api.anyreach.ai/core/agents")
///     .body(String::new())
///     .unwrap();
/// assert_eq!(client.oneshot(request).await.unwrap().body(), "[]");
/// # }
/// ```
///
/// For a client that sends its requests through a proxy of its own and reads larger error bodies:
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
    /// Creates a layer that authenticates with one credential, or with the one that a
    /// [`CredentialStore`] has in force when a request is made.
    ///
    /// # Examples
    ///
    /// ```
    /// use tower_anyreach::{
    ///     AnyreachAuthLayer, Credential, CredentialStore, OrganizationApiKey,
    /// };
    ///
    /// let key = OrganizationApiKey::new("ak_4711.c2VjcmV0")?;
    /// let layer = AnyreachAuthLayer::new(key.clone());
    ///
    /// // The same, with a store that is kept for rotation.
    /// let store = CredentialStore::new(key);
    /// let layer = AnyreachAuthLayer::new(store.clone());
    /// store.rotate(Credential::parse("ak_4712.bmV3")?);
    /// assert!(format!("{layer:?}").contains("version: 2"));
    /// # Ok::<(), tower_anyreach::InvalidCredential>(())
    /// ```
    pub fn new(credentials: impl Into<CredentialStore>) -> Self {
        Self::with_store(Some(credentials.into()))
    }

    /// Creates a layer without a credential, for gateways that serve several tenants.
    ///
    /// Each request needs a [`Credential`](crate::Credential), a [`CredentialStore`] or
    /// [`Anonymous`](crate::Anonymous) in its extensions. A request without one is refused as
    /// [`MissingCredential`](crate::RefusalReason::MissingCredential), so a request that lost its
    /// tenant is never sent with the key of another. Before a gateway sends on a request that it
    /// received, it removes `Host`, and any `Connection` that names one of the two headers.
    ///
    /// # Examples
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() {
    /// use http::{Request, Response};
    /// use tower::{Layer, Service, ServiceExt, service_fn};
    /// use tower_anyreach::{AnyreachAuthLayer, Credential};
    ///
    /// let mut client =
    ///     AnyreachAuthLayer::per_request().layer(service_fn(async |_: Request<String>| {
    ///         Ok::<_, std::io::Error>(Response::new(String::new()))
    ///     }));
    /// let uri = "https://api.anyreach.ai/core/agents";
    ///
    /// let tenant = Credential::parse("ak_tenant.c2VjcmV0").unwrap();
    /// let request = Request::get(uri)
    ///     .extension(tenant)
    ///     .body(String::new())
    ///     .unwrap();
    /// assert!(client.ready().await.unwrap().call(request).await.is_ok());
    ///
    /// let request = Request::get(uri).body(String::new()).unwrap();
    /// let error = client
    ///     .ready()
    ///     .await
    ///     .unwrap()
    ///     .call(request)
    ///     .await
    ///     .unwrap_err();
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

    /// Sets the origin that credentials are sent to.
    ///
    /// Default: [`Origin::default()`], `https://api.anyreach.ai`.
    pub fn origin(self, origin: Origin) -> Self {
        self.with(|config| config.origin = origin)
    }

    /// Sets how requests with a relative URI, without scheme and authority, are handled.
    ///
    /// Default: [`RelativeUris::Reject`].
    pub fn relative_uris(self, relative_uris: RelativeUris) -> Self {
        self.with(|config| config.relative_uris = relative_uris)
    }

    /// Sets how a request's own `Authorization` and `X-Anyreach-Org` headers are handled.
    ///
    /// Default: [`CallerHeaders::Reject`].
    pub fn caller_headers(self, caller_headers: CallerHeaders) -> Self {
        self.with(|config| config.caller_headers = caller_headers)
    }

    /// Sets how requests to other hosts are handled.
    ///
    /// Default: [`ForeignRequests::Reject`].
    pub fn foreign_requests(self, foreign_requests: ForeignRequests) -> Self {
        self.with(|config| config.foreign_requests = foreign_requests)
    }

    /// Sets whether a personal access token needs an organization.
    ///
    /// Set it to `false` for calls that are not organization-scoped. Anyreach's documentation
    /// implies that such calls exist; no list of them was found. A token without an organization is
    /// then sent without `X-Anyreach-Org`.
    ///
    /// Default: `true`; a request without one is refused as
    /// [`MissingOrganization`](crate::RefusalReason::MissingOrganization).
    pub fn require_organization(self, require: bool) -> Self {
        self.with(|config| config.requires_organization = require)
    }

    /// Sets how a 401 or 403 is returned.
    ///
    /// Default: [`DeniedResponses::IntoError`].
    pub fn denied_responses(self, denied_responses: DeniedResponses) -> Self {
        self.with(|config| config.denied_responses = denied_responses)
    }

    /// Sets how many bytes of the body of a 401 or 403 are kept.
    ///
    /// The rest is dropped, not drained. With 0 the body is not read, and the
    /// [`DenialReason`](crate::DenialReason) is derived from the head alone.
    ///
    /// Default: 8 KiB.
    pub fn error_body_limit(self, bytes: usize) -> Self {
        self.with(|config| config.error_body.bytes = bytes)
    }

    /// Sets how long reading the body of a 401 or 403 may take in total.
    ///
    /// It needs a tokio runtime with its timer enabled, as `tokio::main` has. Without a tokio
    /// runtime, the data that is available at once is read, and the rest is dropped.
    ///
    /// Default: 1 second.
    pub fn error_body_timeout(self, timeout: Duration) -> Self {
        self.with(|config| config.error_body.set_time(timeout))
    }

    /// Decides about the head of a request and sets its headers, without Tower and without I/O.
    ///
    /// [`AnyreachAuth`] uses this method, and so can any other client. It refuses a request for one
    /// of these [`RefusalReason`](crate::RefusalReason)s, in this order:
    ///
    /// 1. `Method`, `RelativeUri`, `Userinfo`, `Scheme`, `Authority`, `ForeignDestination`,
    ///    `ForeignRedirect`;
    /// 2. if the request is to carry credentials, `HostHeader`, `TooManyHeaders`, `CallerHeader`;
    ///    if it is forwarded without them, `CallerHeader` alone;
    /// 3. `MissingCredential`, `UnexpectedOrganization`, `MissingOrganization`.
    ///
    /// An [`Anonymous`](crate::Anonymous) request is never refused. After an error, neither header
    /// is in the head. Authorize a head only once: a second call takes the headers of the first for
    /// the caller's. Copy the head first if the request may be sent again.
    ///
    /// # Errors
    ///
    /// Returns [`Error::Refused`] if the request is refused. Returns [`Error::Unauthorized`] with
    /// the first denial if a replay would be sent with the denied credential and organization, or
    /// if the organization does not suit the new credential.
    ///
    /// # Examples
    ///
    /// ```
    /// use http::{Request, header::AUTHORIZATION};
    /// use tower_anyreach::{AnyreachAuthLayer, OrganizationApiKey};
    ///
    /// let auth = AnyreachAuthLayer::new(OrganizationApiKey::new("ak_4711.c2VjcmV0")?);
    /// let (mut head, _) = Request::get("https://api.anyreach.ai/core/agents")
    ///     .body(())?
    ///     .into_parts();
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
