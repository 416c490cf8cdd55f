//! Who we are: the two kinds of credential, parsed, redacted, and ready as a header value.

use std::env;
use std::error::Error as StdError;
use std::ffi::OsString;
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use bytes::Bytes;
use hmac_sha256::Hash;
use http::HeaderValue;
use http::header::InvalidHeaderValue;
use secrecy::{ExposeSecret, SecretString};
use zeroize::Zeroizing;

use crate::organization::{InvalidOrganizationId, OrganizationId};
use crate::wipe::with_stack_wiped;

const KEY_PREFIX: &str = CredentialKind::OrganizationApiKey.prefix();
const TOKEN_PREFIX: &str = CredentialKind::PersonalAccessToken.prefix();
const BEARER: &str = "Bearer ";

/// The longest credential, in bytes.
const MAX_LEN: usize = 4096;

/// An organization API key, `ak_<id>.<secret>`: bound for good to the one organization it was made for.
///
/// `X-Anyreach-Org` is never sent with it; the key says which organization it acts for.
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
/// assert_eq!(Credential::from(key).kind(), CredentialKind::OrganizationApiKey);
/// # Ok::<(), tower_anyreach::InvalidCredential>(())
/// ```
#[derive(Clone)]
pub struct OrganizationApiKey(Credential);

impl OrganizationApiKey {
    /// Reads a key, trimmed of surrounding ASCII whitespace.
    ///
    /// After the prefix `ak_` comes at least one character of RFC 6750's `b64token`; the whole is at most
    /// 4,096 bytes long. Anyreach documents no more about its form, so no more is asked.
    ///
    /// # Errors
    ///
    /// [`InvalidCredential`], whose [`reason`](InvalidCredential::reason) says which rule the text breaks;
    /// [`OtherKind`](InvalidCredentialReason::OtherKind) for a personal access token.
    ///
    /// # Examples
    ///
    /// ```
    /// use tower_anyreach::{InvalidCredentialReason, OrganizationApiKey};
    ///
    /// assert!(OrganizationApiKey::new("ak_4711.c2VjcmV0\n").is_ok());
    /// let error = OrganizationApiKey::new("pat_c2VjcmV0").unwrap_err();
    /// assert_eq!(error.reason(), InvalidCredentialReason::OtherKind);
    /// ```
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

/// A personal access token, `pat_...`: belongs to a user, and acts for any organization of that user.
///
/// It does not say for which one: name it for all requests with [`for_organization`](Self::for_organization),
/// or for one request with an [`OrganizationId`] extension. Without either, a request is refused before it is
/// sent, since Anyreach would answer 401 `Token is missing organization claim.`
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
/// assert_eq!(Credential::from(token).organization().unwrap().as_str(), "org_4711");
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone)]
pub struct PersonalAccessToken(Credential);

impl PersonalAccessToken {
    /// Reads a token, trimmed of surrounding ASCII whitespace; it names no organization yet.
    ///
    /// After the prefix `pat_` comes at least one character of RFC 6750's `b64token`; the whole is at most
    /// 4,096 bytes long. Anyreach documents no more about its form, so no more is asked.
    ///
    /// # Errors
    ///
    /// [`InvalidCredential`], whose [`reason`](InvalidCredential::reason) says which rule the text breaks;
    /// [`OtherKind`](InvalidCredentialReason::OtherKind) for an organization API key.
    ///
    /// # Examples
    ///
    /// ```
    /// use tower_anyreach::{InvalidCredentialReason, PersonalAccessToken};
    ///
    /// assert!(PersonalAccessToken::new(" pat_c2VjcmV0").is_ok());
    /// let error = PersonalAccessToken::new("c2VjcmV0").unwrap_err();
    /// assert_eq!(error.reason(), InvalidCredentialReason::UnknownPrefix);
    /// ```
    pub fn new(text: impl Into<SecretString>) -> Result<Self, InvalidCredential> {
        Credential::parse(text)?
            .of_kind(CredentialKind::PersonalAccessToken)
            .map(Self)
    }

