//! Denials with any head and body, compared with simple models of well-formed ones.

use std::convert::Infallible;
use std::fmt;
use std::future::ready;

use bytes::Bytes;
use http::header::WWW_AUTHENTICATE;
use http::{HeaderValue, Request, Response, StatusCode};
use http_body::Body;
use http_body_util::Full;
use serde_core::de::{Deserializer, MapAccess, Visitor};
use serde_json::Value;
use support::{answer_with, credential, credential_for, get_agents, now, respond};
use tower::{Layer, ServiceExt, service_fn};
use tower_anyreach::{AnyreachAuthLayer, Denial, DenialReason, Error};

use super::script::Script;

const KEY: &str = "ak_4711abcd.S3cr3tC4naryValue";
const TOKEN: &str = "pat_S3cr3tC4naryValue";
/// The longest `detail`, in characters.
const SHOWN: usize = 256;

pub(crate) const CHALLENGE_WORDS: &str = "Bearer |bearer|Bearer realm=\"anyreach\"|Basic realm=\"C4n4ryC4n4ry\"|Negotiate YWJj==|, |,| |error=|\
     error=\"invalid_token\"|error=\"insufficient_scope\"|Error=insufficient_scope|\
     error_description=\"C4n4ryC4n4ry\"|scope=|scope=\"agents:read agents:manage\"|SCOPE=\"a b\"|\
     scope=\"C4n4ryC4n4ry ak_4711abcd.S3cr3tC4naryValue\"|\"|\\\"|\\|=|\t|a=b, ";

pub(crate) const JSON_WORDS: &str = "{\"detail\":\"|\"detail\":|\"error\":|{|}|[|]|,|:|\"|\"}|\\u0000|\\ud83d\\ude00|\\ud800|\\n|\u{202e}|\u{e9}|\
     1e400|null|-0.0|\"d\\u0065tail\":|Token is missing organization claim.|Missing bearer token|\
     Unrecognized token format|Invalid API key|ak_4711abcd.S3cr3tC4naryValue|S3cr3tC4naryValue|\
     {\"detail\":{\"error\":\"|\"other\":\"Missing bearer token\"| \r\n|\u{feff}";

/// The beginning of a script: the status of the answer, the credential of the request, and whether the answer claims to be
/// JSON.
pub(crate) struct Scene {
    pub(crate) status: StatusCode,
    pub(crate) sender: Sender,
    pub(crate) claims_json: bool,
}

/// The credential of the request.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Sender {
    Key,
    Token,
    TokenAlone,
}

impl Scene {
    pub(crate) fn read(script: &mut Script<'_>, senders: &[Sender]) -> Self {
        Self {
            status: script.choose(&[StatusCode::UNAUTHORIZED, StatusCode::FORBIDDEN]),
            sender: script.choose(senders),
            claims_json: script.byte().is_multiple_of(2),
        }
    }

    pub(crate) fn layer(&self) -> AnyreachAuthLayer {
        match self.sender {
            Sender::Key => AnyreachAuthLayer::new(credential(KEY)),
            Sender::Token => AnyreachAuthLayer::new(credential_for(TOKEN, Some("org_acme"))),
            Sender::TokenAlone => {
                AnyreachAuthLayer::new(credential(TOKEN)).require_organization(false)
            }
        }
    }

    /// Returns an answer of that type, if this one claims to be JSON.
    pub(crate) fn answer<B>(&self, content_type: &str, body: B) -> Response<B> {
        let headers = [("content-type", content_type)];
        let len = usize::from(self.claims_json);
        answer_with(self.status.as_u16(), &headers[..len], body)
    }

