//! Tower middleware that authenticates a client's requests to the Anyreach API.
//!
//! For services that call Anyreach with hyper, or with any other HTTP client that is a [`tower_service::Service`].
//! [`AnyreachAuthLayer`] wraps that client. It attaches `Authorization: Bearer <credential>` and, for personal access
//! tokens, `X-Anyreach-Org: <organization>` to requests that go to Anyreach and to no others, and turns a 401 or 403
//! into an [`Error`] that keeps what a caller needs. The credential can be replaced while requests are in flight.
//!
//! | Credential | Form | Organization |
//! |---|---|---|
//! | [`OrganizationApiKey`] | `ak_<id>.<secret>` | carried by the key; `X-Anyreach-Org` is never sent with it |
//! | [`PersonalAccessToken`] | `pat_...` | not carried by the token: named for all requests, or by each |
//!
//! # Examples
//!
//! A client that lists agents. It takes its credential from `ANYREACH_TOKEN`, or from `ANYREACH_PAT` and `ANYREACH_ORG_ID`, or from
//! the file or command that the environment names ([`CredentialStore::from_env`]):
//!
//! ```no_run
//! # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! use http_body_util::Empty;
//! use hyper_util::{client::legacy::Client, rt::TokioExecutor};
//! use tower::{Layer, ServiceExt};
//! use tower_anyreach::{AnyreachAuthLayer, CredentialStore, Error};
//!
//! let tls = hyper_rustls::HttpsConnectorBuilder::new().with_webpki_roots().https_only().enable_http1().build();
//! let client = Client::builder(TokioExecutor::new()).build(tls);
//! let client = AnyreachAuthLayer::new(CredentialStore::from_env().await?).layer(client);
//!
//! let request = http::Request::get("https://api.anyreach.ai/core/agents").body(Empty::<bytes::Bytes>::new())?;
//! match client.oneshot(request).await {
//!     Ok(response) => println!("{}", response.status()),
//!     Err(Error::Forbidden(denial)) => println!("forbidden: {:?}", denial.detail()),
//!     Err(error) => return Err(error.into()),
//! }
//! # Ok(()) }
//! ```
//!
//! One personal access token for several organizations, here against the server that feature `test-util` has for
//! tests:
//!
//! ```
//! # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! use http::{Request, StatusCode};
//! use http_body_util::Empty;
//! use hyper_util::{client::legacy::Client, rt::TokioExecutor};
//! use tower::{Layer, ServiceExt};
//! use tower_anyreach::{AnyreachAuthLayer, OrganizationId, PersonalAccessToken, test_util::FakeAnyreach};
//!
//! let anyreach = FakeAnyreach::builder()
//!     .personal_access_token("pat_c2VjcmV0", [("org_acme", ["agents:read"]), ("org_globex", ["agents:read"])])
//!     .start()
//!     .await?;
//! let client = AnyreachAuthLayer::new(PersonalAccessToken::new("pat_c2VjcmV0")?)
//!     .origin(anyreach.origin())
//!     .layer(Client::builder(TokioExecutor::new()).build_http());
//!
//! for organization in ["org_acme", "org_globex"] {
//!     let request = Request::get(anyreach.uri("/core/agents"))
//!         .extension(OrganizationId::try_from(organization)?)
//!         .body(Empty::<bytes::Bytes>::new())?;
//!     assert_eq!(client.clone().oneshot(request).await?.status(), StatusCode::OK);
//! }
//! assert_eq!(anyreach.violations(), []);
//! # Ok(()) }
//! ```
//!
//! # Rules
//!
//! 1. **One origin.** Credentials go to one [`Origin`], by default `https://api.anyreach.ai`, written exactly: in lower case, its
//!    default port written or not. Every request is judged by its own URI, so neither a redirect nor a typo takes a credential
//!    elsewhere.
//! 2. **Other hosts are refused**, unless [`ForeignRequests`] has such requests forwarded without credentials. Other spellings of
//!    the origin's host are refused even then: another case, port or scheme, userinfo, a trailing dot.
//! 3. **The layer owns both headers.** There is one `Authorization`, marked sensitive, and at most one `X-Anyreach-Org`.
//!    [`CallerHeaders`] decides about a caller's own; by default such a request is refused.
//! 4. **Refused means not sent by this attempt.** A refusal comes from the response future, before any I/O. `poll_ready` only
//!    forwards the inner service's readiness.
//! 5. **Extensions override the layer for one request**: an [`OrganizationId`]; a [`Credential`] or a [`CredentialStore`];
//!    [`Anonymous`], which carries no credential and may go anywhere. `Anonymous` comes first, then `Credential`, then
//!    `CredentialStore`, then the layer's own. Extensions are read, not removed, so that a replay has them again.
//! 6. **No other host chooses an authenticated request.** A redirect by another host that may lead to the origin is refused as
//!    [`ForeignRedirect`](RefusalReason::ForeignRedirect), whatever follows redirects.
//! 7. **Only denials are read.** Of a 401 or 403, a bounded part of the body is kept in a [`Denial`]. Any other response passes
//!    through untouched, and so does every response to a request that carried no credential.
//! 8. **Both headers come from one snapshot** of the [`CredentialStore`]: no rotation pairs a new token with an old organization.
//! 9. **Nothing is sent twice** unless [`RefreshPolicy`](retry::RefreshPolicy) is asked to: after a 401, once, and only if another
//!    credential is in force by then.
//!
//! # Errors
//!
//! [`Error`] is one concrete type, whatever the inner service fails with: [`Unauthorized`](Error::Unauthorized) and
//! [`Forbidden`](Error::Forbidden) are Anyreach's answers, [`Refused`](Error::Refused) is this layer's, with a [`RefusalReason`],
//! and [`Service`](Error::Service) is the inner service's failure. Middleware outside may box it: [`Error::from_boxed`] turns it
//! back, and [`Error::find`] looks for it. Parsing has opaque errors of its own, such as [`InvalidCredential`], each with a
//! `reason()`. Every reason has an `as_str()` for metrics.
//!
//! # Panics
//!
//! Waiting for the body of a denial panics inside a tokio runtime whose timer is not enabled, and so do
//! [`CredentialStore::load`] and [`Loader::load`]; `tokio::main` enables it. `test_util::check_stack` panics there and outside of a
//! tokio runtime.
//!
//! # Layer order
//!
//! From the outside in, as tower's `ServiceBuilder` is
//! written: `Trace`, `Timeout` for all attempts, `FollowRedirect`, `Retry` with `RefreshPolicy`, limits and `Buffer`,
//! **`AnyreachAuth`**, `Decompression`, `Timeout` for one attempt, the client.
//!
//! - Inside `Retry`: outside of it, every attempt would repeat the first one's credential. `FollowRedirect` goes outside of
//!   `Retry`, so that a 401 on a later hop replays that hop alone.
//! - Inside `FollowRedirect`: outside of it, the redirect layer would carry our headers along, and it does not know that
//!   `X-Anyreach-Org` must not leave. With [`RedirectPolicy`](follow_redirect::RedirectPolicy), a request's extensions stay with
//!   it along redirects at the origin. tower-http 0.6, and `preserve_extensions(false)` without that
//!   policy, drop them and are not supported.
//! - Inside limits: a refused request does not call the inner service, so a permit taken below would stay with that
//!   handle.
//! - Outside caches and whatever coalesces requests: outside of the layer they see neither token nor organization, and serve one
//!   tenant's response to another.
//! - Outside `Decompression`: inside of it, a compressed denial would hide its `detail`.
//! - Above no client that follows redirects by itself. hyper's does not; reqwest needs `redirect::Policy::none()`.
//!
//! The page [`layer_order`] draws this, and names the test that shows each harm. More pages: [`operations`], the [`cookbook`], a
//! recipe for each task, and [`migration`], for code that sets the headers by other means.
//!
//! # Security
//!
//! No `Debug`, `Display` or error of this crate shows a credential or a text that a server wrote. Such a text is reached by name
//! only: [`detail`](Denial::detail) and [`destination`](Refusal::destination) redact echoes of the credential, while
//! [`headers`](Denial::headers) and [`body`](Denial::body) are as they were sent. [`Error::Service`] holds what the inner service failed with, in its own words. What names a
//! credential in logs is its [`CredentialId`]. The bytes of a credential are wiped when their last holder drops them.
//!
//! Not promised, since no middleware can: anything against code in the same process, a debugger or root; swap,
//! hibernation and core dumps; the copies that hyper, h2 and TLS make while writing; the string that a credential was
//! parsed from, unless it was a `SecretString`, and the environment it stood in; a client that does not verify
//! certificates.
//!
//! # Features
//!
//! Features only add; none changes a default. Without any, the crate still does all that is not named here.
//!
//! | Feature | Default | Adds |
//! |---|---|---|
//! | `retry` | yes | [`retry::RefreshPolicy`]: replays a request once after a 401, for tower's `Retry` |
//! | `file` | yes | [`source::FileSource`]: credentials from files that something else rewrites |
//! | `command` | no | [`source::CommandSource`]: credentials from the command of a secret manager, on Unix |
//! | `follow-redirect` | no | [`follow_redirect::RedirectPolicy`], for tower-http's `FollowRedirect` |
//! | `tracing` | no | [Events](#events) for what is denied, refused, rotated and failing |
//! | `test-util` | no | [`test_util::FakeAnyreach`]: a server on 127.0.0.1 with the documented rules, for tests |
//!
//! # Events
//!
//! With feature `tracing`, and with the target `tower_anyreach`. Messages and fields are part of semver. Fields name credentials by
//! their [`CredentialId`]; no event holds a secret, or a text that a server or a source wrote. `reason` is the `as_str()` of the
//! reason. A request that goes well emits nothing, and a fetch carries no caller's span.
//!
//! | Level | Message | Fields |
//! |---|---|---|
//! | `WARN` | `request refused` | `reason`, `credential`, `organization` |
//! | `WARN` (the first 401 of a version), else `DEBUG` | `request denied` | `status`, `reason`, `credential`, `organization`, `version`, `replayed` |
//! | `INFO` | `credential rotated` (by `rotate`), `credential refreshed` (by a fetch) | `before`, `credential`, `organization`, `version` |
//! | `WARN` (the 1st, 2nd, 4th, 8th ... in a row), else `DEBUG` | `credential source failed` | `reason`, `error`, `credential`, `version`, `failures` |
//! | `INFO` | `credential source recovered` | `credential`, `version`, `failures` |
//! | `WARN` | `credential file is world-readable` (once, until it changes) | `path` |
//! | `WARN` | `organization not read: an organization API key carries its own` (once for each store) | `variable` |
//!
//! # What it does not do
//!
//! It does not build requests, page through lists, limit rates (tower does), check what only the server can, or make
//! and delete keys. There is no OAuth flow, because none was found in Anyreach's pages. It does not see what a credential's scopes
//! are: `GET /admin/members/me/scopes` lists them, and a reply that lacks fields for want of a scope is a 200. It is for servers:
//! Anyreach forbids its credentials in browser code.
#![cfg_attr(docsrs, feature(doc_cfg))]
#![warn(clippy::too_many_lines)]

