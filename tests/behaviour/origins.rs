//! Where credentials go: tables of destinations. That the WHATWG `url` crate agrees is in campaigns, `properties`.

use http::header::{AUTHORIZATION, HOST};
use http::request::Parts;
use http::uri::PathAndQuery;
use http::{HeaderValue, Request, Uri};
use tower_anyreach::{
    AnyreachAuthLayer, DestinationReason, Error, ForeignRequests, InvalidOriginReason, Origin,
};

use support::{KEY, ORG, TOKEN, credential, send, token_for, values};

/// What is to become of a request with some URI.
#[derive(Debug, Clone, Copy, PartialEq)]
enum To {
    /// Credentials go there.
    Ours,
    /// Somebody else's: refused or forwarded without credentials, as the layer was told.
    Foreign,
    /// Refused in every mode.
    Refused(DestinationReason),
    /// Ours if relative URIs are allowed, or else refused as relative.
    Relative,
    /// Refused for its `Host` if relative URIs are allowed, or else as relative.
    RelativeWithWrongHost,
    /// No request can have this URI: `http` does not parse it.
    Unparsable,
}

use DestinationReason::{
    Authority as NearAuthority, HostHeader, Method as BadMethod, Relative as NotAbsolute,
    Scheme as NearScheme, Userinfo,
};
use To::{Foreign, Ours, Refused, Relative, RelativeWithWrongHost, Unparsable};

const DEFAULT: &str = "https://api.anyreach.ai";

