//! The rules for the text of a credential, and the error for a string that breaks one. Neither
//! keeps any of the string.

use std::fmt;

use self::InvalidCredentialReason as Reason;
use super::CredentialKind;
use crate::organization::{InvalidOrganizationId, OrganizationId};

/// The maximum length of a credential, in bytes.
const MAX_LEN: usize = 4096;

/// Decodes the bytes of a file or of the environment. UTF-16 is reported as such.
pub(super) fn decode(text: &[u8]) -> Result<&str, InvalidCredential> {
    // PowerShell 5 writes UTF-16: with a byte order mark, or with every second byte zero.
    let is_utf_16 = matches!(
        text,
        [0xff, 0xfe, ..] | [0xfe, 0xff, ..] | [_, 0, ..] | [0, _, ..]
    );
    if is_utf_16 {
        return Err(InvalidCredential(Reason::Utf16));
    }
    std::str::from_utf8(text).map_err(|_| InvalidCredential(Reason::NonAscii))
}

/// Checks the text against the rules, in the order that best explains a pasting mistake.
pub(super) fn check(text: &str) -> Result<CredentialKind, InvalidCredential> {
    check_text(text)
        .and_then(|()| kind_and_rest(text))
        .and_then(|(kind, rest)| check_rest(rest).map(|()| kind))
        .map_err(InvalidCredential)
}

/// Checks the text as a whole.
fn check_text(text: &str) -> Result<(), Reason> {
    if text.is_empty() {
        return Err(Reason::Empty);
    }
    if text.len() > MAX_LEN {
        return Err(Reason::TooLong);
    }
    if text.starts_with('\u{feff}') {
        return Err(Reason::ByteOrderMark);
    }
    if !text.is_ascii() {
        return Err(Reason::NonAscii);
    }
    if text.bytes().any(|byte| byte.is_ascii_control()) {
        return Err(Reason::ControlCharacter);
    }
    if text.starts_with(['"', '\'', '`']) || text.ends_with(['"', '\'', '`']) {
        return Err(Reason::Quoted);
    }
    if starts_with(text, "bearer") || starts_with(text, "authorization:") {
        return Err(Reason::BearerIncluded);
    }
    if text.starts_with('$') || text.contains("${") || text.starts_with(['%', '<', '{']) {
        return Err(Reason::Placeholder);
    }
    Ok(())
}

/// Returns the kind of the prefix, and the text after it.
fn kind_and_rest(text: &str) -> Result<(CredentialKind, &str), Reason> {
    for kind in CredentialKind::ALL {
        if let Some(rest) = text.strip_prefix(kind.prefix()) {
            return Ok((kind, rest));
        }
    }
    let any = |is_so: fn(&str, CredentialKind) -> bool| {
        CredentialKind::ALL.iter().any(|kind| is_so(text, *kind))
    };
    Err(if any(|text, kind| starts_with(text, kind.prefix())) {
        Reason::PrefixCase
    } else if any(|text, kind| text.starts_with(kind.prefix_in_base64())) {
        Reason::Base64
    } else {
        Reason::UnknownPrefix
    })
}

/// Checks the text after the prefix.
fn check_rest(rest: &str) -> Result<(), Reason> {
    if rest.is_empty() {
        return Err(Reason::NothingAfterPrefix);
    }
    if rest.contains(' ') {
        return Err(Reason::InnerWhitespace);
    }
    // The form of Anyreach's own examples, such as `pat_...`.
    if rest.bytes().all(|byte| byte == b'.') {
        return Err(Reason::Placeholder);
    }
    // RFC 6750 section 2.1: b64token = 1*( ALPHA / DIGIT / "-" / "." / "_" / "~" / "+" / "/" ) *"="
    let unpadded = rest.trim_end_matches('=');
    let is_b64token = !unpadded.is_empty()
        && unpadded
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || b"-._~+/".contains(&byte));
    if is_b64token {
        Ok(())
    } else {
        Err(Reason::InvalidCharacter)
    }
}

/// Returns whether the text starts with the prefix, in any case.
fn starts_with(text: &str, prefix: &str) -> bool {
    text.get(..prefix.len())
        .is_some_and(|start| start.eq_ignore_ascii_case(prefix))
}

