//! What does this response mean? Status, headers and body in, a denial out; no Tower, no async.

use std::borrow::Cow;
use std::fmt;

use bytes::Bytes;
use http::header::{CONTENT_ENCODING, CONTENT_TYPE, WWW_AUTHENTICATE};
use http::response::Parts;
use http::{HeaderMap, StatusCode};
use http_auth::parser::ChallengeParser;
use serde_core::de::{Deserialize, Deserializer, IgnoredAny, MapAccess, Visitor};
use serde_json::value::RawValue;

use crate::authorize::Attached;
use crate::credential::{Credential, CredentialKind};
use crate::denial::{Denial, DenialReason, Facts};
use crate::redact::{Redaction, with_redaction};

/// How much of `WWW-Authenticate` is looked at: lines, bytes of all lines, challenges and parameters of each.
const MAX_LINES: usize = 8;
const MAX_BYTES: usize = 8 * 1024;
const MAX_CHALLENGES: usize = 16;
const MAX_PARAMETERS: usize = 16;

/// What is known of a response's body.
#[derive(Debug, Default)]
pub(crate) struct CapturedBody {
    pub(crate) bytes: Bytes,
    /// Whether there was, or may have been, more.
    pub(crate) truncated: bool,
}

impl CapturedBody {
    pub(crate) fn unread() -> Self {
        Self {
            bytes: Bytes::new(),
            truncated: true,
        }
    }
}

/// Whether a status is one that [`classify`] makes a denial of.
pub(crate) fn is_denied(status: StatusCode) -> bool {
    status == StatusCode::UNAUTHORIZED || status == StatusCode::FORBIDDEN
}

/// Reads a 401 or 403 to a request that carried a credential; every other answer is none of our business, and not to
/// be brought here.
pub(crate) fn classify(head: Parts, body: CapturedBody, attached: &Attached) -> Denial {
    let credential = attached.credential();
    let organization = attached.organization();
    let secret = credential.map(Credential::expose);
    let challenge = Challenge::read(&head.headers);
    let message = Message::read(&head.headers, &body);
    let organization_was_missing = organization.is_none()
        && credential
            .is_some_and(|credential| credential.kind() == CredentialKind::PersonalAccessToken);
    let reason = if head.status == StatusCode::UNAUTHORIZED && organization_was_missing {
        DenialReason::MissingOrganization
    } else {
        reason(head.status, challenge.as_ref(), &message)
    };
    let (scopes, detail) = with_redaction(secret, |redaction| {
        let scope = challenge.and_then(|challenge| challenge.scope);
        let detail = message.text().map(|text| redaction.presentable(text));
        (
            scope.map_or_else(Box::default, |scope| well_formed_scopes(&scope, redaction)),
            detail.map(String::into_boxed_str),
        )
    });

    Denial::new(Facts {
        status: head.status,
        reason,
        detail,
        scopes,
        headers: head.headers,
        body: body.bytes,
        truncated: body.truncated,
        credential: credential.map(|credential| credential.id().clone()),
        organization: organization.cloned(),
        provenance: attached.provenance(),
        replayed: attached.is_replay(),
        is_get: attached.is_get(),
    })
}

fn reason(status: StatusCode, challenge: Option<&Challenge>, message: &Message) -> DenialReason {
    let from_the_api = challenge.is_some() || message.is_json;
    if !from_the_api {
        return DenialReason::Unspecified;
    }
    if status == StatusCode::FORBIDDEN {
        return DenialReason::InsufficientScope;
    }
    match challenge.and_then(|challenge| challenge.error.as_deref()) {
        Some("invalid_token") => return DenialReason::InvalidCredential,
        Some("insufficient_scope") => return DenialReason::InsufficientScope,
        _ => {}
    }
    [&message.detail, &message.error]
        .into_iter()
        .find_map(|field| documented_text(field.text()?))
        .unwrap_or(DenialReason::InvalidCredential)
}

/// The texts that Anyreach documents. Wording may change, so little of each is asked for.
///
/// Sources: <https://docs.anyreach.ai/getting-started/authentication>,
/// <https://docs.anyreach.ai/mcp/connecting-a-client>.
fn documented_text(text: &str) -> Option<DenialReason> {
    let text = text.trim().to_ascii_lowercase();
    if text.contains("missing organization claim") {
        Some(DenialReason::MissingOrganization)
    } else if text.starts_with("missing bearer token") {
        Some(DenialReason::MissingCredential)
    } else if text.starts_with("unrecognized token format") {
        Some(DenialReason::UnrecognizedCredential)
    } else {
        None
    }
}

/// RFC 6749 section 3.3: scope-token = 1*( %x21 / %x23-5B / %x5D-7E )
fn well_formed_scopes(scope: &str, redaction: &Redaction) -> Box<[Box<str>]> {
    scope
        .split(' ')
        .filter(|token| {
            !token.is_empty()
                && token
                    .bytes()
                    .all(|byte| matches!(byte, 0x21 | 0x23..=0x5b | 0x5d..=0x7e))
                && !redaction.finds_echo(token)
        })
        .map(Into::into)
        .collect()
}

