//! A policy for tower-http's `FollowRedirect`, around the layer: overrides stay with a request along its redirects at the origin.
//!
//! What `FollowRedirect` 0.7 does: the policy is cloned for each call, so it may keep state for one logical request. On the first
//! pass it calls `clone_body` (not for bodies known to be empty) and `on_request`, then copies method, URI, version, headers and
//! extensions, then calls the inner service. For each 3xx it rewrites method and body, calls `redirect` and `clone_body`,
//! rebuilds a request from the copy, and calls `on_request`; what that leaves is the new copy. In `a.and(b)`, `on_request` runs a,
//! then b; in `a.or(b)`, the `redirect` of b may never be called. So all but the limit and the bodies is in `on_request`.

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

/// How many redirects of one request are followed.
const MAX_REDIRECTS: usize = 10;

/// Redirection policy that keeps a request's extensions along redirects at the origin, and drops credentials elsewhere.
///
/// For tower-http 0.7's `FollowRedirectLayer`, outside of the layer that it is made from. Without it, redirects are as safe,
/// because the layer decides about each hop anew; with it, they also work:
///
/// 1. [`Anonymous`] stays with every hop. [`Credential`], [`CredentialStore`] and
///    [`OrganizationId`] stay with hops at the origin.
/// 2. A hop to another place loses all extensions, and `Authorization`, `Cookie`, `Proxy-Authorization` and `X-Anyreach-Org`.
/// 3. A hop to the origin after one elsewhere is refused by the layer as
///    [`ForeignRedirect`](crate::RefusalReason::ForeignRedirect), because another host chose it.
/// 4. The first URI is completed where [`RelativeUris::Complete`] says so.
/// 5. At most 10 redirects are followed; the next 3xx is the answer. Under `.or` this limit does not hold.
///
/// In a composition with other policies it is last. A 307 or 308 repeats the body, which takes
/// [`clone_body_with`](Self::clone_body_with); without it, such a response to a request with a body is the answer.
///
/// Every hop has to pass through the layer: where requests to other hosts go past it, to another client, only this policy, and
/// only as the last one, keeps such a host from choosing a request at the origin. tower-http 0.6 drops the extensions on every
/// hop and is not supported. Under [`RelativeUris::Trust`], tower-http follows no redirect of a relative URI.
///
/// # Examples
///
/// ```
/// use bytes::Bytes;
/// use http_body_util::Full;
/// use tower::ServiceBuilder;
/// use tower_anyreach::{AnyreachAuthLayer, OrganizationApiKey, follow_redirect::RedirectPolicy};
/// use tower_http::follow_redirect::FollowRedirectLayer;
///
/// let auth = AnyreachAuthLayer::new(OrganizationApiKey::new("ak_4711.c2VjcmV0")?);
/// let policy = RedirectPolicy::new(&auth).clone_body_with(|body: &Full<Bytes>| Some(body.clone()));
/// let client = ServiceBuilder::new().layer(FollowRedirectLayer::with_policy(policy)).layer(auth);
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

/// Clones no body: the default of [`RedirectPolicy`], for which any body compiles.
#[derive(Debug, Clone, Copy, Default)]
pub struct NoBody;

/// What is known of one logical request after its first pass.
#[derive(Clone)]
struct Chain {
    caller: CallersExtensions,
    before: Uri,
    /// A hop was elsewhere.
    has_left: bool,
}

/// What the caller said about the request.
#[derive(Clone)]
struct CallersExtensions {
    is_anonymous: bool,
    credential: Option<Credential>,
    store: Option<CredentialStore>,
    organization: Option<OrganizationId>,
}

impl CallersExtensions {
    fn read(extensions: &Extensions) -> Self {
        let overrides = Overrides::read(extensions);
        Self {
            is_anonymous: overrides.is_anonymous,
            credential: overrides.credential.cloned(),
            store: overrides.store.cloned(),
            organization: overrides.organization.cloned(),
        }
    }

    /// Sets the extensions of a hop: `Anonymous` on every one, the others at the origin.
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
    /// Creates a policy for the stack around this layer.
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
    /// Clones bodies with this function, for the redirects that repeat them; `None` makes the 3xx the answer.
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

    /// The request that the caller made.
    fn first<B>(&self, request: &mut Request<B>) -> Chain {
        if self.relative_uris == RelativeUris::Complete {
            self.origin.complete(request.uri_mut());
        }
        Chain {
            caller: CallersExtensions::read(request.extensions()),
            before: request.uri().clone(),
            has_left: !self.is_ours(request.uri()),
        }
    }

    /// A hop that follows a redirect.
    fn next<B>(&self, mut chain: Chain, request: &mut Request<B>) -> Chain {
        let is_at_origin = self.is_ours(request.uri());
        let is_same_place = match (self.is_ours(&chain.before), is_at_origin) {
            (true, true) => true,
            (false, false) => same_place(&chain.before, request.uri()),
            _ => false,
        };
        chain.has_left |= !is_at_origin;
        chain.before = request.uri().clone();
        if !is_same_place {
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

    fn is_ours(&self, uri: &Uri) -> bool {
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

/// Whether two URIs have the same scheme, host and port.
fn same_place(a: &Uri, b: &Uri) -> bool {
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