/// GETs of these, with the default origin.
const OF_DEFAULT: &[(&str, To)] = &[
    // The origin itself.
    ("https://api.anyreach.ai", Ours),
    ("https://api.anyreach.ai/", Ours),
    ("https://api.anyreach.ai?page=1", Ours),
    ("https://api.anyreach.ai/?next=https://evil.example/", Ours),
    ("https://api.anyreach.ai/user@evil.example", Ours),
    ("https://api.anyreach.ai//evil.example/", Ours),
    ("https://api.anyreach.ai/%2e%2e/%40evil.example", Ours),
    ("https://api.anyreach.ai/core/agents#fragment", Ours),
    ("https://api.anyreach.ai#@evil.example", Ours),
    ("https://api.anyreach.ai:443", Ours),
    ("https://api.anyreach.ai:443/core/agents?a=b", Ours),
    ("https://API.ANYREACH.AI/", Ours),
    ("HTTPS://api.anyreach.ai/", Ours),
    ("HtTpS://API.anyreach.ai:443/", Ours),
    // Ports.
    ("https://api.anyreach.ai:/", Refused(NearAuthority)),
    ("https://api.anyreach.ai:0443/", Refused(NearAuthority)),
    ("https://api.anyreach.ai:+443/", Refused(NearAuthority)),
    ("https://api.anyreach.ai:a/", Refused(NearAuthority)),
    ("https://api.anyreach.ai:0x1bb/", Refused(NearAuthority)),
    ("https://api.anyreach.ai:4430/", Refused(NearAuthority)),
    ("https://api.anyreach.ai:0/", Refused(NearAuthority)),
    ("https://api.anyreach.ai:80/", Refused(NearAuthority)),
    ("https://api.anyreach.ai:8443/", Refused(NearAuthority)),
    // 443 modulo 65536, for those who let a port overflow.
    ("https://api.anyreach.ai:65979/", Refused(NearAuthority)),
    ("https://api.anyreach.ai:443:443/", Unparsable),
    // Userinfo.
    ("https://@api.anyreach.ai/", Refused(Userinfo)),
    ("https://user@api.anyreach.ai/", Refused(Userinfo)),
    ("https://user:pass@api.anyreach.ai/", Refused(Userinfo)),
    ("https://user@api.anyreach.ai:443/", Refused(Userinfo)),
    ("https://api.anyreach.ai@evil.example/", Refused(Userinfo)),
    ("https://evil.example@api.anyreach.ai/", Refused(Userinfo)),
    ("https://a@b@api.anyreach.ai/", Refused(Userinfo)),
    ("https://user@evil.example/", Refused(Userinfo)),
    ("http://user@api.anyreach.ai/", Refused(Userinfo)),
    ("https://user@[::1]/", Refused(Userinfo)),
    // Trailing and other dots.
    ("https://api.anyreach.ai./", Refused(NearAuthority)),
    ("https://api.anyreach.ai.:443/", Refused(NearAuthority)),
    ("https://.api.anyreach.ai/", Foreign),
    ("https://api..anyreach.ai/", Foreign),
    ("https://api.anyreach.ai.evil.example/", Foreign),
    (
        "https://api.anyreach.ai.:443.evil.example/",
        Refused(NearAuthority),
    ),
    // Schemes.
    ("http://api.anyreach.ai", Refused(NearScheme)),
    ("http://api.anyreach.ai/", Refused(NearScheme)),
    ("http://api.anyreach.ai:443/", Refused(NearScheme)),
    ("http://api.anyreach.ai:80/", Refused(NearAuthority)),
    ("http://api.anyreach.ai./", Refused(NearAuthority)),
    ("wss://api.anyreach.ai/", Refused(NearScheme)),
    ("ftp://api.anyreach.ai/", Refused(NearScheme)),
    ("httpss://api.anyreach.ai/", Refused(NearScheme)),
    ("https+tls://api.anyreach.ai:443/", Refused(NearScheme)),
    ("://api.anyreach.ai/", Refused(NearScheme)),
    (" https://api.anyreach.ai/", Unparsable),
    ("https:/api.anyreach.ai/", Unparsable),
    ("https:///api.anyreach.ai/", Unparsable),
    ("https:\\\\api.anyreach.ai/", Unparsable),
    ("javascript:alert(1)", Refused(NotAbsolute)),
    ("mailto:a@api.anyreach.ai", Refused(NotAbsolute)),
    // Look-alike hosts.
    ("https://anyreach.ai/", Foreign),
    ("https://x.api.anyreach.ai/", Foreign),
    ("https://api.anyreach.ai.example/", Foreign),
    ("https://api.anyreach.aii/", Foreign),
    ("https://api.anyreach.a/", Foreign),
    ("https://api/", Foreign),
    ("https://apianyreach.ai/", Foreign),
    ("https://api-anyreach.ai/", Foreign),
    ("https://api.anyreach.ai-evil.example/", Foreign),
    ("https://xapi.anyreach.ai/", Foreign),
    ("https://pi.anyreach.ai/", Foreign),
    ("https://api.evilanyreach.ai/", Foreign),
    ("https://api.anyreech.ai/", Foreign),
    ("https://api.anyreach.al/", Foreign),
    ("https://evil.example/api.anyreach.ai", Foreign),
    ("https://evil.example/https://api.anyreach.ai/", Foreign),
    ("https://evil.example/@api.anyreach.ai/", Foreign),
    ("https://evil.example?@api.anyreach.ai/", Foreign),
    ("https://evil.example#@api.anyreach.ai/", Foreign),
    ("https://evil.example:443/", Foreign),
    ("http://localhost/", Foreign),
    ("http://evil.example/", Foreign),
    // IDN and punycode: none of these is our host's text.
    ("https://xn--api-anyreach-ai.example/", Foreign),
    ("https://xn--pi-7kc.anyreach.ai/", Foreign),
    ("https://api.xn--nyreach-1fh.ai/", Foreign),
    ("https://\u{430}pi.anyreach.ai/", Unparsable),
    ("https://api\u{3002}anyreach.ai/", Unparsable),
    ("https://api.anyreach.ai\u{200b}/", Unparsable),
    // Percent, comma, backslash and other punctuation.
    ("https://api%2eanyreach.ai/", Unparsable),
    ("https://api.anyreach.ai%00/", Unparsable),
    ("https://api.anyreach.ai%40evil.example/", Unparsable),
    ("https://api.anyreach.ai,evil.example/", Foreign),
    ("https://evil.example,api.anyreach.ai/", Foreign),
    ("https://api.anyreach.ai;evil.example/", Foreign),
    ("https://(api.anyreach.ai)/", Foreign),
    ("https://*.anyreach.ai/", Foreign),
    ("https://api.anyreach.ai-/", Foreign),
    ("https://api.anyreach.ai\\@evil.example/", Unparsable),
    ("https://evil.example\\@api.anyreach.ai/", Unparsable),
    ("https://api.anyreach.ai\r\nHost:evil.example/", Unparsable),
    ("https://api.anyreach.ai\0/", Unparsable),
    ("https://<api.anyreach.ai>/", Unparsable),
    // Addresses.
    ("https://127.0.0.1/", Foreign),
    ("https://[::1]/", Foreign),
    ("https://[::ffff:127.0.0.1]/", Foreign),
    ("https://[api.anyreach.ai]/", Foreign),
    ("https://api.anyreach.ai]/", Unparsable),
    ("https://[::1]api.anyreach.ai/", Foreign),
    ("https://api.anyreach.ai[::1]/", Foreign),
    // Without a scheme or an authority.
    ("/", Relative),
    ("/core/agents?page=1", Relative),
    ("/?next=//evil.example", Relative),
    ("/core//evil.example", Relative),
    ("/core/\\evil.example", Relative),
    ("/@evil.example", Relative),
    ("/:443", Relative),
    ("/..//evil.example/", Relative),
    ("/%5cevil.example", Relative),
    ("/https://evil.example/", Relative),
    ("//", Refused(NotAbsolute)),
    ("//evil.example", Refused(NotAbsolute)),
    ("//api.anyreach.ai/core", Refused(NotAbsolute)),
    ("///evil.example", Refused(NotAbsolute)),
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
    ("user@api.anyreach.ai", Refused(NotAbsolute)),
    ("core", Refused(NotAbsolute)),
    ("..", Refused(NotAbsolute)),
];

