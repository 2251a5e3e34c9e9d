//! Which tunnels are opened, and what is kept of their sequence numbers.

use crate::packet::{Addr, Tunnel, TunnelKind};
use bytemuck::{Pod, Zeroable};

/// Tunnels that a list can name. The program compares them one after the other, for the outermost
/// tunnel of a packet only.
pub const MAX_DECAP_RULES: usize = 16;
/// UDP ports beside the usual ones that a list can name.
pub const MAX_DECAP_PORTS: usize = 8;
/// Capacity of the map `STREAMS`: senders of sequence numbers (ERSPAN sources, GRE peers).
pub const MAX_STREAMS: u32 = 1024;
/// A step of sequence numbers beyond this, either way, is a sender that began anew and not a loss: at
/// a million packets a second it would be a second of nothing.
const RESTART_STEP: u32 = 1 << 20;

/// One tunnel of the list.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub struct DecapRule {
    /// Sender of the outer packet, [`Addr::ANY`] for all.
    pub peer: Addr,
    /// VNI, session, TEID, key or label, with [`decap_flags::HAS_ID`].
    pub id: u32,
    /// UDP port; 0 for all that the kind has.
    pub port: u16,
    /// [`TunnelKind`] as a number, 0 in unused rules.
    pub kind: u8,
    /// [`decap_flags`].
    pub flags: u8,
}

const _: () = assert!(size_of::<DecapRule>() == 24);

/// A UDP port that carries a tunnel.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub struct DecapPort {
    /// Destination port, host byte order; 0 in unused entries.
    pub port: u16,
    /// [`TunnelKind`] as a number.
    pub kind: u8,
    /// Zero.
    pub reserved: u8,
}

const _: () = assert!(size_of::<DecapPort>() == 4);

/// Indices of the map `TAIL`: the programs that `mirror` goes on in.
pub mod mirror_tail {
    /// `mirror_tunnel`.
    pub const TUNNEL: u32 = 0;
    /// `mirror_inner`.
    pub const INNER: u32 = 1;
    /// `mirror_log`.
    pub const LOG: u32 = 2;
    /// `mirror_found`.
    pub const FOUND: u32 = 3;
}

/// Capacity of `TAIL`.
pub const MIRROR_TAILS: u32 = 4;

/// Where the map `INNER` (the mirror's state between two programs) holds the offset of the packet that a
/// filter judges, in bytes: a `u32`.
pub const INNER_OFFSET_AT: i16 = 0;

/// Bits of [`DecapConfig::flags`] and [`DecapRule::flags`].
pub mod decap_flags {
    /// Frames that come in no tunnel are taken.
    pub const PLAIN: u32 = 1;
    /// Every tunnel is opened, whatever the rules say.
    pub const ANY_TUNNEL: u32 = 2;
    /// Some tunnel is opened: this is [`ANY_TUNNEL`] or there are rules.
    pub const TUNNELS: u32 = 4;
    /// Of a rule: [`super::DecapRule::id`] counts.
    pub const HAS_ID: u8 = 1;
}

/// The global `DECAP` of tcpcopy's programs, constant after the load.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub struct DecapConfig {
    /// [`decap_flags`].
    pub flags: u32,
    /// Further ports, used ones first.
    pub ports: [DecapPort; MAX_DECAP_PORTS],
    /// Tunnels, used ones first.
    pub rules: [DecapRule; MAX_DECAP_RULES],
}

const _: () = assert!(size_of::<DecapConfig>() == 4 + MAX_DECAP_PORTS * 4 + MAX_DECAP_RULES * 24);

impl DecapConfig {
    /// Opens no tunnel.
    pub const NONE: Self = Self::with_flags(decap_flags::PLAIN);
    /// Takes plain frames and opens every tunnel.
    pub const AUTO: Self =
        Self::with_flags(decap_flags::PLAIN | decap_flags::ANY_TUNNEL | decap_flags::TUNNELS);

    /// Without ports and rules.
    pub const fn with_flags(flags: u32) -> Self {
        Self {
            flags,
            ports: [DecapPort {
                port: 0,
                kind: 0,
                reserved: 0,
            }; MAX_DECAP_PORTS],
            rules: [DecapRule {
                peer: Addr::ANY,
                id: 0,
                port: 0,
                kind: 0,
                flags: 0,
            }; MAX_DECAP_RULES],
        }
    }

    /// True if frames that come in no tunnel are taken.
    #[inline(always)]
    pub const fn plain(&self) -> bool {
        self.flags & decap_flags::PLAIN != 0
    }

    /// True if some tunnel is opened.
    #[inline(always)]
    pub const fn tunnels(&self) -> bool {
        self.flags & decap_flags::TUNNELS != 0
    }

