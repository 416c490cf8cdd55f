//! One connection of hyper's, as a service, without a pool that could open another.

use std::net::SocketAddr;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::header::HOST;
use http::uri::PathAndQuery;
use http::{HeaderValue, Request, Response, Uri, Version};
use http_body_util::combinators::UnsyncBoxBody;
use hyper::body::Incoming;
use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::net::TcpStream;
use tower::Service;

/// The body of a request.
pub(crate) type Outgoing = UnsyncBoxBody<Bytes, std::convert::Infallible>;

pub(crate) enum Connection {
    Http1(http1::SendRequest<Outgoing>),
    Http2(http2::SendRequest<Outgoing>),
}

impl Connection {
    pub(crate) async fn to(address: SocketAddr, version: Version) -> Self {
        let stream = TcpStream::connect(address).await.unwrap();
        stream.set_nodelay(true).unwrap();
        let stream = TokioIo::new(stream);
        if version == Version::HTTP_2 {
            let (sender, connection) = http2::handshake(TokioExecutor::new(), stream)
                .await
                .unwrap();
            tokio::spawn(connection);
            Self::Http2(sender)
        } else {
            let (sender, connection) = http1::handshake(stream).await.unwrap();
            tokio::spawn(connection);
            Self::Http1(sender)
        }
    }
}

/// Of an HTTP/2 connection only, which is meant to be shared.
impl Clone for Connection {
    fn clone(&self) -> Self {
        match self {
            Self::Http1(_) => panic!("an HTTP/1.1 connection has one user"),
            Self::Http2(sender) => Self::Http2(sender.clone()),
        }
    }
}

impl Service<Request<Outgoing>> for Connection {
    type Response = Response<Incoming>;
    type Error = hyper::Error;
    type Future = Pin<Box<dyn Future<Output = hyper::Result<Response<Incoming>>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<hyper::Result<()>> {
        match self {
            Self::Http1(sender) => sender.poll_ready(cx),
            Self::Http2(sender) => sender.poll_ready(cx),
        }
    }

    fn call(&mut self, mut request: Request<Outgoing>) -> Self::Future {
        match self {
            Self::Http1(sender) => {
                name_the_host(&mut request);
                Box::pin(sender.send_request(request))
            }
            Self::Http2(sender) => Box::pin(sender.send_request(request)),
        }
    }
}

/// What a client's pool does with a request of HTTP/1.1: the host goes from the URI into a header.
fn name_the_host(request: &mut Request<Outgoing>) {
    let authority = request.uri().authority().unwrap().as_str();
    let host = HeaderValue::from_str(authority).unwrap();
    request.headers_mut().entry(HOST).or_insert(host);
    let path = request.uri().path_and_query().cloned();
    *request.uri_mut() = Uri::from(path.unwrap_or_else(|| PathAndQuery::from_static("/")));
}
