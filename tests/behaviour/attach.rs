//! What is attached to a request that goes to Anyreach, and what is taken from one that does not.

use http::header::{AUTHORIZATION, CONTENT_TYPE, COOKIE, HOST, PROXY_AUTHORIZATION};
use http::request::Parts;
use http::{HeaderName, HeaderValue, Method, Request};
use tower::{Layer, Service};
use tower_anyreach::{
    Anonymous, AnyreachAuthLayer, CallerHeaders, Credential, CredentialStore, Error,
    ForeignRequests, OrganizationId,
};

use support::{
    KEY, ORG, Recorder, TOKEN, credential, get, get_agents, now, organization, send, token_for,
    values,
};

const MODES: [CallerHeaders; 3] = [
    CallerHeaders::Reject,
    CallerHeaders::Replace,
    CallerHeaders::Keep,
];

fn bearer(text: &str) -> String {
    format!("Bearer {text}")
}

/// Both headers of a request, each with all its values.
fn both(head: &Parts) -> (Vec<&[u8]>, Vec<&[u8]>) {
    (
        values(&head.headers, &AUTHORIZATION),
        values(&head.headers, &ORG),
    )
}

#[track_caller]
fn assert_carries(head: &Parts, authorization: &str, organization: Option<&str>) {
    let organization: Vec<_> = organization.into_iter().map(str::as_bytes).collect();
    assert_eq!(both(head), (vec![authorization.as_bytes()], organization));
    assert!(head.headers[AUTHORIZATION].is_sensitive());
}

#[track_caller]
fn assert_carries_nothing(head: &Parts) {
    assert_eq!(both(head), (vec![], vec![]));
}

fn with(mut request: Request<String>, headers: &[(&HeaderName, &str)]) -> Request<String> {
    for (name, value) in headers {
        request
            .headers_mut()
            .append(*name, HeaderValue::from_str(value).unwrap());
    }
    request
}

#[test]
fn an_api_key_is_sent_as_exactly_one_sensitive_authorization_and_no_organization() {
    let head = send(&AnyreachAuthLayer::new(credential(KEY)), get_agents()).head();
    assert_carries(&head, &bearer(KEY), None);
}

#[test]
fn a_personal_access_token_is_sent_with_exactly_one_organization() {
    let head = send(&AnyreachAuthLayer::new(token_for("org_1")), get_agents()).head();
    assert_carries(&head, &bearer(TOKEN), Some("org_1"));
}

#[test]
fn attaching_leaves_the_rest_of_the_request_alone() {
    let mut request = Request::post("https://API.anyreach.ai:443/core/agents?page=1")
        .version(http::Version::HTTP_2)
        .header(CONTENT_TYPE, "application/json")
        .header(COOKIE, "a=1")
        .header(COOKIE, "b=2")
        .header(PROXY_AUTHORIZATION, "Basic cHJveHk=")
        .header(HOST, "api.anyreach.ai")
        .body(String::from("body"))
        .unwrap();
    request.extensions_mut().insert(4711_u16);
    let before = request.clone().into_parts().0;

    let mut after = send(&AnyreachAuthLayer::new(token_for("org_1")), request).head();
    assert_carries(&after, &bearer(TOKEN), Some("org_1"));
    after.headers.remove(AUTHORIZATION);
    after.headers.remove(&ORG);
    assert_eq!(after.headers, before.headers);
    assert_eq!(after.uri.to_string(), before.uri.to_string());
    assert_eq!(
        (after.method, after.version),
        (before.method, before.version)
    );
    assert_eq!(after.extensions.get::<u16>(), Some(&4711));
    assert_eq!(after.extensions.len(), 1);
}

