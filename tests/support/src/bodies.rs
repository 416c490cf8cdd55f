//! Bodies as a hostile or broken server sends them, with a record of what was done to them.

use std::convert::Infallible;
use std::fmt;
use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Weak};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, HeaderValue};
use http_body::{Body, Frame};
use tokio::time::{Sleep, sleep};

/// What a [`Scripted`] body does next.
#[derive(Debug, Clone)]
pub enum Step {
    /// Gives these bytes.
    Data(Bytes),
    /// Gives trailers.
    Trailers,
    /// Fails, and goes on if it is polled again.
    Fail,
    /// Gives nothing for so long, then goes on.
    Wait(Duration),
    /// Gives nothing, and never wakes its task.
    Hang,
}

impl Step {
    /// Gives these bytes.
    pub fn data(data: impl Into<Bytes>) -> Self {
        Self::Data(data.into())
    }

    /// The trailers that every body has.
    #[must_use]
    pub fn trailers() -> HeaderMap {
        HeaderMap::from_iter([(http::header::ETAG, HeaderValue::from_static("\"trailing\""))])
    }
}

/// How a [`Scripted`] body was treated.
#[derive(Debug, Clone)]
pub struct Record {
    polls: Arc<AtomicUsize>,
    body: Weak<()>,
}

impl Record {
    /// How often the body was polled.
    #[must_use]
    pub fn polls(&self) -> usize {
        self.polls.load(Ordering::SeqCst)
    }

    /// Whether the body is gone.
    #[must_use]
    pub fn is_dropped(&self) -> bool {
        self.body.strong_count() == 0
    }
}

/// A body that follows a script and records how it was treated.
pub struct Scripted {
    script: Box<dyn Iterator<Item = Step> + Send>,
    waiting: Option<Pin<Box<Sleep>>>,
    hangs: bool,
    polls: Arc<AtomicUsize>,
    alive: Arc<()>,
}

impl Scripted {
    /// Takes these steps, and ends.
    pub fn new(script: impl IntoIterator<Item = Step, IntoIter: Send + 'static>) -> Self {
        Self {
            script: Box::new(script.into_iter()),
            waiting: None,
            hangs: false,
            polls: Arc::default(),
            alive: Arc::default(),
        }
    }

    /// Without an end: what `step` makes, again and again.
    pub fn endless(step: impl FnMut() -> Step + Send + 'static) -> Self {
        Self::new(std::iter::repeat_with(step))
    }

    /// How it was and will be treated.
    #[must_use]
    pub fn record(&self) -> Record {
        Record {
            polls: Arc::clone(&self.polls),
            body: Arc::downgrade(&self.alive),
        }
    }
}

impl Body for Scripted {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, io::Error>>> {
        self.polls.fetch_add(1, Ordering::SeqCst);
        if self.hangs {
            return Poll::Pending;
        }
        loop {
            if let Some(waiting) = &mut self.waiting {
                ready!(waiting.as_mut().poll(cx));
                self.waiting = None;
            }
            return Poll::Ready(match self.script.next() {
                None => None,
                Some(Step::Data(data)) => Some(Ok(Frame::data(data))),
                Some(Step::Trailers) => Some(Ok(Frame::trailers(Step::trailers()))),
                Some(Step::Fail) => Some(Err(io::Error::other("connection reset"))),
                Some(Step::Wait(time)) => {
                    self.waiting = Some(Box::pin(sleep(time)));
                    continue;
                }
                Some(Step::Hang) => {
                    self.hangs = true;
                    return Poll::Pending;
                }
            });
        }
    }
}

/// A body that must be handed over as it is: it panics when it is polled.
#[derive(Debug, PartialEq, Eq)]
pub struct Unpollable(pub u32);

impl Body for Unpollable {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        panic!("body {} was polled", self.0)
    }
}

impl fmt::Debug for Scripted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Scripted").finish_non_exhaustive()
    }
}
