//! A writer that does everything to a credential file that writers do, against readers.
//!
//! `ANYREACH_REWRITES` sets the number of rewrites (10,000 unless set), `ANYREACH_FILE_CASES` the number of cases of each
//! other test (40 unless set). What needs to mount a file system says NOT CHECKED where it may not.
#![cfg(unix)]
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

#[cfg(target_os = "linux")]
mod fuse;
mod stalls;

use std::convert::Infallible;
use std::fs::{self, File, Permissions};
use std::future::ready;
use std::io::Write;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use http::header::AUTHORIZATION;
use http::{Request, Response};
use support::runtime::current_thread;
use support::{get_agents, with};
use tower::{Layer, ServiceExt, service_fn};
use tower_anyreach::source::{CredentialSource, FileSource};
use tower_anyreach::{AnyreachAuthLayer, Credential};

/// After each burst of rewrites the writer waits for the readers, so that there is something to converge to.
const BURST: u64 = 1_000;

fn rewrites() -> u64 {
    campaigns::number("ANYREACH_REWRITES", 10_000)
}

/// A token that a cut, or a mixture of two, cannot be taken for.
fn token(generation: u64) -> String {
    let check = generation.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    format!("pat_{generation:012}-{check:016x}-{generation:0200}-end\n")
}

fn organization(generation: u64) -> String {
    format!("org_{generation:012}")
}

/// The generations that were read malformed, and those that were there for too long because this machine stopped the writer.
static MALFORMED: Mutex<Vec<u64>> = Mutex::new(Vec::new());
static HELD_UP: Mutex<Vec<u64>> = Mutex::new(Vec::new());

/// The generation of an `Authorization`, or 0 if even that is cut.
fn generation(authorization: &[u8]) -> u64 {
    let text = std::str::from_utf8(authorization).unwrap();
    let token_of = text.strip_prefix("Bearer ").unwrap();
    let generation = token_of.get(4..16).and_then(|number| number.parse().ok());
    let generation = generation.unwrap_or(0);
    if token_of != token(generation).trim_end() {
        MALFORMED.lock().unwrap().push(generation);
    }
    generation
}

/// Replaces the file whole: the one strategy that leaves it good at every moment.
fn rename(directory: &Path, text: &str) {
    let new = directory.join("new");
    fs::write(&new, text).unwrap();
    fs::rename(new, directory.join("token")).unwrap();
}

/// Makes the path a file again, whatever it was.
fn clear(directory: &Path) {
    let path = directory.join("token");
    match fs::symlink_metadata(&path) {
        Ok(metadata) if metadata.is_dir() => fs::remove_dir(path).unwrap(),
        Ok(_) => fs::remove_file(path).unwrap(),
        Err(_) => {}
    }
}

fn rewrite(directory: &Path, generation: u64) {
    let path = directory.join("token");
    let text = token(generation);
    match generation % 10 {
        0 => {
            clear(directory);
            rename(directory, &text);
        }
        // Truncated, then written.
        1 => fs::write(path, text).unwrap(),
        // One byte at a time.
        2 => {
            let mut file = File::create(path).unwrap();
            for byte in text.as_bytes() {
                file.write_all(&[*byte]).unwrap();
            }
        }
        // A half, and no more.
        3 => fs::write(path, &text[..text.len() / 2]).unwrap(),
        // Unlinked, then created.
        4 => {
            fs::remove_file(&path).unwrap();
            fs::write(path, text).unwrap();
        }
        5 => {
            fs::set_permissions(&path, Permissions::from_mode(0o000)).unwrap();
            fs::set_permissions(&path, Permissions::from_mode(0o600)).unwrap();
        }
        6 => {
            clear(directory);
            fs::create_dir(path).unwrap();
        }
        7 => {
            clear(directory);
            fs::hard_link(directory.join("fifo"), path).unwrap();
        }
        8 => {
            clear(directory);
            File::create(path).unwrap();
        }
        _ => File::create(path).unwrap().set_len(1 << 30).unwrap(),
    }
}

/// The swap of a Kubernetes secret volume: both files change at once, behind one link.
fn swap(directory: &Path, generation: u64) {
    let current = directory.join(format!("..{generation}"));
    fs::create_dir(&current).unwrap();
    fs::write(current.join("token"), token(generation)).unwrap();
    fs::write(current.join("organization"), organization(generation)).unwrap();
    let link = directory.join("..data_tmp");
    symlink(current.file_name().unwrap(), &link).unwrap();
    fs::rename(link, directory.join("..data")).unwrap();
    if let Some(previous) = generation.checked_sub(1) {
        drop(fs::remove_dir_all(directory.join(format!("..{previous}"))));
    }
}

