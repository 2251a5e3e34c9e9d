//! What the programs hand to user space with a packet.

use bytemuck::{Pod, Zeroable};

/// Data capacity of the ring-buffer record classes. A packet takes the smallest class that holds it:
/// SYNs and acknowledgements with their options, small requests, one MTU, a jumbo page, 16 KiB, and the
/// largest GRO packet of 64 KiB with its link header.
///
/// With [`RECORD_OVERHEAD_BYTES`] each is a whole number of cache lines, so every record begins on one: its
/// head is one line to write here and to fetch on the reader's core.
pub const RECORD_CLASSES_BYTES: [usize; 6] = [88, 216, 1560, 4120, 16_408, 65_560];

/// What a record takes in front of its data: the kernel's 8 bytes (BPF_RINGBUF_HDR_SZ) and [`RecordHeader`].
pub const RECORD_OVERHEAD_BYTES: usize = 8 + size_of::<RecordHeader>();

const _: () = {
    let mut at = 0;
    while at < RECORD_CLASSES_BYTES.len() {
        assert!((RECORD_OVERHEAD_BYTES + RECORD_CLASSES_BYTES[at]).is_multiple_of(64));
        at += 1;
    }
};

/// Records that a packet larger than the last class may take (BIG TCP goes to 512 KiB).
pub const MAX_CONTINUATIONS: u32 = 8;

/// Head of every record in a tap ring; the bytes of the frame follow.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub struct RecordHeader {
    /// `bpf_ktime_get_ns` at capture.
    pub captured_ns: u64,
    /// Length of the whole frame in bytes.
    pub frame_len: u32,
    /// Where this record's bytes begin in the frame; not 0 in continuations, which follow their head
    /// directly in the same ring.
    pub offset: u32,
    /// Bytes in this record.
    pub len: u32,
    /// `__sk_buff.gso_size`: payload bytes per segment if the kernel merged several, else 0.
    pub gso_size: u16,
    /// VLAN tag kept in skb metadata, valid with [`record_flags::VLAN`].
    pub vlan_tci: u16,
    /// [`record_flags`].
    pub flags: u32,
    /// Zero.
    pub reserved: u32,
}

const _: () = assert!(size_of::<RecordHeader>() == 32);

/// Bits of [`RecordHeader::flags`].
pub mod record_flags {
    /// [`super::RecordHeader::vlan_tci`] is valid.
    pub const VLAN: u32 = 1;
}

/// Written into the XDP metadata area, directly in front of the frame's bytes, of redirected frames.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub struct XdpMeta {
    /// `bpf_ktime_get_ns` in the program.
    pub captured_ns: u64,
    /// Length of the frame before trimming, in bytes.
    pub frame_len: u32,
    /// [`super::ProgramConfig::cookie`]; anything else means that the driver gave no metadata room and
    /// the bytes are left over from an earlier use of the frame.
    pub cookie: u32,
}

const _: () = assert!(size_of::<XdpMeta>() == 16);
