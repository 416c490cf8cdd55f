//! Credentials from files that something else rewrites: secret volumes, agents, operators.

use std::fmt;
use std::fs::{self, Metadata};
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant, SystemTime};

use zeroize::Zeroizing;

use super::CredentialSource;
#[cfg(not(unix))]
use super::elsewhere as system;
#[cfg(unix)]
use super::unix as system;
use crate::credential::{
    Credential, CredentialKind, InvalidCredential, InvalidCredentialReason, parse_organization,
};
use crate::error::BoxError;
use crate::events;
use crate::organization::{InvalidOrganizationId, InvalidOrganizationIdReason, OrganizationId};

/// The most bytes that a file may hold.
const MAX_LEN: usize = 8 * 1024;
/// How long reading may take, with all repetitions.
const LIMIT: Duration = Duration::from_secs(1);
/// Between two looks at files that may be half written.
const PAUSE: Duration = Duration::from_millis(50);
/// A file that was changed less long ago may be half written.
const SETTLED: Duration = Duration::from_secs(2);

/// Reads a credential from a file, or from a file and an organization from another.
///
/// It is made for what delivers secrets to machines: Kubernetes secret volumes, Vault Agent and other file
/// writers, systemd credentials (`$CREDENTIALS_DIRECTORY`), Docker secrets.
///
/// 1. Content decides, not modification times. Surrounding ASCII whitespace is trimmed.
/// 2. Only regular files of at most 8 KiB are read, on the runtime's blocking pool, within one second. Opening
///    never waits for a FIFO or a device.
/// 3. A file that was written within the last two seconds is read twice, 50 ms apart, until both readings agree;
///    and again if its content is no credential. What stays torn, empty, vanished or unreadable is an error, and
///    the store keeps what it has.
/// 4. Two files are read as a pair: if either was replaced meanwhile, such as by the swap of a secret volume's
///    `..data` link, both are read again. Two files that are rewritten one after the other are no pair; let the
///    writer replace the directory, or keep the organization fixed.
/// 5. A file that anybody may write is refused, and so is one in a directory where anybody may replace it (world-
///    writable without the sticky bit): the one that the path names, and the one that it is in when links are
///    followed, but none above or between. Unix only. One that anybody may read, as Kubernetes mounts them by default,
///    is taken; with feature `tracing` that is told once, as a warning.
///
/// The file is read when the store [loads](crate::CredentialStore::load), when it is refreshed at intervals
/// ([`refresh_every`](crate::Loader::refresh_every), 10 seconds suit a secret volume) and after a 401
/// ([`RefreshPolicy`](crate::retry::RefreshPolicy)). A secret that is mounted by `subPath` never changes on a
/// running pod; mount the directory.
///
/// # Examples
///
/// ```
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// use tower_anyreach::{CredentialStore, OrganizationId, source::FileSource};
///
/// # let directory = std::env::temp_dir().join(format!("tower-anyreach-doc-{}", std::process::id()));
/// # std::fs::create_dir_all(&directory)?;
/// let path = directory.join("token");
/// std::fs::write(&path, "pat_c2VjcmV0\n")?;
///
/// let source = FileSource::new(&path).organization(OrganizationId::try_from("org_4711")?);
/// let store = CredentialStore::load(source).await?;
/// assert_eq!(store.credential().organization().unwrap().as_str(), "org_4711");
/// # std::fs::remove_dir_all(&directory)?;
/// # Ok(()) }
/// ```
#[derive(Debug)]
pub struct FileSource {
    files: Files,
    /// Whether a read is in flight: one that hangs (a network file system) must not be joined by others.
    busy: Arc<AtomicBool>,
    /// What was last told of who can read the credential.
    told_world_readable: AtomicBool,
}

#[derive(Clone, Debug)]
struct Files {
    credential: PathBuf,
    organization: Organization,
    /// Whether anybody could read the credential when it was last looked at.
    is_world_readable: Arc<AtomicBool>,
}

