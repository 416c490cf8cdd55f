//! The judge that shares no code with the crate: the WHATWG `url` crate, and what it lets pass that the contract
//! does not.

use http::header::{AUTHORIZATION, HOST};
use http::request::Parts;
use http::{HeaderMap, HeaderName, Method, Uri};
use url::Url;

pub(crate) const KEY: &str = "ak_c4n4ry01.S3cr3tK3yCanaryValue0123456789";
pub(crate) const TOKEN: &str = "pat_S3cr3tT0kenCanaryValue9876543210";
/// A key that a caller brings.
pub(crate) const CALLERS: &str = "ak_c4ll3r01.S3cr3tCallersCanaryValue01234";
pub(crate) const ORGANIZATION: &str = "org_1";

pub(crate) static ORG: HeaderName = HeaderName::from_static("x-anyreach-org");

pub(crate) struct Judge {
    ours: Url,
}

impl Judge {
    pub(crate) fn new(origin: &str) -> Self {
        let ours = Url::parse(origin).unwrap();
        assert!(ours.origin().is_tuple());
        Self { ours }
    }

    /// Whether a request with this head may carry a credential.
    pub(crate) fn is_ours(&self, head: &Parts) -> bool {
        !matches!(head.method, Method::CONNECT | Method::TRACE)
            && self.leads_to_us(&head.uri)
            && self.host_agrees(&head.headers)
    }

    fn leads_to_us(&self, uri: &Uri) -> bool {
        // What the `url` crate forgives: `@` without a user before it.
        if uri
            .authority()
            .is_some_and(|authority| authority.as_str().contains('@'))
        {
            return false;
        }
        let text = uri.to_string();
        let to = match (uri.scheme(), text.starts_with('/')) {
            (Some(_), _) => Url::parse(&text),
            (None, true) => self.ours.join(&text),
            (None, false) => return false,
        };
        to.is_ok_and(|to| self.is_same_origin(&to))
    }

    fn is_same_origin(&self, to: &Url) -> bool {
        to.scheme() == self.ours.scheme()
            && to.host() == self.ours.host()
            && to.port_or_known_default() == self.ours.port_or_known_default()
            && to.username().is_empty()
            && to.password().is_none()
    }

    /// RFC 9112, section 3.2: at most one, and it says what the URI says.
    fn host_agrees(&self, headers: &HeaderMap) -> bool {
        let mut hosts = headers.get_all(HOST).iter();
        let (Some(host), None) = (hosts.next(), hosts.next()) else {
            return !headers.contains_key(HOST);
        };
        host.to_str().is_ok_and(|host| {
            !host.contains(['@', '/', '\\', '?', '#', ' '])
                && Url::parse(&format!("{}://{host}/", self.ours.scheme()))
                    .is_ok_and(|to| self.is_same_origin(&to))
        })
    }

    /// Whether a browser would go to our host, whatever port, scheme and dots are written around it.
    pub(crate) fn leads_to_our_host(&self, uri: &Uri) -> bool {
        let Some(authority) = uri.authority() else {
            return false;
        };
        let ours = self.ours.host_str().unwrap();
        let is_ours = |host: &str| host.trim_end_matches('.').eq_ignore_ascii_case(ours);
        // The contract compares addresses as text: another spelling of one is another host.
        is_ours(authority.host())
            && Url::parse(&uri.to_string()).is_ok_and(|url| url.host_str().is_some_and(is_ours))
    }
}

/// What a request carries of ours or of its caller's.
#[derive(Debug, PartialEq, Eq, Clone, Copy)]
pub(crate) enum Carried {
    Nothing,
    /// One `Authorization`, marked sensitive, and the organization that belongs to it.
    Ours,
    /// The caller's own key, once, where it was to be kept.
    Callers,
    /// A part of it, or too much.
    Unsound,
}

pub(crate) fn carried(headers: &HeaderMap) -> Carried {
    let is_secret = |value: &http::HeaderValue| {
        [KEY, TOKEN, CALLERS].iter().any(|secret| {
            let secret = secret.as_bytes();
            value
                .as_bytes()
                .windows(secret.len())
                .any(|part| part == secret)
        })
    };
    let secrets = headers.values().filter(|value| is_secret(value)).count();
    let organizations = headers.get_all(&ORG).iter().count();
    if secrets == 0 && organizations == 0 {
        return Carried::Nothing;
    }
    let Some(authorization) = headers.get(AUTHORIZATION) else {
        return Carried::Unsound;
    };
    let bearer = authorization.as_bytes().strip_prefix(b"Bearer ");
    let is_one = secrets == 1 && authorization.is_sensitive();
    let names = |organization: &str| {
        organizations == 1 && headers[&ORG].as_bytes() == organization.as_bytes()
    };
    match bearer {
        Some(text) if text == KEY.as_bytes() && is_one && organizations == 0 => Carried::Ours,
        Some(text) if text == TOKEN.as_bytes() && is_one && names(ORGANIZATION) => Carried::Ours,
        Some(text) if text == CALLERS.as_bytes() && is_one && organizations == 0 => {
            Carried::Callers
        }
        _ => Carried::Unsound,
    }
}
