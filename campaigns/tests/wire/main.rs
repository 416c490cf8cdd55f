//! The layer adds two headers on the wire and changes nothing else, read from the bytes of real connections.
//!
//! The same requests go over a connection three times: bare, with the headers inserted by hand, and through the layer.
//! Everything that a client decides is compared. Left out, by name, are HTTP/2's `WINDOW_UPDATE`, `SETTINGS` and `PING`, and
//! where a body is cut into `DATA` frames: those depend on how fast the peer reads, and differ between two bare runs.
//!
//! `ANYREACH_WIRE_REQUESTS` sets how many requests go over each connection, `ANYREACH_SEED` what they are made from.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
#![allow(clippy::print_stdout, reason = "the figures of a campaign")]

mod http2;
mod plan;
mod recording;
mod server;

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::sync::{Arc, Mutex};

use campaigns::connection::Connection;
use campaigns::number;
use campaigns::server::Server;
use http::header::AUTHORIZATION;
use http::{HeaderName, HeaderValue, Request, Response, Version};
use hyper::body::Incoming;
use support::{KEY, ORG, credential};
use tokio::net::TcpStream;
use tower::{Layer, Service, ServiceExt};
use tower_anyreach::{AnyreachAuthLayer, CallerHeaders, CredentialStore, Origin};

use crate::http2::{Encoding, Field, Frame, HeaderBlock};
use crate::plan::{Outgoing, Planned, plan};
use crate::recording::{Recorded, Recording};
use crate::server::{Answer, answer, answer_to};

/// A server, and the version of HTTP that clients speak to it.
struct Wire {
    server: Server,
    version: Version,
}

/// One connection, whose requests are sent one after the other.
struct Run {
    recorded: Recorded,
    /// How much had been sent when each request was answered.
    marks: Vec<usize>,
}

impl Run {
    /// Returns the bytes of each request.
    fn requests(&self) -> impl Iterator<Item = &[u8]> {
        let starts = std::iter::once(0).chain(self.marks.iter().copied());
        let ranges = starts.zip(&self.marks);
        ranges.map(|(start, end)| &self.recorded.sent[start..*end])
    }
}

fn drawn_plan() -> Vec<Planned> {
    let requests = number("ANYREACH_WIRE_REQUESTS", 300);
    plan(number("ANYREACH_SEED", 1), requests)
}

impl Wire {
    async fn new(version: Version) -> Self {
        let server = Server::start(answer).await;
        Self { server, version }
    }

    fn origin(&self) -> Origin {
        format!("http://{}", self.server.address()).parse().unwrap()
    }

    async fn connect(&self) -> (Connection<Outgoing>, Arc<Mutex<Recorded>>) {
        let stream = TcpStream::connect(self.server.address()).await.unwrap();
        stream.set_nodelay(true).unwrap();
        let (stream, recorded) = Recording::new(stream);
        let (connection, driver) = Connection::handshake(stream, self.version).await.unwrap();
        tokio::spawn(driver);
        (connection, recorded)
    }

    /// Sends the requests over a connection of their own, because the encoding of each depends on those before.
    async fn run<S>(
        &self,
        plan: &[Planned],
        service: impl FnOnce(Connection<Outgoing>) -> S,
        mut prepare: impl FnMut(&Planned, &mut Request<Outgoing>),
    ) -> Run
    where
        S: Service<Request<Outgoing>, Response = Response<Incoming>, Error: Debug>,
    {
        let (connection, recorded) = self.connect().await;
        let (mut service, mut marks) = (service(connection), Vec::new());
        for planned in plan {
            let mut request = planned.request(self.server.address(), self.version);
            prepare(planned, &mut request);
            let response = service.ready().await.unwrap().call(request).await.unwrap();
            let expected = answer_to(planned.number, self.version);
            assert_eq!(Answer::read(response).await, expected);
            marks.push(recorded.lock().unwrap().sent.len());
        }
        let recorded = recorded.lock().unwrap().clone();
        Run { recorded, marks }
    }

    /// The same requests bare, by hand, and through the layer, which replaces the headers that some requests bring.
    async fn three_runs(&self, plan: &[Planned]) -> [Run; 3] {
        let bare = self.run(plan, |bare| bare, |_, _| ()).await;
        let by_hand = self.run(plan, |bare| bare, insert_by_hand).await;
        let store = CredentialStore::new(credential(KEY));
        let layer = AnyreachAuthLayer::new(store.clone())
            .origin(self.origin())
            .caller_headers(CallerHeaders::Replace);
        let prepare = |planned: &Planned, request: &mut Request<Outgoing>| {
            // Some callers bring two of each header.
            for callers in ["Basic Zm9vOmJhcg==", "Bearer ak_callers.own"] {
                if planned.number.is_multiple_of(3) {
                    let headers = request.headers_mut();
                    headers.append(AUTHORIZATION, HeaderValue::from_static(callers));
                    headers.append(&ORG, HeaderValue::from_static("org_callers"));
                }
            }
            planned.authenticate(Some(&store), request);
        };
        let layered = self.run(plan, |bare| layer.layer(bare), prepare).await;
        assert!(store.version() > plan.len() as u64 / 20, "rotated often");
        [bare, by_hand, layered]
    }
}

