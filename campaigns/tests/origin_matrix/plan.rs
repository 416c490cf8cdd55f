//! How much of the matrix is tried.

use std::fmt;

use campaigns::random::Random;

/// Everything, or an even draw of it.
#[derive(Clone, Copy)]
pub(crate) struct Plan {
    is_full: bool,
    seed: u64,
}

impl Plan {
    pub(crate) fn from_env() -> Self {
        let is_full = match std::env::var("ANYREACH_MATRIX").as_deref() {
            Ok("full") => true,
            Ok(other) => panic!("ANYREACH_MATRIX is `full` or not set, and not {other:?}"),
            Err(_) => false,
        };
        Self {
            is_full,
            seed: campaigns::number("ANYREACH_SEED", 1),
        }
    }

    pub(crate) fn least_cases(&self) -> u64 {
        if self.is_full { 90_000_000 } else { 190_000 }
    }

    /// The indices to try of an enumeration: all in their order, or `share` of them from all over it.
    pub(crate) fn indices(&self, total: u64, share: u64) -> impl Iterator<Item = u64> + use<> {
        let (first, step, count) = if self.is_full {
            (0, 1, total)
        } else {
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
            (Random(self.seed).next() % total, step, share.min(total))
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
        let extent = if self.is_full { "full" } else { "short" };
        write!(f, "{extent}, seed {}", self.seed)
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
