//! What tests share: credentials and requests here, and a module each for the rest.
//!
//! | Module | What is in it |
//! |---|---|
//! | `service` | an inner service that records what reaches it, a way to call it, and an ordinary retry policy |
//! | `files` | a directory that is gone when dropped |
//! | `process` | runs an example or a demonstration, and captures what it prints |
//! | [`runtime`] | tokio runtimes, and futures that need none |
//! | [`scanner`] | finds secrets in bytes, in every encoding |
//! | [`bodies`] | bodies as a hostile or broken server sends them |
//! | [`alloc`] | a global allocator that counts, and searches freed memory for a secret |
//!
//! A helper that a second test file needs belongs here.
#![allow(clippy::missing_panics_doc, reason = "a test fails by panicking")]
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

pub mod alloc;
pub mod bodies;
mod files;
mod process;
pub mod runtime;
pub mod scanner;
mod service;

use std::future::Future;
use std::pin::pin;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

pub use files::Directory;
use http::{HeaderMap, HeaderName, Request, Response, StatusCode};
pub use process::{Printed, example, printed, program};
pub use service::{
    OnceMore, Recorder, Sent, assert_carries, assert_carries_nothing, both, send, send_to,
};
use tower_anyreach::{
    AnyreachAuthLayer, Credential, Denial, Error, OrganizationId, PersonalAccessToken,
};

/// An organization API key that nothing else in the world looks like.
pub const KEY: &str = "ak_c4n4ry01.S3cr3tK3yCanaryValue0123456789";
/// A personal access token of the same sort.
pub const TOKEN: &str = "pat_S3cr3tT0kenCanaryValue9876543210";

/// A millisecond.
pub const MILLI: Duration = Duration::from_millis(1);
/// A second.
pub const SECOND: Duration = Duration::from_secs(1);

/// `X-Anyreach-Org`.
pub static ORG: HeaderName = HeaderName::from_static("x-anyreach-org");

/// Parses a credential.
#[must_use]
pub fn credential(text: &str) -> Credential {
    Credential::parse(text).unwrap()
}

/// Parses an organization.
#[must_use]
pub fn organization(text: &str) -> OrganizationId {
    OrganizationId::try_from(text).unwrap()
}

/// [`TOKEN`] for that organization.
#[must_use]
pub fn token_for(text: &str) -> Credential {
    PersonalAccessToken::new(TOKEN)
        .unwrap()
        .for_organization(organization(text))
        .into()
}

/// A layer with [`KEY`], and all defaults.
pub fn layer() -> AnyreachAuthLayer {
    AnyreachAuthLayer::new(credential(KEY))
}

/// A GET of that URI.
#[must_use]
pub fn get(uri: &str) -> Request<String> {
    Request::get(uri).body(String::new()).unwrap()
}

/// A GET of a path that Anyreach has.
#[must_use]
pub fn get_agents() -> Request<String> {
    get("https://api.anyreach.ai/core/agents")
}

/// The request with that extension.
pub fn with<T, B>(extension: T, mut request: Request<B>) -> Request<B>
where
    T: Clone + Send + Sync + 'static,
{
    request.extensions_mut().insert(extension);
    request
}

/// An answer with that status and body.
#[must_use]
pub fn answer(status: StatusCode, body: &str) -> Response<String> {
    respond(status, body.to_owned())
}

/// An answer with that status and a body of any type.
pub fn respond<B>(status: StatusCode, body: B) -> Response<B> {
    let mut response = Response::new(body);
    *response.status_mut() = status;
    response
}

/// The denial that a request ended with.
#[track_caller]
pub fn denial(outcome: Result<impl Sized, Error>) -> Denial {
    let Err(error) = outcome else {
        panic!("a denied answer passed through");
    };
    let denial = error.denial().cloned();
    assert_eq!(
        (error.is_unauthorized(), error.is_forbidden()),
        (
            denial.as_ref().map(Denial::status) == Some(StatusCode::UNAUTHORIZED),
            denial.as_ref().map(Denial::status) == Some(StatusCode::FORBIDDEN)
        ),
    );
    denial.unwrap_or_else(|| panic!("{error}"))
}

/// All values of a header, in their order.
#[must_use]
pub fn values<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Vec<&'a [u8]> {
    headers.get_all(name).iter().map(AsRef::as_ref).collect()
}

/// The form of each byte, one after the other.
pub fn each(bytes: impl AsRef<[u8]>, form: impl Fn(u8) -> String) -> String {
    bytes.as_ref().iter().copied().map(form).collect()
}

/// The output of a future that has nothing to wait for.
pub fn now<F: Future>(future: F) -> F::Output {
    match pin!(future).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(output) => output,
        Poll::Pending => panic!("the future waits for something"),
    }
}
