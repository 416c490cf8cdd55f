//! What a response means: status, challenge and body in, reason, detail and scopes out.

use std::convert::Infallible;
use std::future::ready;

use bytes::Bytes;
use http::header::{
    AUTHORIZATION, CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_TYPE, HOST, TRANSFER_ENCODING,
    WWW_AUTHENTICATE,
};
use http::{HeaderValue, Method, Request, Response, StatusCode};
use http_body::Body;
use http_body_util::Full;
use tower::{Layer, ServiceExt, service_fn};
use tower_anyreach::{
    Anonymous, AnyreachAuthLayer, CallerHeaders, Credential, CredentialKind, Denial, DenialReason,
    DeniedResponses, Error, ForeignRequests, OrganizationApiKey, OrganizationId,
    PersonalAccessToken,
};

use crate::bodies::{Scripted, Step, Unpollable};
use support::denial;

const URI: &str = "https://api.anyreach.ai/core/agents";
const KEY: &str = "ak_4711abcd.S3cr3tC4nary-Value_0123";
const KEY_ID: &str = "ak_4711ab…#e3e84d12";
const TOKEN: &str = "pat_S3cr3tC4naryOfAUser0123";
const TOKEN_ID: &str = "pat_…#dad237e6";

const NO_ORGANIZATION: &str = "Token is missing organization claim.";
const NO_CREDENTIAL: &str = "Missing Bearer token";
const UNRECOGNIZED: &str = "Unrecognized token format. Expected a personal access token (pat_...) or \
                            organization API key (ak_...).";

fn key() -> OrganizationApiKey {
    OrganizationApiKey::new(KEY).unwrap()
}

fn token() -> PersonalAccessToken {
    PersonalAccessToken::new(TOKEN).unwrap()
}

fn get() -> Request<()> {
    Request::get(URI).body(()).unwrap()
}

/// Sends one request through `layer` to a service that gives `response`.
async fn send<B: Body>(
    layer: AnyreachAuthLayer,
    request: Request<()>,
    response: Response<B>,
) -> Result<Response<B>, Error> {
    let mut response = Some(response);
    layer
        .layer(service_fn(move |_| {
            ready(Ok::<_, Infallible>(response.take().unwrap()))
        }))
        .oneshot(request)
        .await
}

fn response(
    status: u16,
    headers: &[(&str, &str)],
    body: impl Into<Bytes>,
) -> Response<Full<Bytes>> {
    let mut response = Response::builder().status(status);
    for (name, value) in headers {
        response = response.header(*name, *value);
    }
    response.body(Full::new(body.into())).unwrap()
}

async fn denial_of(response: Response<Full<Bytes>>) -> Denial {
    denial(send(AnyreachAuthLayer::new(key()), get(), response).await)
}

fn scopes(denial: &Denial) -> Vec<&str> {
    denial.required_scopes().collect()
}

fn json(text: &str) -> String {
    serde_json::to_string(text).unwrap()
}

const JSON: &[(&str, &str)] = &[("content-type", "application/json")];
const HTML: &[(&str, &str)] = &[("content-type", "text/html")];

