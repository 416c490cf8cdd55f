//! Lists the scopes of a credential. If it is denied, explains the 401 or 403 and names the remedy.
//! With `ANYREACH_TOKEN`, or `ANYREACH_PAT` and `ANYREACH_ORG_ID`, in the environment it calls the real API; this was never run.
//! Without them it calls a `FakeAnyreach` in memory with six credentials: `cargo run --example whoami`.
#![allow(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "an example prints its results"
)]

use std::collections::BTreeMap;
use std::process::ExitCode;

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt, Empty};
use hyper_rustls::HttpsConnectorBuilder;
use hyper_util::client::legacy::Client;
use hyper_util::rt::TokioExecutor;
use serde_json::Value;
use tower::{Layer, Service, ServiceExt};
use tower_anyreach::test_util::FakeAnyreach;
use tower_anyreach::{
    AnyreachAuthLayer, BoxError, Credential, CredentialKind, Denial, DenialReason, Error,
    OrganizationApiKey, OrganizationId, PersonalAccessToken, RefusalReason,
};

/// Any member may list their own scopes.
const SCOPES: &str = "https://api.anyreach.ai/admin/members/me/scopes";

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    let outcome = match Credential::from_env() {
        Ok(credential) => ask_anyreach(&credential).await,
        Err(error) if error.is_unset() => ask_the_fake().await,
        Err(error) => Err(error.into()),
    };
    match outcome {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("whoami: {}", with_causes(error.as_ref()));
            ExitCode::from(2)
        }
    }
}

/// Calls the real API, and returns whether it listed the scopes.
async fn ask_anyreach(credential: &Credential) -> Result<bool, BoxError> {
    let connector = HttpsConnectorBuilder::new()
        .with_webpki_roots()
        .https_only()
        .enable_http1()
        .enable_http2()
        .build();
    let client = Client::builder(TokioExecutor::new()).build(connector);
    let outcome = whoami(credential, client).await?;
    Ok(outcome.is_ok())
}

/// Calls a fake with several credentials, and returns whether every outcome is as expected.
async fn ask_the_fake() -> Result<bool, BoxError> {
    println!("Asking FakeAnyreach, because the environment holds no credential.");
    let anyreach = FakeAnyreach::builder()
        .api_key("ak_reader.secret", "org_acme", ["agents:read"])
        .api_key("ak_former.secret", "org_acme", ["agents:read"])
        .personal_access_token(
            "pat_secret",
            [
                (
                    "org_acme",
                    vec!["agents:read", "agents:manage", "conversations:read"],
                ),
                ("org_globex", vec!["conversations:read_sensitive"]),
            ],
        )
        .in_memory();
    anyreach.revoke("ak_former.secret");

    let mut all_good = true;

    // The scopes of an API key, and the 403 for another organization, are choices of the fake.
    let key = OrganizationApiKey::new("ak_reader.secret")?;
    all_good &= whoami(&key.into(), anyreach.service()).await?.is_ok();

    let token = PersonalAccessToken::new("pat_secret")?;
    for organization in ["org_acme", "org_globex"] {
        let there = OrganizationId::try_from(organization)?;
        let token = token.clone().for_organization(there);
        all_good &= whoami(&token.into(), anyreach.service()).await?.is_ok();
    }

    let revoked = OrganizationApiKey::new("ak_former.secret")?;
    let outcome = whoami(&revoked.into(), anyreach.service()).await?;
    all_good &= matches!(outcome, Err(Error::Unauthorized(_)));

    let outcome = whoami(&token.clone().into(), anyreach.service()).await?;
    all_good &= outcome.is_err_and(|error| is_missing_organization(&error));

    let foreign = token.for_organization(OrganizationId::try_from("org_foreign")?);
    let outcome = whoami(&foreign.into(), anyreach.service()).await?;
    all_good &= matches!(outcome, Err(Error::Forbidden(_)));

    Ok(all_good && anyreach.violations().is_empty())
}

/// Prints the credential and its scopes, or the meaning of the error and its remedy.
async fn whoami<S, R>(credential: &Credential, client: S) -> Result<Result<(), Error>, BoxError>
where
    S: Service<Request<Empty<Bytes>>, Response = Response<R>, Error: Into<BoxError>>,
    R: http_body::Body<Error: Into<BoxError>>,
{
    println!("\n{}", introduced(credential));
    let client = AnyreachAuthLayer::new(credential.clone()).layer(client);
    let request = Request::get(SCOPES).body(Empty::new())?;
    Ok(match scopes(client, request).await {
        Ok(scopes) => {
            print_table(&scopes);
            Ok(())
        }
        Err(error) => {
            let (meaning, next) = explained(&error, credential.kind());
            println!("  {meaning}\n  Next: {next}");
            Err(error)
        }
    })
}

