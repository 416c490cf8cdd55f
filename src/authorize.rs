//! May this request carry credentials, and which ones? The whole rule, from the head of a request to its headers.
//!
//! [`authorize`] completes a relative URI if it is told to, asks [`decide`], and then sets or removes the two headers. `decide`
//! changes nothing and reads top to bottom, and so do its steps below it; where several refusals apply, the first one counts. It
//! reads what the caller said about this one request in the extensions ([`Overrides`]):
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
//! What it costs is in `benches/peers`. Cheap are: comparing the authority as text, one pass over the header names, and asking
//! whether there are extensions at all before reading any.

use std::sync::Arc;

use http::header::{AUTHORIZATION, CONNECTION, Entry, HOST};
use http::request::Parts;
use http::{Extensions, HeaderMap, HeaderName, HeaderValue, Method, Request, Uri};

use crate::config::{
    CallerHeaders, Config, DeniedResponses, ErrorBodyLimits, ForeignRequests, RelativeUris,
};
use crate::credential::{Credential, CredentialKind, OrganizationHeader};
use crate::denial::Denial;
use crate::error::Error;
use crate::organization::OrganizationId;
#[cfg(feature = "follow-redirect")]
use crate::origin::OriginId;
use crate::origin::{Destination, Origin};
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
#[cfg(feature = "retry")]
#[derive(Clone)]
pub(crate) struct Replay(pub(crate) Denial);

/// Marks a hop that comes after one to another host, which has therefore chosen where this one goes.
#[derive(Debug, Clone, Copy)]
#[cfg_attr(
    not(feature = "follow-redirect"),
    allow(dead_code, reason = "made by `RedirectPolicy`")
)]
pub(crate) struct AfterForeignHop;

/// The head of a request, by itself or with its body.
///
/// `http` lends the parts of a `Request` for writing one at a time. Taking it apart and putting it together again copies the
/// head twice, for 58 instructions.
pub(crate) trait Head {
    fn view(&self) -> View<'_>;
    fn uri_mut(&mut self) -> &mut Uri;
    fn headers_mut(&mut self) -> &mut HeaderMap;
    #[cfg_attr(not(feature = "retry"), expect(dead_code, reason = "for `Replay`"))]
    fn extensions_mut(&mut self) -> &mut Extensions;
}

/// What is decided upon.
pub(crate) struct View<'a> {
    method: &'a Method,
    uri: &'a Uri,
    headers: &'a HeaderMap,
    extensions: &'a Extensions,
}

impl Head for Parts {
    fn view(&self) -> View<'_> {
        View {
            method: &self.method,
            uri: &self.uri,
            headers: &self.headers,
            extensions: &self.extensions,
        }
    }

    fn uri_mut(&mut self) -> &mut Uri {
        &mut self.uri
    }

    fn headers_mut(&mut self) -> &mut HeaderMap {
        &mut self.headers
    }

    fn extensions_mut(&mut self) -> &mut Extensions {
        &mut self.extensions
    }
}

impl<B> Head for Request<B> {
    fn view(&self) -> View<'_> {
        View {
            method: self.method(),
            uri: self.uri(),
            headers: self.headers(),
            extensions: self.extensions(),
        }
    }

    fn uri_mut(&mut self) -> &mut Uri {
        self.uri_mut()
    }

    fn headers_mut(&mut self) -> &mut HeaderMap {
        self.headers_mut()
    }

    fn extensions_mut(&mut self) -> &mut Extensions {
        self.extensions_mut()
    }
}

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
    /// What the service does with a denial.
    pub(crate) denied_responses: DeniedResponses,
    /// The origin that it went to.
    #[cfg(feature = "follow-redirect")]
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

impl Carried {
    fn new(
        config: &Config,
        method: &Method,
        credential: CarriedCredential,
        organization: Option<OrganizationId>,
    ) -> Self {
        Self {
            credential,
            organization,
            is_replay: false,
            is_get: matches!(*method, Method::GET),
            is_head: matches!(*method, Method::HEAD),
            denied_responses: config.denied_responses,
            #[cfg(feature = "follow-redirect")]
            origin: config.origin.id(),
            limits: config.error_body,
        }
    }

