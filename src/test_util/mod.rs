//! `FakeAnyreach`, a server for the tests of those who use this crate.
//!
//! A mock of the HTTP client proves what a mock was told. [`FakeAnyreach`] is reached over a socket, by the client and
//! the middleware that ship, and refuses what the documentation says Anyreach refuses.

mod record;
mod rules;
mod server;
mod service;
mod stack;
mod state;

use std::fmt;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use http::Uri;

use self::rules::{Accounts, Rights};
use self::server::Server;
use self::state::{Hook, State, serve};
use crate::origin::Origin;

pub use self::record::{ReceivedRequest, Rule, Violation};
pub use self::service::FakeService;
pub use self::stack::{StackFinding, StackProbe, check_stack};
pub use self::state::FakeReply;

/// A server on 127.0.0.1 that speaks the documented authentication rules of the Anyreach API.
///
/// It takes HTTP/1.1 and HTTP/2 (prior knowledge) on one port, which the system chooses. It knows the credentials it
/// was given, remembers every request it received, and shuts down when it is dropped: the port is closed at once, the
/// connections are cut as soon as the runtime gets to them.
///
/// # Rules
///
/// As documented by Anyreach:
///
/// 1. A credential is sent as `Authorization: Bearer ...`. Without one, or with one that is unknown or was revoked: 401.
/// 2. A `pat_` credential names its organization in `X-Anyreach-Org`; without it: 401,
///    `Token is missing organization claim.`
/// 3. An endpoint accepts a list of scopes, and any one of them is enough; else 403.
/// 4. An error body is `{"detail": ...}`, under `/mcp/` it is `{"error": ...}`. There, no bearer credential is
///    answered by `Missing Bearer token`, an unknown prefix by `Unrecognized token format. ...`
/// 5. On `/mcp/` the `organization_id` argument of `call_tool` stands in for the header of a `pat_`.
/// 6. A conversation has its transcript, summary, recording and metadata only with `conversations:read_sensitive`. Their keys are
///    `conversation`, `summary`, `recording_details` and `custom_metadata`.
/// 7. What is under `/core/public/web-widgets/` asks for no credential.
///
/// | Request | Any one of these scopes |
/// |---|---|
/// | `GET /admin/members/me/scopes` | none |
/// | `GET /core/agents` | `agents:read`, `agents:manage` |
/// | `POST /core/agents` | `agents:manage` |
/// | `GET /core/conversations/{id}` | `conversations:read`, `conversations:read_sensitive`, `conversations:manage` |
/// | `POST /mcp/` | none |
///
/// A valid credential finds anything else 404.
///
/// | Reply | Its body |
/// |---|---|
/// | scopes | a bare array of strings |
/// | the list of agents | `{"data": [agent, ..], "pagination": {"limit": 20, "next_cursor": null}}` |
/// | an agent | `{"id", "name", "organization_id"}` |
/// | a conversation | `{"id", "organization_id", "direction", "agent_id", "channel", "duration", "status"}`, and the four keys of rule 6 |
/// | a message to `/mcp/` | `{"jsonrpc": "2.0", "id", "result": {}}` |
/// | an error | `{"detail": text}`; under `/mcp/` `{"error": text}` |
///
/// # Where the documentation is silent
///
/// These are choices of the fake. A test that leans on one of them proves nothing about Anyreach:
///
/// - A 403 for want of a scope carries the challenge of RFC 6750, section 3:
///   `WWW-Authenticate: Bearer error="insufficient_scope", scope="agents:manage"`. A 401 carries none.
/// - An organization that the user of a `pat_` is not a member of is answered by 403, without a challenge.
/// - Every text of a `detail` or `error` but those quoted above.
/// - All paths but `/core/public/web-widgets/` ask a `pat_` for its organization, and so does every message to `/mcp/`.
///   The header goes before the `organization_id` argument.
/// - An API key may ask for its scopes, and the reply is a bare array.
/// - That a `pat_` needs its organization everywhere: the documentation says so of endpoints of an organization.
/// - The shape of the list of agents, which is that of the documented lists of knowledge bases, and of an agent; the values in a
///   conversation; the reply of `/mcp/`.
/// - An organization has one agent from the start, and keeps those that were posted; all of them are on one page; a new agent is
///   answered by 200, also without a `name`, which Anyreach requires; a conversation of any id exists.
///
/// # Violations
///
/// Some requests are wrong whatever a server makes of them: several `Authorization` headers; several `X-Anyreach-Org`
/// headers, or an empty one; an `X-Anyreach-Org` beside an `ak_` credential. The fake is strict about those: on every
/// path it answers 400 with a text that names the rule, and it remembers a [`Violation`]. The layer makes none of these; one shows that
/// something beside or below it sets a header of its own, or that a client bypasses it.
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
    /// `None` if it is in memory only.
    server: Option<Server>,
    state: Arc<Mutex<State>>,
}

