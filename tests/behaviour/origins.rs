//! Where credentials go: tables of destinations. That the WHATWG `url` crate agrees is in campaigns, `properties`.

use http::header::{AUTHORIZATION, HOST};
use http::{HeaderValue, Request, Uri};
use tower_anyreach::{
    AnyreachAuthLayer, Error, ForeignRequests, InvalidOriginReason, Origin, RefusalReason,
    RelativeUris,
};

use support::{
    KEY, TOKEN, assert_carries, assert_carries_nothing, credential, layer, send, token_for,
};

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

/// GETs of these, with the default origin.
const OF_DEFAULT: &[(&str, To)] = &[
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
    ("https://api.anyreach.ai:+443/", NEAR),
    ("https://api.anyreach.ai:80/", NEAR),
    // 443 modulo 65536, for parsers that let a port overflow.
    ("https://api.anyreach.ai:65979/", NEAR),
    ("https://api.anyreach.ai:443:443/", Unparsable),
    // Userinfo.
    ("https://@api.anyreach.ai/", Refused(Userinfo)),
    ("https://user@api.anyreach.ai/", Refused(Userinfo)),
    ("https://a@b@api.anyreach.ai/", Refused(Userinfo)),
    ("https://user@evil.example/", Refused(Userinfo)),
    ("http://user@api.anyreach.ai/", Refused(Userinfo)),
    // Trailing and other dots.
    ("https://api.anyreach.ai./", NEAR),
    ("https://api..anyreach.ai/", Foreign),
    ("https://api.anyreach.ai.evil.example/", Foreign),
    ("https://api.anyreach.ai.:443.evil.example/", NEAR),
    // Schemes.
    ("http://api.anyreach.ai/", Refused(NearScheme)),
    ("http://api.anyreach.ai:80/", Refused(NearScheme)),
    ("http://API.anyreach.ai./", Refused(NearScheme)),
    ("http://api.anyreach.ai:443/", Refused(NearScheme)),
    ("httpss://api.anyreach.ai/", Refused(NearScheme)),
    ("https+tls://api.anyreach.ai:443/", Refused(NearScheme)),
    ("://api.anyreach.ai/", Refused(NearScheme)),
    (" https://api.anyreach.ai/", Unparsable),
    ("https:///api.anyreach.ai/", Unparsable),
    ("https:\\\\api.anyreach.ai/", Unparsable),
    ("javascript:alert(1)", Refused(NotAbsolute)),
    // Look-alike hosts.
    ("https://anyreach.ai/", Foreign),
    ("https://x.api.anyreach.ai/", Foreign),
    ("https://apianyreach.ai/", Foreign),
    ("https://api.anyreach.ai-evil.example/", Foreign),
    ("https://api.evilanyreach.ai/", Foreign),
    ("https://evil.example/https://api.anyreach.ai/", Foreign),
    ("http://evil.example/", Foreign),
    // IDN and punycode: none of these is our host's text.
    ("https://xn--api-anyreach-ai.example/", Foreign),
    ("https://xn--pi-7kc.anyreach.ai/", Foreign),
    ("https://\u{430}pi.anyreach.ai/", Unparsable),
    ("https://api\u{3002}anyreach.ai/", Unparsable),
    ("https://api.anyreach.ai\u{200b}/", Unparsable),
    // Percent, comma, backslash and other punctuation.
    ("https://api%2eanyreach.ai/", Unparsable),
    ("https://api.anyreach.ai%00/", Unparsable),
    ("https://api.anyreach.ai%40evil.example/", Unparsable),
    ("https://api.anyreach.ai,evil.example/", Foreign),
    ("https://evil.example,api.anyreach.ai/", Foreign),
    ("https://*.anyreach.ai/", Foreign),
    ("https://api.anyreach.ai\\@evil.example/", Unparsable),
    ("https://evil.example\\@api.anyreach.ai/", Unparsable),
    ("https://api.anyreach.ai\r\nHost:evil.example/", Unparsable),
    ("https://api.anyreach.ai\0/", Unparsable),
    ("https://<api.anyreach.ai>/", Unparsable),
    // Addresses.
    ("https://[::1]/", Foreign),
    ("https://[api.anyreach.ai]/", Foreign),
    ("https://api.anyreach.ai]/", Unparsable),
    ("https://[::1]api.anyreach.ai/", Foreign),
    ("https://api.anyreach.ai[::1]/", Foreign),
    // Without a scheme or an authority.
    ("/", Relative),
    ("/core//evil.example", Relative),
    ("/core/\\evil.example", Relative),
    ("/@evil.example", Relative),
    ("/..//evil.example/", Relative),
    ("/%5cevil.example", Relative),
    ("/https://evil.example/", Relative),
    ("//", Refused(NotAbsolute)),
    ("//evil.example", Refused(NotAbsolute)),
    ("//api.anyreach.ai/core", Refused(NotAbsolute)),
    ("//user@evil.example/", Refused(NotAbsolute)),
    ("/\\evil.example", Refused(NotAbsolute)),
    ("/\\/evil.example", Refused(NotAbsolute)),
    ("*", Refused(NotAbsolute)),
    ("?page=1", Unparsable),
    ("", Unparsable),
    ("api.anyreach.ai", Refused(NotAbsolute)),
    ("api.anyreach.ai:443", Refused(NotAbsolute)),
    ("api.anyreach.ai/core", Unparsable),
    ("evil.example:443", Refused(NotAbsolute)),
];

