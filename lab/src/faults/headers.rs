//! IPv6 extension headers (RFC 8200, 4) for packets that have none, as clients, proxies and tunnels add them.

use super::packet::{ETHERNET_BYTES, IPV6};

const IP_BYTES: usize = 40;
/// Of the payload's length and of the next header, in the IP header.
const LENGTH_AT: usize = ETHERNET_BYTES + 4;
const NEXT_AT: usize = ETHERNET_BYTES + 6;
const HOP_BY_HOP: u8 = 0;
const FRAGMENT: u8 = 44;
const DESTINATION: u8 = 60;
/// What packets get in turn, in the order of RFC 8200 section 4.1. Fragment headers are atomic (RFC 6946).
const CHAINS: [&[u8]; 7] = [
    &[HOP_BY_HOP],
    &[DESTINATION],
    &[FRAGMENT],
    &[HOP_BY_HOP, DESTINATION],
    &[DESTINATION, DESTINATION],
    &[HOP_BY_HOP, FRAGMENT],
    &[HOP_BY_HOP, DESTINATION, FRAGMENT, DESTINATION],
];

/// Packet number `nth` with its headers; another frame stays as it is.
pub(super) fn with_headers(frame: &[u8], nth: u64) -> Vec<u8> {
    let mut out = frame.to_vec();
    if frame.len() < ETHERNET_BYTES + IP_BYTES || frame[12..ETHERNET_BYTES] != IPV6 {
        return out;
    }
    let mut next = frame[NEXT_AT];
    let mut headers = Vec::new();
    for &kind in CHAINS[(nth % CHAINS.len() as u64) as usize].iter().rev() {
        let mut header = header(kind, next, nth as u32);
        header.append(&mut headers);
        headers = header;
        next = kind;
    }
    out[NEXT_AT] = next;
    let length = u16::from_be_bytes([frame[LENGTH_AT], frame[LENGTH_AT + 1]]);
    let length = length + headers.len() as u16;
    out[LENGTH_AT..NEXT_AT].copy_from_slice(&length.to_be_bytes());
    let at = ETHERNET_BYTES + IP_BYTES;
    out.splice(at..at, headers);
    out
}

fn header(kind: u8, next: u8, id: u32) -> Vec<u8> {
    match kind {
        HOP_BY_HOP => vec![next, 0, 1, 4, 0, 0, 0, 0],
        // An experimental option that may be skipped (RFC 4727), and padding: Linux takes no more than 7 bytes of it
        // (`ip6_parse_tlv`).
        DESTINATION => [&[next, 2, 0x1e, 14][..], &[0x5a; 14], &[1, 4, 0, 0, 0, 0]].concat(),
        _ => [&[next, 0, 0, 0], &id.to_be_bytes()[..]].concat(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_chain_ends_at_what_the_packet_had() {
        let mut frame = vec![0; ETHERNET_BYTES + IP_BYTES];
        frame[12..14].copy_from_slice(&IPV6);
        frame[NEXT_AT] = 6;
        frame[LENGTH_AT + 1] = 3;
        frame.extend([7, 8, 9]);
        for nth in 0..14 {
            let out = with_headers(&frame, nth);
            let (mut next, mut at, mut kinds) = (out[NEXT_AT], ETHERNET_BYTES + IP_BYTES, vec![]);
            while next != 6 {
                kinds.push(next);
                next = out[at];
                at += 8 + 8 * usize::from(out[at + 1]);
            }
            assert_eq!(kinds, CHAINS[nth as usize % CHAINS.len()]);
            assert_eq!(out[at..], [7, 8, 9]);
            let length = u16::from_be_bytes([out[LENGTH_AT], out[LENGTH_AT + 1]]);
            assert_eq!(usize::from(length) + ETHERNET_BYTES + IP_BYTES, out.len());
        }
        frame[12..14].copy_from_slice(&[8, 0]);
        assert_eq!(with_headers(&frame, 0), frame);
    }
}