    pub(crate) fn credential(&self) -> &Credential {
        match &self.credential {
            CarriedCredential::Stores(snapshot) => &snapshot.credential,
            CarriedCredential::Own(credential) => credential,
        }
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

    /// Why the organization does not suit the credential.
    fn misfit(&self, config: &Config) -> Option<RefusalReason> {
        let has_organization = self.organization().is_some();
        match self.credential().kind().organization_header() {
            OrganizationHeader::Never if has_organization => {
                Some(RefusalReason::UnexpectedOrganization)
            }
            OrganizationHeader::Needed if config.requires_organization && !has_organization => {
                Some(RefusalReason::MissingOrganization)
            }
            OrganizationHeader::Never | OrganizationHeader::Needed => None,
        }
    }

    fn is_what_was_denied(&self, denial: &Denial) -> bool {
        denial.credential() == Some(self.credential().id())
            && denial.organization() == self.organization()
    }
}

/// Why a request is refused, and the header that the refusal is about.
type Reason = (RefusalReason, Option<HeaderName>);

/// Decides about a request and sets its headers; after an error neither header is in the head.
pub(crate) fn authorize(
    config: &Config,
    store: Option<&CredentialStore>,
    head: &mut dyn Head,
) -> Result<Departure, Error> {
    #[cfg(feature = "retry")]
    let denied = take_replay(head.extensions_mut());
    #[cfg(not(feature = "retry"))]
    let denied = None;
    if config.relative_uris == RelativeUris::Complete {
        config.origin.complete(head.uri_mut());
    }
    let decision = decide(config, store, &head.view(), denied);
    let headers = head.headers_mut();
    match &decision {
        Ok(Departure::Authenticated(carried)) => attach(config, headers, carried),
        Ok(Departure::Elsewhere(_)) => remove_credentials(headers),
        Ok(Departure::AtOrigin) | Err(_) => remove_both(headers),
    }
    decision
}

/// The rule. What it refuses is in the order in which it is refused. `denied` is the denial because of which the request is
/// sent again.
fn decide(
    config: &Config,
    store: Option<&CredentialStore>,
    head: &View<'_>,
    denied: Option<Denial>,
) -> Result<Departure, Error> {
    let overrides = Overrides::read(head.extensions);
    let refuse = |reason| Error::Refused(refusal(config, store, &overrides, head.uri, reason));

    let destination = config.origin.destination(head.uri);
    if overrides.is_anonymous {
        return Ok(depart_anonymously(config, head.uri, destination));
    }
    check_method(head.method).map_err(refuse)?;
    check_destination(config, destination).map_err(refuse)?;
    if destination == Destination::Foreign {
        check_foreign_headers(config, head.headers).map_err(refuse)?;
        return Ok(Departure::Elsewhere(Border::new(&config.origin, head.uri)));
    }
    if overrides.is_after_foreign_hop {
        return Err(refuse((RefusalReason::ForeignRedirect, None)));
    }
    check_headers(config, head.headers).map_err(refuse)?;
    let Some(credential) = overrides.credential_or(store) else {
        return Err(refuse((RefusalReason::MissingCredential, None)));
    };
    let organization = overrides.organization.cloned();
    let mut carried = Carried::new(config, head.method, credential, organization);
    carried.is_replay = denied.is_some();
    let misfit = carried.misfit(config);
    match (denied, misfit) {
        (Some(denial), _) if misfit.is_some() || carried.is_what_was_denied(&denial) => {
            Err(Error::Unauthorized(denial))
        }
        (_, Some(reason)) => Err(refuse((reason, None))),
        (_, None) => Ok(Departure::Authenticated(carried)),
    }
}

/// An anonymous request may go anywhere.
fn depart_anonymously(config: &Config, uri: &Uri, destination: Destination) -> Departure {
    let is_trusted = config.relative_uris == RelativeUris::Trust;
    match destination {
        Destination::Origin => Departure::AtOrigin,
        Destination::Relative { .. } if is_trusted => Departure::AtOrigin,
        _ => Departure::Elsewhere(Border::new(&config.origin, uri)),
    }
}

/// RFC 9110 section 9.3.6: CONNECT shows its fields to a proxy. Section 9.3.8: TRACE sends them back.
fn check_method(method: &Method) -> Result<(), Reason> {
    match *method {
        Method::CONNECT | Method::TRACE => Err((RefusalReason::Method, None)),
        _ => Ok(()),
    }
}

fn check_destination(config: &Config, destination: Destination) -> Result<(), Reason> {
    let reason = match destination {
        Destination::Foreign if config.foreign_requests == ForeignRequests::Reject => {
            RefusalReason::ForeignDestination
        }
        Destination::Origin | Destination::Foreign => return Ok(()),
        Destination::Relative {
            is_plain_path: true,
        } if config.relative_uris == RelativeUris::Trust => return Ok(()),
        Destination::Relative { .. } => RefusalReason::RelativeUri,
        Destination::Userinfo => RefusalReason::Userinfo,
        Destination::NearMiss { is_scheme: false } => RefusalReason::Scheme,
        Destination::NearMiss { is_scheme: true } => RefusalReason::Authority,
    };
    Err((reason, None))
}

/// The headers of a request that is forwarded without credentials.
fn check_foreign_headers(config: &Config, headers: &HeaderMap) -> Result<(), Reason> {
    if config.caller_headers == CallerHeaders::Replace {
        return Ok(());
    }
    for name in [ORGANIZATION, AUTHORIZATION] {
        let mut lines = headers.get_all(name.as_str()).iter();
        if lines.any(|line| name == ORGANIZATION || is_credential(line)) {
            return Err((RefusalReason::CallerHeader, Some(name)));
        }
    }
    Ok(())
}

/// The headers of a request that is to carry credentials.
///
/// Almost no request has one of these headers: one pass over the names tells, which saves 75 instructions of a request.
fn check_headers(config: &Config, headers: &HeaderMap) -> Result<(), Reason> {
    let is_looked_at = |name: &HeaderName| {
        *name == HOST
            || *name == AUTHORIZATION
            || *name == CONNECTION
            || *name == ORGANIZATION
            || *name == PROXY_CONNECTION
    };
    if headers.keys_len() > MAX_HEADER_NAMES || headers.keys().any(is_looked_at) {
        check_callers_headers(config, headers)
    } else {
        Ok(())
    }
}

/// One more pass, and lookups only of what is there: each costs half as much as a pass.
#[cold]
fn check_callers_headers(config: &Config, headers: &HeaderMap) -> Result<(), Reason> {
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
            let mut lines = headers.get_all(name.as_str()).iter();
            if lines.any(names_our_header) {
                return Err((RefusalReason::CallerHeader, Some(name)));
            }
        }
    }
    match ours {
        Some(name) if config.caller_headers == CallerHeaders::Reject => {
            Err((RefusalReason::CallerHeader, Some(name.clone())))
        }
        _ => Ok(()),
    }
}

