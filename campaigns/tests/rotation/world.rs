//! The operator, the source, the server and the client of a cell.

use std::collections::HashMap;
use std::fs;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use campaigns::key;
use campaigns::random::Random;
use campaigns::tally::Tally;
use http::header::AUTHORIZATION;
use http::{Method, Request, Response};
use support::bodies::{Scripted, Step};
use support::{Again, MILLI, SECOND, answer_with, credential_for, organization};
use tempfile::TempDir;
use tokio::sync::watch;
use tokio::time::sleep;
use tower::hedge::{self, Hedge};
use tower::util::BoxCloneService;
use tower::{ServiceBuilder, ServiceExt, service_fn};
use tower_anyreach::follow_redirect::RedirectPolicy;
use tower_anyreach::retry::RefreshPolicy;
use tower_anyreach::source::{AnySource, FileSource};
use tower_anyreach::{AnyreachAuthLayer, BoxError, Credential, CredentialStore, Error};
use tower_http::follow_redirect::FollowRedirectLayer;

use crate::{Cell, Source, Stack};

type Answer = Response<Scripted>;
type Client = BoxCloneService<Request<String>, Answer, BoxError>;

fn text(generation: u64) -> String {
    key(generation).replacen("ak_", "pat_", 1)
}

pub(crate) fn token(generation: u64) -> Credential {
    credential_for(&text(generation), Some("org_1"))
}

pub(crate) async fn pause(milliseconds: u64) {
    if milliseconds > 0 {
        sleep(MILLI * u32::try_from(milliseconds).unwrap()).await;
    }
}

/// Sends a request again if an answer is slow.
#[derive(Clone)]
struct Impatient;

impl<B: Clone> hedge::Policy<Request<B>> for Impatient {
    fn clone_request(&self, request: &Request<B>) -> Option<Request<B>> {
        Some(request.clone())
    }

    fn can_retry(&self, _: &Request<B>) -> bool {
        true
    }
}

pub(crate) struct World {
    cell: Cell,
    /// The token that is in the source and, because no request is judged while it changes, the only good one.
    pub(crate) delivered: watch::Sender<u64>,
    directory: TempDir,
    fetches: AtomicU64,
    /// How often each request arrived, and with a good key; those after a redirect by themselves.
    arrived: Mutex<HashMap<(u64, Method), (u64, u64)>>,
}

impl World {
    pub(crate) fn new(cell: Cell) -> Arc<Self> {
        let world = Self {
            cell,
            delivered: watch::Sender::new(0),
            directory: TempDir::new().unwrap(),
            fetches: AtomicU64::new(0),
            arrived: Mutex::default(),
        };
        world.write(0);
        Arc::new(world)
    }

    /// Rotates each time a second after the store can have taken the last token.
    pub(crate) async fn operate(self: Arc<Self>) {
        let mut random = Random(1);
        loop {
            let cell = self.cell;
            // A 401 may wait for a fetch that began too early, and then for its own.
            let recovery = 2 * cell.fetch_takes + 4 * cell.latency + cell.denial_takes;
            pause(1_000 + recovery + random.below(1_000)).await;
            self.delivered.send_modify(|generation| {
                *generation += 1;
                self.write(*generation);
            });
        }
    }

    fn write(&self, generation: u64) {
        let [new, token] = ["new", "token"].map(|name| self.directory.path().join(name));
        fs::write(&new, text(generation)).unwrap();
        fs::rename(new, token).unwrap();
    }

    pub(crate) fn source(self: &Arc<Self>) -> AnySource {
        if self.cell.source == Source::File {
            let file = FileSource::new(self.directory.path().join("token"));
            return AnySource::new(file.organization(organization("org_1")));
        }
        let (world, watched) = (Arc::clone(self), self.delivered.subscribe());
        AnySource::new(move || {
            let (world, watched) = (Arc::clone(&world), watched.clone());
            async move {
                let read = || match world.cell.source {
                    Source::Closure => *world.delivered.borrow(),
                    _ => *watched.borrow(),
                };
                // Every other fetch reads when it begins, and the others when they end.
                let is_late = world.fetches.fetch_add(1, Ordering::Relaxed) % 2 == 1;
                let early = read();
                pause(world.cell.fetch_takes).await;
                Ok(token(if is_late { read() } else { early }))
            }
        })
    }

