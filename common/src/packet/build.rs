//! Building the frames that are sent to targets.

use super::{Addr, ETH_HEADER_BYTES, Endpoint, MacAddr, SeqNumber, TcpFlags, TcpOptions, checksum};
use super::{ethertype, protocol};

/// Ethernet + IPv6 + TCP with 40 bytes of options: what a frame may need in front of its payload.
pub const HEADROOM_MAX_BYTES: usize = ETH_HEADER_BYTES + 40 + 60;
mod fragment;
mod udp;
mod v4;

pub use fragment::FragmentedFrame;
pub use udp::{UdpFrame, build_udp_frame};

/// Time to live of replayed packets: that of Linux hosts.
const TTL_HOPS: u8 = 64;

/// Link-layer addresses of a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct FrameAddresses {
    /// Next hop.
    pub dst: MacAddr,
    /// Outgoing interface.
    pub src: MacAddr,
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
    /// IPv4 identification. Distinct from packet to packet although DF makes it irrelevant (RFC 6864
    /// section 4.1): captures are easier to read.
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
#[inline(always)]
pub fn build_tcp_frame(
    buf: &mut [u8],
    mac: FrameAddresses,
    seg: &TcpFrame<'_>,
) -> Result<usize, BuildError> {
    if let (Some(src), Some(dst), false) = (
        seg.src.addr.as_v4(),
        seg.dst.addr.as_v4(),
        seg.options.has_syn_options(),
    ) {
        let (src, dst) = (u32::from_ne_bytes(src), u32::from_ne_bytes(dst));
        let built = match seg.options.timestamps {
            Some(ts) => v4::build::<{ v4::WITH_TIMESTAMPS }>(buf, mac, seg, src, dst, Some(ts)),
            None => v4::build::<{ v4::PLAIN }>(buf, mac, seg, src, dst, None),
        };
        if let Some(len) = built {
            return Ok(len);
        }
    }
    // Of a copy: the segment of the usual way then lives in registers, as nothing takes its address.
    let seg = *seg;
    build_any(buf, mac, &seg)
}

/// Lets routers cut the packet of a frame that [`build_tcp_frame`] wrote into `frame`: clears DF in its IPv4
/// header. IPv6 packets are left alone, routers never cut those (RFC 8200 section 5).
#[cold]
pub fn allow_fragments(frame: &mut [u8]) {
    const DF: u16 = 0x4000;
    let Some(frame) = frame.first_chunk_mut::<{ ETH_HEADER_BYTES + 20 }>() else {
        return;
    };
    let word = |at: usize| u16::from_be_bytes([frame[at], frame[at + 1]]);
    let (ethertype, flags, sum) = (
        word(12),
        word(ETH_HEADER_BYTES + 6),
        word(ETH_HEADER_BYTES + 10),
    );
    if ethertype != ethertype::IPV4 || flags & DF == 0 {
        return;
    }
    // RFC 1624: the complement of the sum grows by what a word shrinks by.
    let sum = checksum::add(sum, DF);
    frame[ETH_HEADER_BYTES + 6..ETH_HEADER_BYTES + 8].copy_from_slice(&(flags & !DF).to_be_bytes());
    frame[ETH_HEADER_BYTES + 10..ETH_HEADER_BYTES + 12].copy_from_slice(&sum.to_be_bytes());
}

/// All options, both families.
#[inline(never)]
fn build_any(buf: &mut [u8], mac: FrameAddresses, seg: &TcpFrame<'_>) -> Result<usize, BuildError> {
    let mut tcp = [0u8; TCP_HEADER_MAX];
    let header_len = write_tcp_header(&mut tcp, seg);
    match (seg.src.addr.as_v4(), seg.dst.addr.as_v4()) {
        (Some(src), Some(dst)) => {
            let len = header_len + seg.payload.len();
            let ip = v4_header(src, dst, seg.ip_id, protocol::TCP, len);
            assemble(buf, mac, ethertype::IPV4, &ip, &mut tcp, header_len, seg)
        }
        (None, None) => {
            let len = header_len + seg.payload.len();
            let ip = v6_header(seg.src.addr, seg.dst.addr, protocol::TCP, len);
            assemble(buf, mac, ethertype::IPV6, &ip, &mut tcp, header_len, seg)
        }
        _ => Err(BuildError::MixedFamilies),
    }
}

/// Longest TCP header: 15 words.
const TCP_HEADER_MAX: usize = 60;