    /// Names the organization that requests act for, unless a request names its own.
    ///
    /// # Examples
    ///
    /// ```
    /// use tower_anyreach::{Credential, OrganizationId, PersonalAccessToken};
    ///
    /// let token = PersonalAccessToken::new("pat_c2VjcmV0")?.for_organization(OrganizationId::try_from("org_4711")?);
    /// let credential = Credential::from(token);
    /// assert_eq!(credential.organization().map(OrganizationId::as_str), Some("org_4711"));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
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

/// What a request authenticates with: an organization API key, or a personal access token with or without
/// an organization.
///
/// A credential is opaque: nothing gives the text back, and neither [`Debug`] nor an error shows it. Clones
/// share it; the last one to be dropped, headers of requests included, wipes its bytes. What other crates copy
/// (write buffers of hyper, h2 and TLS, the string it was parsed from unless that was a
/// [`SecretString`]) is not ours to wipe.
///
/// As an extension of a request, it is that request's own credential, used instead of the layer's.
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
    /// Reads a credential of either kind, told apart by its prefix; surrounding ASCII whitespace is trimmed.
    ///
    /// # Errors
    ///
    /// [`InvalidCredential`], whose [`reason`](InvalidCredential::reason) says which rule the text breaks.
    ///
    /// # Examples
    ///
    /// ```
    /// use tower_anyreach::{Credential, CredentialKind, InvalidCredentialReason};
    ///
    /// assert_eq!(Credential::parse("ak_4711.c2VjcmV0")?.kind(), CredentialKind::OrganizationApiKey);
    /// assert_eq!(Credential::parse("pat_c2VjcmV0")?.kind(), CredentialKind::PersonalAccessToken);
    /// let error = Credential::parse("Bearer pat_c2VjcmV0").unwrap_err();
    /// assert_eq!(error.reason(), InvalidCredentialReason::BearerIncluded);
    /// # Ok::<(), tower_anyreach::InvalidCredential>(())
    /// ```
    pub fn parse(text: impl Into<SecretString>) -> Result<Self, InvalidCredential> {
        Self::parse_str(text.into().expose_secret())
    }

    /// Reads a credential from the environment variables that Anyreach's own examples use.
    ///
    /// 1. `ANYREACH_TOKEN` is taken, either kind; if it is not set, `ANYREACH_PAT`.
    /// 2. With a personal access token, `ANYREACH_ORG_ID` names its organization if set. With an organization
    ///    API key it is ignored.
    /// 3. An empty variable counts as not set. Surrounding ASCII whitespace is trimmed.
    ///
    /// # Examples
    ///
    /// ```
    /// use tower_anyreach::Credential;
    ///
    /// match Credential::from_env() {
    ///     Ok(credential) => assert!(credential.id().to_string().contains('#')),
    ///     Err(error) => assert!(error.to_string().contains("ANYREACH_")),
    /// }
    /// ```
    ///
    /// # Errors
    ///
    /// [`EnvError`], which names the variable: neither is set, the value is not a credential, or
    /// `ANYREACH_ORG_ID` is not an organization id.
    pub fn from_env() -> Result<Self, EnvError> {
        Self::from_variables(|name| env::var_os(name))
    }

