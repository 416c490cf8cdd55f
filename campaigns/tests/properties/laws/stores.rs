//! Sequences of operations on a store, in simulated time, against a simple model of what is in force.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::future::pending;
use std::panic::resume_unwind;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use http::header::AUTHORIZATION;
use http::{Request, StatusCode, Uri};
use tokio::sync::Notify;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};
use tower::{ServiceBuilder, ServiceExt, service_fn};
use tower_anyreach::retry::RefreshPolicy;
use tower_anyreach::source::CredentialSource;
use tower_anyreach::{
    AnyreachAuthLayer, BoxError, Credential, CredentialStore, Error, Refreshed, SourceError,
};

use super::script::Script;

/// After a fetch that changed nothing.
const REST: Duration = Duration::from_secs(1);
/// After a first failure; it doubles with each further one, and full jitter leaves a hundredth of it at least.
const SHORTEST_BACK_OFF: Duration = Duration::from_millis(250);
const LONGEST_BACK_OFF: Duration = Duration::from_secs(30);
/// Of each fetch.
const TIMEOUT: Duration = Duration::from_secs(10);
/// Of a slow one.
const DELAY: Duration = Duration::from_millis(50);
/// Replays in a row that were refused as well; from there on there are none.
const ENOUGH: u32 = 3;

/// What the source does when it is asked.
#[derive(Debug, Clone, Copy)]
enum Answer {
    Key(u8),
    SlowKey(u8),
    Fails,
    SlowlyFails,
    Panics,
    Hangs,
}

impl Answer {
    fn of(script: &mut Script<'_>) -> Self {
        let byte = script.byte();
        let key = (byte >> 4) % 4;
        match byte % 8 {
            0 | 1 => Self::Key(key),
            2 | 3 => Self::SlowKey(key),
            4 => Self::Fails,
            5 => Self::SlowlyFails,
            6 => Self::Panics,
            _ => Self::Hangs,
        }
    }

    fn key(self) -> Option<u8> {
        match self {
            Self::Key(key) | Self::SlowKey(key) => Some(key),
            _ => None,
        }
    }
}

/// A source that answers as it is told, and counts.
#[derive(Clone)]
struct Source(Arc<Mutex<Asked>>);

struct Asked {
    answer: Answer,
    fetches: u32,
    in_flight: u32,
    ended: Instant,
}

impl Source {
    fn lock(&self) -> MutexGuard<'_, Asked> {
        self.0.lock().unwrap()
    }
}

impl CredentialSource for Source {
    async fn fetch(&self) -> Result<Credential, BoxError> {
        struct Landing<'a>(&'a Source);
        impl Drop for Landing<'_> {
            fn drop(&mut self) {
                let mut asked = self.0.lock();
                asked.in_flight -= 1;
                asked.ended = Instant::now();
            }
        }

        let answer = {
            let mut asked = self.lock();
            asked.fetches += 1;
            asked.in_flight += 1;
            assert_eq!(asked.in_flight, 1, "one fetch at a time");
            asked.answer
        };
        let _landing = Landing(self);
        match answer {
            Answer::Key(key) => Ok(credential(key)),
            Answer::SlowKey(key) => {
                sleep(DELAY).await;
                Ok(credential(key))
            }
            Answer::Fails => Err("503".into()),
            Answer::SlowlyFails => {
                sleep(DELAY).await;
                Err("503".into())
            }
            // As a panic does, but without the hook, with which a fuzzer ends the process.
            Answer::Panics => resume_unwind(Box::new("told to")),
            Answer::Hangs => pending().await,
        }
    }
}

fn text(key: u8) -> String {
    format!("ak_{key}.c2VjcmV0")
}

fn credential(key: u8) -> Credential {
    Credential::parse(text(key)).unwrap()
}

/// What is believed of the store.
struct Model {
    version: u64,
    key: u8,
    failures: u32,
    fruitless: u32,
    /// Until then the source is not asked.
    rests: Instant,
    /// From then on it is.
    free: Instant,
}

/// A store, and everything that is done to it.
struct World {
    stores: Vec<CredentialStore>,
    source: Source,
    has_source: bool,
    model: Model,
}

pub(crate) fn store_model(bytes: &[u8]) {
    campaigns::runtime::paused().block_on(async {
        let mut script = Script::new(bytes);
        let mut world = World::new(!script.byte().is_multiple_of(8)).await;
        for _ in 0..64 {
            if script.is_over() {
                break;
            }
            world.step(&mut script).await;
            world.check();
        }
    });
}

