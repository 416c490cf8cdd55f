//! `FakeAnyreach` over real sockets: each rule it documents, over HTTP/1.1 and HTTP/2.

use std::collections::HashSet;
use std::io::{ErrorKind, Read as _, Write as _};
use std::net::TcpStream;
use std::time::Duration;

use bytes::Bytes;
use http::header::AUTHORIZATION;
use http::{HeaderMap, Method, Request, Response, StatusCode, Uri, Version};
use http_body_util::{BodyExt, Full};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use serde_json::{Value, json};
use tower::ServiceExt as _;
use tower_anyreach::Origin;
use tower_anyreach::test_util::{FakeAnyreach, FakeAnyreachBuilder, FakeReply, Rule};

use support::bodies::{Scripted, Step};
use support::runtime::multi_thread;

const KEY: &str = "ak_canary.secret";
const PAT: &str = "pat_canary";
const VERSIONS: [Version; 2] = [Version::HTTP_11, Version::HTTP_2];

/// Method, path, headers and body; status, and what is where in the answer. Where that is null, an error has a text.
type Row<'a> = (&'a str, &'a str, Headers<'a>, &'a str, u16, &'a str, Value);

#[tokio::test]
async fn each_request_is_answered_as_documented() {
    let call = |tool: &str, organization: &str| {
        let arguments = json!({ "organization_id": organization });
        json!({ "id": 1, "method": "tools/call", "params": { "name": tool, "arguments": arguments } })
            .to_string()
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
    let key = &[bearer_key()][..];
    let pat = &[bearer_pat()][..];
    let [pat_a, pat_b, pat_c, pat_two, pat_upper] =
        ["org_a", "org_b", "org_c", "org_b, org_c", "ORG_B"].map(|name| [bearer_pat(), org(name)]);
    let basic = &[("authorization", "Basic eDp5")][..];
    let jwt = &[("authorization", "Bearer eyJ.eyJ.sig")][..];
    let unknown = &[("authorization", "Bearer ak_other.secret")][..];

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
        ("POST", "/mcp/", unknown, "{}", 401, "", Value::Null),
        ("GET", "/mcp/", key, "", 404, "", Value::Null),
        // Elsewhere they are the fake's own: a client must not be built on texts of /mcp/ that it never sees there.
        ("GET", agents, none, "", 401, "", detail("Not authenticated.")),
        ("GET", agents, jwt, "", 401, "", detail("Invalid credential.")),
        ("GET", agents, unknown, "", 401, "", Value::Null),
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
        // A public path asks for no credential, and minds none.
        ("GET", public, none, "", 200, "", Value::Null),
        ("GET", public, key, "", 200, "", Value::Null),
        ("GET", public, pat, "", 200, "", Value::Null),
        ("GET", public, basic, "", 200, "", Value::Null),
        ("GET", "/core/publicity", none, "", 401, "", Value::Null),
        ("GET", "/core/public/w-1", none, "", 401, "", Value::Null),
    ];
    // The scheme is taken in any case, with exactly one space after it, and the credential to the letter.
    let schemes = [
        ("Bearer ak_canary.secret", 200),
        ("bearer ak_canary.secret", 200),
        ("BEARER ak_canary.secret", 200),
        ("Bearer  ak_canary.secret", 401),
        ("Bearer\tak_canary.secret", 401),
        ("Bearerak_canary.secret", 401),
        ("Bearer", 401),
        ("Basic ak_canary.secret", 401),
        ("ak_canary.secret", 401),
        ("Bearer ak_canary.secrets", 401),
    ];
    let schemes = schemes.map(|(value, status)| ([("authorization", value)], status));
    for (headers, status) in &schemes {
        rows.push(("GET", agents, headers, "", *status, "", Value::Null));
    }
    // An unknown path is not found by a valid credential only.
    for (method, path) in [
        ("GET", "/"),
        ("GET", "/core/agents/"),
        ("GET", "/core/conversations/"),
        ("GET", "/core/conversations/1/end"),
        ("DELETE", agents),
        ("POST", "/core/conversations/1"),
        ("POST", scopes),
        ("POST", "/mcp"),
    ] {
        rows.push((method, path, key, "", 404, "", detail("Not found")));
        rows.push((method, path, none, "", 401, "", Value::Null));
    }
    assert_answers(&rows).await;
}

