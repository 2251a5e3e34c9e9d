//! The program `pool`, run on single packets: what targets answer is taken, questions for its addresses are answered,
//! nothing else for these addresses gets through, and everything else does, untouched.

mod ebpf_support;

use std::collections::BTreeSet;

use aya::maps::{HashMap, MapData, PerCpuArray};
use common::abi::{EndpointKey, POOL_COUNTERS, PoolConfig, PoolCounter, pool_flags};
use common::packet::{Addr, Endpoint, MacAddr, checksum, decode_frame, protocol};
use ebpf_support::frames::*;
use ebpf_support::programs::*;
use ebpf_support::{Rng, hexdump, privileged};

/// What a classifier returns (linux/bpf.h).
const TCX_DROP: u32 = 2;
const TCX_REDIRECT: u32 = 7;

const OWN: [u8; 6] = [2, 0, 0, 0, 0, 2];
const PEER: [u8; 6] = [2, 0, 0, 0, 0, 1];
const BROADCAST: [u8; 6] = [0xff; 6];
const IFINDEX: u32 = 1;
const TARGET: [u8; 4] = [10, 77, 0, 30];
const TARGET6: &str = "2001:db8::30";
const DNS_PORT: u16 = 53;

struct Pool {
    loaded: Loaded,
    counters: PerCpuArray<MapData, u64>,
    addresses: BTreeSet<Addr>,
    own_ports: Option<std::ops::RangeInclusive<u16>>,
}

impl Pool {
    fn new(addresses: &[Addr], own_ports: Option<std::ops::RangeInclusive<u16>>) -> Self {
        let addresses: BTreeSet<Addr> = addresses.iter().copied().collect();
        let (first, last) = (*addresses.first().unwrap(), *addresses.last().unwrap());
        let mut pool = PoolConfig::new(first, last, MacAddr(OWN), IFINDEX);
        let number = |addr: Addr| u128::from_be_bytes(addr.0);
        if number(last) - number(first) >= addresses.len() as u128 {
            pool.flags |= pool_flags::GAPS;
        }
        if let Some(ports) = &own_ports {
            pool.flags |= pool_flags::OWN_ADDRESS;
            (pool.first_port, pool.last_port) = (*ports.start(), *ports.end());
        }
        let mut loaded = Loaded::new(&Setup {
            object: "tcpcopy-ebpf",
            maps: &[("TARGETS", &[v4(TARGET, 8080), v6(TARGET6, 8080)])],
            ring_bytes: 4 << 20,
            pool,
            ..Setup::default()
        });
        let map = loaded.ebpf.map_mut("TARGETS").unwrap();
        let mut map = HashMap::<_, [u8; 20], u32>::try_from(map).unwrap();
        for target in [v4(TARGET, DNS_PORT), v6(TARGET6, DNS_PORT)] {
            map.insert(
                bytemuck::cast::<_, [u8; 20]>(EndpointKey::udp(target)),
                0,
                0,
            )
            .unwrap();
        }
        let map = loaded.ebpf.map_mut("POOL").unwrap();
        let mut map = HashMap::<_, [u8; 16], u32>::try_from(map).unwrap();
        for addr in &addresses {
            map.insert(addr.0, 0, 0).unwrap();
        }
        let counters = loaded.ebpf.take_map("POOL_COUNTS").unwrap();
        let counters = PerCpuArray::try_from(counters).unwrap();
        loaded.classifier("pool");
        Self {
            loaded,
            counters,
            addresses,
            own_ports,
        }
    }

    fn counts(&self) -> Vec<u64> {
        (0..POOL_COUNTERS)
            .map(|at| self.counters.get(&at, 0).unwrap().iter().sum())
            .collect()
    }

