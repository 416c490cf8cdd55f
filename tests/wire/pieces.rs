//! A body in pieces, whose length nobody knows beforehand.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::HeaderMap;
use http_body::{Body, Frame};

pub(crate) struct Pieces {
    data: VecDeque<Bytes>,
    trailers: Option<HeaderMap>,
}

impl Pieces {
    pub(crate) fn of(body: &Bytes, len: usize, trailers: Option<HeaderMap>) -> Self {
        Self {
            data: body
                .chunks(len)
                .map(|piece| body.slice_ref(piece))
                .collect(),
            trailers,
        }
    }
}

impl Body for Pieces {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let data = self.data.pop_front().map(Frame::data);
        let frame = data.or_else(|| self.trailers.take().map(Frame::trailers));
        Poll::Ready(frame.map(Ok))
    }
}