async fn assert_answers(rows: &[Row<'_>]) {
    for version in VERSIONS.map(Some).into_iter().chain([None]) {
        let fake = match version {
            Some(_) => fake().await,
            None => builder().in_memory(),
        };
        let peer = Peer::new(&fake, version);
        for (method, path, headers, body, status, place, expected) in rows {
            let case = format!("{version:?} {method} {path} {headers:?} {body}");
            let answer = peer
                .send(&method.parse().expect("a method"), path, headers, body)
                .await;
            assert_eq!(answer.status, *status, "{case}");
            assert_eq!(answer.headers["content-type"], "application/json", "{case}");
            if *path == "/core/agents" {
                assert!(!answer.headers.contains_key("www-authenticate"), "{case}");
            }
            if expected.is_null() {
                let key = if *path == "/mcp/" { "error" } else { "detail" };
                assert_eq!(answer.json[key].is_string(), *status != 200, "{case}");
            } else {
                assert_eq!(answer.json.pointer(place), Some(expected), "{case}");
            }
            let received = fake.received();
            assert_eq!(received.last().expect("one").status(), *status, "{case}");
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
                let answer = peer.send(method, path, &[bearer_one()], "").await;
                let case = format!("{version:?} {method} {path} {scope}");
                if accepted.split(' ').any(|accepted| accepted == scope) {
                    assert_eq!(answer.status, StatusCode::OK, "{case}");
                    assert!(!answer.headers.contains_key("www-authenticate"), "{case}");
                } else {
                    assert_eq!(answer.status, StatusCode::FORBIDDEN, "{case}");
                    assert!(answer.json["detail"].is_string(), "{case}");
                    let challenge =
                        format!("Bearer error=\"insufficient_scope\", scope=\"{accepted}\"");
                    assert_eq!(answer.headers["www-authenticate"], challenge, "{case}");
                }
            }
        }
    }
}

#[tokio::test]
async fn posted_agent_is_listed_in_its_own_organization_only() {
    for version in VERSIONS {
        let fake = fake().await;
        let peer = Peer::new(&fake, version);
        let body = r#"{"name":"Second"}"#;

        let posted = peer.post("/core/agents", &[bearer_key()], body).await;
        assert_eq!(posted.status, StatusCode::OK);
        assert_eq!(posted.json["name"], "Second");
        assert_eq!(posted.json["organization_id"], "org_a");

        let listed = peer.get("/core/agents?limit=20", &[bearer_key()]).await;
        let agents = listed.json["data"].as_array().expect("a list");
        assert_eq!(agents.len(), 2);
        assert_eq!(agents[1], posted.json);
        let another = peer.post("/core/agents", &[bearer_key()], body).await;
        let ids = [&agents[0]["id"], &posted.json["id"], &another.json["id"]];
        assert_eq!(HashSet::from(ids).len(), 3, "{ids:?}");
        assert_eq!(
            listed.json["pagination"],
            json!({ "limit": 20, "next_cursor": null })
        );

        let elsewhere = peer
            .get("/core/agents", &[bearer_pat(), org("org_b")])
            .await;
        assert_eq!(elsewhere.json["data"].as_array().map(Vec::len), Some(1));
    }
}

#[tokio::test]
async fn conversation_is_reduced_unless_the_sensitive_scope_is_granted() {
    let safe = [
        "agent_id",
        "channel",
        "direction",
        "duration",
        "id",
        "organization_id",
        "status",
    ];
    let sensitive = [
        "conversation",
        "summary",
        "recording_details",
        "custom_metadata",
    ];
    for version in VERSIONS {
        let fake = fake().await;
        let peer = Peer::new(&fake, version);
        for (scope, whole) in [
            ("conversations:read", false),
            ("conversations:manage", false),
            ("conversations:read_sensitive", true),
        ] {
            fake.add_api_key("ak_one.scope", "org_a", [scope]);
            let answer = peer.get("/core/conversations/c-1", &[bearer_one()]).await;

            assert_eq!(answer.json["id"], "c-1");
            assert_eq!(answer.json["organization_id"], "org_a");
            let fields = answer.json.as_object().expect("an object");
            for field in safe {
                assert!(fields.contains_key(field), "{field}");
            }
            for field in sensitive {
                assert_eq!(fields.contains_key(field), whole, "{field}");
            }
        }
    }
}

