//! What a response means: status, challenge and body in, reason, detail and scopes out.

use http::header::WWW_AUTHENTICATE;
use http_body::Body;
use tower_anyreach::OrganizationApiKey;

use crate::prelude::*;
use support::bodies::Unpollable;

use DenialReason::{
    InsufficientScope, InvalidCredential, MissingCredential, MissingOrganization,
    UnrecognizedCredential, Unspecified,
};

pub(crate) const KEY: &str = "ak_4711abcd.S3cr3tC4nary-Value_0123";
pub(crate) const KEY_ID: &str = "ak_4711ab…#e3e84d12";
const TOKEN: &str = "pat_S3cr3tC4naryOfAUser0123";

pub(crate) const NO_ORGANIZATION: &str = "Token is missing organization claim.";
pub(crate) const NO_CREDENTIAL: &str = "Missing Bearer token";
const KNOWN: &str = r#"{"detail": "Missing Bearer token"}"#;
pub(crate) const UNRECOGNIZED: &str = "Unrecognized token format. Expected a personal access token (pat_...) or \
                            organization API key (ak_...).";

pub(crate) fn layer() -> AnyreachAuthLayer {
    AnyreachAuthLayer::new(OrganizationApiKey::new(KEY).unwrap())
}

pub(crate) fn token() -> PersonalAccessToken {
    PersonalAccessToken::new(TOKEN).unwrap()
}