const EXPLICIT_PORT: &str = "https://anyreach.proxy.example:8443";

const OF_EXPLICIT_PORT: &[(&str, To)] = &[
    ("https://anyreach.proxy.example:8443/core/agents?a=b", Ours),
    ("https://ANYREACH.Proxy.Example:8443/", NEAR),
    ("https://anyreach.proxy.example/", NEAR),
    ("https://anyreach.proxy.example:08443/", NEAR),
    ("https://anyreach.proxy.example.:8443/", NEAR),
    ("http://anyreach.proxy.example:8443/", Refused(NearScheme)),
    (
        "https://user@anyreach.proxy.example:8443/",
        Refused(Userinfo),
    ),
    ("https://anyreach.proxy.example.evil:8443/", Foreign),
    // Anyreach itself is another host than the proxy.
    ("https://api.anyreach.ai/", Foreign),
];

const LOOPBACK: &str = "http://127.0.0.1:8080";

const OF_LOOPBACK: &[(&str, To)] = &[
    ("http://127.0.0.1:8080/core/agents?a=b", Ours),
    ("HTTP://127.0.0.1:8080/", Ours),
    ("https://127.0.0.1:8080/", Refused(NearScheme)),
    ("http://127.0.0.1:8081/", NEAR),
    ("http://127.0.0.1.:8080/", NEAR),
    ("http://user@127.0.0.1:8080/", Refused(Userinfo)),
    // Other spellings of the same address: compared as text, they are other hosts.
    ("http://127.1:8080/", Foreign),
    ("http://2130706433:8080/", Foreign),
    ("http://0x7f000001:8080/", Foreign),
    ("http://[::ffff:127.0.0.1]:8080/", Foreign),
    ("http://[::1]:8080/", Foreign),
    ("http://localhost:8080/", Foreign),
];

const LOCALHOST: &str = "http://localhost";

const OF_LOCALHOST: &[(&str, To)] = &[
    ("http://localhost/core", Ours),
    ("http://LOCALHOST/", NEAR),
    ("http://localhost:80/", Ours),
    ("http://localhost:080/", NEAR),
    ("http://localhost./", NEAR),
    ("https://localhost/", Refused(NearScheme)),
    ("http://localhost.evil.example/", Foreign),
];

const IPV6: &str = "http://[::1]:8080";

const OF_IPV6: &[(&str, To)] = &[
    ("http://[::1]:8080/core/agents?a=b", Ours),
    ("https://[::1]:8080/", Refused(NearScheme)),
    ("http://[::1]/", NEAR),
    ("http://[::1]:/", NEAR),
    ("http://[0:0:0:0:0:0:0:1]:8080/", Foreign),
    ("http://[::ffff:127.0.0.1]:8080/", Foreign),
    ("http://::1:8080/", Unparsable),
    ("http://[::1]8080/", NEAR),
    ("[::1]:8080", Refused(NotAbsolute)),
];

const IPV6_LETTERS: &str = "https://[fd00::abcd]";

const OF_IPV6_LETTERS: &[(&str, To)] = &[
    ("https://[fd00::abcd]/", Ours),
    ("https://[FD00::ABCD]/", NEAR),
    ("https://[fd00::abcd]:443/", Ours),
    ("https://[fd00::abcd]:80/", NEAR),
    ("https://[fd00:0::abcd]/", Foreign),
];

