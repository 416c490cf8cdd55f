//! Where credentials may go: the one origin they are bound to, and the question asked for every request.

use std::fmt;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

use http::Method;
use http::header::{GetAll, HeaderValue};
use http::uri::{Scheme, Uri};

/// The `Host` lines of a request that has any.
type Hosts<'a> = GetAll<'a, HeaderValue>;

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
///    or an IPv6 address in brackets. It is compared as text, without regard to ASCII case; no name is
///    resolved and no address is normalized.
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
            authority: authority.into_boxed_str(),
            host_len,
        })
    }

    fn host(&self) -> &str {
        &self.authority[..self.host_len]
    }

    fn is_loopback(&self) -> bool {
        let host = self.host();
        host == "localhost"
            || host.parse().is_ok_and(|ip: Ipv4Addr| ip.is_loopback())
            || ipv6_literal(host).is_some_and(|ip| ip.is_loopback())
    }

    #[inline]
    fn is_ours(&self, scheme: &Scheme, authority: &[u8]) -> bool {
        // Against literals, which is a comparison of numbers.
        let same_scheme = match self.scheme {
            OriginScheme::Http => scheme.as_str() == "http",
            OriginScheme::Https => scheme.as_str() == "https",
        };
        same_scheme && self.is_authority(authority)
    }

    /// Whether `authority` is this origin's, to the letter: `host`, `host:port`, or `host:` with the default port.
    #[inline]
    fn is_authority(&self, authority: &[u8]) -> bool {
        // Bytes first: a client writes the host the same way every time, nearly always in lower case.
        authority == self.authority.as_bytes() || self.is_authority_in_other_writing(authority)
    }

    fn is_authority_in_other_writing(&self, authority: &[u8]) -> bool {
        let ours = self.authority.as_bytes();
        authority.eq_ignore_ascii_case(ours)
            || (self.host_len == ours.len()
                && authority
                    .strip_suffix(self.scheme.default_port_suffix())
                    .is_some_and(|host| host.eq_ignore_ascii_case(ours)))
    }

    /// Whether `authority` names this origin's host, whatever stands around it: userinfo, port, trailing dots.
    fn is_near(&self, authority: &[u8]) -> bool {
        let after_userinfo = authority
            .iter()
            .rposition(|byte| *byte == b'@')
            .map_or(authority, |at| &authority[at + 1..]);
        let trimmed = after_userinfo.trim_ascii();
        let host_len = if trimmed.starts_with(b"[") {
            trimmed
                .iter()
                .position(|byte| *byte == b']')
                .map(|end| end + 1)
        } else {
            trimmed.iter().position(|byte| *byte == b':')
        };
        let mut host = &trimmed[..host_len.unwrap_or(trimmed.len())];
        while let Some(shorter) = host.strip_suffix(b".") {
            host = shorter;
        }
        host.eq_ignore_ascii_case(self.host().as_bytes())
    }

    /// The pure decision: may credentials go where this request head says it goes?
    #[inline]
    pub(crate) fn judge(
        &self,
        method: &Method,
        uri: &Uri,
        hosts: Option<Hosts<'_>>,
        relative_allowed: bool,
    ) -> Verdict {
        use DestinationReason as Reason;

        // RFC 9110 section 9.3.6: CONNECT shows its fields to a proxy. Section 9.3.8: TRACE sends them back.
        if matches!(*method, Method::CONNECT | Method::TRACE) {
            return Verdict::Refused(Reason::Method);
        }
        let (Some(scheme), Some(authority)) = (uri.scheme(), uri.authority()) else {
            return if relative_allowed && Self::is_safe_relative(uri) {
                self.judge_host_of_ours(hosts)
            } else {
                Verdict::Refused(Reason::Relative)
            };
        };
        let authority = authority.as_str().as_bytes();
        // A path that runs into the authority makes another authority of it for who reads the URI's text.
        if !uri.path().starts_with('/') {
            return Verdict::Refused(Reason::Authority);
        }
        if self.is_ours(scheme, authority) {
            return self.judge_host_of_ours(hosts);
        }
        self.judge_another(authority, hosts)
    }

    #[cold]
    fn judge_another(&self, authority: &[u8], hosts: Option<Hosts<'_>>) -> Verdict {
        use DestinationReason as Reason;

        if authority.contains(&b'@') {
            Verdict::Refused(Reason::Userinfo)
        } else if self.is_near(authority) {
            Verdict::Refused(if self.is_authority(authority) {
                Reason::Scheme
            } else {
                Reason::Authority
            })
        } else if hosts
            .into_iter()
            .flatten()
            .any(|host| self.is_near(host.as_bytes()))
        {
            Verdict::Refused(Reason::HostHeader)
        } else {
            Verdict::Foreign
        }
    }

    /// A path that every parser keeps on this host: `//` would start an authority, and so would `/\` for those
    /// who read URLs as browsers do.
    fn is_safe_relative(uri: &Uri) -> bool {
        let path = uri.path().as_bytes();
        uri.scheme().is_none()
            && uri.authority().is_none()
            && path.first() == Some(&b'/')
            && !matches!(path.get(1), Some(b'/' | b'\\'))
    }

    /// `Host` may repeat what the URI says and nothing else (RFC 9112 section 3.2: at most one line).
    #[inline]
    fn judge_host_of_ours(&self, hosts: Option<Hosts<'_>>) -> Verdict {
        if hosts.is_none_or(|hosts| self.is_repeated_by(&hosts)) {
            Verdict::Ours
        } else {
            Verdict::Refused(DestinationReason::HostHeader)
        }
    }

    fn is_repeated_by(&self, hosts: &Hosts<'_>) -> bool {
        let mut hosts = hosts.iter();
        match (hosts.next(), hosts.next()) {
            (Some(host), None) => self.is_authority(host.as_bytes()),
            _ => false,
        }
    }
}

