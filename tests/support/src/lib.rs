//! What tests share: credentials and requests here, and a module each for the rest.
//!
//! | Module | What is in it |
//! |---|---|
//! | `service` | an inner service that records what reaches it, a way to call it, and a retry policy |
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

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Duration;

pub use files::Directory;
use futures_util::FutureExt;
use http::{HeaderMap, HeaderName, Request, Response, StatusCode};
pub use process::{Printed, example, printed, program};
pub use service::{
    Again, Recorder, Sent, assert_carries, assert_carries_nothing, both, once_more, send, send_to,
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

/// Parses a credential, and a personal access token for an organization if there is one.
#[must_use]
pub fn credential_for(text: &str, of: Option<&str>) -> Credential {
    let Some(of) = of else {
        return credential(text);
    };
    let token = PersonalAccessToken::new(text).unwrap();
    token.for_organization(organization(of)).into()
}

/// [`TOKEN`] for that organization.
#[must_use]
pub fn token_for(text: &str) -> Credential {
    credential_for(TOKEN, Some(text))
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

/// The request with these headers as well, in their order.
pub fn with_headers<N: AsRef<str>, B>(
    headers: &[(N, &str)],
    mut request: Request<B>,
) -> Request<B> {
    append(request.headers_mut(), headers);
    request
}

/// The request with that many header names more.
pub fn with_names<B>(count: usize, request: Request<B>) -> Request<B> {
    let names = (0..count).map(|number| (format!("x-{number}"), "1"));
    with_headers(&names.collect::<Vec<_>>(), request)
}

fn append<N: AsRef<str>>(map: &mut HeaderMap, headers: &[(N, &str)]) {
    for (name, value) in headers {
        let name: HeaderName = name.as_ref().parse().unwrap();
        map.append(name, value.parse().unwrap());
    }
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

/// An answer with that status, these headers in their order, and a body of any type.
pub fn answer_with<N: AsRef<str>, B>(status: u16, headers: &[(N, &str)], body: B) -> Response<B> {
    let mut response = respond(StatusCode::from_u16(status).unwrap(), body);
    append(response.headers_mut(), headers);
    response
}

/// The denial that a request ended with.
#[track_caller]
pub fn denial(outcome: Result<impl Sized, Error>) -> Denial {
    let error = outcome.err().expect("a denial");
    let denial = error.denial().cloned();
    let status = denial.as_ref().map(|denial| denial.status().as_u16());
    let expected = [Some(401), Some(403)].map(|denied| status == denied);
    assert_eq!([error.is_unauthorized(), error.is_forbidden()], expected);
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
    let output = future.now_or_never();
    output.expect("the future waits for something")
}

/// The text that a closure panics with.
pub fn panic_text(panics: impl FnOnce()) -> String {
    let payload = catch_unwind(AssertUnwindSafe(panics)).unwrap_err();
    match payload.downcast::<String>() {
        Ok(text) => *text,
        Err(payload) => (*payload.downcast::<&str>().unwrap()).to_owned(),
    }
}
