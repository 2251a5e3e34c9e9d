use super::*;
use common::packet::{
    ETH_HEADER_BYTES, Endpoint, FrameAddresses, SeqNumber, TcpFlags, TcpFrame, TcpOptions,
    build_tcp_frame, decode_ethernet, decode_frame, decode_ip,
};
use proptest::prelude::*;

const V4: usize = ETH_HEADER_BYTES + 20;
const V6: usize = ETH_HEADER_BYTES + 40;

fn frame(v4: bool, payload: &[u8]) -> Vec<u8> {
    let end = |n: u8, port| {
        let mut six = [0; 16];
        (six[0], six[15]) = (0x20, n);
        let addr = if v4 {
            Addr::v4([192, 0, 2, n])
        } else {
            Addr(six)
        };
        Endpoint::new(addr, port)
    };
    let tcp = TcpFrame {
        src: end(1, 4000),
        dst: end(2, 80),
        seq: SeqNumber(7),
        ack: SeqNumber(9),
        flags: TcpFlags::ACK,
        window: 5,
        options: TcpOptions::default(),
        payload,
        ip_id: 77,
    };
    let mut bytes = vec![0; 66_000];
    let len = build_tcp_frame(&mut bytes, FrameAddresses::default(), &tcp).unwrap();
    bytes.truncate(len);
    bytes
}

/// Cuts a frame where `cuts` says, in units of eight bytes.
fn cut(frame: &[u8], v4: bool, id: u16, cuts: &[usize]) -> Vec<Vec<u8>> {
    let (headers, payload) = frame.split_at(if v4 { V4 } else { V6 });
    let mut ends: Vec<usize> = cuts
        .iter()
        .map(|c| c * 8)
        .filter(|c| (1..payload.len()).contains(c))
        .collect();
    ends.extend([0, payload.len()]);
    ends.sort_unstable();
    ends.dedup();
    let pieces = ends.windows(2).map(|w| {
        let (piece, more) = (&payload[w[0]..w[1]], w[1] < payload.len());
        let mut f = headers.to_vec();
        if v4 {
            let field = (w[0] / 8) as u16 | if more { 0x2000 } else { 0 };
            f[16..18].copy_from_slice(&((20 + piece.len()) as u16).to_be_bytes());
            f[18..20].copy_from_slice(&id.to_be_bytes());
            f[20..22].copy_from_slice(&field.to_be_bytes());
        } else {
            let field = w[0] as u16 | u16::from(more);
            f[18..20].copy_from_slice(&((8 + piece.len()) as u16).to_be_bytes());
            let next = std::mem::replace(&mut f[20], 44);
            f.extend([next, 0]);
            f.extend(field.to_be_bytes());
            f.extend(u32::from(id).to_be_bytes());
        }
        f.extend_from_slice(piece);
        // Short frames are padded.
        f.resize(f.len().max(60), 0xee);
        f
    });
    pieces.collect()
}

fn captured(bytes: &[u8], at: Nanos) -> Captured<'_> {
    let meta = CaptureMeta {
        at,
        frame_len: bytes.len() as u32,
        ..CaptureMeta::default()
    };
    Captured { bytes, meta }
}

fn take<'r>(r: &'r mut Reassembler, bytes: &[u8], at: Nanos) -> Option<Captured<'r>> {
    let ether = decode_ethernet(bytes).unwrap();
    let ip = decode_ip(bytes, ether.l3).unwrap();
    assert!(ip.fragment);
    r.take(&captured(bytes, at), &ip)
}

/// Payload of a whole frame.
fn payload(frame: &Captured<'_>) -> Vec<u8> {
    let p = decode_frame(frame.bytes).unwrap();
    let len = p.payload_len(frame.meta.frame_len as usize);
    assert_eq!(
        (p.tcp.sport, p.tcp.dport, p.tcp.seq),
        (4000, 80, SeqNumber(7))
    );
    frame.bytes[p.tcp.payload..p.tcp.payload + len].to_vec()
}

