//! Answers that say no, with whatever in their heads and bodies: classified by simple models of what is well-formed.

use std::convert::Infallible;
use std::fmt;
use std::future::ready;

use bytes::Bytes;
use http::header::{CONTENT_TYPE, WWW_AUTHENTICATE};
use http::{HeaderValue, Request, Response, StatusCode};
use http_body::Body;
use http_body_util::Full;
use serde_core::de::{Deserializer, MapAccess, Visitor};
use serde_json::Value;
use support::{get_agents, now, respond};
use tower::{Layer, ServiceExt, service_fn};
use tower_anyreach::{
    AnyreachAuthLayer, Credential, Denial, DenialReason, Error, PersonalAccessToken,
};

use super::script::Script;

const KEY: &str = "ak_4711abcd.S3cr3tC4naryValue";
const TOKEN: &str = "pat_S3cr3tC4naryValue";
/// What `detail` is cut at, in characters.
const SHOWN: usize = 256;

pub(crate) const CHALLENGE_WORDS: &[&str] = &[
    "Bearer ",
    "bearer",
    "Bearer realm=\"anyreach\"",
    "Basic realm=\"C4n4ryC4n4ry\"",
    "Negotiate YWJj==",
    ", ",
    ",",
    " ",
    "error=",
    "error=\"invalid_token\"",
    "error=\"insufficient_scope\"",
    "Error=insufficient_scope",
    "error_description=\"C4n4ryC4n4ry\"",
    "scope=",
    "scope=\"agents:read agents:manage\"",
    "SCOPE=\"a b\"",
    "scope=\"C4n4ryC4n4ry ak_4711abcd.S3cr3tC4naryValue\"",
    "\"",
    "\\\"",
    "\\",
    "=",
    "\t",
    "a=b, ",
];

pub(crate) const JSON_WORDS: &[&str] = &[
    "{\"detail\":\"",
    "\"detail\":",
    "\"error\":",
    "{",
    "}",
    "[",
    "]",
    ",",
    ":",
    "\"",
    "\"}",
    "\\u0000",
    "\\ud83d\\ude00",
    "\\ud800",
    "\\n",
    "\u{202e}",
    "\u{e9}",
    "1e400",
    "null",
    "-0.0",
    "\"d\\u0065tail\":",
    "Token is missing organization claim.",
    "Missing bearer token",
    "Unrecognized token format",
    "Invalid API key",
    "ak_4711abcd.S3cr3tC4naryValue",
    "S3cr3tC4naryValue",
    "{\"detail\":{\"error\":\"",
    "\"other\":\"Missing bearer token\"",
    " \r\n",
    "\u{feff}",
];

/// Whose credential a request leaves with.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Who {
    Key,
    Token,
    TokenAlone,
}

impl Who {
    pub(crate) fn layer(self) -> AnyreachAuthLayer {
        let key = || Credential::parse(KEY).unwrap();
        let token = || PersonalAccessToken::new(TOKEN).unwrap();
        let organization = || "org_acme".parse().unwrap();
        match self {
            Self::Key => AnyreachAuthLayer::new(key()),
            Self::Token => AnyreachAuthLayer::new(token().for_organization(organization())),
            Self::TokenAlone => AnyreachAuthLayer::new(token()).require_organization(false),
        }
    }

    fn secret(self) -> &'static str {
        if self == Self::Key { KEY } else { TOKEN }
    }
}

/// Returns the denial that a call with this answer fails with.
pub(crate) async fn denied<B>(layer: AnyreachAuthLayer, answer: Response<B>) -> Denial
where
    B: Body + 'static,
{
    let status = answer.status();
    let mut answer = Some(answer);
    let inner = service_fn(move |_: Request<String>| {
        ready(Ok::<_, Infallible>(
            answer.take().expect("one request is sent"),
        ))
    });
    let outcome = layer.layer(inner).oneshot(get_agents()).await;
    let error = outcome.map(drop).unwrap_err();
    assert!(error.is_unauthorized() || error.is_forbidden());
    let shown = format!("{error} {error:?}");
    assert!(shown.len() < 1024, "{shown}");
    for text in ["C4n4ry", "S3cr3t", "C4nary"] {
        assert!(!shown.contains(text), "{shown}");
    }
    match error {
        Error::Unauthorized(denial) if status == StatusCode::UNAUTHORIZED => denial,
        Error::Forbidden(denial) if status == StatusCode::FORBIDDEN => denial,
        error => panic!("{error:?}"),
    }
}

