//! The pages of the documentation, whose code runs here as doctests: the crate itself renders them, and need not depend
//! on all that they name.
#![allow(
    clippy::doc_markdown,
    reason = "they are pages first, and documentation of items second"
)]

#[doc = include_str!("../../../docs/cookbook.md")]
pub mod cookbook {}

#[doc = include_str!("../../../docs/clients.md")]
pub mod clients {}

#[doc = include_str!("../../../docs/layer-order.md")]
pub mod layer_order {}

#[doc = include_str!("../../../docs/operations.md")]
pub mod operations {}

#[doc = include_str!("../../../docs/without-tower.md")]
pub mod without_tower {}

#[doc = include_str!("../../../docs/migration.md")]
pub mod migration {}