impl OriginScheme {
    fn as_str(self) -> &'static str {
        match self {
            Self::Http => "http",
            Self::Https => "https",
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

impl Default for Origin {
    /// Returns `https://api.anyreach.ai`, the one server of the Anyreach API's published description.
    fn default() -> Self {
        Self {
            scheme: OriginScheme::Https,
            authority: "api.anyreach.ai".into(),
            host_len: "api.anyreach.ai".len(),
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
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
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

/// What [`Origin::judge`] found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// The request goes to the origin: credentials may go along.
    Ours,
    /// The request goes to somebody else, and does not even look like ours.
    Foreign,
    /// The request must not leave with or without credentials: it is malformed, or a near miss of the origin.
    Refused(DestinationReason),
}

/// Where a refused request would have gone, and which rule forbids it.
///
/// `Display` and `Debug` show the scheme, the host and the port, never userinfo, path or query, which may hold
/// secrets of their own. A redirect may have named the host: it is shown without echoes of the credential, and at most
/// 256 characters of it.
///
/// # Examples
///
/// ```
/// # tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(async {
/// use tower::{Layer, ServiceExt, service_fn};
/// use tower_anyreach::{AnyreachAuthLayer, DestinationReason, Error, OrganizationApiKey};
///
/// let client = AnyreachAuthLayer::new(OrganizationApiKey::new("ak_id.secret").unwrap())
///     .layer(service_fn(async |_: http::Request<String>| Ok::<_, std::io::Error>(http::Response::new(String::new()))));
/// let request = http::Request::get("https://storage.example/upload?signature=s3cret").body(String::new()).unwrap();
/// match client.oneshot(request).await {
///     Err(Error::UntrustedDestination(to)) => {
///         assert_eq!(to.reason(), DestinationReason::Foreign);
///         assert_eq!(to.to_string(), "https://storage.example: another host than the origin's");
///     }
///     other => panic!("{other:?}"),
/// }
/// # });
/// ```
#[derive(Clone, PartialEq, Eq)]
pub struct Destination(Box<Refusal>);

#[derive(Clone, PartialEq, Eq)]
struct Refusal {
    reason: DestinationReason,
    // All fit to be shown.
    scheme: Option<String>,
    host: Option<String>,
    port: Option<String>,
}

impl Destination {
    /// `show` makes a text fit to be shown that somebody else may have written.
    pub(crate) fn new(reason: DestinationReason, uri: &Uri, show: impl Fn(&str) -> String) -> Self {
        let authority = uri.authority().map(|authority| {
            let authority = authority.as_str();
            let userinfo = authority.rfind('@').map_or(0, |at| at + 1);
            split_port(&authority[userinfo..])
        });
        Self(Box::new(Refusal {
            reason,
            scheme: uri.scheme_str().map(&show),
            host: authority.map(|(host, _)| show(host)),
            port: authority.and_then(|(_, port)| port).map(&show),
        }))
    }

    /// Returns which rule forbids the destination.
    ///
    /// # Examples
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # use tower::{Layer, ServiceExt};
    /// # let key = tower_anyreach::OrganizationApiKey::new("ak_id.secret")?;
    /// # let anyreach = tower_anyreach::test_util::FakeAnyreach::builder().in_memory();
    /// # let client = tower_anyreach::AnyreachAuthLayer::new(key).layer(anyreach.service());
    /// # let request = http::Request::get("http://api.anyreach.ai/core/agents").body(String::new())?;
    /// # let error = client.oneshot(request).await.unwrap_err();
    /// use tower_anyreach::{DestinationReason, Error};
    ///
    /// // For a request to http://api.anyreach.ai/core/agents:
    /// let Error::UntrustedDestination(to) = error else { panic!("{error}") };
    /// assert_eq!(to.reason(), DestinationReason::Scheme);
    /// # Ok(()) }
    /// ```
    #[must_use]
    pub fn reason(&self) -> DestinationReason {
        self.0.reason
    }

    /// Returns the host, as the request's URI had it but for echoes of the credential; `None` if it had none.
    ///
    /// # Examples
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # use tower::{Layer, ServiceExt};
    /// # let key = tower_anyreach::OrganizationApiKey::new("ak_id.secret")?;
    /// # let anyreach = tower_anyreach::test_util::FakeAnyreach::builder().in_memory();
    /// # let client = tower_anyreach::AnyreachAuthLayer::new(key).layer(anyreach.service());
    /// # let request = http::Request::get("https://storage.example/upload?signature=s3cret").body(String::new())?;
    /// # let error = client.oneshot(request).await.unwrap_err();
    /// use tower_anyreach::Error;
    ///
    /// // For a request to https://storage.example/upload?signature=s3cret:
    /// let Error::UntrustedDestination(to) = error else { panic!("{error}") };
    /// assert_eq!(to.host(), Some("storage.example"));
    /// # Ok(()) }
    /// ```
    #[must_use]
    pub fn host(&self) -> Option<&str> {
        self.0.host.as_deref()
    }
}

impl fmt::Display for Destination {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(host) = &self.0.host {
            if let Some(scheme) = &self.0.scheme {
                write!(f, "{scheme}://")?;
            }
            f.write_str(host)?;
            if let Some(port) = &self.0.port {
                write!(f, ":{port}")?;
            }
            f.write_str(": ")?;
        }
        f.write_str(match self.0.reason {
            DestinationReason::Foreign => "another host than the origin's",
            DestinationReason::Relative => {
                "the URI is not absolute; use a full URI, or `allow_relative_uris` below a base-URI layer"
            }
            DestinationReason::Scheme => "the origin's host with another scheme",
            DestinationReason::Authority => "the authority is not written as the origin's; see its port, trailing dots, and the path after it",
            DestinationReason::Userinfo => "the authority contains `@`",
            DestinationReason::Method => "CONNECT and TRACE never carry credentials",
            DestinationReason::HostHeader => "the `Host` header disagrees with the URI",
        })
    }
}

impl fmt::Debug for Destination {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Destination({self})")
    }
}

/// The rule by which a destination was refused.
///
/// # Examples
///
/// ```
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # use tower::{Layer, ServiceExt};
/// # let key = tower_anyreach::OrganizationApiKey::new("ak_id.secret")?;
/// # let anyreach = tower_anyreach::test_util::FakeAnyreach::builder().in_memory();
/// # let client = tower_anyreach::AnyreachAuthLayer::new(key).layer(anyreach.service());
/// # let request = http::Request::get("https://api.anyreach.ai:8443/core/agents").body(String::new())?;
/// # let error = client.oneshot(request).await.unwrap_err();
/// use tower_anyreach::{DestinationReason, Error};
///
/// // For a request to https://api.anyreach.ai:8443/core/agents:
/// match error {
///     Error::UntrustedDestination(to) if to.reason() == DestinationReason::Foreign => panic!("it is ours, nearly"),
///     Error::UntrustedDestination(to) => assert_eq!(to.reason(), DestinationReason::Authority),
///     error => panic!("{error}"),
/// }
/// # Ok(()) }
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum DestinationReason {
    /// Another host than the origin's, and foreign requests are not forwarded.
    Foreign,
    /// No scheme or no authority, and relative URIs are not allowed; or a path that starts with `//` or `/\`.
    Relative,
    /// The origin's own host and port, with another scheme.
    Scheme,
    /// The origin's own host, with another port or written with a trailing dot; or any authority that a path
    /// without a leading `/` runs into.
    Authority,
    /// Userinfo, or any other `@` in the authority.
    Userinfo,
    /// CONNECT or TRACE.
    Method,
    /// `Host` disagrees with the URI, names the origin on a foreign URI, or stands there twice.
    HostHeader,
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
