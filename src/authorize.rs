//! May this request carry credentials, and which? Request head and snapshot in, headers set or a refusal out;
//! no Tower, no async.

use std::sync::Arc;

use http::header::{AUTHORIZATION, Entry, GetAll, HOST};
use http::{Extensions, HeaderMap, HeaderName, HeaderValue, Method, Uri};

use crate::credential::{Credential, CredentialKind};
use crate::denial::{Denial, Provenance};
use crate::error::Error;
use crate::organization::OrganizationId;
use crate::origin::{Destination, DestinationReason, Origin, Verdict};
use crate::redact::with_redaction;
use crate::store::Snapshot;

/// `X-Anyreach-Org`; header names are lower case on the wire of HTTP/2, and case-insensitive everywhere.
pub(crate) const ORGANIZATION: HeaderName = HeaderName::from_static("x-anyreach-org");

/// Marks a request that carries no credential: an extension of the request.
///
/// Both headers are removed from it if present, and it may go anywhere. Anyreach itself has such paths:
/// `/core/public/web-widgets/...` is unauthenticated, and the `presigned_url` of a file upload leads to a storage
/// host that must not see a credential.
///
/// # Examples
///
/// ```
/// # #[tokio::main(flavor = "current_thread")] async fn main() {
/// use http::{Request, Response, header::AUTHORIZATION};
/// use tower::{Layer, ServiceExt, service_fn};
/// use tower_anyreach::{Anonymous, AnyreachAuthLayer, OrganizationApiKey};
///
/// let client = AnyreachAuthLayer::new(OrganizationApiKey::new("ak_4711.c2VjcmV0").unwrap())
///     .layer(service_fn(async |request: Request<String>| {
///         assert!(!request.headers().contains_key(AUTHORIZATION));
///         Ok::<_, std::io::Error>(Response::new(String::new()))
///     }));
/// let upload = Request::put("https://storage.example/upload?signature=1")
///     .extension(Anonymous)
///     .body(String::from("file"))
///     .unwrap();
/// assert!(client.oneshot(upload).await.is_ok());
/// # }
/// ```
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub struct Anonymous;

/// What becomes of `Authorization` and `X-Anyreach-Org` headers that a request to the origin already brings.
///
/// # Examples
///
/// ```
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// use http::{Request, header::AUTHORIZATION};
/// use tower::{Layer, ServiceExt};
/// use tower_anyreach::{AnyreachAuthLayer, CallerHeaders, Error, OrganizationApiKey, test_util::FakeAnyreach};
///
/// let anyreach = FakeAnyreach::builder().in_memory();
/// let layer = AnyreachAuthLayer::new(OrganizationApiKey::new("ak_id.secret")?);
/// let request = || Request::get(anyreach.uri("/core/agents")).header(AUTHORIZATION, "Bearer ak_own.secret").body(String::new());
///
/// let refused = layer.clone().layer(anyreach.service()).oneshot(request()?).await;
/// assert!(matches!(refused, Err(Error::CallerHeader(AUTHORIZATION))));
///
/// for (caller_headers, sent) in [
///     (CallerHeaders::Replace, "Bearer ak_id.secret"),
///     (CallerHeaders::Keep, "Bearer ak_own.secret"),
/// ] {
///     let client = layer.clone().caller_headers(caller_headers).layer(anyreach.service());
///     client.oneshot(request()?).await.unwrap_err();
///     assert_eq!(anyreach.received().last().unwrap().headers()[AUTHORIZATION], sent);
/// }
/// # Ok(()) }
/// ```
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum CallerHeaders {
    /// Refuse the request with [`Error::CallerHeader`]. The default: two parties that both mean to authenticate
    /// a request are a mistake somewhere.
    #[default]
    Reject,
    /// Drop them, and attach the layer's.
    Replace,
    /// Keep a single `Authorization` and attach nothing; take a lone `X-Anyreach-Org` as the request's
    /// [`OrganizationId`]. Either header twice is refused with [`Error::CallerHeader`]. With
    /// [`per_request`](crate::AnyreachAuthLayer::per_request) a request needs a [`Credential`] or [`Anonymous`] all
    /// the same.
    Keep,
}

