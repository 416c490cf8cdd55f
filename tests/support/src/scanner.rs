//! Finds secrets in bytes: any eight bytes of one, as they are or encoded, in any case, whatever whitespace is between.

use std::collections::BTreeSet;

use aho_corasick::{AhoCorasick, AhoCorasickKind};
use base64::Engine;
use base64::engine::general_purpose::{STANDARD_NO_PAD, URL_SAFE_NO_PAD};

/// A part of a secret of this length is a leak of it.
const WINDOW: usize = 8;
/// The number of hits that are kept with what is around them; the others are counted.
const SHOWN: usize = 20;

/// A text to be looked for, after what it is called where it was found.
pub type Canary = (&'static str, String);

/// A place where a canary was found: its name, how it was written, and what is there and around it, without whitespace.
pub type Hit = (&'static str, &'static str, String);

/// All that is looked for, made ready to be found at once.
#[derive(Debug)]
pub struct Scanner {
    automaton: AhoCorasick,
    /// For each needle, the canary's name and how it is encoded.
    meanings: Vec<(&'static str, &'static str)>,
    longest: usize,
}

impl Scanner {
    /// Looks for each part of these texts that is a leak, in every encoding.
    pub fn new(canaries: impl IntoIterator<Item = Canary>) -> Self {
        let mut needles = Vec::new();
        for (name, secret) in canaries {
            assert!(secret.len() >= WINDOW, "{name}");
            for window in secret.as_bytes().windows(WINDOW) {
                for (encoding, needle) in encodings(window) {
                    assert!(!needle.iter().any(u8::is_ascii_whitespace));
                    needles.push((name, encoding, needle));
                }
            }
        }
        Self::of(needles)
    }

    /// Looks for texts as they are, all of each.
    pub fn whole(texts: impl IntoIterator<Item = Canary>) -> Self {
        let texts = texts.into_iter();
        let needles = texts.map(|(name, text)| (name, "as it is", text.into_bytes()));
        Self::of(needles.collect())
    }

    fn of(needles: Vec<(&'static str, &'static str, Vec<u8>)>) -> Self {
        let longest = needles.iter().map(|(_, _, needle)| needle.len()).max();
        let automaton = AhoCorasick::builder()
            .ascii_case_insensitive(true)
            // A table of all transitions would not fit into any cache.
            .kind(Some(AhoCorasickKind::ContiguousNFA))
            .build(needles.iter().map(|(_, _, needle)| needle));
        let meaning = |(canary, encoding, _)| (canary, encoding);
        Self {
            automaton: automaton.unwrap(),
            longest: longest.unwrap_or(0),
            meanings: needles.into_iter().map(meaning).collect(),
        }
    }

    /// How many patterns are looked for.
    #[must_use]
    pub fn needles(&self) -> usize {
        self.meanings.len()
    }

    /// The first few hits in these bytes.
    #[must_use]
    pub fn scan(&self, bytes: &[u8]) -> Vec<Hit> {
        let mut search = self.search();
        search.feed(bytes);
        search.hits
    }

    /// A search through bytes that come in pieces.
    #[must_use]
    pub fn search(&self) -> Search<'_> {
        Search {
            scanner: self,
            carried: Vec::new(),
            bytes: 0,
            found: 0,
            hits: Vec::new(),
            names: BTreeSet::new(),
        }
    }
}

/// A search that remembers the end of the last piece.
#[derive(Debug)]
pub struct Search<'a> {
    scanner: &'a Scanner,
    carried: Vec<u8>,
    /// How many bytes were searched.
    pub bytes: u64,
    /// How many hits there were.
    pub found: u64,
    /// The first few.
    pub hits: Vec<Hit>,
    /// The names of all canaries that were found.
    pub names: BTreeSet<&'static str>,
}