/// Sends one request through `layer` to a service that gives `response`.
pub(crate) async fn send<B: Body>(
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

pub(crate) fn response(
    status: u16,
    headers: &[(&str, &str)],
    body: impl Into<Bytes>,
) -> Response<Full<Bytes>> {
    answer_with(status, headers, Full::new(body.into()))
}

pub(crate) async fn denial_of(response: Response<Full<Bytes>>) -> Denial {
    denial(send(layer(), get_agents(), response).await)
}

pub(crate) fn scopes(denial: &Denial) -> Vec<&str> {
    denial.required_scopes().collect()
}

pub(crate) const JSON: &[(&str, &str)] = &[("content-type", "application/json")];
pub(crate) const HTML: &[(&str, &str)] = &[("content-type", "text/html")];

#[tokio::test]
async fn the_documented_texts_at_the_top_level_of_a_body_decide_the_reason() {
    let object = |key: &str, text: &str| serde_json::json!({ key: text }).to_string();
    let whole = |body: &str| body.to_owned();

    #[rustfmt::skip]
    let cases = [
        // The documented forms.
        ("rest, no organization", 401, JSON, object("detail", NO_ORGANIZATION), MissingOrganization, Some(NO_ORGANIZATION)),
        ("rest, no credential", 401, JSON, object("detail", NO_CREDENTIAL), MissingCredential, Some(NO_CREDENTIAL)),
        ("mcp, no credential", 401, JSON, object("error", NO_CREDENTIAL), MissingCredential, Some(NO_CREDENTIAL)),
        ("mcp, unknown form", 401, JSON, object("error", UNRECOGNIZED), UnrecognizedCredential, Some(UNRECOGNIZED)),
        ("mcp, no organization", 401, JSON, object("error", NO_ORGANIZATION), MissingOrganization, Some(NO_ORGANIZATION)),
        ("rest, forbidden", 403, JSON, object("detail", "Missing scope agents:manage"), InsufficientScope, Some("Missing scope agents:manage")),
        ("json by its text alone", 401, &[], object("detail", "Nope"), InvalidCredential, Some("Nope")),
        ("json called html", 401, HTML, object("detail", NO_CREDENTIAL), MissingCredential, Some(NO_CREDENTIAL)),
        ("a byte order mark", 401, JSON, format!("\u{feff}{KNOWN}"), MissingCredential, Some(NO_CREDENTIAL)),
        ("surrounding whitespace", 401, JSON, whole(" \r\n{ \"detail\" : \"Nope\" }\n\t "), InvalidCredential, Some("Nope")),
        ("an empty text", 401, JSON, object("detail", ""), InvalidCredential, Some("")),
        ("innocent characters", 401, JSON, object("detail", "Ünïcode stays, \"so\" do \\ quotes"), InvalidCredential, Some("Ünïcode stays, \"so\" do \\ quotes")),
        // Both keys.
        ("detail goes first", 401, JSON, whole(r#"{"error": "second", "detail": "first"}"#), InvalidCredential, Some("first")),
        ("known text in error, other in detail", 401, JSON, whole(r#"{"detail": "Nope", "error": "Missing Bearer token"}"#), MissingCredential, Some("Nope")),
        // A repeated key counts as absent.
        ("detail twice", 401, JSON, whole(r#"{"detail": "Missing Bearer token", "detail": "Nope"}"#), InvalidCredential, None),
        ("detail twice, once escaped", 401, JSON, whole(r#"{"detail": "Missing Bearer token", "d\u0065tail": "Nope"}"#), InvalidCredential, None),
        ("detail twice, error once", 401, JSON, whole(r#"{"detail": "a", "detail": "b", "error": "Missing Bearer token"}"#), MissingCredential, Some(NO_CREDENTIAL)),
        // No text at the top level.
        ("detail is an array", 401, JSON, whole(r#"{"detail": [{"msg": "Missing Bearer token"}]}"#), InvalidCredential, None),
        ("detail is an object", 401, JSON, whole(r#"{"detail": {"detail": "Missing Bearer token"}}"#), InvalidCredential, None),
        ("1e400 beside it", 401, JSON, whole(r#"{"x": 1e400, "detail": "Nope", "y": -1e-400}"#), InvalidCredential, Some("Nope")),
        ("other keys only", 401, JSON, whole(r#"{"message": "Missing Bearer token"}"#), Unspecified, None),
        ("other case", 401, JSON, whole(r#"{"Detail": "Missing Bearer token", "ERROR": "Missing Bearer token"}"#), Unspecified, None),
        // Known texts where they mean nothing.
        ("beside detail", 401, JSON, whole(r#"{"hint": "Token is missing organization claim.", "detail": "Nope"}"#), InvalidCredential, Some("Nope")),
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
        ("a number", 403, &[("content-type", "text/plain")], whole("403"), Unspecified, None),
        ("null", 403, &[("content-type", "text/plain")], whole("null"), Unspecified, None),
        ("an array", 403, JSON, whole(r#"["detail", {"detail": "Nope"}]"#), Unspecified, None),
        ("a firewall's page with JSON in it", 403, HTML, whole(r#"<html>{"detail": "Missing Bearer token"}</html>"#), Unspecified, None),
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

/// A name, the status, the lines of `WWW-Authenticate` and the body; then the expected reason and scopes.
#[rustfmt::skip]
type Challenged<'a> = (&'a str, u16, Vec<&'a str>, &'static str, DenialReason, &'a [&'a str]);

async fn assert_challenges(cases: &[Challenged<'_>]) {
    for (name, status, lines, body, reason, expected_scopes) in cases {
        let lines = lines.iter().map(|line| ("www-authenticate", *line));
        let lines: Vec<_> = lines.collect();
        let denial = denial_of(response(*status, &lines, *body)).await;
        assert_eq!(denial.reason(), *reason, "{name}");
        assert_eq!(scopes(&denial), *expected_scopes, "{name}");
        assert_eq!(denial.headers().len(), lines.len(), "{name}");
    }
}

#[tokio::test]
async fn a_bearer_challenge_decides_the_reason_before_the_body() {
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
        ("both twice, far behind", 401, vec![&far], KNOWN, MissingCredential, &[]),
        // Several challenges: the first Bearer counts.
        ("after another on one line", 401, vec![r#"Basic realm="x", Bearer error="invalid_token""#], KNOWN, InvalidCredential, &[]),
        ("before another on one line", 401, vec![r#"Bearer error="invalid_token", scope="a", Negotiate"#], KNOWN, InvalidCredential, &["a"]),
        ("behind one that is quoted", 401, vec![r#"Basic realm="\", Bearer error=invalid_token, Digest a", Bearer scope="b", error="insufficient_scope""#], KNOWN, InsufficientScope, &["b"]),
        ("not another's parameter", 401, vec![r#"Digest error="invalid_token", scope="a""#], KNOWN, MissingCredential, &[]),
        ("malformed at each word", 401, vec!["Bearer Bearer =b,Bearer =b,;"], page, InvalidCredential, &[]),
        ("not another scheme", 401, vec![r#"BearerX error="invalid_token""#], page, Unspecified, &[]),
        ("the eighth line", 401, [many.clone(), vec![r#"Bearer error="invalid_token""#]].concat(), KNOWN, InvalidCredential, &[]),
        ("the ninth line", 401, [many.clone(), many, vec![r#"Bearer error="invalid_token""#]].concat(), KNOWN, MissingCredential, &[]),
        // Scopes: well-formed tokens only.
        ("ill-formed scopes", 403, vec![r#"Bearer scope="ok  a\"b c\\d fine:1""#], page, InsufficientScope, &["ok", "fine:1"]),
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
        ("behind a token68 without a comma", 401, vec![r#"Negotiate oRQwEqAD== Bearer error="invalid_token", scope="a""#], KNOWN, InvalidCredential, &["a"]),
        ("with two spaces", 401, vec![r#"Basic realm="x",  Bearer  error="insufficient_scope",  scope="a""#], KNOWN, InsufficientScope, &["a"]),
        ("behind what is no challenge", 401, vec![r#"=;@ ,Bearer error="invalid_token""#], KNOWN, InvalidCredential, &[]),
        ("behind an open quote", 401, vec![r#"Basic realm="x, Bearer error=invalid_token, scope=a"#], KNOWN, InvalidCredential, &["a"]),
        ("behind escaped quotes", 403, vec![r#"Basic realm=\"x\", Bearer error=\"insufficient_scope\""#], page, InsufficientScope, &[]),
        ("a broken Bearer before another line", 401, vec![r#"Bearer realm="open"#, r#"Bearer error="insufficient_scope", scope="a""#], KNOWN, InsufficientScope, &["a"]),
        ("a broken Bearer before another one", 401, vec![r#"Bearer error=@@, Bearer error="insufficient_scope", scope="a""#], KNOWN, InsufficientScope, &["a"]),
        ("a Bearer with a token68 before another one", 401, vec![r#"Bearer dG9rZW4, Bearer error="insufficient_scope", scope="a""#], KNOWN, InsufficientScope, &["a"]),
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
    let realm = "x".repeat(400 << 10);
    let long = format!(r#"Bearer realm="{realm}", error="invalid_token""#);
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
    let first = many.iter().take(64).map(String::as_str);
    for (sent, kept) in [
        (format!("a {too_long} b {fits}"), vec!["a", "b", &*fits]),
        (format!("a {}", "x".repeat(8000)), vec!["a"]),
        (many.join(" "), first.collect()),
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
    for (name, of_type, encoding, body, reason) in [
        ("zipped JSON", JSON, gzip, zipped, InvalidCredential),
        ("zipped HTML", HTML, gzip, zipped, Unspecified),
        ("broken JSON", JSON, &[], broken, Unspecified),
    ] {
        let headers = [of_type, encoding].concat();
        let denial = denial_of(response(401, &headers, body)).await;
        assert_eq!(denial.reason(), reason, "{name}");
        assert_eq!(denial.detail(), None, "{name}");
        assert_eq!(denial.body(), body, "{name}");
        assert!(!denial.is_body_truncated(), "{name}");
    }
}

#[tokio::test]
async fn a_body_is_encoded_if_any_line_names_an_encoding_other_than_identity() {
    let identity = ("content-encoding", "Identity");
    for (headers, detail) in [
        (&[identity, ("content-encoding", "")][..], Some("Nope")),
        (&[identity, ("content-encoding", "gzip")], None),
    ] {
        let denial = denial_of(response(401, headers, r#"{"detail": "Nope"}"#)).await;
        assert_eq!(denial.detail(), detail, "{headers:?}");
    }
}

#[tokio::test]
async fn an_organization_is_missing_only_if_none_was_sent_and_the_text_says_so() {
    let bare = AnyreachAuthLayer::new(token()).require_organization(false);
    let named = AnyreachAuthLayer::new(token().for_organization(organization("org_4711")));
    let says_so = serde_json::json!({ "detail": NO_ORGANIZATION }).to_string();
    let invalid = [("www-authenticate", "Bearer error=invalid_token")];
    for (layer, headers, body, reason) in [
        (&bare, JSON, &*says_so, MissingOrganization),
        (&bare, JSON, r#"{"detail": "Nope"}"#, InvalidCredential),
        (&bare, &invalid, &says_so, InvalidCredential),
        (&named, JSON, &says_so, InvalidCredential),
    ] {
        let answer = response(401, headers, body.to_owned());
        let denied = denial(send(layer.clone(), get_agents(), answer).await);
        assert_eq!(denied.reason(), reason, "{layer:?} {body}");
    }
}

#[tokio::test]
async fn nesting_is_skipped_to_a_depth_of_128_and_deeper_bodies_are_not_json() {
    for levels in [127, 128, 60_000] {
        let reason = [Unspecified, InvalidCredential][usize::from(levels < 128)];
        let arrays = format!("{}{}", "[".repeat(levels), "]".repeat(levels));
        let objects = format!("{}1{}", r#"{"a":"#.repeat(levels), "}".repeat(levels));
        for body in [
            format!(r#"{{"detail": {arrays}}}"#),
            format!(r#"{{"detail": {objects}}}"#),
            format!(r#"{{"error": {arrays}, "detail": {objects}}}"#),
            format!(r#"{{"x": {arrays}, "error": 1}}"#),
        ] {
            let start = body[..20].to_owned();
            let layer = layer().error_body_limit(4 << 20);
            let denial = denial(send(layer, get_agents(), response(401, JSON, body)).await);
            assert!(!denial.is_body_truncated(), "{start} {levels}");
            assert_eq!(denial.reason(), reason, "{start} {levels}");
            assert_eq!(denial.detail(), None, "{start} {levels}");
        }
    }
}

#[tokio::test]
async fn an_unread_body_such_as_that_of_an_answer_to_head_counts_as_json_by_its_type() {
    #[rustfmt::skip]
    let cases = [
        ("content-type", "application/json", InvalidCredential),
        ("content-type", "Application/JSON; charset=utf-8", InvalidCredential),
        ("content-type", "application/problem+json", InvalidCredential),
        ("content-type", "text/notjson", Unspecified),
        ("content-type", "text/html", Unspecified),
        ("www-authenticate", "Bearer error=insufficient_scope", InsufficientScope),
    ];
    for (name, value, reason) in cases {
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
