//! Leaks as they come about, one of each kind, made by others than the scanner. All of them are found.

use std::collections::BTreeMap;
use std::error::Error;
use std::fmt::Write;
use std::io;
use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE};
use http::header::AUTHORIZATION;
use http::{HeaderMap, HeaderValue};
use support::each;
use support::scanner::Scanner;

use crate::canaries::{Canaries, Kind};
use crate::shown;

/// A struct as people write them: the derived `Debug` shows what the header value does not hide.
#[derive(Debug)]
#[expect(dead_code, reason = "shown by its Debug")]
struct Derived {
    headers: HeaderMap,
    nested: Option<Box<[u8]>>,
}

fn traced(emit: impl FnOnce()) -> Vec<u8> {
    let file = tempfile::NamedTempFile::new().unwrap();
    let subscriber = tracing_subscriber::fmt()
        .with_max_level(tracing::Level::TRACE)
        .with_writer(Arc::new(file.reopen().unwrap()))
        .finish();
    tracing::subscriber::with_default(subscriber, emit);
    std::fs::read(file.path()).unwrap()
}

fn panicked(text: &str) -> String {
    // What is given here is what a panic hook is given.
    let payload = shown::unwrapped(Err(text)).unwrap_err();
    *payload.downcast::<String>().unwrap()
}

fn chained(text: &str) -> String {
    let cause = io::Error::other(format!("vault said: {text}"));
    let error = io::Error::other(Box::<dyn Error + Send + Sync>::from(cause));
    format!("{:?}", anyhow::Error::new(error).context("no credential"))
}

fn planted(text: &str) -> BTreeMap<&'static str, Vec<u8>> {
    let bearer = format!("Bearer {text}");
    let secret = &text[text.find('_').unwrap() + 1..];
    let middle = &secret[secret.len() / 2..][..8];
    let mut headers = HeaderMap::new();
    headers.insert(AUTHORIZATION, HeaderValue::from_str(&bearer).unwrap());
    let derived = Derived {
        headers,
        nested: None,
    };
    let bytes = Derived {
        headers: HeaderMap::new(),
        nested: Some(secret.as_bytes().into()),
    };
    let mut url = url::Url::parse("https://evil.example/").unwrap();
    url.query_pairs_mut().append_pair("access_token", text);
    let json = serde_json::json!({"detail": {"token": text}}).to_string();
    let dump = secret
        .as_bytes()
        .chunks(16)
        .fold(String::new(), |mut dump, line| {
            writeln!(dump, "{line:02X?}").unwrap();
            dump
        });
    let mut lines = String::new();
    for line in STANDARD.encode(&bearer).as_bytes().chunks(19) {
        lines += str::from_utf8(line).unwrap();
        lines += "\r\n  ";
    }

    let texts: Vec<(&'static str, String)> = vec![
        ("as it is", bearer.clone()),
        ("in upper case", text.to_uppercase()),
        ("eight bytes out of its middle", format!("x{middle}x")),
        (
            "in two lines",
            format!("{}\n    {}", &secret[..5], &secret[5..13]),
        ),
        ("a derived Debug", format!("{derived:?}")),
        ("a derived Debug, pretty", format!("{derived:#?}")),
        ("bytes in a derived Debug", format!("{bytes:?}")),
        ("bytes in a derived Debug, pretty", format!("{bytes:#?}")),
        ("hex", each(text, |byte| format!("{byte:02x}"))),
        ("a hex dump", dump.clone()),
        (
            "a hex dump with commas",
            format!("{:#04x?}", secret.as_bytes()),
        ),
        ("hex with colons", each(text, |byte| format!("{byte:02x}:"))),
        ("base64, first alignment", STANDARD.encode(text)),
        (
            "base64, second alignment",
            STANDARD.encode(format!("x{text}")),
        ),
        (
            "base64, third alignment",
            STANDARD.encode(format!("xy{text}")),
        ),
        ("base64 for URLs", URL_SAFE.encode(&bearer)),
        (
            "base64 for URLs, moved by one",
            URL_SAFE.encode(format!("{bearer} ")),
        ),
        (
            "base64 for URLs, moved by two",
            URL_SAFE.encode(format!("u:{bearer}")),
        ),
        ("base64 in lines", lines),
        ("a query", url.to_string()),
        ("percent", each(text, |byte| format!("%{byte:02X}"))),
        ("percent twice", each(text, |byte| format!("%25{byte:02X}"))),
        ("a JSON body", json.clone()),
        ("JSON escapes", each(text, |byte| format!("\\u{byte:04X}"))),
        ("JSON with slashes escaped", json.replace('/', "\\/")),
        ("Rust escapes", text.escape_unicode().to_string()),
        ("C escapes", each(text, |byte| format!("\\x{byte:02x}"))),
        (
            "C escapes in a Debug",
            format!("{:?}", each(text, |byte| format!("\\x{byte:02x}"))),
        ),
        ("octal escapes", each(text, |byte| format!("\\{byte:03o}"))),
        (
            "octal escapes, as short as they can be",
            each(text, |byte| format!("\\{byte:o}")),
        ),
        ("HTML", each(text, |byte| format!("&#{byte};"))),
        ("a chain of sources", chained(text)),
        ("a panic", panicked(&bearer)),
    ];
    let mut planted: BTreeMap<_, _> = texts
        .into_iter()
        .map(|(name, text)| (name, text.into_bytes()))
        .collect();
    let wide = bearer.encode_utf16();
    planted.extend([
        (
            "UTF-16, little endian",
            wide.clone().flat_map(u16::to_le_bytes).collect(),
        ),
        (
            "UTF-16, big endian",
            wide.flat_map(u16::to_be_bytes).collect(),
        ),
        (
            "a field of an event",
            traced(|| tracing::trace!(token = %text, "sent")),
        ),
        (
            "a field of a span",
            traced(|| {
                let span = tracing::error_span!("call", headers = ?derived.headers);
                span.in_scope(|| tracing::error!("failed"));
            }),
        ),
        (
            "bytes in an event",
            traced(|| tracing::debug!("{:?}", text.as_bytes())),
        ),
        (
            "numbers in memory",
            secret.as_bytes()[..32]
                .chunks(8)
                .flat_map(|eight| u64::from_be_bytes(eight.try_into().unwrap()).to_le_bytes())
                .collect(),
        ),
        (
            "words in memory",
            secret.as_bytes()[..32]
                .chunks(4)
                .flat_map(|four| u32::from_be_bytes(four.try_into().unwrap()).to_le_bytes())
                .collect(),
        ),
    ]);
    planted
}