pub(crate) fn challenge(bytes: &[u8]) {
    let mut script = Script::new(bytes);
    let status = script.choose(&[StatusCode::UNAUTHORIZED, StatusCode::FORBIDDEN]);
    let who = script.choose(&[Who::Key, Who::Token, Who::TokenAlone]);
    let is_json = script.byte().is_multiple_of(2);
    let mut lines = Vec::new();
    while !script.is_over() && lines.len() < 12 {
        if let Ok(line) = HeaderValue::from_bytes(&script.spelled(CHALLENGE_WORDS)) {
            lines.push(line);
        }
    }

    // A number says that the API answered, and nothing else.
    let body = if is_json { r#"{"detail": 1}"# } else { "{}" };
    let mut response = respond(status, body.to_owned());
    for line in &lines {
        response
            .headers_mut()
            .append(WWW_AUTHENTICATE, line.clone());
    }
    let denial = now(denied(who.layer(), response));
    assert_eq!(
        denial.headers().get_all(WWW_AUTHENTICATE).iter().count(),
        lines.len()
    );
    assert_eq!(denial.detail(), None);
    let scopes: Vec<&str> = denial.required_scopes().collect();
    for scope in &scopes {
        assert!(
            !scope.is_empty()
                && !scope
                    .bytes()
                    .any(|byte| !byte.is_ascii_graphic() || b"\"\\".contains(&byte))
        );
        assert_eq!(echo(scope, who.secret()), None);
    }

    let is_bearer = |line: &HeaderValue| {
        String::from_utf8_lossy(line.as_bytes())
            .to_ascii_lowercase()
            .contains("bearer")
    };
    if !lines.iter().any(is_bearer) {
        assert!(scopes.is_empty(), "{scopes:?}");
        let expected = match (is_json, status) {
            (false, _) => DenialReason::Unspecified,
            (true, StatusCode::FORBIDDEN) => DenialReason::InsufficientScope,
            (true, _) => DenialReason::InvalidCredential,
        };
        assert_eq!(denial.reason(), expected);
        return;
    }
    let Some((error, expected_scopes)) = first_bearer(&lines, who.secret()) else {
        return;
    };
    assert_eq!(scopes, expected_scopes, "{lines:?}");
    let expected = match error.as_deref() {
        _ if status == StatusCode::FORBIDDEN => DenialReason::InsufficientScope,
        Some("insufficient_scope") => DenialReason::InsufficientScope,
        _ => DenialReason::InvalidCredential,
    };
    assert_eq!(denial.reason(), expected, "{lines:?}");
}

/// `error` and `scope` of the first Bearer challenge, if all lines are well-formed and within what is looked at.
fn first_bearer(lines: &[HeaderValue], secret: &str) -> Option<(Option<String>, Vec<String>)> {
    if lines.len() > 8 || lines.iter().map(HeaderValue::len).sum::<usize>() > 8192 {
        return None;
    }
    let mut challenges = Vec::new();
    for line in lines {
        challenges.extend(http_auth::parse_challenges(line.to_str().ok()?).ok()?);
    }
    let bearer = challenges
        .iter()
        .find(|challenge| challenge.scheme.eq_ignore_ascii_case("bearer"))?;
    let single = |wanted: &str| {
        let values: Vec<String> = bearer
            .params
            .iter()
            .filter(|(name, _)| name.eq_ignore_ascii_case(wanted))
            .map(|(_, value)| value.to_unescaped())
            .collect();
        <[String; 1]>::try_from(values).ok().map(|[value]| value)
    };
    let scopes = single("scope").unwrap_or_default();
    let scopes = scopes
        .split(' ')
        .filter(|scope| {
            (1..=128).contains(&scope.len())
                && scope
                    .bytes()
                    .all(|byte| byte.is_ascii_graphic() && !b"\"\\".contains(&byte))
        })
        .filter(|scope| echo(scope, secret).is_none())
        .take(64)
        .map(ToOwned::to_owned)
        .collect();
    Some((single("error"), scopes))
}

/// Eight bytes in a row of the secret, if the text repeats them.
fn echo<'a>(text: &str, secret: &'a str) -> Option<&'a str> {
    let text = text.to_ascii_lowercase();
    (0..=secret.len() - 8)
        .map(|at| &secret[at..at + 8])
        .find(|window| text.contains(&window.to_ascii_lowercase()))
}

