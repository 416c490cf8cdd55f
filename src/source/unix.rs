//! Opening a file without harm, and who may read, write or replace it: where there are permissions.

use std::fs::{File, Metadata, OpenOptions};
use std::io;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::Path;

const OTHERS_READ: u32 = 0o004;
const OTHERS_WRITE: u32 = 0o002;
const STICKY: u32 = 0o1000;

/// Opens for reading: never waits for a FIFO or a device, nor makes a terminal ours. `O_CLOEXEC` is std's default.
pub(super) fn open(path: &Path) -> io::Result<File> {
    OpenOptions::new()
        .read(true)
        .custom_flags(libc::O_NONBLOCK | libc::O_NOCTTY)
        .open(path)
}

pub(super) fn is_world_readable(file: &Metadata) -> bool {
    file.mode() & OTHERS_READ != 0
}

pub(super) fn is_world_writable(file: &Metadata) -> bool {
    file.mode() & OTHERS_WRITE != 0
}

pub(super) fn may_anybody_replace_files(directory: &Metadata) -> bool {
    directory.mode() & (OTHERS_WRITE | STICKY) == OTHERS_WRITE
}

pub(super) fn is_same_file(one: &Metadata, other: &Metadata) -> bool {
    let identity = |file: &Metadata| {
        (
            file.dev(),
            file.ino(),
            file.size(),
            file.mtime(),
            file.mtime_nsec(),
        )
    };
    identity(one) == identity(other)
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

    #[test]
    fn a_file_that_is_replaced_by_its_like_is_another() {
        let directory = std::env::temp_dir().join(format!("anyreach-same-{}", std::process::id()));
        fs::create_dir_all(&directory).unwrap();
        let (path, other) = (directory.join("a"), directory.join("b"));
        fs::write(&path, "pat_a").unwrap();
        let before = fs::metadata(&path).unwrap();
        assert!(is_same_file(&before, &fs::metadata(&path).unwrap()));
        fs::write(&other, "pat_b").unwrap();
        let file = File::options().write(true).open(&other).unwrap();
        file.set_modified(before.modified().unwrap()).unwrap();
        assert!(!is_same_file(&before, &fs::metadata(&other).unwrap()));
        fs::remove_dir_all(&directory).unwrap();
    }
}
