//! Texts as origins, and where credentials go, judged by the WHATWG `url` crate.

use http::header::{AUTHORIZATION, HOST};
use http::request::Parts;
use http::{HeaderMap, HeaderValue, Method, Request, Response, Uri};
use tower::{Layer, ServiceExt};
use tower_anyreach::{
    AnyreachAuthLayer, Credential, DestinationReason, Error, ForeignRequests, InvalidOriginReason,
    Origin, PersonalAccessToken,
};
use url::{Host, Url};

use super::script::Script;
use super::wire::{Once, now};

const KEY: &str = "ak_4711abcd.S3cr3tC4naryValue";
const TOKEN: &str = "pat_S3cr3tC4naryValue";

pub(crate) const WORDS: &[&str] = &[
    "https://",
    "http://",
    "HTTPS://",
    "api.anyreach.ai",
    "API.Anyreach.AI",
    "api.anyreach.a",
    "anyreach.ai",
    "evil.example",
    "localhost",
    "127.0.0.1",
    "[::1]",
    "[::ffff:7f00:1]",
    ":443",
    ":80",
    ":8443",
    ":0",
    ":00443",
    ":65979",
    ":99999",
    ":",
    "@",
    "user:pass@",
    ".",
    "..",
    "/",
    "//",
    "\\",
    "?",
    "#",
    "%2e",
    "%40",
    "core/agents",
    "xn--",
    "\u{3002}",
    "\t",
    "ws://",
];

pub(crate) fn origin_uri(bytes: &[u8]) {
    let mut script = Script::new(bytes);
    let options = script.byte();
    let method = match script.byte() {
        0 => Method::TRACE,
        1 => Method::CONNECT,
        even if even % 2 == 0 => Method::POST,
        _ => Method::GET,
    };
    let hosts = script.byte() % 3;
    let origin_text = script.text(WORDS);
    let uri_text = script.text(WORDS);
    let host_texts = [script.spelled(WORDS), script.spelled(WORDS)];

    let insecure = options & 1 != 0;
    let relative_allowed = options & 2 != 0;
    let forwarding = options & 4 != 0;
    let with_token = options & 8 != 0;

    let Some(origin) = origin(&origin_text, insecure) else {
        return;
    };
    let judge = Judge::of(&origin);
    let Ok(uri) = uri_text.parse::<Uri>() else {
        return;
    };

    let mut request = Request::new(());
    *request.method_mut() = method.clone();
    *request.uri_mut() = uri.clone();
    for text in host_texts.iter().take(hosts.into()) {
        if let Ok(value) = HeaderValue::from_bytes(text) {
            request.headers_mut().append(HOST, value);
        }
    }
    let headers = request.headers().clone();

    let mut layer = if with_token {
        AnyreachAuthLayer::new(token())
    } else {
        AnyreachAuthLayer::new(credential())
    }
    .origin(origin.clone());
    if relative_allowed {
        layer = layer.allow_relative_uris();
    }
    if forwarding {
        layer = layer.foreign_requests(ForeignRequests::ForwardWithoutCredentials);
    }
    let inner = Once::new(Response::new(String::new()));
    let got = inner.got();
    let outcome = now(layer.layer(inner).oneshot(request));

    let went = match (got(), outcome) {
        (Some(head), Ok(_)) => {
            if head.headers.contains_key(AUTHORIZATION) {
                assert_attached(&head, with_token);
                Went::WithCredentials
            } else {
                assert!(!head.headers.contains_key("x-anyreach-org"));
                Went::Without
            }
        }
        (None, Err(Error::UntrustedDestination(to))) => {
            let shown = format!("{to} {to:?}");
            assert!(!shown.contains("user:pass"), "{shown}");
            assert!(shown.len() < 1024);
            Went::Nowhere(to.reason())
        }
        (got, outcome) => panic!("{uri_text:?}: {got:?}, {:?}", outcome.err()),
    };
    match went {
        Went::WithCredentials => {
            assert!(!matches!(method, Method::TRACE | Method::CONNECT));
            judge.assert_goes_there(&uri, &headers, relative_allowed);
        }
        Went::Without => {
            assert!(forwarding);
            assert!(
                !uri.authority()
                    .is_some_and(|authority| authority.as_str().contains('@'))
            );
            let host = uri.host().map(str::to_ascii_lowercase);
            assert_ne!(host.as_deref(), host_of(&origin.to_string()));
        }
        Went::Nowhere(reason) => {
            assert!(!(forwarding && reason == DestinationReason::Foreign));
            // What is written as the origin is written is not refused.
            let is_plain = headers.is_empty() && matches!(method, Method::GET | Method::POST);
            let ours = format!("{origin}/");
            assert!(!(is_plain && uri.to_string().starts_with(&ours)), "{uri}");
        }
    }
}

