//! A 401 or 403 of Anyreach: its head, what was read of its body, and what it means.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{
    CONNECTION, CONTENT_LENGTH, PROXY_AUTHENTICATE, SET_COOKIE, TE, TRAILER, TRANSFER_ENCODING,
    UPGRADE,
};
use http::{HeaderMap, HeaderName, Response, StatusCode};

use crate::credential::CredentialId;
use crate::organization::OrganizationId;

/// A 401 or 403 of the Anyreach API: the answer's head, a bounded copy of its body, and what is known about it.
///
/// It is one pointer wide, cheap to clone, and `Send + Sync + 'static` whatever the type of the body was.
///
/// `Display` and `Debug` show what this crate knows (status, reason, credential id, organization, the remedy)
/// and no text that the server wrote. That is reached by name only: [`detail`](Self::detail) made safe to show,
/// [`required_scopes`](Self::required_scopes) well-formed, [`headers`](Self::headers) and [`body`](Self::body)
/// exactly as they were sent, which may include an echo of the credential.
///
/// # Examples
///
/// ```
/// # #[tokio::main(flavor = "current_thread")] async fn main() {
/// use http::{Request, Response, StatusCode};
/// use tower::{Layer, ServiceExt, service_fn};
/// use tower_anyreach::{AnyreachAuthLayer, DenialReason, Error, PersonalAccessToken};
///
/// let token = PersonalAccessToken::new("pat_c2VjcmV0").unwrap();
/// let client = AnyreachAuthLayer::new(token)
///     .require_organization(false)
///     .layer(service_fn(async |_: Request<String>| {
///         Response::builder()
///             .status(StatusCode::UNAUTHORIZED)
///             .body(r#"{"detail": "Token is missing organization claim."}"#.to_owned())
///     }));
///
/// let request = Request::get("https://api.anyreach.ai/core/agents").body(String::new()).unwrap();
/// let Err(Error::Unauthorized(denial)) = client.oneshot(request).await else { panic!() };
/// assert_eq!(denial.reason(), DenialReason::MissingOrganization);
/// assert_eq!(denial.detail(), Some("Token is missing organization claim."));
/// # }
/// ```
#[derive(Clone)]
pub struct Denial(Arc<Details>);

#[derive(Clone)]
pub(crate) struct Details {
    pub(crate) status: StatusCode,
    pub(crate) reason: DenialReason,
    pub(crate) detail: Option<Box<str>>,
    pub(crate) scopes: Box<[Box<str>]>,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
    pub(crate) truncated: bool,
    pub(crate) credential: CredentialId,
    pub(crate) organization: Option<OrganizationId>,
    /// The version in force when the request left, unless the credential was the request's own.
    pub(crate) version: Option<u64>,
    pub(crate) reported: Reported,
    /// The request was a replay already.
    pub(crate) replayed: bool,
    /// What was denied is a `GET`.
    #[cfg_attr(not(feature = "retry"), expect(dead_code, reason = "a replay asks"))]
    pub(crate) is_get: bool,
}

/// What a store answered when a 401 was reported to it; nothing for a 403, or for a request's own credential.
#[derive(Clone, Default)]
pub(crate) struct Reported {
    /// It was the first 401 of the version in force.
    #[cfg_attr(
        not(feature = "tracing"),
        allow(dead_code, reason = "an event says so")
    )]
    pub(crate) is_first: bool,
    pub(crate) report: Option<Arc<dyn Report>>,
}

/// A 401 that was reported to a store, which implements this. It does not keep the store alive.
pub(crate) trait Report: Send + Sync {
    /// Says whether another credential than the one that was denied is in force now.
    fn renewal(&self) -> Renewal;

    /// Waits for the fetch that the 401 led to, at most this long.
    fn wait(&self, at_most: Duration) -> Pin<Box<dyn Future<Output = ()> + Send>>;
}

/// Whether another credential is in force than the one that was denied.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Renewal {
    Yes,
    No,
    /// No, and there is a fetch to wait for.
    Pending,
}

