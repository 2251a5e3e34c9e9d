//! Tunnels: every kind, cut anywhere, in each other, and arbitrary bytes.

use common::abi::{DecapConfig, DecapPort, DecapRule, decap_flags};
use common::packet::{
    Addr, DecapError, Decapsulated, DecodeError, Endpoint, FrameAddresses, MAX_LAYERS, SeqNumber,
    TcpFlags, TcpFrame, TcpOptions, TunnelKind, UdpFrame, build_tcp_frame, build_udp_frame,
    decapsulate, decapsulate_datagram, decode_frame, decode_udp_frame,
};
use proptest::prelude::*;
use std::net::IpAddr;

#[path = "../../lab/src/faults/wrap.rs"]
mod wrapping;
use wrapping::{Layer, wrap};

const V4: [&str; 2] = ["192.0.2.1", "192.0.2.2"];
const V6: [&str; 2] = ["2001:db8:1::1", "2001:db8:1::2"];

fn ends(texts: [&str; 2]) -> [IpAddr; 2] {
    texts.map(|text| text.parse().unwrap())
}

fn inner(v6: bool, payload: &[u8]) -> Vec<u8> {
    let at = |n: u8, port| {
        let addr = if v6 {
            let mut b = [0x20; 16];
            b[15] = n;
            Addr(b)
        } else {
            Addr::v4([10, 0, 0, n])
        };
        Endpoint::new(addr, port)
    };
    let segment = TcpFrame {
        src: at(1, 40_000),
        dst: at(2, 80),
        seq: SeqNumber(7),
        ack: SeqNumber(9),
        flags: TcpFlags::ACK,
        window: 500,
        options: TcpOptions::default(),
        payload,
        ip_id: 3,
    };
    let mut frame = vec![0; payload.len() + 200];
    let len = build_tcp_frame(&mut frame, FrameAddresses::default(), &segment).unwrap();
    frame.truncate(len);
    frame
}

/// A datagram comes out of the tunnel as one, and not as TCP; nor does TCP come out as a datagram.
fn assert_datagram(layer: Layer, ends: [IpAddr; 2], v6: bool, what: &str) {
    let tcp = inner(v6, b"hello");
    let want = decode_frame(&tcp[..]).unwrap();
    let datagram = UdpFrame {
        src: Endpoint::new(want.ip.src, 53),
        dst: Endpoint::new(want.ip.dst, 54),
        payload: b"query",
        ip_id: 9,
    };
    let mut plain = vec![0; 100];
    let len = build_udp_frame(&mut plain, FrameAddresses::default(), &datagram).unwrap();
    plain.truncate(len);
    let not_tcp = Err(DecapError::Decode(DecodeError::NotTcp));
    let auto = &DecapConfig::AUTO;
    let frame = wrap(layer, ends, &plain);
    let got = decapsulate_datagram(&frame[..], auto).expect(what);
    let want = decode_udp_frame(&plain[..]).unwrap();
    assert_eq!(
        (got.packet.udp.sport, got.packet.udp.dport),
        (53, 54),
        "{what}"
    );
    assert_eq!(
        got.packet.udp.payload,
        want.udp.payload + frame.len() - plain.len(),
        "{what}"
    );
    assert_eq!(got.packet.udp.payload_len, 5, "{what}");
    assert!(got.outer.is_some() && got.kinds != 0, "{what}");
    assert_eq!(decapsulate(&frame[..], auto), not_tcp, "{what}");
    assert_eq!(
        decapsulate_datagram(&wrap(layer, ends, &tcp)[..], auto).map(drop),
        not_tcp.map(drop),
        "{what}"
    );
    // In no tunnel: taken if such are.
    let got = decapsulate_datagram(&plain[..], auto).unwrap();
    assert_eq!((got.packet, got.outer), (want, None));
    let tunnels = DecapConfig::with_flags(decap_flags::ANY_TUNNEL | decap_flags::TUNNELS);
    assert_eq!(
        decapsulate_datagram(&plain[..], &tunnels).map(drop),
        Err(DecapError::NotTaken)
    );
}

