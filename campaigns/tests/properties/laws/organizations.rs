//! Texts as organization ids: taken by the documented rules and no others, and shown as they are.

use tower_anyreach::InvalidOrganizationIdReason as Reason;
use tower_anyreach::OrganizationId;

use super::script::Script;

pub(crate) const WORDS: &[&str] = &[
    "org_acme",
    "org_",
    " ",
    "\t",
    "\n",
    "\r\nX-Evil: 1",
    "\x7f",
    ",",
    "\"",
    "'",
    "`",
    "\u{e9}",
    "\u{feff}",
    "!#$%&()*+-./:;<=>?@[\\]^_{|}~",
];

const SAMPLES: &[(Reason, &str)] = &[
    (Reason::Empty, ""),
    (Reason::NonAscii, "\u{e9}"),
    (Reason::Whitespace, " "),
    (Reason::ControlCharacter, "\n"),
    (Reason::Comma, ","),
    (Reason::Quote, "'"),
];

pub(crate) fn organization_text(bytes: &[u8]) {
    let text = Script::new(bytes).text(WORDS);
    let parsed = OrganizationId::try_from(text.as_str());
    assert_eq!(parsed.is_ok(), is_organization(text.as_bytes()), "{text:?}");
    assert_eq!(parsed, text.parse());
    assert_eq!(parsed, OrganizationId::try_from(text.clone()));
    match parsed {
        Ok(organization) => {
            assert_eq!(organization.as_str(), text);
            assert_eq!(organization.to_string(), text);
            assert_eq!(
                format!("{organization:?}"),
                format!("OrganizationId({text})")
            );
        }
        Err(error) => {
            assert_eq!(error.reason() == Reason::Empty, text.is_empty());
            assert_eq!(error.reason() == Reason::TooLong, text.len() > 256);
            // Equal to what another text's error prints, so nothing of this text is in it.
            let sample = SAMPLES
                .iter()
                .find(|(reason, _)| *reason == error.reason())
                .map_or_else(|| "x".repeat(300), |(_, sample)| (*sample).to_owned());
            assert_eq!(OrganizationId::try_from(sample), Err(error));
            assert!(error.to_string().len() < 128 && format!("{error:?}").len() < 128);
        }
    }
}

/// The rules, written once more.
pub(crate) fn is_organization(text: &[u8]) -> bool {
    (1..=256).contains(&text.len())
        && text
            .iter()
            .all(|byte| byte.is_ascii_graphic() && !b",\"'`".contains(byte))
}
