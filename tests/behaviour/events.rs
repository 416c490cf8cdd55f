//! What feature `tracing` tells: each event once, with its fields, and never a secret.

use std::cell::RefCell;
use std::fmt::{self, Write};
use std::sync::Once;
use std::time::Duration;

use http::header::{AUTHORIZATION, CONTENT_TYPE};
use http::{HeaderValue, StatusCode};
use tokio::time::sleep;
use tower_anyreach::{
    AnyreachAuthLayer, CredentialStore, DeniedResponses, ForeignRequests, OrganizationId,
};
use tracing::field::{Field, Visit};
use tracing::{Event, Subscriber};
use tracing_subscriber::layer::{Context, Layer, SubscriberExt};
use tracing_subscriber::registry;

use crate::scripted::{Fetch, Script, key_of};
use support::{
    KEY, Recorder, answer, credential, get, get_agents, organization, send, send_to, token_for,
};

thread_local! {
    /// The events of this thread, if it listens.
    static HEARD: RefCell<Option<Vec<String>>> = const { RefCell::new(None) };
}

/// Listens on this thread for as long as it lives.
///
/// There is one subscriber for all tests: tracing remembers for each place whether anybody is interested, and one that
/// comes and goes with each test may be missed by a place that another test reaches at that moment.
struct Listener;

impl Listener {
    fn new() -> Self {
        static SUBSCRIBED: Once = Once::new();

        SUBSCRIBED.call_once(|| {
            tracing::subscriber::set_global_default(registry().with(Ear)).unwrap();
        });
        tracing::callsite::rebuild_interest_cache();
        HEARD.set(Some(Vec::new()));
        Self
    }

    /// The events since the last time: level, message, and fields in the order they were given.
    #[allow(clippy::unused_self, reason = "who takes must listen")]
    fn take(&self) -> Vec<String> {
        HEARD.replace(Some(Vec::new())).unwrap()
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        HEARD.set(None);
    }
}

struct Ear;

impl<S: Subscriber> Layer<S> for Ear {
    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        let metadata = event.metadata();
        if metadata.target() != "tower_anyreach" {
            return;
        }
        let mut fields = Fields::default();
        event.record(&mut fields);
        HEARD.with_borrow_mut(|heard| {
            if let Some(heard) = heard {
                heard.push(format!(
                    "{} {}{}",
                    metadata.level(),
                    fields.message,
                    fields.others
                ));
            }
        });
    }
}

#[derive(Default)]
struct Fields {
    message: String,
    others: String,
}

impl Visit for Fields {
    fn record_str(&mut self, field: &Field, value: &str) {
        self.record_debug(field, &format_args!("{value}"));
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        if field.name() == "message" {
            write!(self.message, "{value:?}").unwrap();
        } else {
            write!(self.others, " {}={value:?}", field.name()).unwrap();
        }
    }
}

fn id(name: &str) -> String {
    key_of(name).id().to_string()
}

#[test]
fn a_denial_is_told_once_however_it_is_returned() {
    let listener = Listener::new();
    let mut forbidden = answer(
        StatusCode::FORBIDDEN,
        r#"{"detail": "You need S3RVER-T3XT"}"#,
    );
    let json = HeaderValue::from_static("application/json");
    forbidden.headers_mut().insert(CONTENT_TYPE, json);
    let inner = Recorder::answering(forbidden);
    let layer = AnyreachAuthLayer::new(token_for("org_acme"));
    let told = [format!(
        "DEBUG request denied status=403 reason=InsufficientScope credential={} organization=org_acme version=1 \
         replayed=false",
        token_for("org_acme").id()
    )];
    send_to(&inner, &layer, get_agents()).outcome.unwrap_err();
    assert_eq!(listener.take(), told);

    let layer = layer.denied_responses(DeniedResponses::PassThrough);
    send_to(&inner, &layer, get_agents()).outcome.unwrap();
    assert_eq!(listener.take(), told);
}

#[test]
fn what_is_refused_here_is_told_with_the_reason() {
    let listener = Listener::new();
    let key = AnyreachAuthLayer::new(credential(KEY));
    let mut own = get_agents();
    own.headers_mut()
        .insert(AUTHORIZATION, "Bearer SECR3T".parse().unwrap());
    let mut tenant = get_agents();
    tenant.extensions_mut().insert(organization("org_acme"));
    let without_organization =
        AnyreachAuthLayer::new(tower_anyreach::PersonalAccessToken::new("pat_x").unwrap());

    for (layer, request) in [
        (key.clone(), get("https://evil.example/?key=SECR3T")),
        (key.clone(), get("https://me:SECR3T@api.anyreach.ai/")),
        (key.clone(), own),
        (key.clone(), tenant),
        (without_organization, get_agents()),
        (AnyreachAuthLayer::per_request(), get_agents()),
    ] {
        let error = send(&layer, request).refusal();
        let refusal = error.refusal().unwrap();
        let field = |name: &str, value: Option<String>| {
            value.map_or_else(String::new, |value| format!(" {name}={value}"))
        };
        let expected = format!(
            "WARN request refused reason={}{}{}",
            refusal.reason().as_str(),
            field("credential", refusal.credential().map(ToString::to_string)),
            field(
                "organization",
                refusal.organization().map(ToString::to_string)
            ),
        );
        assert_eq!(listener.take(), [expected.as_str()]);
        assert!(!expected.contains("SECR3T"), "{expected}");
    }
}

