//! What several subjects need: credentials, a service that records what reaches it, and a way to call it.

use std::convert::Infallible;
use std::future::{Future, Ready, ready};
use std::path::Path;
use std::pin::pin;
use std::process::Command;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Waker};

use http::request::Parts;
use http::{HeaderMap, HeaderName, Request, Response, StatusCode};
use tower::{Layer, Service};
use tower_anyreach::{AnyreachAuthLayer, Credential, Error, OrganizationId, PersonalAccessToken};

/// An organization API key that nothing else in the world looks like.
pub(crate) const KEY: &str = "ak_c4n4ry01.S3cr3tK3yCanaryValue0123456789";
/// A personal access token of the same sort.
pub(crate) const TOKEN: &str = "pat_S3cr3tT0kenCanaryValue9876543210";

pub(crate) static ORG: HeaderName = HeaderName::from_static("x-anyreach-org");

pub(crate) fn credential(text: &str) -> Credential {
    Credential::parse(text).unwrap()
}

pub(crate) fn organization(text: &str) -> OrganizationId {
    OrganizationId::try_from(text).unwrap()
}

/// [`TOKEN`] for that organization.
pub(crate) fn token_for(text: &str) -> Credential {
    PersonalAccessToken::new(TOKEN)
        .unwrap()
        .for_organization(organization(text))
        .into()
}

/// A GET of that URI.
pub(crate) fn get(uri: &str) -> Request<String> {
    Request::get(uri).body(String::new()).unwrap()
}

/// A GET of a path that Anyreach has.
pub(crate) fn get_agents() -> Request<String> {
    get("https://api.anyreach.ai/core/agents")
}

/// An answer with that status and body.
pub(crate) fn answer(status: StatusCode, body: &str) -> Response<String> {
    let mut response = Response::new(body.to_owned());
    *response.status_mut() = status;
    response
}

/// All values of a header, in their order.
pub(crate) fn values<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Vec<&'a [u8]> {
    headers.get_all(name).iter().map(AsRef::as_ref).collect()
}

/// An inner service that records the head of each request and gives every one the same answer.
#[derive(Debug, Clone)]
pub(crate) struct Recorder {
    arrived: Arc<Mutex<Vec<Parts>>>,
    answer: Response<String>,
}

impl Recorder {
    pub(crate) fn answering(answer: Response<String>) -> Self {
        Self {
            arrived: Arc::default(),
            answer,
        }
    }

    /// Gives the heads that arrived since the last time.
    pub(crate) fn take(&self) -> Vec<Parts> {
        std::mem::take(&mut self.arrived.lock().unwrap())
    }
}

impl Default for Recorder {
    fn default() -> Self {
        Self::answering(answer(StatusCode::OK, "{}"))
    }
}

impl Service<Request<String>> for Recorder {
    type Response = Response<String>;
    type Error = Infallible;
    type Future = Ready<Result<Self::Response, Self::Error>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<String>) -> Self::Future {
        self.arrived.lock().unwrap().push(request.into_parts().0);
        ready(Ok(self.answer.clone()))
    }
}

/// What became of one request.
#[derive(Debug)]
pub(crate) struct Sent {
    pub(crate) outcome: Result<Response<String>, Error>,
    pub(crate) arrived: Vec<Parts>,
}

impl Sent {
    /// The head of the one request that arrived.
    pub(crate) fn head(mut self) -> Parts {
        assert_eq!(self.arrived.len(), 1, "{:?}", self.outcome);
        self.arrived.remove(0)
    }

    /// The error of a request that was refused before any I/O.
    pub(crate) fn refusal(self) -> Error {
        assert!(self.arrived.is_empty(), "the inner service was called");
        let error = self.outcome.unwrap_err();
        assert!(!error.was_sent(), "{error:?}");
        error
    }
}

/// Sends a request through the layer to a [`Recorder`] that answers 200.
pub(crate) fn send(layer: &AnyreachAuthLayer, request: Request<String>) -> Sent {
    send_to(&Recorder::default(), layer, request)
}

pub(crate) fn send_to(
    inner: &Recorder,
    layer: &AnyreachAuthLayer,
    request: Request<String>,
) -> Sent {
    let outcome = now(layer.layer(inner.clone()).call(request));
    Sent {
        outcome,
        arrived: inner.take(),
    }
}

/// The output of a future that has nothing to wait for.
pub(crate) fn now<F: Future>(future: F) -> F::Output {
    match pin!(future).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(output) => output,
        Poll::Pending => panic!("the future waits for something"),
    }
}

/// An example, as cargo builds it together with the tests, in an environment that holds nothing.
pub(crate) fn example(name: &str) -> Command {
    let test = std::env::current_exe().unwrap();
    // From `target/PROFILE/deps/behaviour-HASH` to `target/PROFILE/examples/NAME`.
    let profile = test.parent().and_then(Path::parent).unwrap();
    let file = format!("{name}{}", std::env::consts::EXE_SUFFIX);
    let binary = profile.join("examples").join(file);
    assert!(
        binary.is_file(),
        "run `cargo build --example {name}` first, or `cargo test` without `--test`"
    );
    let mut example = Command::new(binary);
    example.env_clear();
    // Windows finds its sockets through it.
    example.envs(std::env::var_os("SystemRoot").map(|root| ("SystemRoot", root)));
    example
}

/// What an example printed, with `PORT` for each port of this machine, and the code it ended with.
pub(crate) struct Printed {
    pub(crate) stdout: String,
    pub(crate) stderr: String,
    pub(crate) code: Option<i32>,
}

pub(crate) fn printed(example: &mut Command) -> Printed {
    let output = example.output().unwrap();
    Printed {
        stdout: without_ports(str::from_utf8(&output.stdout).unwrap()),
        stderr: without_ports(str::from_utf8(&output.stderr).unwrap()),
        code: output.status.code(),
    }
}

fn without_ports(text: &str) -> String {
    let mut shown = String::new();
    for part in text.split_inclusive(':') {
        if shown.ends_with("127.0.0.1:") || shown.ends_with("localhost:") {
            shown += "PORT";
            shown += part.trim_start_matches(|c: char| c.is_ascii_digit());
        } else {
            shown += part;
        }
    }
    shown
}
