//! The parts of requests, each labelled by the contract.

use std::iter;

use http::header::HOST;
use http::{HeaderValue, Method, Request, Uri};

/// An index of a matrix, read as one ingredient after the other: the first varies fastest.
pub(crate) struct Digits(pub(crate) u64);

impl Digits {
    pub(crate) fn pick<'a, T>(&mut self, list: &'a [T]) -> &'a T {
        let digit = self.0 % list.len() as u64;
        self.0 /= list.len() as u64;
        &list[usize::try_from(digit).unwrap()]
    }
}

/// The result that the contract asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Expected {
    Ours,
    Foreign,
    /// Refused in every mode.
    Refused,
    /// Ours if relative URIs are completed or trusted, otherwise refused.
    Relative,
}

/// An origin, and spellings that resemble it.
pub(crate) struct Target {
    pub(crate) origin: &'static str,
    /// With whether it is the origin's.
    schemes: Vec<(&'static str, bool)>,
    userinfos: Vec<String>,
    hosts: Vec<(String, Expected)>,
    /// With whether it is the origin's.
    ports: Vec<(&'static str, bool)>,
    relative: Vec<(&'static str, Expected)>,
    /// The lines of each header, and whether they agree with the origin.
    pub(crate) host_headers: Vec<(Vec<HeaderValue>, bool)>,
}

pub(crate) const METHODS: [Method; 8] = [
    Method::GET,
    Method::POST,
    Method::PUT,
    Method::DELETE,
    Method::HEAD,
    Method::OPTIONS,
    Method::CONNECT,
    Method::TRACE,
];

const PATHS: [&str; 3] = ["", "/", "/core/agents?page=1&next=https://evil.example/"];

/// URIs in origin form that every parser keeps on its host.
const RELATIVE: &str = "/ /core/agents /core/agents?next=//evil.example /core//evil.example /@evil.example /:8443 \
     /.//evil.example/ /..//evil.example/ /%2f/evil.example /https://evil.example/";

/// Others, and the asterisk form.
const LEAVING: &str = "// //evil.example/ //api.anyreach.ai/core ///evil.example/ //user@evil.example/ /\\evil.example/ \
     /\\/evil.example/ *";

const SCHEMES: &str = "https http HTTPS HtTpS hTTp wss httpss ftp";

/// Ports beside the empty one, the origins' own among them; 65979 and 73979 are 443 and 8443 modulo 65536.
const PORTS: &str = ":443 :0443 :00443 :80 :080 :8443 :08443 :8080 :0 :1 :44 :442 :444 :4430 :65535 :65536 :65979 :73979 \
     :99999 :18446744073709552059 : :+443 :-443 :443. :443a :0x1bb :%34%34%33 :443:443 :443@evil.example";

impl Target {
    pub(crate) fn anyreach() -> Self {
        Self::new("https://api.anyreach.ai", names("api.anyreach.ai"))
    }

    pub(crate) fn proxy() -> Self {
        let origin = "https://anyreach.proxy.example:8443";
        Self::new(origin, names("anyreach.proxy.example"))
    }

    pub(crate) fn others() -> [Self; 3] {
        [
            Self::new("http://localhost:8080", names("localhost")),
            Self::new("http://127.0.0.1:8080", loopbacks()),
            Self::new("https://[fd00::abcd]", ipv6()),
        ]
    }

    /// The first of the hosts is the origin's.
    fn new(origin: &'static str, hosts: Vec<(String, Expected)>) -> Self {
        let (scheme, ours) = origin.split_once("://").unwrap();
        let host = hosts[0].0.clone();
        let port = ours.strip_prefix(&host).unwrap();
        let default = if scheme == "https" { ":443" } else { ":80" };
        let ports = iter::once("").chain(PORTS.split(' '));
        let is_our_port = |text: &str| text == port || (port.is_empty() && text == default);
        let userinfos =
            format!("@ user@ user:pass@ :@ a@b@ user%40evil.example@ {ours}@ {host}:443@");
        let userinfos = iter::once("").chain(userinfos.split(' '));
        let relative = RELATIVE.split(' ').map(|path| (path, Expected::Relative));
        let leaving = LEAVING.split(' ').map(|path| (path, Expected::Refused));
        let is_our_scheme = |text: &str| text.eq_ignore_ascii_case(scheme);
        let schemes = SCHEMES.split(' ').map(|text| (text, is_our_scheme(text)));
        Self {
            origin,
            schemes: schemes.collect(),
            userinfos: userinfos.map(str::to_owned).collect(),
            host_headers: host_headers(ours, &host, port),
            ports: ports.map(|text| (text, is_our_port(text))).collect(),
            relative: relative.chain(leaving).collect(),
            hosts,
        }
    }

    /// Returns the number of URIs, of all forms.
    pub(crate) fn uris(&self) -> u64 {
        self.absolute_uris() + self.relative.len() as u64 + self.authorities()
    }

    fn absolute_uris(&self) -> u64 {
        self.schemes.len() as u64 * self.authorities()
    }

    fn authorities(&self) -> u64 {
        (self.userinfos.len() * self.hosts.len() * self.ports.len()) as u64
    }

    /// Returns one of all URIs, and the expected result of a request without a `Host` header: absolute URIs, then origin form
    /// and asterisk form, then authority form.
    pub(crate) fn uri(&self, index: u64) -> (String, Expected) {
        let Some(others) = index.checked_sub(self.absolute_uris()) else {
            return self.absolute_uri(index);
        };
        if let Some((path, expected)) = self.relative.get(usize::try_from(others).unwrap()) {
            return ((*path).to_owned(), *expected);
        }
        let mut digits = Digits(others - self.relative.len() as u64);
        let (port, _) = digits.pick(&self.ports);
        let (host, _) = digits.pick(&self.hosts);
        let userinfo = digits.pick(&self.userinfos);
        (format!("{userinfo}{host}{port}"), Expected::Refused)
    }

    fn absolute_uri(&self, index: u64) -> (String, Expected) {
        let mut digits = Digits(index);
        let (port, port_is_ours) = digits.pick(&self.ports);
        let (host, spelling) = digits.pick(&self.hosts);
        let userinfo = digits.pick(&self.userinfos);
        let (scheme, scheme_is_ours) = digits.pick(&self.schemes);
        let path = PATHS[(port.len() + host.len() + userinfo.len()) % PATHS.len()];
        let expected = match spelling {
            _ if !userinfo.is_empty() || port.contains('@') => Expected::Refused,
            Expected::Ours if !(*scheme_is_ours && *port_is_ours) => Expected::Refused,
            expected => *expected,
        };
        (format!("{scheme}://{userinfo}{host}{port}{path}"), expected)
    }
}

/// Returns the lines of each `Host` header, and whether they agree with the origin.
fn host_headers(ours: &str, host: &str, port: &str) -> Vec<(Vec<HeaderValue>, bool)> {
    let (upper, spaced) = (ours.to_ascii_uppercase(), format!(" {ours} "));
    let others = format!("evil.example {ours}.evil.example {host}:8444 {host}.{port} user@{ours}");
    let mut headers = vec![vec![], vec![ours], vec![&upper]];
    let others = others.split(' ').chain(["", &spaced]);
    headers.extend(others.map(|other| vec![other]));
    // RFC 9112 section 3.2: one line, whatever the lines say.
    headers.extend([vec![ours, ours], vec!["evil.example", ours]]);
    let parsed = headers.into_iter().map(|lines| {
        // Digits have no case, so that the third may be the second.
        let agrees = lines.is_empty() || lines == [ours];
        let lines = lines.into_iter().map(|line| line.parse().unwrap());
        (lines.collect(), agrees)
    });
    parsed.collect()
}

impl Expected {
    /// The same for a request with that method and `Host` header, which concerns only requests to the origin.
    pub(crate) fn with(self, method: &Method, host_agrees: bool) -> Self {
        match self {
            _ if matches!(*method, Method::CONNECT | Method::TRACE) => Self::Refused,
            Self::Ours | Self::Relative if !host_agrees => Self::Refused,
            same => same,
        }
    }
}

pub(crate) fn request(method: &Method, uri: &Uri, hosts: &[HeaderValue]) -> Request<String> {
    let mut request = Request::new(String::new());
    request.method_mut().clone_from(method);
    request.uri_mut().clone_from(uri);
    for host in hosts {
        request.headers_mut().append(HOST, host.clone());
    }
    request
}

/// A registered name, and names that resemble it.
fn names(host: &str) -> Vec<(String, Expected)> {
    let (first, parent) = host.split_once('.').unwrap_or((host, "example"));
    let (head, tail) = (&host[..host.len() - 1], &host[1..]);
    let (start, upper) = (host.as_bytes()[0], host.to_ascii_uppercase());
    let mut odd = host.to_owned();
    for at in (0..host.len()).step_by(2) {
        odd[at..=at].make_ascii_uppercase();
    }
    let near = format!("{upper} {odd} {host}. {host}.. {host}... {upper}.");
    // Before, behind, above and beside the name; punctuation, percent, other scripts, and addresses.
    let foreign = format!(
        "{host}.evil.example {host}.localhost {host}-evil.example {host}evil.example {host}x evil-{host} \
         evil{host} evil.{host} .{host} {first}..{parent} up.{parent} evil.{parent}x {first}{parent}x \
         {first}-{parent} {first}_{parent} *.{parent} evil.example com {host},evil.example \
         {host};evil.example {host}&evil.example {host}_ {host}- -{host} {host}~ {host}* {host}! ({host}) \
         {host}\\.evil.example {host}\t {host}| {host}%2f {host}%00 {host}%40evil.example \
         {host}%2eevil.example {host}\u{200b} {first}\u{ad}.{parent} {host}\u{2044}evil.example xn--{host} \
         xn--pi-7kc.{parent} {first}.xn--nyreach-1fh.ai 127.0.0.1 2130706433 0x7f000001 0177.0.0.1 [::1] \
         [::ffff:127.0.0.1] [{host}] [::1]{host} {host}[::1] {head} {tail} %{start:02x}{tail} {} {}0 {} {} {} {} {}",
        host.replacen('a', "e", 1),
        host.replacen('l', "1", 1),
        host.replace('.', "%2e") + "%2e",
        host.replace('.', "\u{3002}") + "\u{3002}",
        host.replace('.', "\u{ff0e}") + "\u{ff0e}",
        host.replacen('a', "\u{430}", 1),
        host.replacen('a', "\u{ff41}", 1),
    );
    let mut hosts = labelled(host, &near, &foreign);
    hosts.push((format!("{host} "), Expected::Foreign));
    hosts
}

/// An IPv4 address: a `url` parser reads many of its foreign spellings as the same, and the contract does not.
fn loopbacks() -> Vec<(String, Expected)> {
    let foreign = "127.1 127.0.1 2130706433 0x7f000001 0x7F000001 0x7f.0.0.1 0x7f.1 0177.0.0.1 017700000001 127.0.0.01 \
         127.0.0.0x1 127.000.000.001 127.0.0.2 127.0.0.10 127.0.0.1.evil.example 127.0.0.1-evil.example \
         evil-127.0.0.1 1127.0.0.1 27.0.0.1 127.0.0.1.0 127.0.0 0.0.0.0 127.0.0.257 4294967297 localhost \
         LOCALHOST localhost. [::1] [::ffff:127.0.0.1] [::ffff:7f00:1] [::127.0.0.1] [127.0.0.1] 127.0.0.1%00 \
         127%2e0%2e0%2e1 127\u{3002}0\u{3002}0\u{3002}1 \u{2460}27.0.0.1 127.0.0.1,evil.example 127.0.0.1_ \
         0:127.0.0.1 evil.example api.anyreach.ai";
    labelled("127.0.0.1", "127.0.0.1. 127.0.0.1..", foreign)
}

fn ipv6() -> Vec<(String, Expected)> {
    let near = "[FD00::ABCD] [fd00::AbCd] [fd00::abcd]. [fd00::abcd]x [fd00::abcd]443 [fd00::abcd].evil.example";
    let foreign = "[fd00:0::abcd] [fd00:0:0:0:0:0:0:abcd] [fd00:0000::abcd] [fd00::0abcd] [fd00::0:abcd] \
         [fd00::0.0.171.205] [fd00::abcd%25eth0] [fd00::abcd%eth0] [fd00::abce] [fd00::abcd:1] [fd00::abc] \
         [fd00::] [::abcd] [::] [::1] [fe80::abcd] [fd00::ABCE] [::ffff:171.205.0.0] [fd00::abcd fd00::abcd] \
         fd00::abcd [[fd00::abcd]] [] [fd00::abcd,::1] [fd00::abcd.] [v1.fd00::abcd] x[fd00::abcd] \
         evil.example[fd00::abcd] fd00--abcd.ipv6-literal.net 127.0.0.1 171.205.0.0 localhost evil.example \
         api.anyreach.ai";
    labelled("[fd00::abcd]", near, foreign)
}

fn labelled(ours: &str, near: &str, foreign: &str) -> Vec<(String, Expected)> {
    // A change that is none in this name is left out.
    let is_change = |text: &&str| !text.eq_ignore_ascii_case(ours);
    let foreign = foreign.split(' ').filter(is_change);
    let near = near.split(' ').map(|near| (near, Expected::Refused));
    let labelled = iter::once((ours, Expected::Ours)).chain(near);
    let labelled = labelled.chain(foreign.map(|foreign| (foreign, Expected::Foreign)));
    let owned = labelled.map(|(text, expected)| (text.to_owned(), expected));
    owned.collect()
}
