//! What a route is found by.

use common::packet::Endpoint;
use std::hash::{Hash, Hasher};

/// The full 4-tuple of a session, as the target sees it. The C program keeps a 32-bit sum of it, so
/// that different sessions share a route (reference 3.2); nothing is folded here.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct RouteKey {
    /// Client, after rewriting by tcpcopy.
    pub client: Endpoint,
    /// Server under test.
    pub target: Endpoint,
}

/// Four writes instead of the derived eight: the hash is taken for every response.
impl Hash for RouteKey {
    fn hash<H: Hasher>(&self, state: &mut H) {
        state.write_u128(u128::from_ne_bytes(self.client.addr.0));
        state.write_u128(u128::from_ne_bytes(self.target.addr.0));
        state.write_u32(u32::from(self.client.port) << 16 | u32::from(self.target.port));
    }
}
