//! Puts workers together: everything that can fail, in the order in which failing is cheapest.

use super::RunError;
use super::capture::{Attached, FEED_BYTES, Ports, RING_BYTES_TOTAL};
use super::memory::{Budget, default_bytes};
use super::pool::{Plan, Pools};
use crate::channel::{Channel, NATIVE_TIMEOUT};
use crate::checks;
use crate::cli::{CaptureKind, Config, MAX_WORKERS};
use crate::offline;
use crate::record::{self, Recorder};
use crate::transfers::TransferTable;
use crate::worker::{Control, Egress, FragmentRules, LiveHops, LiveStats, UdpParts, WorkerParts};
use arc_swap::ArcSwap;
use common::flow::{Nanos, Share};
use common::packet::Addr;
use dataplane::afxdp::AfXdpTx;
use dataplane::bpf::Filter;
use dataplane::hops::{HopOptions, Hops};
use dataplane::iface::Interface;
use dataplane::netfilter::RawPath;
use dataplane::wake::{Waker, WakerHandle};
use dataplane::{Transmit, clock, egress, handover, placement, supply};
use session::{EngineConfig, UdpConfig};
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

/// Workers of a mirror without `--cores`: more would compete with the kernel's receive work.
const MIRROR_WORKERS: usize = 4;
/// One direction between two workers: some 180 full-sized packets, or four merged ones of 64 KiB, which
/// is what arrives while a worker naps.
const HANDOVER_RING_BYTES: usize = 256 << 10;
/// A run that only has to be started.
pub struct Assembled {
    /// By worker.
    pub parts: Vec<WorkerParts>,
    /// Core of each worker, none without `--cores`.
    pub cores: Vec<usize>,
    /// Wakes the workers.
    pub wakers: Vec<WakerHandle>,
    /// Orders to them.
    pub control: Arc<Control>,
    /// Their figures.
    pub live: Vec<Arc<LiveStats>>,
    /// The capture.
    pub attached: Attached,
    /// Where responses come by, with `--pool`.
    pub pools: Option<Pools>,
    /// The filter that the workers ask of packets that came in fragments, if there is one.
    pub filter: Option<Arc<ArcSwap<Filter>>>,
    /// The recording, if one was asked for.
    pub recorder: Option<Recorder>,
}