/// What must come out: the inner packet, its offsets moved to the end of the wrapped frame.
fn assert_inner(frame: &[u8], plain: &[u8], got: &Decapsulated) {
    let want = decode_frame(plain).unwrap();
    let shift = frame.len() - plain.len();
    assert_eq!(got.packet.ip.l3, want.ip.l3 + shift);
    assert_eq!(got.packet.ip.l4, want.ip.l4 + shift);
    assert_eq!(
        (
            got.packet.ip.src,
            got.packet.ip.dst,
            got.packet.ip.total_len
        ),
        (want.ip.src, want.ip.dst, want.ip.total_len)
    );
    assert_eq!(got.packet.tcp.payload, want.tcp.payload + shift);
    assert_eq!(
        (
            got.packet.tcp.seq,
            got.packet.tcp.sport,
            got.packet.tcp.dport
        ),
        (want.tcp.seq, want.tcp.sport, want.tcp.dport)
    );
    assert_eq!(
        got.packet.payload_len(frame.len()),
        want.payload_len(plain.len())
    );
}

#[test]
fn every_kind_is_opened_and_named() {
    let layers = [
        (
            Layer::Vxlan {
                port: 4789,
                vni: 100,
            },
            TunnelKind::Vxlan,
            100,
            None,
        ),
        (
            Layer::Vxlan {
                port: 8472,
                vni: 0xff_ffff,
            },
            TunnelKind::Vxlan,
            0xff_ffff,
            None,
        ),
        (
            Layer::Geneve {
                vni: 5,
                options: 0,
                ip: false,
            },
            TunnelKind::Geneve,
            5,
            None,
        ),
        (
            Layer::Geneve {
                vni: 5,
                options: 63,
                ip: true,
            },
            TunnelKind::Geneve,
            5,
            None,
        ),
        (
            Layer::Gre {
                checksum: false,
                key: None,
                sequence: None,
                ip: true,
            },
            TunnelKind::Gre,
            0,
            None,
        ),
        (
            Layer::Gre {
                checksum: true,
                key: Some(77),
                sequence: Some(8),
                ip: false,
            },
            TunnelKind::Gre,
            77,
            Some(8),
        ),
        (
            Layer::Gre {
                checksum: true,
                key: None,
                sequence: Some(8),
                ip: true,
            },
            TunnelKind::Gre,
            0,
            Some(8),
        ),
        (erspan(1, false), TunnelKind::Erspan, 0, None),
        (erspan(2, false), TunnelKind::Erspan, 513, Some(9)),
        (erspan(3, false), TunnelKind::Erspan, 513, Some(9)),
        (erspan(3, true), TunnelKind::Erspan, 513, Some(9)),
        (Layer::Ipip, TunnelKind::Ipip, 0, None),
        (
            Layer::Gtpu {
                teid: 0xdead_beef,
                extensions: 0,
                sequence: false,
            },
            TunnelKind::Gtpu,
            0xdead_beef,
            None,
        ),
        (
            Layer::Gtpu {
                teid: 1,
                extensions: 0,
                sequence: true,
            },
            TunnelKind::Gtpu,
            1,
            None,
        ),
        (
            Layer::Gtpu {
                teid: 1,
                extensions: 1,
                sequence: false,
            },
            TunnelKind::Gtpu,
            1,
            None,
        ),
        (
            Layer::Gtpu {
                teid: 1,
                extensions: 4,
                sequence: true,
            },
            TunnelKind::Gtpu,
            1,
            None,
        ),
        (
            Layer::Mpls {
                labels: 1,
                pseudowire: false,
            },
            TunnelKind::Mpls,
            16,
            None,
        ),
        (
            Layer::Mpls {
                labels: 4,
                pseudowire: false,
            },
            TunnelKind::Mpls,
            64,
            None,
        ),
        (
            Layer::Mpls {
                labels: 2,
                pseudowire: true,
            },
            TunnelKind::Mpls,
            32,
            None,
        ),
    ];
    for (layer, kind, id, sequence) in layers {
        for (outer, v6) in [(V4, false), (V4, true), (V6, false), (V6, true)] {
            let plain = inner(v6, b"hello");
            let frame = wrap(layer, ends(outer), &plain);
            let what = format!("{layer:?} {outer:?} {v6}");
            let got = decapsulate(&frame[..], &DecapConfig::AUTO).expect(&what);
            assert_inner(&frame, &plain, &got);
            let tunnel = got.outer.expect(&what);
            assert_eq!(
                (tunnel.kind, tunnel.id, tunnel.sequence),
                (kind, id, sequence),
                "{what}"
            );
            assert_eq!(got.kinds, 1 << kind as u8, "{what}");
            assert_datagram(layer, ends(outer), v6, &what);
            if kind != TunnelKind::Mpls {
                let [src, dst] = ends(outer).map(Addr::from);
                assert_eq!((tunnel.src, tunnel.dst), (src, dst), "{what}");
            }
            assert_eq!(
                decapsulate(&frame[..], &DecapConfig::NONE),
                Err(DecapError::NotTaken),
                "{what}"
            );
            // Cut anywhere: an error that says so, or the same packet with less payload.
            for cut in 0..frame.len() {
                match decapsulate(&frame[..cut], &DecapConfig::AUTO) {
                    Ok(got) => {
                        assert_eq!(got.packet.payload_len(frame.len()), 5);
                        assert!(got.packet.ip.l4 + 16 <= cut);
                    }
                    Err(e) => assert_eq!(
                        e,
                        DecapError::Decode(DecodeError::Truncated),
                        "{what} at {cut}"
                    ),
                }
            }
        }
    }
}

