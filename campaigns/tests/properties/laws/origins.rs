//! Texts as origins, and where credentials go, judged by the WHATWG `url` crate.

use campaigns::judge::{CALLERS, Carried, Judge, ORGANIZATION, carried};
use http::header::{AUTHORIZATION, HOST};
use http::request::Parts;
use http::{HeaderValue, Method, Request, Uri};
use support::{KEY, TOKEN, credential, send, token_for};
use tower_anyreach::{
    Anonymous, AnyreachAuthLayer, CallerHeaders, Error, ForeignRequests, InvalidOriginReason,
    Origin, Refusal, RefusalReason, RelativeUris,
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

/// What the first byte of a script switches on.
#[derive(Debug, Clone, Copy)]
struct Options(u8);

impl Options {
    const INSECURE: u8 = 1;
    const RELATIVE: u8 = 2;
    const FORWARDING: u8 = 4;
    const WITH_TOKEN: u8 = 8;
    /// With `RELATIVE`: a layer inside completes the URI.
    const TRUSTING: u8 = 16;
    const ANONYMOUS: u8 = 32;
    /// The caller brings a credential.
    const WITH_HEADER: u8 = 64;
    const REPLACING: u8 = 128;

    fn has(self, option: u8) -> bool {
        self.0 & option != 0
    }

    fn relative_uris(self) -> RelativeUris {
        match (self.has(Self::RELATIVE), self.has(Self::TRUSTING)) {
            (false, _) => RelativeUris::Reject,
            (true, false) => RelativeUris::Complete,
            (true, true) => RelativeUris::Trust,
        }
    }

    fn is_own(self, carried: &Carried) -> bool {
        if self.has(Self::WITH_TOKEN) {
            carried.is(TOKEN, Some(ORGANIZATION))
        } else {
            carried.is(KEY, None)
        }
    }

    fn layer(self, origin: &Origin) -> AnyreachAuthLayer {
        let credential = if self.has(Self::WITH_TOKEN) {
            token_for(ORGANIZATION)
        } else {
            credential(KEY)
        };
        let mut layer = AnyreachAuthLayer::new(credential)
            .origin(origin.clone())
            .relative_uris(self.relative_uris());
        if self.has(Self::FORWARDING) {
            layer = layer.foreign_requests(ForeignRequests::ForwardWithoutCredentials);
        }
        if self.has(Self::REPLACING) {
            layer = layer.caller_headers(CallerHeaders::Replace);
        }
        layer
    }
}

pub(crate) fn origin_uri(bytes: &[u8]) {
    let mut script = Script::new(bytes);
    let options = Options(script.byte());
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

    let Some(origin) = origin(&origin_text, options.has(Options::INSECURE)) else {
        return;
    };
    let Ok(uri) = uri_text.parse::<Uri>() else {
        return;
    };
    let request = Request::builder().method(method).uri(uri);
    let mut request = request.body(String::new()).unwrap();
    for text in host_texts.iter().take(hosts.into()) {
        if let Ok(value) = HeaderValue::from_bytes(text) {
            request.headers_mut().append(HOST, value);
        }
    }
    if options.has(Options::WITH_HEADER) {
        let bearer = HeaderValue::try_from(format!("Bearer {CALLERS}")).unwrap();
        request.headers_mut().insert(AUTHORIZATION, bearer);
    }
    if options.has(Options::ANONYMOUS) {
        request.extensions_mut().insert(Anonymous);
    }

    let before = request.clone().into_parts().0;
    let judge = Judge::new(&origin.to_string());
    let sent = send(&options.layer(&origin), request);
    match (&sent.arrived[..], &sent.outcome) {
        ([head], Ok(_)) => assert_sent(options, &origin, &judge, &before, head),
        ([], Err(Error::Refused(refusal))) => {
            assert_refused(options, &origin, &judge, &before, refusal);
        }
        _ => panic!("{uri_text:?}: {sent:?}"),
    }
}

/// What leaves is where the caller sent it, and it carries a credential if and only if it goes to the origin.
fn assert_sent(options: Options, origin: &Origin, judge: &Judge, before: &Parts, head: &Parts) {
    let is_relative = before.uri.scheme().is_none() || before.uri.authority().is_none();
    if is_relative && head.uri != before.uri {
        assert_eq!(options.relative_uris(), RelativeUris::Complete);
        assert_eq!(head.uri.to_string(), format!("{origin}{}", before.uri));
        assert!(judge.leads_to_us(&head.uri), "{head:?}");
    } else {
        assert_eq!(head.uri, before.uri);
    }
    let is_anonymous = options.has(Options::ANONYMOUS);
    let carried = carried(&head.headers);
    if carried == Carried::Nothing {
        if !is_anonymous {
            assert!(options.has(Options::FORWARDING));
            assert!(!is_relative && !has_userinfo(&before.uri));
            assert!(!names_our_host(origin, &before.uri), "{head:?}");
        }
    } else {
        assert!(!is_anonymous);
        assert!(options.is_own(&carried), "{head:?}");
        assert!(!is_relative || options.has(Options::RELATIVE));
        assert!(judge.is_ours(head), "{head:?}");
    }
    let is_rejected = options.has(Options::WITH_HEADER) && !options.has(Options::REPLACING);
    assert!(is_anonymous || !is_rejected);
}

/// The reason is true, and it shows nothing that only the caller should see.
fn assert_refused(
    options: Options,
    origin: &Origin,
    judge: &Judge,
    before: &Parts,
    refusal: &Refusal,
) {
    let shown = format!("{refusal} {refusal:?} {:?}", refusal.destination());
    assert!(!shown.contains("user:pass"), "{shown}");
    // The configured origin is the operator's own text.
    assert!(shown.len() < 1024 + 2 * origin.to_string().len(), "{shown}");
    assert!(!options.has(Options::ANONYMOUS), "{refusal}");

    let uri = &before.uri;
    let is_tunnel = matches!(before.method, Method::CONNECT | Method::TRACE);
    let is_relative = uri.scheme().is_none() || uri.authority().is_none();
    let is_ours = judge.leads_to_us(uri);
    let is_true = match refusal.reason() {
        RefusalReason::Method => is_tunnel,
        _ if is_tunnel => false,
        RefusalReason::RelativeUri => {
            is_relative && !(options.has(Options::RELATIVE) && is_ours && uri.path() != "*")
        }
        RefusalReason::Userinfo => has_userinfo(uri),
        _ if has_userinfo(uri) => false,
        RefusalReason::Scheme => {
            names_our_host(origin, uri) && !is_ours && !has_scheme_of(origin, uri)
        }
        RefusalReason::Authority => names_our_host(origin, uri) && !is_ours,
        RefusalReason::ForeignDestination => {
            !options.has(Options::FORWARDING) && !names_our_host(origin, uri)
        }
        RefusalReason::HostHeader => is_ours && !judge.host_agrees(&before.headers),
        RefusalReason::CallerHeader => {
            let goes_there = is_ours && judge.host_agrees(&before.headers)
                || options.has(Options::FORWARDING) && !names_our_host(origin, uri);
            goes_there && options.has(Options::WITH_HEADER) && !options.has(Options::REPLACING)
        }
        _ => false,
    };
    assert!(is_true, "{before:?}: {refusal:?}");
}

fn has_userinfo(uri: &Uri) -> bool {
    uri.authority()
        .is_some_and(|authority| authority.as_str().contains('@'))
}

/// Whether the host is the origin's, whatever its case and the dots behind it.
fn names_our_host(origin: &Origin, uri: &Uri) -> bool {
    let origin = origin.to_string();
    let host = uri.host().map(|host| host.trim_end_matches('.'));
    host.is_some_and(|host| host_of(&origin).is_some_and(|ours| ours.eq_ignore_ascii_case(host)))
}

fn has_scheme_of(origin: &Origin, uri: &Uri) -> bool {
    let origin = origin.to_string();
    let scheme = origin.split_once("://").map(|(scheme, _)| scheme);
    uri.scheme_str() == scheme
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
