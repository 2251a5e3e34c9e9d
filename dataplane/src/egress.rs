//! Which transmit path each worker gets on a device.
//!
//! ```text
//!   worker has an AF_XDP socket on the device already (mirror)   → its transmit half
//!   a transmit queue of the device is left                       → own AF_XDP socket
//!   no queue left, another worker has one                        → hand-over ring to that worker:
//!        borrower ── byte ring, wakes the owner ──▶ owner.flush() ──▶ its AF_XDP socket
//!   loopback, no Ethernet, queue refused                         → raw socket
//! ```

use crate::afxdp::{self, AfXdpTx, OpenOptions};
use crate::handover::{FrameReceiver, FrameSender, frame_ring};
use crate::iface::{IfaceError, Interface};
use crate::netfilter::RawPath;
use crate::port::{CounterSink, Transmit};
use crate::raw::{RawError, RawTx};
use crate::wake::WakerHandle;
use common::flow::{CaptureMeta, Captured};

/// Bytes per hand-over ring: 340 full frames, five batches, against an owner that is busy for a moment.
const RING_BYTES: usize = 512 * 1024;
/// Frames of a transmit-only socket: 4 MiB. More than a device queue holds helps nobody; the socket's
/// frames come back within one flush in copy mode.
const TX_FRAMES: u32 = 2048;

