//! Translated filters in the kernel against libpcap's own interpreter: the same verdict on every packet.
//!
//! ```text
//!  expression × packet ─┬─ libpcap: bpf_filter
//!                       ├─ XDP, frame as it is
//!                       ├─ tcx, frame as it is
//!                       └─ tcx, the outer tag in the metadata, as live packets have it
//! ```
//! And the translator alone: random classic programs, in the same three places.

mod ebpf_support;

use common::packet::{Header, Position};
use dataplane::bpf::Filter;
use dataplane::bpf::filter::Hook;
use dataplane::bpf::filter::classic::ClassicInsn;
use ebpf_support::cases::{cases, seeds};
use ebpf_support::frames::*;
use ebpf_support::raw::*;
use ebpf_support::{Rng, hexdump, privileged};

/// One of each kind that pcap-filter(7) knows, and combinations.
const EXPRESSIONS: &[&str] = &[
    // Addresses.
    "host 10.77.2.1",
    "src host 10.77.2.1",
    "dst host 10.77.0.20",
    "not host 10.77.0.20",
    "host 2001:db8::20",
    "src host 2001:db8::1 or dst host 10.77.0.20",
    "net 10.77.0.0/16",
    "src net 10.77.2.0/24",
    "dst net 10.77.0.0 mask 255.255.255.0",
    "net 2001:db8::/32",
    "src net 2001:db8::/127",
    "src net 10.0.0.0/8 and not src host 10.77.2.1",
    "ether host 02:00:00:00:00:02",
    "ether src 02:00:00:00:00:01",
    "ether broadcast",
    "ether multicast",
    "ip multicast",
    "ip6 multicast",
    // Ports.
    "port 80",
    "src port 40000",
    "dst port 80",
    "tcp port 80",
    "udp port 53",
    "tcp dst port 80",
    "portrange 79-81",
    "src portrange 32768-65535",
    "tcp dst portrange 1-1023",
    "port http or port https",
    // Protocols.
    "ip",
    "ip6",
    "arp",
    "tcp",
    "udp",
    "icmp",
    "icmp6",
    "sctp or ah or esp or pim or igmp",
    "ip proto 47",
    "ip6 proto 6",
    "proto 17",
    "ip proto \\tcp",
    "ether proto 0x0800",
    "ether proto \\ip6",
    "stp or isis or ipx or atalk",
    // Tags and tunnels.
    "vlan",
    "vlan 5",
    "vlan 6",
    "vlan and tcp",
    "vlan 5 and host 10.77.2.1",
    "vlan and vlan",
    "vlan 5 and vlan 6",
    "vlan and vlan 6 and tcp dst port 80",
    "not vlan",
    "not vlan 5",
    "vlan and ip6",
    "tcp dst port 80 or (vlan and tcp dst port 80)",
    "mpls",
    "mpls and ip",
    "pppoes and tcp port 80",
    "geneve",
    "geneve and ip",
    // Lengths.
    "len > 100",
    "len <= 72",
    "less 60",
    "greater 1000",
    "len = 72 or len = 76",
    "len - 14 > ip[2:2]",
    "ether[len - 4:4] != 0",
    "ether[len - 1] & 1 = 1",
    // Bytes.
    "ip[0] & 0xf > 5",
    "ip[6:2] & 0x1fff = 0",
    "ip[6:2] & 0x3fff != 0",
    "ip[2:2] - ((ip[0] & 0xf) << 2) > 40",
    "ip[2:2] - ((ip[0] & 0xf) << 2) - ((tcp[12] & 0xf0) >> 2) != 0",
    "tcp[((tcp[12:1] & 0xf0) >> 2):4] = 0x47455420",
    "ip6[6] = 6",
    "ip6[40 + 13] & 0x18 = 0x18",
    "ether[12:2] = 0x0800",
    "ether[10:4] & 0xffff = 0x0800",
    "ether[11:2] & 0xff = 0x81",
    "ether[13:2] = 0x45",
    "ether[14] & 0xf0 = 0x40",
    "ether[14:4] & 0xffff = 0x0800",
    "ether[15:4] > 0x1000000",
    "ether[0:4] = 0x02000000",
    "ether[9:4] & 0xff = 0x08",
    "ether[8:4] != 1",
    "ether[ether[0] + 7:4] & 0xff = 0x08",
    "ether[ether[0] + 9:4] & 0xff00 = 0x100",
    "ether[ether[0] + 11:2] != 0x0800",
    "ether[ether[0] + 13] = 5",
    "ether[ether[0] + 14:4] & 0xff00 = 0x4500",
    "ether[2000:4] = 0",
    "ether[40000] = 0",
    // Arithmetic.
    "ip[8] / ip[9] > 3",
    "ip[2:2] / ip[1] > 3",
    "ip[2:2] % ip[1] = 2",
    "ip[2:2] % ip[9] = 3",
    "ip[0] << ip[9] > 100",
    "ip[4:2] >> ip[9] = 0",
    "ip[12:4] ^ ip[16:4] < 0x10000",
    "ip[8] * ip[9] >= 384",
    "ip[12:4] | 0xff = 0x0a4d02ff",
    "-ip[9] & 0xff = 250",
    "ip[10:2] > ip[4:2]",
    "ip[ip[9]:2] != 0",
    "ip[4:2] * 65537 > 0x80000000",
    "ether[ip[12:4]:4] = 0",
    // Flags.
    "tcp[tcpflags] & tcp-push != 0",
    "tcp[tcpflags] & (tcp-syn|tcp-fin) != 0",
    "tcp[tcpflags] & (tcp-syn|tcp-ack) = tcp-syn",
    "tcp[13] = 0x18 and tcp[14:2] = 1000",
    "icmp[icmptype] = icmp-echo",
    // Together.
    "tcp and dst port 80 and net 10.0.0.0/8",
    "tcp and (src port 80 or src port 443) and not (src net 10.77.0.0/24 or dst net 192.0.2.0/24)",
    "(host 10.77.2.1 and (port 80 or port 8080)) or (ip6 and tcp and not port 22)",
    "not (tcp or udp)",
    "tcp and not vlan 7",
];

