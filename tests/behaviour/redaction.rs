//! What may be read by more people than the process: `Debug`, `Display`, sources and panics of everything public.

use std::any::Any;
use std::collections::BTreeMap;
use std::convert::Infallible;
use std::fmt::Debug;
use std::future::{Pending, Ready, pending, ready};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::pin;
use std::sync::LazyLock;
use std::task::{Context, Waker};

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD_NO_PAD, URL_SAFE_NO_PAD};
use http::header::{AUTHORIZATION, WWW_AUTHENTICATE};
use http::{HeaderValue, Response, StatusCode};
use tower::{Layer, Service, service_fn};
use tower_anyreach::{
    Anonymous, Answer, AnyreachAuthLayer, BoxError, CallerHeaders, Credential, CredentialStore,
    DeniedResponses, Error, ForeignRequests, OrganizationApiKey, Origin, PersonalAccessToken,
    RelativeUris,
};

use support::bodies::{Scripted, Step};
use support::scanner::{Canary, Scanner};
use support::{
    KEY, ORG, Recorder, TOKEN, answer, credential, each, get, get_agents, organization, send,
    send_to, token_for, with,
};

/// In every text that the server of these tests writes.
const SERVER: &str = "SERVER-T3XT-C4NARY";

/// The parts of the credentials that must be seen nowhere. Of a key's id, six characters may be.
fn secrets() -> [&'static str; 3] {
    let (id, secret) = KEY.split_once('.').unwrap();
    [secret, &id["ak_".len()..], &TOKEN["pat_".len()..]]
}

fn hex(bytes: &[u8]) -> String {
    each(bytes, |byte| format!("{byte:02x}"))
}

fn percent(bytes: &[u8]) -> String {
    each(bytes, |byte| format!("%{byte:02x}"))
}

/// Finds eight bytes of a secret in a row. That it finds them in every encoding is shown in `campaigns/tests/leaks/planted.rs`.
static SCANNER: LazyLock<Scanner> = LazyLock::new(|| {
    Scanner::new(secrets().map(|secret| Canary {
        name: "a secret",
        secret: secret.to_owned(),
    }))
});

#[track_caller]
fn assert_no_secret(name: &str, text: &str) {
    assert_eq!(SCANNER.scan(text.as_bytes()), [], "{name}: {text}");
}

/// Neither a secret nor a text of the server.
#[track_caller]
fn assert_silent(name: &str, text: &str) {
    assert_no_secret(name, text);
    // A part of `SERVER`.
    assert!(
        !text.to_ascii_lowercase().contains("t3xt"),
        "{name}: {text}"
    );
}

#[track_caller]
fn assert_debug_is_silent(name: &str, value: &impl Debug) {
    assert!(!format!("{value:?}").is_empty(), "{name}: silent, not mute");
    assert_silent(name, &format!("{value:?}"));
    assert_silent(name, &format!("{value:#?}"));
}

