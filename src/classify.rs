//! What does a 401 or 403 mean? Status, headers and body in, a denial out; no Tower, no async.
//!
//! What is not from the API is decided first: an answer with neither a Bearer challenge nor a JSON object with `detail` or `error`
//! came from something in front of it. Then the status decides, then the challenge (RFC 6750 section 3), then the texts that
//! Anyreach documents. Reasons are for people: whether a credential is fetched again does not depend on them.

use std::borrow::Cow;
use std::fmt;

use bytes::Bytes;
use http::header::{CONTENT_ENCODING, CONTENT_TYPE, WWW_AUTHENTICATE};
use http::{HeaderMap, StatusCode};
use http_auth::ChallengeRef;
use http_auth::parser::ChallengeParser;
use serde_core::de::{Deserialize, Deserializer, IgnoredAny, MapAccess, Visitor};
use serde_json::value::RawValue;

use crate::authorize::Carried;
use crate::credential::Credential;
use crate::denial::{Denial, DenialReason, Details, Reported};
use crate::redact::{Redaction, with_redaction};

/// How much of `WWW-Authenticate` is looked at: lines, and bytes of all lines.
const MAX_LINES: usize = 8;
const MAX_BYTES: usize = 8 * 1024;

/// What is known of a response's body.
#[derive(Debug, Default)]
pub(crate) struct CapturedBody {
    pub(crate) bytes: Bytes,
    /// Whether there was, or may have been, more.
    pub(crate) truncated: bool,
}

/// Reads a 401 or 403 to a request that carried these credentials.
pub(crate) fn classify(
    carried: &Carried,
    status: StatusCode,
    headers: HeaderMap,
    body: CapturedBody,
    reported: Reported,
) -> Denial {
    let (credential, organization) = (carried.credential(), carried.organization());
    let challenge = Challenge::read(&headers);
    let message = Message::read(&headers, &body);
    let is_from_the_api = challenge.is_some() || message.is_from_the_api;
    let reason = match status {
        _ if !is_from_the_api => DenialReason::Unspecified,
        StatusCode::FORBIDDEN => DenialReason::InsufficientScope,
        _ => unauthorized(challenge.as_ref(), &message, organization.is_none()),
    };
    let (scopes, detail) = with_redaction(Some(Credential::expose(credential)), |redaction| {
        let scope = challenge.and_then(|challenge| challenge.scope);
        let detail = message.text().map(|text| redaction.presentable(text));
        (
            scope.map_or_else(Box::default, |scope| well_formed_scopes(&scope, redaction)),
            detail.map(String::into_boxed_str),
        )
    });

    Denial::new(Details {
        status,
        reason,
        detail,
        scopes,
        headers,
        body: body.bytes,
        truncated: body.truncated,
        credential: credential.id().clone(),
        organization: organization.cloned(),
        version: carried.version(),
        reported,
        replayed: carried.is_replay,
        is_get: carried.is_get,
    })
}

