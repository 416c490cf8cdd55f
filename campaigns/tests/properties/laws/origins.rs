//! Texts as origins, and where credentials go, judged by the WHATWG `url` crate.

use campaigns::judge::{Carried, Judge, ORGANIZATION, carried};
use http::header::HOST;
use http::{HeaderValue, Method, Request, Uri};
use support::{KEY, ORG, credential, send, token_for};
use tower_anyreach::{
    AnyreachAuthLayer, DestinationReason, Error, ForeignRequests, InvalidOriginReason, Origin,
};
use url::{Host, Url};

use super::script::Script;

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
    let judge = Judge::new(&origin.to_string());
    let Ok(uri) = uri_text.parse::<Uri>() else {
        return;
    };

    let request = Request::builder().method(method.clone()).uri(uri.clone());
    let mut request = request.body(String::new()).unwrap();
    for text in host_texts.iter().take(hosts.into()) {
        if let Ok(value) = HeaderValue::from_bytes(text) {
            request.headers_mut().append(HOST, value);
        }
    }
    let has_host = request.headers().contains_key(HOST);

    let credential = if with_token {
        token_for(ORGANIZATION)
    } else {
        credential(KEY)
    };
    let mut layer = AnyreachAuthLayer::new(credential).origin(origin.clone());
    if relative_allowed {
        layer = layer.allow_relative_uris();
    }
    if forwarding {
        layer = layer.foreign_requests(ForeignRequests::ForwardWithoutCredentials);
    }
    let sent = send(&layer, request);
    match (&sent.arrived[..], &sent.outcome) {
        ([head], Ok(_)) => {
            assert_eq!(head.uri, uri);
            match carried(&head.headers) {
                Carried::Ours => {
                    assert_eq!(head.headers.contains_key(&ORG), with_token);
                    assert!(relative_allowed || uri.authority().is_some());
                    assert!(judge.is_ours(head), "{head:?}");
                }
                Carried::Nothing => {
                    assert!(forwarding);
                    assert!(
                        !uri.authority()
                            .is_some_and(|authority| authority.as_str().contains('@'))
                    );
                    let host = uri.host().map(str::to_ascii_lowercase);
                    assert_ne!(host.as_deref(), host_of(&origin.to_string()));
                }
                Carried::Unsound => panic!("{head:?}"),
            }
        }
        ([], Err(Error::UntrustedDestination(to))) => {
            let shown = format!("{to} {to:?}");
            assert!(!shown.contains("user:pass"), "{shown}");
            assert!(shown.len() < 1024);
            assert!(!(forwarding && to.reason() == DestinationReason::Foreign));
            // What is written as the origin is written is not refused.
            let is_plain = !has_host && matches!(method, Method::GET | Method::POST);
            let ours = format!("{origin}/");
            assert!(!(is_plain && uri.to_string().starts_with(&ours)), "{uri}");
        }
        _ => panic!("{uri_text:?}: {sent:?}"),
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

/// As it is written: what `url` makes of an address is another text.
fn host_of(origin: &str) -> Option<&str> {
    let (_, authority) = origin.split_once("://")?;
    let end = authority
        .find(']')
        .map_or_else(|| authority.find(':'), |bracket| Some(bracket + 1));
    Some(end.map_or(authority, |end| &authority[..end]))
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
