//! Texts as organization ids: accepted by the documented rules, and shown unchanged.

use tower_anyreach::InvalidOrganizationIdReason as Reason;
use tower_anyreach::OrganizationId;

use super::script::Script;

const WORDS: &str = "org_acme|org_| |\t|\n|\r\nX-Evil: 1|\x7f|,|\"|'|`|\u{e9}|\u{feff}|!#$%&()*+-./:;<=>?@[\\]^_{}~|ak_|Pat_|\
     token=pat_1|Bearer:ak_1";

const SAMPLES: &[(Reason, &str)] = &[
    (Reason::Empty, ""),
    (Reason::NonAscii, "\u{e9}"),
    (Reason::Whitespace, " "),
    (Reason::ControlCharacter, "\n"),
    (Reason::Comma, ","),
    (Reason::Quote, "'"),
    (Reason::Credential, "ak_1"),
];

pub(crate) fn organization_text(bytes: &[u8]) {
    let text = Script::new(bytes).text(WORDS);
    let parsed = OrganizationId::try_from(text.as_str());
    assert_eq!(parsed.is_ok(), is_organization(text.as_bytes()), "{text:?}");
    assert_eq!(parsed, OrganizationId::new(text.as_str()));
    assert_eq!(parsed, text.parse());
    assert_eq!(parsed, OrganizationId::try_from(text.clone()));
    match parsed {
        Ok(organization) => {
            assert_eq!(organization.as_str(), text);
            assert_eq!(organization.to_string(), text);
            let shown = format!("{organization:?}");
            assert_eq!(shown, format!("OrganizationId({text})"));
        }
        Err(error) => {
            assert_eq!(error.reason() == Reason::Empty, text.is_empty());
            assert_eq!(error.reason() == Reason::TooLong, text.len() > 256);
            // Equal to the error of another text, so it holds nothing of this one.
            let sample = SAMPLES.iter().find(|(other, _)| *other == error.reason());
            let other = match sample {
                Some((_, sample)) => OrganizationId::new(sample),
                None => OrganizationId::new("x".repeat(300)),
            };
            assert_eq!(other, Err(error));
            let other = other.unwrap_err();
            assert!(other.to_string().len() < 128 && format!("{other:?}").len() < 128);
        }
    }
}

/// The documented rules, implemented independently.
pub(crate) fn is_organization(text: &[u8]) -> bool {
    let is_plain = text
        .iter()
        .all(|byte| byte.is_ascii_graphic() && !b",\"'`".contains(byte));
    // A credential begins at the start of a word.
    let is_word = |byte: &u8| byte.is_ascii_alphanumeric() || *byte == b'_';
    let holds_credential = text
        .split(|byte| !is_word(byte))
        .map(<[u8]>::to_ascii_lowercase)
        .any(|word| word.starts_with(b"ak_") || word.starts_with(b"pat_"));
    (1..=256).contains(&text.len()) && is_plain && !holds_credential
}
