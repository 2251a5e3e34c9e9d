//! Building the frames that are sent to targets.

use super::{ETH_HEADER_BYTES, Endpoint, MacAddr, SeqNumber, TcpFlags, TcpOptions, checksum};
use super::{ethertype, protocol};

/// Ethernet + IPv6 + TCP with 40 bytes of options: what a frame may need in front of its payload.
pub const HEADROOM_MAX_BYTES: usize = ETH_HEADER_BYTES + 40 + 60;
/// Time to live of replayed packets: that of Linux hosts.
const TTL_HOPS: u8 = 64;

/// Link-layer addresses of a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct FrameAddresses {
    /// Outgoing interface.
    pub src: MacAddr,
    /// Next hop.
    pub dst: MacAddr,
}

/// A TCP segment to be built. Addresses of both ends must be of one family.
#[derive(Clone, Copy, Debug)]
pub struct TcpFrame<'a> {
    /// Sender as the target sees it.
    pub src: Endpoint,
    /// Target.
    pub dst: Endpoint,
    /// Sequence number.
    pub seq: SeqNumber,
    /// Acknowledgement number, sent with ACK only.
    pub ack: SeqNumber,
    /// Control bits.
    pub flags: TcpFlags,
    /// Window field as it goes on the wire (already scaled).
    pub window: u16,
    /// Options.
    pub options: TcpOptions,
    /// Payload.
    pub payload: &'a [u8],
    /// IPv4 identification.
    pub ip_id: u16,
}

/// Why a frame was not built.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BuildError {
    /// Buffer too small: bytes needed, bytes there.
    TooLong {
        /// Bytes the frame needs.
        need: usize,
        /// Bytes the buffer has.
        have: usize,
    },
    /// Source and destination are of different families.
    MixedFamilies,
}

impl core::fmt::Display for BuildError {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match self {
            Self::TooLong { need, have } => {
                write!(f, "frame of {need} bytes does not fit a buffer of {have}")
            }
            Self::MixedFamilies => f.write_str("source and destination of different IP families"),
        }
    }
}

impl core::error::Error for BuildError {}

/// Writes a complete Ethernet frame with full checksums into `buf`; returns its length in bytes.
pub fn build_tcp_frame(
    buf: &mut [u8],
    mac: FrameAddresses,
    seg: &TcpFrame<'_>,
) -> Result<usize, BuildError> {
    let mut options = [0u8; 40];
    let options_len = seg.options.emit(&mut options);
    let v4 = match (seg.src.addr.as_v4(), seg.dst.addr.as_v4()) {
        (Some(s), Some(d)) => Some((s, d)),
        (None, None) => None,
        _ => return Err(BuildError::MixedFamilies),
    };
    let ip_header_len = if v4.is_some() { 20 } else { 40 };
    let tcp_len = 20 + options_len + seg.payload.len();
    let need = ETH_HEADER_BYTES + ip_header_len + tcp_len;
    let have = buf.len();
    let too_long = BuildError::TooLong { need, have };
    let frame = buf.get_mut(..need).ok_or(too_long)?;
    if ip_header_len + tcp_len > usize::from(u16::MAX) {
        return Err(too_long);
    }

    let (eth, rest) = frame.split_at_mut(ETH_HEADER_BYTES);
    eth[..6].copy_from_slice(&mac.dst.0);
    eth[6..12].copy_from_slice(&mac.src.0);
    let (ip, tcp) = rest.split_at_mut(ip_header_len);
    if let Some((src, dst)) = v4 {
        eth[12..].copy_from_slice(&ethertype::IPV4.to_be_bytes());
        let total = (ip_header_len + tcp_len) as u16;
        ip[0] = 0x45;
        ip[1] = 0;
        ip[2..4].copy_from_slice(&total.to_be_bytes());
        ip[4..6].copy_from_slice(&seg.ip_id.to_be_bytes());
        ip[6..8].copy_from_slice(&[0x40, 0]); // DF: a segment too large must fail, not fragment
        ip[8] = TTL_HOPS;
        ip[9] = protocol::TCP;
        ip[10..12].copy_from_slice(&[0, 0]);
        ip[12..16].copy_from_slice(&src);
        ip[16..20].copy_from_slice(&dst);
        let sum = checksum::finish(checksum::sum(ip));
        ip[10..12].copy_from_slice(&sum.to_be_bytes());
    } else {
        eth[12..].copy_from_slice(&ethertype::IPV6.to_be_bytes());
        ip[0..4].copy_from_slice(&[0x60, 0, 0, 0]);
        ip[4..6].copy_from_slice(&(tcp_len as u16).to_be_bytes());
        ip[6] = protocol::TCP;
        ip[7] = TTL_HOPS;
        ip[8..24].copy_from_slice(&seg.src.addr.0);
        ip[24..40].copy_from_slice(&seg.dst.addr.0);
    }

    tcp[0..2].copy_from_slice(&seg.src.port.to_be_bytes());
    tcp[2..4].copy_from_slice(&seg.dst.port.to_be_bytes());
    tcp[4..8].copy_from_slice(&seg.seq.0.to_be_bytes());
    let ack = if seg.flags.has(TcpFlags::ACK) {
        seg.ack.0
    } else {
        0
    };
    tcp[8..12].copy_from_slice(&ack.to_be_bytes());
    tcp[12] = ((20 + options_len) as u8 / 4) << 4;
    tcp[13] = seg.flags.0;
    tcp[14..16].copy_from_slice(&seg.window.to_be_bytes());
    tcp[16..20].copy_from_slice(&[0; 4]);
    tcp[20..20 + options_len].copy_from_slice(&options[..options_len]);
    tcp[20 + options_len..].copy_from_slice(seg.payload);
    let pseudo = checksum::pseudo_header(seg.src.addr, seg.dst.addr, protocol::TCP, tcp_len as u32);
    let sum = checksum::finish(checksum::add(pseudo, checksum::sum(tcp)));
    tcp[16..18].copy_from_slice(&sum.to_be_bytes());
    Ok(need)
}
