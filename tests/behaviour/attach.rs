//! The headers of requests that leave the layer, and the requests that are refused because of theirs.

use http::header::{AUTHORIZATION, CONNECTION, CONTENT_TYPE, COOKIE, HOST, PROXY_AUTHORIZATION};
use http::{Extensions, HeaderName, HeaderValue, Method, Request};
use tower::{Layer, Service, ServiceExt};
use tower_anyreach::{
    Anonymous, AnyreachAuthLayer, CallerHeaders, Credential, CredentialStore, Error,
    ForeignRequests, OrganizationId, PersonalAccessToken, RefusalReason, RelativeUris,
};

use support::{
    KEY, ORG, Recorder, TOKEN, assert_carries, assert_carries_nothing, both, credential, get,
    get_agents, layer, now, organization, send, token_for, values, with,
};

const MODES: [CallerHeaders; 2] = [CallerHeaders::Reject, CallerHeaders::Replace];
const PROXY_CONNECTION: HeaderName = HeaderName::from_static("proxy-connection");

/// The reason, and the header that it is about.
fn refused(error: &Error) -> (RefusalReason, Option<&HeaderName>) {
    let refusal = error.refusal().unwrap();
    (refusal.reason(), refusal.header())
}

fn with_headers(mut request: Request<String>, headers: &[(&HeaderName, &str)]) -> Request<String> {
    for (name, value) in headers {
        request
            .headers_mut()
            .append(*name, HeaderValue::from_str(value).unwrap());
    }
    request
}