    fn from_variables(variable: impl Fn(&str) -> Option<OsString>) -> Result<Self, EnvError> {
        let value = |name: &'static str| {
            variable(name)
                .map(|value| Zeroizing::new(value.into_encoded_bytes()))
                .filter(|value| !value.is_empty())
                .map(|value| (name, value))
        };
        let (name, text) = value("ANYREACH_TOKEN")
            .or_else(|| value("ANYREACH_PAT"))
            .ok_or(EnvError(EnvErrorKind::Unset))?;
        let mut credential = Self::parse_bytes(&text)
            .map_err(|error| EnvError(EnvErrorKind::Credential(name, error)))?;
        let organization = (credential.kind() == CredentialKind::PersonalAccessToken)
            .then(|| value("ANYREACH_ORG_ID"))
            .flatten();
        if let Some((name, text)) = organization {
            let organization = parse_organization(&text)
                .map_err(|error| EnvError(EnvErrorKind::Organization(name, error)))?;
            credential = credential.with_organization(organization);
        }
        Ok(credential)
    }

    pub(crate) fn parse_bytes(text: &[u8]) -> Result<Self, InvalidCredential> {
        // PowerShell 5 writes UTF-16: with a byte order mark, or with every second byte zero.
        let is_utf_16 = matches!(
            text,
            [0xff, 0xfe, ..] | [0xfe, 0xff, ..] | [_, 0, ..] | [0, _, ..]
        );
        let reason = if is_utf_16 {
            InvalidCredentialReason::Utf16
        } else {
            InvalidCredentialReason::NonAscii
        };
        let text = std::str::from_utf8(text).ok().filter(|_| !is_utf_16);
        Self::parse_str(text.ok_or(InvalidCredential(reason))?)
    }

    fn parse_str(text: &str) -> Result<Self, InvalidCredential> {
        let text = text.trim_matches(|c: char| c.is_ascii_whitespace());
        let kind = check(text).map_err(InvalidCredential)?;

        Ok(Self(Arc::new(Material {
            authorization: authorization(text)
                .map_err(|_| InvalidCredential(InvalidCredentialReason::InvalidCharacter))?,
            id: CredentialId::of(kind, text),
            organization: None,
        })))
    }

    fn of_kind(self, kind: CredentialKind) -> Result<Self, InvalidCredential> {
        if self.kind() == kind {
            Ok(self)
        } else {
            Err(InvalidCredential(InvalidCredentialReason::OtherKind))
        }
    }

    /// Returns which of the two kinds it is.
    ///
    /// # Examples
    ///
    /// ```
    /// use tower_anyreach::{Credential, CredentialKind};
    ///
    /// assert_eq!(Credential::parse("pat_c2VjcmV0")?.kind(), CredentialKind::PersonalAccessToken);
    /// # Ok::<(), tower_anyreach::InvalidCredential>(())
    /// ```
    #[must_use]
    pub fn kind(&self) -> CredentialKind {
        self.0.id.kind
    }

    /// Returns what names this credential without being one, for logs and errors.
    ///
    /// # Examples
    ///
    /// ```
    /// use tower_anyreach::Credential;
    ///
    /// let (one, other) = (Credential::parse("pat_c2VjcmV0")?, Credential::parse("pat_b3RoZXI")?);
    /// assert_ne!(one.id(), other.id());
    /// assert_eq!(one.id().to_string(), "pat_…#62126e0b");
    /// # Ok::<(), tower_anyreach::InvalidCredential>(())
    /// ```
    #[must_use]
    pub fn id(&self) -> &CredentialId {
        &self.0.id
    }

    /// Returns the organization that a personal access token was given; an organization API key has none to show.
    ///
    /// # Examples
    ///
    /// ```
    /// use tower_anyreach::{Credential, OrganizationId, PersonalAccessToken};
    ///
    /// let token = PersonalAccessToken::new("pat_c2VjcmV0")?;
    /// assert_eq!(Credential::from(token.clone()).organization(), None);
    ///
    /// let organization = OrganizationId::try_from("org_4711")?;
    /// let credential = Credential::from(token.for_organization(organization.clone()));
    /// assert_eq!(credential.organization(), Some(&organization));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[must_use]
    pub fn organization(&self) -> Option<&OrganizationId> {
        self.0.organization.as_ref()
    }

    /// The same credential in memory of its own.
    pub(crate) fn deep_copy(&self) -> Self {
        let text = std::str::from_utf8(self.expose()).expect("a credential is ASCII");
        Self(Arc::new(Material {
            authorization: authorization(text).expect("a credential is visible ASCII"),
            id: self.0.id.clone(),
            organization: self.organization().map(OrganizationId::deep_copy),
        }))
    }

    /// The whole header value, prebuilt and marked sensitive.
    pub(crate) fn header_value(&self) -> &HeaderValue {
        &self.0.authorization
    }

    /// The secret text, for finding echoes of it.
    pub(crate) fn expose(&self) -> &[u8] {
        &self.0.authorization.as_bytes()[BEARER.len()..]
    }

    /// The same personal access token for that organization. An API key never gets here: it carries its own.
    pub(crate) fn with_organization(self, organization: OrganizationId) -> Self {
        debug_assert_eq!(self.kind(), CredentialKind::PersonalAccessToken);
        Self(Arc::new(Material {
            authorization: self.0.authorization.clone(),
            id: self.0.id.clone(),
            organization: Some(organization),
        }))
    }
}