const INSECURE: &str = "http://anyreach-egress.mesh.svc";

const OF_INSECURE: &[(&str, To)] = &[
    ("http://anyreach-egress.mesh.svc:80/core", Ours),
    ("https://anyreach-egress.mesh.svc/", Refused(NearScheme)),
    ("http://anyreach-egress.mesh.svc:8080/", NEAR),
    ("http://mesh.svc/", Foreign),
];

/// `Host` headers beside a URI, with the default origin.
const OF_HOST: &[(&str, &[&str], To)] = &[
    (DEFAULT, &["api.anyreach.ai"], Ours),
    (DEFAULT, &["api.anyreach.ai:443"], Ours),
    ("https://api.anyreach.ai:443/", &["api.anyreach.ai"], Ours),
    (DEFAULT, &["API.Anyreach.AI"], WRONG_HOST),
    (DEFAULT, &["evil.example"], WRONG_HOST),
    (DEFAULT, &["api.anyreach.ai:8443"], WRONG_HOST),
    (DEFAULT, &["api.anyreach.ai:"], WRONG_HOST),
    (DEFAULT, &["api.anyreach.ai:0443"], WRONG_HOST),
    (DEFAULT, &["api.anyreach.ai."], WRONG_HOST),
    (DEFAULT, &["api.anyreach.ai "], WRONG_HOST),
    (DEFAULT, &[""], WRONG_HOST),
    (DEFAULT, &["user@api.anyreach.ai"], WRONG_HOST),
    (DEFAULT, &["https://api.anyreach.ai"], WRONG_HOST),
    (DEFAULT, &["api.anyreach.ai,evil.example"], WRONG_HOST),
    (DEFAULT, &["api.anyreach.ai\u{ff}"], WRONG_HOST),
    (DEFAULT, &["api.anyreach.ai", "evil.example"], WRONG_HOST),
    (DEFAULT, &["evil.example", "api.anyreach.ai"], WRONG_HOST),
    // A request that carries no credentials may have any `Host`.
    ("https://evil.example/", &["other.example"], Foreign),
    ("https://evil.example/", &["api.anyreach.ai"], Foreign),
    ("https://evil.example/", &["api.anyreach.ai\u{ff}"], Foreign),
    // A path without a host: `Host` must not name another.
    ("/core", &["api.anyreach.ai:443"], Relative),
    ("/core", &["evil.example"], RelativeWithWrongHost),
    ("/core", &["API.anyreach.ai"], RelativeWithWrongHost),
    ("/core", &["api.anyreach.ai\u{ff}"], RelativeWithWrongHost),
    (
        "/core",
        &["api.anyreach.ai", "evil.example"],
        RelativeWithWrongHost,
    ),
    ("*", &["api.anyreach.ai"], Refused(NotAbsolute)),
];

/// Methods, with the default origin.
const OF_METHOD: &[(&str, &str, To)] = &[
    ("POST", DEFAULT, Ours),
    ("DELETE", DEFAULT, Ours),
    ("OPTIONS", DEFAULT, Ours),
    ("QUERY", DEFAULT, Ours),
    // Methods are case-sensitive: this is an unknown one, which no server echoes or tunnels.
    ("trace", DEFAULT, Ours),
    ("CONNECT", DEFAULT, Refused(BadMethod)),
    ("TRACE", DEFAULT, Refused(BadMethod)),
    ("CONNECT", "api.anyreach.ai:443", Refused(BadMethod)),
    ("CONNECT", "/core", Refused(BadMethod)),
    ("TRACE", "https://evil.example/", Refused(BadMethod)),
    ("TRACE", "*", Refused(BadMethod)),
    ("OPTIONS", "*", Refused(NotAbsolute)),
    ("OPTIONS", "https://evil.example/", Foreign),
    ("OPTIONS", "/core", Relative),
    ("DELETE", "http://api.anyreach.ai/", Refused(NearScheme)),
];

fn request(method: &str, uri: Uri, hosts: &[&str]) -> Request<String> {
    let mut request = Request::new(String::new());
    *request.method_mut() = method.parse().unwrap();
    *request.uri_mut() = uri;
    for host in hosts {
        let host = HeaderValue::from_bytes(host.as_bytes()).unwrap();
        request.headers_mut().append(HOST, host);
    }
    request
}

