//! The whole trip: a hyper client and a hyper server over loopback, with the layer and without it.
//!
//! Both attach the same two headers. They take turns, and each turn is compared with the one beside it. The server has a
//! thread and a runtime of its own. `-- --short` shows that everything runs; its figures mean nothing.
#![allow(clippy::print_stdout, reason = "the table is what is asked for")]

#[path = "figures/mod.rs"]
mod figures;

use std::convert::Infallible;
use std::env;
use std::fs;
use std::io::{self, IoSlice};
use std::net::Ipv4Addr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::thread;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::header::{AUTHORIZATION, HeaderName, HeaderValue};
use http::{Request, Response};
use http_body_util::{BodyExt, Empty, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime;
use tower::{Layer, Service, ServiceBuilder, ServiceExt};
use tower_anyreach::{AnyreachAuthLayer, BoxError, OrganizationId, Origin, PersonalAccessToken};

use figures::{Figures, versions};

const TOKEN: &str = "pat_4711c2VjcmV0c2VjcmV0c2VjcmV0c2VjcmV0c2VjcmV0";
const ORGANIZATION: &str = "org_4711c2VjcmV0";
static X_ANYREACH_ORG: HeaderName = HeaderName::from_static("x-anyreach-org");

type Body = Empty<Bytes>;
type Hyper = Client<HttpConnector, Body>;

#[derive(Debug, Clone, Copy)]
struct Effort {
    pairs: usize,
    turn: Duration,
}

/// Twenty seconds for each protocol.
const FULL: Effort = Effort {
    pairs: 101,
    turn: Duration::from_millis(100),
};
const SHORT: Effort = Effort {
    pairs: 1,
    turn: Duration::from_millis(50),
};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Protocol {
    /// A few connections that are kept alive.
    Http1,
    /// One connection with many streams.
    Http2,
}

impl Protocol {
    fn name(self) -> &'static str {
        match self {
            Self::Http1 => "http1",
            Self::Http2 => "http2",
        }
    }

    fn in_flight(self) -> usize {
        match self {
            Self::Http1 => 4,
            Self::Http2 => 50,
        }
    }

    fn client(self) -> Hyper {
        Client::builder(TokioExecutor::new())
            .http2_only(self == Self::Http2)
            .build_http()
    }
}

fn main() -> Result<(), BoxError> {
    let arguments: Vec<_> = env::args().skip(1).collect();
    let is_short = arguments.iter().any(|argument| argument == "--short");
    let (effort, command) = if is_short {
        (SHORT, "cargo bench --bench trip -- --short")
    } else {
        (FULL, "cargo bench --bench trip")
    };
    let server = serve()?;
    let lock = include_str!("../Cargo.lock");
    let versions = versions(lock, &["hyper", "h2", "http", "tower-anyreach"]);
    let mut figures = Figures::create("trip", command, &versions)?;
    let client = runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    println!(
        "{:<6} {:<14} {:>12} {:>8} {:>8} {:>8} {:>14}",
        "", "", "requests/s", "p50 µs", "p99 µs", "CPU µs", "request bytes"
    );
    for protocol in [Protocol::Http1, Protocol::Http2] {
        client.block_on(compare(protocol, effort, &server, &mut figures))?;
    }
    Ok(())
}

/// One turn of one contender.
struct Turn {
    requests: f64,
    seconds: f64,
    /// Of each request, in order of size.
    latencies: Vec<Duration>,
    cpu: Duration,
    bytes: u64,
}

