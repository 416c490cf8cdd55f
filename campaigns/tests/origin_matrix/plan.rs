//! How much of the matrix is tried.

use campaigns::random::Random;

/// Everything, or a draw of it from this seed.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Plan {
    Full,
    Seed(u64),
}

impl Plan {
    pub(crate) fn from_env() -> Self {
        match std::env::var("ANYREACH_MATRIX").as_deref() {
            Ok("full") => Self::Full,
            Ok(other) => panic!("ANYREACH_MATRIX is `full` or not set, and not {other:?}"),
            Err(_) => Self::Seed(campaigns::number("ANYREACH_SEED", 1)),
        }
    }

    /// Returns the indices to try of an enumeration: all in their order, or `share` of them.
    pub(crate) fn indices(self, total: u64, share: u64) -> impl Iterator<Item = u64> {
        let (count, seed) = match self {
            Self::Full => (total, None),
            Self::Seed(seed) => (share.min(total), Some(seed)),
        };
        let mut random = seed.map(Random);
        (0..count).map(move |index| random.as_mut().map_or(index, |random| random.below(total)))
    }
}

/// An index of a matrix, read as one ingredient after the other: the first varies fastest.
pub(crate) struct Digits(pub(crate) u64);

impl Digits {
    pub(crate) fn pick<'a, T>(&mut self, list: &'a [T]) -> &'a T {
        let digit = self.0 % list.len() as u64;
        self.0 /= list.len() as u64;
        &list[usize::try_from(digit).unwrap()]
    }
}