/// What becomes of requests that go to another host than the origin's.
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
    /// Refuse the request with [`Error::UntrustedDestination`]. The default.
    #[default]
    Reject,
    /// Send it without credentials: `X-Anyreach-Org` is removed, and `Authorization` if it holds an Anyreach
    /// credential; the rest is untouched, and so is the answer. Near misses of the origin are still refused.
    ForwardWithoutCredentials,
}

/// The part of the layer's configuration that decides about a request.
#[derive(Debug, Clone, Default)]
pub(crate) struct Rules {
    pub(crate) origin: Origin,
    pub(crate) relative_uris_allowed: bool,
    pub(crate) caller_headers: CallerHeaders,
    pub(crate) foreign_requests: ForeignRequests,
    pub(crate) missing_organization_allowed: bool,
}

/// What a request left with, so that its answer can be read.
pub(crate) struct Attached {
    pub(crate) credentials: Credentials,
    /// The request's own organization, if it named one.
    organization: Option<OrganizationId>,
}

/// Whose credentials a request left with.
pub(crate) enum Credentials {
    /// None of ours.
    Not(Whose),
    /// The store's.
    Stores {
        snapshot: Arc<Snapshot>,
        /// The request was a replay.
        replayed: bool,
        /// It is a `GET`, which is what redirects make of other methods (RFC 9110, section 15.4).
        is_get: bool,
    },
    /// The request's own.
    Requests(Credential),
}

/// Whose credentials a request left with, if not with any of ours.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Whose {
    /// Nobody's: it said so itself.
    Nobodys,
    /// Nobody's: it goes elsewhere.
    Foreign,
    /// The caller's own `Authorization`.
    Callers,
}

impl Attached {
    fn nothing_of_ours(whose: Whose) -> Self {
        Self {
            credentials: Credentials::Not(whose),
            organization: None,
        }
    }

    /// Whether a denial is about a credential that the request carried; if not, it is none of our business.
    pub(crate) fn is_ours_to_read(&self) -> bool {
        !matches!(
            self.credentials,
            Credentials::Not(Whose::Nobodys | Whose::Foreign)
        )
    }

    /// The credential, if it is one that we know.
    #[inline]
    pub(crate) fn credential(&self) -> Option<&Credential> {
        self.ours().ok()
    }

    /// The credential, or whose was left with instead.
    #[inline]
    pub(crate) fn ours(&self) -> Result<&Credential, Whose> {
        match &self.credentials {
            Credentials::Not(whose) => Err(*whose),
            Credentials::Stores { snapshot, .. } => Ok(&snapshot.credential),
            Credentials::Requests(credential) => Ok(credential),
        }
    }

    /// The organization that was named in a header.
    #[inline]
    pub(crate) fn organization(&self) -> Option<&OrganizationId> {
        self.organization
            .as_ref()
            .or_else(|| self.credential()?.organization())
    }

    /// The credential served.
    #[inline]
    pub(crate) fn note_success(&self) {
        if let Credentials::Stores { snapshot, .. } = &self.credentials {
            snapshot.replays.start_over();
        }
    }

    /// Whether the request was a replay, with the store's credential.
    pub(crate) fn is_replay(&self) -> bool {
        matches!(self.credentials, Credentials::Stores { replayed: true, .. })
    }

    /// Whether the request was a `GET`, with the store's credential.
    pub(crate) fn is_get(&self) -> bool {
        matches!(self.credentials, Credentials::Stores { is_get: true, .. })
    }

    /// Which store the credential came from, and at which version.
    pub(crate) fn provenance(&self) -> Option<Provenance> {
        match &self.credentials {
            Credentials::Stores { snapshot, .. } => Some(snapshot.provenance),
            _ => None,
        }
    }
}

/// A request extension: the denial that made tower's retry policy send this request once more.
#[derive(Clone)]
pub(crate) struct Replay(pub(crate) Denial);