impl Turn {
    fn metrics(&self) -> [(&'static str, f64); 5] {
        let microseconds = |duration: Duration| duration.as_secs_f64() * 1e6;
        #[allow(clippy::cast_precision_loss, reason = "it is a few megabytes")]
        let bytes = self.bytes as f64;
        [
            ("requests_per_second", self.requests / self.seconds),
            (
                "p50_us",
                microseconds(self.latencies[self.latencies.len() / 2]),
            ),
            (
                "p99_us",
                microseconds(self.latencies[self.latencies.len() * 99 / 100]),
            ),
            ("cpu_us_per_request", microseconds(self.cpu) / self.requests),
            ("request_bytes", bytes / self.requests),
        ]
    }
}

async fn compare(
    protocol: Protocol,
    effort: Effort,
    server: &Server,
    figures: &mut Figures,
) -> Result<(), BoxError> {
    let token =
        PersonalAccessToken::new(TOKEN)?.for_organization(OrganizationId::try_from(ORGANIZATION)?);
    let origin = Origin::insecure(&format!("http://127.0.0.1:{}", server.port))?;
    let with_layer = AnyreachAuthLayer::new(token)
        .origin(origin)
        .layer(protocol.client());
    let without_layer = by_hand(protocol.client(), true);

    let mut turns = [Vec::new(), Vec::new()];
    for pair in 0..effort.pairs {
        // Who goes first may have it easier, or harder.
        for contender in [pair % 2, 1 - pair % 2] {
            turns[contender].push(match contender {
                0 => take_turn(&without_layer, protocol, effort.turn, server).await?,
                _ => take_turn(&with_layer, protocol, effort.turn, server).await?,
            });
        }
    }
    // For the bytes alone: no headers at all, and headers that the connection may remember.
    let bare = take_turn(&protocol.client(), protocol, effort.turn, server).await?;
    let not_sensitive = by_hand(protocol.client(), false);
    let not_sensitive = take_turn(&not_sensitive, protocol, effort.turn, server).await?;

    let case = protocol.name();
    let mut medians = Vec::new();
    for (contender, turns) in ["without_layer", "with_layer"].into_iter().zip(&turns) {
        print!("{case:<6} {contender:<14}");
        for metric in 0..5 {
            let name = turns[0].metrics()[metric].0;
            let value = median(turns.iter().map(|turn| turn.metrics()[metric].1));
            figures.add(case, contender, None, name, value)?;
            print!(" {value:>10.1}");
            medians.push(value);
        }
        println!();
    }
    print!("{case:<6} {:<14}", "with/without");
    for metric in 0..5 {
        let pairs = turns[0].iter().zip(&turns[1]);
        let ratio = median(
            pairs.map(|(without, with)| with.metrics()[metric].1 / without.metrics()[metric].1),
        );
        figures.add(
            case,
            "with_over_without",
            None,
            turns[0][0].metrics()[metric].0,
            ratio,
        )?;
        print!(" {ratio:>10.3}");
    }
    println!();
    for (contender, turn) in [("bare", bare), ("not_sensitive", not_sensitive)] {
        let (name, value) = turn.metrics()[4];
        figures.add(case, contender, None, name, value)?;
        println!("{case:<6} {contender:<14} {value:>54.1}");
    }
    Ok(())
}

/// What one would write by hand: the same two headers, prebuilt.
fn by_hand(
    client: Hyper,
    sensitive: bool,
) -> impl Service<Request<Body>, Response = Response<Incoming>, Error: Into<BoxError>, Future: Send>
+ Clone
+ Send
+ 'static {
    let mut authorization =
        HeaderValue::try_from(format!("Bearer {TOKEN}")).expect("a token is ASCII");
    authorization.set_sensitive(sensitive);
    let organization = HeaderValue::try_from(ORGANIZATION.to_owned()).expect("visible ASCII");
    ServiceBuilder::new()
        .map_request(move |mut request: Request<Body>| {
            let headers = request.headers_mut();
            headers.insert(AUTHORIZATION, authorization.clone());
            headers.insert(&X_ANYREACH_ORG, organization.clone());
            request
        })
        .service(client)
}

