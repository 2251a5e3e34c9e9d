//! Announced sessions, in the kernel: what the program `on_target` looks packets up in.

use std::os::fd::AsFd;

use aya::maps::{HashMap, IterableMap, Map, MapData, MapError};
use common::abi::PairKey;
use common::packet::Endpoint;

use super::BpfError;
use super::error::chain;

/// Name of the map.
pub(super) const ROUTES: &str = "ROUTES";

/// A [`PairKey`] as aya takes keys.
type RawKey = [u8; size_of::<PairKey>()];

/// Names sessions to the attached program. Usable from any thread; those of [`RouteWriter::try_clone`] write to the same
/// map.
#[derive(Debug)]
pub struct RouteWriter(HashMap<MapData, RawKey, u32>);

impl RouteWriter {
    /// For the map of a loaded program.
    pub(super) fn new(map: HashMap<MapData, RawKey, u32>) -> Self {
        Self(map)
    }

    /// Another for the same map.
    pub fn try_clone(&self) -> Result<Self, BpfError> {
        const ACTION: &str = "duplicate the descriptor";
        let fd = self.0.map().fd().as_fd().try_clone_to_owned();
        let fd = fd.map_err(|e| map_error(ACTION, chain(&e)))?;
        let map = MapData::from_fd(fd)
            .and_then(Map::from_map_data)
            .and_then(HashMap::try_from);
        map.map(Self).map_err(|e| map_error(ACTION, chain(&e)))
    }

    /// From now on responses of `target` to `client` are taken. An error if the map is full.
    pub fn insert(&mut self, client: Endpoint, target: Endpoint) -> Result<(), BpfError> {
        let inserted = self.0.insert(raw(client, target), 0, 0);
        inserted.map_err(|e| map_error("insert a session", chain(&e)))
    }

    /// They go to the client again. No error if they did.
    pub fn remove(&mut self, client: Endpoint, target: Endpoint) -> Result<(), BpfError> {
        match self.0.remove(&raw(client, target)) {
            Ok(()) => Ok(()),
            Err(MapError::SyscallError(e)) if e.io_error.raw_os_error() == Some(libc::ENOENT) => {
                Ok(())
            }
            Err(e) => Err(map_error("remove a session", chain(&e))),
        }
    }
}

fn raw(client: Endpoint, target: Endpoint) -> RawKey {
    PairKey::new(client, target).to_bytes()
}

fn map_error(action: &'static str, error: String) -> BpfError {
    BpfError::Map {
        map: ROUTES,
        action,
        error,
    }
}
