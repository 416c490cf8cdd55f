//! The harm of what the pages warn of in a client, or outside of the layer: reqwest's redirects, a proxy of the environment, hedges.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::convert::Infallible;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode};
use reqwest::{Body, redirect};
use support::{MILLI, SECOND, answer_with, credential_for};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tower::hedge::{Hedge, Policy};
use tower::{Layer, Service, ServiceBuilder, ServiceExt, service_fn};
use tower_anyreach::test_util::{FakeAnyreach, FakeReply};
use tower_anyreach::{AnyreachAuthLayer, BoxError};
use tower_http::follow_redirect::FollowRedirectLayer;

const TOKEN: &str = "pat_secret";

/// reqwest as the page on clients makes it a service.
fn service(
    client: reqwest::Client,
) -> impl Service<Request<Bytes>, Response = Response<Body>, Error = BoxError, Future: Send> + Clone
{
    ServiceBuilder::new()
        .map_response(Response::<Body>::from)
        .filter(|request: Request<Bytes>| reqwest::Request::try_from(request))
        .service(client)
}

fn auth(origin: &str) -> AnyreachAuthLayer {
    let token = credential_for(TOKEN, Some("org_acme"));
    AnyreachAuthLayer::new(token).origin(origin.parse().unwrap())
}

fn get(uri: &str) -> Request<Bytes> {
    support::get(uri).map(Bytes::from)
}

/// A server that redirects each request to the other one, on another host.
async fn redirecting_to(elsewhere: &FakeAnyreach) -> FakeAnyreach {
    let location = elsewhere.uri("/").to_string();
    let location = location.replace("127.0.0.1", "localhost");
    let builder = FakeAnyreach::builder().answer_with(move |_| {
        let response = answer_with(307, &[("location", &location)], Bytes::new());
        async { FakeReply::Instead(response) }
    });
    builder.start().await.unwrap()
}

#[tokio::test]
async fn reqwest_takes_the_organization_along_unless_its_redirects_are_off() {
    let elsewhere = FakeAnyreach::builder().start().await.unwrap();
    let origin = redirecting_to(&elsewhere).await;
    let uri = origin.uri("/core/agents").to_string();
    let auth = auth(&origin.origin().to_string());

    let off = reqwest::Client::builder().redirect(redirect::Policy::none());
    let off = auth.layer(service(off.no_proxy().build().unwrap()));
    let response = off.clone().oneshot(get(&uri)).await.unwrap();
    assert_eq!(response.status(), StatusCode::TEMPORARY_REDIRECT);
    let followed = ServiceBuilder::new()
        .layer(FollowRedirectLayer::new())
        .map_request(|request: Request<String>| request.map(Bytes::from))
        .service(off);
    let outcome = followed.oneshot(support::get(&uri)).await;
    assert!(outcome.map(drop).unwrap_err().is_refused());
    assert_eq!(elsewhere.received().len(), 0);

    let default = reqwest::Client::builder().no_proxy().build().unwrap();
    drop(auth.layer(service(default)).oneshot(get(&uri)).await);
    let [request] = &elsewhere.received()[..] else {
        panic!("the redirect was not followed")
    };
    // reqwest drops this header on the way to another host, and does not know the other one.
    assert!(!request.headers().contains_key("authorization"));
    assert_eq!(request.headers()["x-anyreach-org"], "org_acme");
}

#[tokio::test]
async fn a_proxy_of_the_environment_reads_the_credential_over_plain_http_unless_proxies_are_off() {
    // A test cannot change its own environment, so this one runs itself again.
    const MODE: &str = "ANYREACH_TEST_PROXY";
    let origin = "http://127.0.0.1:9";
    if let Ok(mode) = std::env::var(MODE) {
        let client = reqwest::Client::builder().redirect(redirect::Policy::none());
        let client = match mode.as_str() {
            "off" => client.no_proxy(),
            _ => client,
        };
        let client = auth(origin).layer(service(client.build().unwrap()));
        drop(client.oneshot(get(&format!("{origin}/core/agents"))).await);
        return;
    }
    for (mode, is_read) in [("off", false), ("default", true)] {
        let proxy = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = format!("http://{}", proxy.local_addr().unwrap());
        let reading = tokio::spawn(async move {
            let (mut stream, _) = proxy.accept().await.unwrap();
            let mut head = [0; 1024];
            let length = stream.read(&mut head).await.unwrap();
            let answer = b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n";
            stream.write_all(answer).await.unwrap();
            String::from_utf8_lossy(&head[..length]).into_owned()
        });
        let status = tokio::process::Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "a_proxy_of_the_environment_reads_the_credential_over_plain_http_unless_proxies_are_off"])
            .env(MODE, mode)
            .env("http_proxy", address)
            .env_remove("no_proxy")
            .env_remove("NO_PROXY")
            .stdout(std::process::Stdio::null())
            .status();
        assert!(status.await.unwrap().success());
        assert_eq!(reading.is_finished(), is_read, "{mode}");
        if is_read {
            let head = reading.await.unwrap();
            assert!(head.contains(TOKEN), "{head}");
        }
    }
}

/// Hedges the methods that may be sent twice.
#[derive(Clone)]
struct Repeatable(&'static [Method]);

impl Policy<Request<Bytes>> for Repeatable {
    fn clone_request(&self, request: &Request<Bytes>) -> Option<Request<Bytes>> {
        Some(request.clone())
    }

    fn can_retry(&self, request: &Request<Bytes>) -> bool {
        self.0.contains(request.method())
    }
}

#[tokio::test(start_paused = true)]
async fn a_hedge_sends_a_slow_post_twice_unless_its_policy_forbids_it() {
    static ATTEMPTS: AtomicUsize = AtomicUsize::new(0);
    let slow = service_fn(async |request: Request<Bytes>| {
        assert_eq!(request.headers()["authorization"], "Bearer pat_secret");
        ATTEMPTS.fetch_add(1, Relaxed);
        let is_slow = request.uri().path() == "/slow";
        tokio::time::sleep(MILLI * if is_slow { 1_000 } else { 10 }).await;
        Ok::<_, Infallible>(Response::new(String::new()))
    });
    for (hedged, attempts) in [(&[Method::GET, Method::POST][..], 2), (&[Method::GET], 1)] {
        let client = auth("https://api.anyreach.ai").layer(slow);
        let period = SECOND * 60;
        let mut client = Hedge::new(client, Repeatable(hedged), 1, 0.9, period);
        let uri = |path| format!("https://api.anyreach.ai{path}");
        for _ in 0..20 {
            let sent = client.ready().await.unwrap().call(get(&uri("/fast")));
            sent.await.unwrap();
            tokio::time::sleep(period / 10).await;
        }
        ATTEMPTS.store(0, Relaxed);
        let mut post = get(&uri("/slow"));
        *post.method_mut() = Method::POST;
        client.ready().await.unwrap().call(post).await.unwrap();
        assert_eq!(ATTEMPTS.load(Relaxed), attempts);
    }
}
