//! The state of a fake, and the responses to requests that the rules admit.
//!
//! [`serve`] handles one request: record its head, read its body, call the hook, then answer. The
//! state is not locked while the body is read and while the hook runs.

use std::collections::HashMap;
use std::future::Future;
use std::io;
use std::pin::{Pin, pin};
use std::sync::{Arc, Mutex};

use bytes::{Buf, BufMut, Bytes, BytesMut};
use http::header::{CONTENT_TYPE, WWW_AUTHENTICATE};
use http::request::Parts;
use http::{HeaderValue, Request, Response, StatusCode};
use http_body::Body;
use http_body_util::{BodyExt as _, Full};
use serde_json::{Value, json};

use super::lock;
use super::record::{ReceivedRequest, Violation};
use super::rules::{Accounts, Admission, Endpoint, Refusal, broken_rules, on_mcp};

/// The bytes of a body that are recorded.
const KEPT: usize = 1 << 20;

/// The bytes of a body that are read. Reading more than is recorded keeps the connection usable
/// after a larger upload.
const READ: usize = 64 << 20;

/// The response to a request, as a hook decides; returned by the hook of
/// [`FakeAnyreachBuilder::answer_with`](super::FakeAnyreachBuilder::answer_with).
#[derive(Debug)]
#[non_exhaustive]
pub enum FakeReply {
    /// The response that the fake would give without a hook.
    Usual,
    /// This response, in place of the fake's.
    Instead(Response<Bytes>),
    /// No response: over HTTP/1.1 the connection is closed, over HTTP/2 the stream is reset, and a
    /// [`FakeService`](super::FakeService) fails.
    HangUp,
}

/// A hook that may answer instead of the fake.
pub(super) type Hook =
    Arc<dyn Fn(ReceivedRequest) -> Pin<Box<dyn Future<Output = FakeReply> + Send>> + Send + Sync>;

pub(super) struct State {
    accounts: Accounts,
    hook: Option<Hook>,
    agents: HashMap<String, Vec<Value>>,
    received: Vec<ReceivedRequest>,
    violations: Vec<Violation>,
}

impl State {
    pub(super) fn new(accounts: Accounts, hook: Option<Hook>) -> Self {
        Self {
            accounts,
            hook,
            agents: HashMap::new(),
            received: Vec::new(),
            violations: Vec::new(),
        }
    }

    pub(super) fn accounts(&self) -> &Accounts {
        &self.accounts
    }

    pub(super) fn accounts_mut(&mut self) -> &mut Accounts {
        &mut self.accounts
    }

    pub(super) fn received(&self) -> &[ReceivedRequest] {
        &self.received
    }

    pub(super) fn violations(&self) -> &[Violation] {
        &self.violations
    }

    /// Records a request before its body, and returns its index. A client may disconnect before its
    /// body ends, and its head is recorded anyway.
    fn arrive(&mut self, head: &Parts) -> usize {
        let status = match self.accounts.judge(head, b"") {
            Ok(_) => StatusCode::OK,
            Err(refusal) => refusal.status(),
        };
        let place = self.received.len();
        self.received.push(ReceivedRequest::new(head, status));
        let broken = broken_rules(&head.headers).into_iter();
        self.violations
            .extend(broken.map(|rule| Violation::new(rule, place, head)));
        place
    }

    /// Returns the hook, if there is one, with a request whose body was read.
    fn hook(&mut self, place: usize, body: Option<&Bytes>) -> Option<(Hook, ReceivedRequest)> {
        let request = &mut self.received[place];
        request.complete(body.cloned().unwrap_or_default(), request.status());
        Some((self.hook.clone()?, request.clone()))
    }

    fn answer(&mut self, place: usize, head: &Parts, body: Option<Bytes>) -> Response<Full<Bytes>> {
        let answered = match &body {
            Some(body) => self.reply(head, body),
            None => Err(Refusal::BrokenBody),
        };
        let response = match answered {
            Ok(value) => json_response(StatusCode::OK, &value),
            Err(refusal) => refused(&refusal, on_mcp(head)),
        };
        self.received[place].complete(body.unwrap_or_default(), response.status());
        response
    }

