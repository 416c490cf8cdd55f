//! What the layer puts on the wire, read from the bytes of real connections: two headers, and nothing else is changed.
//!
//! The same requests go over a connection three times: bare, with the headers inserted by hand, and through the layer.
//! Compared is all that a client decides. Left out, by name, are HTTP/2's `WINDOW_UPDATE`, `SETTINGS` and `PING`, and
//! where a body is cut into `DATA` frames: those depend on how fast the peer reads, and differ between two bare runs.
//!
//! `ANYREACH_WIRE_REQUESTS` is how many requests go over each connection, `ANYREACH_SEED` what they are made from.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
#![allow(clippy::print_stdout, reason = "the figures of a campaign")]

mod plan;
mod server;

use std::collections::BTreeMap;
use std::fmt::Debug;

use campaigns::connection::Connection;
use campaigns::number;
use campaigns::server::Server;
use campaigns::wiretap::{Frame, HeaderBlock, Kind, Recorded, Representation, Tap};
use http::header::AUTHORIZATION;
use http::{HeaderMap, HeaderName, HeaderValue, Request, Version};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use support::ORG;
use tokio::net::TcpStream;
use tower::{Layer, Service, ServiceExt};
use tower_anyreach::{AnyreachAuthLayer, CallerHeaders, Credential, CredentialStore, Origin};

use crate::plan::{Outgoing, Planned, plan};
use crate::server::{Answer, answer, answer_to};

/// What went over one connection, and what came of it.
struct Run {
    recorded: Recorded,
    /// How much had been sent when each request was answered.
    marks: Vec<usize>,
    answers: Vec<Answer>,
}

impl Run {
    /// The bytes of each request. None of the next is sent before the answer to the last has come.
    fn requests(&self) -> impl Iterator<Item = &[u8]> {
        let starts = std::iter::once(0).chain(self.marks.iter().copied());
        starts
            .zip(&self.marks)
            .map(|(start, end)| &self.recorded.sent[start..*end])
    }
}

/// One connection each, since the encoding of a request depends on those before; all to the same port.
struct Wire {
    _server: Server,
    tap: Tap,
    version: Version,
    runs: usize,
}

impl Wire {
    async fn new(version: Version) -> Self {
        let server = Server::start(answer).await;
        Self {
            tap: Tap::before(server.address()).await.unwrap(),
            _server: server,
            version,
            runs: 0,
        }
    }

    fn origin(&self) -> Origin {
        format!("http://{}", self.tap.address()).parse().unwrap()
    }

    async fn connect(&mut self) -> Connection<Outgoing> {
        self.runs += 1;
        let stream = TcpStream::connect(self.tap.address()).await.unwrap();
        stream.set_nodelay(true).unwrap();
        let (connection, driver) = Connection::handshake(stream, self.version).await.unwrap();
        tokio::spawn(driver);
        connection
    }

    async fn run<S>(
        &self,
        mut service: S,
        plan: &[Planned],
        mut prepare: impl FnMut(&Planned, &mut Request<Outgoing>),
    ) -> Run
    where
        S: Service<Request<Outgoing>, Response = http::Response<Incoming>, Error: Debug>,
    {
        let (mut marks, mut answers) = (Vec::new(), Vec::new());
        for planned in plan {
            let mut request = planned.request(self.tap.address(), self.version);
            prepare(planned, &mut request);
            let response = service.ready().await.unwrap().call(request).await.unwrap();
            answers.push(received(response).await);
            marks.push(self.tap.sent_len());
        }
        drop(service);
        let recorded = self.tap.recorded();
        assert_eq!(recorded.len(), self.runs, "all went over one connection");
        Run {
            recorded: recorded.last().unwrap().clone(),
            marks,
            answers,
        }
    }

    /// The same requests bare, by hand, and through the layer, which replaces the headers that some requests bring.
    async fn three_runs(&mut self, plan: &[Planned]) -> [Run; 3] {
        let connection = self.connect().await;
        let bare = self.run(connection, plan, |_, _| ()).await;
        let connection = self.connect().await;
        let by_hand = self.run(connection, plan, insert_by_hand).await;

        let store = CredentialStore::new(Credential::parse("ak_first.c2VjcmV0").unwrap());
        let layer = AnyreachAuthLayer::new(store.clone())
            .origin(self.origin())
            .caller_headers(CallerHeaders::Replace);
        let service = layer.layer(self.connect().await);
        let layered = self
            .run(service, plan, |planned, request| {
                if planned.number % 3 == 0 {
                    bring_headers(request.headers_mut());
                }
                planned.authenticate(&store, request);
            })
            .await;
        assert!(
            store.version() > plan.len() as u64 / 20,
            "it was rotated often"
        );
        [bare, by_hand, layered]
    }
}