impl FakeAnyreach {
    /// Begins a server that knows no credential yet.
    ///
    /// # Examples
    ///
    /// ```
    /// use tower_anyreach::test_util::FakeAnyreach;
    ///
    /// let anyreach = FakeAnyreach::builder().api_key("ak_id.secret", "org_acme", ["agents:read"]).in_memory();
    /// assert_eq!(anyreach.received().len(), 0);
    /// ```
    pub fn builder() -> FakeAnyreachBuilder {
        FakeAnyreachBuilder {
            accounts: Accounts::default(),
            hook: None,
        }
    }

    /// Returns the origin of this server, `http://127.0.0.1:PORT`; in memory, that of Anyreach.
    ///
    /// # Examples
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// use tower_anyreach::{AnyreachAuthLayer, OrganizationApiKey, Origin, test_util::FakeAnyreach};
    ///
    /// let anyreach = FakeAnyreach::builder().start().await?;
    /// let layer = AnyreachAuthLayer::new(OrganizationApiKey::new("ak_id.secret")?).origin(anyreach.origin());
    /// # let _ = layer;
    /// assert!(anyreach.origin().to_string().starts_with("http://127.0.0.1:"));
    /// assert_eq!(FakeAnyreach::builder().in_memory().origin(), Origin::default());
    /// # Ok(()) }
    /// ```
    #[must_use]
    pub fn origin(&self) -> Origin {
        match &self.server {
            Some(server) => origin_at(server.port()),
            None => Origin::default(),
        }
    }

    /// Returns a service that answers as this server does, without a socket; all of them share what it remembers.
    ///
    /// It takes the place of the HTTP client below the middleware that is under test.
    ///
    /// # Examples
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// use http::Request;
    /// use tower::{Layer, ServiceExt};
    /// use tower_anyreach::{AnyreachAuthLayer, Error, OrganizationApiKey, test_util::FakeAnyreach};
    ///
    /// let anyreach = FakeAnyreach::builder().api_key("ak_id.secret", "org_acme", ["agents:read"]).in_memory();
    /// let client = AnyreachAuthLayer::new(OrganizationApiKey::new("ak_id.secret")?).layer(anyreach.service());
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
    /// If `path` does not start with `/`, or holds a character that a URI does not allow there.
    ///
    /// # Examples
    ///
    /// ```
    /// use tower_anyreach::test_util::FakeAnyreach;
    ///
    /// let anyreach = FakeAnyreach::builder().in_memory();
    /// assert_eq!(anyreach.uri("/core/agents?page=2"), "https://api.anyreach.ai/core/agents?page=2");
    /// ```
    #[must_use]
    pub fn uri(&self, path: &str) -> Uri {
        assert!(path.starts_with('/'), "a path starts with `/`");
        format!("{}{path}", self.origin())
            .parse()
            .expect("a path holds only what a URI allows")
    }