const EXPLICIT_PORT: &str = "https://anyreach.proxy.example:8443";

const OF_EXPLICIT_PORT: &[(&str, To)] = &[
    ("https://anyreach.proxy.example:8443", Ours),
    ("https://anyreach.proxy.example:8443/core/agents?a=b", Ours),
    ("https://ANYREACH.Proxy.Example:8443/", Ours),
    ("https://anyreach.proxy.example/", Refused(NearAuthority)),
    (
        "https://anyreach.proxy.example:443/",
        Refused(NearAuthority),
    ),
    ("https://anyreach.proxy.example:/", Refused(NearAuthority)),
    (
        "https://anyreach.proxy.example:08443/",
        Refused(NearAuthority),
    ),
    (
        "https://anyreach.proxy.example:84430/",
        Refused(NearAuthority),
    ),
    (
        "https://anyreach.proxy.example.:8443/",
        Refused(NearAuthority),
    ),
    ("http://anyreach.proxy.example:8443/", Refused(NearScheme)),
    (
        "https://user@anyreach.proxy.example:8443/",
        Refused(Userinfo),
    ),
    ("https://proxy.example:8443/", Foreign),
    ("https://anyreach.proxy.example.evil:8443/", Foreign),
    ("https://anyreach.proxy.example8443/", Foreign),
    // Anyreach itself is foreign to a proxy of one's own.
    ("https://api.anyreach.ai/", Foreign),
];

const LOOPBACK: &str = "http://127.0.0.1:8080";

const OF_LOOPBACK: &[(&str, To)] = &[
    ("http://127.0.0.1:8080", Ours),
    ("http://127.0.0.1:8080/core/agents?a=b", Ours),
    ("HTTP://127.0.0.1:8080/", Ours),
    ("https://127.0.0.1:8080/", Refused(NearScheme)),
    ("http://127.0.0.1/", Refused(NearAuthority)),
    ("http://127.0.0.1:/", Refused(NearAuthority)),
    ("http://127.0.0.1:8081/", Refused(NearAuthority)),
    ("http://127.0.0.1.:8080/", Refused(NearAuthority)),
    ("http://user@127.0.0.1:8080/", Refused(Userinfo)),
    // Other spellings of the same address: compared as text, they are other hosts.
    ("http://127.1:8080/", Foreign),
    ("http://2130706433:8080/", Foreign),
    ("http://0x7f000001:8080/", Foreign),
    ("http://0177.0.0.1:8080/", Foreign),
    ("http://[::ffff:127.0.0.1]:8080/", Foreign),
    ("http://[::1]:8080/", Foreign),
    ("http://localhost:8080/", Foreign),
    ("http://127.0.0.2:8080/", Foreign),
    ("http://0.0.0.0:8080/", Foreign),
    ("127.0.0.1:8080", Refused(NotAbsolute)),
];

const LOCALHOST: &str = "http://localhost";

const OF_LOCALHOST: &[(&str, To)] = &[
    ("http://localhost", Ours),
    ("http://localhost/core", Ours),
    ("http://LOCALHOST/", Ours),
    ("http://localhost:80/", Ours),
    ("http://localhost:080/", Refused(NearAuthority)),
    ("http://localhost:443/", Refused(NearAuthority)),
    ("http://localhost./", Refused(NearAuthority)),
    ("https://localhost/", Refused(NearScheme)),
    ("http://localhost.evil.example/", Foreign),
    ("http://x.localhost/", Foreign),
];

const IPV6: &str = "http://[::1]:8080";

const OF_IPV6: &[(&str, To)] = &[
    ("http://[::1]:8080", Ours),
    ("http://[::1]:8080/core/agents?a=b", Ours),
    ("https://[::1]:8080/", Refused(NearScheme)),
    ("http://[::1]/", Refused(NearAuthority)),
    ("http://[::1]:/", Refused(NearAuthority)),
    ("http://[::1]:8081/", Refused(NearAuthority)),
    ("http://user@[::1]:8080/", Refused(Userinfo)),
    ("http://[0:0:0:0:0:0:0:1]:8080/", Foreign),
    ("http://[::0.0.0.1]:8080/", Foreign),
    ("http://[::2]:8080/", Foreign),
    ("http://[::ffff:127.0.0.1]:8080/", Foreign),
    ("http://::1:8080/", Unparsable),
    ("http://[::1]8080/", Refused(NearAuthority)),
    ("http://127.0.0.1:8080/", Foreign),
    ("[::1]:8080", Refused(NotAbsolute)),
];

const IPV6_LETTERS: &str = "https://[fd00::abcd]";

const OF_IPV6_LETTERS: &[(&str, To)] = &[
    ("https://[fd00::abcd]/", Ours),
    ("https://[FD00::ABCD]/", Ours),
    ("https://[fd00::abcd]:443/", Ours),
    ("https://[fd00::abcd]:80/", Refused(NearAuthority)),
    ("https://[fd00:0::abcd]/", Foreign),
    ("https://[fd00::abcd:1]/", Foreign),
];

