//! The origin that credentials are sent to, and where a request goes relative to it.
//!
//! Requests are compared with the origin as text and byte for byte, in one spelling. URL parsers
//! disagree about odd ports, addresses and escapes, and followers of redirects disagree about case;
//! a comparison as text depends on neither. A *near miss* is another spelling of the origin's host,
//! or that host with another scheme or port. [`invalid`] holds the error for a string that is not
//! an origin, and [`redirect`] the check of a `Location`.

mod invalid;
mod redirect;

use std::fmt;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

use hmac_sha256::Hash as Sha256;
#[cfg(feature = "follow-redirect")]
use http::Extensions;
use http::uri::Uri;

pub use self::invalid::{InvalidOrigin, InvalidOriginReason};
use self::redirect::is_another_host;
pub(crate) use self::redirect::is_plainly_elsewhere;

/// The origin that credentials are sent to: a scheme, a host, and optionally a port.
///
/// [`Origin::default()`] is `https://api.anyreach.ai`, the only documented API server. Set another
/// origin for your own proxy or for a local server. These rules apply:
///
/// 1. An origin is written as `scheme://host` or `scheme://host:port`, without userinfo, path (not
///    even `/`) or query.
/// 2. The scheme is `https`, or `http` for `localhost` and for literal loopback addresses. Plain
///    http to any other host needs [`Origin::insecure`].
/// 3. The host is a dotted-quad IPv4 address, an IPv6 address in brackets, or a name of letters,
///    digits, `-`, `_` and inner dots that does not end in a number. It is kept in lower case, and
///    a request's host has to equal it byte for byte. No name is resolved, and no address is
///    normalized.
/// 4. The scheme's default port may be written or left out; both mean the same origin.
///
/// # Examples
///
/// ```
/// use tower_anyreach::{InvalidOriginReason, Origin};
///
/// let origin: Origin = "https://anyreach.proxy.example:8443".parse()?;
/// assert_eq!(origin.to_string(), "https://anyreach.proxy.example:8443");
/// assert_eq!(Origin::default().to_string(), "https://api.anyreach.ai");
///
/// let refused = "http://anyreach.proxy.example"
///     .parse::<Origin>()
///     .unwrap_err();
/// assert_eq!(refused.reason(), InvalidOriginReason::PlainHttp);
/// # Ok::<(), tower_anyreach::InvalidOrigin>(())
/// ```
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Origin {
    scheme: OriginScheme,
    /// `host` or `host:port` in lower case, without the default port. A request's authority has to
    /// equal it.
    authority: Box<str>,
    /// A digest of scheme and authority.
    id: OriginId,
    /// The length of the host within `authority`.
    host_len: usize,
}

#[derive(Clone, Copy, PartialEq, Eq, Hash)]
enum OriginScheme {
    Http,
    Https,
}

impl Origin {
    /// Parses an origin like [`FromStr`], but allows plain http to any host.
    ///
    /// A bearer credential that is sent over plain http can be read and used by anyone on the path.
    /// Use this only if something else protects the connection, such as a sidecar that adds TLS.
    ///
    /// # Examples
    ///
    /// ```
    /// use tower_anyreach::Origin;
    ///
    /// let origin = Origin::insecure("http://anyreach-egress.mesh.svc:8080")?;
    /// assert_eq!(origin.to_string(), "http://anyreach-egress.mesh.svc:8080");
    /// # Ok::<(), tower_anyreach::InvalidOrigin>(())
    /// ```
    ///
    /// # Errors
    ///
    /// Returns [`InvalidOrigin`] as [`FromStr`] does, except for
    /// [`PlainHttp`](InvalidOriginReason::PlainHttp).
    pub fn insecure(text: &str) -> Result<Self, InvalidOrigin> {
        Self::parse(text)
    }

