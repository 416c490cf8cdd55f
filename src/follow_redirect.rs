//! A policy for tower-http's `FollowRedirect` outside the layer: it keeps the overrides of a
//! request along redirects at the origin.

// # Why a policy is needed
//
// Without it, redirects are safe, because the layer decides about each hop anew, but incomplete:
// `FollowRedirect` keeps the extensions of a request on every hop, or on none, and neither suits a
// chain that leaves the origin. Hence the policy sets the extensions of each hop itself.
//
// # Terms
//
// A *hop* is one request of a chain: the first one, which the caller made, or one that follows a
// redirect. A hop is *foreign* if it does not go to the origin. A chain *has left* once it had a
// foreign hop; from then on, another host has chosen where it goes.
//
// # What `FollowRedirect` 0.7 does
//
// 1. It clones the policy for each call, so the policy may keep the state of one chain
//    (`Chain`).
// 2. For the first hop, it calls `clone_body` (unless the body is known to be empty) and
//    `on_request`. Then it copies method, URI, version, headers and extensions, and calls the
//    inner service.
// 3. For each 3xx, it changes method and body as the status demands, and calls `redirect` and
//    `clone_body`. Then it rebuilds a request from the copy and calls `on_request`. The request as
//    `on_request` leaves it is the new copy.
// 4. In `a.and(b)`, `on_request` runs for a and then for b, so the last policy decides about the
//    extensions. In `a.or(b)`, `redirect` of b may never be called.
//
// Because of 4, everything except the limit and the bodies is done in `on_request`, and the policy
// has to be the last one. In a wrong order it loses function, not safety, because the layer still
// checks every hop.
//
// # What happens on each hop
//
// 1. The first hop is completed if `RelativeUris::Complete` is set, and its overrides are read.
// 2. A hop to another scheme, host or port than the one before loses all extensions and the
//    headers that may hold credentials. Two spellings of the origin count as one.
// 3. `Anonymous` is set again on every hop. The other overrides are set on hops at the origin
//    only.
// 4. A hop to the origin in a chain that has left gets the marker `AfterForeignHop`, and the
//    layer refuses it.
//
// The campaign `redirects` sends drawn chains through ten stacks, with the `url` crate as the
// judge of where each hop goes; ASSURANCE.md has the command and the result.

use std::fmt;

use http::header::{AUTHORIZATION, COOKIE, PROXY_AUTHORIZATION};
use http::{Extensions, Request, Uri};
use tower_http::follow_redirect::policy::{Action, Attempt, Policy};

use crate::authorize::{AfterForeignHop, Anonymous, ORGANIZATION, Overrides};
use crate::config::RelativeUris;
use crate::credential::Credential;
use crate::layer::AnyreachAuthLayer;
use crate::organization::OrganizationId;
use crate::origin::{Destination, Origin};
use crate::store::CredentialStore;

/// The maximum number of redirects followed for one request.
const MAX_REDIRECTS: usize = 10;

/// Redirection policy that keeps a request's extensions along redirects at the origin, and drops
/// credentials elsewhere.
///
/// Use it with tower-http 0.7's `FollowRedirectLayer`, outside the layer it is created from.
/// Redirects are safe without it, because the layer decides about each hop anew. With it:
///
/// 1. [`Anonymous`] stays with every hop. [`Credential`], [`CredentialStore`] and
///    [`OrganizationId`] stay with hops at the origin.
/// 2. A hop to another scheme, host or port loses all other extensions, and `Authorization`,
///    `Cookie`, `Proxy-Authorization` and `X-Anyreach-Org`.
/// 3. The layer refuses a hop to the origin that follows a hop elsewhere as
///    [`ForeignRedirect`](crate::RefusalReason::ForeignRedirect), because another host chose it.
/// 4. The first URI is completed if [`RelativeUris::Complete`] is set.
/// 5. At most 10 redirects are followed, and the next 3xx is returned. This limit does not hold
///    under `.or`.
///
/// In a composition with other policies, put it last. A 307 or 308 repeats the body, which needs
/// [`clone_body_with`](Self::clone_body_with). Without it, such a response to a request with a body
/// is returned.
///
/// Every hop has to pass through the layer. If another client sends the requests to other hosts,
/// only this policy, placed last, prevents those hosts from choosing a request at the origin.
/// tower-http 0.6 drops the extensions on every hop and is not supported. Under
/// [`RelativeUris::Trust`], tower-http follows no redirect of a relative URI.
///
/// # Examples
///
/// ```
/// use bytes::Bytes;
/// use http_body_util::Full;
/// use tower::ServiceBuilder;
/// use tower_anyreach::{
///     AnyreachAuthLayer, OrganizationApiKey, follow_redirect::RedirectPolicy,
/// };
/// use tower_http::follow_redirect::FollowRedirectLayer;
///
/// let auth = AnyreachAuthLayer::new(OrganizationApiKey::new("ak_4711.c2VjcmV0")?);
/// let policy =
///     RedirectPolicy::new(&auth).clone_body_with(|body: &Full<Bytes>| Some(body.clone()));
/// let client = ServiceBuilder::new()
///     .layer(FollowRedirectLayer::with_policy(policy))
///     .layer(auth);
/// # let _ = client;
/// # Ok::<(), tower_anyreach::InvalidCredential>(())
/// ```
#[derive(Clone)]
pub struct RedirectPolicy<C = NoBody> {
    origin: Origin,
    relative_uris: RelativeUris,
    remaining: usize,
    chain: Option<Chain>,
    clone_body: C,
}

/// Clones no body. It is the default of [`RedirectPolicy`], and works with any type of body.
#[derive(Debug, Clone, Copy, Default)]
pub struct NoBody;

