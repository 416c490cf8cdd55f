//! Where credentials go: tables of destinations. `campaigns/tests/origin_matrix` combines many more spellings, and the WHATWG
//! `url` crate judges them.

use http::Uri;
use http::header::HOST;

use crate::prelude::*;

/// The expected result for a request with some URI.
#[derive(Debug, Clone, Copy, PartialEq)]
enum To {
    /// It carries credentials.
    Ours,
    /// It goes to another host: refused, or forwarded without credentials, as the layer is configured.
    Foreign,
    /// It is refused in every mode.
    Refused(RefusalReason),
    /// It is refused as relative, except under `Complete` and `Trust`, where it carries credentials.
    Relative,
    /// It is refused as relative, except under `Complete` and `Trust`, where its `Host` is refused.
    RelativeWithWrongHost,
    /// `http` does not parse the URI.
    Unparsable,
}

use RefusalReason::{
    Method as BadMethod, RelativeUri as NotAbsolute, Scheme as NearScheme, Userinfo,
};
use To::{Foreign, Ours, Refused, Relative, RelativeWithWrongHost, Unparsable};

const NEAR: To = Refused(RefusalReason::Authority);
const WRONG_HOST: To = Refused(RefusalReason::HostHeader);

const DEFAULT: &str = "https://api.anyreach.ai";

