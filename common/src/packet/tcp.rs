//! TCP header (RFC 9293 section 3.1).

use super::{Bytes, DecodeError, Ip, SeqNumber};

/// Control bits.
#[derive(Clone, Copy, PartialEq, Eq, Default, Hash)]
pub struct TcpFlags(pub u8);

impl TcpFlags {
    /// No more data from sender.
    pub const FIN: Self = Self(0x01);
    /// Synchronise sequence numbers.
    pub const SYN: Self = Self(0x02);
    /// Reset.
    pub const RST: Self = Self(0x04);
    /// Push.
    pub const PSH: Self = Self(0x08);
    /// Acknowledgement field significant.
    pub const ACK: Self = Self(0x10);
    /// Urgent pointer significant.
    pub const URG: Self = Self(0x20);

    /// Both sets.
    #[inline(always)]
    #[must_use]
    pub const fn with(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// Without the given bits.
    #[inline(always)]
    #[must_use]
    pub const fn without(self, other: Self) -> Self {
        Self(self.0 & !other.0)
    }

    /// True if any bit of `other` is set.
    #[inline(always)]
    pub const fn has(self, other: Self) -> bool {
        self.0 & other.0 != 0
    }
}

impl core::fmt::Debug for TcpFlags {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        for (bit, name) in [
            (Self::SYN, "S"),
            (Self::FIN, "F"),
            (Self::RST, "R"),
            (Self::PSH, "P"),
            (Self::ACK, "."),
            (Self::URG, "U"),
        ] {
            if self.has(bit) {
                f.write_str(name)?;
            }
        }
        Ok(())
    }
}

/// Transport layer of a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tcp {
    /// Source port.
    pub sport: u16,
    /// Destination port.
    pub dport: u16,
    /// Sequence number of the first byte.
    pub seq: SeqNumber,
    /// Acknowledgement number; meaningful with ACK.
    pub ack: SeqNumber,
    /// Control bits.
    pub flags: TcpFlags,
    /// Window field, unscaled.
    pub window: u16,
    /// Offset of the payload.
    pub payload: usize,
}

/// Bytes of a TCP header without options.
const TCP_HEADER_BYTES: usize = 20;

/// Decodes the TCP header behind `ip`. Options may lie beyond the captured bytes; the fixed part not.
#[inline(always)]
pub fn decode_tcp<B: Bytes + ?Sized>(bytes: &B, ip: &Ip) -> Result<Tcp, DecodeError> {
    let h = bytes.read::<16>(ip.l4).ok_or(DecodeError::Truncated)?;
    let header_len = ((h[12] >> 4) as usize) * 4;
    let payload = ip.l4 + header_len;
    if header_len < TCP_HEADER_BYTES
        || (ip.total_len != 0 && payload > ip.l3 + ip.total_len as usize)
    {
        return Err(DecodeError::BadTcp);
    }
    Ok(Tcp {
        sport: u16::from_be_bytes([h[0], h[1]]),
        dport: u16::from_be_bytes([h[2], h[3]]),
        seq: SeqNumber(u32::from_be_bytes([h[4], h[5], h[6], h[7]])),
        ack: SeqNumber(u32::from_be_bytes([h[8], h[9], h[10], h[11]])),
        flags: TcpFlags(h[13] & 0x3f),
        window: u16::from_be_bytes([h[14], h[15]]),
        payload,
    })
}