#[tokio::test]
async fn a_body_tells_the_reason_by_its_documented_texts_at_the_top_level() {
    use DenialReason::{
        InsufficientScope, InvalidCredential, MissingCredential, MissingOrganization,
        UnrecognizedCredential, Unspecified,
    };
    let object = |key: &str, text: &str| format!(r#"{{"{key}": {}}}"#, json(text));
    let whole = |body: &str| body.to_owned();

    #[rustfmt::skip]
    let cases = [
        // The documented forms.
        ("rest, no organization", 401, JSON, object("detail", NO_ORGANIZATION), MissingOrganization, Some(NO_ORGANIZATION)),
        ("rest, no credential", 401, JSON, object("detail", NO_CREDENTIAL), MissingCredential, Some(NO_CREDENTIAL)),
        ("rest, other text", 401, JSON, object("detail", "Nope"), InvalidCredential, Some("Nope")),
        ("mcp, no credential", 401, JSON, object("error", NO_CREDENTIAL), MissingCredential, Some(NO_CREDENTIAL)),
        ("mcp, unknown form", 401, JSON, object("error", UNRECOGNIZED), UnrecognizedCredential, Some(UNRECOGNIZED)),
        ("mcp, no organization", 401, JSON, object("error", NO_ORGANIZATION), MissingOrganization, Some(NO_ORGANIZATION)),
        ("rest, forbidden", 403, JSON, object("detail", "Missing scope agents:manage"), InsufficientScope, Some("Missing scope agents:manage")),
        ("mcp, forbidden", 403, JSON, object("error", "no"), InsufficientScope, Some("no")),
        ("json by its text alone", 401, &[], object("detail", "Nope"), InvalidCredential, Some("Nope")),
        ("json called html", 401, HTML, object("detail", NO_CREDENTIAL), MissingCredential, Some(NO_CREDENTIAL)),
        ("surrounding whitespace", 401, JSON, whole(" \r\n{ \"detail\" : \"Nope\" }\n\t "), InvalidCredential, Some("Nope")),
        ("an empty text", 401, JSON, object("detail", ""), InvalidCredential, Some("")),
        ("deceptive characters", 401, JSON, object("detail", "a\u{1b}[31mb\u{202e}c"), InvalidCredential, Some("a\\u{1b}[31mb\\u{202e}c")),
        ("innocent characters", 401, JSON, object("detail", "Ünïcode stays, \"so\" do \\ quotes"), InvalidCredential, Some("Ünïcode stays, \"so\" do \\ quotes")),
        // Both keys.
        ("detail goes first", 401, JSON, whole(r#"{"error": "second", "detail": "first"}"#), InvalidCredential, Some("first")),
        ("error where detail is no text", 401, JSON, whole(r#"{"detail": 7, "error": "Missing Bearer token"}"#), MissingCredential, Some(NO_CREDENTIAL)),
        ("known text in error, other in detail", 401, JSON, whole(r#"{"detail": "Nope", "error": "Missing Bearer token"}"#), MissingCredential, Some("Nope")),
        // A repeated key counts as absent.
        ("detail twice", 401, JSON, whole(r#"{"detail": "Missing Bearer token", "detail": "Nope"}"#), InvalidCredential, None),
        ("detail twice alike", 401, JSON, whole(r#"{"detail": "Missing Bearer token", "detail": "Missing Bearer token"}"#), InvalidCredential, None),
        ("detail twice, once as null", 401, JSON, whole(r#"{"detail": null, "detail": "Missing Bearer token"}"#), InvalidCredential, None),
        ("detail twice, once escaped", 401, JSON, whole(r#"{"detail": "Missing Bearer token", "d\u0065tail": "Nope"}"#), InvalidCredential, None),
        ("error twice", 401, JSON, whole(r#"{"error": "Missing Bearer token", "error": "Nope"}"#), InvalidCredential, None),
        ("detail twice, error once", 401, JSON, whole(r#"{"detail": "a", "detail": "b", "error": "Missing Bearer token"}"#), MissingCredential, Some(NO_CREDENTIAL)),
        // No text at the top level.
        ("detail is an array", 401, JSON, whole(r#"{"detail": [{"msg": "Missing Bearer token"}]}"#), InvalidCredential, None),
        ("detail is an object", 401, JSON, whole(r#"{"detail": {"detail": "Missing Bearer token"}}"#), InvalidCredential, None),
        ("detail is a number", 401, JSON, whole(r#"{"detail": 42}"#), InvalidCredential, None),
        ("detail is null", 401, JSON, whole(r#"{"detail": null}"#), InvalidCredential, None),
        ("detail is 1e400", 401, JSON, whole(r#"{"detail": 1e400}"#), InvalidCredential, None),
        ("1e400 beside it", 401, JSON, whole(r#"{"x": 1e400, "detail": "Nope", "y": -1e-400}"#), InvalidCredential, Some("Nope")),
        ("other keys only", 401, JSON, whole(r#"{"message": "Missing Bearer token"}"#), InvalidCredential, None),
        ("other case", 401, JSON, whole(r#"{"Detail": "Missing Bearer token", "ERROR": "Missing Bearer token"}"#), InvalidCredential, None),
        ("an empty object", 401, JSON, whole("{}"), InvalidCredential, None),
        // Known texts planted where they say nothing.
        ("planted beside", 401, JSON, whole(r#"{"hint": "Token is missing organization claim.", "detail": "Nope"}"#), InvalidCredential, Some("Nope")),
        ("planted below", 401, JSON, whole( r#"{"a": {"detail": "Token is missing organization claim.", "error": "Missing Bearer token"}}"#, ), InvalidCredential, None),
        ("planted below, detail after", 401, JSON, whole(r#"{"a": [{"detail": "Missing Bearer token"}], "detail": "Nope"}"#), InvalidCredential, Some("Nope")),
        ("planted as a key", 401, JSON, whole(r#"{"Missing Bearer token": "detail"}"#), InvalidCredential, None),
        ("planted after the end", 401, JSON, whole(r#"{"detail": "Nope"} {"detail": "Missing Bearer token"}"#), Unspecified, None),
        ("a 403 is never about the credential", 403, JSON, object("detail", NO_CREDENTIAL), InsufficientScope, Some(NO_CREDENTIAL)),
        ("a 403 is never about the organization", 403, JSON, object("detail", NO_ORGANIZATION), InsufficientScope, Some(NO_ORGANIZATION)),
        // Not in the API's manner.
        ("a proxy's page", 401, HTML, whole("<html>Missing Bearer token</html>"), Unspecified, None),
        ("a firewall's page", 403, HTML, whole("<html>Forbidden</html>"), Unspecified, None),
        ("a page called json", 403, JSON, whole("<html>Forbidden</html>"), Unspecified, None),
        ("plain text", 401, &[("content-type", "text/plain")], whole(NO_CREDENTIAL), Unspecified, None),
        ("truncated by the server", 401, JSON, whole(r#"{"detail": "Missing Bearer token""#), Unspecified, None),
        ("a comma too many", 401, JSON, whole(r#"{"detail": "Missing Bearer token",}"#), Unspecified, None),
        ("a lone surrogate", 401, JSON, whole(r#"{"x": "\ud800", "detail": "Nope"}"#), InvalidCredential, Some("Nope")),
        // Empty bodies: what they would have been.
        ("empty", 401, &[], whole(""), Unspecified, None),
        ("empty, forbidden", 403, &[], whole(""), Unspecified, None),
        ("empty page", 401, HTML, whole(""), Unspecified, None),
        ("empty json", 401, JSON, whole(""), InvalidCredential, None),
        ("empty json, forbidden", 403, JSON, whole(""), InsufficientScope, None),
        ("empty json with a charset", 401, &[("content-type", "Application/JSON; charset=utf-8")], whole(""), InvalidCredential, None),
        ("empty problem", 403, &[("content-type", "application/problem+json")], whole(""), InsufficientScope, None),
        ("empty text that ends like json", 401, &[("content-type", "text/notjson")], whole(""), Unspecified, None),
    ];
    for (name, status, headers, body, reason, detail) in cases {
        let denial = denial_of(response(status, headers, body.clone())).await;
        assert_eq!(denial.status(), status, "{name}");
        assert_eq!(denial.reason(), reason, "{name}");
        assert_eq!(denial.detail(), detail, "{name}");
        assert!(!denial.is_body_truncated(), "{name}");
        assert_eq!(denial.body(), &body, "{name}");
        assert_eq!(denial.credential().unwrap().to_string(), KEY_ID, "{name}");
        assert_eq!(denial.organization(), None, "{name}");
        assert_eq!(scopes(&denial), [""; 0], "{name}");
    }
}

#[tokio::test]
async fn a_json_401_that_is_no_object_is_an_invalid_credential_all_the_same() {
    for body in [
        "[]",
        r#"["Missing Bearer token"]"#,
        r#""Missing Bearer token""#,
        "null",
        "401",
    ] {
        let unauthorized = denial_of(response(401, JSON, body)).await;
        assert_eq!(
            unauthorized.reason(),
            DenialReason::InvalidCredential,
            "{body}"
        );
        assert_eq!(unauthorized.detail(), None, "{body}");
        let forbidden = denial_of(response(403, JSON, body)).await;
        assert_eq!(
            forbidden.reason(),
            DenialReason::InsufficientScope,
            "{body}"
        );
    }
}

#[tokio::test]
async fn a_bearer_challenge_tells_the_reason_before_the_body_does() {
    use DenialReason::{
        InsufficientScope, InvalidCredential, MissingCredential, MissingOrganization, Unspecified,
    };
    let known = r#"{"detail": "Missing Bearer token"}"#;
    let organization = r#"{"detail": "Token is missing organization claim."}"#;
    let page = "<html>";
    let many = vec![r#"Basic realm="x""#; 7];

    #[rustfmt::skip]
    let cases = [
        ("invalid token", 401, vec![r#"Bearer error="invalid_token""#], known, InvalidCredential, &[][..]),
        ("unquoted", 401, vec!["Bearer error=invalid_token"], known, InvalidCredential, &[]),
        ("insufficient scope as 401", 401, vec![r#"Bearer error="insufficient_scope", scope="agents:read agents:manage""#], known, InsufficientScope, &["agents:read", "agents:manage"]),
        ("insufficient scope as 403", 403, vec![r#"Bearer error="insufficient_scope", scope="agents:read""#], page, InsufficientScope, &["agents:read"]),
        ("a 403 with another code", 403, vec![r#"Bearer error="invalid_token""#], page, InsufficientScope, &[]),
        ("no code", 401, vec![r#"Bearer realm="api""#], known, MissingCredential, &[]),
        ("nothing but the scheme", 401, vec!["Bearer"], known, MissingCredential, &[]),
        ("nothing but the scheme, page", 401, vec!["Bearer"], page, InvalidCredential, &[]),
        ("an unknown code", 401, vec![r#"Bearer error="invalid_request""#], organization, MissingOrganization, &[]),
        ("codes are exact", 401, vec![r#"Bearer error="INVALID_TOKEN""#], known, MissingCredential, &[]),
        ("codes are exact, no prefix", 401, vec![r#"Bearer error="invalid_token_""#], known, MissingCredential, &[]),
        ("a page with a challenge", 401, vec![r#"Bearer error="invalid_token""#], page, InvalidCredential, &[]),
        ("scheme in any case", 401, vec![r#"bEARER Error="insufficient_scope", SCOPE="a""#], known, InsufficientScope, &["a"]),
        ("quoted pairs", 401, vec![r#"Bearer error="inv\alid_t\oken", scope="a\:b""#], known, InvalidCredential, &["a:b"]),
        ("a quoted comma does not end it", 401, vec![r#"Bearer realm="a, error=\"invalid_token\"", scope="s""#], known, MissingCredential, &["s"]),
        ("a quoted challenge is none", 401, vec![r#"Basic realm="Bearer error=invalid_token""#], page, Unspecified, &[]),
        // Repeated parameters count as absent.
        ("error twice", 401, vec![r#"Bearer error="invalid_token", error="insufficient_scope""#], known, MissingCredential, &[]),
        ("error twice alike", 401, vec![r#"Bearer error="invalid_token", error="invalid_token""#], known, MissingCredential, &[]),
        ("error twice, in two cases", 401, vec![r#"Bearer error="invalid_token", ERROR="insufficient_scope""#], known, MissingCredential, &[]),
        ("scope twice", 401, vec![r#"Bearer error="insufficient_scope", scope="a", scope="b""#], known, InsufficientScope, &[]),
        // Several challenges: the first Bearer counts.
        ("after another on one line", 401, vec![r#"Basic realm="x", Bearer error="invalid_token""#], known, InvalidCredential, &[]),
        ("after another line", 401, vec![r#"Basic realm="x""#, r#"Bearer error="insufficient_scope""#], known, InsufficientScope, &[]),
        ("the first of two on one line", 401, vec![r#"Bearer error="invalid_token", Bearer error="insufficient_scope""#], known, InvalidCredential, &[]),
        ("the first of two lines", 401, vec![r#"Bearer scope="a""#, r#"Bearer error="invalid_token", scope="b""#], known, MissingCredential, &["a"]),
        ("not another's parameter", 401, vec![r#"Digest error="invalid_token", scope="a""#], known, MissingCredential, &[]),
        ("not another scheme", 401, vec![r#"BearerX error="invalid_token""#], page, Unspecified, &[]),
        ("a broken line does not hide the next", 401, vec![r#"Basic realm=""#, r#"Bearer error="invalid_token""#], known, InvalidCredential, &[]),
        ("the eighth line", 401, [many.clone(), vec![r#"Bearer error="invalid_token""#]].concat(), known, InvalidCredential, &[]),
        ("the ninth line", 401, [many.clone(), many, vec![r#"Bearer error="invalid_token""#]].concat(), known, MissingCredential, &[]),
        // What cannot be read is a Bearer challenge all the same, if it begins as one.
        ("a broken one", 403, vec![r#"Bearer error="insufficient_scope"#], page, InsufficientScope, &[]),
        ("a broken one, in any case", 403, vec![" bEARER\terror=\""], page, InsufficientScope, &[]),
        ("a broken one of another scheme", 403, vec![r#"BearerX error=""#], page, Unspecified, &[]),
        // Scopes: well-formed tokens only.
        ("ill-formed scopes", 403, vec![r#"Bearer scope="ok  a\"b c\\d fine:1""#], page, InsufficientScope, &["ok", "fine:1"]),
        ("empty scope", 403, vec![r#"Bearer scope="""#], page, InsufficientScope, &[]),
        ("an echo in scope", 403, vec![r#"Bearer scope="ok ak_4711abcd.S3cr3tC4nary-Value_0123 S3cr3tC4nary""#], page, InsufficientScope, &["ok"]),
        ("no challenge", 403, vec![], page, Unspecified, &[]),
    ];
    for (name, status, lines, body, reason, expected_scopes) in cases {
        let mut response = response(status, &[], body);
        for line in &lines {
            let line = HeaderValue::from_str(line).unwrap();
            response.headers_mut().append(WWW_AUTHENTICATE, line);
        }
        let denial = denial_of(response).await;
        assert_eq!(denial.reason(), reason, "{name}");
        assert_eq!(scopes(&denial), expected_scopes, "{name}");
        assert_eq!(
            denial.headers().get_all(WWW_AUTHENTICATE).iter().count(),
            lines.len(),
            "{name}"
        );
    }
}

#[tokio::test]
async fn a_challenge_of_400_kib_leaves_the_decision_to_the_status() {
    let long = format!(
        r#"Bearer realm="{}", error="insufficient_scope""#,
        "x".repeat(400 << 10)
    );
    let many = format!(
        "Bearer {}error=insufficient_scope",
        "a=b, ".repeat(80 << 10)
    );
    let commas = ",".repeat(400 << 10);
    for (name, line) in [
        ("long", long),
        ("many parameters", many),
        ("commas", commas),
    ] {
        let known = r#"{"detail": "Missing Bearer token"}"#;
        let unauthorized = denial_of(response(401, &[("www-authenticate", &line)], known)).await;
        assert_eq!(
            unauthorized.reason(),
            DenialReason::MissingCredential,
            "{name}"
        );
        assert_eq!(
            unauthorized.headers()[WWW_AUTHENTICATE].len(),
            line.len(),
            "{name}"
        );
        assert_eq!(scopes(&unauthorized), [""; 0], "{name}");
        let forbidden = denial_of(response(403, &[("www-authenticate", &line)], "{}")).await;
        assert_eq!(
            forbidden.reason(),
            DenialReason::InsufficientScope,
            "{name}"
        );
    }
}

#[tokio::test]
async fn challenges_are_read_up_to_8_kib() {
    let scope = r#"Bearer scope="agents:read", realm=""#;
    for (len, expected) in [(8 << 10, &["agents:read"][..]), ((8 << 10) + 1, &[])] {
        let line = format!("{scope}{}\"", "x".repeat(len - scope.len() - 1));
        assert_eq!(line.len(), len);
        let denial = denial_of(response(403, &[("www-authenticate", &line)], "{}")).await;
        assert_eq!(scopes(&denial), expected, "{len}");
    }
}

#[tokio::test]
async fn an_encoded_body_is_kept_as_it_is_and_judged_by_its_type() {
    // The start of what gzip makes of a JSON object.
    let body = b"\x1f\x8b\x08\0\0\0\0\0\x02\xff\xab\x56\x4a".to_vec();
    for (kind, reason) in [
        ("application/json", DenialReason::InvalidCredential),
        ("text/html", DenialReason::Unspecified),
    ] {
        let headers = [
            (CONTENT_TYPE.as_str(), kind),
            (CONTENT_ENCODING.as_str(), "gzip"),
        ];
        let denial = denial_of(response(401, &headers, body.clone())).await;
        assert_eq!(denial.reason(), reason, "{kind}");
        assert_eq!(denial.detail(), None, "{kind}");
        assert_eq!(denial.body(), &body, "{kind}");
        assert!(!denial.is_body_truncated(), "{kind}");
    }
}

#[tokio::test]
async fn invalid_utf_8_is_no_detail_and_no_failure() {
    let body = b"{\"detail\": \"Missing Bearer token \xff\"}";
    let denial = denial_of(response(401, JSON, &body[..])).await;
    assert_eq!(denial.detail(), None);
    assert_eq!(denial.body(), &body[..]);
    assert_ne!(denial.reason(), DenialReason::MissingCredential);
}

#[tokio::test]
async fn nesting_of_any_depth_is_stepped_over() {
    let deep = format!("{}{}", "[".repeat(100_000), "]".repeat(100_000));
    let deeper = format!(
        "{}1{}",
        r#"{"detail":"#.repeat(100_000),
        "}".repeat(100_000)
    );
    for (name, body) in [
        ("in detail", format!(r#"{{"detail": {deep}}}"#)),
        (
            "in error",
            format!(r#"{{"error": {deep}, "detail": {deep}}}"#),
        ),
        ("elsewhere", format!(r#"{{"x": {deep}}}"#)),
        ("objects", deeper),
    ] {
        let layer = AnyreachAuthLayer::new(key()).error_body_limit(4 << 20);
        let denial = denial(send(layer, get(), response(401, JSON, body)).await);
        assert!(!denial.is_body_truncated(), "{name}");
        assert_eq!(denial.reason(), DenialReason::InvalidCredential, "{name}");
        assert_eq!(denial.detail(), None, "{name}");
    }
}

#[tokio::test]
async fn an_answer_to_head_is_judged_by_its_head() {
    for (headers, reason) in [
        (JSON, DenialReason::InvalidCredential),
        (HTML, DenialReason::Unspecified),
        (
            &[("www-authenticate", "Bearer error=insufficient_scope")],
            DenialReason::InsufficientScope,
        ),
    ] {
        let request = Request::head(URI).body(()).unwrap();
        let mut response = response(401, headers, "");
        response
            .headers_mut()
            .insert(CONTENT_LENGTH, HeaderValue::from_static("44"));
        let denial = denial(send(AnyreachAuthLayer::new(key()), request, response).await);
        assert_eq!(denial.reason(), reason);
        assert!(denial.body().is_empty() && !denial.is_body_truncated());
        assert_eq!(denial.into_response().headers()[CONTENT_LENGTH], "44");
    }
}

#[tokio::test]
async fn a_token_sent_without_organization_is_missing_one_whatever_the_401_says() {
    let layer = || AnyreachAuthLayer::new(token()).allow_missing_organization();
    for (headers, body) in [
        (
            JSON,
            "{\"detail\": \"Token is missing organization claim.\"}",
        ),
        (JSON, "{\"detail\": \"Missing Bearer token\"}"),
        (JSON, "{\"detail\": "),
        (HTML, "<html>"),
        (&[], ""),
        (&[("www-authenticate", "Bearer error=invalid_token")], "\0"),
        (
            &[("www-authenticate", "Bearer error=insufficient_scope")],
            "{}",
        ),
    ] {
        let unauthorized = denial(send(layer(), get(), response(401, headers, body)).await);
        assert_eq!(
            unauthorized.reason(),
            DenialReason::MissingOrganization,
            "{body}"
        );
        assert_eq!(unauthorized.credential().unwrap().to_string(), TOKEN_ID);
        assert_eq!(
            unauthorized.credential().unwrap().kind(),
            CredentialKind::PersonalAccessToken
        );
        let forbidden = denial(send(layer(), get(), response(403, headers, body)).await);
        assert_ne!(
            forbidden.reason(),
            DenialReason::MissingOrganization,
            "{body}"
        );
    }

    let unread = send(
        layer().error_body_limit(0),
        get(),
        Response::builder().status(401).body(Unpollable(1)).unwrap(),
    );
    assert_eq!(
        denial(unread.await).reason(),
        DenialReason::MissingOrganization
    );
    let failing = Response::builder()
        .status(401)
        .body(Scripted::new([Step::Fail]))
        .unwrap();
    let failed = denial(send(layer(), get(), failing).await);
    assert_eq!(failed.reason(), DenialReason::MissingOrganization);

    // With an organization the server has to say so.
    let organization = OrganizationId::try_from("org_4711").unwrap();
    let with = AnyreachAuthLayer::new(token().for_organization(organization.clone()));
    let denied = denial(send(with, get(), response(401, JSON, "{}")).await);
    assert_eq!(denied.reason(), DenialReason::InvalidCredential);
    assert_eq!(denied.organization(), Some(&organization));
}

#[tokio::test]
async fn a_requests_own_credential_is_the_one_that_was_denied() {
    for layer in [
        AnyreachAuthLayer::per_request(),
        AnyreachAuthLayer::new(key()),
    ] {
        let own = Credential::parse(TOKEN).unwrap();
        let organization = OrganizationId::try_from("org_of_the_request").unwrap();
        let mut request = get();
        request.extensions_mut().insert(own.clone());
        request.extensions_mut().insert(organization.clone());
        let echo = format!(r#"{{"detail": "bad {TOKEN}"}}"#);
        let denied = denial(send(layer, request, response(403, JSON, echo)).await);
        assert_eq!(denied.credential(), Some(own.id()));
        assert_eq!(denied.organization(), Some(&organization));
        assert_eq!(denied.detail(), Some("bad [redacted]"));
    }
}

#[tokio::test]
async fn other_statuses_pass_with_their_body_unpolled() {
    for status in (200..=599).filter(|status| ![401, 403].contains(status)) {
        let answer = Response::builder()
            .status(status)
            .header(CONTENT_TYPE, "application/json")
            .header(WWW_AUTHENTICATE, "Bearer error=invalid_token")
            .extension("kept")
            .body(Unpollable(u32::from(status)))
            .unwrap();
        let passed = send(AnyreachAuthLayer::new(key()), get(), answer)
            .await
            .unwrap();
        assert_eq!(passed.status(), status);
        assert_eq!(passed.body(), &Unpollable(u32::from(status)));
        assert_eq!(passed.headers().len(), 2);
        assert_eq!(passed.extensions().get(), Some(&"kept"));
        assert!(passed.extensions().get::<Denial>().is_none());
    }
}

#[tokio::test]
async fn denials_of_requests_that_are_not_ours_pass_with_their_body_unpolled() {
    for denied_responses in [DeniedResponses::IntoError, DeniedResponses::PassThrough] {
        for status in [401, 403] {
            let layer = || {
                AnyreachAuthLayer::new(key())
                    .foreign_requests(ForeignRequests::ForwardWithoutCredentials)
                    .denied_responses(denied_responses)
            };
            let answer = || {
                Response::builder()
                    .status(status)
                    .body(Unpollable(7))
                    .unwrap()
            };

            let mut anonymous = get();
            anonymous.extensions_mut().insert(Anonymous);
            let foreign = Request::get("https://storage.example/upload")
                .body(())
                .unwrap();
            for request in [anonymous, foreign] {
                let passed = send(layer(), request, answer()).await.unwrap();
                assert_eq!(passed.status(), status);
                assert_eq!(passed.body(), &Unpollable(7));
                assert!(passed.extensions().get::<Denial>().is_none());
            }
        }
    }
}

#[tokio::test]
async fn pass_through_leaves_the_answer_untouched_and_says_what_its_head_tells() {
    use DenialReason::{InsufficientScope, InvalidCredential, Unspecified};
    for (status, headers, reason) in [
        (401, JSON, InvalidCredential),
        (401, HTML, Unspecified),
        (401, &[], Unspecified),
        (
            401,
            &[(
                "www-authenticate",
                r#"Bearer error=insufficient_scope, scope="agents:read""#,
            )],
            InsufficientScope,
        ),
        (403, JSON, InsufficientScope),
        (403, HTML, Unspecified),
    ] {
        let mut answer = Response::builder()
            .status(status)
            .version(http::Version::HTTP_2)
            .header(CONTENT_LENGTH, "9")
            .header(TRANSFER_ENCODING, "chunked")
            .extension("kept")
            .body(Unpollable(3))
            .unwrap();
        for (name, value) in headers {
            answer
                .headers_mut()
                .insert(*name, HeaderValue::from_static(value));
        }
        let sent = answer.headers().clone();

        let layer = AnyreachAuthLayer::new(key()).denied_responses(DeniedResponses::PassThrough);
        let passed = send(layer, get(), answer).await.unwrap();
        assert_eq!(passed.status(), status);
        assert_eq!(passed.version(), http::Version::HTTP_2);
        assert_eq!(passed.headers(), &sent);
        assert_eq!(passed.body(), &Unpollable(3));
        assert_eq!(passed.extensions().get(), Some(&"kept"));

        let denial = passed.extensions().get::<Denial>().unwrap();
        assert_eq!(denial.status(), status);
        assert_eq!(denial.reason(), reason);
        assert_eq!(denial.detail(), None);
        assert!(denial.body().is_empty() && denial.is_body_truncated());
        assert_eq!(denial.headers(), &sent);
        assert_eq!(denial.credential().unwrap().to_string(), KEY_ID);
        assert_eq!(
            scopes(denial).is_empty(),
            reason != InsufficientScope || status == 403
        );
    }

    // The reason of a token without organization needs no body either.
    let layer = AnyreachAuthLayer::new(token())
        .allow_missing_organization()
        .denied_responses(DeniedResponses::PassThrough);
    let answer = Response::builder().status(401).body(Unpollable(3)).unwrap();
    let passed = send(layer, get(), answer).await.unwrap();
    assert_eq!(
        passed.extensions().get::<Denial>().unwrap().reason(),
        DenialReason::MissingOrganization
    );
}

#[tokio::test]
async fn into_response_is_the_answer_without_what_no_longer_holds() {
    let headers = [
        ("content-type", "application/json"),
        ("content-length", "18"),
        ("transfer-encoding", "chunked"),
        ("retry-after", "7"),
        ("set-cookie", "a=1"),
        ("set-cookie", "b=2"),
    ];
    let body = r#"{"detail": "Nope"}"#;
    let whole = denial_of(response(403, &headers, body)).await;
    let shared = whole.clone();
    let answer = whole.into_response();
    assert_eq!(answer.status(), StatusCode::FORBIDDEN);
    assert_eq!(answer.body(), body);
    assert_eq!(answer.headers()[CONTENT_LENGTH], "18");
    assert!(!answer.headers().contains_key(TRANSFER_ENCODING));
    assert_eq!(answer.headers().len(), headers.len() - 1);
    assert_eq!(answer.headers()["retry-after"], "7");
    assert_eq!(answer.headers().get_all("set-cookie").iter().count(), 2);
    assert_eq!(
        shared.headers()[TRANSFER_ENCODING],
        "chunked",
        "the denial keeps what was sent"
    );

    for limit in [0, 17] {
        let layer = AnyreachAuthLayer::new(key()).error_body_limit(limit);
        let cut = denial(send(layer, get(), response(401, &headers, body)).await);
        assert!(cut.is_body_truncated());
        let answer = cut.into_response();
        assert_eq!(answer.body(), &body[..limit]);
        assert!(!answer.headers().contains_key(CONTENT_LENGTH));
        assert!(!answer.headers().contains_key(TRANSFER_ENCODING));
        assert_eq!(answer.headers().len(), headers.len() - 2);
    }
}

#[tokio::test]
#[expect(clippy::too_many_lines, reason = "one table of all texts")]
async fn every_error_and_every_reason_has_its_text() {
    let refused = |layer: AnyreachAuthLayer, request: Request<()>| async move {
        send(layer, request, Response::new(Unpollable(0)))
            .await
            .unwrap_err()
    };
    let denied = |layer: AnyreachAuthLayer, status, headers, body: &'static str| async move {
        send(layer, get(), response(status, headers, body))
            .await
            .unwrap_err()
    };
    let with_layer = || AnyreachAuthLayer::new(key());
    let to =
        |method: Method, uri: &str| Request::builder().method(method).uri(uri).body(()).unwrap();
    let with_header = |uri: &str, name: &str, value: &str| {
        Request::get(uri).header(name, value).body(()).unwrap()
    };
    let organization = OrganizationId::try_from("org_4711").unwrap();
    let mut with_organization = get();
    with_organization
        .extensions_mut()
        .insert(organization.clone());
    let mut kept = get();
    kept.headers_mut()
        .insert(AUTHORIZATION, HeaderValue::from_static("Bearer x"));

    let service_failed = with_layer()
        .layer(service_fn(|_: Request<()>| {
            ready(Err::<Response<String>, _>("connection refused"))
        }))
        .oneshot(get())
        .await
        .unwrap_err();
    assert_eq!(
        std::error::Error::source(&service_failed)
            .unwrap()
            .to_string(),
        "connection refused"
    );
    let kept = send(
        with_layer().caller_headers(CallerHeaders::Keep),
        kept,
        response(401, JSON, "{}"),
    );

    for (error, was_sent, text) in [
        (
            denied(
                with_layer(),
                401,
                JSON,
                r#"{"error": "Missing Bearer token"}"#,
            )
            .await,
            true,
            "Anyreach answered 401: no credential arrived; see what removes it on the way (credential ak_4711ab…#e3e84d12)",
        ),
        (
            denied(with_layer(), 401, JSON, "{}").await,
            true,
            "Anyreach answered 401: the credential is invalid, expired or deleted; rotate it (credential ak_4711ab…#e3e84d12)",
        ),
        (
            denied(
                with_layer(),
                401,
                JSON,
                r#"{"error": "Unrecognized token format."}"#,
            )
            .await,
            true,
            "Anyreach answered 401: the credential is of a form the API does not know; check what was configured \
             (credential ak_4711ab…#e3e84d12)",
        ),
        (
            denied(
                AnyreachAuthLayer::new(token()).allow_missing_organization(),
                401,
                JSON,
                "{}",
            )
            .await,
            true,
            "Anyreach answered 401: the personal access token names no organization; give it one, or the request an \
             `OrganizationId` (credential pat_…#dad237e6)",
        ),
        (
            denied(
                AnyreachAuthLayer::new(token().for_organization(organization)),
                403,
                JSON,
                "{}",
            )
            .await,
            true,
            "Anyreach answered 403: the credential's scopes do not grant this; use a role that does \
             (credential pat_…#dad237e6, organization org_4711)",
        ),
        (
            denied(with_layer(), 403, HTML, "<html>").await,
            true,
            "Anyreach answered 403: the answer is not in the API's manner; look for a proxy or firewall in front of it \
             (credential ak_4711ab…#e3e84d12)",
        ),
        (
            kept.await.unwrap_err(),
            true,
            "Anyreach answered 401: the credential is invalid, expired or deleted; rotate it (the request's own credential)",
        ),
        (
            refused(AnyreachAuthLayer::per_request(), get()).await,
            false,
            "the request has no credential: insert a `Credential` or `Anonymous` extension; nothing was sent",
        ),
        (
            refused(AnyreachAuthLayer::new(token()), get()).await,
            false,
            "the personal access token names no organization: use `for_organization`, insert an `OrganizationId` \
             extension, or set ANYREACH_ORG_ID where `from_env` reads it; nothing was sent",
        ),
        (
            refused(with_layer(), with_organization).await,
            false,
            "an organization was named beside an organization API key, which carries its own; nothing was sent",
        ),
        (
            refused(with_layer(), with_header(URI, "Authorization", "Bearer x")).await,
            false,
            "the request brings its own `authorization` header: remove it, or choose another `CallerHeaders`; nothing was sent",
        ),
        (
            refused(with_layer(), with_header(URI, "X-Anyreach-Org", "org_4711")).await,
            false,
            "the request brings its own `x-anyreach-org` header: remove it, or choose another `CallerHeaders`; nothing was sent",
        ),
        // The texts of the other destinations are in `origins`.
        (
            refused(with_layer(), to(Method::TRACE, URI)).await,
            false,
            "credentials may not go there: https://api.anyreach.ai: CONNECT and TRACE never carry credentials; nothing was sent",
        ),
        (
            refused(
                with_layer(),
                with_header(URI, HOST.as_str(), "other.example"),
            )
            .await,
            false,
            "credentials may not go there: https://api.anyreach.ai: the `Host` header disagrees with the URI; nothing was sent",
        ),
        (service_failed, true, "the request could not be completed"),
    ] {
        assert_eq!(error.to_string(), text);
        assert_eq!(error.was_sent(), was_sent, "{text}");
        for shown in [format!("{error:?}"), format!("{error:#?}")] {
            assert!(
                !shown.contains("s3cret") && !shown.contains("S3cr3t"),
                "{shown}"
            );
        }
    }
}