/// Those that ask for bytes which no packet here has.
const NEVER: &[&str] = &["ether[40000] = 0", "ether[ip[12:4]:4] = 0"];

fn frames() -> Vec<(String, Vec<u8>)> {
    let (client, online) = (v4([10, 77, 2, 1], 40000), v4([10, 77, 0, 20], 80));
    let (client6, online6) = (v6("2001:db8::1", 40000), v6("2001:db8::20", 80));
    let request = b"GET / HTTP/1.1\r\n\r\n";
    let (good, good6) = (tcp(client, online, request), tcp(client6, online6, request));
    let mut frames: Vec<(String, Vec<u8>)> = cases(&good, &good6)
        .into_iter()
        .map(|(name, frame, _)| (name.to_owned(), frame))
        .collect();
    let server = v4([192, 0, 1, 1], 80);
    let service = |at, value| changed(&changed(&good, 23, 17), at, value);
    let behind = |link: &[u8]| [&good[..12], link, &good[14..]].concat();
    let more = [
        ("3000 bytes", tcp(client, online, &[0; 3000])),
        ("answer", tcp(server, client, request)),
        ("type of service", changed(&good, 15, 4)),
        ("DNS", changed(&service(36, 0), 37, 53)),
        ("GRE", changed(&good, 23, 47)),
        ("SCTP", changed(&good, 23, 132)),
        ("ICMP echo", changed(&changed(&good, 23, 1), 34, 8)),
        ("ICMPv6", changed(&good6, 20, 58)),
        ("multicast", changed(&changed(&good, 30, 224), 0, 1)),
        ("multicast, IPv6", changed(&good6, 38, 0xff)),
        ("MPLS", behind(&[0x88, 0x47, 0, 1, 1, 64])),
        (
            "PPPoE",
            behind(&[0x88, 0x64, 0x11, 0, 0, 1, 0, 60, 0, 0x21]),
        ),
    ];
    frames.extend(more.map(|(name, frame)| (name.to_owned(), frame)));
    for name in [
        "802.1ad_QinQ",
        "various_gre",
        "vxlan",
        "geneve",
        "ipv4_tcp_http_xml_tso",
    ] {
        let packets = capture(name);
        assert!(!packets.is_empty(), "{name} has no packets");
        let named = packets.into_iter().enumerate();
        frames.extend(named.map(|(i, packet)| (format!("{name} {}", i + 1), packet)));
    }
    let mut seeds = seeds(&good, &good6);
    seeds.push(tcp_timestamps(client, online, &[9; 300]));
    seeds.push(changed(&good, 23, 17));
    seeds.push(tagged(ip_options(good, 2), &[(0x88a8, 5), (0x8100, 6)]));
    let mut rng = Rng(0x0f11_7e20_5eed_0001);
    for round in 0..1500 {
        frames.push((format!("round {round}"), mutated(&mut rng, &seeds)));
    }
    frames
}

