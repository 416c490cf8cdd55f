//! Texts as credentials: taken by the documented rules and no others, and never shown.

use hmac_sha256::Hash;
use tower_anyreach::InvalidCredentialReason as Reason;
use tower_anyreach::{
    Credential, CredentialKind, InvalidCredential, OrganizationApiKey, PersonalAccessToken,
};

use super::script::Script;

pub(crate) const WORDS: &[&str] = &[
    "ak_",
    "pat_",
    "ak_4711abcd.S3cr3tC4naryValue",
    "pat_S3cr3tC4naryValue",
    ".",
    "=",
    " ",
    "\n",
    "\r\n",
    "\t",
    "\x0b",
    "\x0c",
    "\u{feff}",
    "\u{a0}",
    "\u{e9}",
    "\u{200b}",
    "\"",
    "'",
    "`",
    "Bearer ",
    "bearer",
    "Authorization: ",
    "${",
    "$ANYREACH_TOKEN",
    "<",
    "{",
    "%",
    "AK_",
    "Pat_",
    "YWtf",
    "cGF0X",
    "-._~+/",
    "invalid credential",
    "org_acme",
    "ak_...",
];

/// One text for each reason, to compare what is printed with: equal means that nothing of the input is in it.
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
    let kind = kind_of(&text);

    let parsed = Credential::parse(text.as_str());
    let key = OrganizationApiKey::new(text.as_str());
    let token = PersonalAccessToken::new(text.as_str());
    match &parsed {
        Ok(credential) => {
            assert_eq!(Some(credential.kind()), kind, "{text:?}");
            assert_eq!(credential.organization(), None);
            let id = id_of(trimmed, credential.kind());
            assert_eq!(credential.id().to_string(), id, "{text:?}");
            assert_eq!(credential.id().kind(), credential.kind());
            assert_shown_as(credential, "ak_1", &id, Credential::parse);
        }
        Err(error) => {
            assert_eq!(kind, None, "refused: {error}: {text:?}");
            assert_eq!(error.reason() == Reason::Empty, trimmed.is_empty());
            assert_eq!(error.reason() == Reason::TooLong, trimmed.len() > 4096);
            assert_shows_nothing(error);
        }
    }
    match key {
        Ok(key) => {
            assert_eq!(kind, Some(CredentialKind::OrganizationApiKey), "{text:?}");
            let id = id_of(trimmed, CredentialKind::OrganizationApiKey);
            assert_shown_as(&key, "ak_1", &id, OrganizationApiKey::new);
        }
        Err(error) => assert_other_kind_or_same(&error, &parsed),
    }
    match token {
        Ok(token) => {
            assert_eq!(kind, Some(CredentialKind::PersonalAccessToken), "{text:?}");
            let id = id_of(trimmed, CredentialKind::PersonalAccessToken);
            assert_shown_as(&token, "pat_1", &id, PersonalAccessToken::new);
        }
        Err(error) => assert_other_kind_or_same(&error, &parsed),
    }
}

pub(crate) fn trimmed(text: &str) -> &str {
    text.trim_matches([' ', '\t', '\n', '\x0c', '\r'])
}

/// The rules, written once more: the kind of the credential that the text is, if it is one.
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

/// What an operator would write down for it.
pub(crate) fn id_of(text: &str, kind: CredentialKind) -> String {
    let mut shown = String::new();
    if kind == CredentialKind::OrganizationApiKey {
        let halves: Vec<&str> = text[3..].split('.').collect();
        if let [id, secret] = halves[..]
            && !id.is_empty()
            && !secret.is_empty()
        {
            shown = id.chars().take(6).collect();
        }
    }
    let prefix = if kind == CredentialKind::OrganizationApiKey {
        "ak_"
    } else {
        "pat_"
    };
    let [a, b, c, d, ..] = Hash::hash(text.as_bytes());
    format!("{prefix}{shown}…#{a:02x}{b:02x}{c:02x}{d:02x}")
}

/// `Debug` differs from that of any other value in the id alone.
fn assert_shown_as<T: std::fmt::Debug>(
    value: &T,
    sample: &'static str,
    id: &str,
    parse: impl Fn(&'static str) -> Result<T, InvalidCredential>,
) {
    let other = parse(sample).unwrap();
    let kind = kind_of(sample).unwrap();
    let expected = format!("{other:?}").replace(&id_of(sample, kind), id);
    assert_eq!(format!("{value:?}"), expected);
}

/// Returns the error that another text is refused with for the same reason.
pub(crate) fn sample(reason: Reason) -> InvalidCredential {
    let sample = SAMPLES
        .iter()
        .find(|(other, _)| *other == reason)
        .map_or_else(|| "x".repeat(5000), |(_, sample)| (*sample).to_owned());
    let error = Credential::parse(sample).unwrap_err();
    assert_eq!(error.reason(), reason);
    error
}

fn assert_shows_nothing(error: &InvalidCredential) {
    let other = sample(error.reason());
    assert_eq!(error.to_string(), other.to_string());
    assert_eq!(format!("{error:?}"), format!("{other:?}"));
}

fn assert_other_kind_or_same(
    error: &InvalidCredential,
    parsed: &Result<Credential, InvalidCredential>,
) {
    match parsed {
        Ok(_) => assert_eq!(error.reason(), Reason::OtherKind),
        Err(other) => assert_eq!(error, other),
    }
}
