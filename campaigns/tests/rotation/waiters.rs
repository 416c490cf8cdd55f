//! Many callers that wait for one fetch.

use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use http::StatusCode;
use support::runtime::multi_thread;
use support::{MILLI, SECOND, answer, denial, get_agents};
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};
use tower::{Layer, ServiceExt, service_fn};
use tower_anyreach::{AnyreachAuthLayer, CredentialStore, Refreshed};

use crate::{IS_LONG, world::token};

/// Returns the time from the outcome of one fetch until the last of its waiters is answered.
async fn slowest_of(waiters: u64, refreshes: bool) -> Duration {
    let (gate, fetches) = (Arc::new(Semaphore::new(1)), Arc::new(AtomicU64::new(0)));
    let (opened, counted) = (Arc::clone(&gate), Arc::clone(&fetches));
    let store = CredentialStore::load(move || {
        let (gate, number) = (Arc::clone(&opened), counted.fetch_add(1, Ordering::Relaxed));
        async move {
            gate.acquire().await?.forget();
            Ok(token(number))
        }
    });
    let store = store.await.unwrap();
    let refuse = service_fn(async |_| Ok::<_, Infallible>(answer(StatusCode::UNAUTHORIZED, "{}")));
    let client = AnyreachAuthLayer::new(store.clone()).layer(refuse);
    let denial = denial(client.oneshot(get_agents()).await);
    let reaches = async |count: &AtomicU64, number| {
        let reached = async {
            while count.load(Ordering::Relaxed) < number {
                sleep(MILLI).await;
            }
        };
        let reached = timeout(SECOND * 9, reached).await;
        reached.expect("fetches begin and calls wait in time");
    };
    // The look that the layer begins.
    reaches(&fetches, 2).await;
    let (waiting, mut calls) = (Arc::new(AtomicU64::new(0)), JoinSet::new());
    for _ in 0..waiters {
        let (store, denial, waiting) = (store.clone(), denial.clone(), Arc::clone(&waiting));
        calls.spawn(async move {
            waiting.fetch_add(1, Ordering::Relaxed);
            if refreshes {
                assert_eq!(store.refresh().await.unwrap(), Refreshed::Rotated);
            } else {
                assert!(denial.renewed().await);
            }
            Instant::now()
        });
    }
    reaches(&waiting, waiters).await;
    // `renewed` yields once. Calls are answered by the fetch after the look.
    sleep(MILLI * 100).await;
    if refreshes {
        gate.add_permits(1);
        reaches(&fetches, 3).await;
    }
    let ended = Instant::now();
    gate.add_permits(1);
    let answered = calls.join_all().await;
    assert_eq!(fetches.load(Ordering::Relaxed), 2 + u64::from(refreshes));
    answered.into_iter().max().unwrap() - ended
}

/// Returns the time that tokio needs to wake as many tasks that only wait for one `watch`.
async fn slowest_of_tokio(waiters: u64) -> Duration {
    let (bell, mut calls) = (watch::Sender::new(()), JoinSet::new());
    for _ in 0..waiters {
        let mut rings = bell.subscribe();
        calls.spawn(async move {
            drop(timeout(SECOND * 10, rings.changed()).await);
            Instant::now()
        });
    }
    sleep(MILLI * 300).await;
    let rung = Instant::now();
    bell.send_replace(());
    calls.join_all().await.into_iter().max().unwrap() - rung
}

#[test]
fn one_fetch_answers_all_that_wait_for_it() {
    let waiters = if *IS_LONG { 100_000 } else { 10_000 };
    for name in ["tokio alone", "`renewed`", "`refresh`"] {
        let mut slowest = [0; 3].map(|_| {
            multi_thread(2).block_on(async {
                match name {
                    "tokio alone" => slowest_of_tokio(waiters).await,
                    _ => slowest_of(waiters, name == "`refresh`").await,
                }
            })
        });
        slowest.sort();
        println!("{waiters} waiters, {name}: the last after {:?}", slowest[1]);
    }
}