/// How long a known denial waits for another credential.
pub(crate) const MAX_WAIT: Duration = Duration::from_secs(3);

/// `Set-Cookie` among them: a gateway's caller is not the client that the cookie is for.
const HOP_BY_HOP: [HeaderName; 9] = [
    CONNECTION,
    HeaderName::from_static("keep-alive"),
    PROXY_AUTHENTICATE,
    HeaderName::from_static("proxy-connection"),
    SET_COOKIE,
    TE,
    TRAILER,
    TRANSFER_ENCODING,
    UPGRADE,
];

impl Denial {
    pub(crate) fn new(details: Details) -> Self {
        Self(Arc::new(details))
    }

    /// Returns the status: 401 or 403.
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
    /// assert_eq!(denial.status(), 403);
    /// # Ok(()) }
    /// ```
    #[must_use]
    pub fn status(&self) -> StatusCode {
        self.0.status
    }

    /// Returns why, as far as status, challenge and body tell.
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
    /// use tower_anyreach::DenialReason;
    ///
    /// assert_eq!(denial.reason(), DenialReason::InsufficientScope);
    /// # Ok(()) }
    /// ```
    #[must_use]
    pub fn reason(&self) -> DenialReason {
        self.0.reason
    }

    /// Returns the message of the error body: the string at the top-level key `detail`, or else `error`.
    ///
    /// It was written by the server. Control and other invisible characters are escaped, echoes of the credential that this
    /// request carried are redacted (unbroken; in the clear, percent-encoded, hex and base64), and it is cut at 256 characters.
    /// An echo of another credential, such as the one before a rotation, is not covered. `None` if the body was not read whole,
    /// is not a JSON object, or has no such string but, say, a list.
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
    /// assert_eq!(denial.detail(), Some("Insufficient scope."));
    /// # Ok(()) }
    /// ```
    #[must_use]
    pub fn detail(&self) -> Option<&str> {
        self.0.detail.as_deref()
    }

    /// Returns the answer's headers exactly as they were sent; nothing is redacted.
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
    /// use http::header::WWW_AUTHENTICATE;
    ///
    /// assert!(denial.headers().contains_key(WWW_AUTHENTICATE));
    /// # Ok(()) }
    /// ```
    #[must_use]
    pub fn headers(&self) -> &HeaderMap {
        &self.0.headers
    }

    /// Returns what was read of the body, exactly as it was sent; nothing is redacted or decompressed.
    ///
    /// It holds at most [`error_body_limit`](crate::AnyreachAuthLayer::error_body_limit) bytes.
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
    /// assert!(denial.body().starts_with(br#"{"detail":"#));
    /// # Ok(()) }
    /// ```
    #[must_use]
    pub fn body(&self) -> &Bytes {
        &self.0.body
    }

    /// Returns whether the body is not whole: longer than the limit, slower than the time limit, failed, or not
    /// read at all.
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
    /// assert!(!denial.is_body_truncated());
    /// # Ok(()) }
    /// ```
    #[must_use]
    pub fn is_body_truncated(&self) -> bool {
        self.0.truncated
    }

    /// Returns which credential was denied.
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
    /// assert!(denial.credential().unwrap().to_string().starts_with("pat_…#"));
    /// # Ok(()) }
    /// ```
    #[must_use]
    pub fn credential(&self) -> Option<&CredentialId> {
        Some(&self.0.credential)
    }

    /// Returns the organization that was sent in `X-Anyreach-Org`.
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
    /// assert_eq!(denial.organization().unwrap().as_str(), "org_acme");
    /// # Ok(()) }
    /// ```
    #[must_use]
    pub fn organization(&self) -> Option<&OrganizationId> {
        self.0.organization.as_ref()
    }

