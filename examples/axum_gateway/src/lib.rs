//! A gateway that calls Anyreach for its own callers, in the three shapes that gateways have:
//!
//! | shape | the layer | what each request brings |
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
use tower::timeout::error::Elapsed;
use tower::util::BoxCloneSyncService;
use tower::{ServiceBuilder, ServiceExt};
use tower_anyreach::retry::RefreshPolicy;
use tower_anyreach::{AnyreachAuthLayer, BoxError, Credential, CredentialStore, Error};
use tower_anyreach::{OrganizationId, Origin};

/// Small bodies are kept, so that they can be sent twice. Others stream through.
type Upload = Either<Full<Bytes>, Body>;

/// In bytes.
const SMALL: u64 = 64 * 1024;
/// Of one attempt, and of a whole call, the body of the response included.
const ATTEMPT: Duration = Duration::from_secs(5);
const TOTAL: Duration = Duration::from_secs(15);
const JSON: HeaderValue = HeaderValue::from_static("application/json");

/// What a caller of the gateway calls Anyreach with.
#[derive(Clone, Debug)]
pub enum Tenant {
    /// The gateway's token, in this organization.
    Organization(OrganizationId),
    /// A key of its own.
    Key(Credential),
    /// A key of its own that rotates.
    Store(CredentialStore),
}

/// Shared by all handlers; clones use the same connections.
#[derive(Clone, Debug)]
pub struct Gateway {
    client: BoxCloneSyncService<http::Request<Upload>, http::Response<Incoming>, Error>,
    origin: Origin,
    stores: Vec<CredentialStore>,
    /// By the token that a tenant shows to the gateway, and Anyreach never sees.
    tenants: Arc<HashMap<String, Tenant>>,
}

impl Gateway {
    /// Creates a gateway with this layer for the origin, and the stores that its readiness depends on.
    #[must_use]
    pub fn new(
        auth: AnyreachAuthLayer,
        origin: Origin,
        stores: Vec<CredentialStore>,
        tenants: HashMap<String, Tenant>,
    ) -> Self {
        let refresh = RefreshPolicy::new().clone_body_with(|body: &Upload| match body {
            Either::Left(bytes) => Some(Either::Left(bytes.clone())),
            Either::Right(_) => None,
        });
        // Plain http is for tests: the layer sends credentials to the origin alone.
        let tls = HttpsConnectorBuilder::new().with_webpki_roots();
        let connector = tls.https_or_http().enable_http1().build();
        let client = ServiceBuilder::new()
            .retry(refresh)
            .layer(auth.origin(origin.clone()))
            .timeout(ATTEMPT)
            .service(Client::builder(TokioExecutor::new()).build(connector));
        Self {
            client: BoxCloneSyncService::new(client),
            origin,
            stores,
            tenants: Arc::new(tenants),
        }
    }

    /// The gateway's routes: whatever Anyreach has under `/core/`, and whether the gateway is ready.
    pub fn router(self) -> Router {
        let router = Router::new().route("/readyz", get(ready));
        router.route("/core/{*path}", any(forward)).with_state(self)
    }

    /// Logs a line for each change of a credential, until it is dropped.
    pub async fn log_changes(self) {
        let each = self.stores.into_iter().map(async |store| {
            let mut version = store.version();
            loop {
                version = store.changed_since(version).await;
                tracing::info!(version, credential = %store.status().credential(), "credential changed");
            }
        });
        futures_util::future::join_all(each).await;
    }

    /// The request is made anew: of what the tenant sent, only method, path, content type and body are in it.
    async fn call(self, tenant: Tenant, request: Request) -> Result<Response, Error> {
        let (mut head, body) = request.into_parts();
        let body = match body.size_hint().exact() {
            Some(..=SMALL) => {
                let bytes = body.collect().await.map_err(broken)?.to_bytes();
                Either::Left(Full::new(bytes))
            }
            _ => Either::Right(body),
        };
        let path = head.uri.path_and_query().map_or("/", |path| path.as_str());
        let uri = self.origin.uri(path).map_err(broken)?;
        let content_type = head.headers.remove(CONTENT_TYPE).unwrap_or(JSON);
        let request = http::Request::builder().method(head.method).uri(uri);
        let mut request = request.header(CONTENT_TYPE, content_type);
        request = match tenant {
            Tenant::Organization(organization) => request.extension(organization),
            Tenant::Key(credential) => request.extension(credential),
            Tenant::Store(store) => request.extension(store),
        };
        let request = request.body(body).map_err(broken)?;

        let (mut head, body) = self.client.oneshot(request).await?.into_parts();
        let body = body.collect().await.map_err(broken)?.to_bytes();
        let content_type = head.headers.remove(CONTENT_TYPE).unwrap_or(JSON);
        Ok((head.status, [(CONTENT_TYPE, content_type)], body).into_response())
    }
}

/// Asks no source: what is known of each is enough.
async fn ready(State(gateway): State<Gateway>) -> Result<(), StatusCode> {
    let mut status = gateway.stores.iter().map(CredentialStore::status);
    let is_ready = status.all(|status| status.failures() == 0 && status.last_denied().is_none());
    let unready = StatusCode::SERVICE_UNAVAILABLE;
    is_ready.then_some(()).ok_or(unready)
}

async fn forward(State(gateway): State<Gateway>, request: Request) -> Response {
    let shown = request.headers().get(AUTHORIZATION);
    let token = shown.and_then(|value| value.to_str().ok()?.strip_prefix("Bearer "));
    let Some(tenant) = token.and_then(|token| gateway.tenants.get(token).cloned()) else {
        return (StatusCode::UNAUTHORIZED, "who are you?").into_response();
    };
    match timeout(TOTAL, gateway.call(tenant, request)).await {
        Ok(outcome) => outcome.unwrap_or_else(failure),
        Err(_elapsed) => (StatusCode::GATEWAY_TIMEOUT, "Anyreach takes too long").into_response(),
    }
}

/// A tenant learns what it may know, the log the rest: no text of these errors holds a secret.
fn failure(error: Error) -> Response {
    let status = match &error {
        Error::Forbidden(_) => StatusCode::FORBIDDEN,
        // The gateway's configuration, or a key that it was given: a 401 would blame the tenant's token for the gateway.
        Error::Refused(_) => StatusCode::INTERNAL_SERVER_ERROR,
        Error::Service(cause) if cause.is::<Elapsed>() => StatusCode::GATEWAY_TIMEOUT,
        _ => StatusCode::BAD_GATEWAY,
    };
    let answer = Json(serde_json::json!({ "error": error.label() }));
    tracing::error!("{:#}", anyhow::Error::new(error));
    (status, answer).into_response()
}

fn broken(error: impl Into<BoxError>) -> Error {
    Error::Service(error.into())
}
