//! The id of a credential for logs and errors, and the table of kinds.

use std::fmt;

use hmac_sha256::Hash;

use crate::wipe::with_stack_wiped;

/// The kind of a credential.
///
/// # Examples
///
/// ```
/// use tower_anyreach::{Credential, CredentialKind};
///
/// let credential = Credential::parse("ak_4711.c2VjcmV0")?;
/// let needs_organization = credential.kind() == CredentialKind::PersonalAccessToken;
/// assert!(!needs_organization);
/// # Ok::<(), tower_anyreach::InvalidCredential>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum CredentialKind {
    /// `ak_...`: an [`OrganizationApiKey`](crate::OrganizationApiKey).
    OrganizationApiKey,
    /// `pat_...`: a [`PersonalAccessToken`](crate::PersonalAccessToken).
    PersonalAccessToken,
}

/// How a kind of credential uses `X-Anyreach-Org`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum OrganizationHeader {
    /// Never sent: the credential is bound to one organization.
    Never,
    /// Selects the organization, and is needed on organization-scoped calls.
    Needed,
}

/// The table of kinds. A third kind does not compile until each function handles it; it also has to
/// be added to `ALL`.
impl CredentialKind {
    pub(crate) const ALL: [Self; 2] = [Self::OrganizationApiKey, Self::PersonalAccessToken];

    pub(crate) const fn prefix(self) -> &'static str {
        match self {
            Self::OrganizationApiKey => "ak_",
            Self::PersonalAccessToken => "pat_",
        }
    }

    /// Returns the base64 encoding of the prefix, as far as it does not depend on the text after
    /// it.
    pub(super) const fn prefix_in_base64(self) -> &'static str {
        match self {
            Self::OrganizationApiKey => "YWtf",
            Self::PersonalAccessToken => "cGF0X",
        }
    }

    pub(crate) const fn organization_header(self) -> OrganizationHeader {
        match self {
            Self::OrganizationApiKey => OrganizationHeader::Never,
            Self::PersonalAccessToken => OrganizationHeader::Needed,
        }
    }
}

/// Identifies a credential in logs and errors without revealing it.
///
/// It displays as `ak_4711ab…#5f1c9a3e` or `pat_…#5f1c9a3e`:
///
/// 1. The prefix of its kind.
/// 2. For an API key, up to six characters of its id, which Anyreach's own listing also shows
///    shortened. They are shown only if exactly one dot separates two non-empty parts, because
///    otherwise any part could be the secret.
/// 3. The first eight hex digits of SHA-256 over the whole credential. If you have the credential,
///    `printf %s "$ANYREACH_TOKEN" | sha256sum` prints the same digits. A reader of logs can verify
///    a guess in the same way, which is feasible only if the credential was not chosen at random.
///
/// # Examples
///
/// ```
/// use tower_anyreach::Credential;
///
/// let credential = Credential::parse("ak_4711abcd.c2VjcmV0")?;
/// assert_eq!(credential.id().to_string(), "ak_4711ab…#be6a350c");
/// # Ok::<(), tower_anyreach::InvalidCredential>(())
/// ```
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct CredentialId {
    kind: CredentialKind,
    /// The whole digest, so that ids are equal exactly when the credentials are. Only its start is
    /// shown.
    digest: [u8; 32],
    shown: [u8; Self::MAX_SHOWN_CHARS],
    shown_len: u8,
}

impl CredentialId {
    const MAX_SHOWN_CHARS: usize = 6;

    pub(super) fn of(kind: CredentialKind, text: &str) -> Self {
        let mut id = Self {
            kind,
            digest: with_stack_wiped(|| Hash::hash(text.as_bytes())),
            shown: [0; Self::MAX_SHOWN_CHARS],
            shown_len: 0,
        };
        for (shown, byte) in id.shown.iter_mut().zip(shown_part(kind, text).bytes()) {
            *shown = byte;
            id.shown_len += 1;
        }
        id
    }

    /// Returns the kind of the credential.
    #[must_use]
    pub fn kind(&self) -> CredentialKind {
        self.kind
    }
}

/// Returns the id of an `ak_<id>.<secret>`, whose start is shown. For any other form it returns
/// nothing, because any part may be secret.
fn shown_part(kind: CredentialKind, text: &str) -> &str {
    match kind {
        CredentialKind::OrganizationApiKey => match text[kind.prefix().len()..].split_once('.') {
            Some((id, secret)) if !(secret.is_empty() || secret.contains('.')) => id,
            _ => "",
        },
        CredentialKind::PersonalAccessToken => "",
    }
}

impl fmt::Display for CredentialId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.kind.prefix())?;
        for byte in &self.shown[..usize::from(self.shown_len)] {
            write!(f, "{}", char::from(*byte))?;
        }
        f.write_str("…#")?;
        self.digest[..4]
            .iter()
            .try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for CredentialId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "CredentialId({self})")
    }
}

#[cfg(test)]
mod tests {
    use crate::credential::Credential;

    #[test]
    fn an_id_shows_at_most_six_characters_of_an_api_key() {
        // `printf %s "$ANYREACH_TOKEN" | sha256sum` prints these digests.
        for (text, shown) in [
            ("ak_4711abcd.secret", "ak_4711ab…#be39bf41"),
            ("ak_ab.secret", "ak_ab…#ef2f396e"),
            ("ak_secretwithoutdot", "ak_…#1e26d400"),
            ("ak_two.dots.here", "ak_…#1cf34e93"),
            ("ak_.secret", "ak_…#dc69fb65"),
            ("ak_secret.", "ak_…#a6e06e20"),
            ("pat_abcdef.secret", "pat_…#f3cacf32"),
        ] {
            let id = Credential::parse(text).unwrap().id().clone();
            assert_eq!(id.to_string(), shown, "{text}");
            assert_eq!(format!("{id:?}"), format!("CredentialId({shown})"));
        }
    }

    #[test]
    fn ids_are_equal_only_if_the_credentials_are() {
        let id = |text: &str| Credential::parse(text).unwrap().id().clone();
        assert_eq!(id("ak_a.b"), id("ak_a.b\n"));
        assert_ne!(id("ak_a.b"), id("ak_a.c"));
    }
}
