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
