//! Tokio runtimes.

use tokio::runtime::{Builder, Runtime};

/// Builds a runtime with one thread.
#[must_use]
pub fn current_thread() -> Runtime {
    Builder::new_current_thread().enable_all().build().unwrap()
}

/// Builds a runtime with one thread, whose clock only advances while all tasks wait.
#[must_use]
pub fn paused() -> Runtime {
    let mut builder = Builder::new_current_thread();
    builder.enable_all().start_paused(true).build().unwrap()
}

/// Builds a runtime with that many worker threads.
#[must_use]
pub fn multi_thread(workers: usize) -> Runtime {
    let mut builder = Builder::new_multi_thread();
    builder
        .worker_threads(workers)
        .enable_all()
        .build()
        .unwrap()
}