fn erspan(version: u8, platform: bool) -> Layer {
    Layer::Erspan {
        version,
        session: 513,
        sequence: 9,
        platform,
    }
}

#[test]
fn a_mirror_that_cuts_is_believed() {
    let plain = inner(false, &[7; 100]);
    let mut frame = wrap(erspan(2, false), ends(V4), &plain);
    let got = decapsulate(&frame[..], &DecapConfig::AUTO).unwrap();
    assert!(!got.cut);
    frame[14 + 20 + 8 + 2] |= 4;
    let got = decapsulate(&frame[..110], &DecapConfig::AUTO).unwrap();
    assert!(got.cut);
    assert_eq!(got.packet.payload_len(110), 100);
}

#[test]
fn lists_take_what_they_name() {
    let vxlan = |port, vni| wrap(Layer::Vxlan { port, vni }, ends(V4), &inner(false, b"x"));
    let rule = |port, id: Option<u32>, peer: &str| {
        let mut config = DecapConfig::with_flags(decap_flags::TUNNELS);
        config.rules[0] = DecapRule {
            peer: if peer.is_empty() {
                Addr::ANY
            } else {
                peer.parse::<IpAddr>().unwrap().into()
            },
            id: id.unwrap_or(0),
            port,
            kind: TunnelKind::Vxlan as u8,
            flags: u8::from(id.is_some()),
        };
        config.ports[0] = DecapPort {
            port,
            kind: TunnelKind::Vxlan as u8,
            reserved: 0,
        };
        config
    };
    for (config, port, vni, taken) in [
        (rule(0, None, ""), 4789, 1, true),
        (rule(0, None, ""), 8472, 1, true),
        (rule(4789, None, ""), 8472, 1, false),
        (rule(5555, None, ""), 5555, 1, true),
        (rule(0, Some(0), ""), 4789, 0, true),
        (rule(0, Some(7), ""), 4789, 7, true),
        (rule(0, Some(7), ""), 4789, 8, false),
        (rule(0, None, V4[0]), 4789, 8, true),
        (rule(0, None, V4[1]), 4789, 8, false),
        (rule(0, None, V6[0]), 4789, 8, false),
        (rule(4789, Some(8), V4[0]), 4789, 8, true),
    ] {
        let got = decapsulate(&vxlan(port, vni)[..], &config);
        assert_eq!(got.is_ok(), taken, "{config:?} {port} {vni}: {got:?}");
    }
    let config = rule(0, None, "");
    assert_eq!(
        decapsulate(&inner(false, b"x")[..], &config),
        Err(DecapError::NotTaken)
    );
    let gre = Layer::Gre {
        checksum: false,
        key: None,
        sequence: None,
        ip: false,
    };
    assert_eq!(
        decapsulate(&wrap(gre, ends(V4), &vxlan(4789, 1))[..], &config),
        Err(DecapError::NotTaken)
    );
    // What is in the tunnel may be in others.
    let frame = wrap(
        Layer::Vxlan { port: 4789, vni: 3 },
        ends(V4),
        &wrap(gre, ends(V6), &inner(true, b"x")),
    );
    let got = decapsulate(&frame[..], &config).unwrap();
    assert_eq!(
        got.kinds,
        1 << TunnelKind::Vxlan as u8 | 1 << TunnelKind::Gre as u8
    );
}

