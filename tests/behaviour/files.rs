//! `FileSource` on a real file system. `campaigns/tests/file_torture` has files that are empty, torn or missing for a moment, and
//! reads that hang.

use std::borrow::Borrow;
use std::error::Error;
use std::fs::{self, File, Permissions};
use std::io::ErrorKind;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{PermissionsExt, chown, symlink};
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::process::Command;
use std::time::Instant;

use tokio::runtime::Runtime;
use tower_anyreach::source::{FileError, FileErrorReason as Reason, FileSource};
use tower_anyreach::{
    CredentialKind, CredentialSource as _, InvalidCredentialReason, InvalidOrganizationIdReason,
};

use crate::prelude::*;
use support::runtime::without_runtime;
use support::{Directory, credential as credential_of};

const CANARY: &str = "F1LE-C4NARY";

fn chmod(path: &Path, mode: u32) {
    fs::set_permissions(path, Permissions::from_mode(mode)).unwrap();
}

/// Fetches, and returns why that failed. The error came in time, and shows the path and never the content.
async fn failed(source: impl Borrow<FileSource>) -> FileError {
    let source = source.borrow();
    let asked = Instant::now();
    let error = source.fetch().await.unwrap_err();
    assert!(asked.elapsed() < MILLI * 900, "{:?}", asked.elapsed());
    let error: FileError = *error.downcast().unwrap();
    let text = format!("{error} {error:?} {error:#?} {source:?}");
    assert!(!text.contains(CANARY), "{text}");
    assert!(text.contains(error.path().to_str().unwrap()), "{text}");
    assert!(error.source().is_none());
    error
}

async fn reason(source: impl Borrow<FileSource>) -> Reason {
    failed(source).await.reason()
}

async fn fetched(source: impl Borrow<FileSource>) -> Credential {
    source.borrow().fetch().await.unwrap()
}

// What is read.

#[tokio::test]
async fn a_credential_is_read_and_trimmed_and_its_organization_is_the_last_one_named() {
    let directory = Directory::new();
    let file = directory.file("organization", " org_file\r\n");
    let fixed = organization("org_fixed");
    for content in ["ak_4711.F1LE-C4NARY\n", " \t\npat_token \r\n\n"] {
        let path = directory.file("credential", content);
        let source = || FileSource::new(&path);
        let credential = fetched(source()).await;
        assert_eq!(*credential.id(), *credential_of(content.trim()).id());
        assert!(credential.organization().is_none());
        let of_file = || source().organization_file(&file);
        let of_both = of_file().organization(fixed.clone());
        for (source, name) in [(of_file(), "org_file"), (of_both, "org_fixed")] {
            if credential.kind() == CredentialKind::OrganizationApiKey {
                assert_eq!(reason(source).await, Reason::UnexpectedOrganization);
                continue;
            }
            let fetched = fetched(source).await;
            assert_eq!(fetched.organization().unwrap().as_str(), name);
        }
    }
}

#[tokio::test]
async fn an_organization_that_is_none_is_refused_under_its_own_path() {
    use InvalidOrganizationIdReason::{Comma, Credential};

    let directory = Directory::new();
    let token = directory.file("token", format!("pat_{CANARY}"));
    let commas = directory.file("organization", format!("two,{CANARY}"));
    for (path, expected) in [(&commas, Comma), (&token, Credential)] {
        let error = failed(FileSource::new(&token).organization_file(path)).await;
        assert_eq!(error.path(), path);
        assert_eq!(error.reason(), Reason::InvalidOrganization(expected));
    }
}

#[tokio::test]
async fn an_empty_file_and_utf_16_are_named_as_such() {
    use InvalidCredentialReason::{Empty, Utf16};

    let directory = Directory::new();
    let marked = "\u{feff}pat_S3cr3t\r\n";
    for (text, expected) in [(marked, Utf16), ("ak_1.x\n", Utf16), ("", Empty)] {
        for to_bytes in [u16::to_le_bytes, u16::to_be_bytes] {
            let bytes: Vec<u8> = text.encode_utf16().flat_map(to_bytes).collect();
            let source = FileSource::new(directory.file("credential", bytes));
            assert_eq!(reason(source).await, Reason::InvalidCredential(expected));
        }
    }
}

#[tokio::test]
async fn no_more_than_8_kib_is_read() {
    let directory = Directory::new();
    let padded = |len| format!("{:<len$}", key("v1"));
    let path = directory.file("credential", padded(8 * 1024));
    fetched(FileSource::new(&path)).await;
    for len in [8 * 1024 + 1, 1024 * 1024 * 1024] {
        let sparse = File::options().write(true).open(&path).unwrap();
        sparse.set_len(len).unwrap();
        assert_eq!(reason(FileSource::new(&path)).await, Reason::TooLarge);
    }
}

