//! An axum server that calls Anyreach for its tenants, through one client that has no credential of its own.
//! Each request brings its tenant's: an API key of the tenant's, or the token that is shared and the tenant's organization.
//! It runs against `FakeAnyreach`, is called as tenants would, and shuts down. Run it as `cargo run -p axum_gateway`.
#![allow(
    clippy::print_stdout,
    reason = "an example shows what it does on the terminal"
)]

use std::collections::HashMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, ensure};
use axum::body::Body;
use axum::extract::{FromRequestParts, State};
use axum::http::header::{AUTHORIZATION, CONTENT_TYPE, WWW_AUTHENTICATE};
use axum::http::request::Parts;
use axum::http::{HeaderValue, Method, Request, StatusCode, Uri};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};
use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper_util::client::legacy::{Client, connect::HttpConnector};
use hyper_util::rt::TokioExecutor;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};
use tower::timeout::{Timeout, TimeoutLayer};
use tower::{ServiceBuilder, ServiceExt};
use tower_anyreach::test_util::FakeAnyreach;
use tower_anyreach::{
    AnyreachAuth, AnyreachAuthLayer, Credential, Error, OrganizationId, Origin, PersonalAccessToken,
};

// The gateway.

/// What all handlers share. A clone is cheap, and all clones use the same connections.
#[derive(Clone)]
struct Gateway {
    anyreach: AnyreachAuth<Timeout<Client<HttpConnector, Full<Bytes>>>>,
    agents: Uri,
    /// By the token that a tenant shows to the gateway, which Anyreach does not know.
    tenants: Arc<HashMap<&'static str, Tenant>>,
}

#[derive(Clone)]
struct Tenant {
    /// What the tenant is called in logs.
    name: &'static str,
    access: Access,
}

/// How Anyreach is called for a tenant.
#[derive(Clone)]
enum Access {
    /// With a credential of the tenant's own.
    Own(Credential),
    /// With the gateway's token, in the organization of the tenant.
    Shared(Credential, OrganizationId),
}

impl Gateway {
    fn new(origin: &Origin, tenants: HashMap<&'static str, Tenant>) -> anyhow::Result<Self> {
        let anyreach = ServiceBuilder::new()
            // No credential to fall back on: a request that has lost its own is refused, not sent as somebody else.
            .layer(AnyreachAuthLayer::per_request().origin(origin.clone()))
            .layer(TimeoutLayer::new(Duration::from_secs(30)))
            .service(Client::builder(TokioExecutor::new()).build_http());
        Ok(Self {
            anyreach,
            agents: format!("{origin}/core/agents").parse()?,
            tenants: Arc::new(tenants),
        })
    }

    fn router(self) -> Router {
        Router::new()
            .route("/agents", get(list_agents).post(create_agent))
            .with_state(self)
    }

    /// Calls Anyreach for a tenant. The request is made anew: nothing that the tenant sent is in it but the body.
    async fn call(
        self,
        tenant: Tenant,
        method: Method,
        uri: Uri,
        body: Bytes,
    ) -> Result<Response, Failure> {
        let mut request = Request::new(Full::new(body));
        *request.method_mut() = method;
        *request.uri_mut() = uri;
        let json = HeaderValue::from_static("application/json");
        request.headers_mut().insert(CONTENT_TYPE, json);
        match tenant.access {
            Access::Own(credential) => {
                request.extensions_mut().insert(credential);
            }
            Access::Shared(token, organization) => {
                request.extensions_mut().insert(token);
                request.extensions_mut().insert(organization);
            }
        }

        let response = self.anyreach.oneshot(request).await;
        let (head, body) = response
            .map_err(|error| Failure {
                tenant: tenant.name,
                error,
            })?
            .into_parts();
        // The body streams through. Of the headers, a tenant needs the one that says how to read it.
        let mut response = Response::new(Body::new(body));
        *response.status_mut() = head.status;
        if let Some(content_type) = head.headers.get(CONTENT_TYPE) {
            let headers = response.headers_mut();
            headers.insert(CONTENT_TYPE, content_type.clone());
        }
        Ok(response)
    }
}

async fn list_agents(State(gateway): State<Gateway>, tenant: Tenant) -> Result<Response, Failure> {
    let uri = gateway.agents.clone();
    gateway.call(tenant, Method::GET, uri, Bytes::new()).await
}

async fn create_agent(
    State(gateway): State<Gateway>,
    tenant: Tenant,
    agent: Bytes,
) -> Result<Response, Failure> {
    let uri = gateway.agents.clone();
    gateway.call(tenant, Method::POST, uri, agent).await
}

/// Who calls, by the gateway's own tokens. It ends here: the token is not handed on to any handler.
impl FromRequestParts<Gateway> for Tenant {
    type Rejection = Response;

