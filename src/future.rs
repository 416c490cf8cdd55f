//! The futures: a call through the layer, and the reading of a denial's body.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http::{Response, StatusCode};
use http_body::Body;
use pin_project_lite::pin_project;

pub use crate::answer::ReadDenial;
use crate::answer::{Answer, Authorized};
use crate::config::DeniedResponses;
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
    /// The inner service is at work.
    Calling(Authorized, DeniedResponses),
    /// The answer is a denial, and its body is being read. Boxed, so that a good request does not carry its size.
    Reading(Pin<Box<ReadDenial<R>>>),
    /// There is nothing to wait for.
    Failed(Error),
    /// The output was returned.
    Completed,
}

impl<F, R> ResponseFuture<F, R> {
    pub(crate) fn failed(error: Error) -> Self {
        Self {
            inner: None,
            state: State::Failed(error),
        }
    }

    pub(crate) fn calling(inner: F, authorized: Authorized, denied: DeniedResponses) -> Self {
        Self {
            inner: Some(inner),
            state: State::Calling(authorized, denied),
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

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let mut this = self.project();
        if let Some(inner) = this.inner.as_mut().as_pin_mut() {
            let outcome = ready!(inner.poll(cx));
            this.inner.set(None);
            match outcome {
                // Almost always. The state stays as it is, so that the response is moved only once: 60 instructions less.
                Ok(response) if this.state.lets_pass(response.status()) => {
                    return Poll::Ready(Ok(response));
                }
                Ok(response) => {
                    if let Some(response) = this.state.answered(response) {
                        return Poll::Ready(Ok(response));
                    }
                }
                Err(error) => return Poll::Ready(Err(Error::Service(error.into()))),
            }
        }
        if let State::Reading(reading) = this.state {
            let error = ready!(reading.as_mut().poll(cx));
            *this.state = State::Failed(error);
        }
        match std::mem::replace(this.state, State::Completed) {
            State::Failed(error) => Poll::Ready(Err(error)),
            _ => panic!("`ResponseFuture` polled after it completed"),
        }
    }
}

impl<R: Body> State<R> {
    fn lets_pass(&self, status: StatusCode) -> bool {
        matches!(self, Self::Calling(authorized, _) if authorized.lets_pass(status))
    }

    /// Takes the response in; or gives back one that is the caller's.
    fn answered(&mut self, mut response: Response<R>) -> Option<Response<R>> {
        let Self::Calling(authorized, denied_responses) = std::mem::replace(self, Self::Completed)
        else {
            return Some(response);
        };
        let (status, headers) = (response.status(), response.headers());
        match authorized.on_response(status, headers, response.extensions()) {
            Answer::Pass => Some(response),
            Answer::Refused(refusal) => {
                events::refused(&refusal);
                *self = Self::Failed(Error::Refused(refusal));
                None
            }
            Answer::Denied(unread) if denied_responses == DeniedResponses::PassThrough => {
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
        let state = match self.state {
            State::Calling(..) => "calling",
            State::Reading(_) => "reading an error body",
            State::Failed(_) => "failed",
            State::Completed => "completed",
        };
        f.debug_struct("ResponseFuture")
            .field("state", &state)
            .finish_non_exhaustive()
    }
}
