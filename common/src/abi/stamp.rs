//! Which redirected frames carry the time.
//!
//! [`super::XdpMeta`] costs a packet some 25 ns: a call for the room, the clock, and one more cache line on
//! either side of the copy into user space's memory. A flood does not need it on each: packets come within
//! microseconds of each other, and the time of one is good for those around it. What comes more slowly
//! carries its own.

/// First packets of a tick that carry their own time. With the usual 250 ticks a second these are 16,000
/// packets a second and CPU.
pub const STAMPED_PER_TICK: u32 = 64;
/// Of those beyond, one in so many carries the time.
pub const STAMP_EVERY: u32 = 8;

/// State of one CPU.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Stamps {
    /// The kernel's clock tick of the last packet.
    tick: u64,
    /// Packets in that tick.
    packets: u64,
}

impl Stamps {
    /// True if the packet that comes in this tick of the clock is to carry the time.
    #[inline(always)]
    pub const fn due(&mut self, tick: u64) -> bool {
        let before = if self.tick == tick { self.packets } else { 0 };
        self.tick = tick;
        self.packets = before + 1;
        before < STAMPED_PER_TICK as u64 || before.is_multiple_of(STAMP_EVERY as u64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn due(stamps: &mut Stamps, tick: u64, packets: u32) -> u32 {
        (0..packets).map(|_| u32::from(stamps.due(tick))).sum()
    }

    #[test]
    fn all_of_a_slow_stream_and_a_part_of_a_flood() {
        let mut stamps = Stamps::default();
        for tick in 0..100 {
            assert_eq!(due(&mut stamps, tick, STAMPED_PER_TICK), STAMPED_PER_TICK);
        }
        // Never more than a few in a row without.
        let flood = 12_000;
        let mut without = 0;
        for n in 0..flood {
            without = if stamps.due(100) { 0 } else { without + 1 };
            assert!(without < STAMP_EVERY, "{n}");
        }
        let expected = (flood - STAMPED_PER_TICK) / STAMP_EVERY + STAMPED_PER_TICK;
        assert_eq!(due(&mut stamps, 101, flood), expected);
        assert_eq!(due(&mut stamps, 102, 1), 1);
    }
}
