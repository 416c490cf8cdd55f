//! Two threads that use clones of one service, against two threads that each built their own.
//!
//! What a service shares with its clones, such as a reference count, is a cache line that both cores write. A service
//! that shares nothing has the ratio 1.

use std::sync::Barrier;
use std::thread;
use std::time::{Duration, Instant};

use crate::harness::timing::median;
use crate::harness::{CASES, Contender, Handle, Way};

const NAMES: [&str; 4] = ["by_hand", "anyreach_pat", "anyreach_ak", "tower_http"];

/// Prints ratios, each the median of this many races of this length.
pub(crate) fn print_ratios(contenders: &[Contender], races: usize, length: Duration) {
    println!(
        "\nTwo threads: nanoseconds with own services, and the ratio of a shared service over that"
    );
    println!("{:<14}{:>20}{:>20}", "contender", "held", "clone().oneshot");
    for contender in contenders
        .iter()
        .filter(|contender| NAMES.contains(&contender.name))
    {
        print!("{:<14}", contender.name);
        for way in Way::CALLS {
            let (mut own, mut ratios) = (Vec::new(), Vec::new());
            for _ in 0..races {
                let alone = race(
                    [contender.build(1), contender.build(1)]
                        .into_iter()
                        .flatten(),
                    way,
                    length,
                );
                let shared = race(contender.build(2), way, length);
                own.push(alone);
                ratios.push(shared / alone);
            }
            print!("{:>14.1} {:>5.2}", median(own), median(ratios));
        }
        println!();
    }
}

/// Returns the nanoseconds per request and thread of threads that call at the same time.
fn race(handles: impl IntoIterator<Item = Box<dyn Handle>>, way: Way, length: Duration) -> f64 {
    const BATCH: u32 = 32;
    // Otherwise a scheduler may leave both threads on one core for the whole race.
    let mut cores = core_affinity::get_core_ids()
        .unwrap_or_default()
        .into_iter()
        .cycle();
    let start = Barrier::new(2);
    thread::scope(|scope| {
        let threads: Vec<_> = handles
            .into_iter()
            .map(|mut handle| {
                let (core, start) = (cores.next(), &start);
                scope.spawn(move || {
                    core.map(core_affinity::set_for_current);
                    let mut call_for = |length| {
                        let (begin, mut calls) = (Instant::now(), 0);
                        loop {
                            handle.counted(&CASES[0], way, BATCH);
                            calls += BATCH;
                            if begin.elapsed() >= length {
                                break begin.elapsed().as_secs_f64() * 1e9 / f64::from(calls);
                            }
                        }
                    };
                    start.wait();
                    // The other thread may begin late, and a core that was idle is slow at first.
                    call_for(length / 2);
                    call_for(length)
                })
            })
            .collect();
        let figures = threads
            .into_iter()
            .map(|thread| thread.join().expect("no contender panics"));
        figures.sum::<f64>() / 2.0
    })
}
