//! Makes server-written text safe to show: redacts echoes of the credential, escapes invisible
//! characters, and cuts the text to 256 characters.
//!
//! # Terms
//!
//! - An *echo* is a run of at least eight bytes of the secret in the text, in the clear or encoded,
//!   without regard to ASCII case.
//! - A *window* is a run of eight bytes, kept as one `u64`.
//! - A character is *invisible* if it is a control character or one that Unicode calls
//!   default-ignorable.
//!
//! # Algorithm
//!
//! 1. Take the start of the text: enough bytes for 256 shown characters and one percent-encoded
//!    echo.
//! 2. Leave out invisible characters, because an echo with such characters between its letters
//!    still looks like the secret. Remember where each remaining byte was.
//! 3. Read these bytes in eight ways: in the clear, percent-decoded, as hex digits from each of two
//!    positions, and as base64 digits (both alphabets) from each of four positions.
//! 4. Slide a window over each reading and look it up among the sorted windows of the secret
//!    ([`Windows`]). Mark the part of the text that each hit was decoded from.
//! 5. Show the text: each marked part as `[redacted]`, each invisible character escaped, and `…`
//!    at the cut.
//!
//! # Limits
//!
//! - Only unbroken echoes are found. Base64 in several lines and hex with separators are not.
//! - Only echoes of the given secret are found, not of another credential.
//! - The last 32 bytes that were read are not shown if the text continues, because an echo may
//!   begin there.
//! - The escape of an invisible character is always `\u{..}`. An escape such as `\t` ends in a
//!   letter that could complete a window of the secret.
//!
//! # Cost
//!
//! 8 KiB of text take at most 0.05 ms with a key of 42 bytes, and 0.18 ms with one of 4 KiB: the
//! slowest of 14 hostile inputs, measured once (release build, two cores of an Intel Xeon,
//! 2026-11-26). Most decoded bytes are not visible ASCII, and then no window is looked up. The
//! windows are a copy of the secret and are wiped, as is the stack below [`with_redaction`].
//!
//! # Tests
//!
//! `cargo test --all-features --test behaviour redaction::` and the law `denials` in `campaigns`
//! search shown texts for parts of a secret in every encoding. The campaign `leaks` does the same
//! with everything that a process prints. ASSURANCE.md has the commands and the results.

use zeroize::Zeroizing;

use crate::wipe::with_stack_wiped;

/// The maximum number of characters shown.
const MAX_SHOWN_CHARS: usize = 256;
/// The number of bytes read of a text, in addition to four times the length of the secret: 256
/// characters without an echo take at most 1,024 bytes.
const BASE_READ_BYTES: usize = 1280;
/// The part of a secret's length that counts for the number of bytes read. For a longer secret, the
/// text after an echo may be cut.
const MAX_ECHO_BYTES: usize = 256;
/// The number of bytes at the end of a partly read text that are not shown, because an echo may
/// begin there: seven bytes, percent-encoded, and some reserve.
const LOOKAHEAD: usize = 32;
/// The number of consecutive bytes of the secret that count as an echo.
const WINDOW: usize = 8;
/// The minimum length of a part of the secret that is searched for by itself. A shorter part would
/// match by chance.
const MIN_ECHO_BYTES: usize = 4;
const REDACTED: &str = "[redacted]";

/// Shows server-written text without echoes of a secret.
pub(crate) struct Redaction {
    /// The number of bytes read of a text: enough for a percent-encoded echo and the text after it.
    read_bytes: usize,
    /// The windows of the whole secret, and those of its last part if that is shorter than a
    /// window.
    windows: [Option<Windows>; 2],
}

/// Calls `show` with a redaction of `secret`, and leaves no copy of the secret behind.
pub(crate) fn with_redaction<T>(secret: Option<&[u8]>, show: impl FnOnce(&Redaction) -> T) -> T {
    match secret {
        Some(secret) => with_stack_wiped(|| show(&Redaction::of(secret))),
        None => show(&Redaction {
            read_bytes: BASE_READ_BYTES,
            windows: [None, None],
        }),
    }
}

impl Redaction {
    fn of(secret: &[u8]) -> Self {
        // The part after the dot, or after the prefix, is the secret itself. An echo of that part
        // alone counts, even if it is shorter than a window.
        let proper = secret
            .iter()
            .position(|byte| *byte == b'.')
            .or_else(|| secret.iter().position(|byte| *byte == b'_'))
            .map_or(secret, |separator| &secret[separator + 1..]);
        let proper = (MIN_ECHO_BYTES..WINDOW)
            .contains(&proper.len())
            .then(|| Windows::of(proper));
        Self {
            read_bytes: BASE_READ_BYTES + 4 * secret.len().min(MAX_ECHO_BYTES),
            windows: [Some(Windows::of(secret)), proper],
        }
    }