#[derive(Clone, Debug)]
enum Organization {
    None,
    Fixed(OrganizationId),
    File(PathBuf),
}

impl FileSource {
    /// Creates a source that reads this file: an API key, or a personal access token without an organization.
    ///
    /// # Examples
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// use tower_anyreach::{CredentialStore, source::FileSource};
    ///
    /// # let directory = std::env::temp_dir().join(format!("tower-anyreach-doc-new-{}", std::process::id()));
    /// # std::fs::create_dir_all(&directory)?;
    /// # let path = directory.join("token");
    /// std::fs::write(&path, "ak_4711.c2VjcmV0\n")?;
    /// let store = CredentialStore::load(FileSource::new(&path)).await?;
    /// assert!(store.credential().id().to_string().starts_with("ak_4711"));
    /// # std::fs::remove_dir_all(&directory)?;
    /// # Ok(()) }
    /// ```
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self {
            files: Files {
                credential: path.into(),
                organization: Organization::None,
                is_world_readable: Arc::default(),
            },
            busy: Arc::default(),
            told_world_readable: AtomicBool::new(false),
        }
    }

    /// Names the organization of the personal access token in the file. An API key in it is refused then.
    ///
    /// # Examples
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// use tower_anyreach::{CredentialStore, OrganizationId, source::FileSource};
    ///
    /// # let directory = std::env::temp_dir().join(format!("tower-anyreach-doc-org-{}", std::process::id()));
    /// # std::fs::create_dir_all(&directory)?;
    /// # let path = directory.join("token");
    /// std::fs::write(&path, "pat_c2VjcmV0\n")?;
    /// let source = FileSource::new(&path).organization(OrganizationId::try_from("org_4711")?);
    /// let store = CredentialStore::load(source).await?;
    /// assert_eq!(store.credential().organization().unwrap().as_str(), "org_4711");
    /// # std::fs::remove_dir_all(&directory)?;
    /// # Ok(()) }
    /// ```
    #[must_use]
    pub fn organization(mut self, organization: OrganizationId) -> Self {
        self.files.organization = Organization::Fixed(organization);
        self
    }

    /// Reads the organization of the personal access token from a second file. An API key in the first is refused
    /// then.
    ///
    /// # Examples
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// use tower_anyreach::{CredentialStore, source::FileSource};
    ///
    /// # let directory = std::env::temp_dir().join(format!("tower-anyreach-doc-pair-{}", std::process::id()));
    /// # std::fs::create_dir_all(&directory)?;
    /// std::fs::write(directory.join("token"), "pat_c2VjcmV0\n")?;
    /// std::fs::write(directory.join("organization"), "org_4711\n")?;
    /// let source = FileSource::new(directory.join("token")).organization_file(directory.join("organization"));
    /// let store = CredentialStore::load(source).await?;
    /// assert_eq!(store.credential().organization().unwrap().as_str(), "org_4711");
    /// # std::fs::remove_dir_all(&directory)?;
    /// # Ok(()) }
    /// ```
    #[must_use]
    pub fn organization_file(mut self, path: impl Into<PathBuf>) -> Self {
        self.files.organization = Organization::File(path.into());
        self
    }

    /// Tells of it once, until it changes: many secret volumes are like that, and mean it.
    fn watch_readers(&self) {
        let is_world_readable = self.files.is_world_readable.load(Ordering::Relaxed);
        let told = self
            .told_world_readable
            .swap(is_world_readable, Ordering::Relaxed);
        if is_world_readable && !told {
            events::world_readable(&self.files.credential);
        }
    }
}