/// An error, all it was caused by, and what it panics with.
#[track_caller]
fn assert_error_is_silent(name: &str, error: &(dyn std::error::Error + 'static)) {
    let mut next = Some(error);
    while let Some(error) = next {
        assert_silent(name, &error.to_string());
        assert_silent(name, &format!("{error:#}"));
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

/// Every credential there is, made of the canaries.
fn credentials() -> Vec<Credential> {
    vec![
        credential(KEY),
        credential(&format!("{KEY}.{KEY}")),
        credential(&KEY.replace('.', "")),
        credential(&KEY.replace("ak_c4n4ry01", "ak_")),
        credential(&format!("{}.", KEY.replace('.', ""))),
        credential(TOKEN),
        credential(&TOKEN.replace("Value", ".Value")),
        token_for("org_1"),
    ]
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

        for layer in [
            AnyreachAuthLayer::new(credential.clone()),
            AnyreachAuthLayer::new(credential.clone())
                .origin(Origin::insecure("http://proxy.example:8080").unwrap())
                .relative_uris(RelativeUris::Trust)
                .require_organization(false)
                .caller_headers(CallerHeaders::Replace)
                .foreign_requests(ForeignRequests::ForwardWithoutCredentials)
                .denied_responses(DeniedResponses::PassThrough),
            AnyreachAuthLayer::per_request(),
        ] {
            assert_debug_is_silent("AnyreachAuthLayer", &layer);
            assert_debug_is_silent("AnyreachAuth", &layer.layer(Recorder::default()));
            assert_debug_is_silent("AnyreachAuth", &layer.layer(layer.layer(())));
        }
    }
    assert_debug_is_silent("OrganizationApiKey", &OrganizationApiKey::new(KEY).unwrap());
    let token = PersonalAccessToken::new(TOKEN).unwrap();
    assert_debug_is_silent("PersonalAccessToken", &token);
    assert_debug_is_silent(
        "PersonalAccessToken",
        &token.for_organization(organization("org_1")),
    );
    assert_debug_is_silent("Anonymous", &Anonymous);
    assert_debug_is_silent("Origin", &Origin::default());
}

/// What a panic with this `unwrap` prints.
fn panic_text(panics: impl FnOnce()) -> String {
    let payload: Box<dyn Any + Send> = catch_unwind(AssertUnwindSafe(panics)).unwrap_err();
    match payload.downcast::<String>() {
        Ok(text) => *text,
        Err(payload) => (*payload.downcast::<&str>().unwrap()).to_owned(),
    }
}

#[test]
fn a_panic_over_a_public_type_does_not_show_a_secret() {
    type Panic<'a> = Box<dyn FnOnce() + 'a>;

    let poll_twice = |key: &str, inner: Recorder, uri: &str| {
        let mut service = AnyreachAuthLayer::new(credential(key)).layer(inner);
        let mut future = pin!(service.call(get(uri)));
        let mut context = Context::from_waker(Waker::noop());
        assert!(future.as_mut().poll(&mut context).is_ready());
        let _ = future.as_mut().poll(&mut context);
    };
    let refused = || {
        let uri = format!("https://{TOKEN}@evil.example/");
        poll_twice(TOKEN, Recorder::default(), &uri);
    };
    let denying = || {
        let inner = Recorder::answering(hostile(StatusCode::FORBIDDEN, KEY));
        poll_twice(KEY, inner, "https://api.anyreach.ai/core/agents");
    };
    let unwrapped = || {
        let response = hostile(StatusCode::UNAUTHORIZED, KEY);
        denied(&response, KEY).outcome.unwrap();
    };
    let panics: [(&str, Panic<'_>); 3] = [
        ("unwrap of an Error", Box::new(unwrapped)),
        ("a refused future that is polled again", Box::new(refused)),
        ("a denied future that is polled again", Box::new(denying)),
    ];
    for (name, panics) in panics {
        let text = panic_text(panics);
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
        percent(bytes),
        STANDARD_NO_PAD.encode(bytes),
        STANDARD_NO_PAD.encode([b"x", bytes].concat()),
        URL_SAFE_NO_PAD.encode([b"xy", bytes].concat()),
    ];
    let all = echoes.join(" ");
    let mut response = answer(
        status,
        &serde_json::json!({ "detail": format!("{SERVER} {all}"), "error": all }).to_string(),
    );
    let challenge = format!(
        "Bearer realm=\"{SERVER}\", error=\"invalid_token\", error_description=\"{SERVER} {all}\", \
         scope=\"agents:read {SERVER} {all} calls:write\""
    );
    let headers = response.headers_mut();
    headers.insert(WWW_AUTHENTICATE, HeaderValue::from_str(&challenge).unwrap());
    headers.insert("x-echo", HeaderValue::from_str(&all).unwrap());
    headers.insert("x-server", HeaderValue::from_static(SERVER));
    headers.insert(
        "content-type",
        HeaderValue::from_static("application/json; x=SERVER-T3XT-C4NARY"),
    );
    headers.insert(ORG.clone(), HeaderValue::from_static(SERVER));
    response
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
            let (status, id) = (status.as_u16(), denial.credential().unwrap());
            assert!(
                debug.starts_with(&format!("Denial {{ status: {status}, reason: "))
                    && debug.contains(&id.to_string())
                    && debug.contains(&format!("body_len: {}", denial.body().len())),
                "{debug}"
            );
            assert_silent("Denial", &denial.to_string());
            assert_debug_is_silent("DenialReason", &denial.reason());
            assert_silent("DenialReason", &denial.reason().to_string());
            assert_debug_is_silent("CredentialId", &denial.credential());
            assert_debug_is_silent("OrganizationId", &denial.organization());
            assert_error_is_silent("Error", &error);

            // What was sent is there for who asks for it by name.
            assert_eq!(denial.body(), response.body().as_bytes());
            assert_eq!(denial.headers(), response.headers());

            // Wrapped as middleware wraps it, and inside itself.
            let nested = Error::Service(error.into());
            assert_error_is_silent("Error::Service(Error)", &nested);
            let boxed: BoxError = std::io::Error::other(nested).into();
            assert_error_is_silent("io::Error", boxed.as_ref());
            let any = anyhow::Error::from_boxed(boxed);
            assert_debug_is_silent("anyhow::Error", &any);
            assert_silent("anyhow::Error", &format!("{any:#}"));
        }
    }
}

#[test]
fn detail_and_scopes_are_shown_without_the_echo() {
    for secret in [KEY, TOKEN] {
        let bytes = secret.as_bytes();
        let proper = secret.split_once(['.', '_']).unwrap().1;
        for (name, echo) in [
            ("whole", secret.to_owned()),
            ("with its scheme", format!("Bearer {secret}")),
            ("secret part", proper.to_owned()),
            ("start", secret[..20].to_owned()),
            ("hex", hex(bytes)),
            ("percent", percent(bytes)),
            ("JSON escaped twice", secret.replace('.', "\\u002e")),
            ("base64, first alignment", STANDARD_NO_PAD.encode(bytes)),
            ("second", STANDARD_NO_PAD.encode([b"x", bytes].concat())),
            ("third", STANDARD_NO_PAD.encode([b"xy", bytes].concat())),
            ("URL-safe", URL_SAFE_NO_PAD.encode(bytes)),
            (
                "of the header",
                STANDARD_NO_PAD.encode(format!("Bearer {secret}").as_bytes()),
            ),
        ] {
            let mut response = answer(
                StatusCode::UNAUTHORIZED,
                &serde_json::json!({ "detail": format!("{SERVER}: {echo}!") }).to_string(),
            );
            let scope = echo.replace(['\\', ' '], "");
            let challenge = format!("Bearer scope=\"agents:read {scope} x:{scope} calls:write\"");
            let challenge = HeaderValue::from_str(&challenge).unwrap();
            response.headers_mut().insert(WWW_AUTHENTICATE, challenge);

            let error = denied(&response, secret).outcome.unwrap_err();
            let denial = error.denial().unwrap();
            let detail = denial.detail().unwrap();
            assert_no_secret(name, detail);
            assert!(
                detail.starts_with(&format!("{SERVER}: ")),
                "{name}: {detail}"
            );
            assert!(detail.contains("[redacted]"), "{name}: {detail}");
            let scopes: Vec<_> = denial.required_scopes().collect();
            assert_eq!(scopes, ["agents:read", "calls:write"], "{name}");
        }
    }
}

#[test]
fn redacted_is_the_credential_that_the_request_carried_and_no_other() {
    let store = CredentialStore::new(credential(KEY));
    let mut head = get_agents().into_parts().0;
    let layer = AnyreachAuthLayer::new(store.clone());
    let authorized = layer.authorize(&mut head).unwrap();
    store.rotate(credential("ak_next.c2VjcmV0LW5leHQ"));
    let answer = authorized.on_response(StatusCode::FORBIDDEN, &head.headers, &head.extensions);
    let Answer::Denied(unread) = answer else {
        panic!("a 403 is a denial")
    };
    let body = format!(r#"{{"detail": "{KEY} ak_next.c2VjcmV0LW5leHQ"}}"#);
    let error = unread.with_body(body.into(), true);
    let detail = error.denial().unwrap().detail();
    assert_eq!(detail, Some("[redacted] ak_next.c2VjcmV0LW5leHQ"));
}

#[test]
fn a_detail_is_cut_without_showing_the_start_of_a_secret() {
    for lead in 200..256 {
        let detail = format!("{}{KEY}", "x".repeat(lead));
        let body = serde_json::json!({ "detail": detail }).to_string();
        let error = denied(&answer(StatusCode::UNAUTHORIZED, &body), KEY)
            .outcome
            .unwrap_err();
        let detail = error.denial().unwrap().detail().unwrap().to_owned();
        assert_no_secret("detail", &detail);
        assert!(detail.chars().count() <= 256, "{detail}");
        assert!(!detail.contains("ak_"), "{detail}");
    }
}

#[test]
fn where_a_redirect_leads_is_shown_without_the_echo() {
    for secret in [KEY, TOKEN] {
        let proper = secret.split_once(['.', '_']).unwrap().1;
        let part = proper
            .split(|c: char| !c.is_ascii_alphanumeric())
            .next()
            .unwrap();
        assert!(part.len() >= 8, "{part}");
        let hex = hex(secret.as_bytes());
        let stores = AnyreachAuthLayer::new(credential(secret));
        for (uri, shown) in [
            (
                format!("https://{part}-a.evil.example/"),
                "https://[redacted]-a.evil.example",
            ),
            (
                format!("https://a.{hex}.evil.example:8443/"),
                "https://a.[redacted].evil.example:8443",
            ),
            (
                format!("{part}://evil.example/"),
                "[redacted]://evil.example",
            ),
            (
                format!("https://api.anyreach.ai:{part}/"),
                "https://api.anyreach.ai:[redacted]",
            ),
        ] {
            let own = with(credential(secret), get(&uri));
            let per_request = AnyreachAuthLayer::per_request();
            for (layer, request) in [(&stores, get(&uri)), (&per_request, own)] {
                let refusal = send(layer, request).refusal();
                assert_error_is_silent("redirect", &refusal);
                assert_eq!(refusal.refusal().unwrap().destination(), Some(shown));
                assert!(!refusal.to_string().contains("evil"), "{refusal}");
            }
        }
    }
}

#[test]
fn a_destination_is_shown_to_its_256th_character() {
    let layer = AnyreachAuthLayer::new(credential(KEY));
    let scheme = "https://".len();
    for (len, shown) in [(246, 246), (247, 247), (248, 247), (60_000, 247)] {
        let uri = format!("https://{}/path?query", "x".repeat(len));
        let cut = if len > shown { "…" } else { "" };
        let expected = format!("https://{}{cut}", "x".repeat(shown));
        assert_eq!(shown + scheme, expected.trim_end_matches('…').len());
        let refusal = send(&layer, get(&uri)).refusal();
        assert_eq!(
            refusal.refusal().unwrap().destination(),
            Some(expected.as_str())
        );
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
    let relative = key.clone().relative_uris(RelativeUris::Complete);
    let mut refusals = BTreeMap::new();
    for secret in [KEY, TOKEN] {
        for uri in [
            format!("https://{secret}@api.anyreach.ai/"),
            format!("https://user:{secret}@api.anyreach.ai/{secret}?{secret}"),
            format!("https://{secret}@{secret}@evil.example/"),
            format!("https://evil.example/{secret}?token={secret}"),
            format!("https://evil.example:8443/{secret}#{secret}"),
            format!("http://api.anyreach.ai/?access_token={secret}"),
            format!("https://api.anyreach.ai:8443/?access_token={secret}"),
            format!("/{secret}?{secret}"),
            format!("//{secret}"),
            format!("{secret}@api.anyreach.ai:443"),
        ] {
            for layer in [&key, &relative] {
                let sent = send(layer, get(&uri));
                if sent.outcome.is_err() {
                    refusals.insert(uri.clone(), sent.refusal());
                }
            }
        }
        let mut request = get_agents();
        let value = HeaderValue::from_str(&format!("Bearer {secret}")).unwrap();
        request.headers_mut().append(AUTHORIZATION, value.clone());
        request.headers_mut().append(AUTHORIZATION, value);
        let refusal = send(&key, request).refusal();
        refusals.insert(format!("caller's {secret}"), refusal);
        let mut request = get_agents();
        request
            .headers_mut()
            .insert("host", secret.parse().unwrap());
        refusals.insert(format!("Host {secret}"), send(&key, request).refusal());
    }
    let request = with(organization("org_1"), get_agents());
    refusals.insert("organization".to_owned(), send(&key, request).refusal());
    let bare = AnyreachAuthLayer::new(credential(TOKEN));
    refusals.insert("none".to_owned(), send(&bare, get_agents()).refusal());
    let gateway = AnyreachAuthLayer::per_request();
    let refusal = send(&gateway, get_agents()).refusal();
    refusals.insert("no credential".to_owned(), refusal);

    assert!(refusals.len() >= 25, "{}", refusals.len());
    for (name, refusal) in refusals {
        assert_error_is_silent(&name, &refusal);
        let refusal = refusal.refusal().unwrap();
        assert_error_is_silent(&name, refusal);
        assert_debug_is_silent(&name, &refusal.reason());
        assert_silent(&name, refusal.destination().unwrap_or_default());
    }
}