    /// Returns a server's text with echoes redacted and invisible characters escaped, cut to 256
    /// characters.
    pub(crate) fn presentable(&self, text: &str) -> String {
        let start = start_of(text, self.read_bytes);
        let echoes = self.find_echoes(start);
        // Whether an echo begins in the last bytes cannot be known.
        let hidden = if start.len() < text.len() {
            LOOKAHEAD
        } else {
            0
        };
        let end = start.len() - hidden;

        let mut shown = Shown::default();
        let mut at_echo = false;
        for (at, c) in start.char_indices() {
            if shown.is_full {
                break;
            }
            let is_echo = echoes[at];
            if at >= end {
                shown.cut();
                break;
            } else if is_echo && !at_echo {
                shown.push(REDACTED.chars());
            } else if !is_echo && is_invisible(c) {
                // Not `escape_default`: the letter in `\t` could complete a window of the secret.
                shown.push(c.escape_unicode());
            } else if !is_echo {
                shown.push(std::iter::once(c));
            }
            at_echo = is_echo;
        }
        shown.text
    }

    /// Returns the scheme, host and port of a destination, without userinfo and safe to show.
    pub(crate) fn destination(&self, scheme: Option<&str>, authority: &str) -> String {
        let after_userinfo = authority.rfind('@').map_or(0, |at| at + 1);
        let host = start_of(&authority[after_userinfo..], BASE_READ_BYTES);
        match scheme {
            Some(scheme) => {
                let scheme = start_of(scheme, BASE_READ_BYTES);
                self.presentable(&format!("{scheme}://{host}"))
            }
            None => self.presentable(host),
        }
    }

    /// Returns whether `text` contains an echo of the secret.
    pub(crate) fn contains_echo(&self, text: &str) -> bool {
        self.find_echoes(text).contains(&true)
    }

    /// Marks the bytes of `text` that belong to an echo of the secret.
    fn find_echoes(&self, text: &str) -> Vec<bool> {
        let mut marks = vec![false; text.len()];
        let visible = Visible::of(text);
        for windows in self.windows.iter().flatten() {
            let mut mark = |decoded: &mut dyn Iterator<Item = Decoded>| {
                windows.mark(decoded, |start, end| {
                    marks[visible.at[start]..=visible.at[end - 1]].fill(true);
                });
            };
            mark(&mut clear(&visible.bytes));
            mark(&mut percent_decoded(&visible.bytes));
            for phase in 0..2 {
                mark(&mut digits_decoded(&visible.bytes, 4, hex_digit, phase));
            }
            for phase in 0..4 {
                mark(&mut digits_decoded(&visible.bytes, 6, base64_digit, phase));
            }
        }
        marks
    }
}

/// The bytes of a text's visible characters, each with its position in the text.
struct Visible {
    bytes: Vec<u8>,
    at: Vec<usize>,
}

impl Visible {
    fn of(text: &str) -> Self {
        let mut visible = Self {
            bytes: Vec::with_capacity(text.len()),
            at: Vec::with_capacity(text.len()),
        };
        for (at, c) in text.char_indices().filter(|(_, c)| !is_invisible(*c)) {
            let end = at + c.len_utf8();
            visible.bytes.extend_from_slice(&text.as_bytes()[at..end]);
            visible.at.extend(at..end);
        }
        visible
    }
}

fn start_of(text: &str, len: usize) -> &str {
    let mut end = len.min(text.len());
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    &text[..end]
}

/// Collects the shown text. It takes whole pieces only, and at most `MAX_SHOWN_CHARS` characters.
#[derive(Default)]
struct Shown {
    text: String,
    chars: usize,
    is_full: bool,
}

impl Shown {
    fn push(&mut self, piece: impl Iterator<Item = char> + Clone) {
        let len = piece.clone().count();
        // One character is reserved for the mark of the cut.
        if self.chars + len < MAX_SHOWN_CHARS {
            self.text.extend(piece);
            self.chars += len;
        } else {
            self.cut();
            self.is_full = true;
        }
    }

    fn cut(&mut self) {
        self.text.push('…');
    }
}

/// Returns whether a reader does not see the character: control characters, and those that Unicode
/// calls default-ignorable or that reorder the text around them (Unicode TR 36).
fn is_invisible(c: char) -> bool {
    c.is_control()
        || matches!(c,
            '\u{ad}' | '\u{34f}' | '\u{61c}' | '\u{115f}'..='\u{1160}' | '\u{17b4}'..='\u{17b5}'
            | '\u{180b}'..='\u{180f}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}'
            | '\u{2060}'..='\u{206f}' | '\u{3164}' | '\u{fe00}'..='\u{fe0f}'
            | '\u{feff}' | '\u{ffa0}' | '\u{fff0}'..='\u{fffb}' | '\u{1bca0}'..='\u{1bca3}'
            | '\u{1d173}'..='\u{1d17a}' | '\u{e0000}'..='\u{e0fff}')
}

