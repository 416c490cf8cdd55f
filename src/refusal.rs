//! A request or redirect that the layer refused, and why.

use std::fmt;
use std::sync::Arc;

use http::HeaderName;

use crate::credential::CredentialId;
use crate::organization::OrganizationId;
use crate::origin::Origin;

/// A request or redirect that the layer refused; [`reason`](Self::reason) says why.
///
/// A refused request did not reach the inner service in this attempt. An earlier attempt may have
/// been sent, and for [`ForeignRedirect`](RefusalReason::ForeignRedirect), the request to the other
/// host was.
///
/// `Display` names the header or the configured origin, and the next step. It never shows the
/// destination of the request, because a server may have chosen that.
/// [`destination`](Self::destination) returns it.
///
/// # Examples
///
/// ```
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// use http::Request;
/// use tower::{Layer, ServiceExt};
/// use tower_anyreach::{
///     AnyreachAuthLayer, OrganizationApiKey, RefusalReason, test_util::FakeAnyreach,
/// };
///
/// let client = AnyreachAuthLayer::new(OrganizationApiKey::new("ak_4711.c2VjcmV0")?)
///     .layer(FakeAnyreach::builder().in_memory().service());
/// let request =
///     Request::get("https://elsewhere.example/core/agents").body(String::new())?;
/// let error = client.oneshot(request).await.unwrap_err();
///
/// let refusal = error.refusal().unwrap();
/// assert_eq!(refusal.reason(), RefusalReason::ForeignDestination);
/// assert_eq!(refusal.destination(), Some("https://elsewhere.example"));
/// assert!(!error.to_string().contains("elsewhere"));
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct Refusal(Arc<Details>);

pub(crate) struct Details {
    pub(crate) reason: RefusalReason,
    pub(crate) credential: Option<CredentialId>,
    pub(crate) organization: Option<OrganizationId>,
    pub(crate) header: Option<HeaderName>,
    /// Redacted, so that it may be shown.
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

    /// Returns the id of the credential that the request would have carried, if there was one.
    #[must_use]
    pub fn credential(&self) -> Option<&CredentialId> {
        self.0.credential.as_ref()
    }

    /// Returns the organization of the request, or that of its credential.
    #[must_use]
    pub fn organization(&self) -> Option<&OrganizationId> {
        self.0.organization.as_ref()
    }

    /// Returns the header that caused the refusal, for
    /// [`CallerHeader`](RefusalReason::CallerHeader) and [`HostHeader`](RefusalReason::HostHeader)
    /// only.
    #[must_use]
    pub fn header(&self) -> Option<&HeaderName> {
        self.0.header.as_ref()
    }

    /// Returns the scheme, host and port that the request or redirect was meant for.
    ///
    /// Echoes of [`credential`](Self::credential) are redacted, invisible characters are escaped,
    /// and the text is cut to 256 characters. An echo of another credential, such as the one before
    /// a rotation, is not redacted. Returns `None` for a relative URI, and for a `Location` that is
    /// not an absolute URL of visible ASCII.
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
                "there is no credential for the request: insert a `Credential`, \
                 `CredentialStore` or `Anonymous` extension",
            ),
            Reason::MissingOrganization => f.write_str(
                "the personal access token needs an organization for `x-anyreach-org`: use \
                 `for_organization`, insert an `OrganizationId` extension, or set \
                 ANYREACH_ORG_ID if `from_env` reads the token",
            ),
            Reason::UnexpectedOrganization => f.write_str(
                "an organization was given for an organization API key, which is bound to its \
                 own and takes no `x-anyreach-org`: remove the `OrganizationId`",
            ),
            Reason::Method => f.write_str(
                "CONNECT and TRACE disclose `authorization` to others: use another method, or \
                 insert an `Anonymous` extension",
            ),
            Reason::TooManyHeaders => {
                f.write_str("the request has more than 16384 header names: send fewer")
            }
            Reason::CallerHeader => {
                write_caller_header(f, header.as_ref().map_or("header", HeaderName::as_str))
            }
            Reason::HostHeader => {
                write!(
                    f,
                    "the `host` header does not name {origin}: remove the header"
                )
            }
            reason => write_destination(f, reason, origin),
        }
    }
}

