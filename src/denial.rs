//! A 401 or 403 from Anyreach: its head, the captured part of its body, and its classification.

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

/// A 401 or 403 from the Anyreach API: the head of the response, a bounded copy of its body, and
/// the reason.
///
/// It is one pointer wide, cheap to clone, and `Send + Sync + 'static` for any type of body.
///
/// `Display` and `Debug` show the status, the reason, the credential's id and the organization, and
/// no server-written text; `Display` adds the next step. Server-written text is available by name
/// only. [`detail`](Self::detail) is made safe to show, and
/// [`required_scopes`](Self::required_scopes) returns well-formed scopes.
/// [`headers`](Self::headers) and [`body`](Self::body) are returned as they were sent, and may
/// contain an echo of the credential.
///
/// # Examples
///
/// ```
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() {
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
/// let request = Request::get("https://api.anyreach.ai/core/agents")
///     .body(String::new())
///     .unwrap();
/// let Err(Error::Unauthorized(denial)) = client.oneshot(request).await else {
///     panic!()
/// };
/// assert_eq!(denial.reason(), DenialReason::MissingOrganization);
/// assert_eq!(
///     denial.detail(),
///     Some("Token is missing organization claim.")
/// );
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
    /// The version in force when the request was sent, unless the credential was the request's own.
    pub(crate) version: Option<u64>,
    pub(crate) reported: Reported,
    /// The denied request was a replay.
    pub(crate) replayed: bool,
    /// The denied request was a `GET`.
    #[cfg_attr(not(feature = "retry"), expect(dead_code, reason = "a replay asks"))]
    pub(crate) is_get: bool,
}

/// The store's answer to the report of a 401. Empty for a 403, and for a request's own credential.
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

/// A 401 that was reported to a store. The store implements this trait; a report does not keep the
/// store alive.
pub(crate) trait Report: Send + Sync {
    /// Returns whether a credential other than the denied one is in force now.
    fn renewal(&self) -> Renewal;

    /// Waits for the fetch that the 401 started or joined, for at most this long.
    fn wait(&self, at_most: Duration) -> Pin<Box<dyn Future<Output = ()> + Send + Sync>>;
}

/// Whether a credential other than the denied one is in force.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Renewal {
    Yes,
    No,
    /// Not yet: there is a fetch to wait for.
    Pending,
}

/// How long a denial waits for another credential.
pub(crate) const MAX_WAIT: Duration = Duration::from_secs(3);