/// The origin that a text is, or the default one; `None` where the judge has no opinion.
fn origin(text: &str, insecure: bool) -> Option<Origin> {
    let parsed = if insecure {
        Origin::insecure(text)
    } else {
        text.parse::<Origin>()
    };
    match parsed {
        Ok(origin) => {
            // Punycode is not decoded here: such a host is text, which a client may know to be no name.
            if Url::parse(text).is_err() && text.to_ascii_lowercase().contains("xn--") {
                return None;
            }
            assert_is_origin(&origin, text, insecure);
            Some(origin)
        }
        Err(error) => {
            assert!(error.to_string().len() < 128, "an error shows no input");
            let is_plain = error.reason() == InvalidOriginReason::PlainHttp;
            assert!(!(insecure && is_plain));
            Some(Origin::default())
        }
    }
}

#[derive(Debug)]
enum Went {
    WithCredentials,
    Without,
    Nowhere(DestinationReason),
}

fn credential() -> Credential {
    Credential::parse(KEY).unwrap_or_else(|error| panic!("{error}"))
}

fn token() -> PersonalAccessToken {
    let organization = "org_acme".parse().unwrap_or_else(|error| panic!("{error}"));
    PersonalAccessToken::new(TOKEN)
        .unwrap_or_else(|error| panic!("{error}"))
        .for_organization(organization)
}

/// As it is written: what `url` makes of an address is another text.
fn host_of(origin: &str) -> Option<&str> {
    let (_, authority) = origin.split_once("://")?;
    let end = authority
        .find(']')
        .map_or_else(|| authority.find(':'), |bracket| Some(bracket + 1));
    Some(end.map_or(authority, |end| &authority[..end]))
}

fn assert_attached(head: &Parts, with_token: bool) {
    let secret = if with_token { TOKEN } else { KEY };
    let authorization: Vec<_> = head.headers.get_all(AUTHORIZATION).iter().collect();
    assert_eq!(authorization, [&format!("Bearer {secret}")]);
    assert!(authorization.iter().all(|value| value.is_sensitive()));
    let organization: Vec<_> = head.headers.get_all("x-anyreach-org").iter().collect();
    assert_eq!(
        organization,
        if with_token { vec!["org_acme"] } else { vec![] }
    );
}

/// An origin is what `url` calls one: it reads the text alike, and finds nothing else in it.
fn assert_is_origin(origin: &Origin, text: &str, insecure: bool) {
    let url = Url::parse(text).unwrap_or_else(|error| panic!("{text:?}: {error}"));
    assert!(matches!(url.scheme(), "http" | "https"), "{text:?}");
    assert_eq!((url.username(), url.password()), ("", None), "{text:?}");
    assert_eq!((url.path(), url.query(), url.fragment()), ("/", None, None));
    assert_ne!(url.port(), Some(0));
    let is_loopback = match url.host() {
        Some(Host::Domain(domain)) => domain == "localhost",
        Some(Host::Ipv4(ip)) => ip.is_loopback(),
        Some(Host::Ipv6(ip)) => ip.is_loopback(),
        None => panic!("{text:?} has no host"),
    };
    assert!(
        insecure || is_loopback || url.scheme() == "https",
        "{text:?}"
    );

    let written = origin.to_string();
    let again = Url::parse(&written).unwrap_or_else(|error| panic!("{written:?}: {error}"));
    assert_eq!(again.origin(), url.origin());
    assert_eq!(Origin::insecure(&written).as_ref(), Ok(origin));
}

/// Where requests go in the eyes of `url`.
struct Judge(Url);

impl Judge {
    fn of(origin: &Origin) -> Self {
        let text = origin.to_string();
        Self(Url::parse(&text).unwrap_or_else(|error| panic!("{text:?}: {error}")))
    }

    fn assert_goes_there(&self, uri: &Uri, headers: &HeaderMap, relative_allowed: bool) {
        let text = uri.to_string();
        let url = if uri.authority().is_some() {
            assert!(uri.scheme().is_some(), "{text:?}");
            Url::parse(&text)
        } else {
            assert!(relative_allowed, "{text:?}");
            self.0.join(&text)
        };
        let url = url.unwrap_or_else(|error| panic!("{text:?}: {error}"));
        assert_eq!(url.origin(), self.0.origin(), "{text:?}");
        assert_eq!((url.username(), url.password()), ("", None), "{text:?}");

        let mut hosts = headers.get_all(HOST).iter();
        if let Some(host) = hosts.next() {
            assert_eq!(hosts.next(), None, "two `Host` lines");
            let host = host.to_str().unwrap_or_else(|error| panic!("{error}"));
            let text = format!("{}://{host}/", self.0.scheme());
            let named = Url::parse(&text).unwrap_or_else(|error| panic!("{text:?}: {error}"));
            assert_eq!(named.origin(), self.0.origin(), "{text:?}");
            assert_eq!((named.username(), named.password()), ("", None), "{text:?}");
            assert_eq!((named.path(), named.query()), ("/", None), "{text:?}");
        }
    }
}