fn introduced(credential: &Credential) -> String {
    let id = credential.id();
    match (credential.kind(), credential.organization()) {
        (CredentialKind::OrganizationApiKey, _) => {
            format!("{id}, an API key, in its own organization:")
        }
        (_, Some(organization)) => format!("{id}, a personal access token, in {organization}:"),
        (_, None) => format!("{id}, a personal access token, in no organization:"),
    }
}

/// Requests the scopes.
async fn scopes<S, R>(client: S, request: Request<Empty<Bytes>>) -> Result<Vec<String>, Error>
where
    S: Service<Request<Empty<Bytes>>, Response = Response<R>, Error = Error>,
    R: http_body::Body<Error: Into<BoxError>>,
{
    let (head, body) = client.oneshot(request).await?.into_parts();
    let body = body.collect().await;
    let body = body.map_err(|error| Error::Service(error.into()))?;
    let listed = serde_json::from_slice(&body.to_bytes()).ok();
    let scopes = listed
        .filter(|_| head.status.is_success())
        .and_then(flat_list);
    scopes.ok_or_else(|| {
        let status = head.status.as_u16();
        Error::Service(format!("the response is {status}, without a list of scopes").into())
    })
}

/// Anyreach documents a flat list of strings, but not whether it is inside an object.
fn flat_list(answer: Value) -> Option<Vec<String>> {
    let list = match answer {
        Value::Object(fields) => fields.into_values().find(Value::is_array)?,
        other => other,
    };
    serde_json::from_value(list).ok()
}

/// Prints a line for each resource. The set of scopes is open.
fn print_table(scopes: &[String]) {
    let mut actions_on = BTreeMap::<_, Vec<_>>::new();
    for scope in scopes {
        let (resource, action) = scope.split_once(':').unwrap_or((scope, "-"));
        actions_on.entry(resource).or_default().push(action);
    }
    if actions_on.is_empty() {
        println!("  no scopes at all");
    }
    for (resource, mut actions) in actions_on {
        actions.sort_unstable();
        // Escaped, because a server wrote it.
        let line = format!("  {resource:16}{}", actions.join(", "));
        println!("{}", line.escape_debug());
    }

    let has = |wanted: &str| scopes.iter().any(|scope| scope == wanted);
    let may_read = has("conversations:read") || has("conversations:manage");
    if may_read && !has("conversations:read_sensitive") {
        // The response is a 200 anyway, so only the scopes explain the missing fields.
        println!("  Conversations lack their transcript, summary, recording and metadata,");
        println!("  which need conversations:read_sensitive.");
    }
}

/// Returns the meaning of an error and its remedy.
fn explained(error: &Error, kind: CredentialKind) -> (String, &'static str) {
    match error {
        Error::Unauthorized(denial) => {
            let (meaning, next) = unauthorized(denial, kind);
            (format!("401: {meaning}"), next)
        }
        Error::Forbidden(denial) => {
            let (meaning, next) = forbidden(denial, kind);
            (format!("403: {meaning}"), next)
        }
        error if is_missing_organization(error) => (
            "Not sent: the token is valid in each organization of its user, and names none of them.".to_owned(),
            "set ANYREACH_ORG_ID to the id of one. The name in the dashboard's address is not the id.",
        ),
        other => (
            format!("No usable response: {}.", with_causes(other)),
            "check that https://api.anyreach.ai can be reached from this machine, and try again.",
        ),
    }
}

fn is_missing_organization(error: &Error) -> bool {
    let refusal = error.refusal();
    refusal.is_some_and(|refusal| refusal.reason() == RefusalReason::MissingOrganization)
}

fn unauthorized(denial: &Denial, kind: CredentialKind) -> (String, &'static str) {
    let meaning = match denial.reason() {
        DenialReason::InvalidCredential | DenialReason::UnrecognizedCredential => {
            "Anyreach does not know this credential. It is mistyped or deleted, or possibly expired."
        }
        // A header was removed on the way, or the response is not Anyreach's.
        reason => {
            return (
                format!("{reason}."),
                "ask the operators of the network and its proxies.",
            );
        }
    };
    let next = match kind {
        CredentialKind::OrganizationApiKey => {
            "create a new key in the dashboard, at /api-keys, and replace this one."
        }
        _ => "create a new token in the dashboard, at /account/tokens, and replace this one.",
    };
    (meaning.to_owned(), next)
}

fn forbidden(denial: &Denial, kind: CredentialKind) -> (String, &'static str) {
    if denial.reason() == DenialReason::Unspecified {
        return (
            format!("{}.", denial.reason()),
            "ask the operators of the network and its proxies.",
        );
    }
    match (kind, denial.organization()) {
        (CredentialKind::PersonalAccessToken, Some(organization)) => (
            format!(
                "The token is valid. Any member may list their scopes, so its user is probably not a member of {organization}."
            ),
            "check ANYREACH_ORG_ID, or have the user invited.",
        ),
        _ => (
            "The key is valid. Members may list their scopes. Whether a key may is not documented."
                .to_owned(),
            "make the call that your program needs: its response is specific.",
        ),
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
