//! The format of the C programs' default builds, byte for byte.
//!
//! TCP, intercept listens on [`DEFAULT_PORT`]. The client first sends a [`hello`], then one
//! [`ClientRecord`] per session it creates. The server sends frames: a big-endian count of 1 to
//! [`MAX_RECORDS`] and as many records of [`RECORD_BYTES`], each the IPv4 header (20 bytes), the TCP
//! header (20 bytes) and the first 24 bytes of TCP options of one response. [`FrameDecoder`] reads what an intercept
//! of another build sends, too.

mod frames;

pub use frames::{BadCount, FrameDecoder, MAX_PAYLOAD_RECORDS, PAYLOAD_RECORD_BYTES, Variant};

use crate::flow::ResponseHeader;
use crate::packet::{Addr, Endpoint, SackBlocks, SeqNumber, TcpFlags, TcpOptions, protocol};

/// Port that intercept listens on unless told otherwise.
pub const DEFAULT_PORT: u16 = 36_524;
/// Size of everything that the client sends.
pub const CLIENT_RECORD_BYTES: usize = 14;
/// Size of one response record.
pub const RECORD_BYTES: usize = 64;
/// Most records in a frame.
pub const MAX_RECORDS: usize = 16;
/// Largest frame.
pub const MAX_FRAME_BYTES: usize = 2 + MAX_RECORDS * RECORD_BYTES;
/// Version in the hello; both C programs carry it.
pub const VERSION: u16 = 6;
/// Option bytes that a record can carry.
const OPTION_BYTES: usize = 24;
const TYPE_ADD: u16 = 1;
const TYPE_DEL: u16 = 2;

/// What the client says. IPv4 only, as the format is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClientRecord {
    /// First record of a connection.
    Hello {
        /// [`VERSION`] or something else, which C intercept tolerates.
        version: u16,
        /// Bytes 8 to 13, zero from C programs, free for extensions.
        extension: [u8; 6],
    },
    /// Responses of `target` to `client` shall come to this connection.
    Add {
        /// Client as the target sees it.
        client: Endpoint,
        /// Target.
        target: Endpoint,
    },
    /// The route is not needed any more (C programs never send it and ignore it).
    Del {
        /// Client as the target sees it.
        client: Endpoint,
        /// Target.
        target: Endpoint,
    },
    /// Datagrams are replayed to this UDP target; its answers are for nobody (native format only).
    UdpTarget {
        /// Target.
        target: Endpoint,
    },
    /// A sign of life that wants one back (native format only).
    Ping {
        /// Comes back with the answer.
        token: u64,
    },
    /// A type that is not known; to be ignored.
    Unknown {
        /// The type.
        kind: u16,
    },
}

/// The hello of a C-compatible client.
pub const fn hello() -> [u8; CLIENT_RECORD_BYTES] {
    let [a, b] = VERSION.to_be_bytes();
    [0, 0, 0, 0, 0, 0, a, b, 0, 0, 0, 0, 0, 0]
}

/// Encodes a CLIENT_ADD; `None` unless both are IPv4.
pub fn add(client: Endpoint, target: Endpoint) -> Option<[u8; CLIENT_RECORD_BYTES]> {
    let (c, t) = (client.addr.as_v4()?, target.addr.as_v4()?);
    let mut r = [0; CLIENT_RECORD_BYTES];
    r[0..4].copy_from_slice(&c);
    r[4..6].copy_from_slice(&client.port.to_be_bytes());
    r[6..8].copy_from_slice(&TYPE_ADD.to_be_bytes());
    r[8..12].copy_from_slice(&t);
    r[12..14].copy_from_slice(&target.port.to_be_bytes());
    Some(r)
}

impl ClientRecord {
    /// Decodes a record. `first` tells whether it is the first of its connection, which is a hello if
    /// client address and port are zero; C intercept takes a first record that is not one for a peer
    /// of an older version, and so does the caller with anything but [`ClientRecord::Hello`].
    pub fn decode(r: &[u8; CLIENT_RECORD_BYTES], first: bool) -> Self {
        let [c0, c1, c2, c3, cp0, cp1, k0, k1, t0, t1, t2, t3, tp0, tp1] = *r;
        let kind = u16::from_be_bytes([k0, k1]);
        let client = Endpoint::new(Addr::v4([c0, c1, c2, c3]), u16::from_be_bytes([cp0, cp1]));
        let target = Endpoint::new(Addr::v4([t0, t1, t2, t3]), u16::from_be_bytes([tp0, tp1]));
        if first && [c0, c1, c2, c3, cp0, cp1] == [0; 6] {
            return Self::Hello {
                version: kind,
                extension: [t0, t1, t2, t3, tp0, tp1],
            };
        }
        match kind {
            TYPE_ADD => Self::Add { client, target },
            TYPE_DEL => Self::Del { client, target },
            kind => Self::Unknown { kind },
        }
    }
}