/// `Bearer <credential>`, marked sensitive, in bytes that are wiped when the last holder drops them.
fn authorization(credential: &str) -> Result<HeaderValue, InvalidHeaderValue> {
    // Allocated once at its final size, so that no shorter copy stays behind unwiped.
    let mut bytes = Zeroizing::new(Vec::with_capacity(BEARER.len() + credential.len()));
    bytes.extend_from_slice(BEARER.as_bytes());
    bytes.extend_from_slice(credential.as_bytes());
    let mut value = HeaderValue::from_maybe_shared(Bytes::from_owner(bytes))?;
    value.set_sensitive(true);
    Ok(value)
}

/// An organization id as environments and files hold it: surrounding ASCII whitespace does not count.
pub(crate) fn parse_organization(text: &[u8]) -> Result<OrganizationId, InvalidOrganizationId> {
    // Text that is not UTF-8 is not ASCII either, and is refused as such.
    OrganizationId::try_from(String::from_utf8_lossy(text.trim_ascii()).as_ref())
}

impl FromStr for Credential {
    type Err = InvalidCredential;

    /// Reads a credential as [`Credential::parse`] does. The text itself is the caller's to wipe.
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

/// Which of Anyreach's two kinds of credential it is.
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
    /// `ak_...`, see [`OrganizationApiKey`].
    OrganizationApiKey,
    /// `pat_...`, see [`PersonalAccessToken`].
    PersonalAccessToken,
}

/// What `X-Anyreach-Org` means for a kind of credential.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum OrganizationHeader {
    /// Never sent: the credential is bound to one organization.
    Never,
    /// Selects the organization; needed on organization-scoped calls.
    Needed,
}

/// The table of kinds: a third one does not compile until each of these says what holds for it.
impl CredentialKind {
    pub(crate) const ALL: [Self; 2] = [Self::OrganizationApiKey, Self::PersonalAccessToken];

    pub(crate) const fn prefix(self) -> &'static str {
        match self {
            Self::OrganizationApiKey => "ak_",
            Self::PersonalAccessToken => "pat_",
        }
    }

    pub(crate) const fn organization_header(self) -> OrganizationHeader {
        match self {
            Self::OrganizationApiKey => OrganizationHeader::Never,
            Self::PersonalAccessToken => OrganizationHeader::Needed,
        }
    }
}

/// Names a credential without being one, so that logs and errors can say which was used.
///
/// It displays as `ak_4711ab…#5f1c9a3e` or `pat_…#5f1c9a3e`:
///
/// 1. The kind, as its prefix.
/// 2. Of an API key, at most the first six characters of its id, as Anyreach's own listing shows it shortened;
///    only if exactly one dot parts two non-empty halves, since otherwise any of it could be the secret.
/// 3. The first eight hex digits of SHA-256 over the whole credential. An operator who has the credential can
///    match them with `printf %s "$ANYREACH_TOKEN" | sha256sum`. So can anyone who sees the id and guesses the credential, which
///    is feasible only where the credential was not chosen at random.
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
    /// The whole digest, so that equality is that of the credentials; only its start is shown.
    digest: [u8; 32],
    shown: [u8; Self::SHOWN],
    shown_len: u8,
}

impl CredentialId {
    const SHOWN: usize = 6;

