//! What may be shown of a text that a server wrote: no echo of the credential, no invisible characters, and not much of it.
//!
//! Algorithm: the text is read as bytes in four ways (in the clear, percent-decoded, as hex digits from each of two positions,
//! as base64 digits from each of four), and every run of eight bytes is looked up among all runs of eight bytes of the secret
//! (`Windows`). Each hit marks the part of the text that it was read from; what is marked is shown as `[redacted]`. Characters
//! that do not show (control characters and Unicode's default-ignorable ones) are left out while looking, because an echo with
//! such a character between its letters looks like the secret, and are escaped when shown.
//!
//! An echo is found where it is unbroken. Base64 in lines, hex with separators and the like are not. Only as much of a text is
//! looked at as 256 shown characters and an echo come from. 8 KiB of text cost at most 0.05 ms with a key of 42 bytes, and
//! 0.18 ms with one of 4 KiB (release build; two cores of an Intel Xeon, 2026-11-26).

use zeroize::Zeroizing;

use crate::wipe::with_stack_wiped;

/// The most characters that are shown.
const MAX_SHOWN_CHARS: usize = 256;
/// How many bytes are looked at, besides four times the secret's: 256 characters without an echo come from at most 1,024.
const READ_BYTES: usize = 1280;
/// Of a text that echoes a longer secret, what follows the echo may be cut.
const LONGEST_ECHO: usize = 256;
/// So many bytes at the end of what is looked at are not shown, because an echo may begin there: seven bytes, percent-encoded.
const LOOKAHEAD: usize = 32;
/// So many bytes of the secret in a row are an echo of it.
const WINDOW: usize = 8;
/// A part of the secret that is shorter than this is not searched for: it would match by chance.
const MIN_ECHO_BYTES: usize = 4;
const REDACTED: &str = "[redacted]";

/// Shows texts of a server without echoes of a secret.
pub(crate) struct Redaction {
    /// How many bytes of a text are looked at: enough for an echo, percent-encoded, and for what follows it.
    read_bytes: usize,
    /// Of the whole secret, and of its half proper where that is too short to be found as a part of the whole.
    windows: [Option<Windows>; 2],
}

/// Lends a redaction of `secret`, and leaves no copy of it behind.
pub(crate) fn with_redaction<T>(secret: Option<&[u8]>, show: impl FnOnce(&Redaction) -> T) -> T {
    match secret {
        Some(secret) => with_stack_wiped(|| show(&Redaction::of(secret))),
        None => show(&Redaction {
            read_bytes: READ_BYTES,
            windows: [None, None],
        }),
    }
}

impl Redaction {
    fn of(secret: &[u8]) -> Self {
        // The half after the dot, or after the prefix, is the secret proper: an echo of it alone counts, however short.
        let proper = secret
            .iter()
            .position(|byte| *byte == b'.')
            .or_else(|| secret.iter().position(|byte| *byte == b'_'))
            .map_or(secret, |separator| &secret[separator + 1..]);
        let proper = (MIN_ECHO_BYTES..WINDOW)
            .contains(&proper.len())
            .then(|| Windows::of(proper));
        Self {
            read_bytes: READ_BYTES + 4 * secret.len().min(LONGEST_ECHO),
            windows: [Some(Windows::of(secret)), proper],
        }
    }

    /// Makes a server's text fit to be shown: echoes redacted, invisible characters escaped, at most 256 characters.
    pub(crate) fn presentable(&self, text: &str) -> String {
        let start = start_of(text, self.read_bytes);
        let echoes = self.find_echoes(start);
        // Of what is at the very end, it cannot be known whether an echo begins there.
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
                // Never `\t`, whose letter might complete eight bytes of the secret.
                shown.push(c.escape_unicode());
            } else if !is_echo {
                shown.push(std::iter::once(c));
            }
            at_echo = is_echo;
        }
        shown.text
    }

    /// Scheme, host and port of a destination, without userinfo, fit to be shown.
    pub(crate) fn destination(&self, scheme: Option<&str>, authority: &str) -> String {
        let after_userinfo = authority.rfind('@').map_or(0, |at| at + 1);
        let host = start_of(&authority[after_userinfo..], READ_BYTES);
        match scheme {
            Some(scheme) => {
                let scheme = start_of(scheme, READ_BYTES);
                self.presentable(&format!("{scheme}://{host}"))
            }
            None => self.presentable(host),
        }
    }

    /// Whether any of the secret is echoed in `text`, in the clear or encoded.
    pub(crate) fn finds_echo(&self, text: &str) -> bool {
        self.find_echoes(text).contains(&true)
    }

    /// Marks the bytes of `text` that repeat eight bytes or more of the secret, without regard to ASCII case: in the
    /// clear, percent-encoded, in hex, or in base64 at any alignment, standard or URL-safe.
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

/// The bytes of a text's visible characters, and where in the text each of them is.
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

/// A text that takes only so many characters, and whole pieces only.
#[derive(Default)]
struct Shown {
    text: String,
    chars: usize,
    is_full: bool,
}