async fn received(response: http::Response<Incoming>) -> Answer {
    let (head, body) = response.into_parts();
    let body = body.collect().await.unwrap();
    Answer {
        status: head.status,
        headers: head.headers,
        trailers: body.trailers().cloned(),
        body: body.to_bytes(),
    }
}

/// What the layer is expected to do, without it.
fn insert_by_hand(planned: &Planned, request: &mut Request<Outgoing>) {
    let headers = request.headers_mut();
    let mut value = HeaderValue::try_from(format!("Bearer {}", planned.credential)).unwrap();
    value.set_sensitive(true);
    headers.insert(AUTHORIZATION, value);
    if let Some(organization) = &planned.organization {
        let value = HeaderValue::try_from(organization).unwrap();
        headers.insert(&ORG, value);
    }
}

/// Adds two of each header, as a caller may have set them.
fn bring_headers(headers: &mut HeaderMap) {
    for callers in ["Basic Zm9vOmJhcg==", "Bearer ak_callers.own"] {
        headers.append(AUTHORIZATION, HeaderValue::from_static(callers));
        headers.append(&ORG, HeaderValue::from_static("org_callers"));
    }
}

/// Removes the only occurrence of a line from the head of a message.
#[track_caller]
fn without_line(message: &[u8], line: &str) -> Vec<u8> {
    let head = message.windows(4).position(|end| end == b"\r\n\r\n");
    let head = &message[..head.unwrap() + 2];
    let places: Vec<_> = head
        .windows(line.len())
        .enumerate()
        .filter_map(|(at, text)| (text == line.as_bytes()).then_some(at))
        .collect();
    let [at] = places[..] else {
        panic!("{line:?} is there {} times", places.len())
    };
    assert!(head[..at].ends_with(b"\r\n"));
    [&message[..at], &message[at + line.len()..]].concat()
}

fn assert_answers(plan: &[Planned], runs: &[Run], version: Version) {
    for run in runs {
        for (planned, answer) in plan.iter().zip(&run.answers) {
            let sent = answer_to(planned.number, version);
            assert_eq!(*answer, sent, "{}", planned.number);
        }
        assert_eq!(run.answers.len(), plan.len());
    }
}

#[tokio::test]
async fn http1_bytes_are_those_of_the_bare_client_and_two_lines() {
    let plan = plan(
        number("ANYREACH_SEED", 1),
        number("ANYREACH_WIRE_REQUESTS", 300),
    );
    let runs = Wire::new(Version::HTTP_11).await.three_runs(&plan).await;
    let [bare, by_hand, layered] = &runs;

    for ((planned, with), without) in plan.iter().zip(layered.requests()).zip(bare.requests()) {
        let line = format!("authorization: Bearer {}\r\n", planned.credential);
        let mut rest = without_line(with, &line);
        if let Some(organization) = &planned.organization {
            rest = without_line(&rest, &format!("x-anyreach-org: {organization}\r\n"));
        }
        assert!(rest == without, "request {} was changed", planned.number);
    }
    assert!(
        layered.recorded.sent == by_hand.recorded.sent,
        "as by hand, byte for byte"
    );
    // Back comes what the server sent, to the layer and through it.
    for run in [by_hand, layered] {
        assert!(run.recorded.received == bare.recorded.received);
    }
    assert_answers(&plan, &runs, Version::HTTP_11);
    println!(
        "wire: HTTP/1.1, {} requests on one connection, {} bytes sent, {} received",
        plan.len(),
        layered.recorded.sent.len(),
        layered.recorded.received.len()
    );
}

/// A block's stream, whether it ends it, and its names and values.
type Plain<'a> = (u32, bool, Vec<(&'a [u8], &'a [u8])>);

/// What one direction of an HTTP/2 connection says, less what depends on the peer's speed.
#[derive(PartialEq, Eq)]
struct Said<'a> {
    /// The kind, the stream and the flags of each frame, in their order, `DATA` left out.
    frames: Vec<(Kind, u32, u8)>,
    /// The encoded header blocks, in their order.
    encoded: Vec<&'a [u8]>,
    blocks: Vec<HeaderBlock>,
    /// The bytes of each stream's body, and whether their end was the stream's.
    bodies: BTreeMap<u32, (Vec<u8>, bool)>,
}

