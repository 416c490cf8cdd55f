//! `FakeAnyreach`: what it records and shows, how it is misused, and how it ends.

use std::io::{ErrorKind, Read as _, Write as _};
use std::net::TcpStream;
use std::time::Instant;

use tower::ServiceExt as _;
use tower_anyreach::test_util::{FakeAnyreach, ReceivedRequest};

use crate::fake_anyreach::{
    BEARER_KEY, BEARER_PAT, KEY, Peer, VERSIONS, builder, client, fake, org,
};
use crate::prelude::*;
use support::panic_text;
use support::runtime::multi_thread;

#[tokio::test]
async fn every_request_is_recorded_as_it_came_and_as_it_was_answered() {
    for version in VERSIONS {
        let fake = fake().await;
        let peer = Peer::new(&fake, version);
        peer.get("/core/agents?limit=1", &[]).await;
        let headers = [BEARER_KEY, ("x-test", "1")];
        peer.post("/core/agents", &headers, "{}").await;

        let received = fake.received();
        let line =
            |one: &ReceivedRequest| format!("{} {} {}", one.method(), one.path(), one.status());
        let lines: Vec<_> = received.iter().map(line).collect();
        let expected = "GET /core/agents 401 Unauthorized, POST /core/agents 200 OK";
        assert_eq!(lines.join(", "), expected);
        assert_eq!(received[0].uri().query(), Some("limit=1"));
        assert_eq!(received[0].version(), version);
        assert!(received[0].body().is_empty() && received[1].body() == "{}");
        for (name, value) in headers {
            let sent = &received[1].headers()[name];
            assert_eq!(sent, value);
            assert_eq!(sent.is_sensitive(), name == "authorization");
        }
    }
}

#[tokio::test]
async fn misuse_panics_and_changes_nothing() {
    let fake = builder().in_memory();
    let key = || drop(FakeAnyreach::builder().api_key("pat_x", "org_a", ["agents:read"]));
    let member = [("org_a", ["agents:read"])];
    let token = || drop(FakeAnyreach::builder().personal_access_token("ak_x", member));
    let path = || drop(fake.uri("core/agents"));
    let kind = || assert!(fake.rotate(KEY, "pat_new"), "not refused");
    for (expected, text) in [
        ("organization API key starts with `ak_`", panic_text(key)),
        ("access token starts with `pat_`", panic_text(token)),
        ("a path starts with `/`", panic_text(path)),
        ("organization API key starts with `ak_`", panic_text(kind)),
    ] {
        assert!(text.contains(expected), "{text}");
    }
    let peer = Peer::new(&fake, None);
    let answer = peer.get("/core/agents", &[BEARER_KEY]).await;
    assert_eq!(answer.status(), StatusCode::OK);
}

#[tokio::test]
async fn nothing_that_is_shown_holds_a_credential() {
    let builder = builder();
    let mut shown = vec![format!("{builder:?}{builder:#?}")];
    let fake = builder.start().await.unwrap();
    let paths = "/core/agents /core/agents?token=ak_canary.secret /x/ak_canary.secret /x/pat_canary/y \
                 /x;token=AK_canary.secret /x%2Fak_canary.secret /x_pat_canary /mcp/";
    for version in VERSIONS {
        let peer = Peer::new(&fake, version);
        for path in paths.split(' ') {
            for headers in [
                &[BEARER_KEY][..],
                &[BEARER_PAT, org("org_b")],
                &[BEARER_PAT, BEARER_KEY, org("org_b")],
                &[("authorization", KEY)],
                &[("x-api-key", KEY), ("cookie", "session=pat_canary")],
                &[BEARER_PAT, org(KEY)],
            ] {
                let body = "pat_canary ak_canary.secret";
                let answer = peer.post(path, headers, body).await;
                shown.push(format!("{:?} {}", answer.headers(), answer.body()));
            }
        }
    }
    shown.push(format!("{fake:?}{fake:#?}{:?}", fake.received()));
    for violation in fake.violations() {
        shown.push(format!("{violation:?}{violation}"));
    }

    assert_eq!(fake.received().len(), 96);
    assert!(!fake.violations().is_empty());
    for text in shown {
        assert!(!text.contains("canary"), "{text}");
    }
}

