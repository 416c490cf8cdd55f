//! Credentials from files that another program rewrites: secret volumes, agents, operators.
//!
//! [`FileSource`] holds the options and starts a thread for each fetch; its future only waits for the thread's answer.
//! [`Files`] is what the thread works with, a [`Content`] what one file holds, a [`Sample`] what all of them hold at one
//! time, and [`Accepted`] what the source keeps from one fetch to the next.
//!
//! The thread has to tell a whole file from one that is half written. No clock of the file system can be trusted for
//! that, so it compares what it reads:
//!
//! 1. Take a sample. If it holds what was last accepted, accept it: nothing has changed.
//! 2. Otherwise take a sample every 50 ms, and compare contents, device, inode, change time and length with those of the
//!    sample before. Any difference starts over. A failure to read is a sample too, because an unlinked file may be back
//!    a moment later.
//! 3. Once the samples have been equal for 50 ms, accept them. A file that has the device and inode of the last accepted one
//!    is being rewritten in place, by a writer that may stall, and must have been equal for 250 ms.
//! 4. If there is still a difference after one second, give up.

use std::fmt;
use std::fs::{self, File, Metadata};
use std::io::{self, Read};
use std::path::{Path, PathBuf, absolute};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use hmac_sha256::Hash;
use tokio::sync::{Mutex, oneshot};
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
use crate::wipe::with_stack_wiped;

/// The most bytes that a file may hold.
const MAX_LEN: usize = 8 * 1024;
/// Between two samples, and how long a new file must stay the same.
const PAUSE: Duration = Duration::from_millis(50);
/// How long a file that is rewritten in place must stay the same.
const PAUSE_IN_PLACE: Duration = Duration::from_millis(250);
/// A difference found later than this is an error.
const LIMIT: Duration = Duration::from_secs(1);

const OTHERS_READ: u32 = 0o004;
const OTHERS_WRITE: u32 = 0o002;
const STICKY: u32 = 0o1000;

/// Reads a credential from a file, or a credential from one file and its organization from another.
///
/// Use it when secrets are delivered as files: Kubernetes secret volumes, Vault Agent and other file writers, systemd
/// credentials (`$CREDENTIALS_DIRECTORY`), Docker secrets.
///
/// The store reads the file when it [loads](crate::CredentialStore::load), when it polls
/// ([`refresh_every`](crate::Loader::refresh_every); 10 seconds suit a secret volume) and after a 401
/// ([`RefreshPolicy`](crate::retry::RefreshPolicy)).
///
/// # What is read
///
/// A regular file of at most 8 KiB; ASCII whitespace around the credential is trimmed. Opening never waits for a FIFO or a
/// device. A named pipe, such as a shell's `<(...)`, is refused because it can be read only once; so is a file that has
/// been deleted and is still open, such as `/proc/self/fd/3`.
///
/// A relative path is made absolute by [`new`](Self::new), so a later change of the working directory does not matter. If
/// that fails, as with an empty path or a working directory that is gone, the path is kept and every fetch fails.
///
/// # Half-written files
///
/// Contents that equal the last accepted ones are accepted at once. Otherwise the file is accepted after it has stayed the
/// same for 50 ms, or for 250 ms if it is the last accepted file rewritten in place. The times of the file system are
/// compared with each other and with no clock. A file that keeps changing for a second is an error, and the store keeps its
/// credential.
///
/// A writer that rewrites the file in place and stalls for more than 250 ms can therefore deliver half a credential, and so
/// can one that stalls for more than 50 ms in a new file or while the store loads. Let it write a new file and rename that
/// into place.
///
/// # Two files
///
/// The token and its organization are a pair only where one act replaces both, as a secret volume does by swapping its
/// `..data` link. If they are written one after the other, a new token may go out with the old organization until the next
/// poll: write both to one volume, or name the organization in code.
///
/// # Permissions
///
/// On Unix, a file that anyone may write is refused, and so is one in a directory that anyone may write and that is not
/// sticky. The directories are that of the path and, where links are followed, that of the file; those above or between are
/// not checked. [`allow_world_writable`](Self::allow_world_writable) accepts such files. A sticky directory such as `/tmp`
/// is accepted, because some agents write there under another user; any user of the machine can create a file there that
/// does not exist yet. A file that anyone may read is accepted, and feature `tracing` warns once.
///
/// # Mounts
///
/// Mount the directory, not the file: a file that is mounted by itself (`subPath`, a bind mount) never changes. When its
/// original is replaced, fetches fail with [`FileErrorReason::Unlinked`].
///
/// # Hanging file systems
///
/// Each fetch reads on a thread of its own, `anyreach-file`, so neither a busy blocking pool nor a runtime's shutdown waits
/// for the other. There is at most one such thread: while a read hangs, further fetches fail with
/// [`FileErrorReason::StillReading`], also after the store's time limit has ended the first. [`fetch`](Self::fetch) needs
/// no tokio runtime and has no time limit of its own.
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
    /// Locked by the thread that reads, until it ends.
    accepted: Arc<Mutex<Option<Accepted>>>,
    warned_world_readable: AtomicBool,
}