/// The first Bearer challenge (RFC 6750 section 3).
#[derive(Debug, Default)]
struct Challenge {
    error: Option<String>,
    scope: Option<String>,
}

impl Challenge {
    fn read(headers: &HeaderMap) -> Option<Self> {
        let mut budget = MAX_BYTES;
        headers
            .get_all(WWW_AUTHENTICATE)
            .iter()
            .take(MAX_LINES)
            .find_map(|line| {
                let affordable = budget.checked_sub(line.len());
                budget = affordable.unwrap_or(budget);
                let text = affordable.and_then(|_| line.to_str().ok());
                // A Bearer challenge that cannot be read is one all the same; status decides then.
                text.and_then(Self::parse)
                    .or_else(|| starts_with_bearer(line.as_bytes()).then(Self::default))
            })
    }

    fn parse(line: &str) -> Option<Self> {
        ChallengeParser::new(line)
            .map_while(Result::ok)
            .take(MAX_CHALLENGES)
            .find(|challenge| challenge.scheme.eq_ignore_ascii_case(BEARER))
            .map(|challenge| {
                // A parameter must not be repeated; one that is counts as absent.
                let parameter = |name: &str| {
                    let mut values = challenge
                        .params
                        .iter()
                        .take(MAX_PARAMETERS)
                        .filter(|(parameter, _)| parameter.eq_ignore_ascii_case(name));
                    match (values.next(), values.next()) {
                        (Some((_, value)), None) => Some(value.to_unescaped()),
                        _ => None,
                    }
                };
                Self {
                    error: parameter("error"),
                    scope: parameter("scope"),
                }
            })
    }
}

const BEARER: &str = "Bearer";

fn starts_with_bearer(line: &[u8]) -> bool {
    let line = line.trim_ascii_start();
    line.get(..BEARER.len())
        .is_some_and(|scheme| scheme.eq_ignore_ascii_case(BEARER.as_bytes()))
        && matches!(line.get(BEARER.len()), None | Some(b' ' | b'\t' | b','))
}

/// What an error body says: `detail` on the REST API, `error` on `/mcp/`.
#[derive(Debug, Default)]
struct Message {
    is_json: bool,
    detail: Field,
    error: Field,
}

impl Message {
    fn read(headers: &HeaderMap, body: &CapturedBody) -> Self {
        let is_encoded = headers
            .get(CONTENT_ENCODING)
            .is_some_and(|encoding| encoding != "identity");
        if body.truncated || body.bytes.is_empty() || is_encoded {
            return Self {
                is_json: claims_json(headers),
                ..Self::default()
            };
        }
        serde_json::from_slice(&body.bytes).unwrap_or_else(|_| Self {
            is_json: serde_json::from_slice::<IgnoredAny>(&body.bytes).is_ok(),
            ..Self::default()
        })
    }

    fn text(&self) -> Option<&str> {
        self.detail.text().or_else(|| self.error.text())
    }
}

/// RFC 8259 section 11, and the `+json` suffix of RFC 6839.
fn claims_json(headers: &HeaderMap) -> bool {
    let Some(value) = headers
        .get(CONTENT_TYPE)
        .and_then(|value| value.to_str().ok())
    else {
        return false;
    };
    let essence = value.split(';').next().unwrap_or_default().trim();
    let suffix = |suffix: &str| {
        essence
            .len()
            .checked_sub(suffix.len())
            .and_then(|at| essence.get(at..))
            .is_some_and(|end| end.eq_ignore_ascii_case(suffix))
    };
    essence.eq_ignore_ascii_case("application/json") || suffix("+json")
}

/// A top-level key of the error body.
#[derive(Debug, Default)]
enum Field {
    #[default]
    Absent,
    Text(String),
    /// Not a string, or repeated.
    Unusable,
}

impl Field {
    fn text(&self) -> Option<&str> {
        match self {
            Self::Text(text) => Some(text),
            Self::Absent | Self::Unusable => None,
        }
    }

    fn set(&mut self, raw: &RawValue) {
        *self = match self {
            Self::Absent => serde_json::from_str(raw.get()).map_or(Self::Unusable, Self::Text),
            Self::Text(_) | Self::Unusable => Self::Unusable,
        };
    }
}

impl<'de> Deserialize<'de> for Message {
    /// Looks at the top level only. Values are skipped over, which `serde_json` does without recursion, so that
    /// no depth of nesting matters.
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct TopLevel;

        impl<'de> Visitor<'de> for TopLevel {
            type Value = Message;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a JSON object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Message, A::Error> {
                let mut message = Message {
                    is_json: true,
                    ..Message::default()
                };
                while let Some(key) = map.next_key::<Cow<'de, str>>()? {
                    match key.as_ref() {
                        "detail" => message.detail.set(map.next_value()?),
                        "error" => message.error.set(map.next_value()?),
                        _ => {
                            map.next_value::<IgnoredAny>()?;
                        }
                    }
                }
                Ok(message)
            }
        }

        deserializer.deserialize_map(TopLevel)
    }
}
