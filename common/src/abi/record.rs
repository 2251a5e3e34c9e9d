//! What the programs hand to user space with a packet.

use bytemuck::{Pod, Zeroable};

/// Records that a packet larger than one may take (BIG TCP goes to 512 KiB). All or none of them become visible.
pub const MAX_CONTINUATIONS: u32 = 8;

/// Head of every record in a ring of the tap; the bytes of the frame follow.
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
    /// The record ends in front of the payload, and is all that there is of the packet.
    pub const TRIMMED: u32 = 2;
}

/// Written into the XDP metadata area, directly in front of the frame's bytes, of redirected frames.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub struct XdpMeta {
    /// `bpf_ktime_get_ns` in the program.
    pub captured_ns: u64,
    /// Length of the frame before trimming, in bytes; 0 if it was not trimmed.
    pub frame_len: u32,
    /// [`super::ProgramConfig::cookie`]; anything else means that the driver gave no metadata room and
    /// the bytes are left over from an earlier use of the frame.
    pub cookie: u32,
}

const _: () = assert!(size_of::<XdpMeta>() == 16);