#[derive(Clone, Debug)]
struct Files {
    credential: PathBuf,
    organization: Organization,
    allow_world_writable: bool,
}

#[derive(Clone, Debug)]
enum Organization {
    None,
    Fixed(OrganizationId),
    File(PathBuf),
    /// As `File`, but not read beside an API key.
    FileOfToken(PathBuf),
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
                credential: absolute_or_same(path.into()),
                organization: Organization::None,
                allow_world_writable: false,
            },
            accepted: Arc::default(),
            warned_world_readable: AtomicBool::new(false),
        }
    }

    /// Sets the organization of the personal access token in the file. An API key in the file is then refused.
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

    /// Reads the organization of the personal access token from a second file. An API key in the first is then refused.
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
        self.files.organization = Organization::File(absolute_or_same(path.into()));
        self
    }

    /// As [`organization_file`](Self::organization_file), but the second file is not read beside an API key.
    pub(crate) fn organization_file_of_token(mut self, path: impl Into<PathBuf>) -> Self {
        self.files.organization = Organization::FileOfToken(absolute_or_same(path.into()));
        self
    }

    /// Accepts a file that anyone may write, or one in a directory that anyone may write.
    ///
    /// Some volumes are mounted with mode 0777, and `chmod` does not change them: Nomad's secrets directory, Docker
    /// Desktop's mounts, an `emptyDir`. Use this if nothing that you do not trust runs beside them. Refused by default.
    ///
    /// # Examples
    ///
    /// ```
    /// use tower_anyreach::source::FileSource;
    ///
    /// let source = FileSource::new("/secrets/anyreach").allow_world_writable();
    /// ```
    #[must_use]
    pub fn allow_world_writable(mut self) -> Self {
        self.files.allow_world_writable = true;
        self
    }
}

/// A path that cannot be made absolute is refused when it is read.
fn absolute_or_same(path: PathBuf) -> PathBuf {
    absolute(&path).unwrap_or(path)
}

impl CredentialSource for FileSource {
    /// Reads the file or files, on a thread of its own. Needs no tokio runtime, and has no time limit.
    ///
    /// # Errors
    ///
    /// [`FileError`], boxed.
    async fn fetch(&self) -> Result<Credential, BoxError> {
        let Ok(mut accepted) = Arc::clone(&self.accepted).try_lock_owned() else {
            return Err(self.files.error(FileErrorReason::StillReading).into());
        };
        let files = self.files.clone();
        let (sender, answer) = oneshot::channel();
        let thread = thread::Builder::new().name("anyreach-file".to_owned());
        let spawned = thread.spawn(move || {
            let outcome = files.read(&mut accepted);
            // Unlocked before the answer, after which the caller may fetch again.
            drop(accepted);
            drop(sender.send(outcome));
        });
        spawned.map_err(|cause| self.files.error(io_error(&cause)))?;

        // The thread gives no answer only if it panics.
        let panicked = |_| self.files.error(FileErrorReason::Io(io::ErrorKind::Other));
        let (credential, is_world_readable) = answer.await.map_err(panicked)??;
        let warned = &self.warned_world_readable;
        if !warned.swap(is_world_readable, Ordering::Relaxed) && is_world_readable {
            events::world_readable(&self.files.credential);
        }
        Ok(credential)
    }
}

impl Files {
    fn error(&self, reason: FileErrorReason) -> FileError {
        FileError::new(&self.credential, reason)
    }