    fn parse(text: &str) -> Result<Self, InvalidOrigin> {
        use InvalidOriginReason as Reason;

        if text.is_empty() {
            return Err(InvalidOrigin(Reason::Empty));
        }
        let (scheme, rest) = text
            .split_once("://")
            .ok_or(InvalidOrigin(Reason::MissingScheme))?;
        let scheme = if scheme.eq_ignore_ascii_case("https") {
            OriginScheme::Https
        } else if scheme.eq_ignore_ascii_case("http") {
            OriginScheme::Http
        } else {
            return Err(InvalidOrigin(Reason::UnknownScheme));
        };
        if rest.contains('@') {
            return Err(InvalidOrigin(Reason::Userinfo));
        }
        if rest.contains(['/', '?', '#', '\\']) {
            return Err(InvalidOrigin(Reason::TrailingText));
        }
        let (host, port) = split_port(rest);
        if !is_host(host) {
            return Err(InvalidOrigin(Reason::Host));
        }
        let port = match port {
            None => None,
            Some(digits) => Some(parse_port(digits).ok_or(InvalidOrigin(Reason::Port))?),
        };

        let mut authority = host.to_ascii_lowercase();
        let host_len = authority.len();
        if let Some(port) = port.filter(|port| *port != scheme.default_port()) {
            authority.push(':');
            authority.push_str(&port.to_string());
        }
        Ok(Self {
            scheme,
            id: OriginId::of(scheme, &authority),
            authority: authority.into_boxed_str(),
            host_len,
        })
    }

    pub(crate) fn host(&self) -> &str {
        &self.authority[..self.host_len]
    }

    fn is_loopback(&self) -> bool {
        let host = self.host();
        host == "localhost"
            || host.parse().is_ok_and(|ip: Ipv4Addr| ip.is_loopback())
            || ipv6_literal(host).is_some_and(|ip| ip.is_loopback())
    }

    /// Returns whether the text is the authority of this origin, in lower case, with or without its
    /// default port.
    pub(crate) fn is_authority(&self, authority: &[u8]) -> bool {
        let ours = self.authority.as_bytes();
        let has_other_length = authority.len() != ours.len();
        let authority = if has_other_length && self.host_len == ours.len() {
            let default_port = self.scheme.default_port_suffix();
            authority.strip_suffix(default_port).unwrap_or(authority)
        } else {
            authority
        };
        authority == ours
    }

    /// Returns where a request goes, by its URI alone.
    pub(crate) fn destination(&self, uri: &Uri) -> Destination {
        if let (Some(scheme), Some(authority)) = (uri.scheme_str(), uri.authority()) {
            // A path that does not start with `/` would extend the authority in the URI's text. The
            // authority is compared last: no value has to be kept across the call of `memcmp` then,
            // which saves 10 instructions.
            if self.scheme.is(scheme)
                && uri.path().starts_with('/')
                && self.is_authority(authority.as_str().as_bytes())
            {
                return Destination::Origin;
            }
        }
        self.destination_elsewhere(uri)
    }

    #[cold]
    fn destination_elsewhere(&self, uri: &Uri) -> Destination {
        let (Some(scheme), Some(authority)) = (uri.scheme_str(), uri.authority()) else {
            let is_plain_path = uri.authority().is_none() && is_plain_path(uri.path());
            return Destination::Relative { is_plain_path };
        };
        let authority = authority.as_str().as_bytes();
        if authority.contains(&b'@') {
            Destination::Userinfo
        } else if self.is_near(authority) {
            let is_scheme = self.scheme.is(scheme);
            Destination::NearMiss { is_scheme }
        } else {
            Destination::Foreign
        }
    }

    /// Returns whether the authority's host is this origin's in another spelling: with another
    /// case, port, userinfo or trailing dots.
    pub(crate) fn is_near(&self, authority: &[u8]) -> bool {
        let after_userinfo = match authority.iter().rposition(|byte| *byte == b'@') {
            Some(at) => &authority[at + 1..],
            None => authority,
        };
        let host_len = match after_userinfo.first() {
            Some(b'[') => after_userinfo
                .iter()
                .position(|byte| *byte == b']')
                .map(|end| end + 1),
            _ => after_userinfo.iter().position(|byte| *byte == b':'),
        };
        let mut host = &after_userinfo[..host_len.unwrap_or(after_userinfo.len())];
        while let Some(shorter) = host.strip_suffix(b".") {
            host = shorter;
        }
        host.eq_ignore_ascii_case(self.host().as_bytes())
    }

    /// Returns whether a URL parser may take the authority's host for this origin's, as another
    /// spelling of its name or address.
    pub(crate) fn may_be_near(&self, authority: &[u8]) -> bool {
        let is_elsewhere = std::str::from_utf8(authority)
            .is_ok_and(|authority| is_another_host(authority, self.host()));
        self.is_near(authority) || (!is_elsewhere && self.is_address())
    }