    fn count(&self, number: u64, method: &Method, sent: u64, good: u64) -> (u64, u64) {
        let mut arrived = self.arrived.lock().unwrap();
        let counts = arrived.entry((number, method.clone())).or_default();
        *counts = (counts.0 + sent, counts.1 + good);
        *counts
    }

    async fn answer(self: Arc<Self>, request: Request<String>) -> Result<Answer, BoxError> {
        let cell = self.cell;
        let number: u64 = request.headers()["x-request"].to_str()?.parse()?;
        let mut random = Random(number * 8 + self.count(number, request.method(), 1, 0).0);
        pause(random.below(cell.latency + 1)).await;
        let bearer = format!("Bearer {}", text(*self.delivered.borrow()));
        let is_good = request.headers()[AUTHORIZATION] == bearer.as_str();
        let is_first = self.count(number, request.method(), 0, is_good.into()).1 == 1;
        pause(random.below(cell.latency + 1)).await;
        let (status, takes) = match cell.stack {
            _ if !is_good => (401, cell.denial_takes),
            Stack::TwoRetries if is_first && number.is_multiple_of(5) => (503, 0),
            Stack::Redirects if request.method() == Method::POST => (303, 0),
            _ => (cell.good, 0),
        };
        let wait = (takes > 0).then(|| Step::Wait(Duration::from_millis(takes)));
        let data = Step::data(&br#"{"detail": "No"}"#[..]);
        let body = Scripted::new(wait.into_iter().chain([data]));
        Ok(answer_with(status, &[("location", "/core/agents")], body))
    }

    pub(crate) fn client(self: &Arc<Self>, store: &CredentialStore) -> Client {
        let world = Arc::clone(self);
        let server = service_fn(move |request| Arc::clone(&world).answer(request));
        let auth = AnyreachAuthLayer::new(store.clone());
        let follow = FollowRedirectLayer::with_policy(RedirectPolicy::new(&auth));
        let replay = ServiceBuilder::new().retry(RefreshPolicy::new());
        let outside = ServiceBuilder::new().map_err(BoxError::from);
        let inside = replay.clone().layer(auth.clone());
        match self.cell.stack {
            Stack::Replays => outside.layer(inside).service(server).boxed_clone(),
            Stack::Limits => {
                let limited = replay.concurrency_limit(6).buffer(8).layer(auth);
                limited.service(server).boxed_clone()
            }
            Stack::Timeouts => {
                let total = ServiceBuilder::new().timeout(SECOND * 5).layer(inside);
                total.timeout(SECOND / 2).service(server).boxed_clone()
            }
            Stack::Hedge => {
                let hedge = Hedge::new(inside.service(server), Impatient, 10, 0.9, SECOND * 10);
                // It cannot be cloned.
                ServiceBuilder::new().buffer(8).service(hedge).boxed_clone()
            }
            Stack::TwoRetries => {
                // The user's own policy.
                let is_busy = |outcome: &Result<Answer, Error>| {
                    outcome.as_ref().is_ok_and(|answer| answer.status() == 503)
                };
                let twice = outside.retry(Again(usize::MAX, is_busy)).layer(inside);
                twice.service(server).boxed_clone()
            }
            Stack::Redirects => {
                let followed = outside.layer(follow).layer(inside);
                followed.service(server).boxed_clone()
            }
        }
    }

    pub(crate) fn assert_accounts_close(&self, tally: &mut Tally) {
        let cell = self.cell;
        let copies = 1 + u64::from(matches!(cell.stack, Stack::Hedge | Stack::TwoRetries));
        for (request, (sent, good)) in self.arrived.lock().unwrap().iter() {
            tally.add("denied", sent - good);
            if *sent > 2 * copies || !(1..=copies).contains(good) {
                let text = || format!("{request:?}: sent {sent} times, {good} good, {cell:?}");
                tally.violation(text);
            }
        }
        // The first fetch loaded the store.
        let fetches = self.fetches.load(Ordering::Relaxed).saturating_sub(1);
        let rotations = *self.delivered.borrow();
        tally.add("rotations", rotations);
        tally.add("fetches", fetches);
        if cell.interval == 0 && !cell.refreshes {
            tally.add("looks", fetches);
            if fetches > rotations {
                tally.violation(|| format!("{fetches} looks, {rotations} rotations, {cell:?}"));
            }
        }
    }
}