/// Why a 401 was given. The challenge counts more than the texts, whose wording may change.
fn unauthorized(
    challenge: Option<&Challenge>,
    message: &Message,
    sent_no_organization: bool,
) -> DenialReason {
    match challenge.and_then(|challenge| challenge.error.as_deref()) {
        Some("invalid_token") => return DenialReason::InvalidCredential,
        Some("insufficient_scope") => return DenialReason::InsufficientScope,
        _ => {}
    }
    [&message.detail, &message.error]
        .into_iter()
        .filter_map(|field| documented_text(field.text()?))
        .find(|reason| *reason != DenialReason::MissingOrganization || sent_no_organization)
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

/// How many scopes are kept, and how long each may be; a longer one is left out, because a part of it would be another scope.
const MAX_SCOPES: usize = 64;
const MAX_SCOPE_BYTES: usize = 128;

/// RFC 6749 section 3.3: scope-token = 1*( %x21 / %x23-5B / %x5D-7E )
fn well_formed_scopes(scope: &str, redaction: &Redaction) -> Box<[Box<str>]> {
    scope
        .split(' ')
        .filter(|token| {
            (1..=MAX_SCOPE_BYTES).contains(&token.len())
                && token
                    .bytes()
                    .all(|byte| matches!(byte, 0x21 | 0x23..=0x5b | 0x5d..=0x7e))
                && !redaction.finds_echo(token)
        })
        .take(MAX_SCOPES)
        .map(Into::into)
        .collect()
}

/// The first Bearer challenge that can be parsed (RFC 6750 section 3); one without parameters where none can be.
///
/// What is before a Bearer challenge is skipped and not parsed, because a challenge that cannot be parsed must not hide another
/// one.
#[derive(Debug, Default)]
struct Challenge {
    error: Option<String>,
    scope: Option<String>,
}

impl Challenge {
    fn read(headers: &HeaderMap) -> Option<Self> {
        let mut budget = MAX_BYTES;
        let mut unparsed = None;
        for line in headers.get_all(WWW_AUTHENTICATE).iter().take(MAX_LINES) {
            let Some(left) = budget.checked_sub(line.len()) else {
                continue;
            };
            budget = left;
            // Outside of ASCII there are only values that are not looked at. A tab is part of no scope.
            let to_ascii = |byte: &u8| {
                if byte.is_ascii() {
                    char::from(*byte)
                } else {
                    '\t'
                }
            };
            let line: String = line.as_bytes().iter().map(to_ascii).collect();
            for start in starts_of_bearer(line.as_bytes()) {
                match Self::parse(&line[start + BEARER.len()..]) {
                    Some(challenge) => return Some(challenge),
                    None => unparsed = Some(Self::default()),
                }
            }
        }
        unparsed
    }

    /// Parses what follows the scheme of a Bearer challenge.
    fn parse(parameters: &str) -> Option<Self> {
        let text = format!("{BEARER} {}", parameters.trim_start());
        let challenge = ChallengeParser::new(&text).next()?.ok()?;
        Some(Self {
            error: parameter(&challenge, "error"),
            scope: parameter(&challenge, "scope"),
        })
    }
}

/// Returns a parameter that is there once: RFC 6750 section 3 forbids repeating one, so a repeated one counts as absent.
fn parameter(challenge: &ChallengeRef<'_>, name: &str) -> Option<String> {
    let mut values = challenge
        .params
        .iter()
        .filter(|(parameter, _)| parameter.eq_ignore_ascii_case(name));
    match (values.next(), values.next()) {
        (Some((_, value)), None) => Some(value.to_unescaped()),
        _ => None,
    }
}

const BEARER: &str = "Bearer";

/// Returns where the schemes of Bearer challenges start: outside of quoted strings, with a separator on both sides.
fn starts_of_bearer(line: &[u8]) -> Vec<usize> {
    let is_separator = |byte: Option<&u8>| matches!(byte, None | Some(b' ' | b'\t' | b','));
    let is_bearer = |at: usize| {
        let scheme = line.get(at..at + BEARER.len());
        (at == 0 || is_separator(line.get(at - 1)))
            && scheme.is_some_and(|scheme| scheme.eq_ignore_ascii_case(BEARER.as_bytes()))
            && is_separator(line.get(at + BEARER.len()))
    };
    let mut starts = Vec::new();
    let (mut is_quoted, mut is_escaped, mut opened) = (false, false, 0);
    for (at, byte) in line.iter().enumerate() {
        if is_quoted {
            (is_quoted, is_escaped) = match byte {
                _ if is_escaped => (true, false),
                b'\\' => (true, true),
                byte => (*byte != b'"', false),
            };
            continue;
        }
        (is_quoted, opened) = (*byte == b'"', at);
        if is_bearer(at) {
            starts.push(at);
        }
    }
    if is_quoted {
        // What follows a quote that nothing closes is not quoted.
        starts.extend((opened..line.len()).filter(|at| is_bearer(*at)));
    }
    starts
}

const BYTE_ORDER_MARK: &[u8] = b"\xef\xbb\xbf";

/// What an error body says: `detail` on the REST API, `error` on `/mcp/`.
#[derive(Debug, Default)]
struct Message {
    /// The body is, or may be, a JSON object with one of the two keys.
    is_from_the_api: bool,
    detail: Field,
    error: Field,
}

impl Message {
    fn read(headers: &HeaderMap, body: &CapturedBody) -> Self {
        let is_encoded = headers
            .get(CONTENT_ENCODING)
            .is_some_and(|encoding| !encoding.as_bytes().eq_ignore_ascii_case(b"identity"));
        if body.truncated || is_encoded {
            return Self {
                is_from_the_api: claims_json(headers),
                ..Self::default()
            };
        }
        let bytes = body
            .bytes
            .strip_prefix(BYTE_ORDER_MARK)
            .unwrap_or(&body.bytes);
        serde_json::from_slice(bytes).unwrap_or_default()
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

    fn is_absent(&self) -> bool {
        matches!(self, Self::Absent)
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
                let mut message = Message::default();
                while let Some(key) = map.next_key::<Cow<'de, str>>()? {
                    match key.as_ref() {
                        "detail" => message.detail.set(map.next_value()?),
                        "error" => message.error.set(map.next_value()?),
                        _ => {
                            map.next_value::<IgnoredAny>()?;
                        }
                    }
                }
                message.is_from_the_api =
                    !(message.detail.is_absent() && message.error.is_absent());
                Ok(message)
            }
        }

        deserializer.deserialize_map(TopLevel)
    }
}
