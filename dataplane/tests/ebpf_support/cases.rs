//! Packets that every program is tried on, with what the decoder makes of them. Source and destination
//! are the caller's: the end that the program matches.

use common::packet::DecodeError;

use super::frames::{
    HEADERS_V4, changed, changed_u16, data_offset, extensions_v6, fragment_v4, ip_options, tagged,
};

/// A packet, and `Ok` if it decodes (and so matches) or the error that is counted.
pub type Case = (&'static str, Vec<u8>, Result<(), DecodeError>);

/// From IPv4 and IPv6 frames with a payload of 18 bytes and no options.
pub fn cases(good: &[u8], good6: &[u8]) -> Vec<Case> {
    use DecodeError::{BadIp, BadTcp, Fragment, NotIp, NotTcp, Truncated};
    let (v4, v6) = (|| good.to_vec(), || good6.to_vec());
    let empty = truncated_total(good);
    let hop_by_hop = (0u8, vec![0, 5, 2, 0, 0, 1, 0]);
    let destination = (60u8, vec![1, 1, 12, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
    let routing = (43u8, vec![0, 0, 0, 0, 0, 0, 0]);
    let atomic = (44u8, vec![0, 0, 0, 0, 0, 0, 9]);
    let first = (44u8, vec![0, 0, 1, 0, 0, 0, 9]);
    let later = (44u8, vec![0, 0, 8, 0, 0, 0, 9]);
    let three = [hop_by_hop.clone(), routing, destination];
    vec![
        ("plain", v4(), Ok(())),
        ("no payload", empty.clone(), Ok(())),
        ("IPv6", v6(), Ok(())),
        ("IPv4 options, one word", ip_options(v4(), 1), Ok(())),
        ("IPv4 options, all ten words", ip_options(v4(), 10), Ok(())),
        ("802.1Q", tagged(v4(), &[(0x8100, 5)]), Ok(())),
        ("802.1Q, IPv6", tagged(v6(), &[(0x8100, 5)]), Ok(())),
        ("QinQ", tagged(v4(), &[(0x88a8, 5), (0x8100, 6)]), Ok(())),
        (
            "two 802.1Q tags",
            tagged(v4(), &[(0x8100, 5), (0x8100, 6)]),
            Ok(()),
        ),
        (
            "QinQ with IPv4 options",
            tagged(ip_options(v4(), 2), &[(0x88a8, 5), (0x8100, 6)]),
            Ok(()),
        ),
        (
            "three tags",
            tagged(v4(), &[(0x8100, 5), (0x8100, 6), (0x8100, 7)]),
            Err(NotIp),
        ),
        ("don't-fragment bit", fragment_v4(v4(), 0x4000), Ok(())),
        ("first fragment", fragment_v4(v4(), 0x2000), Err(Fragment)),
        ("middle fragment", fragment_v4(v4(), 0x2008), Err(Fragment)),
        ("last fragment", fragment_v4(v4(), 0x0008), Err(Fragment)),
        (
            "hop-by-hop options",
            extensions_v6(v6(), &three[..1]),
            Ok(()),
        ),
        (
            "three extension headers",
            extensions_v6(v6(), &three),
            Ok(()),
        ),
        (
            "atomic fragment, a whole packet",
            extensions_v6(v6(), &[atomic]),
            Ok(()),
        ),
        (
            "first fragment, IPv6",
            extensions_v6(v6(), &[first]),
            Err(Fragment),
        ),
        (
            "later fragment, IPv6",
            extensions_v6(v6(), &[hop_by_hop.clone(), later]),
            Err(Fragment),
        ),
        (
            "more extension headers than are looked behind",
            extensions_v6(v6(), &vec![hop_by_hop; 5]),
            Err(NotTcp),
        ),
        ("data offset 4", data_offset(v4(), 4), Err(BadTcp)),
        ("data offset 0", data_offset(v4(), 0), Err(BadTcp)),
        (
            "data offset beyond the packet",
            data_offset(empty, 15),
            Err(BadTcp),
        ),
        ("IPv4 header length 4", changed(good, 14, 0x44), Err(BadIp)),
        (
            "total length below the header",
            changed_u16(good, 16, 19),
            Err(BadIp),
        ),
        ("total length 0, BIG TCP", changed_u16(good, 16, 0), Ok(())),
        ("UDP", changed(good, 23, 17), Err(NotTcp)),
        ("ARP", changed_u16(good, 12, 0x0806), Err(NotIp)),
        ("IP version 5", changed(good, 14, 0x55), Err(NotIp)),
        (
            "cut in the IPv4 header",
            good[..30].to_vec(),
            Err(Truncated),
        ),
        (
            "cut before the TCP header",
            good[..34].to_vec(),
            Err(Truncated),
        ),
        ("cut in the TCP header", good[..49].to_vec(), Err(Truncated)),
        ("cut behind the window field", good[..50].to_vec(), Ok(())),
        ("cut in the payload", good[..60].to_vec(), Ok(())),
        (
            "cut in the IPv6 header",
            good6[..50].to_vec(),
            Err(Truncated),
        ),
    ]
}

/// Valid frames to mutate: one of each shape.
pub fn seeds(good: &[u8], good6: &[u8]) -> Vec<Vec<u8>> {
    let (v4, v6) = (|| good.to_vec(), || good6.to_vec());
    vec![
        v4(),
        ip_options(v4(), 3),
        tagged(v4(), &[(0x8100, 5)]),
        tagged(v6(), &[(0x88a8, 5), (0x8100, 6)]),
        extensions_v6(v6(), &[(0, vec![0, 5, 2, 0, 0, 1, 0]), (60, vec![0; 7])]),
        extensions_v6(v6(), &[(44, vec![0, 0, 0, 0, 0, 0, 9])]),
        v6(),
    ]
}

/// The same packet without its payload.
fn truncated_total(good: &[u8]) -> Vec<u8> {
    changed_u16(&good[..HEADERS_V4], 16, 40)
}
