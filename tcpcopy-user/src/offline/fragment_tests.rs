//! A file with fragments, as the workers get it.

use super::*;
use crate::cli::{Speed, parse_transfers};
use common::flow::Shard;
use common::packet::{
    FrameAddresses, SeqNumber, TcpFlags, TcpFrame, TcpOptions, build_tcp_frame, decode_frame,
};
use dataplane::Capture;
use dataplane::feed::{Pace, feed};
use dataplane::wake::Waker;

const L4: usize = 34;

fn frame(payload: &[u8]) -> Vec<u8> {
    let at = |text: &str| Endpoint::from(text.parse::<std::net::SocketAddr>().unwrap());
    let tcp = TcpFrame {
        src: at("192.0.2.1:4000"),
        dst: at("10.0.0.20:80"),
        seq: SeqNumber(7),
        ack: SeqNumber(9),
        flags: TcpFlags::ACK,
        window: 5,
        options: TcpOptions::default(),
        payload,
        ip_id: 77,
    };
    let mut bytes = vec![0; 8192];
    let len = build_tcp_frame(&mut bytes, FrameAddresses::default(), &tcp).unwrap();
    bytes.truncate(len);
    bytes
}

fn piece(whole: &[u8], from: usize, to: usize) -> Vec<u8> {
    let payload = &whole[L4..];
    let more = if to < payload.len() { 0x2000 } else { 0 };
    let mut bytes = whole[..L4].to_vec();
    bytes[16..18].copy_from_slice(&((20 + to - from) as u16).to_be_bytes());
    bytes[20..22].copy_from_slice(&((from / 8) as u16 | more).to_be_bytes());
    bytes.extend_from_slice(&payload[from..to]);
    bytes
}

/// A classic capture file (little-endian, microseconds, Ethernet).
fn file(packets: &[Vec<u8>]) -> Vec<u8> {
    let mut out = Vec::new();
    for word in [0xa1b2_c3d4_u32, 0x0004_0002, 0, 0, 65_535, 1] {
        out.extend_from_slice(&word.to_le_bytes());
    }
    for packet in packets {
        let len = packet.len() as u32;
        for word in [1, 0, len, len] {
            out.extend_from_slice(&u32::to_le_bytes(word));
        }
        out.extend_from_slice(packet);
    }
    out
}

#[test]
fn fragments_in_any_order_come_as_one_packet_and_a_missing_one_is_counted() {
    let payload: Vec<u8> = (0..3000).map(|n| n as u8).collect();
    let whole = frame(&payload);
    let end = whole.len() - L4;
    let packets = [
        piece(&whole, 2000, end),
        frame(b"between"),
        piece(&whole, 0, 1000),
        piece(&whole, 1000, 2000),
        piece(&whole, 0, 1000),
    ];
    let path = std::env::temp_dir().join(format!("fragments-{}.pcap", std::process::id()));
    std::fs::write(&path, file(&packets)).unwrap();
    let waker = Waker::new().unwrap();
    let (sender, mut feed) = feed(1 << 20, Pace::AtOnce, usize::MAX, waker.handle()).unwrap();
    let transfers = TransferTable::new(&parse_transfers(["80-10.0.0.30:8080"]).unwrap());
    let offline = Offline {
        files: vec![path.clone()],
        speed: Speed::Top,
        rounds: 1,
    };
    let selection = Selection::new(Shard::WHOLE, &[]);
    let rules = Rules {
        transfers: Arc::new(transfers),
        udp: None,
        decap: DecapConfig::NONE,
        pool_is_v4: None,
    };
    let mut replayer = Replayer::new(&offline, None, rules, selection, None, vec![sender]);
    replayer.start().unwrap();
    let mut seen: Vec<Vec<u8>> = Vec::new();
    while !replayer.is_done() {
        feed.recv(&mut |batch| seen.extend(batch.iter().map(|f| f.bytes.to_vec())));
        std::thread::sleep(WAIT);
    }
    std::fs::remove_file(&path).unwrap();
    let payloads: Vec<&[u8]> = seen
        .iter()
        .map(|bytes| &bytes[decode_frame(bytes.as_slice()).unwrap().tcp.payload..])
        .collect();
    assert_eq!(payloads, [b"between".as_slice(), &payload]);
    let counted = |name| {
        let counters = replayer.counters();
        counters.iter().find(|c| c.name == name).unwrap().value
    };
    assert_eq!(counted("fragments"), 4);
    assert_eq!(counted("reassembled"), 1);
    assert_eq!(counted("reassembly_incomplete"), 1);
    assert_eq!(counted("requests"), 2);
}