    fn reply(&mut self, head: &Parts, body: &Bytes) -> Result<Value, Refusal> {
        let Admission::Caller {
            organization,
            scopes,
        } = self.accounts.judge(head, body)?
        else {
            return Ok(json!({ "public": true }));
        };
        let sent: Value = serde_json::from_slice(body).unwrap_or_default();
        Ok(match Endpoint::of(head) {
            Endpoint::OwnScopes => json!(scopes),
            Endpoint::ListAgents => json!({
                "data": agents_of(&mut self.agents, organization),
                "pagination": { "limit": 20, "next_cursor": null },
            }),
            Endpoint::CreateAgent => {
                let agents = agents_of(&mut self.agents, organization);
                let agent = agent(agents.len() + 1, &sent["name"], organization);
                agents.push(agent.clone());
                agent
            }
            Endpoint::Conversation(id) => conversation(id, organization, scopes),
            Endpoint::Mcp => json!({ "jsonrpc": "2.0", "id": sent["id"], "result": {} }),
            Endpoint::Public | Endpoint::Unknown => return Err(Refusal::UnknownEndpoint),
        })
    }
}

/// Handles one request, from its head to its response.
///
/// # Errors
///
/// Returns an error if the hook hung up.
pub(super) async fn serve<B: Body>(
    state: Arc<Mutex<State>>,
    request: Request<B>,
) -> io::Result<Response<Full<Bytes>>> {
    let (head, body) = request.into_parts();
    let place = lock(&state).arrive(&head);
    let body = read(body).await.ok();
    let hook = lock(&state).hook(place, body.as_ref());
    let reply = match hook {
        Some((hook, request)) => hook(request).await,
        None => FakeReply::Usual,
    };
    match reply {
        FakeReply::Usual => Ok(lock(&state).answer(place, &head, body)),
        FakeReply::Instead(response) => {
            lock(&state).received[place].complete(body.unwrap_or_default(), response.status());
            Ok(response.map(Full::from))
        }
        FakeReply::HangUp => Err(io::ErrorKind::ConnectionReset.into()),
    }
}

async fn read<B: Body>(body: B) -> Result<Bytes, B::Error> {
    let mut body = pin!(body);
    let mut kept = BytesMut::new();
    let mut read = 0;
    while let Some(frame) = body.frame().await {
        if let Ok(data) = frame?.into_data() {
            read += data.remaining();
            kept.put(data.take(KEPT - kept.len()));
        }
        if read > READ {
            break;
        }
    }
    Ok(kept.freeze())
}

fn agents_of<'a>(
    agents: &'a mut HashMap<String, Vec<Value>>,
    organization: &str,
) -> &'a mut Vec<Value> {
    agents
        .entry(organization.to_owned())
        .or_insert_with(|| vec![agent(1, &json!("First agent"), organization)])
}

fn agent(number: usize, name: &Value, organization: &str) -> Value {
    json!({
        "id": format!("agent-{number}-of-{organization}"),
        "name": name,
        "organization_id": organization,
    })
}

fn conversation(id: &str, organization: &str, scopes: &[String]) -> Value {
    let mut conversation = json!({
        "id": id,
        "organization_id": organization,
        "direction": "inbound",
        "agent_id": format!("agent-1-of-{organization}"),
        "channel": "telephone",
        "duration": 42,
        "status": "completed",
    });
    if scopes
        .iter()
        .any(|scope| scope == "conversations:read_sensitive")
    {
        conversation["conversation"] = json!([]);
        conversation["summary"] = json!("A greeting.");
        conversation["recording_details"] = json!({});
        conversation["custom_metadata"] = json!({});
    }
    conversation
}

fn refused(refusal: &Refusal, on_mcp: bool) -> Response<Full<Bytes>> {
    let key = if on_mcp { "error" } else { "detail" };
    let mut response = json_response(refusal.status(), &json!({ key: refusal.text(on_mcp) }));
    if let Some(challenge) = refusal.challenge() {
        response.headers_mut().insert(WWW_AUTHENTICATE, challenge);
    }
    response
}

fn json_response(status: StatusCode, value: &Value) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::from(value.to_string()));
    *response.status_mut() = status;
    response
        .headers_mut()
        .insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}
