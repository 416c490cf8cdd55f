//! `FakeAnyreach` over real sockets: each rule it documents, over HTTP/1.1 and HTTP/2.

use std::collections::HashSet;
use std::io::{ErrorKind, Read as _, Write as _};
use std::net::TcpStream;
use std::time::Duration;

use bytes::Bytes;
use http::header::AUTHORIZATION;
use http::{HeaderMap, Method, Request, StatusCode, Version};
use http_body_util::{BodyExt as _, Full};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use serde_json::{Value, json};
use tower::ServiceExt as _;
use tower_anyreach::Origin;
use tower_anyreach::test_util::{FakeAnyreach, ReceivedRequest, Rule};

use crate::bodies::{Scripted, Step};

const KEY: &str = "ak_canary.secret";
const PAT: &str = "pat_canary";
const VERSIONS: [Version; 2] = [Version::HTTP_11, Version::HTTP_2];

#[tokio::test]
async fn bearer_scheme_is_taken_in_any_case_with_exactly_one_space() {
    let cases = [
        ("Bearer ak_canary.secret", StatusCode::OK),
        ("bearer ak_canary.secret", StatusCode::OK),
        ("BEARER ak_canary.secret", StatusCode::OK),
        ("Bearer  ak_canary.secret", StatusCode::UNAUTHORIZED),
        ("Bearer\tak_canary.secret", StatusCode::UNAUTHORIZED),
        ("Bearerak_canary.secret", StatusCode::UNAUTHORIZED),
        ("Bearer", StatusCode::UNAUTHORIZED),
        ("Basic ak_canary.secret", StatusCode::UNAUTHORIZED),
        ("ak_canary.secret", StatusCode::UNAUTHORIZED),
        ("Bearer ak_canary.secrets", StatusCode::UNAUTHORIZED),
        ("Bearer ak_other.secret", StatusCode::UNAUTHORIZED),
        ("Bearer eyJ.eyJ.sig", StatusCode::UNAUTHORIZED),
    ];
    for version in VERSIONS {
        let fake = fake().await;
        let peer = Peer::new(&fake, version);
        for (authorization, expected) in cases {
            let answer = peer
                .get("/core/agents", &[("authorization", authorization)])
                .await;
            assert_eq!(answer.status, expected, "{version:?} {authorization}");
            assert_eq!(answer.headers["content-type"], "application/json");
            assert_eq!(
                answer.json["detail"].is_string(),
                expected != StatusCode::OK
            );
            assert!(!answer.headers.contains_key("www-authenticate"));
        }
        assert_eq!(fake.violations(), []);
    }
}