    fn of(kind: CredentialKind, text: &str) -> Self {
        let mut id = Self {
            kind,
            digest: with_stack_wiped(|| Hash::hash(text.as_bytes())),
            shown: [0; Self::SHOWN],
            shown_len: 0,
        };
        for (shown, byte) in id.shown.iter_mut().zip(shown_part(kind, text).bytes()) {
            *shown = byte;
            id.shown_len += 1;
        }
        id
    }

    /// Returns which kind of credential it names.
    ///
    /// # Examples
    ///
    /// ```
    /// use tower_anyreach::{Credential, CredentialKind};
    ///
    /// let credential = Credential::parse("ak_4711.c2VjcmV0")?;
    /// assert_eq!(credential.id().kind(), CredentialKind::OrganizationApiKey);
    /// # Ok::<(), tower_anyreach::InvalidCredential>(())
    /// ```
    #[must_use]
    pub fn kind(&self) -> CredentialKind {
        self.kind
    }
}

/// Returns the id of an `ak_<id>.<secret>`, of which [`CredentialId`] shows the start. Of any other form it returns
/// nothing, because any part of it may be secret.
fn shown_part(kind: CredentialKind, text: &str) -> &str {
    match kind {
        CredentialKind::OrganizationApiKey => match text[KEY_PREFIX.len()..].split_once('.') {
            Some((id, secret)) if !(secret.is_empty() || secret.contains('.')) => id,
            _ => "",
        },
        CredentialKind::PersonalAccessToken => "",
    }
}

impl fmt::Display for CredentialId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let prefix = match self.kind {
            CredentialKind::OrganizationApiKey => KEY_PREFIX,
            CredentialKind::PersonalAccessToken => TOKEN_PREFIX,
        };
        f.write_str(prefix)?;
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

/// The rules, in the order in which a refusal is most telling for who pasted the text.
fn check(text: &str) -> Result<CredentialKind, InvalidCredentialReason> {
    use InvalidCredentialReason as Reason;

    let starts_with = |prefix: &str| {
        text.get(..prefix.len())
            .is_some_and(|start| start.eq_ignore_ascii_case(prefix))
    };
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
    if starts_with("bearer") || starts_with("authorization:") {
        return Err(Reason::BearerIncluded);
    }
    if text.starts_with('$') || text.contains("${") || text.starts_with(['%', '<', '{']) {
        return Err(Reason::Placeholder);
    }
    let (kind, rest) = if let Some(rest) = text.strip_prefix(KEY_PREFIX) {
        (CredentialKind::OrganizationApiKey, rest)
    } else if let Some(rest) = text.strip_prefix(TOKEN_PREFIX) {
        (CredentialKind::PersonalAccessToken, rest)
    } else if starts_with(KEY_PREFIX) || starts_with(TOKEN_PREFIX) {
        return Err(Reason::PrefixCase);
    } else if text.starts_with("YWtf") || text.starts_with("cGF0X") {
        // Base64 of `ak_` and of `pat_`.
        return Err(Reason::Base64);
    } else {
        return Err(Reason::UnknownPrefix);
    };
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
        Ok(kind)
    } else {
        Err(Reason::InvalidCharacter)
    }
}

/// A text is not a credential; [`reason`](Self::reason) says why, and nothing of the text is kept.
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
    #[cfg(feature = "file")]
    pub(crate) fn of(reason: InvalidCredentialReason) -> Self {
        Self(reason)
    }

    /// Returns which rule the text broke.
    ///
    /// # Examples
    ///
    /// ```
    /// use tower_anyreach::{Credential, InvalidCredentialReason};
    ///
    /// let error = Credential::parse("\"pat_c2VjcmV0\"").unwrap_err();
    /// assert_eq!(error.reason(), InvalidCredentialReason::Quoted);
    /// assert_eq!(error.to_string(), "invalid credential: it starts or ends with a quote; remove the quotes");
    /// ```
    #[must_use]
    pub fn reason(&self) -> InvalidCredentialReason {
        self.0
    }
}