    fn is_address(&self) -> bool {
        self.host().parse::<Ipv4Addr>().is_ok() || ipv6_literal(self.host()).is_some()
    }

    /// Returns the URI of a path at this origin.
    ///
    /// # Examples
    ///
    /// ```
    /// use tower_anyreach::Origin;
    ///
    /// let uri = Origin::default().uri("/core/agents?limit=10")?;
    /// assert_eq!(uri, "https://api.anyreach.ai/core/agents?limit=10");
    /// # Ok::<(), http::Error>(())
    /// ```
    ///
    /// # Errors
    ///
    /// Returns [`http::Error`] if the string does not start with `/`, has a fragment, or contains a
    /// character that a path or query cannot have.
    pub fn uri(&self, path_and_query: &str) -> Result<Uri, http::Error> {
        if !path_and_query.starts_with('/') || path_and_query.contains('#') {
            // The error of `http` for a character that a URI cannot have.
            return Err(" "
                .parse::<Uri>()
                .map_or_else(http::Error::from, |_| unreachable!()));
        }
        Uri::builder()
            .scheme(self.scheme.as_str())
            .authority(&*self.authority)
            .path_and_query(path_and_query)
            .build()
    }

    /// Adds scheme and authority to a URI that is a path with exactly one `/` at its start.
    pub(crate) fn complete(&self, uri: &mut Uri) {
        let Destination::Relative {
            is_plain_path: true,
        } = self.destination(uri)
        else {
            return;
        };
        let mut parts = uri.clone().into_parts();
        parts.scheme = self.scheme.as_str().parse().ok();
        parts.authority = self.authority.parse().ok();
        if let Ok(completed) = Uri::from_parts(parts) {
            *uri = completed;
        }
    }
}

/// Identifies an origin without owning its text. Every request carries one, and the reference count
/// of an `Arc` would be contended between threads.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct OriginId(u64);

#[cfg(feature = "follow-redirect")]
impl Origin {
    pub(crate) fn id(&self) -> OriginId {
        self.id
    }
}

impl OriginId {
    fn of(scheme: OriginScheme, authority: &str) -> Self {
        let digest = Sha256::hash(format!("{}://{authority}", scheme.as_str()).as_bytes());
        let mut start = [0; 8];
        start.copy_from_slice(&digest[..8]);
        Self(u64::from_le_bytes(start))
    }

    /// Returns whether the origin may have sent the response. It has not if tower-http's
    /// `FollowRedirect`, inside the layer, followed a redirect elsewhere and recorded that.
    #[cfg(feature = "follow-redirect")]
    pub(crate) fn may_have_answered(self, extensions: &Extensions) -> bool {
        let Some(tower_http::follow_redirect::RequestUri(uri)) = extensions.get() else {
            return true;
        };
        let origin = Origin::insecure(&format!(
            "{}://{}",
            uri.scheme_str().unwrap_or_default(),
            uri.authority().map_or("", |authority| authority.as_str())
        ));
        // A relative URI was completed by the client below.
        uri.authority().is_none() || origin.is_ok_and(|origin| origin.id == self)
    }
}

/// Where a request goes, as [`Origin::destination`] returns it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Destination {
    /// The origin, in its exact spelling.
    Origin,
    /// The URI has no scheme or no authority.
    Relative {
        /// The URI is a path that starts with exactly one `/`, which every client completes in the
        /// same way.
        is_plain_path: bool,
    },
    /// The authority has userinfo.
    Userinfo,
    /// The origin's host in another spelling, or with another scheme or port.
    NearMiss {
        /// The scheme is the origin's, so the authority differs.
        is_scheme: bool,
    },
    /// Another host.
    Foreign,
}

fn is_plain_path(path: &str) -> bool {
    let path = path.as_bytes();
    path.first() == Some(&b'/') && !matches!(path.get(1), Some(b'/' | b'\\'))
}

impl OriginScheme {
    fn as_str(self) -> &'static str {
        match self {
            Self::Http => "http",
            Self::Https => "https",
        }
    }

    fn is(self, scheme: &str) -> bool {
        match self {
            Self::Http => scheme == "http",
            Self::Https => scheme == "https",
        }
    }

    fn default_port(self) -> u16 {
        match self {
            Self::Http => 80,
            Self::Https => 443,
        }
    }

    fn default_port_suffix(self) -> &'static [u8] {
        match self {
            Self::Http => b":80",
            Self::Https => b":443",
        }
    }
}