impl<'a> Said<'a> {
    fn in_direction(bytes: &'a [u8]) -> Self {
        let frames = campaigns::wiretap::frames(bytes);
        let mut bodies = BTreeMap::<u32, (Vec<u8>, bool)>::new();
        let mut said = Vec::new();
        let mut encoded = Vec::new();
        for frame in &frames {
            match frame.kind {
                Kind::Data => {
                    let (body, ended) = bodies.entry(frame.stream).or_default();
                    assert!(!*ended, "a stream has one end");
                    body.extend_from_slice(frame.content());
                    *ended = frame.has(Frame::END_STREAM);
                }
                Kind::WindowUpdate | Kind::Settings | Kind::Ping => {}
                kind => {
                    said.push((kind, frame.stream, frame.flags));
                    encoded.push(frame.payload);
                }
            }
        }
        Self {
            frames: said,
            encoded,
            blocks: campaigns::wiretap::header_blocks(&frames),
            bodies,
        }
    }

    /// The blocks without how they were encoded, which depends on the fields before.
    fn plain(&self) -> Vec<Plain<'_>> {
        self.blocks
            .iter()
            .map(|block| {
                let pairs = block.fields.iter();
                let pairs = pairs.map(|field| (&*field.name, &*field.value));
                (block.stream, block.ends_stream, pairs.collect())
            })
            .collect()
    }
}

/// Takes the only field of that name out.
#[track_caller]
fn take_only(block: &mut HeaderBlock, name: &HeaderName) -> (String, Representation) {
    let places = block.fields.iter().enumerate();
    let places: Vec<_> = places
        .filter_map(|(at, field)| (field.name == name.as_str().as_bytes()).then_some(at))
        .collect();
    let [at] = places[..] else {
        panic!("`{name}` is there {} times", places.len())
    };
    let field = block.fields.remove(at);
    (String::from_utf8(field.value).unwrap(), field.how)
}

/// Takes out the request's own credential, never indexed, and its organization if it has one.
#[track_caller]
fn take_credential(head: &mut HeaderBlock, planned: &Planned) {
    let (value, how) = take_only(head, &AUTHORIZATION);
    assert_eq!(value, format!("Bearer {}", planned.credential));
    assert_eq!(how, Representation::NeverIndexed, "{}", planned.number);
    if let Some(organization) = &planned.organization {
        assert_eq!(take_only(head, &ORG).0, *organization);
    }
    let mut fields = head.fields.iter();
    assert!(!fields.any(|field| field.name == ORG.as_str().as_bytes()));
}

/// All that was ever added to the dynamic table, a superset of what is in it at any time: neither the header nor a value
/// with a credential in it.
fn assert_no_credential_was_indexed(blocks: &[HeaderBlock]) -> usize {
    let added: Vec<_> = blocks
        .iter()
        .flat_map(|block| &block.fields)
        .filter(|field| field.how == Representation::Incremental)
        .collect();
    for field in &added {
        assert_ne!(field.name, AUTHORIZATION.as_str().as_bytes());
        let value = String::from_utf8_lossy(&field.value);
        assert!(!value.contains("ak_") && !value.contains("pat_"), "{value}");
    }
    added.len()
}

