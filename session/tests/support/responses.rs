//! Target `responses_in`: arbitrary responses to a few sessions, as fields near the right ones and as
//! the bytes that a channel carries, cut into records by the decoder of the channel.

use super::peers::Client;
use super::reader::{Reader, choose};
use super::setting::config;
use super::world::{Packet, World};
use common::flow::{Nanos, ResponseHeader};
use common::packet::{SeqNumber, TcpFlags, TcpOptions};
use common::wire::compat::{FrameDecoder, decode_record};

/// Sessions that there are.
const SESSIONS: usize = 3;
/// Inputs that are taken in: longer ones only take time.
const MAX_INPUTS: usize = 400;
/// Where targets begin.
const IRS: SeqNumber = SeqNumber(u32::MAX - 100);

/// Runs one input.
pub fn responses_in(data: &[u8]) {
    let r = &mut Reader::new(data);
    let mut w = World::new(config(r));
    let mut clients: [Client; SESSIONS] = std::array::from_fn(|n| Client::new(2 * n));
    for c in &mut clients {
        begin(&mut w, c);
    }
    let mut channel = FrameDecoder::default();
    for _ in 0..MAX_INPUTS {
        let Some(control) = r.next_byte() else { break };
        let n = usize::from(control) % SESSIONS;
        match control >> 5 {
            0..=4 => {
                if let Some(h) = fields(&w, control, r) {
                    w.response(&h);
                }
            }
            5 => {
                let p = clients[n].says(w.now, r);
                w.captured(&p);
            }
            6 => w.pass(choose(
                control,
                &[
                    Nanos::from_micros(100),
                    Nanos::from_millis(1),
                    Nanos::from_millis(30),
                    Nanos::from_millis(1_100),
                    Nanos::from_secs(15),
                ],
            )),
            _ => {
                let piece = r.bytes(usize::from(control & 0x1f) * 8 + 2);
                if channel
                    .feed(piece, |record| {
                        if let Some(h) = decode_record(record) {
                            w.response(&h);
                        }
                    })
                    .is_err()
                {
                    // The channel closes such a connection and begins another.
                    channel = FrameDecoder::default();
                }
            }
        }
    }
    w.settle();
}

/// SYN, ACK and a request.
fn begin(w: &mut World, c: &mut Client) {
    let packets: [Packet; 3] = [
        c.opens(w.now, 0),
        c.signals(w.now, 4),
        c.says(w.now, &mut Reader::new(&[0, 2])),
    ];
    for p in packets {
        w.captured(&p);
    }
}

fn fields(w: &World, control: u8, r: &mut Reader<'_>) -> Option<ResponseHeader> {
    let all = w.watch.connections.len();
    let c = w
        .watch
        .connections
        .get(all.checked_sub(1 + usize::from(control & 7) % all.max(1))?)?;
    let (flags, shape) = (r.u8(), r.u8());
    let near = |r: &mut Reader<'_>| u32::from(r.u16()).wrapping_sub(0x8000);
    let seq = match shape & 3 {
        0 => IRS,
        1 => IRS + 1,
        2 => IRS + u32::from(r.u16()),
        _ => SeqNumber(r.u32()),
    };
    let ack = match shape >> 2 & 3 {
        0 => c.iss + 1,
        1 => c.nxt,
        2 => c.nxt + near(r),
        _ => SeqNumber(r.u32()),
    };
    let (options, sack) = if shape & 0x80 == 0 {
        Default::default()
    } else {
        TcpOptions::parse_with_sack(r.bytes(40))
    };
    Some(ResponseHeader {
        target: c.dst,
        client: c.src,
        seq,
        ack,
        flags: TcpFlags(flags & 0x3f),
        window: if shape & 0x10 == 0 { 60_000 } else { r.u16() },
        payload_len: match shape >> 5 & 3 {
            0 | 1 => 0,
            2 => u32::from(r.u16()),
            // BIG TCP goes up to half a megabyte.
            _ => r.u32() % (1 << 20),
        },
        options,
        sack,
    })
}