    /// Runs a frame; the verdict, the counters that moved, and what it has become. `None` if the kernel makes no packet of
    /// the bytes.
    fn run(&mut self, frame: &[u8]) -> Option<(u32, Vec<PoolCounter>, Vec<u8>)> {
        let before = self.counts();
        let output = self.loaded.run("pool", frame)?;
        let after = self.counts();
        let moved = PoolCounter::ALL.iter().copied();
        let moved = moved.filter(|c| after[c.index() as usize] != before[c.index() as usize]);
        let moved: Vec<PoolCounter> = moved.collect();
        let records = self.loaded.records();
        let taken = moved.contains(&PoolCounter::Captured);
        assert_eq!(
            records.len(),
            usize::from(taken),
            "records of{}",
            hexdump(frame)
        );
        for (header, bytes) in records {
            let packet = decode_frame(frame).unwrap();
            let headers = packet.tcp.payload.min(frame.len());
            assert_eq!(bytes, &frame[..headers]);
            assert_eq!(header.frame_len as usize, frame.len());
        }
        if output.verdict == TCX_NEXT {
            assert_eq!(output.bytes, frame, "changed, and passed on");
        }
        Some((output.verdict, moved, output.bytes))
    }

    fn check(
        &mut self,
        name: &str,
        frame: &[u8],
        verdict: u32,
        counters: &[PoolCounter],
    ) -> Vec<u8> {
        let (got, moved, bytes) = self.run(frame).unwrap();
        assert!(
            got == verdict && moved == counters,
            "{name}: expected {verdict} and {counters:?}, got {got} and {moved:?} for{}",
            hexdump(frame)
        );
        bytes
    }
}

fn to(mac: [u8; 6], mut frame: Vec<u8>) -> Vec<u8> {
    frame[..6].copy_from_slice(&mac);
    frame[6..12].copy_from_slice(&PEER);
    frame
}

/// ARP for Ethernet and IPv4: operation, sender and target.
fn arp(mac: [u8; 6], operation: u8, sender: [u8; 4], target: [u8; 4]) -> Vec<u8> {
    let mut frame = [
        &mac[..],
        &PEER,
        &[8, 6, 0, 1, 8, 0, 6, 4, 0, operation],
        &PEER,
    ]
    .concat();
    frame.extend([&sender[..], &[0; 6], &target].concat());
    // As short frames come off the wire.
    frame.resize(60, 0);
    frame
}

fn addr6(text: &str) -> Addr {
    v6(text, 0).addr
}

/// ICMPv6 with a right sum.
fn icmp6(mac: [u8; 6], src: Addr, dst: Addr, hops: u8, message: &[u8]) -> Vec<u8> {
    let mut frame = [&mac[..], &PEER, &[0x86, 0xdd, 0x60, 0, 0, 0]].concat();
    frame.extend((message.len() as u16).to_be_bytes());
    frame.extend([protocol::ICMP6, hops]);
    frame.extend([&src.0[..], &dst.0, message].concat());
    let pseudo = checksum::pseudo_header(src, dst, protocol::ICMP6, message.len() as u32);
    let sum = checksum::finish(checksum::add(pseudo, checksum::sum(message)));
    frame[56..58].copy_from_slice(&sum.to_be_bytes());
    frame
}

/// A solicitation or advertisement with options.
fn neighbour(kind: u8, target: Addr, options: &[u8]) -> Vec<u8> {
    [&[kind, 0, 0, 0, 0, 0, 0, 0][..], &target.0, options].concat()
}

const SOURCE_OPTION: [u8; 8] = [1, 1, PEER[0], PEER[1], PEER[2], PEER[3], PEER[4], PEER[5]];

fn v4_pool() -> Pool {
    let addresses: Vec<Addr> = (129..=254).map(|d| Addr::v4([10, 77, 0, d])).collect();
    Pool::new(&addresses, None)
}

const POOLED: [u8; 4] = [10, 77, 0, 200];