/// Everything but the checksum; returns the length with options.
#[inline(always)]
fn write_tcp_header(tcp: &mut [u8; TCP_HEADER_MAX], seg: &TcpFrame<'_>) -> usize {
    let (fixed, options) = tcp.split_at_mut(20);
    let options_len = match options.first_chunk_mut::<40>() {
        Some(area) => seg.options.emit(area),
        None => 0,
    };
    let ack = if seg.flags.has(TcpFlags::ACK) {
        seg.ack.0
    } else {
        0
    };
    if let Some(fixed) = fixed.first_chunk_mut::<20>() {
        fixed[0..2].copy_from_slice(&seg.src.port.to_be_bytes());
        fixed[2..4].copy_from_slice(&seg.dst.port.to_be_bytes());
        fixed[4..8].copy_from_slice(&seg.seq.0.to_be_bytes());
        fixed[8..12].copy_from_slice(&ack.to_be_bytes());
        fixed[12] = ((20 + options_len) as u8 / 4) << 4;
        fixed[13] = seg.flags.0;
        fixed[14..16].copy_from_slice(&seg.window.to_be_bytes());
    }
    20 + options_len
}

/// IPv4 header for `len` bytes of `protocol`; a length beyond 16 bits is refused by `assemble`.
#[inline(always)]
fn v4_header(src: [u8; 4], dst: [u8; 4], id: u16, protocol: u8, len: usize) -> [u8; 20] {
    let mut ip = [0u8; 20];
    ip[0] = 0x45;
    ip[2..4].copy_from_slice(&((20 + len) as u16).to_be_bytes());
    ip[4..6].copy_from_slice(&id.to_be_bytes());
    ip[6] = 0x40; // DF: a segment too large must fail, not fragment
    ip[8] = TTL_HOPS;
    ip[9] = protocol;
    ip[12..16].copy_from_slice(&src);
    ip[16..20].copy_from_slice(&dst);
    let sum = checksum::finish(checksum::sum(&ip));
    ip[10..12].copy_from_slice(&sum.to_be_bytes());
    ip
}

/// IPv6 header for `len` bytes of `protocol`.
#[inline(always)]
fn v6_header(src: Addr, dst: Addr, protocol: u8, len: usize) -> [u8; 40] {
    let mut ip = [0u8; 40];
    ip[0] = 0x60;
    ip[4..6].copy_from_slice(&(len as u16).to_be_bytes());
    ip[6] = protocol;
    ip[7] = TTL_HOPS;
    ip[8..24].copy_from_slice(&src.0);
    ip[24..40].copy_from_slice(&dst.0);
    ip
}

/// Puts the layers into `buf` and completes the TCP checksum.
#[inline(always)]
fn assemble<const IP: usize>(
    buf: &mut [u8],
    mac: FrameAddresses,
    ethertype: u16,
    ip: &[u8; IP],
    tcp: &mut [u8; TCP_HEADER_MAX],
    header_len: usize,
    seg: &TcpFrame<'_>,
) -> Result<usize, BuildError> {
    let tcp_len = header_len + seg.payload.len();
    let need = ETH_HEADER_BYTES + IP + tcp_len;
    let too_long = BuildError::TooLong {
        need,
        have: buf.len(),
    };
    if IP + tcp_len > usize::from(u16::MAX) {
        return Err(too_long);
    }
    let frame = buf.get_mut(..need).ok_or(too_long)?;
    let header = tcp.get(..header_len).ok_or(too_long)?;
    let pseudo = checksum::pseudo_header(seg.src.addr, seg.dst.addr, protocol::TCP, tcp_len as u32);
    let sum = checksum::add(pseudo, checksum::sum(header));
    let sum = checksum::finish(checksum::add(sum, checksum::sum(seg.payload)));

    let (eth, rest) = frame.split_at_mut(ETH_HEADER_BYTES);
    let (to_ip, rest) = rest.split_at_mut(IP);
    let (to_tcp, payload) = rest.split_at_mut(header_len);
    if let Some(eth) = eth.first_chunk_mut::<ETH_HEADER_BYTES>() {
        eth[..6].copy_from_slice(&mac.dst.0);
        eth[6..12].copy_from_slice(&mac.src.0);
        eth[12..].copy_from_slice(&ethertype.to_be_bytes());
    }
    to_ip.copy_from_slice(ip);
    to_tcp.copy_from_slice(header);
    to_tcp[16..18].copy_from_slice(&sum.to_be_bytes());
    payload.copy_from_slice(seg.payload);
    Ok(need)
}
