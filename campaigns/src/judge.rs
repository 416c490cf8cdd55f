//! The judge that shares no code with the crate: the WHATWG `url` crate, and the rules by which the contract is stricter
//! than it: one spelling of the authority, no userinfo, two methods excluded, and a `Host` header that agrees.

use http::header::{AUTHORIZATION, HOST};
use http::request::Parts;
use http::{HeaderMap, Method, Uri};
use support::{KEY, ORG, TOKEN};
use url::Url;

/// A key that a caller brings.
pub const CALLERS: &str = "ak_c4ll3r01.S3cr3tCallersCanaryValue01234";
/// The organization that [`TOKEN`] is sent with.
pub const ORGANIZATION: &str = "org_1";

/// Decides for one origin.
#[derive(Debug)]
pub struct Judge {
    ours: Url,
    /// The two spellings of the authority that are the origin's: without its default port and with it.
    spellings: [String; 2],
}

impl Judge {
    /// Builds the judge of an origin in its canonical spelling.
    #[must_use]
    pub fn new(origin: &str) -> Self {
        let ours = Url::parse(origin).unwrap();
        assert!(ours.origin().is_tuple());
        let (_, written) = origin.split_once("://").unwrap();
        let with_port = match ours.port() {
            Some(_) => written.to_owned(),
            None => format!("{written}:{}", ours.port_or_known_default().unwrap()),
        };
        Self {
            ours,
            spellings: [written.to_owned(), with_port],
        }
    }

    /// Returns whether a request with this head may carry a credential.
    #[must_use]
    pub fn is_ours(&self, head: &Parts) -> bool {
        !matches!(head.method, Method::CONNECT | Method::TRACE)
            && self.leads_to_us(&head.uri)
            && self.host_agrees(&head.headers)
    }

    /// Returns whether a URI is the origin's, in its one spelling.
    #[must_use]
    pub fn leads_to_us(&self, uri: &Uri) -> bool {
        // The `url` crate ignores case, an `@` without a user before it, and zeros before a port.
        if let Some(authority) = uri.authority()
            && !self.is_spelled_exactly(authority.as_str())
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

    fn is_spelled_exactly(&self, authority: &str) -> bool {
        self.spellings.iter().any(|spelling| spelling == authority)
    }

    /// Returns whether there is no `Host` header, or one, which is the origin's authority, in its one spelling.
    #[must_use]
    pub fn host_agrees(&self, headers: &HeaderMap) -> bool {
        let mut hosts = headers.get_all(HOST).iter();
        let first = hosts.next();
        hosts.next().is_none()
            && first.is_none_or(|host| {
                host.to_str().is_ok_and(|host| {
                    self.is_spelled_exactly(host)
                        && Url::parse(&format!("{}://{host}/", self.ours.scheme()))
                            .is_ok_and(|to| self.is_same_origin(&to))
                })
            })
    }

    /// Returns whether a browser would go to our host, whatever port, scheme and dots are written around it.
    #[must_use]
    pub fn leads_to_our_host(&self, uri: &Uri) -> bool {
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

/// The credential headers of a request.
#[derive(Debug, PartialEq, Eq, Clone, Copy)]
pub enum Carried {
    /// Neither a secret nor an organization.
    Nothing,
    /// One `Authorization`, marked sensitive, and the organization that belongs to it.
    Ours,
    /// A part of it, or too much.
    Unsound,
}

/// Returns what these headers carry, of [`KEY`], [`TOKEN`] and [`CALLERS`].
#[must_use]
pub fn carried(headers: &HeaderMap) -> Carried {
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
        _ => Carried::Unsound,
    }
}