    /// Takes samples until one can be accepted; the comment on this module has the rules. Also returns whether anyone may
    /// read the credential.
    fn read(&self, accepted: &mut Option<Accepted>) -> Result<(Credential, bool), FileError> {
        let begun = Instant::now();
        let mut sample = self.sample();
        let mut unchanged = Duration::ZERO;
        while unchanged < pause_before(&sample, accepted.as_ref()) {
            thread::sleep(PAUSE);
            let next = self.sample();
            if next == sample {
                unchanged += PAUSE;
            } else if begun.elapsed() < LIMIT {
                (sample, unchanged) = (next, Duration::ZERO);
            } else {
                return Err(self.error(FileErrorReason::Unsettled));
            }
        }
        let sample = sample?;
        let credential = self.parse(&sample)?;
        *accepted = Some(Accepted {
            digest: digest(&sample),
            files: sample.iter().map(|content| content.file).collect(),
        });
        Ok((credential, sample[0].mode & OTHERS_READ != 0))
    }

    fn sample(&self) -> Result<Sample, FileError> {
        let credential = Content::read(&self.credential, self.allow_world_writable)?;
        let path = match &self.organization {
            Organization::File(path) => Some(path),
            Organization::FileOfToken(path) if !credential.is_api_key() => Some(path),
            _ => None,
        };
        let mut sample = vec![credential];
        if let Some(path) = path {
            sample.push(Content::read(path, self.allow_world_writable)?);
        }
        Ok(sample)
    }

    fn parse(&self, sample: &[Content]) -> Result<Credential, FileError> {
        let credential = Credential::parse_bytes(&sample[0].bytes)
            .map_err(|invalid| self.error(FileErrorReason::InvalidCredential(invalid.reason())))?;
        let organization = match &self.organization {
            Organization::None => return Ok(credential),
            Organization::FileOfToken(_) if sample.len() == 1 => return Ok(credential),
            Organization::Fixed(organization) => organization.clone(),
            Organization::File(path) | Organization::FileOfToken(path) => {
                parse_organization(&sample[1].bytes).map_err(|invalid| {
                    FileError::new(path, FileErrorReason::InvalidOrganization(invalid.reason()))
                })?
            }
        };
        match credential.kind() {
            CredentialKind::PersonalAccessToken => Ok(credential.with_organization(organization)),
            CredentialKind::OrganizationApiKey => {
                Err(self.error(FileErrorReason::UnexpectedOrganization))
            }
        }
    }
}

/// What was accepted last, as a digest: the source itself holds no secret.
#[derive(Debug)]
struct Accepted {
    digest: [u8; 32],
    files: Vec<system::FileId>,
}

/// What all files held at one time: the credential first, then the organization if it is in a file.
type Sample = Vec<Content>;

/// How long a sample must stay the same before it is accepted.
fn pause_before(sample: &Result<Sample, FileError>, accepted: Option<&Accepted>) -> Duration {
    match (sample, accepted) {
        (Ok(sample), Some(accepted)) if digest(sample) == accepted.digest => Duration::ZERO,
        (Ok(sample), Some(accepted))
            if sample
                .iter()
                .any(|content| accepted.files.contains(&content.file)) =>
        {
            PAUSE_IN_PLACE
        }
        _ => PAUSE,
    }
}

fn digest(sample: &[Content]) -> [u8; 32] {
    with_stack_wiped(|| {
        let mut hash = Hash::new();
        for content in sample {
            hash.update(content.bytes.len().to_ne_bytes());
            hash.update(&*content.bytes);
        }
        hash.finalize()
    })
}

/// A whole file, so its length is that of its bytes, and what the open file said of itself before it was read.
#[derive(PartialEq)]
struct Content {
    bytes: Zeroizing<Vec<u8>>,
    file: system::FileId,
    changed: system::ChangeTime,
    mode: u32,
}

impl Content {
    fn read(path: &Path, allow_world_writable: bool) -> Result<Self, FileError> {
        let error = |reason| FileError::new(path, reason);
        let (file, metadata) = open(path, allow_world_writable).map_err(error)?;
        // Larger than needed from the start, because a buffer that grows leaves copies behind.
        let mut bytes = Zeroizing::new(Vec::with_capacity(2 * MAX_LEN));
        let read = file.take(MAX_LEN as u64 + 1).read_to_end(&mut bytes);
        read.map_err(|cause| error(io_error(&cause)))?;
        if bytes.len() > MAX_LEN {
            return Err(error(FileErrorReason::TooLarge));
        }
        Ok(Self {
            bytes,
            file: system::file_id(&metadata),
            changed: system::change_time(&metadata),
            mode: system::mode(&metadata),
        })
    }
}

