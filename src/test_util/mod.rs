//! A fake of the Anyreach API, for tests of code that uses this crate, and a check of the order of
//! layers.
//!
//! | Module | Content |
//! |---|---|
//! | `builder` | the credentials and the hook of a fake, and its start |
//! | `rules` | the decision about one request: the known credentials, their scopes, the endpoints |
//! | `state` | what the fake remembers, the hook, and the bodies of its responses |
//! | `server` | the socket and its tasks |
//! | `service` | the same fake as a service, without a socket |
//! | `record` | received requests and violations, as tests read them |
//! | `stack` | `check_stack` |
//!
//! A request goes through `state::serve`, which asks `rules` and remembers the result, whether it
//! came by the socket or the service.

mod builder;
mod record;
mod rules;
mod server;
mod service;
mod stack;
mod state;

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use http::Uri;

use self::rules::Rights;
use self::server::Server;
use self::state::State;
use crate::origin::Origin;

pub use self::builder::FakeAnyreachBuilder;
pub use self::record::{ReceivedRequest, Rule, Violation};
pub use self::service::FakeService;
pub use self::stack::{StackFinding, StackProbe, check_stack};
pub use self::state::FakeReply;

/// A server on 127.0.0.1 that implements the documented authentication rules of the Anyreach API.
///
/// It accepts HTTP/1.1 and HTTP/2 (prior knowledge) on one port, which the system chooses. It knows
/// the credentials that it was given, and remembers every request that it received. Dropping it
/// closes the port at once, and its connections as soon as the runtime polls their tasks.
///
/// It was written from Anyreach's documentation alone, and has never been compared with the live
/// API.
///
/// # Rules
///
/// Documented by Anyreach:
///
/// 1. A credential is sent as `Authorization: Bearer ...`. A missing, unknown or deleted credential
///    is answered with 401.
/// 2. A `pat_` credential names its organization in `X-Anyreach-Org`. Without it, a call to an
///    organization's endpoint is answered with 401 and `Token is missing organization claim.`
/// 3. An endpoint accepts a list of scopes, and any one of them is enough. Otherwise the response
///    is 403.
/// 4. An error body is `{"detail": ...}`, and under `/mcp/` it is `{"error": ...}`. Under `/mcp/` a
///    missing bearer credential is answered with 401 and `Missing Bearer token`, and an unknown
///    prefix with 401 and `Unrecognized token format. ...`
/// 5. On `/mcp/` a `pat_` credential names its organization in the `organization_id` argument of
///    `call_tool`.
/// 6. A conversation includes its transcript, summary, recording and metadata only with
///    `conversations:read_sensitive`. Their keys are `conversation`, `summary`, `recording_details`
///    and `custom_metadata`.
/// 7. Paths under `/core/public/web-widgets/` need no credential.
///
/// | Request | Any one of these scopes |
/// |---|---|
/// | `GET /admin/members/me/scopes` | none |
/// | `GET /core/agents` | `agents:read`, `agents:manage` |
/// | `POST /core/agents` | `agents:manage` |
/// | `GET /core/conversations/{id}` | `conversations:` with `read`, `read_sensitive` or `manage` |
/// | `POST /mcp/` | none |
///
/// The bodies that this fake sends:
///
/// - Scopes: an array of strings.
/// - The list of agents: `{"data": [agent, ..], "pagination": {"limit": 20, "next_cursor": null}}`.
/// - An agent: `{"id", "name", "organization_id"}`.
/// - A conversation: `{"id", "organization_id", "direction", "agent_id", "channel", "duration",
///   "status"}`, and the four keys of rule 6.
/// - A message to `/mcp/`: `{"jsonrpc": "2.0", "id", "result": {}}`.
/// - A path under `/core/public/web-widgets/`: `{"public": true}`.
/// - An error: `{"detail": text}`; under `/mcp/` `{"error": text}`.
///
/// # Choices
///
/// The following behaviour was chosen because no documentation was found. A test that depends on it
/// proves nothing about Anyreach:
///
/// - Every text of a `detail` or `error`, except those quoted above. A head that is too large for
///   hyper is answered with 414 or 431, and not remembered.
/// - The scheme `Bearer` is accepted in any case, with one space after it. A credential is checked
///   before the path and the method. With a valid one, everything that is not in the table of
///   requests is answered with 404.
/// - A `pat_` credential needs its organization on every path except `/core/public/web-widgets/`.
///   Anyreach documents it for endpoints of an organization; no list of them was found.
/// - A request for an organization of which the user of a `pat_` credential is not a member is
///   answered with 403, without a challenge.
/// - A 403 because of scopes has the challenge of RFC 6750, section 3:
///   `WWW-Authenticate: Bearer error="insufficient_scope", scope="agents:manage"`. A 401 has none.
/// - An API key may request its scopes. The response is an array, without an object around it.
/// - The shape of an agent and of the list of agents, which is that of the documented lists of
///   knowledge bases. All agents are on one page. An organization has one agent at first, and keeps
///   those that were created.
/// - Creating an agent is answered with 200, even without the `name` that Anyreach requires.
/// - The values in a conversation. A conversation of any id exists. Of a body, the first 1 MiB is
///   judged and kept, and at most 64 MiB is read.
/// - On `/mcp/`, an unknown or deleted credential and a missing organization are answered with the
///   status 401 for every message. Anyreach documents only that its edge checks the prefix. It was
///   not found whether a later failure is a status or part of a tool's result, whether tools other
///   than `call_tool` need an organization, and which scope this path needs.
/// - On `/mcp/`, `X-Anyreach-Org` takes precedence over the `organization_id` argument. The result
///   of every message is empty.
/// - Every response under `/core/public/web-widgets/`.
/// - A body that ends too early is answered with 400.
///
/// # Violations
///
/// Some requests are wrong, whatever their response: several `Authorization` headers; several
/// `X-Anyreach-Org` headers, or an empty one; an `X-Anyreach-Org` together with an `ak_`
/// credential, which Anyreach's documentation tells clients never to send. On every path, the fake
/// answers 400 with text that names the rule, and remembers a [`Violation`]. The status is a choice
/// of the fake. [`AnyreachAuth`](crate::AnyreachAuth) sends no such request. A violation shows that
/// another layer sets its own header, or that a client bypasses this one.
///
/// # Examples
///
/// ```
/// use bytes::Bytes;
/// use http::{Request, StatusCode};
/// use http_body_util::Empty;
/// use hyper_util::client::legacy::Client;
/// use hyper_util::rt::TokioExecutor;
/// use tower_anyreach::test_util::FakeAnyreach;
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let anyreach = FakeAnyreach::builder()
///     .api_key("ak_id.secret", "org_acme", ["agents:read"])
///     .start()
///     .await?;
/// let client = Client::builder(TokioExecutor::new()).build_http();
///
/// let request = Request::get(anyreach.uri("/core/agents"))
///     .header("authorization", "Bearer ak_id.secret")
///     .body(Empty::<Bytes>::new())?;
/// let response = client.request(request).await?;
/// assert_eq!(response.status(), StatusCode::OK);
///
/// anyreach.revoke("ak_id.secret");
/// let request = Request::get(anyreach.uri("/core/agents"))
///     .header("authorization", "Bearer ak_id.secret")
///     .body(Empty::<Bytes>::new())?;
/// let response = client.request(request).await?;
/// assert_eq!(response.status(), StatusCode::UNAUTHORIZED);
///
/// assert_eq!(anyreach.received().len(), 2);
/// assert_eq!(anyreach.violations(), []);
/// # Ok(())
/// # }
/// ```
#[must_use = "the server shuts down when this is dropped"]
pub struct FakeAnyreach {
    /// `None` if the fake is in memory only.
    server: Option<Server>,
    state: Arc<Mutex<State>>,
}

