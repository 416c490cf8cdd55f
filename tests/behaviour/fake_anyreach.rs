//! `FakeAnyreach`: each rule that it documents, over HTTP/1.1 and HTTP/2 and in memory.

use std::collections::HashSet;
use std::time::Instant;

use http::Version;
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use serde_json::{Value, json};
use tower::ServiceExt as _;
use tower_anyreach::test_util::{FakeAnyreach, FakeAnyreachBuilder, FakeReply, Rule};

use crate::prelude::*;

pub(crate) const KEY: &str = "ak_canary.secret";
pub(crate) const BEARER_KEY: Header<'_> = ("authorization", "Bearer ak_canary.secret");
pub(crate) const BEARER_PAT: Header<'_> = ("authorization", "Bearer pat_canary");
const BEARER_ONE: Header<'_> = ("authorization", "Bearer ak_one.scope");
pub(crate) const VERSIONS: [Version; 2] = [Version::HTTP_11, Version::HTTP_2];

type Header<'a> = (&'a str, &'a str);
type Headers<'a> = &'a [Header<'a>];

pub(crate) fn org(organization: &str) -> Header<'_> {
    ("x-anyreach-org", organization)
}

pub(crate) fn builder() -> FakeAnyreachBuilder {
    let scopes = [
        ("org_b", vec!["agents:read"]),
        ("org_c", vec!["agents:read", "conversations:read_sensitive"]),
    ];
    FakeAnyreach::builder()
        .api_key(KEY, "org_a", ["agents:manage", "conversations:read"])
        .personal_access_token("pat_canary", scopes)
}

pub(crate) async fn fake() -> FakeAnyreach {
    builder().start().await.unwrap()
}

/// A client that uses one version of HTTP to call one server, or none and calls it in memory.
pub(crate) struct Peer<'a> {
    fake: &'a FakeAnyreach,
    client: Option<Client<HttpConnector, Full<Bytes>>>,
}

type Answer = Response<Value>;

impl<'a> Peer<'a> {
    pub(crate) fn new(fake: &'a FakeAnyreach, version: impl Into<Option<Version>>) -> Self {
        let client = version.into().map(client);
        Self { fake, client }
    }

    pub(crate) async fn get(&self, path: &str, headers: Headers<'_>) -> Answer {
        self.send(&Method::GET, path, headers, "").await
    }

    pub(crate) async fn post(&self, path: &str, headers: Headers<'_>, body: &str) -> Answer {
        self.send(&Method::POST, path, headers, body).await
    }

    async fn send(&self, method: &Method, path: &str, headers: Headers<'_>, body: &str) -> Answer {
        let response = self.exchange(method, path, headers, body).await;
        let response = response.expect("an answer");
        response.map(|body| serde_json::from_slice(&body).unwrap())
    }

    /// The response, or none if the server hung up.
    async fn exchange(
        &self,
        method: &Method,
        path: &str,
        headers: Headers<'_>,
        body: &str,
    ) -> Option<Response<Bytes>> {
        let body = Full::from(body.to_owned());
        let request = Request::builder().method(method).uri(self.fake.uri(path));
        let request = with_headers(headers, request.body(body).unwrap());
        let (head, body) = if let Some(client) = &self.client {
            let (head, body) = client.request(request).await.ok()?.into_parts();
            (head, body.collect().await.unwrap())
        } else {
            let answer = self.fake.service().oneshot(request).await.ok()?;
            let (head, body) = answer.into_parts();
            (head, body.collect().await.unwrap())
        };
        Some(Response::from_parts(head, body.to_bytes()))
    }
}

pub(crate) fn client<B>(version: Version) -> Client<HttpConnector, B>
where
    B: http_body::Body<Data: Send> + Send,
{
    Client::builder(TokioExecutor::new())
        .http2_only(version == Version::HTTP_2)
        .build_http()
}

/// Each way to call a server, with a server of its own.
async fn each_way() -> [(Option<Version>, FakeAnyreach); 3] {
    let [http1, http2] = VERSIONS.map(Some);
    [
        (http1, fake().await),
        (http2, fake().await),
        (None, builder().in_memory()),
    ]
}

/// Method, path, headers and body; status, and what is where in the answer. If that is null, an error has some text.
type Row<'a> = (&'a str, &'a str, Headers<'a>, &'a str, u16, &'a str, Value);