fn write_caller_header(f: &mut fmt::Formatter<'_>, header: &str) -> fmt::Result {
    if matches!(header, "connection" | "proxy-connection") {
        write!(
            f,
            "the `{header}` header names `authorization` or `x-anyreach-org`, and an HTTP/2 \
             client removes the headers it names: remove these names from it",
        )
    } else {
        write!(
            f,
            "the request already has an `{header}` header: remove it, or use \
             `CallerHeaders::Replace`",
        )
    }
}

/// Writes the text of a refusal that is caused by the destination.
fn write_destination(
    f: &mut fmt::Formatter<'_>,
    reason: RefusalReason,
    origin: &Origin,
) -> fmt::Result {
    use RefusalReason as Reason;

    match reason {
        Reason::ForeignDestination => write!(
            f,
            "the request goes to a host other than {origin}, the configured origin: insert an \
             `Anonymous` extension, use another client, or set `origin`",
        ),
        Reason::RelativeUri => write!(
            f,
            "the URI is relative: use an absolute one, such as `Origin::uri` builds for {origin}, \
             or `RelativeUris::Complete` with a path that starts with exactly one `/`",
        ),
        Reason::Scheme => write!(
            f,
            "the scheme of the URI is not that of {origin}: write the URI with {origin}",
        ),
        Reason::Authority => write!(
            f,
            "the URI spells the host or port of {origin} differently: write {origin} exactly, \
             in lower case",
        ),
        Reason::Userinfo => write!(
            f,
            "the URI has userinfo, an `@` in its authority: write {origin} without it",
        ),
        _ => write!(
            f,
            "a redirect from another host may lead to {origin}, where only the caller may choose \
             requests: send a new one",
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
/// If several reasons apply, the first one in the order of
/// [`authorize`](crate::AnyreachAuthLayer::authorize) is given.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum RefusalReason {
    /// The layer was created with [`per_request`](crate::AnyreachAuthLayer::per_request), and the
    /// request's extensions hold neither a credential nor a store.
    MissingCredential,
    /// A personal access token has no organization.
    MissingOrganization,
    /// The request's extensions hold an organization, but its credential is an organization API
    /// key.
    UnexpectedOrganization,
    /// The request already has `Authorization` or `X-Anyreach-Org`, or a `Connection` or
    /// `Proxy-Connection` that names one of them, which is refused under
    /// [`CallerHeaders::Replace`](crate::CallerHeaders::Replace) too.
    CallerHeader,
    /// The request goes to a host other than the origin's.
    ForeignDestination,
    /// The URI has no scheme and authority.
    RelativeUri,
    /// The URI has the origin's host with another scheme.
    Scheme,
    /// The URI has the origin's host in another spelling or with another port.
    Authority,
    /// The URI has userinfo.
    Userinfo,
    /// The method is CONNECT or TRACE.
    Method,
    /// A `Host` header does not name the origin.
    HostHeader,
    /// A redirect from another host may lead to the origin, or the request follows such a redirect.
    ///
    /// A redirect passes if it is a plain absolute URL of another host, or stays within a host that
    /// is not another spelling of the origin's. Wherever it leads, a `Location` is refused if it
    /// starts with `//`, or has a scheme other than `http` and `https` in lower case, an IPv6
    /// literal, userinfo, a backslash (in an absolute URL, before its path), Punycode of ASCII in
    /// its host, or a character outside visible ASCII. If the origin is an IPv4 address, a host
    /// whose last label starts with a digit is refused too.
    ForeignRedirect,
    /// The request has more than 16,384 header names, so the client may be unable to add its own.
    TooManyHeaders,
}

impl RefusalReason {
    /// Returns the reason in `snake_case`. It is stable and suits a metric label.
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
