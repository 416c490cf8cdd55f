//! `Debug`, `Display`, sources and panics of everything public show no secret, and no text that the server wrote.

use std::fmt::Debug;
use std::future::{Pending, Ready};
use std::pin::pin;
use std::sync::LazyLock;
use std::task::Waker;

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD_NO_PAD, URL_SAFE_NO_PAD};
use tower_anyreach::OrganizationApiKey;

use crate::prelude::*;
use support::scanner::Scanner;
use support::{each, panic_text};

/// A part of every text that the server of these tests writes.
const SERVER: &str = "SERVER-T3XT-C4NARY";

/// The parts of the credentials that must be shown nowhere, except for six characters of a key's id.
fn secrets() -> [&'static str; 3] {
    let (id, secret) = KEY.split_once('.').unwrap();
    [secret, &id["ak_".len()..], &TOKEN["pat_".len()..]]
}

fn hex(bytes: &[u8]) -> String {
    each(bytes, |byte| format!("{byte:02x}"))
}

/// Finds eight bytes of a secret in a row. That it finds them in every encoding is shown in `campaigns/tests/leaks/planted.rs`.
static SCANNER: LazyLock<Scanner> =
    LazyLock::new(|| Scanner::new(secrets().map(|secret| ("a secret", secret.to_owned()))));

#[track_caller]
fn assert_no_secret(name: &str, text: &str) {
    assert_eq!(SCANNER.scan(text.as_bytes()), [], "{name}: {text}");
}

/// Neither a secret nor a text of the server.
#[track_caller]
fn assert_silent(name: &str, text: &str) {
    assert_no_secret(name, text);
    let has_server_text = text.to_ascii_lowercase().contains("t3xt");
    assert!(!has_server_text, "{name}: {text}");
}

#[track_caller]
fn assert_debug_is_silent(name: &str, value: &impl Debug) {
    assert!(!format!("{value:?}").is_empty(), "{name}");
    assert_silent(name, &format!("{value:?} {value:#?}"));
}

