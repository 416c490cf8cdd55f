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
mod server;

use std::fmt::Debug;
use std::sync::{Arc, Mutex};

use campaigns::connection::{Connection, handshake};
use campaigns::number;
use campaigns::server::Server;
use httlib_hpack::Decoder;
use http::header::AUTHORIZATION;
use http::{HeaderName, HeaderValue, Request, Response, Version};
use hyper::body::Incoming;
use support::{KEY, ORG, credential};
use tokio::net::TcpStream;
use tokio_util::io::{InspectReader, InspectWriter};
use tower::{Layer, Service, ServiceExt};
use tower_anyreach::{AnyreachAuthLayer, CallerHeaders, CredentialStore, Origin};

use crate::http2::{Content, Field, HeaderBlock};
use crate::plan::{Outgoing, Planned, plan};
use crate::server::{Answer, answer, answer_to};

/// A server, and the version of HTTP that clients speak to it.
struct Wire {
    server: Server,
    version: Version,
}

/// The bytes of one direction of a connection.
type Recorded = Arc<Mutex<Vec<u8>>>;

/// One connection, whose requests are sent one after the other.
struct Run {
    /// The bytes of each request.
    sent: Vec<Vec<u8>>,
    received: Vec<u8>,
}

fn take(recorded: &Recorded) -> Vec<u8> {
    std::mem::take(&mut recorded.lock().unwrap())
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

    /// Returns a connection, and what it has sent and received so far.
    async fn connect(&self) -> (Connection<Outgoing>, [Recorded; 2]) {
        let stream = TcpStream::connect(self.server.address()).await.unwrap();
        stream.set_nodelay(true).unwrap();
        let recorded = [Recorded::default(), Recorded::default()];
        let [sent, received] = recorded
            .clone()
            .map(|recorded| move |bytes: &[u8]| recorded.lock().unwrap().extend(bytes));
        let stream = InspectReader::new(InspectWriter::new(stream, sent), received);
        let (connection, driver) = handshake(stream, self.version).await.unwrap();
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
        let (connection, [sending, receiving]) = self.connect().await;
        let (mut service, mut sent) = (service(connection), Vec::new());
        for planned in plan {
            let mut request = planned.request(self.server.address(), self.version);
            prepare(planned, &mut request);
            let response = service.ready().await.unwrap().call(request).await.unwrap();
            let expected = answer_to(planned.number, self.version);
            assert_eq!(Answer::read(response).await, expected);
            sent.push(take(&sending));
        }
        let received = take(&receiving);
        Run { sent, received }
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
    for ((planned, with), without) in plan.iter().zip(&layered.sent).zip(&bare.sent) {
        let line = format!("authorization: Bearer {}\r\n", planned.secret);
        let mut rest = without_line(with, &line);
        if let Some(organization) = &planned.organization {
            rest = without_line(&rest, &format!("x-anyreach-org: {organization}\r\n"));
        }
        assert!(rest == *without, "request {} was changed", planned.number);
    }
    assert!(layered.sent == by_hand.sent);
    assert!(layered.received == bare.received);
    let (sent, received) = (layered.sent.concat().len(), layered.received.len());
    let requests = plan.len();
    println!("wire: HTTP/1.1, {requests} requests, {sent} bytes sent, {received} received");
}

/// Removes the only field of that name; returns its value, and how it was encoded.
#[track_caller]
fn take_only(block: &mut HeaderBlock, name: &HeaderName) -> (String, u8) {
    let is_named = |(named, ..): &mut Field| *named == name.as_str().as_bytes();
    let taken: Vec<Field> = block.fields.extract_if(.., is_named).collect();
    let [(_, value, encoding)] = &taken[..] else {
        panic!("{name} is not there once")
    };
    (String::from_utf8(value.clone()).unwrap(), *encoding)
}

/// Removes the request's own credential, never indexed, and its organization if it has one.
#[track_caller]
fn take_credential(head: &mut HeaderBlock, planned: &Planned) {
    let (value, encoding) = take_only(head, &AUTHORIZATION);
    assert_eq!(value, format!("Bearer {}", planned.secret));
    assert_eq!(encoding, Decoder::NEVER_INDEXED, "{}", planned.number);
    if let Some(organization) = &planned.organization {
        assert_eq!(take_only(head, &ORG).0, *organization);
    }
    let mut names = head.fields.iter().map(|(name, ..)| name);
    assert!(!names.any(|name| *name == ORG.as_str().as_bytes()));
}

/// Asserts that neither the header nor a value with a credential in it was ever added to the dynamic table; returns the number of
/// fields that were.
fn assert_no_credential_was_indexed(blocks: &[HeaderBlock]) -> usize {
    let fields = blocks.iter().flat_map(|block| &block.fields);
    let added = fields.filter(|field| field.2 == Decoder::WITH_INDEXING);
    let checked = added.inspect(|(name, value, _)| {
        assert_ne!(name, AUTHORIZATION.as_str().as_bytes());
        let value = String::from_utf8_lossy(value);
        assert!(!value.contains("ak_") && !value.contains("pat_"), "{value}");
    });
    checked.count()
}

/// Returns the blocks as if they had one encoding, which depends on the fields before.
fn of_one_encoding(mut blocks: Vec<HeaderBlock>) -> Vec<HeaderBlock> {
    for field in blocks.iter_mut().flat_map(|block| &mut block.fields) {
        field.2 = 0;
    }
    blocks
}

#[tokio::test]
async fn http2_requests_are_those_of_the_bare_client_and_two_fields() {
    let plan = drawn_plan();
    let [bare, by_hand, layered] = Wire::new(Version::HTTP_2).await.three_runs(&plan).await;
    let bytes = [layered.sent, bare.sent, by_hand.sent].map(|sent| sent.concat());
    let [mut sent, bare_sent, sent_by_hand] = bytes.each_ref().map(|sent| Content::of(sent));
    assert!(sent == sent_by_hand);
    assert!(sent.bodies == bare_sent.bodies);
    let mut frames = sent.frames.iter();
    assert!(frames.any(|(kind, _)| *kind == http2::CONTINUATION));

    let added = assert_no_credential_was_indexed(&sent.blocks);
    assert!(added > 10, "the table is in use");
    let mut heads = sent.blocks.iter_mut().filter(|block| block.is_head());
    for planned in &plan {
        take_credential(heads.next().unwrap(), planned);
    }
    assert!(heads.next().is_none());
    // All other fields of all heads and trailers, in their order, on the same streams.
    assert!(of_one_encoding(sent.blocks) == of_one_encoding(bare_sent.blocks));
    assert!(Content::of(&layered.received) == Content::of(&bare.received));
    let (sent, received) = (bytes[0].len(), layered.received.len());
    let requests = plan.len();
    println!(
        "wire: HTTP/2, {requests} requests, {sent} bytes sent, {received} received, {added} fields indexed"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn concurrent_streams_carry_each_its_own_credential_never_indexed() {
    let wire = Wire::new(Version::HTTP_2).await;
    let (connection, [sent, _]) = wire.connect().await;
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

    let mut blocks = Content::of(&take(&sent)).blocks;
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
    let blocks = Content::of(&run.sent.concat()).blocks;
    for mut head in blocks.into_iter().filter(HeaderBlock::is_head) {
        let (_, encoding) = take_only(&mut head, &AUTHORIZATION);
        assert_ne!(encoding, Decoder::NEVER_INDEXED);
    }
}