    /// What the list says a UDP port carries, as the number of a [`TunnelKind`]; 0 if nothing.
    #[inline(always)]
    pub const fn port_kind(&self, port: u16) -> u8 {
        let mut at = 0;
        while at < MAX_DECAP_PORTS {
            let entry = self.ports[at];
            if entry.port == 0 {
                break;
            }
            if entry.port == port {
                return entry.kind;
            }
            at += 1;
        }
        0
    }

    /// True if a packet whose outermost tunnel this is belongs to what is taken.
    #[inline(always)]
    pub fn takes(&self, tunnel: &Tunnel) -> bool {
        if self.flags & decap_flags::ANY_TUNNEL != 0 {
            return true;
        }
        let mut at = 0;
        while at < MAX_DECAP_RULES {
            let rule = &self.rules[at];
            if rule.kind == 0 {
                break;
            }
            if rule.kind == tunnel.kind as u8
                && (rule.port == 0 || rule.port == tunnel.port)
                && (rule.flags & decap_flags::HAS_ID == 0 || rule.id == tunnel.id)
                && (rule.peer.halves() == [0, 0] || rule.peer.halves() == tunnel.src.halves())
            {
                return true;
            }
            at += 1;
        }
        false
    }
}

/// Key of the map `STREAMS`: who counts its packets.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Pod, Zeroable)]
#[repr(C)]
pub struct StreamKey {
    /// Sender of the outer packets.
    pub src: Addr,
    /// Their receiver.
    pub dst: Addr,
    /// Session or key.
    pub id: u32,
    /// [`TunnelKind`] as a number.
    pub kind: u32,
}

const _: () = assert!(size_of::<StreamKey>() == 40);

impl StreamKey {
    /// Of a tunnel.
    #[inline(always)]
    pub const fn of(tunnel: &Tunnel) -> Self {
        Self {
            src: tunnel.src,
            dst: tunnel.dst,
            id: tunnel.id,
            kind: tunnel.kind as u32,
        }
    }

    /// The kind, if the number is one.
    pub const fn tunnel_kind(&self) -> Option<TunnelKind> {
        TunnelKind::from_number(self.kind as u8)
    }
}

/// Value of the map `STREAMS`: what sequence numbers (RFC 2890 section 2.2) tell of a stream. The
/// packets of a stream have one outer flow, so one queue and one CPU write it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub struct StreamState {
    /// Packets seen.
    pub received: u64,
    /// Numbers that were passed over and did not come later: packets that the mirror lost.
    pub missing: u64,
    /// Packets that came after a later one.
    pub late: u64,
    /// Packets with the number of the one before.
    pub repeated: u64,
    /// Times that the sender began anew.
    pub restarts: u32,
    /// Number of the packet to come.
    pub next: u32,
}

const _: () = assert!(size_of::<StreamState>() == 40);

impl StreamState {
    /// After the first packet.
    #[inline(always)]
    pub const fn first(sequence: u32) -> Self {
        Self {
            received: 1,
            missing: 0,
            late: 0,
            repeated: 0,
            restarts: 0,
            next: sequence.wrapping_add(1),
        }
    }

    /// Takes note of a further packet.
    #[inline(always)]
    pub fn note(&mut self, sequence: u32) {
        self.received += 1;
        let ahead = sequence.wrapping_sub(self.next);
        let behind = self.next.wrapping_sub(sequence);
        if ahead < RESTART_STEP {
            self.missing += ahead as u64;
        } else if behind == 1 {
            self.repeated += 1;
            return;
        } else if behind < RESTART_STEP {
            self.late += 1;
            self.missing = self.missing.saturating_sub(1);
            return;
        } else {
            self.restarts += 1;
        }
        self.next = sequence.wrapping_add(1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn state(numbers: &[u32]) -> [u64; 5] {
        let (first, rest) = numbers.split_first().unwrap();
        let mut s = StreamState::first(*first);
        for n in rest {
            s.note(*n);
        }
        [s.received, s.missing, s.late, s.repeated, s.restarts.into()]
    }

    #[test]
    fn gaps_late_packets_and_repetitions_are_told_apart() {
        assert_eq!(state(&[1, 2, 3]), [3, 0, 0, 0, 0]);
        assert_eq!(state(&[1, 5]), [2, 3, 0, 0, 0]);
        assert_eq!(state(&[1, 5, 3]), [3, 2, 1, 0, 0]);
        assert_eq!(state(&[1, 3, 2, 4]), [4, 0, 1, 0, 0]);
        assert_eq!(state(&[7, 7, 8]), [3, 0, 0, 1, 0]);
        assert_eq!(state(&[u32::MAX - 1, u32::MAX, 0, 2]), [4, 1, 0, 0, 0]);
        assert_eq!(state(&[3_000_000_000, 0, 1]), [3, 0, 0, 0, 1]);
        assert_eq!(state(&[5_000_000, 3, 4, 5_000_001]), [4, 0, 0, 0, 2]);
    }
}
