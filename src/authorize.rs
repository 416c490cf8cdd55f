//! May this request carry credentials, and which ones? The whole rule, from the head of a request to its headers.
//!
//! [`authorize`] completes a relative URI if it is told to, asks [`decide`], and then sets or removes the two headers. `decide`
//! is a pure function that reads top to bottom; where several refusals apply, the first one counts. It reads what the caller
//! said about this one request in the extensions ([`Overrides`]):
//!
//! | Extension | Meaning |
//! |---|---|
//! | [`Anonymous`] | no credential; may go anywhere |
//! | [`Credential`] | this request's own credential |
//! | [`CredentialStore`] | this request's own store |
//! | [`OrganizationId`] | this request's organization |
//! | [`Replay`], private | the denial because of which a policy sends this request again |
//! | [`AfterForeignHop`], private | the request follows a redirect by another host |
//!
//! What it costs is in `benches/peers`. Cheap are: comparing the authority before anything else, one pass over the header names,
//! and asking whether there are extensions at all before reading any.

use std::sync::Arc;

use http::header::{AUTHORIZATION, CONNECTION, Entry, HOST};
use http::request::Parts;
use http::{Extensions, HeaderMap, HeaderName, HeaderValue, Method, Uri};

use crate::config::{CallerHeaders, Config, ErrorBodyLimits, ForeignRequests, RelativeUris};
use crate::credential::{Credential, CredentialKind, OrganizationHeader};
use crate::denial::Denial;
use crate::error::Error;
use crate::organization::OrganizationId;
use crate::origin::{Destination, Origin, OriginId};
use crate::redact::with_redaction;
use crate::refusal::{Details, Refusal, RefusalReason};
use crate::store::{CredentialStore, Snapshot};

/// `X-Anyreach-Org`; header names are lower case on the wire of HTTP/2, and case-insensitive everywhere.
pub(crate) const ORGANIZATION: HeaderName = HeaderName::from_static("x-anyreach-org");
const PROXY_CONNECTION: HeaderName = HeaderName::from_static("proxy-connection");

/// The client below inserts headers of its own, and `http` panics at 24,576 names.
const MAX_HEADER_NAMES: usize = 16_384;

/// Marks a request that carries no credential: an extension of the request.
///
/// It may go anywhere. At the origin both headers are removed from it; elsewhere `X-Anyreach-Org` and bearer tokens that start
/// with `ak_` or `pat_` are. Anyreach documents such paths: `/core/public/web-widgets/...` is unauthenticated, and the
/// `presigned_url` of a file upload leads to a storage host.
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

/// The denial because of which a retry policy sends a request again. Nothing below the layer sees it.
#[derive(Clone)]
pub(crate) struct Replay(pub(crate) Denial);

/// Marks a hop that comes after one to another host, which has therefore chosen where this one goes.
#[derive(Debug, Clone, Copy)]
#[cfg_attr(
    not(feature = "follow-redirect"),
    allow(dead_code, reason = "made by `RedirectPolicy`")
)]
pub(crate) struct AfterForeignHop;

/// What a request left with.
pub(crate) enum Departure {
    /// Credentials of this layer, to the origin.
    Authenticated(Carried),
    /// None, to the origin or to where a layer inside completes its URI.
    AtOrigin,
    /// None, elsewhere.
    Elsewhere(Border),
}

/// The credentials that a request carries.
pub(crate) struct Carried {
    pub(crate) credential: CarriedCredential,
    /// The request's own organization, if it named one.
    organization: Option<OrganizationId>,
    /// The request is a replay.
    pub(crate) is_replay: bool,
    /// The request is a `GET`, which is what redirects make of other methods (RFC 9110 section 15.4).
    pub(crate) is_get: bool,
    /// The request is a `HEAD`, whose answer has no body.
    pub(crate) is_head: bool,
    /// The origin that it went to.
    pub(crate) origin: OriginId,
    /// How much of a denial's body is read.
    pub(crate) limits: ErrorBodyLimits,
}