/// The credentials that a destination is tried with: their text and their organization.
const CREDENTIALS: [(&str, Option<&str>); 2] = [(KEY, None), (TOKEN, Some("org_1"))];

/// Sends a request in every mode, and returns where the outcome is not the expected one.
fn check(origin: &Origin, make: impl Fn() -> Request<String>, to: To) -> Result<(), String> {
    use ForeignRequests::{ForwardWithoutCredentials, Reject};

    for (text, organization) in CREDENTIALS {
        for foreign in [Reject, ForwardWithoutCredentials] {
            for relative in [
                RelativeUris::Reject,
                RelativeUris::Complete,
                RelativeUris::Trust,
            ] {
                let expected = match (to, relative) {
                    (Relative | RelativeWithWrongHost, RelativeUris::Reject) => {
                        Refused(NotAbsolute)
                    }
                    (Relative, _) => Ours,
                    (RelativeWithWrongHost, _) => WRONG_HOST,
                    (Foreign, _) if foreign == Reject => Refused(RefusalReason::ForeignDestination),
                    (to, _) => to,
                };
                let layer = AnyreachAuthLayer::new(
                    organization.map_or_else(|| credential(text), token_for),
                )
                .origin(origin.clone())
                .foreign_requests(foreign)
                .relative_uris(relative);
                let sent = send(&layer, make());
                let found = match &sent.arrived[..] {
                    [head] => {
                        let uri = make().uri().to_string();
                        let is_completed = to == Relative && relative == RelativeUris::Complete;
                        let prefix = is_completed.then(|| origin.to_string());
                        assert_eq!(head.uri.to_string(), prefix.unwrap_or_default() + &uri);
                        if head.headers.contains_key(AUTHORIZATION) {
                            assert_carries(head, text, organization);
                            Ours
                        } else {
                            assert_carries_nothing(head);
                            Foreign
                        }
                    }
                    _ => Refused(reason(&sent.refusal())),
                };
                if found != expected {
                    return Err(format!(
                        "{found:?} instead of {expected:?} ({foreign:?}, {relative:?})"
                    ));
                }
            }
        }
    }
    Ok(())
}

fn reason(error: &Error) -> RefusalReason {
    error.refusal().unwrap().reason()
}

