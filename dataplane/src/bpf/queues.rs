//! What `mirror` and `responses` have in common: an XDP program and one AF_XDP socket per queue.
//!
//! Order matters twice. Queues are counted after the attach, since native mode can add some (virtio:
//! one per CPU). And on exit the sockets close first: with the program gone first, zero-copy sockets
//! on added queues have crashed a guest kernel at the next attach.

use std::os::fd::AsRawFd;
use std::time::Duration;

use aya::Ebpf;
use aya::maps::{Map, MapData, MapError, XskMap};
use aya::programs::links::FdLink;

use super::counters::{COUNTERS, Counters};
use super::error::chain;
use super::filter::{Chain, Parts};
use super::log::LogThread;
use super::{BpfError, Filter, load, xdp};
use crate::afxdp::{AfXdpRx, AfXdpTx, OpenOptions, open};
use crate::iface::Interface;
use crate::placement::QueueSocket;

/// Time for the driver to give up the buffers of closed zero-copy sockets, which it does
/// asynchronously. Without it the crash above happened; 1 s was always enough, less was not tried.
const ZERO_COPY_SETTLE: Duration = Duration::from_secs(1);

/// The verdict that lets a packet go on to the stack (linux/bpf.h).
pub(super) const XDP_PASS: i32 = 2;

/// The socket of one receive queue.
pub struct QueuePort {
    /// Queue.
    pub queue: u32,
    /// Frames that the program redirected.
    pub rx: AfXdpRx,
    /// Sending on the same socket, if it was asked for.
    pub tx: Option<AfXdpTx>,
}

/// A program with its sockets.
pub(super) struct QueueCapture {
    // First, so that sockets nobody took close before the link goes.
    ports: Vec<Option<QueuePort>>,
    sockets: Vec<QueueSocket>,
    link: Option<FdLink>,
    workers: u32,
    native: bool,
    zero_copy: bool,
    pub(super) counters: Counters,
    filter: Option<Chain>,
    _log: Option<LogThread>,
    ebpf: Ebpf,
}

/// The sockets of all queues.
struct Opened {
    ports: Vec<Option<QueuePort>>,
    sockets: Vec<QueueSocket>,
    /// Why the first of those that are copied from is, though it need not.
    refused: Option<std::io::Error>,
}

impl Opened {
    /// Opens them for an attached program; there were `before` queues before that.
    fn all(
        ebpf: &mut Ebpf,
        setup: &QueueSetup<'_>,
        native: bool,
        before: u32,
    ) -> Result<Self, BpfError> {
        let ifname = &setup.interface.name;
        let queues = Interface::by_name(ifname)?.rx_queues.max(1);
        let mut opened = Self {
            ports: Vec::new(),
            sockets: Vec::new(),
            refused: None,
        };
        let mut xsks: XskMap<&mut MapData> = load::borrow(ebpf, "XSKS")?;
        for queue in 0..queues {
            let socket = open(&OpenOptions {
                rx: true,
                tx: setup.also_tx,
                // Zero-copy with generic XDP binds but was never seen to deliver.
                force_copy: !native || queue >= before,
                meta_cookie: Some(setup.cookie),
                ..OpenOptions::new(ifname, queue)
            })
            .map_err(|source| BpfError::Socket {
                ifname: ifname.clone(),
                queue,
                source,
            })?;
            opened.refused = opened.refused.or(socket.zero_copy_refused);
            let Some(rx) = socket.rx else { continue };
            xsks.set(queue, rx.as_raw_fd(), 0)
                .map_err(|e| BpfError::Map {
                    map: "XSKS",
                    action: "insert a socket",
                    error: chain(&e),
                })?;
            opened.sockets.push(QueueSocket {
                queue,
                native,
                zero_copy: socket.zero_copy,
            });
            opened.ports.push(Some(QueuePort {
                queue,
                rx,
                tx: socket.tx,
            }));
        }
        Ok(opened)
    }

    /// virtio_net with large unmergeable buffers accepts a program that its receive path does not run
    /// (drivers/net/virtio_net.c, receive_big). It says so only when it is asked for zero-copy (ENOENT, from Linux
    /// 6.13 on); before, its features tell.
    fn never_runs(&self, interface: &Interface) -> bool {
        let refused = self.refused.as_ref().map(std::io::Error::kind);
        interface.driver().as_deref() == Some("virtio_net")
            && (refused == Some(std::io::ErrorKind::NotFound)
                || interface.virtio_features().is_some_and(has_big_buffers))
    }
}