/// Sends a request with the credential, and returns the generation that the server saw.
async fn send(credential: Credential) -> u64 {
    let client = AnyreachAuthLayer::per_request()
        .require_organization(false)
        .layer(service_fn(|request: Request<String>| {
            let generation = generation(request.headers()[AUTHORIZATION].as_bytes());
            if let Some(sent) = request.headers().get("x-anyreach-org") {
                assert_eq!(*sent, *organization(generation), "a mixed pair");
            }
            ready(Ok::<_, Infallible>(Response::new(generation.to_string())))
        }));
    let response = client
        .oneshot(with(credential, get_agents()))
        .await
        .unwrap();
    response.into_body().parse().unwrap()
}

/// Where writer and readers are.
#[derive(Default)]
struct Progress {
    /// The generation at which the writer rests.
    settled: AtomicU64,
    /// The generations at which the readers have arrived.
    single: AtomicU64,
    pair: AtomicU64,
    finished: AtomicBool,
}

/// Reads on and on. Whatever it gets is well-formed; once the writer rests, the next reading is up to date.
async fn read(source: FileSource, progress: &Progress, arrived: &AtomicU64) -> [u64; 2] {
    let mut outcomes = [0, 0];
    while !progress.finished.load(Ordering::Acquire) {
        let settled = progress.settled.load(Ordering::Acquire);
        let is_new = settled > arrived.load(Ordering::Relaxed);
        match source.fetch().await {
            Ok(credential) => {
                let sent = send(credential).await;
                assert!(
                    !is_new || sent == settled,
                    "{sent} was read, and {settled} stood there"
                );
                outcomes[0] += 1;
            }
            Err(error) => {
                assert!(!is_new, "{error}, and {settled} stood there");
                outcomes[1] += 1;
            }
        }
        if is_new {
            arrived.store(settled, Ordering::Release);
        }
        tokio::task::yield_now().await;
    }
    outcomes
}

fn write(total: u64, single: &Path, volume: &Path, progress: &Progress) {
    let mut previous = Instant::now();
    for generation in 1..=total {
        let begun = Instant::now();
        rewrite(single, generation);
        if previous.elapsed() > Duration::from_millis(40) {
            HELD_UP.lock().unwrap().extend([generation - 1, generation]);
        }
        previous = begun;
        swap(volume, generation);
        if generation % BURST == 0 || generation == total {
            clear(single);
            rename(single, &token(generation));
            progress.settled.store(generation, Ordering::Release);
            while progress.single.load(Ordering::Acquire) < generation
                || progress.pair.load(Ordering::Acquire) < generation
            {
                thread::sleep(Duration::from_millis(1));
            }
        }
    }
    progress.finished.store(true, Ordering::Release);
}

#[test]
fn whatever_a_writer_does_nothing_malformed_is_sent() {
    let directories = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
    let [single, volume] = directories
        .each_ref()
        .map(|directory| directory.path().to_owned());
    rename(&single, &token(0));
    let made = Command::new("mkfifo")
        .arg(single.join("fifo"))
        .status()
        .unwrap();
    assert!(made.success());
    swap(&volume, 0);
    for name in ["token", "organization"] {
        symlink(format!("..data/{name}"), volume.join(name)).unwrap();
    }

    let file = FileSource::new(single.join("token"));
    let pair = FileSource::new(volume.join("token")).organization_file(volume.join("organization"));
    let progress = Arc::new(Progress::default());
    let writer = {
        let progress = Arc::clone(&progress);
        thread::spawn(move || write(rewrites(), &single, &volume, &progress))
    };

    let (single_outcomes, pair_outcomes) = current_thread().block_on(async {
        tokio::join!(
            read(file, &progress, &progress.single),
            read(pair, &progress, &progress.pair),
        )
    });
    writer.join().unwrap();

    let held_up = HELD_UP.lock().unwrap();
    let malformed = MALFORMED.lock().unwrap();
    let is_held_up = |n: &u64| held_up.contains(n) || (*n == 0 && !held_up.is_empty());
    assert!(malformed.iter().all(is_held_up), "malformed: {malformed:?}");

    // Both saw whole files, or nothing was tried. A burst may be too short for an error, which takes a second of changes.
    let whole = [single_outcomes[0], pair_outcomes[0]];
    assert!(
        whole.iter().all(|whole| *whole >= rewrites() / BURST),
        "{whole:?}"
    );
}