    /// Returns the scopes that a challenge asked for, in its order; any one of them may suffice.
    ///
    /// They are read from the `scope` parameter of a Bearer challenge (RFC 6750 section 3), and only tokens that
    /// are well-formed (RFC 6749 section 3.3) and do not echo the credential are given. Anyreach does not
    /// document that it sends one.
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
    /// assert_eq!(denial.required_scopes().collect::<Vec<_>>(), ["agents:manage"]);
    /// # Ok(()) }
    /// ```
    pub fn required_scopes(&self) -> impl Iterator<Item = &str> {
        self.0.scopes.iter().map(AsRef::as_ref)
    }

    /// Rebuilds the answer, for a gateway that forwards it.
    ///
    /// Hop-by-hop headers are left out (RFC 9110 section 7.6.1), and so is `Set-Cookie`, which is for the client that asked.
    /// The body is what was kept of it; where it is truncated, `Content-Length` is left out too. Nothing is redacted: an echo of
    /// the credential, if the server wrote one, goes to the receiver of this response.
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
    /// let response = denial.into_response();
    /// assert_eq!(response.status(), 403);
    /// assert!(!response.body().is_empty());
    /// # Ok(()) }
    /// ```
    #[must_use]
    pub fn into_response(self) -> Response<Bytes> {
        let details = Arc::unwrap_or_clone(self.0);
        let mut headers = details.headers;
        // RFC 9110 section 7.6.1: what `Connection` names concerns that connection only.
        let named: Vec<HeaderName> = headers
            .get_all(CONNECTION)
            .iter()
            .filter_map(|line| line.to_str().ok())
            .flat_map(|line| line.split(','))
            .filter_map(|name| name.trim().parse().ok())
            .collect();
        for name in named.iter().chain(&HOP_BY_HOP) {
            headers.remove(name);
        }
        if details.truncated {
            headers.remove(CONTENT_LENGTH);
        }
        let mut response = Response::new(details.body);
        *response.status_mut() = details.status;
        *response.headers_mut() = headers;
        response
    }

    /// Waits for another credential, and resolves to `true` once the store has one in force that differs from the denied one.
    ///
    /// For callers who send again without Tower; with Tower, use [`RefreshPolicy`](crate::retry::RefreshPolicy). The layer has
    /// reported the 401 to its store already, so the fetch that it led to, if any, is in flight. `renewed` waits for that fetch,
    /// for at most 3 seconds, and begins one only where that one ended with its runtime. It resolves to `false` where there is
    /// nothing to wait for: no source, a source at rest, a fetch that has ended without another credential, a request's own
    /// [`Credential`](crate::Credential), a 403, a store that is gone, or no tokio runtime with a timer. Called hours later, it
    /// answers from what is in force then. It yields to the scheduler once, so that a loop around it does not stall a thread.
    ///
    /// Send a request again at most once for each denial: it may be denied for another reason.
    ///
    /// # Examples
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// use http::Request;
    /// use tower::{Layer, ServiceExt};
    /// use tower_anyreach::test_util::FakeAnyreach;
    /// use tower_anyreach::{AnyreachAuthLayer, CredentialStore, Error, OrganizationApiKey};
    ///
    /// let anyreach = FakeAnyreach::builder().api_key("ak_new.secret", "org_acme", ["agents:read"]).in_memory();
    /// let store = CredentialStore::new(OrganizationApiKey::new("ak_old.secret")?);
    /// let client = AnyreachAuthLayer::new(store.clone()).layer(anyreach.service());
    /// let request = || Request::get(anyreach.uri("/core/agents")).body(String::new());
    ///
    /// let Err(Error::Unauthorized(denial)) = client.clone().oneshot(request()?).await else { panic!() };
    /// assert!(!denial.renewed().await);
    /// store.rotate(OrganizationApiKey::new("ak_new.secret")?);
    /// assert!(denial.renewed().await);
    /// assert_eq!(client.oneshot(request()?).await?.status(), 200);
    /// # Ok(()) }
    /// ```
    #[must_use = "futures do nothing unless polled"]
    pub fn renewed(&self) -> impl Future<Output = bool> + Send + use<> {
        let report = self.0.reported.report.clone();
        async move {
            tokio::task::yield_now().await;
            let Some(report) = report else {
                return false;
            };
            if report.renewal() == Renewal::Pending {
                report.wait(MAX_WAIT).await;
            }
            report.renewal() == Renewal::Yes
        }
    }