/// Packets of a capture file in the classic format.
fn capture(name: &str) -> Vec<Vec<u8>> {
    let path = format!("{}/tests/captures/{name}.pcap", env!("CARGO_MANIFEST_DIR"));
    let bytes = std::fs::read(&path).unwrap_or_else(|e| panic!("{path}: {e}"));
    let little = bytes[0] != 0xa1;
    let word = |at: usize| {
        let four: [u8; 4] = bytes[at..at + 4].try_into().unwrap();
        if little {
            u32::from_le_bytes(four)
        } else {
            u32::from_be_bytes(four)
        }
    };
    assert_eq!(word(20), 1, "{path}: not Ethernet");
    let mut packets = Vec::new();
    let mut at = 24;
    while at + 16 <= bytes.len() {
        let len = word(at + 8) as usize;
        packets.push(bytes[at + 16..at + 16 + len].to_vec());
        at += 16 + len;
    }
    packets
}

#[test]
fn the_kernel_decides_as_libpcap_does() {
    privileged();
    let frames = frames();
    let slot = Slot::new();
    // Names and priorities too; the program behind is replaced for each expression.
    let tags = [(0x8100, 5), (0x8100, 0xe006), (0x88a8, 5)];
    let taggers: Vec<_> = tags
        .iter()
        .map(|(protocol, tci)| tagging(&slot, *protocol, *tci))
        .collect();
    let (mut runs, mut matches, mut not_run) = (0, 0, 0);
    for expression in EXPRESSIONS {
        let filter = Filter::compile(expression).unwrap();
        let (xdp, tcx) = (
            load_filter(&filter, Hook::Xdp),
            load_filter(&filter, Hook::Tcx),
        );
        let socket = load_filter(&filter, Hook::Socket);
        slot.put(&tcx);
        let mut of_this = [0; 2];
        let mut check = |what: &str, name: &str, on_wire: &[u8], got: Option<(u32, u32)>| {
            let want = filter.matches(on_wire);
            let Some((got, _)) = got else {
                not_run += 1;
                return;
            };
            runs += 1;
            of_this[usize::from(want)] += 1;
            assert!(
                got == u32::from(want),
                "'{expression}' on {name}, {what}: libpcap says {want}, the kernel {got}, for{}",
                hexdump(on_wire)
            );
        };
        for (name, frame) in &frames {
            check("XDP", name, frame, run(&xdp, frame, 1));
            check("tcx", name, frame, run(&tcx, frame, 1));
            check("socket", name, frame, run_on_socket(&socket, frame));
            for (tag, tagger) in tags.iter().zip(&taggers) {
                let on_wire = tagged(frame.clone(), &[*tag]);
                check("tag in metadata", name, &on_wire, run(tagger, frame, 1));
            }
        }
        matches += of_this[1];
        // A table that only says no would prove little.
        assert!(
            of_this[0] > 0 && (of_this[1] > 0 || NEVER.contains(expression)),
            "'{expression}': {of_this:?}"
        );
        println!("{:>7} yes {:>7} no  {expression}", of_this[1], of_this[0]);
    }
    println!(
        "{} expressions, {} packets: {runs} runs, {matches} matches, 0 mismatches, {not_run} refused by the kernel",
        EXPRESSIONS.len(),
        frames.len()
    );
    assert!(EXPRESSIONS.len() >= 60);
    assert!(
        runs > 500_000 && matches > 50_000,
        "{runs} runs, {matches} matches"
    );
}

/// Inside a tunnel a packet begins anywhere, with or without a link header.
#[test]
fn packets_inside_tunnels_are_judged_as_libpcap_judges_them_alone() {
    privileged();
    let mut rng = Rng(0x5eed_0f11_7e20_0003);
    let frames: Vec<(String, Vec<u8>, usize)> = frames()
        .into_iter()
        .map(|(name, frame)| {
            // From one label to nested GENEVE with options.
            let outside = 4 + rng.below(400);
            let mut around: Vec<u8> = (0..outside).map(|_| rng.below(256) as u8).collect();
            around.extend(&frame);
            (name, around, outside)
        })
        .collect();
    let offset = Offset::new();
    // Ethernet, then IP alone: yes and no.
    let (mut verdicts, mut without_ip) = ([[0; 2]; 2], 0);
    for expression in EXPRESSIONS {
        let filter = Filter::compile(expression).unwrap().of_inner_packets();
        let ethernet = load_at(filter.program(), &offset);
        let ip = filter.ip_program().map(|program| load_at(program, &offset));
        without_ip += u32::from(ip.is_none());
        for (name, around, outside) in &frames {
            let headers = [
                (Header::Ethernet, *outside, Some(&ethernet)),
                (Header::Ip, outside + 14, ip.as_ref()),
            ];
            for (kind, (header, at, program)) in headers.into_iter().enumerate() {
                let Some(program) = program else { continue };
                if at > around.len() {
                    continue;
                }
                offset.set(at);
                let Some((got, _)) = run(program, around, 1) else {
                    continue;
                };
                let want = filter.matches_at(around, Position::new(at, header));
                verdicts[kind][usize::from(want)] += 1;
                assert!(
                    got == u32::from(want),
                    "'{expression}' on {name} behind {at} bytes, {header:?}: libpcap says {want}, the kernel {got}, for{}",
                    hexdump(around)
                );
            }
        }
    }
    println!(
        "Ethernet and IP, [no, yes]: {verdicts:?}, 0 mismatches; {without_ip} expressions ask for a link header"
    );
    let enough = |[no, yes]: [u32; 2]| no > 50_000 && yes > 10_000;
    assert!(verdicts.into_iter().all(enough), "{verdicts:?}");
}