mod answer;
mod authorize;
mod classify;
mod config;
mod credential;
mod denial;
mod env;
mod error;
mod events;
#[cfg(feature = "follow-redirect")]
pub mod follow_redirect;
pub mod future;
mod layer;
mod organization;
mod origin;
mod redact;
mod refusal;
#[cfg(feature = "retry")]
pub mod retry;
mod service;
pub mod source;
mod store;
mod sync;
#[cfg(feature = "test-util")]
pub mod test_util;
mod wipe;

pub use crate::answer::{Answer, Authorized, UnreadDenial};
pub use crate::authorize::Anonymous;
pub use crate::config::{CallerHeaders, DeniedResponses, ForeignRequests, RelativeUris};
pub use crate::credential::{
    Credential, CredentialId, CredentialKind, InvalidCredential, InvalidCredentialReason,
    OrganizationApiKey, PersonalAccessToken,
};
pub use crate::denial::{Denial, DenialReason};
pub use crate::env::{EnvError, EnvErrorReason};
pub use crate::error::{BoxError, Error};
pub use crate::layer::AnyreachAuthLayer;
pub use crate::organization::{InvalidOrganizationId, InvalidOrganizationIdReason, OrganizationId};
pub use crate::origin::{InvalidOrigin, InvalidOriginReason, Origin};
pub use crate::refusal::{Refusal, RefusalReason};
pub use crate::service::AnyreachAuth;
pub use crate::source::{CredentialSource, SourceError, SourceErrorReason};
pub use crate::store::{CredentialStore, Loader, Refreshed, StoreStatus};

