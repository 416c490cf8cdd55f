//! Decides whether a request may carry credentials, and which ones, and sets its headers.
//!
//! # Terms
//!
//! - The *origin* is the one scheme, host and port that credentials are sent to. A *near miss* is
//!   another spelling of its host, or the same host with another scheme or port.
//! - An *override* is an extension with which the caller changes the decision for one request
//!   ([`Overrides`]).
//! - A *replay* is a request that a retry policy sends again after a 401. It carries the first
//!   denial.
//! - A request is *refused* if this layer does not send it, and *denied* if the server answers 401
//!   or 403.
//!
//! # Algorithm
//!
//! 1. [`authorize`] takes the marker of a replay out of the extensions, and completes a relative
//!    URI if [`RelativeUris::Complete`] is set.
//! 2. It calls [`decide`], which changes nothing and reads top to bottom. If several refusals
//!    apply, the first one is reported: the method, the destination, a redirect from another host,
//!    the headers that the request already has, and then credential and organization.
//! 3. [`Decision`] is the result: attach credentials, or send the request without them. An
//!    anonymous request is never refused.
//! 4. [`authorize`] sets or removes the two headers accordingly. After an error, neither header is
//!    in the head.
//!
//! | Extension | Meaning |
//! |---|---|
//! | [`Anonymous`] | no credential; the request may go to any host |
//! | [`Credential`] | the credential of this request |
//! | [`CredentialStore`] | the store of this request |
//! | [`OrganizationId`] | the organization of this request |
//! | [`Replay`], private | the denial that caused this replay |
//! | [`AfterForeignHop`], private | the request follows a redirect from another host |
//!
//! # Invariants
//!
//! - Credential and organization come from one snapshot of the store, which [`Carried`] keeps until
//!   the response arrives. A rotation in between changes neither the headers nor the report of a
//!   401.
//! - A replay that would be sent with the denied credential and organization is answered with the
//!   first denial instead, without I/O. The policy that sends replays cannot make that comparison,
//!   because it decides before the credential changes.
//! - Extensions are read and stay in the request, because a replay needs them again. Only the
//!   marker of a replay is removed.
//!
//! # Cost
//!
//! Every request runs this code, so `bash benches/peers/instructions.sh` counts its instructions;
//! `docs/performance.md` has the figures. Comparing the authority as text, one pass over the
//! header names and checking whether there are any extensions are cheap. Lookups in the header map,
//! case folding and copying the head are not. The submodules hold the code that almost no request
//! needs.
//!
//! # Tests
//!
//! The campaign `origin_matrix` sends every combination of scheme, spelling, port, method and URI
//! form, with the `url` crate as the judge; ASSURANCE.md has the command and the result.

mod caller_headers;
mod head;

use std::sync::Arc;

use http::header::{AUTHORIZATION, CONNECTION, HOST};
use http::{Extensions, HeaderMap, HeaderName, Method, Uri};

use self::caller_headers::{check_caller_headers, check_foreign_headers, remove_credentials};
pub(crate) use self::head::Head;
use self::head::View;
use crate::config::{
    CallerHeaders, Config, DeniedResponses, ErrorBodyLimits, ForeignRequests, RelativeUris,
};
use crate::credential::{Credential, OrganizationHeader};
use crate::denial::Denial;
use crate::error::Error;
use crate::organization::OrganizationId;
#[cfg(feature = "follow-redirect")]
use crate::origin::OriginId;
use crate::origin::{Destination, Origin};
use crate::redact::with_redaction;
use crate::refusal::{Details, Refusal, RefusalReason};
use crate::store::{CredentialStore, Snapshot};

/// `X-Anyreach-Org`. HTTP/2 requires header names in lower case, and HTTP/1.1 ignores their case.
pub(crate) const ORGANIZATION: HeaderName = HeaderName::from_static("x-anyreach-org");
const PROXY_CONNECTION: HeaderName = HeaderName::from_static("proxy-connection");

/// The maximum number of header names of a request that is to carry credentials. The client inserts
/// headers of its own, and `http` panics above 24,576 names.
const MAX_HEADER_NAMES: usize = 16_384;