/// Programs that libpcap's compiler would never write: every instruction, in any order.
#[test]
fn random_programs_do_in_the_kernel_what_they_do_in_libpcap() {
    privileged();
    let frames: Vec<Vec<u8>> = frames().into_iter().map(|(_, frame)| frame).collect();
    let mut rng = Rng(0x5eed_0f11_7e20_0002);
    let slot = Slot::new();
    let tag = (0x8100, 0x2005);
    let tagger = tagging(&slot, tag.0, tag.1);
    let (programs, per_program) = (3000, 20);
    let (mut matches, mut runs) = (0, 0);
    for round in 0..programs {
        let program = random_program(&mut rng);
        let (xdp, tcx) = (
            load_classic(&program, Hook::Xdp),
            load_classic(&program, Hook::Tcx),
        );
        let socket = load_classic(&program, Hook::Socket);
        slot.put(&tcx);
        for _ in 0..per_program {
            let frame = &frames[rng.below(frames.len())];
            let on_wire = tagged(frame.clone(), &[tag]);
            for (got, seen) in [
                (run(&xdp, frame, 1), frame),
                (run(&tcx, frame, 1), frame),
                (run(&tagger, frame, 1), &on_wire),
                (run_on_socket(&socket, frame), frame),
            ] {
                let Some((got, _)) = got else {
                    continue;
                };
                let want = interpret(&program, seen);
                runs += 1;
                matches += u32::from(want);
                assert!(
                    got == u32::from(want),
                    "round {round}: libpcap says {want}, the kernel {got}, of\n{program:#x?}\non{}",
                    hexdump(seen)
                );
            }
        }
    }
    println!("{programs} programs: {runs} runs, {matches} matches, 0 mismatches");
    assert!(runs > programs * per_program * 2, "{runs} runs");
    assert!(
        matches > runs / 20 && matches < runs * 19 / 20,
        "{matches} of {runs}"
    );
}

/// Up to 30 instructions and a return of the accumulator's lowest bits.
fn random_program(rng: &mut Rng) -> Vec<ClassicInsn> {
    let insn = |code: u16, jt, jf, k| ClassicInsn { code, jt, jf, k };
    // The interpreter does not clear its scratch words.
    let mut program: Vec<ClassicInsn> = (0..16).map(|word| insn(0x02, 0, 0, word)).collect();
    let body = 3 + rng.below(28);
    for at in 0..body {
        let left = body - at;
        // Near the headers, around the tag, far, or anywhere.
        let offset = match rng.below(5) {
            0 => 8 + rng.below(10) as u32,
            1 => rng.below(2000) as u32,
            2 => [0x7ff8, 0x7fff, 0xfffe, 0x7fff_fffe][rng.below(4)],
            _ => rng.below(60) as u32,
        };
        let constant = match rng.below(4) {
            0 => rng.next() as u32,
            1 => [0, 1, 0xff, 0x7fff_ffff, 0x8000_0000, u32::MAX][rng.below(6)],
            _ => rng.below(64) as u32,
        };
        let size = [0x00, 0x08, 0x10][rng.below(3)];
        let operand = [0x00, 0x08][rng.below(2)];
        program.push(match rng.below(16) {
            0..3 => insn(0x20 | size, 0, 0, offset),
            3..5 => insn(0x40 | size, 0, 0, offset),
            5 => insn(0xb1, 0, 0, offset),
            6 => insn([0x00, 0x01][rng.below(2)], 0, 0, constant),
            7 => insn([0x80, 0x81][rng.below(2)], 0, 0, 0),
            8 => insn(
                [0x60, 0x61, 0x02, 0x03][rng.below(4)],
                0,
                0,
                rng.below(16) as u32,
            ),
            9 => insn([0x07, 0x87][rng.below(2)], 0, 0, 0),
            10..13 => {
                let op = 0x10 * rng.below(11) as u16;
                let shift = matches!(op, 0x60 | 0x70);
                match (op, operand) {
                    (0x80, _) => insn(0x84, 0, 0, 0),
                    // Shifts by more are undefined in C; libpcap's compiler refuses division by zero.
                    (_, 0) if shift => insn(0x04 | op, 0, 0, constant % 32),
                    (0x30 | 0x90, 0) => insn(0x04 | op, 0, 0, constant.max(1)),
                    _ => insn(0x04 | op | operand, 0, 0, constant),
                }
            }
            13 if left > 1 => insn(0x05, 0, 0, rng.below(left) as u32),
            14 if rng.below(4) == 0 => insn([0x06, 0x16][rng.below(2)], 0, 0, constant & 1),
            _ => {
                let condition = 0x10 + 0x10 * rng.below(4) as u16;
                let mut far = || rng.below(left.min(5)) as u8;
                let (jt, jf) = (far(), far());
                insn(0x05 | condition | operand, jt, jf, constant)
            }
        });
    }
    program.push(insn(0x54, 0, 0, 3));
    program.push(insn(0x16, 0, 0, 0));
    program
}

