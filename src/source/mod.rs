//! The sources that a store gets its credential from: the trait, its errors, and the sources of
//! this crate.

#[cfg(all(feature = "command", unix))]
mod command;
#[cfg(all(feature = "file", any(not(unix), test)))]
mod elsewhere;
#[cfg(feature = "file")]
mod file;
#[cfg(all(feature = "file", unix))]
mod unix;

use std::any::type_name;
use std::error::Error as StdError;
use std::fmt;
use std::future::{Future, poll_fn};
use std::mem;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use crate::credential::{Credential, InvalidCredential};
use crate::error::BoxError;
use crate::organization::InvalidOrganizationId;

#[cfg(all(feature = "command", unix))]
pub use self::command::{CommandError, CommandErrorReason, CommandSource};
#[cfg(feature = "file")]
pub use self::file::{FileError, FileErrorReason, FileSource};

/// Provides the credential of a [`CredentialStore`](crate::CredentialStore).
///
/// Closures that return futures are sources. The store runs one fetch at a time, limits its time,
/// and handles errors, panics and sources that never answer.
///
/// 1. A source must not use the client that its store authenticates, or call `refresh` of that
///    store, because both may be waiting for it.
/// 2. A source must not block the thread that polls it, because no time limit can end that. Use
///    `spawn_blocking`.
/// 3. The text of its errors is not shown, so it may contain anything; see [`SourceError`].
/// 4. Within the time limit of a fetch, a source may wait before it answers, for example after a
///    429 with `Retry-After`. The store itself only backs off.
///
/// # Examples
///
/// A closure with a client in it:
///
/// ```
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), tower_anyreach::SourceError> {
/// use tower_anyreach::{BoxError, Credential, CredentialStore};
///
/// # #[derive(Clone)] struct VaultClient;
/// # impl VaultClient {
/// #     async fn read(&self, _: &str) -> Result<String, BoxError> {
/// #         Ok("ak_4711.c2VjcmV0".to_owned())
/// #     }
/// # }
/// # let client = VaultClient;
/// let source = move || {
///     let client = client.clone();
///     async move { Ok(Credential::parse(client.read("kv/anyreach").await?)?) }
/// };
/// let store = CredentialStore::load(source).await?;
/// # assert_eq!(store.version(), 1);
/// # Ok(())
/// # }
/// ```
///
/// A type that implements the trait:
///
/// ```
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), tower_anyreach::SourceError> {
/// use tower_anyreach::{BoxError, Credential, CredentialStore, source::CredentialSource};
///
/// struct Vault { path: &'static str }
///
/// impl CredentialSource for Vault {
///     async fn fetch(&self) -> Result<Credential, BoxError> {
///         let text = read_secret(self.path).await?;
///         Ok(Credential::parse(text)?)
///     }
/// }
/// # async fn read_secret(_: &str) -> Result<String, BoxError> {
/// #     Ok("ak_4711.c2VjcmV0".to_owned())
/// # }
///
/// let store = CredentialStore::load(Vault { path: "kv/anyreach" }).await?;
/// assert!(store.credential().id().to_string().starts_with("ak_4711"));
///
/// // One source for several stores:
/// let shared = std::sync::Arc::new(Vault { path: "kv/anyreach" });
/// let one = CredentialStore::load(shared.clone()).await?;
/// let other = CredentialStore::load(shared).await?;
/// # assert_eq!(one.version(), other.version());
/// # Ok(())
/// # }
/// ```
pub trait CredentialSource: Send + Sync + 'static {
    /// Fetches the credential that should be in force now.
    ///
    /// # Errors
    ///
    /// Any error of the source. The store then keeps its credential.
    fn fetch(&self) -> impl Future<Output = Result<Credential, BoxError>> + Send;
}

impl<F, Fut> CredentialSource for F
where
    F: Fn() -> Fut + Send + Sync + 'static,
    Fut: Future<Output = Result<Credential, BoxError>> + Send,
{
    fn fetch(&self) -> impl Future<Output = Result<Credential, BoxError>> + Send {
        self()
    }
}

impl<S: CredentialSource> CredentialSource for Arc<S> {
    fn fetch(&self) -> impl Future<Output = Result<Credential, BoxError>> + Send {
        S::fetch(self)
    }
}