/// What a request is to leave with, or why it must not leave.
#[inline]
pub(crate) fn decide(
    method: &Method,
    uri: &Uri,
    headers: &HeaderMap,
    extensions: &Extensions,
    rules: &Rules,
    snapshot: Option<Arc<Snapshot>>,
) -> Result<Attached, Box<Error>> {
    let speaks_for_itself = !extensions.is_empty();
    if speaks_for_itself && extensions.get::<Anonymous>().is_some() {
        return Ok(Attached::nothing_of_ours(Whose::Nobodys));
    }

    let hosts = brings(headers, &HOST).then(|| headers.get_all(HOST));
    let reason = match (
        rules
            .origin
            .judge(method, uri, hosts, rules.relative_uris_allowed),
        rules.foreign_requests,
    ) {
        (Verdict::Ours, _) => None,
        (Verdict::Foreign, ForeignRequests::ForwardWithoutCredentials) => {
            return Ok(Attached::nothing_of_ours(Whose::Foreign));
        }
        (Verdict::Foreign, ForeignRequests::Reject) => Some(DestinationReason::Foreign),
        (Verdict::Refused(reason), _) => Some(reason),
    };
    if let Some(reason) = reason {
        let refused = untrusted(reason, uri, extensions, snapshot.as_deref());
        return Err(Box::new(refused));
    }

    // Most requests leave all to the layer, and are not to pay for those that do not.
    let attached = match snapshot {
        Some(snapshot) if !speaks_for_itself && rules.caller_headers != CallerHeaders::Keep => {
            Attached {
                credentials: Credentials::Stores {
                    snapshot,
                    replayed: false,
                    is_get: *method == Method::GET,
                },
                organization: None,
            }
        }
        snapshot => choose(method, headers, extensions, rules, snapshot)?,
    };
    match (
        attached.credential().map(Credential::kind),
        attached.organization(),
    ) {
        (Some(CredentialKind::OrganizationApiKey), Some(_)) => Err(Box::new(cannot_leave(
            extensions,
            Error::UnexpectedOrganization,
        ))),
        (Some(CredentialKind::PersonalAccessToken), None)
            if !rules.missing_organization_allowed =>
        {
            Err(Box::new(cannot_leave(
                extensions,
                Error::MissingOrganization,
            )))
        }
        _ => Ok(attached),
    }
}

/// Where a replay cannot leave with what has come in force, its denial is the answer: the request was sent.
#[cold]
fn cannot_leave(extensions: &Extensions, error: Error) -> Error {
    match extensions.get::<Replay>() {
        Some(Replay(denial)) => Error::Unauthorized(denial.clone()),
        None => error,
    }
}

/// The destination may be what a server made of a credential that it was sent, in a redirect.
#[cold]
fn untrusted(
    reason: DestinationReason,
    uri: &Uri,
    extensions: &Extensions,
    snapshot: Option<&Snapshot>,
) -> Error {
    let stores = snapshot.map(|snapshot| &snapshot.credential);
    let credential = extensions.get().or(stores).map(Credential::expose);
    let destination = with_redaction(credential, |redaction| {
        Destination::new(reason, uri, |text| redaction.presentable(text))
    });
    Error::UntrustedDestination(destination)
}

/// Whose credential a request is to carry, and for which organization, by what it says of itself.
#[inline(never)]
fn choose(
    method: &Method,
    headers: &HeaderMap,
    extensions: &Extensions,
    rules: &Rules,
    snapshot: Option<Arc<Snapshot>>,
) -> Result<Attached, Box<Error>> {
    let own = Extension::read(extensions);
    let credentials = match (own.credential, snapshot) {
        (Some(credential), _) => Credentials::Requests(credential),
        (None, Some(snapshot)) => Credentials::Stores {
            snapshot,
            replayed: own.replay.is_some(),
            is_get: *method == Method::GET,
        },
        (None, None) => return Err(Box::new(Error::MissingCredential)),
    };
    let mut organization = own.organization;
    if rules.caller_headers == CallerHeaders::Keep {
        match kept(headers, organization)? {
            Kept::Authorization => return Ok(Attached::nothing_of_ours(Whose::Callers)),
            Kept::Organization(kept) => organization = kept,
        }
    }
    let attached = Attached {
        credentials,
        organization,
    };
    match own.replay {
        // The one that was refused is still in force, and its denial is the answer.
        Some(denial)
            if attached.credential().map(Credential::id) == denial.credential()
                && attached.organization() == denial.organization() =>
        {
            Err(Box::new(Error::Unauthorized(denial)))
        }
        _ => Ok(attached),
    }
}