/// GETs of these URIs, for each origin.
#[rustfmt::skip]
const DESTINATIONS: &[(&str, &[(&str, To)])] = &[
    (DEFAULT, &[
        // The origin itself.
        ("https://api.anyreach.ai/", Ours),
        ("https://api.anyreach.ai?page=1", Ours),
        ("https://api.anyreach.ai/?next=https://evil.example/", Ours),
        ("https://api.anyreach.ai/user@evil.example", Ours),
        ("https://api.anyreach.ai//evil.example/", Ours),
        ("https://api.anyreach.ai/%2e%2e/%40evil.example", Ours),
        ("https://api.anyreach.ai/core/agents#fragment", Ours),
        ("https://api.anyreach.ai#@evil.example", Ours),
        ("https://api.anyreach.ai:443/core/agents?a=b", Ours),
        ("https://API.ANYREACH.AI/", NEAR),
        ("https://api.anyreach.aI:443/", NEAR),
        // `http` itself reads this scheme as `https`.
        ("HtTpS://api.anyreach.ai:443/", Ours),
        // Ports.
        ("https://api.anyreach.ai:/", NEAR),
        ("https://api.anyreach.ai:0443/", NEAR),
            // Userinfo.
        ("https://@api.anyreach.ai/", Refused(Userinfo)),
        ("https://user@api.anyreach.ai/", Refused(Userinfo)),
        ("https://user@evil.example/", Refused(Userinfo)),
        ("http://user@api.anyreach.ai/", Refused(Userinfo)),
        // Trailing and other dots.
        ("https://api.anyreach.ai./", NEAR),
        ("https://api.anyreach.ai.evil.example/", Foreign),
        ("https://api.anyreach.ai.:443.evil.example/", NEAR),
        // Schemes.
        ("http://api.anyreach.ai/", Refused(NearScheme)),
        ("http://API.anyreach.ai./", Refused(NearScheme)),
        ("http://api.anyreach.ai:443/", Refused(NearScheme)),
        ("https+tls://api.anyreach.ai:443/", Refused(NearScheme)),
        ("://api.anyreach.ai/", Refused(NearScheme)),
        (" https://api.anyreach.ai/", Unparsable),
        ("https:///api.anyreach.ai/", Unparsable),
        ("https:\\\\api.anyreach.ai/", Unparsable),
        ("javascript:alert(1)", Refused(NotAbsolute)),
        // Look-alike hosts.
        ("https://anyreach.ai/", Foreign),
        ("https://x.api.anyreach.ai/", Foreign),
        ("https://api.evilanyreach.ai/", Foreign),
        ("https://evil.example/https://api.anyreach.ai/", Foreign),
        ("http://evil.example/", Foreign),
        // IDN and punycode: none of these is our host's text.
        ("https://xn--pi-7kc.anyreach.ai/", Foreign),
        ("https://\u{430}pi.anyreach.ai/", Unparsable),
        ("https://api\u{3002}anyreach.ai/", Unparsable),
        ("https://api.anyreach.ai\u{200b}/", Unparsable),
        // Percent, comma, backslash and other punctuation.
        ("https://api.anyreach.ai%40evil.example/", Unparsable),
        ("https://api.anyreach.ai,evil.example/", Foreign),
        ("https://api.anyreach.ai\\@evil.example/", Unparsable),
        ("https://evil.example\\@api.anyreach.ai/", Unparsable),
        ("https://api.anyreach.ai\r\nHost:evil.example/", Unparsable),
        ("https://api.anyreach.ai\0/", Unparsable),
        ("https://<api.anyreach.ai>/", Unparsable),
        // Addresses.
        ("https://[::1]/", Foreign),
        ("https://api.anyreach.ai]/", Unparsable),
        // Without a scheme or an authority.
        ("/core/\\evil.example", Relative),
        ("/%5cevil.example", Relative),
        ("//", Refused(NotAbsolute)),
        ("//api.anyreach.ai/core", Refused(NotAbsolute)),
        ("/\\evil.example", Refused(NotAbsolute)),
        ("*", Refused(NotAbsolute)),
        ("?page=1", Unparsable),
        ("", Unparsable),
        ("api.anyreach.ai", Refused(NotAbsolute)),
        ("api.anyreach.ai:443", Refused(NotAbsolute)),
        ("api.anyreach.ai/core", Unparsable),
        ("evil.example:443", Refused(NotAbsolute)),
    ]),
    ("https://anyreach.proxy.example:8443", &[
        ("https://anyreach.proxy.example:8443/core/agents?a=b", Ours),
        ("https://ANYREACH.Proxy.Example:8443/", NEAR),
        ("https://anyreach.proxy.example/", NEAR),
        ("http://anyreach.proxy.example:8443/", Refused(NearScheme)),
        ("https://user@anyreach.proxy.example:8443/", Refused(Userinfo)),
        ("https://anyreach.proxy.example.evil:8443/", Foreign),
        // Anyreach itself is another host than the proxy.
        ("https://api.anyreach.ai/", Foreign),
    ]),
    ("http://127.0.0.1:8080", &[
        ("http://127.0.0.1:8080/core/agents?a=b", Ours),
        ("HTTP://127.0.0.1:8080/", Ours),
        ("https://127.0.0.1:8080/", Refused(NearScheme)),
        ("http://127.0.0.1:8081/", NEAR),
        ("http://user@127.0.0.1:8080/", Refused(Userinfo)),
        // Other spellings of the same address: compared as text, they are other hosts.
        ("http://2130706433:8080/", Foreign),
        ("http://[::ffff:127.0.0.1]:8080/", Foreign),
        ("http://[::1]:8080/", Foreign),
        ("http://localhost:8080/", Foreign),
    ]),
    ("http://localhost", &[
        ("http://localhost/core", Ours),
        ("http://LOCALHOST/", NEAR),
        ("http://localhost:80/", Ours),
        ("https://localhost/", Refused(NearScheme)),
        ("http://localhost.evil.example/", Foreign),
    ]),
    ("http://[::1]:8080", &[
        ("http://[::1]:8080/core/agents?a=b", Ours),
        ("https://[::1]:8080/", Refused(NearScheme)),
        ("http://[::1]/", NEAR),
        ("http://[0:0:0:0:0:0:0:1]:8080/", Foreign),
        ("http://[::ffff:127.0.0.1]:8080/", Foreign),
        ("http://::1:8080/", Unparsable),
        ("http://[::1]8080/", NEAR),
        ("[::1]:8080", Refused(NotAbsolute)),
    ]),
    ("https://[fd00::abcd]", &[
        ("https://[fd00::abcd]/", Ours),
        ("https://[FD00::ABCD]/", NEAR),
        ("https://[fd00::abcd]:443/", Ours),
        ("https://[fd00:0::abcd]/", Foreign),
    ]),
    ("http://anyreach-egress.mesh.svc", &[
        ("http://anyreach-egress.mesh.svc:80/core", Ours),
        ("https://anyreach-egress.mesh.svc/", Refused(NearScheme)),
        ("http://anyreach-egress.mesh.svc:8080/", NEAR),
        ("http://mesh.svc/", Foreign),
    ]),
];

