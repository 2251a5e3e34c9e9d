//! The attached capture program, whichever it is, or the files that stand for one.

use crate::cli::{CaptureKind, Config, Deny, Offline, Speed};
use crate::offline::{Replayer, Rules};
use crate::selection::Selection;
use crate::worker::Counter;
use common::abi::{StreamKey, StreamState};
use common::flow::{Block, Shard};
use dataplane::Capture;
use dataplane::afxdp::AfXdpTx;
use dataplane::bpf::mirror::{Mirror, MirrorConfig};
use dataplane::bpf::tap::{Tap, TapConfig};
use dataplane::bpf::{BpfError, Filter, PacketTap, Sessions, UdpRules};
use dataplane::feed::{self, Pace};
use dataplane::placement::QueueSocket;
use dataplane::wake::WakerHandle;

/// All rings of a tap together (design 3.1): 35,000 packets of 1400 bytes, half a million of 64.
pub(super) const RING_BYTES_TOTAL: usize = 64 << 20;

/// The ring from the reader of files to one worker: how far it reads ahead. Four of the largest packets
/// that are read (1 MiB), so that each fits.
pub(super) const FEED_BYTES: usize = 4 << 20;
/// With `--topspeed`, captured bytes that a worker's engine holds before it leaves the rest in the ring:
/// a thousand requests under way, in blocks of 256 bytes. More would wait for their turn, or for a place in
/// the target's accept queue.
const TOP_SPEED_BYTES: usize = 256 << 10;

/// What one worker gets.
#[derive(Default)]
pub struct Ports {
    /// Its captures.
    pub sources: Vec<Box<dyn Capture>>,
    /// The transmit side of its first queue, with `mirror`.
    pub tx: Option<AfXdpTx>,
}

/// Keeps the programs attached as long as it lives.
pub enum Attached {
    /// Copies.
    Tap(Tap),
    /// The same without tcx.
    Packet(PacketTap),
    /// Takes away.
    Mirror(Mirror),
    /// Captures nothing.
    Files {
        /// Reads them.
        replayer: Replayer,
        /// Which sessions this instance replays, of those that are not denied.
        shard: Shard,
        /// By worker, until they are taken.
        feeds: Vec<Option<Box<dyn Capture>>>,
    },
}

impl Attached {
    /// Loads and attaches for `workers` workers. `also_tx`: segments leave by the mirror interface too.
    pub fn attach(
        config: &Config,
        object: &[u8],
        workers: usize,
        also_tx: bool,
    ) -> Result<Self, BpfError> {
        let (transfers, targets) = (config.online(), config.targets());
        let (transfers, targets) = (transfers.as_slice(), targets.as_slice());
        let udp = UdpRules {
            transfers: &config.udp_online(),
            targets: &config.udp_targets(),
        };
        let ifname = config.iface.as_str();
        // With a ramp too: what is beyond the final share is never replayed. What is within it and not
        // yet the engine leaves out, since only it knows which sessions it has opened.
        let sessions = Sessions {
            shard: config.shard,
            share: config.share,
            deny: config.deny.as_ref().map(Deny::blocks),
        };
        let filter = config.filter.as_ref();
        let workers = workers as u32;
        // Off unless asked for: each packet would cost a record.
        let log_packets = config.log_level >= operator::log::LogLevel::Debug;
        let tap = TapConfig {
            ifname,
            direction: config.direction,
            workers,
            transfers,
            targets,
            sessions,
            filter,
            udp,
            ring_bytes_total: RING_BYTES_TOTAL,
            log_packets,
        };
        Ok(match config.capture {
            CaptureKind::Tap => match Tap::attach(object, &tap) {
                Ok(tap) => Self::Tap(tap),
                Err(missing @ BpfError::NoTcx { .. }) => {
                    tracing::warn!(
                        "{missing}: capturing by packet sockets (AF_PACKET) instead, as with `--capture packet`: \
                         every packet of this host is looked at with helper calls, and what is captured comes some \
                         milliseconds later"
                    );
                    Self::Packet(PacketTap::attach(object, &tap)?)
                }
                Err(error) => return Err(error),
            },
            CaptureKind::Packet => Self::Packet(PacketTap::attach(object, &tap)?),
            CaptureKind::Mirror => Self::Mirror(Mirror::attach(
                object,
                &MirrorConfig {
                    ifname,
                    workers,
                    transfers,
                    targets,
                    sessions,
                    filter,
                    udp,
                    decap: &config.decap,
                    also_tx,
                    log_packets,
                },
            )?),
        })
    }

    /// The same for files of `total` bytes, for a worker each of `wakers`.
    pub fn files(
        config: &Config,
        offline: &Offline,
        total: Option<u64>,
        rules: Rules,
        buffer_bytes: usize,
        wakers: &[WakerHandle],
    ) -> Result<Self, rustix::io::Errno> {
        let (pace, waits_at) = match offline.speed {
            Speed::Paced { .. } => (Pace::Due, buffer_bytes / 2),
            Speed::Top => (Pace::AtOnce, TOP_SPEED_BYTES.min(buffer_bytes / 2)),
        };
        let (mut senders, mut feeds) = (Vec::new(), Vec::new());
        for waker in wakers {
            let (sender, feed) = feed::feed(FEED_BYTES, pace, waits_at, waker.clone())?;
            senders.push(sender);
            feeds.push(Some(Box::new(feed) as Box<dyn Capture>));
        }
        Ok(Self::Files {
            replayer: Replayer::new(
                offline,
                total,
                rules,
                Selection::new(config.shard, config.deny.as_ref().map_or(&[], Deny::blocks)),
                config.filter.clone(),
                senders,
            ),
            shard: config.shard,
            feeds,
        })
    }

