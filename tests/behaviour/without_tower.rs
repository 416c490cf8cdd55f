//! Without Tower: `authorize` and `on_response` over a bare hyper connection. `docs/without-tower.md` has a client like it.

use http::header::HOST;
use http::request::Builder;
use hyper::body::Incoming;
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tower_anyreach::test_util::FakeAnyreach;

use crate::prelude::*;

/// Sends a request as a bare connection needs it: with `Host`, and with the path alone.
async fn exchange(
    auth: &AnyreachAuthLayer,
    connection: &mut SendRequest<Full<Bytes>>,
    request: Builder,
) -> Result<(Answer, Response<Incoming>), Error> {
    let (mut head, body) = request.body(Full::from("{}")).unwrap().into_parts();
    let authorized = auth.authorize(&mut head)?;
    let host = head.uri.authority().unwrap().as_str().parse().unwrap();
    head.headers.insert(HOST, host);
    head.uri = head.uri.path().parse().unwrap();
    let request = Request::from_parts(head, body);
    let response = connection.send_request(request).await.unwrap();
    let (status, headers) = (response.status(), response.headers());
    let answer = authorized.on_response(status, headers, response.extensions());
    Ok((answer, response))
}

#[tokio::test]
async fn requests_over_a_bare_connection_are_authenticated_denied_or_refused() {
    let server = FakeAnyreach::builder().api_key(KEY, "org_acme", ["agents:read"]);
    let anyreach = server.start().await.unwrap();
    let port = anyreach.uri("/").port_u16().unwrap();
    let stream = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
    let (ref mut connection, driver) = handshake(TokioIo::new(stream)).await.unwrap();
    tokio::spawn(driver);
    let auth = AnyreachAuthLayer::new(credential(KEY)).origin(anyreach.origin());
    let agents = anyreach.uri("/core/agents");

    let get = Request::get(&agents);
    let (answer, response) = exchange(&auth, connection, get).await.unwrap();
    assert!(matches!(answer, Answer::Pass), "{answer:?}");
    let body = response.into_body().collect().await.unwrap().to_bytes();
    assert!(!body.is_empty());

    let refused = Request::post(&agents);
    let (answer, response) = exchange(&auth, connection, refused).await.unwrap();
    let error = unread(answer).read(response.into_body()).await;
    let forbidden = denial(Err::<(), _>(error));
    assert_eq!(forbidden.reason(), DenialReason::InsufficientScope);
    assert!(forbidden.detail().is_some() && !forbidden.is_body_truncated());

    let other_port = Request::get("http://127.0.0.1:1/core/agents");
    let error = exchange(&auth, connection, other_port).await.unwrap_err();
    assert_eq!(error.refusal().unwrap().reason(), RefusalReason::Authority);
    let received = anyreach.received();
    assert_eq!((received.len(), anyreach.violations().len()), (2, 0));
    let bearer = format!("Bearer {KEY}");
    for request in received {
        assert_eq!(request.headers()[AUTHORIZATION], bearer);
    }
}

#[test]
fn a_relative_uri_is_completed_in_a_head() {
    let auth = layer().relative_uris(RelativeUris::Complete);
    let (mut head, _) = get("/core/agents").into_parts();
    let _ = auth.authorize(&mut head).unwrap();
    assert_eq!(head.uri, "https://api.anyreach.ai/core/agents");
    assert_eq!(head.headers[AUTHORIZATION], format!("Bearer {KEY}"));
}

/// The policy marks a replay in the extensions, which `authorize` has to read in a head too.
#[cfg(feature = "retry")]
#[tokio::test(start_paused = true)]
async fn under_the_policy_a_head_is_not_sent_again_with_the_denied_credential() {
    for (fetch, attempts) in [(Fetch::Gives("v1"), 1), (Fetch::Gives("v2"), 2)] {
        let auth = AnyreachAuthLayer::new(Script::new(fetch).store().await);
        let server = Server::accepting(&["v2"]);
        let below = server.clone();
        let client = service_fn(move |request: Request<String>| {
            let (auth, below) = (auth.clone(), below.clone());
            async move {
                let (mut head, body) = request.into_parts();
                let authorized = auth.authorize(&mut head)?;
                let sent = below.oneshot(Request::from_parts(head, body)).await;
                let (head, body) = sent.unwrap().into_parts();
                match authorized.on_response(head.status, &head.headers, &head.extensions) {
                    Answer::Denied(unread) => Err(unread.read(body).await),
                    _ => Ok(Response::from_parts(head, body)),
                }
            }
        });
        let client = replaying(client);
        assert_eq!(client.oneshot(get_agents()).await.is_ok(), attempts == 2);
        assert_eq!(server.attempts(), attempts);
    }
}

#[test]
fn a_denial_without_its_body_is_the_one_that_pass_through_adds() {
    let headers = [("content-type", "application/json")];
    let response = || answer_with(401, &headers, r#"{"detail": "Nope"}"#.to_owned());
    let auth = layer().denied_responses(DeniedResponses::PassThrough);
    let client = auth.layer(Recorder::answering(response()));
    let passed = now(client.oneshot(get_agents())).unwrap();
    let added = passed.extensions().get::<Denial>().unwrap();
    let authorized = auth.authorize(&mut get_agents().into_parts().0).unwrap();
    let (head, _) = response().into_parts();
    let answer = authorized.on_response(head.status, &head.headers, &head.extensions);
    let error = unread(answer).with_body(Bytes::new(), false);
    let kept = error.denial().unwrap();
    assert_eq!(format!("{kept:?}"), format!("{added:?}"));
    assert_eq!(kept.headers(), added.headers());
}
