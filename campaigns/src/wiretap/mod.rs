//! What goes over a connection in a test: recorded both ways by a proxy, and taken apart into HTTP/2 frames and header
//! fields, each with the way in which it was encoded.

mod frames;
mod hpack;
mod tap;

pub use frames::{Frame, Kind, PREFACE, frames};
pub use hpack::{Field, HeaderBlock, Representation, header_blocks};
pub use tap::{Recorded, Tap};