/// A source of any type, for choosing one at run time. Clones share it.
///
/// # Examples
///
/// ```
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// use tower_anyreach::source::{AnySource, CredentialSource};
/// use tower_anyreach::{BoxError, Credential, CredentialStore};
///
/// struct Vault { path: String }
///
/// impl CredentialSource for Vault {
///     async fn fetch(&self) -> Result<Credential, BoxError> {
///         Ok(Credential::parse(read_secret(&self.path).await?)?)
///     }
/// }
/// # async fn read_secret(_: &str) -> Result<String, BoxError> {
/// #     Ok("ak_4711.c2VjcmV0".to_owned())
/// # }
///
/// let source = match std::env::var("VAULT_PATH") {
///     Ok(path) => AnySource::new(Vault { path }),
///     Err(_) => AnySource::new(async || Ok(Credential::parse("ak_local.c2VjcmV0")?)),
/// };
/// let store = CredentialStore::load(source).await?;
/// # assert_eq!(store.version(), 1);
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct AnySource(Arc<dyn ErasedSource>);

impl AnySource {
    /// Wraps a source.
    pub fn new(source: impl CredentialSource) -> Self {
        Self(Arc::new(source))
    }
}

impl CredentialSource for AnySource {
    fn fetch(&self) -> impl Future<Output = Result<Credential, BoxError>> + Send {
        self.0.fetch()
    }
}

impl fmt::Debug for AnySource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "AnySource({})", self.0.type_name())
    }
}

/// A source behind a pointer, so that the store is not generic.
pub(crate) trait ErasedSource: Send + Sync {
    fn fetch(&self) -> Pin<Box<dyn Future<Output = Result<Credential, BoxError>> + Send + '_>>;

    fn type_name(&self) -> &'static str;
}

impl<C: CredentialSource> ErasedSource for C {
    fn fetch(&self) -> Pin<Box<dyn Future<Output = Result<Credential, BoxError>> + Send + '_>> {
        Box::pin(CredentialSource::fetch(self))
    }

    fn type_name(&self) -> &'static str {
        type_name::<C>()
    }
}

/// Asks the source once, and catches its panics: before its first await, while it is polled, and
/// when it is dropped at the time limit.
pub(crate) async fn fetch(
    source: &dyn ErasedSource,
    limit: Duration,
) -> Result<Credential, SourceError> {
    let error = |reason, cause| SourceError::new(source.type_name(), reason, cause);
    let mut fetching = Discarded(None);
    // After a panic it is not polled again, so its inconsistent state is not observed.
    let poll = poll_fn(|cx| {
        let poll = || {
            let fetching = fetching.0.get_or_insert_with(|| source.fetch());
            fetching.as_mut().poll(cx)
        };
        match catch_unwind(AssertUnwindSafe(poll)) {
            Ok(poll) => poll.map(Ok),
            Err(payload) => {
                discard(payload);
                Poll::Ready(Err(Panicked))
            }
        }
    });
    let fetched = tokio::time::timeout(limit, poll).await;
    drop(fetching);
    match fetched {
        Err(_elapsed) => Err(error(SourceErrorReason::TimedOut, None)),
        Ok(Err(Panicked)) => Err(error(SourceErrorReason::Panicked, None)),
        Ok(Ok(Err(cause))) => Err(error(SourceErrorReason::Failed, Some(cause))),
        Ok(Ok(Ok(credential))) => Ok(credential),
    }
}

struct Panicked;

/// Drops a user-provided value whose destructor may panic. The destructor of the panic payload may
/// panic too, so the payload is forgotten.
pub(crate) fn discard<T>(value: T) {
    if let Err(payload) = catch_unwind(AssertUnwindSafe(|| drop(value))) {
        mem::forget(payload);
    }
}

/// A user-provided value that is [discarded](discard) when it is dropped.
struct Discarded<T>(Option<T>);

impl<T> Drop for Discarded<T> {
    fn drop(&mut self) {
        discard(self.0.take());
    }
}