    #[cfg(feature = "retry")]
    pub(crate) fn report(&self) -> Option<&Arc<dyn Report>> {
        self.0.reported.report.as_ref()
    }

    #[cfg(feature = "tracing")]
    pub(crate) fn is_first_of_version(&self) -> bool {
        self.0.reported.is_first
    }

    #[cfg(feature = "tracing")]
    pub(crate) fn version(&self) -> Option<u64> {
        self.0.version
    }

    #[cfg(feature = "tracing")]
    pub(crate) fn is_replayed(&self) -> bool {
        self.0.replayed
    }

    #[cfg(feature = "retry")]
    pub(crate) fn is_get(&self) -> bool {
        self.0.is_get
    }
}

impl fmt::Display for Denial {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (status, reason) = (self.0.status.as_u16(), self.0.reason);
        write!(f, "Anyreach answered {status}: {reason}")?;
        let credential = &self.0.credential;
        match &self.0.organization {
            Some(organization) => {
                write!(f, " (credential {credential}, organization {organization})")
            }
            None => write!(f, " (credential {credential})"),
        }
    }
}

impl fmt::Debug for Denial {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Denial")
            .field("status", &self.0.status.as_u16())
            .field("reason", &self.0.reason)
            .field("credential", &self.0.credential)
            .field("organization", &self.0.organization)
            .field("version", &self.0.version)
            .field("replayed", &self.0.replayed)
            .field("body_len", &self.0.body.len())
            .field("truncated", &self.0.truncated)
            .finish_non_exhaustive()
    }
}

/// Why Anyreach denied a request.
///
/// Status decides first; a challenge and the documented texts only say more. `Display` gives the remedy.
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
/// use tower_anyreach::DenialReason;
///
/// let advice = match denial.reason() {
///     DenialReason::InvalidCredential => "rotate the credential",
///     DenialReason::InsufficientScope => "ask for a role",
///     _ => "call the operator",
/// };
/// assert_eq!(advice, "ask for a role");
/// # Ok(()) }
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum DenialReason {
    /// 401: no credential arrived, although one was sent.
    MissingCredential,
    /// 401: the credential is invalid or deleted; an expired one too, as is to be expected. Anyreach does not say.
    InvalidCredential,
    /// 401: the credential is of no form that the API knows.
    UnrecognizedCredential,
    /// 401: a personal access token without an organization.
    MissingOrganization,
    /// The credential is valid, and its scopes do not grant the action: 403, or 401 with that challenge.
    ///
    /// This is the only meaning of 403 that Anyreach documents, so the text of a 403 is not considered. That a user who is not a
    /// member of the organization is answered in the same way is a guess.
    InsufficientScope,
    /// The answer is not in the API's manner: it came from something in front of it, such as a proxy or a firewall.
    Unspecified,
}

impl DenialReason {
    /// Returns the reason in `snake_case`, stable, fit for a metric's label.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::MissingCredential => "missing_credential",
            Self::InvalidCredential => "invalid_credential",
            Self::UnrecognizedCredential => "unrecognized_credential",
            Self::MissingOrganization => "missing_organization",
            Self::InsufficientScope => "insufficient_scope",
            Self::Unspecified => "unspecified",
        }
    }
}

impl fmt::Display for DenialReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::MissingCredential => "no credential arrived; see what removes it on the way",
            Self::InvalidCredential => "the credential is invalid, expired or deleted; rotate it",
            Self::UnrecognizedCredential => "the credential is of a form the API does not know; check what was configured",
            Self::MissingOrganization => {
                "the personal access token names no organization; give it one, or the request an `OrganizationId`"
            }
            Self::InsufficientScope => "the credential does not grant this: its scopes do not, or its user is not a member of that organization",
            Self::Unspecified => "the answer is not in the API's manner; look for a proxy or firewall in front of it",
        })
    }
}
