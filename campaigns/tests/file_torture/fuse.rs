//! A file system in memory, through FUSE, whose clock is 3 s behind and whose reads can hang.
//!
//! It answers what a kernel asks before and during a read, in the words of `linux/fuse.h`: a header of 40 bytes, with the
//! operation at 4, the request's number at 8 and the node at 16, then arguments. Node 1 is the directory. Little-endian only.

use std::ffi::CString;
use std::fs::File;
use std::io::{self, ErrorKind, Read, Write};
use std::os::fd::AsRawFd;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard};
use std::thread;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rustix::io::Errno;
use rustix::mount::{MountFlags, UnmountFlags, mount, unmount};
use tempfile::TempDir;

const BEHIND: Duration = Duration::from_secs(3);

/// Files named `0`, `1`, ... Unmounted when dropped.
pub(crate) struct FileSystem {
    directory: TempDir,
    device: Arc<File>,
    state: Arc<Mutex<State>>,
}

/// A content, and the time of its last change.
type Node = (String, Duration);

struct State {
    /// The directory, and then the files: node 1 and so on.
    nodes: Vec<Node>,
    hangs: bool,
    /// The numbers of the reads that hang.
    hanging: Vec<u64>,
}

impl FileSystem {
    pub(crate) fn mount() -> io::Result<Self> {
        let directory = TempDir::new()?;
        let device = Arc::new(File::options().read(true).write(true).open("/dev/fuse")?);
        let fd = device.as_raw_fd();
        let options = CString::new(format!("fd={fd},rootmode=40000,user_id=0,group_id=0"))?;
        let (path, flags) = (directory.path(), MountFlags::NODEV);
        mount("anyreach", path, "fuse", flags, &*options)?;
        let state = Arc::new(Mutex::new(State {
            nodes: vec![(String::new(), BEHIND)],
            hangs: false,
            hanging: Vec::new(),
        }));
        let server = (Arc::clone(&device), Arc::clone(&state));
        thread::spawn(move || serve(&server.0, &server.1));
        Ok(Self {
            directory,
            device,
            state,
        })
    }

    pub(crate) fn path(&self, number: u64) -> PathBuf {
        self.directory.path().join(number.to_string())
    }

    /// Changes the whole content of a file at once, in place.
    pub(crate) fn write(&self, number: u64, content: &str) {
        let (mut state, at) = (self.state(), usize::try_from(number + 1).unwrap());
        let len = state.nodes.len().max(at + 1);
        state.nodes.resize_with(len, Default::default);
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
        state.nodes[at] = (content.to_owned(), now.saturating_sub(BEHIND));
    }

    /// Makes all reads hang from now on, or fails the hanging ones and lets later ones succeed.
    pub(crate) fn hang(&self, hangs: bool) {
        let mut state = self.state();
        state.hangs = hangs;
        for number in state.hanging.drain(..) {
            reply(&self.device, number, Err(Errno::IO));
        }
    }

    pub(crate) fn hanging(&self) -> usize {
        self.state().hanging.len()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }
}

impl Drop for FileSystem {
    fn drop(&mut self) {
        self.hang(false);
        let flags = UnmountFlags::FORCE | UnmountFlags::DETACH;
        let _ = unmount(self.directory.path(), flags);
    }
}

/// Answers until the file system is unmounted.
fn serve(mut device: &File, state: &Mutex<State>) {
    let mut request = vec![0; 64 * 1024];
    loop {
        let len = match device.read(&mut request) {
            Ok(len) => len,
            Err(error) if error.kind() == ErrorKind::Interrupted => continue,
            Err(_) => return,
        };
        let long = |at| u64::from_ne_bytes(request[at..at + 8].try_into().unwrap());
        let (operation, number, node) = (long(0) >> 32, long(8), long(16));
        let mut state = state.lock().unwrap();
        let answer = match operation {
            // FORGET, INTERRUPT and BATCH_FORGET get no answer.
            2 | 36 | 42 => continue,
            // READ
            15 if state.hangs => {
                state.hanging.push(number);
                continue;
            }
            15 => find(&state, node).map(|(content, _)| {
                let start = usize::try_from(long(48)).unwrap().min(content.len());
                content.as_bytes()[start..].to_owned()
            }),
            // LOOKUP and GETATTR, neither to be remembered by the kernel.
            1 => {
                let name = str::from_utf8(&request[40..len - 1]).ok();
                let node = name.and_then(|name| name.parse::<u64>().ok()?.checked_add(2));
                node.and_then(|node| attributes(&state, node, &[node, 0, 0, 0, 0]))
            }
            3 => attributes(&state, node, &[0, 0]),
            // OPEN, past the kernel's cache. RELEASE and FLUSH.
            14 => Some(bytes(&[0, 1])),
            18 | 25 => Some(Vec::new()),
            // INIT: version 7.31, and the least that may be written at a time.
            26 => Some(bytes(&[(31 << 32) | 7, 0, 4096 << 32, 1, 0, 0, 0, 0])),
            _ => {
                reply(device, number, Err(Errno::NOSYS));
                continue;
            }
        };
        reply(device, number, answer.ok_or(Errno::NOENT));
    }
}

fn find(state: &State, node: u64) -> Option<&Node> {
    state.nodes.get(usize::try_from(node.checked_sub(1)?).ok()?)
}

/// Returns what `head` begins, and the attributes: a number of 64 bits is one of 64 bits there, or two of 32.
fn attributes(state: &State, node: u64, head: &[u64]) -> Option<Vec<u8>> {
    let (content, changed) = find(state, node)?;
    let mode = if node == 1 { 0o40_700 } else { 0o100_600 };
    let (secs, nanos) = (changed.as_secs(), u64::from(changed.subsec_nanos()));
    let times = [secs, secs, secs, nanos << 32 | nanos, mode << 32 | nanos];
    let sizes = [node, content.len() as u64, 1];
    Some(bytes(&[head, &sizes, &times, &[1, 0, 4096]].concat()))
}

fn bytes(longs: &[u64]) -> Vec<u8> {
    longs.iter().flat_map(|long| long.to_ne_bytes()).collect()
}

fn reply(mut device: &File, number: u64, answer: Result<Vec<u8>, Errno>) {
    let error = answer
        .as_ref()
        .err()
        .map_or(0, |error| -error.raw_os_error());
    let body = answer.unwrap_or_default();
    let len = u32::try_from(16 + body.len()).unwrap();
    let header = [len.to_ne_bytes(), error.to_ne_bytes()].concat();
    // The process that asked may be gone.
    drop(device.write(&[&header, &number.to_ne_bytes()[..], &body].concat()));
}
