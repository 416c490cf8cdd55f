//! Texts as origins, and where credentials go, judged by the WHATWG `url` crate.

use campaigns::judge::{CALLERS, Carried, Judge, ORGANIZATION, carried};
use http::header::{AUTHORIZATION, HOST};
use http::request::Parts;
use http::{HeaderValue, Method, Request, Uri};
use support::{KEY, TOKEN, credential_for, send};
use tower_anyreach::{
    Anonymous, AnyreachAuthLayer, CallerHeaders, Error, ForeignRequests, InvalidOriginReason,
    Origin, Refusal, RefusalReason, RelativeUris,
};
use url::{Host, Url};

use super::script::Script;

const WORDS: &str = "https://|http://|HTTPS://|api.anyreach.ai|API.Anyreach.AI|api.anyreach.a|anyreach.ai|evil.example|localhost|\
     127.0.0.1|[::1]|[::ffff:7f00:1]|:443|:80|:8443|:0|:00443|:65979|:99999|:|@|user:pass@|.|..|/|//|\\|?|#|%2e|\
     %40|core/agents|xn--|\u{3002}|\t|ws://";

/// The options that the first byte of a script selects.
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

    /// Returns the layer's credential, and its organization.
    fn own(self) -> (&'static str, Option<&'static str>) {
        let both = [(KEY, None), (TOKEN, Some(ORGANIZATION))];
        both[usize::from(self.has(Self::WITH_TOKEN))]
    }

    fn layer(self, origin: &Origin) -> AnyreachAuthLayer {
        let (secret, of) = self.own();
        let mut layer = AnyreachAuthLayer::new(credential_for(secret, of))
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
    let sent = send(&options.layer(&origin), request);
    let trial = Trial {
        options,
        judge: Judge::new(&origin.to_string()),
        ours: origin.to_string().parse().unwrap(),
        before,
    };
    match (&sent.arrived[..], &sent.outcome) {
        ([head], Ok(_)) => trial.assert_sent(head),
        ([], Err(Error::Refused(refusal))) => trial.assert_refused(refusal),
        _ => panic!("{uri_text:?}: {sent:?}"),
    }
}

struct Trial {
    options: Options,
    judge: Judge,
    /// The origin.
    ours: Uri,
    /// The head of the caller's request.
    before: Parts,
}

impl Trial {
    fn is_relative(&self) -> bool {
        self.before.uri.scheme().is_none() || self.before.uri.authority().is_none()
    }

    fn has_userinfo(&self) -> bool {
        let mut authority = self.before.uri.authority().into_iter();
        authority.any(|authority| authority.as_str().contains('@'))
    }

    /// Returns whether the host is the origin's, whatever its case and the dots behind it.
    fn names_our_host(&self) -> bool {
        let (host, ours) = (self.before.uri.host(), self.ours.host().unwrap());
        host.is_some_and(|host| host.trim_end_matches('.').eq_ignore_ascii_case(ours))
    }

    /// Asserts that a request leaves for where the caller sent it, and carries a credential if and only if it goes to the origin.
    fn assert_sent(&self, head: &Parts) {
        let (options, before) = (self.options, &self.before.uri);
        if self.is_relative() && head.uri != *before {
            assert_eq!(options.relative_uris(), RelativeUris::Complete);
            let origin = self.ours.to_string();
            let origin = origin.trim_end_matches('/');
            assert_eq!(head.uri.to_string(), format!("{origin}{before}"));
        } else {
            assert_eq!(head.uri, *before);
        }
        let is_anonymous = options.has(Options::ANONYMOUS);
        let carried = carried(&head.headers);
        if carried != Carried::Nothing {
            let (secret, of) = options.own();
            assert!(!is_anonymous && carried.is(secret, of), "{head:?}");
            assert!(!self.is_relative() || options.has(Options::RELATIVE));
            assert!(self.judge.is_ours(head), "{head:?}");
        } else if !is_anonymous {
            assert!(options.has(Options::FORWARDING));
            assert!(!self.is_relative() && !self.has_userinfo());
            assert!(!self.names_our_host(), "{head:?}");
        }
        let is_rejected = options.has(Options::WITH_HEADER) && !options.has(Options::REPLACING);
        assert!(is_anonymous || !is_rejected);
    }

    /// Asserts that the reason is true, and shows nothing that only the caller should see.
    fn assert_refused(&self, refusal: &Refusal) {
        let options = self.options;
        let shown = format!("{refusal} {refusal:?} {:?}", refusal.destination());
        assert!(!shown.contains("user:pass"), "{shown}");
        // The configured origin is the operator's own text.
        let limit = 1024 + 2 * self.ours.to_string().len();
        assert!(shown.len() < limit, "{shown}");
        assert!(!options.has(Options::ANONYMOUS), "{refusal}");

        let is_tunnel = matches!(self.before.method, Method::CONNECT | Method::TRACE);
        let is_ours = self.judge.leads_to_us(&self.before.uri);
        let host_agrees = self.judge.host_agrees(&self.before.headers);
        let is_near = self.names_our_host() && !is_ours;
        let is_forwarded = options.has(Options::FORWARDING) && !self.names_our_host();
        let is_true = match refusal.reason() {
            RefusalReason::Method => is_tunnel,
            _ if is_tunnel => false,
            RefusalReason::RelativeUri => {
                // `//api.anyreach.ai` leads to the origin by its authority, and is not a path.
                let path = self.before.uri.path().strip_prefix('/');
                let is_plain = path.is_some_and(|path| !path.starts_with(['/', '\\']));
                self.is_relative() && !(options.has(Options::RELATIVE) && is_ours && is_plain)
            }
            RefusalReason::Userinfo => self.has_userinfo(),
            _ if self.has_userinfo() => false,
            RefusalReason::Scheme => is_near && self.before.uri.scheme() != self.ours.scheme(),
            RefusalReason::Authority => is_near,
            RefusalReason::ForeignDestination => !is_forwarded && !self.names_our_host(),
            RefusalReason::HostHeader => is_ours && !host_agrees,
            RefusalReason::CallerHeader => {
                let is_checked = (is_ours && host_agrees) || is_forwarded;
                is_checked && options.has(Options::WITH_HEADER) && !options.has(Options::REPLACING)
            }
            _ => false,
        };
        assert!(is_true, "{:?}: {refusal:?}", self.before);
    }
}

/// Returns the origin that a text is, or the default one; `None` where the judge has no opinion.
fn origin(text: &str, insecure: bool) -> Option<Origin> {
    let parsed = if insecure {
        Origin::insecure(text)
    } else {
        text.parse::<Origin>()
    };
    match parsed {
        Ok(origin) => {
            // Punycode is not decoded here: such a host is text, and a client may reject it.
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

/// Asserts that `url` reads the text as the same origin, with nothing else in it.
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
    let is_plain = url.scheme() == "http";
    assert!(insecure || is_loopback || !is_plain, "{text:?}");

    let written = origin.to_string();
    let again = Url::parse(&written).unwrap_or_else(|error| panic!("{written:?}: {error}"));
    assert_eq!(again.origin(), url.origin());
    assert_eq!(Origin::insecure(&written).as_ref(), Ok(origin));
}