/// The error returned when a [`CredentialSource`] provides no credential. The store keeps the one
/// that it has.
///
/// `Display` and `Debug` show the type of the source, the kind of failure, and the text of errors
/// from this crate's sources, such as that of a [`FileSource`] with its path, and of invalid
/// credentials and organization ids. The text of any other error and its chain of sources are not
/// shown, because they may contain the secret. [`expose_cause`](Self::expose_cause) returns the
/// cause.
///
/// Clones share the error: all callers that waited for a failed fetch get the same one.
///
/// # Examples
///
/// ```
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() {
/// use tower_anyreach::{CredentialStore, SourceErrorReason};
///
/// let error = CredentialStore::load(async || Err("no lease for ak_4711.c2VjcmV0".into()))
///     .await
///     .unwrap_err();
/// assert_eq!(error.reason(), SourceErrorReason::Failed);
/// assert!(!error.to_string().contains("c2VjcmV0"));
/// assert!(
///     error
///         .expose_cause()
///         .unwrap()
///         .to_string()
///         .contains("no lease")
/// );
/// # }
/// ```
#[derive(Clone)]
pub struct SourceError(Arc<Failure>);

struct Failure {
    source: &'static str,
    reason: SourceErrorReason,
    cause: Discarded<BoxError>,
}

impl SourceError {
    pub(crate) fn new(
        source: &'static str,
        reason: SourceErrorReason,
        cause: Option<BoxError>,
    ) -> Self {
        Self(Arc::new(Failure {
            source,
            reason,
            cause: Discarded(cause),
        }))
    }

    /// Returns the kind of failure.
    #[must_use]
    pub fn reason(&self) -> SourceErrorReason {
        self.0.reason
    }

    /// Returns the source's own error. Its text may contain secrets, so do not log it.
    ///
    /// # Examples
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// use std::io;
    /// use tower_anyreach::CredentialStore;
    ///
    /// let fails = async || Err(io::Error::from(io::ErrorKind::ConnectionRefused).into());
    /// let error = CredentialStore::load(fails).await.unwrap_err();
    /// let cause: &io::Error = error.expose_cause().unwrap().downcast_ref().unwrap();
    /// assert_eq!(cause.kind(), io::ErrorKind::ConnectionRefused);
    /// # Ok(())
    /// # }
    /// ```
    #[must_use]
    pub fn expose_cause(&self) -> Option<&(dyn StdError + Send + Sync + 'static)> {
        self.0.cause.0.as_deref()
    }

    /// Returns the cause if its text is known to contain no secret.
    fn printable_cause(&self) -> Option<&dyn fmt::Display> {
        let cause = self.0.cause.0.as_deref()?;
        #[cfg(feature = "file")]
        if let Some(error) = cause.downcast_ref::<FileError>() {
            return Some(error);
        }
        #[cfg(all(feature = "command", unix))]
        if let Some(error) = cause.downcast_ref::<CommandError>() {
            return Some(error);
        }
        if let Some(error) = cause.downcast_ref::<InvalidCredential>() {
            return Some(error);
        }
        cause
            .downcast_ref::<InvalidOrganizationId>()
            .map(|error| error as _)
    }
}

impl fmt::Display for SourceError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "credential source `{}` {}", self.0.source, self.0.reason)?;
        match self.printable_cause() {
            Some(cause) => write!(f, ": {cause}"),
            None => Ok(()),
        }
    }
}

impl fmt::Debug for SourceError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SourceError({self})")
    }
}

/// The cause is not part of the chain; see [`SourceError::expose_cause`].
impl StdError for SourceError {}

/// The kind of failure of a [`SourceError`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum SourceErrorReason {
    /// The source returned an error.
    Failed,
    /// The source exceeded the store's time limit.
    TimedOut,
    /// The source panicked.
    Panicked,
    /// There is no current tokio runtime with its timer enabled, or it ended during the fetch.
    NoRuntime,
}

impl SourceErrorReason {
    /// Returns the reason in `snake_case`. It is stable and suits a metric label.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Failed => "failed",
            Self::TimedOut => "timed_out",
            Self::Panicked => "panicked",
            Self::NoRuntime => "no_runtime",
        }
    }
}

impl fmt::Display for SourceErrorReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Failed => "failed",
            Self::TimedOut => "exceeded its time limit",
            Self::Panicked => "panicked",
            Self::NoRuntime => "needs a tokio runtime with its timer enabled",
        })
    }
}
