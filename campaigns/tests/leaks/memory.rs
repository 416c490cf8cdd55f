//! The memory of a process after the last holder of a credential was dropped.
//!
//! A child holds credentials, uses and drops them; this process reads all memory that the child can write to. The child makes
//! its credentials from the seed and has no needle of the scanner, so that only remains of the crate are found.
//!
//! No other crate is below the layer, because hyper, h2 and TLS keep buffers of their own. `tests/memory/wiping.rs` looks at
//! each block as it is freed; this campaign looks at the stacks as well.

use std::any::Any;
use std::convert::Infallible;
use std::fs::File;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::Stdio;
use std::sync::Mutex;

use http::{Request, StatusCode};
use support::runtime::multi_thread;
use support::scanner::{Scanner, Search};
use support::{answer, get_agents, organization, with};
use tokio::task::JoinSet;
use tower::{Layer, ServiceExt, service_fn};
use tower_anyreach::source::FileSource;
use tower_anyreach::{AnyreachAuthLayer, Credential, CredentialStore, PersonalAccessToken};

use crate::canaries::{self, Kind, credential, secret};

/// Searches all mappings that a process may write to.
fn read_memory(process: u32, search: &mut Search<'_>) {
    let memory = File::open(format!("/proc/{process}/mem")).unwrap();
    let maps = std::fs::read_to_string(format!("/proc/{process}/maps")).unwrap();
    for map in maps.lines() {
        let mut columns = map.split_ascii_whitespace();
        let (range, permissions) = (columns.next().unwrap(), columns.next().unwrap());
        if !permissions.starts_with("rw") {
            continue;
        }
        let (from, to) = range.split_once('-').unwrap();
        let address = |text| u64::from_str_radix(text, 16).unwrap();
        let (mut at, to) = (address(from), address(to));
        let mut buffer = vec![0; 1 << 20];
        while at < to {
            let len = usize::try_from(to - at).unwrap().min(buffer.len());
            let Ok(read @ 1..) = memory.read_at(&mut buffer[..len], at) else {
                break;
            };
            search.feed(&buffer[..read]);
            at += read as u64;
        }
        // Two mappings are not neighbours.
        search.feed(&[0; 256]);
    }
}

#[test]
fn nothing_of_a_credential_is_left_in_memory() {
    let scanner = Scanner::new(canaries::all());
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), canaries::text(Kind::CallersKey)).unwrap();
    let mut child = crate::child("memory::child_that_holds_and_drops")
        .env("ANYREACH_LEAK_FILE", file.path())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let mut stdin = child.stdin.take().unwrap();

    let mut bytes = 0;
    for (stage, is_there) in [("holding", true), ("dropped", false), ("planted", true)] {
        let line = lines.find(|line| line.as_ref().unwrap().contains(stage));
        assert!(line.is_some(), "the child ended before `{stage}`");
        let mut search = scanner.search();
        read_memory(child.id(), &mut search);
        let (found, hits) = (search.found, &search.hits);
        assert_eq!(found > 0, is_there, "{stage}: {found} places, {hits:#?}");
        if stage == "holding" {
            // In the store, and from the file.
            for kind in [Kind::NewKey, Kind::CallersKey] {
                let name = kind.name();
                assert!(search.names.contains(name), "{name} was not found");
            }
        }
        bytes = search.bytes;
        writeln!(stdin, "go on").unwrap();
    }
    assert!(child.wait().unwrap().success());
    let needles = scanner.needles();
    println!("leaks: memory, {bytes} bytes, {needles} needles, 0 hits");
}

/// Prints the stage, and waits until the parent has read this process's memory.
fn pause(stage: &str) {
    println!("{stage}");
    std::io::stdin().read_line(&mut String::new()).unwrap();
}

#[test]
#[ignore = "a part of another test, which runs it as a process"]
fn child_that_holds_and_drops() {
    let file = std::env::var_os("ANYREACH_LEAK_FILE").expect("run by another test");
    let runtime = multi_thread(4);
    let held = Mutex::new(Vec::new());
    runtime.block_on(hold(Path::new(&file), &held));
    pause("holding");

    // The threads still run, so their stacks are still mapped.
    held.lock().unwrap().clear();
    pause("dropped");

    drop(canaries::text(Kind::OldKey));
    pause("planted");
    drop(runtime);
}

/// Uses credentials on several threads. At the end, all of them are in `held`.
async fn hold(file: &Path, held: &Mutex<Vec<Box<dyn Any + Send>>>) {
    let store = CredentialStore::load(async || Ok(credential(Kind::OldKey)));
    let store = store.await.unwrap();
    let files = CredentialStore::load(FileSource::new(file)).await.unwrap();
    let mut tasks = JoinSet::new();
    for task in 0..8 {
        let (store, files) = (store.clone(), files.clone());
        tasks.spawn(async move {
            let layer = AnyreachAuthLayer::new(if task % 2 == 0 { store.clone() } else { files });
            for round in 0..50 {
                let client = layer.layer(service_fn(move |request: Request<String>| async move {
                    tokio::task::yield_now().await;
                    drop(request);
                    let status = StatusCode::from_u16([200, 401, 403][round % 3]).unwrap();
                    Ok::<_, Infallible>(answer(status, r#"{"detail": "No."}"#))
                }));
                let mut request = get_agents();
                match round % 5 {
                    0 => request = with(credential(Kind::OwnKey), request),
                    1 => {
                        let token = PersonalAccessToken::new(secret(Kind::Token)).unwrap();
                        let token = token.for_organization(organization("org_acme"));
                        request = with(Credential::from(token), request);
                    }
                    2 if task == 0 => drop(store.rotate(credential(Kind::NewKey))),
                    3 => assert!(PersonalAccessToken::new(secret(Kind::OldKey)).is_err()),
                    _ => {}
                }
                if let Err(error) = client.oneshot(request).await {
                    assert_eq!(error.denial().unwrap().detail(), Some("No."));
                }
            }
            layer
        });
    }
    for layer in tasks.join_all().await {
        held.lock().unwrap().push(Box::new(layer));
    }
    // A look may have brought the old key back, and one in flight may do so yet.
    store.refresh().await.unwrap();
    store.rotate(credential(Kind::NewKey));
    held.lock().unwrap().push(Box::new((store, files)));
}
