//! The organization that a personal access token acts for.

use std::cmp::Ordering;
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use bytes::Bytes;
use http::HeaderValue;
use http::header::InvalidHeaderValue;

use crate::credential::CredentialKind;

/// The maximum length of an organization id, in bytes.
const MAX_LEN: usize = 256;

/// The id of the organization that a request acts for, sent as `X-Anyreach-Org`.
///
/// A personal access token belongs to a user and needs an organization on every organization-scoped
/// call. Set it for all requests with
/// [`PersonalAccessToken::for_organization`](crate::PersonalAccessToken::for_organization), or for
/// one request by inserting an `OrganizationId` into its extensions, which takes precedence. An
/// organization API key is bound to its own organization, so a request that has both is refused.
///
/// An id is 1 to 256 visible ASCII characters, without comma or quotes (`"`, `'` and `` ` ``), and
/// contains no [credential](InvalidOrganizationIdReason::Credential). No alphabet was found in
/// Anyreach's documentation, so nothing else is checked, and surrounding whitespace, which is not
/// trimmed, is an error. The id is not the slug in the dashboard's URLs.
///
/// Source: <https://docs.anyreach.ai/api-reference/authentication>.
///
/// # Examples
///
/// ```
/// use tower_anyreach::OrganizationId;
///
/// let organization = OrganizationId::try_from("org_4711")?;
/// assert_eq!(organization.as_str(), "org_4711");
///
/// let mut request = http::Request::get("https://api.anyreach.ai/core/agents").body(())?;
/// request.extensions_mut().insert(organization);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct OrganizationId(Arc<HeaderValue>);

impl OrganizationId {
    /// Parses an id by the rules of [`OrganizationId`]. Nothing is trimmed.
    ///
    /// # Errors
    ///
    /// Returns [`InvalidOrganizationId`], whose [`reason`](InvalidOrganizationId::reason) names the
    /// broken rule.
    pub fn new(text: impl AsRef<str>) -> Result<Self, InvalidOrganizationId> {
        Self::parse(text.as_ref())
    }

    fn parse(text: &str) -> Result<Self, InvalidOrganizationId> {
        use InvalidOrganizationIdReason as Reason;

        let reason = if text.is_empty() {
            Reason::Empty
        } else if text.len() > MAX_LEN {
            Reason::TooLong
        } else if !text.is_ascii() {
            Reason::NonAscii
        } else if text.bytes().any(|byte| byte == b' ' || byte == b'\t') {
            Reason::Whitespace
        } else if text.bytes().any(|byte| byte.is_ascii_control()) {
            Reason::ControlCharacter
        } else if text.contains(',') {
            Reason::Comma
        } else if text.contains(['"', '\'', '`']) {
            Reason::Quote
        } else if contains_credential(text) {
            Reason::Credential
        } else {
            // Visible ASCII is a valid header value, so this does not fail.
            return Self::of_visible_ascii(text)
                .map_err(|_| InvalidOrganizationId(Reason::ControlCharacter));
        };
        Err(InvalidOrganizationId(reason))
    }

    /// Returns the id as it was given.
    #[must_use]
    pub fn as_str(&self) -> &str {
        // An id is visible ASCII, so this does not fail.
        self.0.to_str().unwrap_or_default()
    }

    /// Returns a copy that owns its memory.
    pub(crate) fn deep_copy(&self) -> Self {
        Self::of_visible_ascii(self.as_str()).expect("an id is visible ASCII")
    }

    fn of_visible_ascii(text: &str) -> Result<Self, InvalidHeaderValue> {
        // Bytes with an owner do not allocate when a request clones them first; other `Bytes` do.
        let bytes = Bytes::from_owner(Box::<[u8]>::from(text.as_bytes()));
        HeaderValue::from_maybe_shared(bytes).map(|value| Self(Arc::new(value)))
    }

    /// Returns the prebuilt header value.
    pub(crate) fn header_value(&self) -> &HeaderValue {
        &self.0
    }
}

/// Returns whether `ak_` or `pat_`, in any case, is at the start or after a character other than a
/// letter, digit or `_`. Such a string is or contains a credential, which must not be sent or shown
/// as an id.
pub(crate) fn contains_credential(text: &str) -> bool {
    let text = text.as_bytes();
    (0..text.len()).any(|at| {
        let is_start = at == 0 || !(text[at - 1].is_ascii_alphanumeric() || text[at - 1] == b'_');
        let has = |prefix: &[u8]| {
            text[at..].len() >= prefix.len()
                && text[at..at + prefix.len()].eq_ignore_ascii_case(prefix)
        };
        let mut kinds = CredentialKind::ALL.iter();
        is_start && kinds.any(|kind| has(kind.prefix().as_bytes()))
    })
}

impl TryFrom<&str> for OrganizationId {
    type Error = InvalidOrganizationId;

    /// Parses an id by the rules of [`OrganizationId`].
    ///
    /// # Errors
    ///
    /// Returns [`InvalidOrganizationId`], whose [`reason`](InvalidOrganizationId::reason) names the
    /// broken rule.
    fn try_from(text: &str) -> Result<Self, Self::Error> {
        Self::parse(text)
    }
}

impl TryFrom<String> for OrganizationId {
    type Error = InvalidOrganizationId;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        Self::parse(&text)
    }
}

impl FromStr for OrganizationId {
    type Err = InvalidOrganizationId;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Self::parse(text)
    }
}

impl AsRef<str> for OrganizationId {
    fn as_ref(&self) -> &str {
        self.as_str()
    }
}

