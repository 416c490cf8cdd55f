//! The layer adds nothing to the inner service's readiness, and takes nothing from it.

use std::cell::RefCell;
use std::convert::Infallible;
use std::error::Error as _;
use std::rc::Rc;
use std::task::{Context, Poll};

use http::{Request, Response};
use static_assertions::assert_not_impl_any;
use tokio_test::{assert_pending, assert_ready, assert_ready_err, assert_ready_ok, task};
use tower::{Layer, Service};
use tower_anyreach::{AnyreachAuthLayer, Error};
use tower_test::mock;

use support::{KEY, get, layer};

const OURS: &str = "https://api.anyreach.ai/core/agents";
const FOREIGN: &str = "https://other.example/";

/// What happened to a [`Strict`] service, in order.
#[derive(Debug, PartialEq, Eq, Clone, Copy)]
enum Event {
    PolledReady(u32),
    Called(u32),
}

/// A service that cannot be cloned, and panics when it is called without having been ready, or twice for once.
#[derive(Debug)]
struct Strict {
    number: u32,
    is_ready: bool,
    events: Rc<RefCell<Vec<Event>>>,
}

assert_not_impl_any!(Strict: Clone);

impl Strict {
    fn new(number: u32) -> (Self, Rc<RefCell<Vec<Event>>>) {
        let events = Rc::default();
        let strict = Self {
            number,
            is_ready: false,
            events: Rc::clone(&events),
        };
        (strict, events)
    }
}

impl Service<Request<String>> for Strict {
    type Response = Response<String>;
    type Error = Infallible;
    type Future = std::future::Ready<Result<Response<String>, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.events
            .borrow_mut()
            .push(Event::PolledReady(self.number));
        self.is_ready = true;
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: Request<String>) -> Self::Future {
        assert!(
            std::mem::take(&mut self.is_ready),
            "called without having been ready"
        );
        self.events.borrow_mut().push(Event::Called(self.number));
        std::future::ready(Ok(Response::new(String::new())))
    }
}

#[test]
fn the_service_polled_ready_is_the_one_called() {
    let (strict, events) = Strict::new(7);
    let mut service = mock::Spawn::new(layer().layer(strict));
    for _ in 0..3 {
        assert_ready_ok!(service.poll_ready());
        let mut call = task::spawn(service.call(get(OURS)));
        assert_ready_ok!(call.poll());
        assert!(
            !service.get_ref().get_ref().is_ready,
            "its readiness was used up"
        );
    }
    assert_eq!(
        *events.borrow(),
        [Event::PolledReady(7), Event::Called(7)].repeat(3)
    );
    assert_eq!(service.into_inner().into_inner().number, 7);
}

#[test]
fn calling_and_polling_the_call_do_not_poll_for_readiness() {
    let (strict, events) = Strict::new(1);
    let mut service = mock::Spawn::new(layer().layer(strict));
    for _ in 0..4 {
        assert_ready_ok!(service.poll_ready());
    }
    assert_eq!(*events.borrow(), [Event::PolledReady(1); 4]);
    let mut call = task::spawn(service.call(get(OURS)));
    assert_eq!(
        events.borrow().len(),
        5,
        "the inner service is called at once"
    );
    assert_ready_ok!(call.poll());
    assert_eq!(events.borrow().len(), 5);
}

#[test]
#[should_panic(expected = "called without having been ready")]
fn a_call_without_readiness_is_not_papered_over() {
    let (strict, _events) = Strict::new(1);
    let _call = layer().layer(strict).call(get(OURS));
}

#[test]
fn a_refused_request_does_not_reach_the_inner_service() {
    let (strict, events) = Strict::new(1);
    let mut service = mock::Spawn::new(layer().layer(strict));
    assert_ready_ok!(service.poll_ready());
    for _ in 0..3 {
        let mut call = task::spawn(service.call(get(FOREIGN)));
        let error = assert_ready_err!(call.poll());
        assert!(matches!(error, Error::UntrustedDestination(_)), "{error}");
    }
    assert_eq!(*events.borrow(), [Event::PolledReady(1)]);
    assert!(
        service.get_ref().get_ref().is_ready,
        "a refusal leaves the readiness for the next request"
    );
    let mut call = task::spawn(service.call(get(OURS)));
    assert_ready_ok!(call.poll());
}

#[tokio::test]
async fn readiness_is_the_inner_services() {
    let (mut service, mut handle) =
        mock::spawn_layer::<Request<String>, Response<String>, _>(layer());
    handle.allow(0);
    assert_pending!(service.poll_ready());
    assert_pending!(service.poll_ready());
    assert!(!service.is_woken());
    handle.allow(1);
    assert!(service.is_woken());
    assert_ready_ok!(service.poll_ready());

    let mut call = task::spawn(service.call(get(OURS)));
    assert_pending!(service.poll_ready());
    assert_pending!(call.poll());
    let (request, respond) = assert_ready!(task::spawn(handle.next_request()).poll()).unwrap();
    assert_eq!(request.headers()["authorization"], format!("Bearer {KEY}"));
    assert_pending!(call.poll());
    respond.send_response(Response::new("[]".to_owned()));
    assert!(call.is_woken());
    assert_eq!(assert_ready_ok!(call.poll()).body(), "[]");
}

#[tokio::test]
async fn an_error_of_readiness_is_the_inner_services() {
    let (mut service, mut handle) =
        mock::spawn_layer::<Request<String>, Response<String>, _>(layer());
    handle.allow(0);
    assert_pending!(service.poll_ready());
    handle.send_error("connection pool is gone");
    assert!(service.is_woken());
    let error = assert_ready_err!(service.poll_ready());
    assert!(matches!(error, Error::Service(_)), "{error:?}");
    assert_eq!(
        error.source().unwrap().to_string(),
        "connection pool is gone"
    );
    assert!(error.was_sent(), "not certain");
}

#[tokio::test]
async fn no_refusal_comes_from_readiness() {
    for layer in [layer(), AnyreachAuthLayer::per_request()] {
        let (mut service, mut handle) =
            mock::spawn_layer::<Request<String>, Response<String>, _>(layer);
        handle.allow(1);
        for _ in 0..3 {
            assert_ready_ok!(service.poll_ready());
            assert_ready_err!(task::spawn(service.call(get(FOREIGN))).poll());
        }
        assert_ready_ok!(service.poll_ready());
        assert_pending!(task::spawn(handle.next_request()).poll());
    }
}