/// Marks a request that is sent without credentials. Insert it into the request's extensions.
///
/// Such a request may go to any host. At the origin, the layer removes both headers from it;
/// elsewhere, it removes `X-Anyreach-Org` and bearer tokens that start with `ak_` or `pat_`. Use it
/// for `/core/public/web-widgets/...`, which Anyreach documents as unauthenticated, and for the
/// `presigned_url` of a file upload, whose host is presumably a storage host.
///
/// # Examples
///
/// ```
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() {
/// use http::{Request, Response, header::AUTHORIZATION};
/// use tower::{Layer, ServiceExt, service_fn};
/// use tower_anyreach::{Anonymous, AnyreachAuthLayer, OrganizationApiKey};
///
/// let client = AnyreachAuthLayer::new(
///     OrganizationApiKey::new("ak_4711.c2VjcmV0").unwrap(),
/// )
/// .layer(service_fn(async |request: Request<String>| {
///     assert!(!request.headers().contains_key(AUTHORIZATION));
///     Ok::<_, std::io::Error>(Response::new(String::new()))
/// }));
/// let upload = Request::put("https://storage.example/upload?signature=1")
///     .extension(Anonymous)
///     .body(String::from("file"))
///     .unwrap();
/// assert!(client.oneshot(upload).await.is_ok());
/// # }
/// ```
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub struct Anonymous;

/// The denial that caused a replay. The layer removes this extension, so that nothing below it sees
/// it.
#[cfg(feature = "retry")]
#[derive(Clone)]
pub(crate) struct Replay(pub(crate) Denial);

/// Marks a redirected request in a chain that has been at another host, which therefore chose its
/// target.
#[derive(Debug, Clone, Copy)]
#[cfg_attr(
    not(feature = "follow-redirect"),
    allow(dead_code, reason = "made by `RedirectPolicy`")
)]
pub(crate) struct AfterForeignHop;

/// How a request is sent.
pub(crate) enum Decision {
    /// With credentials, to the origin.
    Authenticate(Carried),
    /// Without credentials, to the origin or with a relative URI that an inner layer completes.
    Anonymous,
    /// Without credentials, to any other destination.
    Elsewhere(RedirectGuard),
}

/// The credentials that a request carries, and what is needed to classify its response.
pub(crate) struct Carried {
    pub(crate) credential: CarriedCredential,
    /// The organization of this request's own, if it names one.
    organization: Option<OrganizationId>,
    /// The request is a replay.
    pub(crate) is_replay: bool,
    /// The request is a `GET`. Redirects turn other methods into it (RFC 9110 section 15.4).
    pub(crate) is_get: bool,
    /// The request is a `HEAD`, whose response has no body.
    pub(crate) is_head: bool,
    /// How the service handles a denial.
    pub(crate) denied_responses: DeniedResponses,
    /// The origin it was sent to.
    #[cfg(feature = "follow-redirect")]
    pub(crate) origin: OriginId,
    /// How much of a denial's body is read.
    pub(crate) limits: ErrorBodyLimits,
}

/// The credential that a request carries, by its source.
pub(crate) enum CarriedCredential {
    /// The credential that a store had in force.
    FromStore(Arc<Snapshot>),
    /// The request's own credential.
    OfRequest(Credential),
}

/// What is needed to tell whether a redirect from another host may lead back to the origin.
pub(crate) struct RedirectGuard {
    pub(crate) origin: Box<Origin>,
    /// The request went to a near miss of the origin's host.
    pub(crate) answered_by_near_miss: bool,
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
            CarriedCredential::FromStore(snapshot) => &snapshot.credential,
            CarriedCredential::OfRequest(credential) => credential,
        }
    }

    /// Returns the organization to send in the header.
    pub(crate) fn organization(&self) -> Option<&OrganizationId> {
        self.organization
            .as_ref()
            .or_else(|| self.credential().organization())
    }

    /// Returns the version of the store's credential.
    pub(crate) fn version(&self) -> Option<u64> {
        match &self.credential {
            CarriedCredential::FromStore(snapshot) => Some(snapshot.version),
            CarriedCredential::OfRequest(_) => None,
        }
    }

    /// Returns why the organization does not match the kind of the credential, if it does not.
    fn organization_mismatch(&self, config: &Config) -> Option<RefusalReason> {
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

    fn equals_denied(&self, denial: &Denial) -> bool {
        denial.credential() == Some(self.credential().id())
            && denial.organization() == self.organization()
    }
}

/// Why a request is refused, with the header that caused it.
type Reason = (RefusalReason, Option<HeaderName>);

/// Decides how to send a request, and sets its headers. After an error, neither header is in the
/// head.
pub(crate) fn authorize(
    config: &Config,
    store: Option<&CredentialStore>,
    head: &mut dyn Head,
) -> Result<Decision, Error> {
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
        Ok(Decision::Authenticate(carried)) => attach(config, headers, carried),
        Ok(Decision::Elsewhere(_)) => remove_credentials(headers),
        Ok(Decision::Anonymous) | Err(_) => remove_both(headers),
    }
    decision
}