#[tokio::test]
async fn broken_rules_are_recorded_and_refused_on_every_path() {
    use Rule::{
        EmptyOrganization, OrganizationBesideApiKey, SeveralAuthorizations, SeveralOrganizations,
    };

    let foreign_key = ("authorization", "bearer ak_nobody.knows");
    let basic = ("authorization", "Basic eDp5");
    let cases: [(Headers<'_>, &[Rule]); 8] = [
        (&[bearer_key(), bearer_key()], &[SeveralAuthorizations]),
        (
            &[basic, bearer_pat(), org("org_b")],
            &[SeveralAuthorizations],
        ),
        (
            &[bearer_pat(), org("org_b"), org("org_b")],
            &[SeveralOrganizations],
        ),
        (&[bearer_pat(), org("")], &[EmptyOrganization]),
        (&[bearer_key(), org("org_a")], &[OrganizationBesideApiKey]),
        (&[foreign_key, org("org_a")], &[OrganizationBesideApiKey]),
        (
            &[bearer_pat(), bearer_key(), org("org_b")],
            &[SeveralAuthorizations, OrganizationBesideApiKey],
        ),
        (
            &[bearer_key(), org("org_a"), org("")],
            &[
                SeveralOrganizations,
                EmptyOrganization,
                OrganizationBesideApiKey,
            ],
        ),
    ];
    for version in VERSIONS {
        for (path, key) in [
            ("/core/agents", "detail"),
            ("/elsewhere", "detail"),
            ("/core/public/web-widgets/x", "detail"),
            ("/mcp/", "error"),
        ] {
            let fake = fake().await;
            let peer = Peer::new(&fake, version);
            let mut expected = Vec::new();
            for (place, (headers, rules)) in cases.iter().enumerate() {
                let answer = peer.post(path, headers, "{}").await;
                assert_eq!(answer.status, StatusCode::BAD_REQUEST, "{path} {rules:?}");
                assert_eq!(
                    answer.json,
                    json!({ key: format!("The request has {}.", rules[0]) })
                );
                expected.extend(rules.iter().map(|rule| (place, *rule)));
            }
            let recorded = fake.violations();
            let recorded = recorded
                .iter()
                .map(|broken| (broken.request(), broken.rule()));
            assert_eq!(recorded.collect::<Vec<_>>(), expected);
            assert_eq!(fake.received().len(), cases.len());
        }
    }
}

#[tokio::test]
async fn violation_says_which_rule_and_which_request() {
    let fake = fake().await;
    let peer = Peer::new(&fake, Version::HTTP_11);
    peer.get("/core/agents", &[bearer_key()]).await;
    peer.get("/core/agents?x=1", &[bearer_key(), org("org_a")])
        .await;
    peer.get("/core/agents", &[bearer_key(), bearer_key()])
        .await;
    peer.get("/core/agents", &[bearer_pat(), org("org_b"), org("org_c")])
        .await;
    peer.get("/core/agents", &[bearer_pat(), org("")]).await;

    let texts: Vec<_> = fake.violations().iter().map(ToString::to_string).collect();
    assert_eq!(
        texts,
        [
            "request 1 (GET /core/agents) has an `X-Anyreach-Org` header beside an `ak_` credential",
            "request 2 (GET /core/agents) has more than one `Authorization` header",
            "request 3 (GET /core/agents) has more than one `X-Anyreach-Org` header",
            "request 4 (GET /core/agents) has an empty `X-Anyreach-Org` header",
        ]
    );
}

#[tokio::test]
async fn received_holds_every_request_as_it_came_and_as_it_was_answered() {
    for version in VERSIONS {
        let fake = fake().await;
        let peer = Peer::new(&fake, version);
        peer.get("/core/agents?limit=1", &[]).await;
        let headers = [bearer_key(), ("x-test", "1")];
        peer.post("/core/agents", &headers, r#"{"name":"n"}"#).await;

        let received = fake.received();
        assert_eq!(received.len(), 2);
        assert_eq!(received[0].method(), Method::GET);
        assert_eq!(received[0].path(), "/core/agents");
        assert_eq!(received[0].uri().query(), Some("limit=1"));
        assert_eq!(received[0].version(), version);
        assert_eq!(received[0].status(), StatusCode::UNAUTHORIZED);
        assert!(received[0].body().is_empty());

        assert_eq!(received[1].method(), Method::POST);
        assert_eq!(received[1].body(), r#"{"name":"n"}"#);
        assert_eq!(received[1].headers()["x-test"], "1");
        assert_eq!(
            received[1].headers()["authorization"],
            "Bearer ak_canary.secret"
        );
        assert!(received[1].headers()["authorization"].is_sensitive());
        assert!(!received[1].headers()["x-test"].is_sensitive());
        assert_eq!(received[1].status(), StatusCode::OK);
    }
}

/// U8.
#[tokio::test]
async fn a_hook_answers_in_the_place_of_the_fake_late_or_not_at_all_and_every_request_is_recorded()
{
    let hooked = || {
        builder().answer_with(async |request| {
            assert_eq!(request.body(), "hello");
            match request.path() {
                "/late" => tokio::time::sleep(Duration::from_millis(50)).await,
                "/busy" => {
                    let response = Response::builder().status(429).header("retry-after", "1");
                    return FakeReply::Instead(response.body(Bytes::from("later")).unwrap());
                }
                "/gone" => return FakeReply::HangUp,
                _ => {}
            }
            FakeReply::Usual
        })
    };
    let expected = [
        ("/late", Some(404)),
        ("/busy", Some(429)),
        ("/gone", None),
        ("/core/agents", Some(200)),
    ];
    let request = |uri: Uri| {
        let request = Request::get(uri).header(AUTHORIZATION, format!("Bearer {KEY}"));
        request.body(Full::new(Bytes::from("hello"))).unwrap()
    };
    let assert_recorded = |anyreach: &FakeAnyreach| {
        let statuses = anyreach
            .received()
            .iter()
            .map(|request| request.status().as_u16())
            .collect::<Vec<_>>();
        // Of one that was given up, what its head had earned.
        assert_eq!(statuses, [404, 429, 404, 200]);
        assert_eq!(anyreach.violations(), []);
    };
    for version in VERSIONS {
        let anyreach = hooked().start().await.unwrap();
        let client = client(version);
        for (path, status) in expected {
            let asked = std::time::Instant::now();
            let response = client.request(request(anyreach.uri(path))).await;
            assert_eq!(
                response
                    .as_ref()
                    .ok()
                    .map(|response| response.status().as_u16()),
                status
            );
            assert!(path != "/late" || asked.elapsed() >= Duration::from_millis(50));
            if path == "/busy" {
                let (head, body) = response.unwrap().into_parts();
                assert_eq!(head.headers["retry-after"], "1");
                assert_eq!(body.collect().await.unwrap().to_bytes(), "later");
            }
        }
        assert_recorded(&anyreach);
    }
    let anyreach = hooked().in_memory();
    for (path, status) in expected {
        let response = anyreach
            .service()
            .oneshot(request(anyreach.uri(path)))
            .await;
        assert_eq!(
            response.ok().map(|response| response.status().as_u16()),
            status
        );
    }
    assert_recorded(&anyreach);
}

#[tokio::test]
async fn credential_added_rotated_or_revoked_counts_on_a_living_connection() {
    for version in VERSIONS {
        let fake = FakeAnyreach::builder().start().await.expect("a free port");
        let peer = Peer::new(&fake, version);
        let status = async |credential: &str| {
            let authorization = format!("Bearer {credential}");
            let headers = [("authorization", &*authorization), org("org_b")];
            let headers = &headers[..if credential.starts_with("pat_") { 2 } else { 1 }];
            peer.get("/core/agents", headers).await.status
        };

        assert_eq!(status("ak_1.x").await, StatusCode::UNAUTHORIZED);
        fake.add_api_key("ak_1.x", "org_a", ["agents:read"]);
        assert_eq!(status("ak_1.x").await, StatusCode::OK);
        fake.add_api_key("ak_1.x", "org_a", ["members:read"]);
        assert_eq!(status("ak_1.x").await, StatusCode::FORBIDDEN);
        fake.add_api_key("ak_1.x", "org_a", ["agents:read"]);

        assert!(fake.rotate("ak_1.x", "ak_2.x"));
        assert_eq!(status("ak_1.x").await, StatusCode::UNAUTHORIZED);
        assert_eq!(status("ak_2.x").await, StatusCode::OK);
        assert!(!fake.rotate("ak_1.x", "ak_3.x"));
        assert_eq!(status("ak_3.x").await, StatusCode::UNAUTHORIZED);

        assert!(fake.revoke("ak_2.x"));
        assert!(!fake.revoke("ak_2.x"));
        assert_eq!(status("ak_2.x").await, StatusCode::UNAUTHORIZED);

        fake.add_personal_access_token("pat_1", [("org_b", ["agents:read"])]);
        assert_eq!(status("pat_1").await, StatusCode::OK);
        assert!(fake.rotate("pat_1", "pat_2"));
        assert_eq!(status("pat_1").await, StatusCode::UNAUTHORIZED);
        assert_eq!(status("pat_2").await, StatusCode::OK);
        assert!(fake.revoke("pat_2"));
        assert_eq!(status("pat_2").await, StatusCode::UNAUTHORIZED);
    }
}

#[tokio::test]
async fn rotation_to_another_kind_panics_and_changes_nothing() {
    let fake = fake().await;
    let rotated = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        fake.rotate(KEY, "pat_new");
    }));
    assert!(rotated.is_err());

    let peer = Peer::new(&fake, Version::HTTP_11);
    let answer = peer.get("/core/agents", &[bearer_key()]).await;
    assert_eq!(answer.status, StatusCode::OK);
}

