//! The two seams of the packet path: where frames come from and where they go.
//!
//! Workers know only these traits, so the same loop runs over AF_XDP, ring buffers, raw sockets,
//! hand-over rings between workers, and memory in tests.

use common::flow::Captured;
use std::os::fd::RawFd;

/// Frames handled per step everywhere: ring release, clock read, flush. 64 is NAPI's budget, so that
/// kernel and worker take turns at the same pace; 256 gave nothing measurable.
pub const BATCH: usize = 64;

/// Receives one named counter; names are `snake_case` and stable, they appear in reports.
pub type CounterSink<'a> = &'a mut dyn FnMut(&'static str, u64);

/// A source of captured frames, owned by one worker.
pub trait Capture: Send {
    /// Takes up to [`BATCH`] frames and calls `act` once with them, not at all if there are none.
    /// Returns how many there were. When `act` returns the frames belong to the kernel again.
    fn recv(&mut self, act: &mut dyn FnMut(&[Captured<'_>])) -> usize;

    /// Called before the worker sleeps in poll(2): asks the producer for a wake-up through one of
    /// [`Capture::fds`]. False: frames are waiting already, do not sleep.
    fn arm(&mut self) -> bool;

    /// Descriptors that become readable when frames arrive after [`Capture::arm`]. They stay the same
    /// for the life of the source.
    fn fds(&self) -> Vec<RawFd>;

    /// Frames of this source wait without loss: the worker leaves them there while its engine holds this
    /// many captured bytes that no target has acknowledged, or has no room. `None`: what is not taken
    /// soon is lost, so it is taken at once.
    fn waits_at(&self) -> Option<usize> {
        None
    }

    /// Reports losses and totals of this source. Not for the hot path: may issue syscalls.
    fn counters(&mut self, sink: CounterSink<'_>);
}

/// A sink of frames, owned by one worker. Frames begin with the Ethernet header.
///
/// A frame that cannot be sent is counted, never an error to the caller: a lost frame is a packet lost
/// in the network, which the session's TCP repairs.
pub trait Transmit: Send {
    /// A buffer for the next frame, or `None` if all are in flight (counted; the packet is lost).
    /// Calling it again without [`Transmit::commit`] gives the same buffer.
    fn reserve(&mut self) -> Option<&mut [u8]>;

    /// Queues the reserved buffer's first `len` bytes. Flushes by itself when enough are queued.
    fn commit(&mut self, len: usize);

    /// Hands everything queued to the kernel and takes back completed frames. Called once per loop.
    fn flush(&mut self);

    /// True while frames are queued or in flight, so that the worker keeps calling
    /// [`Transmit::flush`] instead of sleeping long.
    fn busy(&self) -> bool;

    /// Reports totals and losses. Not for the hot path: may issue syscalls.
    fn counters(&mut self, sink: CounterSink<'_>);
}
