//! The layer forwards the inner service's readiness unchanged.

use std::error::Error as _;

use tokio_test::{assert_pending, assert_ready, assert_ready_err, assert_ready_ok};
use tower_test::mock;

use crate::prelude::*;

const FOREIGN: &str = "https://other.example/";

/// A service around a server that panics when it is called unready, or twice for one readiness, and whose clones are unready.
fn strict() -> (mock::Spawn<tower_anyreach::AnyreachAuth<Server>>, Server) {
    let server = Server::accepting(&["v1"]);
    let service = AnyreachAuthLayer::new(key_of("v1")).layer(server.clone());
    (mock::Spawn::new(service), server)
}

#[test]
fn the_service_polled_ready_is_the_one_called() {
    let (mut service, server) = strict();
    for turn in 1..=3 {
        assert_ready_ok!(service.poll_ready::<Request<String>>());
        assert_ready_ok!(service.poll_ready::<Request<String>>());
        let mut call = task::spawn(service.call(get_agents()));
        // Called at once.
        assert_eq!((server.readied(), server.attempts()), (2 * turn, turn));
        assert_ready_ok!(call.poll());
    }
}

#[test]
#[should_panic(expected = "called without having been ready")]
fn a_call_without_readiness_is_passed_on() {
    let (mut service, _) = strict();
    let _call = service.call(get_agents());
}

#[test]
fn a_refused_request_does_not_reach_the_inner_service_and_leaves_its_readiness() {
    let (mut service, server) = strict();
    for _ in 0..3 {
        assert_ready_ok!(service.poll_ready::<Request<String>>());
        let mut call = task::spawn(service.call(get(FOREIGN)));
        let error = assert_ready_err!(call.poll());
        assert!(error.is_refused(), "{error}");
    }
    assert_ready_err!(task::spawn(service.call(get(FOREIGN))).poll());
    assert_eq!((server.readied(), server.attempts()), (3, 0));
    assert_ready_ok!(task::spawn(service.call(get_agents())).poll());
}

#[tokio::test]
async fn readiness_is_the_inner_services() {
    let (mut service, mut handle) = mock::spawn_layer::<_, Response<String>, _>(layer());
    handle.allow(0);
    assert_pending!(service.poll_ready());
    assert_pending!(service.poll_ready());
    assert!(!service.is_woken());
    handle.allow(1);
    assert!(service.is_woken());
    assert_ready_ok!(service.poll_ready());

    let mut call = task::spawn(service.call(get_agents()));
    assert_pending!(service.poll_ready());
    assert_pending!(call.poll());
    let (_, respond) = assert_ready!(task::spawn(handle.next_request()).poll()).unwrap();
    assert_pending!(call.poll());
    respond.send_response(Response::new("[]".to_owned()));
    assert!(call.is_woken());
    assert_eq!(assert_ready_ok!(call.poll()).body(), "[]");

    handle.allow(0);
    assert_pending!(service.poll_ready());
    handle.send_error("connection pool is gone");
    assert!(service.is_woken());
    let error = assert_ready_err!(service.poll_ready());
    assert!(matches!(error, Error::Service(_)), "{error:?}");
    let source = error.source().unwrap().to_string();
    assert_eq!(source, "connection pool is gone");
}