#[test]
fn every_planted_leak_is_found() {
    let canaries = Canaries(crate::seed());
    let scanner = Scanner::new(canaries.all());
    let mut count = 0;
    for kind in [Kind::OldKey, Kind::Token] {
        for (name, bytes) in planted(&canaries.text(kind)) {
            // In the midst of others, as output is.
            let output = [b"2026-01-01 TRACE h2: ", &*bytes, b" idle_timeout=90s\n"].concat();
            assert!(!scanner.scan(&output).is_empty(), "{name}: not found");
            // However it is cut into pieces.
            for len in [1, 7, 64] {
                let mut search = scanner.search();
                output.chunks(len).for_each(|piece| search.feed(piece));
                assert!(search.found > 0, "{name}: not found in pieces of {len}");
            }
            count += 1;
        }
    }
    println!(
        "leaks: {count} of {count} planted leaks found, {} needles",
        scanner.needles()
    );
    assert!(count >= 80);
}

#[test]
fn a_leak_is_named_and_what_is_none_is_not_found() {
    let canaries = Canaries(crate::seed());
    let scanner = Scanner::new(canaries.all());
    let key = canaries.text(Kind::NewKey);
    let hits = scanner.scan(format!("x {}", &key[20..30]).as_bytes());
    assert_eq!(hits[0].canary, "the new key");
    assert_eq!(hits[0].encoding, "as it is");

    // Seven bytes are not enough, nor are the six of an id that are shown, nor what another run's seed makes.
    assert_eq!(scanner.scan(&key.as_bytes()[20..27]), []);
    let shown = tower_anyreach::Credential::parse(key).unwrap();
    let others = Canaries(!crate::seed());
    for innocent in [
        format!("{shown:?} {}", shown.id()),
        others.text(Kind::NewKey),
        others.text(Kind::Token),
        canaries.organization(),
        include_str!("../../../README.md").to_owned(),
        include_str!("../../../CHANGELOG.md").to_owned(),
        include_str!("../../../tests/support/src/scanner.rs").to_owned(),
    ] {
        assert_eq!(scanner.scan(innocent.as_bytes()), [], "{innocent}");
    }
}