impl CredentialSource for FileSource {
    /// Reads the file or files.
    ///
    /// # Errors
    ///
    /// [`FileError`], boxed.
    async fn fetch(&self) -> Result<Credential, BoxError> {
        let error = |reason| FileError::new(&self.files.credential, reason);
        if self.busy.swap(true, Ordering::Acquire) {
            return Err(error(FileErrorReason::TooSlow).into());
        }
        let release = Release(Arc::clone(&self.busy));
        let files = self.files.clone();
        let read = tokio::task::spawn_blocking(move || {
            let _release = release;
            files.read(Instant::now() + LIMIT)
        });
        let read = tokio::time::timeout(LIMIT + PAUSE, read).await;
        self.watch_readers();
        match read {
            Ok(Ok(credential)) => Ok(credential?),
            Ok(Err(_)) | Err(_) => Err(error(FileErrorReason::TooSlow).into()),
        }
    }
}

/// Lets the next read begin, when this one has really ended.
struct Release(Arc<AtomicBool>);

impl Drop for Release {
    fn drop(&mut self) {
        self.0.store(false, Ordering::Release);
    }
}

impl Files {
    /// Reads until a reading can be relied on. One failure may be a moment's; two in a row are an answer.
    fn read(&self, deadline: Instant) -> Result<Credential, FileError> {
        let mut last: Option<Reading> = None;
        let mut failed_before = false;
        loop {
            let outcome = self
                .read_once()
                .and_then(|reading| Ok((self.parse(&reading)?, reading)));
            let error = match outcome {
                Ok((credential, reading)) => {
                    let agree = last.as_ref().is_some_and(|last| last.agrees(&reading));
                    if reading.is_settled || agree {
                        return Ok(credential);
                    }
                    (last, failed_before) = (Some(reading), false);
                    FileError::new(&self.credential, FileErrorReason::Unsettled)
                }
                Err(error) if failed_before => return Err(error),
                Err(error) => {
                    (last, failed_before) = (None, true);
                    error
                }
            };
            if Instant::now() + PAUSE >= deadline {
                return Err(error);
            }
            std::thread::sleep(PAUSE);
        }
    }

    fn read_once(&self) -> Result<Reading, FileError> {
        let credential = Content::read(&self.credential)?;
        self.is_world_readable.store(
            system::is_world_readable(&credential.metadata),
            Ordering::Relaxed,
        );
        let organization = match &self.organization {
            Organization::None | Organization::Fixed(_) => None,
            Organization::File(path) => Some(Content::read(path)?),
        };
        // A pair is one only if nothing was replaced between the first opening and the last reading.
        let (whole, is_settled) = match &organization {
            None => (true, credential.is_settled()),
            Some(organization) => (
                credential.is_current(&self.credential),
                credential.is_settled() && organization.is_settled(),
            ),
        };
        if !whole {
            return Err(FileError::new(&self.credential, FileErrorReason::Unsettled));
        }
        Ok(Reading {
            credential: credential.bytes,
            organization: organization.map(|organization| organization.bytes),
            is_settled,
        })
    }

    fn parse(&self, reading: &Reading) -> Result<Credential, FileError> {
        let error = |reason| FileError::new(&self.credential, reason);
        let credential = Credential::parse_bytes(&reading.credential)
            .map_err(|invalid| error(FileErrorReason::InvalidCredential(invalid.reason())))?;
        let organization = match (&self.organization, &reading.organization) {
            (Organization::None, _) | (Organization::File(_), None) => return Ok(credential),
            (Organization::Fixed(organization), _) => organization.clone(),
            (Organization::File(path), Some(text)) => {
                parse_organization(text).map_err(|invalid| {
                    FileError::new(path, FileErrorReason::InvalidOrganization(invalid.reason()))
                })?
            }
        };
        match credential.kind() {
            CredentialKind::PersonalAccessToken => Ok(credential.with_organization(organization)),
            CredentialKind::OrganizationApiKey => {
                Err(error(FileErrorReason::UnexpectedOrganization))
            }
        }
    }
}

