//! The frames of HTTP/2, RFC 9113 section 4.

/// What a client's side of a connection begins with, RFC 9113 section 3.4.
pub const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

const PADDED: u8 = 0x8;
const PRIORITY: u8 = 0x20;

/// A frame, borrowed from the bytes of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Frame<'a> {
    /// The kind.
    pub kind: Kind,
    /// The flags, whose meaning is the kind's.
    pub flags: u8,
    /// The stream, 0 for the connection itself.
    pub stream: u32,
    /// All of the payload, padding included.
    pub payload: &'a [u8],
}

/// The kinds of frames that a campaign tells apart, RFC 9113 section 6.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A piece of a body.
    Data,
    /// The beginning of a header block, or all of it.
    Headers,
    /// Settings, or their acknowledgement.
    Settings,
    /// A ping, or its answer.
    Ping,
    /// Room for more bytes.
    WindowUpdate,
    /// More of a header block.
    Continuation,
    /// Any other kind.
    Other(u8),
}

impl Frame<'_> {
    /// The last frame of its stream in this direction.
    pub const END_STREAM: u8 = 0x1;
    /// The last frame of its header block.
    pub const END_HEADERS: u8 = 0x4;

    /// Whether one of the flags is set.
    #[must_use]
    pub fn has(&self, flag: u8) -> bool {
        self.flags & flag != 0
    }

    /// The payload of a `DATA` or `HEADERS` frame without its padding and priority; of others all of it.
    #[must_use]
    pub fn content(&self) -> &[u8] {
        let mut content = self.payload;
        if matches!(self.kind, Kind::Data | Kind::Headers) && self.has(PADDED) {
            let padding = usize::from(content[0]);
            content = &content[1..content.len() - padding];
        }
        if self.kind == Kind::Headers && self.has(PRIORITY) {
            content = &content[5..];
        }
        content
    }
}

/// Takes the bytes of one direction apart, the preface left out if it is there. A frame that was cut is left out.
#[must_use]
pub fn frames(bytes: &[u8]) -> Vec<Frame<'_>> {
    let mut rest = bytes.strip_prefix(PREFACE).unwrap_or(bytes);
    let mut frames = Vec::new();
    while let Some((head, after)) = rest.split_at_checked(9) {
        let len = u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize;
        let Some((payload, after)) = after.split_at_checked(len) else {
            break;
        };
        frames.push(Frame {
            kind: kind(head[3]),
            flags: head[4],
            stream: u32::from_be_bytes([head[5] & 0x7f, head[6], head[7], head[8]]),
            payload,
        });
        rest = after;
    }
    frames
}

fn kind(code: u8) -> Kind {
    match code {
        0 => Kind::Data,
        1 => Kind::Headers,
        4 => Kind::Settings,
        6 => Kind::Ping,
        8 => Kind::WindowUpdate,
        9 => Kind::Continuation,
        other => Kind::Other(other),
    }
}
