//! A writer that rewrites a credential file in every common way, against readers.
//!
//! `ANYREACH_REWRITES` sets the number of rewrites (10,000 unless set), `ANYREACH_FILE_CASES` the number of cases of each
//! other test (40 unless set). Tests that need to mount a file system print NOT CHECKED where that is not
//! allowed.
#![cfg(unix)]
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

#[cfg(target_os = "linux")]
mod fuse;
mod stalls;

use std::fs::{self, File, Permissions};
use std::io::Write;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use http::header::AUTHORIZATION;
use http::request::Parts;
use support::runtime::current_thread;
use support::{ORG, get_agents, send, with};
use tower_anyreach::AnyreachAuthLayer;
use tower_anyreach::source::{CredentialSource, FileSource};

/// After each burst of rewrites the writer waits for the readers, so that there is something to converge to.
const BURST: u64 = 1_000;

fn rewrites() -> u64 {
    campaigns::number("ANYREACH_REWRITES", 10_000)
}

/// Returns a token that differs from every part of it and from every mixture of two.
fn token(generation: u64) -> String {
    let check = generation.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    format!("pat_{generation:012}-{check:016x}-{generation:0200}-end\n")
}

fn organization(generation: u64) -> String {
    format!("org_{generation:012}")
}

/// Replaces the file whole: the one strategy that leaves it good at every moment.
fn rename(directory: &Path, text: &str) {
    let new = directory.join("new");
    fs::write(&new, text).unwrap();
    fs::rename(new, directory.join("token")).unwrap();
}

/// Removes whatever is at the path.
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
    if [0, 6, 7, 8].contains(&(generation % 10)) {
        clear(directory);
    }
    match generation % 10 {
        0 => rename(directory, &text),
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
            for mode in [0o000, 0o600] {
                fs::set_permissions(&path, Permissions::from_mode(mode)).unwrap();
            }
        }
        6 => fs::create_dir(path).unwrap(),
        7 => fs::hard_link(directory.join("fifo"), path).unwrap(),
        8 => drop(File::create(path).unwrap()),
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

/// The state that the writer and the readers share.
#[derive(Default)]
struct Progress {
    /// The generation at which the writer waits.
    settled: AtomicU64,
    /// The generations that the reader of the single file and that of the pair have reached.
    reached: [AtomicU64; 2],
    is_finished: AtomicBool,
    /// The generations that were read malformed, and those that stayed too long because this machine stopped the writer.
    malformed: Mutex<Vec<u64>>,
    held_up: Mutex<Vec<u64>>,
}

impl Progress {
    /// Returns the generation of the credential in the head, 0 if even that is cut.
    fn check(&self, head: &Parts) -> u64 {
        let text = head.headers[AUTHORIZATION].to_str().unwrap();
        let sent = text.strip_prefix("Bearer ").unwrap();
        let number = sent.get(4..16).and_then(|number| number.parse().ok());
        let generation = number.unwrap_or(0);
        if sent != token(generation).trim_end() {
            self.malformed.lock().unwrap().push(generation);
        }
        if let Some(sent) = head.headers.get(&ORG) {
            assert_eq!(*sent, *organization(generation), "a mixed pair");
        }
        generation
    }

    /// Reads until the writer has finished; returns the number of credentials. Each is well-formed, and once the writer waits,
    /// the next one is up to date.
    async fn read(&self, source: FileSource, reached: &AtomicU64) -> u64 {
        let layer = AnyreachAuthLayer::per_request().require_organization(false);
        let mut whole = 0;
        while !self.is_finished.load(Ordering::Acquire) {
            let settled = self.settled.load(Ordering::Acquire);
            let is_new = settled > reached.load(Ordering::Relaxed);
            match source.fetch().await {
                Ok(credential) => {
                    let head = send(&layer, with(credential, get_agents())).head();
                    let sent = self.check(&head);
                    assert!(!is_new || sent == settled, "{sent} instead of {settled}");
                    whole += 1;
                }
                Err(error) => assert!(!is_new, "{error} instead of {settled}"),
            }
            if is_new {
                reached.store(settled, Ordering::Release);
            }
            tokio::task::yield_now().await;
        }
        whole
    }

    fn write(&self, total: u64, single: &Path, volume: &Path) {
        let mut previous = Instant::now();
        for generation in 1..=total {
            let begun = Instant::now();
            rewrite(single, generation);
            if previous.elapsed() > Duration::from_millis(40) {
                let held_up = [generation - 1, generation];
                self.held_up.lock().unwrap().extend(held_up);
            }
            previous = begun;
            swap(volume, generation);
            if generation % BURST == 0 || generation == total {
                clear(single);
                rename(single, &token(generation));
                self.settled.store(generation, Ordering::Release);
                let is_behind = |reached: &AtomicU64| reached.load(Ordering::Acquire) < generation;
                while self.reached.iter().any(is_behind) {
                    thread::sleep(Duration::from_millis(1));
                }
            }
        }
        self.is_finished.store(true, Ordering::Release);
    }
}

#[test]
fn whatever_a_writer_does_nothing_malformed_is_sent() {
    let directories = [(); 2].map(|()| tempfile::tempdir().unwrap());
    let paths = directories.each_ref().map(tempfile::TempDir::path);
    let [single, volume] = paths.map(Path::to_owned);
    rename(&single, &token(0));
    let mut mkfifo = Command::new("mkfifo");
    let made = mkfifo.arg(single.join("fifo")).status().unwrap();
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
        thread::spawn(move || progress.write(rewrites(), &single, &volume))
    };
    let [of_file, of_pair] = &progress.reached;
    let whole = current_thread().block_on(async {
        tokio::join!(progress.read(file, of_file), progress.read(pair, of_pair))
    });
    writer.join().unwrap();

    let (held_up, malformed) = (progress.held_up.lock(), progress.malformed.lock());
    let (held_up, malformed) = (held_up.unwrap(), malformed.unwrap());
    let is_held_up = |n: &u64| held_up.contains(n) || (*n == 0 && !held_up.is_empty());
    assert!(malformed.iter().all(is_held_up), "malformed: {malformed:?}");
    // Both read credentials, or nothing was tried. A burst may be too short for an error, which takes a second of changes.
    let least = whole.0.min(whole.1);
    assert!(least >= rewrites() / BURST, "{whole:?}");
}
