//! The headers of requests that leave the layer, and the requests that are refused because of theirs.

use http::HeaderName;
use http::header::{CONNECTION, COOKIE, HOST, PROXY_AUTHORIZATION};

use crate::prelude::*;
use support::{both, values, with_names};

const MODES: [CallerHeaders; 2] = [CallerHeaders::Reject, CallerHeaders::Replace];
const PROXY_CONNECTION: HeaderName = HeaderName::from_static("proxy-connection");

/// The reason, and the header that it is about.
fn refused(error: &Error) -> (RefusalReason, Option<&HeaderName>) {
    let refusal = error.refusal().unwrap();
    (refusal.reason(), refusal.header())
}

#[test]
fn a_callers_own_headers_are_refused_or_replaced() {
    let (auth, org) = (AUTHORIZATION.as_str(), ORG.as_str());
    let own = format!("Bearer {KEY}");
    let table: [&[(&str, &str)]; 8] = [
        &[(auth, "Basic dXNlcg==")],
        &[(auth, "")],
        &[(auth, &own)],
        &[(auth, "Bearer own"), (auth, "Bearer another")],
        &[(org, "org_caller")],
        &[(org, "org_caller"), (org, "org_2")],
        &[(org, "")],
        &[(auth, "Bearer own"), (org, "org_caller")],
    ];
    for headers in table {
        for (credential, text, organization) in [
            (credential(KEY), KEY, None),
            (token_for("org_1"), TOKEN, Some("org_1")),
        ] {
            let layer = AnyreachAuthLayer::new(credential);
            let error = send(&layer, with_headers(headers, get_agents())).refusal();
            let (reason, first) = refused(&error);
            assert_eq!(reason, RefusalReason::CallerHeader, "{headers:?}");
            assert_eq!(first.unwrap(), headers[0].0, "{headers:?}");

            let layer = layer.caller_headers(CallerHeaders::Replace);
            let head = send(&layer, with_headers(headers, get_agents())).head();
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
    // Both names are refused for either kind of credential.
    let layers = [credential(KEY), token_for("org_1")].map(AnyreachAuthLayer::new);
    let layers = layers.map(|layer| MODES.map(|mode| layer.clone().caller_headers(mode)));
    for name in [CONNECTION, PROXY_CONNECTION] {
        for (lines, is_refused) in lines {
            let headers: Vec<_> = lines.iter().map(|line| (&name, *line)).collect();
            let request = with_headers(&headers, get_agents());
            for layer in layers.as_flattened() {
                let sent = send(layer, request.clone());
                if *is_refused {
                    let expected = (RefusalReason::CallerHeader, Some(&name));
                    assert_eq!(refused(&sent.refusal()), expected, "{lines:?}");
                } else {
                    assert_eq!(values(&sent.head().headers, &name).len(), lines.len());
                }
            }
            // A request without credentials may name them.
            assert_carries_nothing(&send(&layer(), with(Anonymous, request)).head());
        }
    }
    let mut request = get_agents();
    let line = HeaderValue::from_bytes(b"\xff, authorization").unwrap();
    request.headers_mut().insert(CONNECTION, line);
    assert!(send(&layer(), request).outcome.is_err());
}

#[test]
fn more_than_16384_header_names_are_refused_and_never_a_panic() {
    for layer in [layer(), AnyreachAuthLayer::new(token_for("org_1"))] {
        for (count, is_refused) in [(16_384, false), (16_385, true), (24_575, true)] {
            let sent = send(&layer, with_names(count, get_agents()));
            if is_refused {
                let expected = (RefusalReason::TooManyHeaders, None);
                assert_eq!(refused(&sent.refusal()), expected, "{count}");
            } else {
                assert!(sent.head().headers.keys_len() > count);
            }
        }
    }
    // As many with one that is examined.
    let many = with_headers(&[("connection", "close")], with_names(16_383, get_agents()));
    assert_carries(&send(&layer(), many).head(), KEY, None);
    // Many lines of one name are one name; requests without our headers are not counted.
    let lines = with_headers(&vec![("cookie", "a=1"); 20_000], get_agents());
    assert_carries(&send(&layer(), lines).head(), KEY, None);
    let anonymous = with(Anonymous, with_names(20_000, get_agents()));
    assert_carries_nothing(&send(&layer(), anonymous).head());
}

/// A request, and the layer that it is sent through.
struct Case {
    layer: AnyreachAuthLayer,
    request: Request<String>,
}

/// One that has no problem.
fn case() -> Case {
    let (layer, request) = (layer(), get_agents());
    Case { layer, request }
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
    ("host", RefusalReason::HostHeader, |case| set_header(case, "host", "evil.example")),
    ("names", RefusalReason::TooManyHeaders, |case| {
        case.request = with_names(16_385, std::mem::take(&mut case.request));
    }),
    ("headers", RefusalReason::CallerHeader, |case| set_header(case, "x-anyreach-org", "org_2")),
    ("layer", RefusalReason::MissingCredential, |case| case.layer = AnyreachAuthLayer::per_request()),
    ("layer", RefusalReason::MissingOrganization, |case| case.layer = AnyreachAuthLayer::new(credential(TOKEN))),
    ("organization", RefusalReason::UnexpectedOrganization, |case| {
        case.request.extensions_mut().insert(organization("org_2"));
    }),
];

fn set_uri(case: &mut Case, uri: &str) {
    *case.request.uri_mut() = uri.parse().unwrap();
}

fn set_header(case: &mut Case, name: &str, value: &str) {
    case.request = with_headers(&[(name, value)], std::mem::take(&mut case.request));
}

#[test]
fn the_first_of_two_problems_in_the_documented_order_is_refused() {
    let mut pairs = 0;
    for (first, (part, reason, make)) in PROBLEMS.iter().enumerate() {
        for (other_part, other, make_other) in &PROBLEMS[first..] {
            let mut case = case();
            let is_same_part = part == other_part && reason != other;
            // The last problem gives an organization to a token without one.
            if is_same_part || *reason == RefusalReason::MissingOrganization {
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

#[cfg(feature = "follow-redirect")]
#[test]
fn a_hop_that_another_host_chose_is_refused_after_its_method_and_uri_and_before_its_headers() {
    use tower_anyreach::follow_redirect::RedirectPolicy;
    use tower_http::follow_redirect::policy::Policy;
    let mut is_of_headers = false;
    for (_, reason, make) in &PROBLEMS {
        is_of_headers |= *reason == RefusalReason::HostHeader;
        let mut case = case();
        let policy: &mut dyn Policy<String, Error> = &mut RedirectPolicy::new(&case.layer);
        policy.on_request(&mut get("https://storage.example/"));
        policy.on_request(&mut case.request);
        make(&mut case);
        let refusal = send(&case.layer, case.request).refusal();
        let expected = [*reason, RefusalReason::ForeignRedirect][usize::from(is_of_headers)];
        assert_eq!(refused(&refusal).0, expected, "{reason:?}");
    }
}

#[test]
fn after_an_error_neither_header_is_in_the_head() {
    for (_, reason, make) in &PROBLEMS {
        for mode in MODES {
            let mut case = case();
            make(&mut case);
            let headers = [
                (&AUTHORIZATION, "Basic one"),
                (&AUTHORIZATION, "Bearer ak_two.two"),
                (&ORG, "org_1"),
                (&COOKIE, "a=1"),
            ];
            let mut head = with_headers(&headers, case.request).into_parts().0;
            let Err(error) = case.layer.caller_headers(mode).authorize(&mut head) else {
                // `Replace` accepts this one.
                let accepted = (RefusalReason::CallerHeader, CallerHeaders::Replace);
                assert_eq!((*reason, mode), accepted);
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

#[test]
fn a_relative_uri_is_completed_with_the_origin_for_anonymous_requests_too() {
    let proxy = || layer().origin("https://proxy.example:8443".parse().unwrap());
    let anonymous = |uri| with(Anonymous, get(uri));
    let complete = proxy().relative_uris(RelativeUris::Complete);
    let host = [(&HOST, "proxy.example:8443")];
    let head = send(&complete, with_headers(&host, get("/core?a=/b"))).head();
    assert_eq!(head.uri, "https://proxy.example:8443/core?a=/b");
    assert_carries(&head, KEY, None);
    // The completed URI is at the origin, where an anonymous request has neither header.
    let own = [host[0], (&AUTHORIZATION, "Basic one"), (&ORG, "org_1")];
    let whole = "https://proxy.example:8443/core?a=/b";
    for layer in MODES.map(|mode| complete.clone().caller_headers(mode)) {
        for uri in ["/core?a=/b", whole] {
            let head = send(&layer, with_headers(&own, anonymous(uri))).head();
            assert_eq!(head.uri, whole);
            assert_carries_nothing(&head);
        }
    }
    // What an inner layer completes with the origin has neither header.
    let basic: &[&[u8]] = &[b"Basic one"];
    for (relative_uris, left) in [(RelativeUris::Reject, basic), (RelativeUris::Trust, &[])] {
        let layer = proxy().relative_uris(relative_uris);
        let head = send(&layer, with_headers(&own, anonymous("/core"))).head();
        assert_eq!((head.uri.path(), both(&head).0), ("/core", left.to_vec()));
        assert!(head.uri.authority().is_none());
    }
    let two_ports = with_headers(&[(&HOST, "proxy.example:8443:443")], get("/core"));
    let expected = (RefusalReason::HostHeader, Some(&HOST));
    assert_eq!(refused(&send(&complete, two_ports).refusal()), expected);
    // Only a plain path is completed, and every method passes.
    let others = "* //evil.example/ /\\evil.example evil.example:443";
    let methods = [Method::TRACE, Method::GET, Method::PUT, Method::CONNECT];
    for (uri, method) in others.split(' ').zip(methods) {
        let mut request = anonymous(uri);
        *request.method_mut() = method;
        assert_eq!(send(&complete, request).head().uri, uri);
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
    now(service.call(get_agents())).unwrap();
    now(early).unwrap();
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
        let layer = layer.foreign_requests(FORWARD);
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
                let request = with_headers(&headers, get("https://storage.example/a?b=ak_c"));
                let mut rest = request.headers().clone();

                let rejected = send(&layer, request.clone());
                let organization = (!organizations.is_empty()).then_some(&ORG);
                let bearer = (brought != left).then_some(&AUTHORIZATION);
                if let Some(name) = organization.or(bearer) {
                    let expected = (RefusalReason::CallerHeader, Some(name));
                    assert_eq!(refused(&rejected.refusal()), expected, "{brought:?}");
                } else {
                    assert_eq!(rejected.head().headers, rest, "{brought:?}");
                }

                // An anonymous request is forwarded in every mode.
                let anonymous = with(Anonymous, request.clone());
                let replacing = layer.clone().caller_headers(CallerHeaders::Replace);
                let reject = ForeignRequests::Reject;
                let rejecting = |layer: &AnyreachAuthLayer| layer.clone().foreign_requests(reject);
                let left: Vec<_> = left.iter().map(|value| value.as_bytes()).collect();
                rest.remove(AUTHORIZATION);
                rest.remove(&ORG);
                for sent in [
                    send(&replacing, request),
                    send(&rejecting(&layer), anonymous.clone()),
                    send(&rejecting(&replacing), anonymous),
                ] {
                    let mut head = sent.head();
                    assert_eq!(both(&head), (left.clone(), vec![]), "{brought:?}");
                    assert_eq!(head.uri, "https://storage.example/a?b=ak_c");
                    head.headers.remove(AUTHORIZATION);
                    assert_eq!(head.headers, rest, "{brought:?}");
                }
            }
        }
        // Without forwarding, its headers do not matter.
        let layer = layer.foreign_requests(ForeignRequests::Reject);
        let request = with_headers(&[(&ORG, "org_1")], get("https://storage.example/"));
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
    let [one, two] = ["https://one.example", "https://two.example"];
    for foreign in [ForeignRequests::Reject, FORWARD] {
        let of = |origin: &str, text| {
            let layer = AnyreachAuthLayer::new(credential(text)).foreign_requests(foreign);
            layer.origin(origin.parse().unwrap())
        };
        for inner_origin in [one, two] {
            for outer_text in [KEY, "ak_outer.key"] {
                let inner = Recorder::default();
                let client = of(inner_origin, KEY).layer(inner.clone());
                let client = of(one, outer_text).layer(client);
                let error = now(client.oneshot(get("https://one.example/core"))).unwrap_err();
                let refusal = Error::find(&error).unwrap();
                let expected = if inner_origin == two && foreign == ForeignRequests::Reject {
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
