//! The requests that go over each connection, made from a seed.

use std::convert::Infallible;
use std::net::SocketAddr;

use bytes::Bytes;
use futures_util::stream;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Version};
use http_body::Frame;
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Empty, Full, StreamBody};
use support::credential_for;
use tower_anyreach::CredentialStore;

use campaigns::random::Random;

/// The body of a message.
pub(crate) type Outgoing = UnsyncBoxBody<Bytes, Infallible>;

/// Returns a body in pieces of that length, whose end its receiver does not know beforehand.
pub(crate) fn in_pieces(body: &Bytes, len: usize, trailers: Option<HeaderMap>) -> Outgoing {
    let pieces = body.chunks(len);
    let data = pieces.map(|piece| Frame::data(body.slice_ref(piece)));
    let frames: Vec<_> = data.chain(trailers.map(Frame::trailers)).map(Ok).collect();
    StreamBody::new(stream::iter(frames)).boxed_unsync()
}

pub(crate) fn checksum(text: &str) -> HeaderMap {
    let name = HeaderName::from_static("x-checksum");
    HeaderMap::from_iter([(name, HeaderValue::try_from(text).unwrap())])
}

/// Tells the server, and the reader of the recorded bytes, which request it is.
pub(crate) static NUMBER: HeaderName = HeaderName::from_static("x-number");

/// How a body is handed to the client.
#[derive(Clone)]
enum Form {
    None,
    Whole,
    /// With these trailers.
    Pieces(Option<HeaderMap>),
}

/// A request, and the credential that it is to carry.
#[derive(Clone)]
pub(crate) struct Planned {
    pub(crate) number: u64,
    pub(crate) secret: String,
    /// Of a personal access token only.
    pub(crate) organization: Option<String>,
    /// The request brings the credential, even if there is a store.
    brings_credential: bool,
    method: Method,
    path: String,
    headers: HeaderMap,
    form: Form,
    body: Bytes,
}

pub(crate) fn plan(seed: u64, len: u64) -> Vec<Planned> {
    let mut random = Random(seed);
    let mut tenant = draw_tenant(&mut random);
    let requests = (0..len).map(|number| {
        let brings_credential = random.one_in(5);
        if brings_credential || random.one_in(7) {
            tenant = draw_tenant(&mut random);
        }
        Planned::draw(&mut random, number, tenant.clone(), brings_credential)
    });
    requests.collect()
}

fn draw_tenant(random: &mut Random) -> (String, Option<String>) {
    let len = random.pick(&[1, 20, 43, 200, 2_000]);
    let secret = random.text(len);
    if random.one_in(2) {
        return (format!("ak_{}.{secret}", random.text(8)), None);
    }
    let organization = format!("org_{}", random.text(6));
    (format!("pat_{secret}"), Some(organization))
}

impl Planned {
    fn draw(
        random: &mut Random,
        number: u64,
        (secret, organization): (String, Option<String>),
        brings_credential: bool,
    ) -> Self {
        let mut headers = HeaderMap::new();
        headers.insert(&NUMBER, HeaderValue::from(number));
        for field in 0..random.below(6) {
            let len = random.pick(&[0, 1, 30, 300]);
            let name = HeaderName::try_from(format!("x-field-{}", field / 2)).unwrap();
            headers.append(name, HeaderValue::try_from(random.text(len)).unwrap());
        }
        if number == 1 {
            // More than one frame of HTTP/2 holds.
            let large = HeaderValue::try_from(random.text(40_000)).unwrap();
            headers.insert("x-large", large);
        }
        let form = match random.below(5) {
            0 => Form::None,
            1 | 2 => Form::Whole,
            _ => Form::Pieces(random.one_in(2).then(|| checksum("1234"))),
        };
        let methods = match form {
            Form::None => [Method::GET, Method::DELETE, Method::OPTIONS],
            _ => [Method::POST, Method::PUT, Method::PATCH],
        };
        let len = random.pick(&[0, 1, 100, 1_000, 17_000, 70_000]);
        let body = if random.one_in(8) {
            // Text in a body that looks like headers.
            let text =
                format!("\r\n\r\nauthorization: Bearer {secret}\r\nx-anyreach-org: o\r\n\r\n");
            text.into_bytes()
        } else {
            random.bytes(len)
        };
        let (agent, query) = (random.text(3), random.text(10));
        Self {
            number,
            secret,
            organization,
            brings_credential,
            method: random.pick(&methods),
            path: format!("/core/agents/{agent}?q=%C3%A9%20{query}&ak_=pat_"),
            headers,
            form,
            body: body.into(),
        }
    }

    /// Returns the request as an application makes it, without credentials.
    pub(crate) fn request(&self, to: SocketAddr, version: Version) -> Request<Outgoing> {
        let body = match &self.form {
            Form::None => Empty::new().boxed_unsync(),
            Form::Whole => Full::new(self.body.clone()).boxed_unsync(),
            Form::Pieces(trailers) => in_pieces(&self.body, 9_000, trailers.clone()),
        };
        let mut request = Request::new(body);
        *request.method_mut() = self.method.clone();
        *request.uri_mut() = format!("http://{to}{}", self.path).parse().unwrap();
        *request.version_mut() = version;
        *request.headers_mut() = self.headers.clone();
        request
    }

    /// Makes the layer attach the credential: from the store, which is rotated to it, or from the request.
    pub(crate) fn authenticate(
        &self,
        store: Option<&CredentialStore>,
        request: &mut Request<Outgoing>,
    ) {
        let credential = credential_for(&self.secret, self.organization.as_deref());
        match store.filter(|_| !self.brings_credential) {
            Some(store) => drop(store.rotate(credential)),
            None => drop(request.extensions_mut().insert(credential)),
        }
    }
}