#[tokio::test]
async fn debug_counts_credentials_and_requests_and_shows_none() {
    let builder = builder();
    let shown = format!("{builder:?}");
    assert_eq!(shown, "FakeAnyreachBuilder { credentials: 2, .. }");
    let fake = builder.in_memory();
    assert_eq!(format!("{:?}", fake.service()), "FakeService { .. }");
    Peer::new(&fake, None).get("/core/agents", &[]).await;
    let counts = "port: None, credentials: 2, received: 1, violations: [], ..";
    assert_eq!(format!("{fake:?}"), format!("FakeAnyreach {{ {counts} }}"));
    let shown = format!("{:?}", fake.received()[0]);
    let start = "ReceivedRequest { method: GET, path: \"/core/agents\"";
    assert!(shown.starts_with(start), "{shown}");
    assert!(shown.contains("status: 401"), "{shown}");
}

#[tokio::test]
async fn an_endless_upload_is_read_to_64_mib_and_kept_to_1_mib() {
    let fake = builder().in_memory();
    let upload = Scripted::endless(|| Step::data(vec![b' '; 1 << 20]));
    let record = upload.record();
    let request = Request::post(fake.uri("/core/agents")).body(upload);
    let request = with_headers(&[BEARER_KEY], request.unwrap());
    fake.service().oneshot(request).await.unwrap();
    // The 65th frame shows that there is more.
    assert_eq!(record.polls(), 65);
    assert_eq!(fake.received()[0].body().len(), 1 << 20);
}

// How it ends.

#[test]
fn drop_closes_port_and_connections_and_leaves_no_task() {
    // The server has a runtime of its own, so that its tasks can be counted.
    let [servers, clients] = [multi_thread(1), multi_thread(1)];

    for version in VERSIONS {
        let fake = servers.block_on(fake());
        let uri = fake.uri("/core/agents");
        let address = uri.authority().unwrap().as_str().to_owned();
        let mut idle = TcpStream::connect(&address).unwrap();
        // A refusal keeps the connection alive.
        for _ in 0..2 {
            assert_eq!(raw_status(&mut idle), "401");
        }

        let body = Scripted::new([Step::Hang]);
        let unfinished = with_headers(&[BEARER_KEY], Request::post(uri).body(body).unwrap());
        let unfinished = clients.spawn(client(version).request(unfinished));
        until(|| fake.received().len() == 3);
        assert_eq!(fake.received()[2].status(), StatusCode::OK);
        assert!(servers.metrics().num_alive_tasks() >= 3);

        drop(fake);
        let refused = TcpStream::connect(&address).expect_err("a closed port");
        assert_eq!(refused.kind(), ErrorKind::ConnectionRefused);
        idle.set_read_timeout(Some(SECOND * 10)).unwrap();
        let rest = idle.read(&mut [0; 16]).map_err(|error| error.kind());
        let is_closed = matches!(rest, Ok(0) | Err(ErrorKind::ConnectionReset));
        assert!(is_closed, "{rest:?}");
        let unfinished = clients.block_on(unfinished).unwrap();
        assert!(unfinished.is_err());
        until(|| servers.metrics().num_alive_tasks() == 0);
    }
}

#[test]
fn a_server_may_be_dropped_after_its_runtime() {
    let runtime = multi_thread(1);
    let fake = runtime.block_on(fake());
    drop(runtime);
    assert!(fake.received().is_empty());
    drop(fake);
}

/// The status of a request without credential, on a socket that is not closed by it.
fn raw_status(stream: &mut TcpStream) -> String {
    let request = b"GET /core/agents HTTP/1.1\r\nhost: 127.0.0.1\r\n\r\n";
    stream.write_all(request).unwrap();
    let mut answer = Vec::new();
    while !answer.ends_with(b"}") {
        assert_eq!(stream.take(1).read_to_end(&mut answer).unwrap(), 1);
    }
    let answer = String::from_utf8(answer).unwrap();
    answer["HTTP/1.1 ".len()..][..3].to_owned()
}

/// Waits for another thread, for at most ten seconds.
#[track_caller]
fn until(condition: impl Fn() -> bool) {
    let begun = Instant::now();
    while !condition() {
        assert!(begun.elapsed() < SECOND * 10, "it never came");
        thread::yield_now();
    }
}
