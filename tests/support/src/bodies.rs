//! Bodies as a hostile or broken server sends them, with a record of what was done to them.

use std::convert::Infallible;
use std::fmt;
use std::future::pending;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use futures_util::stream::{self, Stream, StreamExt};
use http::{HeaderMap, HeaderValue};
use http_body::{Body, Frame};
use tokio::time::sleep;

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

/// How a [`Scripted`] body was treated: how often it was polled.
#[derive(Debug)]
pub struct Record(Arc<AtomicUsize>);

impl Record {
    /// How often the body was polled.
    #[must_use]
    pub fn polls(&self) -> usize {
        self.0.load(Ordering::SeqCst)
    }

    /// Whether the body is gone.
    #[must_use]
    pub fn is_dropped(&self) -> bool {
        Arc::strong_count(&self.0) == 1
    }
}

/// A body that follows a script and records how it was treated.
pub struct Scripted {
    frames: Pin<Box<dyn Stream<Item = io::Result<Frame<Bytes>>> + Send>>,
    polls: Arc<AtomicUsize>,
}

impl Scripted {
    /// Takes these steps, and ends.
    pub fn new(script: impl IntoIterator<Item = Step, IntoIter: Send + 'static>) -> Self {
        let frames = stream::iter(script).filter_map(|step| async {
            match step {
                Step::Data(data) => Some(Ok(Frame::data(data))),
                Step::Trailers => Some(Ok(Frame::trailers(Step::trailers()))),
                Step::Fail => Some(Err(io::Error::other("connection reset"))),
                Step::Wait(time) => {
                    sleep(time).await;
                    None
                }
                Step::Hang => pending().await,
            }
        });
        Self {
            frames: Box::pin(frames),
            polls: Arc::default(),
        }
    }

    /// Without an end: what `step` makes, again and again.
    pub fn endless(step: impl FnMut() -> Step + Send + 'static) -> Self {
        Self::new(std::iter::repeat_with(step))
    }

    /// How it was and will be treated. To be asked for once.
    #[must_use]
    pub fn record(&self) -> Record {
        Record(Arc::clone(&self.polls))
    }
}

impl Body for Scripted {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        self.polls.fetch_add(1, Ordering::SeqCst);
        self.frames.as_mut().poll_next(cx)
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
