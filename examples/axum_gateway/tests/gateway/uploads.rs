//! Streamed uploads during rotations. A streamed body cannot be copied, so an upload is not replayed.

use std::collections::{BTreeMap, HashMap};
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed};
use std::time::Duration;

use axum_gateway::Tenant;
use bytes::Bytes;
use futures_util::{Stream, StreamExt};
use http::Request;
use http_body_util::{BodyExt, Either, Full, StreamBody};
use hyper::body::Frame;
use hyper_util::{client::legacy::Client, rt::TokioExecutor};
use tokio::task::JoinSet;
use tokio::time::sleep;
use tower_anyreach::test_util::FakeAnyreach;
use tower_anyreach::{AnyreachAuthLayer, Credential, CredentialStore};

use crate::{Running, SECOND, gateway};

/// An upload in chunks, whose length the gateway does not know.
fn upload() -> StreamBody<impl Stream<Item = io::Result<Frame<Bytes>>>> {
    let chunks = futures_util::stream::iter(0..CHUNKS);
    StreamBody::new(chunks.then(async |_| {
        sleep(Duration::from_millis(5)).await;
        Ok(Frame::data(Bytes::from(vec![b' '; CHUNK])))
    }))
}

const CHUNK: usize = 32 * 1024;
const CHUNKS: usize = 4;

/// Rotates four times while four workers stream uploads and four send small bodies. The old token is revoked `overlap` after the
/// new one is delivered. Returns the answers to uploads and to small bodies.
async fn rotate_during_uploads(overlap: Duration) -> [BTreeMap<String, usize>; 2] {
    let token = |generation: usize| format!("ak_{generation}.secret");
    let builder = FakeAnyreach::builder().api_key(token(0), "org_acme", ["agents:manage"]);
    let anyreach = builder.start().await.unwrap();
    let generation = Arc::new(AtomicUsize::new(0));
    let source = {
        let generation = Arc::clone(&generation);
        move || {
            let key = token(generation.load(Relaxed));
            async move { Ok(Credential::parse(key)?) }
        }
    };
    let store = CredentialStore::load(source).await.unwrap();
    let auth = AnyreachAuthLayer::per_request();
    let tenants = HashMap::from([("acme".to_owned(), Tenant::Store(store.clone()))]);
    let gateway = Running::start(gateway(auth, &anyreach, Vec::new(), tenants)).await;

    let stop = Arc::<AtomicBool>::default();
    let mut workers = JoinSet::new();
    for worker in 0..8 {
        let (stop, is_upload) = (Arc::clone(&stop), worker < 4);
        let url = format!("{}/core/agents", gateway.0);
        workers.spawn(async move {
            let client = Client::builder(TokioExecutor::new()).build_http();
            let mut answers = BTreeMap::<String, usize>::new();
            while !stop.load(Relaxed) {
                let body = if is_upload {
                    Either::Left(upload())
                } else {
                    Either::Right(Full::from("{}").map_err(|never| match never {}))
                };
                let request = Request::post(&url).header("authorization", "Bearer acme");
                let request = request.body(body.boxed_unsync()).unwrap();
                let (head, body) = client.request(request).await.unwrap().into_parts();
                let body = body.collect().await.unwrap().to_bytes();
                let answer = match head.status.as_u16() {
                    200 => "good".to_owned(),
                    status => format!("{status} {}", String::from_utf8_lossy(&body)),
                };
                *answers.entry(answer).or_default() += 1;
            }
            (is_upload, answers)
        });
    }
    for next in 1..=4 {
        sleep(SECOND * 3 / 2).await;
        anyreach.add_api_key(token(next), "org_acme", ["agents:manage"]);
        generation.store(next, Relaxed);
        if !overlap.is_zero() {
            store.refresh().await.unwrap();
            sleep(overlap).await;
        }
        anyreach.revoke(&token(next - 1));
    }
    sleep(SECOND).await;
    stop.store(true, Relaxed);

    let mut sums = [BTreeMap::new(), BTreeMap::new()];
    for (is_upload, answers) in workers.join_all().await {
        for (answer, count) in answers {
            *sums[usize::from(!is_upload)].entry(answer).or_default() += count;
        }
    }
    let received = anyreach.received();
    let lengths = received.iter().map(|request| request.body().len());
    let uploads = lengths.filter(|length| *length == CHUNK * CHUNKS).count();
    assert_eq!(uploads, sums[0].values().sum::<usize>());
    assert_eq!(anyreach.violations(), []);
    println!(
        "overlap {overlap:?}: uploads {:?}, small {:?}",
        sums[0], sums[1]
    );
    sums
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_streamed_upload_is_not_replayed_and_needs_an_overlap() {
    let denied = r#"502 {"error":"unauthorized"}"#.to_owned();
    let [uploads, small] = rotate_during_uploads(Duration::ZERO).await;
    // Each upload in flight at a rotation was sent with the old key, and no copy of its body is left to send.
    assert_eq!(uploads.keys().collect::<Vec<_>>(), [&denied, "good"]);
    assert_eq!(small.keys().collect::<Vec<_>>(), ["good"]);

    for answers in rotate_during_uploads(SECOND / 2).await {
        assert_eq!(answers.keys().collect::<Vec<_>>(), ["good"]);
        assert!(answers["good"] >= 100, "{answers:?}");
    }
}