    /// Returns all requests so far, those that were refused included, in the order their heads arrived.
    ///
    /// # Examples
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// use http::Request;
    /// use tower::ServiceExt;
    /// use tower_anyreach::test_util::FakeAnyreach;
    ///
    /// let anyreach = FakeAnyreach::builder().api_key("ak_id.secret", "org_acme", ["agents:read"]).in_memory();
    /// let service = anyreach.service();
    ///
    /// service.oneshot(Request::get(anyreach.uri("/core/agents")).body(String::new())?).await?;
    ///
    /// let [request] = &anyreach.received()[..] else { panic!() };
    /// assert_eq!(request.status(), 401);
    /// # Ok(()) }
    /// ```
    #[must_use]
    pub fn received(&self) -> Vec<ReceivedRequest> {
        lock(&self.state).received().to_vec()
    }

    /// Returns what no request should have had, in the order it arrived; most tests end by asserting that it is empty.
    ///
    /// # Examples
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// use http::Request;
    /// use tower::ServiceExt;
    /// use tower_anyreach::test_util::FakeAnyreach;
    ///
    /// let anyreach = FakeAnyreach::builder().api_key("ak_id.secret", "org_acme", ["agents:read"]).in_memory();
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

    /// Makes an organization API key known from now on; if it is known already, its rights are replaced.
    ///
    /// # Panics
    ///
    /// If `key` does not start with `ak_`.
    ///
    /// # Examples
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// use http::Request;
    /// use tower::ServiceExt;
    /// use tower_anyreach::test_util::FakeAnyreach;
    ///
    /// let anyreach = FakeAnyreach::builder().api_key("ak_id.secret", "org_acme", ["agents:read"]).in_memory();
    /// let service = anyreach.service();
    ///
    /// let request = || Request::get(anyreach.uri("/core/agents")).header("authorization", "Bearer ak_new.secret").body(String::new());
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

    /// Makes a personal access token known from now on, with the scopes its user has in each organization; if it is known
    /// already, its rights are replaced.
    ///
    /// # Panics
    ///
    /// If `token` does not start with `pat_`.
    ///
    /// # Examples
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// use http::Request;
    /// use tower::ServiceExt;
    /// use tower_anyreach::test_util::FakeAnyreach;
    ///
    /// let anyreach = FakeAnyreach::builder().api_key("ak_id.secret", "org_acme", ["agents:read"]).in_memory();
    /// let service = anyreach.service();
    ///
    /// let request = || {
    ///     Request::get(anyreach.uri("/core/agents"))
    ///         .header("authorization", "Bearer pat_new")
    ///         .header("x-anyreach-org", "org_acme")
    ///         .body(String::new())
    /// };
    /// assert_eq!(service.clone().oneshot(request()?).await?.status(), 401);
    ///
    /// anyreach.add_personal_access_token("pat_new", [("org_acme", ["agents:read"])]);
    /// assert_eq!(service.oneshot(request()?).await?.status(), 200);
    /// # Ok(()) }
    /// ```
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

    /// Gives the rights of one credential to another in a single step, and returns whether the old one was known.
    ///
    /// The old one is refused from now on. At Anyreach both are good until the old one is deleted: for that, add the new
    /// one, and [revoke](Self::revoke) the old one later.
    ///
    /// # Panics
    ///
    /// If `old` is known and `new` is not of the same kind, by its prefix.
    ///
    /// # Examples
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// use http::Request;
    /// use tower::ServiceExt;
    /// use tower_anyreach::test_util::FakeAnyreach;
    ///
    /// let anyreach = FakeAnyreach::builder().api_key("ak_id.secret", "org_acme", ["agents:read"]).in_memory();
    /// let service = anyreach.service();
    ///
    /// let request = |key| Request::get(anyreach.uri("/core/agents")).header("authorization", format!("Bearer {key}")).body(String::new());
    /// assert!(anyreach.rotate("ak_id.secret", "ak_new.secret"));
    /// assert_eq!(service.clone().oneshot(request("ak_id.secret")?).await?.status(), 401);
    /// assert_eq!(service.oneshot(request("ak_new.secret")?).await?.status(), 200);
    /// # Ok(()) }
    /// ```
    pub fn rotate(&self, old: &str, new: impl Into<String>) -> bool {
        let new = new.into();
        lock(&self.state).accounts_mut().rotate(old, new)
    }