impl fmt::Display for InvalidCredential {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        use InvalidCredentialReason as Reason;
        f.write_str("invalid credential: ")?;
        f.write_str(match self.0 {
            Reason::Empty => "it is empty",
            Reason::TooLong => "it is longer than 4096 bytes",
            Reason::ByteOrderMark => "it starts with a byte order mark; save it as plain ASCII",
            Reason::NonAscii => {
                "it contains a character outside ASCII, such as a typographic quote or an invisible space"
            }
            Reason::Utf16 => "it is UTF-16; save it as UTF-8",
            Reason::ControlCharacter => "it contains a control character, such as an inner line break",
            Reason::Quoted => "it starts or ends with a quote; remove the quotes",
            Reason::BearerIncluded => "it starts with `Bearer`; give the credential alone",
            Reason::Placeholder => "it looks like a placeholder that nothing has filled in",
            Reason::PrefixCase => "its prefix is not in lower case; prefixes are `ak_` and `pat_`",
            Reason::Base64 => "it looks base64-encoded; decode it first",
            Reason::UnknownPrefix => "it starts with neither `ak_` nor `pat_`",
            Reason::NothingAfterPrefix => "nothing follows its prefix",
            Reason::InnerWhitespace => "it contains a space",
            Reason::InvalidCharacter => {
                "it contains a character that a bearer credential cannot have (RFC 6750 section 2.1)"
            }
            Reason::OtherKind => {
                "it is of the other kind; `Credential::parse` takes both `ak_` and `pat_`"
            }
        })
    }
}

impl std::error::Error for InvalidCredential {}

/// Why a text is not a credential.
///
/// # Examples
///
/// ```
/// use tower_anyreach::{Credential, InvalidCredentialReason};
///
/// for (text, reason) in [
///     ("", InvalidCredentialReason::Empty),
///     ("Bearer ak_4711.c2VjcmV0", InvalidCredentialReason::BearerIncluded),
///     ("${ANYREACH_TOKEN}", InvalidCredentialReason::Placeholder),
///     ("AK_4711.c2VjcmV0", InvalidCredentialReason::PrefixCase),
///     ("ak_", InvalidCredentialReason::NothingAfterPrefix),
/// ] {
///     assert_eq!(Credential::parse(text).unwrap_err().reason(), reason);
/// }
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum InvalidCredentialReason {
    /// Nothing, or only whitespace.
    Empty,
    /// More than 4,096 bytes.
    TooLong,
    /// A byte order mark in front.
    ByteOrderMark,
    /// A character outside ASCII.
    NonAscii,
    /// UTF-16, as PowerShell 5 writes files.
    Utf16,
    /// A control character that is not at the ends.
    ControlCharacter,
    /// A quote (`"`, `'` or `` ` ``) at either end.
    Quoted,
    /// `Bearer` or `Authorization:` in front.
    BearerIncluded,
    /// A template that was not filled in, such as `${ANYREACH_TOKEN}` or `<token>`, or JSON.
    Placeholder,
    /// `AK_`, `Pat_` and the like.
    PrefixCase,
    /// The base64 encoding of a credential.
    Base64,
    /// Neither `ak_` nor `pat_` in front.
    UnknownPrefix,
    /// `ak_` or `pat_` alone.
    NothingAfterPrefix,
    /// A space inside.
    InnerWhitespace,
    /// A character outside RFC 6750's `b64token`.
    InvalidCharacter,
    /// A personal access token where an organization API key belongs, or the other way round.
    OtherKind,
}

