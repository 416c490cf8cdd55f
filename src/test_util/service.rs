//! The fake as a service, for tests without sockets.

use std::fmt;
use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};

use bytes::Bytes;
use http::{Request, Response};
use http_body::Body;
use http_body_util::Full;
use tower_service::Service;

use super::state::{State, serve};

/// A [`FakeAnyreach`](super::FakeAnyreach) in place of an HTTP client, from
/// [`FakeAnyreach::service`](super::FakeAnyreach::service).
///
/// It is always ready, accepts any body, and answers after it has read the body. It fails only if a
/// hook [hangs up](super::FakeReply::HangUp). It keeps working after the `FakeAnyreach` is dropped.
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
/// let request = Request::get("https://api.anyreach.ai/core/agents")
///     .header("authorization", "Bearer ak_id.secret")
///     .body(String::new())?;
/// assert_eq!(service.oneshot(request).await?.status(), 200);
/// # Ok(()) }
/// ```
#[derive(Clone)]
pub struct FakeService {
    state: Arc<Mutex<State>>,
}

impl FakeService {
    pub(super) fn new(state: Arc<Mutex<State>>) -> Self {
        Self { state }
    }
}

impl<B> Service<Request<B>> for FakeService
where
    B: Body + Send + 'static,
    B::Data: Send,
    B::Error: Send,
{
    type Response = Response<Full<Bytes>>;
    type Error = io::Error;
    type Future = Pin<Box<dyn Future<Output = io::Result<Self::Response>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let state = Arc::clone(&self.state);
        Box::pin(serve(state, request))
    }
}

impl fmt::Debug for FakeService {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FakeService").finish_non_exhaustive()
    }
}
