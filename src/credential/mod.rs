//! The two kinds of credential, and [`Credential`], which holds either one as a prebuilt header
//! value.
//!
//! [`parse`] has the rules for the text of a credential and their errors. [`id`] has the id that
//! logs show, and the table of kinds.

mod id;
mod parse;

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use bytes::Bytes;
use http::HeaderValue;
use http::header::InvalidHeaderValue;
use secrecy::{ExposeSecret, SecretString};
use zeroize::Zeroizing;

pub use self::id::{CredentialId, CredentialKind};
pub use self::parse::{InvalidCredential, InvalidCredentialReason};

pub(crate) use self::id::OrganizationHeader;
pub(crate) use self::parse::parse_organization;
use crate::organization::OrganizationId;

const BEARER: &str = "Bearer ";

/// An organization API key, `ak_<id>.<secret>`, which is permanently bound to one organization.
///
/// `X-Anyreach-Org` is never sent with it.
///
/// Source: <https://docs.anyreach.ai/organizations/api-keys-and-tokens>.
///
/// # Examples
///
/// ```
/// use tower_anyreach::{Credential, CredentialKind, OrganizationApiKey};
///
/// let key = OrganizationApiKey::new("ak_4711.c2VjcmV0")?;
/// assert!(!format!("{key:?}").contains("c2VjcmV0"));
/// assert_eq!(
///     Credential::from(key).kind(),
///     CredentialKind::OrganizationApiKey
/// );
/// # Ok::<(), tower_anyreach::InvalidCredential>(())
/// ```
#[derive(Clone)]
pub struct OrganizationApiKey(Credential);

impl OrganizationApiKey {
    /// Parses a key. Surrounding ASCII whitespace is trimmed.
    ///
    /// The text after the prefix `ak_` is at least one character of RFC 6750's `b64token` and not
    /// dots alone, as in a placeholder. The whole is at most 4,096 bytes long. No other rule was
    /// found in Anyreach's documentation, so nothing else is checked.
    ///
    /// # Errors
    ///
    /// Returns [`InvalidCredential`], whose [`reason`](InvalidCredential::reason) names the broken
    /// rule. It is [`OtherKind`](InvalidCredentialReason::OtherKind) for a personal access token.
    pub fn new(text: impl Into<SecretString>) -> Result<Self, InvalidCredential> {
        Credential::parse(text)?
            .of_kind(CredentialKind::OrganizationApiKey)
            .map(Self)
    }
}

impl fmt::Debug for OrganizationApiKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "OrganizationApiKey({})", self.0.id())
    }
}

/// A personal access token, `pat_...`, which belongs to a user and can act for any organization of
/// that user.
///
/// The token does not select the organization. Set it for all requests with
/// [`for_organization`](Self::for_organization), or for one request with an [`OrganizationId`]
/// extension. Without either, the layer refuses the request, because Anyreach answers
/// organization-scoped calls with 401 `Token is missing organization claim.`
///
/// Source: <https://docs.anyreach.ai/api-reference/authentication>.
///
/// # Examples
///
/// ```
/// use tower_anyreach::{Credential, OrganizationId, PersonalAccessToken};
///
/// let token = PersonalAccessToken::new("pat_c2VjcmV0")?
///     .for_organization(OrganizationId::try_from("org_4711")?);
/// assert_eq!(
///     Credential::from(token).organization().unwrap().as_str(),
///     "org_4711"
/// );
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone)]
pub struct PersonalAccessToken(Credential);

impl PersonalAccessToken {
    /// Parses a token, without an organization. Surrounding ASCII whitespace is trimmed.
    ///
    /// The text after the prefix `pat_` is at least one character of RFC 6750's `b64token` and not
    /// dots alone, as in a placeholder. The whole is at most 4,096 bytes long. No other rule was
    /// found in Anyreach's documentation, so nothing else is checked.
    ///
    /// # Errors
    ///
    /// Returns [`InvalidCredential`], whose [`reason`](InvalidCredential::reason) names the broken
    /// rule. It is [`OtherKind`](InvalidCredentialReason::OtherKind) for an organization API key.
    pub fn new(text: impl Into<SecretString>) -> Result<Self, InvalidCredential> {
        Credential::parse(text)?
            .of_kind(CredentialKind::PersonalAccessToken)
            .map(Self)
    }