#[test]
fn what_goes_well_is_not_told() {
    let listener = Listener::new();
    let layer = AnyreachAuthLayer::new(token_for("org_acme"))
        .foreign_requests(ForeignRequests::ForwardWithoutCredentials);
    let mut tenant = get_agents();
    tenant
        .extensions_mut()
        .insert::<OrganizationId>(organization("org_globex"));
    for request in [get_agents(), tenant, get("https://example.com/")] {
        send(&layer, request).outcome.unwrap();
    }
    assert_eq!(listener.take(), [""; 0]);
}

#[test]
fn a_rotation_is_told_with_the_new_credential() {
    let listener = Listener::new();
    let store = CredentialStore::new(key_of("v1"));
    store.rotate(token_for("org_acme"));
    assert_eq!(
        listener.take(),
        [format!(
            "DEBUG credential rotated credential={} organization=org_acme version=2",
            token_for("org_acme").id()
        )]
    );
}

#[tokio::test(start_paused = true)]
async fn a_source_is_told_of_when_it_fails_and_when_it_recovers() {
    let listener = Listener::new();
    let script = Script::new(Fetch::Fails);
    let store = script.store().await;
    assert_eq!(listener.take(), [""; 0]);

    store.refresh().await.unwrap_err();
    let [first] = listener.take().try_into().unwrap();
    assert!(
        first.starts_with("WARN credential source failed reason=credential source `"),
        "{first}"
    );
    let kept = format!("credential={} version=1", id("v1"));
    assert!(first.ends_with(&kept), "{first}");
    assert!(!first.contains(crate::scripted::CAUSE), "{first}");

    // Inside the back-off nothing happens, and nothing is told.
    store.refresh().await.unwrap_err();
    assert_eq!(script.fetches(), 1);
    assert_eq!(listener.take(), [""; 0]);

    // It goes on, which nobody needs to be called for.
    for failures in 2..5 {
        sleep(Duration::from_secs(60)).await;
        store.refresh().await.unwrap_err();
        let [next] = listener.take().try_into().unwrap();
        assert!(
            next.starts_with("DEBUG credential source still fails"),
            "{next}"
        );
        assert!(next.ends_with(&format!("failures={failures}")), "{next}");
    }

    script.tell(Fetch::Gives("v1"));
    sleep(Duration::from_secs(60)).await;
    store.refresh().await.unwrap();
    let recovered = format!(
        "INFO credential source recovered credential={} version=1 failures=4",
        id("v1")
    );
    assert_eq!(listener.take(), [recovered]);

    script.tell(Fetch::Gives("v2"));
    sleep(Duration::from_secs(60)).await;
    store.refresh().await.unwrap();
    let refreshed = format!(
        "DEBUG credential refreshed credential={} version=2",
        id("v2")
    );
    assert_eq!(listener.take(), [refreshed]);

    // A new failure is a new change.
    script.tell(Fetch::PanicsLater);
    store.refresh().await.unwrap_err();
    let [again] = listener.take().try_into().unwrap();
    assert!(
        again.starts_with("WARN credential source failed"),
        "{again}"
    );
}

#[cfg(feature = "retry")]
#[tokio::test(start_paused = true)]
async fn replays_that_stop_are_told_once() {
    use crate::scripted::client;
    use tower::ServiceExt;

    let listener = Listener::new();
    let store = Script::new(Fetch::GivesFresh).store().await;
    let inner = Recorder::answering(answer(
        StatusCode::UNAUTHORIZED,
        r#"{"detail": "Invalid API key"}"#,
    ));
    let client = client(&store, inner);
    for _ in 0..6 {
        client.clone().oneshot(get_agents()).await.unwrap_err();
    }
    let stopped: Vec<_> = listener
        .take()
        .into_iter()
        .filter(|told| told.starts_with("WARN"))
        .collect();
    assert_eq!(
        stopped,
        ["WARN replays stopped: what the source gives is refused version=4"]
    );
}

#[cfg(feature = "retry")]
#[tokio::test]
async fn a_replay_that_is_withheld_is_told() {
    use crate::scripted::client;
    use tower::ServiceExt;

    let listener = Listener::new();
    let store = CredentialStore::new(key_of("v1"));
    let denied = answer(StatusCode::UNAUTHORIZED, r#"{"detail": "Nope"}"#);
    let inner = Recorder::answering(denied);
    let client = client(&store, inner);
    client.oneshot(get_agents()).await.unwrap_err();
    assert_eq!(
        listener.take(),
        [
            format!(
                "DEBUG request denied status=401 reason=InvalidCredential credential={} version=1 replayed=false",
                id("v1")
            ),
            format!(
                "DEBUG replay withheld, since the refused credential is still in force credential={}",
                id("v1")
            ),
        ]
    );
}

#[cfg(all(unix, feature = "file"))]
#[tokio::test]
async fn a_file_that_anybody_may_read_is_told_of_once() {
    use std::fs::{self, Permissions};
    use std::os::unix::fs::PermissionsExt;
    use support::Directory;
    use tower_anyreach::source::{CredentialSource, FileSource};

    let directory = Directory::new();
    let path = directory.file("key", "ak_v1.c2VjcmV0");
    let chmod = |mode| fs::set_permissions(&path, Permissions::from_mode(mode)).unwrap();

    let listener = Listener::new();
    let source = FileSource::new(&path);
    let read = async || drop(source.fetch().await.unwrap());
    let told = [format!(
        "WARN credential file is readable by anybody; use `chmod o-r` path={}",
        path.display()
    )];

    chmod(0o640);
    read().await;
    assert_eq!(listener.take(), [""; 0]);
    chmod(0o644);
    read().await;
    assert_eq!(listener.take(), told);
    read().await;
    assert_eq!(listener.take(), [""; 0], "once");
    chmod(0o600);
    read().await;
    chmod(0o604);
    read().await;
    assert_eq!(listener.take(), told, "a new change");
}