/// What the file or files held at one time.
struct Reading {
    credential: Zeroizing<Vec<u8>>,
    organization: Option<Zeroizing<Vec<u8>>>,
    is_settled: bool,
}

impl Reading {
    fn agrees(&self, other: &Self) -> bool {
        self.credential == other.credential && self.organization == other.organization
    }
}

/// A file as it was read: through which path it was found, and what the open file said of itself.
struct Content {
    bytes: Zeroizing<Vec<u8>>,
    real_path: PathBuf,
    metadata: Metadata,
}

impl Content {
    fn read(path: &Path) -> Result<Self, FileError> {
        let error = |reason| FileError::new(path, reason);
        let io_error = |cause: io::Error| error(FileErrorReason::Io(cause.kind()));

        let real_path = fs::canonicalize(path).map_err(io_error)?;
        let regular = |metadata: Metadata| {
            let is_file = metadata.is_file();
            is_file
                .then_some(metadata)
                .ok_or(error(FileErrorReason::NotAFile))
        };
        // Before it is opened, since opening some devices has effects, and a socket cannot be opened.
        regular(fs::metadata(&real_path).map_err(io_error)?)?;
        let file = system::open(&real_path).map_err(io_error)?;
        // Again, of the open file: something else may have been put in its place since.
        let metadata = regular(file.metadata().map_err(io_error)?)?;
        if system::is_world_writable(&metadata) {
            return Err(error(FileErrorReason::WorldWritable));
        }
        for path in [path, &real_path] {
            let directory = path.parent().filter(|path| !path.as_os_str().is_empty());
            let directory = fs::metadata(directory.unwrap_or(Path::new("."))).map_err(io_error)?;
            if system::may_anybody_replace_files(&directory) {
                return Err(error(FileErrorReason::WorldWritableDirectory));
            }
        }

        // At more than its full size from the start: a buffer that grows leaves copies behind.
        let mut bytes = Zeroizing::new(Vec::with_capacity(2 * MAX_LEN));
        let mut start = (&file).take(MAX_LEN as u64 + 1);
        start.read_to_end(&mut bytes).map_err(io_error)?;
        if bytes.len() > MAX_LEN {
            return Err(error(FileErrorReason::TooLarge));
        }
        Ok(Self {
            bytes,
            real_path,
            // As it is now: who writes to it while it is read leaves a time that is not long ago.
            metadata: file.metadata().map_err(io_error)?,
        })
    }

    /// Whether it was last changed long enough ago not to be half written. A time in the future tells nothing.
    fn is_settled(&self) -> bool {
        self.metadata
            .modified()
            .ok()
            .and_then(|modified| SystemTime::now().duration_since(modified).ok())
            .is_some_and(|age| age >= SETTLED)
    }

    /// Whether the path still leads to this very file, unchanged.
    fn is_current(&self, path: &Path) -> bool {
        fs::canonicalize(path).is_ok_and(|real_path| real_path == self.real_path)
            && fs::metadata(&self.real_path)
                .is_ok_and(|metadata| system::is_same_file(&metadata, &self.metadata))
    }
}

/// A file gave no credential: which file and why, never what is in it.
///
/// # Examples
///
/// ```
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// use tower_anyreach::CredentialStore;
/// use tower_anyreach::source::{FileError, FileSource};
///
/// let error = CredentialStore::load(FileSource::new("/no/such/token")).await.unwrap_err();
/// let cause: &FileError = error.expose_cause().unwrap().downcast_ref().unwrap();
/// assert_eq!(cause.to_string(), "/no/such/token: entity not found");
/// # Ok(()) }
/// ```
#[derive(Clone, PartialEq, Eq)]
pub struct FileError {
    path: PathBuf,
    reason: FileErrorReason,
}

impl FileError {
    fn new(path: &Path, reason: FileErrorReason) -> Self {
        Self {
            path: path.to_owned(),
            reason,
        }
    }