/// Inserts the headers that the layer must insert.
fn insert_by_hand(planned: &Planned, request: &mut Request<Outgoing>) {
    let headers = request.headers_mut();
    let mut value = HeaderValue::try_from(format!("Bearer {}", planned.secret)).unwrap();
    value.set_sensitive(true);
    headers.insert(AUTHORIZATION, value);
    if let Some(organization) = &planned.organization {
        headers.insert(&ORG, organization.parse().unwrap());
    }
}

/// Removes the only occurrence of a line from the head of a message.
#[track_caller]
fn without_line(message: &[u8], line: &str) -> Vec<u8> {
    let head = message.windows(4).position(|end| end == b"\r\n\r\n");
    let windows = message[..head.unwrap() + 2].windows(line.len());
    let places = windows.enumerate();
    let places = places.filter(|(_, text)| *text == line.as_bytes());
    let [at] = places.map(|(at, _)| at).collect::<Vec<_>>()[..] else {
        panic!("{line:?} is not there once")
    };
    assert!(message[..at].ends_with(b"\r\n"));
    [&message[..at], &message[at + line.len()..]].concat()
}

#[tokio::test]
async fn http1_bytes_are_those_of_the_bare_client_and_two_lines() {
    let plan = drawn_plan();
    let [bare, by_hand, layered] = Wire::new(Version::HTTP_11).await.three_runs(&plan).await;
    for ((planned, with), without) in plan.iter().zip(layered.requests()).zip(bare.requests()) {
        let line = format!("authorization: Bearer {}\r\n", planned.secret);
        let mut rest = without_line(with, &line);
        if let Some(organization) = &planned.organization {
            rest = without_line(&rest, &format!("x-anyreach-org: {organization}\r\n"));
        }
        assert!(rest == without, "request {} was changed", planned.number);
    }
    let (sent, received) = (layered.recorded.sent, layered.recorded.received);
    assert!(sent == by_hand.recorded.sent);
    assert!(received == bare.recorded.received);
    let (requests, sent, received) = (plan.len(), sent.len(), received.len());
    println!("wire: HTTP/1.1, {requests} requests, {sent} bytes sent, {received} received");
}

/// The content of one direction of an HTTP/2 connection, without what depends on the peer's speed.
#[derive(PartialEq)]
struct Content<'a> {
    /// All frames in their order, except `DATA`.
    frames: Vec<Frame<'a>>,
    blocks: Vec<HeaderBlock>,
    /// The bytes of each stream's body, and whether their end was the stream's.
    bodies: BTreeMap<u32, (Vec<u8>, bool)>,
}

impl<'a> Content<'a> {
    fn of(bytes: &'a [u8]) -> Self {
        let mut frames = http2::frames(bytes);
        let blocks = http2::header_blocks(&frames);
        let mut bodies = BTreeMap::<_, (Vec<u8>, bool)>::new();
        for frame in frames.iter().filter(|frame| frame.kind == http2::DATA) {
            let (body, is_ended) = bodies.entry(frame.stream).or_default();
            assert!(!*is_ended, "a stream ends once");
            body.extend(frame.content());
            *is_ended = frame.has(http2::END_STREAM);
        }
        let at_the_peers_speed = [
            http2::DATA,
            http2::SETTINGS,
            http2::PING,
            http2::WINDOW_UPDATE,
        ];
        frames.retain(|frame| !at_the_peers_speed.contains(&frame.kind));
        Self {
            frames,
            blocks,
            bodies,
        }
    }

    /// Returns the blocks as if they had one encoding, which depends on the fields before.
    fn blocks_of_one_encoding(mut self) -> Vec<HeaderBlock> {
        for field in self.blocks.iter_mut().flat_map(|block| &mut block.fields) {
            field.encoding = Encoding::Indexed;
        }
        self.blocks
    }
}

/// Removes the only field of that name.
#[track_caller]
fn take_only(block: &mut HeaderBlock, name: &HeaderName) -> (String, Encoding) {
    let is_named = |field: &Field| *field.name == *name;
    let field = block
        .fields
        .remove(block.fields.iter().position(is_named).unwrap());
    assert!(!block.fields.iter().any(is_named), "{name} is there twice");
    (field.value, field.encoding)
}