    async fn from_request_parts(parts: &mut Parts, gateway: &Gateway) -> Result<Self, Response> {
        let shown = parts.headers.get(AUTHORIZATION);
        shown
            .and_then(|value| value.to_str().ok()?.strip_prefix("Bearer "))
            // A real gateway would keep hashes of its tokens, and look those up.
            .and_then(|token| gateway.tenants.get(token).cloned())
            .ok_or_else(|| {
                let challenge = [(WWW_AUTHENTICATE, "Bearer")];
                let body = Json(json!({ "error": "who are you?" }));
                (StatusCode::UNAUTHORIZED, challenge, body).into_response()
            })
    }
}

/// Why Anyreach could not be called as a tenant asked.
struct Failure {
    tenant: &'static str,
    error: Error,
}

impl IntoResponse for Failure {
    fn into_response(self) -> Response {
        let Self { tenant, error } = self;
        let (status, body) = match error {
            // The tenant's to know: it asked for what its key, or its organization, does not grant.
            Error::Forbidden(denial) => {
                let scopes: Vec<_> = denial.required_scopes().collect();
                let body = json!({ "error": "not granted", "any_of": scopes });
                (StatusCode::FORBIDDEN, body)
            }
            // The gateway's fault, for it keeps the credentials. A 401 would blame the tenant's token, which is good.
            // The error names the credential by its id, and shows no secret: it may be logged as it is.
            Error::Unauthorized(_) => {
                tracing::error!("{tenant}: {error}");
                let body = json!({ "error": "the gateway's credential was refused" });
                (StatusCode::BAD_GATEWAY, body)
            }
            // Nothing was sent: the tenant is configured wrongly, or there is a mistake above.
            _ if error.is_refused() => {
                tracing::error!("{tenant}: {error}");
                let body = json!({ "error": "the gateway made a mistake" });
                (StatusCode::INTERNAL_SERVER_ERROR, body)
            }
            // `Error::Service`: perhaps it was sent, and perhaps Anyreach has done it.
            _ => {
                // With all its causes.
                tracing::error!("{tenant}: {:#}", anyhow::Error::from(error));
                let body = json!({ "error": "Anyreach could not be reached" });
                (StatusCode::BAD_GATEWAY, body)
            }
        };
        (status, Json(body)).into_response()
    }
}

/// A server that runs until it is told to stop.
struct Running {
    address: SocketAddr,
    stop: oneshot::Sender<()>,
    server: JoinHandle<std::io::Result<()>>,
}

impl Running {
    async fn start(gateway: Gateway) -> anyhow::Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let address = listener.local_addr()?;
        let (stop, stopped) = oneshot::channel();
        let server = axum::serve(listener, gateway.router()).with_graceful_shutdown(async {
            // `tokio::signal::ctrl_c()` in a real one; or whoever could have sent is gone.
            let _ = stopped.await;
        });
        Ok(Self {
            address,
            stop,
            server: tokio::spawn(server.into_future()),
        })
    }
}

// What tenants see of it.

#[tokio::main(flavor = "current_thread")]
async fn main() -> anyhow::Result<()> {
    tracing_subscriber::fmt()
        .with_max_level(tracing::Level::ERROR)
        .with_ansi(false)
        .with_target(false)
        .without_time()
        .init();
    let anyreach = FakeAnyreach::builder()
        .personal_access_token(
            "pat_shared-secret",
            [
                ("org_acme", vec!["agents:read", "agents:manage"]),
                ("org_globex", vec!["agents:read"]),
            ],
        )
        .api_key("ak_initech.secret", "org_initech", ["agents:read"])
        .start()
        .await?;
    let gateway = Running::start(Gateway::new(&anyreach.origin(), tenants()?)?).await?;
    println!("A gateway to FakeAnyreach, as its tenants see it:\n");

    let mut all_good = true;
    for (tenant, expected) in [("acme", 200), ("globex", 200), ("initech", 200)] {
        all_good &= call(&gateway, tenant, Method::GET, expected).await?;
    }
    all_good &= call(&gateway, "acme", Method::POST, 200).await?;
    all_good &= call(&gateway, "globex", Method::POST, 403).await?;
    all_good &= call(&gateway, "stranger", Method::GET, 401).await?;
    // A tenant's key is deleted, and the gateway was not told.
    anyreach.revoke("ak_initech.secret");
    all_good &= call(&gateway, "initech", Method::GET, 502).await?;
    // A tenant was configured wrongly: nothing is sent.
    all_good &= call(&gateway, "hooli", Method::GET, 500).await?;

    let gone = FakeAnyreach::builder().start().await?.origin();
    let lonely = Running::start(Gateway::new(&gone, tenants()?)?).await?;
    println!("\nWhere nobody listens at the origin:\n");
    all_good &= call(&lonely, "acme", Method::GET, 502).await?;
    shut_down(lonely).await?;

    println!("\nA request that is on its way when the gateway is told to stop:\n");
    all_good &= shut_down_under_way(gateway).await?;

    let received = anyreach.received();
    let kept = received.iter().all(|request| {
        let values = request.headers().values();
        let mut texts = values.map(|value| String::from_utf8_lossy(value.as_bytes()));
        !texts.any(|text| text.contains("tenant-"))
    });
    println!(
        "\nAnyreach received {} requests, {} tenant's token, and saw {} violations.",
        received.len(),
        if kept { "no" } else { "and a" },
        anyreach.violations().len()
    );
    ensure!(all_good && kept && anyreach.violations().is_empty());
    Ok(())
}

