//! Loading an object and filling its maps.

use std::hash::{BuildHasher, Hasher, RandomState};

use aya::maps::{HashMap, Map, MapData, MapError};
use aya::{Ebpf, EbpfLoader};
use common::abi::{
    DecapConfig, EndpointKey, MAX_ENDPOINTS, MAX_FEW, ProgramConfig, config_flags, fragment_slots,
};
use common::flow::Share;
use common::packet::{Endpoint, protocol};
use rustix::process::{Resource, Rlimit, setrlimit};

use super::error::chain;
use super::filter::Hook;
use super::{BpfError, programs};

/// Bytes of the log ring when packets are not logged: the smallest there is.
const UNUSED_LOG_BYTES: u32 = 65_536;

/// An [`EndpointKey`] as aya takes keys.
pub(super) type RawKey = [u8; size_of::<EndpointKey>()];

/// What is captured of UDP, beside the TCP rules of the same name.
#[derive(Clone, Copy, Debug, Default)]
pub struct UdpRules<'a> {
    /// Online endpoints; `Addr::ANY` for any address.
    pub transfers: &'a [Endpoint],
    /// Endpoints whose datagrams are never captured.
    pub targets: &'a [Endpoint],
}

impl UdpRules<'_> {
    /// The bit of the program's configuration.
    pub(super) fn flag(&self) -> u32 {
        if self.transfers.is_empty() {
            0
        } else {
            config_flags::UDP_RULES
        }
    }
}