impl PartialOrd for OrganizationId {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

/// Orders ids by their text.
impl Ord for OrganizationId {
    fn cmp(&self, other: &Self) -> Ordering {
        self.as_str().cmp(other.as_str())
    }
}

impl fmt::Display for OrganizationId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

impl fmt::Debug for OrganizationId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "OrganizationId({self})")
    }
}

/// The error for a string that is not an [`OrganizationId`]; [`reason`](Self::reason) says why. It
/// does not contain the string.
///
/// # Examples
///
/// ```
/// use tower_anyreach::{InvalidOrganizationIdReason, OrganizationId};
///
/// let error = OrganizationId::try_from("org_4711\n").unwrap_err();
/// assert_eq!(
///     error.reason(),
///     InvalidOrganizationIdReason::ControlCharacter
/// );
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InvalidOrganizationId(InvalidOrganizationIdReason);

impl InvalidOrganizationId {
    #[cfg(feature = "file")]
    pub(crate) fn of(reason: InvalidOrganizationIdReason) -> Self {
        Self(reason)
    }

    /// Returns the rule that the text broke.
    #[must_use]
    pub fn reason(&self) -> InvalidOrganizationIdReason {
        self.0
    }
}

impl fmt::Display for InvalidOrganizationId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        use InvalidOrganizationIdReason as Reason;
        f.write_str("invalid organization id: ")?;
        f.write_str(match self.0 {
            Reason::Empty => "it is empty",
            Reason::TooLong => "it is longer than 256 bytes",
            Reason::NonAscii => "it contains a character outside ASCII",
            Reason::Whitespace => "it contains a space or a tab",
            Reason::ControlCharacter => "it contains a control character, such as a line break",
            Reason::Comma => "it contains a comma; a request acts for one organization",
            Reason::Quote => "it contains a quote; remove the quotes around the value",
            Reason::Credential => {
                "it contains a credential; give the organization's id, such as org_..."
            }
        })
    }
}

impl std::error::Error for InvalidOrganizationId {}

/// Why a string is not an [`OrganizationId`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum InvalidOrganizationIdReason {
    /// The string is empty.
    Empty,
    /// The string is longer than 256 bytes.
    TooLong,
    /// The string contains a character outside ASCII.
    NonAscii,
    /// The string contains a space or a tab, possibly at an end.
    Whitespace,
    /// The string contains a control character, possibly at an end.
    ControlCharacter,
    /// The string contains a comma.
    Comma,
    /// The string contains `"`, `'` or `` ` ``.
    Quote,
    /// The string contains `ak_` or `pat_`, in any case, at the start or after a character other
    /// than a letter, digit or `_`.
    Credential,
}

impl InvalidOrganizationIdReason {
    /// Returns the reason in `snake_case`. It is stable and suits a metric label.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Empty => "empty",
            Self::TooLong => "too_long",
            Self::NonAscii => "non_ascii",
            Self::Whitespace => "whitespace",
            Self::ControlCharacter => "control_character",
            Self::Comma => "comma",
            Self::Quote => "quote",
            Self::Credential => "credential",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use InvalidOrganizationIdReason as Reason;

    #[test]
    fn each_rule_has_its_reason() {
        let long = "x".repeat(257);
        for (text, reason) in [
            ("", Reason::Empty),
            (long.as_str(), Reason::TooLong),
            ("org_\u{e9}", Reason::NonAscii),
            ("org_\u{200b}", Reason::NonAscii),
            (" org_1", Reason::Whitespace),
            ("org_1\t", Reason::Whitespace),
            ("org_1\n", Reason::ControlCharacter),
            ("org\r\nX-Evil: 1", Reason::Whitespace),
            ("org\r\n1", Reason::ControlCharacter),
            ("org\x7f", Reason::ControlCharacter),
            ("org_1,org_2", Reason::Comma),
            ("\"org_1\"", Reason::Quote),
            ("'org_1'", Reason::Quote),
            ("`org_1`", Reason::Quote),
            ("pat_c2VjcmV0", Reason::Credential),
            ("AK_a.b", Reason::Credential),
            ("token=pat_c2VjcmV0", Reason::Credential),
            ("Bearer:pat_c2VjcmV0", Reason::Credential),
        ] {
            assert_eq!(
                OrganizationId::try_from(text).unwrap_err().reason(),
                reason,
                "{text:?}"
            );
        }
    }

    #[test]
    fn visible_ascii_is_a_valid_id() {
        for text in [
            "o",
            "org_1",
            "org_ak_1",
            "spak_1",
            "6f1d-\u{7e}!#$%&()*+./:;<=>?@[\\]^{|}",
            &"x".repeat(256),
        ] {
            let id: OrganizationId = text.parse().unwrap();
            assert_eq!(id.as_str(), text);
            assert_eq!(id, OrganizationId::try_from(text.to_owned()).unwrap());
            assert_eq!(id.to_string(), text);
        }
    }

    #[test]
    fn an_id_is_shown_as_it_is_and_an_invalid_text_is_not_shown() {
        let id = OrganizationId::try_from("org_4711").unwrap();
        assert_eq!(format!("{id:?}"), "OrganizationId(org_4711)");
        assert_eq!(format!("{id:>10}|"), "  org_4711|");
        let error = OrganizationId::try_from("org_1,org_2").unwrap_err();
        assert_eq!(
            error.to_string(),
            "invalid organization id: it contains a comma; a request acts for one organization"
        );
    }
}
