//! From the call to its outcome: refused, calling, or reading an error body.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Buf, Bytes};
use http::response::Parts;
use http::{Response, StatusCode};
use http_body::Body;
use pin_project_lite::pin_project;
use tokio::runtime::Handle;
use tokio::time::{Sleep, sleep};

use crate::authorize::Attached;
use crate::classify::{CapturedBody, classify, is_denied};
use crate::denial::DeniedResponses;
use crate::error::{BoxError, Error};
use crate::events;

pin_project! {
    /// Response future of [`AnyreachAuth`](crate::AnyreachAuth).
    ///
    /// # Panics
    ///
    /// Panics if it is polled again after it has completed. While the body of a 401 or 403 makes it wait, it also
    /// panics inside a tokio runtime whose timer is not enabled.
    ///
    /// # Examples
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// use http::{Request, Response};
    /// use tower::{Layer, Service, ServiceExt};
    /// use tower_anyreach::{AnyreachAuth, AnyreachAuthLayer, BoxError, OrganizationApiKey, future::ResponseFuture};
    /// use tower_anyreach::test_util::{FakeAnyreach, FakeService};
    ///
    /// type Agents = AnyreachAuth<FakeService>;
    ///
    /// /// A future that can be named, and stored without a box.
    /// struct Call {
    ///     answer: ResponseFuture<<FakeService as Service<Request<String>>>::Future, http_body_util::Full<bytes::Bytes>>,
    /// }
    ///
    /// let anyreach = FakeAnyreach::builder().api_key("ak_id.secret", "org_acme", ["agents:read"]).in_memory();
    /// let mut client: Agents = AnyreachAuthLayer::new(OrganizationApiKey::new("ak_id.secret")?).layer(anyreach.service());
    /// let request = Request::get(anyreach.uri("/core/agents")).body(String::new())?;
    /// let call = Call { answer: ServiceExt::<Request<String>>::ready(&mut client).await?.call(request) };
    /// assert_eq!(call.answer.await?.status(), 200);
    /// # Ok(()) }
    /// ```
    #[must_use = "futures do nothing unless polled"]
    pub struct ResponseFuture<F, R> {
        // Present while the inner service is at work.
        #[pin]
        inner: Option<F>,
        state: State<R>,
    }
}

enum State<R> {
    /// Refused before any I/O.
    Refused(Option<Box<Error>>),
    /// The inner service is at work.
    Calling(Attached, Reading),
    /// The answer is a denial, and its body is being read.
    Reading(Pin<Box<ErrorBody<R>>>),
}

/// How denials are read. Kept small, since every call takes a copy along.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Reading {
    denied_responses: DeniedResponses,
    /// In bytes: no denial has four gibibytes.
    limit: u32,
    /// In milliseconds, as exact as timers are: fifty days are for ever.
    timeout: u32,
}

impl Default for Reading {
    fn default() -> Self {
        Self {
            denied_responses: DeniedResponses::IntoError,
            limit: 8 * 1024,
            timeout: 1_000,
        }
    }
}

impl Reading {
    pub(crate) fn set_denied_responses(&mut self, denied_responses: DeniedResponses) {
        self.denied_responses = denied_responses;
    }

    pub(crate) fn set_limit(&mut self, bytes: usize) {
        self.limit = bytes.try_into().unwrap_or(u32::MAX);
    }

    pub(crate) fn set_timeout(&mut self, timeout: Duration) {
        self.timeout = timeout
            .as_micros()
            .div_ceil(1_000)
            .try_into()
            .unwrap_or(u32::MAX);
    }

    fn limit(self) -> usize {
        self.limit.try_into().unwrap_or(usize::MAX)
    }

    fn timeout(self) -> Duration {
        Duration::from_millis(self.timeout.into())
    }
}

impl<F, R> ResponseFuture<F, R> {
    #[cold]
    pub(crate) fn refused(error: Box<Error>) -> Self {
        Self {
            inner: None,
            state: State::Refused(Some(error)),
        }
    }

    pub(crate) fn calling(inner: F, attached: Attached, reading: Reading) -> Self {
        Self {
            inner: Some(inner),
            state: State::Calling(attached, reading),
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

    #[inline]
    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let mut this = self.project();
        if let Some(inner) = this.inner.as_mut().as_pin_mut() {
            let response = match ready!(inner.poll(cx)) {
                Ok(response) => response,
                Err(error) => return Poll::Ready(Err(Error::Service(error.into()))),
            };
            let status = response.status();
            // A redirect or a failure may come from what never looks at the credential.
            if status.is_success() || status == StatusCode::FORBIDDEN {
                if let State::Calling(attached, _) = this.state {
                    attached.note_success();
                }
            }
            if !is_denied(status) {
                return Poll::Ready(Ok(response));
            }
            this.inner.set(None);
            if let Some(response) = this.state.read(response) {
                return Poll::Ready(Ok(response));
            }
        }
        this.state.poll_error(cx).map(Err)
    }
}

impl<R: Body> State<R> {
    /// Takes a denial in, to read its body; or gives back an answer that passes through.
    #[cold]
    fn read(&mut self, response: Response<R>) -> Option<Response<R>> {
        let Self::Calling(attached, reading) = std::mem::replace(self, Self::Refused(None)) else {
            return Some(response);
        };
        if !attached.is_ours_to_read() {
            return Some(response);
        }
        if reading.denied_responses == DeniedResponses::PassThrough {
            return Some(with_denial(response, &attached));
        }
        *self = Self::Reading(Box::pin(ErrorBody::new(response, attached, reading)));
        None
    }

