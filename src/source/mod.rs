//! Where a store gets its credential from.

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

/// Gives a [`CredentialStore`](crate::CredentialStore) a credential, each time it is asked.
///
/// Closures that return futures are sources. The store asks for one fetch at a time, limits its time, and
/// survives whatever it does: an error, a panic, no answer.
///
/// 1. A source must not go through the client that its store authenticates: that client may be waiting for it.
/// 2. It must not block the thread that polls it, which no time limit ends: that is what `spawn_blocking` is for.
/// 3. Its errors may say anything: their text stays hidden, see [`SourceError`].
/// 4. A source that knows when it may be asked again, as after a 429 with `Retry-After`, may wait for that in its future, up to the
///    time limit of a fetch. The store has only its own back-off.
///
/// # Examples
///
/// A closure with a client in it:
///
/// ```
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), tower_anyreach::SourceError> {
/// use tower_anyreach::{BoxError, Credential, CredentialStore};
///
/// # #[derive(Clone)] struct VaultClient;
/// # impl VaultClient { async fn read(&self, _: &str) -> Result<String, BoxError> { Ok("ak_4711.c2VjcmV0".to_owned()) } }
/// # let client = VaultClient;
/// let source = move || {
///     let client = client.clone();
///     async move { Ok(Credential::parse(client.read("kv/anyreach").await?)?) }
/// };
/// let store = CredentialStore::load(source).await?;
/// # assert_eq!(store.version(), 1);
/// # Ok(()) }
/// ```
///
/// A type of one's own:
///
/// ```
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), tower_anyreach::SourceError> {
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
/// # async fn read_secret(_: &str) -> Result<String, BoxError> { Ok("ak_4711.c2VjcmV0".to_owned()) }
///
/// let store = CredentialStore::load(Vault { path: "kv/anyreach" }).await?;
/// assert!(store.credential().id().to_string().starts_with("ak_4711"));
///
/// // One source for several stores:
/// let shared = std::sync::Arc::new(Vault { path: "kv/anyreach" });
/// let one = CredentialStore::load(shared.clone()).await?;
/// let other = CredentialStore::load(shared).await?;
/// # assert_eq!(one.version(), other.version());
/// # Ok(()) }
/// ```
pub trait CredentialSource: Send + Sync + 'static {
    /// Fetches the credential that is to be in force now.
    ///
    /// # Errors
    ///
    /// Whatever the source fails with. The store keeps the credential that it has.
    ///
    /// # Examples
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), tower_anyreach::BoxError> {
    /// use std::sync::Mutex;
    /// use tower_anyreach::{BoxError, Credential, source::CredentialSource};
    ///
    /// /// What another part of the process was last given.
    /// struct Shared(Mutex<Option<Credential>>);
    ///
    /// impl CredentialSource for Shared {
    ///     async fn fetch(&self) -> Result<Credential, BoxError> {
    ///         let given = self.0.lock().unwrap().clone();
    ///         given.ok_or_else(|| "nothing was given yet".into())
    ///     }
    /// }
    ///
    /// let source = Shared(Mutex::new(Some(Credential::parse("ak_4711.c2VjcmV0")?)));
    /// assert!(source.fetch().await?.id().to_string().starts_with("ak_4711"));
    /// # Ok(()) }
    /// ```
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

/// Any source, chosen at run time; clones share it.
///
/// # Examples
///
/// ```
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
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
/// # async fn read_secret(_: &str) -> Result<String, BoxError> { Ok("ak_4711.c2VjcmV0".to_owned()) }
///
/// let source = match std::env::var("VAULT_PATH") {
///     Ok(path) => AnySource::new(Vault { path }),
///     Err(_) => AnySource::new(async || Ok(Credential::parse("ak_local.c2VjcmV0")?)),
/// };
/// let store = CredentialStore::load(source).await?;
/// # assert_eq!(store.version(), 1);
/// # Ok(()) }
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

/// A source behind a pointer, so that the store is no generic type.
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

/// Asks the source once, and survives whatever it does: a panic before its first await, while it is polled, or as it
/// is dropped at the time limit.
pub(crate) async fn fetch(
    source: &dyn ErasedSource,
    limit: Duration,
) -> Result<Credential, SourceError> {
    let error = |reason, cause| SourceError::new(source.type_name(), reason, cause);
    let mut fetching = Discarded(None);
    // After a panic it is not polled again, so that what it left half done is not seen.
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

/// Drops a foreign value. Its destructor may panic, and so may the one of what it panics with, which is therefore forgotten.
fn discard<T>(foreign: T) {
    if let Err(payload) = catch_unwind(AssertUnwindSafe(|| drop(foreign))) {
        mem::forget(payload);
    }
}

/// A foreign value that is [discarded](discard) with its holder, whenever that is dropped.
struct Discarded<T>(Option<T>);

impl<T> Drop for Discarded<T> {
    fn drop(&mut self) {
        discard(self.0.take());
    }
}

/// A [`CredentialSource`] gave no credential; the store keeps the one that it has.
///
/// `Display` and `Debug` show the source's type, what kind of failure it was, and the text of errors that are this
/// crate's own, such as a [`FileSource`]'s with its path. What a foreign error says stays hidden, and so does its
/// chain of sources: it may quote the secret. [`expose_cause`](Self::expose_cause) gives it to who asks by name.
///
/// Clones share everything: all callers that waited for one failing fetch get the same error.
///
/// # Examples
///
/// ```
/// # #[tokio::main(flavor = "current_thread")] async fn main() {
/// use tower_anyreach::{CredentialStore, SourceErrorReason};
///
/// let error = CredentialStore::load(async || Err("no lease for ak_4711.c2VjcmV0".into())).await.unwrap_err();
/// assert_eq!(error.reason(), SourceErrorReason::Failed);
/// assert!(!error.to_string().contains("c2VjcmV0"));
/// assert!(error.expose_cause().unwrap().to_string().contains("no lease"));
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

    /// Returns what kind of failure it was.
    ///
    /// # Examples
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// use tower_anyreach::{CredentialStore, SourceErrorReason};
    ///
    /// let panics = async || panic!("no such table");
    /// let error = CredentialStore::load(panics).await.unwrap_err();
    /// assert_eq!(error.reason(), SourceErrorReason::Panicked);
    /// # Ok(()) }
    /// ```
    #[must_use]
    pub fn reason(&self) -> SourceErrorReason {
        self.0.reason
    }

    /// Returns the source's own error. Its text may hold secrets: look at it, do not log it.
    ///
    /// # Examples
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// use std::io;
    /// use tower_anyreach::CredentialStore;
    ///
    /// let fails = async || Err(io::Error::from(io::ErrorKind::ConnectionRefused).into());
    /// let error = CredentialStore::load(fails).await.unwrap_err();
    /// let cause: &io::Error = error.expose_cause().unwrap().downcast_ref().unwrap();
    /// assert_eq!(cause.kind(), io::ErrorKind::ConnectionRefused);
    /// # Ok(()) }
    /// ```
    #[must_use]
    pub fn expose_cause(&self) -> Option<&(dyn StdError + Send + Sync + 'static)> {
        self.0.cause.0.as_deref()
    }

    /// The text of a cause that is known to hold no secret.
    fn harmless_cause(&self) -> Option<&dyn fmt::Display> {
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
        match self.harmless_cause() {
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

/// The chain ends here: a foreign cause is not part of it, see [`SourceError::expose_cause`].
impl StdError for SourceError {}

/// What kind of failure a [`SourceError`] is.
///
/// # Examples
///
/// ```
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// use tower_anyreach::{BoxError, CredentialStore, SourceErrorReason};
///
/// let error = CredentialStore::load(async || Err(BoxError::from("503"))).await.unwrap_err();
/// let is_worth_waiting = match error.reason() {
///     SourceErrorReason::Failed | SourceErrorReason::TimedOut => true,
///     _ => false,
/// };
/// assert!(is_worth_waiting);
/// # Ok(()) }
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum SourceErrorReason {
    /// The source returned an error.
    Failed,
    /// The source took longer than the store's time limit.
    TimedOut,
    /// The source panicked.
    Panicked,
    /// There is no tokio runtime to fetch on.
    NoRuntime,
}

impl SourceErrorReason {
    /// Returns the reason in `snake_case`, stable, fit for a metric's label.
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
            Self::TimedOut => "did not answer in time",
            Self::Panicked => "panicked",
            Self::NoRuntime => "can only be asked on a tokio runtime",
        })
    }
}
