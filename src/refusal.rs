//! Why the layer refused a request.

use std::fmt;
use std::sync::Arc;

use http::HeaderName;

use crate::credential::CredentialId;
use crate::organization::OrganizationId;
use crate::origin::Origin;

/// The layer refused a request, or a redirect; [`reason`](Self::reason) says why.
///
/// A refused request did not reach the inner service in this attempt. An earlier attempt, or for
/// [`ForeignRedirect`](RefusalReason::ForeignRedirect) the request to the other host, may have been sent.
///
/// `Display` names the header or the configured origin, and the remedy. It never shows where the request was to go, because
/// a server may have chosen that: [`destination`](Self::destination) does.
///
/// # Examples
///
/// ```
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// use http::Request;
/// use tower::{Layer, ServiceExt};
/// use tower_anyreach::{AnyreachAuthLayer, OrganizationApiKey, RefusalReason, test_util::FakeAnyreach};
///
/// let client = AnyreachAuthLayer::new(OrganizationApiKey::new("ak_4711.c2VjcmV0")?)
///     .layer(FakeAnyreach::builder().in_memory().service());
/// let request = Request::get("https://elsewhere.example/core/agents").body(String::new())?;
/// let error = client.oneshot(request).await.unwrap_err();
///
/// let refusal = error.refusal().unwrap();
/// assert_eq!(refusal.reason(), RefusalReason::ForeignDestination);
/// assert_eq!(refusal.destination(), Some("https://elsewhere.example"));
/// assert!(!error.to_string().contains("elsewhere"));
/// # Ok(()) }
/// ```
#[derive(Clone)]
pub struct Refusal(Arc<Details>);

pub(crate) struct Details {
    pub(crate) reason: RefusalReason,
    pub(crate) credential: Option<CredentialId>,
    pub(crate) organization: Option<OrganizationId>,
    pub(crate) header: Option<HeaderName>,
    /// Fit to be shown.
    pub(crate) destination: Option<String>,
    pub(crate) origin: Origin,
}

impl Refusal {
    pub(crate) fn new(details: Details) -> Self {
        Self(Arc::new(details))
    }

    /// Returns why the request was refused.
    #[must_use]
    pub fn reason(&self) -> RefusalReason {
        self.0.reason
    }

    /// Returns which credential the request would have carried, if there was one.
    #[must_use]
    pub fn credential(&self) -> Option<&CredentialId> {
        self.0.credential.as_ref()
    }

    /// Returns the organization that the request named, or that its credential names.
    #[must_use]
    pub fn organization(&self) -> Option<&OrganizationId> {
        self.0.organization.as_ref()
    }

    /// Returns the header that was refused: for [`CallerHeader`](RefusalReason::CallerHeader) and
    /// [`HostHeader`](RefusalReason::HostHeader) only.
    #[must_use]
    pub fn header(&self) -> Option<&HeaderName> {
        self.0.header.as_ref()
    }

    /// Returns scheme, host and port of where the request, or the redirect, was to go.
    ///
    /// Echoes of [`credential`](Self::credential) are redacted, invisible characters are escaped, and at most 256 characters are
    /// kept. An echo of another credential, such as the one before a rotation, is not covered. It is `None` for a relative URI, and
    /// for a `Location` that could not be read.
    #[must_use]
    pub fn destination(&self) -> Option<&str> {
        self.0.destination.as_deref()
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        use RefusalReason as Reason;

        let Details { origin, header, .. } = &*self.0;
        match self.0.reason {
            Reason::MissingCredential => f.write_str(
                "the request has no credential: insert a `Credential`, `CredentialStore` or `Anonymous` extension",
            ),
            Reason::MissingOrganization => f.write_str(
                "the personal access token names no organization: use `for_organization`, insert an `OrganizationId` \
                 extension, or set ANYREACH_ORG_ID where `from_env` reads it",
            ),
            Reason::UnexpectedOrganization => f.write_str(
                "an organization was named for an organization API key, which carries its own: leave it out",
            ),
            Reason::Method => f.write_str(
                "CONNECT and TRACE show their headers to others: insert `Anonymous`, or use another method",
            ),
            Reason::TooManyHeaders => f.write_str("the request has more than 16384 header names: send fewer"),
            Reason::CallerHeader => {
                write_callers_header(f, header.as_ref().map_or("header", HeaderName::as_str))
            }
            Reason::HostHeader => write!(f, "the `host` header does not name {origin}: remove it"),
            reason => write_destination(f, reason, origin),
        }
    }
}