// What is not read.

#[tokio::test]
async fn a_missing_path_and_all_but_regular_files_are_refused_in_time() {
    let directory = Directory::new();
    let token = directory.file("token", "pat_c2VjcmV0");
    let [missing, dangling, fifo, socket] =
        ["missing", "dangling", "fifo", "socket"].map(|name| directory.join(name));
    symlink(&missing, &dangling).unwrap();
    let made = Command::new("mkfifo").arg(&fifo).status().unwrap();
    assert!(made.success());
    let _listener = UnixListener::bind(&socket).unwrap();
    let (not_found, no_file) = (Reason::Io(ErrorKind::NotFound), Reason::NotAFile);
    for (path, expected) in [
        (&*missing, not_found),
        (&*dangling, not_found),
        (directory.path(), no_file),
        (&*fifo, no_file),
        (&*socket, no_file),
        (Path::new("/dev/zero"), no_file),
        (Path::new("/dev/null"), no_file),
    ] {
        assert_eq!(reason(FileSource::new(path)).await, expected);
        let source = FileSource::new(&token).organization_file(path);
        assert_eq!(reason(source).await, expected);
    }
    let _writer = File::options().read(true).write(true).open(&fifo).unwrap();
    assert_eq!(reason(FileSource::new(&fifo)).await, no_file);
}

#[cfg(target_os = "linux")]
#[tokio::test]
async fn a_file_without_a_link_left_is_refused_with_the_advice_to_mount_its_directory() {
    let directory = Directory::new();
    let path = directory.file("credential", key("v1"));
    let file = File::open(&path).unwrap();
    // Opens the file itself, as a mount of the file alone does.
    let link = format!("/proc/self/fd/{}", file.as_raw_fd());
    let source = FileSource::new(link);
    fetched(&source).await;
    fs::rename(directory.file("new", key("v2")), &path).unwrap();
    let error = failed(&source).await;
    let text = error.to_string();
    assert!(text.ends_with("mount its directory"), "{text}");
    assert_eq!(error.reason(), Reason::Unlinked);
}

/// The kernel follows links under its own rules, `fs.protected_symlinks` among them, because the path itself is opened.
#[cfg(target_os = "linux")]
#[tokio::test]
async fn a_link_of_another_user_in_a_sticky_directory_is_followed_where_the_kernel_follows_it() {
    let directory = Directory::new();
    let link = directory.join("link");
    symlink(directory.file("credential", key("v1")), &link).unwrap();
    chmod(directory.path(), 0o1777);
    let is_protected = fs::read_to_string("/proc/sys/fs/protected_symlinks").unwrap() == "1\n";
    let is_planted = std::os::unix::fs::lchown(&link, Some(65_534), None).is_ok();
    if is_protected && is_planted {
        let expected = Reason::Io(ErrorKind::PermissionDenied);
        assert_eq!(reason(FileSource::new(&link)).await, expected);
    } else {
        fetched(FileSource::new(&link)).await;
    }
}

#[tokio::test]
async fn a_relative_path_is_made_absolute_at_construction() {
    let here = std::env::current_dir().unwrap();
    let source = FileSource::new("no-such-token").organization_file("no-such-organization");
    let shown = format!("{source:?}");
    for name in ["no-such-token", "no-such-organization"] {
        assert!(shown.contains(here.join(name).to_str().unwrap()), "{shown}");
    }
    let invalid = Reason::Io(ErrorKind::InvalidInput);
    assert_eq!(reason(FileSource::new("")).await, invalid);
}

// Files that others may write.

#[tokio::test]
async fn a_file_that_anyone_may_write_is_refused_unless_allowed() {
    let directory = Directory::new();
    let path = directory.file("credential", key("v1"));
    let link = directory.join("link");
    symlink(&path, &link).unwrap();
    for mode in [0o602, 0o666, 0o777] {
        chmod(&path, mode);
        for path in [&path, &link] {
            let found = reason(FileSource::new(path)).await;
            assert_eq!(found, Reason::WorldWritable, "{mode:o}");
        }
        fetched(FileSource::new(&path).allow_world_writable()).await;
    }
    let token = directory.file("token", "pat_c2VjcmV0");
    let source = FileSource::new(token).organization_file(&path);
    assert_eq!(reason(source).await, Reason::WorldWritable);
    for mode in [0o400, 0o600, 0o644, 0o660, 0o664] {
        chmod(&path, mode);
        fetched(FileSource::new(&path)).await;
    }
}

