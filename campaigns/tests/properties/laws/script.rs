//! Bytes read as texts and choices, so that random bytes become nearly well-formed input and seeds are readable.

/// The bytes that are not read yet.
pub(crate) struct Script<'a>(&'a [u8]);

/// The length of a text that exceeds every limit.
const LONGEST: usize = 20 * 1024;

impl<'a> Script<'a> {
    pub(crate) fn new(bytes: &'a [u8]) -> Self {
        Self(bytes)
    }

    pub(crate) fn is_over(&self) -> bool {
        self.0.is_empty()
    }

    /// The next byte; 0 when there are no more.
    pub(crate) fn byte(&mut self) -> u8 {
        self.0.split_off_first().copied().unwrap_or(0)
    }

    pub(crate) fn choose<T: Copy>(&mut self, choices: &[T]) -> T {
        choices[usize::from(self.byte()) % choices.len()]
    }

    /// Everything up to a NUL: ASCII is itself, and most other bytes are an index into `words`, which are separated by `|`.
    ///
    /// 0xFE repeats the last byte, 32 times the number in the next byte; 0xFF writes the next byte.
    pub(crate) fn spelled(&mut self, words: &str) -> Vec<u8> {
        let words: Vec<&str> = words.split('|').collect();
        let mut text = Vec::new();
        while !self.is_over() && text.len() < LONGEST {
            match self.byte() {
                0 => break,
                byte @ 1..0x80 => text.push(byte),
                0xfe => {
                    let last = text.last().copied().unwrap_or(b'x');
                    let times = 32 * usize::from(self.byte());
                    text.extend(std::iter::repeat_n(last, times));
                }
                0xff => text.push(self.byte()),
                byte => {
                    let word = words[usize::from(byte - 0x80) % words.len()];
                    text.extend_from_slice(word.as_bytes());
                }
            }
        }
        text
    }

    /// Reads as [`spelled`](Self::spelled) does, and replaces what is no UTF-8.
    pub(crate) fn text(&mut self, words: &str) -> String {
        String::from_utf8_lossy(&self.spelled(words)).into_owned()
    }
}