/// Offsets beyond the linear part, which XDP reads by helper.
#[test]
fn bytes_in_fragments() {
    privileged();
    let mut frame = tcp(
        v4([10, 77, 2, 1], 40000),
        v4([10, 77, 0, 20], 80),
        &[0; 9000],
    );
    for (at, value) in [(3600, 1), (5000, 2), (8999, 3)] {
        frame[at] = value;
    }
    for expression in [
        "ether[3600] = 1",
        "ether[4999:2] = 2",
        "ether[4998:4] = 0x200",
        "ether[len - 55] = 3",
        "ether[8999] = 3 and len = 9054",
        "ether[9053] = 0",
        "ether[9054] = 0",
        "ether[9050:4] = 0",
        "ether[9051:4] = 0",
        "ether[ether[3600] + 4999] = 2",
        "tcp dst port 80 and greater 9000",
    ] {
        let filter = Filter::compile(expression).unwrap();
        let xdp = load_filter(&filter, Hook::Xdp);
        let (got, _) = run(&xdp, &frame, 1).expect("XDP with fragments");
        let want = filter.matches(&frame);
        assert_eq!(got, u32::from(want), "{expression}");
        assert_eq!(
            want,
            !expression.contains("9054]") && !expression.contains("9051:")
        );
    }
}

/// Long filters, near the reach of jumps, still pass the verifier.
#[test]
fn many_hosts() {
    privileged();
    let hosts: Vec<String> = (0..5000u32)
        .map(|i| format!("src host 10.{}.{}.{}", i % 7, i / 250, i % 250))
        .collect();
    let filter = Filter::compile(&format!("ip and ({})", hosts.join(" or "))).unwrap();
    let (xdp, tcx) = (
        load_filter(&filter, Hook::Xdp),
        load_filter(&filter, Hook::Tcx),
    );
    for (src, want) in [
        ([10, 5, 3, 249], true),
        ([10, 1, 19, 249], true),
        ([10, 0, 0, 0], true),
        ([10, 5, 3, 250], false),
    ] {
        let frame = tcp(v4(src, 40000), v4([10, 77, 0, 20], 80), b"x");
        assert_eq!(filter.matches(&frame), want, "{src:?}");
        for program in [&xdp, &tcx] {
            assert_eq!(
                run(program, &frame, 1).unwrap().0,
                u32::from(want),
                "{src:?}"
            );
        }
    }
}

#[test]
fn cost() {
    privileged();
    let frame = tcp(v4([10, 77, 2, 1], 40000), v4([10, 77, 0, 20], 80), b"x");
    for expression in [
        "tcp",
        "src net 10.0.0.0/8",
        "tcp and dst port 80 and net 10.0.0.0/8",
        "tcp[((tcp[12:1] & 0xf0) >> 2):4] = 0x47455420",
    ] {
        let filter = Filter::compile(expression).unwrap();
        let nanoseconds = |hook| {
            run(&load_filter(&filter, hook), &frame, 1_000_000)
                .unwrap()
                .1
        };
        println!(
            "XDP {} ns, tcx {} ns: {expression}",
            nanoseconds(Hook::Xdp),
            nanoseconds(Hook::Tcx)
        );
    }
}
