//! What the fuzz targets run: the drivers that the replay tests of the crates include too.
#![forbid(unsafe_code)]

#[path = "../../session/tests/support/mod.rs"]
pub mod session_support;

#[path = "../../common/tests/support/mod.rs"]
pub mod common_support;

#[path = "../../channel-crypto/tests/support/mod.rs"]
pub mod sealed_support;