#[test]
fn headers_that_are_none() {
    let plain = inner(false, b"x");
    let refused = |frame: &[u8], why| {
        assert_eq!(
            decapsulate(frame, &DecapConfig::AUTO),
            Err(DecapError::Decode(why))
        );
    };
    let changed = |layer, at: usize, value| {
        let mut frame = wrap(layer, ends(V4), &plain);
        frame[at] = value;
        frame
    };
    let vxlan = Layer::Vxlan { port: 4789, vni: 1 };
    refused(&changed(vxlan, 42, 0), DecodeError::NotTcp);
    // Generic protocol extension: NSH.
    let mut gpe = changed(vxlan, 42, 0x0c);
    gpe[45] = 4;
    refused(&gpe, DecodeError::NotIp);
    let geneve = Layer::Geneve {
        vni: 1,
        options: 0,
        ip: false,
    };
    refused(&changed(geneve, 42, 0x40), DecodeError::NotTcp);
    let gre = Layer::Gre {
        checksum: false,
        key: None,
        sequence: None,
        ip: true,
    };
    refused(&changed(gre, 34, 0x40), DecodeError::NotTcp);
    refused(&changed(gre, 35, 1), DecodeError::NotTcp);
    refused(&changed(gre, 36, 0x99), DecodeError::NotIp);
    refused(&changed(erspan(2, false), 42, 0x30), DecodeError::NotIp);
    let gtpu = Layer::Gtpu {
        teid: 1,
        extensions: 1,
        sequence: false,
    };
    refused(&changed(gtpu, 43, 1), DecodeError::NotTcp);
    refused(&changed(gtpu, 54, 0), DecodeError::NotTcp);
    refused(
        &wrap(
            Layer::Mpls {
                labels: 5,
                pseudowire: false,
            },
            ends(V4),
            &plain,
        ),
        DecodeError::NotIp,
    );
    // The outer packet is a fragment: the tunnel's header may be here, the rest is not.
    refused(&changed(vxlan, 20, 0x20), DecodeError::Fragment);
    refused(&changed(vxlan, 36, 0x11), DecodeError::NotTcp);
}

