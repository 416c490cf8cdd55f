//! The bytes of a credential are wiped before their memory is freed.

use std::convert::Infallible;
use std::future::ready;

use http::header::AUTHORIZATION;
use http::{HeaderValue, Request, Response};
use secrecy::SecretString;
use support::alloc::{Needle, hits};
use support::{Recorder, answer_with, get_agents, now, send, send_to, with, with_headers};
use tower::{Layer, Service, service_fn};
use tower_anyreach::{
    AnyreachAuthLayer, Credential, CredentialStore, Error, OrganizationApiKey, OrganizationId,
    PersonalAccessToken,
};

static KEY: Needle<41> = Needle::masked(b"ak_c4n4ry01.S3cr3tK3yCanaryValue012345678");
static TOKEN: Needle<36> = Needle::masked(b"pat_S3cr3tT0kenCanaryValue9876543210");
/// A stretch of [`KEY`]: a copy of a part is a copy too.
static PART_OF_KEY: Needle<8> = Needle::masked(b"S3cr3tK3");
/// Another, read backwards and in lower case, as a number of eight bytes holds it on a little-endian machine.
static NUMBER_OF_KEY: Needle<8> = Needle::masked(b"ranacy3k");

fn key() -> SecretString {
    // Its only block is wiped by `SecretString`: `reveal` allocates the exact size, so nothing is moved.
    SecretString::from(KEY.reveal())
}

fn token() -> SecretString {
    SecretString::from(TOKEN.reveal())
}

/// Asserts that no block is freed with one of the credentials in it, or with a part.
#[track_caller]
fn assert_wiped(run: impl Fn()) {
    assert_eq!(hits(&KEY, &run).1, 0);
    assert_eq!(hits(&PART_OF_KEY, &run).1, 0);
    assert_eq!(hits(&NUMBER_OF_KEY, &run).1, 0);
    assert_eq!(hits(&TOKEN, &run).1, 0);
}

/// Sends a request, and gives it back as it arrived below.
fn arrived(layer: &AnyreachAuthLayer, request: Request<String>) -> Request<String> {
    let mut arrived = None;
    let mut service = layer.layer(service_fn(|request: Request<String>| {
        arrived = Some(request);
        ready(Ok::<_, Infallible>(Response::new(String::new())))
    }));
    now(service.call(request)).unwrap();
    drop(service);
    arrived.unwrap()
}

fn denied(layer: &AnyreachAuthLayer, status: u16) -> Error {
    let challenge = [(
        "www-authenticate",
        "Bearer scope=\"agents:read calls:write\"",
    )];
    let body = r#"{"detail": "The token was not accepted."}"#.to_owned();
    let inner = Recorder::answering(answer_with(status, &challenge, body));
    send_to(&inner, layer, get_agents()).outcome.unwrap_err()
}

#[test]
fn the_watch_sees_a_secret_that_is_not_wiped() {
    let (value, seen) = hits(&KEY, || {
        let text = format!("Bearer {}", KEY.reveal());
        HeaderValue::try_from(text).unwrap()
    });
    // The plain text that was formatted into the header.
    assert_eq!(seen, 1);
    assert_eq!(hits(&KEY, || drop(value)).1, 1, "the header itself");
    assert_eq!(hits(&PART_OF_KEY, || drop(KEY.reveal())).1, 1);

    // A block that grows leaves its old place behind.
    let (text, seen) = hits(&TOKEN, || {
        let mut text = TOKEN.reveal();
        text.push('x');
        text
    });
    assert_eq!(seen, 1);
    assert_eq!(hits(&TOKEN, || drop(text)).1, 1);
    assert_eq!(hits(&TOKEN, || drop(KEY.reveal())).1, 0);

    // The credentials of these tests are wiped themselves.
    assert_wiped(|| drop((key(), token())));
}

#[test]
fn a_credential_is_wiped_when_its_last_holder_drops() {
    assert_wiped(|| {
        drop(Credential::parse(key()).unwrap());
        drop(OrganizationApiKey::new(key()).unwrap());
        // Nothing of a refused one stays either.
        assert!(PersonalAccessToken::new(key()).is_err());
        let credential = Credential::parse(key()).unwrap();
        let clone = credential.clone();
        drop(credential);
        drop(clone);

        let organization = OrganizationId::try_from("org_1").unwrap();
        let token = PersonalAccessToken::new(token()).unwrap();
        let other = token.clone().for_organization(organization);
        drop(token);
        drop(Credential::from(other));
    });
}

#[test]
fn the_whitespace_around_a_credential_does_not_make_a_copy() {
    let run = || {
        let mut text = String::with_capacity(43);
        text.push(' ');
        KEY.reveal().chars().for_each(|c| text.push(c));
        text.push('\n');
        drop(Credential::parse(SecretString::from(text)).unwrap());
    };
    // The only one is what `reveal` gave.
    assert_eq!(hits(&KEY, run).1, 1);
}

#[test]
fn an_attached_header_is_wiped_with_the_last_request_and_a_refused_request_leaves_no_copy() {
    assert_wiped(|| {
        let layer = AnyreachAuthLayer::new(Credential::parse(key()).unwrap());
        let first = arrived(&layer, get_agents());
        let second = arrived(&layer, get_agents());
        let copied = first.headers()[AUTHORIZATION].clone();
        let cloned = second.headers().clone();
        // The layer is dropped first, and the requests hold on.
        drop(layer);
        drop(first);
        drop(second);
        drop(cloned);
        assert!(copied.as_bytes().starts_with(b"Bearer ak_"));
        drop(copied);
        // A refused request, and a request's own credential.
        let layer = AnyreachAuthLayer::new(Credential::parse(key()).unwrap());
        let own = with_headers(&[("authorization", "Bearer callers-own")], get_agents());
        drop(send(&layer, own).refusal());
        let own = with(Credential::parse(key()).unwrap(), get_agents());
        drop(arrived(&AnyreachAuthLayer::per_request(), own));
    });
}

#[test]
fn a_rotated_credential_is_wiped_with_its_last_request() {
    assert_wiped(|| {
        let store = CredentialStore::new(Credential::parse(key()).unwrap());
        let layer = AnyreachAuthLayer::new(store.clone());
        let in_flight = arrived(&layer, get_agents());
        for _ in 0..3 {
            store.rotate(Credential::parse(token()).unwrap());
            store.rotate(Credential::parse(key()).unwrap());
        }
        let layer = layer.require_organization(false);
        store.rotate(Credential::parse(token()).unwrap());
        drop(arrived(&layer, get_agents()));
        drop(in_flight);
    });
}

#[test]
fn looking_for_an_echo_leaves_no_copy_of_the_credential() {
    assert_wiped(|| {
        let layer = AnyreachAuthLayer::new(Credential::parse(key()).unwrap());
        for status in [401, 403] {
            let error = denied(&layer, status);
            let denial = error.denial().unwrap();
            assert_eq!(denial.detail(), Some("The token was not accepted."));
            assert_eq!(denial.required_scopes().count(), 2);
        }
    });
}