async fn take_turn<S>(
    client: &S,
    protocol: Protocol,
    turn: Duration,
    server: &Server,
) -> Result<Turn, BoxError>
where
    S: Service<Request<Body>, Response = Response<Incoming>> + Clone + Send + 'static,
    S::Error: Into<BoxError>,
    S::Future: Send,
{
    // Connections are there, and known to both sides, before anything counts.
    send(client.clone(), server.port).await?;
    let (bytes, cpu) = (server.received.load(Ordering::Relaxed), cpu_time()?);
    let begin = Instant::now();
    let mut workers = tokio::task::JoinSet::new();
    for _ in 0..protocol.in_flight() {
        let (client, port) = (client.clone(), server.port);
        workers.spawn(async move {
            let mut latencies = Vec::new();
            while begin.elapsed() < turn {
                let sent = Instant::now();
                send(client.clone(), port).await?;
                latencies.push(sent.elapsed());
            }
            Ok::<_, BoxError>(latencies)
        });
    }
    let mut latencies = Vec::new();
    for worker in workers.join_all().await {
        latencies.extend(worker?);
    }
    let seconds = begin.elapsed().as_secs_f64();
    latencies.sort_unstable();
    Ok(Turn {
        requests: f64::from(u32::try_from(latencies.len())?),
        seconds,
        latencies,
        cpu: cpu_time()?.saturating_sub(cpu),
        bytes: server.received.load(Ordering::Relaxed) - bytes,
    })
}

async fn send<S>(client: S, port: u16) -> Result<(), BoxError>
where
    S: Service<Request<Body>, Response = Response<Incoming>>,
    S::Error: Into<BoxError>,
{
    let request = Request::get(format!("http://127.0.0.1:{port}/core/agents"))
        .header("accept", "application/json")
        .header("user-agent", "trip/1")
        .body(Body::new())?;
    let response = client.oneshot(request).await.map_err(Into::into)?;
    assert_eq!(response.status(), 200);
    response.into_body().collect().await?;
    Ok(())
}

fn median(values: impl Iterator<Item = f64>) -> f64 {
    let mut values: Vec<_> = values.collect();
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

/// What all threads of this process, client and server, have computed so far.
fn cpu_time() -> io::Result<Duration> {
    let mut nanoseconds = 0;
    for task in fs::read_dir("/proc/self/task")? {
        let stat = fs::read_to_string(task?.path().join("schedstat"))?;
        let spent = stat.split(' ').next().and_then(|spent| spent.parse().ok());
        nanoseconds += spent.unwrap_or(0_u64);
    }
    Ok(Duration::from_nanos(nanoseconds))
}

struct Server {
    port: u16,
    /// Bytes that came in over all connections.
    received: Arc<AtomicU64>,
}

/// Serves on a thread of its own, for as long as the process lives.
fn serve() -> io::Result<Server> {
    let listener = std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    listener.set_nonblocking(true)?;
    let received = Arc::new(AtomicU64::new(0));
    let server = Server {
        port: listener.local_addr()?.port(),
        received: Arc::clone(&received),
    };
    let runtime = runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    thread::spawn(move || {
        runtime.block_on(async {
            let listener = TcpListener::from_std(listener)?;
            loop {
                let (stream, _) = listener.accept().await?;
                stream.set_nodelay(true)?;
                let io = Counted {
                    stream,
                    received: Arc::clone(&received),
                };
                tokio::spawn(answer_all(io));
            }
            #[allow(unreachable_code, reason = "names the error's type")]
            io::Result::Ok(())
        })
    });
    Ok(server)
}

async fn answer_all(io: Counted) {
    let service = service_fn(async |_: Request<Incoming>| {
        let body = Full::from(r#"{"data":[],"pagination":{"limit":20,"next_cursor":null}}"#);
        Ok::<_, Infallible>(Response::<Full<Bytes>>::new(body))
    });
    // A client that goes away is the end of a contender.
    drop(
        auto::Builder::new(TokioExecutor::new())
            .serve_connection(TokioIo::new(io), service)
            .await,
    );
}

/// A connection whose incoming bytes are counted.
struct Counted {
    stream: TcpStream,
    received: Arc<AtomicU64>,
}

impl AsyncRead for Counted {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let poll = Pin::new(&mut self.stream).poll_read(cx, buffer);
        let read = buffer.filled().len() - before;
        self.received.fetch_add(read as u64, Ordering::Relaxed);
        poll
    }
}

impl AsyncWrite for Counted {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        data: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, data)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        data: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, data)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
