//! Numbers from a seed, the same on every machine: `SplitMix64`, so that a seed in ASSURANCE.md always means the same run.

use std::ops::Range;
use std::time::Duration;

/// A generator of numbers; its field is the seed.
#[derive(Debug)]
pub struct Random(pub u64);

impl Random {
    /// Draws a number.
    #[allow(clippy::should_implement_trait, reason = "it never ends")]
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// Draws a number below that one, which must not be 0.
    pub fn below(&mut self, limit: u64) -> u64 {
        self.next() % limit
    }

    /// Draws `true` once in so many times.
    pub fn one_in(&mut self, number: u64) -> bool {
        self.below(number) == 0
    }

    /// Draws an index into a list of that length, which must not be 0.
    pub fn index(&mut self, length: usize) -> usize {
        usize::try_from(self.below(length as u64)).unwrap_or(0)
    }

    /// Draws an element of a list, which must not be empty.
    pub fn pick<T: Clone>(&mut self, list: &[T]) -> T {
        list[self.index(list.len())].clone()
    }

    /// Draws a text of letters and digits.
    pub fn text(&mut self, len: usize) -> String {
        let alphabet: Vec<char> = ('a'..='z').chain('A'..='Z').chain('0'..='9').collect();
        (0..len).map(|_| self.pick(&alphabet)).collect()
    }

    /// Draws bytes.
    pub fn bytes(&mut self, len: usize) -> Vec<u8> {
        (0..len).map(|_| self.next().to_le_bytes()[0]).collect()
    }

    /// Draws a number of milliseconds.
    pub fn duration(&mut self, milliseconds: Range<u64>) -> Duration {
        let length = milliseconds.end - milliseconds.start;
        Duration::from_millis(milliseconds.start + self.below(length))
    }

    /// Draws a duration of at least so many milliseconds; each doubling of it is as likely as the others.
    pub fn skewed_duration(&mut self, shortest: u64, doublings: u64) -> Duration {
        let doubled = shortest << self.below(doublings);
        self.duration(doubled..2 * doubled)
    }
}