/// Whether the `Host` header is one line and names the origin. RFC 9112 section 3.2: more than one line is an error, whatever
/// the lines say.
fn agrees(origin: &Origin, headers: &HeaderMap) -> bool {
    let mut hosts = headers.get_all(HOST.as_str()).iter();
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

/// Sets both headers. The two inserts name the header by reference and by value, and all other lookups in this file name it by
/// text: so each insert is the only caller of its instantiation, is inlined, and the name's hash is computed by the compiler.
fn attach(config: &Config, headers: &mut HeaderMap, carried: &Carried) {
    headers.insert(&AUTHORIZATION, carried.credential().header_value().clone());
    match carried.organization() {
        Some(organization) => {
            headers.insert(ORGANIZATION, organization.header_value().clone());
        }
        None if config.caller_headers == CallerHeaders::Replace => {
            headers.remove(ORGANIZATION.as_str());
        }
        None => {}
    }
}

fn remove_both(headers: &mut HeaderMap) {
    headers.remove(AUTHORIZATION.as_str());
    headers.remove(ORGANIZATION.as_str());
}

/// Removes `X-Anyreach-Org`, and each line of `Authorization` that holds a credential of Anyreach's; other lines stay.
fn remove_credentials(headers: &mut HeaderMap) {
    headers.remove(ORGANIZATION.as_str());
    let Ok(Entry::Occupied(lines)) = headers.try_entry(AUTHORIZATION.as_str()) else {
        return;
    };
    if lines.iter().any(is_credential) {
        let (_, lines) = lines.remove_entry_mult();
        let others: Vec<_> = lines.filter(|line| !is_credential(line)).collect();
        for line in others {
            headers.append(AUTHORIZATION.as_str(), line);
        }
    }
}

fn refusal(
    config: &Config,
    store: Option<&CredentialStore>,
    overrides: &Overrides<'_>,
    uri: &Uri,
    (reason, header): Reason,
) -> Refusal {
    let stores = || Some(overrides.store.or(store)?.credential());
    let credential = overrides.credential.cloned().or_else(stores);
    // Where it goes may be what a server made of the credential that it was sent, in a redirect.
    let destination = uri.authority().map(|authority| {
        with_redaction(credential.as_ref().map(Credential::expose), |redaction| {
            redaction.destination(uri.scheme_str(), authority.as_str())
        })
    });
    Refusal::new(Details {
        reason,
        organization: overrides
            .organization
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
#[derive(Clone, Copy, Default)]
pub(crate) struct Overrides<'a> {
    pub(crate) is_anonymous: bool,
    pub(crate) credential: Option<&'a Credential>,
    pub(crate) store: Option<&'a CredentialStore>,
    pub(crate) organization: Option<&'a OrganizationId>,
    is_after_foreign_hop: bool,
}

impl<'a> Overrides<'a> {
    /// Reads the extensions. They stay, because a replay needs them again.
    pub(crate) fn read(extensions: &'a Extensions) -> Self {
        if extensions.is_empty() {
            return Self::default();
        }
        Self {
            is_anonymous: extensions.get::<Anonymous>().is_some(),
            credential: extensions.get(),
            store: extensions.get(),
            organization: extensions.get(),
            is_after_foreign_hop: extensions.get::<AfterForeignHop>().is_some(),
        }
    }

    /// Returns the request's own credential, or what its own store, or else the layer's, has in force.
    fn credential_or(&self, store: Option<&CredentialStore>) -> Option<CarriedCredential> {
        match (self.credential, self.store.or(store)) {
            (Some(own), _) => Some(CarriedCredential::Own(own.clone())),
            (None, Some(store)) => Some(CarriedCredential::Stores(store.snapshot())),
            (None, None) => None,
        }
    }
}

/// Takes the marker out, so that nothing below the layer meets it.
#[cfg(feature = "retry")]
fn take_replay(extensions: &mut Extensions) -> Option<Denial> {
    if extensions.is_empty() {
        return None;
    }
    extensions.remove().map(|Replay(denial)| denial)
}
