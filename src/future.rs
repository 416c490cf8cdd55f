//! The futures: a call through the layer, and the reading of a denial's body.

use std::fmt;
use std::future::Future;
use std::mem;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http::Response;
use http_body::Body;
use pin_project_lite::pin_project;

use crate::answer::Answer;
pub use crate::answer::ReadDenial;
use crate::authorize::Departure;
use crate::error::{BoxError, Error};
use crate::events;

pin_project! {
    /// Response future of [`AnyreachAuth`](crate::AnyreachAuth).
    ///
    /// # Panics
    ///
    /// Panics if it is polled again after it has completed. While the body of a 401 or 403 is pending, it also panics inside a
    /// tokio runtime whose timer is not enabled.
    #[must_use = "futures do nothing unless polled"]
    pub struct ResponseFuture<F, R> {
        // Present while the inner service is at work.
        #[pin]
        inner: Option<F>,
        state: State<R>,
    }
}

enum State<R> {
    /// What was decided: the inner service is at work, or there is an error to be returned.
    Decided(Result<Departure, Error>),
    /// The answer is a denial, and its body is being read. Boxed, so that a good request does not carry its size.
    Reading(Pin<Box<ReadDenial<R>>>),
    /// The output was returned.
    Completed,
}

impl<F, R> ResponseFuture<F, R> {
    pub(crate) fn new(inner: Option<F>, decision: Result<Departure, Error>) -> Self {
        Self {
            inner,
            state: State::Decided(decision),
        }
    }
}

impl<F, R, E> Future for ResponseFuture<F, R>
where
    F: Future<Output = Result<Response<R>, E>>,
    E: Into<BoxError>,
    R: Body,
{
    type Output = Result<Response<R>, Error>;

    // As `AnyreachAuth::call`. What nearly no request needs is in functions of its own, so that this one is small enough.
    #[inline]
    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let mut this = self.project();
        if let Some(inner) = this.inner.as_mut().as_pin_mut() {
            let outcome = ready!(inner.poll(cx));
            this.inner.set(None);
            let response = outcome.map_err(|error| Error::Service(error.into()))?;
            if this.state.passes(&response) {
                return Poll::Ready(Ok(response));
            }
            if let Some(response) = this.state.examine(response) {
                return Poll::Ready(Ok(response));
            }
        }
        this.state.poll_error(cx).map(Err)
    }
}

impl<R: Body> State<R> {
    /// Reads a denial's body, and returns the error.
    fn poll_error(&mut self, cx: &mut Context<'_>) -> Poll<Error> {
        if let Self::Reading(reading) = self {
            let error = ready!(reading.as_mut().poll(cx));
            *self = Self::Decided(Err(error));
        }
        match mem::replace(self, Self::Completed) {
            Self::Decided(Err(error)) => Poll::Ready(error),
            _ => panic!("`ResponseFuture` polled after it completed"),
        }
    }

    /// Whether the response certainly is the caller's. The state stays as it is, because to replace it would cost more than all
    /// else here.
    fn passes(&self, response: &Response<R>) -> bool {
        match self {
            Self::Decided(Ok(departure)) => {
                departure.passes(response.status(), response.extensions())
            }
            _ => true,
        }
    }

    /// Takes in a response that is a denial or a redirect by another host; or gives back one that is the caller's all the same.
    fn examine(&mut self, mut response: Response<R>) -> Option<Response<R>> {
        let Self::Decided(Ok(departure)) = mem::replace(self, Self::Completed) else {
            return Some(response);
        };
        match departure.examine(response.status(), response.headers()) {
            Answer::Pass => Some(response),
            Answer::Refused(refusal) => {
                events::refused(&refusal);
                *self = Self::Decided(Err(Error::Refused(refusal)));
                None
            }
            Answer::Denied(unread) if unread.passes_through() => {
                let denial = unread.denied(Bytes::new(), false);
                response.extensions_mut().insert(denial);
                Some(response)
            }
            Answer::Denied(unread) => {
                *self = Self::Reading(Box::pin(unread.read(response.into_body())));
                None
            }
        }
    }
}

impl<F, R> fmt::Debug for ResponseFuture<F, R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = match &self.state {
            State::Decided(Ok(_)) => "calling",
            State::Decided(Err(_)) => "failed",
            State::Reading(_) => "reading an error body",
            State::Completed => "completed",
        };
        f.debug_struct("ResponseFuture")
            .field("state", &state)
            .finish_non_exhaustive()
    }
}