/// Decides how to send a request. `denied` is the denial that caused this replay.
///
/// The checks are in the order in which refusals are reported.
fn decide(
    config: &Config,
    store: Option<&CredentialStore>,
    head: &View<'_>,
    denied: Option<Denial>,
) -> Result<Decision, Error> {
    let overrides = Overrides::read(head.extensions);
    let refuse = |reason| Error::Refused(refusal(config, store, &overrides, head.uri, reason));

    let destination = config.origin.destination(head.uri);
    if overrides.is_anonymous {
        return Ok(decide_anonymous(config, head.uri, destination));
    }
    check_method(head.method).map_err(refuse)?;
    check_destination(config, destination).map_err(refuse)?;
    if destination == Destination::Foreign {
        check_foreign_headers(config, head.headers).map_err(refuse)?;
        return Ok(Decision::Elsewhere(RedirectGuard::new(
            &config.origin,
            head.uri,
        )));
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
    let mismatch = carried.organization_mismatch(config);
    match (denied, mismatch) {
        (Some(denial), _) if mismatch.is_some() || carried.equals_denied(&denial) => {
            Err(Error::Unauthorized(denial))
        }
        (_, Some(reason)) => Err(refuse((reason, None))),
        (_, None) => Ok(Decision::Authenticate(carried)),
    }
}

/// Decides about an anonymous request, which may go to any host.
fn decide_anonymous(config: &Config, uri: &Uri, destination: Destination) -> Decision {
    let is_trusted = config.relative_uris == RelativeUris::Trust;
    match destination {
        Destination::Origin => Decision::Anonymous,
        Destination::Relative { .. } if is_trusted => Decision::Anonymous,
        _ => Decision::Elsewhere(RedirectGuard::new(&config.origin, uri)),
    }
}

/// Checks the method. CONNECT sends its headers to a proxy (RFC 9110 section 9.3.6), and the
/// response to TRACE repeats them (section 9.3.8).
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

/// Checks the headers of a request that is to carry credentials.
///
/// Almost no request has one of these headers, so one pass over the names comes first. Compared
/// with lookups, it saves 75 instructions per request.
fn check_headers(config: &Config, headers: &HeaderMap) -> Result<(), Reason> {
    let is_checked = |name: &HeaderName| {
        *name == HOST
            || *name == AUTHORIZATION
            || *name == CONNECTION
            || *name == ORGANIZATION
            || *name == PROXY_CONNECTION
    };
    if headers.keys_len() > MAX_HEADER_NAMES || headers.keys().any(is_checked) {
        check_caller_headers(config, headers)
    } else {
        Ok(())
    }
}

/// Sets both headers.
///
/// The two inserts pass the name by reference and by value, and all other lookups of this module
/// pass it as text. So each instantiation of `HeaderMap::insert` has exactly one caller, is
/// inlined, and has the hash of its name computed at compile time.
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

fn refusal(
    config: &Config,
    store: Option<&CredentialStore>,
    overrides: &Overrides<'_>,
    uri: &Uri,
    (reason, header): Reason,
) -> Refusal {
    let stores = || Some(overrides.store.or(store)?.credential());
    let credential = overrides.credential.cloned().or_else(stores);
    // A server may have built the destination from the credential that it was sent, in a redirect.
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

impl RedirectGuard {
    fn new(origin: &Origin, uri: &Uri) -> Self {
        let authority = uri
            .authority()
            .map(|authority| authority.as_str().as_bytes());
        Self {
            origin: Box::new(origin.clone()),
            answered_by_near_miss: authority.is_some_and(|authority| origin.may_be_near(authority)),
        }
    }
}

/// The overrides that the caller, or a policy of this crate, set for this request.
#[derive(Clone, Copy, Default)]
pub(crate) struct Overrides<'a> {
    pub(crate) is_anonymous: bool,
    pub(crate) credential: Option<&'a Credential>,
    pub(crate) store: Option<&'a CredentialStore>,
    pub(crate) organization: Option<&'a OrganizationId>,
    is_after_foreign_hop: bool,
}

impl<'a> Overrides<'a> {
    /// Reads the extensions and leaves them in place, because a replay needs them again.
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

    /// Returns the request's own credential, or the one that its own store or the layer's store has
    /// in force.
    fn credential_or(&self, store: Option<&CredentialStore>) -> Option<CarriedCredential> {
        match (self.credential, self.store.or(store)) {
            (Some(own), _) => Some(CarriedCredential::OfRequest(own.clone())),
            (None, Some(store)) => Some(CarriedCredential::FromStore(store.snapshot())),
            (None, None) => None,
        }
    }
}

/// Removes the marker of a replay, so that nothing below the layer sees it.
#[cfg(feature = "retry")]
fn take_replay(extensions: &mut Extensions) -> Option<Denial> {
    if extensions.is_empty() {
        return None;
    }
    extensions.remove().map(|Replay(denial)| denial)
}
