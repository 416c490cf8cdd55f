//! The requests that go over each connection, made from a seed.

use std::convert::Infallible;
use std::net::SocketAddr;

use bytes::Bytes;
use futures_util::stream;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Version};
use http_body::Frame;
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Empty, Full, StreamBody};
use tower_anyreach::{Credential, CredentialStore, OrganizationId, PersonalAccessToken};

use campaigns::random::Random;

/// The body of a message.
pub(crate) type Outgoing = UnsyncBoxBody<Bytes, Infallible>;

/// Returns a body in pieces of that length, whose end its receiver does not know beforehand.
pub(crate) fn in_pieces(body: &Bytes, len: usize, trailers: Option<HeaderMap>) -> Outgoing {
    let data = body
        .chunks(len)
        .map(|piece| Frame::data(body.slice_ref(piece)));
    let frames: Vec<_> = data.chain(trailers.map(Frame::trailers)).map(Ok).collect();
    StreamBody::new(stream::iter(frames)).boxed_unsync()
}

/// By which a request is known to the server, and to who reads the wire.
pub(crate) static NUMBER: HeaderName = HeaderName::from_static("x-number");

/// How a body is handed to the client.
#[derive(Clone, Copy, Debug)]
enum Form {
    None,
    Whole,
    /// In pieces of an unknown number, with trailers or without.
    Pieces {
        trailers: bool,
    },
}

/// A request, and who it is to be from.
#[derive(Clone, Debug)]
pub(crate) struct Planned {
    pub(crate) number: u64,
    pub(crate) credential: String,
    /// Of a personal access token only.
    pub(crate) organization: Option<String>,
    /// The credential comes with the request, not from the store.
    own: bool,
    /// The organization comes with the request, not with the token.
    own_organization: bool,
    method: Method,
    path: String,
    headers: HeaderMap,
    form: Form,
    body: Bytes,
}

pub(crate) fn plan(seed: u64, len: u64) -> Vec<Planned> {
    let mut random = Random(seed);
    let mut tenant = tenant(&mut random);
    (0..len)
        .map(|number| {
            let own = random.one_in(5);
            if own || random.one_in(7) {
                tenant = self::tenant(&mut random);
            }
            let (credential, organization) = tenant.clone();
            planned(&mut random, number, credential, organization, own)
        })
        .collect()
}

fn tenant(random: &mut Random) -> (String, Option<String>) {
    let len = random.pick(&[1, 20, 43, 200, 2_000]);
    let secret = random.text(len);
    if random.one_in(2) {
        (format!("ak_{}.{secret}", random.text(8)), None)
    } else {
        let organization = format!("org_{}", random.text(6));
        (format!("pat_{secret}"), Some(organization))
    }
}

fn planned(
    random: &mut Random,
    number: u64,
    credential: String,
    organization: Option<String>,
    own: bool,
) -> Planned {
    let mut headers = HeaderMap::new();
    headers.insert(&NUMBER, HeaderValue::from(number));
    let fields = random.next() % 6;
    for field in 0..fields {
        let len = random.pick(&[0, 1, 30, 300]);
        let name = HeaderName::try_from(format!("x-field-{}", field / 2)).unwrap();
        headers.append(name, HeaderValue::try_from(random.text(len)).unwrap());
    }
    if number == 1 {
        // More than one frame of HTTP/2 holds.
        let large = HeaderValue::try_from(random.text(40_000)).unwrap();
        headers.insert("x-large", large);
    }
    let form = random.pick(&[
        Form::None,
        Form::Whole,
        Form::Whole,
        Form::Pieces { trailers: false },
        Form::Pieces { trailers: true },
    ]);
    let len = random.pick(&[0, 1, 100, 1_000, 17_000, 70_000]);
    let body = match form {
        Form::None => Bytes::new(),
        // What looks like a header in a body is none.
        _ if random.one_in(8) => Bytes::from(format!(
            "\r\n\r\nauthorization: Bearer {credential}\r\nx-anyreach-org: org_body\r\n\r\n"
        )),
        _ => Bytes::from(random.bytes(len)),
    };
    Planned {
        number,
        own_organization: organization.is_some() && random.one_in(3),
        credential,
        organization,
        own,
        method: match form {
            Form::None => random.pick(&[Method::GET, Method::DELETE, Method::OPTIONS]),
            _ => random.pick(&[Method::POST, Method::PUT, Method::PATCH]),
        },
        path: format!(
            "/core/agents/{}?q=%C3%A9%20{}&ak_=pat_",
            random.text(3),
            random.text(10)
        ),
        headers,
        form,
        body,
    }
}

impl Planned {
    /// How many bytes the values of its own headers are.
    pub(crate) fn headers_len(&self) -> usize {
        self.headers.values().map(HeaderValue::len).sum()
    }

    /// The request as an application makes it, without credentials.
    pub(crate) fn request(&self, to: SocketAddr, version: Version) -> Request<Outgoing> {
        let body: Outgoing = match self.form {
            Form::None => Empty::new().boxed_unsync(),
            Form::Whole => Full::new(self.body.clone()).boxed_unsync(),
            Form::Pieces { trailers } => {
                let end = HeaderMap::from_iter([(
                    HeaderName::from_static("x-checksum"),
                    HeaderValue::from_static("1234"),
                )]);
                in_pieces(&self.body, 9_000, trailers.then_some(end))
            }
        };
        let mut request = Request::new(body);
        *request.method_mut() = self.method.clone();
        *request.uri_mut() = format!("http://{to}{}", self.path).parse().unwrap();
        *request.version_mut() = version;
        *request.headers_mut() = self.headers.clone();
        request
    }

    /// Has the layer attach the credential: from the store, which is rotated for it, or brought along.
    pub(crate) fn authenticate(&self, store: &CredentialStore, request: &mut Request<Outgoing>) {
        if self.own {
            self.bring_its_own(request);
            return;
        }
        let credential = self.parsed(request);
        if store.credential().id() != credential.id()
            || store.credential().organization() != credential.organization()
        {
            store.rotate(credential);
        }
    }

    /// Brings the credential along.
    pub(crate) fn bring_its_own(&self, request: &mut Request<Outgoing>) {
        let credential = self.parsed(request);
        request.extensions_mut().insert(credential);
    }

    fn parsed(&self, request: &mut Request<Outgoing>) -> Credential {
        let text = self.credential.as_str();
        let Some(organization) = &self.organization else {
            return Credential::parse(text).unwrap();
        };
        let token = PersonalAccessToken::new(text).unwrap();
        let organization = OrganizationId::try_from(organization.as_str()).unwrap();
        if self.own_organization {
            request.extensions_mut().insert(organization);
            token.into()
        } else {
            token.for_organization(organization).into()
        }
    }
}