#[test]
#[should_panic(expected = "an organization API key starts with `ak_`")]
fn api_key_without_its_prefix_panics() {
    let _ = FakeAnyreach::builder().api_key("pat_x", "org_a", ["agents:read"]);
}

#[test]
#[should_panic(expected = "a personal access token starts with `pat_`")]
fn personal_access_token_without_its_prefix_panics() {
    let _ = FakeAnyreach::builder().personal_access_token("ak_x", [("org_a", ["agents:read"])]);
}

#[tokio::test]
#[should_panic(expected = "a path starts with `/`")]
async fn uri_of_what_is_no_path_panics() {
    let _ = fake().await.uri("core/agents");
}

#[tokio::test]
async fn nothing_that_is_shown_holds_a_credential() {
    let builder = builder();
    let mut shown = vec![format!("{builder:?}{builder:#?}")];
    let fake = builder.start().await.expect("a free port");

    for version in VERSIONS {
        let peer = Peer::new(&fake, version);
        for path in [
            "/core/agents",
            "/core/agents?token=ak_canary.secret",
            "/x/ak_canary.secret",
            "/x/pat_canary/y",
            "/x;token=AK_canary.secret",
            "/mcp/",
        ] {
            for headers in [
                &[bearer_key()][..],
                &[bearer_pat(), org("org_b")],
                &[bearer_pat(), bearer_key(), org("org_b")],
                &[("authorization", KEY)],
                &[("x-api-key", KEY), ("cookie", "session=pat_canary")],
                &[bearer_pat(), org(KEY)],
            ] {
                let body = "pat_canary ak_canary.secret";
                let answer = peer.post(path, headers, body).await;
                shown.push(format!("{:?} {}", answer.headers, answer.json));
            }
        }
    }
    shown.push(format!("{fake:?}{fake:#?}{:?}", fake.received()));
    for violation in fake.violations() {
        shown.push(format!("{violation:?}{violation}"));
    }

    assert_eq!(fake.received().len(), 72);
    assert!(!fake.violations().is_empty());
    for text in shown {
        assert!(!text.contains("canary"), "{text}");
    }
}