impl FakeAnyreach {
    /// Returns a builder for a server that knows no credential yet.
    pub fn builder() -> FakeAnyreachBuilder {
        FakeAnyreachBuilder::new()
    }

    /// Returns the origin of this server, `http://127.0.0.1:PORT`. In memory, returns that of
    /// Anyreach.
    #[must_use]
    pub fn origin(&self) -> Origin {
        match &self.server {
            Some(server) => origin_at(server.port()),
            None => Origin::default(),
        }
    }

    /// Returns a service that answers as this server does, without a socket.
    ///
    /// It replaces the HTTP client below the middleware under test. All services of one fake share
    /// its state.
    ///
    /// # Examples
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// use http::Request;
    /// use tower::{Layer, ServiceExt};
    /// use tower_anyreach::{AnyreachAuthLayer, Error, OrganizationApiKey, test_util::FakeAnyreach};
    ///
    /// let anyreach = FakeAnyreach::builder()
    ///     .api_key("ak_id.secret", "org_acme", ["agents:read"])
    ///     .in_memory();
    /// let key = OrganizationApiKey::new("ak_id.secret")?;
    /// let client = AnyreachAuthLayer::new(key).layer(anyreach.service());
    ///
    /// let request = Request::post(anyreach.uri("/core/agents")).body(String::from("{}"))?;
    /// let Err(Error::Forbidden(denial)) = client.oneshot(request).await else { panic!() };
    /// assert_eq!(denial.required_scopes().collect::<Vec<_>>(), ["agents:manage"]);
    /// assert_eq!(anyreach.received().len(), 1);
    /// # Ok(()) }
    /// ```
    #[must_use]
    pub fn service(&self) -> FakeService {
        FakeService::new(Arc::clone(&self.state))
    }

