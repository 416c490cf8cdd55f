//! Draws chains: the request, its overrides, the layer's options, and the servers' answers.

use bytes::Bytes;
use campaigns::random::Random;
use http::header::COOKIE;
use http::{HeaderValue, Method, Request, StatusCode, Uri};
use http_body_util::Full;
use support::{credential_for, organization};
use tower_anyreach::{
    Anonymous, AnyreachAuthLayer, Credential, CredentialStore, ForeignRequests, RefusalReason,
    RelativeUris,
};
use url::Url;

pub(crate) type Body = Full<Bytes>;

/// The longest chain, except for one in sixteen, which may exceed the limit of the policy.
const HOPS: u64 = 6;
const HOPS_BEYOND_THE_LIMIT: u64 = 13;

pub(crate) const ORIGINS: [&str; 4] = [
    "https://api.anyreach.ai",
    "https://anyreach.proxy.example:8443",
    "http://127.0.0.1:8080",
    "https://[fd00::abcd]",
];

/// A secret, and the organization that it is sent for.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Identity(pub(crate) &'static str, pub(crate) Option<&'static str>);

impl Identity {
    fn is_key(self) -> bool {
        self.0.starts_with("ak_")
    }

    fn credential(self) -> Credential {
        credential_for(self.0, self.1)
    }
}

const LAYERS: [Option<Identity>; 4] = [
    Some(Identity("ak_1ayer.S3cr3tOfTheLayer", None)),
    Some(Identity("pat_S3cr3tOfTheLayer", Some("org_layer"))),
    Some(Identity("pat_S3cr3tWithoutOne", None)),
    None,
];
const OWN: [Identity; 3] = [
    Identity("ak_0wn.S3cr3tOfTheRequest", None),
    Identity("pat_S3cr3tOfTheRequest", Some("org_own")),
    Identity("pat_S3cr3tWithoutAny", None),
];
const STORES: [Identity; 2] = [
    Identity("ak_5t0re.S3cr3tOfTheTenant", None),
    Identity("pat_S3cr3tOfTheTenant", Some("org_tenant")),
];
const NAMED: &str = "org_named";

/// One chain, and the request and the layer that it begins with.
#[derive(Debug)]
pub(crate) struct Case {
    pub(crate) origin: &'static str,
    layer: Option<Identity>,
    pub(crate) is_anonymous: bool,
    own: Option<Identity>,
    store: Option<Identity>,
    named: Option<&'static str>,
    foreign: ForeignRequests,
    pub(crate) relative: RelativeUris,
    pub(crate) method: Method,
    pub(crate) uri: Uri,
    pub(crate) body_len: usize,
    pub(crate) clones_bodies: bool,
    brings_cookie: bool,
    /// The answers of the servers, in order; a 200 follows.
    pub(crate) answers: Vec<(StatusCode, Vec<HeaderValue>)>,
}

impl Case {
    pub(crate) fn draw(random: &mut Random, texts: &Texts) -> Self {
        let method = random.pick(&["GET", "POST", "DELETE", "PUT", "HEAD"]);
        let method: Method = method.parse().unwrap();
        let has_body = method == Method::POST || random.one_in(4);
        let is_long = random.one_in(16);
        let hops = if is_long { HOPS_BEYOND_THE_LIMIT } else { HOPS };
        // One `Location` in so many leads elsewhere. Without such a share, nearly every chain would leave at once.
        let elsewhere_one_in = random.pick(&[2, 4, 4, u64::MAX]);
        let answers = (0..random.below(hops)).map(|_| {
            let status = StatusCode::from_u16(random.pick(&[301, 302, 303, 307, 308]));
            (status.unwrap(), texts.locations(random, elsewhere_one_in))
        });
        let answers = answers.collect();
        let forwards = ForeignRequests::ForwardWithoutCredentials;
        let [reject, complete, trust] = [
            RelativeUris::Reject,
            RelativeUris::Complete,
            RelativeUris::Trust,
        ];
        Self {
            origin: texts.origin,
            layer: random.pick(&LAYERS),
            is_anonymous: random.one_in(4),
            own: random.one_in(3).then(|| random.pick(&OWN)),
            store: random.one_in(3).then(|| random.pick(&STORES)),
            named: random.one_in(3).then_some(NAMED),
            foreign: random.pick(&[ForeignRequests::Reject, forwards]),
            relative: random.pick(&[reject, complete, trust]),
            method,
            uri: texts.first(random),
            body_len: if has_body { 9 } else { 0 },
            clones_bodies: random.one_in(2),
            brings_cookie: random.one_in(2),
            answers,
        }
    }