// Pages of the documentation, which are in no build. Their links use all features, so they are rendered with all of
// them. Their code runs as doctests of the package in tests/pages, which depends on what they name.

/// Recipes: tenants, rotation, tests, proxies, uploads, denials and logs.
///
#[doc = include_str!("../docs/cookbook.md")]
///
/// # See also
///
/// [`CredentialStore`], [`FileSource`](crate::source::FileSource), [`RefreshPolicy`](crate::retry::RefreshPolicy),
/// [`FakeAnyreach`](crate::test_util::FakeAnyreach), [`check_stack`](crate::test_util::check_stack), [`Origin::insecure`],
/// [`Anonymous`], [`Denial`], [`Error::find`],
/// [the events](crate#events).
#[cfg(all(
    doc,
    not(doctest),
    feature = "file",
    feature = "retry",
    feature = "test-util",
    feature = "follow-redirect",
    feature = "tracing"
))]
#[cfg_attr(docsrs, doc(auto_cfg = false))]
pub mod cookbook {}

/// The layer around hyper, reqwest and axum: complete programs, with every crate and feature named.
///
#[doc = include_str!("../docs/clients.md")]
///
/// # See also
///
/// [The order of layers](crate::layer_order), [without Tower](crate::without_tower), [`AnyreachAuthLayer`],
/// [`RefreshPolicy`](crate::retry::RefreshPolicy), [`FakeAnyreach`](crate::test_util::FakeAnyreach).
#[cfg(all(doc, not(doctest), feature = "retry", feature = "test-util"))]
#[cfg_attr(docsrs, doc(auto_cfg = false))]
pub mod clients {}