    /// Returns the absolute URI of a path on this server; the path may have a query.
    ///
    /// # Panics
    ///
    /// Panics if `path` does not start with `/`, has a fragment, or holds a character that a URI
    /// does not allow there.
    #[must_use]
    pub fn uri(&self, path: &str) -> Uri {
        assert!(path.starts_with('/'), "a path starts with `/`");
        let uri = self.origin().uri(path);
        uri.expect("a path holds only what a URI allows")
    }

    /// Returns all requests so far, including those that were denied, in the order in which their
    /// heads arrived.
    #[must_use]
    pub fn received(&self) -> Vec<ReceivedRequest> {
        lock(&self.state).received().to_vec()
    }

    /// Returns the [violations](Self#violations) so far, in the order in which they arrived.
    ///
    /// Most tests end with an assertion that there are none.
    ///
    /// # Examples
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// use http::Request;
    /// use tower::ServiceExt;
    /// use tower_anyreach::test_util::FakeAnyreach;
    ///
    /// let anyreach = FakeAnyreach::builder()
    ///     .api_key("ak_id.secret", "org_acme", ["agents:read"])
    ///     .in_memory();
    /// let service = anyreach.service();
    ///
    /// let request = Request::get(anyreach.uri("/core/agents"))
    ///     .header("authorization", "Bearer ak_id.secret")
    ///     .header("x-anyreach-org", "org_acme")
    ///     .body(String::new())?;
    /// assert_eq!(service.oneshot(request).await?.status(), 400);
    /// assert_eq!(anyreach.violations().len(), 1);
    /// # Ok(()) }
    /// ```
    #[must_use]
    pub fn violations(&self) -> Vec<Violation> {
        lock(&self.state).violations().to_vec()
    }

    /// Adds an organization API key, or replaces the rights of a known one.
    ///
    /// # Panics
    ///
    /// Panics if `key` does not start with `ak_`.
    ///
    /// # Examples
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// use http::Request;
    /// use tower::ServiceExt;
    /// use tower_anyreach::test_util::FakeAnyreach;
    ///
    /// let anyreach = FakeAnyreach::builder()
    ///     .api_key("ak_id.secret", "org_acme", ["agents:read"])
    ///     .in_memory();
    /// let service = anyreach.service();
    ///
    /// let request = || {
    ///     Request::get(anyreach.uri("/core/agents"))
    ///         .header("authorization", "Bearer ak_new.secret")
    ///         .body(String::new())
    /// };
    /// assert_eq!(service.clone().oneshot(request()?).await?.status(), 401);
    ///
    /// anyreach.add_api_key("ak_new.secret", "org_acme", ["agents:read"]);
    /// assert_eq!(service.oneshot(request()?).await?.status(), 200);
    /// # Ok(()) }
    /// ```
    pub fn add_api_key(
        &self,
        key: impl Into<String>,
        org: impl Into<String>,
        scopes: impl IntoIterator<Item = impl Into<String>>,
    ) {
        let rights = Rights::api_key(org, scopes);
        lock(&self.state).accounts_mut().add(key.into(), rights);
    }