/// Why a device cannot be sent on at all.
#[derive(Debug, thiserror::Error)]
pub enum EgressError {
    /// The interface does not exist.
    #[error(transparent)]
    Iface(#[from] IfaceError),
    /// Not even the raw path works.
    #[error(transparent)]
    Raw(#[from] RawError),
    /// Arguments of different lengths.
    #[error("got {got} {what} for {workers} workers, expected one each")]
    Mismatch {
        /// How many there were.
        got: usize,
        /// Of what.
        what: &'static str,
        /// Number of workers.
        workers: usize,
    },
}

/// One [`Transmit`] per worker for the device `ifname`. `existing` are transmit halves that workers have
/// on this very device already. Every choice is logged; a refused socket is a fallback, not an error.
pub fn open_all(
    ifname: &str,
    workers: usize,
    wakers: &[WakerHandle],
    mut existing: Vec<Option<AfXdpTx>>,
    force_copy: bool,
    raw: &RawPath,
) -> Result<Vec<Box<dyn Transmit>>, EgressError> {
    existing.resize_with(workers.max(existing.len()), || None);
    for (got, what) in [
        (wakers.len(), "wakers"),
        (existing.len(), "transmit halves"),
    ] {
        if got != workers {
            return Err(EgressError::Mismatch { got, what, workers });
        }
    }
    let interface = Interface::by_name(ifname)?;
    if interface.is_loopback || !interface.is_ethernet {
        tracing::warn!(
            ifname,
            reason = if interface.is_loopback {
                "loopback"
            } else {
                "no Ethernet"
            },
            "AF_XDP cannot send here, sending through raw sockets: routing, netfilter and shaping of this host apply"
        );
        return raw_all(workers, raw);
    }

    let queues = interface.tx_queues as usize;
    let mut paths: Vec<Path> = existing
        .into_iter()
        .enumerate()
        .map(|(worker, tx)| match tx {
            Some(tx) => {
                let queue = tx.queue();
                tracing::info!(ifname, worker, queue, "sending on the queue it receives on");
                Path::Own(Box::new(tx))
            }
            None => Path::Open,
        })
        .collect();
    let mut free: Vec<u32> = (0..queues as u32)
        .filter(|q| {
            !paths
                .iter()
                .any(|p| matches!(p, Path::Own(tx) if tx.queue() == *q))
        })
        .rev()
        .collect();
    for (worker, path) in paths.iter_mut().enumerate() {
        if matches!(path, Path::Open) {
            *path = match free.pop() {
                Some(queue) => open_queue(ifname, worker, queue, force_copy),
                None => Path::Borrow,
            };
        }
    }
    Ok(connect(ifname, paths, wakers, raw)?)
}

/// Raw sockets for all workers: targets on this host.
pub fn raw_all(workers: usize, path: &RawPath) -> Result<Vec<Box<dyn Transmit>>, EgressError> {
    (0..workers)
        .map(|_| Ok(Box::new(RawTx::open(path)?) as Box<dyn Transmit>))
        .collect()
}

enum Path {
    /// Not decided.
    Open,
    Own(Box<AfXdpTx>),
    /// No queue left: hand over to an owner.
    Borrow,
    Raw,
}

fn open_queue(ifname: &str, worker: usize, queue: u32, force_copy: bool) -> Path {
    let options = OpenOptions {
        frames: TX_FRAMES,
        tx: true,
        force_copy,
        ..OpenOptions::new(ifname, queue)
    };
    match afxdp::open(&options).map(|socket| (socket.tx, socket.zero_copy)) {
        Ok((Some(tx), zero_copy)) => {
            tracing::info!(ifname, worker, queue, zero_copy, "sending by AF_XDP");
            Path::Own(Box::new(tx))
        }
        Ok((None, _)) => Path::Raw,
        Err(error) => {
            tracing::warn!(
                ifname,
                worker,
                queue,
                %error,
                "AF_XDP cannot send here, sending through a raw socket: routing, netfilter and shaping of this host apply"
            );
            Path::Raw
        }
    }
}

fn connect(
    ifname: &str,
    paths: Vec<Path>,
    wakers: &[WakerHandle],
    raw: &RawPath,
) -> Result<Vec<Box<dyn Transmit>>, RawError> {
    let owners: Vec<usize> = (0..paths.len())
        .filter(|&w| matches!(paths[w], Path::Own(_)))
        .collect();
    let mut inboxes: Vec<Vec<FrameReceiver>> = paths.iter().map(|_| Vec::new()).collect();
    let mut senders: Vec<Option<(FrameSender, WakerHandle)>> = Vec::new();
    for (worker, path) in paths.iter().enumerate() {
        senders.push(match (path, owners.is_empty()) {
            (Path::Borrow, false) => {
                let owner = owners[worker % owners.len()];
                let (sender, receiver) = frame_ring(RING_BYTES);
                inboxes[owner].push(receiver);
                tracing::info!(
                    ifname,
                    worker,
                    owner,
                    "no queue left: handing frames to a worker with one"
                );
                Some((sender, wakers[owner].clone()))
            }
            _ => None,
        });
    }
    let mut all: Vec<Box<dyn Transmit>> = Vec::new();
    for (worker, ((path, sender), inboxes)) in
        paths.into_iter().zip(senders).zip(inboxes).enumerate()
    {
        all.push(match (path, sender) {
            (Path::Own(tx), _) if inboxes.is_empty() => tx,
            (Path::Own(tx), _) => Box::new(Lender {
                tx: *tx,
                inboxes,
                too_long: 0,
            }),
            (_, Some((ring, owner))) => Box::new(Borrower::new(ring, owner)),
            (path, None) => {
                if matches!(path, Path::Borrow) {
                    tracing::warn!(
                        ifname,
                        worker,
                        "no queue left: sending through a raw socket"
                    );
                }
                Box::new(RawTx::open(raw)?)
            }
        });
    }
    Ok(all)
}

/// A queue owner that also sends what others hand it.
struct Lender<T> {
    tx: T,
    inboxes: Vec<FrameReceiver>,
    too_long: u64,
}

impl<T: Transmit> Transmit for Lender<T> {
    fn reserve(&mut self) -> Option<&mut [u8]> {
        self.tx.reserve()
    }

    fn commit(&mut self, len: usize) {
        self.tx.commit(len);
    }

    fn flush(&mut self) {
        let (tx, too_long) = (&mut self.tx, &mut self.too_long);
        for inbox in &mut self.inboxes {
            // One batch per borrower and flush: the owner's own loop must not stall on others' load.
            inbox.recv(&mut |batch| {
                for frame in batch {
                    // None is counted by the port: the packet is lost in the network.
                    let Some(buffer) = tx.reserve() else { continue };
                    match buffer.get_mut(..frame.bytes.len()) {
                        Some(to) => {
                            to.copy_from_slice(frame.bytes);
                            tx.commit(frame.bytes.len());
                        }
                        None => *too_long += 1,
                    }
                }
            });
        }
        self.tx.flush();
    }

    fn busy(&self) -> bool {
        self.tx.busy() || self.inboxes.iter().any(|inbox| !inbox.is_empty())
    }

    fn counters(&mut self, sink: CounterSink<'_>) {
        self.tx.counters(sink);
        sink("tx_handed_too_long", self.too_long);
    }
}

/// A worker without a queue.
struct Borrower {
    ring: FrameSender,
    owner: WakerHandle,
    buffer: Box<[u8]>,
    queued: bool,
    handed: u64,
    dropped: u64,
}

impl Borrower {
    fn new(ring: FrameSender, owner: WakerHandle) -> Self {
        let buffer = vec![0; afxdp::FRAME_BYTES as usize].into_boxed_slice();
        Self {
            ring,
            owner,
            buffer,
            queued: false,
            handed: 0,
            dropped: 0,
        }
    }
}

impl Transmit for Borrower {
    fn reserve(&mut self) -> Option<&mut [u8]> {
        Some(&mut self.buffer)
    }

    fn commit(&mut self, len: usize) {
        let bytes = &self.buffer[..len.min(self.buffer.len())];
        if self.ring.send(&Captured {
            bytes,
            meta: CaptureMeta::default(),
        }) {
            self.handed += 1;
        } else {
            self.dropped += 1;
        }
        self.queued = true;
    }

    fn flush(&mut self) {
        if self.queued {
            self.queued = false;
            self.owner.wake();
        }
    }

    fn busy(&self) -> bool {
        self.queued
    }

    fn counters(&mut self, sink: CounterSink<'_>) {
        sink("tx_handed_over", self.handed);
        sink("tx_handover_dropped", self.dropped);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::memory::MemoryTransmit;
    use crate::wake::Waker;

    /// An owner that sends into memory, in frames of 100 bytes, and a borrower that wakes `waker`.
    fn pair(
        ring_bytes: usize,
        waker: &Waker,
    ) -> (MemoryTransmit, Lender<MemoryTransmit>, Borrower) {
        let memory = MemoryTransmit::new(100);
        let (sender, receiver) = frame_ring(ring_bytes);
        let owner = Lender {
            tx: memory.clone(),
            inboxes: vec![receiver],
            too_long: 0,
        };
        (memory, owner, Borrower::new(sender, waker.handle()))
    }

    fn send(port: &mut impl Transmit, bytes: &[u8]) {
        port.reserve().expect("buffer")[..bytes.len()].copy_from_slice(bytes);
        port.commit(bytes.len());
    }

    #[test]
    fn borrowed_frames_leave_by_the_owner_after_its_own() {
        let waker = Waker::new().expect("waker");
        let (memory, mut owner, mut borrower) = pair(4096, &waker);

        assert!(waker.prepare_sleep());
        send(&mut borrower, &[1; 60]);
        assert!(borrower.busy());
        borrower.flush();
        assert!(!borrower.busy());
        assert!(!waker.prepare_sleep(), "flush wakes the owner");
        assert!(owner.busy(), "handed frames wait");
        send(&mut owner, &[2; 60]);
        owner.flush();
        assert_eq!(memory.take_sent(), [vec![2; 60], vec![1; 60]]);
        assert!(!owner.busy());
    }

    #[test]
    fn losses_between_borrower_and_owner_are_counted() {
        let waker = Waker::new().expect("waker");
        let (memory, mut owner, mut borrower) = pair(1024, &waker);
        send(&mut borrower, &[1; 101]);
        for _ in 0..99 {
            send(&mut borrower, &[1; 60]);
        }
        owner.flush();
        assert_eq!(owner.too_long, 1, "a frame larger than the owner's buffers");
        assert!(borrower.dropped > 0, "the ring is smaller than 100 frames");
        assert_eq!(borrower.handed + borrower.dropped, 100);
        assert_eq!(memory.take_sent().len() as u64, borrower.handed - 1);
    }
}
