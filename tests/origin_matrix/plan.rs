//! How much of the matrix is tried, and what came of it.

use std::fmt;
use std::ops::AddAssign;

use crate::random::Random;

/// Everything, or an even draw of it.
#[derive(Clone, Copy)]
pub(crate) enum Plan {
    Full { seed: u64 },
    Short { seed: u64 },
}

impl Plan {
    pub(crate) fn from_env() -> Self {
        let seed = std::env::var("ANYREACH_SEED").map_or(1, |seed| seed.parse().unwrap());
        match std::env::var("ANYREACH_MATRIX").as_deref() {
            Ok("full") => Self::Full { seed },
            Ok(other) => panic!("ANYREACH_MATRIX is `full` or not set, and not {other:?}"),
            Err(_) => Self::Short { seed },
        }
    }

    pub(crate) fn seed(&self) -> u64 {
        match self {
            Self::Full { seed } | Self::Short { seed } => *seed,
        }
    }

    pub(crate) fn least_cases(&self) -> u64 {
        match self {
            Self::Full { .. } => 1_000_000,
            Self::Short { .. } => 60_000,
        }
    }

    /// The indices to try of an enumeration: all in their order, or `share` of them from all over it.
    pub(crate) fn indices(&self, total: u64, share: u64) -> impl Iterator<Item = u64> + use<> {
        let (first, step, count) = match self {
            Self::Full { .. } => (0, 1, total),
            Self::Short { seed } => {
                // Steps of the golden ratio leave no gaps, and with no common divisor they never repeat.
                #[allow(
                    clippy::cast_possible_truncation,
                    clippy::cast_precision_loss,
                    clippy::cast_sign_loss,
                    reason = "any step near it will do"
                )]
                let golden = (total as f64 * 0.618_033_988_749_895) as u64;
                let step = (1..=golden.max(1))
                    .rev()
                    .find(|step| greatest_common_divisor(*step, total) == 1)
                    .unwrap();
                (Random(*seed).next() % total, step, share.min(total))
            }
        };
        (0..count).scan(first, move |index, _| {
            let this = *index;
            *index = (*index + step) % total;
            Some(this)
        })
    }
}

impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Full { seed } => write!(f, "full, seed {seed}"),
            Self::Short { seed } => write!(f, "short, seed {seed}"),
        }
    }
}

fn greatest_common_divisor(a: u64, b: u64) -> u64 {
    if b == 0 {
        a
    } else {
        greatest_common_divisor(b, a % b)
    }
}

/// An index of a matrix, of which one ingredient after the other is picked: the first varies fastest.
pub(crate) struct Digits(pub(crate) u64);

impl Digits {
    pub(crate) fn pick<'a, T>(&mut self, list: &'a [T]) -> &'a T {
        &list[self.below(list.len())]
    }

    pub(crate) fn below(&mut self, count: usize) -> usize {
        let digit = self.0 % count as u64;
        self.0 /= count as u64;
        usize::try_from(digit).unwrap()
    }
}

impl Random {
    pub(crate) fn pick<'a, T>(&mut self, list: &'a [T]) -> &'a T {
        Digits(self.next()).pick(list)
    }
}

/// What became of the cases.
#[derive(Default)]
pub(crate) struct Tally {
    /// Requests made, not counting those that could not be built.
    pub(crate) cases: u64,
    /// Requests that arrived with a credential, and hops of theirs.
    pub(crate) attached: u64,
    /// Requests that arrived without one.
    pub(crate) forwarded: u64,
    pub(crate) refused: u64,
    /// URIs that `http` does not take.
    pub(crate) unbuildable: u64,
    /// Requests that arrived because of a redirect.
    pub(crate) hops: u64,
    pub(crate) violations: u64,
    pub(crate) examples: Vec<String>,
}

impl Tally {
    pub(crate) fn violation(&mut self, what: impl FnOnce() -> String) {
        self.violations += 1;
        if self.examples.len() < 10 {
            self.examples.push(what());
        }
    }
}

impl AddAssign for Tally {
    fn add_assign(&mut self, other: Self) {
        self.cases += other.cases;
        self.attached += other.attached;
        self.forwarded += other.forwarded;
        self.refused += other.refused;
        self.unbuildable += other.unbuildable;
        self.hops += other.hops;
        self.violations += other.violations;
        self.examples.extend(other.examples);
    }
}

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} cases, {} attached, {} forwarded without, {} refused, {} unbuildable, {} redirect hops, {} violations",
            self.cases,
            self.attached,
            self.forwarded,
            self.refused,
            self.unbuildable,
            self.hops,
            self.violations
        )
    }
}