#[tokio::test]
async fn pat_needs_an_organization_of_its_user() {
    for version in VERSIONS {
        let fake = fake().await;
        let peer = Peer::new(&fake, version);

        for path in ["/core/agents", "/admin/members/me/scopes", "/elsewhere"] {
            let answer = peer.get(path, &[bearer_pat()]).await;
            assert_eq!(answer.status, StatusCode::UNAUTHORIZED);
            assert_eq!(
                answer.json,
                json!({ "detail": "Token is missing organization claim." })
            );
        }
        for organization in ["org_b", "org_c"] {
            let answer = peer
                .get("/core/agents", &[bearer_pat(), org(organization)])
                .await;
            assert_eq!(answer.status, StatusCode::OK);
            assert_eq!(answer.json["data"][0]["organization_id"], organization);
        }
        for organization in ["org_a", "org_b, org_c", "ORG_B"] {
            let answer = peer
                .get("/core/agents", &[bearer_pat(), org(organization)])
                .await;
            assert_eq!(answer.status, StatusCode::FORBIDDEN, "{organization}");
            assert!(answer.json["detail"].is_string());
            assert!(!answer.headers.contains_key("www-authenticate"));
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
    let scopes = [
        "agents:read",
        "agents:manage",
        "conversations:read",
        "conversations:read_sensitive",
        "conversations:manage",
        "members:read",
        "agents",
    ];
    for version in VERSIONS {
        let fake = fake().await;
        let peer = Peer::new(&fake, version);
        for (method, path, accepted) in &cases {
            for scope in scopes {
                fake.add_api_key("ak_one.scope", "org_a", ["other:read", scope]);
                let answer = peer
                    .send(
                        method,
                        path,
                        &[("authorization", "Bearer ak_one.scope")],
                        "",
                    )
                    .await;
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
async fn scopes_of_a_pat_are_those_of_the_named_organization() {
    for version in VERSIONS {
        let fake = fake().await;
        let peer = Peer::new(&fake, version);
        let path = "/admin/members/me/scopes";

        let answer = peer.get(path, &[bearer_key()]).await;
        assert_eq!(answer.json, json!(["agents:manage", "conversations:read"]));
        let answer = peer.get(path, &[bearer_pat(), org("org_b")]).await;
        assert_eq!(answer.json, json!(["agents:read"]));
        let answer = peer.get(path, &[bearer_pat(), org("org_c")]).await;
        assert_eq!(
            answer.json,
            json!(["agents:read", "conversations:read_sensitive"])
        );
    }
}

#[tokio::test]
async fn posted_agent_is_listed_in_its_own_organization_only() {
    for version in VERSIONS {
        let fake = fake().await;
        let peer = Peer::new(&fake, version);
        let body = r#"{"name":"Second"}"#;

        let posted = peer
            .send(&Method::POST, "/core/agents", &[bearer_key()], body)
            .await;
        assert_eq!(posted.status, StatusCode::OK);
        assert_eq!(posted.json["name"], "Second");
        assert_eq!(posted.json["organization_id"], "org_a");

        let listed = peer.get("/core/agents?limit=20", &[bearer_key()]).await;
        let agents = listed.json["data"].as_array().expect("a list");
        assert_eq!(agents.len(), 2);
        assert_eq!(agents[1], posted.json);
        let another = peer
            .send(&Method::POST, "/core/agents", &[bearer_key()], body)
            .await;
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
    let sensitive = ["transcript", "summary", "recording", "metadata"];
    for version in VERSIONS {
        let fake = fake().await;
        let peer = Peer::new(&fake, version);
        for (scope, whole) in [
            ("conversations:read", false),
            ("conversations:manage", false),
            ("conversations:read_sensitive", true),
        ] {
            fake.add_api_key("ak_one.scope", "org_a", [scope]);
            let headers = [("authorization", "Bearer ak_one.scope")];
            let answer = peer.get("/core/conversations/c-1", &headers).await;

            assert_eq!(answer.json["id"], "c-1");
            assert_eq!(answer.json["organization_id"], "org_a");
            let fields = answer.json.as_object().expect("an object");
            assert!(safe.iter().all(|field| fields.contains_key(*field)));
            assert!(
                sensitive
                    .iter()
                    .all(|field| fields.contains_key(*field) == whole)
            );
        }
    }
}

#[tokio::test]
async fn mcp_errors_have_their_own_key_and_texts() {
    let missing = "Missing Bearer token";
    let unrecognized = "Unrecognized token format. Expected a personal access token (pat_...) \
                        or organization API key (ak_...).";
    for version in VERSIONS {
        let fake = fake().await;
        let peer = Peer::new(&fake, version);
        for (headers, text) in [
            (&[][..], missing),
            (&[("authorization", "Basic eDp5")], missing),
            (&[("authorization", "Bearer eyJ.eyJ.sig")], unrecognized),
            (&[bearer_pat()], "Token is missing organization claim."),
        ] {
            let answer = peer.send(&Method::POST, "/mcp/", headers, "{}").await;
            assert_eq!(answer.status, StatusCode::UNAUTHORIZED);
            assert_eq!(answer.headers["content-type"], "application/json");
            assert_eq!(answer.json, json!({ "error": text }));
        }

        let unknown = [("authorization", "Bearer ak_other.secret")];
        let answer = peer.send(&Method::POST, "/mcp/", &unknown, "{}").await;
        assert_eq!(answer.status, StatusCode::UNAUTHORIZED);
        assert!(answer.json["error"].is_string());

        let answer = peer.get("/mcp/", &[bearer_key()]).await;
        assert_eq!(answer.status, StatusCode::NOT_FOUND);
        assert!(answer.json["error"].is_string());

        // Elsewhere they are the fake's own: a client must not be built on texts of /mcp/ that it never sees there.
        for (headers, text) in [
            (&[][..], "Not authenticated."),
            (
                &[("authorization", "Bearer eyJ.eyJ.sig")],
                "Invalid credential.",
            ),
        ] {
            let answer = peer.get("/core/agents", headers).await;
            assert_eq!(answer.json, json!({ "detail": text }));
        }
    }
}

#[tokio::test]
async fn mcp_reply_has_the_id_of_its_message() {
    for version in VERSIONS {
        let fake = fake().await;
        let peer = Peer::new(&fake, version);
        for (body, id) in [
            (
                r#"{"jsonrpc":"2.0","id":7,"method":"tools/list"}"#,
                json!(7),
            ),
            (r#"{"id":"seven"}"#, json!("seven")),
            ("no json", json!(null)),
        ] {
            let answer = peer
                .send(&Method::POST, "/mcp/", &[bearer_key()], body)
                .await;
            assert_eq!(answer.status, StatusCode::OK);
            assert_eq!(
                answer.json,
                json!({ "jsonrpc": "2.0", "id": id, "result": {} })
            );
        }
    }
}

#[tokio::test]
async fn mcp_takes_the_organization_of_a_pat_from_header_or_argument() {
    let call = |tool: &str, organization: &str| {
        let arguments = json!({ "organization_id": organization });
        json!({ "id": 1, "method": "tools/call", "params": { "name": tool, "arguments": arguments } })
            .to_string()
    };
    for version in VERSIONS {
        let fake = fake().await;
        let peer = Peer::new(&fake, version);
        for (headers, body, expected) in [
            (
                &[bearer_pat(), org("org_b")][..],
                String::new(),
                StatusCode::OK,
            ),
            (&[bearer_pat()], call("call_tool", "org_b"), StatusCode::OK),
            (
                &[bearer_pat()],
                call("call_tool", "org_a"),
                StatusCode::FORBIDDEN,
            ),
            (
                &[bearer_pat()],
                call("search_tools", "org_b"),
                StatusCode::UNAUTHORIZED,
            ),
            (
                &[bearer_pat(), org("org_a")],
                call("call_tool", "org_b"),
                StatusCode::FORBIDDEN,
            ),
        ] {
            let answer = peer.send(&Method::POST, "/mcp/", headers, &body).await;
            assert_eq!(answer.status, expected, "{body}");
            let received = fake.received();
            assert_eq!(received.last().map(ReceivedRequest::status), Some(expected));
        }
        // Elsewhere a body names no organization.
        let body = call("call_tool", "org_b");
        let answer = peer
            .send(&Method::POST, "/core/agents", &[bearer_pat()], &body)
            .await;
        assert_eq!(answer.status, StatusCode::UNAUTHORIZED);
    }
}

#[tokio::test]
async fn public_path_asks_for_no_credential_and_minds_none() {
    for version in VERSIONS {
        let fake = fake().await;
        let peer = Peer::new(&fake, version);
        let path = "/core/public/web-widgets/w-1";
        for headers in [
            &[][..],
            &[bearer_key()],
            &[bearer_pat()],
            &[("authorization", "Basic eDp5")],
        ] {
            let answer = peer.get(path, headers).await;
            assert_eq!(answer.status, StatusCode::OK);
        }
        for path in ["/core/publicity", "/core/public/w-1"] {
            let answer = peer.get(path, &[]).await;
            assert_eq!(answer.status, StatusCode::UNAUTHORIZED);
        }
        assert_eq!(fake.violations(), []);
    }
}

#[tokio::test]
async fn unknown_path_is_not_found_by_a_valid_credential_only() {
    let cases = [
        (Method::GET, "/"),
        (Method::GET, "/core/agents/"),
        (Method::GET, "/core/conversations/"),
        (Method::GET, "/core/conversations/1/end"),
        (Method::DELETE, "/core/agents"),
        (Method::POST, "/core/conversations/1"),
        (Method::POST, "/admin/members/me/scopes"),
        (Method::POST, "/mcp"),
    ];
    for version in VERSIONS {
        let fake = fake().await;
        let peer = Peer::new(&fake, version);
        for (method, path) in &cases {
            let answer = peer.send(method, path, &[bearer_key()], "").await;
            assert_eq!(answer.status, StatusCode::NOT_FOUND, "{method} {path}");
            assert_eq!(answer.json, json!({ "detail": "Not found" }));

            let answer = peer.send(method, path, &[], "").await;
            assert_eq!(answer.status, StatusCode::UNAUTHORIZED, "{method} {path}");
        }
    }
}

#[tokio::test]
async fn broken_rules_are_recorded_and_refused_on_every_path() {
    let foreign_key = ("authorization", "bearer ak_nobody.knows");
    let cases: [(Headers<'_>, &[Rule]); 8] = [
        (
            &[bearer_key(), bearer_key()],
            &[Rule::SeveralAuthorizations],
        ),
        (
            &[("authorization", "Basic eDp5"), bearer_pat(), org("org_b")],
            &[Rule::SeveralAuthorizations],
        ),
        (
            &[bearer_pat(), org("org_b"), org("org_b")],
            &[Rule::SeveralOrganizations],
        ),
        (&[bearer_pat(), org("")], &[Rule::EmptyOrganization]),
        (
            &[bearer_key(), org("org_a")],
            &[Rule::OrganizationBesideApiKey],
        ),
        (
            &[foreign_key, org("org_a")],
            &[Rule::OrganizationBesideApiKey],
        ),
        (
            &[bearer_pat(), bearer_key(), org("org_b")],
            &[Rule::SeveralAuthorizations, Rule::OrganizationBesideApiKey],
        ),
        (
            &[bearer_key(), org("org_a"), org("")],
            &[
                Rule::SeveralOrganizations,
                Rule::EmptyOrganization,
                Rule::OrganizationBesideApiKey,
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
                let answer = peer.send(&Method::POST, path, headers, "{}").await;
                assert_eq!(answer.status, StatusCode::BAD_REQUEST, "{path} {rules:?}");
                assert_eq!(
                    answer.json,
                    json!({ key: format!("The request has {}.", rules[0]) })
                );
                expected.extend(rules.iter().map(|rule| (place, *rule)));
            }
            let recorded: Vec<_> = fake
                .violations()
                .iter()
                .map(|violation| (violation.request(), violation.rule()))
                .collect();
            assert_eq!(recorded, expected);
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
        peer.send(
            &Method::POST,
            "/core/agents",
            &[bearer_key(), ("x-test", "1")],
            r#"{"name":"n"}"#,
        )
        .await;

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
async fn origin_and_uris_name_the_same_server() {
    let fake = fake().await;
    let uri = fake.uri("/core/agents?limit=1");
    assert_eq!(uri.host(), Some("127.0.0.1"));
    assert_eq!(
        uri.path_and_query().map(http::uri::PathAndQuery::as_str),
        Some("/core/agents?limit=1")
    );
    let origin = format!("http://{}", uri.authority().expect("an authority"));
    assert_eq!(fake.origin(), origin.parse().expect("an origin"));
}

#[tokio::test]
async fn nothing_that_is_shown_holds_a_credential() {
    let builder = FakeAnyreach::builder()
        .api_key(KEY, "org_a", ["agents:read"])
        .personal_access_token(PAT, [("org_b", ["agents:read"])]);
    let mut shown = vec![format!("{builder:?}{builder:#?}")];
    let fake = builder.start().await.expect("a free port");

    for version in VERSIONS {
        let peer = Peer::new(&fake, version);
        for path in [
            "/core/agents",
            "/core/agents?token=ak_canary.secret",
            "/x/ak_canary.secret",
            "/x/pat_canary/y",
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
                let answer = peer
                    .send(&Method::POST, path, headers, "pat_canary ak_canary.secret")
                    .await;
                shown.push(format!("{:?} {}", answer.headers, answer.json));
            }
        }
    }
    shown.push(format!("{fake:?}{fake:#?}{:?}", fake.received()));
    for violation in fake.violations() {
        shown.push(format!("{violation:?}{violation}"));
    }

    assert_eq!(fake.received().len(), 60);
    assert!(!fake.violations().is_empty());
    for text in shown {
        assert!(!text.contains("canary"), "{text}");
    }
}

#[tokio::test]
async fn http_1_connection_is_kept_alive_after_a_refusal() {
    let fake = fake().await;
    let uri = fake.uri("/core/agents");
    let address = uri.authority().expect("an authority").as_str().to_owned();
    let statuses = tokio::task::spawn_blocking(move || {
        let mut stream = TcpStream::connect(address).expect("a connection");
        (0..2).map(|_| raw_status(&mut stream)).collect::<Vec<_>>()
    });
    assert_eq!(statuses.await.expect("no panic"), ["401", "401"]);
}

#[test]
fn drop_closes_port_and_connections_and_leaves_no_task() {
    let runtime = |name| {
        tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .thread_name(name)
            .enable_all()
            .build()
            .expect("a runtime")
    };
    // Two of them, so that the tasks of the server can be counted.
    let servers = runtime("server");
    let clients = runtime("client");

    for version in VERSIONS {
        let fake = servers.block_on(fake());
        let uri = fake.uri("/core/agents");
        let address = uri.authority().expect("an authority").as_str().to_owned();
        let mut idle = TcpStream::connect(&address).expect("a connection");
        assert_eq!(raw_status(&mut idle), "401");

        let unfinished = Request::post(uri)
            .header("authorization", "Bearer ak_canary.secret")
            .body(Scripted::new([Step::Hang]))
            .expect("a request");
        let client = Client::builder(TokioExecutor::new())
            .http2_only(version == Version::HTTP_2)
            .build_http();
        let unfinished = clients.spawn(client.request(unfinished));
        until(|| fake.received().len() == 2);
        assert_eq!(fake.received()[1].status(), StatusCode::OK);
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

#[test]
fn fake_is_shared_between_threads() {
    fn shared<T: Send + Sync + 'static>() {}
    shared::<FakeAnyreach>();
}

async fn fake() -> FakeAnyreach {
    FakeAnyreach::builder()
        .api_key(KEY, "org_a", ["agents:manage", "conversations:read"])
        .personal_access_token(
            PAT,
            [
                ("org_b", vec!["agents:read"]),
                ("org_c", vec!["agents:read", "conversations:read_sensitive"]),
            ],
        )
        .start()
        .await
        .expect("a free port")
}

fn bearer_key() -> (&'static str, &'static str) {
    ("authorization", "Bearer ak_canary.secret")
}

fn bearer_pat() -> (&'static str, &'static str) {
    ("authorization", "Bearer pat_canary")
}

fn org(organization: &str) -> (&'static str, &str) {
    ("x-anyreach-org", organization)
}

type Headers<'a> = &'a [(&'a str, &'a str)];

/// A client that speaks one version of HTTP to one server.
struct Peer<'a> {
    fake: &'a FakeAnyreach,
    client: Client<HttpConnector, Full<Bytes>>,
}

impl<'a> Peer<'a> {
    fn new(fake: &'a FakeAnyreach, version: Version) -> Self {
        Self {
            fake,
            client: Client::builder(TokioExecutor::new())
                .http2_only(version == Version::HTTP_2)
                .build_http(),
        }
    }

    async fn get(&self, path: &str, headers: Headers<'_>) -> Answer {
        self.send(&Method::GET, path, headers, "").await
    }

    async fn send(&self, method: &Method, path: &str, headers: Headers<'_>, body: &str) -> Answer {
        let mut request = Request::builder().method(method).uri(self.fake.uri(path));
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let request = request
            .body(Full::from(body.to_owned()))
            .expect("a request");
        let response = self.client.request(request).await.expect("an answer");
        let (head, body) = response.into_parts();
        let body = body.collect().await.expect("a body").to_bytes();
        Answer {
            status: head.status,
            headers: head.headers,
            json: serde_json::from_slice(&body).expect("JSON"),
        }
    }
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
async fn in_memory_it_answers_as_over_a_socket() {
    let over_socket = fake().await;
    let in_memory = FakeAnyreach::builder()
        .api_key("ak_1.x", "org_1", ["agents:read"])
        .in_memory();
    assert_eq!(in_memory.origin(), Origin::default());
    assert_eq!(
        in_memory.uri("/core/agents"),
        "https://api.anyreach.ai/core/agents"
    );
    over_socket.add_api_key("ak_1.x", "org_1", ["agents:read"]);

    for (method, path, bearer, status) in [
        ("GET", "/core/agents", "Bearer ak_1.x", 200),
        ("POST", "/core/agents", "Bearer ak_1.x", 403),
        ("GET", "/core/agents", "Bearer ak_2.x", 401),
        ("GET", "/nowhere", "Bearer ak_1.x", 404),
    ] {
        let request = |anyreach: &FakeAnyreach| {
            Request::builder()
                .method(method)
                .uri(anyreach.uri(path))
                .header(AUTHORIZATION, bearer)
                .body(Full::<Bytes>::from("{}"))
                .unwrap()
        };
        let client = Client::builder(TokioExecutor::new()).build_http();
        let response = client.request(request(&over_socket)).await.unwrap();
        let (head, body) = response.into_parts();
        let expected = (head.status, body.collect().await.unwrap().to_bytes());
        assert_eq!(expected.0, status);

        let service = in_memory.service();
        let response = service.oneshot(request(&in_memory)).await.unwrap();
        let (head, body) = response.into_parts();
        let answered = (head.status, body.collect().await.unwrap().to_bytes());
        assert_eq!(answered, expected);
    }
    assert_eq!(in_memory.received().len(), 4);
    in_memory.revoke("ak_1.x");
    let request = Request::get(in_memory.uri("/core/agents"))
        .header(AUTHORIZATION, "Bearer ak_1.x")
        .body(String::new())
        .unwrap();
    let response = in_memory.service().oneshot(request).await.unwrap();
    assert_eq!(response.status(), StatusCode::UNAUTHORIZED);
}

#[tokio::test]
async fn debug_counts_credentials_and_requests_and_shows_none() {
    let builder = FakeAnyreach::builder()
        .api_key(KEY, "org_a", ["agents:read"])
        .personal_access_token(PAT, [("org_b", vec!["agents:read"])]);
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
    let fake = FakeAnyreach::builder()
        .api_key(KEY, "org_a", ["agents:manage"])
        .in_memory();
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