impl Content {
    fn is_api_key(&self) -> bool {
        let credential = Credential::parse_bytes(&self.bytes);
        credential.is_ok_and(|credential| credential.kind() == CredentialKind::OrganizationApiKey)
    }
}

fn io_error(cause: &io::Error) -> FileErrorReason {
    FileErrorReason::Io(cause.kind())
}

/// Opens the path itself, then checks what was opened.
fn open(path: &Path, allow_world_writable: bool) -> Result<(File, Metadata), FileErrorReason> {
    let metadata_of = |path| fs::metadata(path).map_err(|cause| io_error(&cause));
    if !path.is_absolute() {
        return Err(FileErrorReason::Io(io::ErrorKind::InvalidInput));
    }
    // Before opening, because opening some devices has effects. Another file may take its place before it is opened, so only
    // what the open file says counts.
    if !metadata_of(path)?.is_file() {
        return Err(FileErrorReason::NotAFile);
    }
    let opened = system::open(path).and_then(|file| Ok((file.metadata()?, file)));
    let (metadata, file) = opened.map_err(|cause| io_error(&cause))?;
    if !metadata.is_file() {
        return Err(FileErrorReason::NotAFile);
    }
    if system::links(&metadata) == 0 {
        return Err(FileErrorReason::Unlinked);
    }
    if allow_world_writable {
        return Ok((file, metadata));
    }
    if system::mode(&metadata) & OTHERS_WRITE != 0 {
        return Err(FileErrorReason::WorldWritable);
    }
    // The resolved path is used for this check alone, never for opening: the kernel follows links under its own rules.
    let resolved = fs::canonicalize(path).map_err(|cause| io_error(&cause))?;
    for path in [path, &resolved] {
        let directory = metadata_of(path.parent().unwrap_or(path))?;
        if system::mode(&directory) & (OTHERS_WRITE | STICKY) == OTHERS_WRITE {
            return Err(FileErrorReason::WorldWritableDirectory);
        }
    }
    Ok((file, metadata))
}

/// The error of a [`FileSource`]: names the file and the reason, and never shows the content.
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

    /// Returns the path of the file: the one given to [`FileSource`], made absolute.
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
            Reason::WorldWritable => f.write_str(
                "anyone may write it; if its volume is mounted so, use `allow_world_writable()`",
            ),
            Reason::WorldWritableDirectory => f.write_str(
                "anyone may replace it, because its directory is world-writable and not sticky; \
                 if its volume is mounted so, use `allow_world_writable()`",
            ),
            Reason::Unlinked => f.write_str(
                "it was deleted or replaced; if it is mounted by itself, mount its directory",
            ),
            Reason::Unsettled => f.write_str("it kept changing for a second"),
            Reason::StillReading => f.write_str("an earlier fetch is still reading it"),
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
    /// It could not be opened or read, or no thread could be started to read it.
    Io(io::ErrorKind),
    /// A directory, FIFO, socket or device.
    NotAFile,
    /// More than 8 KiB.
    TooLarge,
    /// Anyone may write it. [`FileSource::allow_world_writable`] accepts it.
    WorldWritable,
    /// Anyone may write its directory, which is not sticky. [`FileSource::allow_world_writable`] accepts it.
    WorldWritableDirectory,
    /// The file has no name any more. It was deleted while it was opened, or it is mounted by itself and its original was
    /// replaced: mount its directory instead.
    Unlinked,
    /// It kept changing for a second.
    Unsettled,
    /// An earlier fetch is still reading, perhaps from a file system that hangs.
    StillReading,
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
            Self::Unlinked => "unlinked",
            Self::Unsettled => "unsettled",
            Self::StillReading => "still_reading",
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
                "anyone may write it; if its volume is mounted so, use `allow_world_writable()`",
            ),
            (
                Reason::WorldWritableDirectory,
                "anyone may replace it, because its directory is world-writable and not sticky; \
                 if its volume is mounted so, use `allow_world_writable()`",
            ),
            (
                Reason::Unlinked,
                "it was deleted or replaced; if it is mounted by itself, mount its directory",
            ),
            (Reason::Unsettled, "it kept changing for a second"),
            (Reason::StillReading, "an earlier fetch is still reading it"),
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
}
