//! The frames of HTTP/2 (RFC 9113), and the header fields in them with how each was encoded (RFC 7541).

use std::collections::BTreeMap;

use httlib_hpack::Decoder;

/// RFC 9113 section 3.4.
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// Kinds of frames, RFC 9113 section 6.
const DATA: u8 = 0;
const HEADERS: u8 = 1;
const SETTINGS: u8 = 4;
const PING: u8 = 6;
const WINDOW_UPDATE: u8 = 8;
pub(crate) const CONTINUATION: u8 = 9;

/// Flags of frames.
const END_STREAM: u8 = 0x1;
const END_HEADERS: u8 = 0x4;
const PADDED: u8 = 0x8;
const PRIORITY: u8 = 0x20;

/// A name, a value, and the flags of [`Decoder`] that say how the field was encoded.
pub(crate) type Field = (Vec<u8>, Vec<u8>, u8);

/// A header block: the fields of a request or response, or its trailers.
#[derive(Clone, PartialEq)]
pub(crate) struct HeaderBlock {
    stream: u32,
    ends_stream: bool,
    pub(crate) fields: Vec<Field>,
}

impl HeaderBlock {
    /// Returns whether these are not trailers, which have no pseudo-header.
    pub(crate) fn is_head(&self) -> bool {
        self.fields[0].0.starts_with(b":")
    }
}

/// The content of one direction of a connection, without what depends on the peer's speed.
#[derive(Default, PartialEq)]
pub(crate) struct Content<'a> {
    /// The kind and the bytes of each frame, except `DATA` and those of flow control.
    pub(crate) frames: Vec<(u8, &'a [u8])>,
    pub(crate) blocks: Vec<HeaderBlock>,
    /// The bytes of each stream's body, and whether their end was the stream's.
    pub(crate) bodies: BTreeMap<u32, (Vec<u8>, bool)>,
}

impl<'a> Content<'a> {
    /// Reads from the first frame on, because each header block builds on those before. A frame that was cut is left out.
    pub(crate) fn of(bytes: &'a [u8]) -> Self {
        let mut content = Self::default();
        let (mut decoder, mut encoded, mut ends_stream) = (Decoder::default(), Vec::new(), false);
        let mut rest = bytes.strip_prefix(PREFACE).unwrap_or(bytes);
        while let Some(([a, b, c, kind, flags, stream @ ..], _)) = rest.split_first_chunk::<9>() {
            let len = u32::from_be_bytes([0, *a, *b, *c]) as usize;
            let Some((frame, after)) = rest.split_at_checked(9 + len) else {
                break;
            };
            rest = after;
            let (kind, flags, payload) = (*kind, *flags, &frame[9..]);
            let stream = u32::from_be_bytes(*stream);
            if matches!(kind, DATA | HEADERS) {
                assert_eq!(flags & (PADDED | PRIORITY), 0, "neither side sends these");
                ends_stream = flags & END_STREAM != 0;
            }
            if kind == DATA {
                let (body, is_ended) = content.bodies.entry(stream).or_default();
                assert!(!*is_ended, "a stream ends once");
                body.extend(payload);
                *is_ended = ends_stream;
            }
            if matches!(kind, HEADERS | CONTINUATION) {
                encoded.extend(payload);
                if flags & END_HEADERS != 0 {
                    let mut fields = Vec::new();
                    decoder.decode(&mut encoded, &mut fields).unwrap();
                    content.blocks.push(HeaderBlock {
                        stream,
                        ends_stream,
                        fields,
                    });
                }
            }
            if !matches!(kind, DATA | SETTINGS | PING | WINDOW_UPDATE) {
                content.frames.push((kind, frame));
            }
        }
        content
    }
}
