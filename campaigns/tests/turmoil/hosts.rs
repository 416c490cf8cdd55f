//! The API, the token service, and a neighbour of the client.

use std::future::pending;
use std::net::Ipv4Addr;

use http::{Request, Response, StatusCode};
use hyper::body::Incoming;
use support::answer;
use tokio::time::sleep;
use turmoil::net::TcpListener;

use campaigns::judge::bearer;
use campaigns::random::Random;
use campaigns::server::serve_connection;
use campaigns::{generation, key};

use crate::scene::{Api, Arrival, Shared, Tokens};

/// Serves HTTP/1.1 and HTTP/2 on port 80, until the host crashes.
pub(crate) async fn serve<F, A>(scene: Shared, answer: F) -> turmoil::Result
where
    F: Fn(Shared, Request<Incoming>) -> A + Clone + Send + Sync + 'static,
    A: Future<Output = Response<String>> + Send + 'static,
{
    let listener = TcpListener::bind((Ipv4Addr::UNSPECIFIED, 80)).await?;
    loop {
        let (stream, _) = listener.accept().await?;
        let (scene, answer) = (scene.clone(), answer.clone());
        let answer = move |request| answer(scene.clone(), request);
        tokio::spawn(serve_connection(stream, answer));
    }
}

pub(crate) async fn api(scene: Shared, request: Request<Incoming>) -> Response<String> {
    let mut scene = scene.lock();
    let headers = request.headers();
    let id = headers["x-request-id"].to_str().unwrap().parse().unwrap();
    let key = bearer(headers).and_then(generation);
    let Some(key) = key.filter(|key| *key <= scene.newest) else {
        scene.violation(&format!("request {id} arrived without a key"));
        return answer(StatusCode::BAD_REQUEST, "");
    };
    let number = scene.arrivals.len() as u64;
    let (status, body) = match scene.api {
        Api::Fails => (StatusCode::SERVICE_UNAVAILABLE, "{}"),
        Api::Denies(one_in) if number.is_multiple_of(one_in) => (StatusCode::UNAUTHORIZED, ""),
        _ if key >= scene.oldest => (StatusCode::OK, "{}"),
        _ => (StatusCode::UNAUTHORIZED, r#"{"detail": "Invalid API key"}"#),
    };
    scene.arrivals.push(Arrival {
        request: id,
        key,
        status,
    });
    answer(status, body)
}

pub(crate) async fn tokens(scene: Shared, _: Request<Incoming>) -> Response<String> {
    let (tokens, newest) = {
        let scene = scene.lock();
        (scene.tokens, scene.newest)
    };
    match tokens {
        Tokens::Works => answer(StatusCode::OK, &key(newest)),
        Tokens::LagsBehind => answer(StatusCode::OK, &key(newest.saturating_sub(1))),
        Tokens::Fails => answer(StatusCode::INTERNAL_SERVER_ERROR, &key(newest)),
        Tokens::Hangs => pending().await,
        Tokens::Answers(text) => answer(StatusCode::OK, text),
    }
}

/// Shares the client's store and refreshes it now and then. The plan crashes this host during a refresh.
pub(crate) async fn neighbour(scene: Shared, seed: u64) -> turmoil::Result {
    let mut random = Random(seed);
    loop {
        sleep(random.duration(500..3_000)).await;
        let store = scene.lock().store.clone();
        if let Some(store) = store {
            scene.lock().neighbour_asks = true;
            drop(store.refresh().await);
            scene.lock().neighbour_asks = false;
        }
    }
}
