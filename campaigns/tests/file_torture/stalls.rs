//! Writers that stall in mid-write beside a blocking pool that is always busy, a clock that is behind, reads that hang.

use std::fs;
#[cfg(target_os = "linux")]
use std::io::{self, Write};
use std::path::PathBuf;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use support::runtime::{current_thread, multi_thread};
use support::{MILLI, credential};
use tokio::runtime::{Builder, Runtime};
use tower_anyreach::source::{CredentialSource, FileError, FileErrorReason, FileSource};

use super::token;

/// How many files are written at the same time.
const LANES: u64 = 40;

fn cases() -> u64 {
    campaigns::number("ANYREACH_FILE_CASES", LANES)
}

/// A runtime whose four blocking threads are never idle.
fn busy_runtime() -> Runtime {
    let mut builder = Builder::new_multi_thread();
    builder.worker_threads(2).max_blocking_threads(4);
    let runtime = builder.enable_all().build().unwrap();
    runtime.spawn(async {
        loop {
            for _ in 0..8 {
                tokio::task::spawn_blocking(|| thread::sleep(MILLI * 500));
            }
            tokio::time::sleep(MILLI * 500).await;
        }
    });
    runtime
}

/// Writes half of a token, and the rest after a stall, again and again, while a source reads. Returns the numbers of torn
/// credentials, of fetches that took more than 300 ms although the new file was in place, and of cases that do not count because
/// the machine held the writer up.
fn lane(
    runtime: &Runtime,
    stall: Duration,
    path: PathBuf,
    write: impl Fn(&str) + Sync,
) -> [u64; 3] {
    let source = FileSource::new(path);
    let fetch = || runtime.block_on(source.fetch());
    let id = |generation| credential(&token(generation)).id().clone();
    let [mut all_torn, mut late, mut void] = [0; 3];
    write(&token(0));
    fetch().unwrap();
    for generation in 1..=cases() / LANES {
        let (old, new) = (token(generation - 1), token(generation));
        // Truncated first, or written over the old one.
        let (half, rest) = (new.len() / 2, ["", &old[new.len() / 2..]]);
        let half = [&new[..half], rest[usize::from(generation % 2 == 0)]].concat();
        thread::scope(|scope| {
            let writer = scope.spawn(|| {
                let begun = Instant::now();
                write(&half);
                thread::sleep(stall);
                write(&new);
                begun.elapsed()
            });
            let mut torn = 0;
            loop {
                let (is_written, begun) = (writer.is_finished(), Instant::now());
                let fetched = fetch().map(|credential| credential.id().clone()).ok();
                late += u64::from(is_written && begun.elapsed() > MILLI * 300);
                match fetched {
                    Some(fetched) if fetched == id(generation) => break,
                    Some(fetched) if fetched != id(generation - 1) => torn += 1,
                    // After an error the store keeps the last good one.
                    _ => {}
                }
            }
            let is_void = writer.join().unwrap() > MILLI * 240;
            void += u64::from(is_void);
            all_torn += if is_void { 0 } else { torn };
        });
    }
    [all_torn, late, void]
}

/// Runs lanes at the same time. `file` gives a lane its path, and a way to change its content in place.
fn assert_none_torn<W: Fn(&str) + Sync>(stalls: &[u32], file: impl Fn(u64) -> (PathBuf, W) + Sync) {
    let (runtime, cases) = (busy_runtime(), cases());
    for stall in stalls {
        let run = |number| {
            let (path, write) = file(number);
            lane(&runtime, MILLI * *stall, path, write)
        };
        let counts: Vec<_> = thread::scope(|scope| {
            let lanes: Vec<_> = (0..LANES).map(|n| scope.spawn(move || run(n))).collect();
            lanes.into_iter().map(|lane| lane.join().unwrap()).collect()
        });
        let [torn, late, void] = [0, 1, 2].map(|n| counts.iter().map(|of| of[n]).sum::<u64>());
        assert_eq!(torn, 0, "of {cases} stalls of {stall} ms");
        // A busy machine causes some of these.
        let is_idle = late + void <= cases / 5;
        assert!(is_idle, "{late} late and {void} void of {cases}");
    }
    runtime.shutdown_background();
}

#[test]
fn an_in_place_writer_that_stalls_delivers_no_torn_credential_and_the_new_one_within_300_ms() {
    let directory = tempfile::tempdir().unwrap();
    assert_none_torn(&[60, 200], |lane| {
        let path = directory.path().join(lane.to_string());
        (path.clone(), move |content: &str| {
            fs::write(&path, content).unwrap();
        })
    });
}

/// Mounts a file system, or prints that a test did not run, past the capture of the output of passing tests.
#[cfg(target_os = "linux")]
#[allow(clippy::explicit_write, reason = "`eprintln!` is captured")]
fn mount(test: &str) -> Option<super::fuse::FileSystem> {
    super::fuse::FileSystem::mount()
        .inspect_err(|error| writeln!(io::stderr(), "NOT CHECKED: {test}: {error}").unwrap())
        .ok()
}

#[cfg(target_os = "linux")]
#[test]
fn a_file_system_whose_clock_is_behind_delivers_no_torn_credential() {
    let Some(files) = &mount("a file system whose clock is behind") else {
        return;
    };
    assert_none_torn(&[30, 60, 200], |lane| {
        (files.path(lane), move |content: &str| {
            files.write(lane, content);
        })
    });
}

#[cfg(target_os = "linux")]
#[test]
fn a_read_that_hangs_holds_up_no_shutdown_and_bars_the_source_only_while_it_hangs() {
    let Some(files) = mount("a read that hangs") else {
        return;
    };
    files.write(0, &token(0));
    let source = Arc::new(FileSource::new(files.path(0)));
    let fetch = || {
        let source = Arc::clone(&source);
        async move {
            let fetched = source.fetch().await;
            fetched.map_err(|error| error.downcast::<FileError>().unwrap().reason())
        }
    };
    for case in 0..=cases() / LANES {
        files.hang(true);
        let runtime = multi_thread(1);
        let hanging = runtime.spawn(fetch());
        while files.hanging() == 0 {
            thread::sleep(MILLI);
        }
        if case % 2 == 0 {
            hanging.abort();
        }
        // A process that reads from a file system that hangs cannot be killed.
        let cat = tower_anyreach::source::CommandSource::new("cat").arg(files.path(0));
        let asked = Instant::now();
        assert!(runtime.block_on(cat.timeout(MILLI * 9).fetch()).is_err());
        assert!(asked.elapsed() < MILLI * 500);
        let reason = runtime.block_on(fetch()).unwrap_err();
        assert_eq!(reason, FileErrorReason::StillReading);
        let (begun, dropping) = (Instant::now(), thread::spawn(|| drop(runtime)));
        while !dropping.is_finished() && begun.elapsed() < MILLI * 100 {
            thread::sleep(MILLI / 10);
        }
        let is_dropped = dropping.is_finished();
        files.hang(false);
        assert!(is_dropped, "the runtime's shutdown waits for the read");
        current_thread().block_on(fetch()).unwrap();
    }
}
