//! Files of every kind, made byte by byte, whole and damaged.

use super::*;
use crate::write::{Rotation, Statistics, Writer};
use flate2::write::GzEncoder;
use proptest::prelude::*;
use ruzstd::encoding::{CompressionLevel, compress_to_vec};
use std::io::{Cursor, Write};

const AT_NS: u64 = 1_700_000_000_123_456_789;

/// Packets of a few bytes, each told by its first one.
fn packets() -> Vec<Vec<u8>> {
    (0u8..20)
        .map(|n| vec![n; 14 + usize::from(n) * 37])
        .collect()
}

#[derive(Clone, Copy, Debug)]
struct Order {
    big: bool,
}

impl Order {
    fn u16(self, n: u16) -> [u8; 2] {
        if self.big {
            n.to_be_bytes()
        } else {
            n.to_le_bytes()
        }
    }

    fn u32(self, n: u32) -> [u8; 4] {
        if self.big {
            n.to_be_bytes()
        } else {
            n.to_le_bytes()
        }
    }
}

fn pcap(order: Order, nanoseconds: bool, link: u32) -> Vec<u8> {
    let magic: u32 = if nanoseconds {
        0xa1b2_3c4d
    } else {
        0xa1b2_c3d4
    };
    let mut out = order.u32(magic).to_vec();
    out.extend(order.u16(2));
    out.extend(order.u16(4));
    for word in [0, 0, 65_535, link] {
        out.extend(order.u32(word));
    }
    for (n, packet) in packets().iter().enumerate() {
        let at = AT_NS + n as u64 * 1_000_000;
        let fraction = (at % 1_000_000_000) as u32;
        out.extend(order.u32((at / 1_000_000_000) as u32));
        out.extend(order.u32(if nanoseconds {
            fraction
        } else {
            fraction / 1000
        }));
        out.extend(order.u32(packet.len() as u32));
        out.extend(order.u32(packet.len() as u32 + 5));
        out.extend(packet);
    }
    out
}

fn block(order: Order, kind: u32, body: &[u8]) -> Vec<u8> {
    let padded = body.len().next_multiple_of(4);
    let size = order.u32(padded as u32 + 12);
    let mut out = [order.u32(kind), size].concat();
    out.extend(body);
    out.resize(8 + padded, 0);
    out.extend(size);
    out
}

fn section(order: Order) -> Vec<u8> {
    let mut body = order.u32(0x1a2b_3c4d).to_vec();
    body.extend(order.u16(1));
    body.extend(order.u16(0));
    body.extend([0xff; 8]);
    block(order, 0x0a0d_0d0a, &body)
}

fn interface(order: Order, link: u16, resolution: Option<u8>, snaplen: u32) -> Vec<u8> {
    let mut body = order.u16(link).to_vec();
    body.extend(order.u16(0));
    body.extend(order.u32(snaplen));
    if let Some(resolution) = resolution {
        body.extend(order.u16(9));
        body.extend(order.u16(1));
        body.extend([resolution, 0, 0, 0]);
        body.extend([0; 4]);
    }
    block(order, 1, &body)
}

fn enhanced(order: Order, interface: u32, ticks: u64, packet: &[u8]) -> Vec<u8> {
    let mut body = order.u32(interface).to_vec();
    body.extend(order.u32((ticks >> 32) as u32));
    body.extend(order.u32(ticks as u32));
    body.extend(order.u32(packet.len() as u32));
    body.extend(order.u32(packet.len() as u32 + 5));
    body.extend(packet);
    block(order, 6, &body)
}