/// Headers that a gateway does not forward. `Set-Cookie` is one of them, because the cookie is for
/// this client and not for the gateway's caller.
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

    /// Returns the status, 401 or 403.
    #[must_use]
    pub fn status(&self) -> StatusCode {
        self.0.status
    }

    /// Returns the reason, derived from status, challenge and body.
    #[must_use]
    pub fn reason(&self) -> DenialReason {
        self.0.reason
    }

    /// Returns the message of the error body: the string at the top-level key `detail`, otherwise
    /// the one at `error`.
    ///
    /// The server wrote this text. It is cut to 256 characters, and control and other invisible
    /// characters are escaped. Echoes of the credential that this request carried are redacted if
    /// they are unbroken, whether in the clear or percent-encoded, in hex or in base64. An echo of
    /// another credential, such as the one before a rotation, is not.
    ///
    /// Returns `None` if the body was not read to its end, or is not a JSON object with such a
    /// string. A list, for example, is not a string.
    #[must_use]
    pub fn detail(&self) -> Option<&str> {
        self.0.detail.as_deref()
    }

    /// Returns the response's headers as they were sent. Nothing is redacted.
    #[must_use]
    pub fn headers(&self) -> &HeaderMap {
        &self.0.headers
    }

    /// Returns the captured part of the body as it was sent. Nothing is redacted or decompressed.
    ///
    /// It has at most [`error_body_limit`](crate::AnyreachAuthLayer::error_body_limit) bytes.
    #[must_use]
    pub fn body(&self) -> &Bytes {
        &self.0.body
    }

    /// Returns whether the captured body is incomplete: it was longer than the limit, took longer
    /// than the time limit, failed, or was not read.
    #[must_use]
    pub fn is_body_truncated(&self) -> bool {
        self.0.truncated
    }

    /// Returns the id of the denied credential.
    #[must_use]
    pub fn credential(&self) -> Option<&CredentialId> {
        Some(&self.0.credential)
    }

    /// Returns the organization that was sent in `X-Anyreach-Org`.
    #[must_use]
    pub fn organization(&self) -> Option<&OrganizationId> {
        self.0.organization.as_ref()
    }

    /// Returns the scopes that the server asked for, in its order. Any one of them may suffice.
    ///
    /// They come from the `scope` parameter of a Bearer challenge (RFC 6750 section 3). Scopes that
    /// are malformed (RFC 6749 section 3.3), that are longer than 128 bytes or that echo the
    /// credential are left out, as are all after the first 64. No such challenge was found in
    /// Anyreach's documentation, so this is presumably empty.
    pub fn required_scopes(&self) -> impl Iterator<Item = &str> {
        self.0.scopes.iter().map(AsRef::as_ref)
    }

    /// Builds a response for a gateway that forwards the denial.
    ///
    /// Hop-by-hop headers are left out (RFC 9110 section 7.6.1), and so is `Set-Cookie`, which is
    /// meant for this client. The body is the captured part; if it is truncated, `Content-Length`
    /// is left out too. Nothing is redacted, so the receiver also gets an echo of the credential if
    /// the server wrote one.
    #[must_use]
    pub fn into_response(self) -> Response<Bytes> {
        let details = Arc::unwrap_or_clone(self.0);
        let mut headers = details.headers;
        // The headers that `Connection` names apply to that connection only (RFC 9110 section
        // 7.6.1).
        let named: Vec<HeaderName> = headers
            .get_all(CONNECTION)
            .iter()
            .flat_map(|line| line.as_bytes().split(|byte| *byte == b','))
            .filter_map(|name| HeaderName::from_bytes(name.trim_ascii()).ok())
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

    /// Waits for another credential, and resolves to whether the store has one in force that
    /// differs from the denied one.
    ///
    /// Use it to send a request again without Tower. With Tower, use
    /// [`RefreshPolicy`](crate::retry::RefreshPolicy). The layer has already reported the 401 to
    /// its store, so the fetch that it started or joined, if any, is in flight.
    ///
    /// 1. It resolves to `true` at once if a credential other than the denied one is in force.
    ///    Otherwise it waits for that fetch, for at most 3 seconds. It starts another one only if
    ///    that one was lost with its runtime, or if the 401 came outside a runtime.
    /// 2. It resolves to `false` if there is no fetch to wait for: without a source, while the
    ///    source rests, after a fetch that returned no other credential, and without a tokio
    ///    runtime with a timer. It always resolves to `false` for a request's own
    ///    [`Credential`](crate::Credential), for a 403, and after the store has been dropped.
    /// 3. If it is called later, it answers from the credential in force then.
    /// 4. It yields once to the scheduler, so that a loop around it does not block its thread.
    ///
    /// Send a request again at most once per denial, because it may be denied for another reason.
    ///
    /// # Examples
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// use http::Request;
    /// use tower::{Layer, ServiceExt};
    /// use tower_anyreach::test_util::FakeAnyreach;
    /// use tower_anyreach::{AnyreachAuthLayer, CredentialStore, Error, OrganizationApiKey};
    ///
    /// let anyreach = FakeAnyreach::builder()
    ///     .api_key("ak_new.secret", "org_acme", ["agents:read"])
    ///     .in_memory();
    /// let store = CredentialStore::new(OrganizationApiKey::new("ak_old.secret")?);
    /// let client = AnyreachAuthLayer::new(store.clone()).layer(anyreach.service());
    /// let request = || Request::get(anyreach.uri("/core/agents")).body(String::new());
    ///
    /// let Err(Error::Unauthorized(denial)) = client.clone().oneshot(request()?).await else {
    ///     panic!()
    /// };
    /// assert!(!denial.renewed().await);
    /// store.rotate(OrganizationApiKey::new("ak_new.secret")?);
    /// assert!(denial.renewed().await);
    /// assert_eq!(client.oneshot(request()?).await?.status(), 200);
    /// # Ok(())
    /// # }
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
        let (credential, organization) = (&self.0.credential, &self.0.organization);
        match (reason, organization) {
            (DenialReason::Unspecified, _) => write!(f, "a server answered {status}: {reason}")?,
            (DenialReason::InsufficientScope, Some(organization)) => write!(
                f,
                "Anyreach answered {status}: the credential lacks a scope, or possibly its user is \
                 not a member of {organization}; `GET /admin/members/me/scopes` \
                 lists a member's scopes",
            )?,
            _ => write!(f, "Anyreach answered {status}: {reason}")?,
        }
        match organization {
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
/// The status decides first. A challenge and the documented texts only make the reason more
/// specific. `Display` gives the next step.
///
/// # Examples
///
/// ```
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # use tower::{Layer, ServiceExt};
/// # let anyreach = tower_anyreach::test_util::FakeAnyreach::builder()
/// #     .personal_access_token("pat_secret", [("org_acme", ["agents:read"])])
/// #     .in_memory();
/// # let token = tower_anyreach::PersonalAccessToken::new("pat_secret")?
/// #     .for_organization("org_acme".parse()?);
/// # let client = tower_anyreach::AnyreachAuthLayer::new(token).layer(anyreach.service());
/// # let request = http::Request::post(anyreach.uri("/core/agents")).body(String::from("{}"))?;
/// # let denial = client.oneshot(request).await.unwrap_err().denial().unwrap().clone();
/// // `POST /core/agents`, with the scope `agents:read` only:
/// use tower_anyreach::DenialReason;
///
/// let advice = match denial.reason() {
///     DenialReason::InvalidCredential => "rotate the credential",
///     DenialReason::InsufficientScope => "request a scope",
///     _ => "check the configuration",
/// };
/// assert_eq!(advice, "request a scope");
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum DenialReason {
    /// 401: no credential arrived, although one was sent.
    MissingCredential,
    /// 401: the credential is invalid or deleted. An expired one presumably gets the same response;
    /// that was not found in Anyreach's documentation.
    InvalidCredential,
    /// 401: the API does not recognize the form of the credential.
    UnrecognizedCredential,
    /// 401: no organization was sent, which a personal access token needs.
    MissingOrganization,
    /// 403, or a 401 with an `insufficient_scope` challenge: the credential is valid, but its
    /// scopes do not grant the action.
    ///
    /// No other meaning of a 403 was found in Anyreach's documentation, so its text is not
    /// considered. It is an inference that users outside the organization get a 403 too.
    InsufficientScope,
    /// The response is not in the format of the API, so it probably came from something in front of
    /// it, such as a proxy or firewall.
    Unspecified,
}

impl DenialReason {
    /// Returns the reason in `snake_case`. It is stable and suits a metric label.
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
            Self::MissingCredential => {
                "no credential arrived, although one was sent; check whether a proxy removes \
                 `authorization`"
            }
            Self::InvalidCredential => {
                "the credential was rejected: it is invalid or deleted, or possibly expired; \
                 rotate it"
            }
            Self::UnrecognizedCredential => {
                "the form of the credential was not recognized; check the configured value"
            }
            Self::MissingOrganization => {
                "no organization was sent, which a personal access token needs; use \
                 `for_organization` or insert an `OrganizationId` extension; on `/mcp/`, give \
                 `organization_id` in each `call_tool`"
            }
            Self::InsufficientScope => {
                "the credential lacks a scope, or possibly its user is not a member of the \
                 organization; `GET /admin/members/me/scopes` lists a member's scopes"
            }
            Self::Unspecified => {
                "the response is not in the format of the API; check for a proxy or firewall \
                 that answered instead"
            }
        })
    }
}