#[derive(Debug, Clone, Copy)]
enum Expected {
    /// It leaves with the layer's credential and this organization.
    Ours(Option<&'static str>),
    /// It leaves with the headers that it brought.
    Callers,
    /// It does not leave: this header is the caller's own.
    Header(&'static HeaderName),
    /// It does not leave: one of the two headers is the caller's own.
    EitherHeader,
    /// It does not leave: an organization beside an API key.
    Unexpected,
}

#[test]
#[expect(clippy::too_many_lines, reason = "a table")]
fn each_mode_of_caller_headers_has_one_outcome_for_each_set_of_headers() {
    use CallerHeaders::{Keep, Reject, Replace};
    use Expected::{Callers, EitherHeader, Header, Ours, Unexpected};

    type Headers<'a> = &'a [(&'a HeaderName, &'a str)];

    const NONE: Headers<'_> = &[];
    const AUTH: &HeaderName = &AUTHORIZATION;
    let org: &'static HeaderName = &ORG;
    let own = (AUTH, "Bearer callers-own");
    let own_org = (org, "org_caller");

    // Headers, then: an API key's outcome in each mode, a personal access token's outcome in each mode.
    let table: &[(&str, Headers<'_>, [Expected; 3], [Expected; 3])] = &[
        ("none", NONE, [Ours(None); 3], [Ours(Some("org_1")); 3]),
        (
            "Authorization once",
            &[own],
            [Header(AUTH), Ours(None), Callers],
            [Header(AUTH), Ours(Some("org_1")), Callers],
        ),
        (
            "an empty Authorization",
            &[(AUTH, "")],
            [Header(AUTH), Ours(None), Callers],
            [Header(AUTH), Ours(Some("org_1")), Callers],
        ),
        (
            "the very header that would be attached",
            &[(AUTH, "Bearer ak_c4n4ry01.S3cr3tK3yCanaryValue0123456789")],
            [Header(AUTH), Ours(None), Callers],
            [Header(AUTH), Ours(Some("org_1")), Callers],
        ),
        (
            "Authorization twice",
            &[own, (AUTH, "Bearer another")],
            [Header(AUTH), Ours(None), Header(AUTH)],
            [Header(AUTH), Ours(Some("org_1")), Header(AUTH)],
        ),
        (
            "X-Anyreach-Org once",
            &[own_org],
            [Header(org), Ours(None), Unexpected],
            [Header(org), Ours(Some("org_1")), Ours(Some("org_caller"))],
        ),
        (
            "X-Anyreach-Org twice",
            &[own_org, (org, "org_2")],
            [Header(org), Ours(None), Header(org)],
            [Header(org), Ours(Some("org_1")), Header(org)],
        ),
        (
            "an X-Anyreach-Org that names two",
            &[(org, "org_1,org_2")],
            [Header(org), Ours(None), Header(org)],
            [Header(org), Ours(Some("org_1")), Header(org)],
        ),
        (
            "both once",
            &[own, own_org],
            [EitherHeader, Ours(None), Callers],
            [EitherHeader, Ours(Some("org_1")), Callers],
        ),
    ];
    assert_eq!(MODES, [Reject, Replace, Keep]);
    for (name, headers, of_key, of_token) in table {
        let kinds = [
            (credential(KEY), KEY, of_key),
            (token_for("org_1"), TOKEN, of_token),
        ];
        for (credential, text, outcomes) in kinds {
            for (mode, expected) in MODES.into_iter().zip(outcomes) {
                let case = format!("{name}, {mode:?}, {credential:?}");
                let layer = AnyreachAuthLayer::new(credential.clone()).caller_headers(mode);
                let sent = send(&layer, with(get_agents(), headers));
                match *expected {
                    Ours(organization) => {
                        let head = sent.head();
                        let organization: Vec<_> =
                            organization.into_iter().map(str::as_bytes).collect();
                        let authorization = bearer(text);
                        let expected = (vec![authorization.as_bytes()], organization);
                        assert_eq!(both(&head), expected, "{case}");
                        assert!(head.headers[AUTHORIZATION].is_sensitive(), "{case}");
                    }
                    Callers => {
                        let head = sent.head();
                        let brought = with(get_agents(), headers).into_parts().0;
                        assert_eq!(both(&head), both(&brought), "{case}");
                        assert!(head.headers[AUTHORIZATION].is_sensitive(), "{case}");
                    }
                    Header(expected) => match sent.refusal() {
                        Error::CallerHeader(name) => assert_eq!(name, *expected, "{case}"),
                        other => panic!("{case}: {other:?}"),
                    },
                    EitherHeader => match sent.refusal() {
                        Error::CallerHeader(name) => {
                            assert!(name == AUTHORIZATION || name == ORG, "{case}");
                        }
                        other => panic!("{case}: {other:?}"),
                    },
                    Unexpected => {
                        let refusal = sent.refusal();
                        assert!(matches!(refusal, Error::UnexpectedOrganization), "{case}");
                    }
                }
            }
        }
    }
}

#[test]
fn a_kept_organization_that_contradicts_the_extension_is_refused() {
    let layer = AnyreachAuthLayer::new(token_for("org_1")).caller_headers(CallerHeaders::Keep);
    for (header, agrees) in [("org_2", true), ("org_3", false)] {
        let mut request = with(get_agents(), &[(&ORG, header)]);
        request.extensions_mut().insert(organization("org_2"));
        let sent = send(&layer, request);
        if agrees {
            assert_carries(&sent.head(), &bearer(TOKEN), Some("org_2"));
        } else {
            assert!(matches!(sent.refusal(), Error::CallerHeader(name) if name == ORG));
        }
    }
}

#[test]
fn a_kept_authorization_does_not_replace_a_missing_credential() {
    let layer = AnyreachAuthLayer::per_request().caller_headers(CallerHeaders::Keep);
    let request = with(get_agents(), &[(&AUTHORIZATION, "Bearer callers-own")]);
    let refusal = send(&layer, request).refusal();
    assert!(matches!(refusal, Error::MissingCredential), "{refusal:?}");
}

/// What a request says of itself.
#[derive(Default)]
struct Own {
    credential: Option<Credential>,
    organization: Option<OrganizationId>,
    anonymous: bool,
}

impl Own {
    fn put_into(&self, mut request: Request<String>) -> Request<String> {
        let extensions = request.extensions_mut();
        if let Some(credential) = &self.credential {
            extensions.insert(credential.clone());
        }
        if let Some(organization) = &self.organization {
            extensions.insert(organization.clone());
        }
        if self.anonymous {
            extensions.insert(Anonymous);
        }
        request
    }

    #[track_caller]
    fn assert_is_still_in(&self, head: &Parts) {
        let credential = head.extensions.get::<Credential>().map(Credential::id);
        assert_eq!(credential, self.credential.as_ref().map(Credential::id));
        assert_eq!(head.extensions.get(), self.organization.as_ref());
        assert_eq!(head.extensions.get::<Anonymous>().is_some(), self.anonymous);
    }
}

#[derive(Debug)]
enum Outcome {
    Carries(&'static str, Option<&'static str>),
    Nothing,
    MissingCredential,
    MissingOrganization,
    UnexpectedOrganization,
}

#[test]
#[expect(clippy::too_many_lines, reason = "a table")]
fn a_requests_own_extensions_come_before_the_layers_and_stay_for_the_inner_service() {
    use Outcome::{
        Carries, MissingCredential, MissingOrganization, Nothing, UnexpectedOrganization,
    };
    const OTHER_KEY: &str = "ak_other.key";
    const OTHER_TOKEN: &str = "pat_other";

    let key = AnyreachAuthLayer::new(credential(KEY));
    let token = AnyreachAuthLayer::new(token_for("org_1"));
    let bare_token = AnyreachAuthLayer::new(credential(TOKEN));
    let lenient = bare_token.clone().allow_missing_organization();
    let per_request = AnyreachAuthLayer::per_request();
    let none = || None::<Credential>;
    let other_key = || Some(credential(OTHER_KEY));
    let other_token = || Some(credential(OTHER_TOKEN));
    let other_token_for = || {
        let token = tower_anyreach::PersonalAccessToken::new(OTHER_TOKEN).unwrap();
        Some(Credential::from(
            token.for_organization(organization("org_2")),
        ))
    };

    let table = [
        (&key, none(), None, false, Carries(KEY, None)),
        (&key, none(), Some("org_9"), false, UnexpectedOrganization),
        (&key, none(), None, true, Nothing),
        (&key, other_key(), None, false, Carries(OTHER_KEY, None)),
        (
            &key,
            other_token_for(),
            None,
            false,
            Carries(OTHER_TOKEN, Some("org_2")),
        ),
        (
            &key,
            other_token_for(),
            Some("org_9"),
            false,
            Carries(OTHER_TOKEN, Some("org_9")),
        ),
        (&key, other_token(), None, false, MissingOrganization),
        (
            &key,
            other_token(),
            Some("org_9"),
            false,
            Carries(OTHER_TOKEN, Some("org_9")),
        ),
        (&key, other_key(), Some("org_9"), true, Nothing),
        (&token, none(), None, false, Carries(TOKEN, Some("org_1"))),
        (
            &token,
            none(),
            Some("org_9"),
            false,
            Carries(TOKEN, Some("org_9")),
        ),
        // The layer's organization belongs to the layer's token, not to the request's.
        (&token, other_token(), None, false, MissingOrganization),
        (&token, none(), None, true, Nothing),
        (&bare_token, none(), None, false, MissingOrganization),
        (
            &bare_token,
            none(),
            Some("org_9"),
            false,
            Carries(TOKEN, Some("org_9")),
        ),
        (&lenient, none(), None, false, Carries(TOKEN, None)),
        (
            &lenient,
            other_token(),
            None,
            false,
            Carries(OTHER_TOKEN, None),
        ),
        (&per_request, none(), None, false, MissingCredential),
        (&per_request, none(), None, true, Nothing),
        (
            &per_request,
            other_key(),
            None,
            false,
            Carries(OTHER_KEY, None),
        ),
        (
            &per_request,
            other_token_for(),
            None,
            false,
            Carries(OTHER_TOKEN, Some("org_2")),
        ),
    ];
    for (layer, credential, named, anonymous, expected) in table {
        let own = Own {
            credential,
            organization: named.map(organization),
            anonymous,
        };
        let case = format!("{layer:?}, {:?}, {named:?}, {anonymous}", own.credential);
        let sent = send(layer, own.put_into(get_agents()));
        match expected {
            Carries(text, organization) => {
                let head = sent.head();
                assert_eq!(
                    both(&head).0,
                    [bearer(text).as_bytes()],
                    "{case}: {expected:?}"
                );
                assert_carries(&head, &bearer(text), organization);
                own.assert_is_still_in(&head);
            }
            Nothing => {
                let head = sent.head();
                assert_carries_nothing(&head);
                own.assert_is_still_in(&head);
            }
            MissingCredential => {
                assert!(matches!(sent.refusal(), Error::MissingCredential), "{case}");
            }
            MissingOrganization => {
                assert!(
                    matches!(sent.refusal(), Error::MissingOrganization),
                    "{case}"
                );
            }
            UnexpectedOrganization => {
                let refusal = sent.refusal();
                assert!(matches!(refusal, Error::UnexpectedOrganization), "{case}");
            }
        }
    }
}

#[test]
fn an_anonymous_request_loses_both_headers_in_every_mode_and_may_go_anywhere() {
    let destinations = [
        (Method::GET, "https://api.anyreach.ai/core/public/x"),
        (Method::PUT, "https://storage.example/upload?signature=1"),
        (Method::GET, "http://api.anyreach.ai/"),
        (Method::GET, "https://user@api.anyreach.ai./"),
        (Method::GET, "/relative"),
        (Method::OPTIONS, "*"),
        (Method::CONNECT, "api.anyreach.ai:443"),
        (Method::TRACE, "https://api.anyreach.ai/"),
    ];
    for mode in MODES {
        for layer in [
            AnyreachAuthLayer::new(token_for("org_1")),
            AnyreachAuthLayer::per_request(),
        ] {
            let layer = layer.caller_headers(mode);
            for (method, uri) in &destinations {
                let mut request = with(
                    get(uri),
                    &[
                        (&AUTHORIZATION, "Bearer callers-own"),
                        (&AUTHORIZATION, "Bearer another"),
                        (&ORG, "org_1"),
                        (&ORG, "org_2"),
                        (&COOKIE, "a=1"),
                    ],
                );
                *request.method_mut() = method.clone();
                request.extensions_mut().insert(Anonymous);
                let head = send(&layer, request).head();
                assert_carries_nothing(&head);
                assert_eq!(values(&head.headers, &COOKIE), [b"a=1"], "{method} {uri}");
            }
        }
    }
}

#[test]
fn a_request_leaves_with_what_is_in_force_when_it_is_made() {
    let store = CredentialStore::new(token_for("org_1"));
    let layer = AnyreachAuthLayer::new(store.clone());
    let inner = Recorder::default();
    let mut service = layer.layer(inner.clone());

    // Called before the rotation, polled after it.
    let early = service.call(get_agents());
    store.rotate(credential(KEY));
    let late = service.call(get_agents());
    now(early).unwrap();
    now(late).unwrap();

    let heads = inner.take();
    assert_carries(&heads[0], &bearer(TOKEN), Some("org_1"));
    assert_carries(&heads[1], &bearer(KEY), None);
}

#[test]
fn a_forwarded_foreign_request_loses_what_is_anyreachs_and_nothing_else() {
    let table: &[(&[&str], &[&str])] = &[
        (&[], &[]),
        (&["Bearer ak_c4n4ry01.secret"], &[]),
        (&["bearer pat_secret"], &[]),
        (&["BEARER pat_secret"], &[]),
        (&["Bearer  ak_two.spaces"], &[]),
        (&["Bearer\tak_a.tab"], &[]),
        (&["Token pat_secret"], &[]),
        (&["ak_no.scheme"], &[]),
        (&["pat_noscheme"], &[]),
        (&["  ak_after.spaces"], &[]),
        (&["Bearer ak_"], &[]),
        (&["Bearer ak_a.b", "Bearer pat_x"], &[]),
        (&["Bearer ak_a.b", "Basic dXNlcg=="], &["Basic dXNlcg=="]),
        (&["Basic dXNlcg==", "pat_x"], &["Basic dXNlcg=="]),
        (
            &[
                "Basic one",
                "Bearer ak_a.b",
                "Basic two",
                "pat_x",
                "Basic one",
            ],
            &["Basic one", "Basic two", "Basic one"],
        ),
        (&["Basic dXNlcg=="], &["Basic dXNlcg=="]),
        (&["Bearer ghp_ak_foreign"], &["Bearer ghp_ak_foreign"]),
        (&["Bearer sk_pat_"], &["Bearer sk_pat_"]),
        (
            &["AWS4-HMAC-SHA256 Credential=ak_x"],
            &["AWS4-HMAC-SHA256 Credential=ak_x"],
        ),
        (&["ak-dash", "path_x"], &["ak-dash", "path_x"]),
        (&[""], &[""]),
    ];
    for mode in MODES {
        for layer in [
            AnyreachAuthLayer::new(credential(KEY)),
            AnyreachAuthLayer::new(credential(TOKEN)),
            AnyreachAuthLayer::per_request(),
        ] {
            let layer = layer
                .caller_headers(mode)
                .foreign_requests(ForeignRequests::ForwardWithoutCredentials);
            for (brought, left) in table {
                let mut headers = vec![
                    (&ORG, "org_1"),
                    (&ORG, "org_2"),
                    (&COOKIE, "ak_cookie=pat_x"),
                    (&PROXY_AUTHORIZATION, "Bearer ak_proxy.own"),
                    (&HOST, "storage.example"),
                ];
                headers.extend(brought.iter().map(|value| (&AUTHORIZATION, *value)));
                let request = with(get("https://storage.example/a?b=ak_c"), &headers);
                let before = request.clone().into_parts().0;

                let mut after = send(&layer, request).head();
                let left: Vec<_> = left.iter().map(|value| value.as_bytes()).collect();
                assert_eq!(both(&after), (left, vec![]), "{mode:?} {brought:?}");
                after.headers.remove(AUTHORIZATION);
                let mut rest = before.headers;
                rest.remove(AUTHORIZATION);
                rest.remove(&ORG);
                assert_eq!(after.headers, rest, "{brought:?}");
                assert_eq!((after.uri, after.method), (before.uri, before.method));
            }
        }
    }
}

#[test]
fn a_credential_that_is_not_text_is_taken_from_a_foreign_request_too() {
    let layer = AnyreachAuthLayer::new(credential(KEY))
        .foreign_requests(ForeignRequests::ForwardWithoutCredentials);
    let mut request = get("https://storage.example/");
    let value = HeaderValue::from_bytes(b"Bearer ak_\xff.secret").unwrap();
    request.headers_mut().insert(AUTHORIZATION, value);
    assert_carries_nothing(&send(&layer, request).head());
}
