//! Calls tools at `/mcp/`: a `POST` has one JSON message, its response one JSON reply, and there is no session.
//! The organization is an argument of `call_tool` there, and an error body has the key `error` in place of `detail`.
//! Runs against `FakeAnyreach`, which implements the documented rules of that endpoint and no tools, and has never been run against the
//! real API: `cargo run --example mcp_client`.
#![allow(clippy::print_stdout, reason = "an example prints its results")]

use anyhow::ensure;
use bytes::Bytes;
use http::header::{ACCEPT, CONTENT_TYPE};
use http::{Request, Response, StatusCode, request};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper_util::client::legacy::{Client, connect::HttpConnector};
use hyper_util::rt::TokioExecutor;
use serde_json::{Value, json};
use tower::{Layer, Service, ServiceExt};
use tower_anyreach::test_util::FakeAnyreach;
use tower_anyreach::{
    Anonymous, AnyreachAuthLayer, Credential, Denial, DenialReason, Error, InvalidCredential,
};

/// The documented path ends with a slash.
const MCP: &str = "/mcp/";

#[tokio::main(flavor = "current_thread")]
async fn main() -> anyhow::Result<()> {
    let anyreach = FakeAnyreach::builder()
        .api_key("ak_4711.secret", "org_acme", ["agents:read"])
        .personal_access_token("pat_secret", [("org_acme", ["agents:read"])])
        .start()
        .await?;
    println!("Calling tools at {}.\n", anyreach.uri(MCP));
    let mut all_good = true;

    // An API key determines its organization.
    let key = layer(&anyreach, "ak_4711.secret")?.layer(http());
    let search = tool("search_tools", &json!({ "query": "agents" }));
    let outcome = ask(&key, post(&anyreach), &search).await?;
    all_good &= row("API key", &outcome, matches!(outcome, Outcome::Result(_)));

    // A personal access token does not, so `call_tool` has an argument for it. The operation's name here is made up.
    let token = layer(&anyreach, "pat_secret")?.layer(http());
    let call = tool(
        "call_tool",
        &json!({ "name": "core_list_agents", "arguments": {}, "organization_id": "org_acme" }),
    );
    let outcome = ask(&token, post(&anyreach), &call).await?;
    all_good &= row(
        "token, named",
        &outcome,
        matches!(outcome, Outcome::Result(_)),
    );

    // Without it Anyreach denies the call. At this endpoint the remedy is the argument, and not an `OrganizationId`.
    let call = tool(
        "call_tool",
        &json!({ "name": "core_list_agents", "arguments": {} }),
    );
    let outcome = ask(&token, post(&anyreach), &call).await?;
    let missing = outcome.is_denied_for(DenialReason::MissingOrganization);
    all_good &= row("token, unnamed", &outcome, missing);

    anyreach.revoke("ak_4711.secret");
    let outcome = ask(&key, post(&anyreach), &search).await?;
    let invalid = outcome.is_denied_for(DenialReason::InvalidCredential);
    all_good &= row("revoked key", &outcome, invalid);

    // Without a credential, the layer returns a 401 as a response, and this program reads it.
    let anonymous = post(&anyreach).extension(Anonymous);
    let outcome = ask(&key, anonymous, &search).await?;
    let is_edge = matches!(&outcome, Outcome::Edge(StatusCode::UNAUTHORIZED, _));
    all_good &= row("anonymous", &outcome, is_edge);

    let violations = anyreach.violations().len();
    println!("\nThe server received {violations} violations.");
    ensure!(
        all_good && violations == 0,
        "at least one row above is not as expected"
    );
    Ok(())
}

fn layer(
    anyreach: &FakeAnyreach,
    credential: &str,
) -> Result<AnyreachAuthLayer, InvalidCredential> {
    let layer = AnyreachAuthLayer::new(Credential::parse(credential)?)
        .origin(anyreach.origin())
        // The organization of a token is in the message, which the layer does not read.
        .require_organization(false);
    Ok(layer)
}

fn http() -> Client<HttpConnector, Full<Bytes>> {
    Client::builder(TokioExecutor::new()).build_http()
}

/// A message that calls one of the four tools: `list_all_tools`, `search_tools`, `describe_tool`, `call_tool`.
fn tool(name: &str, arguments: &Value) -> Value {
    json!({
        "jsonrpc": "2.0",
        "id": 1,
        "method": "tools/call",
        "params": { "name": name, "arguments": arguments },
    })
}

fn post(anyreach: &FakeAnyreach) -> request::Builder {
    Request::post(anyreach.uri(MCP))
        .header(CONTENT_TYPE, "application/json")
        // MCP requires a client to accept both. Anyreach documents plain JSON replies.
        .header(ACCEPT, "application/json, text/event-stream")
}

/// The outcome of a message.
enum Outcome {
    /// The tool's result.
    Result(Value),
    /// A JSON-RPC error in the reply.
    Reply(Value),
    /// Another status with `{"error": ...}`, such as a 400.
    Edge(StatusCode, Option<String>),
    Denied(Denial),
}

impl Outcome {
    fn is_denied_for(&self, reason: DenialReason) -> bool {
        matches!(self, Self::Denied(denial) if denial.reason() == reason)
    }
}

async fn ask<S>(client: &S, post: request::Builder, message: &Value) -> anyhow::Result<Outcome>
where
    S: Service<Request<Full<Bytes>>, Response = Response<Incoming>, Error = Error> + Clone,
{
    let request = post.body(Full::from(message.to_string()))?;
    let (head, body) = match client.clone().oneshot(request).await {
        Ok(response) => response.into_parts(),
        // The layer has read the body of a 401 or 403 already, with either key.
        Err(Error::Unauthorized(denial) | Error::Forbidden(denial)) => {
            return Ok(Outcome::Denied(denial));
        }
        Err(error) => return Err(error.into()),
    };
    let body = body.collect().await?.to_bytes();
    let mut reply: Value = serde_json::from_slice(&body).unwrap_or_default();
    if !head.status.is_success() {
        let text = reply["error"].as_str().map(str::to_owned);
        return Ok(Outcome::Edge(head.status, text));
    }
    if reply.get("error").is_some() {
        return Ok(Outcome::Reply(reply["error"].take()));
    }
    Ok(Outcome::Result(reply["result"].take()))
}

/// Prints the outcome of a message, and returns whether it was as expected.
fn row(what: &str, outcome: &Outcome, as_expected: bool) -> bool {
    let mark = if as_expected { "ok" } else { "??" };
    let saw = match outcome {
        Outcome::Result(result) => format!("result: {result}"),
        Outcome::Reply(error) => format!("error in the reply: {error}"),
        // Escaped, because a server wrote it.
        Outcome::Edge(status, Some(text)) => {
            format!("{}: {}", status.as_u16(), text.escape_debug())
        }
        Outcome::Edge(status, None) => format!("{}, without a text", status.as_u16()),
        Outcome::Denied(denial) => {
            // `detail` returns the text of either key, escaped and redacted.
            let (status, detail) = (denial.status().as_u16(), denial.detail().unwrap_or("-"));
            format!("{status}: {detail}\n{:20}{}", "", denial.reason())
        }
    };
    println!("{mark}  {what:16}{saw}");
    as_expected
}
