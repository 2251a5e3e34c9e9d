//! Engine settings from fuzz input: mostly small, so that limits are met.

use super::reader::Reader;
use common::flow::{Nanos, Shard, Share};
use session::{EngineConfig, Rtt};

/// Reads settings; eight bytes.
pub fn config(r: &mut Reader<'_>) -> EngineConfig {
    let bits = r.u8();
    let (copies, limits) = (r.u8(), r.u8());
    let timeouts = r.u8();
    let rtt = r.u8();
    let sampling = r.u8();
    let seconds = |n: u8, choices: [u64; 4]| Nanos::from_secs(choices[usize::from(n & 3)]);
    EngineConfig {
        worker: 0,
        workers: 1 + u32::from(bits >> 7),
        adopt: bits & 1 == 0,
        no_turns: bits & 2 != 0,
        ramp: bits & 4 != 0,
        pool: (bits & 8 != 0).then(|| "10.9.0.1-10.9.0.3".parse().expect("a pool")),
        replicas: u16::from(copies & 3),
        port_shift: (copies >> 2) & 7,
        share: Share::percent(match sampling {
            0..=127 => 100,
            n => u32::from(n - 128),
        }),
        shard: Shard::WHOLE,
        max_sessions: [1 << 20, 0, 1, 3][usize::from(copies >> 6)],
        // From one block up; the default at last.
        buffer_bytes: [512 << 20, 256, 1536, 4096, 20_000, 100_000, 0, 3 * 256]
            [usize::from(limits & 7)],
        session_bytes: [16 << 20, 1, 256, 5000, 100_000, usize::MAX][usize::from(limits >> 3) % 6],
        connect_timeout: seconds(timeouts, [3, 1, 10, 30]),
        response_timeout: seconds(timeouts >> 2, [20, 1, 5, 60]),
        idle_timeout: seconds(timeouts >> 4, [10, 2, 30, 300]),
        gap_timeout: seconds(timeouts >> 6, [10, 1, 4, 30]),
        syn_wait: Nanos::from_millis(100),
        turn_limit: seconds(rtt, [5, 1, 0, 9]),
        linger: seconds(rtt >> 2, [1, 0, 3, 10]),
        rtt: [
            Rtt::Measured,
            Rtt::None,
            Rtt::Fixed(Nanos::from_millis(30)),
            Rtt::Fixed(Nanos::from_secs(1)),
        ][usize::from(rtt >> 4 & 3)],
        tuple_reuse: seconds(rtt >> 6, [61, 1, 5, 0]),
        mtu: r.pick(&[1500, 0, 100, 576, 1280, 9000, u16::MAX]),
        mss: r.pick(&[1460, 0, 536, u16::MAX]),
    }
}