#[tokio::test]
async fn a_file_that_anyone_may_replace_is_refused_unless_allowed() {
    let directory = Directory::new();
    let open = directory.join("open");
    fs::create_dir(&open).unwrap();
    let path = open.join("credential");
    fs::write(&path, key("v1")).unwrap();
    // A link to that file, and a link that anyone may replace.
    let [link, loose] = [directory.join("link"), open.join("loose")];
    symlink(&path, &link).unwrap();
    symlink(directory.file("safe", key("v1")), &loose).unwrap();
    for mode in [0o777, 0o703] {
        chmod(&open, mode);
        for path in [&path, &link, &loose] {
            let expected = Reason::WorldWritableDirectory;
            assert_eq!(reason(FileSource::new(path)).await, expected, "{mode:o}");
            fetched(FileSource::new(path).allow_world_writable()).await;
        }
    }
    // Vault's injector writes to a sticky directory under another user; only a superuser can make such a file.
    drop(chown(&path, Some(4711), None));
    for mode in [0o1777, 0o775] {
        chmod(&open, mode);
        for path in [&path, &link, &loose] {
            fetched(FileSource::new(path)).await;
        }
    }
}

// What changes.

#[tokio::test]
async fn new_content_is_seen_within_300_ms_whatever_inode_and_time_and_unchanged_content_at_once() {
    let directory = Directory::new();
    let path = directory.file("credential", key("v0"));
    let source = FileSource::new(&path);
    let fetch = async |name| {
        let begun = Instant::now();
        assert_eq!(fetched(&source).await.id(), key_of(name).id());
        begun.elapsed()
    };
    fetch("v0").await;
    let modified = fs::metadata(&path).unwrap().modified().unwrap();
    fs::write(&path, key("v1")).unwrap();
    let file = File::options().write(true).open(&path).unwrap();
    file.set_modified(modified).unwrap();
    let in_place = fetch("v1").await;
    fs::rename(directory.file("new", key("v2")), &path).unwrap();
    let renamed = fetch("v2").await;
    let slowest = in_place.max(renamed);
    assert!(slowest < MILLI * 300, "{slowest:?}");
    fs::rename(directory.file("new", key("v2")), &path).unwrap();
    let mut again = SECOND;
    for _ in 0..5 {
        again = again.min(fetch("v2").await);
    }
    assert!(again < MILLI * 40, "{again:?}");
}

// The thread that reads.

#[test]
fn a_file_that_keeps_changing_is_an_error_after_a_second_and_holds_up_no_shutdown() {
    let directory = Directory::new();
    let path = directory.file("credential", key("v1"));
    let runtime = Runtime::new().unwrap();
    let source = Arc::new(FileSource::new(&path));
    // From here on the file is one that is rewritten in place, and 250 ms are too long for a busy machine to stop the writer.
    runtime.block_on(source.fetch()).unwrap();
    let finished = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| {
            for number in (0_u64..).take_while(|_| !finished.load(Ordering::Relaxed)) {
                fs::write(&path, format!("ak_{number:020}.{CANARY}")).unwrap();
                thread::sleep(MILLI);
            }
        });
        while fs::read(&path).unwrap() == key("v1").as_bytes() {
            thread::yield_now();
        }
        let begun = Instant::now();
        let fetched = runtime.block_on(source.fetch());
        let took = begun.elapsed();
        let reading = Arc::clone(&source);
        runtime.spawn(async move { reading.fetch().await });
        thread::sleep(MILLI * 50);
        let dropped = Instant::now();
        drop(runtime);
        let dropping = dropped.elapsed();
        finished.store(true, Ordering::Relaxed);
        let error = fetched.unwrap_err().downcast::<FileError>().unwrap();
        assert_eq!(error.reason(), Reason::Unsettled);
        assert!(!format!("{error} {error:?}").contains(CANARY));
        assert!((SECOND..MILLI * 1_500).contains(&took), "{took:?}");
        assert!(dropping < MILLI * 100, "{dropping:?}");
    });
}

#[tokio::test]
async fn a_fetch_waits_for_an_earlier_one_even_if_that_was_dropped() {
    let directory = Directory::new();
    let source = FileSource::new(directory.file("credential", key("v1")));
    let (first, second) = tokio::join!(source.fetch(), source.fetch());
    let both = [first, second].map(|fetched| fetched.unwrap().id().clone());
    assert!(both.iter().all(|id| id == key_of("v1").id()));
    directory.file("credential", key("v2"));
    drop(timeout(MILLI, source.fetch()).await);
    assert_eq!(fetched(&source).await.id(), key_of("v2").id());
}

#[test]
fn a_fetch_needs_no_runtime_and_so_no_blocking_pool() {
    let directory = Directory::new();
    let source = FileSource::new(directory.file("credential", key("v1")));
    let fetched = without_runtime(source.fetch()).unwrap();
    assert_eq!(fetched.id(), key_of("v1").id());
}
