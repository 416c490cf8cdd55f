//! Tokio runtimes, and futures that need none.

use std::pin::pin;
use std::task::{Context, Poll, Waker};

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

/// Returns the output of a future that waits for nothing, but may need to be polled again.
pub fn drive<F: Future>(future: F) -> F::Output {
    let mut future = pin!(future);
    for _ in 0..64 {
        let poll = future
            .as_mut()
            .poll(&mut Context::from_waker(Waker::noop()));
        if let Poll::Ready(output) = poll {
            return output;
        }
    }
    panic!("the future waits for something")
}

/// Returns the output of a future that is polled on this thread, outside of any runtime, each time it is woken.
pub fn without_runtime<F: Future>(future: F) -> F::Output {
    futures_executor::block_on(future)
}