/// Where the layer stands in a stack, and what goes wrong where it does not.
///
#[doc = include_str!("../docs/layer-order.svg")]
///
/// [`AnyreachAuth`], [`RefreshPolicy`](crate::retry::RefreshPolicy), [`check_stack`](crate::test_util::check_stack)
///
/// <!-- What follows is for those who read the file by itself, and ends where this comment does.
#[doc = include_str!("../docs/layer-order.md")]
#[cfg(all(
    doc,
    not(doctest),
    feature = "file",
    feature = "retry",
    feature = "test-util",
    feature = "follow-redirect",
    feature = "tracing"
))]
#[cfg_attr(docsrs, doc(auto_cfg = false))]
pub mod layer_order {}

/// From a header by hand, from tower-http's layers or from reqwest: what to replace by what, and what changes.
///
#[doc = include_str!("../docs/migration.md")]
///
/// # See also
///
/// [`AnyreachAuthLayer`], [`Error`], [`CallerHeaders`], [`ForeignRequests`], [`DeniedResponses`], [`Anonymous`],
/// [`Origin`], [the order of layers](crate::layer_order).
#[cfg(all(
    doc,
    not(doctest),
    feature = "file",
    feature = "retry",
    feature = "test-util",
    feature = "follow-redirect",
    feature = "tracing"
))]
#[cfg_attr(docsrs, doc(auto_cfg = false))]
pub mod migration {}

/// Operations: delivery and intervals, the order of a rotation, failures, readiness, alerts and logs.
///
#[doc = include_str!("../docs/operations.md")]
///
/// # See also
///
/// [`CredentialStore`], [`StoreStatus`], [`Loader`], [`Denial::renewed`], [the events](crate#events).
#[cfg(all(doc, not(doctest)))]
#[cfg_attr(docsrs, doc(auto_cfg = false))]
pub mod operations {}

/// Without Tower: the decision about a request and the reading of its answer, for any other client.
///
#[doc = include_str!("../docs/without-tower.md")]
///
/// # See also
///
/// [`AnyreachAuthLayer::authorize`], [`Authorized::on_response`], [`Answer`], [`UnreadDenial`], [`Denial`], [`Error`].
#[cfg(all(doc, not(doctest)))]
#[cfg_attr(docsrs, doc(auto_cfg = false))]
pub mod without_tower {}

/// The README's code, run with the doctests.
#[cfg(all(doctest, feature = "retry", feature = "file"))]
#[doc = include_str!("../README.md")]
struct Readme;
