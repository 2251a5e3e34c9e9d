//! Sends frames by a socket that only transmits, in the fastest way that the driver has, and tells which that was.
//!
//! `transmit IFNAME QUEUE FRAMES`; `cargo xtask vm-test` runs it in guests, whose cards do zero-copy. The programs ask
//! for that on a mirror's interface only, where a socket receives, too.

use dataplane::Transmit;
use dataplane::afxdp::{OpenOptions, open};
use std::collections::BTreeMap;
use std::error::Error;
use std::time::{Duration, Instant};

/// Broadcast, from a locally administered address, an EtherType for experiments (IEEE 802: 0x88b5).
const HEADER: [u8; 14] = [
    0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 2, 0, 0, 0, 0, 1, 0x88, 0xb5,
];
/// The shortest frame, without its checksum.
const FRAME_BYTES: usize = 60;
/// For the device to give frames back.
const PATIENCE: Duration = Duration::from_secs(10);

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [ifname, queue, frames] = arguments.as_slice() else {
        return Err("got other arguments, expected IFNAME QUEUE FRAMES".into());
    };
    let frames: u64 = frames.parse()?;
    let socket = open(&OpenOptions {
        tx: true,
        ..OpenOptions::new(ifname, queue.parse()?)
    })?;
    let mut port = socket.tx.ok_or("no transmit half")?;
    let deadline = Instant::now() + PATIENCE;
    let mut sent = 0;
    let counters = loop {
        while sent < frames
            && let Some(buffer) = port.reserve()
        {
            buffer[..FRAME_BYTES].fill(0);
            buffer[..HEADER.len()].copy_from_slice(&HEADER);
            port.commit(FRAME_BYTES);
            sent += 1;
        }
        port.flush();
        let mut counters = BTreeMap::new();
        port.counters(&mut |name, value| {
            counters.insert(name, value);
        });
        let back = counters["tx_in_ring"] + counters["tx_in_device"] == 0;
        if sent == frames && back || Instant::now() > deadline {
            break counters;
        }
        std::thread::sleep(Duration::from_millis(1));
    };
    let zero_copy = port.zero_copy();
    println!(
        "{}",
        serde_json::json!({ "zero_copy": zero_copy, "counters": counters })
    );
    Ok(())
}