/// Splits `host:port`. Colons inside the brackets of an IPv6 literal do not count.
fn split_port(authority: &str) -> (&str, Option<&str>) {
    let bracket = authority.rfind(']').unwrap_or(0);
    match authority[bracket..].find(':') {
        Some(colon) => (
            &authority[..bracket + colon],
            Some(&authority[bracket + colon + 1..]),
        ),
        None => (authority, None),
    }
}

fn parse_port(digits: &str) -> Option<u16> {
    let canonical = !digits.starts_with('0') && digits.bytes().all(|byte| byte.is_ascii_digit());
    digits.parse().ok().filter(|_| canonical)
}

fn ipv6_literal(host: &str) -> Option<Ipv6Addr> {
    host.strip_prefix('[')?.strip_suffix(']')?.parse().ok()
}

fn is_host(host: &str) -> bool {
    if host.starts_with('[') {
        return ipv6_literal(host).is_some();
    }
    let labels_are_plain = host.split('.').all(|label| {
        !label.is_empty()
            && label
                .bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_')
    });
    // URL parsers read a host that ends in a number as an IPv4 address, such as `127.1` or
    // `0x7f000001`. Only the dotted quad, which all of them read alike, is accepted.
    let last = host.rsplit('.').next().unwrap_or_default();
    let ends_in_number = last.bytes().all(|byte| byte.is_ascii_digit())
        || last
            .get(..2)
            .is_some_and(|prefix| prefix.eq_ignore_ascii_case("0x"));
    labels_are_plain && (!ends_in_number || host.parse::<Ipv4Addr>().is_ok())
}

/// `https://api.anyreach.ai`, the only documented API server.
impl Default for Origin {
    fn default() -> Self {
        let authority = "api.anyreach.ai";
        Self {
            scheme: OriginScheme::Https,
            id: OriginId::of(OriginScheme::Https, authority),
            authority: authority.into(),
            host_len: authority.len(),
        }
    }
}

impl FromStr for Origin {
    type Err = InvalidOrigin;

    /// Parses an origin by the rules of [`Origin`].
    ///
    /// # Errors
    ///
    /// Returns [`InvalidOrigin`], whose [`reason`](InvalidOrigin::reason) names the broken rule.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let origin = Self::parse(text)?;
        if origin.scheme == OriginScheme::Http && !origin.is_loopback() {
            return Err(InvalidOrigin(InvalidOriginReason::PlainHttp));
        }
        Ok(origin)
    }
}

impl TryFrom<&str> for Origin {
    type Error = InvalidOrigin;

    fn try_from(text: &str) -> Result<Self, Self::Error> {
        text.parse()
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}://{}", self.scheme.as_str(), self.authority)
    }
}

impl fmt::Debug for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Origin({self})")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_port_follows_the_first_colon_outside_brackets() {
        for (authority, host, port) in [
            ("a", "a", None),
            ("a:1", "a", Some("1")),
            ("a:", "a", Some("")),
            ("a:1:2", "a", Some("1:2")),
            ("[::1]", "[::1]", None),
            ("[::1]:1", "[::1]", Some("1")),
            ("[::1]x:1", "[::1]x", Some("1")),
        ] {
            assert_eq!(split_port(authority), (host, port), "{authority}");
        }
    }
    #[test]
    fn another_spelling_may_be_near_an_address_and_is_not_near_a_name() {
        for (origin, authority, is_near) in [
            ("https://127.0.0.1", "127.1", true),
            ("https://127.0.0.1", "2130706433:8443", true),
            ("https://127.0.0.1", "elsewhere.example", false),
            ("https://[::1]", "[0::1]", true),
            ("https://[::1]", "elsewhere.example", false),
            ("https://api.anyreach.ai", "API.anyreach.ai.", true),
            ("https://api.anyreach.ai", "[::1]", false),
        ] {
            let found = origin.parse::<Origin>().unwrap();
            let found = found.may_be_near(authority.as_bytes());
            assert_eq!(found, is_near, "{origin} {authority}");
        }
    }
}
