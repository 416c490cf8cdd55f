//! Fetches and inner calls that fail, hang or panic, at each step: a fault spoils no more than its own requests.

use std::collections::{HashMap, HashSet};

use tower::timeout::error::Elapsed;

use crate::prelude::*;
use crate::scripted::{self, panic_quietly};
use support::runtime::paused;

/// What goes wrong at one step.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Fault {
    Fails,
    Hangs,
    Panics,
}

const FAULTS: [Fault; 3] = [Fault::Fails, Fault::Hangs, Fault::Panics];

impl Fault {
    async fn happen(self) -> BoxError {
        match self {
            Self::Fails => "as scripted".into(),
            Self::Hangs => pending().await,
            Self::Panics => panic_quietly(),
        }
    }
}

/// Counts the fetches and inner calls of a run, and makes some of them go wrong.
#[derive(Clone, Default)]
struct Steps {
    taken: Arc<AtomicUsize>,
    faults: Arc<HashMap<usize, Fault>>,
}

impl Steps {
    fn next(&self) -> Option<Fault> {
        let step = self.taken.fetch_add(1, Ordering::Relaxed);
        self.faults.get(&step).copied()
    }

    fn source(&self, script: &Script) -> impl CredentialSource + use<> {
        let (steps, script) = (self.clone(), script.clone());
        move || {
            let (fault, fetch) = (steps.next(), script.clone());
            async move {
                match fault {
                    None => fetch.fetch().await,
                    Some(fault) => Err(fault.happen().await),
                }
            }
        }
    }
}

/// How a request ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    Ok,
    Denied,
    /// As an inner call with that fault ends it.
    Spoiled(Fault),
}

const ROUNDS: usize = 6;
const REQUESTS: usize = 4;

/// Six rounds of a revocation, one request, and three at once, with faults at those steps.
async fn run(faults: &[(usize, Fault)]) -> (Vec<End>, usize) {
    let (taken, at) = (Arc::default(), Arc::new(faults.iter().copied().collect()));
    let steps = Steps { taken, faults: at };
    let script = Script::new(Fetch::Gives("v1"));
    script.delay(10);
    // The first fetch is a step like others, and may have to be repeated.
    let store = loop {
        let loaded = CredentialStore::loader(steps.source(&script)).timeout(SECOND);
        match loaded.load().await {
            Ok(store) => break store,
            Err(_) => assert!(steps.taken.load(Ordering::Relaxed) <= 3),
        }
    };
    let server = Server::accepting(&["v1"]);
    let (answering, counting) = (server.clone(), steps.clone());
    let inner = service_fn(move |request: Request<String>| {
        let (fault, answer) = (counting.next(), answering.clone().oneshot(request));
        async move {
            match fault {
                None => Ok::<_, BoxError>(answer.await?),
                Some(fault) => Err(fault.happen().await),
            }
        }
    });
    let client = ServiceBuilder::new().timeout(SECOND * 5);
    let client = client.service(scripted::client(&store, inner));

    let mut ends = Vec::new();
    for name in ["v1", "v2", "v3", "v4", "v5", "v6"] {
        script.set(Fetch::Gives(name));
        server.accept_only(&[name]);
        for at_once in [1, REQUESTS - 1] {
            let call = |_| tokio::spawn(client.clone().oneshot(get_agents()));
            let calls: Vec<_> = (0..at_once).map(call).collect();
            for call in calls {
                ends.push(match call.await {
                    Ok(Ok(response)) if response.status() == StatusCode::OK => End::Ok,
                    Ok(Err(error)) if error.is::<Elapsed>() => End::Spoiled(Fault::Hangs),
                    Ok(Err(error)) => match Error::find(error.as_ref()) {
                        Some(denied) if denied.is_unauthorized() => End::Denied,
                        None if error.is::<Error>() => End::Spoiled(Fault::Fails),
                        _ => panic!("{error:?} after {faults:?}"),
                    },
                    Err(error) if error.is_panic() => End::Spoiled(Fault::Panics),
                    other => panic!("{other:?} after {faults:?}"),
                });
            }
        }
        // The longest rest.
        sleep(SECOND * 8).await;
    }
    assert!(server.attempts() <= 2 * ROUNDS * REQUESTS);
    // From here on, nothing goes wrong.
    let taken = steps.taken.swap(usize::MAX / 2, Ordering::Relaxed);
    drop(client);

    // Without faults, the client recovers.
    script.set(Fetch::Gives("healthy"));
    server.accept_only(&["healthy"]);
    let healthy = scripted::client(&store, server);
    let response = timeout(SECOND * 2, healthy.oneshot(get_agents())).await;
    let response = response.unwrap_or_else(|_| panic!("stuck after {faults:?}"));
    let response = response.unwrap_or_else(|error| panic!("{error} after {faults:?}"));
    assert_eq!(response.status(), StatusCode::OK);
    assert_in_force(&store, "healthy");
    assert_eq!(script.most_in_flight(), 1);
    drop(store);
    settle().await;
    assert_eq!(tasks(), 0, "a task is left after {faults:?}");
    (ends, taken)
}

/// Runs with those faults, and asserts what holds with any of them. Returns how many requests were denied and spoiled.
fn run_with(faults: &[(usize, Fault)]) -> (usize, usize) {
    let (ends, _) = paused().block_on(run(faults));
    let context = format!("{ends:?} after {faults:?}");
    assert_eq!(ends.len(), ROUNDS * REQUESTS, "{context}");
    let count = |end| ends.iter().filter(|found| **found == end).count();
    // A fault in an inner call spoils that request; one in a fetch, those of its round that wait for it.
    let mut spoiled = 0;
    for kind in FAULTS {
        let of_kind = count(End::Spoiled(kind));
        let faults_of_kind = faults.iter().filter(|(_, fault)| *fault == kind);
        assert!(of_kind <= faults_of_kind.count(), "{context}");
        spoiled += of_kind;
    }
    let denied = count(End::Denied);
    let used = spoiled + denied.div_ceil(REQUESTS);
    assert!(used <= faults.len(), "{context}");
    (denied, spoiled)
}

fn steps_without_faults() -> usize {
    let (ends, steps) = paused().block_on(run(&[]));
    assert_eq!(ends, [End::Ok; ROUNDS * REQUESTS]);
    steps
}

#[test]
fn a_step_that_fails_hangs_or_panics_spoils_no_more_than_its_own_requests() {
    let mut kinds = HashSet::new();
    let steps = steps_without_faults();
    // One load, 24 requests, and for each of five revocations a fetch and a replay.
    assert_eq!(steps, 35);
    for step in 0..steps {
        for fault in FAULTS {
            let (denied, spoiled) = run_with(&[(step, fault)]);
            kinds.insert((fault, denied > 0, spoiled > 0));
        }
    }
    // Each kind of fault was seen at fetches and at inner calls.
    for fault in FAULTS {
        assert!(kinds.contains(&(fault, true, false)), "{kinds:?}");
        assert!(kinds.contains(&(fault, false, true)), "{kinds:?}");
    }
}

#[test]
fn any_two_steps_that_fail_hang_or_panic_spoil_no_more_than_their_own_requests() {
    let steps = steps_without_faults();
    let kinds = FAULTS.map(|one| FAULTS.map(|other| (one, other))).concat();
    for first in 0..steps {
        for second in first + 1..steps {
            for (one, other) in &kinds {
                run_with(&[(first, *one), (second, *other)]);
            }
        }
    }
}
