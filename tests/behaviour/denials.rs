//! What becomes of a denied response: which are denials, what passes through, and what a denial gives back.

use http::Version;
use http::header::CONTENT_LENGTH;
use tower_anyreach::DenialReason::{InsufficientScope, InvalidCredential, Unspecified};

use crate::classify::{HTML, JSON, KEY_ID, denial_of, layer, response, scopes, send};
use crate::prelude::*;
use support::bodies::Unpollable;

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
        assert!(!denied.renewed().await);
    }
}

/// Asserts that the answer to that request passes as it is.
async fn assert_passes(layer: &AnyreachAuthLayer, request: Request<String>, status: u16) {
    let body = || Unpollable(u32::from(status));
    let challenge = [("www-authenticate", "Bearer error=invalid_token")];
    let mut answer = answer_with(status, &[JSON, &challenge].concat(), body());
    answer.extensions_mut().insert("kept");
    let passed = send(layer.clone(), request, answer).await.unwrap();
    assert_eq!(passed.status(), status);
    assert_eq!(passed.body(), &body());
    assert_eq!(passed.headers().len(), 2);
    assert_eq!(passed.extensions().get(), Some(&"kept"));
    assert!(passed.extensions().get::<Denial>().is_none());
}

#[tokio::test]
async fn other_statuses_and_answers_to_foreign_and_anonymous_requests_pass_unread() {
    for denied_responses in [DeniedResponses::IntoError, DeniedResponses::PassThrough] {
        let layer = layer().foreign_requests(FORWARD);
        let layer = layer.denied_responses(denied_responses);
        for status in (200..=599).filter(|status| ![401, 403].contains(status)) {
            assert_passes(&layer, get_agents(), status).await;
        }
        for status in [401, 403] {
            assert_passes(&layer, with(Anonymous, get_agents()), status).await;
            assert_passes(&layer, get("https://storage.example/upload"), status).await;
        }
    }
}

#[tokio::test]
async fn pass_through_leaves_the_answer_untouched_and_adds_what_its_head_means() {
    let challenge = "Bearer error=insufficient_scope, scope=agents";
    let challenge = [("www-authenticate", challenge)];
    for (status, headers, reason) in [
        (401, JSON, InvalidCredential),
        (401, HTML, Unspecified),
        (401, &[], Unspecified),
        (401, &challenge, InsufficientScope),
        (403, JSON, InsufficientScope),
        (403, HTML, Unspecified),
    ] {
        let framing = [("content-length", "9"), ("transfer-encoding", "chunked")];
        let headers = [&framing[..], headers].concat();
        let mut answer = answer_with(status, &headers, Unpollable(3));
        *answer.version_mut() = Version::HTTP_2;
        answer.extensions_mut().insert("kept");
        let sent = answer.headers().clone();

        let layer = layer().denied_responses(DeniedResponses::PassThrough);
        let passed = send(layer, get_agents(), answer).await.unwrap();
        assert_eq!(passed.status(), status);
        assert_eq!(passed.version(), Version::HTTP_2);
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
        assert_eq!(scopes(denial).is_empty(), !headers.contains(&challenge[0]));
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
        ("connection", "x-other,, x-absent, not a name, é"),
        ("x-hop", "1"),
        ("x-other", "1"),
        ("keep-alive", "timeout=5"),
        ("proxy-authenticate", "Basic"),
        ("proxy-connection", "close"),
        ("te", "trailers"),
        ("trailer", "etag"),
        ("transfer-encoding", "chunked"),
        ("upgrade", "h2c"),
        ("set-cookie", "a=1"),
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
    assert_eq!(shared.headers().len(), headers.len());

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
