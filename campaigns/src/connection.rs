//! One connection of hyper's client, without a pool that could open another.

use std::pin::Pin;
use std::task::{Context, Poll};

use http::header::HOST;
use http::uri::PathAndQuery;
use http::{HeaderValue, Request, Response, Uri, Version};
use http_body::Body;
use hyper::body::Incoming;
use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::io::{AsyncRead, AsyncWrite};
use tower::Service;

type BoxError = Box<dyn std::error::Error + Send + Sync>;
type BoxFuture<T> = Pin<Box<dyn Future<Output = hyper::Result<T>> + Send>>;

/// The sender of requests, as a service.
#[derive(Debug)]
pub enum Connection<B> {
    /// Sends one request at a time.
    Http1(http1::SendRequest<B>),
    /// Sends any number of requests at a time.
    Http2(http2::SendRequest<B>),
}

impl<B> Connection<B>
where
    B: Body<Data: Send, Error: Into<BoxError>> + Send + Unpin + 'static,
{
    /// Returns the sender, and the future that moves its bytes and ends with the connection.
    ///
    /// # Errors
    ///
    /// If the handshake fails.
    pub async fn handshake<I>(stream: I, version: Version) -> hyper::Result<(Self, BoxFuture<()>)>
    where
        I: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let stream = TokioIo::new(stream);
        if version == Version::HTTP_2 {
            let (sender, driver) = http2::handshake(TokioExecutor::new(), stream).await?;
            Ok((Self::Http2(sender), Box::pin(driver)))
        } else {
            let (sender, driver) = http1::handshake(stream).await?;
            Ok((Self::Http1(sender), Box::pin(driver)))
        }
    }
}

/// Clones the sender of an HTTP/2 connection, which is meant to be shared.
impl<B> Clone for Connection<B> {
    fn clone(&self) -> Self {
        match self {
            Self::Http1(_) => panic!("an HTTP/1.1 connection has one user"),
            Self::Http2(sender) => Self::Http2(sender.clone()),
        }
    }
}

impl<B> Service<Request<B>> for Connection<B>
where
    B: Body + Send + 'static,
{
    type Response = Response<Incoming>;
    type Error = hyper::Error;
    type Future = BoxFuture<Response<Incoming>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<hyper::Result<()>> {
        match self {
            Self::Http1(sender) => sender.poll_ready(cx),
            Self::Http2(sender) => sender.poll_ready(cx),
        }
    }

    fn call(&mut self, mut request: Request<B>) -> Self::Future {
        match self {
            Self::Http1(sender) => {
                name_the_host(&mut request);
                Box::pin(sender.send_request(request))
            }
            Self::Http2(sender) => Box::pin(sender.send_request(request)),
        }
    }
}

/// Moves the host from the URI into a header, as a client's pool does with a request of HTTP/1.1.
fn name_the_host<B>(request: &mut Request<B>) {
    let authority = request.uri().authority().unwrap().as_str();
    let host = HeaderValue::from_str(authority).unwrap();
    request.headers_mut().entry(HOST).or_insert(host);
    let path = request.uri().path_and_query().cloned();
    *request.uri_mut() = Uri::from(path.unwrap_or_else(|| PathAndQuery::from_static("/")));
}
