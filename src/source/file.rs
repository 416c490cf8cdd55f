//! Credentials from files that another program writes, such as secret volumes and agents.
//!
//! [`FileSource`] holds the options and starts a thread for each fetch; its future only waits for
//! the answer of that thread. [`Files`] is the part that the thread works with, a [`Content`] is
//! the content of one file, a [`Sample`] is the content of all files at one time, and [`Accepted`]
//! is what the source keeps from one fetch to the next.
//!
//! The thread has to tell a complete file from one that is partly written. The clock of a file
//! system cannot be trusted for that, so the thread compares samples:
//!
//! 1. Take a sample. If it equals the last accepted one, accept it, because nothing has changed.
//! 2. Otherwise take a sample every 50 ms, and compare contents, device, inode, change time and
//!    length with those of the previous sample. Any difference starts over. A failure to read is a
//!    sample too, because an unlinked file may be back a moment later.
//! 3. Accept the samples once they have been equal for 50 ms. A file with the device and inode of
//!    the last accepted one is being rewritten in place, by a writer that may stall, so its samples
//!    have to be equal for 250 ms.
//! 4. Fail if there is still a difference after one second.

mod error;

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

pub use self::error::{FileError, FileErrorReason};
use super::CredentialSource;
#[cfg(not(unix))]
use super::elsewhere as system;
#[cfg(unix)]
use super::unix as system;
use crate::credential::{Credential, CredentialKind, parse_organization};
use crate::error::BoxError;
use crate::events;
use crate::organization::OrganizationId;
use crate::wipe::with_stack_wiped;

/// The maximum length of a file.
const MAX_LEN: usize = 8 * 1024;
/// The time between two samples, and the time for which a new file has to stay the same.
const PAUSE: Duration = Duration::from_millis(50);
/// The time for which a file that is rewritten in place has to stay the same.
const PAUSE_IN_PLACE: Duration = Duration::from_millis(250);
/// A difference found after this time is an error.
const LIMIT: Duration = Duration::from_secs(1);
/// The longest read of a file system that does not hang: the last difference may be found just
/// before the limit.
const LONGEST_READ: Duration = Duration::from_millis(1_250);

const OTHERS_READ: u32 = 0o004;
const OTHERS_WRITE: u32 = 0o002;
const STICKY: u32 = 0o1000;

