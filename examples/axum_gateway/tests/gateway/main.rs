//! The gateway under load in its three shapes, where each old credential is revoked at the moment its replacement is delivered,
//! and the response to each kind of failure.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
#![allow(clippy::print_stdout, reason = "the number of requests")]

mod uploads;

use std::collections::{BTreeMap, HashMap};
use std::io;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum_gateway::{Gateway, Tenant, client, log_changes};
use bytes::Bytes;
use http::{Method, Request, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper_util::{client::legacy::Client, rt::TokioExecutor};
use tokio::net::TcpListener;
use tokio::sync::Notify;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};
use tower_anyreach::source::FileSource;
use tower_anyreach::test_util::{FakeAnyreach, FakeAnyreachBuilder, FakeReply};
use tower_anyreach::{AnyreachAuthLayer, Credential, CredentialStore, OrganizationId};

const SECOND: Duration = Duration::from_secs(1);

/// A gateway that listens on loopback.
#[derive(Clone)]
struct Running(String);

impl Running {
    async fn start(gateway: Gateway) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        for store in gateway.stores.clone() {
            tokio::spawn(log_changes(store));
        }
        tokio::spawn(async move { axum::serve(listener, gateway.router()).await.unwrap() });
        Self(format!("http://{address}"))
    }

    async fn ask(&self, method: Method, path: &str, tenant: &str) -> (StatusCode, String) {
        let client = Client::builder(TokioExecutor::new()).build_http();
        ask_with(&client, method, &format!("{}{path}", self.0), tenant).await
    }

    /// Sends requests from eight workers until `stop` is set, and counts the answers.
    async fn load(
        &self,
        tenants: &[&'static str],
        stop: Arc<AtomicBool>,
        answers: Arc<Mutex<BTreeMap<String, usize>>>,
    ) {
        let mut workers = JoinSet::new();
        for worker in 0..8 {
            let (url, tenant) = (
                format!("{}/core/agents", self.0),
                tenants[worker % tenants.len()],
            );
            let (answers, stop) = (Arc::clone(&answers), Arc::clone(&stop));
            workers.spawn(async move {
                let client = Client::builder(TokioExecutor::new()).build_http();
                while !stop.load(Relaxed) {
                    let method = if worker > 0 {
                        Method::GET
                    } else {
                        Method::POST
                    };
                    let (status, body) = ask_with(&client, method, &url, tenant).await;
                    let answer = if status.is_success() {
                        "good".to_owned()
                    } else {
                        format!("{status} {body}")
                    };
                    *answers.lock().unwrap().entry(answer).or_insert(0) += 1;
                }
            });
        }
        workers.join_all().await;
        println!("{:?}", answers.lock().unwrap());
    }
}

type Http = Client<hyper_util::client::legacy::connect::HttpConnector, Full<Bytes>>;

async fn ask_with(client: &Http, method: Method, url: &str, tenant: &str) -> (StatusCode, String) {
    let body = if method == Method::POST {
        r#"{"name": "Front desk"}"#
    } else {
        ""
    };
    let request = Request::builder().method(method).uri(url);
    let request = request.header("authorization", format!("Bearer {tenant}"));
    let (head, body) = client
        .request(request.body(Full::from(body)).unwrap())
        .await
        .unwrap()
        .into_parts();
    let body = body.collect().await.unwrap().to_bytes();
    (head.status, String::from_utf8(body.into()).unwrap())
}

fn gateway(
    auth: AnyreachAuthLayer,
    anyreach: &FakeAnyreach,
    stores: Vec<CredentialStore>,
    tenants: HashMap<String, Tenant>,
) -> Gateway {
    Gateway {
        client: client(auth.origin(anyreach.origin())),
        stores,
        tenants: Arc::new(tenants),
    }
}

fn organization(name: &str) -> OrganizationId {
    OrganizationId::new(name).unwrap()
}