fn tenants() -> anyhow::Result<HashMap<&'static str, Tenant>> {
    let token = Credential::from(PersonalAccessToken::new("pat_shared-secret")?);
    let shared = |organization| -> anyhow::Result<Access> {
        let organization = OrganizationId::try_from(organization)?;
        Ok(Access::Shared(token.clone(), organization))
    };
    let own =
        |credential| -> anyhow::Result<Access> { Ok(Access::Own(Credential::parse(credential)?)) };
    let tenants = [
        ("tenant-acme", "acme", shared("org_acme")?),
        ("tenant-globex", "globex", shared("org_globex")?),
        ("tenant-initech", "initech", own("ak_initech.secret")?),
        // A token where an API key was meant: it is good, and does not say for which organization.
        ("tenant-hooli", "hooli", own("pat_hooli-secret")?),
    ];
    let tenants = tenants.map(|(shown, name, access)| (shown, Tenant { name, access }));
    Ok(HashMap::from(tenants))
}

/// Asks as a tenant would, prints a row, and returns whether the answer has the status it should have.
async fn call(
    gateway: &Running,
    tenant: &str,
    method: Method,
    expected: u16,
) -> anyhow::Result<bool> {
    let client = Client::builder(TokioExecutor::new()).build_http();
    let agent = r#"{"name": "Front desk"}"#;
    let body = if method == Method::POST { agent } else { "" };
    let request = Request::builder()
        .method(method.clone())
        .uri(format!("http://{}/agents", gateway.address))
        .header(AUTHORIZATION, format!("Bearer tenant-{tenant}"))
        .body(Full::new(Bytes::from(body)))?;
    let (head, body) = client.request(request).await?.into_parts();
    let answer = body.collect().await?.to_bytes();
    Ok(row(tenant, &method, head.status, &answer, expected))
}

/// Has a request under way, stops the gateway, and sees the answer arrive all the same.
async fn shut_down_under_way(gateway: Running) -> anyhow::Result<bool> {
    let mut tenant = TcpStream::connect(gateway.address).await?;
    let head = "POST /agents HTTP/1.1\r\nhost: gateway\r\nauthorization: Bearer tenant-acme\r\n\
                content-length: 23\r\nexpect: 100-continue\r\n\r\n";
    tenant.write_all(head.as_bytes()).await?;
    // The gateway says `100 Continue` when a handler asks for the body.
    let mut go_on = [0; b"HTTP/1.1 100 Continue\r\n\r\n".len()];
    tenant.read_exact(&mut go_on).await?;

    let address = gateway.address;
    let stopping = tokio::spawn(shut_down(gateway));
    // From when it has heard of it, nobody new gets in.
    while TcpStream::connect(address).await.is_ok() {
        sleep(Duration::from_millis(1)).await;
    }
    tenant.write_all(br#"{"name": "Night shift"}"#).await?;
    let mut answer = String::new();
    tenant.read_to_string(&mut answer).await?;
    stopping.await??;

    let (head, body) = answer.split_once("\r\n\r\n").context("no answer")?;
    let status = head.split(' ').nth(1).context("no status")?.parse()?;
    let good = row("acme", &Method::POST, status, body.as_bytes(), 200);
    println!("\nThe gateway has shut down.");
    Ok(good)
}

/// Ends when the last request has its answer, or when that takes too long.
async fn shut_down(gateway: Running) -> anyhow::Result<()> {
    // If it has ended by itself, the next line says why.
    let _ = gateway.stop.send(());
    timeout(Duration::from_secs(5), gateway.server).await???;
    Ok(())
}

fn row(tenant: &str, method: &Method, status: StatusCode, body: &[u8], expected: u16) -> bool {
    let answer: Value = serde_json::from_slice(body).unwrap_or_default();
    let agents: Vec<_> = match &answer["data"] {
        Value::Array(agents) => agents.iter().collect(),
        _ => vec![&answer],
    };
    let saw = match agents.first().map(|agent| &agent["organization_id"]) {
        Some(Value::String(organization)) if *method == Method::GET => {
            format!("{} of {organization}", agents.len())
        }
        Some(Value::String(organization)) => format!("made for {organization}"),
        _ => answer.to_string(),
    };
    let as_expected = status == expected;
    let mark = if as_expected { "ok" } else { "??" };
    println!(
        "{mark}  {tenant:10}{:6}{} {saw}",
        method.as_str(),
        status.as_u16()
    );
    as_expected
}