#[test]
fn responses_are_taken_and_nothing_else_for_the_pool_passes() {
    use PoolCounter::{Captured, Fragment, OtherDropped, UdpDropped};
    privileged();
    let mut pool = v4_pool();
    let (target, client) = (v4(TARGET, 8080), v4(POOLED, 40_000));
    let tcp_to = |src, dst| to(OWN, tcp(src, dst, b"HTTP/1.1 200 OK\r\n\r"));
    let response = tcp_to(target, client);
    for (name, frame, counters) in [
        ("response", response.clone(), &[Captured][..]),
        (
            "first address",
            tcp_to(target, v4([10, 77, 0, 129], 1)),
            &[Captured],
        ),
        (
            "last address",
            tcp_to(target, v4([10, 77, 0, 254], 65_535)),
            &[Captured],
        ),
        (
            "timestamps",
            to(OWN, tcp_timestamps(target, client, &[3; 1400])),
            &[Captured],
        ),
        (
            "merged",
            to(OWN, tcp(target, client, &[3; 3000])),
            &[Captured],
        ),
        ("IP options", ip_options(response.clone(), 3), &[Captured]),
        ("to all", to(BROADCAST, response.clone()), &[Captured]),
        (
            "another port of the target",
            tcp_to(v4(TARGET, 22), client),
            &[OtherDropped],
        ),
        (
            "a stranger",
            tcp_to(v4([10, 77, 0, 31], 8080), client),
            &[OtherDropped],
        ),
        (
            "a fragment",
            fragment_v4(response.clone(), 0x2000),
            &[Fragment],
        ),
        (
            "TCP that says nothing",
            data_offset(response.clone(), 4),
            &[OtherDropped],
        ),
        (
            "a UDP answer",
            to(OWN, udp(v4(TARGET, DNS_PORT), client, b"a")),
            &[UdpDropped],
        ),
        (
            "other UDP",
            to(OWN, udp(target, client, b"a")),
            &[OtherDropped],
        ),
        ("ICMP", changed(&response, 23, 1), &[OtherDropped]),
        ("no IP", changed(&response, 14, 0x55), &[OtherDropped]),
    ] {
        pool.check(name, &frame, TCX_DROP, counters);
    }
    for (name, frame) in [
        (
            "below the pool",
            tcp_to(target, v4([10, 77, 0, 128], 40_000)),
        ),
        (
            "above the pool",
            tcp_to(target, v4([10, 77, 0, 255], 40_000)),
        ),
        (
            "IPv6",
            tcp_to(v6(TARGET6, 8080), v6("2001:db8::c8", 40_000)),
        ),
        ("to another host's MAC", to(PEER, response.clone())),
        ("in a VLAN", tagged(response.clone(), &[(0x8100, 5)])),
        ("from the pool", tcp_to(client, target)),
    ] {
        pool.check(name, &frame, TCX_NEXT, &[]);
    }
}

#[test]
fn a_list_of_addresses_has_gaps() {
    privileged();
    let at = |d| Addr::v4([10, 77, 0, d]);
    let mut pool = Pool::new(&[at(129), at(140), at(200)], None);
    for (d, inside) in [
        (129, true),
        (130, false),
        (140, true),
        (199, false),
        (200, true),
    ] {
        let frame = to(OWN, tcp(v4(TARGET, 8080), Endpoint::new(at(d), 9), b"x"));
        if inside {
            pool.check("inside", &frame, TCX_DROP, &[PoolCounter::Captured]);
        } else {
            pool.check("between", &frame, TCX_NEXT, &[]);
        }
    }
}