/// What becomes of the headers of a request that is to carry nothing of ours.
#[cold]
pub(crate) fn strip(headers: &mut HeaderMap, whose: Whose) {
    match whose {
        Whose::Nobodys => {
            headers.remove(AUTHORIZATION);
            headers.remove(ORGANIZATION);
        }
        Whose::Foreign => remove_anyreach_credentials(headers),
        Whose::Callers => {
            if let Entry::Occupied(mut authorization) = headers.entry(AUTHORIZATION) {
                authorization.get_mut().set_sensitive(true);
            }
        }
    }
}

/// Removes `X-Anyreach-Org`, and says whether it was there.
#[cold]
pub(crate) fn remove_organization(headers: &mut HeaderMap) -> bool {
    headers.remove(ORGANIZATION).is_some()
}

/// Whether a request brings such a header itself. To look at all names costs less than a lookup, which hashes one.
#[inline]
pub(crate) fn brings(headers: &HeaderMap, name: &HeaderName) -> bool {
    headers.keys().any(|brought| brought == name)
}

/// What a request says of itself through its extensions. They are read, not removed: a replay needs them again.
struct Extension {
    credential: Option<Credential>,
    organization: Option<OrganizationId>,
    replay: Option<Denial>,
}

impl Extension {
    fn read(extensions: &Extensions) -> Self {
        Self {
            credential: extensions.get().cloned(),
            organization: extensions.get().cloned(),
            replay: extensions.get().map(|Replay(denial)| denial.clone()),
        }
    }
}

enum Kept {
    /// The caller's own `Authorization`: nothing is to be attached.
    Authorization,
    /// The request's organization, by its header or its extension.
    Organization(Option<OrganizationId>),
}

/// [`CallerHeaders::Keep`]: what the caller's headers say.
fn kept(headers: &HeaderMap, extension: Option<OrganizationId>) -> Result<Kept, Error> {
    let organization = single(headers.get_all(ORGANIZATION))
        .map_err(|Repeated| Error::CallerHeader(ORGANIZATION))?;
    let authorization = single(headers.get_all(AUTHORIZATION))
        .map_err(|Repeated| Error::CallerHeader(AUTHORIZATION))?;
    if authorization.is_some() {
        return Ok(Kept::Authorization);
    }
    let Some(value) = organization else {
        return Ok(Kept::Organization(extension));
    };
    let named = value
        .to_str()
        .ok()
        .and_then(|text| OrganizationId::try_from(text).ok())
        // Two that disagree: which tenant is meant is not ours to guess.
        .filter(|named| {
            extension
                .as_ref()
                .is_none_or(|extension| extension == named)
        })
        .ok_or_else(|| Error::CallerHeader(ORGANIZATION))?;
    Ok(Kept::Organization(Some(named)))
}

struct Repeated;

fn single(values: GetAll<'_, HeaderValue>) -> Result<Option<&HeaderValue>, Repeated> {
    let mut values = values.into_iter();
    match (values.next(), values.next()) {
        (value, None) => Ok(value),
        (_, Some(_)) => Err(Repeated),
    }
}

/// Removes from a foreign request what must never get there, whoever put it in.
pub(crate) fn remove_anyreach_credentials(headers: &mut HeaderMap) {
    headers.remove(ORGANIZATION);
    if !headers
        .get_all(AUTHORIZATION)
        .iter()
        .any(is_anyreach_credential)
    {
        return;
    }
    let others: Vec<_> = headers
        .get_all(AUTHORIZATION)
        .iter()
        .filter(|value| !is_anyreach_credential(value))
        .cloned()
        .collect();
    headers.remove(AUTHORIZATION);
    for value in others {
        headers.append(AUTHORIZATION, value);
    }
}

/// Whether the value holds one, with or without a scheme in front.
fn is_anyreach_credential(value: &HeaderValue) -> bool {
    value
        .as_bytes()
        .split(u8::is_ascii_whitespace)
        .any(|word| word.starts_with(b"ak_") || word.starts_with(b"pat_"))
}
