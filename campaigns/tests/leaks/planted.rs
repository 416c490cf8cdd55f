//! Leaks in the forms in which they occur, one of each, made without the scanner's code. All of them are found.

use std::io;
use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE};
use http::header::AUTHORIZATION;
use http::{HeaderMap, HeaderValue};
use support::each;
use support::scanner::Scanner;

use crate::canaries::{self, Kind};
use crate::shown;

fn traced(emit: impl FnOnce()) -> Vec<u8> {
    let file = tempfile::NamedTempFile::new().unwrap();
    let subscriber = tracing_subscriber::fmt()
        .with_max_level(tracing::Level::TRACE)
        .with_writer(Arc::new(file.reopen().unwrap()))
        .finish();
    tracing::subscriber::with_default(subscriber, emit);
    std::fs::read(file.path()).unwrap()
}

/// Returns the payload that a panic hook is given.
fn panicked(text: &str) -> String {
    let payload = shown::unwrapped(Err(text)).unwrap_err();
    *payload.downcast::<String>().unwrap()
}

fn chained(text: &str) -> String {
    let cause = io::Error::other(format!("vault said: {text}"));
    let error = anyhow::Error::new(io::Error::other(cause));
    format!("{:?}", error.context("no credential"))
}

fn lines(text: &str, len: usize) -> String {
    let lines = text.as_bytes().chunks(len).map(String::from_utf8_lossy);
    lines.collect::<Vec<_>>().join("\r\n  ")
}

/// A name, and how a byte is written.
type Form = (&'static str, fn(u8) -> String);

const BYTEWISE: [Form; 12] = [
    ("hex", |byte| format!("{byte:02x}")),
    ("hex with colons", |byte| format!("{byte:02x}:")),
    ("a hex dump", |byte| format!("{byte:02X}, \n")),
    ("a hex dump with 0x", |byte| format!("{byte:#04x},\n    ")),
    ("percent", |byte| format!("%{byte:02X}")),
    ("percent twice", |byte| format!("%25{byte:02X}")),
    ("JSON escapes", |byte| format!("\\u{byte:04X}")),
    ("C escapes", |byte| format!("\\x{byte:02x}")),
    ("C escapes in a Debug", |byte| format!("\\\\x{byte:02x}")),
    ("octal escapes", |byte| format!("\\{byte:03o}")),
    ("short octal escapes", |byte| format!("\\{byte:o}")),
    ("HTML", |byte| format!("&#{byte};")),
];

fn planted(text: &str) -> Vec<(&'static str, Vec<u8>)> {
    let bearer = format!("Bearer {text}");
    let (_, secret) = text.split_once('_').unwrap();
    let (start, middle) = (&secret[..13], &secret[secret.len() / 2..][..8]);
    let mut headers = HeaderMap::new();
    headers.insert(AUTHORIZATION, HeaderValue::from_str(&bearer).unwrap());
    let (derived, bytes) = (Some(&headers), Some(secret.as_bytes()));
    let mut url = url::Url::parse("https://evil.example/").unwrap();
    url.query_pairs_mut().append_pair("access_token", text);
    let json = serde_json::json!({"detail": {"token": text}}).to_string();
    let bytewise = BYTEWISE.map(|(name, form)| (name, each(text, form)));
    let texts = [
        ("as it is", bearer.clone()),
        ("in upper case", text.to_uppercase()),
        ("eight bytes", format!("x{middle}x")),
        ("in two lines", lines(start, 5)),
        ("a derived Debug", format!("{derived:?}")),
        ("a derived Debug, pretty", format!("{derived:#?}")),
        ("a list of bytes", format!("{bytes:?}")),
        ("a list of bytes, pretty", format!("{bytes:#?}")),
        ("base64", STANDARD.encode(text)),
        ("base64, 1", STANDARD.encode(format!("x{text}"))),
        ("base64, 2", STANDARD.encode(format!("xy{text}"))),
        ("base64url", URL_SAFE.encode(&bearer)),
        ("base64url, 1", URL_SAFE.encode(format!("x{bearer}"))),
        ("base64url, 2", URL_SAFE.encode(format!("xy{bearer}"))),
        ("base64 in lines", lines(&STANDARD.encode(&bearer), 19)),
        ("a query", url.to_string()),
        ("a JSON body", json.clone()),
        ("JSON with slashes escaped", json.replace('/', "\\/")),
        ("Rust escapes", text.escape_unicode().to_string()),
        ("a chain of sources", chained(text)),
        ("a panic", panicked(&bearer)),
    ];
    let texts = texts.into_iter().chain(bytewise);
    let mut planted: Vec<_> = texts
        .map(|(name, text)| (name, text.into_bytes()))
        .collect();
    let utf16 = |form: fn(u16) -> [u8; 2]| bearer.encode_utf16().flat_map(form).collect();
    // Numbers in the memory of a little-endian machine.
    let numbers = |len| -> Vec<u8> {
        let parts = secret.as_bytes()[..32].chunks(len);
        parts.flat_map(|part| part.iter().rev().copied()).collect()
    };
    let field = || tracing::trace!(token = %text, "sent");
    let list = || tracing::debug!("{:?}", text.as_bytes());
    let span = || {
        let span = tracing::error_span!("call", ?headers);
        span.in_scope(|| tracing::error!("failed"));
    };
    planted.extend([
        ("UTF-16, little", utf16(u16::to_le_bytes)),
        ("UTF-16, big", utf16(u16::to_be_bytes)),
        ("numbers in memory", numbers(8)),
        ("words in memory", numbers(4)),
        ("a field", traced(field)),
        ("bytes in an event", traced(list)),
        ("a span", traced(span)),
    ]);
    planted
}

#[test]
fn every_planted_leak_is_found() {
    let scanner = Scanner::new(canaries::all());
    let mut count = 0;
    for kind in [Kind::OldKey, Kind::Token] {
        for (name, bytes) in planted(&canaries::text(kind)) {
            // Among other output.
            let output = [b"2026-01-01 TRACE h2: ", &*bytes, b" idle_timeout=90s\n"].concat();
            assert!(!scanner.scan(&output).is_empty(), "{name}: not found");
            // In pieces of any length.
            for len in [1, 7, 64] {
                let mut search = scanner.search();
                output.chunks(len).for_each(|piece| search.feed(piece));
                assert!(search.found > 0, "{name}: not found in pieces of {len}");
            }
            count += 1;
        }
    }
    let needles = scanner.needles();
    println!("leaks: {count} of {count} planted leaks found, {needles} needles");
    assert!(count >= 80);
}
