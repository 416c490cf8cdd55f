//! One connection of hyper's client, without a pool that could open another.

use std::pin::Pin;
use std::sync::Arc;

use http::header::HOST;
use http::uri::PathAndQuery;
use http::{HeaderValue, Request, Response, Uri, Version};
use http_body::Body;
use hyper::body::Incoming;
use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::Mutex;
use tower::service_fn;
use tower::util::BoxCloneService;

type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// The sender of requests, as a service. Over HTTP/1.1 it sends one at a time.
pub type Connection<B> = BoxCloneService<Request<B>, Response<Incoming>, hyper::Error>;
/// Moves the bytes of a connection, and ends with it.
pub type Driver = Pin<Box<dyn Future<Output = hyper::Result<()>> + Send>>;

/// Speaks a version of HTTP over a stream.
///
/// # Errors
///
/// If the handshake fails.
pub async fn handshake<I, B>(stream: I, version: Version) -> hyper::Result<(Connection<B>, Driver)>
where
    I: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    B: Body<Data: Send, Error: Into<BoxError>> + Send + Unpin + 'static,
{
    let stream = TokioIo::new(stream);
    if version == Version::HTTP_2 {
        let (sender, driver) = http2::handshake(TokioExecutor::new(), stream).await?;
        let service = service_fn(move |request| sender.clone().send_request(request));
        return Ok((Connection::new(service), Box::pin(driver)));
    }
    let (sender, driver) = http1::handshake(stream).await?;
    let sender = Arc::new(Mutex::new(sender));
    let service = service_fn(move |mut request| {
        name_the_host(&mut request);
        let sender = Arc::clone(&sender);
        async move {
            let mut sender = sender.lock().await;
            sender.ready().await?;
            sender.send_request(request).await
        }
    });
    Ok((Connection::new(service), Box::pin(driver)))
}

/// Moves the host from the URI into a header, as a client's pool does with a request of HTTP/1.1.
fn name_the_host<B>(request: &mut Request<B>) {
    let authority = request.uri().authority().unwrap().as_str();
    let host = HeaderValue::from_str(authority).unwrap();
    request.headers_mut().entry(HOST).or_insert(host);
    let path = request.uri().path_and_query().cloned();
    *request.uri_mut() = Uri::from(path.unwrap_or_else(|| PathAndQuery::from_static("/")));
}