    /// Adds a personal access token with the scopes of its user in each organization, or replaces
    /// the rights of a known one.
    ///
    /// # Panics
    ///
    /// Panics if `token` does not start with `pat_`.
    pub fn add_personal_access_token(
        &self,
        token: impl Into<String>,
        organizations: impl IntoIterator<
            Item = (
                impl Into<String>,
                impl IntoIterator<Item = impl Into<String>>,
            ),
        >,
    ) {
        let rights = Rights::personal_access_token(organizations);
        lock(&self.state).accounts_mut().add(token.into(), rights);
    }

    /// Moves the rights of one credential to another in a single step, and returns whether the old
    /// one was known.
    ///
    /// The old one is denied from now on: this is a rotation without overlap. For one with an
    /// overlap, add the new credential, and [revoke](Self::revoke) the old one later.
    ///
    /// # Panics
    ///
    /// Panics if `old` is known and `new` does not have the same prefix.
    ///
    /// # Examples
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// use http::Request;
    /// use tower::ServiceExt;
    /// use tower_anyreach::test_util::FakeAnyreach;
    ///
    /// let anyreach = FakeAnyreach::builder()
    ///     .api_key("ak_id.secret", "org_acme", ["agents:read"])
    ///     .in_memory();
    /// let service = anyreach.service();
    ///
    /// let request = |key| {
    ///     Request::get(anyreach.uri("/core/agents"))
    ///         .header("authorization", format!("Bearer {key}"))
    ///         .body(String::new())
    /// };
    /// assert!(anyreach.rotate("ak_id.secret", "ak_new.secret"));
    /// assert_eq!(service.clone().oneshot(request("ak_id.secret")?).await?.status(), 401);
    /// assert_eq!(service.oneshot(request("ak_new.secret")?).await?.status(), 200);
    /// # Ok(()) }
    /// ```
    pub fn rotate(&self, old: &str, new: impl Into<String>) -> bool {
        let new = new.into();
        lock(&self.state).accounts_mut().rotate(old, new)
    }

    /// Removes a credential, and returns whether it was known. Requests with it are answered with
    /// 401 from now on.
    ///
    /// # Examples
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// use http::Request;
    /// use tower::ServiceExt;
    /// use tower_anyreach::test_util::FakeAnyreach;
    ///
    /// let anyreach = FakeAnyreach::builder()
    ///     .api_key("ak_id.secret", "org_acme", ["agents:read"])
    ///     .in_memory();
    /// let service = anyreach.service();
    ///
    /// let request = || {
    ///     Request::get(anyreach.uri("/core/agents"))
    ///         .header("authorization", "Bearer ak_id.secret")
    ///         .body(String::new())
    /// };
    /// assert_eq!(service.clone().oneshot(request()?).await?.status(), 200);
    ///
    /// assert!(anyreach.revoke("ak_id.secret"));
    /// assert_eq!(service.oneshot(request()?).await?.status(), 401);
    /// # Ok(()) }
    /// ```
    #[allow(clippy::must_use_candidate, reason = "it is called for its effect")]
    pub fn revoke(&self, credential: &str) -> bool {
        lock(&self.state).accounts_mut().revoke(credential)
    }
}

/// Shows the port and the number of credentials, and no credential.
impl fmt::Debug for FakeAnyreach {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = lock(&self.state);
        f.debug_struct("FakeAnyreach")
            .field("port", &self.server.as_ref().map(Server::port))
            .field("credentials", &state.accounts().len())
            .field("received", &state.received().len())
            .field("violations", &state.violations())
            .finish_non_exhaustive()
    }
}

fn origin_at(port: u16) -> Origin {
    format!("http://127.0.0.1:{port}")
        .parse()
        .expect("plain http to a loopback address is an origin")
}

/// Ignores poisoning: a test that panicked on another thread fails by itself.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
