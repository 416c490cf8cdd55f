//! The pages of the documentation, compiled for rustdoc only. Their links need every feature, so
//! they are rendered only if all features are enabled. Their code runs as doctests of the package
//! in tests/pages.

/// Complete programs for hyper, reqwest and axum, with every crate and feature named.
///
#[doc = include_str!("../docs/clients.md")]
///
/// See also: [`AnyreachAuthLayer`](crate::AnyreachAuthLayer),
/// [`RefreshPolicy`](crate::retry::RefreshPolicy),
/// [`FakeAnyreach`](crate::test_util::FakeAnyreach), [the order of layers](crate::layer_order).
#[cfg_attr(docsrs, doc(auto_cfg = false))]
pub mod clients {}

/// Recipes for tenants, rotation, tests, proxies, uploads, denials and logs.
///
#[doc = include_str!("../docs/cookbook.md")]
///
/// See also: [`CredentialStore`](crate::CredentialStore),
/// [`FileSource`](crate::source::FileSource), [`RefreshPolicy`](crate::retry::RefreshPolicy),
/// [`FakeAnyreach`](crate::test_util::FakeAnyreach),
/// [`check_stack`](crate::test_util::check_stack), [`Origin::insecure`](crate::Origin::insecure),
/// [`Anonymous`](crate::Anonymous), [`Denial`](crate::Denial), [`Error::find`](crate::Error::find),
/// [the events](crate#events).
#[cfg_attr(docsrs, doc(auto_cfg = false))]
pub mod cookbook {}

/// The place of the layer in a stack, and what goes wrong elsewhere.
///
#[doc = include_str!("../docs/layer-order.svg")]
///
/// <!-- What follows is for readers of the file itself, and ends where this comment does.
#[doc = include_str!("../docs/layer-order.md")]
///
/// See also: [`AnyreachAuth`](crate::AnyreachAuth), [`RefreshPolicy`](crate::retry::RefreshPolicy),
/// [`check_stack`](crate::test_util::check_stack).
#[cfg_attr(docsrs, doc(auto_cfg = false))]
pub mod layer_order {}

/// Migration from headers by hand, tower-http's layers or reqwest.
///
#[doc = include_str!("../docs/migration.md")]
///
/// See also: [`AnyreachAuthLayer`](crate::AnyreachAuthLayer), [`Error`](crate::Error),
/// [`CallerHeaders`](crate::CallerHeaders), [`ForeignRequests`](crate::ForeignRequests),
/// [`DeniedResponses`](crate::DeniedResponses), [`Anonymous`](crate::Anonymous),
/// [`Origin`](crate::Origin), [the order of layers](crate::layer_order).
#[cfg_attr(docsrs, doc(auto_cfg = false))]
pub mod migration {}

/// Delivery and intervals, rotation order, failures, readiness, alerts and logs.
///
#[doc = include_str!("../docs/operations.md")]
///
/// See also: [`CredentialStore`](crate::CredentialStore), [`StoreStatus`](crate::StoreStatus),
/// [`Loader`](crate::Loader), [`Denial::renewed`](crate::Denial::renewed),
/// [the events](crate#events).
#[cfg_attr(docsrs, doc(auto_cfg = false))]
pub mod operations {}

/// The cost of a request, compared with the layers of other crates, and how it was measured.
///
#[doc = include_str!("../docs/pictures/instructions.svg")]
///
/// <!-- What follows is for readers of the file itself, and ends where this comment does.
#[doc = include_str!("../docs/performance.md")]
#[cfg_attr(docsrs, doc(auto_cfg = false))]
pub mod performance {}

/// The decision about a request and the reading of its response, for clients without Tower.
///
#[doc = include_str!("../docs/without-tower.md")]
///
/// See also: [`AnyreachAuthLayer::authorize`](crate::AnyreachAuthLayer::authorize),
/// [`Authorized::on_response`](crate::Authorized::on_response), [`Answer`](crate::Answer),
/// [`UnreadDenial`](crate::UnreadDenial), [`Denial`](crate::Denial), [`Error`](crate::Error).
#[cfg_attr(docsrs, doc(auto_cfg = false))]
pub mod without_tower {}