#[test]
fn drop_closes_port_and_connections_and_leaves_no_task() {
    // Two of them, so that the tasks of the server can be counted.
    let [servers, clients] = [multi_thread(1), multi_thread(1)];

    for version in VERSIONS {
        let fake = servers.block_on(fake());
        let uri = fake.uri("/core/agents");
        let address = uri.authority().expect("an authority").as_str().to_owned();
        let mut idle = TcpStream::connect(&address).expect("a connection");
        // A refusal keeps the connection alive.
        for _ in 0..2 {
            assert_eq!(raw_status(&mut idle), "401");
        }

        let unfinished = Request::post(uri)
            .header("authorization", "Bearer ak_canary.secret")
            .body(Scripted::new([Step::Hang]))
            .expect("a request");
        let unfinished = clients.spawn(client(version).request(unfinished));
        until(|| fake.received().len() == 3);
        assert_eq!(fake.received()[2].status(), StatusCode::OK);
        assert!(servers.metrics().num_alive_tasks() >= 3);

        drop(fake);
        let refused = TcpStream::connect(&address).expect_err("a closed port");
        assert_eq!(refused.kind(), ErrorKind::ConnectionRefused);
        idle.set_read_timeout(Some(Duration::from_secs(10)))
            .expect("more than no time");
        let rest = idle.read(&mut [0; 16]).map_err(|error| error.kind());
        assert!(
            matches!(rest, Ok(0) | Err(ErrorKind::ConnectionReset)),
            "{rest:?}"
        );
        let unfinished = clients.block_on(unfinished).expect("no panic");
        assert!(unfinished.is_err());
        until(|| servers.metrics().num_alive_tasks() == 0);
    }
}