impl Search<'_> {
    /// Searches the next piece.
    pub fn feed(&mut self, piece: &[u8]) {
        self.bytes += piece.len() as u64;
        let old = self.carried.len();
        // A list that is pretty-printed, base64 in lines, a hex dump: none of it hides behind its whitespace.
        let visible = piece.iter().filter(|byte| !byte.is_ascii_whitespace());
        self.carried.extend(visible);
        for found in self.scanner.automaton.find_iter(&self.carried) {
            if found.end() <= old {
                // It was found in an earlier piece.
                continue;
            }
            let (canary, encoding) = self.scanner.meanings[found.pattern().as_usize()];
            self.found += 1;
            self.names.insert(canary);
            if self.hits.len() < SHOWN {
                let from = found.start().saturating_sub(80);
                let to = self.carried.len().min(found.end() + 80);
                let around = String::from_utf8_lossy(&self.carried[from..to]);
                self.hits.push((canary, encoding, around.into_owned()));
            }
        }
        let kept = self.carried.len().min(self.scanner.longest - 1);
        self.carried.drain(..self.carried.len() - kept);
    }
}

/// Every form in which a window may be written. Upper and lower case are one, and whitespace is left out.
#[allow(clippy::too_many_lines, reason = "a list of forms")]
fn encodings(window: &[u8]) -> Vec<(&'static str, Vec<u8>)> {
    let mut forms = vec![("as it is", window.to_vec())];
    let mut each = |name, form: &dyn Fn(u8) -> String, separator: &str| {
        let written: Vec<_> = window.iter().map(|byte| form(*byte)).collect();
        forms.push((name, written.join(separator).into_bytes()));
    };
    let hex = |byte: u8| format!("{byte:02x}");
    for separator in ["", ":", "-", ",", ";", "|"] {
        each("hex", &hex, separator);
    }
    each("hex with 0x", &|byte| format!("0x{byte:02x}"), ",");
    each("hex with 0x", &|byte| format!("0x{byte:02x}"), "");
    each("percent", &hex_after("%"), "");
    each("percent twice", &hex_after("%25"), "");
    each("quoted-printable", &hex_after("="), "");
    each("Rust or C escapes", &hex_after("\\x"), "");
    each("Rust or C escapes, escaped", &hex_after("\\\\x"), "");
    each("JSON escapes", &hex_after("\\u00"), "");
    each("JSON escapes, escaped", &hex_after("\\\\u00"), "");
    each("Rust escapes", &|byte| format!("\\u{{{byte:x}}}"), "");
    each("octal escapes", &|byte| format!("\\{byte:03o}"), "");
    each("octal escapes", &|byte| format!("\\{byte:o}"), "");
    each("HTML", &|byte| format!("&#{byte};"), "");
    each("HTML", &|byte| format!("&#x{byte:x};"), "");
    each("decimal list", &|byte| byte.to_string(), ",");
    each("decimal list", &|byte| byte.to_string(), "");
    // Where only what has to be is encoded, it is the same as it is unless there is something of that sort.
    each("percent where needed", &percent_where_needed, "");
    let escaped = |byte: u8| char::from(byte).to_string().replace('/', "\\/");
    each("JSON with slashes escaped", &escaped, "");

    let utf16 = |form: fn(u16) -> [u8; 2]| window.iter().flat_map(|b| form((*b).into())).collect();
    forms.push(("UTF-16, little endian", utf16(u16::to_le_bytes)));
    forms.push(("UTF-16, big endian", utf16(u16::to_be_bytes)));
    // As a number of eight bytes, or as two of four, on a little-endian machine.
    forms.push(("reversed", window.iter().rev().copied().collect()));
    let words = window.chunks(4).flat_map(|word| word.iter().rev().copied());
    forms.push(("words reversed", words.collect()));
    for alignment in 0..3 {
        for engine in [STANDARD_NO_PAD, URL_SAFE_NO_PAD] {
            let led = [&[0; 3][..alignment], window].concat();
            let digits = engine.encode(&led).into_bytes();
            // Only digits all of whose bits are the window's: others depend on the neighbours.
            let from = (8 * alignment).div_ceil(6);
            let to = 8 * led.len() / 6;
            forms.push(("base64", digits[from..to].to_vec()));
        }
    }
    forms.sort_by(|a, b| a.1.cmp(&b.1));
    forms.dedup_by(|a, b| a.1 == b.1);
    forms
}

fn hex_after(mark: &'static str) -> impl Fn(u8) -> String {
    move |byte| format!("{mark}{byte:02x}")
}

fn percent_where_needed(byte: u8) -> String {
    let char = char::from(byte);
    match byte {
        b'-' | b'.' | b'_' | b'~' | b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' => char.to_string(),
        _ => format!("%{byte:02x}"),
    }
}