impl InvalidCredentialReason {
    /// Returns the reason in `snake_case`, stable, fit for a metric's label.
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

/// The environment holds no usable credential; the error names the variable and what is wrong, never its value.
///
/// `Debug` shows the whole sentence, cause included, because that is what a `main` that returns the error prints.
///
/// # Examples
///
/// ```
/// use tower_anyreach::{Credential, EnvErrorReason};
///
/// # unsafe { std::env::set_var("ANYREACH_TOKEN", "${ANYREACH_TOKEN}") };
/// // With ANYREACH_TOKEN='${ANYREACH_TOKEN}', a template that was never filled in:
/// let error = Credential::from_env().unwrap_err();
/// assert_eq!((error.variable(), error.reason()), ("ANYREACH_TOKEN", EnvErrorReason::InvalidCredential));
/// ```
#[derive(Clone, PartialEq, Eq)]
pub struct EnvError(EnvErrorKind);

#[derive(Clone, PartialEq, Eq)]
enum EnvErrorKind {
    Unset,
    Credential(&'static str, InvalidCredential),
    Organization(&'static str, InvalidOrganizationId),
}

/// Why the environment holds no usable credential.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum EnvErrorReason {
    /// Neither `ANYREACH_TOKEN` nor `ANYREACH_PAT` is set.
    Unset,
    /// The variable's value is not a credential.
    InvalidCredential,
    /// The variable's value is not an organization id.
    InvalidOrganizationId,
}

impl EnvErrorReason {
    /// Returns the reason in `snake_case`, stable, fit for a metric's label.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Unset => "unset",
            Self::InvalidCredential => "invalid_credential",
            Self::InvalidOrganizationId => "invalid_organization_id",
        }
    }
}

impl EnvError {
    /// Returns what is wrong.
    #[must_use]
    pub fn reason(&self) -> EnvErrorReason {
        match self.0 {
            EnvErrorKind::Unset => EnvErrorReason::Unset,
            EnvErrorKind::Credential(..) => EnvErrorReason::InvalidCredential,
            EnvErrorKind::Organization(..) => EnvErrorReason::InvalidOrganizationId,
        }
    }

    /// Returns the name of the variable to look at; `ANYREACH_TOKEN` if none is set.
    #[must_use]
    pub fn variable(&self) -> &'static str {
        match self.0 {
            EnvErrorKind::Unset => "ANYREACH_TOKEN",
            EnvErrorKind::Credential(name, _) | EnvErrorKind::Organization(name, _) => name,
        }
    }

    /// Returns whether no credential is set at all, as opposed to one that cannot be used.
    #[must_use]
    pub fn is_unset(&self) -> bool {
        matches!(self.0, EnvErrorKind::Unset)
    }
}

impl fmt::Display for EnvError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            EnvErrorKind::Unset => f.write_str("neither ANYREACH_TOKEN nor ANYREACH_PAT is set"),
            EnvErrorKind::Credential(name, _) => write!(f, "{name} does not hold a credential"),
            EnvErrorKind::Organization(name, _) => {
                write!(f, "{name} does not hold an organization id")
            }
        }
    }
}

impl fmt::Debug for EnvError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.source() {
            Some(cause) => write!(f, "EnvError({self}: {cause})"),
            None => write!(f, "EnvError({self})"),
        }
    }
}