proptest! {
    #[test]
    fn pieces_in_any_order_give_the_packet(
        v4 in any::<bool>(),
        data in prop::collection::vec(any::<u8>(), 20..4000),
        cuts in prop::collection::vec(1usize..500, 1..20),
        order in any::<u64>(),
        again in any::<u64>(),
    ) {
        let mut pieces = cut(&frame(v4, &data), v4, 5, &cuts);
        prop_assume!(pieces.len() > 1);
        let n = pieces.len();
        for i in 0..n {
            pieces.swap(i, (order.rotate_left(i as u32 * 7) % n as u64) as usize);
        }
        let mut r = Reassembler::default();
        for (i, piece) in pieces.iter().enumerate() {
            let last = i + 1 == n;
            if !last && again >> (i % 64) & 1 != 0 {
                prop_assert!(take(&mut r, piece, Nanos(1)).is_none());
            }
            let whole = take(&mut r, piece, Nanos(1)).map(|f| payload(&f));
            prop_assert_eq!(whole, last.then(|| data.clone()));
        }
        let c = r.counters();
        prop_assert_eq!((c.whole, c.invalid, c.incomplete), (1, 0, 0));
    }

    #[test]
    fn nothing_panics(frames in prop::collection::vec(
        (prop::collection::vec(any::<u8>(), 0..120), any::<bool>(), 0u16..4, 0u16..0x4000), 1..60,
    )) {
        let mut r = Reassembler::default();
        for (bytes, v4, id, field) in frames {
            // Plausible headers with everything else as it comes.
            let mut f = cut(&frame(v4, &[1; 40]), v4, id, &[1]).swap_remove(0);
            let at = if v4 { 20 } else { V6 + 2 };
            f[at..at + 2].copy_from_slice(&field.to_be_bytes());
            f.truncate(if v4 { V4 } else { V6 + 8 });
            f.extend_from_slice(&bytes);
            let ether = decode_ethernet(&*f).unwrap();
            let Ok(ip) = decode_ip(&*f, ether.l3) else { continue };
            if let Some(whole) = r.take(&captured(&f, Nanos(1)), &ip) {
                prop_assert!(whole.bytes.len() < 66_000);
            }
        }
    }
}

#[test]
fn overlapping_pieces_end_their_packet() {
    let data = [7; 400];
    let whole = frame(true, &data);
    let mut r = Reassembler::default();
    let first = cut(&whole, true, 5, &[10]);
    let other = cut(&whole, true, 5, &[8]);
    assert!(take(&mut r, &first[0], Nanos(1)).is_none());
    assert!(
        take(&mut r, &other[1], Nanos(1)).is_none(),
        "16 bytes of it are there already"
    );
    assert_eq!(r.counters().invalid, 1);
    // What comes behind begins anew, and never becomes whole.
    assert!(take(&mut r, &first[1], Nanos(1)).is_none());
}

#[test]
fn what_is_missing_is_not_waited_for_longer_than_that() {
    let pieces = cut(&frame(true, &[7; 400]), true, 5, &[10]);
    let mut r = Reassembler::default();
    assert!(take(&mut r, &pieces[0], Nanos(1)).is_none());
    let late = Nanos(2) + PATIENCE;
    assert!(take(&mut r, &pieces[1], late).is_none());
    assert_eq!(r.counters().incomplete, 1);
}

#[test]
fn the_oldest_makes_room() {
    let mut r = Reassembler::default();
    let whole = frame(true, &[7; 400]);
    for id in 0..=SLOTS as u16 {
        let pieces = cut(&whole, true, id, &[10]);
        assert!(take(&mut r, &pieces[0], Nanos(1 + u64::from(id))).is_none());
    }
    assert_eq!(r.counters().crowded_out, 1);
    let last = |id| cut(&whole, true, id, &[10]).swap_remove(1);
    assert!(take(&mut r, &last(0), Nanos(100)).is_none());
    assert!(take(&mut r, &last(SLOTS as u16), Nanos(100)).is_some());
}