fn pcapng(order: Order, resolution: Option<u8>, link: u16, ticks: impl Fn(u64) -> u64) -> Vec<u8> {
    let mut out = section(order);
    // Statistics and a block of a kind that nobody knows.
    out.extend(interface(order, link, resolution, 0));
    out.extend(block(order, 0x7777_7777, &[1, 2, 3]));
    for (n, packet) in packets().iter().enumerate() {
        out.extend(enhanced(
            order,
            0,
            ticks(AT_NS + n as u64 * 1_000_000),
            packet,
        ));
        out.extend(block(order, 5, &[0; 12]));
    }
    out
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

fn zstd(bytes: &[u8]) -> Vec<u8> {
    compress_to_vec(bytes, CompressionLevel::Fastest)
}

type Found = (u64, Vec<u8>, u32);

/// Everything in a file, and what stopped it.
fn read(file: Vec<u8>) -> Result<(Vec<Found>, Option<Damage>), OpenError> {
    let mut reader = Reader::new(Cursor::new(file))?;
    let mut all = Vec::new();
    loop {
        match reader.next() {
            Ok(Some(p)) => all.push((p.at_ns, p.bytes.to_vec(), p.len)),
            Ok(None) => return Ok((all, None)),
            Err(damage) => {
                assert_eq!(reader.next(), Ok(None), "nothing behind damage");
                return Ok((all, Some(damage)));
            }
        }
    }
}

fn expected(unit_ns: u64) -> Vec<Found> {
    let times = (0..).map(|n| (AT_NS + n * 1_000_000) / unit_ns * unit_ns);
    times
        .zip(packets())
        .map(|(at, p)| (at, p.clone(), p.len() as u32 + 5))
        .collect()
}

const ORDERS: [Order; 2] = [Order { big: false }, Order { big: true }];

#[test]
fn every_format_order_and_resolution_plain_and_packed() {
    for order in ORDERS {
        for (file, unit_ns) in [
            (pcap(order, false, 1), 1000),
            (pcap(order, true, 1), 1),
            (pcapng(order, None, 1, |ns| ns / 1000), 1000),
            (pcapng(order, Some(9), 1, |ns| ns), 1),
            (pcapng(order, Some(3), 1, |ns| ns / 1_000_000), 1_000_000),
            (
                pcapng(order, Some(0x80), 1, |ns| ns / 1_000_000_000),
                1_000_000_000,
            ),
        ] {
            let two_gzip = [gzip(&file[..777]), gzip(&file[777..])].concat();
            let skipped = [
                &[0x53, 0x2a, 0x4d, 0x18, 3, 0, 0, 0, 1, 2, 3][..],
                &zstd(&file),
            ]
            .concat();
            let two_zstd = [zstd(&file[..777]), skipped.clone(), zstd(&file[777..])];
            let two_zstd = [two_zstd[0].clone(), two_zstd[2].clone()].concat();
            for whole in [
                file.clone(),
                gzip(&file),
                zstd(&file),
                two_gzip,
                two_zstd,
                skipped,
            ] {
                let (found, damage) = read(whole).unwrap();
                assert_eq!(damage, None, "{order:?}");
                assert_eq!(found, expected(unit_ns), "{order:?} {unit_ns}");
            }
        }
    }
}

#[test]
fn times_in_powers_of_two_and_with_an_offset() {
    for order in ORDERS {
        let file = pcapng(order, Some(0x8a), 1, |ns| ns / 1_000_000_000 * 1024 + 512);
        let (found, _) = read(file).unwrap();
        assert_eq!(
            found[0].0,
            AT_NS / 1_000_000_000 * 1_000_000_000 + 500_000_000
        );

        let mut file = section(order);
        let mut body = [order.u16(1), order.u16(0)].concat();
        body.extend(order.u32(0));
        body.extend([order.u16(14), order.u16(8)].concat());
        let offset = -3600i64;
        body.extend(if order.big {
            offset.to_be_bytes()
        } else {
            offset.to_le_bytes()
        });
        body.extend([0; 4]);
        file.extend(block(order, 1, &body));
        file.extend(enhanced(order, 0, 7_200_000_000, &[1; 20]));
        let (found, damage) = read(file).unwrap();
        assert_eq!(damage, None);
        assert_eq!(found[0].0, 3_600_000_000_000, "{order:?}");
    }
}

#[test]
fn sections_change_the_order_and_simple_packets_have_the_time_before() {
    let [little, big] = ORDERS;
    let mut file = pcapng(little, Some(9), 1, |ns| ns);
    file.extend(section(big));
    file.extend(interface(big, 101, Some(9), 8));
    file.extend(enhanced(big, 0, 77, &[0x45; 21]));
    let simple = [big.u32(300).to_vec(), vec![0x46; 8]].concat();
    file.extend(block(big, 3, &simple));
    let (found, damage) = read(file).unwrap();
    assert_eq!(damage, None);
    assert_eq!(found.len(), 22);
    assert_eq!(found[20], (77, vec![0x45; 21], 26));
    assert_eq!(found[21], (77, vec![0x46; 8], 300));
}

#[test]
fn each_link_type_is_told_and_others_are_refused_or_left_out() {
    for number in [0, 1, 12, 14, 101, 108, 113, 228, 229, 276] {
        let mut reader = Reader::new(Cursor::new(pcap(ORDERS[0], false, number))).unwrap();
        let link = reader.next().unwrap().unwrap().link;
        assert_eq!(link, Link::from_number(number as u16));
        assert!(link.is_some());
        let file = pcapng(ORDERS[1], None, number as u16, |ns| ns);
        let mut reader = Reader::new(Cursor::new(file)).unwrap();
        assert_eq!(reader.next().unwrap().unwrap().link, link);
    }
    let error = Reader::new(Cursor::new(pcap(ORDERS[0], false, 105)))
        .err()
        .unwrap();
    assert!(
        error
            .to_string()
            .starts_with("link type 105, expected Ethernet"),
        "{error}"
    );
    let mut reader = Reader::new(Cursor::new(pcapng(ORDERS[0], None, 105, |ns| ns))).unwrap();
    assert_eq!(reader.next().unwrap().unwrap().link, None);
    // Frame check sequences are told by the upper bits of the link type.
    let (found, _) = read(pcap(ORDERS[0], false, 0x2400_0001)).unwrap();
    assert_eq!(found.len(), 20);
}

#[test]
fn no_capture_file_is_said_to_be_one() {
    for (file, words) in [
        (&b""[..], "the file is empty"),
        (b"\xd4\xc3", "the file ends after 2 bytes"),
        (
            b"GET / HTTP/1.1\r\n",
            "begins with 47 45 54 20; expected a pcap or pcapng",
        ),
        (
            b"\xd4\xc3\xb2\xa1\x02\x00",
            "file header: the file ends after 6 of 24 bytes",
        ),
        (
            b"\x1f\x8b\x08\x00\x00\x00\x00\x00\x00\xff\xff\xff",
            "expected a pcap",
        ),
    ] {
        let error = Reader::new(Cursor::new(file.to_vec()))
            .err()
            .unwrap()
            .to_string();
        assert!(error.contains(words), "{error}");
    }
}

#[test]
fn a_file_cut_anywhere_gives_all_packets_before_the_cut() {
    for order in ORDERS {
        for (file, header, per_packet) in [
            (pcap(order, false, 1), 24, 16),
            (
                pcapng(order, None, 1, |ns| ns / 1000),
                28 + 20 + 16,
                24 + 32,
            ),
        ] {
            let mut ends = vec![header];
            for p in packets() {
                let body = if per_packet == 16 {
                    p.len()
                } else {
                    p.len().next_multiple_of(4)
                };
                ends.push(ends.last().unwrap() + per_packet + body);
            }
            assert_eq!(*ends.last().unwrap(), file.len());
            for cut in header..file.len() {
                let (found, damage) = read(file[..cut].to_vec()).unwrap();
                let whole = ends.iter().filter(|end| **end <= cut).count() - 1;
                // A packet block may be whole and the statistics behind it not.
                assert!(found.len() == whole || found.len() == whole + 1, "{cut}");
                match damage {
                    None => assert!(per_packet != 16 || ends.contains(&cut), "{cut}"),
                    Some(damage) => {
                        assert!(damage.offset <= cut as u64 && !damage.unpacked);
                        assert!(damage.found.contains("the file ends after"), "{damage}");
                    }
                }
            }
        }
    }
}

#[test]
fn packed_files_cut_short_give_what_can_be_unpacked() {
    let file = pcap(ORDERS[0], true, 1);
    // Not compressible, so that cutting the packed file in half leaves half of the packets.
    let mut noise = file.clone();
    let mut state = 1u32;
    for (n, byte) in noise.iter_mut().enumerate().skip(24) {
        if file[n] > 1
            && file[n] < 20
            && file[n - 1] == file[n]
            && file.get(n + 1) == Some(&file[n])
        {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            *byte = (state >> 24) as u8;
        }
    }
    for packed in [gzip(&noise), zstd(&noise)] {
        let mut most = 0;
        for cut in 18..packed.len() {
            match read(packed[..cut].to_vec()) {
                Ok((found, damage)) => {
                    let damage = damage.expect("cut files are damaged");
                    assert!(damage.unpacked, "{damage}");
                    most = most.max(found.len());
                }
                Err(OpenError::NotACapture(_)) => {}
                Err(other) => panic!("{cut}: {other}"),
            }
        }
        assert!(
            most >= 10,
            "{most} of 20 packets of a packed file that lacks its last byte"
        );
    }
}

#[test]
fn several_blocks_of_a_zstd_frame_are_kept_when_the_last_one_is_cut() {
    // 300 KiB are three blocks at least; the decoder holds all of them back until the frame ends.
    let mut file = pcap(ORDERS[0], true, 1);
    for n in 0..300u32 {
        file.extend(
            [
                n.to_le_bytes(),
                [0; 4],
                1024u32.to_le_bytes(),
                1024u32.to_le_bytes(),
            ]
            .concat(),
        );
        file.extend(
            (0..1024u32).map(|i| (i.wrapping_mul(n.wrapping_mul(2_654_435_761) | 1) >> 13) as u8),
        );
    }
    let packed = zstd(&file);
    let (found, damage) = read(packed[..packed.len() - 3].to_vec()).unwrap();
    assert!(found.len() > 200, "{} packets, {damage:?}", found.len());
    assert!(
        damage
            .unwrap()
            .to_string()
            .contains("of what it unpacks to")
    );
}

#[test]
fn damage_is_named_with_its_place() {
    let mut file = pcap(ORDERS[0], false, 1);
    // The length of the second record.
    let second = 24 + 16 + 14;
    file[second + 8..second + 12].copy_from_slice(&0xdead_beef_u32.to_le_bytes());
    let (found, damage) = read(file).unwrap();
    assert_eq!(found.len(), 1);
    assert_eq!(
        damage.unwrap().to_string(),
        "damaged at byte 54: a record of 3735928559 captured bytes, expected at most 1048576"
    );
    let mut file = pcapng(ORDERS[0], None, 1, |ns| ns);
    let end = file.len();
    file[end - 4] = 9;
    let (found, damage) = read(file).unwrap();
    assert_eq!(found.len(), 20);
    assert!(
        damage
            .unwrap()
            .found
            .contains("whose length at its end is 9")
    );
}

#[test]
fn what_is_written_can_be_read() {
    let folder = std::env::temp_dir().join(format!("savefile-{}", std::process::id()));
    std::fs::create_dir_all(&folder).unwrap();
    for name in ["one.pcapng", "one.pcapng.zst"] {
        let path = folder.join(name);
        let mut writer = Writer::create(&path, "test", "eth7", Rotation::default(), AT_NS).unwrap();
        writer.frame(AT_NS, &[1; 61], 61, None).unwrap();
        writer
            .frame(AT_NS + 1, &[2; 60], 1500, Some(0x2007))
            .unwrap();
        writer.flush().unwrap();
        writer.frame(AT_NS + 2, &[3; 5], 5, Some(9)).unwrap();
        writer.end(&Statistics::default()).unwrap();
        let (found, damage) = read(std::fs::read(&path).unwrap()).unwrap();
        assert_eq!(damage, None);
        assert_eq!(found[0], (AT_NS, vec![1; 61], 61));
        let tagged = [&[2; 12][..], &[0x81, 0, 0x20, 7], &[2; 48]].concat();
        assert_eq!(found[1], (AT_NS + 1, tagged, 1504));
        assert_eq!(found[2], (AT_NS + 2, vec![3; 5], 5), "too short for a tag");
    }
    std::fs::remove_dir_all(&folder).unwrap();
}

#[test]
fn files_rotate_by_size_and_age_and_lose_nothing() {
    let folder = std::env::temp_dir().join(format!("savefile-rotate-{}", std::process::id()));
    std::fs::create_dir_all(&folder).unwrap();
    let rotation = Rotation {
        max_bytes: Some(600 << 10),
        max_age_ns: Some(1_000),
    };
    let path = folder.join("r.pcapng");
    let mut writer = Writer::create(&path, "test", "eth7", rotation, 0).unwrap();
    assert!(!writer.rotation_due(5_000), "an empty file stays");
    let (mut now, mut sent) = (0, 0u32);
    for n in 0..2000u32 {
        writer
            .frame(u64::from(n), &n.to_be_bytes().repeat(250), 1000, None)
            .unwrap();
        sent += 1;
        now += u64::from(n > 1500);
        if writer.rotation_due(now) {
            writer.rotate(&Statistics::default(), now).unwrap();
        }
    }
    writer.end(&Statistics::default()).unwrap();
    assert!(writer.files() >= 3, "{}", writer.files());
    let mut read_back = 0u32;
    for number in 1..=writer.files() {
        let path = folder.join(format!("r-{number:05}.pcapng"));
        let bytes = std::fs::read(path).unwrap();
        assert!(bytes.len() < 1 << 20, "{}", bytes.len());
        for (at, packet, _) in read(bytes).unwrap().0 {
            assert_eq!(at, u64::from(read_back));
            assert_eq!(packet[..4], read_back.to_be_bytes());
            read_back += 1;
        }
    }
    assert_eq!(read_back, sent);
    std::fs::remove_dir_all(&folder).unwrap();
}

/// A well-formed file with a few bytes changed: gets further into the parsers than noise.
fn mutated() -> impl Strategy<Value = Vec<u8>> {
    let kinds = 0..6usize;
    let changes = prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..8);
    (kinds, changes, any::<prop::sample::Index>(), any::<bool>()).prop_map(
        |(kind, changes, cut, cuts)| {
            let order = ORDERS[kind % 2];
            let mut file = match kind / 2 {
                0 => pcap(order, true, 1),
                1 => pcapng(order, Some(9), 276, |ns| ns),
                _ => pcapng(order, Some(0x83), 0, |ns| ns),
            };
            for (at, byte) in &changes {
                let at = at.index(file.len());
                file[at] = *byte;
            }
            if cuts {
                file.truncate(cut.index(file.len()));
            }
            file
        },
    )
}

