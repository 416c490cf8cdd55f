//! Where credentials may go: the one origin they are bound to, and the question asked for every request.

use std::fmt;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

use hmac_sha256::Hash as Sha256;
#[cfg(feature = "follow-redirect")]
use http::Extensions;
use http::uri::Uri;

/// The one origin that may see a credential: a scheme, a host, and optionally a port.
///
/// [`Origin::default()`] is `https://api.anyreach.ai`, the only host Anyreach documents. Another origin is for
/// a proxy of your own, or for a server on your machine:
///
/// 1. It is written as `scheme://host` or `scheme://host:port`, and nothing else: no userinfo, no path (not
///    even `/`), no query.
/// 2. The scheme is `https`, or `http` for `localhost` and for literal loopback addresses. Plain http to any
///    other host needs [`Origin::insecure`].
/// 3. The host is a registered name of letters, digits, `-`, `_` and inner dots, a dotted-quad IPv4 address,
///    or an IPv6 address in brackets. It is kept in lower case, and a request's must equal it byte for byte; no
///    name is resolved and no address is normalized.
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
/// let refused = "http://anyreach.proxy.example".parse::<Origin>().unwrap_err();
/// assert_eq!(refused.reason(), InvalidOriginReason::PlainHttp);
/// # Ok::<(), tower_anyreach::InvalidOrigin>(())
/// ```
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Origin {
    scheme: OriginScheme,
    /// `host` or `host:port` in lower case, the default port left out: what a request's authority must equal.
    authority: Box<str>,
    /// A digest of scheme and authority.
    id: OriginId,
    /// How much of `authority` is the host.
    host_len: usize,
}

#[derive(Clone, Copy, PartialEq, Eq, Hash)]
enum OriginScheme {
    Http,
    Https,
}

impl Origin {
    /// Builds an origin as [`FromStr`] does, but allows plain http to any host.
    ///
    /// A bearer credential sent over plain http can be read and used by everyone on the path. Reserve this for
    /// hops that something else protects, such as a sidecar that adds TLS.
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
    /// Those of [`FromStr`], without [`PlainHttp`](InvalidOriginReason::PlainHttp).
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

    /// Whether that is the authority of this origin, written exactly: lower case, its default port written or not.
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

    /// Decides where a request goes, by its URI alone.
    pub(crate) fn destination(&self, uri: &Uri) -> Destination {
        if let (Some(scheme), Some(authority)) = (uri.scheme_str(), uri.authority()) {
            // A path that runs into the authority makes another authority of it for readers of the URI's text. The authority
            // is compared last: nothing has to be kept across the call of `memcmp` then, which saves 10 instructions.
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

    /// Whether the authority's host is this origin's in another spelling: other case, port, or trailing dots.
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

    /// Whether a reader of URLs may take the authority's host for this origin's: another spelling of its name or address.
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
    /// [`http::Error`]: the text does not start with `/`, or holds what no path or query may.
    pub fn uri(&self, path_and_query: &str) -> Result<Uri, http::Error> {
        if !path_and_query.starts_with('/') {
            // The error that `http` has for a text that is no path.
            return Err(""
                .parse::<Uri>()
                .map_or_else(http::Error::from, |_| unreachable!()));
        }
        Uri::builder()
            .scheme(self.scheme.as_str())
            .authority(&*self.authority)
            .path_and_query(path_and_query)
            .build()
    }

    /// Fills in scheme and authority where the URI is a path that starts with exactly one `/`.
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

/// Tells origins apart without owning their text: every request takes one along, and an `Arc` would be counted by all cores.
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

    /// Whether the response may be from the origin: unless tower-http's `FollowRedirect`, inside of the layer, says that it
    /// followed a redirect elsewhere.
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
        // A relative one is what the client below made of it.
        uri.authority().is_none() || origin.is_ok_and(|origin| origin.id == self)
    }
}

/// Whether a `Location` leads, for every reader of URLs, to another host than the origin's.
///
/// That is a plain absolute URL of another host, or a plain reference within the host that answered. Everything else may lead
/// to the origin: IPv6 literals, upper-case schemes, userinfo, characters outside of visible ASCII, backslashes, Punycode of ASCII
/// (`xn--api-` is `api` to the `url` crate before 2.5.4, CVE-2024-12224), and, where the origin is an IPv4 address, any host whose
/// last label starts with a digit (`http://2130706433/` is 127.0.0.1 to that crate). `base_is_near` says that the host that answered is another spelling of the origin's.
pub(crate) fn is_plainly_elsewhere(location: &[u8], origin_host: &str, base_is_near: bool) -> bool {
    if !location.iter().all(|byte| matches!(byte, 0x21..=0x7e)) {
        return false;
    }
    let Ok(text) = std::str::from_utf8(location) else {
        return false;
    };
    let absolute = text
        .strip_prefix("https://")
        .or_else(|| text.strip_prefix("http://"));
    match absolute {
        Some(rest) => is_another_host(before_path(rest), origin_host),
        None if base_is_near => false,
        None => {
            text.is_empty()
                || text.starts_with(['?', '#'])
                || !(text.starts_with("//")
                    || text.contains('\\')
                    || before_path(text).contains(':'))
        }
    }
}

fn is_another_host(authority: &str, origin_host: &str) -> bool {
    let (host, port) = authority.split_once(':').unwrap_or((authority, ""));
    let name = host.trim_end_matches('.');
    let last_label = name.rsplit('.').next().unwrap_or_default();
    let may_be_ipv4 = origin_host.parse::<Ipv4Addr>().is_ok()
        && last_label.starts_with(|c: char| c.is_ascii_digit());
    let is_punycode_of_ascii = |label: &str| {
        label.ends_with('-')
            && label
                .get(..4)
                .is_some_and(|start| start.eq_ignore_ascii_case("xn--"))
    };
    !host.is_empty()
        && !name.split('.').any(is_punycode_of_ascii)
        && host
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || b"-._".contains(&byte))
        && port.bytes().all(|byte| byte.is_ascii_digit())
        && !name.eq_ignore_ascii_case(origin_host)
        && !may_be_ipv4
}