impl World {
    async fn new(has_source: bool) -> Self {
        let now = Instant::now();
        let source = Source(Arc::new(Mutex::new(Asked {
            answer: Answer::Key(0),
            fetches: 0,
            in_flight: 0,
            ended: now,
        })));
        let store = if has_source {
            CredentialStore::loader(source.clone())
                .timeout(TIMEOUT)
                .load()
                .await
                .unwrap()
        } else {
            CredentialStore::new(credential(0))
        };
        Self {
            stores: vec![store],
            source,
            has_source,
            model: Model {
                version: 1,
                key: 0,
                failures: 0,
                fruitless: 0,
                rests: now,
                free: now,
            },
        }
    }

    async fn step(&mut self, script: &mut Script<'_>) {
        let operation = script.byte();
        let which = usize::from(operation >> 4) % self.stores.len();
        let store = self.stores[which].clone();
        match operation % 10 {
            0 => self.rotate(&store, script.byte() % 4),
            1 if self.stores.len() < 8 => self.stores.push(store),
            1 | 2 => {
                if self.stores.len() > 1 {
                    self.stores.swap_remove(which);
                }
            }
            3 => sleep(Duration::from_millis(u64::from(script.byte()) * 10)).await,
            4 => self.refresh(&store, script, 1, None).await,
            5 => self.refresh(&store, script, 5, None).await,
            6 => {
                let key = script.byte() % 4;
                self.refresh(&store, script, 2, Some(key)).await;
            }
            7 | 8 => self.request(&store, script, None).await,
            _ => {
                let key = script.byte() % 4;
                self.request(&store, script, Some(key)).await;
            }
        }
    }

    /// All clones hold what the model says, and a version that never went back.
    fn check(&self) {
        for store in &self.stores {
            assert_eq!(store.version(), self.model.version);
            assert_eq!(store.credential().id(), credential(self.model.key).id());
        }
        assert_eq!(self.source.lock().in_flight, 0);
    }

    fn rotate(&mut self, store: &CredentialStore, key: u8) {
        store.rotate(credential(key));
        self.model.version += 1;
        self.model.key = key;
    }

    /// So many callers at once; meanwhile somebody may rotate.
    async fn refresh(
        &mut self,
        store: &CredentialStore,
        script: &mut Script<'_>,
        callers: u32,
        rotated_to: Option<u8>,
    ) {
        let answer = Answer::of(script);
        let before = self.begin(answer);
        let mut refreshes = JoinSet::new();
        for _ in 0..callers {
            let store = store.clone();
            refreshes.spawn(async move { store.refresh().await });
        }
        let version = self.model.version;
        if let Some(key) = rotated_to {
            sleep(DELAY / 2).await;
            let is_over = self.source.lock().in_flight == 0;
            if is_over {
                // It was over before: first what it came to, then the rotation.
                self.note_fetches(before, answer, version);
            }
            self.rotate(store, key);
        }
        let outcomes: Vec<Result<Refreshed, SourceError>> = refreshes.join_all().await;
        let fetched = self.settle(before, answer, version).await;
        for outcome in &outcomes {
            match (outcome, &outcomes[0]) {
                (Ok(one), Ok(other)) => assert_eq!(one, other),
                (Err(one), Err(other)) => assert_eq!(one.to_string(), other.to_string()),
                (one, other) => panic!("{one:?} and {other:?} of one fetch"),
            }
            if !self.has_source {
                assert!(matches!(outcome, Ok(Refreshed::Unchanged)));
            }
            if fetched {
                assert_eq!(outcome.is_ok(), answer.key().is_some(), "{outcome:?}");
            }
        }
    }