    /// Returns the path of the file, as it was given to [`FileSource`].
    ///
    /// # Examples
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// use std::path::Path;
    /// use tower_anyreach::source::{CredentialSource, FileError, FileSource};
    ///
    /// let error = FileSource::new("/no/such/token").fetch().await.unwrap_err();
    /// let error: &FileError = error.downcast_ref().unwrap();
    /// assert_eq!(error.path(), Path::new("/no/such/token"));
    /// # Ok(()) }
    /// ```
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Returns why the file was not taken.
    ///
    /// # Examples
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// use std::io::ErrorKind;
    /// use tower_anyreach::source::{CredentialSource, FileError, FileErrorReason, FileSource};
    ///
    /// let error = FileSource::new("/no/such/token").fetch().await.unwrap_err();
    /// let error: &FileError = error.downcast_ref().unwrap();
    /// assert_eq!(error.reason(), FileErrorReason::Io(ErrorKind::NotFound));
    /// # Ok(()) }
    /// ```
    #[must_use]
    pub fn reason(&self) -> FileErrorReason {
        self.reason
    }
}

impl fmt::Display for FileError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        use FileErrorReason as Reason;
        write!(f, "{}: ", self.path.display())?;
        match self.reason {
            Reason::Io(kind) => write!(f, "{kind}"),
            Reason::NotAFile => f.write_str("not a regular file"),
            Reason::TooLarge => f.write_str("larger than 8 KiB"),
            Reason::WorldWritable => f.write_str("anybody may write it; use `chmod o-w`"),
            Reason::WorldWritableDirectory => f.write_str(
                "anybody may replace it; use `chmod o-w` on its directory, or the sticky bit",
            ),
            Reason::Unsettled => f.write_str("it is being rewritten"),
            Reason::TooSlow => f.write_str("reading it takes longer than a second"),
            Reason::InvalidCredential(reason) => InvalidCredential::of(reason).fmt(f),
            Reason::InvalidOrganization(reason) => InvalidOrganizationId::of(reason).fmt(f),
            Reason::UnexpectedOrganization => {
                f.write_str("it holds an organization API key, which carries its own organization")
            }
        }
    }
}

impl fmt::Debug for FileError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "FileError({self})")
    }
}

impl std::error::Error for FileError {}

/// Why a file was not taken.
///
/// # Examples
///
/// ```
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// use tower_anyreach::source::{CredentialSource, FileError, FileErrorReason, FileSource};
///
/// let error = FileSource::new(std::env::temp_dir()).fetch().await.unwrap_err();
/// let error: &FileError = error.downcast_ref().unwrap();
/// assert_eq!(error.reason(), FileErrorReason::NotAFile);
/// # Ok(()) }
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum FileErrorReason {
    /// It could not be opened or read, for this reason.
    Io(io::ErrorKind),
    /// A directory, FIFO, socket or device.
    NotAFile,
    /// More than 8 KiB.
    TooLarge,
    /// Anybody may write it.
    WorldWritable,
    /// It stands in a world-writable directory without the sticky bit.
    WorldWritableDirectory,
    /// It changed for as long as it was looked at.
    Unsettled,
    /// Reading took longer than a second, or an earlier reading still does.
    TooSlow,
    /// Its content is no credential.
    InvalidCredential(InvalidCredentialReason),
    /// Its content is no organization id.
    InvalidOrganization(InvalidOrganizationIdReason),
    /// An organization API key, where an organization was named beside it.
    UnexpectedOrganization,
}

impl FileErrorReason {
    /// Returns the reason in `snake_case`, stable, fit for a metric's label.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Io(_) => "io",
            Self::NotAFile => "not_a_file",
            Self::TooLarge => "too_large",
            Self::WorldWritable => "world_writable",
            Self::WorldWritableDirectory => "world_writable_directory",
            Self::Unsettled => "unsettled",
            Self::TooSlow => "too_slow",
            Self::InvalidCredential(_) => "invalid_credential",
            Self::InvalidOrganization(_) => "invalid_organization",
            Self::UnexpectedOrganization => "unexpected_organization",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use FileErrorReason as Reason;