/// `Host` headers beside a URI, with the default origin.
const OF_HOST: &[(&str, &[&str], To)] = &[
    (DEFAULT, &["api.anyreach.ai"], Ours),
    (DEFAULT, &["API.Anyreach.AI"], Ours),
    (DEFAULT, &["api.anyreach.ai:443"], Ours),
    ("https://api.anyreach.ai:443/", &["api.anyreach.ai"], Ours),
    ("https://API.anyreach.ai/", &["api.anyreach.ai:443"], Ours),
    (DEFAULT, &["evil.example"], Refused(HostHeader)),
    (DEFAULT, &["api.anyreach.ai:8443"], Refused(HostHeader)),
    (DEFAULT, &["api.anyreach.ai:"], Refused(HostHeader)),
    (DEFAULT, &["api.anyreach.ai:0443"], Refused(HostHeader)),
    (DEFAULT, &["api.anyreach.ai:80"], Refused(HostHeader)),
    (DEFAULT, &["api.anyreach.ai."], Refused(HostHeader)),
    (DEFAULT, &[" api.anyreach.ai"], Refused(HostHeader)),
    (DEFAULT, &["api.anyreach.ai "], Refused(HostHeader)),
    (DEFAULT, &[""], Refused(HostHeader)),
    (DEFAULT, &["user@api.anyreach.ai"], Refused(HostHeader)),
    (DEFAULT, &["https://api.anyreach.ai"], Refused(HostHeader)),
    (DEFAULT, &["api.anyreach.ai/"], Refused(HostHeader)),
    (
        DEFAULT,
        &["api.anyreach.ai,evil.example"],
        Refused(HostHeader),
    ),
    (DEFAULT, &["x.api.anyreach.ai"], Refused(HostHeader)),
    (
        DEFAULT,
        &["api.anyreach.ai", "evil.example"],
        Refused(HostHeader),
    ),
    (
        DEFAULT,
        &["evil.example", "api.anyreach.ai"],
        Refused(HostHeader),
    ),
    (
        DEFAULT,
        &["api.anyreach.ai", "api.anyreach.ai"],
        Refused(HostHeader),
    ),
    // A foreign URI may have the `Host` it likes, except ours.
    ("https://evil.example/", &["evil.example"], Foreign),
    ("https://evil.example/", &["other.example"], Foreign),
    ("https://evil.example/", &[""], Foreign),
    ("https://evil.example/", &["x.api.anyreach.ai"], Foreign),
    (
        "https://evil.example/",
        &["api.anyreach.ai.example"],
        Foreign,
    ),
    (
        "https://evil.example/",
        &["a.example", "b.example"],
        Foreign,
    ),
    (
        "https://evil.example/",
        &["api.anyreach.ai"],
        Refused(HostHeader),
    ),
    (
        "https://evil.example/",
        &["API.ANYREACH.AI"],
        Refused(HostHeader),
    ),
    (
        "https://evil.example/",
        &["api.anyreach.ai:443"],
        Refused(HostHeader),
    ),
    (
        "https://evil.example/",
        &["api.anyreach.ai:8443"],
        Refused(HostHeader),
    ),
    (
        "https://evil.example/",
        &["api.anyreach.ai."],
        Refused(HostHeader),
    ),
    (
        "https://evil.example/",
        &[" api.anyreach.ai "],
        Refused(HostHeader),
    ),
    (
        "https://evil.example/",
        &["user@api.anyreach.ai"],
        Refused(HostHeader),
    ),
    (
        "https://evil.example/",
        &["evil.example", "api.anyreach.ai"],
        Refused(HostHeader),
    ),
    (
        "https://evil.example/",
        &["api.anyreach.ai", "evil.example"],
        Refused(HostHeader),
    ),
    (
        "https://127.0.0.1/",
        &["api.anyreach.ai"],
        Refused(HostHeader),
    ),
    // A near miss stays one, whatever `Host` says.
    (
        "http://api.anyreach.ai/",
        &["api.anyreach.ai"],
        Refused(NearScheme),
    ),
    (
        "https://api.anyreach.ai:8443/",
        &["api.anyreach.ai"],
        Refused(NearAuthority),
    ),
    (
        "https://user@api.anyreach.ai/",
        &["api.anyreach.ai"],
        Refused(Userinfo),
    ),
    // A path without a host: `Host` must not name another.
    ("/core", &["api.anyreach.ai"], Relative),
    ("/core", &["API.anyreach.ai:443"], Relative),
    ("/core", &["evil.example"], RelativeWithWrongHost),
    ("/core", &["api.anyreach.ai:8443"], RelativeWithWrongHost),
    ("/core", &["api.anyreach.ai."], RelativeWithWrongHost),
    ("/core", &[""], RelativeWithWrongHost),
    (
        "/core",
        &["api.anyreach.ai", "api.anyreach.ai"],
        RelativeWithWrongHost,
    ),
    (
        "/core",
        &["api.anyreach.ai", "evil.example"],
        RelativeWithWrongHost,
    ),
    (
        "//evil.example/",
        &["api.anyreach.ai"],
        Refused(NotAbsolute),
    ),
    ("*", &["api.anyreach.ai"], Refused(NotAbsolute)),
    (
        "api.anyreach.ai:443",
        &["api.anyreach.ai"],
        Refused(NotAbsolute),
    ),
];

