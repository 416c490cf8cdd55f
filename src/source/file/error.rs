//! The error of a [`FileSource`](super::FileSource).

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

use crate::credential::{InvalidCredential, InvalidCredentialReason};
use crate::organization::{InvalidOrganizationId, InvalidOrganizationIdReason};

/// An error from a [`FileSource`](super::FileSource). It names the file and the reason, and never
/// shows the content.
///
/// # Examples
///
/// ```
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// use tower_anyreach::CredentialStore;
/// use tower_anyreach::source::{FileError, FileSource};
///
/// let error = CredentialStore::load(FileSource::new("/no/such/token"))
///     .await
///     .unwrap_err();
/// let cause: &FileError = error.expose_cause().unwrap().downcast_ref().unwrap();
/// assert_eq!(cause.to_string(), "/no/such/token: entity not found");
/// # Ok(())
/// # }
/// ```
#[derive(Clone, PartialEq, Eq)]
pub struct FileError {
    path: PathBuf,
    reason: FileErrorReason,
}

impl FileError {
    pub(super) fn new(path: &Path, reason: FileErrorReason) -> Self {
        Self {
            path: path.to_owned(),
            reason,
        }
    }

    /// Returns the path of the file as it was given to [`FileSource`](super::FileSource), made
    /// absolute.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Returns why the file provided no credential.
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
                "it is world-writable; if its volume is mounted that way, use \
                 `allow_world_writable()`",
            ),
            Reason::WorldWritableDirectory => f.write_str(
                "its directory is world-writable and not sticky; if its volume is mounted that \
                 way, use `allow_world_writable()`",
            ),
            Reason::Unlinked => f.write_str(
                "it was deleted or replaced; if it is mounted by itself, mount its directory",
            ),
            Reason::Unsettled => f.write_str(
                "it kept changing for a second; write a new file and rename it into place",
            ),
            Reason::StillReading => {
                f.write_str("an earlier fetch is still reading it; its file system may hang")
            }
            Reason::InvalidCredential(reason) => InvalidCredential::of(reason).fmt(f),
            Reason::InvalidOrganization(reason) => InvalidOrganizationId::of(reason).fmt(f),
            Reason::UnexpectedOrganization => f.write_str(
                "it holds an organization API key, which is bound to its own organization",
            ),
        }
    }
}

impl fmt::Debug for FileError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "FileError({self})")
    }
}

impl std::error::Error for FileError {}

/// Why a file provided no credential.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum FileErrorReason {
    /// The file could not be opened or read, or no thread could be started to read it.
    Io(io::ErrorKind),
    /// The path is a directory, FIFO, socket or device.
    NotAFile,
    /// The file is larger than 8 KiB.
    TooLarge,
    /// The file is world-writable.
    /// [`allow_world_writable`](super::FileSource::allow_world_writable) accepts it.
    WorldWritable,
    /// The directory of the file is world-writable and not sticky.
    /// [`allow_world_writable`](super::FileSource::allow_world_writable) accepts it.
    WorldWritableDirectory,
    /// The file has no name any more. It was deleted while it was opened, or it is mounted by
    /// itself and its original was replaced. In the latter case, mount its directory.
    Unlinked,
    /// The file kept changing for a second.
    Unsettled,
    /// An earlier fetch is still reading, perhaps from a file system that hangs.
    StillReading,
    /// The content is not a credential.
    InvalidCredential(InvalidCredentialReason),
    /// The content of the second file is not an organization id.
    InvalidOrganization(InvalidOrganizationIdReason),
    /// The file holds an organization API key, but an organization was set.
    UnexpectedOrganization,
}

impl FileErrorReason {
    /// Returns the reason in `snake_case`. It is stable and suits a metric label.
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

    const TEXTS: [(Reason, &str); 11] = [
        (Reason::Io(io::ErrorKind::NotFound), "entity not found"),
        (Reason::NotAFile, "not a regular file"),
        (Reason::TooLarge, "larger than 8 KiB"),
        (
            Reason::WorldWritable,
            "it is world-writable; if its volume is mounted that way, use \
             `allow_world_writable()`",
        ),
        (
            Reason::WorldWritableDirectory,
            "its directory is world-writable and not sticky; if its volume is mounted that \
             way, use `allow_world_writable()`",
        ),
        (
            Reason::Unlinked,
            "it was deleted or replaced; if it is mounted by itself, mount its directory",
        ),
        (
            Reason::Unsettled,
            "it kept changing for a second; write a new file and rename it into place",
        ),
        (
            Reason::StillReading,
            "an earlier fetch is still reading it; its file system may hang",
        ),
        (
            Reason::InvalidCredential(InvalidCredentialReason::Empty),
            "invalid credential: it is empty",
        ),
        (
            Reason::InvalidOrganization(InvalidOrganizationIdReason::Empty),
            "invalid organization id: it is empty",
        ),
        (
            Reason::UnexpectedOrganization,
            "it holds an organization API key, which is bound to its own organization",
        ),
    ];

    #[test]
    fn an_error_names_the_path_and_the_reason() {
        for (reason, text) in TEXTS {
            let error = FileError::new(Path::new("/run/token"), reason);
            assert_eq!(error.to_string(), format!("/run/token: {text}"));
            assert_eq!(format!("{error:?}"), format!("FileError({error})"));
        }
    }
}
