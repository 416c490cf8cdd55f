//! Interleaved timing: what disturbs the machine disturbs all contenders alike.

use std::time::{Duration, Instant};

/// How long everything may take.
#[derive(Clone, Copy)]
pub(crate) struct Effort {
    /// How often each figure is measured; the median counts.
    pub(crate) blocks: usize,
    /// How often each contender has its turn within a block, one after the other.
    pub(crate) turns: usize,
    pub(crate) turn: Duration,
    /// How long threads race each other within a block.
    pub(crate) race: Duration,
    /// Long enough for the credential to be rotated a few times.
    pub(crate) rotating_race: Duration,
}

/// A contender ready to run so many times.
pub(crate) struct Runner {
    pub(crate) name: &'static str,
    run: Box<dyn FnMut(u32)>,
}

impl Runner {
    pub(crate) fn new(name: &'static str, mut once: impl FnMut() + 'static) -> Self {
        Self {
            name,
            // The loop is in here, so that what is called through the box is called seldom.
            run: Box::new(move |times| (0..times).for_each(|_| once())),
        }
    }

    fn time(&mut self, times: u32) -> f64 {
        let start = Instant::now();
        (self.run)(times);
        start.elapsed().as_secs_f64() * 1e9 / f64::from(times)
    }

    /// How many fit into a turn.
    fn times(&mut self, turn: Duration) -> u32 {
        self.time(200);
        let nanoseconds = self.time(200).max(1.0);
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "a turn is short"
        )]
        let times = (turn.as_secs_f64() * 1e9 / nanoseconds) as u32;
        times.max(1)
    }
}

/// Nanoseconds for each contender in one block.
pub(crate) type Block = Vec<f64>;

/// Times all contenders in as many blocks as asked for.
pub(crate) fn interleave(runners: &mut [Runner], effort: Effort) -> Vec<Block> {
    let times: Vec<_> = runners
        .iter_mut()
        .map(|runner| runner.times(effort.turn))
        .collect();
    let block = |_| {
        let mut turns = vec![Vec::with_capacity(effort.turns); runners.len()];
        for _ in 0..effort.turns {
            for ((runner, &times), turns) in runners.iter_mut().zip(&times).zip(&mut turns) {
                turns.push(runner.time(times));
            }
        }
        turns.into_iter().map(median).collect()
    };
    (0..effort.blocks).map(block).collect()
}

/// The middle of the values.
pub(crate) fn median(values: impl IntoIterator<Item = f64>) -> f64 {
    let mut values: Vec<_> = values.into_iter().collect();
    values.sort_by(f64::total_cmp);
    let half = values.len() / 2;
    if values.len() % 2 == 1 {
        values[half]
    } else {
        f64::midpoint(values[half - 1], values[half])
    }
}