pub(crate) enum CarriedCredential {
    /// What a store had in force.
    Stores(Arc<Snapshot>),
    /// The request's own.
    Own(Credential),
}

/// What is needed to tell whether a redirect by another host may lead back to the origin.
pub(crate) struct Border {
    pub(crate) origin: Box<Origin>,
    /// The request went to another spelling of the origin's host.
    pub(crate) base_is_near: bool,
}

impl CarriedCredential {
    fn get(&self) -> &Credential {
        match self {
            Self::Stores(snapshot) => &snapshot.credential,
            Self::Own(credential) => credential,
        }
    }
}

impl Carried {
    pub(crate) fn credential(&self) -> &Credential {
        self.credential.get()
    }

    /// The organization that is in the header.
    pub(crate) fn organization(&self) -> Option<&OrganizationId> {
        self.organization
            .as_ref()
            .or_else(|| self.credential().organization())
    }

    /// The version of the store's credential.
    pub(crate) fn version(&self) -> Option<u64> {
        match &self.credential {
            CarriedCredential::Stores(snapshot) => Some(snapshot.version),
            CarriedCredential::Own(_) => None,
        }
    }
}

/// What is to be done with a request.
enum Decision {
    /// It carries this credential. `replaces` says that it has headers of ours to be removed first.
    Attach {
        credential: CarriedCredential,
        replaces: bool,
    },
    /// It carries none, and goes to the origin or to where a layer inside completes its URI.
    AnonymousAtOrigin,
    /// It carries none, and goes elsewhere; what is ours is to be removed.
    WithoutCredentials,
    /// It is refused; the header is the one that the refusal is about.
    Refuse(RefusalReason, Option<HeaderName>),
    /// It is a replay that would be sent with what was denied, or cannot be sent: the first denial is the answer.
    Denied(Denial),
}

/// Decides about a request and sets its headers; after an error neither header is in the head.
pub(crate) fn authorize(
    config: &Config,
    store: Option<&CredentialStore>,
    head: &mut Parts,
) -> Result<Departure, Error> {
    let overrides = Overrides::take(&mut head.extensions);
    if config.relative_uris == RelativeUris::Complete {
        complete(&config.origin, &mut head.uri);
    }
    let headers = &mut head.headers;
    match decide(config, store, &overrides, &head.method, &head.uri, headers) {
        Decision::Attach {
            credential,
            replaces,
        } => {
            let carried = Carried {
                credential,
                is_replay: overrides.replay.is_some(),
                organization: overrides.organization,
                is_get: matches!(head.method, Method::GET),
                is_head: matches!(head.method, Method::HEAD),
                origin: config.origin.id(),
                limits: config.error_body,
            };
            attach(headers, &carried, replaces);
            Ok(Departure::Authenticated(carried))
        }
        Decision::AnonymousAtOrigin => {
            remove_both(headers);
            Ok(Departure::AtOrigin)
        }
        Decision::WithoutCredentials => {
            remove_credentials(headers);
            Ok(Departure::Elsewhere(Border::new(&config.origin, &head.uri)))
        }
        Decision::Denied(denial) => {
            remove_both(headers);
            Err(Error::Unauthorized(denial))
        }
        Decision::Refuse(reason, header) => {
            remove_both(headers);
            let refusal = refusal(config, store, &overrides, &head.uri, reason, header);
            Err(Error::Refused(refusal))
        }
    }
}