/// Rotates every 1.5 seconds while there is load, four times and until there were 8,000 requests, and returns the answers.
async fn rotate(
    gateway: &Running,
    tenants: &[&'static str],
    rotate: impl Fn(usize),
) -> BTreeMap<String, usize> {
    let (stop, answers) = (Arc::<AtomicBool>::default(), Arc::default());
    let loading = gateway.load(tenants, Arc::clone(&stop), Arc::clone(&answers));
    let rotating = async {
        let requests = || answers.lock().unwrap().values().sum::<usize>();
        for generation in (1..).take_while(|generation| *generation <= 4 || requests() < 8_000) {
            sleep(SECOND * 3 / 2).await;
            rotate(generation);
        }
        sleep(SECOND * 2).await;
        stop.store(true, Relaxed);
    };
    tokio::join!(loading, rotating);
    answers.lock().unwrap().clone()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_token_for_many_organizations_rotates_in_a_volume_without_a_failed_request() {
    let log = Log::install();
    let scopes = ["agents:read", "agents:manage"];
    let token = |generation: usize| format!("pat_generation{generation}");
    let both = || [("org_acme", scopes), ("org_globex", scopes)];
    let anyreach = FakeAnyreach::builder()
        .personal_access_token(token(0), both())
        .start()
        .await
        .unwrap();
    let volume = tempfile::tempdir().unwrap();
    let path = volume.path().join("token");
    std::fs::write(&path, token(0)).unwrap();
    let loader = CredentialStore::loader(FileSource::new(&path)).refresh_every(SECOND * 10);
    let store = loader.load().await.unwrap();
    let tenants = [("acme", "org_acme"), ("globex", "org_globex")];
    let tenants =
        tenants.map(|(token, name)| (token.to_owned(), Tenant::Organization(organization(name))));
    let auth = AnyreachAuthLayer::new(store.clone());
    let gateway = gateway(auth, &anyreach, vec![store], tenants.into());
    let gateway = Running::start(gateway).await;

    let rotations = AtomicUsize::new(0);
    let answers = rotate(&gateway, &["acme", "globex"], |generation| {
        rotations.store(generation, Relaxed);
        anyreach.add_personal_access_token(token(generation), both());
        let new = volume.path().join("new");
        std::fs::write(&new, token(generation)).unwrap();
        std::fs::rename(new, &path).unwrap();
        anyreach.revoke(&token(generation - 1));
    })
    .await;
    assert_eq!(answers.keys().collect::<Vec<_>>(), ["good"]);
    assert!(answers["good"] >= 8_000, "{answers:?}");
    assert_eq!(anyreach.violations(), []);
    assert_eq!(log.lines("credential=pat_"), rotations.load(Relaxed));
    assert_eq!(
        gateway.ask(Method::GET, "/readyz", "").await.0,
        StatusCode::OK
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_rotating_store_for_each_tenant_costs_no_request() {
    let key = |tenant: &str, generation: usize| format!("ak_{tenant}{generation}.secret");
    let anyreach = FakeAnyreach::builder().start().await.unwrap();
    let generation = Arc::new(AtomicUsize::new(0));
    let (mut tenants, mut stores) = (HashMap::new(), Vec::new());
    for tenant in ["acme", "globex"] {
        anyreach.add_api_key(
            key(tenant, 0),
            format!("org_{tenant}"),
            ["agents:read", "agents:manage"],
        );
        let generation = Arc::clone(&generation);
        let source = move || {
            let generation = generation.load(Relaxed);
            async move { Ok(Credential::parse(key(tenant, generation))?) }
        };
        let store = CredentialStore::load(source).await.unwrap();
        stores.push(store.clone());
        tenants.insert(tenant.to_owned(), Tenant::Store(store));
    }
    let gateway = gateway(AnyreachAuthLayer::per_request(), &anyreach, stores, tenants);
    let gateway = Running::start(gateway).await;
    let answers = rotate(&gateway, &["acme", "globex"], |next| {
        for tenant in ["acme", "globex"] {
            anyreach.rotate(&key(tenant, next - 1), key(tenant, next));
        }
        generation.store(next, Relaxed);
    })
    .await;
    assert_eq!(answers.keys().collect::<Vec<_>>(), ["good"]);
    assert!(answers["good"] >= 8_000, "{answers:?}");
    assert_eq!(anyreach.violations(), []);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_key_for_each_tenant_fails_by_typed_denials_of_the_old_key_and_by_nothing_else() {
    let anyreach = FakeAnyreach::builder().api_key(
        "ak_acme0.secret",
        "org_acme",
        ["agents:read", "agents:manage"],
    );
    let anyreach = anyreach.start().await.unwrap();
    let key = Credential::parse("ak_acme0.secret").unwrap();
    let tenants = HashMap::from([("acme".to_owned(), Tenant::Key(key))]);
    let gateway = gateway(
        AnyreachAuthLayer::per_request(),
        &anyreach,
        Vec::new(),
        tenants,
    );
    let gateway = Running::start(gateway).await;
    let answers = rotate(&gateway, &["acme"], |generation| {
        if generation == 3 {
            anyreach.rotate("ak_acme0.secret", "ak_acme1.secret");
        }
    })
    .await;
    assert_eq!(
        answers.keys().collect::<Vec<_>>(),
        [r#"502 Bad Gateway {"error":"unauthorized"}"#, "good"]
    );
    assert_eq!(anyreach.violations(), []);
}

#[cfg(unix)]
#[tokio::test]
async fn after_a_signal_the_gateway_completes_what_is_in_flight_and_exits() {
    let arrived = Arc::new(Notify::new());
    let builder =
        FakeAnyreach::builder().personal_access_token("pat_1", [("org_acme", ["agents:read"])]);
    let anyreach = builder.answer_with({
        let arrived = Arc::clone(&arrived);
        move |_| {
            arrived.notify_one();
            async {
                sleep(SECOND).await;
                FakeReply::Usual
            }
        }
    });
    let anyreach = anyreach.start().await.unwrap();
    let port = TcpListener::bind("127.0.0.1:0")
        .await
        .unwrap()
        .local_addr()
        .unwrap()
        .port();
    let address = format!("127.0.0.1:{port}");
    let mut process = tokio::process::Command::new(env!("CARGO_BIN_EXE_axum_gateway"))
        .args([&address, &anyreach.origin().to_string()])
        .env("ANYREACH_TOKEN", "pat_1")
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    while tokio::net::TcpStream::connect(&address).await.is_err() {
        sleep(Duration::from_millis(10)).await;
    }
    let running = Running(format!("http://{address}"));
    let asked = running.ask(Method::GET, "/core/agents", "token-of-org_acme");
    let signalled = async {
        arrived.notified().await;
        let pid = process.id().unwrap().to_string();
        let kill = tokio::process::Command::new("kill")
            .args(["-INT", &pid])
            .status();
        assert!(kill.await.unwrap().success());
        process.wait().await.unwrap()
    };
    let ((status, body), exit) = tokio::join!(asked, signalled);
    assert_eq!(status, StatusCode::OK, "{body}");
    assert!(exit.success(), "{exit}");
}

#[tokio::test]
async fn a_source_that_fails_makes_the_gateway_unready_within_one_poll_and_ready_again_after_it() {
    let fails = Arc::new(AtomicBool::new(false));
    let source = {
        let fails = Arc::clone(&fails);
        move || {
            let fails = fails.load(Relaxed);
            async move {
                if fails {
                    Err("sealed".into())
                } else {
                    Ok(Credential::parse("ak_1.s")?)
                }
            }
        }
    };
    let interval = Duration::from_millis(200);
    let store = CredentialStore::loader(source)
        .refresh_every(interval)
        .load()
        .await
        .unwrap();
    let anyreach = FakeAnyreach::builder().start().await.unwrap();
    let auth = AnyreachAuthLayer::new(store.clone());
    let gateway = gateway(auth, &anyreach, vec![store], HashMap::new());
    let gateway = Running::start(gateway).await;
    let becomes = async |expected| {
        let since = Instant::now();
        while gateway.ask(Method::GET, "/readyz", "").await.0 != expected {
            assert!(since.elapsed() < SECOND * 5, "never {expected}");
            sleep(Duration::from_millis(5)).await;
        }
        since.elapsed()
    };
    becomes(StatusCode::OK).await;
    fails.store(true, Relaxed);
    let took = becomes(StatusCode::SERVICE_UNAVAILABLE).await;
    assert!(took <= interval + Duration::from_millis(100), "{took:?}");
    fails.store(false, Relaxed);
    becomes(StatusCode::OK).await;
}

#[tokio::test]
async fn each_failure_has_its_status() {
    let builder: FakeAnyreachBuilder = FakeAnyreach::builder()
        .api_key("ak_acme.secret", "org_acme", ["agents:read"])
        .personal_access_token("pat_lost", [("org_acme", ["agents:read"])])
        .answer_with(async |request| match request.path() {
            "/core/gone" => FakeReply::HangUp,
            "/core/slow" => {
                sleep(SECOND * 6).await;
                FakeReply::Usual
            }
            _ => FakeReply::Usual,
        });
    let anyreach = builder.start().await.unwrap();
    let tenant = |credential: &str| Tenant::Key(Credential::parse(credential).unwrap());
    let tenants = HashMap::from([
        ("acme".to_owned(), tenant("ak_acme.secret")),
        ("revoked".to_owned(), tenant("ak_revoked.secret")),
        ("lost".to_owned(), tenant("pat_lost")),
    ]);
    let gateway = gateway(
        AnyreachAuthLayer::per_request(),
        &anyreach,
        Vec::new(),
        tenants,
    );
    let gateway = Running::start(gateway).await;
    for (request, tenant, status, text) in [
        ("GET agents", "acme", 200, "org_acme"),
        ("GET elsewhere", "acme", 404, "detail"),
        ("GET agents", "stranger", 401, "unknown token"),
        ("POST agents", "acme", 403, r#"{"error":"forbidden"}"#),
        ("GET agents", "lost", 500, r#"{"error":"refused"}"#),
        ("GET agents", "revoked", 502, r#"{"error":"unauthorized"}"#),
        ("GET gone", "acme", 502, r#"{"error":"service"}"#),
        ("GET slow", "acme", 504, r#"{"error":"service"}"#),
    ] {
        let (method, path) = request.split_once(' ').unwrap();
        let (method, path) = (method.parse().unwrap(), format!("/core/{path}"));
        let (found, body) = gateway.ask(method, &path, tenant).await;
        assert_eq!(found.as_u16(), status, "{request} of {tenant}: {body}");
        assert!(body.contains(text), "{request} of {tenant}: {body}");
    }
    assert_eq!(anyreach.violations(), []);
}

/// The log of this process.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl Log {
    fn install() -> Self {
        let log = Self::default();
        let writer = log.clone();
        tracing_subscriber::fmt()
            .with_ansi(false)
            .with_writer(move || writer.clone())
            .init();
        log
    }

    fn lines(&self, text: &str) -> usize {
        let log = self.0.lock().unwrap();
        String::from_utf8_lossy(&log)
            .lines()
            .filter(|line| line.contains("axum_gateway") && line.contains(text))
            .count()
    }
}

impl io::Write for Log {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