/// Reads a credential from a file, or a credential from one file and its organization from another.
///
/// Use this when secrets are delivered as files: Kubernetes secret volumes, Vault Agent, systemd
/// credentials (`$CREDENTIALS_DIRECTORY`), Docker secrets.
///
/// The store reads the file when it [loads](crate::CredentialStore::load), when it polls
/// ([`refresh_every`](crate::Loader::refresh_every); 10 seconds is suitable for a secret volume)
/// and after a 401.
///
/// # Accepted files
///
/// The path has to name a regular file of at most 8 KiB. ASCII whitespace around the credential is
/// trimmed. Opening never waits for a FIFO or a device. A FIFO, such as a shell's `<(...)`, is
/// refused because it can be read only once. A file that has been deleted and is still open, such
/// as `/proc/self/fd/3`, is refused too.
///
/// [`new`](Self::new) makes a relative path absolute, so a later change of the working directory
/// has no effect. If that fails, as with an empty path or a deleted working directory, the path is
/// kept and every fetch fails.
///
/// # Partly written files
///
/// If the content equals the last accepted one, it is accepted at once. Otherwise, the file has to
/// stay the same for 50 ms, or for 250 ms if it is the last accepted file rewritten in place. Two
/// files have to stay the same for 250 ms unless both are new. Timestamps of the file system are
/// compared only with one another, never with the system clock. If a file keeps changing for a
/// second, the fetch fails and the store keeps its credential.
///
/// A writer that rewrites the file in place and stalls for more than 250 ms can therefore deliver
/// half a credential. So can one that stalls for more than 50 ms in a new file or while the store
/// loads. Configure it to write a new file and rename that into place.
///
/// # Two files
///
/// Token and organization match reliably only if one operation replaces both files, as a secret
/// volume does by replacing its `..data` link. If they are written one after the other, a new token
/// may be sent with the old organization until the next poll. Write both to one volume, or set the
/// organization in code.
///
/// # Permissions
///
/// On Unix, a world-writable file is refused, and so is a file in a directory that is
/// world-writable and not sticky. This applies to the directory of the path and, if links are
/// followed, to that of the file; other directories are not checked.
/// [`allow_world_writable`](Self::allow_world_writable) accepts such files. A sticky directory such
/// as `/tmp` is accepted, because some agents write there as another user, but any user can create
/// a file there that does not exist yet. A world-readable credential is accepted; with feature
/// `tracing`, a warning is logged once until the mode changes.
///
/// # Mounts
///
/// Mount the directory, not the file. A file that is mounted by itself (`subPath`, a bind mount)
/// never changes. After its original has been replaced and has no other name left, fetches fail
/// with [`FileErrorReason::Unlinked`].
///
/// # Hanging file systems
///
/// Each fetch reads on its own thread, `anyreach-file`, so a busy blocking pool does not delay it
/// and it does not delay the shutdown of a runtime. One thread reads at a time, and other fetches
/// of this source wait for it. If earlier reads take longer than 1.25 seconds, as one that hangs
/// does, they fail with [`FileErrorReason::StillReading`], even after the store's time limit has
/// ended the first. [`fetch`](Self::fetch) needs no tokio runtime and has no time limit of its own.
///
/// # Examples
///
/// ```
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// use tower_anyreach::{CredentialStore, OrganizationId, source::FileSource};
///
/// # let name = format!("tower-anyreach-doc-{}", std::process::id());
/// # let directory = std::env::temp_dir().join(name);
/// # std::fs::create_dir_all(&directory)?;
/// let path = directory.join("token");
/// std::fs::write(&path, "pat_c2VjcmV0\n")?;
///
/// let source = FileSource::new(&path).organization(OrganizationId::try_from("org_4711")?);
/// let store = CredentialStore::load(source).await?;
/// assert_eq!(store.credential().organization().unwrap().as_str(), "org_4711");
/// # std::fs::remove_dir_all(&directory)?;
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct FileSource {
    files: Files,
    /// Locked by a thread while it reads.
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
    /// Like `File`, but not read for an API key.
    FileOfToken(PathBuf),
}

impl FileSource {
    /// Creates a source that reads an API key, or a personal access token without an organization,
    /// from this file.
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

    /// Sets the organization of the personal access token in the file. An API key is then refused.
    #[must_use]
    pub fn organization(mut self, organization: OrganizationId) -> Self {
        self.files.organization = Organization::Fixed(organization);
        self
    }

    /// Sets a second file, with the organization of the personal access token. An API key is then
    /// refused.
    ///
    /// # Examples
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// use tower_anyreach::{CredentialStore, source::FileSource};
    ///
    /// # let name = format!("tower-anyreach-doc-pair-{}", std::process::id());
    /// # let directory = std::env::temp_dir().join(name);
    /// # std::fs::create_dir_all(&directory)?;
    /// std::fs::write(directory.join("token"), "pat_c2VjcmV0\n")?;
    /// std::fs::write(directory.join("organization"), "org_4711\n")?;
    /// let source = FileSource::new(directory.join("token"))
    ///     .organization_file(directory.join("organization"));
    /// let store = CredentialStore::load(source).await?;
    /// assert_eq!(store.credential().organization().unwrap().as_str(), "org_4711");
    /// # std::fs::remove_dir_all(&directory)?;
    /// # Ok(())
    /// # }
    /// ```
    #[must_use]
    pub fn organization_file(mut self, path: impl Into<PathBuf>) -> Self {
        self.files.organization = Organization::File(absolute_or_same(path.into()));
        self
    }

    /// Like [`organization_file`](Self::organization_file), but the second file is not read for an
    /// API key.
    pub(crate) fn organization_file_of_token(mut self, path: impl Into<PathBuf>) -> Self {
        self.files.organization = Organization::FileOfToken(absolute_or_same(path.into()));
        self
    }