/// Encodes a response; `None` unless it is IPv4. The header is normalised for C peers, which take the
/// TCP header at offset 20 and trust length fields: no IP options, data offset at most 11 words, total
/// length adjusted so that the payload length stays right.
pub fn encode_record(h: &ResponseHeader) -> Option<[u8; RECORD_BYTES]> {
    let (src, dst) = (h.target.addr.as_v4()?, h.client.addr.as_v4()?);
    let (area, options_len) = response_options(h);
    let header_len = 20 + options_len;
    // C reads the length from a 16-bit field; intercept makes several records of what is longer.
    let total = (20 + header_len + h.payload_len as usize).min(usize::from(u16::MAX)) as u16;

    let mut r = [0u8; RECORD_BYTES];
    r[0] = 0x45;
    r[2..4].copy_from_slice(&total.to_be_bytes());
    r[6] = 0x40;
    r[8] = 64;
    r[9] = protocol::TCP;
    r[12..16].copy_from_slice(&src);
    r[16..20].copy_from_slice(&dst);
    r[20..22].copy_from_slice(&h.target.port.to_be_bytes());
    r[22..24].copy_from_slice(&h.client.port.to_be_bytes());
    r[24..28].copy_from_slice(&h.seq.0.to_be_bytes());
    r[28..32].copy_from_slice(&h.ack.0.to_be_bytes());
    r[32] = ((header_len / 4) as u8) << 4;
    r[33] = h.flags.0;
    r[34..36].copy_from_slice(&h.window.to_be_bytes());
    let n = options_len.min(OPTION_BYTES);
    r[40..40 + n].copy_from_slice(&area[..n]);
    Some(r)
}

/// Option area of a response and its length: what the engine reads, as far as a record has room.
pub(super) fn response_options(h: &ResponseHeader) -> ([u8; 40], usize) {
    let mut options = h.options;
    let mut area = [0u8; 40];
    let mut options_len = options.emit(&mut area);
    if options_len > OPTION_BYTES {
        // Cannot happen with what `emit` writes (20 bytes); kept for options that it may learn.
        options = TcpOptions {
            timestamps: options.timestamps,
            ..TcpOptions::default()
        };
        area = [0; 40];
        options_len = options.emit(&mut area);
    }
    options_len += emit_sack(&h.sack, &mut area, options_len);
    (area, options_len)
}

/// Appends as many SACK blocks as the record has room for; returns the bytes written.
fn emit_sack(sack: &SackBlocks, area: &mut [u8; 40], at: usize) -> usize {
    let room = OPTION_BYTES.saturating_sub(at + 4) / 8;
    let blocks = sack.as_slice();
    let blocks = blocks.get(..room.min(blocks.len())).unwrap_or_default();
    if blocks.is_empty() {
        return 0;
    }
    let len = 4 + blocks.len() * 8;
    let Some(to) = area.get_mut(at..at + len) else {
        return 0;
    };
    let (head, body) = to.split_at_mut(4);
    head.copy_from_slice(&[1, 1, 5, (len - 2) as u8]);
    for (slot, b) in body.as_chunks_mut::<8>().0.iter_mut().zip(blocks) {
        slot[..4].copy_from_slice(&b.left.0.to_be_bytes());
        slot[4..].copy_from_slice(&b.right.0.to_be_bytes());
    }
    len
}

/// Decodes a record of any sender, C or ours. `None` if it is no IPv4/TCP header. Nothing in it is
/// trusted: lengths are clamped to what the record holds.
pub fn decode_record(r: &[u8; RECORD_BYTES]) -> Option<ResponseHeader> {
    if r[0] >> 4 != 4 || r[9] != protocol::TCP {
        return None;
    }
    let ip_len = usize::from(r[0] & 0x0f) * 4;
    let tcp_len = usize::from(r[32] >> 4) * 4;
    if ip_len < 20 || tcp_len < 20 {
        return None;
    }
    let total = usize::from(u16::from_be_bytes([r[2], r[3]]));
    let options_end = (20 + tcp_len).min(RECORD_BYTES);
    let area = r.get(40..options_end).unwrap_or_default();
    let (options, sack) = TcpOptions::parse_with_sack(area);
    Some(ResponseHeader {
        target: Endpoint::new(
            Addr::v4([r[12], r[13], r[14], r[15]]),
            u16::from_be_bytes([r[20], r[21]]),
        ),
        client: Endpoint::new(
            Addr::v4([r[16], r[17], r[18], r[19]]),
            u16::from_be_bytes([r[22], r[23]]),
        ),
        seq: SeqNumber(u32::from_be_bytes([r[24], r[25], r[26], r[27]])),
        ack: SeqNumber(u32::from_be_bytes([r[28], r[29], r[30], r[31]])),
        flags: TcpFlags(r[33] & 0x3f),
        window: u16::from_be_bytes([r[34], r[35]]),
        payload_len: total.saturating_sub(ip_len + tcp_len) as u32,
        options,
        sack,
    })
}

#[cfg(test)]
mod tests;
