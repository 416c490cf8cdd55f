//! Tower middleware that authenticates a client's requests to the Anyreach API.
//!
//! [`AnyreachAuthLayer`] wraps any client that is a `Service<http::Request<B>>`. It attaches
//! `Authorization: Bearer <credential>` and, for personal access tokens, `X-Anyreach-Org:
//! <organization>` to requests that go to Anyreach and to no others, and turns a 401 or 403 into an
//! [`Error`] with the reason, the scopes and the server's text. The credential can change while
//! requests are in flight.
//!
//! This crate is unofficial. It follows Anyreach's public documentation and has never been tested
//! against the live API.
//!
//! | Credential | Form | Organization |
//! |---|---|---|
//! | [`OrganizationApiKey`] | `ak_<id>.<secret>` | bound to the key: no `X-Anyreach-Org` |
//! | [`PersonalAccessToken`] | `pat_...` | named with the token, or by each request |
//!
//! # Examples
//!
//! A client that lists agents, with the credential that the environment names:
//!
//! ```no_run
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! use http_body_util::Empty;
//! use hyper_util::{client::legacy::Client, rt::TokioExecutor};
//! use tower::{Layer, ServiceExt};
//! use tower_anyreach::{AnyreachAuthLayer, CredentialStore, Error};
//!
//! let tls = hyper_rustls::HttpsConnectorBuilder::new()
//!     .with_webpki_roots()
//!     .https_only()
//!     .enable_http1()
//!     .build();
//! let client = Client::builder(TokioExecutor::new()).build(tls);
//! let client = AnyreachAuthLayer::new(CredentialStore::from_env().await?).layer(client);
//!
//! let request = http::Request::get("https://api.anyreach.ai/core/agents")
//!     .body(Empty::<bytes::Bytes>::new())?;
//! match client.oneshot(request).await {
//!     Ok(response) => println!("{}", response.status()),
//!     Err(Error::Forbidden(denial)) => println!("forbidden: {:?}", denial.detail()),
//!     Err(error) => return Err(error.into()),
//! }
//! # Ok(()) }
//! ```
//!
//! One personal access token for several organizations. [`OrganizationId`] is one of the extensions
//! that [override the layer for one request](AnyreachAuthLayer#overrides):
//!
//! ```
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # use {http::Request, tower::{Layer, ServiceExt}};
//! use tower_anyreach::test_util::FakeAnyreach;
//! use tower_anyreach::{AnyreachAuthLayer, OrganizationId, PersonalAccessToken};
//!
//! // In tests, the fake takes the place of an HTTP client.
//! let scopes = [("org_acme", ["agents:read"]), ("org_globex", ["agents:read"])];
//! let anyreach =
//!     FakeAnyreach::builder().personal_access_token("pat_c2VjcmV0", scopes).in_memory();
//! let token = PersonalAccessToken::new("pat_c2VjcmV0")?;
//! let client = AnyreachAuthLayer::new(token).layer(anyreach.service());
//!
//! for organization in ["org_acme", "org_globex"] {
//!     let request = Request::get("https://api.anyreach.ai/core/agents")
//!         .extension(OrganizationId::new(organization)?)
//!         .body(String::new())?;
//!     assert_eq!(client.clone().oneshot(request).await?.status(), 200);
//! }
//! # Ok(()) }
//! ```
//!
//! # Further reading
//!
//! - [`AnyreachAuthLayer`]: the rules of the layer, its options and the overrides for one request.
//! - [`CredentialStore`]: sources, polling and rotation.
//! - [`Error`]: the errors of a call, and how to find one that other layers have wrapped.
//! - Pages: [`clients`] (hyper, reqwest, axum), [`layer_order`], [`cookbook`], [`operations`],
//!   [`migration`], [`without_tower`], [`performance`].
//!
//! # Panics
//!
//! Inside a tokio runtime whose timer is not enabled, waiting for the body of a denial panics, and
//! so do [`CredentialStore::load`], [`Loader::load`] and, with a file or command,
//! [`CredentialStore::from_env`]. `tokio::main` enables the timer. A wait for that body also panics
//! when its runtime has ended.
//!
//! # Security
//!
//! No `Debug`, `Display`, error or event of this crate shows a credential. In logs, a credential
//! appears as its [`CredentialId`]. Server-written text is available from named methods only:
//! [`Denial::detail`], [`Denial::required_scopes`] and [`Refusal::destination`] redact echoes of
//! the credential, while [`Denial::headers`] and [`Denial::body`] return what was sent. The bytes
//! of a credential are wiped when their last holder drops them. The repository's `SECURITY.md`
//! lists what is promised and what is not.
//!
//! # Features
//!
//! Features only add items and change no default, with one exception: with `follow-redirect`, the
//! layer passes a 401 or 403 from another host to which tower-http's `FollowRedirect`, inside it,
//! was redirected.
//!
//! | Feature | Default | Adds |
//! |---|---|---|
//! | `retry` | yes | [`retry::RefreshPolicy`]: replays a request once after a 401 |
//! | `file` | yes | [`source::FileSource`]: credentials from files |
//! | `command` | no | [`source::CommandSource`]: credentials from a command, on Unix |
//! | `follow-redirect` | no | [`follow_redirect::RedirectPolicy`] for tower-http |
//! | `tracing` | no | the [events](#events) below |
//! | `test-util` | no | [`test_util::FakeAnyreach`] and [`test_util::check_stack`], for tests |
//!
//! # Events
//!
//! With feature `tracing`, events have the target `tower_anyreach`. Messages and fields are part of
//! semver. A credential is named by its [`CredentialId`], and `reason` is the `as_str()` of the
//! reason. A successful request emits no event.
//!
//! - `request refused` (`WARN`): `reason`, `credential`, `organization`.
//! - `request denied` (`WARN` for the first 401 of a version, otherwise `DEBUG`): `status`,
//!   `reason`, `credential`, `organization`, `version`, `replayed`.
//! - `credential rotated`, by `rotate`, and `credential refreshed`, by a fetch (`INFO`): `before`,
//!   `credential`, `organization`, `version`.
//! - `credential source failed` (`WARN` for failures 1, 2, 4, 8 and so on in a row, otherwise
//!   `DEBUG`): `reason`, `error`, `credential`, `version`, `failures`. A failed first fetch is an
//!   event only with [`or_start_with`](Loader::or_start_with).
//! - `credential source recovered` (`INFO`): `credential`, `version`, `failures`.
//! - `credential file is world-readable` (`WARN`, once until the mode changes): `path`.
//! - `organization not read: an organization API key is bound to its own` (`WARN`, once for each
//!   store): `variable`.
//!
//! # Scope
//!
//! This crate does not build requests, page through lists or limit rates, and does not create or
//! delete keys. It cannot tell which scopes a credential has. `GET /admin/members/me/scopes` lists
//! those of a member; whether it accepts an API key was not found. A response that lacks fields
//! because of a missing scope is a 200. It has no OAuth flow because none was found in Anyreach's
//! documentation. Anyreach forbids its credentials in browser code, so this crate is for servers.
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
#[cfg(all(
    doc,
    not(doctest),
    feature = "file",
    feature = "follow-redirect",
    feature = "retry",
    feature = "test-util"
))]
#[cfg_attr(docsrs, doc(auto_cfg = false))]
mod pages;
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
#[cfg(all(
    doc,
    not(doctest),
    feature = "file",
    feature = "follow-redirect",
    feature = "retry",
    feature = "test-util"
))]
#[cfg_attr(docsrs, doc(auto_cfg = false))]
#[doc(inline)]
pub use crate::pages::{
    clients, cookbook, layer_order, migration, operations, performance, without_tower,
};
pub use crate::refusal::{Refusal, RefusalReason};
pub use crate::service::AnyreachAuth;
pub use crate::source::{CredentialSource, SourceError, SourceErrorReason};
pub use crate::store::{CredentialStore, Loader, Refreshed, StoreStatus};

/// The README's code, run with the doctests.
#[cfg(all(doctest, feature = "retry", feature = "file"))]
#[doc = include_str!("../README.md")]
struct Readme;