    /// Sets the organization that requests act for, unless a request sets its own.
    #[must_use]
    pub fn for_organization(self, organization: OrganizationId) -> Self {
        Self(self.0.with_organization(organization))
    }
}

impl fmt::Debug for PersonalAccessToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PersonalAccessToken")
            .field("id", self.0.id())
            .field("organization", &self.0.organization())
            .finish()
    }
}

/// An organization API key, or a personal access token with or without an organization.
///
/// A credential is opaque: no method returns the text, and neither [`Debug`] nor an error shows it.
/// Clones share it, and its bytes are wiped when the last clone, including the headers of requests,
/// is dropped. This crate cannot wipe the copies that other crates make: the write buffers of
/// hyper, h2 and TLS, and the string it was parsed from, unless that was a [`SecretString`].
///
/// Inserted into a request's extensions, it is used for that request instead of the layer's.
///
/// # Examples
///
/// ```
/// use tower_anyreach::{Credential, CredentialKind};
///
/// let credential = Credential::parse("pat_c2VjcmV0\n")?;
/// assert_eq!(credential.kind(), CredentialKind::PersonalAccessToken);
/// assert_eq!(credential.organization(), None);
/// # Ok::<(), tower_anyreach::InvalidCredential>(())
/// ```
#[derive(Clone)]
pub struct Credential(Arc<Material>);

struct Material {
    authorization: HeaderValue,
    id: CredentialId,
    organization: Option<OrganizationId>,
}

impl Credential {
    /// Parses a credential of either kind, by its prefix. Surrounding ASCII whitespace is trimmed.
    ///
    /// # Errors
    ///
    /// Returns [`InvalidCredential`], whose [`reason`](InvalidCredential::reason) names the broken
    /// rule.
    ///
    /// # Examples
    ///
    /// ```
    /// use tower_anyreach::{Credential, CredentialKind, InvalidCredentialReason};
    ///
    /// assert_eq!(
    ///     Credential::parse("ak_4711.c2VjcmV0")?.kind(),
    ///     CredentialKind::OrganizationApiKey
    /// );
    /// assert_eq!(
    ///     Credential::parse("pat_c2VjcmV0")?.kind(),
    ///     CredentialKind::PersonalAccessToken
    /// );
    /// let error = Credential::parse("Bearer pat_c2VjcmV0").unwrap_err();
    /// assert_eq!(error.reason(), InvalidCredentialReason::BearerIncluded);
    /// # Ok::<(), tower_anyreach::InvalidCredential>(())
    /// ```
    pub fn parse(text: impl Into<SecretString>) -> Result<Self, InvalidCredential> {
        Self::parse_str(text.into().expose_secret())
    }

    /// Parses a credential from the bytes of a file or of the environment.
    pub(crate) fn parse_bytes(text: &[u8]) -> Result<Self, InvalidCredential> {
        Self::parse_str(parse::decode(text)?)
    }

    fn parse_str(text: &str) -> Result<Self, InvalidCredential> {
        let text = text.trim_matches(|c: char| c.is_ascii_whitespace());
        let kind = parse::check(text)?;

        Ok(Self(Arc::new(Material {
            authorization: authorization(text)
                .map_err(|_| InvalidCredential::of(InvalidCredentialReason::InvalidCharacter))?,
            id: CredentialId::of(kind, text),
            organization: None,
        })))
    }

    fn of_kind(self, kind: CredentialKind) -> Result<Self, InvalidCredential> {
        if self.kind() == kind {
            Ok(self)
        } else {
            Err(InvalidCredential::of(InvalidCredentialReason::OtherKind))
        }
    }

    /// Returns the kind of the credential.
    #[must_use]
    pub fn kind(&self) -> CredentialKind {
        self.0.id.kind()
    }

    /// Returns the id of the credential, for logs and errors.
    #[must_use]
    pub fn id(&self) -> &CredentialId {
        &self.0.id
    }

