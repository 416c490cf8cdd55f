//! Secrets that occur nowhere else, made from a seed, so that another process can make them too.

use campaigns::random::Random;
use support::scanner::Canary;

/// The digits of a key's id, more than the six that may be shown.
const ID: usize = 14;
const SECRET: usize = 40;
/// Characters of credentials, with those that encodings treat differently.
const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// The key that is in force first.
    OldKey,
    /// The key that replaces it.
    NewKey,
    Token,
    /// A request brings it.
    OwnKey,
    /// In a header or a URI of the caller's.
    CallersKey,
    /// In the text of a source's error, and of its cause.
    SourceError,
    /// The payload of a source's panic.
    SourcePanic,
    /// In a file and in the environment, in a form that is no credential.
    Garbage,
    /// In all text of a hostile server, beside the echo of a credential.
    ServerText,
}

/// All kinds, with their names.
const KINDS: [(Kind, &str); 9] = [
    (Kind::OldKey, "the old key"),
    (Kind::NewKey, "the new key"),
    (Kind::Token, "the token"),
    (Kind::OwnKey, "a request's own key"),
    (Kind::CallersKey, "the caller's key"),
    (Kind::SourceError, "the source's error"),
    (Kind::SourcePanic, "the source's panic"),
    (Kind::Garbage, "what is no credential"),
    (Kind::ServerText, "the server's text"),
];

/// The secrets of one run.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Canaries(pub(crate) u64);

impl Canaries {
    /// Returns the whole credential, in one block of its final size, so that no shorter copy stays unwiped.
    pub(crate) fn text(self, kind: Kind) -> String {
        let (prefix, id) = match kind {
            Kind::Token => ("pat_", 0),
            _ => ("ak_", ID + 1),
        };
        let mut text = String::with_capacity(prefix.len() + id + SECRET);
        text.push_str(prefix);
        let mut random = Random(self.0 ^ (kind as u64 + 1) << 56);
        for at in 0..id + SECRET {
            let digits = &ALPHABET[..if at < id { 62 } else { 64 }];
            let digit = char::from(random.pick(digits));
            text.push(if at + 1 == id { '.' } else { digit });
        }
        text
    }

    /// Returns all of them for the scanner, without the prefix, which is no secret.
    pub(crate) fn all(self) -> impl Iterator<Item = Canary> {
        KINDS.into_iter().map(move |(kind, name)| {
            let text = self.text(kind);
            let (_, secret) = text.split_once('_').expect("a prefix");
            Canary {
                name,
                secret: secret.to_owned(),
            }
        })
    }

    /// May be printed, and is: it shows that the output was searched.
    pub(crate) fn organization(self) -> String {
        format!("org_canary{:016x}", self.0)
    }
}
