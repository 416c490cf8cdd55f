//! A gateway that calls Anyreach for its own callers. Such a gateway has one of three shapes:
//!
//! | Shape | The layer | Extension of each request |
//! |---|---|---|
//! | one token for many organizations | `new(store)` | the caller's `OrganizationId` |
//! | one key per tenant | `per_request()` | the tenant's `Credential`, which no store renews |
//! | one rotating store per tenant | `per_request()` | the tenant's `CredentialStore` |

use std::{collections::HashMap, sync::Arc, time::Duration};

use axum::body::{Body, HttpBody};
use axum::extract::{Request, State};
use axum::http::header::{AUTHORIZATION, CONTENT_TYPE};
use axum::http::{HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::routing::{any, get};
use axum::{Json, Router};
use bytes::Bytes;
use http_body_util::{BodyExt, Either, Full};
use hyper::body::Incoming;
use hyper_rustls::HttpsConnectorBuilder;
use hyper_util::{client::legacy::Client, rt::TokioExecutor};
use tokio::time::timeout;
use tower::util::BoxCloneSyncService;
use tower::{ServiceBuilder, ServiceExt, timeout::error::Elapsed};
use tower_anyreach::retry::RefreshPolicy;
use tower_anyreach::{AnyreachAuthLayer, BoxError, Credential, CredentialStore, Error};
use tower_anyreach::{OrganizationId, RelativeUris};

/// A body whose length is known and small is kept in memory, so that it can be sent twice. Others are streamed.
pub type Upload = Either<Full<Bytes>, Body>;

/// The largest body that is kept, in bytes.
const SMALL: u64 = 64 * 1024;
/// Limits one attempt, up to the head of its response.
const ATTEMPT: Duration = Duration::from_secs(5);
/// Limits a whole call, including both bodies.
const TOTAL: Duration = Duration::from_secs(15);
const JSON: HeaderValue = HeaderValue::from_static("application/json");

/// The credential and organization with which the gateway calls Anyreach for one of its callers.
#[derive(Clone, Debug)]
pub enum Tenant {
    /// The gateway's token, in this organization.
    Organization(OrganizationId),
    /// The tenant's own key.
    Key(Credential),
    /// The tenant's own key, which rotates.
    Store(CredentialStore),
}

/// The documented stack of layers around a client. Clones share their connections.
pub type Calls = BoxCloneSyncService<http::Request<Upload>, http::Response<Incoming>, Error>;

/// Puts the layers around a client.
#[must_use]
pub fn client(auth: AnyreachAuthLayer) -> Calls {
    let refresh = RefreshPolicy::new().clone_body_with(|body: &Upload| match body {
        Either::Left(bytes) => Some(Either::Left(bytes.clone())),
        // A stream can be read only once, so a 401 to it is not replayed.
        Either::Right(_) => None,
    });
    // Plain http is for tests: the layer sends credentials to the origin alone.
    let tls = HttpsConnectorBuilder::new().with_webpki_roots();
    let connector = tls.https_or_http().enable_http1().build();
    let client = ServiceBuilder::new()
        .retry(refresh)
        .layer(auth.relative_uris(RelativeUris::Complete))
        .timeout(ATTEMPT)
        .service(Client::builder(TokioExecutor::new()).build(connector));
    BoxCloneSyncService::new(client)
}

/// The state that all handlers share.
#[derive(Clone, Debug)]
pub struct Gateway {
    /// The client of Anyreach.
    pub client: Calls,
    /// The stores on which readiness depends.
    pub stores: Vec<CredentialStore>,
    /// The tenants, by the token that each sends to the gateway. Anyreach never receives that token.
    pub tenants: Arc<HashMap<String, Tenant>>,
}

impl Gateway {
    /// Returns the routes: everything under `/core/` is forwarded, and `/readyz` reports readiness.
    pub fn router(self) -> Router {
        let router = Router::new().route("/readyz", get(ready));
        router.route("/core/{*path}", any(forward)).with_state(self)
    }

    /// Builds a new request from the method, path, content type and body of the tenant's. Nothing else is forwarded.
    async fn call(self, tenant: Tenant, request: Request) -> Result<Response, BoxError> {
        let (mut head, body) = request.into_parts();
        let body = match body.size_hint().exact() {
            Some(..=SMALL) => Either::Left(Full::new(body.collect().await?.to_bytes())),
            _ => Either::Right(body),
        };
        let path = head.uri.path_and_query().map_or("/", |path| path.as_str());
        let content_type = head.headers.remove(CONTENT_TYPE).unwrap_or(JSON);
        let request = http::Request::builder().method(head.method).uri(path);
        let request = request.header(CONTENT_TYPE, content_type);
        let request = match tenant {
            Tenant::Organization(organization) => request.extension(organization),
            Tenant::Key(credential) => request.extension(credential),
            Tenant::Store(store) => request.extension(store),
        };
        let request = request.body(body)?;

        let (mut head, body) = self.client.oneshot(request).await?.into_parts();
        let content_type = head.headers.remove(CONTENT_TYPE).unwrap_or(JSON);
        let body = body.collect().await?.to_bytes();
        Ok((head.status, [(CONTENT_TYPE, content_type)], body).into_response())
    }
}

/// Logs a line for each change of the credential. Runs until it is dropped.
pub async fn log_changes(store: CredentialStore) {
    let mut version = store.version();
    loop {
        version = store.changed_since(version).await;
        tracing::info!(version, credential = %store.status().credential(), "credential changed");
    }
}

/// Reports what the stores know already, and fetches nothing.
async fn ready(State(gateway): State<Gateway>) -> Result<(), StatusCode> {
    let mut status = gateway.stores.iter().map(CredentialStore::status);
    let is_ready = status.all(|status| status.failures() == 0 && status.last_denied().is_none());
    let unready = StatusCode::SERVICE_UNAVAILABLE;
    is_ready.then_some(()).ok_or(unready)
}

async fn forward(State(gateway): State<Gateway>, request: Request) -> Response {
    let header = request.headers().get(AUTHORIZATION);
    let token = header.and_then(|value| value.to_str().ok()?.strip_prefix("Bearer "));
    let Some(tenant) = token.and_then(|token| gateway.tenants.get(token).cloned()) else {
        return (StatusCode::UNAUTHORIZED, "unknown token").into_response();
    };
    match timeout(TOTAL, gateway.call(tenant, request)).await {
        Ok(Ok(response)) => response,
        Ok(Err(error)) => error_response(Error::from_boxed(error)),
        Err(_elapsed) => StatusCode::GATEWAY_TIMEOUT.into_response(),
    }
}

/// Gives the tenant a status and a label, and logs the rest. No text of these errors holds a secret.
fn error_response(error: Error) -> Response {
    let status = match &error {
        Error::Forbidden(_) => StatusCode::FORBIDDEN,
        // The gateway's configuration is wrong, or the method is TRACE.
        Error::Refused(_) => StatusCode::INTERNAL_SERVER_ERROR,
        Error::Service(cause) if cause.is::<Elapsed>() => StatusCode::GATEWAY_TIMEOUT,
        // Includes a 401 from Anyreach: as a 401 from the gateway, it would blame the tenant's token.
        _ => StatusCode::BAD_GATEWAY,
    };
    let body = Json(serde_json::json!({ "error": error.label() }));
    tracing::error!("{:#}", anyhow::Error::new(error));
    (status, body).into_response()
}