/// Parses an organization id from a file or from the environment. Surrounding ASCII whitespace is
/// trimmed.
pub(crate) fn parse_organization(text: &[u8]) -> Result<OrganizationId, InvalidOrganizationId> {
    // Text that is not UTF-8 is not ASCII either, and is refused as such.
    OrganizationId::try_from(String::from_utf8_lossy(text.trim_ascii()).as_ref())
}

/// The error for a string that is not a credential; [`reason`](Self::reason) says why. It contains
/// none of the string.
///
/// # Examples
///
/// ```
/// use tower_anyreach::{Credential, InvalidCredentialReason};
///
/// let error = Credential::parse("Bearer ak_4711.c2VjcmV0").unwrap_err();
/// assert_eq!(error.reason(), InvalidCredentialReason::BearerIncluded);
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InvalidCredential(InvalidCredentialReason);

impl InvalidCredential {
    pub(crate) fn of(reason: InvalidCredentialReason) -> Self {
        Self(reason)
    }

    /// Returns the rule that the text broke.
    #[must_use]
    pub fn reason(&self) -> InvalidCredentialReason {
        self.0
    }
}

impl fmt::Display for InvalidCredential {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("invalid credential: ")?;
        f.write_str(match self.0 {
            Reason::Empty => "it is empty",
            Reason::TooLong => "it is longer than 4096 bytes",
            Reason::ByteOrderMark => "it starts with a byte order mark; save it as plain ASCII",
            Reason::NonAscii => {
                "it contains a character outside ASCII, such as a typographic quote or an \
                 invisible space"
            }
            Reason::Utf16 => "it is UTF-16; save it as UTF-8",
            Reason::ControlCharacter => {
                "it contains a control character, such as an inner line break"
            }
            Reason::Quoted => "it starts or ends with a quote; remove the quotes",
            Reason::BearerIncluded => "it starts with `Bearer`; give the credential alone",
            Reason::Placeholder => "it looks like a placeholder; replace it with the credential",
            Reason::PrefixCase => "its prefix is not in lower case; prefixes are `ak_` and `pat_`",
            Reason::Base64 => "it looks base64-encoded; decode it first",
            Reason::UnknownPrefix => "it starts with neither `ak_` nor `pat_`",
            Reason::NothingAfterPrefix => "nothing follows its prefix",
            Reason::InnerWhitespace => "it contains a space",
            Reason::InvalidCharacter => {
                "it contains a character that a bearer credential cannot have (RFC 6750 section \
                 2.1)"
            }
            Reason::OtherKind => {
                "it is of the other kind; `Credential::parse` takes both `ak_` and `pat_`"
            }
        })
    }
}

impl std::error::Error for InvalidCredential {}

/// Why a string is not a credential.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum InvalidCredentialReason {
    /// The string is empty or only whitespace.
    Empty,
    /// The string is longer than 4,096 bytes.
    TooLong,
    /// The string starts with a byte order mark.
    ByteOrderMark,
    /// The string contains a character outside ASCII.
    NonAscii,
    /// The string is UTF-16, which PowerShell 5 writes to files.
    Utf16,
    /// The string contains a control character between other characters.
    ControlCharacter,
    /// The string starts or ends with a quote (`"`, `'` or `` ` ``).
    Quoted,
    /// The string starts with `Bearer` or `Authorization:`.
    BearerIncluded,
    /// The string is a template that was not filled in, such as `${ANYREACH_TOKEN}`, `<token>` or
    /// `pat_...`, or JSON.
    Placeholder,
    /// The prefix is not in lower case, as in `AK_` or `Pat_`.
    PrefixCase,
    /// The string is the base64 encoding of a credential.
    Base64,
    /// The string starts with neither `ak_` nor `pat_`.
    UnknownPrefix,
    /// The string is `ak_` or `pat_` alone.
    NothingAfterPrefix,
    /// The string contains a space.
    InnerWhitespace,
    /// The string contains a character outside RFC 6750's `b64token`.
    InvalidCharacter,
    /// The string is a personal access token where an organization API key is expected, or the
    /// reverse.
    OtherKind,
}

impl InvalidCredentialReason {
    /// Returns the reason in `snake_case`. It is stable and suits a metric label.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Empty => "empty",
            Self::TooLong => "too_long",
            Self::ByteOrderMark => "byte_order_mark",
            Self::NonAscii => "non_ascii",
            Self::Utf16 => "utf_16",
            Self::ControlCharacter => "control_character",
            Self::Quoted => "quoted",
            Self::BearerIncluded => "bearer_included",
            Self::Placeholder => "placeholder",
            Self::PrefixCase => "prefix_case",
            Self::Base64 => "base64",
            Self::UnknownPrefix => "unknown_prefix",
            Self::NothingAfterPrefix => "nothing_after_prefix",
            Self::InnerWhitespace => "inner_whitespace",
            Self::InvalidCharacter => "invalid_character",
            Self::OtherKind => "other_kind",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::credential::Credential;