/// Methods, with the default origin.
const OF_METHOD: &[(&str, &str, To)] = &[
    ("GET", DEFAULT, Ours),
    ("HEAD", DEFAULT, Ours),
    ("POST", DEFAULT, Ours),
    ("PUT", DEFAULT, Ours),
    ("PATCH", DEFAULT, Ours),
    ("DELETE", DEFAULT, Ours),
    ("OPTIONS", DEFAULT, Ours),
    ("QUERY", DEFAULT, Ours),
    // Methods are case-sensitive: this is an unknown one, which nobody echoes or tunnels.
    ("trace", DEFAULT, Ours),
    ("CONNECT", DEFAULT, Refused(BadMethod)),
    ("TRACE", DEFAULT, Refused(BadMethod)),
    ("CONNECT", "api.anyreach.ai:443", Refused(BadMethod)),
    ("CONNECT", "evil.example:443", Refused(BadMethod)),
    ("CONNECT", "https://evil.example/", Refused(BadMethod)),
    ("CONNECT", "/core", Refused(BadMethod)),
    ("TRACE", "https://evil.example/", Refused(BadMethod)),
    ("TRACE", "/core", Refused(BadMethod)),
    ("TRACE", "*", Refused(BadMethod)),
    ("OPTIONS", "*", Refused(NotAbsolute)),
    ("OPTIONS", "https://evil.example/", Foreign),
    ("OPTIONS", "/core", Relative),
    ("DELETE", "http://api.anyreach.ai/", Refused(NearScheme)),
    ("GET", "api.anyreach.ai:443", Refused(NotAbsolute)),
];

fn request(method: &str, uri: Uri, hosts: &[&str]) -> Request<String> {
    let mut request = Request::new(String::new());
    *request.method_mut() = method.parse().unwrap();
    *request.uri_mut() = uri;
    for host in hosts {
        let host = HeaderValue::from_str(host).unwrap();
        request.headers_mut().append(HOST, host);
    }
    request
}

/// The credentials that a destination is tried with: their text and their organization.
const CREDENTIALS: [(&str, Option<&str>); 2] = [(KEY, None), (TOKEN, Some("org_1"))];

fn layer(
    origin: &Origin,
    text: &str,
    relative: bool,
    foreign: ForeignRequests,
) -> AnyreachAuthLayer {
    let credential = if text == TOKEN {
        token_for("org_1")
    } else {
        credential(text)
    };
    let layer = AnyreachAuthLayer::new(credential)
        .origin(origin.clone())
        .foreign_requests(foreign);
    if relative {
        layer.allow_relative_uris()
    } else {
        layer
    }
}

/// Sends a request in every mode, and says where the outcome is not the expected one.
fn check(origin: &str, make: impl Fn() -> Request<String>, to: To) -> Result<(), String> {
    use ForeignRequests::{ForwardWithoutCredentials, Reject};

    let origin: Origin = origin.parse().unwrap();
    for (text, organization) in CREDENTIALS {
        for foreign in [Reject, ForwardWithoutCredentials] {
            for relative in [false, true] {
                let expected = match (to, relative) {
                    (Relative, true) => Ours,
                    (RelativeWithWrongHost, true) => Refused(HostHeader),
                    (Relative | RelativeWithWrongHost, false) => Refused(NotAbsolute),
                    (Foreign, _) if foreign == Reject => Refused(DestinationReason::Foreign),
                    (to, _) => to,
                };
                let sent = send(&layer(&origin, text, relative, foreign), make());
                let found = match &sent.arrived[..] {
                    [head] if carries(head, text, organization) => Ours,
                    [head] => {
                        assert_carries_nothing(head);
                        Foreign
                    }
                    _ => match sent.refusal() {
                        Error::UntrustedDestination(destination) => Refused(destination.reason()),
                        other => panic!("{other:?}"),
                    },
                };
                if found != expected {
                    return Err(format!(
                        "{found:?} instead of {expected:?} ({foreign:?}, relative: {relative})"
                    ));
                }
            }
        }
    }
    Ok(())
}

/// Whether it carries exactly this credential; any other header of ours is a failure.
fn carries(head: &Parts, text: &str, organization: Option<&str>) -> bool {
    if !head.headers.contains_key(AUTHORIZATION) {
        return false;
    }
    let bearer = format!("Bearer {text}");
    let organization: Vec<_> = organization.into_iter().map(str::as_bytes).collect();
    assert_eq!(values(&head.headers, &AUTHORIZATION), [bearer.as_bytes()]);
    assert_eq!(values(&head.headers, &ORG), organization);
    true
}