    #[test]
    fn an_error_is_the_path_and_a_sentence() {
        let credential = Credential::parse_bytes(b"").unwrap_err().reason();
        let organization = parse_organization(b"").unwrap_err().reason();
        for (reason, sentence) in [
            (Reason::Io(io::ErrorKind::NotFound), "entity not found"),
            (Reason::NotAFile, "not a regular file"),
            (Reason::TooLarge, "larger than 8 KiB"),
            (
                Reason::WorldWritable,
                "anybody may write it; use `chmod o-w`",
            ),
            (
                Reason::WorldWritableDirectory,
                "anybody may replace it; use `chmod o-w` on its directory, or the sticky bit",
            ),
            (Reason::Unsettled, "it is being rewritten"),
            (Reason::TooSlow, "reading it takes longer than a second"),
            (
                Reason::InvalidCredential(credential),
                "invalid credential: it is empty",
            ),
            (
                Reason::InvalidOrganization(organization),
                "invalid organization id: it is empty",
            ),
            (
                Reason::UnexpectedOrganization,
                "it holds an organization API key, which carries its own organization",
            ),
        ] {
            let error = FileError::new(Path::new("/run/token"), reason);
            assert_eq!(error.to_string(), format!("/run/token: {sentence}"));
            assert_eq!(format!("{error:?}"), format!("FileError({error})"));
        }
    }

    #[test]
    fn a_pair_is_settled_when_both_files_are() {
        let directory =
            std::env::temp_dir().join(format!("anyreach-settled-{}", std::process::id()));
        fs::create_dir_all(&directory).unwrap();
        let write = |name: &str, text: &str, age: u64| {
            let path = directory.join(name);
            fs::write(&path, text).unwrap();
            let file = fs::File::options().write(true).open(&path).unwrap();
            let written = SystemTime::now() - Duration::from_secs(age);
            file.set_modified(written).unwrap();
            path
        };
        for (credential, organization, is_settled) in [
            (60, 60, true),
            (60, 0, false),
            (0, 60, false),
            (0, 0, false),
        ] {
            let credential = write("token", "pat_c2VjcmV0", credential);
            let organization = write("organization", "org_4711", organization);
            let source = FileSource::new(credential).organization_file(organization);
            let reading = source.files.read_once().unwrap();
            assert_eq!(reading.is_settled, is_settled);
        }
        fs::remove_dir_all(&directory).unwrap();
    }

    #[test]
    #[cfg(unix)]
    fn what_is_written_to_while_it_is_read_is_not_settled() {
        const WHOLE: &[u8] = b"ak_4711.c2VjcmV0";

        let directory = std::env::temp_dir().join(format!("anyreach-torn-{}", std::process::id()));
        fs::create_dir_all(&directory).unwrap();
        let path = directory.join("token");
        let torn = (0..3_000_u32).filter(|round| {
            fs::write(&path, WHOLE).unwrap();
            let file = fs::File::options().write(true).open(&path).unwrap();
            file.set_modified(SystemTime::now() - Duration::from_secs(3600))
                .unwrap();
            let pause = Duration::from_nanos(u64::from(round % 100) * 500);
            let content = std::thread::scope(|scope| {
                scope.spawn(move || {
                    let begun = Instant::now();
                    while begun.elapsed() < pause {}
                    std::os::unix::fs::FileExt::write_all_at(&file, b"ak_0815", 0).unwrap();
                });
                Content::read(&path).unwrap()
            });
            assert!(
                *content.bytes == WHOLE || !content.is_settled(),
                "round {round}"
            );
            *content.bytes != WHOLE
        });
        assert!(torn.count() > 0, "never torn");
        fs::remove_dir_all(&directory).unwrap();
    }
}