/// The rule. What it refuses is in the order in which it is refused.
fn decide(
    config: &Config,
    store: Option<&CredentialStore>,
    overrides: &Overrides,
    method: &Method,
    uri: &Uri,
    headers: &HeaderMap,
) -> Decision {
    use RefusalReason as Reason;

    let destination = config.origin.destination(uri);
    let trusts = config.relative_uris == RelativeUris::Trust;
    if overrides.is_anonymous {
        return match destination {
            Destination::Origin => Decision::AnonymousAtOrigin,
            Destination::Relative { .. } if trusts => Decision::AnonymousAtOrigin,
            _ => Decision::WithoutCredentials,
        };
    }
    // RFC 9110 section 9.3.6: CONNECT shows its fields to a proxy. Section 9.3.8: TRACE sends them back.
    if matches!(*method, Method::CONNECT | Method::TRACE) {
        return Decision::Refuse(Reason::Method, None);
    }
    let refused = match destination {
        Destination::Origin => None,
        Destination::Relative {
            is_plain_path: true,
        } if trusts => None,
        Destination::Relative { .. } => Some(Reason::RelativeUri),
        Destination::Userinfo => Some(Reason::Userinfo),
        Destination::NearMiss { is_scheme: false } => Some(Reason::Scheme),
        Destination::NearMiss { is_scheme: true } => Some(Reason::Authority),
        Destination::Foreign => return decide_foreign(config, headers),
    };
    if let Some(reason) = refused {
        return Decision::Refuse(reason, None);
    }
    if overrides.is_after_foreign_hop {
        return Decision::Refuse(Reason::ForeignRedirect, None);
    }
    match decide_headers(config, headers) {
        Ok(replaces) => decide_credential(config, store, overrides, replaces),
        Err((reason, header)) => Decision::Refuse(reason, header),
    }
}

/// Which credential the request carries, and whether its organization fits it.
fn decide_credential(
    config: &Config,
    store: Option<&CredentialStore>,
    overrides: &Overrides,
    replaces: bool,
) -> Decision {
    let credential = match (&overrides.credential, overrides.store.as_ref().or(store)) {
        (Some(own), _) => CarriedCredential::Own(own.clone()),
        (None, Some(store)) => CarriedCredential::Stores(store.snapshot()),
        (None, None) => return Decision::Refuse(RefusalReason::MissingCredential, None),
    };
    let organization = overrides
        .organization
        .as_ref()
        .or_else(|| credential.get().organization());
    let misfit = match credential.get().kind().organization_header() {
        OrganizationHeader::Never => organization.map(|_| RefusalReason::UnexpectedOrganization),
        OrganizationHeader::Needed => (config.requires_organization && organization.is_none())
            .then_some(RefusalReason::MissingOrganization),
    };
    if let Some(denial) = &overrides.replay {
        let is_same = denial.credential() == Some(credential.get().id())
            && denial.organization() == organization;
        if misfit.is_some() || is_same {
            return Decision::Denied(denial.clone());
        }
    }
    match misfit {
        Some(reason) => Decision::Refuse(reason, None),
        None => Decision::Attach {
            credential,
            replaces,
        },
    }
}

/// A request to another host: forwarded without credentials, or refused.
fn decide_foreign(config: &Config, headers: &HeaderMap) -> Decision {
    if config.foreign_requests == ForeignRequests::Reject {
        return Decision::Refuse(RefusalReason::ForeignDestination, None);
    }
    let ours = if headers.contains_key(ORGANIZATION) {
        Some(ORGANIZATION)
    } else if headers.get_all(AUTHORIZATION).iter().any(is_credential) {
        Some(AUTHORIZATION)
    } else {
        None
    };
    match (ours, config.caller_headers) {
        (Some(header), CallerHeaders::Reject) => {
            Decision::Refuse(RefusalReason::CallerHeader, Some(header))
        }
        _ => Decision::WithoutCredentials,
    }
}

/// The headers of a request that is to carry credentials. Returns whether it has headers of ours to be replaced.
///
/// Almost no request has one of these headers: one pass over the names tells, which saves 75 instructions of a request.
fn decide_headers(
    config: &Config,
    headers: &HeaderMap,
) -> Result<bool, (RefusalReason, Option<HeaderName>)> {
    let is_looked_at = |name: &HeaderName| {
        *name == HOST
            || *name == AUTHORIZATION
            || *name == CONNECTION
            || *name == ORGANIZATION
            || *name == PROXY_CONNECTION
    };
    if headers.keys_len() > MAX_HEADER_NAMES || headers.keys().any(is_looked_at) {
        decide_callers_headers(config, headers)
    } else {
        Ok(false)
    }
}

