//! The frames of HTTP/2 (RFC 9113), and the header fields in them with how each was encoded (RFC 7541).

use httlib_hpack::Decoder;

/// RFC 9113 section 3.4.
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// Kinds of frames, RFC 9113 section 6.
pub(crate) const DATA: u8 = 0;
const HEADERS: u8 = 1;
pub(crate) const SETTINGS: u8 = 4;
pub(crate) const PING: u8 = 6;
pub(crate) const WINDOW_UPDATE: u8 = 8;
pub(crate) const CONTINUATION: u8 = 9;

/// Flags of frames.
pub(crate) const END_STREAM: u8 = 0x1;
const END_HEADERS: u8 = 0x4;
const PADDED: u8 = 0x8;
const PRIORITY: u8 = 0x20;

#[derive(Clone, Copy, PartialEq)]
pub(crate) struct Frame<'a> {
    pub(crate) kind: u8,
    flags: u8,
    pub(crate) stream: u32,
    payload: &'a [u8],
}

impl<'a> Frame<'a> {
    pub(crate) fn has(&self, flag: u8) -> bool {
        self.flags & flag != 0
    }

    /// Returns the payload without padding and priority.
    pub(crate) fn content(&self) -> &'a [u8] {
        let mut content = self.payload;
        if matches!(self.kind, DATA | HEADERS) && self.has(PADDED) {
            content = &content[1..content.len() - usize::from(content[0])];
        }
        if self.kind == HEADERS && self.has(PRIORITY) {
            content = &content[5..];
        }
        content
    }
}

/// Splits the bytes of one direction into frames. A frame that was cut is left out.
pub(crate) fn frames(bytes: &[u8]) -> Vec<Frame<'_>> {
    let mut rest = bytes.strip_prefix(PREFACE).unwrap_or(bytes);
    let mut frames = Vec::new();
    while let Some((head, after)) = rest.split_at_checked(9) {
        let len = u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize;
        let Some((payload, after)) = after.split_at_checked(len) else {
            break;
        };
        frames.push(Frame {
            kind: head[3],
            flags: head[4],
            stream: u32::from_be_bytes([head[5] & 0x7f, head[6], head[7], head[8]]),
            payload,
        });
        rest = after;
    }
    frames
}

/// A header field as it was encoded.
#[derive(Clone, PartialEq)]
pub(crate) struct Field {
    pub(crate) name: String,
    pub(crate) value: String,
    pub(crate) encoding: Encoding,
}

/// RFC 7541 section 6: the representations of a header field, by their first bits.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Encoding {
    /// `1xxxxxxx`: taken from a table.
    Indexed,
    /// `01xxxxxx`: a literal that is added to the dynamic table.
    Incremental,
    /// `0000xxxx`: a literal that is not added. An intermediary may add it to its own table.
    WithoutIndexing,
    /// `0001xxxx`: a literal that no intermediary may add to a table.
    NeverIndexed,
}

/// A header block: the fields of a request or response, or its trailers.
#[derive(Clone, PartialEq)]
pub(crate) struct HeaderBlock {
    pub(crate) stream: u32,
    pub(crate) ends_stream: bool,
    pub(crate) fields: Vec<Field>,
}

impl HeaderBlock {
    /// Returns whether these are not trailers, which have no pseudo-header.
    pub(crate) fn is_head(&self) -> bool {
        self.fields[0].name.starts_with(':')
    }
}

/// Decodes all header blocks of one direction, from its first frame on, because each block builds on those before.
pub(crate) fn header_blocks(frames: &[Frame<'_>]) -> Vec<HeaderBlock> {
    let mut decoder = Decoder::default();
    let mut blocks = Vec::new();
    let (mut encoded, mut ends_stream) = (Vec::new(), false);
    for frame in frames {
        match frame.kind {
            HEADERS => ends_stream = frame.has(END_STREAM),
            CONTINUATION => {}
            _ => continue,
        }
        encoded.extend_from_slice(frame.content());
        if frame.has(END_HEADERS) {
            blocks.push(HeaderBlock {
                stream: frame.stream,
                ends_stream,
                fields: fields(&mut decoder, std::mem::take(&mut encoded)),
            });
        }
    }
    blocks
}

fn fields(hpack: &mut Decoder<'_>, mut block: Vec<u8>) -> Vec<Field> {
    let mut fields = Vec::new();
    while let Some(&first) = block.first() {
        // The decoder fills the vector's capacity. It yields nothing for a change of the table's size.
        let mut decoded = Vec::with_capacity(1);
        hpack.decode_exact(&mut block, &mut decoded).unwrap();
        fields.extend(decoded.into_iter().map(|(name, value, _)| Field {
            name: String::from_utf8(name).unwrap(),
            value: String::from_utf8(value).unwrap(),
            encoding: match first.leading_zeros() {
                0 => Encoding::Indexed,
                1 => Encoding::Incremental,
                3 => Encoding::NeverIndexed,
                _ => Encoding::WithoutIndexing,
            },
        }));
    }
    fields
}
