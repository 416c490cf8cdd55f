//! What is left in a process's memory when the last holder of a credential is gone.
//!
//! A child holds credentials, uses and drops them; this process reads all that the child can write to. The child never
//! has a needle of the scanner in its memory, and makes its credentials from the seed, so that nothing is found but
//! what the crate has left.
//!
//! Left out is what other crates keep, by having none of them below the layer: the buffers of hyper, h2 and TLS, and
//! the kernel's. `tests/memory/wiping.rs` looks at each block as it is freed; this looks at the stacks as well.

use std::convert::Infallible;
use std::fs::File;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::Stdio;
use std::sync::Mutex;

use http::{Request, StatusCode};
use secrecy::SecretString;
use support::runtime::multi_thread;
use support::scanner::{Scanner, Search};
use support::{get_agents, with};
use tower::{Layer, ServiceExt, service_fn};
use tower_anyreach::source::FileSource;
use tower_anyreach::{
    AnyreachAuthLayer, Credential, CredentialStore, OrganizationId, PersonalAccessToken,
};

use crate::canaries::{Canaries, Kind};

fn secret(kind: Kind) -> SecretString {
    SecretString::from(Canaries(crate::seed()).text(kind))
}

fn credential(kind: Kind) -> Credential {
    Credential::parse(secret(kind)).unwrap()
}

/// All the bytes of the mappings that a process may write to.
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
            // A page that is a guard's cannot be read.
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
    let canaries = Canaries(crate::seed());
    let scanner = Scanner::new(canaries.all());
    let mut file = tempfile::NamedTempFile::new().unwrap();
    let key = canaries.text(Kind::CallersKey);
    file.write_all(key.as_bytes()).unwrap();
    let mut child = crate::child("memory::child_that_holds_and_drops")
        .env("ANYREACH_LEAK_FILE", file.path())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut told = BufReader::new(child.stdout.take().unwrap()).lines();
    let mut stdin = child.stdin.take().unwrap();

    let mut looked_at = 0;
    for (stage, is_there) in [("holding", true), ("dropped", false), ("planted", true)] {
        let said = told.find(|line| line.as_ref().unwrap().contains(stage));
        assert!(said.is_some(), "the child ended before `{stage}`");
        let mut search = scanner.search();
        read_memory(child.id(), &mut search);
        assert_eq!(
            search.found > 0,
            is_there,
            "{stage}: {} places, {:#?}",
            search.found,
            search.hits
        );
        if stage == "holding" {
            // Of all that is held at that time, in each of the places where it may be.
            for held in ["the new key", "the caller's key"] {
                assert!(search.names.contains(held), "{held} was not found");
            }
        }
        looked_at = search.bytes;
        writeln!(stdin, "go on").unwrap();
    }
    assert!(child.wait().unwrap().success());
    println!(
        "leaks: memory, {looked_at} bytes, {} needles, 0 hits",
        scanner.needles()
    );
}

/// Says where it is, and waits until it has been looked at.
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

    // The threads stay, and so do their stacks.
    held.lock().unwrap().clear();
    pause("dropped");

    drop(Canaries(crate::seed()).text(Kind::OldKey));
    pause("planted");
    drop(runtime);
}

/// Everything that a credential is used for, on several threads; what `held` holds at the end is all that there is.
async fn hold(file: &Path, held: &Mutex<Vec<Box<dyn std::any::Any + Send>>>) {
    let organization = OrganizationId::try_from("org_acme").unwrap();
    let store = CredentialStore::load(async || Ok(credential(Kind::OldKey)));
    let store = store.await.unwrap();
    let files = CredentialStore::load(FileSource::new(file)).await.unwrap();
    let mut tasks = tokio::task::JoinSet::new();
    for task in 0..8 {
        let (store, files) = (store.clone(), files.clone());
        let organization = organization.clone();
        tasks.spawn(async move {
            let layer = AnyreachAuthLayer::new(if task % 2 == 0 { store.clone() } else { files });
            for round in 0..50 {
                let status = [
                    StatusCode::OK,
                    StatusCode::UNAUTHORIZED,
                    StatusCode::FORBIDDEN,
                ][round % 3];
                let client = layer.layer(service_fn(move |request: Request<String>| async move {
                    tokio::task::yield_now().await;
                    drop(request);
                    Ok::<_, Infallible>(support::answer(status, r#"{"detail": "No."}"#))
                }));
                let mut request = get_agents();
                match round % 5 {
                    0 => request = with(credential(Kind::OwnKey), request),
                    1 => {
                        let token = PersonalAccessToken::new(secret(Kind::Token)).unwrap();
                        let token = token.for_organization(organization.clone());
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
    while let Some(layer) = tasks.join_next().await {
        held.lock().unwrap().push(Box::new(layer.unwrap()));
    }
    // A look may have brought the old key back, and one in flight may do so yet.
    store.refresh().await.unwrap();
    store.rotate(credential(Kind::NewKey));
    held.lock().unwrap().push(Box::new((store, files)));
}