#[test]
fn a_credential_reaches_only_its_origin_in_its_exact_spelling() {
    let tables = [
        (DEFAULT, OF_DEFAULT),
        (EXPLICIT_PORT, OF_EXPLICIT_PORT),
        (LOOPBACK, OF_LOOPBACK),
        (LOCALHOST, OF_LOCALHOST),
        (IPV6, OF_IPV6),
        (IPV6_LETTERS, OF_IPV6_LETTERS),
        (INSECURE, OF_INSECURE),
    ];
    let mut wrong = Vec::new();
    for (origin, table) in tables {
        let parsed = Origin::insecure(origin).unwrap();
        for (text, to) in table {
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
fn a_host_header_must_be_exactly_the_origins_authority() {
    for (uri, hosts, to) in OF_HOST {
        let make = || request("GET", uri.parse().unwrap(), hosts);
        let found = check(&Origin::default(), make, *to);
        assert_eq!(found, Ok(()), "{uri:?} with {hosts:?}");
    }
}

#[test]
fn a_credential_is_never_sent_with_connect_or_trace() {
    for (method, uri, to) in OF_METHOD {
        let make = || request(method, uri.parse().unwrap(), &[]);
        let found = check(&Origin::default(), make, *to);
        assert_eq!(found, Ok(()), "{method} {uri:?}");
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
        ("https", "api.anyreach.ai", "//evil.example/", Ours),
        ("https", "api.anyreach.ai", "/@evil.example", Ours),
        ("https", "api.anyreach.ai:8443", "/", NEAR),
        ("https", "api.anyreach.ai:", "/", NEAR),
        ("https", "user@api.anyreach.ai", "/", Refused(Userinfo)),
        ("http", "api.anyreach.ai", "/", Refused(NearScheme)),
        ("https", "evil.example", "/", Foreign),
        ("https", "evil.example", "//api.anyreach.ai/", Foreign),
        // A path that runs into the authority: written out, each names another host. `http` builds the first, for
        // `OPTIONS *`, and before 1.4.1 all of them.
        ("https", "api.anyreach.ai", "*", NEAR),
        ("https", "api.anyreach.ai", "@evil.example/", NEAR),
        ("https", "api.anyreach.ai", ".evil.example/", NEAR),
        ("https", "api.anyreach.ai", ":8443/", NEAR),
        ("https", "api.anyreach.ai", "x", NEAR),
        // An authority as a path, where `http` builds it.
        ("", "", "//evil.example/", Refused(NotAbsolute)),
        ("", "", "///", Refused(NotAbsolute)),
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
fn origin_takes_scheme_host_and_port_and_shows_them() {
    for (text, shown) in [
        ("https://api.anyreach.ai:443", "https://api.anyreach.ai"),
        ("HTTPS://API.Anyreach.AI", "https://api.anyreach.ai"),
        (
            "https://anyreach.proxy.example:8443",
            "https://anyreach.proxy.example:8443",
        ),
        ("https://proxy:65535", "https://proxy:65535"),
        ("https://under_score.example", "https://under_score.example"),
        (
            "https://xn--bcher-kva.example",
            "https://xn--bcher-kva.example",
        ),
        ("https://10.1.2.3:8443", "https://10.1.2.3:8443"),
        ("https://[FD00::1]:443", "https://[fd00::1]"),
        ("https://[::1]:8443", "https://[::1]:8443"),
        ("http://LocalHost:80", "http://localhost"),
        ("http://localhost:443", "http://localhost:443"),
        ("http://127.255.255.254", "http://127.255.255.254"),
        ("http://[::1]", "http://[::1]"),
        ("http://[0:0:0:0:0:0:0:1]:80", "http://[0:0:0:0:0:0:0:1]"),
    ] {
        let origin: Origin = text.parse().unwrap();
        assert_eq!(origin.to_string(), shown, "{text}");
        assert_eq!(format!("{origin:?}"), format!("Origin({shown})"));
        assert_eq!(Origin::try_from(text).unwrap(), origin);
        assert_eq!(Origin::insecure(text).unwrap(), origin);
        // The displayed text parses to the same origin.
        assert_eq!(shown.parse::<Origin>().unwrap(), origin);
    }
}

#[test]
fn origin_refuses_everything_else_with_its_reason() {
    use InvalidOriginReason::{
        Empty, Host, MissingScheme, PlainHttp, Port, TrailingText, UnknownScheme,
        Userinfo as HasUserinfo,
    };
    for (text, reason) in [
        ("", Empty),
        ("api.anyreach.ai", MissingScheme),
        ("//api.anyreach.ai", MissingScheme),
        ("https:/api.anyreach.ai", MissingScheme),
        ("://api.anyreach.ai", UnknownScheme),
        ("wss://api.anyreach.ai", UnknownScheme),
        (" https://api.anyreach.ai", UnknownScheme),
        ("http://api.anyreach.ai", PlainHttp),
        ("http://anyreach.proxy.example:8080", PlainHttp),
        ("http://128.0.0.1", PlainHttp),
        ("http://[::2]", PlainHttp),
        ("http://localhost.evil.example", PlainHttp),
        ("http://127.0.0.1.evil.example", PlainHttp),
        ("https://user@api.anyreach.ai", HasUserinfo),
        ("https://@api.anyreach.ai", HasUserinfo),
        ("https://api.anyreach.ai/", TrailingText),
        ("https://api.anyreach.ai?a", TrailingText),
        ("https://api.anyreach.ai#a", TrailingText),
        ("https://api.anyreach.ai\\", TrailingText),
        ("https:///", TrailingText),
        ("https://", Host),
        ("https://.", Host),
        ("https://api.anyreach.ai.", Host),
        ("https://api..anyreach.ai", Host),
        ("https://api.anyreach.ai ", Host),
        ("https://api.anyreach.ai\n", Host),
        ("https://api%2eanyreach.ai", Host),
        ("https://api.anyreach.ai,evil", Host),
        ("https://b\u{fc}cher.example", Host),
        ("https://127.1", Host),
        ("https://0x7f000001", Host),
        ("https://0177.0.0.1", Host),
        ("https://256.0.0.1", Host),
        ("https://proxy.1", Host),
        ("https://::1", Host),
        ("https://[::1", Host),
        ("https://[]", Host),
        ("https://[1.2.3.4]", Host),
        ("https://[fe80::1%25eth0]", Host),
        ("https://[::1]x", Host),
        ("https://api.anyreach.ai:", Port),
        ("https://api.anyreach.ai:0", Port),
        ("https://api.anyreach.ai:0443", Port),
        ("https://api.anyreach.ai:+443", Port),
        ("https://api.anyreach.ai:65536", Port),
        ("https://api.anyreach.ai:443:443", Port),
        ("https://[::1]:", Port),
    ] {
        for outcome in [text.parse(), Origin::try_from(text)] {
            assert_eq!(outcome.unwrap_err().reason(), reason, "{text:?}");
        }
        let insecurely = Origin::insecure(text).map_err(|error| error.reason());
        if reason == PlainHttp {
            assert!(insecurely.is_ok(), "{text:?}");
        } else {
            assert_eq!(insecurely, Err(reason), "{text:?}");
        }
    }
}

#[test]
fn an_origin_with_its_default_port_is_the_one_without() {
    let origin = |text: &str| Origin::insecure(text).unwrap();
    assert_eq!(origin(DEFAULT), Origin::default());
    assert_eq!(Origin::default().to_string(), DEFAULT);
    assert_ne!(origin("https://a"), origin("https://a:80"));
    assert_ne!(origin("http://a"), origin("http://a:443"));
    assert_ne!(origin("https://a"), origin("http://a"));
    assert_ne!(origin("https://a:443"), origin("http://a:80"));
    assert_ne!(origin("https://a"), origin("https://b"));
}

#[test]
fn an_origin_builds_uris_of_its_own_and_refuses_what_is_no_path() {
    for (origin, text) in [
        (Origin::default(), DEFAULT),
        (EXPLICIT_PORT.parse().unwrap(), EXPLICIT_PORT),
        (IPV6.parse().unwrap(), IPV6),
    ] {
        for path in [
            "/",
            "/core/agents?page=1",
            "//evil.example/",
            "/@evil.example",
        ] {
            let uri = origin.uri(path).unwrap();
            assert_eq!(uri.to_string(), format!("{text}{path}"));
            let found = check(&origin, || request("GET", uri.clone(), &[]), Ours);
            assert_eq!(found, Ok(()), "{uri}");
        }
        for path in [
            "",
            "core",
            "*",
            "?a",
            "@evil.example/",
            ":8443/",
            "https://a/",
            "/a b",
        ] {
            assert!(origin.uri(path).is_err(), "{path}");
        }
    }
}

#[test]
fn a_refusal_names_the_origin_and_shows_the_destination_by_name_only() {
    for (uri, destination, text) in [
        (
            "https://evil.example/upload?signature=s3cret",
            Some("https://evil.example"),
            "the request goes to a host other than https://api.anyreach.ai, the configured origin: insert an `Anonymous` \
             extension, use another client, or set `origin`",
        ),
        (
            "https://user:s3cret@api.anyreach.ai:8443/?a=s3cret",
            Some("https://api.anyreach.ai:8443"),
            "the URI has userinfo, an `@` in its authority: write https://api.anyreach.ai without it",
        ),
        (
            "http://api.anyreach.ai/s3cret",
            Some("http://api.anyreach.ai"),
            "the scheme of the URI is not that of https://api.anyreach.ai: write the URI with https://api.anyreach.ai",
        ),
        (
            "https://Api.anyreach.ai.:443/s3cret",
            Some("https://Api.anyreach.ai.:443"),
            "the URI spells the host or port of https://api.anyreach.ai differently: write https://api.anyreach.ai exactly, in \
             lower case",
        ),
        (
            "/core/s3cret",
            None,
            "the URI is relative: use an absolute one, such as `Origin::uri` builds for https://api.anyreach.ai, or \
             `RelativeUris::Complete` with a path that starts with exactly one `/`",
        ),
        // The host may repeat the credential.
        (
            "https://s3cr3tk3ycanaryvalue0123456789.evil.example/",
            Some("https://[redacted].evil.example"),
            "the request goes to a host other than https://api.anyreach.ai, the configured origin: insert an `Anonymous` \
             extension, use another client, or set `origin`",
        ),
    ] {
        let refusal = send(&layer(), request("GET", uri.parse().unwrap(), &[])).refusal();
        assert_eq!(refusal.refusal().unwrap().destination(), destination);
        assert_eq!(refusal.to_string(), text);
        assert!(!format!("{refusal:?}").contains("evil"), "{refusal:?}");
    }
}
