//! Decides what a 401 or 403 means: makes a [`Denial`] from its status, headers and body, without
//! Tower or async code.
//!
//! 1. A response is from the API if it has a Bearer challenge, or a JSON object with `detail` or
//!    `error` as its body. Otherwise something in front of the API answered, and the reason is
//!    `Unspecified`.
//! 2. A 403 is `InsufficientScope`, the only meaning that was found in Anyreach's documentation.
//! 3. For a 401, the `error` of the challenge (RFC 6750 section 3) decides, then the texts that
//!    Anyreach documents, and otherwise the credential counts as invalid.
//!
//! Reasons are for people. Whether a 401 starts a fetch does not depend on them.

use bytes::Bytes;
use http::header::{CONTENT_ENCODING, CONTENT_TYPE, WWW_AUTHENTICATE};
use http::{HeaderMap, StatusCode};
use json_event_parser::{JsonEvent, JsonSyntaxError, SliceJsonParser};

use crate::authorize::Carried;
use crate::credential::Credential;
use crate::denial::{Denial, DenialReason, Details, Reported};
use crate::redact::{Redaction, with_redaction};

/// The limits for `WWW-Authenticate`: lines, and bytes of all lines.
const MAX_LINES: usize = 8;
const MAX_BYTES: usize = 8 * 1024;

/// The captured part of a response's body.
#[derive(Debug, Default)]
pub(crate) struct CapturedBody {
    pub(crate) bytes: Bytes,
    /// There was, or may have been, more.
    pub(crate) truncated: bool,
}

/// Classifies a 401 or 403 to a request that carried these credentials.
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
        let scope = challenge
            .as_ref()
            .and_then(|challenge| challenge.scope.text());
        let detail = message.text().map(|text| redaction.presentable(text));
        (
            scope.map_or_else(Box::default, |scope| well_formed_scopes(scope, redaction)),
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

/// Returns the reason of a 401. The challenge takes precedence over the texts, whose wording may
/// change.
fn unauthorized(
    challenge: Option<&Challenge>,
    message: &Message,
    carried_no_organization: bool,
) -> DenialReason {
    match challenge.and_then(|challenge| challenge.error.text()) {
        Some("invalid_token") => return DenialReason::InvalidCredential,
        Some("insufficient_scope") => return DenialReason::InsufficientScope,
        _ => {}
    }
    [&message.detail, &message.error]
        .into_iter()
        .filter_map(|field| documented_text(field.text()?))
        .find(|reason| *reason != DenialReason::MissingOrganization || carried_no_organization)
        .unwrap_or(DenialReason::InvalidCredential)
}

/// Matches the texts that Anyreach documents. Their wording may change, so only a part of each is
/// compared.
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

/// The maximum number of scopes kept, and the maximum length of each. A longer one is left out,
/// because a part of it would be another scope.
const MAX_SCOPES: usize = 64;
const MAX_SCOPE_BYTES: usize = 128;

/// Returns the well-formed scopes. RFC 6749 section 3.3: scope-token = 1*( %x21 / %x23-5B / %x5D-7E
/// )
fn well_formed_scopes(scope: &str, redaction: &Redaction) -> Box<[Box<str>]> {
    scope
        .split(' ')
        .filter(|token| {
            (1..=MAX_SCOPE_BYTES).contains(&token.len())
                && token
                    .bytes()
                    .all(|byte| matches!(byte, 0x21 | 0x23..=0x5b | 0x5d..=0x7e))
                && !redaction.contains_echo(token)
        })
        .take(MAX_SCOPES)
        .map(Into::into)
        .collect()
}

/// The first Bearer challenge that can be parsed (RFC 6750 section 3). If none can be parsed, it
/// has no parameters.
///
/// Text before a Bearer challenge is skipped and not parsed, because a malformed challenge must not
/// hide another one.
#[derive(Debug, Default)]
struct Challenge {
    error: Field,
    scope: Field,
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
            // Non-ASCII bytes are valid only in parameters that are not used. Each becomes a tab,
            // which no scope can contain.
            let to_ascii = |byte: &u8| {
                if byte.is_ascii() {
                    char::from(*byte)
                } else {
                    '\t'
                }
            };
            let line: String = line.as_bytes().iter().map(to_ascii).collect();
            let mut parsed = 0;
            for start in starts_of_bearer(line.as_bytes()) {
                // Before this place, `Bearer` was a name or value of a malformed challenge. Parsing
                // the rest from each of them again would take quadratic time.
                if start < parsed {
                    continue;
                }
                match Self::parse(&line[start + BEARER.len()..]) {
                    Ok(challenge) => return Some(challenge),
                    Err(unparsed_bytes) => parsed = line.len() - unparsed_bytes,
                }
                unparsed = Some(Self::default());
            }
        }
        unparsed
    }

    /// Parses the text after the scheme of a Bearer challenge, up to the next challenge: RFC 9110
    /// section 11.2, `#( token BWS "=" BWS ( token / quoted-string ) )`. For anything else, returns
    /// the number of bytes from the malformed parameter on.
    fn parse(mut rest: &str) -> Result<Self, usize> {
        let mut challenge = Self::default();
        loop {
            let unparsed = rest.len();
            let is_separated = rest.trim_start_matches(BLANK).starts_with(',');
            rest = rest.trim_start_matches([' ', '\t', ',']);
            let (name, after) = split_token(rest);
            let Some(value) = after.trim_start_matches(BLANK).strip_prefix('=') else {
                let is_next_challenge = is_separated && !name.is_empty();
                let is_end = rest.is_empty() || is_next_challenge;
                return is_end.then_some(challenge).ok_or(unparsed);
            };
            let (value, after) = split_value(value.trim_start_matches(BLANK)).ok_or(unparsed)?;
            if name.eq_ignore_ascii_case("error") {
                challenge.error.set(Some(value));
            } else if name.eq_ignore_ascii_case("scope") {
                challenge.scope.set(Some(value));
            }
            rest = after.trim_start_matches(BLANK);
            if !rest.is_empty() && !rest.starts_with(',') {
                return Err(unparsed);
            }
        }
    }
}