#[test]
fn arp_is_answered_for_the_pool_only() {
    use PoolCounter::{ArpAnswered, Conflict, OtherDropped};
    privileged();
    let mut pool = v4_pool();
    let asker = [10, 77, 0, 30];
    for (name, frame, sender, counters) in [
        (
            "broadcast",
            arp(BROADCAST, 1, asker, POOLED),
            asker,
            &[ArpAnswered][..],
        ),
        ("unicast", arp(OWN, 1, asker, POOLED), asker, &[ArpAnswered]),
        (
            "probe",
            arp(BROADCAST, 1, [0; 4], POOLED),
            [0; 4],
            &[ArpAnswered],
        ),
        (
            "announcement",
            arp(BROADCAST, 1, POOLED, POOLED),
            POOLED,
            &[ArpAnswered, Conflict],
        ),
    ] {
        let answer = pool.check(name, &frame, TCX_REDIRECT, counters);
        let mut expected = [
            &PEER[..],
            &OWN,
            &[8, 6, 0, 1, 8, 0, 6, 4, 0, 2],
            &OWN,
            &POOLED,
        ]
        .concat();
        expected.extend([&PEER[..], &sender].concat());
        expected.resize(60, 0);
        assert_eq!(answer, expected, "{name}");
    }
    let free = [10, 77, 0, 31];
    for (name, frame, verdict, counters) in [
        (
            "another address",
            arp(BROADCAST, 1, asker, free),
            TCX_NEXT,
            &[][..],
        ),
        (
            "to another host",
            arp([2, 9, 9, 9, 9, 9], 1, asker, POOLED),
            TCX_NEXT,
            &[],
        ),
        ("a claim", arp(OWN, 2, POOLED, free), TCX_NEXT, &[Conflict]),
        (
            "a reply nobody asked for",
            arp(OWN, 2, asker, POOLED),
            TCX_DROP,
            &[OtherDropped],
        ),
        (
            "from a group",
            changed(&arp(OWN, 1, asker, POOLED), 22, 3),
            TCX_DROP,
            &[OtherDropped],
        ),
        (
            "of another link",
            changed(&arp(OWN, 1, asker, POOLED), 15, 6),
            TCX_NEXT,
            &[],
        ),
        (
            "cut",
            arp(OWN, 1, asker, POOLED)[..41].to_vec(),
            TCX_NEXT,
            &[],
        ),
    ] {
        pool.check(name, &frame, verdict, counters);
    }
}

fn v6_pool() -> Pool {
    let addresses: Vec<Addr> = (0..256)
        .map(|n| addr6(&format!("2001:db8::a{n:02x}")))
        .collect();
    Pool::new(&addresses, None)
}

