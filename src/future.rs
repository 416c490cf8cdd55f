//! The futures of this crate: for a call through the layer, and for reading the body of a denial.

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
use crate::authorize::Decision;
use crate::error::{BoxError, Error};

pin_project! {
    /// Response future of [`AnyreachAuth`](crate::AnyreachAuth).
    ///
    /// # Panics
    ///
    /// Panics if it is polled after it has completed. It also panics if the body of a 401 or 403
    /// is pending inside a tokio runtime whose timer is not enabled, or was pending inside one that
    /// has ended.
    #[must_use = "futures do nothing unless polled"]
    pub struct ResponseFuture<F, R> {
        // Present until the inner future has completed.
        #[pin]
        inner: Option<F>,
        state: State<R>,
    }
}

enum State<R> {
    /// The decision. The inner future is running, or there is an error to return.
    Decided(Result<Decision, Error>),
    /// The body of a denial is being read. It is boxed so that the future of a successful request
    /// does not carry its size.
    ReadingDenial(Pin<Box<ReadDenial<R>>>),
    /// The output has been returned.
    Completed,
}

impl<F, R> ResponseFuture<F, R> {
    pub(crate) fn new(inner: Option<F>, decision: Result<Decision, Error>) -> Self {
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

    // Inlined for the same reason as `AnyreachAuth::call`. Code that almost no request needs is in
    // separate functions, so that this one is small enough.
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
    /// Reads the body of a denial and returns the error.
    fn poll_error(&mut self, cx: &mut Context<'_>) -> Poll<Error> {
        if let Self::ReadingDenial(reading) = self {
            let error = ready!(reading.as_mut().poll(cx));
            *self = Self::Decided(Err(error));
        }
        match mem::replace(self, Self::Completed) {
            Self::Decided(Err(error)) => Poll::Ready(error),
            _ => panic!("`ResponseFuture` polled after it completed"),
        }
    }

    /// Returns whether the response certainly belongs to the caller. The state is not replaced,
    /// because that would cost more than everything else here.
    fn passes(&self, response: &Response<R>) -> bool {
        match self {
            Self::Decided(Ok(decision)) => {
                decision.passes(response.status(), response.extensions())
            }
            _ => true,
        }
    }

    /// Handles a denial or a redirect from another host. Returns a response that belongs to the
    /// caller after all.
    fn examine(&mut self, mut response: Response<R>) -> Option<Response<R>> {
        let Self::Decided(Ok(decision)) = mem::replace(self, Self::Completed) else {
            return Some(response);
        };
        match decision.examine(response.status(), response.headers()) {
            Answer::Pass => Some(response),
            Answer::Refused(refusal) => {
                *self = Self::Decided(Err(Error::Refused(refusal)));
                None
            }
            Answer::Denied(unread) if unread.passes_through() => {
                let denial = unread.denied(Bytes::new(), false);
                response.extensions_mut().insert(denial);
                Some(response)
            }
            Answer::Denied(unread) => {
                *self = Self::ReadingDenial(Box::pin(unread.read(response.into_body())));
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
            State::ReadingDenial(_) => "reading an error body",
            State::Completed => "completed",
        };
        f.debug_struct("ResponseFuture")
            .field("state", &state)
            .finish_non_exhaustive()
    }
}
