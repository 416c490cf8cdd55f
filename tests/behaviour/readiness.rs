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

use support::{KEY, credential, get, layer, with};

const OURS: &str = "https://api.anyreach.ai/core/agents";
const FOREIGN: &str = "https://other.example/";

/// A service that cannot be cloned, and panics when it is called without having been ready, or twice for once.
#[derive(Debug)]
struct Strict {
    is_ready: bool,
    /// What happened to it, in order.
    events: Rc<RefCell<Vec<&'static str>>>,
}

assert_not_impl_any!(Strict: Clone);

impl Strict {
    fn new() -> (Self, Rc<RefCell<Vec<&'static str>>>) {
        let events = Rc::default();
        let strict = Self {
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
        self.events.borrow_mut().push("polled");
        self.is_ready = true;
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: Request<String>) -> Self::Future {
        assert!(
            std::mem::take(&mut self.is_ready),
            "called without having been ready"
        );
        self.events.borrow_mut().push("called");
        std::future::ready(Ok(Response::new(String::new())))
    }
}

#[test]
fn the_service_polled_ready_is_the_one_called() {
    let (strict, events) = Strict::new();
    let mut service = mock::Spawn::new(layer().layer(strict));
    for turn in 0..3 {
        assert_ready_ok!(service.poll_ready());
        assert_ready_ok!(service.poll_ready());
        let mut call = task::spawn(service.call(get(OURS)));
        assert_eq!(events.borrow().len(), 3 * (turn + 1), "called at once");
        assert_ready_ok!(call.poll());
        let is_ready = service.get_ref().get_ref().is_ready;
        assert!(!is_ready, "its readiness was used up");
    }
    assert_eq!(*events.borrow(), ["polled", "polled", "called"].repeat(3));
    let strict = service.into_inner().into_inner();
    assert!(Rc::ptr_eq(&strict.events, &events));
}

#[test]
#[should_panic(expected = "called without having been ready")]
fn a_call_without_readiness_is_not_papered_over() {
    let (strict, _events) = Strict::new();
    let _call = layer().layer(strict).call(get(OURS));
}

#[test]
fn a_refused_request_does_not_reach_the_inner_service() {
    for layer in [layer(), AnyreachAuthLayer::per_request()] {
        let (strict, events) = Strict::new();
        let mut service = mock::Spawn::new(layer.layer(strict));
        for _ in 0..3 {
            assert_ready_ok!(service.poll_ready());
            let mut call = task::spawn(service.call(get(FOREIGN)));
            let error = assert_ready_err!(call.poll());
            assert!(error.is_refused(), "{error}");
        }
        assert_ready_err!(task::spawn(service.call(get(FOREIGN))).poll());
        assert_eq!(*events.borrow(), ["polled"; 3]);
        // A refusal leaves the readiness for the next request.
        let request = with(credential(KEY), get(OURS));
        assert_ready_ok!(task::spawn(service.call(request)).poll());
    }
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
}
