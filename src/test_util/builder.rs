//! The builder of [`FakeAnyreach`].

use std::fmt;
use std::io;
use std::sync::{Arc, Mutex};

use super::rules::{Accounts, Rights};
use super::server::Server;
use super::state::{Hook, State, serve};
use super::{FakeAnyreach, FakeReply, ReceivedRequest};

/// Builds a [`FakeAnyreach`] with its first credentials.
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
    pub(super) fn new() -> Self {
        Self {
            accounts: Accounts::default(),
            hook: None,
        }
    }

    /// Adds an organization API key, with its organization and its scopes there.
    ///
    /// # Panics
    ///
    /// Panics if `key` does not start with `ak_`.
    ///
    /// # Examples
    ///
    /// ```
    /// use tower_anyreach::test_util::FakeAnyreach;
    ///
    /// let anyreach = FakeAnyreach::builder()
    ///     .api_key("ak_id.secret", "org_acme", ["agents:read", "agents:manage"])
    ///     .in_memory();
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

    /// Adds a personal access token, with the organizations of its user and the user's scopes in
    /// each.
    ///
    /// # Panics
    ///
    /// Panics if `token` does not start with `pat_`.
    ///
    /// # Examples
    ///
    /// ```
    /// use tower_anyreach::test_util::FakeAnyreach;
    ///
    /// let anyreach = FakeAnyreach::builder()
    ///     .personal_access_token(
    ///         "pat_secret",
    ///         [("org_acme", vec!["agents:manage"]), ("org_other", vec![])],
    ///     )
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

    /// Sets the hook that is called with each request, after its body has been read and before the
    /// fake answers it. A hook that captures state is a closure that returns an `async` block, as
    /// in the example.
    ///
    /// The hook can answer in the fake's place: with a 429 and `Retry-After`, with a 503, after a
    /// delay, or by closing the connection. The request is recorded, and checked for
    /// [violations](FakeAnyreach::violations), as without a hook. Its
    /// [`status`](ReceivedRequest::status) is that of the hook's response. A later hook replaces an
    /// earlier one.
    ///
    /// # Examples
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
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

    /// Starts the server on a free port of 127.0.0.1. It accepts connections when this returns.
    ///
    /// # Errors
    ///
    /// Returns an error if the system has no free port.
    ///
    /// # Panics
    ///
    /// Panics outside a tokio runtime whose I/O is enabled.
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

    /// Returns a fake without a port.
    ///
    /// Requests reach it through its [`service`](FakeAnyreach::service) alone. Its origin is
    /// `https://api.anyreach.ai`, so that the code under test needs the same configuration as in
    /// production.
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
    /// let widget = anyreach.uri("/core/public/web-widgets/4711");
    /// let request = Request::get(widget).body(String::new())?;
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

/// Shows the number of credentials, and no credential.
impl fmt::Debug for FakeAnyreachBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FakeAnyreachBuilder")
            .field("credentials", &self.accounts.len())
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::future::ready;
    use std::sync::OnceLock;
    use std::time::Duration;

    use http::{Request, Response};
    use http_body_util::BodyExt;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpStream;
    use tower::ServiceExt;

    use super::*;

    #[test]
    fn a_hook_may_ask_the_fake_before_it_returns_its_future() {
        static FAKE: OnceLock<FakeAnyreach> = OnceLock::new();
        let hook = |_| {
            let received = FAKE.get().map(|fake| fake.received().len());
            ready(FakeReply::Instead(Response::new(
                format!("{received:?}").into(),
            )))
        };
        let fake = FAKE.get_or_init(|| FakeAnyreach::builder().answer_with(hook).in_memory());
        let request = Request::get(fake.uri("/core/agents")).body(String::new());
        let answer = fake.service().oneshot(request.expect("a request"));
        let answer = support::runtime::without_runtime(answer).expect("an answer");
        let body = support::runtime::without_runtime(answer.into_body().collect());
        assert_eq!(body.expect("bytes").to_bytes(), "Some(1)");
    }

    #[test]
    fn a_client_that_closes_its_half_gets_a_delayed_answer() {
        let answer = support::runtime::current_thread().block_on(async {
            let delayed = |_| async {
                tokio::time::sleep(Duration::from_millis(50)).await;
                FakeReply::Usual
            };
            let fake = FakeAnyreach::builder().answer_with(delayed).start().await?;
            let port = fake.uri("/").port_u16().unwrap_or_default();
            let mut client = TcpStream::connect(("127.0.0.1", port)).await?;
            client
                .write_all(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n")
                .await?;
            client.shutdown().await?;
            let mut answer = String::new();
            client.read_to_string(&mut answer).await?;
            io::Result::Ok(answer)
        });
        assert!(answer.is_ok_and(|answer| answer.starts_with("HTTP/1.1 401")));
    }

    #[test]
    #[should_panic(expected = "there is no reactor running")]
    fn start_panics_outside_of_a_runtime() {
        let started = support::runtime::without_runtime(FakeAnyreach::builder().start());
        unreachable!("{started:?}");
    }
}