/// Removes the request's own credential, never indexed, and its organization if it has one.
#[track_caller]
fn take_credential(head: &mut HeaderBlock, planned: &Planned) {
    let (value, encoding) = take_only(head, &AUTHORIZATION);
    assert_eq!(value, format!("Bearer {}", planned.secret));
    assert_eq!(encoding, Encoding::NeverIndexed, "{}", planned.number);
    if let Some(organization) = &planned.organization {
        assert_eq!(take_only(head, &ORG).0, *organization);
    }
    assert!(!head.fields.iter().any(|field| *field.name == ORG));
}

/// Asserts that neither the header nor a value with a credential in it was ever added to the dynamic table; returns the number of
/// fields that were.
fn assert_no_credential_was_indexed(blocks: &[HeaderBlock]) -> usize {
    let fields = blocks.iter().flat_map(|block| &block.fields);
    let added = fields.filter(|field| field.encoding == Encoding::Incremental);
    added
        .inspect(|field| {
            assert_ne!(*field.name, AUTHORIZATION);
            let value = &field.value;
            assert!(!value.contains("ak_") && !value.contains("pat_"), "{value}");
        })
        .count()
}

#[tokio::test]
async fn http2_requests_are_those_of_the_bare_client_and_two_fields() {
    let plan = drawn_plan();
    let [bare, by_hand, layered] = Wire::new(Version::HTTP_2).await.three_runs(&plan).await;
    let (recorded, bare) = (layered.recorded, bare.recorded);
    let (mut sent, bare_sent) = (Content::of(&recorded.sent), Content::of(&bare.sent));
    assert!(sent == Content::of(&by_hand.recorded.sent));
    assert!(sent.bodies == bare_sent.bodies);
    let mut kinds = sent.frames.iter().map(|frame| frame.kind);
    assert!(kinds.any(|kind| kind == http2::CONTINUATION));

    let added = assert_no_credential_was_indexed(&sent.blocks);
    assert!(added > 10, "the table is in use");
    let mut heads = sent.blocks.iter_mut().filter(|block| block.is_head());
    for planned in &plan {
        take_credential(heads.next().unwrap(), planned);
    }
    assert!(heads.next().is_none());
    // All other fields of all heads and trailers, in their order, on the same streams.
    assert!(sent.blocks_of_one_encoding() == bare_sent.blocks_of_one_encoding());
    assert!(Content::of(&recorded.received) == Content::of(&bare.received));
    let (sent, received) = (recorded.sent.len(), recorded.received.len());
    let requests = plan.len();
    println!(
        "wire: HTTP/2, {requests} requests, {sent} bytes sent, {received} received, {added} fields indexed"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn concurrent_streams_carry_each_its_own_credential_never_indexed() {
    let wire = Wire::new(Version::HTTP_2).await;
    let (connection, recorded) = wire.connect().await;
    let address = wire.server.address();
    let layer = AnyreachAuthLayer::per_request().origin(wire.origin());
    let service = layer.layer(connection);
    let plan = drawn_plan();
    let mut requests = tokio::task::JoinSet::new();
    for planned in plan.clone() {
        let service = service.clone();
        requests.spawn(async move {
            let expected = answer_to(planned.number, Version::HTTP_2);
            let mut request = planned.request(address, Version::HTTP_2);
            planned.authenticate(None, &mut request);
            let response = service.oneshot(request).await.unwrap();
            assert_eq!(Answer::read(response).await, expected);
        });
    }
    requests.join_all().await;

    let recorded = recorded.lock().unwrap().clone();
    let mut blocks = Content::of(&recorded.sent).blocks;
    assert_no_credential_was_indexed(&blocks);
    let mut seen = 0;
    for head in blocks.iter_mut().filter(|block| block.is_head()) {
        let (number, _) = take_only(head, &plan::NUMBER);
        take_credential(head, &plan[number.parse::<usize>().unwrap()]);
        seen += 1;
    }
    assert_eq!(seen, plan.len());
    println!("wire: HTTP/2, {seen} concurrent streams");
}

/// The client marks no header by itself: the mark that the other tests see is the layer's.
#[tokio::test]
async fn a_header_that_is_not_sensitive_is_not_never_indexed() {
    let prepare = |planned: &Planned, request: &mut Request<Outgoing>| {
        insert_by_hand(planned, request);
        let value = request.headers_mut().get_mut(AUTHORIZATION);
        value.unwrap().set_sensitive(false);
    };
    let wire = Wire::new(Version::HTTP_2).await;
    let run = wire.run(&plan(1, 3), |bare| bare, prepare).await;
    let blocks = Content::of(&run.recorded.sent).blocks;
    for mut head in blocks.into_iter().filter(HeaderBlock::is_head) {
        let (_, encoding) = take_only(&mut head, &AUTHORIZATION);
        assert_ne!(encoding, Encoding::NeverIndexed);
    }
}
