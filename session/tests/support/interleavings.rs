//! Target `interleavings`: clients and targets that are nearly right, in any order, with time steps,
//! channel outages and shutdown in between.

use super::content::STREAMS;
use super::peers::{Client, answers_all, responds};
use super::reader::Reader;
use super::setting::config;
use super::world::World;
use common::flow::Nanos;

/// Operations that are run: longer inputs only take time.
const MAX_OPERATIONS: usize = 400;

/// Runs one input.
pub fn interleavings(data: &[u8]) {
    let r = &mut Reader::new(data);
    let mut w = World::new(config(r));
    let mut clients: [Client; STREAMS] = std::array::from_fn(Client::new);
    for _ in 0..MAX_OPERATIONS {
        let Some(op) = r.next_byte() else { break };
        let which = op >> 3;
        let client = &mut clients[usize::from(which) % STREAMS];
        match op & 7 {
            0 | 1 => {
                let p = client.says(w.now, r);
                w.captured(&p);
            }
            2 => {
                let bits = r.u8();
                let p = client.opens(w.now, bits);
                w.captured(&p);
            }
            3 => {
                let p = client.signals(w.now, r.u8());
                w.captured(&p);
            }
            4 => responds(&mut w, which, r),
            5 => pass(&mut w, which),
            6 => answers_all(&mut w, u32::from(which) * 100),
            _ => match which {
                0..=7 => w.watch.refuses = !w.watch.refuses,
                // 8 did something once: the inputs keep their meaning.
                9 => w.shutdown(),
                _ => w.advance(),
            },
        }
    }
    w.settle();
}

fn pass(w: &mut World, choice: u8) {
    let choices = [
        Nanos::from_micros(10),
        Nanos::from_millis(1),
        Nanos::from_millis(3),
        Nanos::from_millis(40),
        Nanos::from_millis(200),
        Nanos::from_secs(1),
        Nanos::from_secs(6),
        Nanos::from_secs(70),
    ];
    match choices.get(usize::from(choice)) {
        Some(time) => w.pass(*time),
        // The clock alone: the caller is late.
        None => w.now += Nanos::from_millis(u64::from(choice)),
    }
}