    /// Through the layer and the policy, answered as the script says; meanwhile somebody may rotate.
    #[allow(
        clippy::too_many_lines,
        reason = "one request, from its sending to all that must be true of it"
    )]
    async fn request(
        &mut self,
        store: &CredentialStore,
        script: &mut Script<'_>,
        rotated_to: Option<u8>,
    ) {
        let answer = Answer::of(script);
        let statuses = script.byte();
        let status = |bit: u8| {
            if statuses >> bit & 1 == 0 {
                StatusCode::OK
            } else {
                StatusCode::UNAUTHORIZED
            }
        };
        let before = self.begin(answer);
        let version = self.model.version;
        let (first, may_replay) = (self.model.key, self.model.fruitless < ENOUGH);
        let must_fetch = self.has_source
            && may_replay
            && Instant::now() >= self.model.free
            && rotated_to.is_none();

        let seen: Arc<Mutex<Vec<(String, Credential)>>> = Arc::default();
        let answers = Arc::new(Mutex::new(VecDeque::from([status(0), status(1)])));
        let (arrived, go) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
        let held = rotated_to.is_some();
        let service = ServiceBuilder::new()
            .retry(RefreshPolicy::new(store.clone()))
            .layer(AnyreachAuthLayer::new(store.clone()))
            .service({
                let (seen, store, arrived, go) = (
                    Arc::clone(&seen),
                    store.clone(),
                    Arc::clone(&arrived),
                    Arc::clone(&go),
                );
                service_fn(move |request: Request<()>| {
                    let header = &request.headers()[AUTHORIZATION];
                    let header = String::from_utf8_lossy(header.as_bytes()).into_owned();
                    let is_first = {
                        let mut seen = seen.lock().unwrap();
                        seen.push((header, store.credential()));
                        seen.len() == 1
                    };
                    let status = answers.lock().unwrap().pop_front();
                    let (arrived, go) = (Arc::clone(&arrived), Arc::clone(&go));
                    async move {
                        if held && is_first {
                            arrived.notify_one();
                            go.notified().await;
                        }
                        let status = status.expect("two attempts at most");
                        let body = r#"{"detail": "Invalid API key"}"#;
                        Ok::<_, Infallible>(support::answer(status, body))
                    }
                })
            });
        let mut request = Request::new(());
        *request.uri_mut() = Uri::from_static("https://api.anyreach.ai/core/agents");
        let call = tokio::spawn(service.oneshot(request));
        if let Some(key) = rotated_to {
            arrived.notified().await;
            self.rotate(store, key);
            go.notify_one();
        }
        let outcome = call
            .await
            .unwrap_or_else(|error| resume_unwind(error.into_panic()));
        let fetched = self.settle(before, answer, self.model.version).await;

        let seen = seen.lock().unwrap();
        for (header, in_force) in seen.iter() {
            let sent = header.strip_prefix("Bearer ").unwrap_or_default();
            let sent = Credential::parse(sent).unwrap();
            assert_eq!(
                sent.id(),
                in_force.id(),
                "what is attached is what is in force"
            );
        }
        assert_eq!(seen[0].0, format!("Bearer {}", text(first)));
        if status(0) == StatusCode::OK {
            assert_eq!(seen.len(), 1);
            assert!(!fetched);
        }
        if version != self.model.version && rotated_to.is_some() {
            assert!(!fetched, "a late 401 to an old version asks for nothing");
        }
        if status(0) == StatusCode::UNAUTHORIZED && must_fetch {
            assert!(fetched, "a 401 asks the source");
        }
        if let [(one, _), (other, _)] = &seen[..] {
            assert_ne!(one, other, "replayed with what was refused");
        } else if status(0) == StatusCode::UNAUTHORIZED && may_replay {
            assert_eq!(self.model.key, first, "not replayed with what is new");
        }

        let last = if seen.len() == 1 {
            status(0)
        } else {
            status(1)
        };
        match outcome {
            Ok(response) => assert_eq!((response.status(), last), (StatusCode::OK, StatusCode::OK)),
            Err(Error::Unauthorized(denial)) => {
                assert_eq!(last, StatusCode::UNAUTHORIZED);
                let sent = seen.last().map(|(_, credential)| credential.id());
                assert_eq!(denial.credential(), sent);
            }
            Err(error) => panic!("{error}"),
        }
        if last == StatusCode::OK {
            self.model.fruitless = 0;
        } else if seen.len() == 2 {
            self.model.fruitless += 1;
        }
    }

    /// How many fetches there were before.
    fn begin(&self, answer: Answer) -> u32 {
        let mut asked = self.source.lock();
        asked.answer = answer;
        asked.fetches
    }

    /// Waits for a fetch that nobody waits for, and takes note of it. `version` was in force when it began.
    async fn settle(&mut self, before: u32, answer: Answer, version: u64) -> bool {
        for _ in 0..3 {
            tokio::task::yield_now().await;
        }
        while self.source.lock().in_flight > 0 {
            sleep(Duration::from_millis(100)).await;
        }
        tokio::task::yield_now().await;
        self.note_fetches(before, answer, version)
    }

    fn note_fetches(&mut self, before: u32, answer: Answer, version: u64) -> bool {
        let (fetches, ended) = {
            let mut asked = self.source.lock();
            (
                std::mem::replace(&mut asked.fetches, before) - before,
                asked.ended,
            )
        };
        if fetches == 0 {
            return false;
        }
        assert_eq!(fetches, 1, "one fetch for all");
        assert!(self.has_source);
        let model = &mut self.model;
        assert!(ended >= model.rests, "asked while it rests");
        match answer.key() {
            None => {
                let doubled = SHORTEST_BACK_OFF * 2_u32.saturating_pow(model.failures).min(1 << 20);
                let longest = doubled.min(LONGEST_BACK_OFF);
                model.failures += 1;
                (model.rests, model.free) = (ended + longest / 100, ended + longest);
            }
            Some(key) => {
                model.failures = 0;
                (model.rests, model.free) = (ended, ended);
                if model.version == version && key == model.key {
                    (model.rests, model.free) = (ended + REST, ended + REST);
                } else if model.version == version {
                    model.version += 1;
                    model.key = key;
                }
            }
        }
        true
    }
}
