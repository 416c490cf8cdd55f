//! The service below: it keeps in memory what reaches it, and answers with a script of redirects.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::convert::Infallible;
use std::future::{Future, Ready, ready};
use std::pin::pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

use http::header::LOCATION;
use http::request::Parts;
use http::{HeaderValue, Request, Response, StatusCode};
use tower::Service;

#[derive(Clone, Default)]
pub(crate) struct Wire(Rc<RefCell<State>>);

#[derive(Default)]
struct State {
    arrived: Vec<Parts>,
    script: VecDeque<(StatusCode, HeaderValue)>,
}

impl Wire {
    /// Redirects the requests to come, one after the other, and answers 200 from then on.
    pub(crate) fn redirect(&self, script: impl IntoIterator<Item = (StatusCode, HeaderValue)>) {
        let mut state = self.0.borrow_mut();
        state.script.clear();
        state.script.extend(script);
    }

    /// Gives what arrived since the last time.
    pub(crate) fn take(&self) -> Vec<Parts> {
        std::mem::take(&mut self.0.borrow_mut().arrived)
    }
}

impl Service<Request<String>> for Wire {
    type Response = Response<String>;
    type Error = Infallible;
    type Future = Ready<Result<Self::Response, Self::Error>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<String>) -> Self::Future {
        let mut state = self.0.borrow_mut();
        state.arrived.push(request.into_parts().0);
        let mut response = Response::new(String::new());
        if let Some((status, location)) = state.script.pop_front() {
            *response.status_mut() = status;
            response.headers_mut().insert(LOCATION, location);
        }
        ready(Ok(response))
    }
}

/// The output of a future that waits for nothing, but may want to be polled again.
pub(crate) fn drive<F: Future>(future: F) -> F::Output {
    let mut future = pin!(future);
    for _ in 0..64 {
        if let Poll::Ready(output) = future
            .as_mut()
            .poll(&mut Context::from_waker(Waker::noop()))
        {
            return output;
        }
    }
    panic!("the future waits for something")
}
