//! A stack with every event of every crate switched on: no credential is in any of them.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::fmt::{self, Debug, Write};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderValue, Request};
use http_body_util::Empty;
use hyper_util::client::legacy::Client;
use hyper_util::rt::TokioExecutor;
use tower::timeout::TimeoutLayer;
use tower::{BoxError, ServiceBuilder, ServiceExt};
use tower_anyreach::retry::RefreshPolicy;
use tower_anyreach::test_util::FakeAnyreach;
use tower_anyreach::tower_http::DenialsAsFailures;
use tower_anyreach::{AnyreachAuthLayer, Credential, CredentialStore, Error};
use tower_http::decompression::DecompressionLayer;
use tower_http::trace::{DefaultMakeSpan, TraceLayer};
use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::layer::{Context, Layer, SubscriberExt};

const OLD: &str = "ak_leak01.0ldS3cr3tCanary7391x";
const NEW: &str = "ak_leak01.N3wS3cr3tCanary2846y";

/// Everything that any crate says, in any span or event, of any level.
#[derive(Clone, Default)]
struct Ear(Arc<Mutex<String>>);

impl Ear {
    fn hear(&self, target: &str, record: impl FnOnce(&mut Fields<'_>)) {
        let mut heard = self.0.lock().unwrap();
        write!(heard, "\n{target}:").unwrap();
        record(&mut Fields(&mut heard));
    }
}

struct Fields<'a>(&'a mut String);

impl Visit for Fields<'_> {
    fn record_str(&mut self, field: &Field, value: &str) {
        write!(self.0, " {}={value}", field.name()).unwrap();
    }

    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        write!(self.0, " {}={value:?}", field.name()).unwrap();
    }
}

impl<S: Subscriber> Layer<S> for Ear {
    fn on_new_span(&self, attributes: &Attributes<'_>, _: &Id, _: Context<'_, S>) {
        self.hear(attributes.metadata().target(), |fields| {
            attributes.record(fields);
        });
    }

    fn on_record(&self, _: &Id, values: &Record<'_>, _: Context<'_, S>) {
        self.hear("span", |fields| values.record(fields));
    }

    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        self.hear(event.metadata().target(), |fields| event.record(fields));
    }
}

/// Where a secret stands in a text: as it is, in hex, or as a list of bytes; eight bytes of it are enough.
fn leaks(text: &str) -> Vec<String> {
    let bare: String = text.chars().filter(|c| !c.is_whitespace()).collect();
    let lower = bare.to_ascii_lowercase();
    let mut found = Vec::new();
    for secret in [OLD, NEW] {
        let (_, secret) = secret.split_once('.').unwrap();
        for window in secret.as_bytes().windows(8) {
            let raw = std::str::from_utf8(window).unwrap();
            let (mut hex, mut list) = (String::new(), String::new());
            for byte in window {
                write!(hex, "{byte:02x}").unwrap();
                write!(list, "{byte},").unwrap();
            }
            let list = list.trim_end_matches(',');
            let is_there = bare.contains(raw) || lower.contains(&hex) || bare.contains(list);
            found.extend(is_there.then(|| raw.to_owned()));
        }
    }
    found
}

/// What is carried by the source's error: the old key, as a careless source might have it.
struct Careless;

impl Debug for Careless {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the vault refused {OLD}")
    }
}

impl fmt::Display for Careless {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self:?}")
    }
}

impl std::error::Error for Careless {}

