//! Both ends of the layer: a request that is sent at once, and an inner service that answers as it is told.

use std::convert::Infallible;
use std::future::{Future, Ready, ready};
use std::pin::pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, Waker};

use http::request::Parts;
use http::{Request, Response};
use tower::Service;

/// What nothing has to be waited for.
pub(crate) fn now<F: Future>(future: F) -> F::Output {
    match pin!(future).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(output) => output,
        Poll::Pending => panic!("it waits for something"),
    }
}

/// Remembers the head of the request that it got, and gives one answer.
pub(crate) struct Once<R> {
    answer: Option<Response<R>>,
    got: Arc<Mutex<Option<Parts>>>,
}

impl<R> Once<R> {
    pub(crate) fn new(answer: Response<R>) -> Self {
        Self {
            answer: Some(answer),
            got: Arc::default(),
        }
    }

    /// Where the head of the request will be found.
    pub(crate) fn got(&self) -> impl Fn() -> Option<Parts> + use<R> {
        let got = Arc::clone(&self.got);
        move || got.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

impl<B, R> Service<Request<B>> for Once<R> {
    type Response = Response<R>;
    type Error = Infallible;
    type Future = Ready<Result<Response<R>, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let head = request.into_parts().0;
        *self.got.lock().unwrap_or_else(PoisonError::into_inner) = Some(head);
        ready(Ok(self.answer.take().expect("one request is sent")))
    }
}