#[test]
fn server_may_be_dropped_after_its_runtime() {
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    let fake = runtime.block_on(fake());
    drop(runtime);
    assert!(fake.received().is_empty());
    drop(fake);
}

fn builder() -> FakeAnyreachBuilder {
    FakeAnyreach::builder()
        .api_key(KEY, "org_a", ["agents:manage", "conversations:read"])
        .personal_access_token(
            PAT,
            [
                ("org_b", vec!["agents:read"]),
                ("org_c", vec!["agents:read", "conversations:read_sensitive"]),
            ],
        )
}

async fn fake() -> FakeAnyreach {
    builder().start().await.expect("a free port")
}

fn bearer_key() -> (&'static str, &'static str) {
    ("authorization", "Bearer ak_canary.secret")
}

fn bearer_one() -> (&'static str, &'static str) {
    ("authorization", "Bearer ak_one.scope")
}

fn bearer_pat() -> (&'static str, &'static str) {
    ("authorization", "Bearer pat_canary")
}

fn org(organization: &str) -> (&'static str, &str) {
    ("x-anyreach-org", organization)
}

type Headers<'a> = &'a [(&'a str, &'a str)];

/// A client that speaks one version of HTTP to one server, or none and calls it in memory.
struct Peer<'a> {
    fake: &'a FakeAnyreach,
    client: Option<Client<HttpConnector, Full<Bytes>>>,
}

impl<'a> Peer<'a> {
    fn new(fake: &'a FakeAnyreach, version: impl Into<Option<Version>>) -> Self {
        let client = version.into().map(client);
        Self { fake, client }
    }

    async fn get(&self, path: &str, headers: Headers<'_>) -> Answer {
        self.send(&Method::GET, path, headers, "").await
    }

    async fn post(&self, path: &str, headers: Headers<'_>, body: &str) -> Answer {
        self.send(&Method::POST, path, headers, body).await
    }