/// Loads the object's maps; programs are loaded by their owners.
pub(super) fn load(
    object: &[u8],
    config: ProgramConfig,
    sizes: &[(&'static str, u32)],
) -> Result<Ebpf, BpfError> {
    load_with(object, config, &DecapConfig::NONE, sizes)
}

/// The same for the mirror, which opens tunnels.
pub(super) fn load_with(
    object: &[u8],
    config: ProgramConfig,
    decap: &DecapConfig,
    sizes: &[(&'static str, u32)],
) -> Result<Ebpf, BpfError> {
    // Of tcpcopy's object only.
    load_globals(object, config, "DECAP", bytemuck::bytes_of(decap), sizes)
}

/// The same with another global of tcpcopy's object.
pub(super) fn load_globals(
    object: &[u8],
    config: ProgramConfig,
    global: &str,
    value: &[u8],
    sizes: &[(&'static str, u32)],
) -> Result<Ebpf, BpfError> {
    // Kernels before 5.11 charge maps, and all charge AF_XDP frames, against this limit. Without the
    // privilege to raise it the later steps say what is missing.
    let _ = setrlimit(
        Resource::Memlock,
        Rlimit {
            current: None,
            maximum: None,
        },
    );
    let mut loader = EbpfLoader::new();
    loader.override_global("CONFIG", bytemuck::bytes_of(&config), true);
    loader.override_global(global, value, false);
    for (map, entries) in sizes {
        loader.map_max_entries(map, *entries);
    }
    loader.load(object).map_err(|e| BpfError::from_object(&e))
}

/// The configuration of a program.
pub(super) fn config(
    workers: u32,
    cpus: u32,
    log_packets: bool,
    rules: &[Endpoint],
    targets: &[Endpoint],
) -> ProgramConfig {
    let any = |list: &[Endpoint]| list.iter().any(|e| e.addr.is_any());
    let mut flags = config_flags::XDP_META;
    for (on, bit) in [
        (log_packets, config_flags::LOG_PACKETS),
        (any(rules), config_flags::ANY_RULES),
        (
            rules.iter().any(|e| !e.addr.is_any()),
            config_flags::EXACT_RULES,
        ),
        (any(targets), config_flags::ANY_TARGETS),
        (covered(rules, targets), config_flags::COVERED_TARGETS),
        // x86-TSO; elsewhere it is not known.
        (cfg!(target_arch = "x86_64"), config_flags::STORES_IN_ORDER),
    ] {
        if on {
            flags |= bit;
        }
    }
    // Zero is what fresh frames hold.
    let cookie = (RandomState::new().build_hasher().finish() as u32).max(1);
    ProgramConfig {
        workers: workers.max(1),
        flags,
        cookie,
        cpus,
        shard: 0,
        shards: 1,
        share: Share::ALL.as_thousandths(),
        ring_blocks: 1,
        few_count: 0,
        reserved: 0,
        few: [0; MAX_FEW],
    }
    .with_rules(rules)
}

/// Something that goes to a target matches a rule. An address that is any meets all others.
fn covered(rules: &[Endpoint], targets: &[Endpoint]) -> bool {
    targets.iter().any(|t| {
        rules
            .iter()
            .any(|r| r.port == t.port && (r.addr == t.addr || r.addr.is_any() || t.addr.is_any()))
    })
}

/// The size that turns the log ring off, as far as that goes.
pub(super) fn log_size(log_packets: bool) -> Option<(&'static str, u32)> {
    (!log_packets).then_some(("AYA_LOGS", UNUSED_LOG_BYTES))
}

/// Fills an endpoint map with TCP endpoints; the values are the indices in `endpoints`.
pub(super) fn put_endpoints(
    ebpf: &mut Ebpf,
    name: &'static str,
    endpoints: &[Endpoint],
) -> Result<(), BpfError> {
    put_keys(ebpf, name, endpoints, EndpointKey::new)
}

/// Adds the rules for UDP, if there are any, and the programs that look at it: the configuration must have
/// the flag. `programs` are named by [`common::abi::udp_slots`].
pub(super) fn put_udp(
    ebpf: &mut Ebpf,
    udp: &UdpRules<'_>,
    hook: Hook,
    programs: &[(u32, &str)],
) -> Result<(), BpfError> {
    if udp.flag() == 0 {
        return Ok(());
    }
    put_keys(ebpf, "TRANSFERS", udp.transfers, EndpointKey::udp)?;
    put_keys(ebpf, "TARGETS", udp.targets, EndpointKey::udp)?;
    programs::install(ebpf, hook, "UDP", programs)
}

/// Adds the addresses of transfers and the program that looks at the fragments that go there.
pub(super) fn put_fragments(
    ebpf: &mut Ebpf,
    tcp: &[Endpoint],
    udp: &UdpRules<'_>,
    hook: Hook,
    program: &str,
) -> Result<(), BpfError> {
    let keys = |protocol| move |e: Endpoint| EndpointKey::address(e.addr, protocol);
    put_keys(ebpf, "ADDRESSES", tcp, keys(protocol::TCP))?;
    put_keys(ebpf, "ADDRESSES", udp.transfers, keys(protocol::UDP))?;
    let programs = [(fragment_slots::CAPTURE, program)];
    programs::install(ebpf, hook, "FRAGMENTS", &programs)
}

pub(super) fn put_keys(
    ebpf: &mut Ebpf,
    name: &'static str,
    endpoints: &[Endpoint],
    key: impl Fn(Endpoint) -> EndpointKey,
) -> Result<(), BpfError> {
    if endpoints.len() > MAX_ENDPOINTS as usize {
        return Err(BpfError::TooManyEndpoints {
            map: name,
            got: endpoints.len(),
            max: MAX_ENDPOINTS,
        });
    }
    let mut map: HashMap<_, RawKey, u32> = borrow(ebpf, name)?;
    for (index, endpoint) in endpoints.iter().enumerate() {
        let key: RawKey = bytemuck::cast(key(*endpoint));
        map.insert(key, index as u32, 0)
            .map_err(|e| BpfError::Map {
                map: name,
                action: "insert an endpoint",
                error: chain(&e),
            })?;
    }
    Ok(())
}

/// Takes a map out of the object; its programs must be loaded, or the map kept open until they are.
pub(super) fn take<T: TryFrom<Map, Error = MapError>>(
    ebpf: &mut Ebpf,
    name: &'static str,
) -> Result<T, BpfError> {
    let map = ebpf.take_map(name).ok_or_else(|| no_map(name))?;
    T::try_from(map).map_err(|e| wrong_map(name, &e))
}

/// A map of the object.
pub(super) fn borrow<'a, T: TryFrom<&'a mut Map, Error = MapError>>(
    ebpf: &'a mut Ebpf,
    name: &'static str,
) -> Result<T, BpfError> {
    let map = ebpf.map_mut(name).ok_or_else(|| no_map(name))?;
    T::try_from(map).map_err(|e| wrong_map(name, &e))
}

/// The data of an array, for its descriptor.
pub(super) fn data<'a>(ebpf: &'a Ebpf, name: &'static str) -> Result<&'a MapData, BpfError> {
    match ebpf.map(name) {
        Some(Map::Array(data)) => Ok(data),
        Some(_) => Err(BpfError::Object {
            reason: format!("map {name} is no array"),
        }),
        None => Err(no_map(name)),
    }
}

fn wrong_map(name: &str, error: &MapError) -> BpfError {
    BpfError::Object {
        reason: format!("map {name}: {}", chain(error)),
    }
}

fn no_map(name: &str) -> BpfError {
    BpfError::Object {
        reason: format!("it has no map {name}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use common::packet::Addr;

    #[test]
    fn targets_are_looked_at_where_a_transfer_covers_one() {
        let at = |n, port| Endpoint::new(Addr::v4([10, 0, 0, n]), port);
        let any = |port| Endpoint::new(Addr::ANY, port);
        for (rules, targets, expected) in [
            (vec![any(80)], vec![at(30, 8080)], false),
            (vec![any(80)], vec![at(30, 80)], true),
            (vec![at(20, 80)], vec![at(30, 80)], false),
            (
                vec![at(20, 80), any(81)],
                vec![at(30, 80), at(31, 81)],
                true,
            ),
            (vec![at(20, 80)], vec![any(80)], true),
            (vec![at(20, 80)], vec![at(20, 80)], true),
            (vec![any(80)], vec![], false),
        ] {
            let flags = config(1, 1, false, &rules, &targets).flags;
            let got = flags & config_flags::COVERED_TARGETS != 0;
            assert_eq!(got, expected, "{rules:?} {targets:?}");
        }
    }
}