#[test]
fn neighbour_discovery_is_answered_for_the_pool_only() {
    use PoolCounter::{Captured, Conflict, NdpAnswered, OtherDropped};
    privileged();
    let mut pool = v6_pool();
    let (asker, pooled) = (addr6("fe80::30"), addr6("2001:db8::ac8"));
    let group = addr6("ff02::1:ff00:ac8");
    let (group_mac, all_nodes) = ([0x33, 0x33, 0xff, 0, 0x0a, 0xc8], [0x33, 0x33, 0, 0, 0, 1]);
    let plain = neighbour(135, pooled, &[]);
    let sourced = neighbour(135, pooled, &SOURCE_OPTION);
    // RFC 3971 section 5.3.2, as duplicate detection of Linux has it.
    let nonce = neighbour(135, pooled, &[14, 1, 1, 2, 3, 4, 5, 6]);
    for (name, frame, dad, counters) in [
        (
            "to the group",
            icmp6(group_mac, asker, group, 255, &sourced),
            false,
            &[NdpAnswered][..],
        ),
        (
            "without its address",
            icmp6(group_mac, asker, group, 255, &plain),
            false,
            &[NdpAnswered],
        ),
        (
            "unicast",
            icmp6(OWN, asker, pooled, 255, &plain),
            false,
            &[NdpAnswered],
        ),
        (
            "unicast, with",
            icmp6(OWN, asker, pooled, 255, &sourced),
            false,
            &[NdpAnswered],
        ),
        (
            "duplicate detection",
            icmp6(group_mac, Addr::ANY, group, 255, &plain),
            true,
            &[NdpAnswered],
        ),
        (
            "the same with a nonce",
            icmp6(group_mac, Addr::ANY, group, 255, &nonce),
            true,
            &[NdpAnswered],
        ),
    ] {
        let answer = pool.check(name, &frame, TCX_REDIRECT, counters);
        let (mac, dst, flags) = if dad {
            (all_nodes, addr6("ff02::1"), 0x20)
        } else {
            (PEER, asker, 0x60)
        };
        let own_option = [&[2, 1][..], &OWN].concat();
        let mut message = neighbour(136, pooled, &own_option);
        message[4] = flags;
        let mut expected = icmp6(mac, pooled, dst, 255, &message);
        expected[6..12].copy_from_slice(&OWN);
        assert_eq!(
            answer,
            expected,
            "{name}: expected{}\ngot{}",
            hexdump(&expected),
            hexdump(&answer)
        );
    }
    let free = addr6("2001:db8::b00");
    let other = neighbour(135, free, &SOURCE_OPTION);
    let claim = neighbour(136, pooled, &[]);
    for (name, frame, verdict, counters) in [
        (
            "another address",
            icmp6(group_mac, asker, group, 255, &other),
            TCX_NEXT,
            &[][..],
        ),
        (
            "through a router",
            icmp6(group_mac, asker, group, 254, &sourced),
            TCX_NEXT,
            &[],
        ),
        (
            "unicast through a router",
            icmp6(OWN, asker, pooled, 254, &sourced),
            TCX_DROP,
            &[OtherDropped],
        ),
        (
            "a claim",
            icmp6(all_nodes, asker, addr6("ff02::1"), 255, &claim),
            TCX_NEXT,
            &[Conflict],
        ),
        (
            "a ping",
            icmp6(OWN, asker, pooled, 64, &[128, 0, 0, 0, 0, 1, 0, 1]),
            TCX_DROP,
            &[OtherDropped],
        ),
        (
            "too short",
            icmp6(group_mac, asker, group, 255, &sourced[..20]),
            TCX_NEXT,
            &[],
        ),
        (
            "a router's advertisement",
            icmp6(
                all_nodes,
                asker,
                addr6("ff02::1"),
                255,
                &neighbour(134, pooled, &[]),
            ),
            TCX_NEXT,
            &[],
        ),
        (
            "no solicitation to another host",
            icmp6([2, 9, 9, 9, 9, 9], asker, pooled, 255, &plain),
            TCX_NEXT,
            &[],
        ),
    ] {
        pool.check(name, &frame, verdict, counters);
    }
    let (target, client) = (v6(TARGET6, 8080), Endpoint::new(pooled, 40_000));
    let response = to(OWN, tcp(target, client, &[3; 3000]));
    pool.check("response", &response, TCX_DROP, &[Captured]);
    let hopped = extensions_v6(response.clone(), &[(0, vec![0, 1, 4, 0, 0, 0, 0])]);
    pool.check("with an extension header", &hopped, TCX_DROP, &[Captured]);
    let stranger = to(OWN, tcp(v6(TARGET6, 22), client, b""));
    pool.check("another port", &stranger, TCX_DROP, &[OtherDropped]);
    let beyond = to(OWN, tcp(target, Endpoint::new(free, 40_000), b""));
    pool.check("another address", &beyond, TCX_NEXT, &[]);
}