/// Merging is agreed on, mergeable buffers are not (drivers/net/virtio_net.c, virtnet_check_guest_gso; bits of
/// linux/virtio_net.h).
fn has_big_buffers(features: u64) -> bool {
    const GUEST_TSO4: u64 = 1 << 7;
    const GUEST_TSO6: u64 = 1 << 8;
    const GUEST_ECN: u64 = 1 << 9;
    const GUEST_UFO: u64 = 1 << 10;
    const MRG_RXBUF: u64 = 1 << 15;
    const GUEST_USO: u64 = 3 << 54;
    let merges = features & (GUEST_TSO4 | GUEST_TSO6 | GUEST_ECN | GUEST_UFO) != 0
        || features & GUEST_USO == GUEST_USO;
    merges && features & MRG_RXBUF == 0
}

/// How to build one.
pub(super) struct QueueSetup<'a> {
    pub(super) program: &'static str,
    pub(super) interface: Interface,
    pub(super) workers: u32,
    pub(super) also_tx: bool,
    pub(super) cookie: u32,
    pub(super) log_packets: bool,
    pub(super) object_name: &'a str,
    /// The first filter and its place.
    pub(super) filter: Option<(Parts, &'a Filter)>,
}

impl QueueCapture {
    /// Attaches the program of a loaded object and opens the sockets.
    pub(super) fn start(mut ebpf: Ebpf, setup: &QueueSetup<'_>) -> Result<Self, BpfError> {
        let log = if setup.log_packets {
            Some(LogThread::start(&mut ebpf)?)
        } else {
            None
        };
        let filter = setup
            .filter
            .map(|(parts, filter)| Chain::install(&mut ebpf, parts, filter))
            .transpose()?;
        let entry = setup.filter.map_or(setup.program, |(parts, _)| parts.entry);
        let counters = Counters::take(&mut ebpf, COUNTERS)?;
        let before = setup.interface.rx_queues;
        let mut attached = xdp::attach(&mut ebpf, entry, &setup.interface)?;
        let mut opened = Opened::all(&mut ebpf, setup, attached.native, before)?;
        if opened.never_runs(&setup.interface) {
            tracing::warn!(
                interface = setup.interface.name,
                "the driver takes a native XDP program but runs none with the receive buffers it has (virtio-net \
                 without mergeable ones, mrg_rxbuf): using generic mode, which is slower"
            );
            // Sockets first, as always.
            drop(opened);
            attached = xdp::attach_generic(&mut ebpf, entry, &setup.interface, attached)?;
            opened = Opened::all(&mut ebpf, setup, attached.native, before)?;
        }
        let Opened {
            ports,
            sockets,
            refused,
        } = opened;
        let (ifname, queues) = (&setup.interface.name, sockets.len());
        let zero_copy = sockets.iter().any(|socket| socket.zero_copy);
        tracing::info!(
            interface = ifname,
            object = setup.object_name,
            queues,
            zero_copy,
            "one AF_XDP socket per receive queue"
        );
        // All queues of a driver answer alike.
        if let Some(reason) = refused {
            tracing::info!(
                interface = ifname,
                %reason,
                "the driver does no zero-copy as it is set up: its packets are copied, which is slower"
            );
        }
        if queues > before as usize {
            tracing::info!(
                interface = ifname,
                before,
                after = queues,
                "attaching has added receive queues: those are copied from"
            );
        }
        Ok(Self {
            ports,
            sockets,
            link: Some(attached.link),
            workers: setup.workers.max(1),
            native: attached.native,
            zero_copy,
            counters,
            filter,
            _log: log,
            ebpf,
        })
    }

    /// Takes a map of the loaded program, to change its entries later.
    pub(super) fn take_map<T: TryFrom<Map, Error = MapError>>(
        &mut self,
        name: &'static str,
    ) -> Result<T, BpfError> {
        load::take(&mut self.ebpf, name)
    }

    pub(super) fn replace_filter(&self, filter: &Filter) -> Result<(), BpfError> {
        Chain::replace_in(self.filter.as_ref(), filter)
    }

    pub(super) fn native(&self) -> bool {
        self.native
    }

    pub(super) fn sockets(&self) -> &[QueueSocket] {
        &self.sockets
    }

    pub(super) fn take_ports(&mut self, worker: u32) -> Vec<QueuePort> {
        let workers = self.workers;
        self.ports
            .iter_mut()
            .filter(|p| p.as_ref().is_some_and(|p| p.queue % workers == worker))
            .filter_map(Option::take)
            .collect()
    }

    pub(super) fn detach(&mut self) {
        self.ports.clear();
        if self.link.is_some() && self.zero_copy {
            std::thread::sleep(ZERO_COPY_SETTLE);
        }
        self.link = None;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn big_buffers_are_merging_without_mergeable_ones() {
        assert!(!has_big_buffers(0));
        assert!(has_big_buffers(1 << 7));
        assert!(has_big_buffers(3 << 54));
        assert!(!has_big_buffers(1 << 54), "one of two does not merge");
        assert!(!has_big_buffers(1 << 7 | 1 << 15));
    }
}
