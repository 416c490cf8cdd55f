//! What feature `tracing` tells: each event once, with its fields, and never a secret.

use std::cell::RefCell;
use std::fmt::{self, Write};
use std::sync::{Mutex, Once};

use http::header::{AUTHORIZATION, CONTENT_TYPE};
use http::{HeaderValue, StatusCode};
use tower_anyreach::{AnyreachAuthLayer, CredentialStore, DeniedResponses, ForeignRequests};
use tracing::field::{Field, Visit};
use tracing::{Event, Subscriber};
use tracing_subscriber::layer::{Context, Layer, SubscriberExt};
use tracing_subscriber::registry;

use crate::scripted::{Fetch, Script, key_of};
use support::{
    KEY, Recorder, answer, credential, get, get_agents, organization, send, send_to, token_for,
    with,
};

thread_local! {
    /// The events of this thread, if it listens.
    static HEARD: RefCell<Option<Vec<String>>> = const { RefCell::new(None) };
}

/// Listens on this thread for as long as it lives.
///
/// There is one subscriber for all tests: tracing remembers for each place whether anybody is interested, and one that
/// comes and goes with each test may be missed by a place that another test reaches at that moment.
pub(crate) struct Listener;

impl Listener {
    pub(crate) fn new() -> Self {
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
    pub(crate) fn take(&self) -> Vec<String> {
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
                let Fields { message, others } = fields;
                heard.push(format!("{} {message}{others}", metadata.level()));
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
    let body = r#"{"detail": "You need S3RVER-T3XT"}"#;
    let mut forbidden = answer(StatusCode::FORBIDDEN, body);
    let json = HeaderValue::from_static("application/json");
    forbidden.headers_mut().insert(CONTENT_TYPE, json);
    let inner = Recorder::answering(forbidden);
    let layer = AnyreachAuthLayer::new(token_for("org_acme"));
    let told = [format!(
        "DEBUG request denied status=403 reason=insufficient_scope credential={} organization=org_acme version=1 \
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
    let tenant = with(organization("org_acme"), get_agents());
    let without_organization = AnyreachAuthLayer::new(credential("pat_x"));

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
        let mut expected = format!("WARN request refused reason={}", refusal.reason().as_str());
        if let Some(credential) = refusal.credential() {
            write!(expected, " credential={credential}").unwrap();
        }
        if let Some(organization) = refusal.organization() {
            write!(expected, " organization={organization}").unwrap();
        }
        assert_eq!(listener.take(), [expected.as_str()]);
        assert!(!expected.contains("SECR3T"), "{expected}");
    }
}

#[test]
fn what_goes_well_is_not_told() {
    let listener = Listener::new();
    let layer = AnyreachAuthLayer::new(token_for("org_acme"))
        .foreign_requests(ForeignRequests::ForwardWithoutCredentials);
    let tenant = with(organization("org_globex"), get_agents());
    for request in [get_agents(), tenant, get("https://example.com/")] {
        send(&layer, request).outcome.unwrap();
    }
    assert_eq!(listener.take(), [""; 0]);
}

#[test]
fn a_rotation_is_told_with_the_credential_before_and_the_new_one() {
    let listener = Listener::new();
    let store = CredentialStore::new(key_of("v1"));
    let token = token_for("org_acme");
    store.rotate(token.clone());
    store.rotate(token.clone());
    let (before, now) = (id("v1"), token.id());
    let rotated = format!(
        "INFO credential rotated before={before} credential={now} organization=org_acme version=2"
    );
    assert_eq!(listener.take(), [rotated]);
}

#[tokio::test(start_paused = true)]
async fn failures_of_a_source_warn_at_the_first_second_fourth_and_eighth_in_a_row_with_their_kind()
{
    let listener = Listener::new();
    let [v1, v2] = ["v1", "v2"].map(id);
    let script = Script::new(Fetch::Fails);
    let store = script.store().await;
    for failures in 1..=8_u32 {
        store.refresh().await.unwrap_err();
        let [told] = listener.take().try_into().unwrap();
        let level = ["DEBUG", "WARN"][usize::from(failures.is_power_of_two())];
        let start =
            format!("{level} credential source failed reason=failed error=credential source `");
        assert!(told.starts_with(&start), "{told}");
        let end = format!("` failed credential={v1} version=1 failures={failures}");
        assert!(told.ends_with(&end), "{told}");
        assert!(!told.contains(crate::scripted::CAUSE), "{told}");
    }
    script.tell(Fetch::Gives("v2"));
    store.refresh().await.unwrap();
    let recovered =
        format!("INFO credential source recovered credential={v2} version=2 failures=8");
    let refreshed = format!("INFO credential refreshed before={v1} credential={v2} version=2");
    assert_eq!(listener.take(), [recovered, refreshed]);
    // A new failure in a row is a new change.
    script.tell(Fetch::PanicsLater);
    store.refresh().await.unwrap_err();
    let [again] = listener.take().try_into().unwrap();
    assert!(
        again.starts_with("WARN credential source failed reason=panicked"),
        "{again}"
    );
}

#[tokio::test(start_paused = true)]
async fn the_first_401_of_a_version_is_a_warning_and_later_ones_and_those_of_own_credentials_are_not()
 {
    let listener = Listener::new();
    let store = Script::new(Fetch::Gives("v1")).store().await;
    let layer = AnyreachAuthLayer::new(store.clone());
    let inner = Recorder::answering(answer(StatusCode::UNAUTHORIZED, r#"{"detail": "Nope"}"#));
    let told = |level: &str, name: &str, version: &str| {
        let id = id(name);
        [format!(
            "{level} request denied status=401 reason=invalid_credential credential={id}{version} replayed=false"
        )]
    };
    let own = with(key_of("own"), get_agents());
    send_to(&inner, &layer, own).outcome.unwrap_err();
    assert_eq!(listener.take(), told("DEBUG", "own", ""));
    for (name, version) in [("v1", " version=1"), ("v2", " version=2")] {
        send_to(&inner, &layer, get_agents()).outcome.unwrap_err();
        assert_eq!(listener.take(), told("WARN", name, version));
        send_to(&inner, &layer, get_agents()).outcome.unwrap_err();
        assert_eq!(listener.take(), told("DEBUG", name, version));
        store.rotate(key_of("v2"));
        listener.take();
    }
}

/// Decision by the first denial: the replay that is not sent is no second event.
#[cfg(feature = "retry")]
#[tokio::test]
async fn a_replay_that_is_answered_by_the_first_denial_is_no_second_event() {
    use tower::ServiceExt;

    let listener = Listener::new();
    let store = Script::new(Fetch::Gives("v1")).store().await;
    let inner = Recorder::answering(answer(StatusCode::UNAUTHORIZED, "{}"));
    let client = crate::scripted::client(&store, inner);
    client.oneshot(get_agents()).await.unwrap_err();
    let told = listener.take();
    assert!(
        told.len() == 1 && told[0].starts_with("WARN request denied"),
        "{told:?}"
    );
}

#[tokio::test(start_paused = true)]
async fn a_fetch_carries_no_callers_span() {
    use tracing::Instrument;

    let listener = Listener::new();
    let spans: &Mutex<Vec<bool>> = Box::leak(Box::default());
    let source = async || {
        let is_none = tracing::Span::current().is_none();
        spans.lock().unwrap().push(is_none);
        Ok(key_of("v1"))
    };
    let store = CredentialStore::load(source).await.unwrap();
    let span = tracing::info_span!("caller");
    store.refresh().instrument(span).await.unwrap();
    assert_eq!(*spans.lock().unwrap(), [true, true]);
    drop(listener);
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
        "WARN credential file is world-readable path={}",
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
