//! An inner service that records what reaches it, a way to call it, and a retry policy.

use std::convert::Infallible;
use std::future::{Ready, ready};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};

use http::header::AUTHORIZATION;
use http::request::Parts;
use http::{Request, Response, StatusCode};
use tower::retry::Policy;
use tower::{Layer, Service};
use tower_anyreach::{AnyreachAuthLayer, Error};

use crate::{ORG, answer, now, values};

/// An inner service that records the head of each request and gives every one the same answer, unless another one is set for the next.
#[derive(Debug, Clone)]
pub struct Recorder {
    arrived: Arc<Mutex<Vec<Parts>>>,
    next: Arc<Mutex<Option<Response<String>>>>,
    answer: Response<String>,
}

impl Recorder {
    /// Answers every request so.
    #[must_use]
    pub fn answering(answer: Response<String>) -> Self {
        Self {
            arrived: Arc::default(),
            next: Arc::default(),
            answer,
        }
    }

    /// Answers the next request so, and only that one.
    pub fn answer_next(&self, answer: Response<String>) {
        *self.next.lock().unwrap() = Some(answer);
    }

    /// Returns the heads that arrived since the last time.
    #[must_use]
    pub fn take(&self) -> Vec<Parts> {
        std::mem::take(&mut self.arrived.lock().unwrap())
    }
}

impl Default for Recorder {
    fn default() -> Self {
        Self::answering(answer(StatusCode::OK, "{}"))
    }
}

impl Service<Request<String>> for Recorder {
    type Response = Response<String>;
    type Error = Infallible;
    type Future = Ready<Result<Self::Response, Self::Error>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<String>) -> Self::Future {
        self.arrived.lock().unwrap().push(request.into_parts().0);
        let next = self.next.lock().unwrap().take();
        ready(Ok(next.unwrap_or_else(|| self.answer.clone())))
    }
}

/// What became of one request.
#[derive(Debug)]
pub struct Sent {
    /// What the caller got.
    pub outcome: Result<Response<String>, Error>,
    /// The heads that the inner service got.
    pub arrived: Vec<Parts>,
}

impl Sent {
    /// The head of the one request that arrived.
    #[must_use]
    pub fn head(mut self) -> Parts {
        assert_eq!(self.arrived.len(), 1, "{:?}", self.outcome);
        self.arrived.remove(0)
    }

    /// The error of a request that was refused before any I/O.
    #[must_use]
    pub fn refusal(self) -> Error {
        assert!(self.arrived.is_empty(), "the inner service was called");
        let error = self.outcome.unwrap_err();
        assert!(error.is_refused(), "{error:?}");
        error
    }
}

/// Sends a request through the layer to a [`Recorder`] that answers 200.
pub fn send(layer: &AnyreachAuthLayer, request: Request<String>) -> Sent {
    send_to(&Recorder::default(), layer, request)
}

/// Sends a request through the layer to that service.
pub fn send_to(inner: &Recorder, layer: &AnyreachAuthLayer, request: Request<String>) -> Sent {
    let outcome = now(layer.layer(inner.clone()).call(request));
    Sent {
        outcome,
        arrived: inner.take(),
    }
}

/// All values of `Authorization`, and all of `X-Anyreach-Org`.
#[must_use]
pub fn both(head: &Parts) -> (Vec<&[u8]>, Vec<&[u8]>) {
    (
        values(&head.headers, &AUTHORIZATION),
        values(&head.headers, &ORG),
    )
}

/// Asserts that a head has exactly this credential, marked sensitive, and this organization or none.
#[track_caller]
pub fn assert_carries(head: &Parts, credential: &str, organization: Option<&str>) {
    let bearer = format!("Bearer {credential}");
    let organization: Vec<_> = organization.into_iter().map(str::as_bytes).collect();
    assert_eq!(both(head), (vec![bearer.as_bytes()], organization));
    assert!(head.headers[AUTHORIZATION].is_sensitive());
}

/// Asserts that a head has neither header.
#[track_caller]
pub fn assert_carries_nothing(head: &Parts) {
    assert_eq!(both(head), (vec![], vec![]));
}

/// A retry policy that knows nothing about credentials: sends a request again, so many times at most, while the function returns
/// `true`.
#[derive(Debug, Clone)]
pub struct Again<F>(pub usize, pub F);

/// An ordinary policy: sends a request once more after any error or a 401.
#[must_use]
pub fn once_more<R, E>() -> Again<impl Fn(&Result<Response<R>, E>) -> bool + Clone> {
    Again(1, |outcome: &Result<Response<R>, E>| {
        let status = outcome.as_ref().ok().map(Response::status);
        status.is_none_or(|status| status == 401)
    })
}

impl<B: Clone, R, E, F> Policy<Request<B>, R, E> for Again<F>
where
    F: FnMut(&Result<R, E>) -> bool,
{
    type Future = Ready<()>;

    fn retry(&mut self, _: &mut Request<B>, outcome: &mut Result<R, E>) -> Option<Ready<()>> {
        let is_again = (self.1)(outcome);
        self.0 = self.0.checked_sub(usize::from(is_again))?;
        is_again.then(|| ready(()))
    }

    fn clone_request(&mut self, request: &Request<B>) -> Option<Request<B>> {
        Some(request.clone())
    }
}
