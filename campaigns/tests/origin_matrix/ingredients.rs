//! What requests are made of, each labelled with what the contract makes of it.

use http::header::HOST;
use http::{HeaderValue, Method, Request, Uri};

use crate::plan::Digits;

/// What a spelling of a host is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Host {
    /// The origin's own, in its one spelling.
    Ours,
    /// Another spelling of it: other case, or something around it. Refused in every mode.
    Near,
    Foreign,
}

/// What a `Host` header says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum HostHeader {
    Absent,
    /// Each line is the origin's authority, in its one spelling.
    Agrees,
    /// It says anything else.
    Differs,
}

/// What is to become of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Expected {
    Ours,
    Foreign,
    Refused,
    /// Ours if relative URIs are completed or trusted, otherwise refused.
    Relative,
}

/// An origin, and the spellings of all that is like it and is not.
pub(crate) struct Target {
    pub(crate) origin: &'static str,
    scheme: &'static str,
    pub(crate) home: String,
    userinfos: Vec<String>,
    hosts: Vec<(String, Host)>,
    /// With whether it is the origin's.
    ports: Vec<(&'static str, bool)>,
    /// The lines of the header.
    pub(crate) host_headers: Vec<(Vec<HeaderValue>, HostHeader)>,
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

/// In origin form, with whether every parser keeps it on its host; the last one is in asterisk form.
const RELATIVE: [(&str, bool); 18] = [
    ("/", true),
    ("/core/agents", true),
    ("/core/agents?next=//evil.example", true),
    ("/core//evil.example", true),
    ("/@evil.example", true),
    ("/:8443", true),
    ("/.//evil.example/", true),
    ("/..//evil.example/", true),
    ("/%2f/evil.example", true),
    ("/https://evil.example/", true),
    ("//", false),
    ("//evil.example/", false),
    ("//api.anyreach.ai/core", false),
    ("///evil.example/", false),
    ("//user@evil.example/", false),
    ("/\\evil.example/", false),
    ("/\\/evil.example/", false),
    ("*", false),
];

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
    fn new(origin: &'static str, hosts: Vec<(String, Host)>) -> Self {
        let (scheme, ours) = origin.split_once("://").unwrap();
        let host = hosts[0].0.clone();
        let port = ours.strip_prefix(&host).unwrap();
        let default = if scheme == "https" { ":443" } else { ":80" };
        let is_ours = |text: &str| text == port || (port.is_empty() && text == default);
        let ports = PORTS.map(|text| (text, is_ours(text))).into();
        let another_port = format!("{host}:8444");
        let upper = ours.to_ascii_uppercase();
        // Digits have no case.
        let of_upper = if upper == *ours {
            HostHeader::Agrees
        } else {
            HostHeader::Differs
        };
        let host_headers: [(&[&str], HostHeader); 12] = [
            (&[], HostHeader::Absent),
            (&[ours], HostHeader::Agrees),
            (&[&upper], of_upper),
            (&["evil.example"], HostHeader::Differs),
            (&[""], HostHeader::Differs),
            (&[&format!("{ours}.evil.example")], HostHeader::Differs),
            // RFC 9112 section 3.2: one line, whatever the lines say.
            (&[ours, ours], HostHeader::Differs),
            (&["evil.example", ours], HostHeader::Differs),
            (&[&another_port], HostHeader::Differs),
            (&[&format!("{host}.{port}")], HostHeader::Differs),
            (&[&format!("user@{ours}")], HostHeader::Differs),
            (&[&format!(" {ours} ")], HostHeader::Differs),
        ];
        let host_headers = host_headers.map(|(lines, says)| {
            let lines = lines.iter().map(|line| line.parse().unwrap());
            (lines.collect(), says)
        });
        Self {
            origin,
            scheme,
            home: format!("{origin}/core/agents"),
            userinfos: vec![
                String::new(),
                "@".to_owned(),
                "user@".to_owned(),
                "user:pass@".to_owned(),
                ":@".to_owned(),
                "a@b@".to_owned(),
                "user%40evil.example@".to_owned(),
                format!("{ours}@"),
                format!("{host}:443@"),
            ],
            hosts,
            ports,
            host_headers: host_headers.into(),
        }
    }

    /// How many URIs there are, of all forms.
    pub(crate) fn uris(&self) -> u64 {
        self.absolute_uris() + self.other_uris()
    }

    fn absolute_uris(&self) -> u64 {
        (SCHEMES.len() * self.userinfos.len() * self.hosts.len() * self.ports.len()) as u64
    }

    /// In origin form, asterisk form and authority form.
    fn other_uris(&self) -> u64 {
        (RELATIVE.len() + self.userinfos.len() * self.hosts.len() * self.ports.len()) as u64
    }

    /// One of all URIs, and what becomes of a request with it that has no `Host` header.
    pub(crate) fn uri(&self, index: u64) -> (String, Expected) {
        let Some(index) = index.checked_sub(self.absolute_uris()) else {
            return self.absolute_uri(index);
        };
        match RELATIVE.get(usize::try_from(index).unwrap()) {
            Some((path, true)) => ((*path).to_owned(), Expected::Relative),
            Some((path, false)) => ((*path).to_owned(), Expected::Refused),
            None => {
                let mut digits = Digits(index - RELATIVE.len() as u64);
                let (port, _) = digits.pick(&self.ports);
                let (host, _) = digits.pick(&self.hosts);
                let userinfo = digits.pick(&self.userinfos);
                (format!("{userinfo}{host}{port}"), Expected::Refused)
            }
        }
    }

    /// One of the absolute URIs.
    fn absolute_uri(&self, index: u64) -> (String, Expected) {
        let mut digits = Digits(index);
        let (port, port_is_ours) = digits.pick(&self.ports);
        let (host, whose) = digits.pick(&self.hosts);
        let userinfo = digits.pick(&self.userinfos);
        let scheme = digits.pick(&SCHEMES);
        let path = PATHS[(port.len() + host.len() + userinfo.len()) % PATHS.len()];
        let scheme_is_ours = scheme.eq_ignore_ascii_case(self.scheme);
        let expected = match whose {
            _ if !userinfo.is_empty() || port.contains('@') => Expected::Refused,
            Host::Ours if scheme_is_ours && *port_is_ours => Expected::Ours,
            Host::Ours | Host::Near => Expected::Refused,
            Host::Foreign => Expected::Foreign,
        };
        (format!("{scheme}://{userinfo}{host}{port}{path}"), expected)
    }
}

impl Expected {
    /// The same for a request with that method and `Host` header, which concerns only requests to the origin.
    pub(crate) fn with(self, method: &Method, host: HostHeader) -> Self {
        match self {
            _ if matches!(*method, Method::CONNECT | Method::TRACE) => Self::Refused,
            Self::Ours | Self::Relative if host == HostHeader::Differs => Self::Refused,
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

const SCHEMES: [&str; 8] = [
    "https", "http", "HTTPS", "HtTpS", "hTTp", "wss", "httpss", "ftp",
];

/// The origins' own among them.
const PORTS: [&str; 30] = [
    "",
    ":443",
    ":0443",
    ":00443",
    ":80",
    ":080",
    ":8443",
    ":08443",
    ":8080",
    ":0",
    ":1",
    ":44",
    ":442",
    ":444",
    ":4430",
    ":65535",
    ":65536",
    // 443 and 8443 modulo 65536, for those who let a port overflow.
    ":65979",
    ":73979",
    ":99999",
    ":18446744073709552059",
    ":",
    ":+443",
    ":-443",
    ":443.",
    ":443a",
    ":0x1bb",
    ":%34%34%33",
    ":443:443",
    ":443@evil.example",
];

/// A registered name, and what attackers make of it.
fn names(host: &str) -> Vec<(String, Host)> {
    let (first, parent) = host.split_once('.').unwrap_or((host, "example"));
    let mut odd = host.to_owned();
    for at in (0..host.len()).step_by(2) {
        odd[at..=at].make_ascii_uppercase();
    }
    let ours = [host.to_owned()];
    let near = [
        host.to_ascii_uppercase(),
        odd,
        format!("{host}."),
        format!("{host}.."),
        format!("{host}..."),
        format!("{}.", host.to_ascii_uppercase()),
    ];
    let mut foreign = vec![
        host[..host.len() - 1].to_owned(),
        host[1..].to_owned(),
        host.replacen('a', "e", 1),
        host.replacen('l', "1", 1) + "0",
        format!("{host} "),
        format!("%{:02x}{}", host.as_bytes()[0], &host[1..]),
        host.replace('.', "%2e") + "%2e",
        host.replace('.', "\u{3002}") + "\u{3002}",
        host.replace('.', "\u{ff0e}") + "\u{ff0e}",
        host.replacen('a', "\u{430}", 1),
        host.replacen('a', "\u{ff41}", 1),
    ];
    // Before, behind, above and beside the name; punctuation, percent, other scripts, and addresses.
    let texts = format!(
        "{host}.evil.example {host}.localhost {host}-evil.example {host}evil.example {host}x evil-{host} \
         evil{host} evil.{host} .{host} {first}..{parent} up.{parent} evil.{parent}x {first}{parent}x \
         {first}-{parent} {first}_{parent} *.{parent} evil.example com {host},evil.example \
         {host};evil.example {host}&evil.example {host}_ {host}- -{host} {host}~ {host}* {host}! ({host}) \
         {host}\\.evil.example {host}\t {host}| {host}%2f {host}%00 {host}%40evil.example \
         {host}%2eevil.example {host}\u{200b} {first}\u{ad}.{parent} {host}\u{2044}evil.example xn--{host} \
         xn--pi-7kc.{parent} {first}.xn--nyreach-1fh.ai 127.0.0.1 2130706433 0x7f000001 0177.0.0.1 [::1] \
         [::ffff:127.0.0.1] [{host}] [::1]{host} {host}[::1]"
    );
    foreign.extend(words(&texts));
    labelled(&ours, &near, &foreign)
}

/// An IPv4 address: a `url` parser reads many of its foreign spellings as the same, and the contract does not.
fn loopbacks() -> Vec<(String, Host)> {
    let near = ["127.0.0.1.", "127.0.0.1.."].map(str::to_owned);
    let foreign = "127.1 127.0.1 2130706433 0x7f000001 0x7F000001 0x7f.0.0.1 0x7f.1 0177.0.0.1 017700000001 127.0.0.01 \
         127.0.0.0x1 127.000.000.001 127.0.0.2 127.0.0.10 127.0.0.1.evil.example 127.0.0.1-evil.example \
         evil-127.0.0.1 1127.0.0.1 27.0.0.1 127.0.0.1.0 127.0.0 0.0.0.0 127.0.0.257 4294967297 localhost \
         LOCALHOST localhost. [::1] [::ffff:127.0.0.1] [::ffff:7f00:1] [::127.0.0.1] [127.0.0.1] 127.0.0.1%00 \
         127%2e0%2e0%2e1 127\u{3002}0\u{3002}0\u{3002}1 \u{2460}27.0.0.1 127.0.0.1,evil.example 127.0.0.1_ \
         0:127.0.0.1 evil.example api.anyreach.ai";
    labelled(&["127.0.0.1".to_owned()], &near, &words(foreign))
}

fn ipv6() -> Vec<(String, Host)> {
    let near = "[FD00::ABCD] [fd00::AbCd] [fd00::abcd]. [fd00::abcd]x [fd00::abcd]443 [fd00::abcd].evil.example";
    let foreign = "[fd00:0::abcd] [fd00:0:0:0:0:0:0:abcd] [fd00:0000::abcd] [fd00::0abcd] [fd00::0:abcd] \
         [fd00::0.0.171.205] [fd00::abcd%25eth0] [fd00::abcd%eth0] [fd00::abce] [fd00::abcd:1] [fd00::abc] \
         [fd00::] [::abcd] [::] [::1] [fe80::abcd] [fd00::ABCE] [::ffff:171.205.0.0] [fd00::abcd fd00::abcd] \
         fd00::abcd [[fd00::abcd]] [] [fd00::abcd,::1] [fd00::abcd.] [v1.fd00::abcd] x[fd00::abcd] \
         evil.example[fd00::abcd] fd00--abcd.ipv6-literal.net 127.0.0.1 171.205.0.0 localhost evil.example \
         api.anyreach.ai";
    labelled(&["[fd00::abcd]".to_owned()], &words(near), &words(foreign))
}

fn words(text: &str) -> Vec<String> {
    text.split(' ').map(str::to_owned).collect()
}

fn labelled(ours: &[String], near: &[String], foreign: &[String]) -> Vec<(String, Host)> {
    let label = |texts: &[String], host| -> Vec<_> {
        texts.iter().map(|text| (text.clone(), host)).collect()
    };
    // What changes nothing in one name is an attack in another.
    let foreign: Vec<_> = foreign
        .iter()
        .filter(|text| ours.iter().all(|ours| !ours.eq_ignore_ascii_case(text)))
        .cloned()
        .collect();
    [
        label(ours, Host::Ours),
        label(near, Host::Near),
        label(&foreign, Host::Foreign),
    ]
    .concat()
}