/// The texts of an error and of its sources.
#[track_caller]
fn assert_error_is_silent(name: &str, error: &(dyn std::error::Error + 'static)) {
    let mut next = Some(error);
    while let Some(error) = next {
        assert_silent(name, &format!("{error} {error:#}"));
        assert_debug_is_silent(name, &error);
        next = error.source();
    }
}

#[test]
fn the_search_finds_each_secret_and_not_what_is_shown_of_it() {
    for secret in secrets() {
        assert_ne!(SCANNER.scan(format!("a {secret} b").as_bytes()), []);
    }
    assert_no_secret("ids", "ak_c4n4ry…#00000000, pat_…#00000000");
}

/// Credentials of every form, made of the canaries.
fn credentials() -> Vec<Credential> {
    let keys = [
        KEY.to_owned(),
        format!("{KEY}.{KEY}"),
        KEY.replace('.', ""),
        KEY.replace("ak_c4n4ry01", "ak_"),
        format!("{}.", KEY.replace('.', "")),
        TOKEN.to_owned(),
        TOKEN.replace("Value", ".Value"),
    ];
    let keys = keys.iter().map(|text| credential(text));
    keys.chain([token_for("org_1")]).collect()
}

#[test]
fn no_credential_shows_its_secret() {
    for credential in credentials() {
        assert_debug_is_silent("Credential", &credential);
        assert_debug_is_silent("Option<Credential>", &Some(&credential));
        assert_debug_is_silent("CredentialId", credential.id());
        assert_silent("CredentialId", &credential.id().to_string());
        assert_debug_is_silent("CredentialKind", &credential.kind());
        assert_debug_is_silent("OrganizationId", &credential.organization());

        let store = CredentialStore::new(credential.clone());
        assert_debug_is_silent("CredentialStore", &store);
        store.rotate(token_for("org_1"));
        assert_debug_is_silent("CredentialStore, rotated", &store);
        assert_debug_is_silent("CredentialStore's credential", &store.credential());

        let plain = AnyreachAuthLayer::new(credential);
        let configured = plain
            .clone()
            .origin(Origin::insecure("http://proxy.example:8080").unwrap())
            .relative_uris(RelativeUris::Trust)
            .require_organization(false)
            .caller_headers(CallerHeaders::Replace)
            .foreign_requests(FORWARD)
            .denied_responses(DeniedResponses::PassThrough);
        for layer in [plain, configured, AnyreachAuthLayer::per_request()] {
            assert_debug_is_silent("AnyreachAuthLayer", &layer);
            assert_debug_is_silent("AnyreachAuth", &layer.layer(Recorder::default()));
            assert_debug_is_silent("AnyreachAuth", &layer.layer(layer.layer(())));
        }
    }
    assert_debug_is_silent("OrganizationApiKey", &OrganizationApiKey::new(KEY).unwrap());
    let token = PersonalAccessToken::new(TOKEN).unwrap();
    assert_debug_is_silent("PersonalAccessToken", &token);
    let token = token.for_organization(organization("org_1"));
    assert_debug_is_silent("PersonalAccessToken", &token);
    assert_debug_is_silent("Anonymous", &Anonymous);
    assert_debug_is_silent("Origin", &Origin::default());
}

#[test]
fn a_panic_over_a_public_type_does_not_show_a_secret() {
    let poll_twice = |key: &str, inner: Recorder, uri: &str| {
        let mut service = AnyreachAuthLayer::new(credential(key)).layer(inner);
        let mut future = pin!(service.call(get(uri)));
        let mut context = Context::from_waker(Waker::noop());
        assert!(future.as_mut().poll(&mut context).is_ready());
        let _ = future.as_mut().poll(&mut context);
    };
    let unwrapped = || {
        let response = hostile(StatusCode::UNAUTHORIZED, KEY);
        drop(denied(&response, KEY).outcome.unwrap());
    };
    let refused = || {
        let uri = format!("https://{TOKEN}@evil.example/");
        poll_twice(TOKEN, Recorder::default(), &uri);
    };
    let denying = || {
        let inner = Recorder::answering(hostile(StatusCode::FORBIDDEN, KEY));
        poll_twice(KEY, inner, "https://api.anyreach.ai/core/agents");
    };
    for (name, text) in [
        ("unwrap of an Error", panic_text(unwrapped)),
        ("a refused future that is polled again", panic_text(refused)),
        ("a denied future that is polled again", panic_text(denying)),
    ] {
        assert!(!text.is_empty(), "{name}");
        assert_silent(name, &text);
    }
}

/// An answer that echoes a credential in every place and encoding, among texts of the server.
fn hostile(status: StatusCode, secret: &str) -> Response<String> {
    let bytes = secret.as_bytes();
    let echoes = [
        secret.to_owned(),
        hex(bytes),
        each(bytes, |byte| format!("%{byte:02x}")),
        STANDARD_NO_PAD.encode(bytes),
        STANDARD_NO_PAD.encode([b"x", bytes].concat()),
        URL_SAFE_NO_PAD.encode([b"xy", bytes].concat()),
    ];
    let all = echoes.join(" ");
    let challenge = format!(
        "Bearer realm=\"{SERVER}\", error=\"invalid_token\", error_description=\"{SERVER} {all}\", \
         scope=\"agents:read {SERVER} {all} calls:write\""
    );
    let headers = [
        ("www-authenticate", &*challenge),
        ("x-echo", &all),
        ("x-server", SERVER),
        ("content-type", "application/json; x=SERVER-T3XT-C4NARY"),
        ("x-anyreach-org", SERVER),
    ];
    let body = serde_json::json!({ "detail": format!("{SERVER} {all}"), "error": all });
    answer_with(status.as_u16(), &headers, body.to_string())
}

/// What becomes of a request with that credential that gets that answer.
fn denied(response: &Response<String>, secret: &str) -> support::Sent {
    let layer = AnyreachAuthLayer::new(credential(secret)).require_organization(false);
    send_to(&Recorder::answering(response.clone()), &layer, get_agents())
}

#[test]
fn a_denial_shows_neither_an_echoed_secret_nor_any_text_of_the_server() {
    for secret in [KEY, TOKEN] {
        for status in [StatusCode::UNAUTHORIZED, StatusCode::FORBIDDEN] {
            let response = hostile(status, secret);
            let error = denied(&response, secret).outcome.unwrap_err();
            let denial = error.denial().unwrap().clone();
            assert_debug_is_silent("Denial", &denial);
            let debug = format!("{denial:?}");
            let start = format!("Denial {{ status: {}, reason: ", status.as_u16());
            assert!(debug.starts_with(&start), "{debug}");
            let id = denial.credential().unwrap().to_string();
            let len = format!("body_len: {}", denial.body().len());
            assert!(debug.contains(&id) && debug.contains(&len), "{debug}");
            assert_silent("Denial", &denial.to_string());
            assert_debug_is_silent("DenialReason", &denial.reason());
            assert_silent("DenialReason", &denial.reason().to_string());
            assert_debug_is_silent("CredentialId", &denial.credential());
            assert_debug_is_silent("OrganizationId", &denial.organization());
            assert_error_is_silent("Error", &error);

            // `detail` and the scopes return what the server wrote, without the echoes.
            let detail = denial.detail().unwrap();
            assert_no_secret("detail", detail);
            let start = format!("{SERVER} [redacted]");
            assert!(detail.starts_with(&start), "{detail}");
            let scopes: Vec<_> = denial.required_scopes().collect();
            assert_eq!(scopes, ["agents:read", SERVER, "calls:write"]);

            // `body` and `headers` return what was sent.
            assert_eq!(denial.body(), response.body().as_bytes());
            assert_eq!(denial.headers(), response.headers());

            // Wrapped as middleware wraps it, and inside itself.
            let nested = Error::Service(error.into());
            assert_error_is_silent("Error::Service(Error)", &nested);
            let boxed: BoxError = io::Error::other(nested).into();
            assert_error_is_silent("io::Error", boxed.as_ref());
            let any = anyhow::Error::from_boxed(boxed);
            assert_debug_is_silent("anyhow::Error", &any);
            assert_silent("anyhow::Error", &format!("{any:#}"));
        }
    }
}

#[test]
fn only_the_credential_that_the_request_carried_is_redacted() {
    let store = CredentialStore::new(credential(KEY));
    let mut head = get_agents().into_parts().0;
    let layer = AnyreachAuthLayer::new(store.clone());
    let authorized = layer.authorize(&mut head).unwrap();
    store.rotate(credential("ak_next.c2VjcmV0LW5leHQ"));
    let answer = authorized.on_response(StatusCode::FORBIDDEN, &head.headers, &head.extensions);
    let body = format!(r#"{{"detail": "{KEY} ak_next.c2VjcmV0LW5leHQ"}}"#);
    let error = unread(answer).with_body(body.into(), true);
    let detail = error.denial().unwrap().detail();
    assert_eq!(detail, Some("[redacted] ak_next.c2VjcmV0LW5leHQ"));
}

#[test]
fn a_destination_is_shown_to_its_256th_character() {
    let layer = AnyreachAuthLayer::new(credential(KEY));
    let scheme = "https://".len();
    for (len, cut) in [(246, ""), (247, ""), (248, "…"), (60_000, "…")] {
        let uri = format!("https://{}/path?query", "x".repeat(len));
        let expected = format!("{}{cut}", &uri[..255.min(scheme + len)]);
        let refusal = send(&layer, get(&uri)).refusal();
        let destination = refusal.refusal().unwrap().destination();
        assert_eq!(destination, Some(expected.as_str()));
    }
}

#[tokio::test(start_paused = true)]
async fn a_response_future_shows_nothing_in_any_of_its_states() {
    type Answer = Result<Response<Scripted>, Infallible>;

    let mut context = Context::from_waker(Waker::noop());
    let layer = AnyreachAuthLayer::new(credential(KEY));

    let mut service = layer.layer(service_fn(|_| -> Pending<Answer> { pending() }));
    let refused = service.call(get(&format!("https://{KEY}@evil.example/{KEY}")));
    assert_debug_is_silent("refused", &refused);
    assert!(format!("{refused:?}").contains("failed"));

    let mut calling = pin!(service.call(get_agents()));
    assert_debug_is_silent("calling, not polled", &calling);
    assert!(calling.as_mut().poll(&mut context).is_pending());
    assert_debug_is_silent("calling", &calling);
    assert!(format!("{calling:?}").contains("calling"));

    let mut service = layer.layer(service_fn(|_| -> Ready<Answer> {
        let (head, _) = hostile(StatusCode::UNAUTHORIZED, KEY).into_parts();
        ready(Ok(Response::from_parts(head, Scripted::new([Step::Hang]))))
    }));
    let mut reading = pin!(service.call(get_agents()));
    assert!(reading.as_mut().poll(&mut context).is_pending());
    assert_debug_is_silent("reading", &reading);
    assert!(format!("{reading:?}").contains("reading"));

    let Err(error) = reading.as_mut().await else {
        panic!("a 401 is an error")
    };
    assert_error_is_silent("read", &error);
    assert_debug_is_silent("completed", &reading);
}

#[test]
fn a_refusal_shows_no_secret_of_the_request() {
    let key = AnyreachAuthLayer::new(credential(KEY));
    let gateway = AnyreachAuthLayer::per_request();
    let mut refusals = Vec::new();
    for secret in [KEY, TOKEN] {
        let stores = AnyreachAuthLayer::new(credential(secret));
        let relative = stores.clone().relative_uris(RelativeUris::Complete);
        let proper = secret.split_once(['.', '_']).unwrap().1;
        let part = proper.split(|c: char| !c.is_ascii_alphanumeric()).next();
        let (part, hex) = (part.unwrap(), hex(secret.as_bytes()));
        for uri in [
            // As a redirect by a hostile server writes them.
            format!("https://{part}-a.evil.example/"),
            format!("https://a.{hex}.evil.example:8443/"),
            format!("{part}://evil.example/"),
            format!("https://api.anyreach.ai:{part}/"),
            format!("https://{secret}@api.anyreach.ai/"),
            format!("https://user:{secret}@api.anyreach.ai/{secret}?{secret}"),
            format!("https://evil.example/{secret}?token={secret}"),
            format!("http://api.anyreach.ai/?access_token={secret}"),
            format!("/{secret}?{secret}"),
            format!("{secret}@api.anyreach.ai:443"),
        ] {
            let own = with(credential(secret), get(&uri));
            let of_gateway = send(&gateway, own);
            let [plain, completed] = [&stores, &relative].map(|layer| send(layer, get(&uri)));
            for sent in [plain, completed, of_gateway] {
                if sent.outcome.is_err() {
                    refusals.push((uri.clone(), sent.refusal()));
                }
            }
        }
        let bearer = format!("Bearer {secret}");
        let two = [("authorization", bearer.as_str()); 2];
        for headers in [&two[..], &[("host", secret)]] {
            let request = with_headers(headers, get_agents());
            refusals.push((format!("{headers:?}"), send(&key, request).refusal()));
        }
    }
    let request = with(organization("org_1"), get_agents());
    refusals.push(("organization".to_owned(), send(&key, request).refusal()));
    let bare = AnyreachAuthLayer::new(credential(TOKEN));
    refusals.push(("none".to_owned(), send(&bare, get_agents()).refusal()));
    let refusal = send(&gateway, get_agents()).refusal();
    refusals.push(("no credential".to_owned(), refusal));

    assert!(refusals.len() >= 50, "{}", refusals.len());
    for (name, refusal) in refusals {
        assert_error_is_silent(&name, &refusal);
        let refusal = refusal.refusal().unwrap();
        assert_error_is_silent(&name, refusal);
        assert_debug_is_silent(&name, &refusal.reason());
        assert_silent(&name, refusal.destination().unwrap_or_default());
    }
}
