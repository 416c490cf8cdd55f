//! The system functions that `FileSource` uses, on systems other than Unix. Permissions and links
//! are not checked, and any file counts as the last accepted one. Unit tests compile this module on
//! every system.

use std::fs::{File, Metadata};
use std::io;
use std::path::Path;
use std::time::SystemTime;

pub(super) type FileId = ();
pub(super) type ChangeTime = Option<SystemTime>;

pub(super) fn open(path: &Path) -> io::Result<File> {
    File::open(path)
}

pub(super) fn file_id(_: &Metadata) -> FileId {}

pub(super) fn change_time(file: &Metadata) -> ChangeTime {
    file.modified().ok()
}

pub(super) fn links(_: &Metadata) -> u64 {
    1
}

pub(super) fn mode(_: &Metadata) -> u32 {
    0o600
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::io::Read;
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_write_at_another_time_is_a_change() {
        let path = std::env::temp_dir().join(format!("anyreach-elsewhere-{}", std::process::id()));
        fs::write(&path, "pat_a").unwrap();
        let mut text = String::new();
        let mut file = open(&path).unwrap();
        file.read_to_string(&mut text).unwrap();
        assert_eq!(text, "pat_a");

        let before = change_time(&file.metadata().unwrap());
        assert_eq!(change_time(&fs::metadata(&path).unwrap()), before);
        let file = File::options().write(true).open(&path).unwrap();
        let later = before.unwrap() + Duration::from_secs(1);
        file.set_modified(later).unwrap();
        assert_eq!(change_time(&file.metadata().unwrap()), Some(later));
        fs::remove_file(&path).unwrap();
    }

    #[test]
    fn permissions_and_links_never_refuse_a_file() {
        let here = fs::metadata(".").unwrap();
        assert_eq!((links(&here), mode(&here), file_id(&here)), (1, 0o600, ()));
    }
}