fn assert_carries_nothing(head: &Parts) {
    assert!(!head.headers.contains_key(AUTHORIZATION) && !head.headers.contains_key(&ORG));
}

#[test]
fn a_credential_reaches_only_its_origin() {
    let tables = [
        (DEFAULT, OF_DEFAULT),
        (EXPLICIT_PORT, OF_EXPLICIT_PORT),
        (LOOPBACK, OF_LOOPBACK),
        (LOCALHOST, OF_LOCALHOST),
        (IPV6, OF_IPV6),
        (IPV6_LETTERS, OF_IPV6_LETTERS),
    ];
    let mut parsed = 0;
    let mut wrong = Vec::new();
    for (origin, table) in tables {
        for (text, to) in table {
            let found = match (text.parse::<Uri>(), to) {
                (Err(_), Unparsable) => Ok(()),
                (Err(_), _) => Err("`http` does not parse it".to_owned()),
                (Ok(_), Unparsable) => Err("`http` parses it".to_owned()),
                (Ok(uri), _) => {
                    parsed += 1;
                    check(origin, || request("GET", uri.clone(), &[]), *to)
                }
            };
            if let Err(found) = found {
                wrong.push(format!("{origin}: {text:?}: {found}"));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert!(parsed >= 170, "{parsed}");
}

#[test]
fn a_host_header_must_agree_with_the_uri() {
    let wrong: Vec<_> = OF_HOST
        .iter()
        .filter_map(|(uri, hosts, to)| {
            check(DEFAULT, || request("GET", uri.parse().unwrap(), hosts), *to)
                .err()
                .map(|found| format!("{uri:?} with {hosts:?}: {found}"))
        })
        .collect();
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn a_host_header_that_is_not_text_agrees_with_nothing() {
    let make = |uri: &str| {
        let mut request = request("GET", uri.parse().unwrap(), &[]);
        let host = HeaderValue::from_bytes(b"api.anyreach.ai\xff").unwrap();
        request.headers_mut().insert(HOST, host);
        request
    };
    check(DEFAULT, || make(DEFAULT), Refused(HostHeader)).unwrap();
    check(DEFAULT, || make("/core"), RelativeWithWrongHost).unwrap();
    check(DEFAULT, || make("https://evil.example/"), Foreign).unwrap();
}

#[test]
fn a_credential_is_never_sent_with_connect_or_trace() {
    let wrong: Vec<_> = OF_METHOD
        .iter()
        .filter_map(|(method, uri, to)| {
            check(DEFAULT, || request(method, uri.parse().unwrap(), &[]), *to)
                .err()
                .map(|found| format!("{method} {uri:?}: {found}"))
        })
        .collect();
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn a_uri_that_was_built_is_judged_as_one_that_was_parsed() {
    let rows = [
        ("https", "api.anyreach.ai", "/core", Ours),
        ("https", "api.anyreach.ai:443", "/", Ours),
        ("https", "API.ANYREACH.AI", "/", Ours),
        // `http` itself takes this scheme for another one unless it is parsed as part of a URI.
        ("HTTPS", "api.anyreach.ai", "/", Refused(NearScheme)),
        ("https", "api.anyreach.ai", "//evil.example/", Ours),
        ("https", "api.anyreach.ai", "/@evil.example", Ours),
        ("https", "api.anyreach.ai:8443", "/", Refused(NearAuthority)),
        ("https", "api.anyreach.ai:", "/", Refused(NearAuthority)),
        (
            "https",
            "api.anyreach.ai:99999",
            "/",
            Refused(NearAuthority),
        ),
        ("https", "user@api.anyreach.ai", "/", Refused(Userinfo)),
        ("http", "api.anyreach.ai", "/", Refused(NearScheme)),
        ("https", "evil.example", "/", Foreign),
        ("https", "evil.example", "//api.anyreach.ai/", Foreign),
    ];
    for (scheme, authority, path, to) in rows {
        let make = || {
            let uri = Uri::builder()
                .scheme(scheme)
                .authority(authority)
                .path_and_query(path)
                .build()
                .unwrap();
            request("GET", uri, &[])
        };
        let found = check(DEFAULT, make, to);
        assert_eq!(found, Ok(()), "{scheme} {authority} {path}");
    }

    // `//evil.example` and `/\evil.example` as a path of its own, if `http` builds such a thing at all.
    for path in [
        "//evil.example/",
        "///",
        "/\\evil.example",
        "\\/evil.example",
    ] {
        let Ok(path) = path.parse::<PathAndQuery>() else {
            continue;
        };
        let make = || {
            let uri = Uri::builder().path_and_query(path.clone()).build().unwrap();
            request("GET", uri, &[])
        };
        assert_eq!(check(DEFAULT, make, Refused(NotAbsolute)), Ok(()), "{path}");
    }
}

#[test]
fn an_absolute_uri_whose_path_runs_into_the_authority_gets_no_credential() {
    // `http` builds the first (for `OPTIONS *`), and before 1.4.1 all of them. Written out, each names another host.
    for path in ["*", "@evil.example/", ".evil.example/", ":8443/", "x"] {
        let Ok(uri) = Uri::builder()
            .scheme("https")
            .authority("api.anyreach.ai")
            .path_and_query(path)
            .build()
        else {
            continue;
        };
        for (foreign, method) in [
            (ForeignRequests::Reject, "GET"),
            (ForeignRequests::ForwardWithoutCredentials, "OPTIONS"),
        ] {
            let layer = layer(&Origin::default(), KEY, true, foreign);
            let refusal = send(&layer, request(method, uri.clone(), &[])).refusal();
            assert!(matches!(refusal, Error::UntrustedDestination(_)), "{uri}");
        }
    }
}

#[test]
fn origin_takes_scheme_host_and_port_and_shows_them() {
    for (text, shown) in [
        ("https://api.anyreach.ai", "https://api.anyreach.ai"),
        ("https://api.anyreach.ai:443", "https://api.anyreach.ai"),
        ("HTTPS://API.Anyreach.AI", "https://api.anyreach.ai"),
        (
            "https://anyreach.proxy.example:8443",
            "https://anyreach.proxy.example:8443",
        ),
        ("https://proxy:1", "https://proxy:1"),
        ("https://proxy:65535", "https://proxy:65535"),
        ("https://proxy:80", "https://proxy:80"),
        ("https://under_score.example", "https://under_score.example"),
        (
            "https://xn--bcher-kva.example",
            "https://xn--bcher-kva.example",
        ),
        ("https://10.1.2.3:8443", "https://10.1.2.3:8443"),
        ("https://[fd00::1]", "https://[fd00::1]"),
        ("https://[FD00::1]:443", "https://[fd00::1]"),
        ("https://[::1]:8443", "https://[::1]:8443"),
        ("http://localhost", "http://localhost"),
        ("http://LocalHost:80", "http://localhost"),
        ("http://localhost:8080", "http://localhost:8080"),
        ("http://localhost:443", "http://localhost:443"),
        ("http://127.0.0.1:1", "http://127.0.0.1:1"),
        ("http://127.255.255.254", "http://127.255.255.254"),
        ("http://[::1]", "http://[::1]"),
        ("http://[0:0:0:0:0:0:0:1]:80", "http://[0:0:0:0:0:0:0:1]"),
    ] {
        let origin: Origin = text.parse().unwrap();
        assert_eq!(origin.to_string(), shown, "{text}");
        assert_eq!(format!("{origin:?}"), format!("Origin({shown})"));
        assert_eq!(Origin::try_from(text).unwrap(), origin);
        assert_eq!(Origin::insecure(text).unwrap(), origin);
        // What is shown is read again as the same.
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
        ("https:api.anyreach.ai", MissingScheme),
        ("https:/api.anyreach.ai", MissingScheme),
        ("://api.anyreach.ai", UnknownScheme),
        ("ftp://api.anyreach.ai", UnknownScheme),
        ("wss://api.anyreach.ai", UnknownScheme),
        ("httpss://api.anyreach.ai", UnknownScheme),
        (" https://api.anyreach.ai", UnknownScheme),
        ("https ://api.anyreach.ai", UnknownScheme),
        ("http://api.anyreach.ai", PlainHttp),
        ("http://anyreach.proxy.example:8080", PlainHttp),
        ("http://10.0.0.1", PlainHttp),
        ("http://128.0.0.1", PlainHttp),
        ("http://0.0.0.0", PlainHttp),
        ("http://[::2]", PlainHttp),
        ("http://[::]", PlainHttp),
        ("http://localhost.evil.example", PlainHttp),
        ("http://x.localhost", PlainHttp),
        ("http://127.0.0.1.evil.example", PlainHttp),
        ("https://user@api.anyreach.ai", HasUserinfo),
        ("https://user:pass@api.anyreach.ai", HasUserinfo),
        ("https://@api.anyreach.ai", HasUserinfo),
        ("https://api.anyreach.ai/", TrailingText),
        ("https://api.anyreach.ai/core", TrailingText),
        ("https://api.anyreach.ai?a", TrailingText),
        ("https://api.anyreach.ai#a", TrailingText),
        ("https://api.anyreach.ai\\", TrailingText),
        ("https:///", TrailingText),
        ("https://", Host),
        ("https://:443", Host),
        ("https://.", Host),
        ("https://api.anyreach.ai.", Host),
        ("https://.api.anyreach.ai", Host),
        ("https://api..anyreach.ai", Host),
        ("https://api.anyreach.ai ", Host),
        ("https://api.anyreach.ai\n", Host),
        ("https://api anyreach.ai", Host),
        ("https://api%2eanyreach.ai", Host),
        ("https://api.anyreach.ai,evil", Host),
        ("https://*.anyreach.ai", Host),
        ("https://b\u{fc}cher.example", Host),
        ("https://127.1", Host),
        ("https://2130706433", Host),
        ("https://0x7f000001", Host),
        ("https://0x7f.0.0.0x1", Host),
        ("https://0177.0.0.1", Host),
        ("https://1.2.3.4.5", Host),
        ("https://256.0.0.1", Host),
        ("https://proxy.1", Host),
        ("https://::1", Host),
        ("https://[::1", Host),
        ("https://::1]", Host),
        ("https://[]", Host),
        ("https://[::g]", Host),
        ("https://[1.2.3.4]", Host),
        ("https://[fe80::1%25eth0]", Host),
        ("https://[::1]x", Host),
        ("https://api.anyreach.ai:", Port),
        ("https://api.anyreach.ai:0", Port),
        ("https://api.anyreach.ai:0443", Port),
        ("https://api.anyreach.ai:+443", Port),
        ("https://api.anyreach.ai:-1", Port),
        ("https://api.anyreach.ai:65536", Port),
        ("https://api.anyreach.ai:99999", Port),
        ("https://api.anyreach.ai:443:443", Port),
        ("https://api.anyreach.ai: 443", Port),
        ("https://api.anyreach.ai:https", Port),
        ("https://[::1]:", Port),
    ] {
        assert_eq!(
            text.parse::<Origin>().unwrap_err().reason(),
            reason,
            "{text:?}"
        );
        assert_eq!(
            Origin::try_from(text).unwrap_err().reason(),
            reason,
            "{text:?}"
        );
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
    assert_eq!(origin("https://a"), origin("https://a:443"));
    assert_eq!(origin("http://a"), origin("http://a:80"));
    assert_eq!(origin("https://A"), origin("https://a"));
    assert_ne!(origin("https://a"), origin("https://a:80"));
    assert_ne!(origin("http://a"), origin("http://a:443"));
    assert_ne!(origin("https://a"), origin("http://a"));
    assert_ne!(origin("https://a:443"), origin("http://a:80"));
    assert_ne!(origin("https://a"), origin("https://b"));
}

#[test]
fn an_insecure_origin_is_bound_as_closely_as_any_other() {
    const INSECURE: &str = "http://anyreach-egress.mesh.svc";
    let origin = Origin::insecure(INSECURE).unwrap();
    for (uri, expected) in [
        ("http://anyreach-egress.mesh.svc/core", None),
        ("http://anyreach-egress.mesh.svc:80/core", None),
        ("https://anyreach-egress.mesh.svc/", Some(NearScheme)),
        ("http://anyreach-egress.mesh.svc:8080/", Some(NearAuthority)),
        ("http://mesh.svc/", Some(DestinationReason::Foreign)),
        ("https://api.anyreach.ai/", Some(DestinationReason::Foreign)),
    ] {
        let layer = layer(&origin, KEY, false, ForeignRequests::Reject);
        let sent = send(&layer, request("GET", uri.parse().unwrap(), &[]));
        match expected {
            None => assert!(carries(&sent.head(), KEY, None), "{uri}"),
            Some(expected) => match sent.refusal() {
                Error::UntrustedDestination(to) => assert_eq!(to.reason(), expected, "{uri}"),
                other => panic!("{uri}: {other:?}"),
            },
        }
    }
}

#[test]
fn a_refused_destination_shows_scheme_host_and_port_only() {
    for (uri, shown, host) in [
        (
            "https://evil.example/upload?signature=s3cret",
            "https://evil.example: another host than the origin's",
            Some("evil.example"),
        ),
        (
            "https://user:s3cret@api.anyreach.ai:8443/?a=s3cret",
            "https://api.anyreach.ai:8443: the authority contains `@`",
            Some("api.anyreach.ai"),
        ),
        (
            "http://api.anyreach.ai/s3cret",
            "http://api.anyreach.ai: the origin's host with another scheme",
            Some("api.anyreach.ai"),
        ),
        (
            "https://api.anyreach.ai.:443/s3cret",
            "https://api.anyreach.ai.:443: the authority is not written as the origin's; see its port, trailing dots, and the path after it",
            Some("api.anyreach.ai."),
        ),
        (
            "/core/s3cret",
            "the URI is not absolute; use a full URI, or `allow_relative_uris` below a base-URI layer",
            None,
        ),
    ] {
        let layer = AnyreachAuthLayer::new(credential(KEY));
        let refusal = send(&layer, request("GET", uri.parse().unwrap(), &[])).refusal();
        let Error::UntrustedDestination(to) = &refusal else {
            panic!("{uri}: {refusal:?}")
        };
        assert_eq!(to.to_string(), shown);
        assert_eq!(format!("{to:?}"), format!("Destination({shown})"));
        assert_eq!(to.host(), host);
        assert_eq!(
            refusal.to_string(),
            format!("credentials may not go there: {shown}; nothing was sent")
        );
    }
}