    /// Returns the organization of a personal access token. Returns `None` for an organization API
    /// key, whose organization is not part of its text.
    #[must_use]
    pub fn organization(&self) -> Option<&OrganizationId> {
        self.0.organization.as_ref()
    }

    /// Returns a copy that owns its memory.
    pub(crate) fn deep_copy(&self) -> Self {
        let text = std::str::from_utf8(self.expose()).expect("a credential is ASCII");
        Self(Arc::new(Material {
            authorization: authorization(text).expect("a credential is visible ASCII"),
            id: self.0.id.clone(),
            organization: self.organization().map(OrganizationId::deep_copy),
        }))
    }

    /// Returns the prebuilt header value, which is marked sensitive.
    pub(crate) fn header_value(&self) -> &HeaderValue {
        &self.0.authorization
    }

    /// Returns the secret text, for finding echoes of it.
    pub(crate) fn expose(&self) -> &[u8] {
        &self.0.authorization.as_bytes()[BEARER.len()..]
    }

    /// Returns the same personal access token with this organization. Callers exclude API keys,
    /// which are bound to their own.
    pub(crate) fn with_organization(self, organization: OrganizationId) -> Self {
        debug_assert_eq!(
            self.kind().organization_header(),
            OrganizationHeader::Needed
        );
        Self(Arc::new(Material {
            authorization: self.0.authorization.clone(),
            id: self.0.id.clone(),
            organization: Some(organization),
        }))
    }
}

/// Returns `Bearer <credential>`, marked sensitive. Its bytes are wiped when the last holder drops
/// them.
fn authorization(credential: &str) -> Result<HeaderValue, InvalidHeaderValue> {
    // Allocated once at its final size: a buffer that grows would leave shorter copies unwiped.
    let mut bytes = Zeroizing::new(Vec::with_capacity(BEARER.len() + credential.len()));
    bytes.extend_from_slice(BEARER.as_bytes());
    bytes.extend_from_slice(credential.as_bytes());
    let mut value = HeaderValue::from_maybe_shared(Bytes::from_owner(bytes))?;
    value.set_sensitive(true);
    Ok(value)
}

impl FromStr for Credential {
    type Err = InvalidCredential;

    /// Parses a credential like [`Credential::parse`]. It does not wipe `text`.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Self::parse_str(text)
    }
}

impl From<OrganizationApiKey> for Credential {
    fn from(key: OrganizationApiKey) -> Self {
        key.0
    }
}

impl From<PersonalAccessToken> for Credential {
    fn from(token: PersonalAccessToken) -> Self {
        token.0
    }
}

impl fmt::Debug for Credential {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Credential")
            .field("id", self.id())
            .field("organization", &self.organization())
            .finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use InvalidCredentialReason as Reason;

    #[test]
    fn debug_shows_the_id_and_the_organization() {
        let key = OrganizationApiKey::new("ak_4711abcd.c2VjcmV0").unwrap();
        assert_eq!(
            format!("{key:?}"),
            "OrganizationApiKey(ak_4711ab…#be6a350c)"
        );
        let token = PersonalAccessToken::new("pat_c2VjcmV0").unwrap();
        let rest = "id: CredentialId(pat_…#62126e0b), organization: None }";
        assert_eq!(
            format!("{token:?}"),
            format!("PersonalAccessToken {{ {rest}")
        );
        let token = token.for_organization("o".parse().unwrap());
        let rest = "id: CredentialId(pat_…#62126e0b), organization: Some(OrganizationId(o)) }";
        assert_eq!(
            format!("{:?}", Credential::from(token)),
            format!("Credential {{ {rest}")
        );
    }

    #[test]
    fn each_type_takes_its_own_kind_only() {
        assert!(OrganizationApiKey::new("ak_a.b").is_ok());
        assert!(PersonalAccessToken::new("pat_x").is_ok());
        let error = OrganizationApiKey::new("pat_x").unwrap_err();
        assert_eq!(error.reason(), Reason::OtherKind);
        let error = PersonalAccessToken::new("ak_a.b").unwrap_err();
        assert_eq!(error.reason(), Reason::OtherKind);
        assert!(error.to_string().contains("of the other kind"), "{error}");
    }
}
