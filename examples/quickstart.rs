//! The main use of the middleware: both kinds of credential, a denial, a refusal, and a rotation during requests.
//! Without an account it runs against `FakeAnyreach`, a server on 127.0.0.1 with the documented rules. If the environment holds a
//! credential, or names a file or a command, it lists your agents from the real API instead; this was never run.
#![allow(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "an example prints its results"
)]

use std::process::ExitCode;

use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper_rustls::HttpsConnectorBuilder;
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use serde_json::Value;
use tower::{Layer, Service, ServiceExt};
use tower_anyreach::test_util::FakeAnyreach;
use tower_anyreach::{
    AnyreachAuth, AnyreachAuthLayer, BoxError, CredentialStore, Error, OrganizationApiKey,
    OrganizationId, PersonalAccessToken, RefusalReason,
};

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    let outcome = match CredentialStore::from_env().await {
        Ok(store) => ask_anyreach(store).await,
        Err(error) if error.is_unset() => ask_the_fake().await,
        Err(error) => Err(error.into()),
    };
    match outcome {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("quickstart: {}", with_causes(error.as_ref()));
            ExitCode::from(2)
        }
    }
}

/// Lists the agents of the real API, and returns whether that succeeded.
async fn ask_anyreach(store: CredentialStore) -> Result<bool, BoxError> {
    println!(
        "Asking https://api.anyreach.ai as {}.",
        store.status().credential()
    );

    let connector = HttpsConnectorBuilder::new()
        .with_webpki_roots()
        .https_only()
        .enable_http1()
        .enable_http2()
        .build();
    let client = Client::builder(TokioExecutor::new()).build(connector);
    let client = AnyreachAuthLayer::new(store).layer(client);

    let request = Request::get("https://api.anyreach.ai/core/agents").body(Full::default())?;
    let outcome = list(client, request).await;
    if is_missing_organization(&outcome) {
        return Err("a personal access token needs ANYREACH_ORG_ID too; nothing was sent".into());
    }
    println!("{}", shown(&outcome));
    Ok(outcome.is_ok())
}

/// Sends requests to a fake, and returns whether every row is as expected.
async fn ask_the_fake() -> Result<bool, BoxError> {
    let organizations = ["org_acme", "org_globex"];
    let anyreach = FakeAnyreach::builder()
        .api_key("ak_reader.secret", "org_acme", ["agents:read"])
        .api_key("ak_old.secret", "org_acme", ["agents:read"])
        .personal_access_token(
            "pat_secret",
            organizations.map(|org| (org, ["agents:read"])),
        )
        .start()
        .await?;
    println!(
        "Asking FakeAnyreach at {}, because the environment holds no credential.\n",
        anyreach.origin()
    );

    let mut all_good = an_api_key(&anyreach).await?;
    all_good &= a_personal_access_token(&anyreach).await?;
    #[cfg(feature = "retry")]
    {
        all_good &= a_rotation(&anyreach).await?;
    }

    // A violation is a duplicate header, or an organization beside an API key.
    let (arrived, violations) = (anyreach.received().len(), anyreach.violations().len());
    println!("\nThe server received {arrived} requests and {violations} violations.");
    Ok(all_good && violations == 0)
}

/// An API key determines its organization.
async fn an_api_key(anyreach: &FakeAnyreach) -> Result<bool, BoxError> {
    let client = client(anyreach, OrganizationApiKey::new("ak_reader.secret")?);

    let request = Request::get(anyreach.uri("/core/agents")).body(Full::default())?;
    let outcome = list(client.clone(), request).await;
    let mut good = row("API key", &shown(&outcome), outcome.is_ok());

    // A 403 is an error that names the required scopes.
    let request = Request::post(anyreach.uri("/core/agents")).body(Full::from("{}"))?;
    let outcome = list(client.clone(), request).await;
    let forbidden = matches!(outcome, Err(Error::Forbidden(_)));
    good &= row("missing scope", &shown(&outcome), forbidden);

    // Credentials are sent to their origin alone.
    let request = Request::get("https://elsewhere.example/core/agents").body(Full::default())?;
    let outcome = list(client.clone(), request).await;
    let refused = matches!(&outcome, Err(Error::Refused(_)));
    good &= row("another host", &shown(&outcome), refused);

    anyreach.revoke("ak_reader.secret");
    let request = Request::get(anyreach.uri("/core/agents")).body(Full::default())?;
    let outcome = list(client, request).await;
    let unauthorized = matches!(outcome, Err(Error::Unauthorized(_)));
    good &= row("revoked key", &shown(&outcome), unauthorized);
    Ok(good)
}