/// Methods, and `Host` headers beside a URI, with the default origin.
#[rustfmt::skip]
const OF_HOST_AND_METHOD: &[(&str, &str, &[&str], To)] = &[
    ("GET", DEFAULT, &["api.anyreach.ai"], Ours),
    ("GET", DEFAULT, &["api.anyreach.ai:443"], Ours),
    ("GET", "https://api.anyreach.ai:443/", &["api.anyreach.ai"], Ours),
    ("GET", DEFAULT, &["API.Anyreach.AI"], WRONG_HOST),
    ("GET", DEFAULT, &["api.anyreach.ai:8443"], WRONG_HOST),
    ("GET", DEFAULT, &["api.anyreach.ai:"], WRONG_HOST),
    ("GET", DEFAULT, &["api.anyreach.ai:0443"], WRONG_HOST),
    ("GET", DEFAULT, &["api.anyreach.ai."], WRONG_HOST),
    ("GET", DEFAULT, &["https://api.anyreach.ai"], WRONG_HOST),
    ("GET", DEFAULT, &["api.anyreach.ai,evil.example"], WRONG_HOST),
    ("GET", DEFAULT, &["api.anyreach.ai\u{ff}"], WRONG_HOST),
    ("GET", DEFAULT, &["api.anyreach.ai", "evil.example"], WRONG_HOST),
    // A request that carries no credentials may have any `Host`.
    ("GET", "https://evil.example/", &["other.example"], Foreign),
    ("GET", "https://evil.example/", &["api.anyreach.ai"], Foreign),
    ("GET", "https://evil.example/", &["api.anyreach.ai\u{ff}"], Foreign),
    // A path without a host: `Host` must not name another.
    ("GET", "/core", &["api.anyreach.ai:443"], Relative),
    ("GET", "/core", &["evil.example"], RelativeWithWrongHost),
    ("GET", "/core", &["API.anyreach.ai"], RelativeWithWrongHost),
    ("GET", "/core", &["api.anyreach.ai\u{ff}"], RelativeWithWrongHost),
    ("GET", "/core", &["api.anyreach.ai", "evil.example"], RelativeWithWrongHost),
    ("GET", "*", &["api.anyreach.ai"], Refused(NotAbsolute)),
    ("QUERY", DEFAULT, &[], Ours),
    // Methods are case-sensitive: this is an unknown one, which no server echoes or tunnels.
    ("trace", DEFAULT, &[], Ours),
    ("CONNECT", DEFAULT, &[], Refused(BadMethod)),
    ("TRACE", DEFAULT, &[], Refused(BadMethod)),
    ("CONNECT", "api.anyreach.ai:443", &[], Refused(BadMethod)),
    ("TRACE", "https://evil.example/", &[], Refused(BadMethod)),
    ("OPTIONS", "*", &[], Refused(NotAbsolute)),
    ("OPTIONS", "https://evil.example/", &[], Foreign),
    ("OPTIONS", "/core", &[], Relative),
];

fn request(method: &str, uri: Uri, hosts: &[&str]) -> Request<String> {
    let mut request = Request::new(String::new());
    *request.method_mut() = method.parse().unwrap();
    *request.uri_mut() = uri;
    let hosts: Vec<_> = hosts.iter().map(|host| (HOST, *host)).collect();
    with_headers(&hosts, request)
}

/// Sends a request in every mode, and returns where the outcome is not the expected one.
fn check(origin: &Origin, make: impl Fn() -> Request<String>, to: To) -> Result<(), String> {
    use ForeignRequests::Reject;
    use RelativeUris::{Complete, Reject as RejectRelative, Trust};

    let with = |relative| [Reject, FORWARD].map(|foreign| (relative, foreign));
    for (text, organization) in [(KEY, None), (TOKEN, Some("org_1"))] {
        for (relative, foreign) in [RejectRelative, Complete, Trust].map(with).concat() {
            let expected = match (to, relative) {
                (Relative | RelativeWithWrongHost, RejectRelative) => Refused(NotAbsolute),
                (Relative, _) => Ours,
                (RelativeWithWrongHost, _) => WRONG_HOST,
                (Foreign, _) if foreign == Reject => Refused(RefusalReason::ForeignDestination),
                (to, _) => to,
            };
            let credential = organization.map_or_else(|| credential(text), token_for);
            let layer = AnyreachAuthLayer::new(credential)
                .origin(origin.clone())
                .foreign_requests(foreign)
                .relative_uris(relative);
            let sent = send(&layer, make());
            let found = if let [head] = &sent.arrived[..] {
                let mut uri = make().uri().to_string();
                if to == Relative && relative == Complete {
                    uri.insert_str(0, &origin.to_string());
                }
                assert_eq!(head.uri.to_string(), uri);
                if head.headers.contains_key(AUTHORIZATION) {
                    assert_carries(head, text, organization);
                    Ours
                } else {
                    assert_carries_nothing(head);
                    Foreign
                }
            } else {
                Refused(sent.refusal().refusal().unwrap().reason())
            };
            if found != expected {
                let text = format!("{found:?}, not {expected:?} ({foreign:?}, {relative:?})");
                return Err(text);
            }
        }
    }
    Ok(())
}