#[tokio::test]
async fn http2_requests_are_those_of_the_bare_client_and_two_fields() {
    let plan = plan(
        number("ANYREACH_SEED", 1),
        number("ANYREACH_WIRE_REQUESTS", 300),
    );
    let runs = Wire::new(Version::HTTP_2).await.three_runs(&plan).await;
    let [bare, by_hand, layered] = &runs;

    let bare_said = Said::in_direction(&bare.recorded.sent);
    let by_hand_said = Said::in_direction(&by_hand.recorded.sent);
    let mut said = Said::in_direction(&layered.recorded.sent);
    assert!(said == by_hand_said, "as by hand, byte for byte");
    assert!(
        said.bodies == bare_said.bodies,
        "the bodies are those of the bare client"
    );
    assert!(plan.iter().any(|planned| planned.headers_len() > 16 * 1024));
    // A large head goes on in another frame.
    let mut kinds = said.frames.iter().map(|(kind, ..)| *kind);
    assert!(kinds.any(|kind| kind == Kind::Continuation));

    let added = assert_no_credential_was_indexed(&said.blocks);
    assert!(added > 10, "the table is in use");
    let mut heads = said
        .blocks
        .iter_mut()
        .filter(|block| block.fields[0].name.starts_with(b":"));
    for planned in &plan {
        let head = heads.next().unwrap();
        take_credential(head, planned);
    }
    assert!(heads.next().is_none());
    // All other fields of all heads and trailers, in their order, on the same streams.
    assert!(said.plain() == bare_said.plain());

    let came = Said::in_direction(&bare.recorded.received);
    for run in [by_hand, layered] {
        let through = Said::in_direction(&run.recorded.received);
        assert!(through == came, "the answers are the server's");
    }
    assert_answers(&plan, &runs, Version::HTTP_2);
    println!(
        "wire: HTTP/2, {} requests on one connection, {} bytes sent, {} received, {} fields indexed, none of them ours",
        plan.len(),
        layered.recorded.sent.len(),
        layered.recorded.received.len(),
        added
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn concurrent_streams_carry_each_its_own_credential_never_indexed() {
    let count = number("ANYREACH_WIRE_REQUESTS", 300);
    let mut wire = Wire::new(Version::HTTP_2).await;
    let address = wire.tap.address();
    let service = AnyreachAuthLayer::per_request()
        .origin(wire.origin())
        .layer(wire.connect().await);
    let plan = plan(number("ANYREACH_SEED", 1) + 1, count);
    let mut requests = tokio::task::JoinSet::new();
    for planned in plan.clone() {
        let service = service.clone();
        requests.spawn(async move {
            let mut request = planned.request(address, Version::HTTP_2);
            planned.bring_its_own(&mut request);
            let response = service.oneshot(request).await.unwrap();
            let sent = answer_to(planned.number, Version::HTTP_2);
            assert_eq!(received(response).await, sent);
        });
    }
    requests.join_all().await;

    let recorded = wire.tap.recorded();
    assert_eq!(recorded.len(), 1, "all went over one connection");
    let mut blocks = Said::in_direction(&recorded[0].sent).blocks;
    assert_no_credential_was_indexed(&blocks);
    let heads = blocks.iter_mut();
    let heads = heads.filter(|block| block.fields[0].name.starts_with(b":"));
    let mut seen = 0;
    for head in heads {
        let (number, _) = take_only(head, &plan::NUMBER);
        take_credential(head, &plan[number.parse::<usize>().unwrap()]);
        seen += 1;
    }
    assert_eq!(seen, count);
    println!("wire: HTTP/2, {seen} concurrent streams");
}

#[tokio::test]
async fn each_representation_is_told_from_the_others() {
    // RFC 7541, appendices C.2.1 to C.2.4, and what C.2.1 has put into the table.
    let block = [
        b"\x40\x0acustom-key\x0dcustom-header".as_slice(),
        b"\x04\x0c/sample/path",
        b"\x10\x08password\x06secret",
        b"\x82",
        b"\xbe",
    ]
    .concat();
    let len = u32::try_from(block.len()).unwrap().to_be_bytes();
    let frame = [&len[1..], &[1, 5, 0, 0, 0, 1], &block].concat();
    let blocks = campaigns::wiretap::header_blocks(&campaigns::wiretap::frames(&frame));
    let seen: Vec<_> = blocks[0]
        .fields
        .iter()
        .map(|field| (&*field.name, &*field.value, field.how))
        .collect();
    let expected: [(&[u8], &[u8], _); 5] = [
        (b"custom-key", b"custom-header", Representation::Incremental),
        (b":path", b"/sample/path", Representation::WithoutIndexing),
        (b"password", b"secret", Representation::NeverIndexed),
        (b":method", b"GET", Representation::Indexed),
        (b"custom-key", b"custom-header", Representation::Indexed),
    ];
    assert_eq!(seen, expected);

    // The client under test leaves no mark of its own: without ours, its `Authorization` may be indexed further on.
    let mut wire = Wire::new(Version::HTTP_2).await;
    let connection = wire.connect().await;
    let run = wire
        .run(connection, &plan(1, 3), |planned, request| {
            insert_by_hand(planned, request);
            let value = request.headers_mut().get_mut(AUTHORIZATION);
            value.unwrap().set_sensitive(false);
        })
        .await;
    for mut head in Said::in_direction(&run.recorded.sent).blocks {
        if head.fields[0].name.starts_with(b":") {
            let (_, how) = take_only(&mut head, &AUTHORIZATION);
            assert_ne!(how, Representation::NeverIndexed);
        }
    }
}
