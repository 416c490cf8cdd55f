//! What a response means: status, challenge and body in, reason, detail and scopes out.

use std::convert::Infallible;
use std::future::ready;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use bytes::Bytes;
use http::header::{CONTENT_LENGTH, CONTENT_TYPE, TRANSFER_ENCODING, WWW_AUTHENTICATE};
use http::{HeaderValue, Method, Request, Response, StatusCode};
use http_body::Body;
use http_body_util::Full;
use tower::{Layer, ServiceExt, service_fn};
use tower_anyreach::{
    Anonymous, AnyreachAuthLayer, BoxError, CredentialKind, Denial, DenialReason, DeniedResponses,
    Error, ForeignRequests, OrganizationApiKey, PersonalAccessToken,
};

use support::bodies::Unpollable;
use support::{credential, denial, get, get_agents, organization, with};

use DenialReason::{
    InsufficientScope, InvalidCredential, MissingCredential, MissingOrganization,
    UnrecognizedCredential, Unspecified,
};

const KEY: &str = "ak_4711abcd.S3cr3tC4nary-Value_0123";
const KEY_ID: &str = "ak_4711ab…#e3e84d12";
const TOKEN: &str = "pat_S3cr3tC4naryOfAUser0123";
const TOKEN_ID: &str = "pat_…#dad237e6";

const NO_ORGANIZATION: &str = "Token is missing organization claim.";
const NO_CREDENTIAL: &str = "Missing Bearer token";
const KNOWN: &str = r#"{"detail": "Missing Bearer token"}"#;
const UNRECOGNIZED: &str = "Unrecognized token format. Expected a personal access token (pat_...) or \
                            organization API key (ak_...).";

fn layer() -> AnyreachAuthLayer {
    AnyreachAuthLayer::new(OrganizationApiKey::new(KEY).unwrap())
}

fn token() -> PersonalAccessToken {
    PersonalAccessToken::new(TOKEN).unwrap()
}