const BLANK: [char; 2] = [' ', '\t'];

/// Splits off the token at the start of the text (RFC 9110 section 5.6.2), which may be empty.
fn split_token(text: &str) -> (&str, &str) {
    let is_in_token = |char: char| char.is_ascii_alphanumeric() || "!#$%&'*+-.^_`|~".contains(char);
    text.split_at(text.find(|char| !is_in_token(char)).unwrap_or(text.len()))
}

/// Splits off the token or quoted string (RFC 9110 section 5.6.4) at the start of the text,
/// unquoted.
fn split_value(text: &str) -> Option<(String, &str)> {
    let Some(quoted) = text.strip_prefix('"') else {
        let (token, rest) = split_token(text);
        return (!token.is_empty()).then(|| (token.to_owned(), rest));
    };
    let mut value = String::new();
    let mut chars = quoted.chars();
    loop {
        match chars.next()? {
            '"' => return Some((value, chars.as_str())),
            '\\' => value.push(chars.next()?),
            char => value.push(char),
        }
    }
}

const BEARER: &str = "Bearer";

/// Returns the positions of Bearer schemes: outside quoted strings, with a separator on both sides.
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
        // The text after an unclosed quote counts as unquoted.
        starts.extend((opened..line.len()).filter(|at| is_bearer(*at)));
    }
    starts
}

/// The maximum nesting depth of a body, which is also that of `serde_json`. A deeper body is
/// treated as not JSON, because 8,192 brackets would cost more than any other body of that length.
const MAX_DEPTH: usize = 128;

/// The message of an error body: `detail` on the REST API, `error` on `/mcp/`.
#[derive(Debug, Default)]
struct Message {
    /// The body is, or may be, a JSON object with one of the two keys.
    is_from_the_api: bool,
    detail: Field,
    error: Field,
}

impl Message {
    fn read(headers: &HeaderMap, body: &CapturedBody) -> Self {
        let mut encodings = headers.get_all(CONTENT_ENCODING).iter();
        let is_encoded = encodings.any(|encoding| {
            !encoding.is_empty() && !encoding.as_bytes().eq_ignore_ascii_case(b"identity")
        });
        if body.truncated || is_encoded {
            return Self {
                is_from_the_api: claims_json(headers),
                ..Self::default()
            };
        }
        Self::parse(&body.bytes).unwrap_or_default()
    }

    /// Reads the keys of the top level only. The parser does not recurse, and skips a byte order
    /// mark.
    fn parse(json: &[u8]) -> Result<Self, JsonSyntaxError> {
        let mut message = Self::default();
        let mut parser = SliceJsonParser::new(json);
        let mut depth = 0_usize;
        // The field of the next value, if its key is one of the two.
        let mut wanted: Option<&mut Field> = None;
        loop {
            let event = parser.parse_next()?;
            if let Some(field) = wanted.take() {
                field.set(match &event {
                    JsonEvent::String(text) => Some(text.clone().into_owned()),
                    _ => None,
                });
            }
            match event {
                JsonEvent::Eof => break,
                JsonEvent::StartObject | JsonEvent::StartArray if depth == MAX_DEPTH => {
                    return Ok(Self::default());
                }
                JsonEvent::StartObject | JsonEvent::StartArray => depth += 1,
                JsonEvent::EndObject | JsonEvent::EndArray => depth -= 1,
                JsonEvent::ObjectKey(key) if depth == 1 => {
                    wanted = match &*key {
                        "detail" => Some(&mut message.detail),
                        "error" => Some(&mut message.error),
                        _ => None,
                    };
                }
                _ => {}
            }
        }
        message.is_from_the_api = !(message.detail.is_absent() && message.error.is_absent());
        Ok(message)
    }

    fn text(&self) -> Option<&str> {
        self.detail.text().or_else(|| self.error.text())
    }
}

/// Returns whether the content type is JSON: RFC 8259 section 11, and the `+json` suffix of RFC
/// 6839.
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

/// A parameter of the challenge, or a top-level key of the error body.
#[derive(Debug, Default)]
enum Field {
    #[default]
    Absent,
    Text(String),
    /// Not a string, or repeated, which RFC 6750 section 3 forbids.
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

    fn set(&mut self, value: Option<String>) {
        *self = match (&*self, value) {
            (Self::Absent, Some(text)) => Self::Text(text),
            _ => Self::Unusable,
        };
    }
}
