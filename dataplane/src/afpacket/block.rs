//! The packets of a block of a TPACKET_V3 ring.
//!
//! ```text
//!  tpacket_block_desc │ tpacket3_hdr ... virtio_net_hdr │ frame │ tpacket3_hdr ... │ frame │
//!      └ first packet ┘      ├ tp_mac ──────────────────┘              ▲
//!                            └ tp_next_offset ────────────────────────┘
//! ```
//! Offsets and lengths come from memory that is shared; each is compared with the block before it is followed,
//! and a block that contradicts itself ends there.

use std::mem::offset_of;

use libc::{tpacket_block_desc, tpacket_hdr_v1, tpacket_hdr_variant1, tpacket3_hdr};

/// Where a block's status is; the kernel's until it has [`libc::TP_STATUS_USER`].
pub(super) const STATUS_AT: usize =
    offset_of!(tpacket_block_desc, hdr) + offset_of!(tpacket_hdr_v1, block_status);
const COUNT_AT: usize = offset_of!(tpacket_block_desc, hdr) + offset_of!(tpacket_hdr_v1, num_pkts);
const FIRST_AT: usize =
    offset_of!(tpacket_block_desc, hdr) + offset_of!(tpacket_hdr_v1, offset_to_first_pkt);

const VLAN_TCI_AT: usize =
    offset_of!(tpacket3_hdr, hv1) + offset_of!(tpacket_hdr_variant1, tp_vlan_tci);
/// `struct virtio_net_hdr` (linux/virtio_net.h), in front of the frame: flags, kind, length of headers, size of
/// segments, and two more of 16 bits.
const VIRTIO_BYTES: usize = 10;
const GSO_SIZE_AT: usize = 4;

/// A packet and what the kernel tells of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Packet<'a> {
    /// From the Ethernet header on, without a tag that the kernel took out.
    pub(super) bytes: &'a [u8],
    /// Length before the copy was cut to what a block holds.
    pub(super) frame_len: u32,
    /// `CLOCK_REALTIME` when it was captured, in nanoseconds.
    pub(super) realtime_ns: u64,
    /// Payload bytes of each segment that the kernel merged, else 0.
    pub(super) gso_size: u16,
    /// The tag that the kernel took out.
    pub(super) vlan_tci: Option<u16>,
}

/// The packets of a block that are still to be looked at.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Cursor {
    at: usize,
    left: u32,
}

impl Cursor {
    /// At the first packet; `None` if the block is too short to have a header.
    pub(super) fn new(block: &[u8]) -> Option<Self> {
        Some(Self {
            at: u32_at(block, FIRST_AT)? as usize,
            left: u32_at(block, COUNT_AT)?,
        })
    }

    /// Packets that are left, as the block says.
    pub(super) const fn left(&self) -> u32 {
        self.left
    }

    /// The next packet. `None` if there is none, or with [`Self::left`] still above 0 if the block contradicts
    /// itself, of which nothing more can be read then.
    pub(super) fn next<'a>(&mut self, block: &'a [u8]) -> Option<Packet<'a>> {
        if self.left == 0 {
            return None;
        }
        let header = block.get(self.at..)?;
        let field = |at| u32_at(header, at);
        // All of the header is inside.
        header.get(..size_of::<tpacket3_hdr>())?;
        let mac = usize::from(u16_at(header, offset_of!(tpacket3_hdr, tp_mac))?);
        let len = field(offset_of!(tpacket3_hdr, tp_snaplen))? as usize;
        let status = field(offset_of!(tpacket3_hdr, tp_status))?;
        let next = field(offset_of!(tpacket3_hdr, tp_next_offset))? as usize;
        let virtio = mac.checked_sub(VIRTIO_BYTES)?;
        if virtio < size_of::<tpacket3_hdr>() {
            return None;
        }
        let bytes = header.get(mac..)?.get(..len)?;
        let packet = Packet {
            bytes,
            frame_len: field(offset_of!(tpacket3_hdr, tp_len))?,
            realtime_ns: u64::from(field(offset_of!(tpacket3_hdr, tp_sec))?) * 1_000_000_000
                + u64::from(field(offset_of!(tpacket3_hdr, tp_nsec))?),
            gso_size: u16_at(header, virtio + GSO_SIZE_AT)?,
            vlan_tci: if status & libc::TP_STATUS_VLAN_VALID == 0 {
                None
            } else {
                Some(field(VLAN_TCI_AT)? as u16)
            },
        };
        if (packet.frame_len as usize) < len {
            return None;
        }
        if self.left > 1 {
            // Behind this packet, so that a block is walked in finite time and once.
            if next < mac + len {
                return None;
            }
            self.at = self.at.checked_add(next)?;
        }
        self.left -= 1;
        Some(packet)
    }
}

/// Integers of the kernel are in its own order, that of the machine.
fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    bytes
        .get(at..)?
        .first_chunk()
        .map(|b| u32::from_ne_bytes(*b))
}

fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    bytes
        .get(at..)?
        .first_chunk()
        .map(|b| u16::from_ne_bytes(*b))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const MAC: usize = 82;

    fn put(block: &mut [u8], at: usize, value: u32) {
        block[at..at + 4].copy_from_slice(&value.to_ne_bytes());
    }

    /// As the kernel writes one, with packets of these lengths; and where their headers are.
    fn block(lengths: &[usize], size: usize) -> (Vec<u8>, Vec<usize>) {
        let mut block = vec![0; size];
        let mut at = 48;
        put(&mut block, COUNT_AT, lengths.len() as u32);
        put(&mut block, FIRST_AT, at as u32);
        let mut headers = Vec::new();
        for (i, len) in lengths.iter().enumerate() {
            headers.push(at);
            let next = (MAC + len).next_multiple_of(8);
            put(&mut block, at, next as u32);
            put(&mut block, at + 4, 7);
            put(&mut block, at + 8, i as u32);
            put(&mut block, at + 12, *len as u32);
            put(&mut block, at + 16, *len as u32);
            block[at + 24..at + 26].copy_from_slice(&(MAC as u16).to_ne_bytes());
            block[at + MAC..at + MAC + len].fill(i as u8 + 1);
            at += next;
        }
        (block, headers)
    }

    fn walk(block: &[u8]) -> (Vec<Packet<'_>>, u32) {
        let mut cursor = Cursor::new(block).unwrap();
        let mut packets = Vec::new();
        while let Some(packet) = cursor.next(block) {
            packets.push(packet);
        }
        (packets, cursor.left())
    }

    #[test]
    fn packets_come_with_what_the_kernel_tells_of_them() {
        let (mut block, headers) = block(&[60, 1514, 0], 4096);
        let second = headers[1];
        put(&mut block, second + 16, 9000);
        put(&mut block, second + 20, libc::TP_STATUS_VLAN_VALID);
        put(&mut block, second + VLAN_TCI_AT, 0x2005);
        let gso = second + MAC - VIRTIO_BYTES + GSO_SIZE_AT;
        block[gso..gso + 2].copy_from_slice(&1448u16.to_ne_bytes());
        let (packets, left) = walk(&block);
        assert_eq!((packets.len(), left), (3, 0));
        assert_eq!(packets[0].bytes, [1; 60]);
        assert_eq!(
            (
                packets[0].gso_size,
                packets[0].vlan_tci,
                packets[0].frame_len
            ),
            (0, None, 60)
        );
        assert_eq!(packets[1].bytes, [2; 1514]);
        assert_eq!(
            (
                packets[1].gso_size,
                packets[1].vlan_tci,
                packets[1].frame_len
            ),
            (1448, Some(0x2005), 9000)
        );
        assert_eq!(packets[1].realtime_ns, 7_000_000_001);
        assert!(packets[2].bytes.is_empty());
    }

    #[test]
    fn a_block_that_contradicts_itself_ends_there() {
        let lengths = [60, 60, 60];
        let (good, headers) = block(&lengths, 1024);
        assert_eq!(walk(&good).1, 0);
        let second = headers[1];
        // Where, what, and how many packets are still read.
        for (at, value, read) in [
            // Behind the block, in the header, back to the packet itself.
            (second, 5000, 1),
            (second, 20, 1),
            (second, 0, 1),
            (second, u32::MAX, 1),
            // Longer than the block; longer than the packet was.
            (second + 12, 2000, 1),
            (second + 12, u32::MAX, 1),
            (second + 12, 61, 1),
            // The frame in its own header, or behind the block.
            (second + 24, 0, 1),
            (second + 24, 50, 1),
            (second + 24, 0xffff, 1),
            (FIRST_AT, 1020, 0),
            (FIRST_AT, u32::MAX, 0),
        ] {
            let mut bad = good.clone();
            put(&mut bad, at, value);
            let (packets, left) = walk(&bad);
            // What follows is found through this packet; itself may still be whole.
            let most = if at == second { read + 1 } else { read };
            assert!(
                packets.len() >= read && packets.len() <= most && left > 0,
                "{at} = {value}: {} packets, {left} left",
                packets.len()
            );
        }
        assert_eq!(Cursor::new(&good[..10]), None);
    }

    proptest! {
        /// Whatever the memory holds: packets inside the block, in order, none twice, and an end.
        #[test]
        fn no_content_leads_out_of_the_block(
            noise in prop::collection::vec((0usize..1024, any::<u8>()), 0..40),
            lengths in prop::collection::vec(0usize..200, 0..4),
            count in any::<u32>(),
        ) {
            let (mut block, _) = block(&lengths, 1024);
            put(&mut block, COUNT_AT, count);
            for (at, value) in noise {
                block[at] = value;
            }
            let range = block.as_ptr_range();
            let mut cursor = Cursor::new(&block).unwrap();
            let mut end = range.start;
            while let Some(packet) = cursor.next(&block) {
                let of = packet.bytes.as_ptr_range();
                prop_assert!(of.start >= end && of.end <= range.end);
                prop_assert!(packet.frame_len as usize >= packet.bytes.len());
                end = of.end;
            }
        }
    }
}