    /// Refuses a credential from now on, and returns whether it was known.
    ///
    /// # Examples
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// use http::Request;
    /// use tower::ServiceExt;
    /// use tower_anyreach::test_util::FakeAnyreach;
    ///
    /// let anyreach = FakeAnyreach::builder().api_key("ak_id.secret", "org_acme", ["agents:read"]).in_memory();
    /// let service = anyreach.service();
    ///
    /// let request = || Request::get(anyreach.uri("/core/agents")).header("authorization", "Bearer ak_id.secret").body(String::new());
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

/// Shows the port and how much there is, no credential.
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

/// Collects the credentials that a [`FakeAnyreach`] knows from its start.
///
/// # Examples
///
/// ```
/// use tower_anyreach::test_util::FakeAnyreach;
///
/// let builder = FakeAnyreach::builder()
///     .api_key("ak_id.secret", "org_acme", ["agents:read"])
///     .personal_access_token("pat_secret", [("org_acme", ["agents:manage"])]);
/// assert!(!format!("{builder:?}").contains("secret"));
/// ```
#[must_use = "no server runs before `start`"]
pub struct FakeAnyreachBuilder {
    accounts: Accounts,
    hook: Option<Hook>,
}

impl FakeAnyreachBuilder {
    /// Makes an organization API key known, with the organization it is bound to and the scopes it has there.
    ///
    /// # Panics
    ///
    /// If `key` does not start with `ak_`.
    ///
    /// # Examples
    ///
    /// ```
    /// use tower_anyreach::test_util::FakeAnyreach;
    ///
    /// let anyreach = FakeAnyreach::builder().api_key("ak_id.secret", "org_acme", ["agents:read", "agents:manage"]).in_memory();
    /// assert!(anyreach.revoke("ak_id.secret"));
    /// ```
    pub fn api_key(
        mut self,
        key: impl Into<String>,
        org: impl Into<String>,
        scopes: impl IntoIterator<Item = impl Into<String>>,
    ) -> Self {
        self.accounts.add(key.into(), Rights::api_key(org, scopes));
        self
    }

    /// Makes a personal access token known, with the organizations of its user and the scopes the user has in each.
    ///
    /// # Panics
    ///
    /// If `token` does not start with `pat_`.
    ///
    /// # Examples
    ///
    /// ```
    /// use tower_anyreach::test_util::FakeAnyreach;
    ///
    /// let anyreach = FakeAnyreach::builder()
    ///     .personal_access_token("pat_secret", [("org_acme", vec!["agents:manage"]), ("org_other", vec![])])
    ///     .in_memory();
    /// assert!(anyreach.revoke("pat_secret"));
    /// ```
    pub fn personal_access_token(
        mut self,
        token: impl Into<String>,
        organizations: impl IntoIterator<
            Item = (
                impl Into<String>,
                impl IntoIterator<Item = impl Into<String>>,
            ),
        >,
    ) -> Self {
        let rights = Rights::personal_access_token(organizations);
        self.accounts.add(token.into(), rights);
        self
    }

