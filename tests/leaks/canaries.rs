//! Secrets that nothing else in the world looks like, made from a seed, so that another process can make them too.

use crate::random::Random;
use crate::scanner::Canary;

/// Of a key, the digits of its id; more than the six that may be shown.
const ID: usize = 14;
const SECRET: usize = 40;
/// What credentials may be made of, and what encodings treat differently.
const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// The key that is in force first.
    OldKey,
    /// What it is rotated to.
    NewKey,
    Token,
    /// A request's own.
    OwnKey,
    /// What a caller puts into a header or a URI.
    CallersKey,
    /// In the words of a source's error, and of its cause.
    SourceError,
    /// What a source panics with.
    SourcePanic,
    /// In a file and in the environment, in a form that is no credential.
    Garbage,
    /// In all that a hostile server writes, beside the echo of a credential.
    ServerText,
}

impl Kind {
    const ALL: [Self; 9] = [
        Self::OldKey,
        Self::NewKey,
        Self::Token,
        Self::OwnKey,
        Self::CallersKey,
        Self::SourceError,
        Self::SourcePanic,
        Self::Garbage,
        Self::ServerText,
    ];

    fn name(self) -> &'static str {
        match self {
            Self::OldKey => "the old key",
            Self::NewKey => "the new key",
            Self::Token => "the token",
            Self::OwnKey => "a request's own key",
            Self::CallersKey => "the caller's key",
            Self::SourceError => "the source's error",
            Self::SourcePanic => "the source's panic",
            Self::Garbage => "what is no credential",
            Self::ServerText => "the server's text",
        }
    }

    fn is_key(self) -> bool {
        !matches!(self, Self::Token)
    }
}

/// The secrets of one run.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Canaries(pub(crate) u64);

impl Canaries {
    /// The whole credential, in one block of its final size: no copy of it stays behind, if that block is wiped.
    pub(crate) fn text(self, kind: Kind) -> String {
        let id = if kind.is_key() { ID + 1 } else { 0 };
        let prefix = if kind.is_key() { "ak_" } else { "pat_" };
        let mut text = String::with_capacity(prefix.len() + id + SECRET);
        text.push_str(prefix);
        let mut random = Random(self.0 ^ (kind as u64 + 1) << 56);
        for at in 0..id + SECRET {
            let digits = &ALPHABET[..if at < id { 62 } else { 64 }];
            let digit = usize::try_from(random.next() % digits.len() as u64).unwrap_or(0);
            text.push(if at + 1 == id {
                '.'
            } else {
                char::from(digits[digit])
            });
        }
        text
    }

    /// All of them as they are looked for: without the prefix, which is no secret.
    pub(crate) fn all(self) -> impl Iterator<Item = Canary> {
        Kind::ALL.into_iter().map(move |kind| {
            let text = self.text(kind);
            let (_, secret) = text.split_once('_').expect("a prefix");
            Canary {
                name: kind.name(),
                secret: secret.to_owned(),
            }
        })
    }

    /// What may be printed, and is: who hears nothing of it hears nothing at all.
    pub(crate) fn organization(self) -> String {
        format!("org_canary{:016x}", self.0)
    }
}