fn layer() -> impl Strategy<Value = Layer> {
    let vni = 0..1u32 << 24;
    prop_oneof![
        prop_oneof![Just(4789u16), Just(8472), Just(4790)]
            .prop_flat_map(move |port| vni.clone().prop_map(move |vni| Layer::Vxlan { port, vni })),
        (0..1u32 << 24, 0..64u8, any::<bool>()).prop_map(|(vni, options, ip)| Layer::Geneve {
            vni,
            options,
            ip
        }),
        (
            any::<bool>(),
            any::<Option<u32>>(),
            any::<Option<u32>>(),
            any::<bool>()
        )
            .prop_map(|(checksum, key, sequence, ip)| Layer::Gre {
                checksum,
                key,
                sequence,
                ip
            }),
        (1..4u8, 0..1024u16, any::<u32>(), any::<bool>()).prop_map(
            |(version, session, sequence, platform)| {
                Layer::Erspan {
                    version,
                    session,
                    sequence,
                    platform,
                }
            }
        ),
        Just(Layer::Ipip),
        (any::<u32>(), 0..=4u8, any::<bool>()).prop_map(|(teid, extensions, sequence)| {
            Layer::Gtpu {
                teid,
                extensions,
                sequence,
            }
        }),
        (1..=4u8, any::<bool>())
            .prop_map(|(labels, pseudowire)| Layer::Mpls { labels, pseudowire }),
    ]
}

/// Without those that hold an IP packet around a frame that is labelled.
fn possible(layers: Vec<(Layer, bool, usize)>) -> Vec<(Layer, bool, usize)> {
    let mut labelled = false;
    let mut out = Vec::new();
    for each in layers {
        let around_ip = match each.0 {
            Layer::Geneve { ip, .. } | Layer::Gre { ip, .. } => ip,
            Layer::Mpls { pseudowire, .. } => !pseudowire,
            Layer::Ipip | Layer::Gtpu { .. } => true,
            _ => false,
        };
        if !(around_ip && labelled) {
            labelled = matches!(each.0, Layer::Mpls { .. });
            out.push(each);
        }
    }
    out
}

proptest! {
    #[test]
    fn what_was_wrapped_comes_out(
        layers in prop::collection::vec((layer(), any::<bool>(), 0..3usize), 0..=MAX_LAYERS + 1),
        v6 in any::<bool>(),
        payload in prop::collection::vec(any::<u8>(), 0..50),
    ) {
        let plain = inner(v6, &payload);
        let mut frame = plain.clone();
        let layers = possible(layers);
        for (layer, v6, tags) in &layers {
            frame = wrap(*layer, ends(if *v6 { V6 } else { V4 }), &frame);
            for tag in [0x8100, 0x88a8].iter().take(*tags) {
                frame = wrap(Layer::Vlan(*tag), ends(V4), &frame);
            }
        }
        let got = decapsulate(&frame[..], &DecapConfig::AUTO);
        if layers.len() > MAX_LAYERS {
            prop_assert_eq!(got, Err(DecapError::TooDeep));
        } else {
            let got = got.unwrap();
            assert_inner(&frame, &plain, &got);
            prop_assert_eq!(got.outer.is_some(), !layers.is_empty());
        }
    }

    #[test]
    fn arbitrary_bytes_never_panic(
        layer in layer(),
        bytes in prop::collection::vec(any::<u8>(), 0..200),
        at in any::<prop::sample::Index>(),
        flip in any::<u8>(),
    ) {
        let _ = decapsulate(&bytes[..], &DecapConfig::AUTO);
        let mut frame = wrap(layer, ends(V4), &inner(false, &bytes));
        let at = at.index(frame.len());
        frame[at] ^= flip;
        if let Ok(got) = decapsulate(&frame[..], &DecapConfig::AUTO) {
            prop_assert!(got.packet.ip.l4 + 16 <= frame.len());
        }
    }
}

#[test]
fn tags_of_all_three_kinds_are_looked_behind() {
    for tpid in [0x8100, 0x88a8, 0x9100] {
        let frame = wrap(Layer::Vlan(tpid), ends(V4), &inner(false, b"x"));
        assert!(decode_frame(&frame[..]).is_ok(), "{tpid:#x}");
    }
}