/// One more pass, and lookups only of what is there: each costs half as much as a pass.
#[cold]
fn decide_callers_headers(
    config: &Config,
    headers: &HeaderMap,
) -> Result<bool, (RefusalReason, Option<HeaderName>)> {
    let (mut has_host, mut has_hop_by_hop, mut ours) = (false, false, None);
    for name in headers.keys() {
        if *name == HOST {
            has_host = true;
        } else if *name == AUTHORIZATION || *name == ORGANIZATION {
            ours = ours.or(Some(name));
        } else if *name == CONNECTION || *name == PROXY_CONNECTION {
            has_hop_by_hop = true;
        }
    }
    if has_host && !agrees(&config.origin, headers) {
        return Err((RefusalReason::HostHeader, Some(HOST)));
    }
    if headers.keys_len() > MAX_HEADER_NAMES {
        return Err((RefusalReason::TooManyHeaders, None));
    }
    if has_hop_by_hop {
        for name in [CONNECTION, PROXY_CONNECTION] {
            if headers.get_all(&name).iter().any(names_our_header) {
                return Err((RefusalReason::CallerHeader, Some(name)));
            }
        }
    }
    match ours {
        Some(name) if config.caller_headers == CallerHeaders::Reject => {
            Err((RefusalReason::CallerHeader, Some(name.clone())))
        }
        _ => Ok(ours.is_some()),
    }
}

/// Whether the `Host` header is one line and names the origin. RFC 9112 section 3.2: more than one line is an error, whatever
/// the lines say.
fn agrees(origin: &Origin, headers: &HeaderMap) -> bool {
    let mut hosts = headers.get_all(HOST).iter();
    match (hosts.next(), hosts.next()) {
        (Some(host), None) => origin.is_authority(host.as_bytes()),
        _ => false,
    }
}

/// Whether a `Connection` line names one of our headers: HTTP/2 clients remove what it names (RFC 9113 section 8.2.2).
fn names_our_header(line: &HeaderValue) -> bool {
    line.as_bytes().split(|byte| *byte == b',').any(|name| {
        let name = name.trim_ascii();
        name.eq_ignore_ascii_case(b"authorization") || name.eq_ignore_ascii_case(b"x-anyreach-org")
    })
}

/// Whether a line of `Authorization` is a bearer token that starts as Anyreach's credentials do.
fn is_credential(line: &HeaderValue) -> bool {
    let line = line.as_bytes().trim_ascii_start();
    let Some((scheme, token)) = line.split_at_checked(b"Bearer".len()) else {
        return false;
    };
    let token_start = token.trim_ascii_start();
    scheme.eq_ignore_ascii_case(b"Bearer")
        && token_start.len() < token.len()
        && CredentialKind::ALL
            .iter()
            .any(|kind| token_start.starts_with(kind.prefix().as_bytes()))
}

/// Sets both headers. The two inserts name the header by reference and by value: two instantiations with one caller each,
/// which are inlined; that saves 89 instructions.
fn attach(headers: &mut HeaderMap, carried: &Carried, replaces: bool) {
    headers.insert(&AUTHORIZATION, carried.credential().header_value().clone());
    match carried.organization() {
        Some(organization) => {
            headers.insert(ORGANIZATION, organization.header_value().clone());
        }
        None if replaces => {
            headers.remove(ORGANIZATION);
        }
        None => {}
    }
}

fn remove_both(headers: &mut HeaderMap) {
    headers.remove(AUTHORIZATION);
    headers.remove(ORGANIZATION);
}

