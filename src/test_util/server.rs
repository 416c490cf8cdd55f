//! The socket and the tasks of a server, which end with it.

use std::future::poll_fn;
use std::io;
use std::net::Ipv4Addr;
use std::sync::{Arc, Mutex};
use std::task::Poll;

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::rt::Executor;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use hyper_util::server::conn::auto;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

use super::lock;

/// A listener and its connections. Dropping it ends all of them.
pub(super) struct Server {
    port: u16,
    // Shared with the accepting task, so that `drop` can close the port itself. An aborted task
    // holds the port until the runtime drops it, and a connection made before that would be
    // accepted.
    listener: Arc<Mutex<Option<TcpListener>>>,
    tasks: Tasks,
}

impl Server {
    pub(super) async fn start<H, F>(answer: H) -> io::Result<Self>
    where
        H: Fn(Request<Incoming>) -> F + Clone + Send + Sync + 'static,
        F: Future<Output = io::Result<Response<Full<Bytes>>>> + Send + 'static,
    {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let port = listener.local_addr()?.port();
        let listener = Arc::new(Mutex::new(Some(listener)));
        let tasks = Tasks::new();
        tasks.execute(accept(Arc::clone(&listener), tasks.clone(), answer));
        Ok(Self {
            port,
            listener,
            tasks,
        })
    }

    pub(super) fn port(&self) -> u16 {
        self.port
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        drop(lock(&self.listener).take());
        self.tasks.abort();
    }
}

async fn accept<H, F>(listener: Arc<Mutex<Option<TcpListener>>>, tasks: Tasks, answer: H)
where
    H: Fn(Request<Incoming>) -> F + Clone + Send + Sync + 'static,
    F: Future<Output = io::Result<Response<Full<Bytes>>>> + Send + 'static,
{
    while let Some(accepted) = poll_fn(|cx| match &*lock(&listener) {
        Some(listener) => listener.poll_accept(cx).map(Some),
        None => Poll::Ready(None),
    })
    .await
    {
        match accepted {
            Ok((stream, _)) => tasks.execute(connection(stream, tasks.clone(), answer.clone())),
            // The peer closed the connection, or too many files are open. The listener keeps
            // working.
            Err(_) => tokio::task::yield_now().await,
        }
    }
}

async fn connection<H, F>(stream: TcpStream, tasks: Tasks, answer: H)
where
    H: Fn(Request<Incoming>) -> F + Send + Sync + 'static,
    F: Future<Output = io::Result<Response<Full<Bytes>>>> + Send + 'static,
{
    // Otherwise a small response may wait for the client's delayed acknowledgement. A failure only
    // costs speed.
    let _ = stream.set_nodelay(true);
    let service = service_fn(answer);
    // An error means that the client closed the connection or sent no HTTP. The client's side of
    // the test sees that.
    let mut builder = auto::Builder::new(tasks);
    builder.http1().half_close(true);
    let _ = builder
        .serve_connection(TokioIo::new(stream), service)
        .await;
}

/// All tasks of the server, including those that hyper spawns for the streams of HTTP/2.
///
/// The tasks and the set hold each other. `abort` breaks the cycle.
#[derive(Clone)]
struct Tasks(Arc<Mutex<Option<JoinSet<()>>>>);

impl Tasks {
    fn new() -> Self {
        Self(Arc::new(Mutex::new(Some(JoinSet::new()))))
    }

    /// Aborts all tasks, and prevents new ones.
    fn abort(&self) {
        let tasks = lock(&self.0).take();
        drop(tasks);
    }
}

impl<F> Executor<F> for Tasks
where
    F: Future<Output = ()> + Send + 'static,
{
    fn execute(&self, task: F) {
        if let Some(tasks) = &mut *lock(&self.0) {
            while tasks.try_join_next().is_some() {}
            tasks.spawn(task);
        }
    }
}