    /// Returns the first eight bytes in a row of the secret that the text repeats.
    fn echo(&self, text: &str) -> Option<&'static [u8]> {
        let secret = match self.sender {
            Sender::Key => KEY,
            Sender::Token | Sender::TokenAlone => TOKEN,
        };
        let mut windows = secret.as_bytes().windows(8);
        windows.find(|window| {
            let mut parts = text.as_bytes().windows(8);
            parts.any(|part| part.eq_ignore_ascii_case(window))
        })
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
        let answer = answer.take().expect("one request is sent");
        ready(Ok::<_, Infallible>(answer))
    });
    let outcome = layer.layer(inner).oneshot(get_agents()).await;
    let error = outcome.map(drop).unwrap_err();
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

pub(crate) const ALL: &[Sender] = &[Sender::Key, Sender::Token, Sender::TokenAlone];

pub(crate) fn challenge(bytes: &[u8]) {
    let mut script = Script::new(bytes);
    let scene = Scene::read(&mut script, ALL);
    let mut lines = Vec::new();
    while !script.is_over() && lines.len() < 12 {
        let line = HeaderValue::from_bytes(&script.spelled(CHALLENGE_WORDS));
        lines.extend(line.ok());
    }

    // A number in `detail` shows that the API answered, and nothing else.
    let bodies = ["{}", r#"{"detail": 1}"#];
    let body = bodies[usize::from(scene.claims_json)];
    let mut response = respond(scene.status, body.to_owned());
    for line in &lines {
        let headers = response.headers_mut();
        headers.append(WWW_AUTHENTICATE, line.clone());
    }
    let denial = now(denied(scene.layer(), response));
    let kept = denial.headers().get_all(WWW_AUTHENTICATE);
    assert!(kept.iter().eq(&lines), "{lines:?}");
    assert_eq!(denial.detail(), None);
    let scopes: Vec<&str> = denial.required_scopes().collect();
    let is_shown = |scope: &&str| is_shown_scope(scope, &scene);
    assert!(scopes.iter().all(is_shown), "{scopes:?}");

    let is_bearer = |line: &HeaderValue| {
        let line = line.as_bytes().to_ascii_lowercase();
        line.windows(6).any(|part| part == b"bearer")
    };
    let (error, expected_scopes) = if !lines.iter().any(is_bearer) {
        (None, Vec::new())
    } else if let Some(found) = first_bearer(&lines, &scene) {
        found
    } else {
        return;
    };
    assert_eq!(scopes, expected_scopes, "{lines:?}");
    let is_from_api = scene.claims_json || lines.iter().any(is_bearer);
    let expected = match error.as_deref() {
        _ if !is_from_api => DenialReason::Unspecified,
        _ if scene.status == StatusCode::FORBIDDEN => DenialReason::InsufficientScope,
        Some("insufficient_scope") => DenialReason::InsufficientScope,
        _ => DenialReason::InvalidCredential,
    };
    assert_eq!(denial.reason(), expected, "{lines:?}");
}

fn is_shown_scope(scope: &str, scene: &Scene) -> bool {
    let is_plain = |byte: u8| byte.is_ascii_graphic() && !b"\"\\".contains(&byte);
    (1..=128).contains(&scope.len()) && scope.bytes().all(is_plain) && scene.echo(scope).is_none()
}

/// Returns `error` and `scope` of the first Bearer challenge, if all lines are well-formed and within what the crate reads.
fn first_bearer(lines: &[HeaderValue], scene: &Scene) -> Option<(Option<String>, Vec<String>)> {
    if lines.len() > 8 || lines.iter().map(HeaderValue::len).sum::<usize>() > 8192 {
        return None;
    }
    let mut challenges = Vec::new();
    for line in lines {
        challenges.extend(http_auth::parse_challenges(line.to_str().ok()?).ok()?);
    }
    let mut challenges = challenges.iter();
    let bearer = challenges.find(|challenge| challenge.scheme.eq_ignore_ascii_case("bearer"))?;
    let single = |wanted: &str| {
        let named = |(name, _): &&(&str, _)| name.eq_ignore_ascii_case(wanted);
        let mut values = bearer.params.iter().filter(named);
        let (first, second) = (values.next()?, values.next());
        second.is_none().then(|| first.1.to_unescaped())
    };
    let scopes = single("scope").unwrap_or_default();
    let scopes = scopes
        .split(' ')
        .filter(|scope| is_shown_scope(scope, scene));
    let scopes = scopes.take(64).map(ToOwned::to_owned).collect();
    Some((single("error"), scopes))
}

pub(crate) fn error_json(bytes: &[u8]) {
    let mut script = Script::new(bytes);
    let scene = Scene::read(&mut script, ALL);
    let limit = script.choose(&[8192, 8192, 8192, 16, 1 << 20]);
    let body = script.spelled(JSON_WORDS);

    let sent = Full::new(Bytes::from(body.clone()));
    let response = scene.answer("application/problem+json; charset=utf-8", sent);
    let denial = now(denied(scene.layer().error_body_limit(limit), response));
    assert_eq!(denial.body(), &body[..limit.min(body.len())]);
    assert_eq!(denial.is_body_truncated(), body.len() > limit);
    if let Some(detail) = denial.detail() {
        assert!(detail.chars().count() <= SHOWN, "{detail:?}");
        assert!(!detail.chars().any(is_deceptive), "{detail:?}");
        assert_eq!(scene.echo(detail), None, "{detail:?}");
    }

    let by_status = match scene.status {
        StatusCode::FORBIDDEN => DenialReason::InsufficientScope,
        _ => DenialReason::InvalidCredential,
    };
    let json = body.strip_prefix(b"\xef\xbb\xbf").unwrap_or(&body);
    let (expected, text) = if denial.is_body_truncated() && scene.claims_json {
        (by_status, None)
    } else if denial.is_body_truncated() {
        (DenialReason::Unspecified, None)
    } else if serde_json::from_slice::<Value>(json).is_err() {
        // Too deep for the judge, or a number or an escape that it refuses, may be JSON all the same.
        if json.iter().any(|byte| b"{[\"0123456789ntf".contains(byte)) {
            return;
        }
        (DenialReason::Unspecified, None)
    } else {
        let mut reader = serde_json::Deserializer::from_slice(json);
        // Only an object has members.
        let members = reader
            .deserialize_map(Members::default())
            .unwrap_or_default();
        let (detail, error) = (members.single_text("detail"), members.single_text("error"));
        let documented = |text: &Option<String>| documented(text.as_ref()?, scene.sender);
        let reason = match scene.status {
            _ if !members.has("detail") && !members.has("error") => DenialReason::Unspecified,
            StatusCode::FORBIDDEN => by_status,
            _ => documented(&detail)
                .or_else(|| documented(&error))
                .unwrap_or(by_status),
        };
        (reason, detail.or(error))
    };
    assert_eq!(denial.reason(), expected);
    assert_eq!(denial.detail().is_some(), text.is_some(), "{text:?}");
    // An encoded echo is redacted as well; the simplest of them is left out here.
    let is_plain = |text: &String| {
        text.chars().count() < SHOWN
            && !text.chars().any(|char| char == '%' || is_deceptive(char))
            && scene.echo(text).is_none()
    };
    if let Some(text) = text.filter(is_plain) {
        assert_eq!(denial.detail(), Some(&*text));
    }
}

/// Returns the reason of a documented text.
fn documented(text: &str, sender: Sender) -> Option<DenialReason> {
    let text = text.trim().to_ascii_lowercase();
    if text.contains("missing organization claim") {
        // It counts only where no organization was sent.
        (sender != Sender::Token).then_some(DenialReason::MissingOrganization)
    } else if text.starts_with("missing bearer token") {
        Some(DenialReason::MissingCredential)
    } else {
        let is_format = text.starts_with("unrecognized token format");
        is_format.then_some(DenialReason::UnrecognizedCredential)
    }
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

    /// Returns the text under that key, if the key is there once.
    fn single_text(&self, wanted: &str) -> Option<String> {
        let mut values = self.0.iter().filter(|(key, _)| key == wanted);
        match (values.next(), values.next()) {
            (Some((_, Value::String(text))), None) => Some(text.clone()),
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