impl Shown {
    fn push(&mut self, piece: impl Iterator<Item = char> + Clone) {
        let len = piece.clone().count();
        // One is kept for the mark of a cut.
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

/// Control characters, and those that Unicode calls default-ignorable, or that reorder what is around them (Unicode TR 36):
/// a reader sees the text without them.
fn is_invisible(c: char) -> bool {
    c.is_control()
        || matches!(c,
            '\u{ad}' | '\u{34f}' | '\u{61c}' | '\u{115f}'..='\u{1160}' | '\u{17b4}'..='\u{17b5}' | '\u{180b}'..='\u{180f}'
            | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{3164}'
            | '\u{fe00}'..='\u{fe0f}' | '\u{feff}' | '\u{ffa0}' | '\u{fff0}'..='\u{fffb}' | '\u{1bca0}'..='\u{1bca3}'
            | '\u{1d173}'..='\u{1d17a}' | '\u{e0000}'..='\u{e0fff}')
}

/// A byte of a decoded text, and the range of the text that it was decoded from; `None` where decoding starts anew.
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

/// Reads runs of digits as a stream of bits, starting `phase` digits into each run.
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

/// All runs of up to eight bytes of a needle, each as one number.
struct Windows {
    len: usize,
    /// Wiped when dropped: it is a copy of the secret.
    sorted: Zeroizing<Vec<u64>>,
}

impl Windows {
    fn of(needle: &[u8]) -> Self {
        let len = needle.len().min(WINDOW);
        // Collected at its final size, since the number of windows is known.
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

    /// Calls `mark` with the range of each run that is one of the needle's.
    fn mark(&self, decoded: &mut dyn Iterator<Item = Decoded>, mut mark: impl FnMut(usize, usize)) {
        let keep = u64::MAX >> (64 - 8 * self.len);
        let (mut number, mut run) = (0_u64, 0);
        let mut starts = [0; WINDOW];
        for item in decoded {
            // No secret has another byte, and most of what is decoded by chance is another one, which saves the search.
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
mod tests {
    use super::*;

    const SECRET: &[u8] = b"ak_4711abcd.S3cr3tC4nary-Value_0123";

    fn presentable(text: &str, secret: Option<&[u8]>) -> String {
        with_redaction(secret, |redaction| redaction.presentable(text))
    }

    fn shown(text: &str) -> String {
        presentable(text, Some(SECRET))
    }

    #[test]
    fn a_start_ends_between_characters() {
        for (text, len, start) in [
            ("abc", 2, "ab"),
            ("abc", 9, "abc"),
            ("a\u{20ac}b", 1, "a"),
            ("a\u{20ac}b", 2, "a"),
            ("a\u{20ac}b", 3, "a"),
            ("a\u{20ac}b", 4, "a\u{20ac}"),
            ("\u{20ac}", 0, ""),
        ] {
            assert_eq!(start_of(text, len), start, "{text} {len}");
        }
    }

    fn each_in_hex(prefix: &str) -> String {
        SECRET
            .iter()
            .flat_map(|byte| [prefix.to_owned(), format!("{byte:02x}")])
            .collect()
    }

    fn base64(bytes: &[u8], alphabet: &[u8; 64]) -> String {
        bytes
            .chunks(3)
            .flat_map(|chunk| {
                let bits = chunk
                    .iter()
                    .fold(0_u32, |bits, byte| bits << 8 | u32::from(*byte))
                    << (8 * (3 - chunk.len()));
                (0..=chunk.len()).map(move |digit| bits >> (18 - 6 * digit) & 63)
            })
            .map(|digit| char::from(alphabet[digit as usize]))
            .collect()
    }

    fn alphabet(last: [u8; 2]) -> [u8; 64] {
        let mut alphabet = [0; 64];
        for (slot, byte) in alphabet.iter_mut().zip(
            (b'A'..=b'Z')
                .chain(b'a'..=b'z')
                .chain(b'0'..=b'9')
                .chain(last),
        ) {
            *slot = byte;
        }
        alphabet
    }

    #[test]
    fn an_echo_is_redacted_in_every_encoding() {
        let secret = std::str::from_utf8(SECRET).unwrap();
        let hex = each_in_hex("");
        let percent = each_in_hex("%");
        let mixed = secret.replace('C', "%43").replace('.', "%2e");
        for (name, echo) in [
            ("raw", secret.to_owned()),
            ("upper case", secret.to_uppercase()),
            ("without its id", secret[12..].to_owned()),
            ("cut short", secret[..20].to_owned()),
            ("hex", hex.clone()),
            ("upper hex", hex.to_uppercase()),
            ("percent", percent),
            ("mixed percent", mixed),
        ] {
            assert_eq!(
                shown(&format!("no such key: {echo} (sorry)")),
                "no such key: [redacted] (sorry)",
                "{name}"
            );
        }
        for last in [*b"+/", *b"-_"] {
            for lead in 0..3 {
                let mut bytes = vec![b'#'; lead];
                bytes.extend_from_slice(SECRET);
                let echo = base64(&bytes, &alphabet(last));
                let text = shown(&format!("key {echo}!"));
                // The digits at the rim carry bits of the neighbours and may stay; eight of the secret's bytes may not.
                assert!(text.contains(REDACTED), "{lead} {text}");
                assert!(text.len() < "key [redacted]!".len() + 8, "{lead} {text}");
            }
        }
    }

    #[test]
    fn hex_at_an_odd_place_is_redacted() {
        assert_eq!(shown(&format!("f{}", each_in_hex(""))), "f[redacted]");
    }

    #[test]
    fn a_short_secret_is_redacted_too() {
        for (text, secret, shown) in [
            ("bad abcde.", "ak_id.abcde", "bad [redacted]."),
            ("bad pat_x!", "pat_x", "bad [redacted]!"),
            ("bad abcd!", "pat_abcd", "bad [redacted]!"),
            // Two digits of it are a percent-encoded byte, if one likes.
            ("bad %abcdef01", "ak_id.abcdef01", "bad %[redacted]"),
        ] {
            assert_eq!(presentable(text, Some(secret.as_bytes())), shown);
        }
    }

    #[test]
    fn digits_that_are_no_letters_belong_to_base64_too() {
        for last in [*b"+/", *b"-_"] {
            let echo = base64(b"~~~~~~~~~~~~", &alphabet(last));
            let text = presentable(&echo, Some(b"ak_id.~~~~~~~~~~~~"));
            assert_eq!(text, REDACTED, "{echo}");
        }
    }

    #[test]
    fn what_follows_a_long_echo_is_shown_up_to_secrets_of_256_bytes() {
        let secret = format!("ak_id.{}", "c2VjcmV0".repeat(31));
        let text = format!("{secret} {secret} is unknown");
        assert_eq!(
            presentable(&text, Some(secret.as_bytes())),
            "[redacted] [redacted] is unknown"
        );
        let secret = format!("ak_id.{}", "c2VjcmV0".repeat(500));
        let text = format!("{secret} is unknown");
        assert_eq!(presentable(&text, Some(secret.as_bytes())), "[redacted]…");
    }

    #[test]
    fn innocent_text_stays() {
        for text in [
            "Token is missing organization claim.",
            "Überraschung: ak_ keys start with ak_",
            "100% of %zz",
            "",
        ] {
            assert_eq!(shown(text), text);
        }
    }

    #[test]
    fn deceptive_characters_are_escaped() {
        assert_eq!(
            presentable("a\x1b[31mb\r\nc\u{202e}d\u{200b}\u{feff}é", None),
            "a\\u{1b}[31mb\\u{d}\\u{a}c\\u{202e}d\\u{200b}\\u{feff}é"
        );
    }

    #[test]
    fn characters_that_do_not_show_are_escaped_and_hide_no_echo() {
        let hidden = "\u{ad}\u{34f}\u{61c}\u{115f}\u{1160}\u{17b4}\u{180b}\u{180e}\u{200b}\u{200d}\u{202e}\u{2060}\u{2066}\
            \u{3164}\u{fe00}\u{fe0f}\u{feff}\u{ffa0}\u{fff0}\u{1bca0}\u{1d173}\u{e0001}\u{e0100}\u{e0fff}\0\t\x1b\x7f\u{85}";
        for c in hidden.chars() {
            assert_eq!(
                shown(&format!("a{c}b")),
                format!("a\\u{{{:x}}}b", u32::from(c))
            );
            for echo in [std::str::from_utf8(SECRET).unwrap(), &each_in_hex("")] {
                let echo: String = echo.chars().flat_map(|letter| [letter, c, c]).collect();
                let text = shown(&format!("key {echo}!"));
                let end = format!("\\u{{{:x}}}!", u32::from(c))
                    .repeat(2)
                    .replacen('!', "", 1);
                assert_eq!(text, format!("key {REDACTED}{end}"));
            }
        }
    }

    #[test]
    fn an_escape_does_not_complete_an_echo() {
        assert_eq!(shown("bad \tC4nary-"), "bad \\u{9}C4nary-");
    }

    #[test]
    fn no_more_than_256_characters_are_shown() {
        let exact = "x".repeat(255);
        assert_eq!(presentable(&exact, None), exact);
        for text in [
            "x".repeat(300),
            "\u{202e}".repeat(300),
            "é".repeat(20_000),
            "x".repeat(100_000),
        ] {
            let shown = presentable(&text, None);
            assert!(
                shown.chars().count() <= 256 && shown.ends_with('…'),
                "{}",
                shown.chars().count()
            );
        }
        // A secret at the cut is redacted before it could be cut in two.
        let shown = presentable(
            &format!("{}{}", "x".repeat(250), "ak_4711abcd.S3cr3tC4nary"),
            Some(SECRET),
        );
        assert!(!shown.contains("ak_4"), "{shown}");
    }
}