#[test]
fn of_the_hosts_own_address_only_the_targets_answers_are_taken() {
    use PoolCounter::{Captured, UdpDropped};
    privileged();
    let own = Addr::v4([10, 77, 0, 20]);
    let mut pool = Pool::new(&[own], Some(61_000..=62_000));
    let (target, at) = (v4(TARGET, 8080), |port| Endpoint::new(own, port));
    let tcp_to = |src, dst| to(OWN, tcp(src, dst, b"HTTP/1.1 200 OK\r\n\r"));
    pool.check(
        "first port",
        &tcp_to(target, at(61_000)),
        TCX_DROP,
        &[Captured],
    );
    pool.check(
        "last port",
        &tcp_to(target, at(62_000)),
        TCX_DROP,
        &[Captured],
    );
    let answer = to(OWN, udp(v4(TARGET, DNS_PORT), at(61_500), b"a"));
    pool.check("a UDP answer", &answer, TCX_DROP, &[UdpDropped]);
    let response = tcp_to(target, at(61_500));
    for (name, frame) in [
        ("below", tcp_to(target, at(60_999))),
        ("above", tcp_to(target, at(62_001))),
        (
            "another port of the target",
            tcp_to(v4(TARGET, 22), at(61_500)),
        ),
        ("a stranger", tcp_to(v4([10, 77, 0, 31], 8080), at(61_500))),
        ("a fragment", fragment_v4(response.clone(), 0x2000)),
        ("ICMP", changed(&response, 23, 1)),
        ("other UDP", to(OWN, udp(target, at(61_500), b"a"))),
        (
            "UDP to another port",
            to(OWN, udp(v4(TARGET, DNS_PORT), at(53), b"a")),
        ),
        ("ARP", arp(BROADCAST, 1, TARGET, [10, 77, 0, 20])),
        (
            "an announcement",
            arp(BROADCAST, 1, [10, 77, 0, 20], [10, 77, 0, 20]),
        ),
        (
            "another address",
            tcp_to(target, v4([10, 77, 0, 21], 61_500)),
        ),
    ] {
        pool.check(name, &frame, TCX_NEXT, &[]);
    }
}

/// What the rules say of a frame, from its bytes, without the program's decoder for anything but TCP and UDP.
fn expected(pool: &Pool, frame: &[u8]) -> u32 {
    let field = |at: usize, len: usize| frame.get(at..at + len);
    if frame[0] & 1 == 0 && frame[..6] != OWN {
        return TCX_NEXT;
    }
    let has = |addr: Addr| pool.addresses.contains(&addr);
    let own = pool.own_ports.is_some();
    match (&frame[12..14], own) {
        ([8, 6], false) => {
            let Some(arp) = field(14, 28) else {
                return TCX_NEXT;
            };
            let target = Addr::v4(arp[24..28].try_into().unwrap());
            if arp[..6] != [0, 1, 8, 0, 6, 4] || !has(target) {
                return TCX_NEXT;
            }
            if arp[7] == 1 && arp[8] & 1 == 0 {
                TCX_REDIRECT
            } else {
                TCX_DROP
            }
        }
        ([8, 0], _) => match field(30, 4) {
            Some(dst) if has(Addr::v4(dst.try_into().unwrap())) => swallowed(pool, frame),
            _ => TCX_NEXT,
        },
        ([0x86, 0xdd], _) => {
            let Some(dst) = field(38, 16) else {
                return TCX_NEXT;
            };
            let inside = has(Addr(dst.try_into().unwrap()));
            let solicits = !own
                && (inside || dst[0] == 0xff)
                && frame[20..22] == [58, 255]
                && u16::from_be_bytes([frame[18], frame[19]]) >= 24
                && field(54, 2) == Some(&[135, 0])
                && field(62, 16).is_some_and(|t| has(Addr(t.try_into().unwrap())));
            if solicits {
                TCX_REDIRECT
            } else if inside {
                swallowed(pool, frame)
            } else {
                TCX_NEXT
            }
        }
        _ => TCX_NEXT,
    }
}

fn swallowed(pool: &Pool, frame: &[u8]) -> u32 {
    let Some(ports) = &pool.own_ports else {
        return TCX_DROP;
    };
    let targets = [v4(TARGET, 8080), v6(TARGET6, 8080)];
    let tcp = decode_frame(frame).is_ok_and(|p| {
        targets.contains(&Endpoint::new(p.ip.src, p.tcp.sport)) && ports.contains(&p.tcp.dport)
    });
    let targets = [v4(TARGET, DNS_PORT), v6(TARGET6, DNS_PORT)];
    let udp = common::packet::decode_udp_frame(frame).is_ok_and(|p| {
        targets.contains(&Endpoint::new(p.ip.src, p.udp.sport)) && ports.contains(&p.udp.dport)
    });
    if tcp || udp { TCX_DROP } else { TCX_NEXT }
}