/// Sends one request through `layer` to a service that gives `response`.
async fn send<B: Body>(
    layer: AnyreachAuthLayer,
    request: Request<String>,
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
    denial(send(layer(), get_agents(), response).await)
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
        ("json by its text alone", 401, &[], object("detail", "Nope"), InvalidCredential, Some("Nope")),
        ("json called html", 401, HTML, object("detail", NO_CREDENTIAL), MissingCredential, Some(NO_CREDENTIAL)),
        ("surrounding whitespace", 401, JSON, whole(" \r\n{ \"detail\" : \"Nope\" }\n\t "), InvalidCredential, Some("Nope")),
        ("an empty text", 401, JSON, object("detail", ""), InvalidCredential, Some("")),
        ("innocent characters", 401, JSON, object("detail", "Ünïcode stays, \"so\" do \\ quotes"), InvalidCredential, Some("Ünïcode stays, \"so\" do \\ quotes")),
        // Both keys.
        ("detail goes first", 401, JSON, whole(r#"{"error": "second", "detail": "first"}"#), InvalidCredential, Some("first")),
        ("error where detail is no text", 401, JSON, whole(r#"{"detail": 7, "error": "Missing Bearer token"}"#), MissingCredential, Some(NO_CREDENTIAL)),
        ("known text in error, other in detail", 401, JSON, whole(r#"{"detail": "Nope", "error": "Missing Bearer token"}"#), MissingCredential, Some("Nope")),
        // A repeated key counts as absent.
        ("detail twice", 401, JSON, whole(r#"{"detail": "Missing Bearer token", "detail": "Nope"}"#), InvalidCredential, None),
        ("detail twice, once escaped", 401, JSON, whole(r#"{"detail": "Missing Bearer token", "d\u0065tail": "Nope"}"#), InvalidCredential, None),
        ("detail twice, error once", 401, JSON, whole(r#"{"detail": "a", "detail": "b", "error": "Missing Bearer token"}"#), MissingCredential, Some(NO_CREDENTIAL)),
        // No text at the top level.
        ("detail is an array", 401, JSON, whole(r#"{"detail": [{"msg": "Missing Bearer token"}]}"#), InvalidCredential, None),
        ("detail is an object", 401, JSON, whole(r#"{"detail": {"detail": "Missing Bearer token"}}"#), InvalidCredential, None),
        ("detail is null", 401, JSON, whole(r#"{"detail": null}"#), InvalidCredential, None),
        ("1e400 beside it", 401, JSON, whole(r#"{"x": 1e400, "detail": "Nope", "y": -1e-400}"#), InvalidCredential, Some("Nope")),
        ("other keys only", 401, JSON, whole(r#"{"message": "Missing Bearer token"}"#), Unspecified, None),
        ("other case", 401, JSON, whole(r#"{"Detail": "Missing Bearer token", "ERROR": "Missing Bearer token"}"#), Unspecified, None),
        ("an empty object", 401, JSON, whole("{}"), Unspecified, None),
        // Known texts where they mean nothing.
        ("beside detail", 401, JSON, whole(r#"{"hint": "Token is missing organization claim.", "detail": "Nope"}"#), InvalidCredential, Some("Nope")),
        ("below", 401, JSON, whole(r#"{"a": {"detail": "Token is missing organization claim.", "error": "Missing Bearer token"}}"#), Unspecified, None),
        ("below, detail after", 401, JSON, whole(r#"{"a": [{"detail": "Missing Bearer token"}], "detail": "Nope"}"#), InvalidCredential, Some("Nope")),
        ("after the end", 401, JSON, whole(r#"{"detail": "Nope"} {"detail": "Missing Bearer token"}"#), Unspecified, None),
        ("a 403 is never about the credential", 403, JSON, object("detail", NO_CREDENTIAL), InsufficientScope, Some(NO_CREDENTIAL)),
        ("a 403 is never about the organization", 403, JSON, object("detail", NO_ORGANIZATION), InsufficientScope, Some(NO_ORGANIZATION)),
        // What is not from the API.
        ("a proxy's page", 401, HTML, whole("<html>Missing Bearer token</html>"), Unspecified, None),
        ("plain text", 401, &[("content-type", "text/plain")], whole(NO_CREDENTIAL), Unspecified, None),
        ("truncated by the server", 401, JSON, whole(r#"{"detail": "Missing Bearer token""#), Unspecified, None),
        ("an unpaired surrogate", 401, JSON, whole(r#"{"x": "\ud800", "detail": "Nope"}"#), Unspecified, None),
        ("a firewall's page", 403, HTML, whole("<html>Forbidden</html>"), Unspecified, None),
        ("a firewall's empty page", 403, HTML, whole(""), Unspecified, None),
        ("a firewall's page with JSON in it", 403, HTML, whole(r#"<html>{"detail": "Missing Bearer token"}</html>"#), Unspecified, None),
        ("a byte order mark", 401, JSON, format!("\u{feff}{}", object("detail", NO_CREDENTIAL)), MissingCredential, Some(NO_CREDENTIAL)),
        ("empty", 401, &[], whole(""), Unspecified, None),
        ("empty json", 401, JSON, whole(""), Unspecified, None),
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
async fn a_whole_body_that_is_no_object_with_detail_or_error_is_unspecified() {
    let text = &[("content-type", "text/plain")][..];
    for headers in [text, JSON, HTML, &[]] {
        for body in [
            "[]",
            "null",
            "403",
            r#""Missing Bearer token""#,
            r#"{"message": "Forbidden"}"#,
        ] {
            for status in [401, 403] {
                let headers = [headers, &[("retry-after", "7")]].concat();
                let denial = denial_of(response(status, &headers, body)).await;
                assert_eq!(denial.reason(), Unspecified, "{body}");
                assert_eq!(denial.detail(), None, "{body}");
            }
        }
    }
}

/// A name, the status, the lines of `WWW-Authenticate` and the body; then the expected reason and scopes.
#[rustfmt::skip]
type Challenged<'a> = (&'a str, u16, Vec<&'a str>, &'static str, DenialReason, &'a [&'a str]);

async fn assert_challenges(cases: &[Challenged<'_>]) {
    for (name, status, lines, body, reason, expected_scopes) in cases {
        let mut response = response(*status, &[], *body);
        for line in lines {
            let line = HeaderValue::from_str(line).unwrap();
            response.headers_mut().append(WWW_AUTHENTICATE, line);
        }
        let denial = denial_of(response).await;
        assert_eq!(denial.reason(), *reason, "{name}");
        assert_eq!(scopes(&denial), *expected_scopes, "{name}");
        assert_eq!(
            denial.headers().get_all(WWW_AUTHENTICATE).iter().count(),
            lines.len(),
            "{name}"
        );
    }
}

#[tokio::test]
async fn a_bearer_challenge_tells_the_reason_before_the_body_does() {
    let organization = r#"{"detail": "Token is missing organization claim."}"#;
    let page = "<html>";
    let many = vec![r#"Basic realm="x""#; 7];
    let filler = "p=x, ".repeat(40);
    let far =
        format!("Bearer error=insufficient_scope, scope=a, {filler}error=invalid_token, scope=b");

    #[rustfmt::skip]
    let cases = [
        ("invalid token", 401, vec![r#"Bearer error="invalid_token""#], KNOWN, InvalidCredential, &[][..]),
        ("insufficient scope as 401", 401, vec![r#"Bearer error="insufficient_scope", scope="agents:read agents:manage""#], KNOWN, InsufficientScope, &["agents:read", "agents:manage"]),
        ("insufficient scope as 403", 403, vec![r#"Bearer error="insufficient_scope", scope="agents:read""#], page, InsufficientScope, &["agents:read"]),
        ("a 403 with another code", 403, vec![r#"Bearer error="invalid_token""#], page, InsufficientScope, &[]),
        ("no code", 401, vec![r#"Bearer realm="api""#], KNOWN, MissingCredential, &[]),
        ("nothing but the scheme", 401, vec!["Bearer"], KNOWN, MissingCredential, &[]),
        ("nothing but the scheme, page", 401, vec!["Bearer"], page, InvalidCredential, &[]),
        ("an unknown code", 401, vec![r#"Bearer error="invalid_request""#], organization, MissingOrganization, &[]),
        ("codes are exact", 401, vec![r#"Bearer error="INVALID_TOKEN""#], KNOWN, MissingCredential, &[]),
        ("scheme in any case", 401, vec![r#"bEARER Error="insufficient_scope", SCOPE="a""#], KNOWN, InsufficientScope, &["a"]),
        ("quoted pairs", 401, vec![r#"Bearer error="inv\alid_t\oken", scope="a\:b""#], KNOWN, InvalidCredential, &["a:b"]),
        ("a quoted comma does not end it", 401, vec![r#"Bearer realm="a, error=\"invalid_token\"", scope="s""#], KNOWN, MissingCredential, &["s"]),
        ("a quoted challenge is none", 401, vec![r#"Basic realm="Bearer error=invalid_token""#], page, Unspecified, &[]),
        // Repeated parameters count as absent.
        ("error twice", 401, vec![r#"Bearer error="invalid_token", error="insufficient_scope""#], KNOWN, MissingCredential, &[]),
        ("error twice, in two cases", 401, vec![r#"Bearer error="invalid_token", ERROR="insufficient_scope""#], KNOWN, MissingCredential, &[]),
        ("scope twice", 401, vec![r#"Bearer error="insufficient_scope", scope="a", scope="b""#], KNOWN, InsufficientScope, &[]),
        ("both twice, far behind", 401, vec![&far], KNOWN, MissingCredential, &[]),
        // Several challenges: the first Bearer counts.
        ("after another on one line", 401, vec![r#"Basic realm="x", Bearer error="invalid_token""#], KNOWN, InvalidCredential, &[]),
        ("after another line", 401, vec![r#"Basic realm="x""#, r#"Bearer error="insufficient_scope""#], KNOWN, InsufficientScope, &[]),
        ("the first of two lines", 401, vec![r#"Bearer scope="a""#, r#"Bearer error="invalid_token", scope="b""#], KNOWN, MissingCredential, &["a"]),
        ("not another's parameter", 401, vec![r#"Digest error="invalid_token", scope="a""#], KNOWN, MissingCredential, &[]),
        ("not another scheme", 401, vec![r#"BearerX error="invalid_token""#], page, Unspecified, &[]),
        ("the eighth line", 401, [many.clone(), vec![r#"Bearer error="invalid_token""#]].concat(), KNOWN, InvalidCredential, &[]),
        ("the ninth line", 401, [many.clone(), many, vec![r#"Bearer error="invalid_token""#]].concat(), KNOWN, MissingCredential, &[]),
        // Scopes: well-formed tokens only.
        ("ill-formed scopes", 403, vec![r#"Bearer scope="ok  a\"b c\\d fine:1""#], page, InsufficientScope, &["ok", "fine:1"]),
        ("an echo in scope", 403, vec![r#"Bearer scope="ok ak_4711abcd.S3cr3tC4nary-Value_0123 S3cr3tC4nary""#], page, InsufficientScope, &["ok"]),
    ];
    assert_challenges(&cases).await;
}

#[tokio::test]
async fn a_challenge_that_cannot_be_parsed_hides_no_other_and_changes_nothing_else() {
    let page = "<html>";

    #[rustfmt::skip]
    let cases = [
        ("behind letters outside ASCII", 401, vec!["Basic realm=\"Z\u{fc}rich\", Bearer error=\"insufficient_scope\", scope=\"a\""], KNOWN, InsufficientScope, &["a"][..]),
        ("with letters outside ASCII", 401, vec!["Bearer realm=\"Z\u{fc}rich\", error=\"insufficient_scope\", scope=\"a\""], KNOWN, InsufficientScope, &["a"]),
        ("behind a token68", 401, vec![r#"Negotiate oRQwEqADCgEAoQsGCSqGSIb3EgECAg==, Bearer error="invalid_token", scope="a""#], KNOWN, InvalidCredential, &["a"]),
        ("with two spaces", 401, vec![r#"Bearer  error="invalid_token", scope="a""#], KNOWN, InvalidCredential, &["a"]),
        ("without a comma", 401, vec![r#"Basic realm="x" Bearer error="invalid_token", scope="a""#], KNOWN, InvalidCredential, &["a"]),
        ("behind what is no challenge", 401, vec![r#"=;@ ,Bearer error="invalid_token""#], KNOWN, InvalidCredential, &[]),
        ("behind an open quote", 401, vec![r#"Basic realm="x, Bearer error=invalid_token, scope=a"#], KNOWN, InvalidCredential, &["a"]),
        ("behind escaped quotes", 403, vec![r#"Basic realm=\"x\", Bearer error=\"insufficient_scope\""#], page, InsufficientScope, &[]),
        ("a broken line does not hide the next", 401, vec![r#"Basic realm=""#, r#"Bearer error="invalid_token""#], KNOWN, InvalidCredential, &[]),
        ("a broken Bearer before another line", 401, vec![r#"Bearer realm="open"#, r#"Bearer error="insufficient_scope", scope="a""#], KNOWN, InsufficientScope, &["a"]),
        ("a broken Bearer before another one", 401, vec![r#"Bearer error=@@, Bearer error="insufficient_scope", scope="a""#], KNOWN, InsufficientScope, &["a"]),
        ("a scope outside ASCII", 401, vec!["Bearer scope=\"a \u{fc} b\", error=\"insufficient_scope\""], KNOWN, InsufficientScope, &["a", "b"]),
        // A Bearer challenge that cannot be parsed is one without parameters.
        ("a broken one", 403, vec![r#"Bearer error="insufficient_scope"#], page, InsufficientScope, &[]),
        ("a broken one changes nothing else", 401, vec![r#"Bearer error="invalid_token"#], KNOWN, MissingCredential, &[]),
        ("a broken one of another scheme", 403, vec![r#"BearerX error=""#], page, Unspecified, &[]),
    ];
    assert_challenges(&cases).await;
}

#[tokio::test]
async fn a_challenge_of_400_kib_leaves_the_decision_to_the_rest() {
    let long = format!(
        r#"Bearer realm="{}", error="invalid_token""#,
        "x".repeat(400 << 10)
    );
    let many = format!("Bearer {}error=invalid_token", "a=b, ".repeat(80 << 10));
    let commas = ",".repeat(400 << 10);
    for line in [long, many, commas] {
        let mut response = response(401, &[("www-authenticate", &line)], KNOWN);
        let denial = denial_of(response.clone()).await;
        assert_eq!(denial.reason(), MissingCredential);
        assert_eq!(denial.headers()[WWW_AUTHENTICATE].len(), line.len());
        let next = HeaderValue::from_static("Bearer error=insufficient_scope, scope=a");
        response.headers_mut().append(WWW_AUTHENTICATE, next);
        assert_eq!(scopes(&denial_of(response).await), ["a"]);
    }
}

#[tokio::test]
async fn at_most_64_scopes_are_kept_and_one_over_128_bytes_is_left_out() {
    let (fits, too_long) = ("x".repeat(128), "x".repeat(129));
    let many: Vec<_> = (0..1000).map(|number| format!("s{number}")).collect();
    for (sent, kept) in [
        (format!("a {too_long} b {fits}"), vec!["a", "b", &*fits]),
        (format!("a {}", "x".repeat(8000)), vec!["a"]),
        (
            many.join(" "),
            many.iter().take(64).map(String::as_str).collect(),
        ),
    ] {
        let line = format!("Bearer scope=\"{sent}\"");
        let denial = denial_of(response(403, &[("www-authenticate", &line)], "")).await;
        assert_eq!(scopes(&denial), kept);
        assert_eq!(denial.reason(), InsufficientScope);
    }
}

#[tokio::test]
async fn a_body_that_is_not_utf_8_is_kept_as_it_is_and_has_no_detail() {
    // The start of what gzip makes of a JSON object.
    let zipped = &b"\x1f\x8b\x08\0\0\0\0\0\x02\xff\xab\x56\x4a"[..];
    let broken = b"{\"detail\": \"Missing Bearer token \xff\"}";
    let gzip = &[("content-encoding", "gzip")][..];
    for (name, headers, body, reason) in [
        (
            "zipped JSON",
            [JSON, gzip].concat(),
            zipped,
            InvalidCredential,
        ),
        ("zipped HTML", [HTML, gzip].concat(), zipped, Unspecified),
        ("broken JSON", JSON.to_vec(), broken, Unspecified),
    ] {
        let denial = denial_of(response(401, &headers, body)).await;
        assert_eq!(denial.reason(), reason, "{name}");
        assert_eq!(denial.detail(), None, "{name}");
        assert_eq!(denial.body(), body, "{name}");
        assert!(!denial.is_body_truncated(), "{name}");
    }
}

#[tokio::test]
async fn nesting_of_60_000_levels_is_skipped() {
    let deep = format!("{}{}", "[".repeat(60_000), "]".repeat(60_000));
    let deeper = format!("{}1{}", r#"{"detail":"#.repeat(60_000), "}".repeat(60_000));
    for (name, body) in [
        ("in detail", format!(r#"{{"detail": {deep}}}"#)),
        (
            "in error",
            format!(r#"{{"error": {deep}, "detail": {deep}}}"#),
        ),
        ("elsewhere", format!(r#"{{"x": {deep}, "error": 1}}"#)),
        ("objects", deeper),
    ] {
        let layer = layer().error_body_limit(4 << 20);
        let denial = denial(send(layer, get_agents(), response(401, JSON, body)).await);
        assert!(!denial.is_body_truncated(), "{name}");
        assert_eq!(denial.reason(), InvalidCredential, "{name}");
        assert_eq!(denial.detail(), None, "{name}");
    }
}

#[tokio::test]
async fn a_body_that_was_not_read_whole_as_that_of_an_answer_to_head_counts_as_json_by_its_type_alone()
 {
    for (name, value, reason) in [
        ("content-type", "application/json", InvalidCredential),
        (
            "content-type",
            "Application/JSON; charset=utf-8",
            InvalidCredential,
        ),
        (
            "content-type",
            "application/problem+json",
            InvalidCredential,
        ),
        ("content-type", "text/notjson", Unspecified),
        ("content-type", "text/html", Unspecified),
        (
            "www-authenticate",
            "Bearer error=insufficient_scope",
            InsufficientScope,
        ),
    ] {
        let mut head = get_agents();
        *head.method_mut() = Method::HEAD;
        let answer = response(401, &[(name, value)], "");
        let unread = answer.clone().map(|_| Unpollable(1));
        let unread = send(layer().error_body_limit(0), get_agents(), unread).await;
        let of_head = send(layer(), head, answer).await;
        for denial in [denial(unread), denial(of_head)] {
            assert_eq!(denial.reason(), reason, "{value}");
            assert!(denial.body().is_empty() && denial.is_body_truncated());
        }
    }
}

#[tokio::test]
async fn an_organization_is_missing_only_if_none_was_sent_and_the_text_says_so() {
    let organization = organization("org_4711");
    let bare = || AnyreachAuthLayer::new(token()).require_organization(false);
    let with = || AnyreachAuthLayer::new(token().for_organization(organization.clone()));
    let says_so = r#"{"detail": "Token is missing organization claim."}"#;
    let invalid = [("www-authenticate", "Bearer error=invalid_token")];
    let scope = [("www-authenticate", "Bearer error=insufficient_scope")];
    for (headers, body, reason) in [
        (JSON, says_so, MissingOrganization),
        (JSON, r#"{"detail": "Nope"}"#, InvalidCredential),
        (JSON, KNOWN, MissingCredential),
        (JSON, "{\"detail\": ", Unspecified),
        (HTML, "<html>", Unspecified),
        (&[], "", Unspecified),
        (&invalid, says_so, InvalidCredential),
        (&invalid, "\0", InvalidCredential),
        (&scope, says_so, InsufficientScope),
    ] {
        let denied = denial(send(bare(), get_agents(), response(401, headers, body)).await);
        assert_eq!(denied.reason(), reason, "{body}");
        assert_eq!(denied.credential().unwrap().to_string(), TOKEN_ID);
        assert_eq!(
            denied.credential().unwrap().kind(),
            CredentialKind::PersonalAccessToken
        );
        assert_eq!(denied.organization(), None);

        let sent_one = denial(send(with(), get_agents(), response(401, headers, body)).await);
        let reason = match reason {
            MissingOrganization => InvalidCredential,
            reason => reason,
        };
        assert_eq!(sent_one.reason(), reason, "{body}");
        assert_eq!(sent_one.organization(), Some(&organization));
        let forbidden = denial(send(bare(), get_agents(), response(403, headers, body)).await);
        assert_ne!(forbidden.reason(), MissingOrganization, "{body}");
    }
}

#[tokio::test]
async fn a_requests_own_credential_is_the_one_that_was_denied() {
    for layer in [AnyreachAuthLayer::per_request(), layer()] {
        let own = credential(TOKEN);
        let organization = organization("org_of_the_request");
        let request = with(organization.clone(), with(own.clone(), get_agents()));
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
        let passed = send(layer(), get_agents(), answer).await.unwrap();
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
                layer()
                    .foreign_requests(ForeignRequests::ForwardWithoutCredentials)
                    .denied_responses(denied_responses)
            };
            let answer = || {
                Response::builder()
                    .status(status)
                    .body(Unpollable(7))
                    .unwrap()
            };

            let anonymous = with(Anonymous, get_agents());
            let foreign = get("https://storage.example/upload");
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

        let layer = layer().denied_responses(DeniedResponses::PassThrough);
        let passed = send(layer, get_agents(), answer).await.unwrap();
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
}

#[tokio::test]
async fn into_response_drops_hop_by_hop_headers_those_that_connection_names_and_set_cookie() {
    let kept = [
        ("content-type", "application/json"),
        ("content-length", "18"),
        ("retry-after", "7"),
        ("www-authenticate", "Bearer"),
        ("x-request-id", "1"),
    ];
    let dropped = [
        ("connection", "close, X-Hop"),
        ("connection", "x-other,, x-absent, not a name"),
        ("x-hop", "1"),
        ("x-hop", "2"),
        ("x-other", "1"),
        ("keep-alive", "timeout=5"),
        ("proxy-authenticate", "Basic"),
        ("proxy-connection", "close"),
        ("te", "trailers"),
        ("trailer", "etag"),
        ("transfer-encoding", "chunked"),
        ("upgrade", "h2c"),
        ("set-cookie", "a=1"),
        ("set-cookie", "b=2"),
    ];
    let headers = [&dropped[..], &kept].concat();
    let body = r#"{"detail": "Nope"}"#;
    let whole = denial_of(response(403, &headers, body)).await;
    assert_eq!(whole.headers().len(), headers.len());
    let shared = whole.clone();
    let answer = whole.into_response();
    assert_eq!(answer.status(), StatusCode::FORBIDDEN);
    assert_eq!(answer.body(), body);
    let expected = response(403, &kept, body);
    assert_eq!(answer.headers(), expected.headers());
    assert_eq!(
        shared.headers().len(),
        headers.len(),
        "the denial keeps them"
    );

    for limit in [0, 17] {
        let layer = layer().error_body_limit(limit);
        let cut = denial(send(layer, get_agents(), response(401, &headers, body)).await);
        assert!(cut.is_body_truncated());
        let answer = cut.into_response();
        assert_eq!(answer.body(), &body[..limit]);
        assert!(!answer.headers().contains_key(CONTENT_LENGTH));
        assert_eq!(answer.headers().len(), kept.len() - 1);
    }
}

/// An error around another one, or around itself.
#[derive(Debug)]
struct Wrapped(Option<BoxError>);

impl std::fmt::Display for Wrapped {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("wrapped")
    }
}

impl std::error::Error for Wrapped {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        static CALLS: AtomicUsize = AtomicUsize::new(0);
        if let Some(inner) = &self.0 {
            return Some(inner.as_ref());
        }
        assert!(CALLS.fetch_add(1, Relaxed) < 10_000, "endless");
        Some(self)
    }
}

#[tokio::test]
async fn find_ends_on_an_error_that_is_its_own_source() {
    let endless: BoxError = Box::new(Wrapped(None));
    assert!(Error::find(endless.as_ref()).is_none());
    let service = Error::Service(endless);
    assert!(Error::find(&service).is_none());
    assert_eq!(
        Error::from_boxed(Box::new(Wrapped(Some(Box::new(service))))).label(),
        "service"
    );

    // Deeper than any stack of middleware.
    let refused = AnyreachAuthLayer::per_request().authorize(&mut get_agents().into_parts().0);
    let mut deep: BoxError = Box::new(refused.unwrap_err());
    for depth in 0..32 {
        deep = if depth % 2 == 0 {
            Box::new(Wrapped(Some(deep)))
        } else {
            std::io::Error::other(deep).into()
        };
    }
    assert!(Error::find(deep.as_ref()).is_some_and(Error::is_refused));
    assert!(Error::from_boxed(deep).is_refused());
}

#[tokio::test]
async fn every_error_and_every_reason_has_its_text() {
    let refused = |layer: AnyreachAuthLayer, request: Request<String>| async move {
        send(layer, request, Response::new(Unpollable(0)))
            .await
            .unwrap_err()
    };
    let denied = |layer: AnyreachAuthLayer, status, headers, body: String| async move {
        send(layer, get_agents(), response(status, headers, body))
            .await
            .unwrap_err()
    };
    let with_token = || AnyreachAuthLayer::new(token());
    let mut trace = get_agents();
    *trace.method_mut() = Method::TRACE;
    let with_header = |name: &'static str, value: &str| {
        let mut request = get_agents();
        request.headers_mut().insert(name, value.parse().unwrap());
        request
    };
    let organization = organization("org_4711");
    let with_organization = with(organization.clone(), get_agents());
    let mut many = get_agents();
    for number in 0..16_385 {
        let name: http::HeaderName = format!("x-{number}").parse().unwrap();
        many.headers_mut()
            .insert(name, HeaderValue::from_static(""));
    }

    let service_failed = layer()
        .layer(service_fn(|_: Request<String>| {
            ready(Err::<Response<String>, _>("connection refused"))
        }))
        .oneshot(get_agents())
        .await
        .unwrap_err();
    let source = std::error::Error::source(&service_failed).unwrap();
    assert_eq!(source.to_string(), "connection refused");

    let mcp = |text| format!(r#"{{"error": "{text}"}}"#);
    let rest = |text| format!(r#"{{"detail": "{text}"}}"#);
    let lenient = with_token().require_organization(false);
    let with_org = AnyreachAuthLayer::new(token().for_organization(organization));
    #[rustfmt::skip]
    let table = [
        (denied(layer(), 401, JSON, mcp(NO_CREDENTIAL)).await, "unauthorized",
            "Anyreach answered 401: no credential arrived, although one was sent; check whether a proxy removes \
             `authorization` (credential ak_4711ab…#e3e84d12)"),
        (denied(layer(), 401, JSON, rest("s3cret")).await, "unauthorized",
            "Anyreach answered 401: the credential was rejected: it is invalid or deleted, or \
             possibly expired; rotate it (credential ak_4711ab…#e3e84d12)"),
        (denied(layer(), 401, JSON, mcp(UNRECOGNIZED)).await, "unauthorized",
            "Anyreach answered 401: the form of the credential was not recognized; check the configured value \
             (credential ak_4711ab…#e3e84d12)"),
        (denied(lenient, 401, JSON, rest(NO_ORGANIZATION)).await, "unauthorized",
            "Anyreach answered 401: the personal access token was sent without an organization; use `for_organization` or \
             insert an `OrganizationId` extension; on `/mcp/`, give `organization_id` in each `call_tool` (credential pat_…#dad237e6)"),
        (denied(with_org, 403, JSON, rest("s3cret")).await, "forbidden",
            "Anyreach answered 403: the credential lacks a scope, or possibly its user is not a member of org_4711; check \
             its scopes with `GET /admin/members/me/scopes` (credential pat_…#dad237e6, organization org_4711)"),
        (denied(layer(), 403, HTML, "<html>".to_owned()).await, "forbidden",
            "a server answered 403: the response is not in the format of the API; check for a proxy or firewall that \
             answered instead (credential ak_4711ab…#e3e84d12)"),
        (refused(AnyreachAuthLayer::per_request(), get_agents()).await, "refused",
            "there is no credential for the request: insert a `Credential`, `CredentialStore` or `Anonymous` extension"),
        (refused(with_token(), get_agents()).await, "refused",
            "the personal access token needs an organization for `x-anyreach-org`: use `for_organization`, insert an \
             `OrganizationId` extension, or set ANYREACH_ORG_ID if `from_env` reads the token"),
        (refused(layer(), with_organization).await, "refused",
            "an organization was given for an organization API key, which is bound to its own and takes no `x-anyreach-org`: \
             remove the `OrganizationId`"),
        (refused(layer(), with_header("authorization", "Bearer s3cret")).await, "refused",
            "the request already has an `authorization` header: remove it, or use `CallerHeaders::Replace`"),
        (refused(layer(), with_header("x-anyreach-org", "s3cret")).await, "refused",
            "the request already has an `x-anyreach-org` header: remove it, or use `CallerHeaders::Replace`"),
        (refused(layer(), with_header("connection", "authorization, s3cret")).await, "refused",
            "the `connection` header names `authorization` or `x-anyreach-org`, and an HTTP/2 client removes the headers it \
             names: remove these names from it"),
        // The texts that are about the URI are in `origins`.
        (refused(layer(), trace).await, "refused",
            "CONNECT and TRACE disclose `authorization` to others: use another method, or insert an `Anonymous` extension"),
        (refused(layer(), with_header("host", "s3cret.example")).await, "refused",
            "the `host` header does not name https://api.anyreach.ai: remove the header"),
        (refused(layer(), many).await, "refused",
            "the request has more than 16384 header names: send fewer"),
        (service_failed, "service", "the inner service failed (cause in `source()`)"),
    ];
    for (error, label, text) in table {
        assert_eq!(error.to_string(), text);
        assert_eq!(error.label(), label, "{text}");
        for shown in [format!("{error:?}"), format!("{error:#?}")] {
            assert!(
                !shown.contains("s3cret") && !shown.contains("S3cr3t"),
                "{shown}"
            );
        }
    }
}