    /// Accepts a world-writable file, and one in a world-writable directory.
    ///
    /// Use it if every program with access to the volume is trusted. Some volumes are mounted with
    /// mode 0777, which `chmod` does not change, such as Nomad's secrets directory, Docker
    /// Desktop's mounts and an `emptyDir`.
    ///
    /// Default: such files are refused.
    #[must_use]
    pub fn allow_world_writable(mut self) -> Self {
        self.files.allow_world_writable = true;
        self
    }
}

/// Makes a path absolute. If that fails, the path is refused when it is read.
fn absolute_or_same(path: PathBuf) -> PathBuf {
    absolute(&path).unwrap_or(path)
}

impl CredentialSource for FileSource {
    /// Reads the files on its own thread. Needs no tokio runtime, and has no time limit.
    ///
    /// # Errors
    ///
    /// Returns a boxed [`FileError`].
    async fn fetch(&self) -> Result<Credential, BoxError> {
        let (files, accepted) = (self.files.clone(), Arc::clone(&self.accepted));
        let (sender, answer) = oneshot::channel();
        let thread = thread::Builder::new().name("anyreach-file".to_owned());
        let spawned = thread.spawn(move || {
            let begun = Instant::now();
            let outcome = loop {
                match accepted.try_lock() {
                    Ok(mut accepted) => break files.read(&mut accepted),
                    Err(_) if begun.elapsed() < LONGEST_READ && !sender.is_closed() => {
                        thread::sleep(PAUSE / 10);
                    }
                    Err(_) => break Err(files.error(FileErrorReason::StillReading)),
                }
            };
            drop(sender.send(outcome));
        });
        spawned.map_err(|cause| self.files.error(io_error(&cause)))?;

        // The thread sends no answer only if it panics.
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

    /// Takes samples until one can be accepted, as the module comment describes. Also returns
    /// whether the credential is world-readable.
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

/// The last accepted sample, as a digest, so that the source holds no secret.
#[derive(Debug)]
struct Accepted {
    digest: [u8; 32],
    files: Vec<system::FileId>,
}

/// The content of all files at one time: the credential, then the organization if it is in a file.
type Sample = Vec<Content>;

/// Returns how long a sample has to stay the same before it is accepted.
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

/// The content of a file, and the metadata of the open file from before it was read. It is
/// complete, so its length is that of `bytes`.
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
        // Larger than needed, because a buffer that grows leaves copies behind.
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

/// Opens the path itself, then checks the open file.
fn open(path: &Path, allow_world_writable: bool) -> Result<(File, Metadata), FileErrorReason> {
    let metadata_of = |path| fs::metadata(path).map_err(|cause| io_error(&cause));
    if !path.is_absolute() {
        return Err(FileErrorReason::Io(io::ErrorKind::InvalidInput));
    }
    // This check precedes opening, because opening some devices has side effects. Another file may
    // replace it before it is opened, so only the metadata of the open file counts.
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
    // The resolved path is used for this check only, not for opening: the kernel follows links by
    // its own rules.
    let resolved = fs::canonicalize(path).map_err(|cause| io_error(&cause))?;
    for path in [path, &resolved] {
        let directory = metadata_of(path.parent().unwrap_or(path))?;
        if system::mode(&directory) & (OTHERS_WRITE | STICKY) == OTHERS_WRITE {
            return Err(FileErrorReason::WorldWritableDirectory);
        }
    }
    Ok((file, metadata))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fetch_that_waits_for_another_read_gives_up_after_a_time() {
        let source = FileSource::new("/no/such/file");
        let reading = source.accepted.try_lock();
        let begun = Instant::now();
        let outcome = support::runtime::without_runtime(source.fetch());
        let error = outcome
            .err()
            .and_then(|error| error.downcast::<FileError>().ok());
        assert_eq!(
            error.map(|error| error.reason()),
            Some(FileErrorReason::StillReading)
        );
        assert!((LONGEST_READ..LONGEST_READ * 2).contains(&begun.elapsed()));
        drop(reading);
        let outcome = support::runtime::without_runtime(source.fetch());
        let error = outcome
            .err()
            .and_then(|error| error.downcast::<FileError>().ok());
        let missing = FileErrorReason::Io(io::ErrorKind::NotFound);
        assert_eq!(error.map(|error| error.reason()), Some(missing));
    }
}
