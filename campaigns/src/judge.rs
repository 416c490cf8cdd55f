//! The judge that shares no code with the crate: the WHATWG `url` crate, and the rules by which the contract is stricter
//! than it: one spelling of the authority, no userinfo, two methods excluded, and a `Host` header that agrees.

use http::header::{AUTHORIZATION, HOST};
use http::request::Parts;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Uri};
use support::{KEY, ORG, TOKEN, values};
use url::Url;

/// A key that a caller brings.
pub const CALLERS: &str = "ak_c4ll3r01.S3cr3tCallersCanaryValue01234";
/// The organization that [`TOKEN`] is sent with.
pub const ORGANIZATION: &str = "org_1";

/// Decides for one origin.
#[derive(Debug)]
pub struct Judge {
    ours: Url,
    /// The origin's authority, without its default port and with it.
    spellings: [String; 2],
}

impl Judge {
    /// Builds the judge of an origin in its canonical spelling.
    #[must_use]
    pub fn new(origin: &str) -> Self {
        let ours = Url::parse(origin).unwrap();
        let (_, authority) = origin.split_once("://").unwrap();
        let with_port = match ours.port() {
            Some(_) => authority.to_owned(),
            None => format!("{authority}:{}", ours.port_or_known_default().unwrap()),
        };
        let spellings = [authority.to_owned(), with_port];
        Self { ours, spellings }
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
        let mut authority = uri.authority().into_iter();
        if !authority.all(|authority| self.is_spelled_exactly(authority.as_str())) {
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

    /// Returns whether a URL is the origin's, without a user.
    #[must_use]
    pub fn is_same_origin(&self, to: &Url) -> bool {
        to.origin() == self.ours.origin() && to.username().is_empty() && to.password().is_none()
    }

    fn is_spelled_exactly(&self, authority: &str) -> bool {
        self.spellings.iter().any(|spelling| spelling == authority)
    }

    /// Returns whether there is no `Host` header, or one, which is the origin's authority, in its one spelling.
    #[must_use]
    pub fn host_agrees(&self, headers: &HeaderMap) -> bool {
        match values(headers, &HOST)[..] {
            [] => true,
            [host] => str::from_utf8(host).is_ok_and(|host| self.is_spelled_exactly(host)),
            _ => false,
        }
    }

    /// Returns whether a browser would go to our host, whatever port, scheme and dots are written around it.
    #[must_use]
    pub fn leads_to_our_host(&self, uri: &Uri) -> bool {
        let ours = self.ours.host_str().unwrap();
        let is_ours = |host: &str| host.trim_end_matches('.').eq_ignore_ascii_case(ours);
        // The contract compares addresses as text: another spelling of one is another host.
        uri.host().is_some_and(is_ours)
            && Url::parse(&uri.to_string()).is_ok_and(|url| url.host_str().is_some_and(is_ours))
    }
}

/// The credential headers of a request.
#[derive(Debug, PartialEq)]
pub enum Carried {
    /// Neither of them.
    Nothing,
    /// One bearer token, marked sensitive, and at most one organization.
    Credential(String, Option<String>),
    /// A part of that, or too much.
    Unsound,
}

impl Carried {
    /// Returns whether it is this secret, with this organization.
    #[must_use]
    pub fn is(&self, secret: &str, organization: Option<&str>) -> bool {
        matches!(self, Self::Credential(carried, of) if carried == secret && of.as_deref() == organization)
    }
}

/// Reads the credential headers. [`KEY`], [`TOKEN`] and [`CALLERS`] in any other header are unsound.
#[must_use]
pub fn carried(headers: &HeaderMap) -> Carried {
    let holds_secret = |(name, value): (&HeaderName, &HeaderValue)| {
        let text = String::from_utf8_lossy(value.as_bytes());
        let is_ours = *name == AUTHORIZATION || *name == ORG;
        !is_ours
            && [KEY, TOKEN, CALLERS]
                .iter()
                .any(|secret| text.contains(secret))
    };
    if headers.iter().any(holds_secret) {
        return Carried::Unsound;
    }
    match (bearer(headers), &values(headers, &ORG)[..]) {
        (None, []) if !headers.contains_key(AUTHORIZATION) => Carried::Nothing,
        (Some(secret), organization @ ([] | [_])) if headers[AUTHORIZATION].is_sensitive() => {
            let text = |bytes: &&[u8]| String::from_utf8_lossy(bytes).into_owned();
            Carried::Credential(secret.to_owned(), organization.first().map(text))
        }
        _ => Carried::Unsound,
    }
}

/// Returns the bearer token of the only line of `Authorization`.
#[must_use]
pub fn bearer(headers: &HeaderMap) -> Option<&str> {
    let [line] = values(headers, &AUTHORIZATION)[..] else {
        return None;
    };
    str::from_utf8(line).ok()?.strip_prefix("Bearer ")
}
