//! What `unix.rs` does, as far as it can be done on other systems. Unit tests have it on all.

use std::fs::{File, Metadata};
use std::io;
use std::path::Path;

pub(super) fn open(path: &Path) -> io::Result<File> {
    File::open(path)
}

pub(super) fn is_world_readable(_: &Metadata) -> bool {
    false
}

pub(super) fn is_world_writable(_: &Metadata) -> bool {
    false
}

pub(super) fn may_anybody_replace_files(_: &Metadata) -> bool {
    false
}

pub(super) fn is_same_file(one: &Metadata, other: &Metadata) -> bool {
    one.len() == other.len() && one.modified().ok() == other.modified().ok()
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::io::Read;

    use super::*;

    #[test]
    fn a_file_is_the_same_until_it_is_written() {
        let path = std::env::temp_dir().join(format!("anyreach-elsewhere-{}", std::process::id()));
        fs::write(&path, "pat_a").unwrap();
        let mut text = String::new();
        let mut file = open(&path).unwrap();
        file.read_to_string(&mut text).unwrap();
        assert_eq!(text, "pat_a");

        let before = file.metadata().unwrap();
        assert!(is_same_file(&before, &fs::metadata(&path).unwrap()));
        fs::write(&path, "pat_ab").unwrap();
        assert!(!is_same_file(&before, &fs::metadata(&path).unwrap()));

        // Of the same length, at another time.
        fs::write(&path, "pat_b").unwrap();
        let later = before.modified().unwrap() + std::time::Duration::from_secs(1);
        File::options()
            .write(true)
            .open(&path)
            .unwrap()
            .set_modified(later)
            .unwrap();
        assert!(!is_same_file(&before, &fs::metadata(&path).unwrap()));
        fs::remove_file(&path).unwrap();
    }

    #[test]
    fn what_cannot_be_known_is_not_held_against_a_file() {
        let here = fs::metadata(".").unwrap();
        assert!(!is_world_readable(&here));
        assert!(!is_world_writable(&here));
        assert!(!may_anybody_replace_files(&here));
    }
}
