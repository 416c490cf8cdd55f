//! What may my credential do? Lists its scopes, and says in plain words what a 401 or a 403 means and what to do next.
//! With `ANYREACH_TOKEN`, or `ANYREACH_PAT` and `ANYREACH_ORG_ID`, in the environment it asks the real Anyreach.
//! Without them it asks a `FakeAnyreach` in memory, as six callers. Run it as `cargo run --example whoami`.
#![allow(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "an example shows what it sees"
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

/// Any member may ask this for themselves.
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

/// Asks the real Anyreach, and returns whether it gave the scopes.
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

/// Asks a fake as this and that caller, and returns whether all of it came out as it should.
async fn ask_the_fake() -> Result<bool, BoxError> {
    println!("Asking FakeAnyreach, since the environment holds no credential.");
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

    // That an API key gets an answer, and a foreign organization a 403, are choices of the fake.
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

/// Prints who this is, and what Anyreach says they may do or why it does not.
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
            format!("{id}, an API key, in the organization it was made for:")
        }
        (_, Some(organization)) => format!("{id}, a personal access token, in {organization}:"),
        (_, None) => format!("{id}, a personal access token, in no organization:"),
    }
}

/// Asks for the scopes.
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
        Error::Service(format!("the answer is {status}, and no list of scopes").into())
    })
}

/// The documentation speaks of a flat list of strings, and does not say whether something is around it.
fn flat_list(answer: Value) -> Option<Vec<String>> {
    let list = match answer {
        Value::Object(fields) => fields.into_values().find(Value::is_array)?,
        other => other,
    };
    serde_json::from_value(list).ok()
}

/// A line for each resource. Which scopes there are is up to Anyreach.
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
        // Escaped, since a server wrote it and a terminal shows it.
        let line = format!("  {resource:16}{}", actions.join(", "));
        println!("{}", line.escape_debug());
    }

    let has = |wanted: &str| scopes.iter().any(|scope| scope == wanted);
    let may_read = has("conversations:read") || has("conversations:manage");
    if may_read && !has("conversations:read_sensitive") {
        // The answer is 200 all the same: nothing but the scopes tells why they are not there.
        println!("  Conversations come without transcript, summary, recording and metadata,");
        println!("  which take conversations:read_sensitive.");
    }
}

/// What an error means, and what to do about it.
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
            "Not sent: the token is good in each organization of its user, and does not say which is meant.".to_owned(),
            "set ANYREACH_ORG_ID to the id of one. The name in the dashboard's address is something else.",
        ),
        other => (
            format!("No answer to go by: {}.", with_causes(other)),
            "see whether https://api.anyreach.ai can be reached from here, and try again.",
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
            "Anyreach does not know this credential. It is mistyped, has expired or was deleted."
        }
        // A header was lost on the way, or the answer is not Anyreach's.
        reason => {
            return (
                format!("{reason}."),
                "ask whoever runs the network in between.",
            );
        }
    };
    let next = match kind {
        CredentialKind::OrganizationApiKey => {
            "make a new key in the dashboard, at /api-keys, and put it where this one was."
        }
        _ => {
            "make a new token in the dashboard, at /account/tokens, and put it where this one was."
        }
    };
    (meaning.to_owned(), next)
}

fn forbidden(denial: &Denial, kind: CredentialKind) -> (String, &'static str) {
    if denial.reason() == DenialReason::Unspecified {
        return (
            format!("{}.", denial.reason()),
            "ask whoever runs the network in between.",
        );
    }
    match (kind, denial.organization()) {
        (CredentialKind::PersonalAccessToken, Some(organization)) => (
            format!(
                "The token is good. Any member may ask this, so its user seems to be no member of {organization}."
            ),
            "check ANYREACH_ORG_ID, or have the user invited.",
        ),
        _ => (
            "The key is good. Members may ask this; whether a key may is not documented."
                .to_owned(),
            "make the call that your program needs: its own 403 says more.",
        ),
    }
}

/// An error with all that led to it, in one line.
fn with_causes(error: &(dyn std::error::Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        text = format!("{text}: {cause}");
        next = cause.source();
    }
    text
}
