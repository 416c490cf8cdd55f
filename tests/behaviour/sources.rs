//! `CredentialSource`, what is shown of its errors, and `FileSource` on a real file system.

use std::error::Error;
use std::fmt;

use tower_anyreach::{
    BoxError, Credential, CredentialSource, CredentialStore, InvalidCredentialReason,
    InvalidOrganizationId, OrganizationId, PersonalAccessToken, Refreshed, SourceError,
    SourceErrorReason,
};

use crate::scripted::{assert_in_force, key, key_of};

/// What a careless source might put into its errors.
const CANARY: &str = "S0URCE-C4NARY";

// Sources.

#[tokio::test]
async fn a_closure_and_a_function_are_sources() {
    async fn function() -> Result<Credential, BoxError> {
        Ok(key_of("function"))
    }
    let store = CredentialStore::load(function).await.unwrap();
    assert_in_force(&store, "function");

    let store = CredentialStore::load(async || Ok(key_of("async")))
        .await
        .unwrap();
    assert_in_force(&store, "async");

    let name = String::from("captured");
    let store = CredentialStore::load(move || {
        let name = name.clone();
        async move { Ok(Credential::parse(key(&name))?) }
    })
    .await
    .unwrap();
    assert_in_force(&store, "captured");
    assert_eq!(store.refresh().await.unwrap(), Refreshed::Unchanged);
}

#[tokio::test]
async fn a_type_of_ones_own_is_a_source_that_may_borrow_from_itself() {
    struct Vault {
        path: String,
    }

    impl CredentialSource for Vault {
        async fn fetch(&self) -> Result<Credential, BoxError> {
            let path = &self.path;
            tokio::task::yield_now().await;
            Ok(Credential::parse(key(path))?)
        }
    }

    let path = String::from("mine");
    let store = CredentialStore::load(Vault { path }).await.unwrap();
    assert_in_force(&store, "mine");
}

#[tokio::test]
async fn a_sources_question_mark_takes_this_crates_own_errors() {
    let source = async || Ok(Credential::parse("Bearer ak_4711.S0URCE-C4NARY")?);
    let error = CredentialStore::load(source).await.unwrap_err();
    let cause = error.expose_cause().unwrap();
    let cause = cause
        .downcast_ref::<tower_anyreach::InvalidCredential>()
        .unwrap();
    assert_eq!(cause.reason(), InvalidCredentialReason::BearerIncluded);
    assert!(
        error.to_string().contains(&cause.to_string()),
        "it is known to hold no secret: {error}"
    );
    assert_silent(&error);

    let source = async || {
        let organization = OrganizationId::try_from("S0URCE-C4NARY, of two")?;
        Ok(PersonalAccessToken::new("pat_4711.c2VjcmV0")?
            .for_organization(organization)
            .into())
    };
    let error = CredentialStore::load(source).await.unwrap_err();
    let cause = error.expose_cause().unwrap();
    let cause = cause.downcast_ref::<InvalidOrganizationId>().unwrap();
    assert!(
        error.to_string().ends_with(&format!(" failed: {cause}")),
        "so is this: {error}"
    );
    assert_silent(&error);
}

// Their errors.

#[derive(Debug)]
struct Careless(Option<Box<Self>>);

impl fmt::Display for Careless {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(CANARY)
    }
}

impl Error for Careless {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        self.0.as_deref().map(|error| error as _)
    }
}

async fn careless() -> Result<Credential, BoxError> {
    Err(Careless(Some(Box::new(Careless(None)))).into())
}

