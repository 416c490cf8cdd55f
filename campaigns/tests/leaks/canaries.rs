//! Secrets that occur nowhere else, made from a seed, so that another process can make them too.

use std::sync::OnceLock;
use std::time::SystemTime;

use campaigns::random::Random;
use secrecy::SecretString;
use support::scanner::Canary;
use tower_anyreach::Credential;

/// The digits of a key's id, more than the six that may be shown.
const ID: usize = 14;
const SECRET: usize = 40;
/// Characters of credentials, with those that encodings treat differently.
const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

#[derive(Clone, Copy, PartialEq)]
pub(crate) enum Kind {
    OldKey,
    NewKey,
    Token,
    OwnKey,
    CallersKey,
    SourceError,
    SourcePanic,
    Garbage,
    ServerText,
}

/// All kinds, with what each is.
const KINDS: [(Kind, &str); 9] = [
    (Kind::OldKey, "the key in force first"),
    (Kind::NewKey, "the key that replaces it"),
    (Kind::Token, "the token"),
    (Kind::OwnKey, "the key that a request brings"),
    (Kind::CallersKey, "a header or URI of a caller"),
    (Kind::SourceError, "a source's error and cause"),
    (Kind::SourcePanic, "the payload of a source's panic"),
    (Kind::Garbage, "what is no credential"),
    (Kind::ServerText, "a hostile server's own text"),
];

impl Kind {
    pub(crate) fn name(self) -> &'static str {
        KINDS[self as usize].1
    }
}

/// Returns the seed of this run's secrets.
pub(crate) fn seed() -> u64 {
    static SEED: OnceLock<u64> = OnceLock::new();
    *SEED.get_or_init(|| {
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
        let drawn = u64::from(now.unwrap().subsec_nanos()) << 32 ^ u64::from(std::process::id());
        campaigns::number("ANYREACH_LEAK_SEED", drawn)
    })
}

/// Returns the whole credential, in one block of its final size, so that no shorter copy stays unwiped.
pub(crate) fn text(kind: Kind) -> String {
    let (prefix, id) = match kind {
        Kind::Token => ("pat_", 0),
        _ => ("ak_", ID + 1),
    };
    let mut text = String::with_capacity(prefix.len() + id + SECRET);
    text.push_str(prefix);
    let mut random = Random(seed() ^ (kind as u64 + 1) << 56);
    for at in 0..id + SECRET {
        let digits = &ALPHABET[..if at < id { 62 } else { 64 }];
        let digit = char::from(random.pick(digits));
        text.push(if at + 1 == id { '.' } else { digit });
    }
    text
}

/// Returns the same, to be wiped.
pub(crate) fn secret(kind: Kind) -> SecretString {
    SecretString::from(text(kind))
}

pub(crate) fn credential(kind: Kind) -> Credential {
    Credential::parse(secret(kind)).unwrap()
}

/// Returns all of them for the scanner, without the prefix, which is no secret.
pub(crate) fn all() -> impl Iterator<Item = Canary> {
    KINDS.into_iter().map(|(kind, name)| {
        let text = text(kind);
        let (_, secret) = text.split_once('_').expect("a prefix");
        (name, secret.to_owned())
    })
}

/// Returns an organization that may be printed, and is: it shows that the output was searched.
pub(crate) fn organization() -> String {
    format!("org_canary{:016x}", seed())
}