fn consume(file: Vec<u8>) {
    let size = file.len();
    let Ok(mut reader) = Reader::new(Cursor::new(file)) else {
        return;
    };
    let mut scratch = Vec::new();
    let mut packets = 0;
    while let Ok(Some(packet)) = reader.next() {
        packets += 1;
        if let Some(link) = packet.link
            && let Some(frame) = crate::link::frame(link, packet.bytes, packet.len, &mut scratch)
        {
            assert!(frame.len as usize >= frame.bytes.len());
        }
    }
    assert!(
        reader.compression() != Compression::None || packets <= size,
        "ends"
    );
}

proptest! {
    #[test]
    fn arbitrary_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..400), kind in 0..7usize) {
        let start: &[u8] = match kind {
            0 => &[0xd4, 0xc3, 0xb2, 0xa1],
            1 => &[0xa1, 0xb2, 0x3c, 0x4d],
            2 => &[0x0a, 0x0d, 0x0d, 0x0a, 28, 0, 0, 0, 0x4d, 0x3c, 0x2b, 0x1a],
            3 => &[0x0a, 0x0d, 0x0d, 0x0a, 0, 0, 0, 28, 0x1a, 0x2b, 0x3c, 0x4d],
            4 => &[0x1f, 0x8b, 8, 0],
            5 => &[0x28, 0xb5, 0x2f, 0xfd],
            _ => &[],
        };
        consume([start, &bytes].concat());
    }

    #[test]
    fn changed_files_never_panic(file in mutated()) {
        consume(file);
    }

    #[test]
    fn changed_packed_files_never_panic(file in mutated(), at in any::<prop::sample::Index>(), byte in any::<u8>()) {
        for mut packed in [gzip(&file), zstd(&file)] {
            let at = at.index(packed.len());
            packed[at] = byte;
            consume(packed);
        }
    }
}