fn before_path(text: &str) -> &str {
    &text[..text.find(['/', '?', '#']).unwrap_or(text.len())]
}

/// Where a request goes, as [`Origin::destination`] decides it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Destination {
    /// To the origin, in its exact spelling.
    Origin,
    /// The URI has no scheme or no authority.
    Relative {
        /// It is a path that starts with exactly one `/`, which every client completes in the same way.
        is_plain_path: bool,
    },
    /// The authority has userinfo.
    Userinfo,
    /// The origin's host in another spelling, or with another scheme or port.
    NearMiss {
        /// The scheme is the origin's, so the authority is what differs.
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

/// Splits `host:port`; the brackets of an IPv6 literal keep its colons.
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
    // URL parsers read a host that ends in a number as an IPv4 address, also `127.1` or `0x7f000001`: only the
    // one spelling that everybody reads alike is let through.
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

    /// Reads an origin by the rules of [`Origin`].
    ///
    /// # Errors
    ///
    /// [`InvalidOrigin`], whose [`reason`](InvalidOrigin::reason) says which rule the text breaks.
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

/// A text is not an [`Origin`]; [`reason`](Self::reason) says why, and the text itself is not kept.
///
/// # Examples
///
/// ```
/// use tower_anyreach::Origin;
///
/// let error = "https://api.anyreach.ai/".parse::<Origin>().unwrap_err();
/// assert_eq!(
///     error.to_string(),
///     "invalid origin: something follows the host and port; leave out the path, even `/`",
/// );
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InvalidOrigin(InvalidOriginReason);

impl InvalidOrigin {
    /// Returns which rule the text broke.
    ///
    /// # Examples
    ///
    /// ```
    /// use tower_anyreach::{InvalidOriginReason, Origin};
    ///
    /// let error = "http://anyreach.internal.example".parse::<Origin>().unwrap_err();
    /// assert_eq!(error.reason(), InvalidOriginReason::PlainHttp);
    /// ```
    #[must_use]
    pub fn reason(&self) -> InvalidOriginReason {
        self.0
    }
}

impl fmt::Display for InvalidOrigin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        use InvalidOriginReason as Reason;
        f.write_str("invalid origin: ")?;
        f.write_str(match self.0 {
            Reason::Empty => "it is empty",
            Reason::MissingScheme => "it does not start with `https://`",
            Reason::UnknownScheme => "its scheme is neither `https` nor `http`",
            Reason::PlainHttp => {
                "plain http is for localhost and loopback addresses; use https, or `Origin::insecure` knowingly"
            }
            Reason::Userinfo => "it contains `@`",
            Reason::Host => "its host is not a plain name, an IPv4 address, or an IPv6 address in brackets",
            Reason::Port => "its port is not a number from 1 to 65535",
            Reason::TrailingText => "something follows the host and port; leave out the path, even `/`",
        })
    }
}

impl std::error::Error for InvalidOrigin {}

/// Why a text is not an [`Origin`].
///
/// # Examples
///
/// ```
/// use tower_anyreach::{InvalidOriginReason, Origin};
///
/// for (text, reason) in [
///     ("api.anyreach.ai", InvalidOriginReason::MissingScheme),
///     ("https://user@api.anyreach.ai", InvalidOriginReason::Userinfo),
///     ("https://api.anyreach.ai:0", InvalidOriginReason::Port),
/// ] {
///     assert_eq!(text.parse::<Origin>().unwrap_err().reason(), reason);
/// }
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum InvalidOriginReason {
    /// The text is empty.
    Empty,
    /// There is no `://`.
    MissingScheme,
    /// The scheme is neither `https` nor `http`.
    UnknownScheme,
    /// Plain http to a host that is not loopback.
    PlainHttp,
    /// The text contains `@`.
    Userinfo,
    /// The host is missing or not written plainly.
    Host,
    /// The port is not a plain decimal number from 1 to 65535.
    Port,
    /// A path, query, fragment or backslash follows.
    TrailingText,
}

impl InvalidOriginReason {
    /// Returns the reason in `snake_case`, stable, fit for a metric's label.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Empty => "empty",
            Self::MissingScheme => "missing_scheme",
            Self::UnknownScheme => "unknown_scheme",
            Self::PlainHttp => "plain_http",
            Self::Userinfo => "userinfo",
            Self::Host => "host",
            Self::Port => "port",
            Self::TrailingText => "trailing_text",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_is_what_follows_the_first_colon_outside_of_brackets() {
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
    fn an_error_is_a_sentence_without_the_input() {
        let error = "https://user@api.anyreach.ai".parse::<Origin>();
        let error = error.unwrap_err();
        assert_eq!(error.to_string(), "invalid origin: it contains `@`");
    }
}