    /// Texts that users paste by mistake, and the rule that each breaks.
    const PASTED: [(&str, Reason); 39] = [
        ("", Reason::Empty),
        (" \n\t", Reason::Empty),
        ("\u{feff}ak_a.b", Reason::ByteOrderMark),
        ("ak_a.b\u{a0}", Reason::NonAscii),
        ("\u{201c}ak_a.b\u{201d}", Reason::NonAscii),
        ("ak_a\u{200b}.b", Reason::NonAscii),
        ("ak_a\n.b", Reason::ControlCharacter),
        ("ak_a\r\nX-Evil: 1", Reason::ControlCharacter),
        ("ak_a\0b", Reason::ControlCharacter),
        ("\x0bak_a.b", Reason::ControlCharacter),
        ("\"ak_a.b\"", Reason::Quoted),
        ("'ak_a.b'", Reason::Quoted),
        ("ak_a.b\"", Reason::Quoted),
        ("`pat_x`", Reason::Quoted),
        ("Bearer ak_a.b", Reason::BearerIncluded),
        ("bearer pat_x", Reason::BearerIncluded),
        ("Authorization: Bearer ak_a.b", Reason::BearerIncluded),
        ("${ANYREACH_TOKEN}", Reason::Placeholder),
        ("$ANYREACH_TOKEN", Reason::Placeholder),
        ("ak_${ID}", Reason::Placeholder),
        ("%ANYREACH_TOKEN%", Reason::Placeholder),
        ("<token>", Reason::Placeholder),
        ("{\"token\":1}", Reason::Placeholder),
        ("AK_a.b", Reason::PrefixCase),
        ("Pat_x", Reason::PrefixCase),
        ("YWtfYS5i", Reason::Base64),
        ("cGF0X3g=", Reason::Base64),
        ("sk_live_1", Reason::UnknownPrefix),
        ("ak-a.b", Reason::UnknownPrefix),
        ("eyJhbGciOi", Reason::UnknownPrefix),
        ("ak_...", Reason::Placeholder),
        ("pat_.", Reason::Placeholder),
        ("ak_", Reason::NothingAfterPrefix),
        ("pat_\n", Reason::NothingAfterPrefix),
        ("ak_a .b", Reason::InnerWhitespace),
        ("ak_a,b", Reason::InvalidCharacter),
        ("ak_=", Reason::InvalidCharacter),
        ("ak_a=b", Reason::InvalidCharacter),
        ("pat_x\"y", Reason::InvalidCharacter),
    ];

    #[test]
    fn each_pasting_mistake_has_its_reason() {
        let long = format!("ak_{}", "x".repeat(MAX_LEN - 2));
        for (text, reason) in PASTED.into_iter().chain([(long.as_str(), Reason::TooLong)]) {
            let error = Credential::parse(text).unwrap_err();
            assert_eq!(error.reason(), reason, "{text:?}");
            // The error contains nothing of the input: it is one byte wide.
            assert_eq!(size_of_val(&error), 1);
        }
    }

    #[test]
    fn surrounding_ascii_whitespace_is_trimmed() {
        for text in ["ak_a.b", " ak_a.b", "ak_a.b\n", "\t\r\nak_a.b \x0c\r\n"] {
            assert_eq!(
                Credential::parse(text).unwrap().expose(),
                b"ak_a.b",
                "{text:?}"
            );
        }
    }

    #[test]
    fn every_character_of_a_bearer_credential_is_accepted() {
        let longest = format!("pat_{}", "x".repeat(MAX_LEN - 4));
        for text in [
            "ak_a",
            "ak_a.b",
            "ak_a.b.c",
            "ak_.x",
            "pat_x",
            "pat_-._~+/09azAZ==",
            &longest,
        ] {
            let credential = Credential::parse(text).unwrap();
            assert_eq!(credential.expose(), text.as_bytes());
            assert!(credential.header_value().is_sensitive());
            assert_eq!(
                credential.header_value().as_bytes(),
                format!("Bearer {text}").as_bytes()
            );
        }
    }
}
