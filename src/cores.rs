//! One copy of a value for each core, so that no core counts references on a cache line that another one writes to.

use std::cell::Cell;
use std::ops::Deref;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock, Weak};

/// More cores than this share copies.
pub(crate) const CORES: usize = 16;

/// On cache lines of its own; modern processors fetch them in pairs.
#[derive(Default)]
#[repr(align(128))]
pub(crate) struct Padded<T>(pub(crate) T);

/// A number below [`CORES`] that stands for the calling core: threads are numbered as they come, and runtimes have
/// one for each core.
#[inline]
pub(crate) fn this_core() -> usize {
    thread_local! {
        /// One more than the number, once it is drawn.
        static THIS: Cell<usize> = const { Cell::new(0) };
    }

    // During a thread's end there is nothing to read: any number will do.
    THIS.try_with(|this| {
        if this.get() == 0 {
            this.set(next_core() + 1);
        }
        this.get() - 1
    })
    .unwrap_or(0)
}

#[cold]
fn next_core() -> usize {
    static NEXT: AtomicUsize = AtomicUsize::new(0);
    NEXT.fetch_add(1, Ordering::Relaxed) % CORES
}

/// A shared value that is never changed; clones are made of the calling core's copy.
pub(crate) struct PerCore<T>(Shared<T>);

type Shared<T> = Arc<Padded<Share<T>>>;

struct Share<T> {
    value: T,
    core: usize,
    others: Others<T>,
}

/// One copy owns all others, and they know it without keeping it alive: what nobody uses any more goes away.
enum Others<T> {
    Owned(Box<[OnceLock<Shared<T>>; CORES]>),
    Of(Weak<Padded<Share<T>>>),
}

impl<T: Clone> PerCore<T> {
    pub(crate) fn new(value: T) -> Self {
        Self::owner(value, this_core())
    }

    fn owner(value: T, core: usize) -> Self {
        let others = Others::Owned(Box::default());
        Self(Arc::new(Padded(Share {
            value,
            core,
            others,
        })))
    }

    /// The core whose copy this is.
    #[inline]
    pub(crate) fn core(&self) -> usize {
        self.0.0.core
    }

    /// The copy of another core. It counts no reference that a third core counts too, if the owner is asked.
    #[inline(never)]
    pub(crate) fn on(&self, core: usize) -> Self {
        let kept_alive;
        let owner = match &self.0.0.others {
            Others::Owned(_) => &self.0,
            Others::Of(owner) => {
                // If nobody uses the owner any more, another one is as good.
                kept_alive = owner
                    .upgrade()
                    .unwrap_or_else(|| Self::owner(self.0.0.value.clone(), core).0);
                &kept_alive
            }
        };
        let others = match &owner.0.others {
            Others::Owned(others) if owner.0.core != core => others,
            _ => return Self(Arc::clone(owner)),
        };
        let other = others[core].get_or_init(|| {
            Arc::new(Padded(Share {
                value: owner.0.value.clone(),
                core,
                others: Others::Of(Arc::downgrade(owner)),
            }))
        });
        Self(Arc::clone(other))
    }
}

impl<T: Clone> Clone for PerCore<T> {
    #[inline]
    fn clone(&self) -> Self {
        let core = this_core();
        if self.core() == core {
            Self(Arc::clone(&self.0))
        } else {
            self.on(core)
        }
    }
}

impl<T> Deref for PerCore<T> {
    type Target = T;

    #[inline]
    fn deref(&self) -> &T {
        &self.0.0.value
    }
}

#[cfg(test)]
mod tests {
    use std::thread;

    use super::*;

    /// The addresses of the copies that this handle and its clones on other threads read.
    fn address<T>(handle: &PerCore<T>) -> usize {
        std::ptr::from_ref(&**handle).addr()
    }

    /// A core that is not the calling one.
    fn another_core() -> usize {
        (this_core() + 1) % CORES
    }

    #[test]
    fn a_thread_keeps_its_number_and_two_that_follow_each_other_differ() {
        assert_eq!(this_core(), this_core());
        let numbers: Vec<_> = (0..4 * CORES)
            .map(|_| thread::spawn(this_core).join().unwrap_or(CORES))
            .collect();
        assert!(numbers.iter().all(|core| *core < CORES), "{numbers:?}");
        // Other tests draw numbers too, and may once in a while draw all that lie between.
        let repeated = numbers.windows(2).filter(|two| two[0] == two[1]).count();
        assert!(repeated < CORES, "{numbers:?}");
    }

    #[test]
    fn clones_on_one_core_share_and_those_of_another_do_not() {
        let handle = PerCore::new("shared".to_owned());
        assert_eq!(handle.core(), this_core());
        assert_eq!(address(&handle), address(&handle.clone()));

        let there = handle.on(another_core());
        assert_eq!(there.core(), another_core());
        assert_eq!(*there, "shared");
        assert_ne!(address(&handle), address(&there));
        assert_eq!(address(&there), address(&handle.on(another_core())));
        assert_eq!(
            address(&handle),
            address(&there.on(this_core())),
            "and back again"
        );
        assert_eq!(address(&handle), address(&there.clone()));
    }

    #[test]
    fn a_copy_counts_no_reference_of_another_core() {
        let handle = PerCore::new(());
        let there = handle.on(another_core());
        let counts = (Arc::strong_count(&handle.0), Arc::strong_count(&there.0));
        let more: Vec<_> = (0..3).map(|_| handle.on(another_core())).collect();
        assert_eq!(Arc::strong_count(&handle.0), counts.0);
        assert_eq!(Arc::strong_count(&there.0), counts.1 + more.len());
    }

    #[test]
    fn what_nobody_uses_goes_away_and_what_is_used_outlives_the_owner() {
        let value = Arc::new(());
        let owner = PerCore::new(Arc::clone(&value));
        let there = owner.on(another_core());
        assert_eq!(Arc::strong_count(&value), 3);
        drop(owner);
        assert_eq!(Arc::strong_count(&value), 2, "the copy is in use");

        let third = there.on((this_core() + 2) % CORES);
        assert!(Arc::ptr_eq(&third, &value));
        drop((there, third));
        assert_eq!(Arc::strong_count(&value), 1);
    }
}
