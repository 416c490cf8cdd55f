//! The service below: it keeps in memory what reaches it, and redirects a request if it is told to.

use std::cell::RefCell;
use std::convert::Infallible;
use std::future::{Ready, ready};
use std::rc::Rc;
use std::task::{Context, Poll};

use http::header::LOCATION;
use http::request::Parts;
use http::{HeaderValue, Request, Response, StatusCode};
use tower::Service;

#[derive(Clone, Default)]
pub(crate) struct Wire(Rc<RefCell<State>>);

#[derive(Default)]
struct State {
    arrived: Vec<Parts>,
    location: Option<HeaderValue>,
}

impl Wire {
    /// Redirects the next request, and answers 200 from then on.
    pub(crate) fn redirect(&self, location: HeaderValue) {
        self.0.borrow_mut().location = Some(location);
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
        if let Some(location) = state.location.take() {
            *response.status_mut() = StatusCode::TEMPORARY_REDIRECT;
            response.headers_mut().insert(LOCATION, location);
        }
        ready(Ok(response))
    }
}