/// A decoded byte with the range it was decoded from, or `None` where decoding starts again.
type Decoded = Option<(u8, usize, usize)>;

fn clear(bytes: &[u8]) -> impl Iterator<Item = Decoded> {
    bytes
        .iter()
        .enumerate()
        .map(|(at, byte)| Some((*byte, at, at + 1)))
}

fn percent_decoded(bytes: &[u8]) -> impl Iterator<Item = Decoded> {
    let mut at = 0;
    std::iter::from_fn(move || {
        let start = at;
        let byte = *bytes.get(at)?;
        let decoded = (byte == b'%')
            .then(|| Some(hex_digit(*bytes.get(at + 1)?)? << 4 | hex_digit(*bytes.get(at + 2)?)?))
            .flatten();
        at += if decoded.is_some() { 3 } else { 1 };
        Some(Some((decoded.unwrap_or(byte), start, at)))
    })
}

/// Decodes runs of digits as a stream of bits, starting `phase` digits into each run.
fn digits_decoded(
    bytes: &[u8],
    bits_per_digit: u32,
    digit: fn(u8) -> Option<u8>,
    phase: usize,
) -> impl Iterator<Item = Decoded> {
    let mut skip = phase;
    let (mut bits, mut count, mut start) = (0_u32, 0, 0);
    bytes.iter().enumerate().filter_map(move |(at, byte)| {
        let Some(value) = digit(*byte) else {
            (skip, count) = (phase, 0);
            return Some(None);
        };
        if skip > 0 {
            skip -= 1;
            return None;
        }
        bits = bits << bits_per_digit | u32::from(value);
        count += bits_per_digit;
        if count < 8 {
            if count == bits_per_digit {
                start = at;
            }
            return None;
        }
        count -= 8;
        let decoded = (bits >> count & 0xff) as u8;
        let from = std::mem::replace(&mut start, at);
        Some(Some((decoded, from, at + 1)))
    })
}

fn hex_digit(byte: u8) -> Option<u8> {
    match byte {
        b'0'..=b'9' => Some(byte - b'0'),
        b'a'..=b'f' => Some(byte - b'a' + 10),
        b'A'..=b'F' => Some(byte - b'A' + 10),
        _ => None,
    }
}

fn base64_digit(byte: u8) -> Option<u8> {
    match byte {
        b'A'..=b'Z' => Some(byte - b'A'),
        b'a'..=b'z' => Some(byte - b'a' + 26),
        b'0'..=b'9' => Some(byte - b'0' + 52),
        b'+' | b'-' => Some(62),
        b'/' | b'_' => Some(63),
        _ => None,
    }
}

/// All windows of a secret, or of a part of it that is shorter than eight bytes.
struct Windows {
    len: usize,
    /// A copy of the secret, wiped when dropped.
    sorted: Zeroizing<Vec<u64>>,
}

impl Windows {
    fn of(needle: &[u8]) -> Self {
        let len = needle.len().min(WINDOW);
        // The number of windows is known, so the vector is allocated at its final size and no
        // shorter copy of it remains in memory.
        let mut sorted: Zeroizing<Vec<u64>> = Zeroizing::new(
            needle
                .windows(len)
                .map(|window| {
                    window.iter().fold(0, |number, byte| {
                        number << 8 | u64::from(byte.to_ascii_lowercase())
                    })
                })
                .collect(),
        );
        sorted.sort_unstable();
        Self { len, sorted }
    }

    /// Calls `mark` with the range of each run that is one of the windows.
    fn mark(&self, decoded: &mut dyn Iterator<Item = Decoded>, mut mark: impl FnMut(usize, usize)) {
        let keep = u64::MAX >> (64 - 8 * self.len);
        let (mut number, mut run) = (0_u64, 0);
        let mut starts = [0; WINDOW];
        for item in decoded {
            // A secret has only visible ASCII. Most bytes that are decoded by chance are not, which
            // saves the search.
            let Some((byte, start, end)) = item.filter(|(byte, ..)| byte.is_ascii_graphic()) else {
                run = 0;
                continue;
            };
            number = (number << 8 | u64::from(byte.to_ascii_lowercase())) & keep;
            starts[run % WINDOW] = start;
            run += 1;
            if run >= self.len && self.sorted.binary_search(&number).is_ok() {
                mark(starts[(run - self.len) % WINDOW], end);
            }
        }
    }
}

#[cfg(test)]
mod tests;