#[track_caller]
fn assert_silent(error: &SourceError) {
    let mut next: Option<&(dyn Error + 'static)> = Some(error);
    while let Some(error) = next {
        for text in [
            format!("{error}"),
            format!("{error:#}"),
            format!("{error:?}"),
            format!("{error:#?}"),
        ] {
            assert!(!text.contains(CANARY), "{text}");
        }
        next = error.source();
    }
}

#[tokio::test]
async fn a_sources_error_and_its_chain_stay_hidden_but_for_expose_cause() {
    let error = CredentialStore::load(careless).await.unwrap_err();
    assert_silent(&error);
    assert_eq!(error.reason(), SourceErrorReason::Failed);
    assert!(error.source().is_none());
    let any = anyhow::Error::new(error.clone());
    assert!(!format!("{any} {any:#} {any:?} {any:#?}").contains(CANARY));
    assert_eq!(
        error.to_string(),
        format!(
            "credential source `{}` failed",
            std::any::type_name_of_val(&careless)
        )
    );
    assert_eq!(format!("{error:?}"), format!("SourceError({error})"));
    let cause = error.expose_cause().unwrap();
    assert_eq!(cause.to_string(), CANARY);
    assert!(cause.is::<Careless>());
    assert_eq!(cause.source().unwrap().to_string(), CANARY);
}

#[tokio::test(start_paused = true)]
async fn the_texts_of_source_errors_are_these() {
    async fn hangs() -> Result<Credential, BoxError> {
        std::future::pending().await
    }
    async fn panics() -> Result<Credential, BoxError> {
        crate::scripted::panic_quietly()
    }
    let error = CredentialStore::load(hangs).await.unwrap_err();
    let name = std::any::type_name_of_val(&hangs);
    assert_eq!(
        error.to_string(),
        format!("credential source `{name}` did not answer in time")
    );
    assert!(error.expose_cause().is_none());
    let error = CredentialStore::load(panics).await.unwrap_err();
    let name = std::any::type_name_of_val(&panics);
    assert_eq!(
        error.to_string(),
        format!("credential source `{name}` panicked")
    );
    assert!(error.expose_cause().is_none());
    assert_eq!(
        SourceErrorReason::NoRuntime.to_string(),
        "can only be asked on a tokio runtime"
    );
}

#[tokio::test]
async fn debug_of_a_source_is_its_type_and_its_time() {
    struct Vault;
    impl CredentialSource for Vault {
        async fn fetch(&self) -> Result<Credential, BoxError> {
            Ok(Credential::parse("ak_4711.c2VjcmV0")?)
        }
    }
    let loader = CredentialStore::loader(Vault).timeout(std::time::Duration::from_secs(3));
    let name = std::any::type_name::<Vault>();
    assert_eq!(
        format!("{loader:?}"),
        format!(
            "Loader {{ source: {name:?}, timeout: 3s, refresh_every: None, or_start_with: None }}"
        )
    );
    let store = loader.load().await.unwrap();
    let source = format!("source: Some(Source {{ type: {name:?}, timeout: 3s }})");
    assert!(format!("{store:?}").contains(&source), "{store:?}");
}

#[cfg(all(feature = "file", unix))]
mod files {
    use std::error::Error as _;
    use std::fs::{self, File, Permissions};
    use std::io::{self, Write};
    use std::os::unix::fs::{PermissionsExt, symlink};

    use std::path::Path;
    use std::process::Command;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicBool, Ordering};
    use std::thread;
    use std::time::{Duration, Instant, SystemTime};

    use tower_anyreach::source::{FileError, FileErrorReason, FileSource};
    use tower_anyreach::{
        CredentialKind, CredentialSource as _, CredentialStore, InvalidCredentialReason,
        InvalidOrganizationIdReason, Refreshed, SourceError, SourceErrorReason,
    };

    use crate::scripted::{assert_in_force, key, key_of};
    use support::{Directory, MILLI, organization, settle};

    const CANARY: &str = super::CANARY;

    fn chmod(path: &Path, mode: u32) {
        fs::set_permissions(path, Permissions::from_mode(mode)).unwrap();
    }

    fn file_error(error: &SourceError) -> &FileError {
        assert_eq!(error.reason(), SourceErrorReason::Failed);
        error.expose_cause().unwrap().downcast_ref().unwrap()
    }

    /// Why a source does not load, and how long it took to say so; nothing shows the content.
    async fn refusal(source: FileSource) -> (FileErrorReason, Duration) {
        let asked = Instant::now();
        let error = CredentialStore::load(source).await.unwrap_err();
        let took = asked.elapsed();
        let file_error = file_error(&error);
        for text in [
            format!("{error} {error:?} {error:#?}"),
            format!("{file_error} {file_error:?} {file_error:#?}"),
        ] {
            assert!(!text.contains(CANARY), "{text}");
            let path = file_error.path().to_str().unwrap();
            assert!(text.contains(path), "the path is no secret: {text}");
        }
        assert!(file_error.source().is_none());
        (file_error.reason(), took)
    }

    async fn reason(source: FileSource) -> FileErrorReason {
        refusal(source).await.0
    }

    // What is read.

    #[tokio::test]
    async fn a_file_of_either_kind_is_read_and_trimmed() {
        let directory = Directory::new();
        for content in [
            "ak_v1.c2VjcmV0",
            "ak_v1.c2VjcmV0\n",
            " \t\r\nak_v1.c2VjcmV0 \r\n\n",
        ] {
            let path = directory.file("key", content);
            let store = CredentialStore::load(FileSource::new(path)).await.unwrap();
            assert_in_force(&store, "v1");
        }
        let path = directory.file("token", "pat_c2VjcmV0\n");
        let store = CredentialStore::load(FileSource::new(path)).await.unwrap();
        let credential = store.credential();
        assert_eq!(credential.kind(), CredentialKind::PersonalAccessToken);
        assert!(credential.organization().is_none());
    }

    #[tokio::test]
    async fn an_organization_is_fixed_or_read_from_a_second_file_and_trimmed() {
        let directory = Directory::new();
        let token = directory.file("token", "pat_c2VjcmV0\n");
        let organizations = directory.file("organization", " org_file\r\n");
        let fixed = FileSource::new(&token).organization(organization("org_fixed"));
        let from_file = FileSource::new(&token).organization_file(&organizations);
        // The last word counts.
        let both = FileSource::new(&token)
            .organization_file(&organizations)
            .organization(organization("org_fixed"));
        for (source, name) in [
            (fixed, "org_fixed"),
            (from_file, "org_file"),
            (both, "org_fixed"),
        ] {
            let store = CredentialStore::load(source).await.unwrap();
            assert_eq!(store.credential().organization().unwrap().as_str(), name);
        }
    }

    #[tokio::test]
    async fn an_organization_beside_an_api_key_is_refused() {
        let directory = Directory::new();
        let path = directory.file("key", format!("ak_4711.{CANARY}"));
        let organizations = directory.file("organization", "org_file");
        for source in [
            FileSource::new(&path).organization(organization("org_fixed")),
            FileSource::new(&path).organization_file(organizations),
        ] {
            assert_eq!(
                reason(source).await,
                FileErrorReason::UnexpectedOrganization
            );
        }
    }

    #[tokio::test]
    async fn an_organization_that_is_none_is_refused_under_its_own_path() {
        let directory = Directory::new();
        let path = directory.file("token", "pat_c2VjcmV0");
        let organizations = directory.file("organization", format!("two,{CANARY}"));
        let source = FileSource::new(&path).organization_file(&organizations);
        let error = CredentialStore::load(source).await.unwrap_err();
        let error = file_error(&error);
        assert_eq!(error.path(), organizations);
        let FileErrorReason::InvalidOrganization(reason) = error.reason() else {
            panic!("{error}")
        };
        assert_eq!(reason, InvalidOrganizationIdReason::Comma);
        assert!(!format!("{error} {error:?}").contains(CANARY));
    }

    #[tokio::test]
    async fn what_is_no_credential_is_refused_with_the_rule_it_breaks() {
        let directory = Directory::new();
        let cases: [(&[u8], InvalidCredentialReason); 7] = [
            (b"", InvalidCredentialReason::Empty),
            (b" \n\t\r\n", InvalidCredentialReason::Empty),
            (
                b"\"ak_4711.S0URCE-C4NARY\"",
                InvalidCredentialReason::Quoted,
            ),
            (b"S0URCE-C4NARY", InvalidCredentialReason::UnknownPrefix),
            (
                b"ak_4711.S0URCE-C4NARY\xff",
                InvalidCredentialReason::NonAscii,
            ),
            (b"\xff\xfea\0k\0_\0", InvalidCredentialReason::Utf16),
            (
                b"ak_4711.S0URCE-C4NARY\nak_4712.S0URCE-C4NARY",
                InvalidCredentialReason::ControlCharacter,
            ),
        ];
        for (content, expected) in cases {
            let path = directory.file("credential", content);
            let FileErrorReason::InvalidCredential(reason) = reason(FileSource::new(path)).await
            else {
                panic!("{expected:?}")
            };
            assert_eq!(reason, expected);
        }
    }

    #[tokio::test]
    async fn no_more_than_8_kib_is_read() {
        let directory = Directory::new();
        let padded = |len| format!("{:<len$}", key("v1"));
        let path = directory.file("credential", padded(8 * 1024));
        let store = CredentialStore::load(FileSource::new(path)).await.unwrap();
        assert_in_force(&store, "v1");

        let path = directory.file("credential", padded(8 * 1024 + 1));
        assert_eq!(
            reason(FileSource::new(path)).await,
            FileErrorReason::TooLarge
        );

        let path = directory.file("credential", key("v1"));
        let sparse = File::options().write(true).open(&path).unwrap();
        sparse.set_len(1024 * 1024 * 1024).unwrap();
        let (reason, took) = refusal(FileSource::new(path)).await;
        assert_eq!(reason, FileErrorReason::TooLarge);
        assert!(took < MILLI * 500, "{took:?}");
    }

    // What is not a file.

    #[tokio::test]
    async fn a_path_that_leads_nowhere_is_refused() {
        let directory = Directory::new();
        let not_found = FileErrorReason::Io(io::ErrorKind::NotFound);
        let missing = directory.join("missing");
        assert_eq!(reason(FileSource::new(&missing)).await, not_found);
        let dangling = directory.join("dangling");
        symlink(&missing, &dangling).unwrap();
        assert_eq!(reason(FileSource::new(&dangling)).await, not_found);
        let token = directory.file("token", "pat_c2VjcmV0");
        let source = FileSource::new(token).organization_file(missing);
        assert_eq!(reason(source).await, not_found);
    }

    #[tokio::test]
    async fn a_directory_or_device_is_refused() {
        let directory = Directory::new();
        for path in [
            directory.path(),
            Path::new("/dev/zero"),
            Path::new("/dev/null"),
        ] {
            let (reason, took) = refusal(FileSource::new(path)).await;
            assert_eq!(reason, FileErrorReason::NotAFile, "{}", path.display());
            assert!(took < MILLI * 900, "{took:?}");
        }
    }

    #[tokio::test]
    async fn a_fifo_is_refused_in_time_and_stalls_neither_caller_nor_runtime() {
        let directory = Directory::new();
        let path = directory.join("fifo");
        assert!(
            Command::new("mkfifo")
                .arg(&path)
                .status()
                .unwrap()
                .success()
        );
        let ticking = Arc::new(AtomicBool::new(true));
        let ticks = tokio::spawn({
            let ticking = Arc::clone(&ticking);
            async move {
                let mut longest = Duration::ZERO;
                while ticking.load(Ordering::Relaxed) {
                    let before = Instant::now();
                    tokio::time::sleep(MILLI).await;
                    longest = longest.max(before.elapsed());
                }
                longest
            }
        });
        let (reason, took) = refusal(FileSource::new(&path)).await;
        assert_eq!(reason, FileErrorReason::NotAFile);
        assert!(took < MILLI * 1_000, "{took:?}");
        ticking.store(false, Ordering::Relaxed);
        let longest = ticks.await.unwrap();
        assert!(
            longest < MILLI * 500,
            "the runtime stood still for {longest:?}"
        );

        // With a writer at its other end it is one as well.
        let _both = File::options().read(true).write(true).open(&path).unwrap();
        let (reason, _) = refusal(FileSource::new(&path)).await;
        assert_eq!(reason, FileErrorReason::NotAFile);
    }

    // Who may write.

    #[tokio::test]
    async fn a_file_that_anybody_may_write_is_refused() {
        let directory = Directory::new();
        let path = directory.file("credential", key("v1"));
        for mode in [0o602, 0o666, 0o777] {
            chmod(&path, mode);
            let reason = reason(FileSource::new(&path)).await;
            assert_eq!(reason, FileErrorReason::WorldWritable, "{mode:o}");
        }
        for mode in [0o400, 0o600, 0o644, 0o660, 0o664] {
            chmod(&path, mode);
            CredentialStore::load(FileSource::new(&path)).await.unwrap();
        }
        // Through a link as well, and for the second file.
        chmod(&path, 0o666);
        let link = directory.join("link");
        symlink(&path, &link).unwrap();
        assert_eq!(
            reason(FileSource::new(link)).await,
            FileErrorReason::WorldWritable
        );
        let token = directory.file("token", "pat_c2VjcmV0");
        let source = FileSource::new(token).organization_file(path);
        assert_eq!(reason(source).await, FileErrorReason::WorldWritable);
    }

    #[tokio::test]
    async fn a_file_that_anybody_may_replace_is_refused() {
        let directory = Directory::new();
        let open = directory.join("open");
        fs::create_dir(&open).unwrap();
        let path = open.join("credential");
        fs::write(&path, key("v1")).unwrap();
        settle(&path);
        let link = directory.join("link");
        symlink(&path, &link).unwrap();
        // A link that anybody may replace, to a file that nobody may.
        let safe = directory.file("safe", key("v1"));
        let loose = open.join("loose");
        symlink(&safe, &loose).unwrap();
        for (mode, refused) in [
            (0o777, true),
            (0o703, true),
            (0o1777, false),
            (0o775, false),
        ] {
            chmod(&open, mode);
            for path in [&path, &link, &loose] {
                let loaded = CredentialStore::load(FileSource::new(path)).await;
                let reason = loaded.err().map(|error| file_error(&error).reason());
                let expected = refused.then_some(FileErrorReason::WorldWritableDirectory);
                assert_eq!(reason, expected, "{mode:o} {}", path.display());
            }
        }
    }

    #[tokio::test]
    async fn an_unreadable_file_is_refused_until_it_is_readable() {
        let directory = Directory::new();
        let path = directory.file("credential", key("v1"));
        chmod(&path, 0);
        if File::open(&path).is_ok() {
            // A superuser reads everything: there is nothing to see.
            return;
        }
        let denied = FileErrorReason::Io(io::ErrorKind::PermissionDenied);
        assert_eq!(reason(FileSource::new(&path)).await, denied);
        chmod(&path, 0o600);
        CredentialStore::load(FileSource::new(&path)).await.unwrap();
    }

    // What changes.

    #[tokio::test]
    async fn content_decides_not_modification_time_or_inode() {
        let directory = Directory::new();
        let path = directory.file("credential", key("v1"));
        let modified = fs::metadata(&path).unwrap().modified().unwrap();
        let store = CredentialStore::load(FileSource::new(&path)).await.unwrap();

        // Same inode, length and time.
        fs::write(&path, key("v2")).unwrap();
        File::options()
            .write(true)
            .open(&path)
            .unwrap()
            .set_modified(modified)
            .unwrap();
        assert_eq!(store.refresh().await.unwrap(), Refreshed::Rotated);
        assert_in_force(&store, "v2");

        // Another inode and time, the same content.
        let other = directory.file("other", key("v2"));
        fs::rename(other, &path).unwrap();
        assert_eq!(store.refresh().await.unwrap(), Refreshed::Unchanged);
        assert_eq!(store.version(), 2);
    }

    #[tokio::test]
    async fn a_time_in_the_future_is_no_reason_to_refuse() {
        let directory = Directory::new();
        let path = directory.file("credential", key("v1"));
        let file = File::options().write(true).open(&path).unwrap();
        file.set_modified(SystemTime::now() + Duration::from_secs(3_600))
            .unwrap();
        let store = CredentialStore::load(FileSource::new(path)).await.unwrap();
        assert_in_force(&store, "v1");
    }

    #[tokio::test]
    async fn a_file_that_goes_and_comes_back_keeps_the_last_good_meanwhile() {
        let directory = Directory::new();
        let path = directory.file("credential", key("v1"));
        let store = CredentialStore::load(FileSource::new(&path)).await.unwrap();
        fs::remove_file(&path).unwrap();
        let error = store.refresh().await.unwrap_err();
        let reason = file_error(&error).reason();
        assert_eq!(reason, FileErrorReason::Io(io::ErrorKind::NotFound));
        assert_in_force(&store, "v1");
        directory.file("credential", key("v2"));
        // The first back-off is over.
        tokio::time::sleep(MILLI * 251).await;
        assert_eq!(store.refresh().await.unwrap(), Refreshed::Rotated);
        assert_in_force(&store, "v2");
    }

    #[tokio::test]
    async fn one_bad_moment_of_a_file_is_no_failure() {
        let directory = Directory::new();
        // Empty, missing, torn: each over within the 50 ms after which it is looked at again, unless this machine
        // is too busy for that; then once more.
        for bad in [Some(""), None, Some("ak_v")] {
            let mut tries = 0;
            let store = loop {
                tries += 1;
                let path = directory.file("credential", key("v1"));
                match bad {
                    Some(content) => fs::write(&path, content).unwrap(),
                    None => fs::remove_file(&path).unwrap(),
                }
                let load = tokio::spawn(CredentialStore::load(FileSource::new(&path)));
                tokio::time::sleep(MILLI * 10).await;
                fs::write(&path, key("v2")).unwrap();
                match load.await.unwrap() {
                    Ok(store) => break store,
                    Err(error) => assert!(tries < 10, "{error}"),
                }
            };
            assert_in_force(&store, "v2");
        }
    }

    #[tokio::test]
    async fn a_file_that_never_stands_still_ends_in_a_typed_error_within_its_second() {
        let directory = Directory::new();
        let path = directory.file("credential", key("v1"));
        let store = CredentialStore::load(FileSource::new(&path)).await.unwrap();
        let stop = Arc::new(AtomicBool::new(false));
        let writer = thread::spawn({
            let stop = Arc::clone(&stop);
            move || {
                let mut number = 0_u64;
                while !stop.load(Ordering::Relaxed) {
                    number += 1;
                    let mut file = File::options().write(true).open(&path).unwrap();
                    write!(file, "ak_{number:020}.{CANARY}").unwrap();
                    drop(file);
                    thread::sleep(MILLI);
                }
            }
        });
        tokio::time::sleep(MILLI * 20).await;
        let asked = Instant::now();
        let error = store.refresh().await.unwrap_err();
        let took = asked.elapsed();
        stop.store(true, Ordering::Relaxed);
        writer.join().unwrap();
        assert_eq!(file_error(&error).reason(), FileErrorReason::Unsettled);
        assert!(!format!("{error} {error:?}").contains(CANARY));
        assert!(took < MILLI * 1_200, "{took:?}");
        assert_in_force(&store, "v1");
    }

    #[tokio::test]
    async fn a_second_reading_does_not_join_one_that_is_under_way() {
        let directory = Directory::new();
        let path = directory.join("credential");
        // Just written: the first reading takes its second look after 50 ms.
        fs::write(&path, key("v1")).unwrap();
        let source = FileSource::new(&path);
        let (first, second) = tokio::join!(source.fetch(), source.fetch());
        assert_eq!(first.unwrap().id(), key_of("v1").id());
        let error = second.unwrap_err();
        let error: &FileError = error.downcast_ref().unwrap();
        assert_eq!(error.reason(), FileErrorReason::TooSlow);
        assert!(source.fetch().await.is_ok(), "that one is over");
    }

    #[test]
    fn a_reading_that_gets_no_thread_ends_in_a_typed_error_within_its_second() {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .max_blocking_threads(1)
            .build()
            .unwrap();
        let directory = Directory::new();
        let source = FileSource::new(directory.file("credential", key("v1")));
        let busy = runtime.spawn_blocking(|| thread::sleep(MILLI * 1_500));
        let (reason, elapsed) = runtime.block_on(refusal(source));
        assert_eq!(reason, FileErrorReason::TooSlow);
        assert!(
            (MILLI * 1_000..MILLI * 1_400).contains(&elapsed),
            "{elapsed:?}"
        );
        runtime.block_on(busy).unwrap();
    }

    #[tokio::test]
    async fn a_caller_that_goes_away_from_a_reading_does_not_bar_the_next() {
        let directory = Directory::new();
        let path = directory.join("credential");
        fs::write(&path, key("v1")).unwrap();
        let source = FileSource::new(&path);
        drop(tokio::time::timeout(MILLI, source.fetch()).await);
        tokio::time::sleep(MILLI * 300).await;
        assert!(source.fetch().await.is_ok());
    }
}