    /// The AF_XDP sockets of a mirror's queues; none otherwise.
    pub fn sockets(&self) -> &[QueueSocket] {
        match self {
            Self::Mirror(mirror) => mirror.sockets(),
            Self::Tap(_) | Self::Packet(_) | Self::Files { .. } => &[],
        }
    }

    /// False if the driver refused a mirror's program and the stack runs it.
    pub fn native(&self) -> bool {
        match self {
            Self::Mirror(mirror) => mirror.native(),
            Self::Tap(_) | Self::Packet(_) | Self::Files { .. } => true,
        }
    }

    /// The reader of files, if there is one.
    pub fn replayer(&mut self) -> Option<&mut Replayer> {
        match self {
            Self::Files { replayer, .. } => Some(replayer),
            Self::Tap(_) | Self::Packet(_) | Self::Mirror(_) => None,
        }
    }

    /// The ports of a worker; each can be taken once.
    pub fn take_ports(&mut self, worker: usize) -> Ports {
        let mut ports = Ports::default();
        if let Self::Files { feeds, .. } = self {
            ports
                .sources
                .extend(feeds.get_mut(worker).and_then(Option::take));
        }
        let worker = worker as u32;
        match self {
            Self::Files { .. } => {}
            Self::Tap(tap) => {
                let reader = tap
                    .take_reader(worker)
                    .map(|r| Box::new(r) as Box<dyn Capture>);
                ports.sources.extend(reader);
            }
            Self::Packet(tap) => {
                let reader = tap
                    .take_reader(worker)
                    .map(|r| Box::new(r) as Box<dyn Capture>);
                ports.sources.extend(reader);
            }
            Self::Mirror(mirror) => {
                for port in mirror.take_ports(worker) {
                    ports.sources.push(Box::new(port.rx));
                    ports.tx = ports.tx.or(port.tx);
                }
            }
        }
        ports
    }

    /// Denies `blocks` and nobody else from now on, if there is a list.
    pub fn replace_denied(&mut self, blocks: &[Block]) -> Result<(), BpfError> {
        let list = match self {
            Self::Tap(tap) => tap.deny_list(),
            Self::Packet(tap) => tap.deny_list(),
            Self::Mirror(mirror) => mirror.deny_list(),
            Self::Files {
                replayer, shard, ..
            } => {
                replayer.select(Selection::new(*shard, blocks));
                return Ok(());
            }
        };
        list.map_or(Ok(()), |list| list.replace(blocks))
    }

    /// What the program counted.
    pub fn counters(&self) -> Vec<Counter> {
        let counters = match self {
            Self::Tap(tap) => tap.counters(),
            Self::Packet(tap) => tap.counters(),
            Self::Mirror(mirror) => mirror.counters(),
            Self::Files { replayer, .. } => return replayer.counters(),
        };
        counters
            .into_iter()
            .map(|(counter, value)| Counter {
                group: "kernel",
                name: counter.name(),
                value,
            })
            .collect()
    }

    /// Replaces the filter, if there is one; on an error the old one stays in force.
    pub fn replace_filter(&self, filter: &Filter) -> Result<(), BpfError> {
        match self {
            Self::Tap(tap) => tap.replace_filter(filter),
            Self::Packet(tap) => tap.replace_filter(filter),
            Self::Mirror(mirror) => mirror.replace_filter(filter),
            Self::Files { replayer, .. } => {
                replayer.replace_filter(filter.clone());
                Ok(())
            }
        }
    }

    /// What sequence numbers told of the senders of a mirror.
    pub fn streams(&self) -> Vec<(StreamKey, StreamState)> {
        match self {
            Self::Tap(_) | Self::Packet(_) | Self::Files { .. } => Vec::new(),
            Self::Mirror(mirror) => mirror.streams(),
        }
    }

    /// Ends the capture while workers go on. A tap lets go of production at once, and what is in its
    /// rings can still be read. The mirror stays: its sockets, by which workers may transmit, must be
    /// closed before the program goes.
    pub fn stop(&mut self) {
        match self {
            Self::Tap(tap) => tap.detach(),
            Self::Packet(tap) => tap.detach(),
            Self::Mirror(_) => {}
            Self::Files { replayer, .. } => replayer.stop(),
        }
    }

    /// Detaches; all ports must be gone. Counters stay readable.
    pub fn detach(&mut self) {
        match self {
            Self::Tap(tap) => tap.detach(),
            Self::Packet(tap) => tap.detach(),
            Self::Mirror(mirror) => mirror.detach(),
            Self::Files { replayer, .. } => replayer.stop(),
        }
    }
}