/// Checks, connects, resolves, attaches.
pub fn assemble(config: &Config, object: &[u8]) -> Result<Assembled, RunError> {
    // Files need no program in the kernel and no interface.
    let (iface, file_bytes) = if let Some(files) = &config.offline {
        checks::check_transmit_privileges().map_err(checks::CheckError::from)?;
        (None, offline::check(&files.files)?)
    } else {
        checks::check_privileges().map_err(checks::CheckError::from)?;
        (Some(Interface::by_name(&config.iface)?), None)
    };
    if let Some(cores) = &config.cores {
        cores.check_available()?;
    }
    let addresses = iface.iter().flat_map(|iface| &iface.addresses);
    let own: Vec<Addr> = addresses.map(|(addr, _)| *addr).collect();
    checks::check_targets(&config.transfers, &config.iface, &own)?;
    checks::check_udp_targets(
        &config.transfers,
        &config.udp_transfers,
        &config.iface,
        &own,
    )?;
    if let Some(pool) = &config.clients {
        checks::check_clients(&config.transfers, pool)?;
        checks::check_clients(&config.udp_transfers, pool)?;
    }
    if let Some(iface) = &iface
        && config.capture == CaptureKind::Mirror
        && !config.force
    {
        checks::check_mirror(iface, &config.decap)?;
    }
    if let Some(path) = &config.report {
        std::fs::OpenOptions::new()
            .create(true)
            .append(true)
            .open(path)
            .map_err(RunError::system(format!(
                "write the report {}",
                path.display()
            )))?;
    }
    if let Some(iface) = iface.as_ref().filter(|iface| !iface.up) {
        tracing::warn!(
            iface = iface.name,
            "interface is down, nothing arrives until it is up"
        );
    }
    if let Some(iface) = iface.as_ref().filter(|iface| !iface.is_ethernet) {
        let iface = iface.name.clone();
        return Err(checks::CheckError::NoEthernet { iface }.into());
    }
    if iface.as_ref().is_some_and(|iface| iface.is_loopback)
        && config.clients.is_none()
        && config.pool.is_none()
    {
        tracing::warn!(
            "clients on {} have addresses of this host, to which the target answers past intercept: -c gives them others",
            config.iface
        );
    }
    let workers = workers(config, iface.as_ref());
    let memory = config
        .memory_mib
        .map_or_else(|| default_bytes(Path::new("/")), |mib| mib << 20);
    let rings = match (&config.offline, config.capture) {
        (Some(_), _) => workers * FEED_BYTES,
        (None, CaptureKind::Tap | CaptureKind::Packet) => RING_BYTES_TOTAL,
        (None, CaptureKind::Mirror) => 0,
    };
    let rings = rings
        + config
            .record
            .as_ref()
            .map_or(0, |_| record::RING_BYTES_TOTAL);
    let rings = rings
        + config
            .pool
            .as_ref()
            .map_or(0, |_| super::pool::RING_BYTES_TOTAL);
    let mut budget = Budget::split(memory, workers, rings, HANDOVER_RING_BYTES)?;
    let udp_flows = if config.udp_transfers.is_empty() {
        0
    } else {
        budget.take_udp_flows(config.replicas)
    };
    tracing::info!(
        mib = memory >> 20,
        sessions = budget.max_sessions * workers,
        udp_flows = udp_flows * workers,
        "memory budget"
    );
    let now = clock::now();
    let mut channels = (0..workers)
        .map(|_| {
            let key = config.key.as_ref();
            Channel::connect_with(
                &config.intercepts,
                config.connections,
                config.lonely,
                key,
                now,
            )
        })
        .collect::<Result<Vec<_>, _>>()?;

    // With --lonely an intercept may come later; what it cannot carry then is counted.
    let six = config.transfers.iter().find(|t| !t.target.addr.is_v4());
    if let Some(six) = six.filter(|_| !config.lonely) {
        for channel in &mut channels {
            channel.await_native(six.target, NATIVE_TIMEOUT)?;
        }
    }
    let udp_targets = config.udp_targets();
    for channel in &mut channels {
        channel.set_udp_targets(&udp_targets);
    }
    let targets = config.all_targets();
    let mut addresses: Vec<Addr> = targets.iter().map(|t| t.addr).collect();
    addresses.dedup();
    let hops = Arc::new(Hops::start_with(HopOptions {
        targets: addresses.clone(),
        macs: config.target_macs.clone(),
        patient: config.lonely,
    })?);
    let plan = match &config.pool {
        Some(pool) => Some(Plan::new(pool, config, &hops, &addresses)?),
        None => None,
    };
    let clients = plan
        .as_ref()
        .map(|plan| plan.clients.clone())
        .or_else(|| config.clients.clone());
    let ways = egress_devices(&hops, &addresses);
    let mtu = ways.mtu.map_or(config.mtu, |way| way.min(config.mtu));
    if mtu < config.mtu {
        tracing::info!(mtu, "packets are kept to the MTU of the way to the target");
    }

    let wakers = resource(
        "make event descriptors",
        (0..workers)
            .map(|_| Waker::new())
            .collect::<Result<Vec<_>, _>>(),
    )?;
    let handles: Vec<WakerHandle> = wakers.iter().map(Waker::handle).collect();
    let handovers = resource(
        "make rings between workers",
        handover::mesh(workers, HANDOVER_RING_BYTES),
    )?;

    let transfers = Arc::new(TransferTable::new(&config.transfers));
    let udp_transfers = (!config.udp_transfers.is_empty())
        .then(|| Arc::new(TransferTable::new(&config.udp_transfers)));
    let inputs = config.offline.iter().flat_map(|files| &files.files);
    let inputs: Vec<_> = inputs.cloned().collect();
    let mut recorder = match &config.record {
        Some(recording) => Some(Recorder::create(recording, &config.source_name(), &inputs)?),
        None => None,
    };
    let mirrored_device = iface
        .as_ref()
        .filter(|_| config.capture == CaptureKind::Mirror)
        .map(|iface| iface.index)
        .filter(|index| ways.devices.contains_key(index));
    // Before: where the driver refuses XDP, generic mode switches off what it was refused for.
    let features = iface.as_ref().map(Interface::features).unwrap_or_default();
    let mut attached = match &config.offline {
        None => Attached::attach(config, object, workers, mirrored_device.is_some())?,
        Some(files) => resource(
            "make rings from the reader of files",
            Attached::files(
                config,
                files,
                file_bytes,
                offline::Rules {
                    transfers: Arc::clone(&transfers),
                    udp: udp_transfers.clone(),
                    decap: config.decap,
                    pool_is_v4: clients.as_ref().map(session::AddressPool::is_v4),
                },
                budget.buffer_bytes,
                &handles,
            ),
        )?,
    };
    let mut pools = plan
        .map(|plan| plan.attach(config, object, workers))
        .transpose()?;
    if iface.is_some() {
        warn_of_offloads(config, attached.native(), &features);
    }
    let mut ports: Vec<Ports> = (0..workers).map(|w| attached.take_ports(w)).collect();
    if let Some(recorder) = &mut recorder {
        let all = ports.iter().map(|p| p.sources.len()).sum();
        for p in &mut ports {
            recorder.tee(&mut p.sources, all);
        }
    }
    let mut egresses: Vec<Vec<(u32, Box<dyn Transmit>)>> =
        (0..workers).map(|_| Vec::new()).collect();
    let raw_path = RawPath::default();
    for (&ifindex, ifname) in &ways.devices {
        let own = mirrored_device == Some(ifindex);
        let existing: Vec<Option<AfXdpTx>> = ports
            .iter_mut()
            .map(|p| if own { p.tx.take() } else { None })
            .collect();
        // Zero-copy makes drivers rebuild their rings: not on an interface that production may use.
        let force_copy = !own;
        let opened = egress::open_all(ifname, workers, &handles, existing, force_copy, &raw_path)?;
        for (mine, port) in egresses.iter_mut().zip(opened) {
            mine.push((ifindex, port));
        }
    }
    let raw = egress::raw_all(workers, &raw_path)?;
    let served = ways.devices.keys().copied().collect();
    let supplies = resource(
        "start a thread",
        supply::start(handles.clone(), served, raw_path),
    )?;

    let filter = config.filter.clone();
    let fragments = FragmentRules {
        shard: config.shard,
        share: config.share,
        filter: filter.map(|filter| Arc::new(ArcSwap::from_pointee(filter))),
    };
    let control = Arc::new(Control::new(workers));
    let live: Vec<Arc<LiveStats>> = (0..workers).map(|_| Arc::default()).collect();
    let mut parts = Vec::with_capacity(workers);
    let per_worker = ports
        .into_iter()
        .zip(egresses)
        .zip(raw)
        .zip(supplies)
        .zip(handovers)
        .zip(channels)
        .zip(wakers)
        .zip(&live)
        .enumerate();
    for (id, (((((((ports, devices), raw), supply), handover), channel), waker), live)) in
        per_worker
    {
        let Ports { sources, .. } = ports;
        let hops = Box::new(LiveHops::new(Arc::clone(&hops)));
        let engine = EngineConfig {
            pool: clients.clone(),
            ..engine_config(config, id, workers, mtu, budget)
        };
        let udp = udp_transfers.as_ref().map(|transfers| UdpParts {
            transfers: Arc::clone(transfers),
            config: UdpConfig {
                share: config.share,
                common: engine.clone(),
                idle: nanos(config.udp_idle),
                max_flows: udp_flows,
                twins: config.offline.is_none() && config.capture == CaptureKind::Mirror,
            },
        });
        parts.push(WorkerParts {
            id: id as u32,
            workers: workers as u32,
            sources,
            pool: pools.as_mut().map_or_else(Vec::new, |p| p.take_readers(id)),
            handover,
            transfers: Arc::clone(&transfers),
            decap: config.decap,
            engine,
            udp,
            fragments: fragments.clone(),
            egress: Egress::new(&targets, devices, Some(raw), hops, Box::new(supply)),
            channel,
            waker,
            control: Arc::clone(&control),
            live: Arc::clone(live),
        });
    }
    let cores: Vec<usize> = config
        .cores
        .as_ref()
        .map(|c| c.cores().to_vec())
        .unwrap_or_default();
    if iface.is_some() {
        placement::log(&config.iface, workers, &cores, attached.sockets());
    }
    Ok(Assembled {
        parts,
        cores,
        wakers: handles,
        control,
        live,
        attached,
        pools,
        filter: fragments.filter,
        recorder,
    })
}