impl StdError for EnvError {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        match &self.0 {
            EnvErrorKind::Unset => None,
            EnvErrorKind::Credential(_, error) => Some(error),
            EnvErrorKind::Organization(_, error) => Some(error),
        }
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
        let token = token.for_organization("org_1".parse().unwrap());
        let rest = "id: CredentialId(pat_…#62126e0b), organization: Some(OrganizationId(org_1)) }";
        assert_eq!(
            format!("{:?}", Credential::from(token)),
            format!("Credential {{ {rest}")
        );
    }

    #[test]
    fn each_paste_error_has_its_reason() {
        let long = format!("ak_{}", "x".repeat(MAX_LEN - 2));
        for (text, reason) in [
            ("", Reason::Empty),
            (" \n\t", Reason::Empty),
            (long.as_str(), Reason::TooLong),
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
        ] {
            let error = Credential::parse(text).unwrap_err();
            assert_eq!(error.reason(), reason, "{text:?}");
            // No error may hold any of the input: it is one byte wide.
            assert_eq!(size_of_val(&error), 1);
        }
    }

    #[test]
    fn surrounding_ascii_whitespace_does_not_count() {
        for text in ["ak_a.b", " ak_a.b", "ak_a.b\n", "\t\r\nak_a.b \x0c\r\n"] {
            assert_eq!(
                Credential::parse(text).unwrap().expose(),
                b"ak_a.b",
                "{text:?}"
            );
        }
    }

    #[test]
    fn whatever_a_bearer_credential_may_hold_is_taken() {
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

    #[test]
    fn each_type_takes_its_own_kind_only() {
        assert!(OrganizationApiKey::new("ak_a.b").is_ok());
        assert!(PersonalAccessToken::new("pat_x").is_ok());
        let error = OrganizationApiKey::new("pat_x").unwrap_err();
        assert_eq!(error.reason(), Reason::OtherKind);
        let error = PersonalAccessToken::new("ak_a.b").unwrap_err();
        assert_eq!(error.reason(), Reason::OtherKind);
    }

    #[test]
    fn id_shows_six_characters_of_an_api_keys_id_and_no_more() {
        // The digests are those that `printf %s "$ANYREACH_TOKEN" | sha256sum` prints.
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
    fn ids_are_equal_exactly_if_the_credentials_are() {
        let id = |text: &str| Credential::parse(text).unwrap().id().clone();
        assert_eq!(id("ak_a.b"), id("ak_a.b\n"));
        assert_ne!(id("ak_a.b"), id("ak_a.c"));
    }

    fn from(variables: &[(&str, &str)]) -> Result<Credential, EnvError> {
        Credential::from_variables(|name| {
            variables
                .iter()
                .find_map(|(known, value)| (*known == name).then(|| OsString::from(value)))
        })
    }

    #[test]
    fn environment_gives_the_token_first_and_an_organization_to_a_pat_only() {
        let credential =
            from(&[("ANYREACH_TOKEN", "ak_a.b\n"), ("ANYREACH_PAT", "pat_x")]).unwrap();
        assert_eq!(credential.expose(), b"ak_a.b");

        let credential = from(&[
            ("ANYREACH_TOKEN", ""),
            ("ANYREACH_PAT", "pat_x"),
            ("ANYREACH_ORG_ID", " org_1\n"),
        ])
        .unwrap();
        assert_eq!(credential.expose(), b"pat_x");
        assert_eq!(credential.organization().unwrap().as_str(), "org_1");

        let credential = from(&[("ANYREACH_PAT", "pat_x"), ("ANYREACH_ORG_ID", "")]).unwrap();
        assert_eq!(credential.organization(), None);

        let credential = from(&[
            ("ANYREACH_TOKEN", "ak_a.b"),
            ("ANYREACH_ORG_ID", "not, one"),
        ])
        .unwrap();
        assert_eq!(credential.organization(), None);
    }

    #[test]
    fn environment_errors_name_the_variable() {
        let error = from(&[("ANYREACH_TOKEN", ""), ("ANYREACH_PAT", "")]).unwrap_err();
        assert!(error.is_unset());
        assert_eq!(error.variable(), "ANYREACH_TOKEN");
        assert_eq!(
            error.to_string(),
            "neither ANYREACH_TOKEN nor ANYREACH_PAT is set"
        );
        assert_eq!(format!("{error:?}"), format!("EnvError({error})"));

        let error = from(&[("ANYREACH_PAT", "Bearer x")]).unwrap_err();
        assert_eq!(error.variable(), "ANYREACH_PAT");
        assert_eq!(error.to_string(), "ANYREACH_PAT does not hold a credential");
        assert_eq!(error.reason(), EnvErrorReason::InvalidCredential);
        let cause = error.source().unwrap().to_string();
        assert_eq!(
            cause,
            "invalid credential: it starts with `Bearer`; give the credential alone"
        );
        assert_eq!(format!("{error:?}"), format!("EnvError({error}: {cause})"));

        let error = from(&[("ANYREACH_TOKEN", "pat_x"), ("ANYREACH_ORG_ID", "a,b")]).unwrap_err();
        assert_eq!(error.variable(), "ANYREACH_ORG_ID");
        assert!(!error.is_unset());
    }
}