/// Each request with a personal access token names its organization, so one client serves all organizations of the user.
async fn a_personal_access_token(anyreach: &FakeAnyreach) -> Result<bool, BoxError> {
    let client = client(anyreach, PersonalAccessToken::new("pat_secret")?);
    let mut good = true;
    for organization in ["org_acme", "org_globex"] {
        let request = Request::get(anyreach.uri("/core/agents"))
            .extension(OrganizationId::try_from(organization)?)
            .body(Full::default())?;
        let outcome = list(client.clone(), request).await;
        let is_theirs = |agent: &Value| agent["organization_id"] == organization;
        let right = matches!(&outcome, Ok((_, agents)) if agents.iter().any(is_theirs));
        let what = format!("token for {organization}");
        good &= row(&what, &shown(&outcome), right);
    }
    Ok(good)
}

/// Requests that were sent with the old key are denied, and replayed with the new one.
#[cfg(feature = "retry")]
async fn a_rotation(anyreach: &FakeAnyreach) -> Result<bool, BoxError> {
    let store = CredentialStore::new(OrganizationApiKey::new("ak_old.secret")?);
    let client = tower::ServiceBuilder::new()
        .retry(tower_anyreach::retry::RefreshPolicy::new())
        .service(client(anyreach, store.clone()));

    let arrived_before = anyreach.received().len();
    let mut in_flight = tokio::task::JoinSet::new();
    for number in 0..16 {
        if number == 8 {
            // The first eight are sent here. Nothing else runs on this thread between the two lines below.
            tokio::task::yield_now().await;
            anyreach.rotate("ak_old.secret", "ak_new.secret");
            store.rotate(OrganizationApiKey::new("ak_new.secret")?);
        }
        let request = Request::get(anyreach.uri("/core/agents")).body(Full::default())?;
        in_flight.spawn(list(client.clone(), request));
    }
    let outcomes = in_flight.join_all().await;

    let answered = outcomes.iter().filter(|outcome| outcome.is_ok()).count();
    let arrived = anyreach.received().len() - arrived_before;
    let replayed = arrived.saturating_sub(outcomes.len());
    let mut saw = format!("{answered} of 16 requests answered, {replayed} of them after a replay");
    if let Some(failed) = outcomes.iter().find(|outcome| outcome.is_err()) {
        saw = format!("{saw}; {}", shown(failed));
    }
    Ok(row("rotation", &saw, answered == 16))
}

/// Returns hyper's client with the layer around it.
fn client(
    anyreach: &FakeAnyreach,
    credentials: impl Into<CredentialStore>,
) -> AnyreachAuth<Client<HttpConnector, Full<Bytes>>> {
    AnyreachAuthLayer::new(credentials)
        // The default is https://api.anyreach.ai.
        .origin(anyreach.origin())
        .layer(Client::builder(TokioExecutor::new()).build_http())
}

type Outcome = Result<(StatusCode, Vec<Value>), Error>;

/// Sends a request, and reads the agents in the response.
async fn list<S>(client: S, request: Request<Full<Bytes>>) -> Outcome
where
    S: Service<Request<Full<Bytes>>, Response = Response<Incoming>, Error = Error>,
{
    let (head, body) = client.oneshot(request).await?.into_parts();
    let body = body.collect().await;
    let body = body.map_err(|error| Error::Service(error.into()))?;
    let listed = match serde_json::from_slice(&body.to_bytes()).unwrap_or_default() {
        Value::Object(mut page) => page.remove("data").unwrap_or_default(),
        other => other,
    };
    match (head.status, listed) {
        (status, Value::Array(agents)) if status.is_success() => Ok((status, agents)),
        (status, _) => Err(Error::Service(
            format!("the response is {status}, without a list of agents").into(),
        )),
    }
}

fn is_missing_organization(outcome: &Outcome) -> bool {
    let refusal = outcome.as_ref().err().and_then(Error::refusal);
    refusal.is_some_and(|refusal| refusal.reason() == RefusalReason::MissingOrganization)
}

fn shown(outcome: &Outcome) -> String {
    match outcome {
        Ok((status, agents)) => format!("{}, agents listed: {}", status.as_u16(), agents.len()),
        Err(Error::Unauthorized(denial) | Error::Forbidden(denial)) => {
            let shown = format!("{}, {}", denial.status().as_u16(), denial.reason());
            let scopes = denial.required_scopes();
            scopes.fold(shown, |shown, scope| {
                shown + "; the server asked for " + scope
            })
        }
        Err(error) => with_causes(error),
    }
}

/// Formats an error with its causes in one line.
fn with_causes(error: &(dyn std::error::Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        text = format!("{text}: {cause}");
        next = cause.source();
    }
    text
}

/// Prints a row, and returns whether it was as expected.
fn row(what: &str, saw: &str, as_expected: bool) -> bool {
    let mark = if as_expected { "ok" } else { "??" };
    println!("{mark}  {what:22}{saw}");
    as_expected
}