fn warn_of_offloads(config: &Config, native: bool, features: &[String]) {
    let filter = config.filter.as_ref().map(Filter::expression);
    for offload in checks::offloads_in_the_way(config.capture, filter, native, features) {
        let iface = &config.iface;
        tracing::warn!(
            interface = iface,
            offload = offload.feature,
            "a receive offload is in the way: {}; off by `ethtool -K {iface} {} off`, then start again",
            offload.breaks,
            offload.option
        );
    }
}

fn workers(config: &Config, iface: Option<&Interface>) -> usize {
    let queues = iface.map_or(1, |iface| iface.rx_queues as usize);
    let n = match (&config.cores, config.capture) {
        (Some(cores), _) => cores.len(),
        (None, CaptureKind::Tap | CaptureKind::Packet) => 1,
        (None, CaptureKind::Mirror) => queues.min(MIRROR_WORKERS),
    };
    n.clamp(1, MAX_WORKERS)
}

/// Devices by index with their names, and the smallest MTU on the way to any target.
struct Ways {
    devices: BTreeMap<u32, String>,
    mtu: Option<u16>,
}

fn egress_devices(hops: &Hops, addresses: &[Addr]) -> Ways {
    let table = hops.load();
    let mut ways = Ways {
        devices: BTreeMap::new(),
        mtu: None,
    };
    for hop in addresses.iter().filter_map(|a| table.get(*a)) {
        ways.mtu = Some(ways.mtu.map_or(hop.mtu, |m| m.min(hop.mtu)));
        if !hop.local {
            ways.devices.insert(hop.ifindex, hop.ifname.clone());
        }
    }
    ways
}

