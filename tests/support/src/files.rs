//! Files that a test writes.

use std::fs;
use std::path::{Path, PathBuf};

use tempfile::TempDir;

/// A directory of one's own, gone when dropped.
#[derive(Debug)]
pub struct Directory(TempDir);

impl Directory {
    /// An empty directory.
    #[must_use]
    #[allow(clippy::new_without_default, reason = "it creates a directory")]
    pub fn new() -> Self {
        Self(TempDir::new().unwrap())
    }

    /// Its own path.
    #[must_use]
    pub fn path(&self) -> &Path {
        self.0.path()
    }

    /// The path of a file in it.
    #[must_use]
    pub fn join(&self, name: &str) -> PathBuf {
        self.path().join(name)
    }

    /// Writes a file in it.
    pub fn file(&self, name: &str, content: impl AsRef<[u8]>) -> PathBuf {
        let path = self.join(name);
        fs::write(&path, content).unwrap();
        path
    }
}