#[test]
fn random_packets_meet_the_rules() {
    privileged();
    let client6 = v6("2001:db8::ac8", 40_000);
    let (asker, pooled) = (addr6("fe80::30"), addr6("2001:db8::ac8"));
    let solicitation = neighbour(135, pooled, &SOURCE_OPTION);
    let own = Addr::v4([10, 77, 0, 20]);
    let seeds = [
        to(
            OWN,
            tcp(
                v4(TARGET, 8080),
                v4(POOLED, 40_000),
                b"HTTP/1.1 200 OK\r\n\r",
            ),
        ),
        to(
            OWN,
            tcp_timestamps(v4(TARGET, 8080), Endpoint::new(own, 61_200), &[5; 300]),
        ),
        to(
            OWN,
            udp(v4(TARGET, DNS_PORT), Endpoint::new(own, 61_200), b"answer"),
        ),
        to(OWN, tcp(v6(TARGET6, 8080), client6, b"hello")),
        arp(BROADCAST, 1, TARGET, POOLED),
        arp(OWN, 2, POOLED, TARGET),
        icmp6(OWN, asker, pooled, 255, &solicitation),
        icmp6(
            [0x33, 0x33, 0xff, 0, 0xa, 0xc8],
            asker,
            addr6("ff02::1:ff00:ac8"),
            255,
            &solicitation,
        ),
        icmp6(
            [0x33, 0x33, 0, 0, 0, 1],
            asker,
            addr6("ff02::1"),
            255,
            &neighbour(136, pooled, &[]),
        ),
    ];
    let pools = [
        v4_pool(),
        v6_pool(),
        Pool::new(&[own], Some(61_000..=62_000)),
    ];
    for (mut pool, seed) in pools.into_iter().zip([0x11, 0x22, 0x33]) {
        println!("seed {seed:#x}");
        let mut rng = Rng(0xfeed_5eed_0000_0000 + seed);
        let mut verdicts = [0; TCX_REDIRECT as usize + 2];
        for round in 0..20_000 {
            let frame = mutated(&mut rng, &seeds);
            let Some((verdict, moved, bytes)) = pool.run(&frame) else {
                continue;
            };
            assert_eq!(
                verdict,
                expected(&pool, &frame),
                "round {round}: {moved:?}{}",
                hexdump(&frame)
            );
            if verdict == TCX_REDIRECT {
                assert_eq!(bytes[6..12], OWN, "round {round}");
                assert!(!moved.contains(&PoolCounter::AnswerFailed), "round {round}");
            }
            // TCX_NEXT is -1.
            verdicts[verdict.wrapping_add(1) as usize] += 1;
        }
        println!("verdicts {verdicts:?}");
        assert!(verdicts[TCX_DROP as usize + 1] > 500, "{verdicts:?}");
        let answers = verdicts[TCX_REDIRECT as usize + 1];
        assert_eq!(answers > 500, pool.own_ports.is_none(), "{verdicts:?}");
    }
}

#[test]
fn a_full_ring_is_counted_and_nothing_passes() {
    privileged();
    let mut pool = v4_pool();
    let frame = to(OWN, tcp(v4(TARGET, 8080), v4(POOLED, 40_000), &[0; 1000]));
    let mut sent = 0;
    while pool.counts()[PoolCounter::RingFull.index() as usize] == 0 {
        assert_eq!(pool.loaded.run("pool", &frame).unwrap().verdict, TCX_DROP);
        sent += 1;
        assert!(sent < 1_000_000, "the ring never filled");
    }
    assert_eq!(pool.loaded.records().len(), sent - 1);
}