/// The state of one chain after its first hop.
#[derive(Clone)]
struct Chain {
    /// The overrides of the first hop.
    caller: CallerOverrides,
    /// The URI of the previous hop.
    before: Uri,
    /// A hop was foreign.
    has_left: bool,
}

/// The overrides that the caller set.
#[derive(Clone)]
struct CallerOverrides {
    is_anonymous: bool,
    credential: Option<Credential>,
    store: Option<CredentialStore>,
    organization: Option<OrganizationId>,
}

impl CallerOverrides {
    fn read(extensions: &Extensions) -> Self {
        let overrides = Overrides::read(extensions);
        Self {
            is_anonymous: overrides.is_anonymous,
            credential: overrides.credential.cloned(),
            store: overrides.store.cloned(),
            organization: overrides.organization.cloned(),
        }
    }

    /// Sets the overrides of a hop: `Anonymous` on every hop, the others at the origin.
    fn replace_in(&self, extensions: &mut Extensions, is_at_origin: bool) {
        replace(extensions, self.is_anonymous.then_some(&Anonymous));
        replace(
            extensions,
            self.credential.as_ref().filter(|_| is_at_origin),
        );
        replace(extensions, self.store.as_ref().filter(|_| is_at_origin));
        replace(
            extensions,
            self.organization.as_ref().filter(|_| is_at_origin),
        );
    }
}

fn replace<T: Clone + Send + Sync + 'static>(extensions: &mut Extensions, value: Option<&T>) {
    match value {
        Some(value) => extensions.insert(value.clone()),
        None => extensions.remove(),
    };
}

impl RedirectPolicy {
    /// Creates a policy for use outside this layer.
    #[must_use]
    pub fn new(layer: &AnyreachAuthLayer) -> Self {
        let config = layer.config();
        Self {
            origin: config.origin.clone(),
            relative_uris: config.relative_uris,
            remaining: MAX_REDIRECTS,
            chain: None,
            clone_body: NoBody,
        }
    }
}

impl<C> RedirectPolicy<C> {
    /// Sets the function that clones bodies for redirects that repeat them. If it returns `None`,
    /// the 3xx is returned.
    #[must_use]
    pub fn clone_body_with<D>(self, clone_body: D) -> RedirectPolicy<D> {
        RedirectPolicy {
            origin: self.origin,
            relative_uris: self.relative_uris,
            remaining: self.remaining,
            chain: self.chain,
            clone_body,
        }
    }

    fn redirect(&mut self) -> Action {
        if self.remaining == 0 {
            return Action::Stop;
        }
        self.remaining -= 1;
        Action::Follow
    }

    fn on_request<B>(&mut self, request: &mut Request<B>) {
        match self.chain.take() {
            None => self.chain = Some(self.first(request)),
            Some(chain) => self.chain = Some(self.next(chain, request)),
        }
    }

    /// Prepares the first hop, which the caller made.
    fn first<B>(&self, request: &mut Request<B>) -> Chain {
        if self.relative_uris == RelativeUris::Complete {
            self.origin.complete(request.uri_mut());
        }
        Chain {
            caller: CallerOverrides::read(request.extensions()),
            before: request.uri().clone(),
            has_left: !self.goes_to_origin(request.uri()),
        }
    }

    /// Prepares a hop that follows a redirect.
    fn next<B>(&self, mut chain: Chain, request: &mut Request<B>) -> Chain {
        let is_at_origin = self.goes_to_origin(request.uri());
        let is_same_origin = match (self.goes_to_origin(&chain.before), is_at_origin) {
            (true, true) => true,
            (false, false) => same_origin(&chain.before, request.uri()),
            _ => false,
        };
        chain.has_left |= !is_at_origin;
        chain.before = request.uri().clone();
        if !is_same_origin {
            for name in [AUTHORIZATION, COOKIE, PROXY_AUTHORIZATION, ORGANIZATION] {
                request.headers_mut().remove(name);
            }
            request.extensions_mut().clear();
        }
        let extensions = request.extensions_mut();
        chain.caller.replace_in(extensions, is_at_origin);
        if is_at_origin && chain.has_left {
            extensions.insert(AfterForeignHop);
        }
        chain
    }

    fn goes_to_origin(&self, uri: &Uri) -> bool {
        self.origin.destination(uri) == Destination::Origin
    }
}

impl<B, E> Policy<B, E> for RedirectPolicy<NoBody> {
    fn redirect(&mut self, _: &Attempt<'_>) -> Result<Action, E> {
        Ok(self.redirect())
    }

    fn on_request(&mut self, request: &mut Request<B>) {
        self.on_request(request);
    }
}

impl<B, E, C: Fn(&B) -> Option<B>> Policy<B, E> for RedirectPolicy<C> {
    fn redirect(&mut self, _: &Attempt<'_>) -> Result<Action, E> {
        Ok(self.redirect())
    }

    fn on_request(&mut self, request: &mut Request<B>) {
        self.on_request(request);
    }

    fn clone_body(&self, body: &B) -> Option<B> {
        (self.clone_body)(body)
    }
}

/// Returns whether two URIs have the same scheme, host and port.
fn same_origin(a: &Uri, b: &Uri) -> bool {
    let port = |uri: &Uri| {
        uri.port_u16().or(match uri.scheme_str() {
            Some("https") => Some(443),
            Some("http") => Some(80),
            _ => None,
        })
    };
    let is_same_host =
        matches!((a.host(), b.host()), (Some(a), Some(b)) if a.eq_ignore_ascii_case(b));
    a.scheme() == b.scheme() && port(a) == port(b) && is_same_host
}

impl<C> fmt::Debug for RedirectPolicy<C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RedirectPolicy")
            .field("origin", &self.origin)
            .field("relative_uris", &self.relative_uris)
            .field("remaining", &self.remaining)
            .finish_non_exhaustive()
    }
}