#[tokio::test]
async fn each_request_is_answered_as_documented() {
    let call = |tool: &str, organization: &str| {
        let arguments = json!({ "organization_id": organization });
        let params = json!({ "name": tool, "arguments": arguments });
        json!({ "id": 1, "method": "tools/call", "params": params }).to_string()
    };
    let (call_a, call_b) = (call("call_tool", "org_a"), call("call_tool", "org_b"));
    let search_b = call("search_tools", "org_b");
    let reply = |id| json!({ "jsonrpc": "2.0", "id": id, "result": {} });
    let detail = |text| json!({ "detail": text });
    let error = |text| json!({ "error": text });
    let missing = "Missing Bearer token";
    let unrecognized = "Unrecognized token format. Expected a personal access token (pat_...) \
                        or organization API key (ak_...).";
    let unnamed = "Token is missing organization claim.";
    let (agents, scopes) = ("/core/agents", "/admin/members/me/scopes");
    let (public, tenant) = ("/core/public/web-widgets/w-1", "/data/0/organization_id");

    let none: Headers<'_> = &[];
    let key = &[BEARER_KEY][..];
    let pat = &[BEARER_PAT][..];
    let [pat_a, pat_b, pat_c, pat_two, pat_upper] =
        ["org_a", "org_b", "org_c", "org_b, org_c", "ORG_B"].map(|name| [BEARER_PAT, org(name)]);
    let basic = &[("authorization", "Basic eDp5")][..];
    let jwt = &[("authorization", "Bearer eyJ.eyJ.sig")][..];
    let other = &[("authorization", "Bearer ak_other.secret")][..];

    #[rustfmt::skip]
    let mut rows = vec![
        // A personal access token needs an organization of its user, and has the scopes that it has there.
        ("GET", agents, pat, "", 401, "", detail(unnamed)),
        ("GET", scopes, pat, "", 401, "", detail(unnamed)),
        ("GET", "/elsewhere", pat, "", 401, "", detail(unnamed)),
        ("GET", agents, &pat_b[..], "", 200, tenant, json!("org_b")),
        ("GET", agents, &pat_c, "", 200, tenant, json!("org_c")),
        ("GET", agents, &pat_a, "", 403, "", Value::Null),
        ("GET", agents, &pat_two, "", 403, "", Value::Null),
        ("GET", agents, &pat_upper, "", 403, "", Value::Null),
        ("GET", scopes, key, "", 200, "", json!(["agents:manage", "conversations:read"])),
        ("GET", scopes, &pat_b, "", 200, "", json!(["agents:read"])),
        ("GET", scopes, &pat_c, "", 200, "", json!(["agents:read", "conversations:read_sensitive"])),
        // The errors of /mcp/ have a key and texts of their own.
        ("POST", "/mcp/", none, "{}", 401, "", error(missing)),
        ("POST", "/mcp/", basic, "{}", 401, "", error(missing)),
        ("POST", "/mcp/", jwt, "{}", 401, "", error(unrecognized)),
        ("POST", "/mcp/", pat, "{}", 401, "", error(unnamed)),
        ("POST", "/mcp/", other, "{}", 401, "", Value::Null),
        ("GET", "/mcp/", key, "", 404, "", Value::Null),
        // Elsewhere they are the fake's own: a client must not be built on texts of /mcp/ that it never sees there.
        ("GET", agents, none, "", 401, "", detail("Not authenticated.")),
        ("GET", agents, jwt, "", 401, "", detail("Invalid credential.")),
        ("GET", agents, other, "", 401, "", Value::Null),
        // A reply has the id of its message.
        ("POST", "/mcp/", key, r#"{"jsonrpc":"2.0","id":7,"method":"tools/list"}"#, 200, "", reply(json!(7))),
        ("POST", "/mcp/", key, r#"{"id":"seven"}"#, 200, "", reply(json!("seven"))),
        ("POST", "/mcp/", key, "no json", 200, "", reply(json!(null))),
        // There the organization may be an argument; elsewhere a body names none.
        ("POST", "/mcp/", &pat_b, "", 200, "", Value::Null),
        ("POST", "/mcp/", pat, &call_b, 200, "", Value::Null),
        ("POST", "/mcp/", pat, &call_a, 403, "", Value::Null),
        ("POST", "/mcp/", pat, &search_b, 401, "", Value::Null),
        ("POST", "/mcp/", &pat_a, &call_b, 403, "", Value::Null),
        ("POST", agents, pat, &call_b, 401, "", Value::Null),
        ("GET", "/core/conversations/7", &pat_b, "", 403, "", Value::Null),
        // A public path needs no credential, and accepts any.
        ("GET", public, none, "", 200, "", Value::Null),
        ("GET", public, key, "", 200, "", Value::Null),
        ("GET", public, pat, "", 200, "", Value::Null),
        ("GET", public, basic, "", 200, "", Value::Null),
        ("GET", "/core/publicity", none, "", 401, "", Value::Null),
        ("GET", "/core/public/w-1", none, "", 401, "", Value::Null),
    ];
    // The scheme is taken in any case, with exactly one space after it, and the credential to the letter.
    let schemes = "200 Bearer ak_canary.secret|200 bearer ak_canary.secret|200 BEARER ak_canary.secret|\
                   401 Bearer  ak_canary.secret|401 Bearer\tak_canary.secret|401 Bearerak_canary.secret|\
                   401 Bearer|401 Basic ak_canary.secret|401 ak_canary.secret|401 Bearer ak_canary.secrets";
    let of = |line: &'static str| (line[..3].parse().unwrap(), [("authorization", &line[4..])]);
    let schemes: Vec<(u16, [Header<'_>; 1])> = schemes.split('|').map(of).collect();
    for (status, headers) in &schemes {
        rows.push(("GET", agents, headers, "", *status, "", Value::Null));
    }
    // An unknown path is not found by a valid credential only.
    let unknown = "GET /|GET /core/agents/|GET /core/conversations/|GET /core/conversations/1/end|DELETE /core/agents|\
                   POST /core/conversations/1|POST /admin/members/me/scopes|POST /mcp";
    for (method, path) in unknown.split('|').map(|line| line.split_once(' ').unwrap()) {
        rows.push((method, path, key, "", 404, "", detail("Not found")));
        rows.push((method, path, none, "", 401, "", Value::Null));
    }
    assert_answers(&rows).await;
}

async fn assert_answers(rows: &[Row<'_>]) {
    for (version, fake) in each_way().await {
        let peer = Peer::new(&fake, version);
        for (method, path, headers, body, status, place, expected) in rows {
            let case = format!("{version:?} {method} {path} {headers:?} {body}");
            let method = method.parse().unwrap();
            let answer = peer.send(&method, path, headers, body).await;
            assert_eq!(answer.status(), *status, "{case}");
            let content_type = &answer.headers()["content-type"];
            assert_eq!(content_type, "application/json", "{case}");
            if *path == "/core/agents" {
                assert!(!answer.headers().contains_key("www-authenticate"), "{case}");
            }
            if expected.is_null() {
                let key = if *path == "/mcp/" { "error" } else { "detail" };
                assert_eq!(answer.body()[key].is_string(), *status != 200, "{case}");
            } else {
                assert_eq!(answer.body().pointer(place), Some(expected), "{case}");
            }
            let received = fake.received();
            assert_eq!(received.last().unwrap().status(), *status, "{case}");
        }
        assert_eq!(fake.violations(), []);
    }
}

#[tokio::test]
async fn any_accepted_scope_is_enough_and_none_is_forbidden() {
    let conversations = "conversations:read conversations:read_sensitive conversations:manage";
    let cases = [
        (Method::GET, "/core/agents", "agents:read agents:manage"),
        (Method::POST, "/core/agents", "agents:manage"),
        (Method::GET, "/core/conversations/7", conversations),
    ];
    let scopes = format!("agents:read agents:manage {conversations} members:read agents");
    for version in VERSIONS {
        let fake = fake().await;
        let peer = Peer::new(&fake, version);
        for (method, path, accepted) in &cases {
            for scope in scopes.split(' ') {
                fake.add_api_key("ak_one.scope", "org_a", ["other:read", scope]);
                let answer = peer.send(method, path, &[BEARER_ONE], "").await;
                let case = format!("{version:?} {method} {path} {scope}");
                let is_accepted = accepted.split(' ').any(|accepted| accepted == scope);
                let status = if is_accepted { 200 } else { 403 };
                assert_eq!(answer.status(), status, "{case}");
                assert_eq!(answer.body()["detail"].is_string(), !is_accepted, "{case}");
                let challenge = answer.headers().get("www-authenticate");
                let challenge = challenge.map(|text| text.to_str().unwrap());
                let expected = format!("Bearer error=\"insufficient_scope\", scope=\"{accepted}\"");
                assert_eq!(challenge, (!is_accepted).then_some(&*expected), "{case}");
            }
        }
    }
}

#[tokio::test]
async fn a_posted_agent_is_listed_in_its_own_organization_only() {
    for (version, fake) in each_way().await {
        let peer = Peer::new(&fake, version);
        let post = async || {
            let body = r#"{"name":"Second"}"#;
            let posted = peer.post("/core/agents", &[BEARER_KEY], body).await;
            assert_eq!(posted.status(), StatusCode::OK);
            posted.into_body()
        };
        let posted = post().await;
        assert_eq!(posted["name"], "Second");
        assert_eq!(posted["organization_id"], "org_a");

        let listed = peer.get("/core/agents?limit=20", &[BEARER_KEY]).await;
        let agents = listed.body()["data"].as_array().unwrap();
        assert_eq!((agents.len(), &agents[1]), (2, &posted));
        let ids = [&agents[0]["id"], &posted["id"], &post().await["id"]];
        assert_eq!(HashSet::from(ids).len(), 3, "{ids:?}");
        let pagination = json!({ "limit": 20, "next_cursor": null });
        assert_eq!(listed.body()["pagination"], pagination);

        let headers = [BEARER_PAT, org("org_b")];
        let elsewhere = peer.get("/core/agents", &headers).await;
        assert_eq!(elsewhere.body()["data"].as_array().unwrap().len(), 1);
    }
}

#[tokio::test]
async fn a_conversation_is_reduced_unless_the_sensitive_scope_is_granted() {
    let safe = "agent_id channel direction duration id organization_id status".split(' ');
    let sensitive = "conversation summary recording_details custom_metadata".split(' ');
    for (version, fake) in each_way().await {
        let peer = Peer::new(&fake, version);
        for (scope, is_whole) in [("read", false), ("manage", false), ("read_sensitive", true)] {
            let scopes = [format!("conversations:{scope}")];
            fake.add_api_key("ak_one.scope", "org_a", scopes);
            let answer = peer.get("/core/conversations/c-1", &[BEARER_ONE]).await;
            assert_eq!(answer.body()["id"], "c-1");
            assert_eq!(answer.body()["organization_id"], "org_a");
            let has = |field| answer.body().as_object().unwrap().contains_key(field);
            assert!(safe.clone().all(has), "{scope}");
            assert!(sensitive.clone().all(|field| has(field) == is_whole));
        }
    }
}

#[tokio::test]
async fn broken_rules_are_recorded_and_refused_on_every_path() {
    use Rule::{EmptyOrganization, SeveralAuthorizations, SeveralOrganizations};
    const BESIDE: Rule = Rule::OrganizationBesideApiKey;

    let unknown_key = ("authorization", "bearer ak_unknown.key");
    let basic = ("authorization", "Basic eDp5");
    let (a, b) = (org("org_a"), org("org_b"));
    #[rustfmt::skip]
    let cases: [(Headers<'_>, &[Rule]); 8] = [
        (&[BEARER_KEY, BEARER_KEY], &[SeveralAuthorizations]),
        (&[basic, BEARER_PAT, b], &[SeveralAuthorizations]),
        (&[BEARER_PAT, b, b], &[SeveralOrganizations]),
        (&[BEARER_PAT, org("")], &[EmptyOrganization]),
        (&[BEARER_KEY, a], &[BESIDE]),
        (&[unknown_key, a], &[BESIDE]),
        (&[BEARER_PAT, BEARER_KEY, b], &[SeveralAuthorizations, BESIDE]),
        (&[BEARER_KEY, a, org("")], &[SeveralOrganizations, EmptyOrganization, BESIDE]),
    ];
    let paths = "/core/agents /elsewhere /core/public/web-widgets/x /mcp/";
    let of_version = |version| paths.split(' ').map(move |path| (version, path));
    for (version, path) in VERSIONS.into_iter().flat_map(of_version) {
        let key = if path == "/mcp/" { "error" } else { "detail" };
        let fake = fake().await;
        let peer = Peer::new(&fake, version);
        let mut expected = Vec::new();
        for (request, (headers, rules)) in cases.iter().enumerate() {
            let answer = peer.post(path, headers, "{}").await;
            assert_eq!(answer.status(), StatusCode::BAD_REQUEST, "{path} {rules:?}");
            let text = format!("The request has {}.", rules[0]);
            assert_eq!(*answer.body(), json!({ key: text }));
            expected.extend(rules.iter().map(|rule| (request, *rule)));
        }
        let mut recorded = Vec::new();
        for broken in fake.violations() {
            let (request, rule) = (broken.request(), broken.rule());
            recorded.push((request, rule));
            let text = format!("request {request} (POST {path}) has {rule}");
            assert_eq!(broken.to_string(), text);
        }
        assert_eq!(recorded, expected);
        assert_eq!(fake.received().len(), cases.len());
    }
    let rules = [0, 2, 3, 4].map(|case| cases[case].1[0].to_string());
    let expected = "more than one `Authorization` header; more than one `X-Anyreach-Org` header; \
                    an empty `X-Anyreach-Org` header; an `X-Anyreach-Org` header beside an `ak_` credential";
    assert_eq!(rules.join("; "), expected);
}

#[tokio::test]
async fn a_change_of_credentials_counts_on_an_open_connection() {
    for version in VERSIONS {
        let fake = FakeAnyreach::builder().start().await.unwrap();
        let peer = Peer::new(&fake, version);
        let status = async |credential: &str| {
            let authorization = format!("Bearer {credential}");
            let headers = [("authorization", &*authorization), org("org_b")];
            let headers = &headers[..if credential.starts_with("pat_") { 2 } else { 1 }];
            peer.get("/core/agents", headers).await.status().as_u16()
        };
        assert_eq!(status("ak_1.x").await, 401);
        for (scope, expected) in [("agents", 200), ("members", 403), ("agents", 200)] {
            fake.add_api_key("ak_1.x", "org_a", [format!("{scope}:read")]);
            assert_eq!(status("ak_1.x").await, expected);
        }
        fake.add_personal_access_token("pat_1", [("org_b", ["agents:read"])]);
        assert_eq!(status("pat_1").await, 200);
        for [old, new, unused] in [["ak_1.x", "ak_2.x", "ak_3.x"], ["pat_1", "pat_2", "pat_3"]] {
            assert!(fake.rotate(old, new) && !fake.rotate(old, unused));
            assert_eq!(status(old).await, 401);
            assert_eq!(status(new).await, 200);
            assert_eq!(status(unused).await, 401);
            assert!(fake.revoke(new) && !fake.revoke(new));
            assert_eq!(status(new).await, 401);
        }
    }
}
#[tokio::test]
async fn a_hook_replaces_delays_or_drops_answers_and_every_request_is_recorded() {
    const DELAY: Duration = Duration::from_millis(50);

    for version in VERSIONS.map(Some).into_iter().chain([None]) {
        let builder = builder().answer_with(async |request| {
            assert_eq!(request.body(), "hello");
            match request.path() {
                "/late" => sleep(DELAY).await,
                "/busy" => {
                    let response = Response::builder().status(429).header("retry-after", "1");
                    return FakeReply::Instead(response.body(Bytes::from("later")).unwrap());
                }
                "/gone" => return FakeReply::HangUp,
                _ => {}
            }
            FakeReply::Usual
        });
        let fake = match version {
            Some(_) => builder.start().await.unwrap(),
            None => builder.in_memory(),
        };
        let peer = Peer::new(&fake, version);
        for (path, status) in [
            ("/late", Some(404)),
            ("/busy", Some(429)),
            ("/gone", None),
            ("/core/agents", Some(200)),
        ] {
            let asked = Instant::now();
            let exchange = peer.exchange(&Method::GET, path, &[BEARER_KEY], "hello");
            let response = exchange.await;
            let found = response.as_ref().map(|response| response.status().as_u16());
            assert_eq!(found, status, "{version:?} {path}");
            assert!(path != "/late" || asked.elapsed() >= DELAY);
            if let Some(busy) = response.filter(|_| path == "/busy") {
                assert_eq!(busy.headers()["retry-after"], "1");
                assert_eq!(busy.body(), "later");
            }
        }
        // For the one that was dropped, the status that it would have had.
        let received = fake.received();
        let statuses = received.iter().map(|request| request.status().as_u16());
        assert_eq!(statuses.collect::<Vec<_>>(), [404, 429, 404, 200]);
        assert_eq!(fake.violations(), []);
    }
}