pub(crate) fn error_json(bytes: &[u8]) {
    let mut script = Script::new(bytes);
    let status = script.choose(&[StatusCode::UNAUTHORIZED, StatusCode::FORBIDDEN]);
    let who = script.choose(&[Who::Key, Who::Token, Who::TokenAlone]);
    let claims_json = script.byte().is_multiple_of(2);
    let limit = script.choose(&[8192, 8192, 8192, 16, 1 << 20]);
    let body = script.spelled(JSON_WORDS);

    let mut response = respond(status, Full::new(Bytes::from(body.clone())));
    if claims_json {
        let json = HeaderValue::from_static("application/problem+json; charset=utf-8");
        response.headers_mut().insert(CONTENT_TYPE, json);
    }
    let denial = now(denied(who.layer().error_body_limit(limit), response));
    let kept = &body[..limit.min(body.len())];
    assert_eq!(denial.body(), kept);
    assert_eq!(denial.is_body_truncated(), body.len() > limit);
    if let Some(detail) = denial.detail() {
        assert!(detail.chars().count() <= SHOWN, "{detail:?}");
        assert!(!detail.chars().any(is_deceptive), "{detail:?}");
        assert_eq!(echo(detail, who.secret()), None, "{detail:?}");
    }

    let by_status = match (status, claims_json) {
        (StatusCode::FORBIDDEN, true) => DenialReason::InsufficientScope,
        (_, true) => DenialReason::InvalidCredential,
        _ => DenialReason::Unspecified,
    };
    if denial.is_body_truncated() {
        assert_eq!(denial.detail(), None);
        assert_eq!(denial.reason(), by_status);
        return;
    }
    let json = body.strip_prefix(b"\xef\xbb\xbf").unwrap_or(&body);
    let Ok(value) = serde_json::from_slice::<Value>(json) else {
        // Too deep for the judge, or a number or an escape that it refuses, may be JSON all the same.
        if !json.iter().any(|byte| b"{[\"0123456789ntf".contains(byte)) {
            assert_eq!(denial.detail(), None);
            assert_eq!(denial.reason(), DenialReason::Unspecified);
        }
        return;
    };
    let mut reader = serde_json::Deserializer::from_slice(json);
    let members = reader.deserialize_map(Members::default());
    let members = members.unwrap_or_default();
    assert!(value.is_object() || members.0.is_empty());
    if !members.has("detail") && !members.has("error") {
        assert_eq!(denial.detail(), None);
        assert_eq!(denial.reason(), DenialReason::Unspecified);
        return;
    }
    let (detail, error) = (members.single_text("detail"), members.single_text("error"));

    match detail.or(error) {
        None => assert_eq!(denial.detail(), None),
        Some(text) => {
            let shown = denial
                .detail()
                .unwrap_or_else(|| panic!("{text:?} is not shown"));
            let is_plain = text.chars().count() < SHOWN && !text.chars().any(is_deceptive);
            // An encoded echo is redacted as well; the simplest of them is left out here.
            if is_plain && !text.contains('%') && echo(text, who.secret()).is_none() {
                assert_eq!(shown, text);
            }
        }
    }
    let documented = |text: Option<&str>| {
        let text = text?.trim().to_ascii_lowercase();
        match () {
            // The text counts only where no organization was sent.
            () if text.contains("missing organization claim") => {
                (who != Who::Token).then_some(DenialReason::MissingOrganization)
            }
            () if text.starts_with("missing bearer token") => Some(DenialReason::MissingCredential),
            () if text.starts_with("unrecognized token format") => {
                Some(DenialReason::UnrecognizedCredential)
            }
            () => None,
        }
    };
    let expected = if status == StatusCode::FORBIDDEN {
        DenialReason::InsufficientScope
    } else {
        documented(detail)
            .or_else(|| documented(error))
            .unwrap_or(DenialReason::InvalidCredential)
    };
    assert_eq!(denial.reason(), expected);
}

fn is_deceptive(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{200b}'..='\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{feff}' | '\u{ad}')
        || matches!(c, '\u{61c}' | '\u{180e}' | '\u{2028}' | '\u{2029}' | '\u{2060}'..='\u{2065}' | '\u{206a}'..='\u{206f}' | '\u{fff9}'..='\u{fffb}' | '\u{e0000}'..='\u{e007f}')
}

/// The members of an object, repetitions included.
#[derive(Default)]
struct Members(Vec<(String, Value)>);

impl Members {
    fn has(&self, wanted: &str) -> bool {
        self.0.iter().any(|(key, _)| key == wanted)
    }

    /// The text under that key, if the key is there once.
    fn single_text(&self, wanted: &str) -> Option<&str> {
        let mut values = self.0.iter().filter(|(key, _)| key == wanted);
        match (values.next(), values.next()) {
            (Some((_, Value::String(text))), None) => Some(text),
            _ => None,
        }
    }
}

impl<'de> Visitor<'de> for Members {
    type Value = Self;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(mut self, mut map: A) -> Result<Self, A::Error> {
        while let Some(member) = map.next_entry()? {
            self.0.push(member);
        }
        Ok(self)
    }
}
