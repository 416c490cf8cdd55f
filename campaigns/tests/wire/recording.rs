//! A TCP stream that keeps a copy of every byte it carries.

use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

/// The bytes that one connection has carried so far.
#[derive(Clone, Default)]
pub(crate) struct Recorded {
    /// From the client to the server.
    pub(crate) sent: Vec<u8>,
    /// From the server to the client.
    pub(crate) received: Vec<u8>,
}

/// The client's end of a connection.
pub(crate) struct Recording {
    stream: TcpStream,
    bytes: Arc<Mutex<Recorded>>,
}

impl Recording {
    /// Returns the stream, and the record that it writes to.
    pub(crate) fn new(stream: TcpStream) -> (Self, Arc<Mutex<Recorded>>) {
        let bytes = Arc::<Mutex<Recorded>>::default();
        let recorded = Arc::clone(&bytes);
        (Self { stream, bytes }, recorded)
    }
}

impl AsyncRead for Recording {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        ready!(Pin::new(&mut self.stream).poll_read(cx, buffer))?;
        let received = &buffer.filled()[before..];
        self.bytes.lock().unwrap().received.extend(received);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Recording {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let len = ready!(Pin::new(&mut self.stream).poll_write(cx, bytes))?;
        self.bytes.lock().unwrap().sent.extend(&bytes[..len]);
        Poll::Ready(Ok(len))
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
