//! Target `packets_in`: arbitrary captured packets, as frames or as fields, into one engine. A target
//! that answers everything can be switched on, so that sessions also get beyond their handshake.

use super::content::STREAMS;
use super::peers::answers_all;
use super::reader::Reader;
use super::setting::config;
use super::world::{Packet, World};
use common::flow::Nanos;
use common::packet::{SeqNumber, TcpFlags, TcpOptions, decode_frame};

/// Packets that are taken in: longer inputs only take time.
const MAX_PACKETS: usize = 300;
/// Captured bytes of one packet, as the largest record class.
const MAX_KEPT: usize = 65_535;

/// Runs one input.
pub fn packets_in(data: &[u8]) {
    let r = &mut Reader::new(data);
    let mut w = World::new(config(r));
    let answers = r.u8();
    for _ in 0..MAX_PACKETS {
        let Some(control) = r.next_byte() else { break };
        let packet = if control & 0x80 == 0 {
            Some(fields(w.now, usize::from(control) % STREAMS, r))
        } else {
            frame(w.now, r)
        };
        if let Some(p) = packet {
            w.captured(&p);
        }
        if answers != 0 {
            answers_all(&mut w, u32::from(answers) - 1);
        }
        let time = [0, 50, 2_000, 300_000][usize::from(control >> 3 & 3)];
        w.pass(Nanos::from_micros(time));
    }
    w.settle();
}

fn fields(now: Nanos, stream: usize, r: &mut Reader<'_>) -> Packet {
    let (seq, ack) = (SeqNumber(r.u32()), SeqNumber(r.u32()));
    let (flags, window) = (TcpFlags(r.u8() & 0x3f), r.u16());
    let (kept, shape, late) = (r.u16(), r.u8(), r.u8());
    let len = match shape & 3 {
        0..=1 => u32::from(kept),
        // The capture was cut; a capture file may claim any length.
        2 => u32::from(kept) + u32::from(r.u16()),
        _ => r.u32(),
    };
    Packet {
        stream,
        seq,
        ack,
        flags,
        window,
        options: TcpOptions::parse(r.bytes(usize::from(shape >> 4 & 3) * 12)),
        len,
        kept: usize::from(kept),
        gso_size: if shape & 4 != 0 { r.u16() } else { 0 },
        // Capture times need not be those of the engine's clock, and need not be in order.
        at: if shape & 8 != 0 {
            Nanos(now.0 ^ u64::from(late) << 24)
        } else {
            now
        },
    }
}

/// A frame as the intake of tcpcopy-user takes it apart; its stream is told by its ports, its bytes are
/// replaced by the stream's.
fn frame(now: Nanos, r: &mut Reader<'_>) -> Option<Packet> {
    let len = usize::from(r.u8()) * 2;
    let claimed = r.u16();
    let bytes = r.bytes(len);
    let packet = decode_frame(bytes).ok()?;
    let payload_at = packet.tcp.payload.min(bytes.len());
    let options = bytes
        .get(packet.ip.l4 + 20..payload_at)
        .map_or_else(TcpOptions::default, TcpOptions::parse);
    let len = packet.payload_len(bytes.len().max(usize::from(claimed)));
    Some(Packet {
        stream: usize::from(packet.tcp.sport) % STREAMS,
        seq: packet.tcp.seq,
        ack: packet.tcp.ack,
        flags: packet.tcp.flags,
        window: packet.tcp.window,
        options,
        len: len as u32,
        kept: (bytes.len() - payload_at).min(len).min(MAX_KEPT),
        gso_size: 0,
        at: now,
    })
}
