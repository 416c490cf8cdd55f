//! Texts as credentials: accepted by the documented rules, and never shown.

use std::fmt::Debug;

use hmac_sha256::Hash;
use tower_anyreach::InvalidCredentialReason as Reason;
use tower_anyreach::{
    Credential, CredentialKind, InvalidCredential, OrganizationApiKey, PersonalAccessToken,
};

use super::script::Script;

pub(crate) const WORDS: &str = "ak_|pat_|ak_4711abcd.S3cr3tC4naryValue|pat_S3cr3tC4naryValue|.|=| |\n|\r\n|\t|\x0b|\x0c|\u{feff}|\u{a0}|\
     \u{e9}|\u{200b}|\"|'|`|Bearer |bearer|Authorization: |${|$ANYREACH_TOKEN|<|{|%|AK_|Pat_|YWtf|cGF0X|-._~+/|\
     invalid credential|org_acme|ak_...";

/// One text for each reason, to compare errors with.
const SAMPLES: &[(Reason, &str)] = &[
    (Reason::Empty, ""),
    (Reason::ByteOrderMark, "\u{feff}ak_1"),
    (Reason::NonAscii, "ak_\u{e9}"),
    (Reason::ControlCharacter, "ak_1\n2"),
    (Reason::Quoted, "'ak_1'"),
    (Reason::BearerIncluded, "Bearer ak_1"),
    (Reason::Placeholder, "${TOKEN}"),
    (Reason::PrefixCase, "AK_1"),
    (Reason::Base64, "YWtfMQ"),
    (Reason::UnknownPrefix, "1"),
    (Reason::NothingAfterPrefix, "ak_"),
    (Reason::InnerWhitespace, "ak_1 2"),
    (Reason::InvalidCharacter, "ak_1,2"),
];

pub(crate) fn credential_text(bytes: &[u8]) {
    let text = Script::new(bytes).text(WORDS);
    let trimmed = trimmed(&text);
    let parsed = Credential::parse(text.as_str());
    let kind = parsed.as_ref().ok().map(Credential::kind);
    assert_eq!(kind, kind_of(&text), "{text:?}");
    match &parsed {
        Ok(credential) => {
            let id = id_of(trimmed, credential.kind());
            assert_eq!(credential.id().to_string(), id, "{text:?}");
            assert_eq!(credential.id().kind(), credential.kind());
            assert_eq!(credential.organization(), None);
            assert_shown_as(credential, "ak_1", &id, Credential::parse);
        }
        Err(error) => {
            assert_eq!(error.reason() == Reason::Empty, trimmed.is_empty());
            assert_eq!(error.reason() == Reason::TooLong, trimmed.len() > 4096);
            // Equal to the error of another text, so it shows nothing of this one.
            let other = sample(error.reason());
            assert_eq!(error.to_string(), other.to_string());
            assert_eq!(format!("{error:?}"), format!("{other:?}"));
        }
    }
    assert_one_kind(&text, &parsed, "ak_1", OrganizationApiKey::new);
    assert_one_kind(&text, &parsed, "pat_1", PersonalAccessToken::new);
}

/// Asserts that the constructor of one kind, that of `sample`, agrees with `Credential::parse`.
fn assert_one_kind<'a, T: Debug>(
    text: &'a str,
    parsed: &Result<Credential, InvalidCredential>,
    sample: &'a str,
    new: impl Fn(&'a str) -> Result<T, InvalidCredential>,
) {
    match (new(text), parsed) {
        (Ok(value), Ok(credential)) => {
            assert_eq!(Some(credential.kind()), kind_of(sample));
            assert_shown_as(&value, sample, &credential.id().to_string(), new);
        }
        (Err(error), Ok(credential)) => {
            assert_eq!(error.reason(), Reason::OtherKind);
            assert_ne!(Some(credential.kind()), kind_of(sample));
        }
        (Err(error), Err(other)) => assert_eq!(error, *other),
        (Ok(_), Err(error)) => panic!("{text:?}: {error}"),
    }
}

pub(crate) fn trimmed(text: &str) -> &str {
    text.trim_matches([' ', '\t', '\n', '\x0c', '\r'])
}

/// Returns the kind of the credential that the text is, by the documented rules.
pub(crate) fn kind_of(text: &str) -> Option<CredentialKind> {
    let text = trimmed(text).as_bytes();
    let (kind, rest) = match text {
        [b'a', b'k', b'_', rest @ ..] => (CredentialKind::OrganizationApiKey, rest),
        [b'p', b'a', b't', b'_', rest @ ..] => (CredentialKind::PersonalAccessToken, rest),
        _ => return None,
    };
    let last = rest.iter().rposition(|byte| *byte != b'=')?;
    let is_token = rest[..=last]
        .iter()
        .all(|byte| matches!(byte, b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-'..=b'/' | b'_' | b'~' | b'+'));
    // Dots alone are Anyreach's way to write a placeholder, such as `ak_...`.
    let is_placeholder = rest.iter().all(|byte| *byte == b'.');
    (is_token && !is_placeholder && text.len() <= 4096).then_some(kind)
}

/// Returns the id by the documentation: of a key in two parts, up to six characters of the first, and four bytes of a digest.
pub(crate) fn id_of(text: &str, kind: CredentialKind) -> String {
    let (prefix, rest) = text.split_at(text.find('_').unwrap() + 1);
    let shown: String = match rest.split('.').collect::<Vec<_>>()[..] {
        [id, secret]
            if kind == CredentialKind::OrganizationApiKey && ![id, secret].contains(&"") =>
        {
            id.chars().take(6).collect()
        }
        _ => String::new(),
    };
    let [a, b, c, d, ..] = Hash::hash(text.as_bytes());
    format!("{prefix}{shown}…#{a:02x}{b:02x}{c:02x}{d:02x}")
}

/// Asserts that `Debug` differs from that of any other value in the id alone.
fn assert_shown_as<'a, T: Debug>(
    value: &T,
    sample: &'a str,
    id: &str,
    parse: impl Fn(&'a str) -> Result<T, InvalidCredential>,
) {
    let other = format!("{:?}", parse(sample).unwrap());
    let others_id = id_of(sample, kind_of(sample).unwrap());
    assert_eq!(format!("{value:?}"), other.replace(&others_id, id));
}

/// Returns the error that another text is refused with for the same reason.
fn sample(reason: Reason) -> InvalidCredential {
    let sample = SAMPLES.iter().find(|(other, _)| *other == reason);
    let error = match sample {
        Some((_, sample)) => Credential::parse(*sample),
        None => Credential::parse("x".repeat(5000)),
    };
    error.unwrap_err()
}