fn engine_config(
    config: &Config,
    id: usize,
    workers: usize,
    mtu: u16,
    budget: Budget,
) -> EngineConfig {
    EngineConfig {
        worker: id as u32,
        workers: workers as u32,
        replicas: config.replicas,
        port_shift: config.port_shift,
        // Without a ramp the kernel has chosen already, but for files.
        share: if config.ramp || config.offline.is_some() {
            config.share
        } else {
            Share::ALL
        },
        shard: config.shard,
        ramp: config.ramp,
        adopt: !config.only_whole,
        rtt: config.rtt,
        mss: config.mss.min(mtu.saturating_sub(40)),
        no_turns: config.no_turns,
        turn_limit: nanos(config.turn_limit),
        response_timeout: nanos(config.response_timeout),
        idle_timeout: nanos(config.idle_timeout),
        max_sessions: budget.max_sessions,
        buffer_bytes: budget.buffer_bytes,
        mtu,
        ..EngineConfig::default()
    }
}

fn nanos(d: Duration) -> Nanos {
    Nanos(u64::try_from(d.as_nanos()).unwrap_or(u64::MAX))
}

fn resource<T, E: Into<std::io::Error>>(what: &str, result: Result<T, E>) -> Result<T, RunError> {
    result.map_err(|e| RunError::System {
        what: what.to_owned(),
        source: e.into(),
    })
}