fn write_callers_header(f: &mut fmt::Formatter<'_>, header: &str) -> fmt::Result {
    if matches!(header, "connection" | "proxy-connection") {
        write!(
            f,
            "the request's `{header}` header names `authorization` or `x-anyreach-org`, which an HTTP/2 client would then \
             remove: take them out of it",
        )
    } else {
        write!(
            f,
            "the request already has `{header}`: remove it, or use `CallerHeaders::Replace`"
        )
    }
}

/// What is wrong about where the request, or the redirect, was to go.
fn write_destination(
    f: &mut fmt::Formatter<'_>,
    reason: RefusalReason,
    origin: &Origin,
) -> fmt::Result {
    use RefusalReason as Reason;

    match reason {
        Reason::ForeignDestination => write!(
            f,
            "the request goes to another host than {origin}: use `Anonymous` or another client for it, or set `origin`",
        ),
        Reason::RelativeUri => write!(
            f,
            "the URI is relative: write it with {origin}, or use `RelativeUris::Complete`; its path must start with one `/`",
        ),
        Reason::Scheme => write!(
            f,
            "the URI has another scheme than {origin}: write it like that"
        ),
        Reason::Authority => write!(
            f,
            "the URI writes the host or port of {origin} in another way: write it exactly like that, in lower case",
        ),
        Reason::Userinfo => write!(
            f,
            "the URI has `@` in its authority: write it like {origin}"
        ),
        _ => write!(
            f,
            "a redirect by another host may lead to {origin}, which only the caller may choose: start a new request",
        ),
    }
}

impl fmt::Debug for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Refusal")
            .field("reason", &self.0.reason)
            .field("credential", &self.0.credential)
            .field("organization", &self.0.organization)
            .field("header", &self.0.header)
            .finish_non_exhaustive()
    }
}

impl std::error::Error for Refusal {}

/// Why the layer refused a request.
///
/// Where several apply, the first one in the order of [`authorize`](crate::AnyreachAuthLayer::authorize) is given.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum RefusalReason {
    /// A [`per_request`](crate::AnyreachAuthLayer::per_request) layer, and no credential in the request's extensions.
    MissingCredential,
    /// A personal access token without an organization.
    MissingOrganization,
    /// An organization in the request's extensions, for an organization API key.
    UnexpectedOrganization,
    /// The request has an `Authorization` or `X-Anyreach-Org` of its own, or a `Connection` or `Proxy-Connection` that
    /// names one of them.
    CallerHeader,
    /// The request goes to another host than the origin's.
    ForeignDestination,
    /// The URI has no scheme and authority.
    RelativeUri,
    /// The origin's host with another scheme.
    Scheme,
    /// The origin's host, written in another way or with another port.
    Authority,
    /// The URI has userinfo.
    Userinfo,
    /// CONNECT or TRACE.
    Method,
    /// A `Host` header that does not name the origin.
    HostHeader,
    /// A redirect by another host that may lead to the origin, or the request that follows one.
    ///
    /// A redirect within the host that answered passes, and so does a plain absolute one to another host. Wherever it leads, a
    /// `Location` is refused that has an IPv6 literal, an upper-case scheme, userinfo, a backslash, Punycode of ASCII, or a character
    /// outside of visible ASCII; where the origin is an IPv4 address, also one whose host's last label starts with a digit.
    ForeignRedirect,
    /// More than 16,384 header names, which leaves the client below no room for its own.
    TooManyHeaders,
}

impl RefusalReason {
    /// Returns the reason in `snake_case`, stable, fit for a metric's label.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::MissingCredential => "missing_credential",
            Self::MissingOrganization => "missing_organization",
            Self::UnexpectedOrganization => "unexpected_organization",
            Self::CallerHeader => "caller_header",
            Self::ForeignDestination => "foreign_destination",
            Self::RelativeUri => "relative_uri",
            Self::Scheme => "scheme",
            Self::Authority => "authority",
            Self::Userinfo => "userinfo",
            Self::Method => "method",
            Self::HostHeader => "host_header",
            Self::ForeignRedirect => "foreign_redirect",
            Self::TooManyHeaders => "too_many_headers",
        }
    }
}