#[test]
fn a_credential_reaches_only_its_origin_in_its_exact_spelling() {
    let mut wrong = Vec::new();
    for (origin, table) in DESTINATIONS {
        let parsed = Origin::insecure(origin).unwrap();
        for (text, to) in *table {
            let found = match (text.parse::<Uri>(), to) {
                (Err(_), Unparsable) => Ok(()),
                (Err(_), _) => Err("`http` does not parse it".to_owned()),
                (Ok(_), Unparsable) => Err("`http` parses it".to_owned()),
                (Ok(uri), _) => check(&parsed, || request("GET", uri.clone(), &[]), *to),
            };
            if let Err(found) = found {
                wrong.push(format!("{origin}: {text:?}: {found}"));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn a_host_header_must_be_the_origins_authority_and_connect_and_trace_carry_no_credential() {
    for (method, uri, hosts, to) in OF_HOST_AND_METHOD {
        let make = || request(method, uri.parse().unwrap(), hosts);
        let found = check(&Origin::default(), make, *to);
        assert_eq!(found, Ok(()), "{method} {uri:?} with {hosts:?}");
    }
}

#[test]
fn a_built_uri_is_treated_like_a_parsed_one() {
    let rows = [
        ("https", "api.anyreach.ai", "/core", Ours),
        ("https", "api.anyreach.ai:443", "/", Ours),
        ("https", "API.ANYREACH.AI", "/", NEAR),
        // `http` itself takes this scheme for another one unless it is parsed as part of a URI.
        ("HTTPS", "api.anyreach.ai", "/", Refused(NearScheme)),
        ("https", "api.anyreach.ai", "/@evil.example", Ours),
        ("https", "api.anyreach.ai:", "/", NEAR),
        ("https", "user@api.anyreach.ai", "/", Refused(Userinfo)),
        ("https", "evil.example", "/", Foreign),
        // A path that runs into the authority: written out, each names another host. `http` builds the first, for
        // `OPTIONS *`, and before 1.4.1 all of them.
        ("https", "api.anyreach.ai", "*", NEAR),
        ("https", "api.anyreach.ai", "@evil.example/", NEAR),
        ("https", "api.anyreach.ai", ".evil.example/", NEAR),
        ("https", "api.anyreach.ai", ":8443/", NEAR),
        ("https", "api.anyreach.ai", "x", NEAR),
        // An authority as a path, where `http` builds it.
        ("", "", "//evil.example/", Refused(NotAbsolute)),
        ("", "", "/\\evil.example", Refused(NotAbsolute)),
        ("", "", "\\/evil.example", Refused(NotAbsolute)),
    ];
    for (scheme, authority, path, to) in rows {
        let mut builder = Uri::builder().path_and_query(path);
        if !scheme.is_empty() {
            builder = builder.scheme(scheme).authority(authority);
        }
        let uri = match builder.build() {
            Err(_) if scheme.is_empty() || !path.starts_with('/') => continue,
            built => built.unwrap(),
        };
        for method in ["GET", "OPTIONS"] {
            let found = check(&Origin::default(), || request(method, uri.clone(), &[]), to);
            assert_eq!(found, Ok(()), "{method} {scheme} {authority} {path}");
        }
    }
}

#[test]
fn a_refusal_names_the_origin_and_shows_the_destination_by_name_only() {
    let foreign = "the request goes to a host other than https://api.anyreach.ai, the configured origin: insert an `Anonymous` extension, use another client, or set `origin`";
    #[rustfmt::skip]
    let cases = [
        ("https://evil.example/upload?signature=s3cret", Some("https://evil.example"), foreign),
        ("https://user:s3cret@api.anyreach.ai:8443/?a=s3cret", Some("https://api.anyreach.ai:8443"),
            "the URI has userinfo, an `@` in its authority: write https://api.anyreach.ai without it"),
        ("http://api.anyreach.ai/s3cret", Some("http://api.anyreach.ai"),
            "the scheme of the URI is not that of https://api.anyreach.ai: write the URI with https://api.anyreach.ai"),
        ("https://Api.anyreach.ai.:443/s3cret", Some("https://Api.anyreach.ai.:443"),
            "the URI spells the host or port of https://api.anyreach.ai differently: write https://api.anyreach.ai exactly, in lower case"),
        ("/core/s3cret", None,
            "the URI is relative: use an absolute one, such as `Origin::uri` builds for https://api.anyreach.ai, or `RelativeUris::Complete` with a path that starts with exactly one `/`"),
        // The host may repeat the credential.
        ("https://s3cr3tk3ycanaryvalue0123456789.evil.example/", Some("https://[redacted].evil.example"), foreign),
    ];
    for (uri, destination, text) in cases {
        let refusal = send(&layer(), request("GET", uri.parse().unwrap(), &[])).refusal();
        assert_eq!(refusal.refusal().unwrap().destination(), destination);
        assert_eq!(refusal.to_string(), text);
        assert!(!format!("{refusal:?}").contains("evil"), "{refusal:?}");
    }
}