    async fn send(&self, method: &Method, path: &str, headers: Headers<'_>, body: &str) -> Answer {
        let mut request = Request::builder().method(method).uri(self.fake.uri(path));
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let request = request
            .body(Full::from(body.to_owned()))
            .expect("a request");
        let response = if let Some(client) = &self.client {
            let response = client.request(request).await.expect("an answer");
            response.map(BodyExt::boxed_unsync)
        } else {
            let response = self.fake.service().oneshot(request).await;
            let response = response.expect("an answer");
            response.map(|body| body.map_err(|never| match never {}).boxed_unsync())
        };
        let (head, body) = response.into_parts();
        let body = body.collect().await.expect("a body").to_bytes();
        Answer {
            status: head.status,
            headers: head.headers,
            json: serde_json::from_slice(&body).expect("JSON"),
        }
    }
}

fn client<B>(version: Version) -> Client<HttpConnector, B>
where
    B: http_body::Body<Data: Send> + Send,
{
    Client::builder(TokioExecutor::new())
        .http2_only(version == Version::HTTP_2)
        .build_http()
}

struct Answer {
    status: StatusCode,
    headers: HeaderMap,
    json: Value,
}

/// The status of a request without credential, on a socket that is not closed by it.
fn raw_status(stream: &mut TcpStream) -> String {
    stream
        .write_all(b"GET /core/agents HTTP/1.1\r\nhost: 127.0.0.1\r\n\r\n")
        .expect("an open connection");
    let mut answer = Vec::new();
    while !answer.ends_with(b"}") {
        let mut byte = [0];
        stream.read_exact(&mut byte).expect("an answer");
        answer.push(byte[0]);
    }
    let answer = String::from_utf8(answer).expect("text");
    answer["HTTP/1.1 ".len()..][..3].to_owned()
}

/// Waits for another thread, ten seconds at most.
#[track_caller]
fn until(condition: impl Fn() -> bool) {
    let begun = std::time::Instant::now();
    while !condition() {
        assert!(begun.elapsed() < Duration::from_secs(10), "it never came");
        std::thread::yield_now();
    }
}

// In memory.

#[tokio::test]
async fn in_memory_it_has_the_origin_of_the_api_and_credentials_that_may_be_revoked() {
    let fake = builder().in_memory();
    assert_eq!(fake.origin(), Origin::default());
    assert_eq!(
        fake.uri("/core/agents"),
        "https://api.anyreach.ai/core/agents"
    );
    let peer = Peer::new(&fake, None);
    let status = async || peer.get("/core/agents", &[bearer_key()]).await.status;
    assert_eq!(status().await, StatusCode::OK);
    fake.revoke(KEY);
    assert_eq!(status().await, StatusCode::UNAUTHORIZED);
}

#[tokio::test]
async fn debug_counts_credentials_and_requests_and_shows_none() {
    let builder = builder();
    assert_eq!(
        format!("{builder:?}"),
        "FakeAnyreachBuilder { credentials: 2, .. }"
    );
    let fake = builder.in_memory();
    let service = fake.service();
    assert_eq!(format!("{service:?}"), "FakeService { .. }");
    let request = Request::get(fake.uri("/core/agents")).body(String::new());
    service.oneshot(request.unwrap()).await.unwrap();
    assert_eq!(
        format!("{fake:?}"),
        "FakeAnyreach { port: None, credentials: 2, received: 1, violations: [], .. }"
    );
    let received = format!("{:?}", fake.received()[0]);
    assert!(
        received.starts_with("ReceivedRequest { method: GET, path: \"/core/agents\"")
            && received.contains("status: 401"),
        "{received}"
    );
}

#[tokio::test]
async fn of_an_upload_without_end_64_mib_are_read_and_one_is_kept() {
    let fake = builder().in_memory();
    let upload = Scripted::endless(|| Step::data(vec![b' '; 1 << 20]));
    let record = upload.record();
    let request = Request::post(fake.uri("/core/agents"))
        .header(AUTHORIZATION, format!("Bearer {KEY}"))
        .body(upload)
        .unwrap();
    fake.service().oneshot(request).await.unwrap();
    // One more shows that there is more.
    assert_eq!(record.polls(), 65);
    assert_eq!(fake.received()[0].body().len(), 1 << 20);
}