    /// Returns what each hop at the origin must carry, or why a request to the origin is refused.
    pub(crate) fn caller(&self) -> Result<Option<Identity>, RefusalReason> {
        if self.is_anonymous {
            return Ok(None);
        }
        let Some(identity) = self.own.or(self.store).or(self.layer) else {
            return Err(RefusalReason::MissingCredential);
        };
        let organization = self.named.or(identity.1);
        match (identity.is_key(), organization) {
            (true, Some(_)) => Err(RefusalReason::UnexpectedOrganization),
            (false, None) => Err(RefusalReason::MissingOrganization),
            _ => Ok(Some(Identity(identity.0, organization))),
        }
    }

    pub(crate) fn layer(&self) -> AnyreachAuthLayer {
        let layer = match self.layer {
            Some(identity) => AnyreachAuthLayer::new(identity.credential()),
            None => AnyreachAuthLayer::per_request(),
        };
        layer
            .origin(self.origin.parse().unwrap())
            .foreign_requests(self.foreign)
            .relative_uris(self.relative)
    }

    pub(crate) fn request(&self) -> Request<Body> {
        let body = Bytes::from_static(&b"some body"[..self.body_len]);
        let mut request = Request::new(Full::new(body));
        *request.method_mut() = self.method.clone();
        *request.uri_mut() = self.uri.clone();
        if self.brings_cookie {
            let cookie = HeaderValue::from_static("session=1");
            request.headers_mut().insert(COOKIE, cookie);
        }
        let extensions = request.extensions_mut();
        if self.is_anonymous {
            extensions.insert(Anonymous);
        }
        if let Some(own) = self.own {
            extensions.insert(own.credential());
        }
        if let Some(store) = self.store {
            extensions.insert(CredentialStore::new(store.credential()));
        }
        if let Some(named) = self.named {
            extensions.insert(organization(named));
        }
        request
    }
}

/// First URIs. The names in braces are filled in for each origin.
const FIRST: &str = "{origin}/core/agents {origin}/core/agents?page=1 {scheme}://{host}{with_port}/core/agents \
     /core/agents /core/agents?page=1 //{authority}/core * \
     {SCHEME}://{authority}/core {scheme}://{HOST}{port}/core {other}://{authority}/core {scheme}://{host}:8444/core \
     {scheme}://{host}.{port}/core {scheme}://user@{authority}/core {scheme}://@{authority}/core \
     {scheme}://2130706433{port}/core {scheme}://127.1{port}/core {scheme}://[fd00:0::abcd]{port}/core \
     https://storage.example/upload?signature=1 https://storage.example/upload http://storage.example:8080/upload";

/// `Location`s within the origin, for a request at the origin.
const HOME: &str = "/core/agents/ /core/agents?page=2 {origin}/core {scheme}://{host}{with_port}/core/1 \
     //{authority}/core/2 agents ../agents . ../.. ?page=3 #fragment {SCHEME}://{HOST}{port}/core/3 {scheme}:/core/4 \
     {scheme}:core/5 \\core\\6 /\tcore/7 {scheme}:\\\\{authority}\\core {scheme}:///{authority}/core \
     {scheme}://@{authority}/core \t{origin}/core/8\t {origin}\\core {origin}?page=4 /core/{agent}|9 /core/\u{e9}";

/// `Location`s of other hosts.
const ELSEWHERE: &str = "https://evil.example/ https://evil.example/upload?next={origin}/ http://evil.example:8080/ \
     //storage.example/upload https://storage.example/upload HTTPS://EVIL.EXAMPLE/ https://{host}.evil.example/ \
     https://evil-{host}/ https://user@evil.example/ https://{authority}@evil.example/ https:\\\\evil.example\\ \
     /\\evil.example/ \\\\evil.example/ /\t/evil.example/ https://evil.example\\@{authority}/ https://[2001:db8::1]/ \
     https://evil.example./ https:/evil.example/ https:///evil.example/ ///evil.example/ //evil.example\\@{authority}/";