    /// Asks this hook about each request, once its body was read, before the fake answers it.
    ///
    /// It answers what the rules do not: a 429 with `Retry-After`, a 503, nothing at all, anything after a delay. The request is
    /// recorded, and judged for [violations](FakeAnyreach::violations), as without a hook; its [`status`](ReceivedRequest::status) is
    /// that of the answer. A later hook replaces an earlier one.
    ///
    /// # Examples
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// use std::sync::atomic::{AtomicBool, Ordering};
    /// use bytes::Bytes;
    /// use http::{Request, Response};
    /// use tower::ServiceExt;
    /// use tower_anyreach::test_util::{FakeAnyreach, FakeReply};
    ///
    /// // Overloaded at first.
    /// let is_first = AtomicBool::new(true);
    /// let anyreach = FakeAnyreach::builder()
    ///     .answer_with(move |_request| {
    ///         let is_first = is_first.swap(false, Ordering::Relaxed);
    ///         async move {
    ///             if !is_first {
    ///                 return FakeReply::Usual;
    ///             }
    ///             let response = Response::builder().status(503).header("retry-after", "1");
    ///             FakeReply::Instead(response.body(Bytes::new()).unwrap())
    ///         }
    ///     })
    ///     .in_memory();
    ///
    /// for expected in [503, 401] {
    ///     let request = Request::get(anyreach.uri("/core/agents")).body(String::new())?;
    ///     assert_eq!(anyreach.service().oneshot(request).await?.status(), expected);
    /// }
    /// # Ok(()) }
    /// ```
    pub fn answer_with<F, Fut>(mut self, hook: F) -> Self
    where
        F: Fn(ReceivedRequest) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = FakeReply> + Send + 'static,
    {
        self.hook = Some(Arc::new(move |request| Box::pin(hook(request))));
        self
    }

    /// Starts the server on a free port of 127.0.0.1; when this returns, it takes connections.
    ///
    /// # Errors
    ///
    /// If the system has no port to give.
    ///
    /// # Panics
    ///
    /// Outside of a tokio runtime, or in one without I/O.
    ///
    /// # Examples
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// use tower_anyreach::test_util::FakeAnyreach;
    ///
    /// let anyreach = FakeAnyreach::builder().start().await?;
    /// let port = anyreach.uri("/").port_u16().unwrap();
    /// assert!(tokio::net::TcpStream::connect(("127.0.0.1", port)).await.is_ok());
    /// # Ok(()) }
    /// ```
    pub async fn start(self) -> io::Result<FakeAnyreach> {
        let state = Arc::new(Mutex::new(State::new(self.accounts, self.hook)));
        let server = Server::start({
            let state = Arc::clone(&state);
            move |request| serve(Arc::clone(&state), request)
        })
        .await?;
        Ok(FakeAnyreach {
            server: Some(server),
            state,
        })
    }

    /// Returns one that opens no port: it is reached through its [`service`](FakeAnyreach::service) only, and its origin
    /// is `https://api.anyreach.ai`, so that what is tested needs no other configuration than in production.
    ///
    /// # Examples
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// use http::Request;
    /// use tower::ServiceExt;
    /// use tower_anyreach::test_util::FakeAnyreach;
    ///
    /// let anyreach = FakeAnyreach::builder().api_key("ak_id.secret", "org_acme", ["agents:read"]).in_memory();
    /// let service = anyreach.service();
    ///
    /// let request = Request::get(anyreach.uri("/core/public/web-widgets/4711")).body(String::new())?;
    /// assert_ne!(service.oneshot(request).await?.status(), 401);
    /// # Ok(()) }
    /// ```
    pub fn in_memory(self) -> FakeAnyreach {
        FakeAnyreach {
            server: None,
            state: Arc::new(Mutex::new(State::new(self.accounts, self.hook))),
        }
    }
}

/// Shows how many credentials there are, none of them.
impl fmt::Debug for FakeAnyreachBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FakeAnyreachBuilder")
            .field("credentials", &self.accounts.len())
            .finish_non_exhaustive()
    }
}

fn origin_at(port: u16) -> Origin {
    format!("http://127.0.0.1:{port}")
        .parse()
        .expect("plain http to a loopback address is an origin")
}

/// A test that panicked elsewhere has its say by itself; the server goes on.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
