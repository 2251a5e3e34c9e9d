//! Where packets come from: copies of one frame that a BPF test run sends into `va`.
//!
//! The kernel makes the frames itself (BPF_F_TEST_XDP_LIVE_FRAMES), at some 60 ns each: a tenth of what a
//! socket takes, so that what is compared is not lost in what sends. They pass the veth pair, and its
//! receive path runs as softirq on the sender's core, in turns of 64 frames. A slot is one call, since
//! the kernel waits some 20 ms at the end of each.

use std::cell::Cell;
use std::time::Duration;

use dataplane::cores;
use dataplane::iface::Interface;

use crate::cpu::{Ksoftirqd, thread_ns};
use crate::lane::Lane;
use crate::programs::{BATCH, Program, Waited};

/// Packets per second at the steady rate: a third or less of what the slowest way takes.
const STEADY_PER_SECOND: u64 = 400_000;
/// First guess of the nanoseconds of a packet at full speed; the slot before tells it better.
const FULL_NS: u32 = 1000;

/// How fast.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Load {
    /// Far below saturation: for costs.
    Steady,
    /// As fast as the machine goes: for rates.
    Full,
}

impl Load {
    /// Both.
    pub const ALL: [Self; 2] = [Self::Steady, Self::Full];

    /// As it is printed.
    pub fn name(self) -> &'static str {
        match self {
            Self::Full => "full",
            Self::Steady => "steady",
        }
    }
}

/// What a slot of sending took.
pub struct Sent {
    pub packets: u64,
    pub elapsed: Duration,
    /// CPU of sending and of everything that softirqs did meanwhile, waiting excluded.
    pub kernel_ns: u64,
}

/// Sends into a lane.
pub struct Source {
    full: Program,
    steady: Program,
    waited: Waited,
    full_ns: Cell<u32>,
}

impl Source {
    /// For one lane.
    pub fn new(lane: &Lane) -> Self {
        let va = lane.far(|| Interface::by_name("va").expect("va"));
        let interval_ns = 1_000_000_000 * u64::from(BATCH) / STEADY_PER_SECOND;
        let waited = Waited::new();
        Self {
            full: Program::redirect(va.index),
            steady: Program::redirect_paced(va.index, interval_ns as i32, &waited),
            waited,
            full_ns: Cell::new(FULL_NS),
        }
    }

    /// Sends copies of `frame` for as long as `slot`, from core `core`.
    pub fn send(
        &self,
        lane: &Lane,
        frame: &[u8],
        load: Load,
        slot: Duration,
        core: usize,
        ksoftirqd: &Ksoftirqd,
    ) -> Sent {
        let (program, packets) = match load {
            Load::Full => (
                &self.full,
                slot.as_nanos() as u64 / u64::from(self.full_ns.get()),
            ),
            Load::Steady => (
                &self.steady,
                slot.as_nanos() as u64 * STEADY_PER_SECOND / 1_000_000_000,
            ),
        };
        let (waited, softirqs) = (self.waited.ns(), ksoftirqd.ns());
        let (each_ns, cpu_ns) = lane.far(|| {
            cores::pin(core).expect("pin the source");
            let before = thread_ns();
            let each_ns = program.send(frame, packets as u32);
            (each_ns, thread_ns() - before)
        });
        if load == Load::Full {
            self.full_ns.set(each_ns.max(1));
        }
        let waited = self.waited.ns() - waited;
        Sent {
            packets,
            elapsed: Duration::from_nanos(u64::from(each_ns) * packets),
            kernel_ns: cpu_ns.saturating_sub(waited) + ksoftirqd.ns() - softirqs,
        }
    }
}
