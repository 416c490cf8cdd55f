//! One replay for a request and all its copies.

use std::convert::Infallible;
use std::future::{Ready, ready};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use http::{Request, Response, StatusCode};
use tower::retry::Policy;
use tower::{ServiceBuilder, ServiceExt, service_fn};
use tower_anyreach::retry::{LogicalRequest, RefreshPolicy};
use tower_anyreach::{AnyreachAuthLayer, Credential, CredentialStore, Error};

/// Sends a request once more after any error: an ordinary policy, outside.
#[derive(Clone)]
struct OnceMore(bool);

impl Policy<Request<String>, Response<String>, Error> for OnceMore {
    type Future = Ready<()>;

    fn retry(
        &mut self,
        _: &mut Request<String>,
        result: &mut Result<Response<String>, Error>,
    ) -> Option<Ready<()>> {
        (result.is_err() && !std::mem::replace(&mut self.0, true)).then(|| ready(()))
    }

    fn clone_request(&mut self, request: &Request<String>) -> Option<Request<String>> {
        Some(request.clone())
    }
}

/// How often a request is sent that is refused every time, while the source has another key every time.
async fn attempts(request: Request<String>) -> u32 {
    let fetched = AtomicU32::new(0);
    let store = CredentialStore::load(move || {
        let number = fetched.fetch_add(1, Ordering::Relaxed);
        async move { Ok(Credential::parse(format!("ak_{number}.secret"))?) }
    })
    .await
    .unwrap();
    let attempts = Arc::new(AtomicU32::new(0));
    let counted = Arc::clone(&attempts);
    let client = ServiceBuilder::new()
        .retry(OnceMore(false))
        .retry(RefreshPolicy::new(store.clone()))
        .layer(AnyreachAuthLayer::new(store))
        .service(service_fn(move |_: Request<String>| {
            counted.fetch_add(1, Ordering::Relaxed);
            let mut response = Response::new(r#"{"detail": "no"}"#.to_owned());
            *response.status_mut() = StatusCode::UNAUTHORIZED;
            ready(Ok::<_, Infallible>(response))
        }));
    assert!(client.oneshot(request).await.unwrap_err().is_unauthorized());
    attempts.load(Ordering::Relaxed)
}

fn request() -> Request<String> {
    Request::get("https://api.anyreach.ai/core/agents")
        .body(String::new())
        .unwrap()
}

#[tokio::test]
async fn a_logical_request_is_replayed_once_under_an_outer_retry() {
    let mut logical = request();
    logical.extensions_mut().insert(LogicalRequest::new());
    // Sent, replayed, and sent once more by the outer policy.
    assert_eq!(attempts(logical).await, 3);
    // Without the marker each copy of the outer policy has a replay of its own.
    assert_eq!(attempts(request()).await, 4);
}
