//! The client: eight workers that send requests, and the source of its store.

use std::panic::resume_unwind;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response, StatusCode, Version};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use tokio::runtime::Handle;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, sleep_until, timeout};
use tower::timeout::TimeoutLayer;
use tower::timeout::error::Elapsed;
use tower::{Service, ServiceBuilder, ServiceExt, service_fn};
use tower_anyreach::retry::RefreshPolicy;
use tower_anyreach::{AnyreachAuthLayer, BoxError, Credential, CredentialStore, Error, Origin};
use turmoil::net::TcpStream;

use campaigns::connection::handshake;
use campaigns::generation;
use campaigns::random::Random;

use crate::scene::{Fetch, Outcome, Shared};
use crate::{ATTEMPT, CALM, FETCH, LENGTH, MARGIN, RECOVERY, TOTAL};

const WORKERS: u64 = 8;
const OK: Outcome = Outcome::Answered(StatusCode::OK);

type Drivers = Arc<Mutex<JoinSet<hyper::Result<()>>>>;

pub(crate) async fn run(scene: Shared, mut random: Random, version: Version) -> turmoil::Result {
    let start = Instant::now();
    let tasks_before = alive_tasks();
    let interval = random.one_in(3).then(|| random.duration(1_000..20_000));
    let store = loop {
        let scene = scene.clone();
        let mut loader = CredentialStore::loader(move || fetch(scene.clone())).timeout(FETCH);
        if let Some(interval) = interval {
            loader = loader.refresh_every(interval);
        }
        match loader.load().await {
            Ok(store) => break store,
            Err(_) => sleep(Duration::from_millis(250)).await,
        }
    };
    scene.lock().store = Some(store.clone());
    let origin = Origin::insecure("http://api:80").unwrap();
    // Connections end with the stack, if not by themselves.
    let drivers = Drivers::default();
    let stack = ServiceBuilder::new()
        .layer(TimeoutLayer::new(TOTAL))
        .retry(RefreshPolicy::new())
        .layer(AnyreachAuthLayer::new(store.clone()).origin(origin))
        .layer(TimeoutLayer::new(ATTEMPT))
        .service(service_fn(move |request| {
            send("api", version, Arc::clone(&drivers), request)
        }));

    let mut workers = JoinSet::new();
    for _ in 0..WORKERS {
        let (stack, scene) = (stack.clone(), scene.clone());
        let mut random = Random(random.next());
        workers.spawn(async move {
            while start.elapsed() < CALM {
                sleep(random.duration(0..2_000)).await;
                let is_cancelled = random.one_in(20);
                let limit = random.duration(0..1_000);
                let limit = if is_cancelled { limit } else { Duration::MAX };
                request(&stack, &scene, limit).await;
            }
        });
    }
    workers.join_all().await;
    let calm = start + CALM;
    sleep_until(calm).await;
    while calm.elapsed() <= RECOVERY && scene.lock().recovered_after.is_none() {
        if request(&stack, &scene, Duration::MAX).await == OK {
            scene.lock().recovered_after = Some(calm.elapsed());
        } else {
            sleep(Duration::from_millis(500)).await;
        }
    }
    while scene.lock().recovered_after.is_some() && start.elapsed() < LENGTH {
        let outcome = request(&stack, &scene, Duration::MAX).await;
        if outcome != OK {
            let violation = format!("{outcome:?} after the recovery");
            scene.lock().violation(&violation);
        }
        sleep(random.duration(0..1_000)).await;
    }

    // A fetch in flight may end.
    drop(stack);
    let deadline = Instant::now() + FETCH + MARGIN;
    while scene.lock().fetch.is_some() && Instant::now() < deadline {
        sleep(Duration::from_millis(10)).await;
    }
    scene.lock().compare();
    let shared = scene.lock().store.take();
    drop((store, shared));
    sleep(Duration::from_millis(100)).await;
    let left = alive_tasks() - tasks_before;
    if left > 0 {
        scene.lock().violation(&format!("{left} tasks are left"));
    }
    Ok(())
}

fn alive_tasks() -> usize {
    Handle::current().metrics().num_alive_tasks()
}

/// Sends one request, cancels it at that limit, and records its outcome.
async fn request<S>(stack: &S, scene: &Shared, limit: Duration) -> Outcome
where
    S: Service<Request<Full<Bytes>>, Response = Response<Incoming>, Error = BoxError> + Clone,
{
    let id = scene.lock().outcomes.len();
    scene.lock().outcomes.push(None);
    let request = Request::post("http://api/core/agents")
        .header("x-request-id", id)
        .body(Full::from(r#"{"to": "+15550100"}"#))
        .unwrap();
    let began = Instant::now();
    let answer = timeout(limit, stack.clone().oneshot(request)).await;
    let took = began.elapsed();
    if took > TOTAL + MARGIN {
        let violation = format!("request {id} took {took:?}");
        scene.lock().violation(&violation);
    }
    let outcome = match answer {
        Err(_) => Outcome::Cancelled,
        Ok(Ok(response)) => {
            let status = response.status();
            match timeout(ATTEMPT, response.into_body().collect()).await {
                Ok(Ok(_)) => Outcome::Answered(status),
                _ => Outcome::Failed,
            }
        }
        Ok(Err(error)) => match error.downcast_ref() {
            Some(Error::Unauthorized(_)) => Outcome::Denied,
            Some(Error::Service(_)) => Outcome::Failed,
            None if error.is::<Elapsed>() => Outcome::Failed,
            _ => {
                let violation = format!("request {id} failed with {error:?}");
                scene.lock().violation(&violation);
                Outcome::Failed
            }
        },
    };
    scene.lock().outcomes[id] = Some(outcome);
    outcome
}

/// Connects for each request, so that no connection outlasts a fault.
async fn send(
    host: &'static str,
    version: Version,
    drivers: Drivers,
    request: Request<Full<Bytes>>,
) -> Result<Response<Incoming>, BoxError> {
    let stream = TcpStream::connect((host, 80)).await?;
    let (mut connection, driver) = handshake(stream, version).await?;
    drivers.lock().unwrap().spawn(driver);
    Ok(connection.call(request).await?)
}

/// The source of the store: asks the token service over the network, and reports to the model.
async fn fetch(scene: Shared) -> Result<Credential, BoxError> {
    let fetch = Fetch::begin(&scene);
    if scene.lock().source_panics {
        // As a panic, but without a message for each.
        resume_unwind(Box::new("the source panics"));
    }
    // Its connection ends with the fetch.
    let drivers = Drivers::default();
    let request = Request::get("http://tokens/key").body(Full::default())?;
    let response = send("tokens", Version::HTTP_11, Arc::clone(&drivers), request).await?;
    if response.status() != StatusCode::OK {
        return Err(response.status().to_string().into());
    }
    let body = response.into_body().collect().await?.to_bytes();
    let text = str::from_utf8(&body)?;
    let credential = Credential::parse(text)?;
    fetch.succeed(generation(text).unwrap_or(u64::MAX));
    Ok(credential)
}
