//! Files that a test writes.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};

/// A directory of one's own, gone when dropped.
#[derive(Debug)]
pub struct Directory(PathBuf);

impl Directory {
    /// An empty directory.
    #[must_use]
    #[allow(
        clippy::new_without_default,
        reason = "creating one is more than a default"
    )]
    pub fn new() -> Self {
        static LAST: AtomicUsize = AtomicUsize::new(0);

        let number = LAST.fetch_add(1, Ordering::Relaxed);
        let name = format!("tower-anyreach-{}-{number}", std::process::id());
        let path = std::env::temp_dir().join(name);
        fs::create_dir(&path).unwrap();
        Self(path)
    }

    /// Its own path.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.0
    }

    /// The path of a file in it.
    #[must_use]
    pub fn join(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }

    /// Writes a file in it.
    pub fn file(&self, name: &str, content: impl AsRef<[u8]>) -> PathBuf {
        let path = self.join(name);
        fs::write(&path, content).unwrap();
        path
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        drop(fs::remove_dir_all(&self.0));
    }
}
