//! The system functions that `FileSource` uses, on Unix.

use std::fs::{File, Metadata, OpenOptions};
use std::io;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::Path;

/// Device and inode.
pub(super) type FileId = (u64, u64);
/// Seconds and nanoseconds.
pub(super) type ChangeTime = (i64, i64);

/// Opens a file for reading. It never waits for a FIFO or a device, and never acquires a
/// controlling terminal.
pub(super) fn open(path: &Path) -> io::Result<File> {
    OpenOptions::new()
        .read(true)
        .custom_flags(libc::O_NONBLOCK | libc::O_NOCTTY)
        .open(path)
}

pub(super) fn file_id(file: &Metadata) -> FileId {
    (file.dev(), file.ino())
}

/// Returns the time that every change updates and that no writer can set.
pub(super) fn change_time(file: &Metadata) -> ChangeTime {
    (file.ctime(), file.ctime_nsec())
}

pub(super) fn links(file: &Metadata) -> u64 {
    file.nlink()
}

pub(super) fn mode(file: &Metadata) -> u32 {
    file.mode()
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::process::Command;
    use std::sync::mpsc;
    use std::thread;
    use std::time::Duration;

    use super::*;

    #[test]
    fn opening_a_fifo_does_not_wait_for_a_writer() {
        let path = std::env::temp_dir().join(format!("anyreach-fifo-{}", std::process::id()));
        let made = Command::new("mkfifo").arg(&path).status().unwrap();
        assert!(made.success());
        let (sender, opened) = mpsc::channel();
        let fifo = path.clone();
        thread::spawn(move || sender.send(open(&fifo).map(drop)));
        let opened = opened.recv_timeout(Duration::from_secs(10));
        fs::remove_file(&path).unwrap();
        opened.expect("opening it waits").unwrap();
    }
}
