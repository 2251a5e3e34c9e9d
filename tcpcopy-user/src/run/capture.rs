//! The attached capture program, whichever it is.

use crate::cli::{CaptureKind, Config};
use crate::worker::Counter;
use common::abi::{StreamKey, StreamState};
use dataplane::Capture;
use dataplane::afxdp::AfXdpTx;
use dataplane::bpf::BpfError;
use dataplane::bpf::mirror::{Mirror, MirrorConfig};
use dataplane::bpf::tap::{Tap, TapConfig};

/// All ring buffers of a tap together (design 3.1): at 1400-byte packets and a million a second, two
/// workers' rings hold 50 ms of traffic.
pub(super) const RING_BYTES_TOTAL: usize = 64 << 20;

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
    /// Takes away.
    Mirror(Mirror),
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
        let ifname = config.iface.as_str();
        let workers = workers as u32;
        // Off unless asked for: each packet would cost a record.
        let log_packets = config.log_level >= operator::log::LogLevel::Debug;
        Ok(match config.capture {
            CaptureKind::Tap => Self::Tap(Tap::attach(
                object,
                &TapConfig {
                    ifname,
                    workers,
                    transfers,
                    targets,
                    ring_bytes_total: RING_BYTES_TOTAL,
                    log_packets,
                },
            )?),
            CaptureKind::Mirror => Self::Mirror(Mirror::attach(
                object,
                &MirrorConfig {
                    ifname,
                    workers,
                    transfers,
                    targets,
                    decap: &config.decap,
                    also_tx,
                    log_packets,
                },
            )?),
        })
    }

    /// The ports of a worker; each can be taken once.
    pub fn take_ports(&mut self, worker: usize) -> Ports {
        let worker = worker as u32;
        let mut ports = Ports::default();
        match self {
            Self::Tap(tap) => {
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

    /// What the program counted.
    pub fn counters(&self) -> Vec<Counter> {
        let counters = match self {
            Self::Tap(tap) => tap.counters(),
            Self::Mirror(mirror) => mirror.counters(),
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

    /// What sequence numbers told of the senders of a mirror.
    pub fn streams(&self) -> Vec<(StreamKey, StreamState)> {
        match self {
            Self::Tap(_) => Vec::new(),
            Self::Mirror(mirror) => mirror.streams(),
        }
    }

    /// Ends the capture while workers go on. A tap lets go of production at once, and what is in its
    /// rings can still be read. The mirror stays: its sockets, by which workers may transmit, must be
    /// closed before the program goes.
    pub fn stop(&mut self) {
        if let Self::Tap(tap) = self {
            tap.detach();
        }
    }

    /// Detaches; all ports must be gone. Counters stay readable.
    pub fn detach(&mut self) {
        match self {
            Self::Tap(tap) => tap.detach(),
            Self::Mirror(mirror) => mirror.detach(),
        }
    }
}