/// `Location`s near the origin, or of a form that readers of URLs disagree about.
const HOSTILE: &str = "{other}://{authority}/core {scheme}://{host}:8444/ {scheme}://{host}.{port}/ \
     {scheme}://{HOST}.{port}/ {scheme}://user@{authority}/ {scheme}://user:pass@{authority}/ //user@{authority}/ \
     https:{authority}/core http:{authority}/core {scheme}://%61pi.anyreach.ai{port}/ \
     {scheme}://api%2eanyreach%2eai{port}/ {scheme}://api\u{3002}anyreach\u{3002}ai/ \
     {scheme}://\u{ff41}pi.anyreach.ai/ {scheme}://2130706433{port}/ {scheme}://127.1{port}/ \
     {scheme}://0x7f.0.0.1{port}/ {scheme}://0177.0.0.1{port}/ {scheme}://127.0.0.1.{port}/ \
     {scheme}://[::ffff:127.0.0.1]{port}/ {scheme}://[fd00:0::abcd]{port}/ {scheme}://[FD00::ABCD]{port}/ \
     {scheme}://{host}:0443/ {scheme}://{host}:/ {scheme}://{host}:65979/ javascript:alert(1) data:text/plain,x \
     mailto:user@{host} user:pass@{authority} ftp://{authority}/ wss://{authority}/ {scheme}:{host} {scheme}: {scheme}://";

/// The texts that URIs and `Location`s of an origin are drawn from.
pub(crate) struct Texts {
    origin: &'static str,
    first: Vec<String>,
    home: Vec<String>,
    elsewhere: Vec<String>,
    hostile: Vec<String>,
}

impl Texts {
    pub(crate) fn of(origin: &'static str) -> Self {
        let (scheme, authority) = origin.split_once("://").unwrap();
        let (upper, url) = (scheme.to_ascii_uppercase(), Url::parse(origin).unwrap());
        let host = url.host_str().unwrap();
        let port = authority.strip_prefix(host).unwrap();
        let with_port = format!(":{}", url.port_or_known_default().unwrap());
        let other = if scheme == "https" { "http" } else { "https" };
        let texts = |texts: &str| -> Vec<String> {
            let filled = texts
                .replace("{origin}", origin)
                .replace("{authority}", authority)
                .replace("{scheme}", scheme)
                .replace("{SCHEME}", &upper)
                .replace("{other}", other)
                .replace("{host}", host)
                .replace("{HOST}", &host.to_ascii_uppercase())
                .replace("{with_port}", &with_port)
                .replace("{port}", port);
            filled.split(' ').map(str::to_owned).collect()
        };
        let mut home = texts(HOME);
        home.push(String::new());
        Self {
            origin,
            first: texts(FIRST),
            home,
            elsewhere: texts(ELSEWHERE),
            hostile: texts(HOSTILE),
        }
    }

    fn first(&self, random: &mut Random) -> Uri {
        let is_plain = random.one_in(3);
        let drawn = random.pick(&self.first);
        // Some spellings of an IPv6 literal are no URI to `http`.
        let drawn = drawn.parse().ok().filter(|_| !is_plain);
        drawn.unwrap_or_else(|| self.first[0].parse().unwrap())
    }

    /// Draws the `Location` of one answer: mostly one line, sometimes none or two.
    fn locations(&self, random: &mut Random, elsewhere_one_in: u64) -> Vec<HeaderValue> {
        let lines = match random.below(64) {
            0 => 0,
            1 | 2 => 2,
            _ => 1,
        };
        let lines = (0..lines).map(|_| {
            let list = match random.below(elsewhere_one_in) {
                0 => &self.elsewhere,
                1 if elsewhere_one_in == 2 => &self.hostile,
                _ => &self.home,
            };
            let mut text = random.pick(list);
            if random.one_in(8) && elsewhere_one_in < u64::MAX {
                text = disfigured(random, &text);
            }
            HeaderValue::from_bytes(text.as_bytes()).unwrap()
        });
        lines.collect()
    }
}

/// Inserts, removes or swaps the case of a character.
fn disfigured(random: &mut Random, text: &str) -> String {
    let mut chars: Vec<char> = text.chars().collect();
    let at = random.index(chars.len() + 1);
    match random.below(3) {
        0 => {
            let odd: Vec<char> = "/\\@:.?#%\t ;,[]0x\u{e9}\u{3002}".chars().collect();
            chars.insert(at, random.pick(&odd));
        }
        1 if at < chars.len() => drop(chars.remove(at)),
        _ if at < chars.len() => chars[at].make_ascii_uppercase(),
        _ => {}
    }
    chars.into_iter().collect()
}
