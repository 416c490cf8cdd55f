//! The events of feature `tracing`: each once, with its fields, and never with a secret.

use std::cell::RefCell;
use std::fmt::Write as _;
use std::sync::Once;

use tracing::Level;

use crate::prelude::*;

thread_local! {
    /// What is logged on this thread.
    static LOG: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

struct Log;

impl io::Write for Log {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        LOG.with_borrow_mut(|log| log.extend_from_slice(bytes));
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Reads the events of this thread.
///
/// There is one subscriber for all tests: tracing remembers for each call site whether any subscriber is interested, and one
/// that comes and goes with each test may be missed by a call site that another test reaches at that moment.
pub(crate) struct Listener(());

impl Listener {
    pub(crate) fn new() -> Self {
        static SUBSCRIBED: Once = Once::new();

        SUBSCRIBED.call_once(|| {
            let subscriber = tracing_subscriber::fmt().with_max_level(Level::DEBUG);
            let subscriber = subscriber.without_time().with_ansi(false);
            subscriber.with_writer(|| Log).init();
        });
        tracing::callsite::rebuild_interest_cache();
        LOG.take();
        Self(())
    }

    /// The events since the last time: level, message, and fields in the order they were given.
    #[allow(clippy::unused_self, reason = "without it there may be no subscriber")]
    pub(crate) fn take(&self) -> Vec<String> {
        let log = String::from_utf8(LOG.take()).unwrap();
        let lines = log.lines();
        let ours = lines.filter_map(|line| line.split_once(" tower_anyreach: "));
        let line = |(level, event): (&str, &str)| format!("{} {event}", level.trim());
        ours.map(line).collect()
    }

    /// The only event since the last time.
    fn only(&self) -> String {
        let [event] = self.take().try_into().unwrap();
        event
    }
}

fn id(name: &str) -> String {
    key_of(name).id().to_string()
}

#[test]
fn a_denial_is_one_event_whether_it_is_an_error_or_passed_through() {
    let listener = Listener::new();
    let json = [("content-type", "application/json")];
    let body = r#"{"detail": "You need S3RVER-T3XT"}"#;
    let inner = Recorder::answering(answer_with(403, &json, body.to_owned()));
    let layer = AnyreachAuthLayer::new(token_for("org_acme"));
    let expected = format!(
        "DEBUG request denied status=403 reason=\"insufficient_scope\" credential={} organization=\"org_acme\" version=1 \
         replayed=false",
        token_for("org_acme").id()
    );
    for denied_responses in [DeniedResponses::IntoError, DeniedResponses::PassThrough] {
        let layer = layer.clone().denied_responses(denied_responses);
        drop(send_to(&inner, &layer, get_agents()).outcome);
        assert_eq!(listener.only(), expected);
    }
}

#[test]
fn a_refusal_is_one_event_with_its_reason_credential_and_organization() {
    let listener = Listener::new();
    let key = AnyreachAuthLayer::new(credential(KEY));
    let own = with_headers(&[("authorization", "Bearer SECR3T")], get_agents());
    let tenant = with(organization("org_acme"), get_agents());
    let without_organization = AnyreachAuthLayer::new(credential("pat_x"));

    for (layer, request) in [
        (&key, get("https://evil.example/?key=SECR3T")),
        (&key, get("https://me:SECR3T@api.anyreach.ai/")),
        (&key, own),
        (&key, tenant),
        (&without_organization, get_agents()),
        (&AnyreachAuthLayer::per_request(), get_agents()),
    ] {
        let error = send(layer, request).refusal();
        let refusal = error.refusal().unwrap();
        let reason = refusal.reason().as_str();
        let mut expected = format!("WARN request refused reason={reason:?}");
        if let Some(credential) = refusal.credential() {
            write!(expected, " credential={credential}").unwrap();
        }
        if let Some(organization) = refusal.organization() {
            write!(expected, " organization={:?}", organization.as_str()).unwrap();
        }
        assert_eq!(listener.only(), expected);
        assert!(!expected.contains("SECR3T"), "{expected}");
    }
    // A redirect is refused once, without Tower too.
    let home = [("location", "https://api.anyreach.ai/?key=SECR3T")];
    let redirect = answer_with(307, &home, String::new());
    let elsewhere = || with(Anonymous, get("https://storage.example/"));
    let expected = "WARN request refused reason=\"foreign_redirect\"";
    let inner = Recorder::answering(redirect.clone());
    send_to(&inner, &key, elsewhere()).outcome.unwrap_err();
    assert_eq!(listener.only(), expected);
    let (mut head, _) = elsewhere().into_parts();
    let authorized = key.authorize(&mut head).unwrap();
    drop(authorized.on_response(redirect.status(), redirect.headers(), redirect.extensions()));
    assert_eq!(listener.only(), expected);
}

#[test]
fn a_request_that_succeeds_is_no_event() {
    let listener = Listener::new();
    let layer = AnyreachAuthLayer::new(token_for("org_acme")).foreign_requests(FORWARD);
    let tenant = with(organization("org_globex"), get_agents());
    for request in [get_agents(), tenant, get("https://example.com/")] {
        send(&layer, request).outcome.unwrap();
    }
    assert_eq!(listener.take(), [""; 0]);
}

#[test]
fn a_rotation_is_one_event_with_the_credential_before_and_the_new_one() {
    let listener = Listener::new();
    let store = CredentialStore::new(key_of("v1"));
    let token = token_for("org_acme");
    store.rotate(token.clone());
    store.rotate(token.clone());
    let (before, now) = (id("v1"), token.id());
    let start = format!("INFO credential rotated before={before} credential={now}");
    let expected = format!("{start} organization=\"org_acme\" version=2");
    assert_eq!(listener.only(), expected);
}

#[tokio::test(start_paused = true)]
async fn failures_of_a_source_warn_at_the_first_second_fourth_and_eighth_in_a_row_with_their_kind()
{
    let listener = Listener::new();
    let [v1, v2] = ["v1", "v2"].map(id);
    let script = Script::new(Fetch::Fails);
    let store = script.store().await;
    let source = std::any::type_name::<Script>();
    for failures in 1..=8_u32 {
        store.refresh().await.unwrap_err();
        let level = ["DEBUG", "WARN"][usize::from(failures.is_power_of_two())];
        let start =
            format!("{level} credential source failed reason=\"failed\" error=credential source");
        let end = format!("failed credential={v1} version=1 failures={failures}");
        assert_eq!(listener.only(), format!("{start} `{source}` {end}"));
    }
    script.set(Fetch::Gives("v2"));
    store.refresh().await.unwrap();
    let expected = [
        format!("INFO credential source recovered credential={v2} version=2 failures=8"),
        format!("INFO credential refreshed before={v1} credential={v2} version=2"),
    ];
    assert_eq!(listener.take(), expected);
    // A new failure in a row is a new change, and so is the first one of a store.
    script.set(Fetch::PanicsLater);
    store.refresh().await.unwrap_err();
    let start = "WARN credential source failed reason=\"panicked\"";
    assert!(listener.only().starts_with(start));
    let loader = CredentialStore::loader(script).or_start_with(key_of("v1"));
    loader.load().await.unwrap();
    let first = listener.only();
    assert!(first.starts_with(start), "{first}");
    assert!(first.ends_with("version=1 failures=1"), "{first}");
}

#[tokio::test(start_paused = true)]
async fn the_first_401_of_a_version_is_a_warning_and_later_ones_and_those_of_own_credentials_are_not()
 {
    let listener = Listener::new();
    let store = Script::new(Fetch::Gives("v1")).store().await;
    let layer = AnyreachAuthLayer::new(store.clone());
    let inner = Recorder::answering(answer(StatusCode::UNAUTHORIZED, r#"{"detail": "Nope"}"#));
    let denied = |level: &str, name: &str, version: &str| {
        format!(
            "{level} request denied status=401 reason=\"invalid_credential\" credential={}{version} replayed=false",
            id(name)
        )
    };
    let own = with(key_of("own"), get_agents());
    send_to(&inner, &layer, own).outcome.unwrap_err();
    assert_eq!(listener.only(), denied("DEBUG", "own", ""));
    for (name, version) in [("v1", " version=1"), ("v2", " version=2")] {
        send_to(&inner, &layer, get_agents()).outcome.unwrap_err();
        assert_eq!(listener.only(), denied("WARN", name, version));
        send_to(&inner, &layer, get_agents()).outcome.unwrap_err();
        assert_eq!(listener.only(), denied("DEBUG", name, version));
        store.rotate(key_of("v2"));
        listener.take();
    }
}

#[cfg(feature = "retry")]
#[tokio::test]
async fn a_denied_replay_is_an_event_that_says_so_and_one_that_the_first_denial_answers_is_none() {
    let listener = Listener::new();
    let ends = ["version=1 replayed=false", "version=2 replayed=true"];
    for (name, ends) in [("v1", &ends[..1]), ("v2", &ends)] {
        let store = Script::new(Fetch::Gives(name)).store().await;
        let client = client(&store, Server::accepting(&[]));
        client.oneshot(get_agents()).await.unwrap_err();
        let events = listener.take().join("\n");
        assert_eq!(events.matches("WARN request denied").count(), ends.len());
        let is_end = |end: &&str| events.lines().any(|event| event.ends_with(end));
        assert!(ends.iter().all(is_end), "{events}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_fetch_carries_no_callers_span() {
    use tracing::Instrument;

    // Without a subscriber there would be no span.
    let _listener = Listener::new();
    let source = async || {
        assert!(tracing::Span::current().is_none());
        Ok(key_of("v1"))
    };
    let store = CredentialStore::load(source).await.unwrap();
    let span = tracing::info_span!("caller");
    assert!(!span.is_none());
    store.refresh().instrument(span).await.unwrap();
}

#[cfg(all(unix, feature = "file"))]
#[tokio::test]
async fn a_world_readable_file_is_one_event_until_its_mode_changes() {
    use std::fs::{self, Permissions};
    use std::os::unix::fs::PermissionsExt;
    use support::Directory;
    use tower_anyreach::source::{CredentialSource, FileSource};

    let directory = Directory::new();
    let path = directory.file("key", "ak_v1.c2VjcmV0");
    let chmod = |mode| fs::set_permissions(&path, Permissions::from_mode(mode)).unwrap();

    let listener = Listener::new();
    let source = FileSource::new(&path);
    let shown = path.display();
    let warning = format!("WARN credential file is world-readable path={shown}");
    for (mode, warnings) in [(0o640, 0), (0o644, 1), (0o644, 0), (0o600, 0), (0o604, 1)] {
        chmod(mode);
        source.fetch().await.unwrap();
        assert_eq!(listener.take(), vec![warning.clone(); warnings], "{mode:o}");
    }
}