#[test]
fn attaching_leaves_the_rest_of_the_request_alone() {
    let request = Request::post("https://api.anyreach.ai:443/core/agents?page=1")
        .version(http::Version::HTTP_2)
        .header(CONTENT_TYPE, "application/json")
        .header(COOKIE, "a=1")
        .header(COOKIE, "b=2")
        .header(PROXY_AUTHORIZATION, "Basic cHJveHk=")
        .header(HOST, "api.anyreach.ai")
        .body(String::from("body"))
        .unwrap();
    let request = with(4711_u16, request);
    let before = request.clone().into_parts().0;

    let mut after = send(&AnyreachAuthLayer::new(token_for("org_1")), request).head();
    assert_carries(&after, TOKEN, Some("org_1"));
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

#[test]
fn a_callers_own_headers_are_refused_or_replaced() {
    let org: &'static HeaderName = &ORG;
    let table: [&[(&HeaderName, &str)]; 8] = [
        &[(&AUTHORIZATION, "Basic dXNlcg==")],
        &[(&AUTHORIZATION, "")],
        &[(
            &AUTHORIZATION,
            "Bearer ak_c4n4ry01.S3cr3tK3yCanaryValue0123456789",
        )],
        &[
            (&AUTHORIZATION, "Bearer own"),
            (&AUTHORIZATION, "Bearer another"),
        ],
        &[(org, "org_caller")],
        &[(org, "org_caller"), (org, "org_2")],
        &[(org, "")],
        &[(&AUTHORIZATION, "Bearer own"), (org, "org_caller")],
    ];
    for headers in table {
        for (credential, text, organization) in [
            (credential(KEY), KEY, None),
            (token_for("org_1"), TOKEN, Some("org_1")),
        ] {
            let layer = AnyreachAuthLayer::new(credential);
            let refusal = send(&layer, with_headers(get_agents(), headers)).refusal();
            let first = Some(headers[0].0);
            assert_eq!(
                refused(&refusal),
                (RefusalReason::CallerHeader, first),
                "{headers:?}"
            );

            let layer = layer.caller_headers(CallerHeaders::Replace);
            let head = send(&layer, with_headers(get_agents(), headers)).head();
            assert_carries(&head, text, organization);
        }
    }
}

#[test]
fn a_connection_line_that_names_our_headers_is_refused_in_every_mode() {
    let lines: &[(&[&str], bool)] = &[
        (&["authorization"], true),
        (&["x-anyreach-org"], true),
        (&["X-Anyreach-Org"], true),
        (&["close, AUTHORIZATION"], true),
        (&["keep-alive,\tauthorization\t,te"], true),
        (&["close", "x-anyreach-org"], true),
        (&["", ",,authorization"], true),
        (&["close"], false),
        (&["keep-alive, te"], false),
        (&["x-authorization, authorizations, x-anyreach-orgs"], false),
    ];
    for name in [CONNECTION, PROXY_CONNECTION] {
        for (lines, is_refused) in lines {
            let headers: Vec<_> = lines.iter().map(|line| (&name, *line)).collect();
            for mode in MODES {
                // Both names are refused for either kind of credential.
                for credential in [credential(KEY), token_for("org_1")] {
                    let layer = AnyreachAuthLayer::new(credential).caller_headers(mode);
                    let sent = send(&layer, with_headers(get_agents(), &headers));
                    if *is_refused {
                        let refusal = sent.refusal();
                        let expected = (RefusalReason::CallerHeader, Some(&name));
                        assert_eq!(refused(&refusal), expected, "{lines:?}");
                    } else {
                        assert_eq!(values(&sent.head().headers, &name).len(), lines.len());
                    }
                }
            }
            // A request without credentials may name them.
            let request = with(Anonymous, with_headers(get_agents(), &headers));
            assert_carries_nothing(&send(&layer(), request).head());
        }
    }
    let mut request = get_agents();
    let line = HeaderValue::from_bytes(b"\xff, authorization").unwrap();
    request.headers_mut().insert(CONNECTION, line);
    assert!(send(&layer(), request).outcome.is_err());
}

fn with_names(mut request: Request<String>, count: usize) -> Request<String> {
    let headers = request.headers_mut();
    for number in 0..count {
        let name: HeaderName = format!("x-{number}").parse().unwrap();
        headers.insert(name, HeaderValue::from_static("1"));
    }
    request
}

#[test]
fn more_than_16384_header_names_are_refused_and_never_a_panic() {
    for layer in [layer(), AnyreachAuthLayer::new(token_for("org_1"))] {
        for (count, is_refused) in [(16_384, false), (16_385, true), (24_575, true)] {
            let sent = send(&layer, with_names(get_agents(), count));
            if is_refused {
                let expected = (RefusalReason::TooManyHeaders, None);
                assert_eq!(refused(&sent.refusal()), expected, "{count}");
            } else {
                assert!(sent.head().headers.keys_len() > count);
            }
        }
    }
    // Many lines of one name are one name; requests without our headers are not counted.
    let mut lines = get_agents();
    for _ in 0..20_000 {
        lines
            .headers_mut()
            .append(COOKIE, HeaderValue::from_static("a=1"));
    }
    assert_carries(&send(&layer(), lines).head(), KEY, None);
    let anonymous = with(Anonymous, with_names(get_agents(), 20_000));
    assert_carries_nothing(&send(&layer(), anonymous).head());
}

/// A request, and the layer that it is sent through.
struct Case {
    layer: AnyreachAuthLayer,
    request: Request<String>,
}

/// The part of a case that has the problem, the reason of its refusal, and a function that adds it.
type Problem = (&'static str, RefusalReason, fn(&mut Case));

/// In the order in which they are refused.
#[rustfmt::skip]
const PROBLEMS: [Problem; 14] = [
    ("method", RefusalReason::Method, |case| *case.request.method_mut() = Method::TRACE),
    ("uri", RefusalReason::RelativeUri, |case| set_uri(case, "/core")),
    ("uri", RefusalReason::Userinfo, |case| set_uri(case, "https://user@api.anyreach.ai/")),
    ("uri", RefusalReason::Userinfo, |case| set_uri(case, "http://user@Api.anyreach.ai/")),
    ("uri", RefusalReason::Userinfo, |case| set_uri(case, "https://user@evil.example/")),
    ("uri", RefusalReason::Scheme, |case| set_uri(case, "http://api.anyreach.ai/")),
    ("uri", RefusalReason::Authority, |case| set_uri(case, "https://API.anyreach.ai/")),
    ("uri", RefusalReason::ForeignDestination, |case| set_uri(case, "https://evil.example/")),
    ("host", RefusalReason::HostHeader, |case| set_header(case, HOST, "evil.example")),
    ("names", RefusalReason::TooManyHeaders, |case| {
        case.request = with_names(std::mem::take(&mut case.request), 16_385);
    }),
    ("headers", RefusalReason::CallerHeader, |case| set_header(case, ORG.clone(), "org_2")),
    ("layer", RefusalReason::MissingCredential, |case| case.layer = AnyreachAuthLayer::per_request()),
    ("layer", RefusalReason::MissingOrganization, |case| case.layer = AnyreachAuthLayer::new(credential(TOKEN))),
    ("organization", RefusalReason::UnexpectedOrganization, |case| {
        case.request.extensions_mut().insert(organization("org_2"));
    }),
];

fn set_uri(case: &mut Case, uri: &str) {
    *case.request.uri_mut() = uri.parse().unwrap();
}

fn set_header(case: &mut Case, name: HeaderName, value: &'static str) {
    case.request
        .headers_mut()
        .insert(name, HeaderValue::from_static(value));
}

#[test]
fn of_two_problems_the_first_in_the_documented_order_is_refused() {
    let mut pairs = 0;
    for (first, (part, reason, make)) in PROBLEMS.iter().enumerate() {
        for (other_part, other, make_other) in &PROBLEMS[first..] {
            let mut case = Case {
                layer: layer(),
                request: get_agents(),
            };
            // The last problem gives an organization to a token without one.
            if part == other_part && reason != other
                || *reason == RefusalReason::MissingOrganization
            {
                continue;
            }
            make_other(&mut case);
            make(&mut case);
            let refusal = send(&case.layer, case.request).refusal();
            assert_eq!(refused(&refusal).0, *reason, "{other:?}");
            pairs += 1;
        }
    }
    assert!(pairs >= 60, "{pairs}");
}

#[test]
fn after_an_error_neither_header_is_in_the_head() {
    for (_, reason, make) in &PROBLEMS {
        for mode in MODES {
            let mut case = Case {
                layer: layer(),
                request: get_agents(),
            };
            make(&mut case);
            let headers = [
                (&AUTHORIZATION, "Basic one"),
                (&AUTHORIZATION, "Bearer ak_two.two"),
                (&ORG, "org_1"),
                (&COOKIE, "a=1"),
            ];
            let mut head = with_headers(case.request, &headers).into_parts().0;
            let Err(error) = case.layer.caller_headers(mode).authorize(&mut head) else {
                // `Replace` accepts this one.
                assert_eq!(
                    (*reason, mode),
                    (RefusalReason::CallerHeader, CallerHeaders::Replace)
                );
                continue;
            };
            assert!(error.is_refused(), "{error:?}");
            assert_carries_nothing(&head);
            assert_eq!(values(&head.headers, &COOKIE), [b"a=1"]);
        }
    }
    // A head is authorized once: the second call takes the attached headers for the caller's.
    let layer = AnyreachAuthLayer::new(token_for("org_1"));
    let mut head = get_agents().into_parts().0;
    assert!(layer.authorize(&mut head).is_ok());
    assert_carries(&head, TOKEN, Some("org_1"));
    let error = layer.authorize(&mut head).unwrap_err();
    assert_eq!(refused(&error).0, RefusalReason::CallerHeader);
    assert_carries_nothing(&head);
}

/// An extension of a request.
#[derive(Debug, Clone, Copy)]
enum Own {
    Credential(&'static str),
    TokenForOrg2,
    Store,
    TokenStore,
    Org9,
    Anonymous,
}

/// What a request's extensions of ours hold.
fn own(extensions: &Extensions) -> (Option<String>, Option<&OrganizationId>, [bool; 2]) {
    let credential = extensions.get::<Credential>();
    let is_there = [
        extensions.get::<CredentialStore>().is_some(),
        extensions.get::<Anonymous>().is_some(),
    ];
    let id = credential.map(|credential| credential.id().to_string());
    (id, extensions.get(), is_there)
}

#[derive(Debug)]
enum Outcome {
    Carries(&'static str, Option<&'static str>),
    Nothing,
    /// With the credential and the organization that the refusal names.
    Refused(RefusalReason, Option<&'static str>, Option<&'static str>),
}

#[test]
fn anonymous_comes_before_a_credential_a_store_and_the_layers_store() {
    use Outcome::{Carries, Nothing, Refused};
    use RefusalReason::{MissingCredential, MissingOrganization, UnexpectedOrganization};
    const OTHER_KEY: &str = "ak_other.key";
    const OTHER_TOKEN: &str = "pat_other";
    const STORES_KEY: &str = "ak_store.key";

    let key = layer();
    let token = AnyreachAuthLayer::new(token_for("org_1"));
    let bare_token = AnyreachAuthLayer::new(credential(TOKEN));
    let lenient = bare_token.clone().require_organization(false);
    let strict = lenient.clone().require_organization(true);
    let per_request = AnyreachAuthLayer::per_request();
    let token_for_org_2 = PersonalAccessToken::new(OTHER_TOKEN).unwrap();
    let for_org_2 = Credential::from(token_for_org_2.for_organization(organization("org_2")));
    let store = CredentialStore::new(credential(STORES_KEY));
    let token_store = CredentialStore::new(for_org_2.clone());
    #[rustfmt::skip]
    let table: [(_, &[Own], _); 27] = [
        (&key, &[], Carries(KEY, None)),
        (&key, &[Own::Org9], Refused(UnexpectedOrganization, Some(KEY), Some("org_9"))),
        (&key, &[Own::Credential(OTHER_KEY)], Carries(OTHER_KEY, None)),
        (&key, &[Own::TokenForOrg2], Carries(OTHER_TOKEN, Some("org_2"))),
        (&key, &[Own::TokenForOrg2, Own::Org9], Carries(OTHER_TOKEN, Some("org_9"))),
        (&key, &[Own::Credential(OTHER_TOKEN)], Refused(MissingOrganization, Some(OTHER_TOKEN), None)),
        (&key, &[Own::Credential(OTHER_TOKEN), Own::Org9], Carries(OTHER_TOKEN, Some("org_9"))),
        (&key, &[Own::Store], Carries(STORES_KEY, None)),
        (&key, &[Own::Credential(OTHER_KEY), Own::Store], Carries(OTHER_KEY, None)),
        (&key, &[Own::TokenStore], Carries(OTHER_TOKEN, Some("org_2"))),
        (&key, &[Own::TokenStore, Own::Org9], Carries(OTHER_TOKEN, Some("org_9"))),
        (&key, &[Own::Store, Own::Org9], Refused(UnexpectedOrganization, Some(STORES_KEY), Some("org_9"))),
        (&key, &[Own::Credential(OTHER_KEY), Own::Store, Own::Org9, Own::Anonymous], Nothing),
        (&token, &[], Carries(TOKEN, Some("org_1"))),
        (&token, &[Own::Org9], Carries(TOKEN, Some("org_9"))),
        // The layer's organization belongs to the layer's token, not to the request's.
        (&token, &[Own::Credential(OTHER_TOKEN)], Refused(MissingOrganization, Some(OTHER_TOKEN), None)),
        (&token, &[Own::Anonymous], Nothing),
        (&bare_token, &[], Refused(MissingOrganization, Some(TOKEN), None)),
        (&bare_token, &[Own::Org9], Carries(TOKEN, Some("org_9"))),
        (&strict, &[], Refused(MissingOrganization, Some(TOKEN), None)),
        (&lenient, &[], Carries(TOKEN, None)),
        (&lenient, &[Own::Credential(OTHER_TOKEN)], Carries(OTHER_TOKEN, None)),
        (&per_request, &[], Refused(MissingCredential, None, None)),
        (&per_request, &[Own::Org9], Refused(MissingCredential, None, Some("org_9"))),
        (&per_request, &[Own::Credential(OTHER_KEY)], Carries(OTHER_KEY, None)),
        (&per_request, &[Own::TokenForOrg2], Carries(OTHER_TOKEN, Some("org_2"))),
        (&per_request, &[Own::Store], Carries(STORES_KEY, None)),
    ];
    for (layer, owns, expected) in table {
        let case = format!("{layer:?}, {owns:?}: {expected:?}");
        let mut request = get_agents();
        let extensions = request.extensions_mut();
        for own in owns {
            let is_new = match *own {
                Own::Credential(text) => extensions.insert(credential(text)).is_none(),
                Own::TokenForOrg2 => extensions.insert(for_org_2.clone()).is_none(),
                Own::Store => extensions.insert(store.clone()).is_none(),
                Own::TokenStore => extensions.insert(token_store.clone()).is_none(),
                Own::Org9 => extensions.insert(organization("org_9")).is_none(),
                Own::Anonymous => extensions.insert(Anonymous).is_none(),
            };
            assert!(is_new, "{case}");
        }
        let before = extensions.clone();
        let sent = send(layer, request);
        match expected {
            Carries(text, organization) => {
                let head = sent.head();
                let bearer = format!("Bearer {text}");
                assert_eq!(both(&head).0, [bearer.as_bytes()], "{case}");
                assert_carries(&head, text, organization);
                assert_eq!(own(&head.extensions), own(&before), "{case}");
            }
            Nothing => {
                let head = sent.head();
                assert_carries_nothing(&head);
                assert_eq!(own(&head.extensions), own(&before), "{case}");
            }
            Refused(reason, of, organization) => {
                let error = sent.refusal();
                let refusal = error.refusal().unwrap();
                assert_eq!(refusal.reason(), reason, "{case}");
                let of = of.map(credential);
                assert_eq!(
                    refusal.credential(),
                    of.as_ref().map(Credential::id),
                    "{case}"
                );
                let named = refusal.organization().map(OrganizationId::as_str);
                assert_eq!(named, organization, "{case}");
            }
        }
    }
}

#[test]
fn an_anonymous_request_may_go_anywhere_and_loses_both_headers_at_the_origin() {
    let destinations = [
        (Method::GET, "https://api.anyreach.ai/core/public/x", true),
        (Method::TRACE, "https://api.anyreach.ai:443/", true),
        (
            Method::PUT,
            "https://storage.example/upload?signature=1",
            false,
        ),
        (Method::GET, "https://user@evil.example./", false),
        (Method::CONNECT, "evil.example:443", false),
    ];
    let foreign = [
        (&AUTHORIZATION, "Basic one"),
        (&AUTHORIZATION, "bearer  pat_x"),
        (&ORG, "org_1"),
        (&ORG, "org_2"),
        (&COOKIE, "a=1"),
        (&HOST, "other.example"),
    ];
    for mode in MODES {
        for layer in [
            AnyreachAuthLayer::new(token_for("org_1")),
            AnyreachAuthLayer::per_request(),
        ] {
            let layer = layer.caller_headers(mode);
            for (method, uri, is_origin) in &destinations {
                let mut request = with(Anonymous, with_headers(get(uri), &foreign));
                *request.method_mut() = method.clone();
                let head = send(&layer, request).head();
                let left: &[&[u8]] = if *is_origin { &[] } else { &[b"Basic one"] };
                assert_eq!(both(&head), (left.to_vec(), vec![]), "{method} {uri}");
                assert_eq!(values(&head.headers, &COOKIE), [b"a=1"], "{method} {uri}");
            }
        }
    }
}

#[test]
fn a_relative_uri_is_completed_with_the_origin_for_anonymous_requests_too() {
    let proxy = || layer().origin("https://proxy.example:8443".parse().unwrap());
    let anonymous = |uri| with(Anonymous, get(uri));
    let complete = proxy().relative_uris(RelativeUris::Complete);
    let host = [(&HOST, "proxy.example:8443")];
    let head = send(&complete, with_headers(get("/core?a=/b"), &host)).head();
    assert_eq!(head.uri, "https://proxy.example:8443/core?a=/b");
    assert_carries(&head, KEY, None);
    // The completed URI is at the origin, where an anonymous request has neither header.
    let own = [host[0], (&AUTHORIZATION, "Basic one"), (&ORG, "org_1")];
    let head = send(&complete, with_headers(anonymous("/core?a=/b"), &own)).head();
    assert_eq!(head.uri, "https://proxy.example:8443/core?a=/b");
    assert_carries_nothing(&head);
    for relative_uris in [RelativeUris::Reject, RelativeUris::Trust] {
        let layer = proxy().relative_uris(relative_uris);
        assert_eq!(send(&layer, anonymous("/core")).head().uri, "/core");
    }
    // Only a plain path is completed.
    for uri in [
        "*",
        "//evil.example/",
        "/\\evil.example",
        "evil.example:443",
    ] {
        assert_eq!(send(&complete, anonymous(uri)).head().uri, uri);
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
    assert_carries(&heads[0], TOKEN, Some("org_1"));
    assert_carries(&heads[1], KEY, None);
}

/// Lines of `Authorization`, and those that stay because they hold no credential of Anyreach.
#[rustfmt::skip]
const LINES: &[(&[&str], &[&str])] = &[
    (&["Bearer ak_c4n4ry01.secret"], &[]),
    (&["bearer pat_secret"], &[]),
    (&["BEARER   pat_secret"], &[]),
    (&["Bearer ak_"], &[]),
    (&["Basic one", "Bearer ak_a.b", "Basic two", "Bearer pat_x", "Basic one"], &["Basic one", "Basic two", "Basic one"]),
    (&["Basic dXNlcg=="], &["Basic dXNlcg=="]),
    (&["Bearer ghp_ak_foreign"], &["Bearer ghp_ak_foreign"]),
    (&["Bearer eyJhbGciOi.pat_.ak_"], &["Bearer eyJhbGciOi.pat_.ak_"]),
    (&["Bearer \"ak_a.b\"", "Bearer:ak_a.b"], &["Bearer \"ak_a.b\"", "Bearer:ak_a.b"]),
    (&["Token token=ak_a.b", "pat_alone"], &["Token token=ak_a.b", "pat_alone"]),
    (&["Bearerak_a.b", "Bearer AK_a.b"], &["Bearerak_a.b", "Bearer AK_a.b"]),
    (&["", "Bearer", "Bearer "], &["", "Bearer", "Bearer "]),
];

#[test]
fn a_foreign_request_with_a_credential_of_anyreachs_is_refused_or_loses_only_that() {
    for layer in [layer(), AnyreachAuthLayer::per_request()] {
        let layer = layer.foreign_requests(ForeignRequests::ForwardWithoutCredentials);
        for (brought, left) in LINES {
            for organizations in [&[][..], &["org_1", "org_2"]] {
                // Only bearer tokens are examined.
                let mut headers = vec![
                    (&COOKIE, "ak_cookie=pat_x"),
                    (&PROXY_AUTHORIZATION, "Bearer ak_proxy.own"),
                    (&HOST, "storage.example"),
                    (&CONNECTION, "authorization"),
                ];
                headers.extend(brought.iter().map(|value| (&AUTHORIZATION, *value)));
                headers.extend(organizations.iter().map(|value| (&ORG, *value)));
                let request = with_headers(get("https://storage.example/a?b=ak_c"), &headers);
                let mut rest = request.headers().clone();

                let rejected = send(&layer, request.clone());
                let first = if !organizations.is_empty() {
                    Some(&ORG)
                } else if brought == left {
                    None
                } else {
                    Some(&AUTHORIZATION)
                };
                if let Some(name) = first {
                    let expected = (RefusalReason::CallerHeader, Some(name));
                    assert_eq!(refused(&rejected.refusal()), expected, "{brought:?}");
                } else {
                    assert_eq!(rejected.head().headers, rest, "{brought:?}");
                }

                let replacing = layer.clone().caller_headers(CallerHeaders::Replace);
                let anonymous = with(Anonymous, request.clone());
                let mut sent = vec![send(&replacing, request)];
                // An anonymous request is forwarded in every mode.
                for layer in [&layer, &replacing] {
                    let layer = layer.clone().foreign_requests(ForeignRequests::Reject);
                    sent.push(send(&layer, anonymous.clone()));
                }
                let left: Vec<_> = left.iter().map(|value| value.as_bytes()).collect();
                rest.remove(AUTHORIZATION);
                rest.remove(&ORG);
                for sent in sent {
                    let mut head = sent.head();
                    assert_eq!(both(&head), (left.clone(), vec![]), "{brought:?}");
                    assert_eq!(head.uri, "https://storage.example/a?b=ak_c");
                    head.headers.remove(AUTHORIZATION);
                    head.headers.remove(&ORG);
                    assert_eq!(head.headers, rest, "{brought:?}");
                }
            }
        }
        // Without forwarding, its headers do not matter.
        let layer = layer.foreign_requests(ForeignRequests::Reject);
        let request = with_headers(get("https://storage.example/"), &[(&ORG, "org_1")]);
        let expected = (RefusalReason::ForeignDestination, None);
        assert_eq!(refused(&send(&layer, request).refusal()), expected);
    }
    // A token that is not text is removed too.
    let mut request = with(Anonymous, get("https://storage.example/"));
    let value = HeaderValue::from_bytes(b"Bearer ak_\xff.secret").unwrap();
    request.headers_mut().insert(AUTHORIZATION, value);
    assert_carries_nothing(&send(&layer(), request).head());
}

#[test]
fn two_layers_for_two_origins_around_one_client_refuse_instead_of_losing_a_credential() {
    const ONE: &str = "https://one.example";
    const TWO: &str = "https://two.example";
    for foreign in [
        ForeignRequests::Reject,
        ForeignRequests::ForwardWithoutCredentials,
    ] {
        let of = |origin: &str, text| {
            let layer = AnyreachAuthLayer::new(credential(text)).foreign_requests(foreign);
            layer.origin(origin.parse().unwrap())
        };
        for inner_origin in [ONE, TWO] {
            for outer_text in [KEY, "ak_outer.key"] {
                let inner = Recorder::default();
                let client = of(inner_origin, KEY).layer(inner.clone());
                let client = of(ONE, outer_text).layer(client);
                let error = now(client.oneshot(get("https://one.example/core"))).unwrap_err();
                let refusal = Error::find(&error).unwrap();
                let expected = if inner_origin == TWO && foreign == ForeignRequests::Reject {
                    (RefusalReason::ForeignDestination, None)
                } else {
                    (RefusalReason::CallerHeader, Some(&AUTHORIZATION))
                };
                assert_eq!(refused(refusal), expected, "{foreign:?} {inner_origin}");
                assert!(inner.take().is_empty());
            }
        }
    }
}