    #[cold]
    fn poll_error(&mut self, cx: &mut Context<'_>) -> Poll<Error> {
        let error = match self {
            Self::Refused(error) => *error.take().expect(POLLED_AGAIN),
            Self::Reading(body) => ready!(body.as_mut().poll_error(cx)),
            Self::Calling(..) => unreachable!("there is an inner future to be polled"),
        };
        *self = Self::Refused(None);
        Poll::Ready(error)
    }
}

const POLLED_AGAIN: &str = "`ResponseFuture` polled after it completed";

/// [`DeniedResponses::PassThrough`]: the response itself, with what its head says among its extensions.
fn with_denial<R>(response: Response<R>, attached: &Attached) -> Response<R> {
    let (mut head, body) = response.into_parts();
    let denial = classify(copy_of(&head), CapturedBody::unread(), attached);
    events::denied(&denial);
    head.extensions.insert(denial);
    Response::from_parts(head, body)
}

/// Status and headers; the rest of a head is not what a denial is made of.
fn copy_of(head: &Parts) -> Parts {
    let mut copy = Response::new(()).into_parts().0;
    copy.status = head.status;
    copy.headers.clone_from(&head.headers);
    copy
}

pin_project! {
    /// A denial whose body is being read: boxed, so that the good path does not carry its size.
    struct ErrorBody<R> {
        #[pin]
        body: Option<R>,
        #[pin]
        deadline: Option<Sleep>,
        head: Option<Parts>,
        attached: Option<Attached>,
        reading: Reading,
        read: Vec<u8>,
        // Frames that brought nothing; a body of nothing else must end too.
        idle_frames: u32,
    }
}

const MAX_IDLE_FRAMES: u32 = 128;

impl<R: Body> ErrorBody<R> {
    fn new(response: Response<R>, attached: Attached, reading: Reading) -> Self {
        let (head, body) = response.into_parts();
        Self {
            body: Some(body),
            deadline: None,
            head: Some(head),
            attached: Some(attached),
            reading,
            read: Vec::new(),
            idle_frames: 0,
        }
    }

    fn poll_error(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Error> {
        let end = ready!(self.as_mut().poll_read(cx));
        let mut this = self.project();
        // What will not be kept is dropped, never drained.
        this.body.set(None);
        let head = this.head.take().expect(POLLED_AGAIN);
        let attached = this.attached.take().expect(POLLED_AGAIN);
        let status = head.status;
        let body = CapturedBody {
            bytes: Bytes::from(std::mem::take(this.read)),
            truncated: end == End::Cut,
        };
        let denial = classify(head, body, &attached);
        events::denied(&denial);
        Poll::Ready(if status == StatusCode::UNAUTHORIZED {
            Error::Unauthorized(denial)
        } else {
            Error::Forbidden(denial)
        })
    }

    /// Reads at most the limit and at most the time; what was read is kept whatever happens.
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<End> {
        let mut this = self.project();
        let Some(mut body) = this.body.as_mut().as_pin_mut() else {
            return Poll::Ready(End::Cut);
        };
        if body.is_end_stream() {
            return Poll::Ready(End::Whole);
        }
        if this.reading.limit() == 0 {
            return Poll::Ready(End::Cut);
        }
        loop {
            match body.as_mut().poll_frame(cx) {
                Poll::Ready(None) => return Poll::Ready(End::Whole),
                Poll::Ready(Some(Err(_))) => return Poll::Ready(End::Cut),
                Poll::Ready(Some(Ok(frame))) => {
                    let before = this.read.len();
                    if let Ok(data) = frame.into_data() {
                        let room = this.reading.limit() - before;
                        let fits = data.remaining() <= room;
                        append(this.read, data.take(room));
                        if !fits {
                            return Poll::Ready(End::Cut);
                        }
                    }
                    if this.read.len() == before {
                        *this.idle_frames += 1;
                        if *this.idle_frames > MAX_IDLE_FRAMES {
                            return Poll::Ready(End::Cut);
                        }
                    }
                }
                Poll::Pending => break,
            }
        }
        // The first wait starts the clock. Without a runtime there is none, and no reason to hope.
        if this.deadline.is_none() {
            if Handle::try_current().is_err() {
                return Poll::Ready(End::Cut);
            }
            this.deadline.set(Some(sleep(this.reading.timeout())));
        }
        match this.deadline.as_mut().as_pin_mut() {
            Some(deadline) => deadline.poll(cx).map(|()| End::Cut),
            None => Poll::Pending,
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    Whole,
    Cut,
}

fn append(read: &mut Vec<u8>, mut data: impl Buf) {
    while data.has_remaining() {
        let chunk = data.chunk();
        read.extend_from_slice(chunk);
        let len = chunk.len();
        data.advance(len);
    }
}

impl<F, R> fmt::Debug for ResponseFuture<F, R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ResponseFuture")
            .field(
                "state",
                &match self.state {
                    State::Refused(_) => "refused",
                    State::Calling(..) => "calling",
                    State::Reading(_) => "reading an error body",
                },
            )
            .finish_non_exhaustive()
    }
}