async fn drive(http2: bool) {
    let anyreach = FakeAnyreach::builder()
        .api_key(OLD, "org_acme", ["agents:read"])
        .start()
        .await
        .unwrap();
    let source_fails = Arc::new(AtomicBool::new(false));
    let rotated = Arc::new(AtomicBool::new(false));
    let store = CredentialStore::load({
        let (source_fails, rotated) = (Arc::clone(&source_fails), Arc::clone(&rotated));
        move || {
            let key = if rotated.load(Ordering::Relaxed) {
                NEW
            } else {
                OLD
            };
            let fails = source_fails.load(Ordering::Relaxed);
            async move {
                if fails {
                    return Err(BoxError::from(Careless));
                }
                Ok(Credential::parse(key)?)
            }
        }
    })
    .await
    .unwrap();
    let client = Client::builder(TokioExecutor::new())
        .http2_only(http2)
        .build_http::<Empty<Bytes>>();
    let client = ServiceBuilder::new()
        .layer(
            TraceLayer::new(DenialsAsFailures).make_span_with(
                DefaultMakeSpan::new()
                    .level(Level::ERROR)
                    .include_headers(true),
            ),
        )
        .retry(RefreshPolicy::new(store.clone()))
        .layer(AnyreachAuthLayer::new(store.clone()).origin(anyreach.origin()))
        // Inside of the layer it sees what was attached.
        .layer(
            TraceLayer::new_for_http().make_span_with(DefaultMakeSpan::new().include_headers(true)),
        )
        .layer(DecompressionLayer::new())
        .layer(TimeoutLayer::new(Duration::from_secs(5)))
        .service(client);
    let get = |uri: http::Uri| Request::get(uri).body(Empty::new()).unwrap();
    let post = Request::post(anyreach.uri("/core/agents"))
        .body(Empty::new())
        .unwrap();

    client
        .clone()
        .oneshot(get(anyreach.uri("/core/agents")))
        .await
        .unwrap();
    let forbidden = client.clone().oneshot(post).await;
    assert!(matches!(forbidden, Err(Error::Forbidden(_))));
    let foreign = client
        .clone()
        .oneshot(get("http://127.0.0.1:1/".parse().unwrap()));
    assert!(matches!(foreign.await, Err(Error::UntrustedDestination(_))));
    source_fails.store(true, Ordering::Relaxed);
    store.refresh().await.unwrap_err();

    assert!(anyreach.rotate(OLD, NEW));
    source_fails.store(false, Ordering::Relaxed);
    rotated.store(true, Ordering::Relaxed);
    tokio::time::sleep(Duration::from_millis(300)).await;
    let replayed = client.clone().oneshot(get(anyreach.uri("/core/agents")));
    replayed.await.unwrap();
    anyreach.revoke(NEW);
    let denied = client.oneshot(get(anyreach.uri("/core/agents"))).await;
    assert!(matches!(denied, Err(Error::Unauthorized(_))));
}

#[tokio::test]
async fn no_event_or_span_of_any_crate_holds_a_credential() {
    let ear = Ear::default();
    let subscriber = tracing_subscriber::registry().with(ear.clone());
    tracing::subscriber::set_global_default(subscriber).unwrap();
    for http2 in [false, true] {
        drive(http2).await;
    }

    let heard = std::mem::take(&mut *ear.0.lock().unwrap());
    for target in ["tower_anyreach:", "tower_http::", "hyper_util::", "h2::"] {
        assert!(heard.contains(target), "{target} said nothing");
    }
    assert!(heard.contains("request denied") && heard.contains("credential source failed"));
    assert!(
        heard.contains("authorization"),
        "the headers were shown, with a name and without a value"
    );
    let leaking: Vec<_> = heard
        .lines()
        .filter(|line| !leaks(line).is_empty())
        .collect();
    assert!(leaking.is_empty(), "{leaking:#?}");

    // Of what is looked for, each form is found.
    let unmarked = HeaderValue::from_str(&format!("Bearer {OLD}")).unwrap();
    tracing::trace!(headers = ?unmarked, "planted");
    tracing::trace!(bytes = ?NEW.as_bytes(), "planted");
    tracing::trace!("{:02X?}", &NEW.as_bytes()[10..]);
    tracing::error_span!("planted", error = %Careless);
    let heard = std::mem::take(&mut *ear.0.lock().unwrap());
    let planted: Vec<_> = heard.lines().filter(|line| !line.is_empty()).collect();
    assert_eq!(planted.len(), 4, "{planted:#?}");
    for line in &planted[..2] {
        assert!(!leaks(line).is_empty(), "{line}");
    }
    assert!(!leaks(&planted[2].replace(',', "")).is_empty());
    assert!(!leaks(planted[3]).is_empty(), "{}", planted[3]);
}