/// Removes `X-Anyreach-Org`, and each line of `Authorization` that holds a credential of Anyreach's; other lines stay.
fn remove_credentials(headers: &mut HeaderMap) {
    headers.remove(ORGANIZATION);
    let Entry::Occupied(lines) = headers.entry(AUTHORIZATION) else {
        return;
    };
    if lines.iter().any(is_credential) {
        let (_, lines) = lines.remove_entry_mult();
        let others: Vec<_> = lines.filter(|line| !is_credential(line)).collect();
        for line in others {
            headers.append(AUTHORIZATION, line);
        }
    }
}

/// Fills in the origin where the URI is a path that starts with exactly one `/`.
fn complete(origin: &Origin, uri: &mut Uri) {
    if let Destination::Relative {
        is_plain_path: true,
    } = origin.destination(uri)
    {
        if let Ok(completed) = origin.complete(uri) {
            *uri = completed;
        }
    }
}

fn refusal(
    config: &Config,
    store: Option<&CredentialStore>,
    overrides: &Overrides,
    uri: &Uri,
    reason: RefusalReason,
    header: Option<HeaderName>,
) -> Refusal {
    let stores = || Some(overrides.store.as_ref().or(store)?.credential());
    let credential = overrides.credential.clone().or_else(stores);
    let organization = overrides.organization.as_ref();
    // Where it goes may be what a server made of the credential that it was sent, in a redirect.
    let destination = uri.authority().map(|authority| {
        with_redaction(credential.as_ref().map(Credential::expose), |redaction| {
            redaction.destination(uri.scheme_str(), authority.as_str())
        })
    });
    Refusal::new(Details {
        reason,
        organization: organization
            .or_else(|| credential.as_ref()?.organization())
            .cloned(),
        credential: credential.map(|credential| credential.id().clone()),
        header,
        destination,
        origin: config.origin.clone(),
    })
}

impl Border {
    fn new(origin: &Origin, uri: &Uri) -> Self {
        let authority = uri
            .authority()
            .map(|authority| authority.as_str().as_bytes());
        Self {
            origin: Box::new(origin.clone()),
            base_is_near: authority.is_some_and(|authority| origin.may_be_near(authority)),
        }
    }
}

/// What the caller, or a policy of this crate, said about this one request.
#[derive(Clone, Default)]
pub(crate) struct Overrides {
    pub(crate) is_anonymous: bool,
    pub(crate) credential: Option<Credential>,
    pub(crate) store: Option<CredentialStore>,
    pub(crate) organization: Option<OrganizationId>,
    is_after_foreign_hop: bool,
    replay: Option<Denial>,
}

impl Overrides {
    /// Reads the extensions. A caller's stay, because a replay needs them again; the replay's own marker is removed.
    fn take(extensions: &mut Extensions) -> Self {
        if extensions.is_empty() {
            return Self::default();
        }
        let replay = extensions.remove().map(|Replay(denial)| denial);
        Self {
            is_after_foreign_hop: extensions.get::<AfterForeignHop>().is_some(),
            replay,
            ..Self::read(extensions)
        }
    }

    pub(crate) fn read(extensions: &Extensions) -> Self {
        Self {
            is_anonymous: extensions.get::<Anonymous>().is_some(),
            credential: extensions.get().cloned(),
            store: extensions.get().cloned(),
            organization: extensions.get().cloned(),
            is_after_foreign_hop: false,
            replay: None,
        }
    }

    /// Sets the caller's extensions of a hop: `Anonymous` on every one, the others at the origin.
    #[cfg(feature = "follow-redirect")]
    pub(crate) fn replace_in(&self, extensions: &mut Extensions, is_at_origin: bool) {
        extensions.remove::<Anonymous>();
        extensions.remove::<Credential>();
        extensions.remove::<CredentialStore>();
        extensions.remove::<OrganizationId>();
        if self.is_anonymous {
            extensions.insert(Anonymous);
        }
        if is_at_origin {
            self.credential
                .clone()
                .map(|credential| extensions.insert(credential));
            self.store.clone().map(|store| extensions.insert(store));
            self.organization
                .clone()
                .map(|organization| extensions.insert(organization));
        }
    }
}
