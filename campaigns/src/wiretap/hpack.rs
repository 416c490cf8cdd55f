//! Header fields, and how each was represented, RFC 7541 section 6.

use httlib_hpack::Decoder;

use super::frames::{Frame, Kind};

/// A header field as it was encoded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Field {
    /// The name, in lower case as HTTP/2 has it; a colon in front for a pseudo-header.
    pub name: Vec<u8>,
    /// The value.
    pub value: Vec<u8>,
    /// How it was encoded.
    pub how: Representation,
}

/// The representations of a header field, by their first bits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Representation {
    /// `1xxxxxxx`: taken from a table.
    Indexed,
    /// `01xxxxxx`: a literal that is added to the dynamic table.
    Incremental,
    /// `0000xxxx`: a literal that is not added; who passes it on may add it.
    WithoutIndexing,
    /// `0001xxxx`: a literal that nobody on the way may add to a table.
    NeverIndexed,
}

/// A header block: the fields of a request or response, or its trailers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HeaderBlock {
    /// The stream it belongs to.
    pub stream: u32,
    /// Whether nothing follows it.
    pub ends_stream: bool,
    /// The fields in their order.
    pub fields: Vec<Field>,
}

/// Decodes all header blocks of one direction, from the first frame on, since each builds on those before.
///
/// # Panics
///
/// If a block is not HPACK.
#[must_use]
pub fn header_blocks(frames: &[Frame<'_>]) -> Vec<HeaderBlock> {
    let mut decoder = Decoder::default();
    let mut blocks = Vec::new();
    let mut open: Option<(u32, bool, Vec<u8>)> = None;
    for frame in frames {
        match frame.kind {
            Kind::Headers => {
                let ends_stream = frame.has(Frame::END_STREAM);
                open = Some((frame.stream, ends_stream, frame.content().to_vec()));
            }
            Kind::Continuation => {
                let (_, _, block) = open.as_mut().expect("a block goes on that has begun");
                block.extend_from_slice(frame.payload);
            }
            _ => continue,
        }
        if frame.has(Frame::END_HEADERS)
            && let Some((stream, ends_stream, block)) = open.take()
        {
            blocks.push(HeaderBlock {
                stream,
                ends_stream,
                fields: fields(&mut decoder, block),
            });
        }
    }
    blocks
}

fn fields(decoder: &mut Decoder<'_>, mut block: Vec<u8>) -> Vec<Field> {
    let mut fields = Vec::new();
    while let Some(&first) = block.first() {
        // The decoder takes as many as there is room for.
        let mut taken = Vec::with_capacity(1);
        decoder
            .decode_exact(&mut block, &mut taken)
            .expect("the block is HPACK");
        // None for a change of the table's size.
        for (name, value, _) in taken {
            fields.push(Field {
                name,
                value,
                how: representation(first),
            });
        }
    }
    fields
}

fn representation(first: u8) -> Representation {
    match first.leading_zeros() {
        0 => Representation::Indexed,
        1 => Representation::Incremental,
        3 => Representation::NeverIndexed,
        _ => Representation::WithoutIndexing,
    }
}
