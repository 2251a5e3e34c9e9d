//! Tunnels: from a frame as switches and clouds mirror it to the packet inside.
//!
//! ```text
//!  Position (Ethernet, IP or MPLS header at an offset)
//!     │ peel                                        layer.rs, udp.rs, gre.rs
//!     ├─▶ Peeled::Packet    the TCP packet
//!     └─▶ Peeled::Tunnel    one layer and the position behind it ──▶ peel again, at most MAX_LAYERS
//! ```
//! A datagram inside is what no further layer is found in: [`datagram_at`] decodes it. User space loops in
//! [`decapsulate`] and [`decapsulate_datagram`]; the BPF program loops itself, because it must make the verifier
//! forget what it knows of the position between two layers.

mod gre;
mod layer;
mod udp;

pub use layer::{datagram_at, peel};

use super::{Addr, Bytes, DecodeError, TcpPacket, UdpPacket};
use crate::abi::DecapConfig;

/// Tunnels around one packet. A cloud's mirror of an overlay's VXLAN has two, with MPLS below three.
pub const MAX_LAYERS: usize = 4;

macro_rules! kinds {
    ($($(#[$meta:meta])* $variant:ident = $number:literal, $text:literal;)*) => {
        /// What a tunnel is.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        #[repr(u8)]
        pub enum TunnelKind { $($(#[$meta])* $variant = $number,)* }

        impl TunnelKind {
            /// All, in the order of their numbers, which begin with 1.
            pub const ALL: &[Self] = &[$(Self::$variant,)*];

            /// Name on the command line and in reports.
            pub const fn name(self) -> &'static str {
                match self { $(Self::$variant => $text,)* }
            }

            /// The kind with this number.
            pub const fn from_number(number: u8) -> Option<Self> {
                match number { $($number => Some(Self::$variant),)* _ => None }
            }
        }
    };
}

kinds! {
    /// VXLAN (RFC 7348) and its generic protocol extension; the id is the VNI.
    Vxlan = 1, "vxlan";
    /// GENEVE (RFC 8926); the id is the VNI.
    Geneve = 2, "geneve";
    /// GRE (RFC 2784, 2890), NVGRE too (RFC 7637); the id is the key.
    Gre = 3, "gre";
    /// ERSPAN type I, II or III in GRE; the id is the session.
    Erspan = 4, "erspan";
    /// IP in IP, any two families (RFC 2003, 2473, 4213).
    Ipip = 5, "ipip";
    /// GTP-U (3GPP TS 29.281); the id is the TEID.
    Gtpu = 6, "gtpu";
    /// MPLS (RFC 3032), on Ethernet, in GRE or in UDP; the id is the label at the bottom of the stack.
    Mpls = 7, "mpls";
}

/// Number of kinds.
pub const TUNNEL_KINDS: usize = TunnelKind::ALL.len();

/// Port of VXLAN (IANA).
pub const VXLAN_PORT: u16 = 4789;

/// What begins at a position.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Header {
    /// An Ethernet frame.
    Ethernet = 0,
    /// An IP packet of either version.
    Ip = 1,
    /// A stack of MPLS labels.
    Mpls = 2,
}

/// Where decoding goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Position {
    /// Offset in bytes.
    pub offset: usize,
    /// What is there.
    pub header: Header,
}

impl Position {
    /// The beginning of a captured frame.
    pub const FRAME: Self = Self::new(0, Header::Ethernet);

    /// Puts both together.
    #[inline(always)]
    pub const fn new(offset: usize, header: Header) -> Self {
        Self { offset, header }
    }
}

/// One layer that was taken off.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tunnel {
    /// What it is.
    pub kind: TunnelKind,
    /// The mirror says that it cut the packet (ERSPAN's T bit).
    pub cut: bool,
    /// UDP port, else 0.
    pub port: u16,
    /// See [`TunnelKind`]; 0 if it has none.
    pub id: u32,
    /// GRE's sequence number.
    pub sequence: Option<u32>,
    /// Sender of the outer packet; [`Addr::ANY`] for MPLS.
    pub src: Addr,
    /// Its receiver.
    pub dst: Addr,
}

/// What one step found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Peeled {
    /// The innermost packet.
    Packet(TcpPacket),
    /// A tunnel, and where its content begins.
    Tunnel(Tunnel, Position),
}

/// A packet without its tunnels. All offsets are into the captured bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Decapsulated<P = TcpPacket> {
    /// The packet.
    pub packet: P,
    /// Where it begins, with its link header if it has one.
    pub position: Position,
    /// The outermost tunnel, if there was one.
    pub outer: Option<Tunnel>,
    /// The kinds of all tunnels: bit n for the kind with number n.
    pub kinds: u8,
    /// A mirror said that it cut the packet.
    pub cut: bool,
}

impl<P> Decapsulated<P> {
    /// A packet that came in no tunnel.
    #[inline(always)]
    pub const fn plain(packet: P) -> Self {
        Self {
            packet,
            position: Position::FRAME,
            outer: None,
            kinds: 0,
            cut: false,
        }
    }
}

/// Why a frame gives no packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DecapError {
    /// Not to be decoded, at whatever depth.
    Decode(DecodeError),
    /// The packet comes in another way than the configuration takes: in another tunnel, or in none.
    NotTaken,
    /// More than [`MAX_LAYERS`] tunnels.
    TooDeep,
}

/// Takes all tunnels off the frame.
#[inline]
pub fn decapsulate<B: Bytes + ?Sized>(
    bytes: &B,
    config: &DecapConfig,
) -> Result<Decapsulated, DecapError> {
    open(bytes, config, |_, found| found)
}

/// The same for a datagram: one that is itself no tunnel of those that are known.
#[inline]
pub fn decapsulate_datagram<B: Bytes + ?Sized>(
    bytes: &B,
    config: &DecapConfig,
) -> Result<Decapsulated<UdpPacket>, DecapError> {
    open(bytes, config, |at, found| match found {
        Err(DecodeError::NotTcp) => datagram_at(bytes, at),
        Ok(_) => Err(DecodeError::NotTcp),
        Err(error) => Err(error),
    })
}

/// Peels until `packet` is asked what it makes of what is inside.
#[inline(always)]
fn open<B: Bytes + ?Sized, P>(
    bytes: &B,
    config: &DecapConfig,
    packet: impl Fn(Position, Result<TcpPacket, DecodeError>) -> Result<P, DecodeError>,
) -> Result<Decapsulated<P>, DecapError> {
    let mut position = Position::FRAME;
    let mut outer = None;
    let (mut kinds, mut cut) = (0, false);
    for _ in 0..=MAX_LAYERS {
        let found = match peel(bytes, position, config) {
            Ok(Peeled::Packet(packet)) => Ok(packet),
            Err(error) => Err(error),
            Ok(Peeled::Tunnel(tunnel, next)) => {
                if outer.is_none() {
                    if !config.tunnels() || !config.takes(&tunnel) {
                        return Err(DecapError::NotTaken);
                    }
                    outer = Some(tunnel);
                }
                kinds |= 1 << tunnel.kind as u8;
                cut |= tunnel.cut;
                position = next;
                continue;
            }
        };
        let packet = packet(position, found).map_err(DecapError::Decode)?;
        if outer.is_none() && !config.plain() {
            return Err(DecapError::NotTaken);
        }
        return Ok(Decapsulated {
            packet,
            position,
            outer,
            kinds,
            cut,
        });
    }
    Err(DecapError::TooDeep)
}
