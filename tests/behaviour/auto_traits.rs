//! Checked at compile time: auto traits, sizes and bounds of the public types.

use std::error::Error as StdError;
use std::fmt::{Debug, Display};
use std::future::Ready;
use std::hash::Hash;
use std::rc::Rc;

use http_body_util::combinators::UnsyncBoxBody;
use static_assertions::{assert_eq_size, assert_impl_all, assert_not_impl_any};
use tower_anyreach::future::ResponseFuture;
use tower_anyreach::{
    AnyreachAuth, Authorized, CredentialId, CredentialKind, EnvError, EnvErrorReason,
    InvalidCredential, InvalidCredentialReason, InvalidOrganizationId, InvalidOrganizationIdReason,
    InvalidOrigin, InvalidOriginReason, OrganizationApiKey, Refusal, UnreadDenial,
};

use crate::prelude::*;

/// The traits that every public type has.
trait Everywhere: Debug + Send + Sync + Unpin + 'static {}

impl<T: Debug + Send + Sync + Unpin + 'static> Everywhere for T {}

macro_rules! assert_each {
    ($traits:path: $($type:ty),+ $(,)?) => { $(assert_impl_all!($type: $traits);)+ };
}

macro_rules! assert_none {
    ($traits:tt: $($type:ident),+) => { $(assert_none!($type $traits);)+ };
    ($type:ident ($($traits:tt)+)) => { assert_not_impl_any!($type: $($traits)+); };
}

assert_each!(Everywhere:
    Anonymous, AnyreachAuth<()>, AnyreachAuthLayer, CallerHeaders, Credential, CredentialId, CredentialKind,
    CredentialStore, Denial, DenialReason, DeniedResponses, EnvError, EnvErrorReason, Error, ForeignRequests,
    InvalidCredential, InvalidCredentialReason, InvalidOrganizationId, InvalidOrganizationIdReason, InvalidOrigin,
    InvalidOriginReason, OrganizationApiKey, OrganizationId, Origin, PersonalAccessToken, Refusal, RefusalReason,
    RelativeUris, Authorized, tower_anyreach::Answer, UnreadDenial, tower_anyreach::test_util::FakeAnyreach,
);
assert_each!(Clone:
    Anonymous, AnyreachAuth<()>, AnyreachAuthLayer, Credential, CredentialId, CredentialStore, Denial, Refusal,
    EnvError, InvalidCredential, InvalidOrganizationId, InvalidOrigin, OrganizationApiKey, OrganizationId, Origin,
    PersonalAccessToken,
);
assert_each!(Copy:
    CallerHeaders, CredentialKind, DenialReason, DeniedResponses, EnvErrorReason, ForeignRequests,
    InvalidCredentialReason, InvalidOrganizationIdReason, InvalidOriginReason, RefusalReason, RelativeUris,
);
// Errors about an input are one byte wide, so they cannot own any of it; they are opaque, so they are not `Copy`.
assert_eq_size!(InvalidCredential, InvalidOrganizationId, InvalidOrigin, u8);
assert_none!((Copy): InvalidCredential, InvalidOrganizationId, InvalidOrigin, EnvError);
// One use each; a denial and a refusal do not make an error large.
assert_none!((Clone): Authorized, UnreadDenial);
assert_eq_size!(UnreadDenial, Refusal, usize);
assert_eq_size!(Denial, Option<Denial>, Credential, usize);
assert_each!(StdError: EnvError, Error, Refusal, InvalidCredential, InvalidOrganizationId, InvalidOrigin);
assert_each!(Display: CredentialId, Denial, DenialReason, Refusal, OrganizationId, Origin);
assert_impl_all!(CredentialId: Eq, Hash);
assert_impl_all!(OrganizationId: Eq, Hash, Ord, AsRef<str>, std::str::FromStr, TryFrom<String>);
assert_impl_all!(Error: Into<BoxError>, Into<anyhow::Error>);

// Nothing that holds a secret can be printed as text, compared, or looked into.
assert_none!((Display, PartialEq, Hash, Copy, AsRef<str>, AsRef<[u8]>, std::ops::Deref, Into<String>, serde_core::Serialize):
    Credential, OrganizationApiKey, PersonalAccessToken);
assert_not_impl_any!(CredentialStore: Display, PartialEq, Hash, AsRef<str>, std::ops::Deref, Into<String>);

// The layer wraps any service, and the result has the traits of that service.
struct Opaque;

#[derive(Clone)]
struct Cloneable;

assert_impl_all!(AnyreachAuthLayer: Layer<Opaque, Service = AnyreachAuth<Opaque>>);
assert_impl_all!(AnyreachAuthLayer: Layer<Rc<()>, Service = AnyreachAuth<Rc<()>>>);
assert_impl_all!(AnyreachAuth<Opaque>: Send, Sync, Unpin);
assert_impl_all!(AnyreachAuth<Cloneable>: Clone);
assert_not_impl_any!(AnyreachAuth<Opaque>: Clone, Debug, Service<Request<()>>);
assert_not_impl_any!(AnyreachAuth<Rc<()>>: Send, Sync);
assert_not_impl_any!(AnyreachAuth<std::cell::Cell<()>>: Sync);

type Answer<R> = Ready<Result<Response<R>, Infallible>>;
type Inner<R> = fn(Request<()>) -> Answer<R>;
type Wrapped<R> = AnyreachAuth<tower::util::ServiceFn<Inner<R>>>;

assert_impl_all!(Wrapped<Full<Bytes>>: Service<
    Request<()>,
    Response = Response<Full<Bytes>>,
    Error = Error,
    Future = ResponseFuture<Answer<Full<Bytes>>, Full<Bytes>>,
>);

// A request body may be anything, even `!Send`.
type Local = tower::util::ServiceFn<fn(Request<Rc<str>>) -> Answer<String>>;
assert_impl_all!(AnyreachAuth<Local>: Service<Request<Rc<str>>, Response = Response<String>>);

// The future has the traits of the inner future and of the body.
struct LocalBody(#[expect(dead_code, reason = "it is there for its type")] Rc<()>);
type Unsync = UnsyncBoxBody<Bytes, Infallible>;
type Boxed<R> = std::pin::Pin<Box<dyn Future<Output = Result<Response<R>, BoxError>> + Send>>;
type LocalFuture<R> = std::pin::Pin<Box<dyn Future<Output = Result<Response<R>, BoxError>>>>;

assert_impl_all!(ResponseFuture<Answer<String>, String>: Future<Output = Result<Response<String>, Error>>, Debug, Send, Sync, Unpin);
assert_impl_all!(ResponseFuture<Boxed<Unsync>, Unsync>: Send, Unpin);
assert_impl_all!(ResponseFuture<Boxed<hyper::body::Incoming>, hyper::body::Incoming>: Send);
assert_impl_all!(ResponseFuture<LocalFuture<String>, String>: Future<Output = Result<Response<String>, Error>>);
assert_not_impl_any!(ResponseFuture<LocalFuture<String>, String>: Send, Sync);
assert_not_impl_any!(ResponseFuture<Answer<LocalBody>, LocalBody>: Send, Sync);
assert_not_impl_any!(ResponseFuture<std::marker::PhantomPinned, String>: Unpin);
